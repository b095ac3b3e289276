//! The rig: real gateways, stand-in license servers and jobs, for tests, demo and benchmarks.
//!
//! Everything is private to the process that uses it: fresh keys, free ports,
//! its own directory. Whatever a test starts ends with the value that stands
//! for it, and with the process at the latest, however that ends
//! ([`scratch`]). Logs are shown when a test fails.

pub mod agent;
pub mod as_ssh;
pub mod black_hole;
pub mod certified;
pub mod cluster;
pub mod crowd;
pub mod debian13;
pub mod dropbear;
pub mod flexnet;
pub mod gateway;
pub mod hostbased;
pub mod hostile;
pub mod job;
pub mod kerberos;
pub mod license_server;
pub mod mosek;
pub mod network;
pub mod nodes;
pub mod old_kernel;
pub mod open;
pub mod other_user;
pub mod overlay;
pub mod pages;
pub mod ports;
pub mod process;
pub mod programs;
pub mod pty;
pub mod pypi;
pub mod scratch;
pub mod site;
pub mod sites;
pub mod skips;
pub mod slow_line;
pub mod slurm;
pub mod sockets;
pub mod traffic;
pub mod tunnel;
pub mod wait;
pub mod web;

pub use cluster::Cluster;
pub use dropbear::Dropbear;
pub use gateway::Gateway;
pub use job::{Job, Outcome, Running};
pub use license_server::{LicenseServer, Service};
pub use open::Open;
pub use overlay::Overlay;
pub use ports::{free_pair, free_port};
pub use programs::{has, installed};
pub use pty::Pty;
pub use scratch::Scratch;
pub use site::Site;
pub use sites::Sites;
pub use skips::{retell, say, say_skipped};
pub use tunnel::Tunnel;
pub use wait::{FLOOD, LIMIT, Promise, eventually, eventually_every, times_until, wait_until};

/// Leaves a test that this machine cannot run, and says so even though cargo
/// hides what passing tests print. In strict mode that fails ([`skips`]).
#[allow(unused_macros)]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::rig::say_skipped(&format!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

/// A [`Cluster`], with lines of sshd_config if need be: the test runs once more in a network of
/// its own. Where none can be had, leaves the test as [`skip!`] does.
#[allow(unused_macros)]
macro_rules! a_cluster {
    ($($lines:expr)?) => {{
        if !$crate::rig::network::is_our_own() {
            return;
        }
        match $crate::rig::Cluster::with(&[$($lines)?]) {
            Ok(cluster) => cluster,
            Err(why) => $crate::rig::skip!("{why}"),
        }
    }};
}
pub(crate) use a_cluster;

/// The name of the test that runs, its module's included: the harness gives it to
/// the test's thread.
///
/// # Panics
/// In a thread that the test has started.
pub fn test_name() -> String {
    let thread = std::thread::current();
    let name = thread.name().filter(|name| name.contains("::"));
    name.expect("only a test's own thread knows its name").into()
}

/// Whether everything is to be done that takes minutes (`scripts/test --long`).
pub fn long() -> bool {
    std::env::var_os("LICFWD_TEST_LONG").is_some()
}
