//! A gateway that comes and goes: the ports stay, the clients are told, nothing is left over.

use crate::rig::crowd::{all_at_once, alone};
use crate::rig::job::over_ssh;
use crate::rig::traffic::uninterrupted;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Promise, Service, Tunnel, eventually, long, process, skip,
    wait_until,
};
use std::fs;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SECOND: Promise = Promise::seconds(1);

/// Goal: a gateway that is killed again and again, listener and session, under
/// traffic: the same licfwd on the same port serves on, every client of a lost
/// session is told within a second, every client of the next one is served,
/// and nothing is left over. With `--long` 50 times.
#[test]
fn a_gateway_that_is_killed_again_and_again() {
    let rounds = if long() { 50 } else { 12 };
    const SETTLED: usize = 5;
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let (port, pid, before) = (tunnel.port(), tunnel.pid(), tunnel.descriptors());
    let mut resident = Vec::new();
    for round in 1..=rounds {
        let clients: Vec<Interrupted> = (0..6).map(|n| Interrupted::start(port, n)).collect();
        wait_until("all have traffic", LIMIT, || server.clients() == 6);
        gateway.kill();
        let killed = Instant::now();
        let ended = clients.into_iter().map(Interrupted::ended).max();
        let took = ended.expect("a client").saturating_duration_since(killed);
        SECOND.kept(&format!("round {round}: all closed"), took);
        gateway.restart();
        // Some of these wait in line for the reconnection.
        all_at_once(10, LIMIT, move |number| echo_once(port, number as u8));
        assert_eq!(tunnel.job().daemon(), pid, "round {round}");
        wait_until("descriptors are back", LIMIT, || {
            tunnel.descriptors() == before && server.clients() == 0
        });
        resident.push(tunnel.resident_kb());
    }
    assert_eq!(tunnel.logged("lost the gateway"), rounds);
    assert_eq!(tunnel.logged("reconnected to the gateway"), rounds);
    // A leak grows in every round; the heap takes a step now and then.
    let settled = &resident[SETTLED - 1..];
    let pairs = settled.windows(2);
    let mut steps: Vec<usize> = pairs.map(|p| p[1].saturating_sub(p[0])).collect();
    steps.sort_unstable();
    let small = steps[steps.len() / 2] <= 8 && steps.iter().sum::<usize>() <= 1024;
    assert!(small, "resident memory by round: {resident:?}");
}

/// Goal: a client that comes while there is no gateway is closed after ten seconds.
#[test]
fn a_client_waits_in_line_for_ten_seconds() {
    let (_gateway, _server, tunnel) = without_a_gateway();
    let port = tunnel.port();
    let took = alone(LIMIT, move || must_be_closed(port));
    assert!(took > Duration::from_secs(9), "{took:?}");
    Promise::seconds(10).kept("closed", took);
}

/// Goal: a client that came just before the gateway's return gets its answer.
#[test]
fn a_client_in_line_is_served_after_the_return() {
    let (mut gateway, _server, tunnel) = without_a_gateway();
    let port = tunnel.port();
    let waiting = thread::spawn(move || echo_once(port, 1));
    gateway.restart();
    waiting.join().expect("a client").expect("an answer");
}

/// Goal: a key that is no longer accepted must not lock the account: ten logins
/// in a row and no more; then the port stays bound, and clients are closed at once.
#[test]
fn a_withdrawn_key_is_offered_ten_times() {
    if !cfg!(debug_assertions) {
        skip!("a release build has no hook for tests");
    }
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["gw", &target]);
        command.env("LICFWD_TEST_REFUSAL_MS", "50");
        command
    });
    let before = logins(&gateway);
    gateway.authorize("");
    gateway.restart();
    tunnel.wait_for_log("giving up on the gateway", 1);
    assert_eq!(logins(&gateway) - before, 10, "{}", gateway.log());
    assert_given_up(&tunnel);
    // It has given up for good.
    assert_eq!(logins(&gateway) - before, 10, "{}", gateway.log());
}

/// Goal: another host key after a restart is final at the first look, because
/// this is what an attack looks like; the port stays bound.
#[test]
fn a_changed_host_key_is_final() {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let before = logins(&gateway);
    gateway.change_host_key();
    gateway.restart();
    tunnel.wait_for_log("giving up on the gateway", 1);
    assert_given_up(&tunnel);
    assert_eq!(logins(&gateway) - before, 1, "{}", gateway.log());
}

/// Goal: known_hosts can be away for a while, as where a ticket has expired or a file
/// system is being mounted. Then the key that was accepted stays accepted (ssh keeps
/// none, and comes back with the file); another one is waited out, and is final when
/// the file is back.
#[test]
fn known_hosts_may_be_away_for_a_while() {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let (file, away) = (gateway.known_hosts(), gateway.client().file("away"));
    fs::rename(&file, &away).expect("rename");
    gateway.restart();
    if over_ssh() {
        tunnel.wait_for_log("reconnecting failed", 1);
        fs::rename(&away, &file).expect("rename");
    }
    tunnel.wait_for_log("reconnected to the gateway", 1);
    if over_ssh() {
        fs::rename(&file, &away).expect("rename");
    }
    gateway.change_host_key();
    gateway.restart();
    tunnel.wait_for_log("cannot be read now", 1);
    assert_eq!(tunnel.logged("giving up"), 0);
    fs::rename(&away, &file).expect("rename");
    tunnel.wait_for_log("giving up on the gateway", 1);
}

/// A tunnel that has just lost its gateway.
fn without_a_gateway() -> (Gateway, LicenseServer, Tunnel) {
    let mut gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    gateway.kill();
    tunnel.wait_for_log("lost the gateway", 1);
    (gateway, server, tunnel)
}

/// The port belongs to licfwd, which closes every client at once.
#[track_caller]
fn assert_given_up(tunnel: &Tunnel) {
    let port = tunnel.port();
    for _ in 0..5 {
        let took = alone(LIMIT, move || must_be_closed(port));
        SECOND.kept("closed", took);
    }
    let taken = TcpListener::bind(("127.0.0.1", port)).expect_err("the port is free");
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    assert!(process::alive(tunnel.pid()));
}

/// How many have come to a gateway.
pub fn logins(gateway: &Gateway) -> usize {
    gateway.log().matches("Connection from ").count()
}

/// A client that sends and receives until its connection ends.
struct Interrupted(JoinHandle<Instant>);

impl Interrupted {
    fn start(port: u16, number: usize) -> Interrupted {
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        client.set_read_timeout(Some(LIMIT)).expect("a time-out");
        let size = [1, 100, 10_000][number % 3];
        echo(&mut client, size).expect("an answer before the end");
        Interrupted(thread::spawn(move || {
            // Every other one is idle, as a license seat is most of the time.
            let idle = number.is_multiple_of(2)
                && uninterrupted(|| client.read(&mut [0])).is_ok_and(|got| got == 0);
            let ended = idle || eventually(LIMIT, || echo(&mut client, size).is_err());
            assert!(ended, "the connection lives on");
            Instant::now()
        }))
    }

    fn ended(self) -> Instant {
        self.0.join().expect("a client's thread")
    }
}

fn echo_once(port: u16, byte: u8) -> io::Result<()> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    echo(&mut client, 1000 + usize::from(byte))
}

fn echo(client: &mut TcpStream, size: usize) -> io::Result<()> {
    let (sent, mut got) = (vec![b'x'; size], vec![0; size]);
    client.write_all(&sent)?;
    client.read_exact(&mut got)
}

/// A client that gets no byte and is closed.
fn must_be_closed(port: u16) -> io::Result<()> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    match uninterrupted(|| client.read(&mut [0])) {
        Ok(0) => Ok(()),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(Error::other(format!("not closed: {other:?}"))),
    }
}
