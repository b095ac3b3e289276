//! Serves, after the fork: carries clients' bytes until the job ends.

mod carrier;
mod job;
mod pool;
mod reconnect;
mod relay;
mod serve;
mod shutdown;

pub use job::Lifeline;
pub use reconnect::Reconnect;
pub use serve::{Parts, Tunnel};
