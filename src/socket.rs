//! A stream to a license server that is a socket of ssh's.

use crate::relay::Remote;
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
        match self.stream.write(bytes) {
            Ok(count) => Ok(count),
            Err(e) => {
                self.writable = false;
                let passing = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
                if !passing {
                    self.cut = true;
                    self.readable = !self.ended;
                }
                Err(ErrorKind::WouldBlock.into())
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
