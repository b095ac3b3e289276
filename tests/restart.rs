//! A fault in the process that serves is a gateway that is lost, not the tunnel's end.

use super::reconnect::logins;
use crate::rig::flexnet::{self, FlexNet};
use crate::rig::job::{built, over_ssh};
use crate::rig::traffic::{check_out, check_out_from, connect};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Promise, Service, Tunnel, free_pair, long, process, skip,
    wait_until,
};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Whatever the kernel or the C library make of one.
const SIGNALS: [&str; 5] = ["SEGV", "ABRT", "BUS", "FPE", "ILL"];
/// How soon clients are served again.
const RECOVERY: Promise = Promise::seconds(10);
/// How soon a tunnel is gone after its job.
const GONE: Promise = Promise::seconds(10);

/// Goal: whatever kind of fault, and however often: the clients are closed, and the same
/// process serves again at the same ports, which are never anybody else's.
#[test]
fn a_fault_is_a_lost_gateway() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    // Each is followed by a longer wait; in which process ssh runs makes no difference.
    let (each, tunnels) = match (long(), over_ssh()) {
        (true, _) => (SIGNALS.len(), 1),
        (false, true) => (2, 1),
        (false, false) => (2, 3),
    };
    let start = |signals: &'static [&str]| {
        let socket = Job::new();
        let path = socket.directory().file("socket");
        let forward = format!("{}:127.0.0.1:{}", path.display(), server.port());
        (signals, Tunnel::with(&gateway, server.port(), &["-L", &forward]), socket)
    };
    let tunnels: Vec<_> = SIGNALS.chunks(each).take(tunnels).map(start).collect();
    thread::scope(|scope| {
        for (signals, tunnel, socket) in &tunnels {
            scope.spawn(|| survives(tunnel, signals, &socket.directory().file("socket")));
        }
    });
}

/// Its socket's file is `path`.
fn survives(tunnel: &Tunnel, signals: &[&str], path: &Path) {
    let (pid, port) = (tunnel.pid(), tunnel.port());
    for (faults, signal) in signals.iter().enumerate() {
        let mut client = connect(port).expect("connect");
        let clone = client.try_clone().expect("dup");
        check_out_from(clone, "MATLAB").expect("a seat");
        process::signal(signal, &[pid]);
        let end = client.read(&mut [0]);
        assert!(!matches!(end, Ok(1..)), "{signal}: {end:?}");
        RECOVERY.wait_until(&format!("{signal}: served again"), || {
            TcpListener::bind(("127.0.0.1", port)).expect_err("the port is still bound");
            check_out(port, "MATLAB").is_ok()
        });
        assert!(process::alive(pid), "{signal}");
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "licfwd\n");
        tunnel.wait_for_log("begins anew after a fault", faults + 1);
        assert!(path.exists(), "{signal}: the socket's file is gone");
    }
    process::signal("TERM", &[pid]);
    wait_until("TERM is obeyed", LIMIT, || !process::alive(pid));
    assert!(!path.exists(), "the socket's file is left");
}

/// Goal: nor does it change whose life bounds the tunnel's.
#[test]
fn after_a_fault_it_ends_with_its_job() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let watched = job.spawn(job.command("sleep").arg("600"));
    let mut command = job.licfwd(&gateway);
    command.args(["--watch", &watched.pid().to_string(), "--log", "log", "gw"]);
    let port =
        job.run(command.arg(format!("127.0.0.1:{}", server.port()))).port("MLM_LICENSE_FILE");
    let daemon = job.daemon();
    let log = || fs::read_to_string(job.directory().file("log")).unwrap_or_default();
    wait_until("it serves", LIMIT, || log().contains("started: "));
    process::signal("SEGV", &[daemon]);
    RECOVERY.wait_until("served again", || check_out(port, "MATLAB").is_ok());
    process::signal("KILL", &[watched.pid()]);
    GONE.wait_until("gone", || !process::alive(daemon));
    job.wait_until_empty();
    let log = log();
    assert!(log.ends_with("ended: the job has ended\n"), "{log}");
}

/// Goal: a TERM that is being waited out is obeyed, although the client that it was waited
/// for is gone.
#[test]
fn a_fault_forgets_no_term() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::start(&gateway, server.port());
    let (pid, port) = (tunnel.pid(), tunnel.port());
    let client = connect(port).expect("connect");
    check_out_from(client.try_clone().expect("dup"), "MATLAB").expect("a seat");
    process::signal("TERM", &[pid]);
    // It has looked up since.
    check_out(port, "MATLAB").expect("a seat");
    assert!(process::alive(pid), "it does not wait for its client");
    process::signal("SEGV", &[pid]);
    GONE.wait_until("gone", || !process::alive(pid));
    assert!(tunnel.log().ends_with("ended: TERM\n"), "{}", tunnel.log());
    drop(client);
}

/// A tunnel whose login is refused from now on, with that rest after each refusal, and
/// when that was seen first.
struct Refused {
    gateway: Gateway,
    _server: LicenseServer,
    tunnel: Tunnel,
    /// How many had come to the gateway before.
    before: usize,
    since: Instant,
}

fn refused(rest: Duration) -> Refused {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["gw", &target]);
        command.env("LICFWD_TEST_REFUSAL_MS", rest.as_millis().to_string());
        command
    });
    let before = logins(&gateway);
    gateway.authorize("");
    gateway.restart();
    tunnel.wait_for_log(&resting(rest), 1);
    Refused { gateway, _server: server, tunnel, before, since: Instant::now() }
}

/// What the log says of a refusal.
fn resting(rest: Duration) -> String {
    format!("trying again in {:.1} s", rest.as_secs_f64())
}

/// Goal: nor does it lock the account: the rest after a refusal goes on, and the row of
/// ten is the same row.
#[test]
fn a_fault_forgets_no_refusal() {
    if !cfg!(debug_assertions) {
        skip!("a release build has no hook for tests");
    }
    let rest = Duration::from_secs(5);
    let (rests, row) = (refused(rest), refused(Duration::from_millis(300)));
    let known = logins(&rests.gateway);
    for it in [&rests, &row] {
        process::signal("SEGV", &[it.tunnel.pid()]);
        it.tunnel.wait_for_log("begins anew after a fault", 1);
    }
    let tunnel = &row.tunnel;
    tunnel.wait_for_log("giving up on the gateway", 1);
    // One that the fault has broken off is no refusal.
    let log = tunnel.log();
    let failed = log.lines().filter(|line| line.contains("reconnecting failed"));
    let refused = failed.filter(|line| !line.contains("Connection refused")).count();
    assert_eq!(refused + 1, 10, "{log}");
    assert!([10, 11].contains(&(logins(&row.gateway) - row.before)), "{log}");
    // And when it has given up, a fault gives it no further turn.
    process::signal("SEGV", &[tunnel.pid()]);
    tunnel.wait_for_log("has given up before the fault", 1);
    let port = tunnel.port();
    TcpListener::bind(("127.0.0.1", port)).expect_err("the port is still bound");
    let closed = || connect(port).is_ok_and(|mut client| !matches!(client.read(&mut [0]), Ok(1..)));
    wait_until("clients are closed", LIMIT, closed);
    rests.tunnel.wait_for_log(&resting(rest), 2);
    let (took, log) = (rests.since.elapsed(), rests.tunnel.log());
    assert!(took > rest * 9 / 10, "{took:?}: {log}");
    assert_eq!(logins(&rests.gateway) - known, 1, "{log}");
}

/// Goal: a port that was opened for a vendor daemon stays bound and leads there, too, and
/// the answers of the license manager are read as before.
#[test]
fn vendor_ports_stay() {
    let (gateway, ports) = (Gateway::start(), free_pair());
    let host = Ipv4Addr::new(127, 0, rand::random_range(1..=255), 10);
    let _server = FlexNet::start(host, ports);
    let target = format!("{host}:{}", ports.0);
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["gw", &target]);
        command
    });
    let value = format!("{}@localhost", tunnel.port());
    let (vendor, _) = flexnet::check_out(&value, "MATLAB").expect("a seat");
    assert_ne!(vendor.port(), ports.1);
    process::signal("SEGV", &[tunnel.pid()]);
    RECOVERY.wait_until("served again", || {
        TcpListener::bind(vendor).expect_err("the vendor daemon's port is still bound");
        check_out(vendor.port(), "MATLAB").is_ok()
    });
    let (other, _) = flexnet::check_out(&value, "MATLAB").expect("a seat");
    assert_ne!(other.port(), ports.1);
}

/// Goal: nobody else begins a tunnel anew by calling it so.
#[test]
fn nobody_else_begins_anew() {
    let job = Job::new();
    let text = format!("exec -a licfwd-restarted {} 1 1 nothing / end gw l:1", built().display());
    let outcome = job.run(job.command("bash").args(["-c", &text]));
    assert_eq!((outcome.code, &*outcome.stdout), (64, ""), "{outcome:?}");
    assert!(outcome.stderr.contains("only licfwd itself begins anew"), "{outcome:?}");
}
