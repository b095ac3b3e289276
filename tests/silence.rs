//! A gateway that vanishes without a word is noticed, whatever the reason.

use crate::rig::crowd::alone;
use crate::rig::job::over_ssh;
use crate::rig::network::{self, Beyond};
use crate::rig::traffic::{connect, uninterrupted};
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Promise, Service, Tunnel, eventually_every, long,
    process, wait_until,
};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How the tests make it quick, and the time that this allows. With `--long`
/// they run with the default settings.
fn patience() -> (Vec<&'static str>, Promise) {
    match long() {
        true => (vec![], Promise::seconds(60)),
        false => {
            let interval = ["-o", "ServerAliveInterval=3"];
            let count = ["-o", "ServerAliveCountMax=2"];
            ([interval, count].concat(), Promise::seconds(6))
        }
    }
}

/// From the return of the link or gateway until clients are served.
const RECOVERY: Promise = Promise::seconds(35);

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
    let gateway =
        Gateway::inside(beyond.process(), &["ListenAddress 127.0.0.1", "ListenAddress 10.99.0.2"]);
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
    limit.kept("noticed", noticed);
    tunnel.wait_for_log("lost the gateway", 1);
    // Some attempts find the link still dead.
    beyond.reach_again();
    recovers(&tunnel);
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
    limit.kept("noticed", noticed);
    recovers(&tunnel);
    gateway.cont_sessions();
    let one = || gateway.sessions().len() <= 2 && tunnel.logged("lost the gateway") == 1;
    wait_until("the old session ends, the new one stays", LIMIT, one);
    alone(LIMIT, {
        let port = tunnel.port();
        move || echo(&mut connect(port)?)
    });
}

/// Goal: a job that was suspended for longer than a gateway may be silent keeps
/// its clients: nobody had asked the gateway.
#[test]
fn a_suspended_job_keeps_its_clients() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::with(&gateway, server.port(), &["-o", "ServerAliveInterval=1"]);
    let mut client = connect(tunnel.port()).expect("connect");
    echo(&mut client).expect("an echo");
    let stopped =
        process::stop_all("the job", || process::look(tunnel.pid()).into_iter().collect());
    let since = Instant::now();
    wait_until("more than three seconds", LIMIT, || since.elapsed().as_secs() > 3);
    process::signal("CONT", &stopped);
    // Asked now, the gateway answers: the tunnel goes on beyond another limit.
    let since = Instant::now();
    wait_until("the next limit", LIMIT, || since.elapsed().as_secs() > 2);
    echo(&mut client).expect("an echo after the suspension");
    assert_eq!(tunnel.logged("lost the gateway"), 0);
}

/// Goal: an idle tunnel sleeps: four wake-ups a minute at most at the default
/// settings. With `ServerAliveInterval=3` and count 2 that is four in six seconds.
#[test]
fn an_idle_tunnel_sleeps() {
    const SETTLED: Duration = Duration::from_secs(1);
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let (options, round) = patience();
    let tunnel = Tunnel::with(&gateway, server.port(), &options);
    let _client = connect(tunnel.port()).expect("connect");
    wait_until("the client is connected", LIMIT, || server.clients() == 1);
    let mut first = 0;
    let settled = eventually_every(SETTLED, LIMIT, || {
        let now = tunnel.sleeps();
        now == std::mem::replace(&mut first, now)
    });
    assert!(settled, "it never sleeps for {SETTLED:?}");

    let start = Instant::now();
    let rounds = || start.elapsed().as_secs_f64() / round.time().as_secs_f64();
    // ssh asks by itself: nothing to wait for.
    let some = if over_ssh() && !long() { 1.0 } else { 2.0 };
    wait_until("rounds of questions", FLOOD, || rounds() > some);
    let woken = tunnel.sleeps() - first;
    // What counts is the time that it took; a question may be half asked at its ends.
    let most = (4.0 * rounds()) as u64 + 2;
    let least = if over_ssh() { 0 } else { 2 };
    let told = format!("{woken} wake-ups in {:.1?}", start.elapsed());
    assert!((least..=most).contains(&woken), "{told}");
    eprintln!("{told}");
}

/// Waits until a client is served, each of which may wait ten seconds in line.
#[track_caller]
fn recovers(tunnel: &Tunnel) {
    let port = tunnel.port();
    RECOVERY.wait_until("clients are served again", || {
        connect(port).is_ok_and(|mut client| echo(&mut client).is_ok())
    });
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
        let limit = Some(2 * RECOVERY.room());
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
            while let Ok(1..) = uninterrupted(|| client.read(&mut buffer)) {}
            Instant::now()
        }))
    }

    fn ended(self) -> Instant {
        self.0.join().expect("a client's thread")
    }
}
