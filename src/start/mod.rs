//! Brings the tunnel up, before the fork: ports, gateway, probe, announcement.

mod announce;
mod bring_up;
mod command;
mod daemon;
mod lifeline;
mod other_nodes;
mod probe;
mod resume;
mod tries;

pub use announce::{failing_output, print_text, stderr_is_evaluated};
pub use bring_up::run;
pub use command::become_command;
pub use resume::{nobody_s, resume};
