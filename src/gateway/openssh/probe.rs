//! Asks through ssh whether a license server answers, before the session is driven.

use super::session::OpensshSession;
use crate::error::cause;
use crate::gateway::ssh_stderr::why_not_open;
use crate::gateway::{Answer, HandedOver};
use crate::sys;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

impl OpensshSession {
    /// Has ssh open a channel, within `limit`, for a client of our own.
    pub fn probe(&mut self, host: &str, port: u16, limit: Duration) -> Answer {
        if self.output.read().is_err() {
            return Answer::Lost(self.output.why_it_ended());
        }
        self.output.text.clear();
        let deadline = Instant::now() + limit;
        let asked = UnixStream::pair().and_then(|(ours, theirs)| {
            let channel = self.hand_over(host, port, theirs.as_fd())?;
            Ok((ours, channel))
        });
        let (_client, mut channel) = match asked {
            Ok(asked) => asked,
            Err(e) => return Answer::Lost(format!("ssh's control socket: {}", cause(&e))),
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if matches!(sys::poll_readable(channel.fd(), left), Ok(false)) {
                return Answer::Late { spent: false };
            }
            let end = channel.end();
            if channel.is_open() {
                return Answer::Yes;
            }
            if end.is_some() {
                break;
            }
        }
        let heard = self.output.read();
        match (why_not_open(&self.output.text), heard) {
            (Some(why), _) if why.contains("prohibited") => Answer::Forbidden,
            (Some(why), _) => Answer::No(why.to_lowercase()),
            // The end of the output may come a little later than that of the master.
            (None, _) => Answer::Lost(self.output.why_it_ended()),
        }
    }
}
