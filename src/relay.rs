//! Carries one client's bytes, each direction open, draining or closed.
//!
//! ```text
//! client socket --read--> up:   held bytes --write--> channel
//! client socket <-write-- down: held bytes <--read--- channel
//! ```
//! A direction holds bytes only while its receiver cannot take them, and does
//! not read on until they are gone: that is the whole back-pressure. Idle
//! relays own no buffer; all share the caller's.

use crate::sys::Interest;
use std::io::{self, ErrorKind};

/// The client's side.
pub trait Local {
    /// Reads what is there; `WouldBlock` when nothing is.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits; `WouldBlock` when nothing does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Tells the client that no more will come.
    fn end_of_output(&mut self);
}

/// The license server's side: one stream through the gateway.
///
/// Every error but `WouldBlock` means that the connection to the gateway is
/// lost. A call that answered `WouldBlock` has left nothing half done.
pub trait Remote {
    /// Bytes that [`Remote::read`] will return without asking the network.
    fn available(&self) -> usize;
    /// Whether everything has been read and no more will come.
    fn at_end(&self) -> bool;
    /// Bytes that the other side is ready to take.
    fn room(&self) -> usize;
    /// Reads what has arrived.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes some of the bytes. After `WouldBlock` the next call must offer
    /// the same bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Tells the license server that no more will come.
    fn send_eof(&mut self) -> io::Result<()>;
    /// Whether the license server's side is gone altogether, both ways.
    fn hung_up(&mut self) -> io::Result<bool>;
    /// Ends the stream; `WouldBlock` until the gateway has agreed.
    fn close(&mut self) -> io::Result<()>;
}

/// How far one direction of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes may come.
    Open,
    /// The sender has ended; what is held must still be delivered.
    Draining,
    /// The receiver has been told.
    Closed,
}

#[derive(Debug)]
struct Direction {
    state: State,
    held: Vec<u8>,
    /// How much of `held` has been delivered.
    sent: usize,
}

impl Direction {
    fn new() -> Direction {
        Direction {
            state: State::Open,
            held: Vec::new(),
            sent: 0,
        }
    }

    fn waiting(&self) -> &[u8] {
        &self.held[self.sent..]
    }

    fn delivered(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.held.len() {
            // Gives the memory back: most relays never hold anything again.
            self.held = Vec::new();
            self.sent = 0;
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.held = Vec::new();
        self.sent = 0;
    }
}

/// One client and its stream.
#[derive(Debug)]
pub struct Relay<L, R> {
    /// The client.
    pub local: L,
    /// The stream through the gateway.
    pub remote: R,
    up: Direction,
    down: Direction,
    /// Bytes carried to the license server.
    pub bytes_up: u64,
    /// Bytes carried to the client.
    pub bytes_down: u64,
}

/// How many buffers one direction may carry before others have their turn.
const TURN: usize = 4;

impl<L: Local, R: Remote> Relay<L, R> {
    /// Joins a client and its stream.
    pub fn new(local: L, remote: R) -> Self {
        Relay {
            local,
            remote,
            up: Direction::new(),
            down: Direction::new(),
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// Whether [`Relay::carry_up`] has something to do even if the client says nothing.
    pub fn up_is_due(&self) -> bool {
        match self.up.state {
            State::Closed => false,
            State::Draining if self.up.held.is_empty() => true,
            _ => !self.up.held.is_empty() && self.remote.room() > 0,
        }
    }

    /// Whether [`Relay::carry_down`] has something to do. Asks no socket, so the
    /// answer cannot make itself wrong.
    pub fn down_is_due(&self) -> bool {
        self.down.state == State::Open
            && self.down.held.is_empty()
            && (self.remote.available() > 0 || self.remote.at_end())
    }

    /// Client to license server. `readable` says whether the client's socket
    /// may have something. Returns whether anything came of it.
    ///
    /// # Errors
    /// The connection to the gateway is lost. A broken client is no error: the
    /// relay closes.
    pub fn carry_up(&mut self, mut readable: bool, buffer: &mut [u8]) -> io::Result<bool> {
        let mut moved = false;
        for _ in 0..TURN {
            if !self.up.held.is_empty() {
                if self.remote.room() == 0 {
                    break;
                }
                match self.remote.write(self.up.waiting()) {
                    Ok(count) => {
                        self.up.delivered(count);
                        self.bytes_up += count as u64;
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
                moved = true;
                continue;
            }
            match self.up.state {
                State::Closed => break,
                State::Draining => match self.remote.send_eof() {
                    Ok(()) => self.up.close(),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                },
                State::Open if !readable => break,
                State::Open => match self.local.read(buffer) {
                    Ok(0) => self.up.state = State::Draining,
                    Ok(count) => {
                        readable = count == buffer.len();
                        let sent = self.write_up(&buffer[..count])?;
                        self.bytes_up += sent as u64;
                        self.up.held.extend_from_slice(&buffer[sent..count]);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => self.abandon(),
                },
            }
            moved = true;
        }
        Ok(moved)
    }

    fn write_up(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() && self.remote.room() > 0 {
            match self.remote.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// License server to client. Returns whether anything came of it.
    ///
    /// # Errors
    /// The connection to the gateway is lost. A broken client is no error: the
    /// relay closes.
    pub fn carry_down(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut moved = false;
        for _ in 0..TURN {
            if !self.down.held.is_empty() {
                match self.local.write(self.down.waiting()) {
                    Ok(count) => {
                        self.down.delivered(count);
                        self.bytes_down += count as u64;
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => self.abandon(),
                }
            } else if !self.down_is_due() {
                break;
            } else if self.remote.available() > 0 {
                match self.remote.read(buffer) {
                    Ok(count) => self.write_down(&buffer[..count]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            } else {
                self.down.close();
                self.local.end_of_output();
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Tries the client's socket first, so that nothing is copied while it keeps up.
    fn write_down(&mut self, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.local.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.abandon();
                    return;
                }
            }
        }
        self.bytes_down += sent as u64;
        self.down.held.extend_from_slice(&bytes[sent..]);
    }

    /// Where the license server has ended its output, finds out whether it is
    /// gone altogether; a client that only writes would never learn of it.
    ///
    /// # Errors
    /// The connection to the gateway is lost.
    pub fn notice_hang_up(&mut self) -> io::Result<()> {
        if self.down.state == State::Closed
            && self.up.state != State::Closed
            && self.remote.hung_up()?
        {
            self.abandon();
        }
        Ok(())
    }

    /// The client is gone, or must go: nothing more is carried.
    pub fn abandon(&mut self) {
        self.up.close();
        self.down.close();
    }

    /// Whether both directions are over, so that only the stream is left to close.
    pub fn is_over(&self) -> bool {
        self.up.state == State::Closed && self.down.state == State::Closed
    }

    /// What to wait for on the client's socket.
    pub fn interest(&self) -> Interest {
        Interest {
            read: self.up.state == State::Open && self.up.held.is_empty(),
            write: !self.down.held.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A client: what it will say (`None`: it ends), what it got, what it takes.
    #[derive(Default)]
    struct Person {
        says: VecDeque<Option<Vec<u8>>>,
        got: Vec<u8>,
        takes: usize,
        told_the_end: bool,
        broken: bool,
    }

    impl Local for Person {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.broken {
                return Err(ErrorKind::ConnectionReset.into());
            }
            match self.says.pop_front() {
                None => Err(ErrorKind::WouldBlock.into()),
                Some(None) => Ok(0),
                Some(Some(bytes)) => {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                }
            }
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.takes);
            if self.broken {
                return Err(ErrorKind::BrokenPipe.into());
            }
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.takes -= count;
            self.got.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn end_of_output(&mut self) {
            self.told_the_end = true;
        }
    }

    /// A stream whose packets have come already, with a window to write to.
    #[derive(Default)]
    struct Server {
        arrived: Vec<u8>,
        ended: bool,
        gone: bool,
        window: usize,
        got: Vec<u8>,
        got_eof: u32,
        /// Calls that answer `WouldBlock` first, as during a key exchange.
        busy: u32,
        lost: bool,
    }

    impl Server {
        fn ready(&mut self) -> io::Result<()> {
            if self.lost {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if self.busy > 0 {
                self.busy -= 1;
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(())
        }
    }

    impl Remote for Server {
        fn available(&self) -> usize {
            self.arrived.len()
        }
        fn at_end(&self) -> bool {
            self.ended && self.arrived.is_empty()
        }
        fn room(&self) -> usize {
            self.window
        }
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.ready()?;
            let count = buffer.len().min(self.arrived.len());
            buffer[..count].copy_from_slice(&self.arrived[..count]);
            self.arrived.drain(..count);
            Ok(count)
        }
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.ready()?;
            let count = bytes.len().min(self.window);
            self.window -= count;
            self.got.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn send_eof(&mut self) -> io::Result<()> {
            self.ready()?;
            self.got_eof += 1;
            Ok(())
        }
        fn hung_up(&mut self) -> io::Result<bool> {
            Ok(self.gone)
        }
        fn close(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn relay(person: Person, server: Server) -> Relay<Person, Server> {
        Relay::new(person, server)
    }

    const AMPLE: usize = 1 << 20;

    #[test]
    fn a_half_close_travels_each_way_by_itself() {
        let person = Person {
            says: [Some(b"ask".to_vec()), None].into(),
            takes: AMPLE,
            ..Person::default()
        };
        let server = Server {
            window: AMPLE,
            ..Server::default()
        };
        let mut relay = relay(person, server);
        let mut buffer = [0; 64];
        relay.carry_up(true, &mut buffer).unwrap();
        relay.carry_up(true, &mut buffer).unwrap();
        assert_eq!(
            (&relay.remote.got[..], relay.remote.got_eof),
            (&b"ask"[..], 1)
        );
        assert!(!relay.is_over() && !relay.local.told_the_end);
        // The answer comes after the client has ended its side.
        relay.remote.arrived = b"answer".to_vec();
        relay.remote.ended = true;
        relay.carry_down(&mut buffer).unwrap();
        assert_eq!(relay.local.got, b"answer");
        assert!(relay.local.told_the_end && relay.is_over());
        assert_eq!((relay.bytes_up, relay.bytes_down), (3, 6));
    }

    #[test]
    fn end_of_file_waits_for_the_last_byte() {
        let person = Person {
            says: [Some(b"0123456789".to_vec()), None].into(),
            ..Person::default()
        };
        let server = Server {
            window: 4,
            ..Server::default()
        };
        let mut relay = relay(person, server);
        let mut buffer = [0; 64];
        relay.carry_up(true, &mut buffer).unwrap();
        assert_eq!(relay.remote.got, b"0123");
        // Back-pressure: the client is not even listened to now.
        assert_eq!(relay.interest(), Interest::default());
        assert!(!relay.up_is_due());
        relay.remote.window = 3;
        assert!(relay.up_is_due());
        relay.carry_up(false, &mut buffer).unwrap();
        assert_eq!(
            (&relay.remote.got[..], relay.remote.got_eof),
            (&b"0123456"[..], 0)
        );
        relay.remote.window = 100;
        relay.carry_up(false, &mut buffer).unwrap();
        assert!(relay.interest().read);
        relay.carry_up(true, &mut buffer).unwrap();
        assert_eq!(
            (&relay.remote.got[..], relay.remote.got_eof),
            (&b"0123456789"[..], 1)
        );
    }

    #[test]
    fn a_client_that_does_not_read_stops_the_reading_too() {
        let server = Server {
            arrived: vec![7; 1000],
            ..Server::default()
        };
        let mut relay = relay(Person::default(), server);
        let mut buffer = [0; 64];
        relay.carry_down(&mut buffer).unwrap();
        assert_eq!(relay.remote.arrived.len(), 1000 - 64);
        assert!(!relay.down_is_due() && relay.interest().write);
        relay.local.takes = AMPLE;
        while relay.interest().write || relay.down_is_due() {
            relay.carry_down(&mut buffer).unwrap();
        }
        assert_eq!(relay.local.got, vec![7; 1000]);
    }

    #[test]
    fn a_busy_session_loses_nothing() {
        let person = Person {
            says: [Some(b"abc".to_vec()), None].into(),
            takes: AMPLE,
            ..Person::default()
        };
        let server = Server {
            window: AMPLE,
            busy: 5,
            ..Server::default()
        };
        let mut relay = relay(person, server);
        let mut buffer = [0; 64];
        for _ in 0..12 {
            relay.carry_up(true, &mut buffer).unwrap();
        }
        assert_eq!(
            (&relay.remote.got[..], relay.remote.got_eof),
            (&b"abc"[..], 1)
        );
    }

    #[test]
    fn a_broken_client_ends_the_relay_and_not_the_session() {
        for readable in [true, false] {
            let person = Person {
                broken: true,
                ..Person::default()
            };
            let server = Server {
                arrived: b"x".to_vec(),
                ..Server::default()
            };
            let mut relay = relay(person, server);
            let mut buffer = [0; 64];
            if readable {
                relay.carry_up(true, &mut buffer).unwrap();
            } else {
                relay.carry_down(&mut buffer).unwrap();
            }
            assert!(relay.is_over());
        }
    }

    #[test]
    fn a_lost_session_is_an_error() {
        let person = Person {
            says: [Some(b"x".to_vec())].into(),
            ..Person::default()
        };
        let server = Server {
            window: 1,
            lost: true,
            ..Server::default()
        };
        assert!(relay(person, server).carry_up(true, &mut [0; 8]).is_err());
    }

    /// A client that only writes would otherwise never learn that the server,
    /// which had ended its output before, is gone altogether.
    #[test]
    fn a_server_gone_both_ways_ends_the_relay() {
        let server = Server {
            ended: true,
            ..Server::default()
        };
        let mut relay = relay(Person::default(), server);
        relay.carry_down(&mut [0; 8]).unwrap();
        relay.notice_hang_up().unwrap();
        assert!(!relay.is_over());
        relay.remote.gone = true;
        relay.notice_hang_up().unwrap();
        assert!(relay.is_over());
    }
}
