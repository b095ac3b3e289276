//! The protocol of ssh's control socket (OpenSSH, PROTOCOL.mux).
//!
//! A channel to a license server takes two descriptors: both are the client's
//! socket, so that ssh carries its bytes alone. ssh only closes them, so licfwd
//! keeps a third, and passes the end on. ssh closes the control connection with
//! the channel, which ends as one of `ssh -W`: altogether when the license server
//! has ended its output.

use crate::gateway::{End, HandOver};
use crate::sys;
use crate::target::Destination;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

// PROTOCOL.mux, "Protocol numbers".
const HELLO: u32 = 1;
const VERSION: u32 = 4;
const OPEN_FORWARD: u32 = 0x1000_0006;
const NEW_STDIO_FORWARD: u32 = 0x1000_0008;
const OK: u32 = 0x8000_0001;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const SESSION_OPENED: u32 = 0x8000_0006;
const LOCAL_FORWARD: u32 = 1;
/// Stands for the port where a host is the path of a Unix socket.
const UNIX_SOCKET: u32 = -2_i32 as u32;
/// The number of our one request on a control connection.
const REQUEST: u32 = 1;

/// A control connection, and what has come over it that is not a whole message yet.
#[derive(Debug)]
struct Control {
    stream: UnixStream,
    heard: Vec<u8>,
}

impl Control {
    /// Connects to the ssh that listens at `path`, greets it and sends a request.
    fn request(path: &str, request: &[u8]) -> io::Result<Control> {
        let mut stream = sys::connect_own(path)?;
        stream.write_all(&greeting_and(request))?;
        Ok(Control { stream, heard: Vec::new() })
    }

    /// Reads what has come; false: and then the end.
    fn read(&mut self) -> bool {
        let mut chunk = [0; 256];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) if count > 0 => self.heard.extend_from_slice(&chunk[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

/// Has the ssh that listens at `path` listen on the Unix socket `listen`, and
/// forward to `to`, within `limit`.
///
/// # Errors
/// Those of [`sys::connect_own`]; `TimedOut`; ssh's own words.
pub fn forward(path: &str, listen: &str, to: &Destination, limit: Duration) -> io::Result<()> {
    let (host, port) = match to {
        Destination::Tcp { host, port } => (host, u32::from(*port)),
        Destination::Unix(path) => (path, UNIX_SOCKET),
        Destination::Web(_) => return Err(ErrorKind::NotFound.into()),
    };
    let mut request = words(&[OPEN_FORWARD, REQUEST, LOCAL_FORWARD]);
    for (place, port) in [(listen, UNIX_SOCKET), (host, port)] {
        request.extend(string(place));
        request.extend(words(&[port]));
    }
    let mut control = Control::request(path, &request)?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !sys::poll_readable(&control.stream, left)? {
            return Err(ErrorKind::TimedOut.into());
        }
        let open = control.read();
        while let Some(answer) = take_message(&mut control.heard) {
            match answer.first_chunk().map(|kind| u32::from_be_bytes(*kind)) {
                Some(OK) => return Ok(()),
                // Kind, number and length stand before the reason.
                Some(PERMISSION_DENIED | FAILURE) => {
                    let why = answer.get(12..).unwrap_or_default();
                    return Err(io::Error::other(String::from_utf8_lossy(why)));
                }
                _ => {}
            }
        }
        if !open {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A channel whose client is in ssh's hands.
#[derive(Debug)]
pub struct HandedClient {
    control: Control,
    sentinel: Arc<Sentinel>,
    /// The license server has taken the connection.
    opened: bool,
    end: Option<End>,
}

impl HandedClient {
    /// Asks the ssh that listens at `path` for a channel, and gives it the
    /// client's socket. Whether it is opened is told later.
    ///
    /// # Errors
    /// Those of [`sys::connect_own`] and [`sys::send_with_descriptor`].
    pub fn over(
        path: &str,
        sentinel: &Arc<Sentinel>,
        to: (&str, u16),
        client: BorrowedFd<'_>,
    ) -> io::Result<HandedClient> {
        let control = Control { stream: sys::connect_own(path)?, heard: Vec::new() };
        // Twice: its standard input and output.
        let request = greeting_and(&stdio_forward(to));
        sys::send_with_descriptor(&control.stream, &request, client, 2)?;
        Ok(HandedClient { control, sentinel: Arc::clone(sentinel), opened: false, end: None })
    }

    /// Why ssh has closed the control connection. A client must not take what it
    /// got for the whole when the gateway is lost.
    fn kind_of_end(&self) -> End {
        match self.opened {
            false => End::Refused,
            true if self.ssh_is_killed() || self.sentinel.has_ended() => End::Lost,
            true => End::Orderly,
        }
    }

    /// The kernel takes the memory from a process that has been killed, and with
    /// it the knowledge of its program, before it closes its files.
    fn ssh_is_killed(&self) -> bool {
        match sys::peer(&self.control.stream) {
            Ok(ssh) if ssh.process > 0 => {
                let program = fs::read_link(format!("/proc/{}/exe", ssh.process));
                program.is_err_and(|e| e.kind() == ErrorKind::NotFound)
            }
            // Of another namespace.
            _ => false,
        }
    }
}

impl HandOver for HandedClient {
    fn fd(&self) -> BorrowedFd<'_> {
        self.control.stream.as_fd()
    }

    fn end(&mut self) -> Option<End> {
        if self.end.is_none() {
            let open = self.control.read();
            while let Some(message) = take_message(&mut self.control.heard) {
                self.opened |= message.starts_with(&SESSION_OPENED.to_be_bytes());
            }
            if !open {
                self.end = Some(self.kind_of_end());
            }
        }
        self.end
    }

    fn is_open(&self) -> bool {
        self.opened
    }
}

/// A control connection that asks for nothing, older than all channels.
#[derive(Debug)]
pub struct Sentinel(UnixStream);

impl Sentinel {
    /// Connects to the ssh that listens at `path`.
    ///
    /// # Errors
    /// Those of [`sys::connect_own`].
    pub fn over(path: &str) -> io::Result<Sentinel> {
        sys::connect_own(path).map(Sentinel)
    }

    /// An ssh that ends by itself frees its channels in their order: this one
    /// before all others.
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

/// What a control connection begins with, in one piece.
fn greeting_and(request: &[u8]) -> Vec<u8> {
    [message(&words(&[HELLO, VERSION])), message(request)].concat()
}

/// The request for a channel between two descriptors and a license server.
fn stdio_forward((host, port): (&str, u16)) -> Vec<u8> {
    let mut request = words(&[NEW_STDIO_FORWARD, REQUEST]);
    // Reserved.
    request.extend(string(""));
    request.extend(string(host));
    request.extend(words(&[port.into()]));
    request
}

/// The first message, if it is all there.
fn take_message(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (size, rest) = heard.split_first_chunk()?;
    let size = u32::from_be_bytes(*size) as usize;
    let message = rest.get(..size)?.to_owned();
    heard.drain(..4 + size);
    Some(message)
}

/// A message, and likewise a string, has its length before it.
fn message(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

fn string(text: &str) -> Vec<u8> {
    message(text.as_bytes())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_the_protocol_has_it() {
        let channel = b"\0\0\0\x16\x10\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\x02gw\0\0\x69\x78";
        assert_eq!(message(&stdio_forward(("gw", 27000))), channel);
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
