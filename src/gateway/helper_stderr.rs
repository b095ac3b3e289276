//! What a helper says on stderr: all of it is read, the first and the last of it kept.
//!
//! Whoever has carried our bytes once may talk for as long as the tunnel lives, and
//! must not be held up by it, or be told that there is no room: so somebody reads
//! until it ends. Before the fork that is who waits for an attempt (`attempt`); then
//! a thread of its own for what carries libssh2, and for ssh the loop.

use super::ssh_stderr::GAP;
use crate::sys::{self, Interest};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes kept of the beginning, and of the end.
const PART: usize = 4096;
/// Bytes read in one go.
const CHUNK: usize = 4096;
/// No pipe or socket holds more than that many of them; one that is filled all the
/// while is not followed for ever.
const CHUNKS_IN_FLIGHT: usize = 64;

/// A helper's stderr, read by whoever has a hand free.
pub struct HelperStderr {
    from: File,
    words: Mutex<Words>,
}

impl HelperStderr {
    /// Reads from there, which nobody else does.
    pub fn new(from: impl Into<OwnedFd>) -> Arc<HelperStderr> {
        let from = File::from(from.into());
        Arc::new(HelperStderr { from, words: Mutex::default() })
    }

    /// Reads once; whether there was something to read.
    ///
    /// # Errors
    /// `UnexpectedEof`: the helper has ended, and all that it has started.
    pub fn read(&self) -> io::Result<bool> {
        let mut words = lock(&self.words);
        if !sys::poll_readable(&self.from, Duration::ZERO)? {
            return Ok(false);
        }
        let mut chunk = [0; CHUNK];
        match (&self.from).read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                words.add(&chunk[..count]);
                Ok(true)
            }
        }
    }

    /// Reads until `end` is readable, `limit` at most. Returns whether it is.
    pub fn read_until(&self, end: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            let fds = [(end, Interest::READ), (self.as_fd(), Interest::READ)];
            let [ended, speaks] = sys::wait_any(fds, Some(left))?;
            if ended || left.is_zero() {
                return Ok(ended);
            }
            if speaks && self.read().is_err() {
                return sys::poll_readable(end, limit.saturating_sub(begin.elapsed()));
            }
        }
    }

    /// Reads in a thread of its own until the helper ends. Where there is none to be
    /// had the helper may have to wait in the end, and the gateway is lost.
    pub fn read_in_the_background(self: &Arc<HelperStderr>) {
        let stderr = Arc::clone(self);
        let named = thread::Builder::new().name("helper".into());
        let _ = named.spawn(move || {
            let speaks = || sys::wait_any([(stderr.as_fd(), Interest::READ)], None);
            while speaks().is_ok() && stderr.read().is_ok() {}
        });
    }

    /// The first and the last that it has said so far, with [`GAP`] between them.
    pub fn text(&self) -> String {
        let mut reads = 0;
        while reads < CHUNKS_IN_FLIGHT && self.read().unwrap_or(false) {
            reads += 1;
        }
        self.heard()
    }

    /// The same of what has been read.
    pub fn heard(&self) -> String {
        lock(&self.words).text()
    }

    /// Forgets what has been read, and returns it.
    pub fn forget(&self) -> Words {
        std::mem::take(&mut lock(&self.words))
    }

    /// Takes [`HelperStderr::forget`] back.
    pub fn remember(&self, words: Words) {
        *lock(&self.words) = words;
    }
}

impl AsFd for HelperStderr {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// What has been read.
#[derive(Default)]
pub struct Words {
    first: Vec<u8>,
    last: VecDeque<u8>,
    /// Something between them is gone.
    has_gap: bool,
}

impl Words {
    fn add(&mut self, bytes: &[u8]) {
        let (first, last) = bytes.split_at(bytes.len().min(PART - self.first.len()));
        self.first.extend(first);
        self.last.extend(last);
        let excess = self.last.len().saturating_sub(PART);
        self.last.drain(..excess);
        self.has_gap |= excess > 0;
    }

    fn text(&self) -> String {
        let mut text = self.first.clone();
        text.extend(if self.has_gap { GAP } else { "" }.as_bytes());
        text.extend(&self.last);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// A panic leaves what is in it as good as it was.
fn lock(words: &Mutex<Words>) -> MutexGuard<'_, Words> {
    words.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// Goal: whatever it says, and in whatever pieces, the first and the last is kept,
    /// in the room of both.
    #[test]
    fn the_first_and_the_last() {
        for pieces in [1, 7, 4095, 4096, 4097, 100_000] {
            let said: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
            let mut words = Words::default();
            said.as_bytes().chunks(pieces).for_each(|piece| words.add(piece));
            let text = words.text();
            let (first, last) = text.split_once(GAP).expect("a gap");
            assert!(said.starts_with(first) && said.ends_with(last), "{pieces}");
            assert_eq!((first.len(), last.len()), (PART, PART), "{pieces}");
        }
        let all = "x".repeat(2 * PART);
        let mut words = Words::default();
        words.add(all.as_bytes());
        assert_eq!(words.text(), all);
    }

    /// Goal: who writes is never held up, and its end ends the reading.
    #[test]
    fn it_is_read_to_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (end, ends) = UnixStream::pair().unwrap();
        let stderr = HelperStderr::new(ours);
        stderr.read_in_the_background();
        let block = [b'z'; 65536];
        (0..200).for_each(|_| theirs.write_all(&block).unwrap());
        theirs.write_all(b"\nthe last").unwrap();
        drop(theirs);
        assert!(!stderr.read_until(end.as_fd(), Duration::from_millis(1)).unwrap());
        drop(ends);
        assert!(stderr.read_until(end.as_fd(), Duration::from_secs(60)).unwrap());
        let text = stderr.text();
        assert!(text.contains(GAP) && text.ends_with("z\nthe last"));
        assert_eq!(stderr.forget().text(), text);
        assert_eq!(stderr.heard(), "");
    }
}
