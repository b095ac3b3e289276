//! The gateway through the user's own ssh.

mod control_dir;
mod forward_socket;
mod keeper;
mod login;
mod mux;
mod open_failures;
mod output;
mod relayed;
mod session;

pub use keeper::keep_ssh;
pub use login::{Call, open};
