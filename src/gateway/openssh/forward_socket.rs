//! A channel to where `-L` leads that is a socket of ssh's.

use crate::gateway::{Channel, OwnSocket};
use crate::sys::Event;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The socket, and what is known of it since the last event.
pub struct ForwardSocket {
    stream: UnixStream,
    reading: Reading,
    writing: Writing,
    /// ssh has closed its side altogether. There may be something left to read,
    /// but no event tells more.
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Nothing until the next event.
    Empty,
    /// Something, or the end.
    Ready,
    /// The end has been read.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// Nothing until the next event.
    Full,
    Room,
    /// ssh takes no more: the license server is gone. What it has said may still
    /// be on its way, in ssh's own buffers.
    Deaf,
}

impl ForwardSocket {
    /// A connected socket that does not block.
    pub fn new(stream: UnixStream) -> ForwardSocket {
        ForwardSocket { stream, reading: Reading::Empty, writing: Writing::Room, cut: false }
    }
}

/// No error of this socket is one of the session: what breaks here is one channel.
impl Channel for ForwardSocket {
    fn available(&self) -> usize {
        usize::from(self.reading == Reading::Ready)
    }

    fn at_end(&self) -> bool {
        self.reading == Reading::Ended
    }

    fn room(&self) -> usize {
        match self.writing {
            Writing::Full => 0,
            Writing::Room | Writing::Deaf => usize::MAX,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer) {
            Ok(count) if count > 0 => {
                if !self.cut && count < buffer.len() {
                    self.reading = Reading::Empty;
                }
                Ok(count)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.reading = Reading::Empty;
                Err(ErrorKind::WouldBlock.into())
            }
            Ok(_) | Err(_) => {
                self.reading = Reading::Ended;
                Ok(0)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.writing == Writing::Deaf {
            return Ok(bytes.len());
        }
        match self.stream.write(bytes) {
            Ok(count) => Ok(count),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.writing = Writing::Full;
                Err(ErrorKind::WouldBlock.into())
            }
            // As ssh does with its own clients: nobody is there to hear it, but
            // the other direction goes on to its end, of which an event will tell.
            Err(_) => {
                self.writing = Writing::Deaf;
                Ok(bytes.len())
            }
        }
    }

    fn send_eof(&mut self) -> io::Result<()> {
        // Already cut: then nobody is there to be told.
        let _ = self.stream.shutdown(Shutdown::Write);
        Ok(())
    }

    fn hung_up(&mut self) -> io::Result<bool> {
        Ok(self.cut)
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn own_socket(&mut self) -> Option<&mut dyn OwnSocket> {
        Some(self)
    }
}

impl OwnSocket for ForwardSocket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn is_ready(&mut self, event: &Event) {
        self.cut |= event.hung_up();
        if event.readable() && self.reading == Reading::Empty {
            self.reading = Reading::Ready;
        }
        if event.writable() && self.writing == Writing::Full {
            self.writing = if self.cut { Writing::Deaf } else { Writing::Room };
        }
    }

    fn is_cut(&self) -> bool {
        self.cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_license_server_that_has_gone_is_heard_to_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut socket = ForwardSocket::new(ours);
        // What ssh does at the end of a channel whose bytes have not all left.
        theirs.shutdown(Shutdown::Read).unwrap();
        assert_eq!(socket.write(b"anybody there").unwrap(), 13);
        assert!(!socket.is_cut() && socket.room() > 0);
        socket.reading = Reading::Ready;
        let none = socket.read(&mut [0; 9]).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::WouldBlock);
        theirs.write_all(b"the rest").unwrap();
        drop(theirs);
        socket.reading = Reading::Ready;
        assert_eq!(socket.read(&mut [0; 9]).unwrap(), 8);
        socket.reading = Reading::Ready;
        assert_eq!(socket.read(&mut [0; 9]).unwrap(), 0);
        assert!(socket.at_end());
    }
}
