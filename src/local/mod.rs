//! This node's side: local ports, who connects to them, and each client.

mod accept;
mod client;
mod listener;
mod owner;
mod random_port;

pub use accept::Reception;
pub use client::{Client, Local, Waiting};
pub use listener::{Bound, Door, make_way};
pub use owner::Access;
