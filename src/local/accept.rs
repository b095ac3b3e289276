//! Lets clients in: listens at the doors and asks who comes.

use super::client::Waiting;
use super::listener::Door;
use super::owner::{Access, Verdict};
use crate::log::Log;
use crate::sys::{Epoll, Interest, errno};
use crate::target::Destination;
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long accepting pauses when the system is out of descriptors.
const PAUSE: Duration = Duration::from_secs(1);
/// Clients accepted from one socket before others have their turn.
const BATCH: usize = 64;
/// Users and hosts whose refusal is remembered, and so logged once.
const REMEMBERED: usize = 1000;

/// The doors, and who may enter.
pub struct Reception {
    doors: Vec<Door>,
    access: Access,
    log: Arc<Log>,
    /// Token of door 0's socket 0 in epoll; the door stands above the socket.
    tokens: u64,
    /// Nobody is accepted until then.
    paused: Option<Instant>,
    refused: HashSet<String>,
}

impl Reception {
    /// Listens at nothing yet. A socket's token is `tokens + (door << 32) + socket`.
    pub fn new(doors: Vec<Door>, access: Access, tokens: u64, log: Arc<Log>) -> Reception {
        Reception {
            doors,
            access,
            log,
            tokens,
            paused: None,
            refused: HashSet::new(),
        }
    }

    /// Where a door leads.
    pub fn leads_to(&self, door: usize) -> &Destination {
        &self.doors[door].to
    }

    /// Listens.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn open(&self, epoll: &Epoll) -> io::Result<()> {
        let read = Interest {
            read: true,
            write: false,
        };
        for (d, door) in self.doors.iter().enumerate() {
            for (s, socket) in door.sockets.iter().enumerate() {
                epoll.add(socket, self.tokens + ((d as u64) << 32) + s as u64, read)?;
            }
        }
        Ok(())
    }

    fn close(&self, epoll: &Epoll) {
        for socket in self.doors.iter().flat_map(|door| &door.sockets) {
            epoll.remove(socket);
        }
    }

    /// Accepts who has come to that socket; strangers are closed without a byte.
    pub fn welcome(&mut self, door: usize, socket: usize, epoll: &Epoll) -> Vec<Waiting> {
        let mut welcome = Vec::new();
        for _ in 0..BATCH {
            let (client, addresses) = match self.doors[door].sockets[socket].accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if errno::out_of_something(&e) => {
                    self.log.event(format_args!(
                        "cannot accept clients: {e}; trying again in {} s",
                        PAUSE.as_secs()
                    ));
                    self.close(epoll);
                    self.paused = Some(Instant::now() + PAUSE);
                    break;
                }
                // This client has gone already.
                Err(_) => continue,
            };
            let who = match addresses {
                Some((peer, _)) => peer.to_string(),
                None => "a Unix socket".into(),
            };
            let verdict = match addresses {
                Some((peer, ours)) => self.access.judge(peer, ours),
                None => Verdict::Welcome,
            };
            match verdict {
                Verdict::Welcome => welcome.push(Waiting {
                    client,
                    door,
                    since: Instant::now(),
                    who,
                }),
                Verdict::Gone => self
                    .log
                    .detail(format_args!("client {who}: gone before it was served")),
                Verdict::Stranger(uid) => self.refuse(format!("user {uid} of this node")),
                Verdict::Outsider(ip) => self.refuse(format!("host {ip}")),
            }
        }
        welcome
    }

    fn refuse(&mut self, whom: String) {
        if self.refused.len() < REMEMBERED && self.refused.insert(whom.clone()) {
            self.log.event(format_args!(
                "refused a client: {whom} may not use this tunnel"
            ));
        }
    }

    /// How long until [`Reception::carry_on`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        let until = self.paused?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Listens again after a pause.
    pub fn carry_on(&mut self, epoll: &Epoll) {
        if self.due() == Some(Duration::ZERO) {
            self.paused = None;
            let _ = self.open(epoll);
        }
    }
}
