//! What only licfwd's own relay does: over ssh these would test OpenSSH.

use crate::rig::crowd::{all_at_once, alone};
use crate::rig::traffic::{End, connect, exchange, uninterrupted, vanish_in_the_middle};
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Open, Service, Tunnel, eventually_every, long,
    process, wait_until,
};
use std::io::{self, Error, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Goal: 64 MiB each way at the same time, with `--long` 256, arrive as they were sent,
/// while the gateway changes the keys after every megabyte.
#[test]
fn megabytes_through_many_keys() {
    let size = if long() { 256 << 20 } else { 64 << 20 };
    let gateway = Gateway::with(&["RekeyLimit 1M", "LogLevel DEBUG1"]);
    let server = LicenseServer::start(Service::Exchange);
    let tunnel = Tunnel::start(&gateway, server.port());
    let port = tunnel.port();
    let took = alone(FLOOD, move || exchange(port, size, size, 1, End::Counted));
    eprintln!("{took:?}");
    let exchanges = gateway.log().matches("SSH2_MSG_KEXINIT received").count();
    assert!(exchanges > size / (3 << 20), "only {exchanges} key exchanges");
    assert_small(&tunnel);
}

/// Goal: a client that stops reading for good, and a license server that does,
/// stop no other client; they cost bounded memory, and no work.
#[test]
fn who_stops_reading_stops_nobody_else() {
    const SIZE: usize = 6_000_000;
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Exchange);
    // Nobody accepts its connections, so nobody reads them.
    let mute = TcpListener::bind("127.0.0.1:0").expect("bind");
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        let mute = mute.local_addr().expect("address").port();
        command.arg("gw").arg(format!("A=127.0.0.1:{}", server.port()));
        command.arg(format!("B=127.0.0.1:{mute}"));
        command
    });
    let port = tunnel.port_of("A");
    let carry = || alone(FLOOD, move || exchange(port, SIZE, SIZE, 3, End::Counted));
    for _ in 0..if long() { 4 } else { 2 } {
        let free = carry();
        let stalled = [
            stop_reading(port).expect("a client that does not read"),
            stop_being_read(tunnel.port_of("B")).expect("a server that does not read"),
        ];
        let beside = carry();
        eprintln!("alone {free:?}, beside stalled ones {beside:?}");
        wait_until("the stalled one is left", LIMIT, || server.clients() == 1);
        comes_to_rest(&tunnel);
        assert_small(&tunnel);
        drop(stalled);
        wait_until("the stalled one is gone", LIMIT, || server.clients() == 0);
    }
}

/// Whoever looks again and again at what does not move never does.
#[track_caller]
fn comes_to_rest(tunnel: &Tunnel) {
    const LOOK: Duration = Duration::from_millis(300);
    let mut before = 0;
    let rests = eventually_every(LOOK, LIMIT, || {
        let now = tunnel.processor_ticks();
        now == std::mem::replace(&mut before, now)
    });
    assert!(rests, "it works on, and there is nothing to do");
}

/// Goal: fact 5 about libssh2 (see `forward.rs`). A thousand clients, of whom half leave first and half are
/// left, leak no channel: neither in the gateway nor in licfwd's memory.
#[test]
fn fact_5_channels_are_closed() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Exchange);
    let tunnel = Tunnel::start(&gateway, server.port());
    let before = Open::now(&gateway, &tunnel);
    let port = tunnel.port();
    let many = move |count: usize| {
        all_at_once(20, FLOOD, move |number| {
            (0..count / 20).try_for_each(|round| match (number + round) % 2 {
                0 => exchange(port, 100, 1000, round as u64, End::HalfClose),
                _ => vanish_in_the_middle(port, round),
            })
        });
    };
    many(400);
    before.wait_until_back(&gateway, &tunnel, &server);
    let resident = tunnel.resident_kb();
    // A leak grows on; what the heap keeps for a while does not.
    let mut grown = Vec::new();
    let stays = (0..3).any(|_| {
        many(1000);
        before.wait_until_back(&gateway, &tunnel, &server);
        grown.push(tunnel.resident_kb().saturating_sub(resident));
        grown.last() < Some(&256)
    });
    assert!(stays, "{grown:?} kB more than after 400 clients, after each thousand");
}

/// A client that asks for a flood and never reads it. Returns when the flood
/// has come to its halt.
fn stop_reading(port: u16) -> io::Result<TcpStream> {
    let mut client = connect(port)?;
    client.write_all(b"eof 1000000000 5\n")?;
    uninterrupted(|| client.peek(&mut [0])).map(|_| client)
}

/// A client that writes to a server that never reads, until nothing goes any more.
fn stop_being_read(port: u16) -> io::Result<TcpStream> {
    let mut client = connect(port)?;
    client.set_write_timeout(Some(Duration::from_millis(300)))?;
    for _ in 0..1000 {
        match uninterrupted(|| client.write(&[0; 64 * 1024])) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(client),
            Err(e) => return Err(e),
        }
    }
    Err(Error::other("64 MB went somewhere"))
}

#[track_caller]
fn assert_small(tunnel: &Tunnel) {
    let written = process::written_kb(tunnel.pid());
    assert!((1..6 * 1024).contains(&written), "{written} kB in use");
}
