//! The gateway through libssh2, in this process.

mod login;
mod session;

pub use login::open;
pub use session::{Connection, Link};
