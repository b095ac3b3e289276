//! A slow line to the gateway, and how long a heartbeat waits behind those who copy.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::network::{self, Beyond};
use super::traffic::{End, connect, exchange};
use super::{Gateway, Job, LIMIT, LicenseServer, Service, Tunnel, eventually, free_port};

/// Clients that copy as fast as the line takes it.
pub const COPIES: u64 = 4;
/// What FlexNet's clients say, as long as that.
const HEARTBEAT: [u8; 147] = [7; 147];

/// How long heartbeats took.
#[derive(Debug)]
pub struct Waits {
    /// The middle one.
    pub median: Duration,
    /// The longest.
    pub worst: Duration,
}

/// A gateway behind a line that lets two megabytes a second through towards it. The license
/// servers are on our side, so what they say goes the same way, behind the gateway's sessions.
pub struct SlowLine {
    gateway: Gateway,
    echo: LicenseServer,
    bulk: LicenseServer,
    /// Goes last: the license servers are at its link's address.
    _beyond: Beyond,
}

impl SlowLine {
    /// Only where the network is our own.
    pub fn new() -> SlowLine {
        let beyond = Beyond::new();
        network::run("tc qdisc add dev near root tbf rate 16mbit burst 32kb latency 50ms");
        let lines = ["ListenAddress 127.0.0.1", "ListenAddress 10.99.0.2"];
        let gateway = Gateway::inside(beyond.process(), &lines);
        let at = |service| LicenseServer::at(service, SocketAddr::from((Beyond::NEAR, 0)));
        let (echo, bulk) = (at(Service::Echo), at(Service::Exchange));
        SlowLine { gateway, echo, bulk, _beyond: beyond }
    }

    /// A heartbeat's waits behind the copies, with licfwd.
    pub fn through_licfwd(&self, options: &[&str]) -> Waits {
        let target = |name, server: &LicenseServer| format!("{name}=10.99.0.1:{}", server.port());
        let tunnel = Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(&self.gateway);
            command.args(self.way()).args(options).arg("gw");
            command.args([target("ECHO", &self.echo), target("BULK", &self.bulk)]);
            command
        });
        waits(tunnel.port_of("ECHO"), tunnel.port_of("BULK"))
    }

    /// The same with `ssh -L`.
    pub fn through_ssh(&self) -> Waits {
        let (job, echo, bulk) = (Job::new(), free_port(), free_port());
        let mut ssh: Command = job.client("ssh", &self.gateway);
        ssh.arg("-F").arg(self.gateway.config()).args(self.way()).arg("-N");
        for (port, server) in [(echo, &self.echo), (bulk, &self.bulk)] {
            ssh.args(["-L", &format!("{port}:10.99.0.1:{}", server.port())]);
        }
        let _ssh = job.spawn(ssh.arg("gw"));
        assert!(eventually(LIMIT, || connect(bulk).is_ok()), "ssh serves");
        waits(echo, bulk)
    }

    fn way(&self) -> [&'static str; 4] {
        ["-o", "HostName=10.99.0.2", "-o", "StrictHostKeyChecking=no"]
    }
}

/// Four seconds of heartbeats, when the copies have filled whatever can be filled.
fn waits(echo: u16, bulk: u16) -> Waits {
    for seed in 0..COPIES {
        // It ends with the tunnel, in the middle.
        thread::spawn(move || exchange(bulk, 1 << 30, 0, seed, End::Counted));
    }
    let mut client = connect(echo).expect("connect");
    client.set_nodelay(true).expect("nodelay");
    let mut beat = || {
        let begin = Instant::now();
        client.write_all(&HEARTBEAT).expect("write");
        client.read_exact(&mut [0; HEARTBEAT.len()]).expect("an answer");
        begin.elapsed()
    };
    let until = |span| {
        let begin = Instant::now();
        std::iter::from_fn(move || (begin.elapsed() < span).then_some(()))
    };
    let _ = until(Duration::from_secs(3)).map(|()| beat()).count();
    let mut waits: Vec<_> = until(Duration::from_secs(4)).map(|()| beat()).collect();
    waits.sort();
    Waits { median: waits[waits.len() / 2], worst: waits[waits.len() - 1] }
}
