//! Serves, after the fork: carries clients' bytes until the job ends.

mod carrier;
mod connect_head;
mod connect_proxy;
mod first_answer;
mod flexnet;
mod handed_over;
mod job;
mod pool;
mod reconnect;
mod relay;
mod restart;
mod seat;
mod serve;
mod shutdown;
mod token;
mod vendor_ports;
mod watchdog;

pub use job::Job;
pub use reconnect::Reconnect;
pub use restart::{Restart, Restarted};
pub use serve::{Parts, Tunnel};
