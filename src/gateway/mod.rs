//! A session with the gateway, whoever speaks to it.
//!
//! [`session`] is the contract; [`libssh2`] and [`openssh`] keep it, each in its
//! own way and without knowing of the other; [`route`] decides which of the two, and
//! [`gateways`] whose turn it is where there are several.

mod attempt;
mod connect;
mod gateways;
mod helper_stderr;
mod jump;
mod libssh2;
mod member;
mod openssh;
mod probe;
mod route;
mod session;
mod ssh_stderr;

pub use crate::sys::print_addresses;
pub use gateways::{Gateways, Turn};
pub use member::Settings;
pub use openssh::keep_ssh;
pub use probe::{PortResult, names_nobody, probe};
pub use session::{CarriedBy, Channel, End, HandOver, Opened, OwnSocket, Session};
