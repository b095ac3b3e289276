//! A connected client's socket.

use crate::sys;
use crate::target::Destination;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Instant;

/// The client's side.
pub trait Local {
    /// Reads what is there; `WouldBlock` when nothing is.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits; `WouldBlock` when nothing does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Tells the client that no more will come.
    fn end_of_output(&mut self);
    /// Whether the other end's kernel has all that was written. What it has not
    /// is lost when the client speaks to a socket that is closed.
    fn has_it_all(&self) -> bool;
    /// Lets the client's connection break off, instead of end, when it is closed.
    fn break_off(&mut self);
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    /// std's TcpStream does with a Unix socket, too, all that is done here.
    pub socket: TcpStream,
    /// Its address and ours, where it came over TCP.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Who it is, for the log.
    pub who: String,
    /// Which listener it came through, as an index.
    pub listener: usize,
    /// Where that led when it came; where it led to web servers, which of them it has
    /// asked for, once it has.
    pub to: Destination,
    /// What it has said behind its request for a web server, until that is passed on;
    /// `None`: it has asked for none.
    pub asked: Option<Vec<u8>>,
    /// Counts it among that listener's clients.
    pub _presence: Presence,
}

/// A client that waits for its channel.
#[derive(Debug)]
pub struct Waiting {
    /// The client.
    pub client: Client,
    /// Since when it waits.
    pub since: Instant,
}

impl Waiting {
    /// The same client, for another destination, as if it came now.
    pub fn to(mut self, to: Destination) -> Waiting {
        self.client.to = to;
        Waiting { client: self.client, since: Instant::now() }
    }
}

/// How many clients a listener has, and when that last changed.
#[derive(Clone, Debug)]
pub struct Usage(Rc<Cell<(usize, Instant)>>);

/// Held by each client of a listener.
#[derive(Debug)]
pub struct Presence(Usage);

impl Usage {
    /// Nobody yet.
    pub fn new() -> Usage {
        Usage(Rc::new(Cell::new((0, Instant::now()))))
    }

    /// One more.
    pub fn enter(&self) -> Presence {
        self.0.set((self.clients() + 1, Instant::now()));
        Presence(self.clone())
    }

    /// Somebody has been told of it, and may come.
    pub fn expect(&self) {
        self.0.set((self.clients(), Instant::now()));
    }

    /// How many there are.
    pub fn clients(&self) -> usize {
        self.0.get().0
    }

    /// Since when nobody has come, gone, or been told.
    pub fn since(&self) -> Instant {
        self.0.get().1
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.0.set((self.0.clients() - 1, Instant::now()));
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// Whether the client has broken off while it waited in the queue.
    pub fn is_broken(&self) -> bool {
        self.socket.take_error().is_ok_and(|e| e.is_some())
    }

    /// Closes with a reset: the client learns at once that its connection broke,
    /// instead of taking what it got so far for the whole.
    pub fn reset(mut self) {
        self.break_off();
    }
}

impl Local for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn end_of_output(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn has_it_all(&self) -> bool {
        // The end of the stream counts as a byte, too.
        self.ends.is_none() || sys::unacknowledged(&self.socket) <= 1
    }

    fn break_off(&mut self) {
        let _ = sys::reset_on_close(&self.socket);
    }
}
