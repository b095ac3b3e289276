//! A connected client's socket.

use crate::relay::Local;
use crate::sys;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A connected client.
#[derive(Debug)]
pub enum Client {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Client::Tcp(stream) => stream.as_fd(),
            Client::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Client {
    /// Whether the client has broken off while it waited in line.
    pub fn is_broken(&self) -> bool {
        match self {
            Client::Tcp(stream) => stream.take_error().is_ok_and(|e| e.is_some()),
            Client::Unix(stream) => stream.take_error().is_ok_and(|e| e.is_some()),
        }
    }

    /// Closes with a reset: the client learns at once that its connection broke,
    /// instead of taking what it got so far for the whole.
    pub fn reset(mut self) {
        self.break_off();
    }
}

impl Local for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.read(buffer),
            Client::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.write(bytes),
            Client::Unix(stream) => stream.write(bytes),
        }
    }

    fn end_of_output(&mut self) {
        let _ = match self {
            Client::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Client::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn has_it_all(&self) -> bool {
        match self {
            // The end of the stream counts as a byte, too.
            Client::Tcp(stream) => sys::unacknowledged(stream) <= 1,
            Client::Unix(_) => true,
        }
    }

    fn break_off(&mut self) {
        let _ = sys::reset_on_close(&*self);
    }
}
