//! Asks through libssh2 whether a license server answers, before the session is driven.

use super::login::Authenticated;
use crate::auth::libssh2_error::{CHANNEL_FAILURE, EAGAIN};
use crate::gateway::Answer;
use crate::sys::{self, Interest};
use ssh2::{BlockDirections, Channel};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

impl Authenticated {
    /// Opens a channel and closes it again, within `limit`.
    pub fn probe(&self, host: &str, port: u16, limit: Duration) -> Answer {
        match self.open(host, port, limit) {
            Ok(mut channel) => {
                let _ = channel.close();
                Answer::Yes
            }
            Err(e) => match e.code() {
                CHANNEL_FAILURE if e.message().contains("prohibited") => Answer::Forbidden,
                CHANNEL_FAILURE => {
                    Answer::No("connection refused, or its name is unknown there".into())
                }
                // libssh2 cannot take the question back.
                EAGAIN => Answer::Late { spent: true },
                _ => Answer::Lost(e.message().to_owned()),
            },
        }
    }

    /// `EAGAIN`: no answer within `limit`. Not left to libssh2's own waiting,
    /// because sshd holds the answer back until its greeting before it is
    /// acknowledged (Nagle), which the kernel puts off for 40 ms.
    fn open(&self, host: &str, port: u16, limit: Duration) -> Result<Channel, ssh2::Error> {
        let end = Instant::now() + limit;
        self.session.set_blocking(false);
        let opened = loop {
            let opened = self.session.channel_direct_tcpip(host, port, None);
            let left = end.saturating_duration_since(Instant::now());
            match &opened {
                Err(e) if e.code() == EAGAIN && !left.is_zero() => {}
                _ => break opened,
            }
            let write = self.session.block_directions() != BlockDirections::Inbound;
            let interest = Interest { read: true, write };
            sys::acknowledge(&self.socket);
            // An error shows in the next call.
            let _ = sys::wait_any([(self.socket.as_fd(), interest)], Some(left));
        };
        self.session.set_blocking(true);
        opened
    }
}
