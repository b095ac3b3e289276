//! Where licfwd runs: on kernels as old as the C library that it asks for.
//!
//! What is in an archive, for either processor, these and other tests run as well:
//! `scripts/packaging/prove`.

use std::fs;
use std::time::Instant;

use crate::rig::job::port_of;
use crate::rig::old_kernel::licfwd_there;
use crate::rig::traffic::check_out;
use crate::rig::{Job, LIMIT, Promise, Running, Site, has, skip, wait_until};

/// How soon the tunnel must be gone after the last process of its job.
const GONE: Promise = Promise::seconds(10);

/// A job script that shows its variable, and ends when the file `end` is there.
const SCRIPT: &str = "eval $($CALL) || exit; echo $MLM_LICENSE_FILE
    until [ -e end ]; do sleep 0.1; done";

/// Goal: on Linux 3.10 a job gets its license over both transports, and the tunnel
/// ends with it, although no pidfd tells of that.
#[test]
fn old_kernel_serves_a_job() {
    if !has("python3") {
        skip!("python3 is not installed");
    }
    let site = Site::new();
    let jobs = ["libssh2", "ssh"].map(|via| start(&site, via));
    for (job, script) in &jobs {
        wait_until("a port", LIMIT, || script.stdout().ends_with('\n'));
        let seat = check_out(port_of(&script.stdout()), "MATLAB").expect("a seat");
        assert_eq!(seat.number, 1);
        drop(seat);
        wait_until("the seat is back", LIMIT, || site.server.seats() == 0);
        assert!(!has_pidfd(job.daemon()), "the kernel is not old");
    }
    let mut jobs = jobs.map(|(job, script)| {
        job.directory().write("end", "");
        assert_eq!(script.wait(LIMIT).code, 0);
        (job, Instant::now())
    });
    for (job, ended) in &mut jobs {
        wait_until("the tunnel ends", GONE.room(), || job.processes().is_empty());
        GONE.kept("the end after the job's", ended.elapsed());
    }
}

/// Starts a job script in a session of its own.
fn start(site: &Site, via: &str) -> (Job, Running) {
    let job = Job::new();
    let licfwd = licfwd_there(&job);
    let config = site.gateway.config();
    let call =
        format!("{} -F {} --via {via} gw {}", licfwd.display(), config.display(), site.target());
    let mut script = job.command("setsid");
    let running = job.spawn(script.args(["sh", "-c", SCRIPT]).env("CALL", call));
    (job, running)
}

/// Whether a process holds a descriptor that stands for another process.
fn has_pidfd(pid: u32) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let names = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    names.map(|name| name.display().to_string()).any(|name| name.contains("pidfd"))
}
