//! The gateway through the user's own ssh.

mod control_dir;
mod forward_socket;
mod keeper;
mod mux;
mod session;

pub use keeper::{KEEPER, keep_ssh};
pub use session::{Call, Master, open};
