//! The rig: real gateways, stand-in license servers and jobs, for tests, demo and benchmarks.
//!
//! Everything is private to the process that uses it: fresh keys, free ports,
//! its own directory. Whatever a test starts ends with the value that stands
//! for it, and with the process at the latest, however that ends
//! ([`scratch`]). Logs are shown when a test fails.

pub mod certified;
pub mod crowd;
pub mod dropbear;
pub mod flexnet;
pub mod gateway;
pub mod hostbased;
pub mod job;
pub mod kerberos;
pub mod license_server;
pub mod network;
pub mod nodes;
pub mod other_user;
pub mod overlay;
pub mod process;
pub mod pty;
pub mod scratch;
pub mod slurm;
pub mod traffic;
pub mod tunnel;
pub mod wait;

pub use dropbear::Dropbear;
pub use gateway::Gateway;
pub use job::{Job, Outcome, Running};
pub use license_server::{LicenseServer, Service};
pub use overlay::Overlay;
pub use pty::Pty;
pub use scratch::Scratch;
pub use tunnel::Tunnel;
pub use wait::{LIMIT, eventually, eventually_every, wait_until};

/// Leaves a test that this machine cannot run, and says so even though cargo
/// hides what passing tests print.
#[allow(unused_macros)]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::rig::say_skipped(&format!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

/// Writes to standard error itself: only the `print` macros are captured.
pub fn say_skipped(reason: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let line = format!("SKIPPED: {}: {reason}\n", thread.name().unwrap_or("rig"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
