//! A channel of ssh's whose bytes licfwd carries: ssh has one end of a pair of sockets.
//!
//! ssh closes that end without a word, whether the gateway has refused the channel, the
//! license server has ended, or the session is lost. The control connection tells which,
//! a moment later; until then the end of the bytes is not passed on.

use super::forward_socket::ForwardSocket;
use super::mux::HandedClient;
use crate::gateway::{Channel, End, HandOver, OwnSocket};
use crate::sys::Event;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

/// Our end of the pair, and what is heard of ssh's.
pub struct RelayedClient {
    socket: ForwardSocket,
    handed: HandedClient,
    end: Option<End>,
}

impl RelayedClient {
    /// `ours` does not block; ssh has the other end.
    pub fn new(ours: UnixStream, handed: HandedClient) -> RelayedClient {
        RelayedClient { socket: ForwardSocket::new(ours), handed, end: None }
    }
}

impl Channel for RelayedClient {
    fn is_open(&self) -> bool {
        self.handed.is_open()
    }

    fn available(&self) -> usize {
        self.socket.available()
    }

    fn at_end(&self) -> bool {
        self.socket.at_end() && self.end == Some(End::Orderly)
    }

    fn room(&self) -> usize {
        self.socket.room()
    }

    /// The end of the bytes is none yet.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.socket.read(buffer)? {
            0 if !self.at_end() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn send_eof(&mut self) -> io::Result<()> {
        self.socket.send_eof()
    }

    fn hung_up(&mut self) -> io::Result<bool> {
        Ok(self.end == Some(End::Orderly))
    }

    fn close(&mut self) -> io::Result<()> {
        self.socket.close()
    }

    fn own_socket(&mut self) -> Option<&mut dyn OwnSocket> {
        Some(self)
    }
}

impl OwnSocket for RelayedClient {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    fn is_ready(&mut self, event: &Event) {
        self.socket.is_ready(event);
    }

    fn is_cut(&self) -> bool {
        self.socket.is_cut()
    }

    fn end_fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        Some((self.handed.fd(), self.end.is_none()))
    }

    fn end(&mut self) -> Option<End> {
        self.end = self.handed.end();
        self.end
    }
}
