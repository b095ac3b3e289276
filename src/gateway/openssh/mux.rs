//! Hands a client's socket over to ssh, which then carries its bytes alone.
//!
//! The protocol of ssh's control socket (OpenSSH, PROTOCOL.mux) takes two
//! descriptors for a stream to a license server: both are the client's socket.
//! ssh only closes them, so licfwd keeps a third, and passes the end on. ssh
//! closes the control connection with the stream, which ends as one of `ssh -W`:
//! altogether when the license server has ended its output.

use crate::gateway::session::Remote;
use crate::sys::{self, Event};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

// PROTOCOL.mux, "Protocol numbers".
const HELLO: u32 = 1;
const VERSION: u32 = 4;
const NEW_STDIO_FWD: u32 = 0x1000_0008;
const SESSION_OPENED: u32 = 0x8000_0006;

/// A stream whose client is in ssh's hands.
#[derive(Debug)]
pub struct Handed {
    control: UnixStream,
    /// What has come over it and is not a whole message yet.
    heard: Vec<u8>,
    watch: Arc<Watch>,
    /// The license server has taken the connection.
    opened: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The stream's own.
    Own,
    /// It was not to be had.
    Refused,
    /// That of ssh, of which its wire will tell.
    Ssh,
}

impl Handed {
    /// Asks the ssh that listens at `path` for a stream, and gives it the
    /// client's socket. Whether it is opened is told later.
    ///
    /// # Errors
    /// Those of [`sys::connect_unix`] and [`sys::send_descriptor`].
    pub fn over(
        path: &str,
        watch: &Arc<Watch>,
        to: (&str, u16),
        client: BorrowedFd<'_>,
    ) -> io::Result<Handed> {
        let mut control = sys::connect_unix(path)?;
        control.write_all(&request(to))?;
        // Its standard input and output.
        sys::send_descriptor(&control, client)?;
        sys::send_descriptor(&control, client)?;
        Ok(Handed {
            control,
            heard: Vec::new(),
            watch: Arc::clone(watch),
            opened: false,
            end: None,
        })
    }

    /// Whether the license server has taken the connection.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Reads what ssh says over the control connection.
    pub fn listen(&mut self) {
        let mut chunk = [0; 256];
        while self.end.is_none() {
            match self.control.read(&mut chunk) {
                Ok(count) if count > 0 => self.heard.extend_from_slice(&chunk[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.end = Some(self.kind_of_end()),
            }
            while let Some(message) = take_message(&mut self.heard) {
                self.opened |= message.starts_with(&SESSION_OPENED.to_be_bytes());
            }
        }
    }

    /// Why ssh has closed the control connection. A client must not take what it
    /// got for the whole when the gateway is lost.
    fn kind_of_end(&self) -> End {
        match self.opened {
            false => End::Refused,
            true if self.ssh_is_killed() || self.watch.has_ended() => End::Ssh,
            true => End::Own,
        }
    }

    /// The kernel takes the memory from a process that has been killed, and with
    /// it the knowledge of its program, before it closes its files.
    fn ssh_is_killed(&self) -> bool {
        match sys::peer_process(&self.control) {
            Ok(pid) if pid > 0 => {
                let program = fs::read_link(format!("/proc/{pid}/exe"));
                program.is_err_and(|e| e.kind() == ErrorKind::NotFound)
            }
            // Of another namespace.
            _ => false,
        }
    }
}

/// A control connection that asks for nothing, older than all streams.
#[derive(Debug)]
pub struct Watch(UnixStream);

impl Watch {
    /// Connects to the ssh that listens at `path`.
    ///
    /// # Errors
    /// Those of [`sys::connect_unix`].
    pub fn over(path: &str) -> io::Result<Watch> {
        sys::connect_unix(path).map(Watch)
    }

    /// An ssh that ends by itself frees its channels in their order: this one
    /// before all streams.
    fn has_ended(&self) -> bool {
        let mut greeting = [0; 64];
        loop {
            match (&self.0).read(&mut greeting) {
                Ok(count) if count > 0 => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return true,
            }
        }
    }
}

/// The first message, if it is all there.
fn take_message(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (size, rest) = heard.split_first_chunk()?;
    let size = u32::from_be_bytes(*size) as usize;
    let message = rest.get(..size)?.to_owned();
    heard.drain(..4 + size);
    Some(message)
}

/// Our greeting and the request for a stream.
fn request((host, port): (&str, u16)) -> Vec<u8> {
    // Request number 1, an empty reserved string, and the host.
    let mut stream = words(&[NEW_STDIO_FWD, 1, 0, host.len() as u32]);
    stream.extend(host.as_bytes());
    stream.extend(words(&[port.into()]));
    let mut all = words(&[8, HELLO, VERSION, stream.len() as u32]);
    all.extend(stream);
    all
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// There is nothing to carry; the relay only learns of the ends.
impl Remote for Handed {
    fn available(&self) -> usize {
        0
    }

    fn at_end(&self) -> bool {
        self.end == Some(End::Own)
    }

    /// What a client says after the end goes nowhere.
    fn room(&self) -> usize {
        match self.end {
            Some(_) => usize::MAX,
            None => 0,
        }
    }

    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.end {
            Some(_) => Ok(bytes.len()),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn send_eof(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn hung_up(&mut self) -> io::Result<bool> {
        Ok(self.is_cut())
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn has_the_client(&self) -> bool {
        true
    }

    fn is_refused(&self) -> bool {
        self.end == Some(End::Refused)
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.control.as_fd())
    }

    fn is_cut(&self) -> bool {
        self.end.is_some()
    }

    fn is_ready(&mut self, _: &Event) {
        self.listen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_the_protocol_has_it() {
        let greeting = b"\0\0\0\x08\0\0\0\x01\0\0\0\x04";
        let stream = b"\0\0\0\x16\x10\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\x02gw\0\0\x69\x78";
        assert_eq!(request(("gw", 27000)), [&greeting[..], stream].concat());
    }

    #[test]
    fn messages_may_come_in_pieces() {
        let mut heard = Vec::new();
        let mut messages = Vec::new();
        for byte in b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01x" {
            heard.push(*byte);
            messages.extend(take_message(&mut heard));
        }
        assert_eq!(messages, [&b"abc"[..], b"", b"x"]);
    }
}
