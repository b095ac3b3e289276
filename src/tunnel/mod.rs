//! Serves, after the fork: carries clients' bytes until the job ends.

mod carrier;
mod handed_over;
mod job;
mod pool;
mod reconnect;
mod relay;
mod restart;
mod serve;
mod shutdown;
mod token;
mod watchdog;

pub use job::Job;
pub use reconnect::Reconnect;
pub use restart::{Restart, Restarted};
pub use serve::{Parts, Tunnel};
