//! A stream to a license server that is a socket of ssh's.

use crate::gateway::session::Remote;
use crate::sys::Event;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The socket, and what is known of it since the last event.
pub struct Socket {
    stream: UnixStream,
    readable: bool,
    writable: bool,
    /// End of file has been read.
    ended: bool,
    /// ssh takes no more: the license server is gone. What it has said may still
    /// be on its way, in ssh's own buffers.
    deaf: bool,
    /// ssh has closed its side altogether. There may be something left to read,
    /// but no event tells more.
    cut: bool,
}

impl Socket {
    /// A connected socket that does not block.
    pub fn new(stream: UnixStream) -> Socket {
        Socket {
            stream,
            readable: false,
            writable: true,
            ended: false,
            deaf: false,
            cut: false,
        }
    }
}

/// No error of this socket is one of the connection to the gateway: what breaks
/// here is one stream.
impl Remote for Socket {
    fn available(&self) -> usize {
        usize::from(self.readable)
    }

    fn at_end(&self) -> bool {
        self.ended
    }

    fn room(&self) -> usize {
        match self.writable {
            true => usize::MAX,
            false => 0,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer) {
            Ok(count) if count > 0 => {
                self.readable = self.cut || count == buffer.len();
                Ok(count)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.readable = false;
                Err(ErrorKind::WouldBlock.into())
            }
            Ok(_) | Err(_) => {
                self.readable = false;
                self.ended = true;
                Ok(0)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.deaf {
            return Ok(bytes.len());
        }
        match self.stream.write(bytes) {
            Ok(count) => Ok(count),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.writable = false;
                Err(ErrorKind::WouldBlock.into())
            }
            // As ssh does with its own clients: nobody is there to hear it, but
            // the other direction goes on to its end, of which an event will tell.
            Err(_) => {
                self.deaf = true;
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

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }

    fn is_cut(&self) -> bool {
        self.cut
    }

    fn is_ready(&mut self, event: &Event) {
        self.cut |= event.hung_up();
        self.readable |= event.readable() && !self.ended;
        self.writable |= event.writable() && !self.cut;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_license_server_that_has_gone_is_heard_to_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut socket = Socket::new(ours);
        // What ssh does at the end of a channel whose bytes have not all left.
        theirs.shutdown(Shutdown::Read).unwrap();
        assert_eq!(socket.write(b"anybody there").unwrap(), 13);
        assert!(!socket.is_cut() && socket.room() > 0);
        socket.readable = true;
        let none = socket.read(&mut [0; 9]).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::WouldBlock);
        theirs.write_all(b"the rest").unwrap();
        drop(theirs);
        socket.readable = true;
        assert_eq!(socket.read(&mut [0; 9]).unwrap(), 8);
        socket.readable = true;
        assert_eq!(socket.read(&mut [0; 9]).unwrap(), 0);
        assert!(socket.at_end());
    }
}
