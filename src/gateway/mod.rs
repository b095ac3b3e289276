//! A session with the gateway, whoever speaks to it.
//!
//! [`session`] is the contract; [`libssh2`] and [`openssh`] keep it, each in its
//! own way and without knowing of the other; [`route`] decides which of the two.

mod attempt;
mod connect;
mod helper_stderr;
mod libssh2;
mod openssh;
mod probe;
mod route;
mod session;
mod ssh_stderr;

pub use crate::sys::print_addresses;
pub use openssh::keep_ssh;
pub use probe::{Answer, probe};
pub use route::{Route, check};
pub use session::{Channel, End, HandOver, Opened, OwnSocket, Session};
