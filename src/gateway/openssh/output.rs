//! What a running ssh says, the last of it.

use crate::gateway::ssh_stderr::{summary, why_not_open};
use crate::sys;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Bytes that are remembered, and reads in one go: a program that carries ssh's
/// connection may talk for ever.
const MAX_REMEMBERED: usize = 4096;
const READS_PER_TURN: usize = 2;

/// ssh's stdout and stderr, in one; its end is ssh's.
pub struct Output {
    stream: UnixStream,
    /// The last of it.
    pub text: String,
}

impl Output {
    /// # Errors
    /// None that a caller could cause.
    pub fn new(stream: UnixStream) -> io::Result<Output> {
        stream.set_nonblocking(true)?;
        let text = String::new();
        Ok(Output { stream, text })
    }

    /// Whether there is something to read, or the end, within `limit`.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        sys::poll_readable(&self.stream, limit)
    }

    /// Reads what ssh has said.
    ///
    /// # Errors
    /// It has ended.
    pub fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1024];
        for _ in 0..READS_PER_TURN {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.text += &String::from_utf8_lossy(&chunk[..count]);
                    let mut excess = self.text.len().saturating_sub(MAX_REMEMBERED);
                    while !self.text.is_char_boundary(excess) {
                        excess += 1;
                    }
                    self.text.drain(..excess);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The same for one who has heard all that came before. Returns what is new.
    ///
    /// # Errors
    /// It has ended. What it said last is kept: why it ended may have been said before.
    pub fn read_on(&mut self) -> io::Result<Option<String>> {
        let before = std::mem::take(&mut self.text);
        let heard = self.read();
        let new = match self.text.is_empty() {
            true => {
                self.text = before;
                None
            }
            false => Some(summary(&self.text)),
        };
        heard.map(|()| new)
    }

    /// Why the last channel was not opened, told once.
    pub fn take_open_failure(&mut self) -> Option<String> {
        let why = why_not_open(&self.text)?.to_lowercase();
        self.text.clear();
        Some(why)
    }

    /// Why it has ended, in its own words.
    pub fn why_it_ended(&self) -> String {
        match summary(&self.text) {
            said if said.is_empty() => "it has ended without a word".to_owned(),
            said => said,
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
