//! Gateways that do what no gateway does: flood, dawdle, fall silent.
//!
//! A [`Front`] is a port with a behaviour, which can change with each connection:
//! a good gateway behind it, bytes of our own before the keys are exchanged
//! ([`RAW`]), or after that a scripted gateway (`flooding_gateway.py`).

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::{Gateway, Scratch, eventually};

/// What a front does to a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// Leads to that port.
    Good(u16),
    /// The same; what comes from there arrives in pieces of so many bytes.
    InPieces(u16, usize),
    /// One of [`RAW`].
    Raw(&'static str),
    /// Leads to the scripted gateway on that port, which is told when to do what.
    Scripted(u16, String),
    /// Takes the connection and closes it.
    Closed,
}

/// How a client comes to a front.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// Over TCP.
    Straight,
    /// Through a ProxyCommand, and so over a pair of sockets of which the kernel counts
    /// no bytes.
    Command,
    /// Through a ProxyJump over the good gateway, `gw`.
    Jump,
}

/// A port of 127.0.0.1 with a behaviour.
pub struct Front {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    connections: Mutex<Vec<TcpStream>>,
    /// Each waits for this, who would sleep.
    over: Mutex<Vec<Sender<()>>>,
}

impl Front {
    /// Ready when it returns.
    pub fn start(behaviour: Behaviour) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            connections: Mutex::default(),
            over: Mutex::default(),
        });
        let front = Front { port, shared: Arc::clone(&shared) };
        thread::spawn(move || shared.accept(&listener));
        front
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Options of licfwd that lead here, whatever key it shows.
    pub fn options(&self) -> Vec<String> {
        self.options_by(Way::Straight)
    }

    /// The same on that way.
    pub fn options_by(&self, way: Way) -> Vec<String> {
        let known = ["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null"];
        let port = ["-p".to_owned(), self.port.to_string()];
        let way = match way {
            Way::Straight => None,
            Way::Command => Some("-oProxyCommand=nc %h %p"),
            Way::Jump => Some("-Jgw"),
        };
        port.into_iter().chain(known.into_iter().chain(way).map(str::to_owned)).collect()
    }

    /// What it does to connections from now on.
    pub fn set(&self, behaviour: Behaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// How many there have been.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Ends those that there are.
    pub fn cut(&self) {
        for connection in lock(&self.shared.connections).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.set(Behaviour::Closed);
        lock(&self.shared.over).clear();
        self.cut();
        // Whoever is accepting wakes up and sees it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn accept(self: &Arc<Shared>, listener: &TcpListener) {
        while let Ok((connection, _)) = listener.accept() {
            let behaviour = lock(&self.behaviour).clone();
            if behaviour == Behaviour::Closed {
                return;
            }
            let (sender, over) = channel();
            lock(&self.over).push(sender);
            lock(&self.connections).push(connection.try_clone().expect("a descriptor"));
            thread::spawn(move || {
                let _ = match behaviour {
                    Behaviour::Good(port) => lead(&connection, port, "", usize::MAX),
                    Behaviour::InPieces(port, size) => lead(&connection, port, "", size),
                    Behaviour::Scripted(port, what) => {
                        lead(&connection, port, &(what + "\n"), usize::MAX)
                    }
                    Behaviour::Raw(what) => Raw { connection: &connection, over }.be(what),
                    Behaviour::Closed => Ok(()),
                };
                let _ = connection.shutdown(Shutdown::Both);
            });
        }
    }
}

/// Carries bytes to that port after `greeting`, and back in pieces of that size at most.
fn lead(near: &TcpStream, port: u16, greeting: &str, piece: usize) -> io::Result<()> {
    let far = TcpStream::connect(("127.0.0.1", port))?;
    (&far).write_all(greeting.as_bytes())?;
    near.set_nodelay(true)?;
    let carry = |mut from: &TcpStream, mut to: &TcpStream, piece: usize| {
        let mut buffer = vec![0; 65536.min(piece)];
        while let Ok(got @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..got]).is_err() {
                break;
            }
            if piece < usize::MAX {
                // Else the kernel puts them together again.
                eventually(Duration::from_millis(1), || false);
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    };
    thread::scope(|scope| {
        scope.spawn(|| carry(near, &far, usize::MAX));
        carry(&far, near, piece);
    });
    Ok(())
}

/// What a gateway can do before the keys are exchanged. Those of the issue come first.
pub const RAW: [&str; 24] = [
    "lines",
    "crlf",
    "text",
    "unknown",
    "kexinit",
    "silence",
    "drip-version",
    "drip-lines",
    "half-version",
    "one-long-line",
    "ignore",
    "debug",
    "unimplemented",
    "newkeys",
    "reply",
    "zeros",
    "huge-packet",
    "half-packet",
    "drip-packet",
    "kexinit-silence",
    "kexinit-ignore",
    "drip-ignore",
    "garbage",
    "closed",
];

/// One connection to be misused.
struct Raw<'a> {
    connection: &'a TcpStream,
    over: Receiver<()>,
}

const VERSION: &[u8] = b"SSH-2.0-hostile\r\n";
/// Of a flood that is no faster than a slow link.
const PAUSE: Duration = Duration::from_millis(30);
const LONGEST: Duration = Duration::from_secs(100);

impl Raw<'_> {
    fn be(&self, what: &str) -> io::Result<()> {
        let before_version =
            ["lines", "crlf", "text", "drip-version", "drip-lines", "silence", "turned-away"];
        if !before_version.contains(&what) && !["half-version", "one-long-line"].contains(&what) {
            self.send(VERSION)?;
        }
        match what {
            // 2 MB/s.
            "lines" => self.flood(&b"hello world\r\n".repeat(5000), PAUSE),
            "crlf" => self.flood(&b"\r\n".repeat(32768), PAUSE),
            "text" => self.flood(&[b'x'; 65536], PAUSE),
            "silence" => self.pause(LONGEST),
            "drip-version" => self.drip(VERSION[..8].repeat(100)),
            "drip-lines" => self.drip(b"x\r\n".repeat(100)),
            "half-version" => self.send(b"SSH-2.0-x").and_then(|()| self.pause(LONGEST)),
            "one-long-line" => {
                self.send(b"SSH-2.0-")?;
                self.flood(&[b'x'; 65536], Duration::ZERO)
            }
            "unknown" => self.flood_packets(&[&[200], &MUCH[..]].concat()),
            "kexinit" => self.flood_packets(&kexinit()),
            "ignore" => self.flood_packets(&[&[2, 0, 0, 0x75, 0x30], &MUCH[..]].concat()),
            "debug" => {
                self.flood_packets(&[&[4, 0, 0, 0, 0x75, 0x30], &MUCH[..], &[0; 4]].concat())
            }
            "unimplemented" => self.flood_packets(&[3, 0, 0, 0, 7]),
            "newkeys" => self.send(&packet(&kexinit())).and_then(|()| self.flood_packets(&[21])),
            "reply" => {
                self.send(&packet(&kexinit()))?;
                self.flood_packets(&[&[31], &MUCH[..]].concat())
            }
            "zeros" => self.flood(&[0; 65536], Duration::ZERO),
            "huge-packet" => self.flood(&[0xFF; 65536], PAUSE),
            "half-packet" => {
                self.send(&packet(&kexinit())[..100]).and_then(|()| self.pause(LONGEST))
            }
            "drip-packet" => self.drip(packet(&kexinit())),
            "kexinit-silence" => self.send(&packet(&kexinit())).and_then(|()| self.pause(LONGEST)),
            "kexinit-ignore" => {
                self.send(&packet(&kexinit()))?;
                self.flood_packets(&[&[2, 0, 0, 0x75, 0x30], &MUCH[..]].concat())
            }
            "drip-ignore" => loop {
                self.send(&packet(&[2, 0, 0, 0, 1, b'z']))?;
                self.pause(PAUSE)?;
            },
            "garbage" => {
                let block: Vec<u8> = (0..65536).map(|_| rand::random()).collect();
                self.flood(&block, Duration::ZERO)
            }
            "closed" => Ok(()),
            // As an sshd with enough to do; no case of its own.
            "turned-away" => self.send(b"Not allowed at this time\r\n"),
            other => panic!("no behaviour {other:?}"),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut connection = self.connection;
        connection.write_all(bytes)
    }

    /// A sleep that ends with the front.
    fn pause(&self, time: Duration) -> io::Result<()> {
        match self.over.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    fn flood(&self, block: &[u8], pause: Duration) -> io::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < LONGEST {
            self.send(block)?;
            self.pause(pause)?;
        }
        Ok(())
    }

    fn flood_packets(&self, payload: &[u8]) -> io::Result<()> {
        let packet = packet(payload);
        self.flood(&packet.repeat(60_000 / packet.len() + 1), Duration::ZERO)
    }

    /// Twice a second a byte.
    fn drip(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        for byte in bytes.as_ref() {
            self.send(&[*byte])?;
            self.pause(Duration::from_millis(500))?;
        }
        self.pause(LONGEST)
    }
}

static MUCH: [u8; 30_000] = [b'z'; 30_000];

/// As it is sent before there are keys (RFC 4253, section 6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (5 + payload.len()) % 8;
    let padding = if padding < 4 { padding + 8 } else { padding };
    let length = (1 + payload.len() + padding) as u32;
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

/// SSH_MSG_KEXINIT with what everybody has.
fn kexinit() -> Vec<u8> {
    let (cipher, mac) = ("aes128-ctr", "hmac-sha2-256");
    let lists = ["curve25519-sha256", "ssh-ed25519", cipher, cipher, mac, mac, "none", "none"];
    let mut payload = vec![20];
    payload.extend([7; 16]);
    for list in lists.into_iter().chain(["", ""]) {
        payload.extend((list.len() as u32).to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    payload
}

/// The scripted gateway; ends with this value.
pub struct Script {
    port: u16,
    program: Child,
    directory: Scratch,
}

/// Debian's paramiko belongs to Debian's Python, which need not come first in PATH.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

/// The first that has it; asked once, since it takes a while to say.
fn python() -> Option<&'static str> {
    static PYTHON: OnceLock<Option<&str>> = OnceLock::new();
    let has_it = |python: &&str| {
        let mut try_it = Command::new(python);
        try_it.args(["-c", "import paramiko"]).stderr(Stdio::null());
        try_it.status().is_ok_and(|status| status.success())
    };
    *PYTHON.get_or_init(|| PYTHONS.into_iter().find(has_it))
}

impl Script {
    /// With the host key of that gateway.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn start(gateway: &Gateway) -> Result<Script, String> {
        let python = python().ok_or("no Python 3 with paramiko")?;
        let directory = Scratch::new();
        let log = fs::File::create(directory.file("log")).expect("a log");
        let mut program = Command::new(python)
            .args(["-c", include_str!("flooding_gateway.py")])
            .arg(gateway.host_key())
            .env("LICFWD_RIG", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("run Python");
        let mut lines = BufReader::new(program.stdout.take().expect("a pipe"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("its port");
        let port = line.trim().strip_prefix("port ").and_then(|port| port.parse().ok());
        let file = directory.file("said");
        thread::spawn(move || {
            let mut file = fs::File::create(file).expect("a file");
            let _ = io::copy(&mut lines, &mut file);
        });
        Ok(Script { port: port.expect("a port"), program, directory })
    }

    /// A front's behaviour: `when` and `what`, as the script knows them.
    pub fn behaviour(&self, when: &str, what: &str) -> Behaviour {
        Behaviour::Scripted(self.port, format!("{when} {what}"))
    }

    /// Begins what waits for it.
    pub fn go(&self) {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        connection.write_all(b"go\n").expect("go");
        let _ = connection.read(&mut [0]);
    }

    /// How often it has said that.
    pub fn said(&self, text: &str) -> usize {
        self.directory.read("said").matches(text).count()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
        if thread::panicking() {
            let (said, log) = (self.directory.read("said"), self.directory.read("log"));
            let end =
                |text: &str| text.lines().rev().take(60).map(str::to_owned).collect::<Vec<_>>();
            eprintln!("---- scripted gateway, from the end\n{:#?}\n{:#?}", end(&said), end(&log));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
