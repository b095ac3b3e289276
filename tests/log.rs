//! The log tells of a job's tunnel afterwards, and never stands in its way.

use crate::rig::traffic::check_out;
use crate::rig::{Gateway, Job, LIMIT, LicenseServer, Service, Tunnel, process, skip, wait_until};
use std::fs;

/// Goal: start, a reconnection with its reason and duration, and the end stand
/// in the log, one line each, in UTC, after what was there before.
#[test]
fn the_log_tells_the_tunnels_life() {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    job.directory().write("licfwd.log", "of another job\n");
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(job, |job| {
        let mut command = job.licfwd(&gateway);
        // A zone that is not UTC.
        command.env("TZ", "NZST-12").args(["gw", &target]);
        command
    });
    gateway.kill();
    gateway.restart();
    tunnel.wait_for_log("reconnected to the gateway", 1);
    process::signal("TERM", &[tunnel.pid()]);
    wait_until("licfwd ends", LIMIT, || !process::alive(tunnel.pid()));

    let text = tunnel.log();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("of another job"));
    // The process that was started writes it, before the one that serves is there.
    assert!(lines.next().is_some_and(|line| line.contains(": licfwd 0.")), "{text}");
    let mut told = Vec::new();
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let time = words.next().unwrap_or_default();
        assert!(is_recent_utc(time), "{line}");
        let who = format!("licfwd[{}]:", tunnel.pid());
        assert_eq!(words.next(), Some(who.as_str()), "{line}");
        told.push(words.next().unwrap_or_default());
    }
    let tells = |first: &str, second: &str| {
        let found = told.iter().find(|line| line.starts_with(first));
        assert!(found.is_some_and(|l| l.contains(second)), "{first}:\n{text}");
    };
    tells("started: ", &format!("MLM_LICENSE_FILE={}@localhost", tunnel.port()));
    tells("lost the gateway: ", "the gateway closed the connection");
    tells("reconnected to the gateway after ", " s (");
    tells("ended: ", "TERM");
}

/// Goal: `-v` tells of each client.
#[test]
fn the_verbose_log_tells_of_clients() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::with(&gateway, server.port(), &["-v"]);
    drop(check_out(tunnel.port(), "MATLAB").expect("a seat"));
    tunnel.wait_for_log(": connected\n", 1);
    tunnel.wait_for_log(" bytes up, ", 1);
}

/// Goal: a full disk stops neither the start nor the tunnel.
#[test]
fn a_full_disk_stops_nothing() {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    // Every write to this device fails as on a full disk.
    let full = job.directory().file("licfwd.log");
    let (major, minor) = ("1", "7");
    let made = std::process::Command::new("mknod")
        .arg(&full)
        .args(["c", major, minor])
        .status()
        .is_ok_and(|status| status.success());
    if !made {
        skip!("only root can make a device");
    }
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(job, |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["-v", "gw", &target]);
        command
    });
    drop(check_out(tunnel.port(), "MATLAB").expect("a seat"));
    gateway.kill();
    gateway.restart();
    wait_until("the tunnel is back", LIMIT, || check_out(tunnel.port(), "MATLAB").is_ok());
    let log = format!("/proc/{}/fd", tunnel.pid());
    let open = fs::read_dir(log).expect("its descriptors");
    let is_log = |path: std::path::PathBuf| fs::read_link(path).is_ok_and(|p| p == full);
    assert!(open.flatten().any(|entry| is_log(entry.path())));
}

/// Whether this is the time of a moment ago: `date` is asked, which knows zones.
fn is_recent_utc(time: &str) -> bool {
    let seconds = |words: &[&str]| {
        let output = std::process::Command::new("date").args(words).output();
        let output = output.expect("run date");
        String::from_utf8_lossy(&output.stdout).trim().parse::<i64>()
    };
    let (then, now) = (seconds(&["-d", time, "+%s"]), seconds(&["+%s"]));
    let recent = then.is_ok_and(|then| (0..120).contains(&(now.expect("a number") - then)));
    recent && time.ends_with('Z')
}
