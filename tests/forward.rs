//! The forwarder: every byte arrives, nobody stands in another's way, nothing is left over.
//!
//! The tests named `fact_*` are about libssh2: each fails when licfwd lacks
//! its remedy for that property (see `src/gateway/libssh2`). Those of them that take
//! long run over ssh only with `--long`.

use crate::rig::crowd::{all_at_once, alone};
use crate::rig::job::over_ssh;
use crate::rig::license_server::SwallowingPort;
use crate::rig::network;
use crate::rig::sockets;
use crate::rig::traffic::{End, check_out, connect, exchange, vanish_in_the_middle};
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Open, Promise, Service, Tunnel, eventually,
    free_port, long, say, wait_until,
};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const TEN_MINUTES: Duration = Duration::from_secs(600);

/// Goal: 200 clients at once, from nothing to 2 MB up and down, half of them
/// half-closing: all bytes arrive, and no descriptor or channel is left over.
#[test]
fn two_hundred_clients_leave_nothing_behind() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Exchange);
    let (tunnel, ports) = target_and_forward(&gateway, server.port(), &[]);
    let before = Open::now(&gateway, &tunnel);
    for port in ports {
        all_at_once(200, FLOOD, move |number| mixed_client(port, number));
        before.wait_until_back(&gateway, &tunnel, &server);
    }
}

/// A tunnel with two ways to a server, and their ports: as a target, and as a
/// forward (-L), whose bytes licfwd carries itself even where it uses ssh.
fn target_and_forward(gateway: &Gateway, server: u16, options: &[&str]) -> (Tunnel, [u16; 2]) {
    let port = free_port();
    // Another name: over ssh the same one would be carried the same way.
    let forward = format!("{port}:localhost:{server}");
    let options = [options, &["-L", &forward]].concat();
    let tunnel = Tunnel::with(gateway, server, &options);
    let ports = [tunnel.port(), port];
    (tunnel, ports)
}

/// Goal: the three ways in which a license server can end a connection reach
/// the client.
#[test]
fn the_servers_end_reaches_the_client() {
    let gateway = Gateway::start();
    let server = Endings::start();
    let (tunnel, ports) = target_and_forward(&gateway, server.port, &["--no-probe"]);
    let before = tunnel.descriptors();
    for port in ports {
        // It sends everything and closes: the client has all of it, then the end,
        // and is not left hanging when it goes on writing.
        alone(LIMIT, move || {
            let mut client = ask(port, "close\n")?;
            let mut all = Vec::new();
            client.read_to_end(&mut all)?;
            check(all.len() == BULK, "bytes before the close")?;
            until_broken(&mut client)
        });
        // It resets.
        alone(LIMIT, move || {
            let mut client = ask(port, "reset\n")?;
            let result = client.read_to_end(&mut Vec::new());
            check(result.is_ok() || is_reset(&result), "an end after the reset")?;
            until_broken(&mut client)
        });
        // It ends its output and reads on: what the client sends afterwards
        // arrives. Where ssh has the client's socket, that is the end, which the
        // client learns.
        let ends = over_ssh() && port == tunnel.port();
        alone(LIMIT, move || {
            let mut client = ask(port, "half\n")?;
            client.read_to_end(&mut Vec::new())?;
            if ends {
                return until_broken(&mut client);
            }
            client.write_all(&vec![7; BULK])?;
            client.shutdown(Shutdown::Write)
        });
        let count = server.received.recv_timeout(LIMIT);
        assert_eq!(count.expect("the server's count"), if ends { 0 } else { BULK });
    }
    wait_until("descriptors are back", LIMIT, || tunnel.descriptors() == before);
}

/// Goal: fact 1. A client that has nothing to say, and one whose server has
/// nothing to say, do not hold up others.
#[test]
fn fact_1_a_silent_client_blocks_nobody() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::start(&gateway, server.port());
    let port = tunnel.port();
    let silent: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connect")).collect();
    wait_until("they are connected", LIMIT, || server.clients() == 5);
    alone(LIMIT, move || check_out(port, "MATLAB").map(drop));
    // They have been silent all the while, and still are there.
    wait_until("only they are left", LIMIT, || server.clients() == 5);
    drop(silent);
}

/// Goal: fact 2. No wake-up is lost: a hundred clients ask at the same time,
/// and nobody asks again before all have their answer, so that no later event
/// makes good for an answer that lies in libssh2's queue unseen.
#[test]
fn fact_2_no_answer_is_overlooked() {
    if over_ssh() && !long() {
        return;
    }
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let port = tunnel.port();
    alone(FLOOD, move || {
        let clients: io::Result<Vec<TcpStream>> = (0..100).map(|_| connect(port)).collect();
        let mut clients = clients?;
        for round in 0..60 {
            let sent = vec![round as u8; 8_000];
            // The last answer is for the client that licfwd looks at first.
            for client in clients.iter_mut().rev() {
                client.write_all(&sent)?;
            }
            for client in &mut clients {
                let mut got = vec![0; 8_000];
                client.read_exact(&mut got)?;
                check(sent == got, "the echo")?;
            }
        }
        Ok(())
    });
}

/// Goal: fact 2 again. The gateway's word that a stream is open comes among
/// the goodbyes of others, which must not swallow it: with few clients at a
/// time nothing else would ever wake licfwd up.
#[test]
fn fact_2_no_opening_is_overlooked() {
    if over_ssh() && !long() {
        return;
    }
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&gateway, server.port());
    let port = tunnel.port();
    all_at_once(3, FLOOD, move |number| {
        (0..700).try_for_each(|round| {
            let mut client = connect(port)?;
            client.write_all(&[round as u8; 3000][..1 + number * 1400])?;
            client.read_exact(&mut [0])
        })
    });
}

/// Goal: fact 3. A license server that swallows packets holds up neither the
/// connected clients of another nor its new ones for longer than a second.
#[test]
fn fact_3_a_swallowing_server_holds_up_no_other() {
    const SECOND: Promise = Promise::seconds(1);
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let swallowing = SwallowingPort::new();
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["--no-probe", "gw"]);
        command.arg(format!("DEAD=127.0.0.1:{}", swallowing.port()));
        command.arg(format!("GOOD=127.0.0.1:{}", server.port()));
        command
    });
    let (dead, good) = (tunnel.port_of("DEAD"), tunnel.port_of("GOOD"));
    let old = check_out(good, "MATLAB").expect("a seat before");
    let mut held = Vec::new();
    for round in 0..5 {
        held.push(TcpStream::connect(("127.0.0.1", dead)).expect("connect to the dead one"));
        let took = alone(LIMIT, move || check_out(good, "MATLAB").map(drop));
        SECOND.kept(&format!("a seat, round {round}"), took);
    }
    wait_until("the others' seats are back", LIMIT, || server.seats() <= 1);
    assert_eq!(server.seats(), 1, "the old client is still there");
    drop(old);
    // One at a time waits for the dead server: one further session is enough.
    // ssh asks for all of them side by side.
    let further = if over_ssh() { 0 } else { 1 };
    assert_eq!(tunnel.logged("opening another session"), further);
}

/// Goal: fact 4. Where sockets hold little, nearly every packet is left half
/// sent; clients that come, go and vanish in the middle of it leave no half
/// packet behind, on which all others would wait for ever.
/// With `--long` again and again for ten minutes.
#[test]
fn fact_4_every_packet_is_finished() {
    if over_ssh() && !long() {
        return;
    }
    if !network::is_our_own() {
        return;
    }
    network::make_sockets_small();
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Exchange);
    let tunnel = Tunnel::start(&gateway, server.port());
    let before = Open::now(&gateway, &tunnel);
    let port = tunnel.port();
    let end = match long() {
        true => Instant::now() + TEN_MINUTES,
        false => Instant::now(),
    };
    for round in 1.. {
        all_at_once(200, FLOOD, move |number| match number % 4 {
            3 => vanish_in_the_middle(port, number),
            _ => mixed_client(port, number),
        });
        before.wait_until_back(&gateway, &tunnel, &server);
        if Instant::now() >= end {
            let (clients, kb) = (200 * round, tunnel.resident_kb());
            let done =
                format!("{round} rounds of mixed clients, {clients} in all, {kb} kB resident");
            if long() {
                say(&done)
            } else {
                eprintln!("{done}")
            };
            break;
        }
    }
}

/// Goal: a client that has ended its side and does not read what is left, while
/// the server has gone, keeps nobody from noticing that the gateway dies.
#[test]
fn an_ended_stream_with_a_rest_hides_no_dead_gateway() {
    const SIZE: usize = 4_500_000;
    let gateway = Gateway::start();
    let server = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = server.local_addr().expect("address").port();
    let tunnel = Tunnel::with(&gateway, port, &["--no-probe"]);
    let client = connect(tunnel.port()).expect("connect");
    client.shutdown(Shutdown::Write).expect("end");
    let (mut seat, _) = server.accept().expect("accept");
    seat.write_all(&vec![7; SIZE]).expect("send");
    drop(seat);
    // Then everything is on its way to licfwd, the end of the stream included.
    wait_until("the gateway lets go of the server", LIMIT, || sockets::has_ended(port));
    let before = tunnel.processor_ticks();
    gateway.kill_sessions();
    tunnel.wait_for_log("lost the gateway", 1);
    let ticks = tunnel.processor_ticks() - before;
    assert!(ticks < 50, "{ticks} ticks: it span");
    drop(client);
}

/// A client of random appetite.
fn mixed_client(port: u16, number: usize) -> io::Result<()> {
    let size = |kind: usize| match kind {
        0 => 0,
        _ => rand::random_range(0..2_000_000),
    };
    let (up, down) = (size(number % 10), size(number / 2 % 10));
    let end = match number % 2 {
        0 => End::Counted,
        _ => End::HalfClose,
    };
    exchange(port, up, down, number as u64, end)
        .map_err(|e| Error::other(format!("{up} up, {down} down, {end:?}: {e}")))
}

const BULK: usize = 1_000_000;

/// A server that ends a connection in the way that its client names.
struct Endings {
    port: u16,
    /// How many bytes came after it had ended its own output.
    received: std::sync::mpsc::Receiver<usize>,
}

impl Endings {
    fn start() -> Endings {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (sender, received) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for _ in 0..6 {
                let (client, _) = listener.accept().expect("accept");
                if let Some(count) = end_as_told(client).expect("an ending") {
                    let _ = sender.send(count);
                }
            }
        });
        Endings { port, received }
    }
}

fn end_as_told(mut client: TcpStream) -> io::Result<Option<usize>> {
    let mut word = [0; 5];
    client.read_exact(&mut word)?;
    match &word {
        b"close" => client.write_all(&vec![1; BULK])?,
        // Closed with bytes that were not read (its newline): the kernel resets.
        b"reset" => client.peek(&mut [0]).map(drop)?,
        _ => {
            client.shutdown(Shutdown::Write)?;
            return io::copy(&mut client, &mut io::sink()).map(|count| Some(count as usize));
        }
    }
    if &word == b"close" {
        client.read_exact(&mut [0])?;
    }
    Ok(None)
}

fn ask(port: u16, what: &str) -> io::Result<TcpStream> {
    let mut client = connect(port)?;
    client.write_all(what.as_bytes())?;
    Ok(client)
}

/// Writes until the connection refuses it: the client must learn that nobody
/// is there any more.
fn until_broken(client: &mut TcpStream) -> io::Result<()> {
    let broken = eventually(LIMIT, || client.write_all(&[0; 100]).is_err());
    check(broken, "a client that goes on writing learns of it")
}

fn is_reset<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(e) if e.kind() == ErrorKind::ConnectionReset)
}

fn check(holds: bool, what: &str) -> io::Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::other(format!("not so: {what}"))),
    }
}
