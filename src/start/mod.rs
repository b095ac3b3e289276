//! Brings the tunnel up, before the fork: ports, gateway, probe, announcement.

mod announce;
mod bring_up;
mod daemon;
mod probe;

pub use announce::{fail, last_statement, show, stderr_is_evaluated};
pub use bring_up::run;
