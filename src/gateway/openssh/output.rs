//! What a running ssh says, and what follows from that.

use crate::gateway::helper_stderr::HelperStderr;
use crate::gateway::ssh_stderr::{summary, why_not_open};
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Reads in one go: a program that carries ssh's connection may talk for ever.
const READS_PER_TURN: usize = 8;

/// ssh's stdout and stderr, in one; its end is ssh's.
pub struct Output(Arc<HelperStderr>);

impl Output {
    /// Reads from there.
    pub fn new(stream: UnixStream) -> Output {
        Output(HelperStderr::new(stream))
    }

    /// Where it comes from.
    pub fn stderr(&self) -> &Arc<HelperStderr> {
        &self.0
    }

    /// The first and the last that has been read.
    pub fn text(&self) -> String {
        self.0.heard()
    }

    /// Whether there is something to read, or the end, within `limit`.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        sys::poll_readable(self, limit)
    }

    /// Reads what ssh has said.
    ///
    /// # Errors
    /// It has ended.
    pub fn read(&self) -> io::Result<()> {
        for _ in 0..READS_PER_TURN {
            if !self.0.read()? {
                break;
            }
        }
        Ok(())
    }

    /// The same for one who has heard all that came before. Returns what is new.
    ///
    /// # Errors
    /// It has ended. What it said last is kept: why it ended may have been said before.
    pub fn read_on(&self) -> io::Result<Option<String>> {
        let before = self.0.forget();
        let heard = self.read();
        let text = self.text();
        if text.is_empty() {
            self.0.remember(before);
        }
        heard.map(|()| (!text.is_empty()).then(|| summary(&text)))
    }

    /// Why channels were not opened, of what has been read, in their order.
    pub fn open_failures(&self) -> Vec<String> {
        why_not_open(&self.text()).map(str::to_lowercase).collect()
    }

    /// Why it has ended, in its own words.
    pub fn why_it_ended(&self) -> String {
        match summary(&self.text()) {
            said if said.is_empty() => "it has ended without a word".to_owned(),
            said => said,
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
