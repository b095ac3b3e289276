//! A stand-in license server: one listener, a thread for each client.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Error, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::traffic::{Pattern, read_line, receive, send};
use super::{LIMIT, Scratch, flexnet, sockets, wait_until};

/// What the server does with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `CHECKOUT feature` gets `GRANTED n`; the seat comes back when the client leaves.
    CheckOut,
    /// A hello as FlexNet's clients say it gets the name and port of a vendor daemon,
    /// where the seats are.
    Manager(&'static str, u16),
    /// Whoever says something gets these bytes, so many a write; without any it is closed.
    Says(&'static [u8], usize),
    /// Sends back what it gets; keeps its own half open until the client has closed its.
    Echo,
    /// The other side of [`super::traffic::exchange`].
    Exchange,
    /// Accepts, reads nothing and says nothing.
    Mute,
}

/// Connections that the kernel holds until the server gets to accept them. Beside the threads
/// of 900 clients it does not keep up, and with std's 128 the kernel ignores the rest, who try
/// again after a second, however fast the forwarder was.
const CROWD: i32 = 4096;

/// A license server on a free port of 127.0.0.1.
pub struct LicenseServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    service: Service,
    stopping: AtomicBool,
    /// How many clients there have been.
    served: AtomicUsize,
    seats: AtomicUsize,
    /// How many of FlexNet's clients have said hello.
    hellos: AtomicUsize,
    clients: Mutex<HashMap<usize, TcpStream>>,
    directory: Scratch,
    log: Mutex<File>,
}

impl LicenseServer {
    /// Starts it; when this returns, clients can connect.
    pub fn start(service: Service) -> LicenseServer {
        LicenseServer::on(service, 0)
    }

    /// The same on a given port.
    pub fn on(service: Service, port: u16) -> LicenseServer {
        LicenseServer::at(service, ([127, 0, 0, 1], port).into())
    }

    /// The same on a given address.
    pub fn at(service: Service, address: SocketAddr) -> LicenseServer {
        let mut listener = None;
        // Between fork and exec a child of another test may hold the one before.
        wait_until(&format!("the license server listens at {address}"), LIMIT, || {
            listener = TcpListener::bind(address).ok();
            listener.is_some()
        });
        let listener = listener.expect("a listener");
        sockets::set_backlog(&listener, CROWD);
        let directory = Scratch::new();
        let log = File::create(directory.file("log")).expect("the license server's log");
        let shared = Arc::new(Shared {
            service,
            stopping: AtomicBool::new(false),
            served: AtomicUsize::new(0),
            seats: AtomicUsize::new(0),
            hellos: AtomicUsize::new(0),
            clients: Mutex::default(),
            directory,
            log: Mutex::new(log),
        });
        let address = listener.local_addr().expect("the license server's address");
        let acceptor = thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        LicenseServer { address, shared, acceptor: Some(acceptor) }
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.shared.clients().len()
    }

    /// How many clients there have been since the start.
    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// How many seats are out.
    pub fn seats(&self) -> usize {
        self.shared.seats.load(Ordering::SeqCst)
    }

    /// How many have said something that only real clients say.
    pub fn hellos(&self) -> usize {
        self.shared.hellos.load(Ordering::SeqCst)
    }

    /// The file in which it notes connections and check-outs.
    pub fn log_file(&self) -> PathBuf {
        self.shared.directory.file("log")
    }
}

impl Drop for LicenseServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Whoever is accepting wakes up and sees the flag.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for client in self.shared.clients().values() {
            let _ = client.shutdown(Shutdown::Both);
        }
        wait_until("the license server's clients leave", LIMIT, || self.clients() == 0);
        if thread::panicking() {
            let log = self.shared.directory.read("log");
            eprintln!("---- license server {}\n{log}", self.address);
        }
    }
}

impl Shared {
    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.clients.lock().expect("the list of clients")
    }

    fn note(&self, line: &str) {
        let _ = writeln!(self.log.lock().expect("the log"), "{line}");
    }

    fn accept(self: &Arc<Shared>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.stopping.load(Ordering::SeqCst) {
                break;
            }
            let number = self.served.fetch_add(1, Ordering::SeqCst) + 1;
            let handle = client.try_clone().expect("a descriptor for a client");
            self.clients().insert(number, handle);
            let shared = self.clone();
            // Thousands of clients: small stacks.
            let thread = thread::Builder::new().stack_size(256 * 1024);
            thread
                .spawn(move || shared.look_after(number, &client))
                .expect("a thread for a client");
        }
    }

    fn look_after(&self, number: usize, client: &TcpStream) {
        self.note(&format!("client {number} connected"));
        let result = match self.service {
            Service::CheckOut => self.check_out(number, client),
            Service::Manager(name, vendor) => manage(client, name, vendor),
            Service::Says(bytes, size) => say(client, bytes, size)
                .map(|heard| _ = self.hellos.fetch_add(heard.into(), Ordering::SeqCst)),
            Service::Echo => echo(client),
            Service::Exchange => exchange(client),
            Service::Mute => wait_for_end(client),
        };
        let end = result.map_or_else(|e| format!(": {e}"), |()| String::new());
        self.note(&format!("client {number} left{end}"));
        self.clients().remove(&number);
    }

    fn check_out(&self, number: usize, client: &TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(client);
        // A probe connects, asks for nothing and leaves.
        if lines.fill_buf()?.is_empty() {
            return Ok(());
        }
        // A real client: it has got here, and that is all there is to see.
        if matches!(lines.fill_buf()?[0], 0x2f | 0x68) {
            self.hellos.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let request = read_line(&mut lines)?;
        let feature = request.strip_prefix("CHECKOUT ");
        let feature = feature.ok_or_else(|| Error::other(format!("what is {request:?}?")))?;
        let seat = self.seats.fetch_add(1, Ordering::SeqCst) + 1;
        self.note(&format!("client {number} took seat {seat} of {feature}"));
        let mut answer = client;
        let result = writeln!(answer, "GRANTED {seat}").and_then(|()| wait_for_end(lines));
        self.seats.fetch_sub(1, Ordering::SeqCst);
        self.note(&format!("client {number} gave back {feature}"));
        result
    }
}

fn manage(mut client: &TcpStream, name: &str, vendor: u16) -> io::Result<()> {
    let Some(answer) = flexnet::answer(&mut client, name, vendor)? else {
        return Ok(());
    };
    client.write_all(&answer)?;
    wait_for_end(client)
}

/// Waits for the client to go, unless there is nothing to say. Returns whether it said
/// anything.
fn say(mut client: &TcpStream, bytes: &[u8], size: usize) -> io::Result<bool> {
    if client.read(&mut [0; 256])? == 0 {
        return Ok(false);
    }
    client.set_nodelay(true)?;
    bytes.chunks(size).try_for_each(|piece| client.write_all(piece))?;
    if !bytes.is_empty() {
        wait_for_end(client)?;
    }
    Ok(true)
}

fn echo(mut client: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match client.read(&mut buffer)? {
            0 => return client.shutdown(Shutdown::Write),
            got => client.write_all(&buffer[..got])?,
        }
    }
}

/// Sends while it receives, then says how much arrived.
fn exchange(client: &TcpStream) -> io::Result<()> {
    let mut receiver = BufReader::new(client);
    if receiver.fill_buf()?.is_empty() {
        return Ok(());
    }
    let request = read_line(&mut receiver)?;
    let words: Vec<&str> = request.split(' ').collect();
    let number = |word: &str| word.parse::<usize>().map_err(Error::other);
    let &[up, down, seed] = words.as_slice() else {
        return Err(Error::other(format!("what is {request:?}?")));
    };
    let up = if up == "eof" { usize::MAX } else { number(up)? };
    let (down, seed) = (number(down)?, number(seed)? as u64);

    let mut sender = client.try_clone()?;
    let sending = thread::spawn(move || send(&mut sender, Pattern::down(seed), down));
    let received = receive(&mut receiver, Pattern::up(seed), up);
    sending.join().expect("the sending thread")?;
    let mut answer = client;
    match received {
        Ok(count) => writeln!(answer, "RECEIVED {count}")?,
        Err(error) => writeln!(answer, "{error}")?,
    }
    client.shutdown(Shutdown::Write)?;
    wait_for_end(receiver)
}

fn wait_for_end(mut client: impl Read) -> io::Result<()> {
    io::copy(&mut client, &mut io::sink()).map(|_| ())
}

/// A port of 127.0.0.1 that refuses connections for as long as this lives.
///
/// It is the local port of a connection, so the kernel gives it to nobody else.
pub struct RefusingPort {
    connection: TcpStream,
}

impl RefusingPort {
    /// Takes a port.
    pub fn new() -> RefusingPort {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let connection = TcpStream::connect(address).expect("connect");
        RefusingPort { connection }
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.connection.local_addr().expect("address").port()
    }
}

/// A port of 127.0.0.1 on which packets vanish, as behind a packet filter: its
/// queue of connections is full and nobody accepts any.
pub struct SwallowingPort {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl SwallowingPort {
    /// Takes a port and fills its queue.
    pub fn new() -> SwallowingPort {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        // On loopback a connection that is going to be made is made at once, unless
        // this process is held up: two in a row are not.
        let once = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let connect = || once().or_else(|_| once());
        let queue = std::iter::from_fn(|| connect().ok()).take(600).collect();
        let port = SwallowingPort { listener, _queue: queue };
        assert!(connect().is_err(), "the queue does not fill up");
        port
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("address").port()
    }
}
