//! FlexNet's vendor daemons are found by licfwd: what its clients are told, and what
//! passes as it came.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::rig::flexnet::{
    FlexNet, HELLO, NAME, VENDOR_IS_AT, ask, check_out, exports, frame, hello, read_answer,
    vendor_is_at,
};
use crate::rig::network::{is_our_own, run};
use crate::rig::traffic::{ASK, CLOSED, Pattern, connect, receive, send};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Overlay, Promise, Scratch, Service, Tunnel, free_pair,
    free_port, long, process, skip, wait_until,
};

/// An address where licfwd binds nothing: it is on the same machine.
struct Net(u8);

impl Net {
    fn new() -> Net {
        Net(rand::random_range(1..=255))
    }

    fn host(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.0, number)
    }
}

/// `licfwd OPTIONS gw TARGETS`, with each client in its log.
#[track_caller]
fn tunnel(gateway: &Gateway, options: &[&str], targets: &[String]) -> Tunnel {
    Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(gateway);
        command.args(options).args(["-v", "gw"]).args(targets);
        command
    })
}

/// A license server that is what a closure makes of each connection.
struct Speaker {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Speaker {
    /// The closure is given each client that has said something, and its number.
    fn at(
        address: impl Into<SocketAddr>,
        talk: impl Fn(usize, TcpStream) -> io::Result<()> + Send + 'static,
    ) -> Speaker {
        let listener = TcpListener::bind(address.into()).expect("bind");
        let address = listener.local_addr().expect("address");
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let acceptor = thread::spawn(move || {
            let mut number = 0;
            for client in listener.incoming().map(|client| client.expect("a client")) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                if client.peek(&mut [0]).is_ok_and(|count| count > 0) {
                    let _ = talk(number, client);
                    number += 1;
                }
            }
        });
        Speaker { address, stopping, acceptor: Some(acceptor) }
    }

    fn target(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let ended = self.acceptor.take().expect("a thread").join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// Goal: with the manager's port alone a seat is checked out and given back; the client
/// is told the address that it has dialled, whichever family, and a port that is not the
/// vendor daemon's own; two jobs do not meet; the log tells once what was learnt.
#[test]
fn one_port_is_enough() {
    let (gateway, net, ports) = (Gateway::start(), Net::new(), free_pair());
    let server = FlexNet::start(net.host(10), ports);
    let target = format!("{}:{}", net.host(10), ports.0);
    let tunnels = [(); 2].map(|()| tunnel(&gateway, &[], std::slice::from_ref(&target)));
    let mut told = HashSet::new();
    for tunnel in &tunnels {
        for host in ["127.0.0.1", "::1", "localhost"] {
            let Ok(mut manager) = TcpStream::connect((host, tunnel.port())) else {
                assert_eq!(host, "::1");
                continue;
            };
            manager.write_all(&hello("demo")).expect("hello");
            let (kind, name, port) = read_answer(&mut manager).expect("an answer");
            assert_eq!((kind, &*name), (VENDOR_IS_AT, "127.0.0.1"), "{host}");
            assert_ne!(port, ports.1);
            told.insert(port);
        }
        let value = format!("{}@localhost", tunnel.port());
        let (_, seat) = check_out(&value, "f").expect("a seat");
        wait_until("a seat is out", LIMIT, || server.vendor.seats() == 1);
        drop(seat);
        wait_until("the seat is back", LIMIT, || server.vendor.seats() == 0);
        let learnt = format!(
            "license server {target}: the vendor daemon is at {NAME}, port {}; port ",
            ports.1
        );
        assert_eq!(tunnel.logged(&learnt), 1);
    }
    assert_eq!(told.len(), 2, "{told:?}");
}

/// Goal: another user gets nothing from a vendor daemon's port.
#[test]
fn a_vendor_port_is_the_owners() {
    if !process::is_root() {
        skip!("only root can be another user");
    }
    let (gateway, net, ports) = (Gateway::start(), Net::new(), free_pair());
    let server = FlexNet::start(net.host(10), ports);
    let tunnel = tunnel(&gateway, &[], &[format!("{}:{}", net.host(10), ports.0)]);
    let value = format!("{}@localhost", tunnel.port());
    let (_, _, port) = ask(&value, "demo").expect("an answer");
    for host in ["127.0.0.1", "localhost"] {
        let mut stranger = tunnel.job().command("setpriv");
        stranger.args(["--reuid", "2", "--regid", "2", "--clear-groups", "bash", "-c", ASK]);
        let outcome = tunnel.job().run(stranger.args([host, &port.to_string()]).current_dir("/"));
        assert_eq!(outcome.stdout, CLOSED, "{host}: {outcome:?}");
    }
    assert_eq!(server.vendor.served(), 0);
    check_out(&value, "f").expect("a seat for the owner");
    assert_eq!(tunnel.logged("refused a client: user 2 of this node"), 1);
}

/// Goal: a status program, which says hello without a vendor and then dials the name
/// that it was told at the port that it was given, reaches lmgrd twice.
#[test]
fn a_status_program_comes_back() {
    let (gateway, net, ports) = (Gateway::start(), Net::new(), free_pair());
    let server = FlexNet::start(net.host(10), ports);
    let tunnel = tunnel(&gateway, &[], &[format!("{}:{}", net.host(10), ports.0)]);
    let before = server.manager.served();
    let first = ask(&format!("{}@localhost", tunnel.port()), "").expect("an answer");
    assert_eq!(first, (HELLO, "127.0.0.1".into(), 0));
    let again = ask(&format!("{}@{}", tunnel.port(), first.1), "").expect("an answer");
    assert_eq!((again, server.manager.served() - before), (first, 2));
}

/// Goal: a port that `+` names is the one that is told, where the server is now.
#[test]
fn a_kept_port_is_told() {
    let (gateway, net, ports) = (Gateway::start(), Net::new(), free_pair());
    let _server = FlexNet::start(net.host(10), ports);
    let target = format!("LIC={}:{}+{}", net.host(10), ports.0, ports.1);
    let jobs = [Job::new(), Job::new()];
    let hosts = jobs.each_ref().map(|job| {
        let outcome = job.run(job.licfwd(&gateway).args(["gw", &target]));
        let value = exports(outcome.line()).remove("LIC").expect("a value");
        let (_, host) = value.split_once('@').expect("port@host");
        let told = ask(&value, "demo").expect("an answer");
        let here = if host == "localhost" { "127.0.0.1" } else { host };
        assert_eq!(told, (VENDOR_IS_AT, here.into(), ports.1), "{value}");
        host.to_owned()
    });
    assert_ne!(hosts[0], hosts[1]);
}

/// Goal: where another member of the triad is named, the way leads there; each for its
/// own, though the numbers are the same.
#[test]
fn another_member_of_the_triad() {
    let (gateway, net, ports) = (Gateway::start(), Net::new(), free_pair());
    let master = Box::leak(net.host(11).to_string().into_boxed_str());
    let managers = [10, 12].map(|number| {
        LicenseServer::at(Service::Manager(master, ports.1), (net.host(number), ports.0).into())
    });
    let server = FlexNet::named(master, net.host(11), ports);
    let job = Job::new();
    let members = [10, 11, 12].map(|number| format!("{}:{}", net.host(number), ports.0));
    let target = format!("LIC={}", members.join(","));
    let outcome = job.run(job.licfwd(&gateway).args(["gw", &target]));
    let value = exports(outcome.line()).remove("LIC").expect("a value");
    for member in value.split(',') {
        let (vendor, _seat) = check_out(member, "f").expect("a seat");
        assert_eq!(vendor.ip(), Ipv4Addr::LOCALHOST, "not through the tunnel");
    }
    assert_eq!((value.matches(',').count(), server.vendor.served()), (2, 3));
    drop(managers);
}

/// Goal: the name that was told is tried where the server's own host refuses, and never
/// where that would be the gateway itself.
#[test]
fn the_name_that_was_told() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let (net, ports) = (Net::new(), free_pair());
    // Only the gateway knows that name.
    let (files, mut overlay) = (Scratch::new(), Overlay::default());
    let hosts = files.write("hosts", &format!("127.0.0.1 localhost\n{} {NAME}\n", net.host(20)));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&hosts, readable).expect("chmod");
    overlay.add(hosts, "/etc/hosts");
    let gateway = Gateway::overlaid(Scratch::new(), [overlay, Overlay::default()], &[], &[]);
    let vendors = [20, 21]
        .map(|number| LicenseServer::at(Service::CheckOut, (net.host(number), ports.1).into()));
    let own = Box::leak(net.host(21).to_string().into_boxed_str());
    for (number, name, served) in [(10, NAME, 1), (12, own, 0), (13, "localhost", 0)] {
        let at = (net.host(number), ports.0).into();
        let _manager = LicenseServer::at(Service::Manager(name, ports.1), at);
        let tunnel = tunnel(&gateway, &[], &[format!("{}:{}", net.host(number), ports.0)]);
        let seat = check_out(&format!("{}@localhost", tunnel.port()), "f");
        assert_eq!(seat.is_ok(), served == 1, "{name}");
        assert_eq!(tunnel.logged("as it was told"), served, "{name}");
    }
    assert_eq!(vendors.each_ref().map(LicenseServer::served), [1, 0]);
}

/// Goal: a hundred ports in a row, as of a vendor daemon that is started again and again:
/// sixteen forwards, the last port is served, nothing grows. Where all are in use the
/// answer passes unchanged, and the log says so.
#[test]
fn a_hundred_ports_in_a_row() {
    const MOST: usize = 16;
    let (gateway, net) = (Gateway::start(), Net::new());
    let at = |port| SocketAddr::from((net.host(10), port));
    let vendors: Vec<_> =
        (0..=MOST).map(|_| LicenseServer::at(Service::Echo, at(free_port()))).collect();
    let numbers: Vec<u16> = vendors.iter().map(LicenseServer::port).collect();
    let told = numbers.clone();
    let manager = Speaker::at(at(0), move |n, mut client| {
        let port = if n < 100 { 1000 + n as u16 } else { told[n - 100] };
        client.write_all(&vendor_is_at(NAME, port))?;
        io::copy(&mut client, &mut io::sink()).map(drop)
    });
    let tunnel = tunnel(&gateway, &[], &[manager.target()]);
    let value = format!("{}@localhost", tunnel.port());
    let ask = || ask(&value, "demo").expect("an answer");
    let before = tunnel.descriptors();
    let mut here: HashSet<u16> = (0..MOST).map(|_| ask().2).collect();
    // What the first clients touch stays touched.
    let kb = tunnel.resident_kb();
    here.extend((MOST..100).map(|_| ask().2));
    assert_eq!(here.len(), MOST);
    let (descriptors, kb) = (tunnel.descriptors() - before, tunnel.resident_kb() - kb);
    eprintln!("{descriptors} descriptors, and {kb} kB from the {MOST}th to the 100th");
    assert!(descriptors <= 2 * MOST + 8 && kb < 500, "{descriptors} descriptors, {kb} kB");
    let mut clients = Vec::new();
    for _ in 0..MOST {
        let (_, name, port) = ask();
        assert_eq!(name, "127.0.0.1");
        let mut client = connect(port).expect("connect");
        client.write_all(b"x").expect("a word");
        client.read_exact(&mut [0]).expect("the same");
        clients.push(client);
    }
    assert!(vendors[..MOST].iter().all(|vendor| vendor.served() == 1));
    assert_eq!(ask(), (VENDOR_IS_AT, NAME.into(), numbers[MOST]));
    tunnel.wait_for_log("all of 16 ports for it are in use", 1);
    // A fault knows where each leads.
    let ports: Vec<_> = clients.iter().map(|it| it.peer_addr().expect("a port").port()).collect();
    process::signal("SEGV", &[tunnel.pid()]);
    for port in ports {
        let served = || {
            let client = connect(port).and_then(|mut client| {
                client.set_read_timeout(Some(LIMIT))?;
                client.write_all(b"x")?;
                client.read_exact(&mut [0])
            });
            client.is_ok()
        };
        wait_until("the port leads there again", LIMIT, served);
    }
}

/// Goal: whatever is no such frame passes byte for byte and at once, also in pieces, and
/// the log tells of what began like one; so does every answer with `--verbatim`, to a `+`
/// port and to one of `-L`.
#[test]
fn all_else_passes_as_it_came() {
    let gateway = Gateway::start();
    let mut bent = vendor_is_at(NAME, 27_000);
    bent[30] ^= 1;
    let mut long = frame(VENDOR_IS_AT, &[b'x'; 1100]);
    long.extend_from_slice(b"more");
    let cases: [(&[u8], usize); 6] = [
        (&[&[0x4c; 147][..], b"more"].concat(), 0),
        (&[0x4e; 147], 0),
        (&frame(0x0114, b"licserver\0\0\0\x69\x78"), 1),
        (&bent, 1),
        (&long, 1),
        (b"HTTP/1.1 200 OK\r\n\r\n", 0),
    ];
    let read = |port: u16, count: usize| {
        let mut client = connect(port).expect("connect");
        client.write_all(&hello("demo")).expect("hello");
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).expect("all of it");
        bytes
    };
    for (bytes, logged) in cases {
        let said: &'static [u8] = Box::leak(bytes.to_vec().into_boxed_slice());
        for size in [said.len(), 1] {
            let server = LicenseServer::start(Service::Says(said, size));
            let tunnel = tunnel(&gateway, &[], &[format!("127.0.0.1:{}", server.port())]);
            for _ in 0..2 {
                assert!(read(tunnel.port(), said.len()) == said, "{said:02x?}");
            }
            assert_eq!(tunnel.logged("was not understood"), logged, "{said:02x?}");
        }
    }
    let (net, ports, fixed) = (Net::new(), free_pair(), free_port());
    let _server = FlexNet::start(net.host(10), ports);
    let answer = vendor_is_at(NAME, ports.1);
    let target = format!("{}:{}", net.host(10), ports.0);
    let verbatim = tunnel(&gateway, &["--verbatim"], std::slice::from_ref(&target));
    assert_eq!(read(verbatim.port(), answer.len()), answer);
    let other = LicenseServer::at(Service::CheckOut, (net.host(10), 0).into());
    let kept = format!("{}:{}+{}", net.host(10), other.port(), ports.0);
    let forward = format!("{fixed}:{target}");
    let _tunnel = tunnel(&gateway, &["-L", &forward], &[kept]);
    for port in [ports.0, fixed] {
        assert_eq!(read(port, answer.len()), answer);
    }
}

/// Goal: less than a frame is held back for a moment only, and before the end it passes;
/// a frame in pieces is one all the same.
#[test]
fn a_part_of_a_frame() {
    let gateway = Gateway::start();
    let whole = vendor_is_at(NAME, 27_000);
    let part = whole[..30].to_vec();
    let talk = move |n: usize, mut client: TcpStream| {
        match n {
            0 => client.write_all(&part)?,
            1 => return client.write_all(&part),
            _ => {
                client.set_nodelay(true)?;
                whole.chunks(1).try_for_each(|byte| client.write_all(byte))?;
                client.write_all(b"more")?;
            }
        }
        io::copy(&mut client, &mut io::sink()).map(drop)
    };
    let server = Speaker::at(([127, 0, 0, 1], 0), talk);
    let tunnel = tunnel(&gateway, &[], &[server.target()]);
    let ask = || {
        let mut client = connect(tunnel.port()).expect("connect");
        client.write_all(&hello("demo")).expect("hello");
        client
    };
    let start = Instant::now();
    ask().read_exact(&mut [0; 30]).expect("what there is");
    let took = start.elapsed();
    eprintln!("held back for {took:?}");
    assert!(took < 3 * Duration::from_millis(200) + Duration::from_millis(200), "{took:?}");
    let (mut bytes, start) = (Vec::new(), Instant::now());
    ask().read_to_end(&mut bytes).expect("the end");
    Promise::seconds(1).kept("the end", start.elapsed());
    assert_eq!(bytes.len(), 30);
    let mut client = ask();
    assert_eq!(read_answer(&mut client).expect("an answer").1, "127.0.0.1");
    client.read_exact(&mut [0; 4]).expect("what comes after it");
}

/// Goal: a megabyte each way through a first port is what was sent, in whatever pieces,
/// also where it begins as a frame does.
#[test]
fn a_megabyte_both_ways() {
    const SIZE: usize = 1 << 20;
    let gateway = Gateway::start();
    for (begin, piece) in [(0x2f, 1), (0x2f, 60_000), (b'x', 1)] {
        if begin != 0x2f && !long() {
            continue;
        }
        let talk = move |_: usize, client: TcpStream| {
            let mut sender = client.try_clone()?;
            let sending = thread::spawn(move || pieces(&mut sender, begin, 4, SIZE, piece));
            let mut reader = &client;
            reader.read_exact(&mut [0])?;
            receive(&mut reader, Pattern::up(7), SIZE)?;
            sending.join().expect("the sending thread")?;
            (&client).write_all(b"+")?;
            io::copy(&mut reader, &mut io::sink()).map(drop)
        };
        let server = Speaker::at(([127, 0, 0, 1], 0), talk);
        let tunnel = tunnel(&gateway, &[], &[server.target()]);
        let client = connect(tunnel.port()).expect("connect");
        let mut sender = client.try_clone().expect("a descriptor");
        let sending = thread::spawn(move || {
            sender.write_all(b"/")?;
            send(&mut sender, Pattern::up(7), SIZE)
        });
        let mut first = [0];
        (&client).read_exact(&mut first).expect("the first byte");
        assert_eq!(first[0], begin);
        receive(&mut &client, Pattern::down(4), SIZE).expect("what was sent");
        (&client).read_exact(&mut first).expect("the server's verdict");
        assert_eq!(&first, b"+");
        sending.join().expect("the sending thread").expect("all of it");
    }
}

/// A first byte, and a pattern in pieces.
fn pieces(to: &mut TcpStream, begin: u8, seed: u64, size: usize, piece: usize) -> io::Result<()> {
    to.write_all(&[begin])?;
    let (pattern, mut sent) = (Pattern::down(seed), 0);
    while sent < size {
        let block = pattern.at(sent);
        let block = &block[..block.len().min(size - sent)];
        block.chunks(piece).try_for_each(|piece| to.write_all(piece))?;
        sent += block.len();
    }
    Ok(())
}

/// Goal: for other nodes the vendor daemon's port is where the first port is.
#[test]
fn at_the_address_of_listen() {
    if !is_our_own() {
        return;
    }
    run("ip addr add 10.99.7.1/32 dev lo");
    let (gateway, net, ports) = (Gateway::start(), Net::new(), free_pair());
    let server = FlexNet::start(net.host(10), ports);
    let target = format!("LIC={}:{}", net.host(10), ports.0);
    for listen in ["127.0.0.5", "10.99.7.1", "0.0.0.0"] {
        let job = Job::new();
        let mut licfwd: Command = job.licfwd(&gateway);
        licfwd.args(["--listen", listen, "--allow", "localhost", "gw", &target]);
        let outcome = job.run(&mut licfwd);
        let value = exports(outcome.line()).remove("LIC").expect("a value");
        let (port, _) = value.split_once('@').expect("port@host");
        let all = ["127.0.0.1", "10.99.7.1"];
        let dialled = if listen == "0.0.0.0" { &all[..] } else { &[listen] };
        for host in dialled {
            let value = format!("{port}@{host}");
            assert_eq!(&ask(&value, "demo").expect("an answer").1, host, "{listen}");
            check_out(&value, "f").expect("a seat");
        }
    }
    assert_eq!(server.vendor.served(), 4);
}
