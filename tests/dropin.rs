//! Drop-in for ssh: the forwarding lines of site documentation, run twice
//! against the same gateway, with `ssh` and with `licfwd`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::rig::sockets::{self, LISTENS, Socket};
use crate::rig::traffic::{End, check_out, exchange};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Running, Service, free_port, process, wait_until,
};

/// What a command line made of `-L`.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// Whether the program has returned to its caller, and with which code.
    background: Option<i32>,
    /// The addresses on which the local port is bound.
    bound: BTreeSet<String>,
}

/// The lines of the documentation, and their like; LOCAL and REMOTE are ports,
/// KEY is the identity and USER the account.
const LINES: [&str; 13] = [
    // ssh tri-gw -L 27000:licserver:27000 -N -f
    "gw -L LOCAL:127.0.0.1:REMOTE -N -f",
    // ssh -N -L 8889:127.0.0.1:13450 user@login
    "-N -L LOCAL:127.0.0.1:REMOTE USER@gw",
    // ssh -L 8888:localhost:8888 host -N
    "-L LOCAL:localhost:REMOTE gw -N",
    // ssh -N -f -i ~/.keypairs/k.pem -L localhost:7005:localhost:8889 ubuntu@10.0.1.128
    "-N -f -i KEY -L localhost:LOCAL:localhost:REMOTE USER@gw",
    // ssh -L 5433:pgsql-vm:5432 user@login
    "-L LOCAL:127.0.0.1:REMOTE USER@gw",
    "-fNL LOCAL:127.0.0.1:REMOTE gw",
    "-fNTLLOCAL:127.0.0.1:REMOTE gw",
    "-nNTxakfC -L LOCAL:127.0.0.1:REMOTE gw",
    "-f -f -NN -T -T -C -C -L LOCAL:127.0.0.1:REMOTE gw",
    "-L 127.0.0.1:LOCAL:127.0.0.1:REMOTE -N gw",
    "-L [::1]:LOCAL:127.0.0.1:REMOTE -N gw",
    "-o GatewayPorts=yes -L LOCAL:127.0.0.1:REMOTE -N gw",
    "-q -o Compression=yes -NXYAKfy -c aes128-ctr -L LOCAL:127.0.0.1:REMOTE gw",
];

/// Goal: the same ports, bytes and behaviour for each line.
#[test]
fn lines_of_the_documentation() {
    let gateway = Gateway::with(&["Subsystem sftp internal-sftp"]);
    // A session without -N lasts as long as its standard input; the account of
    // the rig has no shell for one.
    let config = fs::read_to_string(gateway.config()).expect("ssh_config");
    let session = "SessionType subsystem\nRemoteCommand sftp\n";
    fs::write(gateway.config(), config + session).expect("ssh_config");
    let server = LicenseServer::start(Service::Exchange);
    thread::scope(|scope| {
        for line in LINES {
            let (gateway, port) = (&gateway, server.port());
            scope.spawn(move || same_behaviour(gateway, port, line));
        }
    });
}

fn same_behaviour(gateway: &Gateway, remote: u16, line: &str) {
    let local = free_port();
    let words = line
        .replace("LOCAL", &local.to_string())
        .replace("REMOTE", &remote.to_string())
        .replace("KEY", &gateway.identity().display().to_string())
        .replace("USER", gateway.user());
    let [ssh, licfwd] = PROGRAMS.map(|program| {
        let job = Job::new();
        let running = job.spawn(&mut called(&job, gateway, program, &words));
        observe(&job, running, local)
    });
    assert_eq!(ssh, licfwd, "{line}");
    assert!(!ssh.bound.is_empty(), "{line}");
}

const PROGRAMS: [&str; 2] = ["ssh", "licfwd"];

/// A program with a standard input that stays open, like a terminal.
fn called(job: &Job, gateway: &Gateway, program: &str, words: &str) -> Command {
    let mut call = job.command("sh");
    let text = format!("mkfifo in && exec 3<>in && exec {program} -F \"$0\" {words} <&3");
    call.args(["-c", &text]).arg(gateway.config());
    call
}

/// Sends bytes through the forward and looks what it is.
#[track_caller]
fn observe(job: &Job, mut running: Running, port: u16) -> Behaviour {
    wait_until("the port is bound", LIMIT, || running.has_ended() || !bound(port).is_empty());
    let bound = bound(port);
    if bound.contains("127.0.0.1") {
        for (seed, end) in [(1, End::Counted), (2, End::HalfClose)] {
            exchange(port, 100_000, 300_000, seed, end).expect("bytes through the forward");
        }
    }
    let stdout = running.stdout();
    assert_eq!(stdout, "", "nothing may be written there");
    // By now a program that goes to the background is on its way there.
    let background = match job.processes().contains(&running.pid()) && !is_parent(running.pid()) {
        true => None,
        false => Some(running.wait(LIMIT).code),
    };
    job.end();
    Behaviour { background, bound }
}

fn is_parent(pid: u32) -> bool {
    !process::descendants(pid).is_empty()
}

/// The addresses on which a port listens.
fn bound(port: u16) -> BTreeSet<String> {
    let listening = |socket: &Socket| socket.local == port && socket.state == LISTENS;
    let sockets = sockets::all().into_iter().filter(listening);
    let name = |socket: Socket| match &*socket.address {
        "0100007F" => "127.0.0.1".into(),
        "00000000000000000000000001000000" => "::1".into(),
        // One socket for both families, or two.
        any if any.bytes().all(|digit| digit == b'0') => "*".into(),
        _ => socket.address,
    };
    sockets.map(name).collect()
}

/// Goal: a Unix socket on either side, or on both, as with ssh: it carries the
/// same bytes and belongs to its owner alone; licfwd also removes it.
#[test]
fn unix_sockets() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let there = Job::new();
    let remote = there.directory().file("remote.sock");
    let _echo = UnixEcho::start(&remote);
    // The gateway's user has to get at it.
    open_to_all(there.directory().path(), 0o711);
    open_to_all(&remote, 0o777);
    for program in PROGRAMS {
        let job = Job::new();
        let local = job.directory().file("local.sock");
        let (l, r, port) = (local.display(), remote.display(), free_port());
        let start = |forward: &str| {
            let words = format!("-N -L {forward} gw");
            job.spawn(&mut called(&job, &gateway, program, &words))
        };
        for forward in [format!("{l}:127.0.0.1:{}", server.port()), format!("{l}:{r}")] {
            let running = start(&forward);
            // Bound is not listening yet.
            wait_until("the socket listens", LIMIT, || UnixStream::connect(&local).is_ok());
            let mode = fs::metadata(&local).expect("the socket").permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "{program}");
            echoed(UnixStream::connect(&local).expect("the socket"));
            process::signal("TERM", &[running.pid()]);
            running.wait(LIMIT);
            // ssh leaves it behind, measured with 9.2.
            assert!(program == "ssh" || !local.exists());
            let _ = fs::remove_file(&local);
            let _ = fs::remove_file(job.directory().file("in"));
        }
        for bind in ["", "127.0.0.1:", "localhost:"] {
            let running = start(&format!("{bind}{port}:{r}"));
            wait_until("the port is bound", LIMIT, || !bound(port).is_empty());
            echoed(std::net::TcpStream::connect(("127.0.0.1", port)).expect("the port"));
            process::signal("TERM", &[running.pid()]);
            running.wait(LIMIT);
            let _ = fs::remove_file(job.directory().file("in"));
        }
    }
}

/// Goal: somebody's file in the way of a socket stays, and is 73; with
/// StreamLocalBindUnlink an old socket makes way, as with ssh.
#[test]
fn unix_socket_in_the_way() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let job = Job::new();
    let local = job.directory().file("local.sock");
    drop(UnixListener::bind(&local).expect("an old socket"));
    let forward = format!("{}:127.0.0.1:{}", local.display(), server.port());
    let outcome = job.run(job.licfwd(&gateway).args(["-f", "-L", &forward, "gw"]));
    assert_eq!(outcome.code, 73, "{outcome:?}");
    let name = local.display().to_string();
    assert!(outcome.stderr.contains(&name), "{outcome:?}");
    let kind = fs::symlink_metadata(&local).expect("still there");
    assert!(kind.file_type().is_socket());

    let mut call = job.licfwd(&gateway);
    call.args(["-o", "StreamLocalBindUnlink=yes", "-f", "-L", &forward]);
    let outcome = job.run(call.arg("gw"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    echoed(UnixStream::connect(&local).expect("the socket"));
}

/// Goal: `-L` may be repeated, and each leads to its own server.
#[test]
fn several_forwards() {
    let gateway = Gateway::start();
    let servers = [(); 2].map(|()| LicenseServer::start(Service::CheckOut));
    for program in PROGRAMS {
        let ports = [free_port(), free_port()];
        let forward = |n: usize| format!("-L {}:127.0.0.1:{}", ports[n], servers[n].port());
        let words = format!("{} gw -fN {}", forward(0), forward(1));
        let job = Job::new();
        let outcome = job.run(&mut called(&job, &gateway, program, &words));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        for (server, port) in servers.iter().zip(ports) {
            let seat = check_out(port, "f").expect("a seat");
            assert_eq!(server.seats(), 1, "{program}");
            drop(seat);
            wait_until("the seat is back", LIMIT, || server.seats() == 0);
        }
    }
}

/// Goal: where ssh says success and listens nowhere, licfwd says 73 at once and
/// names the port: taken on 127.0.0.1, on ::1 alone, or by its own twin. No
/// login is spent on it, and nothing is written for a shell to evaluate.
#[test]
fn taken_port() {
    let gateway = Gateway::start();
    let job = Job::new();
    for address in ["127.0.0.1", "::1"] {
        let Ok(other) = TcpListener::bind((address, 0)) else {
            crate::rig::say_skipped("no ::1");
            continue;
        };
        let port = other.local_addr().expect("an address").port();
        let forward = format!("{port}:127.0.0.1:1");
        for form in ["-N", "-fN"] {
            let outcome = job.run(job.licfwd(&gateway).args([form, "-L", &forward, "gw"]));
            assert_eq!((outcome.code, outcome.stdout.as_str()), (73, ""), "{form}");
            assert!(outcome.stderr.contains(&port.to_string()), "{outcome:?}");
        }
    }
    let forward = format!("{}:127.0.0.1:1", free_port());
    let twice = ["-L", &forward, "-L", &forward, "gw"];
    assert_eq!(job.run(job.licfwd(&gateway).args(twice)).code, 73);
    assert!(!gateway.log().contains("Connection from"), "a login");
}

/// Goal: what ssh_config says for interactive use does not matter here.
#[test]
fn settings_for_interactive_use() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Exchange);
    let (local, other) = (free_port(), free_port());
    let settings = format!(
        "{}LocalForward {other} 127.0.0.1:{}\nRemoteCommand false\nRequestTTY force\n\
         RemoteForward {other} 127.0.0.1:1\nDynamicForward {other}\nForkAfterAuthentication no\n\
         SessionType default\nExitOnForwardFailure no\nPermitLocalCommand yes\n\
         LocalCommand touch touched\nForwardX11 yes\nForwardAgent yes\nTunnel no\n",
        fs::read_to_string(gateway.config()).expect("ssh_config"),
        server.port(),
    );
    let config = gateway.client().write("interactive", &settings);
    let target = format!("127.0.0.1:{}", server.port());
    let forward = format!("{local}:{target}");
    for words in [["-fL", &forward, "gw", ""], ["gw", &target, "-L", &forward]] {
        let job = Job::new();
        let mut call = job.licfwd(&gateway);
        call.arg("-F").arg(&config);
        let outcome = job.run(call.args(words.iter().filter(|word| !word.is_empty())));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        exchange(local, 1000, 1000, 1, End::HalfClose).expect("bytes");
        assert!(bound(other).is_empty(), "a forward of ssh_config");
        assert!(!job.directory().file("touched").exists());
    }
    assert!(!gateway.log().contains("session"), "{}", gateway.log());
}

/// Goal: what makes no sense here is refused by its name, with the way to do it.
#[test]
fn refused_by_name() {
    let job = Job::new();
    for (words, names) in [
        ("-D 1080 gw", ["-D: ", "ssh -D"]),
        ("-R 1:h:1 gw", ["-R: ", "ssh -R"]),
        ("-W h:1 gw", ["-W: ", "-L"]),
        ("-g -L 1055:h:1 gw", ["-g: ", "--listen"]),
        ("-M -L 1055:h:1 gw", ["-M: ", "leave it out"]),
        ("-S none -L 1055:h:1 gw", ["-S: ", "leave it out"]),
        ("-t gw h:1", ["-t: ", "ssh"]),
        ("-fNtL 1055:h:1 gw", ["-t: ", "ssh"]),
        ("-L 1055:h:1 gw hostname", ["\"hostname\": ", "remote command"]),
        ("-L 1055:h:1 gw sleep 60", ["\"sleep\": ", "remote command"]),
        ("-L 1055:h:1 gw ls -la", ["\"ls\": ", "remote command"]),
        ("-N gw", ["-L", "target"]),
        ("-D 1080 -L 1055:h:1 gw x", ["-D: ", "ssh -D"]),
    ] {
        let mut call = job.command(crate::rig::job::licfwd());
        let outcome = job.run(call.args(words.split(' ')));
        assert_eq!(outcome.code, 64, "{words}: {outcome:?}");
        let named = names.iter().all(|name| outcome.stderr.contains(name));
        assert!(named, "{words}: {outcome:?}");
    }
}

/// Goal: after TERM a client is still served, and its leaving is the end.
#[test]
fn last_client_leaves_after_term() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    for _ in 0..3 {
        let (job, port) = (Job::new(), free_port());
        let running = foreground(&job, &gateway, "", port, server.port());
        let seat = check_out(port, "f").expect("a seat");
        process::signal("TERM", &[running.pid()]);
        check_out(port, "f").expect("still served");
        drop(seat);
        running.wait(LIMIT);
    }
}

/// Goal: control-C ends a tunnel in the foreground at once, clients or not, as
/// do TERM, HUP and QUIT without clients; under `nohup` HUP does not.
#[test]
fn ending_the_foreground() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let cases = [
        ("", "INT", true),
        ("", "INT", false),
        ("", "TERM", false),
        ("", "QUIT", false),
        ("", "HUP", false),
    ];
    for (prefix, signal, with_client) in cases {
        let (job, port) = (Job::new(), free_port());
        let running = foreground(&job, &gateway, prefix, port, server.port());
        eprintln!("{signal}, with a client: {with_client}");
        let mut seat = with_client.then(|| check_out(port, "f").expect("a seat"));
        process::signal(signal, &[running.pid()]);
        running.wait(LIMIT);
        seat.take();
        assert!(bound(port).is_empty(), "{signal}");
        wait_until("the seat is back", LIMIT, || server.seats() == 0);
    }
    let (job, port) = (Job::new(), free_port());
    let running = foreground(&job, &gateway, "trap '' HUP;", port, server.port());
    process::signal("HUP", &[running.pid()]);
    check_out(port, "f").expect("still served");
    process::signal("TERM", &[running.pid()]);
    running.wait(LIMIT);
}

fn foreground(job: &Job, gateway: &Gateway, prefix: &str, port: u16, to: u16) -> Running {
    let text = format!("{prefix} exec licfwd -F $CONFIG -N -L {port}:127.0.0.1:$PORT gw");
    let running = job.spawn(&mut job.script("sh", &text, gateway, to));
    wait_until("it serves", LIMIT, || check_out(port, "f").is_ok());
    running
}

/// Sends back what it gets on a Unix socket, one client after the other.
struct UnixEcho(PathBuf);

impl UnixEcho {
    fn start(path: &Path) -> UnixEcho {
        let listener = UnixListener::bind(path).expect("bind");
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut bytes = Vec::new();
                let mut client = client.expect("a client");
                client.read_to_end(&mut bytes).expect("bytes");
                if bytes == b"end" {
                    break;
                }
                let _ = client.write_all(&bytes);
            }
        });
        UnixEcho(path.to_owned())
    }
}

impl Drop for UnixEcho {
    fn drop(&mut self) {
        let _ = UnixStream::connect(&self.0).and_then(|mut last| last.write_all(b"end"));
    }
}

/// A connection that can be shut in one direction.
trait Duplex: Read + Write {
    fn end(&self);
}

impl Duplex for UnixStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).expect("shutdown");
    }
}

impl Duplex for std::net::TcpStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).expect("shutdown");
    }
}

#[track_caller]
fn echoed(mut stream: impl Duplex) {
    let sent: Vec<u8> = (0..50_000u32).map(|n| (n / 7) as u8).collect();
    stream.write_all(&sent).expect("send");
    stream.end();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("receive");
    assert!(sent == received, "{} bytes", received.len());
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}
