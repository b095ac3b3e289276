//! The rig itself: it does what the tests rely on.

use crate::rig::flexnet::{self, FlexNet};
use crate::rig::license_server::{RefusingPort, SwallowingPort};
use crate::rig::traffic::{End, check_out, exchange};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Service, free_pair, free_port, process, wait_until,
};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Goal: the tests' own client and server agree without a tunnel between them.
#[test]
fn client_and_server_agree() {
    let server = LicenseServer::start(Service::Exchange);
    for (seed, end) in [(1, End::Counted), (2, End::HalfClose)] {
        exchange(server.port(), 3_000_000, 2_000_000, seed, end).expect("an exchange");
    }
    exchange(server.port(), 0, 0, 3, End::HalfClose).expect("an empty exchange");

    let server = LicenseServer::start(Service::CheckOut);
    let seat = check_out(server.port(), "MATLAB").expect("a seat");
    assert_eq!((seat.number, server.seats()), (1, 1));
    drop(seat);
    wait_until("the seat is back", LIMIT, || server.seats() == 0);
}

/// Goal: the ports that refuse and that swallow do so.
#[test]
fn dead_ports_are_dead() {
    let connect = |port: u16, limit: Duration| {
        let address = ([127, 0, 0, 1], port).into();
        let result = TcpStream::connect_timeout(&address, limit);
        result.expect_err("nobody should answer").kind()
    };
    let refusing = RefusingPort::new();
    assert_eq!(connect(refusing.port(), LIMIT), ErrorKind::ConnectionRefused);
    let swallowing = SwallowingPort::new();
    let short = Duration::from_millis(200);
    assert_eq!(connect(swallowing.port(), short), ErrorKind::TimedOut);
}

/// Goal: OpenSSH's own client gets through the gateway, which can be killed
/// with all its sessions, frozen, and started again on the same port.
#[test]
fn gateway_comes_and_goes() {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let (job, port) = (Job::new(), free_port());
    let ssh = |gateway: &Gateway| {
        let mut ssh = job.command("ssh");
        ssh.args(["-N", "-L", &format!("{port}:127.0.0.1:{}", server.port())]);
        job.spawn(ssh.arg("-F").arg(gateway.config()).arg("gw"))
    };
    let gets_through = || {
        let mut seat = None;
        wait_until("ssh gets through", LIMIT, || {
            seat = check_out(port, "MATLAB").ok();
            seat.is_some()
        });
        seat
    };
    let first = ssh(&gateway);
    let _seat = gets_through();
    gateway.stop_sessions();
    gateway.cont_sessions();
    let sessions = gateway.sessions();
    assert!(!sessions.is_empty());
    gateway.kill();
    assert!(!sessions.iter().any(|s| process::alive(s.pid)));
    let outcome = first.wait(LIMIT);
    assert_eq!(outcome.code, 255, "{outcome:?}");

    gateway.restart();
    let _second = ssh(&gateway);
    let _seat = gets_through();
    assert_eq!(job.processes().len(), 1);
    job.end();
    let ended = || gateway.sessions().is_empty();
    wait_until("sshd ends the session", LIMIT, ended);
}

/// Goal: in strict mode nothing is skipped but what has its reason in the list.
#[test]
fn skips_have_reasons() {
    use crate::rig::skips::is_expected;
    assert!(is_expected("only root can be another user", false));
    assert!(!is_expected("only root can be another user", true));
    assert!(is_expected("no Jupyter from PyPI: no network", true));
    for root in [true, false] {
        assert!(!is_expected("not installed: fish", root));
    }
}

/// Goal: no port is handed out twice, alone or in a pair, and all of them are
/// below those of the system.
#[test]
fn ports_are_handed_out_once() {
    let mut given = std::collections::HashSet::new();
    for _ in 0..20 {
        let (first, second) = free_pair();
        assert_eq!(second, first + 1);
        for port in [first, second, free_port()] {
            assert!((10_000..32_000).contains(&port), "{port}");
            assert!(given.insert(port), "{port} again");
        }
    }
}

/// Goal: the tests' own FlexNet client is no better than the real ones: in a triad it
/// tries the first member's vendor port for every member; in a list, each its own.
#[test]
fn the_flexnet_client_is_no_better_than_the_real_ones() {
    let (network, ports) = (rand::random_range(1..=255), free_pair());
    let address = |number| Ipv4Addr::new(127, 0, network, number);
    let servers = [11, 12].map(|number| FlexNet::start(address(number), ports));
    let members = [10, 11, 12].map(|number| format!("{}@{}", ports.0, address(number)));
    flexnet::check_out(&members.join(","), "f").map(drop).expect_err("a seat");
    let counts = || servers.each_ref().map(|server| server.vendor.served());
    assert_eq!(counts(), [0, 0]);
    flexnet::check_out(&members.join(":"), "f").expect("a seat");
    assert_eq!(counts(), [1, 0]);
}
