//! The client's side: what licensed software and bulk traffic do to a port.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use super::FLOOD;

/// A seat that was checked out; dropping it gives it back.
pub struct Seat {
    /// Which seat it is, from 1.
    pub number: usize,
    _connection: TcpStream,
}

/// Checks a feature out of a license server, as licensed software does.
pub fn check_out(port: u16, feature: &str) -> io::Result<Seat> {
    check_out_from(connect(port)?, feature)
}

/// The same over a connection that stands.
pub fn check_out_from(mut connection: TcpStream, feature: &str) -> io::Result<Seat> {
    writeln!(connection, "CHECKOUT {feature}")?;
    let answer = read_line(&mut BufReader::new(&connection))?;
    let number = answer.strip_prefix("GRANTED ").and_then(|number| number.parse().ok());
    Ok(Seat {
        number: number.ok_or_else(|| Error::other(format!("denied: {answer:?}")))?,
        _connection: connection,
    })
}

/// The same for bash, wherever it runs: asks for a seat at host `$0`, port `$1`, and
/// prints the answer with `read`'s status: [`SERVED`] or [`CLOSED`].
pub const ASK: &str = "exec 3<>/dev/tcp/$0/$1 || exit
                       echo 'CHECKOUT f' >&3
                       read -r -t 60 line <&3; echo \"$? $line\"";
/// The first seat.
pub const SERVED: &str = "0 GRANTED 1\n";
/// The connection was closed without a byte.
pub const CLOSED: &str = "1 \n";

/// How a client tells the server that it has sent everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has named the number of bytes before.
    Counted,
    /// It closes its sending half and goes on reading.
    HalfClose,
}

/// Sends `up` bytes while it receives `down` bytes; both sides compare every
/// byte with what the seed makes, so a lost, doubled or misplaced byte is an
/// error here, whichever direction it was in.
pub fn exchange(port: u16, up: usize, down: usize, seed: u64, end: End) -> io::Result<()> {
    exchange_over(connect(port)?, up, down, seed, end)
}

/// The same over a connection that stands.
pub fn exchange_over(
    connection: TcpStream,
    up: usize,
    down: usize,
    seed: u64,
    end: End,
) -> io::Result<()> {
    let mut sender = connection.try_clone()?;
    let sending = thread::spawn(move || {
        let count = match end {
            End::Counted => up.to_string(),
            End::HalfClose => "eof".into(),
        };
        writeln!(sender, "{count} {down} {seed}")?;
        send(&mut sender, Pattern::up(seed), up)?;
        match end {
            End::Counted => Ok(()),
            End::HalfClose => sender.shutdown(Shutdown::Write),
        }
    });
    let mut receiver = BufReader::new(&connection);
    receive(&mut receiver, Pattern::down(seed), down)?;
    let verdict = read_line(&mut receiver)?;
    sending.join().expect("the sending thread")?;
    let rest = io::copy(&mut receiver, &mut io::sink())?;
    match (verdict == format!("RECEIVED {up}"), rest) {
        (true, 0) => Ok(()),
        _ => Err(Error::other(format!("verdict {verdict:?}, rest {rest}"))),
    }
}

/// Writes and is gone, with bytes under way in both directions.
pub fn vanish_in_the_middle(port: u16, number: usize) -> io::Result<()> {
    let mut client = connect(port)?;
    writeln!(client, "1000000 1000000 {number}")?;
    let mut some = [0; 1000];
    client.read_exact(&mut some)?;
    // What the server expects: it must go on reading, or sshd would wait for it.
    send(&mut client, Pattern::up(number as u64), 1000 * (number % 300))
}

/// Connects to a port of 127.0.0.1, on which nothing may stall for longer than
/// [`FLOOD`]: whoever is one of hundreds may have to wait.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(FLOOD))?;
    connection.set_write_timeout(Some(FLOOD))?;
    Ok(connection)
}

/// Calls again when it is interrupted: a process that was stopped for a moment is,
/// on a socket with a time limit (signal(7), SO_RCVTIMEO).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A line without its end; an error when the connection ends first.
pub fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(text) => Ok(text.to_string()),
        None => Err(Error::other(format!("closed after {line:?}"))),
    }
}

/// An endless sequence of bytes that both sides can make: a block of random
/// bytes over and over. Its length is a prime, so that no buffer's size
/// divides it.
pub struct Pattern(Vec<u8>);

const BLOCK: usize = 65_521;

impl Pattern {
    /// What the client sends.
    pub fn up(seed: u64) -> Pattern {
        Pattern::new(seed.wrapping_mul(2))
    }

    /// What the server sends.
    pub fn down(seed: u64) -> Pattern {
        Pattern::new(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// The bytes at `position` and after it, as many as lie in one block.
    pub fn at(&self, position: usize) -> &[u8] {
        &self.0[position % BLOCK..]
    }

    fn new(seed: u64) -> Pattern {
        // Marsaglia's xorshift64.
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        Pattern(std::iter::repeat_with(next).take(BLOCK).collect())
    }
}

/// Sends the first `count` bytes of a pattern.
pub fn send(to: &mut impl Write, pattern: Pattern, count: usize) -> io::Result<()> {
    let mut sent = 0;
    while sent < count {
        let block = pattern.at(sent);
        let block = &block[..block.len().min(count - sent)];
        to.write_all(block)?;
        sent += block.len();
    }
    Ok(())
}

/// Receives the first `count` bytes of a pattern, or all until the end of file
/// for `usize::MAX`; returns how many they were.
pub fn receive(from: &mut impl Read, pattern: Pattern, count: usize) -> io::Result<usize> {
    let mut buffer = vec![0; BLOCK];
    let mut received = 0;
    while received < count {
        let expected = pattern.at(received);
        let wanted = expected.len().min(count - received);
        let got = uninterrupted(|| from.read(&mut buffer[..wanted]))?;
        match got {
            0 if count == usize::MAX => break,
            0 => return Err(Error::other(format!("closed after {received} bytes"))),
            _ if buffer[..got] != expected[..got] => {
                return Err(Error::other(format!("wrong bytes after {received}")));
            }
            _ => received += got,
        }
    }
    Ok(received)
}
