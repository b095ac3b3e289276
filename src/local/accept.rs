//! Lets clients in: listens at the listeners and asks who comes.

use super::client::{Client, Usage, Waiting};
use super::listener::Listener;
use super::owner::{Access, Admission};
use crate::error::cause;
use crate::log::Log;
use crate::sys::{Epoll, Interest, errno};
use crate::target::Destination;
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long accepting pauses when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Clients accepted from one socket before others have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Users and hosts whose refusal is remembered, and so logged once.
const MAX_REFUSED_REMEMBERED: usize = 1000;

/// How often clients that are gone are spoken of.
const GONE_INTERVAL: Duration = Duration::from_secs(60);

/// The listeners, and who may enter.
pub struct Acceptor {
    listeners: Vec<Listener>,
    access: Access,
    log: Arc<Log>,
    /// What epoll calls a listener's socket.
    token: fn(usize, usize) -> u64,
    /// Nobody is accepted until then.
    paused: Option<Instant>,
    refused: HashSet<String>,
    /// When a client was last said to be gone, and how many have been since.
    gone: Option<(Instant, usize)>,
}

impl Acceptor {
    /// Listens at nothing yet. `token` is what epoll shall call a socket of a
    /// listener, both given as indices.
    pub fn new(
        listeners: Vec<Listener>,
        access: Access,
        token: fn(usize, usize) -> u64,
        log: Arc<Log>,
    ) -> Acceptor {
        Acceptor {
            listeners,
            access,
            log,
            token,
            paused: None,
            refused: HashSet::new(),
            gone: None,
        }
    }

    /// From now on a listener leads there.
    pub fn lead(&mut self, listener: usize, to: Destination) {
        self.listeners[listener].to = to;
    }

    /// All of them.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// How many clients a listener has.
    pub fn usage(&self, listener: usize) -> &Usage {
        &self.listeners[listener].usage
    }

    /// Listens at one more. Returns its index.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn add(&mut self, listener: Listener, epoll: &Epoll) -> io::Result<usize> {
        let number = self.listeners.len();
        if self.paused.is_none() {
            self.listen_at(number, &listener, epoll)?;
        }
        self.listeners.push(listener);
        Ok(number)
    }

    /// Listens.
    pub fn listen(&self, epoll: &Epoll) -> io::Result<()> {
        let mut all = self.listeners.iter().enumerate();
        all.try_for_each(|(number, listener)| self.listen_at(number, listener, epoll))
    }

    fn listen_at(&self, number: usize, listener: &Listener, epoll: &Epoll) -> io::Result<()> {
        let mut sockets = listener.sockets.iter().enumerate();
        sockets.try_for_each(|(n, it)| epoll.add(it, (self.token)(number, n), Interest::READ))
    }

    /// Accepts who has come to that socket, `room` clients at most; strangers are closed
    /// without a byte.
    pub fn accept(
        &mut self,
        listener: usize,
        socket: usize,
        room: usize,
        epoll: &Epoll,
    ) -> Vec<Waiting> {
        let mut accepted = Vec::new();
        if room == 0 {
            self.pause("the limit of open files allows no more", epoll);
        }
        for _ in 0..ACCEPTS_PER_TURN.min(room) {
            let from = &self.listeners[listener];
            let (socket, ends) = match from.sockets[socket].accept() {
                Ok(client) => client,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if errno::out_of_something(&e) => {
                    self.pause(&cause(&e), epoll);
                    break;
                }
                // This client has gone already.
                Err(_) => continue,
            };
            let (who, admission) = match ends {
                Some((peer, ours)) => (peer.to_string(), self.access.admit(peer, ours)),
                None => ("a Unix socket".into(), Admission::Welcome),
            };
            match admission {
                // Its port may be another's by now, who has been asked about instead.
                Admission::Welcome if socket.take_error().is_ok_and(|e| e.is_some()) => {
                    self.tell_gone(&who);
                }
                Admission::Welcome => {
                    let (to, _presence) = (from.to.clone(), from.usage.enter());
                    let asked = None;
                    let client = Client { socket, ends, who, listener, to, asked, _presence };
                    accepted.push(Waiting { client, since: Instant::now() })
                }
                Admission::Gone => self.tell_gone(&who),
                Admission::Stranger(uid) => self.refuse(format!("user {uid} of this node")),
                Admission::Outsider(ip) => self.refuse(format!("host {ip}")),
            }
        }
        accepted
    }

    /// Those who come meanwhile wait in the kernel.
    fn pause(&mut self, why: &str, epoll: &Epoll) {
        let pause = ACCEPT_PAUSE.as_secs();
        self.log.event(format_args!("cannot accept clients: {why}; trying again in {pause} s"));
        let all = self.listeners.iter().flat_map(|listener| &listener.sockets);
        all.for_each(|socket| epoll.remove(socket));
        self.paused = Some(Instant::now() + ACCEPT_PAUSE);
    }

    /// Its process closes a connection faster than anybody can be asked about it: of a
    /// shell's `echo x >/dev/tcp/...` 68 to 84 % are gone, on two cores. A loop that does
    /// nothing but wait, accept and ask lost 10 to 40 %, four threads of that kind 30 %, one
    /// behind TCP_DEFER_ACCEPT 27 to 43 %, one that looks through the kernel's table before
    /// it accepts 94 to 98 %, for that takes longer. So no earlier look helps; Linux 6.17
    /// does, which knows the owner of a closed socket, but for root. Strangers can do so
    /// too, hence not a line for each.
    fn tell_gone(&mut self, who: &str) {
        let more = match &mut self.gone {
            Some((told, more)) if told.elapsed() < GONE_INTERVAL => {
                *more += 1;
                return self.log.detail(format_args!("client {who}: gone, too"));
            }
            gone => gone.replace((Instant::now(), 0)).map_or(0, |(_, more)| more),
        };
        let others = if more > 0 { format!(", like {more} before it") } else { String::new() };
        self.log.event(format_args!(
            "client {who}{others}: closed by its program before it was known whose it is; nothing of it was passed on"
        ));
    }

    fn refuse(&mut self, whom: String) {
        if self.refused.len() < MAX_REFUSED_REMEMBERED && self.refused.insert(whom.clone()) {
            self.log.event(format_args!("refused a client: {whom} may not use this tunnel"));
        }
    }

    /// How long until [`Acceptor::resume_when_due`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        let until = self.paused?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Listens again after a pause.
    pub fn resume_when_due(&mut self, epoll: &Epoll) {
        if self.due() == Some(Duration::ZERO) {
            self.paused = None;
            let _ = self.listen(epoll);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::listener::bind_at;
    use crate::log::Verbosity;
    use crate::sys;
    use std::net::{Ipv4Addr, TcpStream};

    /// Goal: who has broken off before it was accepted does not get in, whoever has its
    /// port by then; who has only said all that it had to say does.
    #[test]
    fn a_client_that_has_broken_off_is_not_taken_for_another() {
        let sockets = bind_at(Ipv4Addr::LOCALHOST, 0).expect("bind");
        let address = sockets[0].address().expect("address");
        let listener = Listener::new(sockets, Destination::Unix("/x".into()));
        let epoll = Epoll::new().expect("epoll");
        let access = Access::new(true, &[], Duration::ZERO).expect("anybody");
        let log = Arc::new(Log::new(Verbosity::Quiet, false));
        let mut acceptor = Acceptor::new(vec![listener], access, |_, _| 0, log);
        for (breaks, accepted) in [(true, 0), (false, 1)] {
            let mut client = TcpStream::connect(address).expect("connect");
            io::Write::write_all(&mut client, b"x").expect("write");
            if breaks {
                sys::reset_on_close(&client).expect("linger");
            }
            drop(client);
            assert_eq!(acceptor.accept(0, 0, 9, &epoll).len(), accepted, "breaks: {breaks}");
        }
        assert_eq!(acceptor.usage(0).clients(), 0);
    }
}
