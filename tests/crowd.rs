//! Crowds: of jobs that start together, of clients, of connections over time.

use crate::rig::crowd::all_at_once;
use crate::rig::traffic::connect;
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Service, Tunnel, long, skip, wait_until,
};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Goal: 100 jobs, with `--long` 200, that start in the same second at a gateway with
/// sshd's default MaxStartups all get their tunnel.
#[test]
fn jobs_start_together() {
    let jobs = if long() { 200 } else { 100 };
    let gateway = Gateway::with(&["MaxStartups 10:30:100"]);
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let target = format!("127.0.0.1:{}", server.port());
    let start = Instant::now();
    let running: Vec<_> = (0..jobs)
        .map(|_| {
            let mut command = job.licfwd(&gateway);
            job.spawn(command.args(["--no-watch", "gw", &target]))
        })
        .collect();
    let mut tries = [0; 11];
    let mut last = Duration::ZERO;
    for one in running {
        let outcome = one.wait(2 * FLOOD);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        tries[outcome.stderr.matches("licfwd: try ").count()] += 1;
        last = last.max(start.elapsed());
    }
    assert!(gateway.log().contains("drop connection"), "nothing was shed");
    eprintln!("{jobs} jobs in {last:?}; by failed tries: {tries:?}");
}

/// Goal: 2,000 clients at once are all served, where the limits allow that
/// many descriptors.
#[test]
fn two_thousand_clients_at_once() {
    const CLIENTS: usize = 2000;
    if !may_open(3 * CLIENTS as u64) {
        skip!("the limit of open files is too low for {CLIENTS} clients");
    }
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let before = tunnel.descriptors();
    let mut clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| connect(tunnel.port()).expect("connect")).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&word(round, number)).expect("write");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut answer = [0; 8];
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, word(round, number));
        }
    }
    assert_eq!(server.clients(), CLIENTS);
    eprintln!("{} kB resident", tunnel.resident_kb());
    drop(clients);
    wait_until("all are gone", LIMIT, || server.clients() == 0 && tunnel.descriptors() == before);
}

/// Goal: a crowd of clients is spread over further sessions, which go with it.
#[test]
fn a_crowd_gets_further_sessions() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let alone = gateway.sessions().len();
    let mut crowd = Vec::new();
    let served = || {
        let mut client = connect(tunnel.port()).expect("connect");
        client.write_all(b"x").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
        client
    };
    crowd.extend((0..160).map(|_| served()));
    wait_until("there is a further session", LIMIT, || gateway.sessions().len() > alone);
    crowd.extend((0..20).map(|_| served()));
    for mut client in &crowd {
        client.write_all(b"y").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
    }
    drop(crowd);
    wait_until("one session is left", LIMIT, || gateway.sessions().len() == alone);
    assert!(connect(tunnel.port()).is_ok());
}

/// Goal: out of descriptors licfwd waits instead of turning round idly, and
/// goes on when descriptors come back.
#[test]
fn out_of_descriptors_it_waits() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.command("sh");
        command.args(["-c", r#"ulimit -n 64 && exec licfwd "$@""#, "sh"]);
        command.arg("-F").arg(gateway.config()).args(["gw", &target]);
        command
    });
    let mut clients: Vec<TcpStream> =
        (0..100).map(|_| connect(tunnel.port()).expect("connect")).collect();
    tunnel.wait_for_log("cannot accept clients", 1);
    let ticks = tunnel.processor_ticks();
    tunnel.wait_for_log("cannot accept clients", 4);
    let ticks = tunnel.processor_ticks() - ticks;
    assert!(ticks < 30, "{ticks} ticks of work");
    // A second of pause, by the clock of the log itself.
    let log = tunnel.log();
    let tries = log.lines().filter(|l| l.contains("cannot accept clients"));
    let times: Vec<&str> = tries.filter_map(|l| l.split(' ').next()).collect();
    let paused = times.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(paused, "no pause: {log}");
    // Those that came first leave, the others are served.
    let late = clients.split_off(60);
    for client in clients {
        client.shutdown(Shutdown::Write).expect("end");
    }
    for mut client in late {
        client.write_all(b"x").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
    }
}

/// Goal: connections that come and go leave no memory behind: up to 10,000 of them,
/// with `--long` 100,000, half one after another, half 20 at a time.
#[test]
fn connections_leave_no_memory_behind() {
    let count = if long() { 100_000 } else { 10_000 };
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let (port, before) = (tunnel.port(), tunnel.descriptors());
    let come_and_go = move |number: usize| {
        let mut client = connect(port)?;
        client.write_all(&word(0, number))?;
        client.read_exact(&mut [0; 8])
    };
    let limit = FLOOD * (1 + count as u32 / 20_000);
    let half = |count: usize| {
        all_at_once(1, limit, move |_| (0..count).try_for_each(come_and_go));
        all_at_once(20, limit, move |_| (0..count / 20).try_for_each(come_and_go));
        wait_until("all are gone", LIMIT, || {
            server.clients() == 0 && tunnel.descriptors() == before
        });
    };
    half(500);
    let mut before = tunnel.resident_kb();
    eprintln!("{before} kB after 1000 connections");
    // A leak grows on; what the heap keeps for a while does not.
    // 30 bytes for each connection.
    let most = count / 100;
    let mut grown = Vec::new();
    let stays = (0..3).any(|_| {
        half((count / 2 - 500) / 3);
        let now = tunnel.resident_kb();
        grown.push(now.saturating_sub(std::mem::replace(&mut before, now)));
        !long() && grown.last() < Some(&most)
    });
    let stays = stays || grown.iter().any(|kb| *kb < most);
    assert!(stays, "{grown:?} kB more after each third");
    eprintln!("{grown:?} kB more after each third of {count}");
}

fn word(round: usize, number: usize) -> [u8; 8] {
    (round * 1_000_000 + number).to_be_bytes()
}

/// Raises this process's limit of open descriptors, which sshd inherits.
fn may_open(count: u64) -> bool {
    let me = std::process::id().to_string();
    let limit = format!("--nofile={count}:");
    let mut raise = Command::new("prlimit");
    raise.args(["--pid", &me, &limit]);
    let now = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = now.lines().find_map(|l| l.strip_prefix("Max open files"));
    let soft = files.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    soft.is_some_and(|soft| soft >= count) || raise.status().is_ok_and(|s| s.success())
}
