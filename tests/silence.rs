//! A gateway that vanishes without a word is noticed, whatever the reason.

use crate::rig::crowd::alone;
use crate::rig::job::over_ssh;
use crate::rig::network::{self, Beyond};
use crate::rig::traffic::connect;
use crate::rig::{Gateway, Job, LicenseServer, Service, Tunnel, long, wait_until};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How the tests make it quick, and the time that this allows. With `--long`
/// they run with the default settings.
fn patience() -> (Vec<&'static str>, Duration) {
    match long() {
        true => (vec![], Duration::from_secs(60)),
        false => {
            let interval = ["-o", "ServerAliveInterval=3"];
            let count = ["-o", "ServerAliveCountMax=2"];
            ([interval, count].concat(), Duration::from_secs(6))
        }
    }
}

/// What busy machines may add.
const SLACK: Duration = Duration::from_secs(2);
/// From the return of the link or gateway until clients are served.
const RECOVERY: Duration = Duration::from_secs(35);

/// Goal: a gateway behind a dead link is noticed with the connection idle, and
/// found again when the link is back.
#[test]
fn a_dead_link_under_an_idle_connection() {
    if network::is_our_own() {
        dead_link(false);
    }
}

/// Goal: the same with data in flight.
#[test]
fn a_dead_link_with_data_in_flight() {
    if network::is_our_own() {
        dead_link(true);
    }
}

fn dead_link(busy: bool) {
    let beyond = Beyond::new();
    let gateway = Gateway::inside(
        beyond.process(),
        &["ListenAddress 127.0.0.1", "ListenAddress 10.99.0.2"],
    );
    let server = LicenseServer::at(Service::Echo, SocketAddr::from((Beyond::NEAR, 0)));
    let (options, limit) = patience();
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["-o", "HostName=10.99.0.2"]).args(options);
        command.args(["-o", "StrictHostKeyChecking=no"]);
        command.args(["gw", &format!("10.99.0.1:{}", server.port())]);
        command
    });
    let client = Watched::start(tunnel.port(), busy);
    beyond.cut_off();
    let cut = Instant::now();
    let noticed = client.ended().saturating_duration_since(cut);
    assert!(noticed < limit + SLACK, "noticed after {noticed:?}");
    tunnel.wait_for_log("lost the gateway", 1);
    // Some attempts find the link still dead.
    beyond.reach_again();
    let recovered = recovery(&tunnel);
    eprintln!("busy {busy}: noticed after {noticed:?}, recovered {recovered:?} later");
}

/// Goal: the same for a gateway whose sshd has been stopped: its kernel goes on
/// acknowledging, so only sshd's own silence tells. The other sshd, that of the
/// new session, serves; the old one may wake up later.
#[test]
fn a_stopped_gateway_under_an_idle_connection() {
    stopped_gateway(false);
}

/// Goal: the same with data in flight.
#[test]
fn a_stopped_gateway_with_data_in_flight() {
    stopped_gateway(true);
}

fn stopped_gateway(busy: bool) {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let (options, limit) = patience();
    let tunnel = Tunnel::with(&gateway, server.port(), &options);
    let client = Watched::start(tunnel.port(), busy);
    gateway.stop_sessions();
    let stopped = Instant::now();
    let noticed = client.ended().saturating_duration_since(stopped);
    assert!(noticed < limit + SLACK, "noticed after {noticed:?}");
    let recovered = recovery(&tunnel);
    gateway.cont_sessions();
    let one = || gateway.sessions().len() <= 2 && tunnel.logged("lost the gateway") == 1;
    wait_until("the old session ends, the new one stays", RECOVERY, one);
    alone(RECOVERY, {
        let port = tunnel.port();
        move || echo(&mut connect(port)?)
    });
    eprintln!("busy {busy}: noticed after {noticed:?}, recovered {recovered:?} later");
}

/// Goal: an idle tunnel sleeps: four wake-ups a minute at most at the default
/// settings. With `ServerAliveInterval=3` and count 2 that is four in six seconds.
#[test]
fn an_idle_tunnel_sleeps() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let (options, limit) = patience();
    let tunnel = Tunnel::with(&gateway, server.port(), &options);
    let _client = connect(tunnel.port()).expect("connect");
    wait_until("the client is connected", limit, || server.clients() == 1);
    let start = Instant::now();
    let mut sleeps = None;
    wait_until("two rounds of questions", limit * 3, || {
        // What connecting has caused is over after a second.
        if start.elapsed() > Duration::from_secs(1) && sleeps.is_none() {
            sleeps = Some(tunnel.sleeps());
        }
        start.elapsed() > limit * 2 + Duration::from_secs(1)
    });
    let woken = tunnel.sleeps() - sleeps.expect("a first count");
    // ssh asks by itself.
    let least = if over_ssh() { 0 } else { 2 };
    assert!(
        (least..=8).contains(&woken),
        "{woken} wake-ups in {:?}",
        limit * 2
    );
    eprintln!("{woken} wake-ups in {:?}", limit * 2);
}

/// Waits until a client is served, each of which may wait ten seconds in line.
#[track_caller]
fn recovery(tunnel: &Tunnel) -> Duration {
    let (port, back) = (tunnel.port(), Instant::now());
    wait_until("clients are served again", RECOVERY, || {
        connect(port).is_ok_and(|mut client| echo(&mut client).is_ok())
    });
    back.elapsed()
}

fn echo(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"x")?;
    client.read_exact(&mut [0])
}

/// A client that waits for its connection to end, silent or writing all the while.
struct Watched(thread::JoinHandle<Instant>);

impl Watched {
    fn start(port: u16, busy: bool) -> Watched {
        let mut client = connect(port).expect("connect");
        echo(&mut client).expect("an echo");
        let limit = Some(3 * RECOVERY);
        client.set_read_timeout(limit).expect("a limit");
        client.set_write_timeout(limit).expect("a limit");
        let mut writer = client.try_clone().expect("a clone");
        if busy {
            thread::spawn(move || {
                while writer.write_all(&[0; 10_000]).is_ok() {}
                let _ = writer.shutdown(Shutdown::Both);
            });
        }
        Watched(thread::spawn(move || {
            let mut buffer = [0; 10_000];
            while let Ok(1..) = client.read(&mut buffer) {}
            Instant::now()
        }))
    }

    fn ended(self) -> Instant {
        self.0.join().expect("a client's thread")
    }
}
