//! `--check`: every step as a job would take it, told and then undone.

use std::fs;
use std::net::TcpListener;

use crate::rig::license_server::RefusingPort;
use crate::rig::{Gateway, Job, LicenseServer, Outcome, Service};

/// `licfwd -F CONFIG --check OPTIONS gw`, whose statement must be missing.
#[track_caller]
fn check(gateway: &Gateway, options: &[&str]) -> Outcome {
    let job = Job::new();
    let mut call = job.licfwd(gateway);
    let outcome = job.run(call.arg("--check").args(options).arg("gw"));
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    job.wait_until_empty();
    outcome
}

/// Goal: each step is told with its time, and nothing is left: no process, no
/// line on stdout, no entry in known_hosts.
#[test]
fn a_sound_site() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let known_hosts = job.directory().write("known_hosts", "");
    let mut call = job.licfwd(&gateway);
    call.args(["--check", "-o", "StrictHostKeyChecking=accept-new", "-o"]);
    call.arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    call.args(["gw", &format!("127.0.0.1:{}", server.port())]);
    let outcome = job.run(&mut call);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    let mut steps = outcome.stderr.lines().filter(|line| line.contains(" ms  "));
    for step in [
        "gateway gw is 127.0.0.1 port",
        "local ports bound",
        "resolved to",
        "connected to",
        "host key accepted",
        "logged in as",
        "answers",
        "in all",
    ] {
        let told = steps.next().is_some_and(|line| line.contains(step));
        assert!(told, "{step}: {outcome:?}");
    }
    job.wait_until_empty();
    assert_eq!(fs::read_to_string(known_hosts).expect("known_hosts"), "");
}

/// Goal: the gateway alone can be checked, and a report can be sent through a
/// pipe, where a statement's notes would be dropped.
#[test]
fn a_report_through_a_pipe() {
    let gateway = Gateway::start();
    let job = Job::new();
    let text = "licfwd -F $CONFIG --check gw 2>&1 | cat";
    let outcome = job.run(&mut job.script("sh", text, &gateway, 1));
    assert!(outcome.stdout.contains("logged in as"), "{outcome:?}");
}

/// Goal: the exit codes are those of a job's call, and the failed step is timed.
#[test]
fn the_same_exit_codes() {
    let mut gateway = Gateway::start();
    let refusing = RefusingPort::new();
    let target = format!("127.0.0.1:{}", refusing.port());
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    let outcome = job.run(call.args(["--check", "gw", &target]));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (69, ""), "{outcome:?}");
    assert!(outcome.stderr.contains(&target), "{outcome:?}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port();
    let forward = format!("{port}:127.0.0.1:1");
    let unknown = ["-o", "UserKnownHostsFile=/dev/null"];
    assert_eq!(check(&gateway, &["-L", &forward]).code, 73);
    assert_eq!(check(&gateway, &unknown).code, 76);
    gateway.authorize("");
    assert_eq!(check(&gateway, &[]).code, 77);
    assert_eq!(check(&gateway, &["-F", "/nowhere"]).code, 78);
    assert_eq!(check(&gateway, &["--no-such-option"]).code, 64);
    gateway.kill();
    let outcome = check(&gateway, &[]);
    assert_eq!(outcome.code, 75, "{outcome:?}");
    let told = outcome.stderr.contains("ms  failed with exit code 75");
    assert!(told, "{outcome:?}");
}
