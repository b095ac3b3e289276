//! This node's side: local ports, who connects to them, and each client.

mod accept;
mod client;
mod listener;
mod localhost;
mod owner;
mod ports;
mod random_port;

pub use accept::Acceptor;
pub use client::{Client, Local, Waiting};
pub use listener::{Listener, make_way};
pub use owner::Access;
pub use ports::{Addresses, BoundServer, LocalPorts};
pub use random_port::RandomPort;
