//! Clients of web servers, while they ask for a stream and when they get none.
//!
//! ```text
//! asks --a head that names a host of the target--> (the queue, as any client)
//!  |                                                  |
//!  |  another host, no CONNECT              the gateway refuses
//!  v                                                  v
//! leaves <--------------------------------------------+
//! ```
//! One that leaves gets its answer, and what it says meanwhile is read: closed before
//! that, its own kernel would throw the answer away.

use super::connect_head::{self, Look, MAX_HEAD, Status};
use super::relay::BUFFERS_PER_TURN;
use super::token::Token;
use crate::local::{Client, Local, Waiting};
use crate::log::Log;
use crate::sys::{Epoll, Interest};
use crate::target::{Destination, host_port};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a head may take.
const MAX_ASKING: Duration = Duration::from_secs(10);
/// How long one that leaves may go on speaking.
const MAX_LEAVING: Duration = Duration::from_secs(2);

/// Hosts that the log names, at most.
const MAX_FORBIDDEN_REMEMBERED: usize = 100;

/// Those of them that are not connected, each with its number.
pub struct ConnectProxy {
    guests: HashMap<usize, Guest>,
    last: usize,
    /// Of hosts that no target has, what the log has.
    forbidden: HashSet<String>,
    log: Arc<Log>,
}

struct Guest {
    client: Client,
    state: State,
    /// It is closed then.
    until: Instant,
}

enum State {
    /// What has come of its head.
    Asks(Vec<u8>),
    Leaves,
}

/// What has come of reading.
enum Heard {
    /// Nothing that would be the end.
    More,
    /// It has ended or broken off, or speaks for too long.
    End,
    /// It gets no stream.
    Refused(Status, String),
    /// It gets one there, to which goes what it has said already.
    Granted(Destination, Vec<u8>),
}

impl ConnectProxy {
    /// Without anybody.
    pub fn new(log: Arc<Log>) -> ConnectProxy {
        ConnectProxy { guests: HashMap::new(), last: 0, forbidden: HashSet::new(), log }
    }

    /// How many there are.
    pub fn clients(&self) -> usize {
        self.guests.len()
    }

    /// Takes in a client that has come just now.
    pub fn greet(&mut self, client: Client, epoll: &Epoll) {
        self.add(client, State::Asks(Vec::new()), MAX_ASKING, epoll);
    }

    fn add(&mut self, client: Client, state: State, limit: Duration, epoll: &Epoll) {
        self.last = (self.last + 1) & u32::MAX as usize;
        let token = Token::Guest(self.last).pack();
        // Out of memory in the kernel: it cannot be served.
        if epoll.add(&client, token, Interest::READ).is_ok() {
            let guest = Guest { client, state, until: Instant::now() + limit };
            self.guests.insert(self.last, guest);
        }
    }

    /// That one has said something. Returns it when it gets a stream.
    pub fn is_ready(&mut self, number: usize, epoll: &Epoll, buffer: &mut [u8]) -> Option<Waiting> {
        match self.guests.get_mut(&number)?.hear(buffer) {
            Heard::More => None,
            Heard::End => {
                let guest = self.guests.remove(&number)?;
                if let State::Asks(_) = guest.state {
                    let who = &guest.client.who;
                    self.log.detail(format_args!("client {who}: closed, without a request"));
                }
                None
            }
            Heard::Refused(status, why) => {
                let guest = self.guests.remove(&number)?;
                epoll.remove(&guest.client);
                self.turn_away(guest.client, status, &why, epoll);
                None
            }
            Heard::Granted(to, early) => {
                let mut client = self.guests.remove(&number)?.client;
                epoll.remove(&client);
                self.log.detail(format_args!("client {}: asks for {to}", client.who));
                (client.to, client.asked) = (to, Some(early));
                Some(Waiting { client, since: Instant::now() })
            }
        }
    }

    /// Tells a client that it gets no stream, and why. epoll must not know it.
    pub fn turn_away(&mut self, mut client: Client, status: Status, why: &str, epoll: &Epoll) {
        // Most software shows the number alone.
        let is_news = status == Status::Forbidden
            && self.forbidden.len() < MAX_FORBIDDEN_REMEMBERED
            && self.forbidden.insert(why.to_owned());
        match is_news {
            true => self.log.event(format_args!("refused a client: {why}")),
            false => {
                let (who, number) = (&client.who, status as u16);
                self.log.detail(format_args!("client {who}: {number}: {why}"));
            }
        }
        // Its socket is empty: it has room for that.
        if client.write(&connect_head::refusal(status, why)).is_ok() {
            client.end_of_output();
            self.add(client, State::Leaves, MAX_LEAVING, epoll);
        }
    }

    /// How long until somebody's time is over.
    pub fn due(&self) -> Option<Duration> {
        let first = self.guests.values().map(|guest| guest.until).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// Closes those whose time is over.
    pub fn close_late(&mut self) {
        if self.due() != Some(Duration::ZERO) {
            return;
        }
        let now = Instant::now();
        for (_, guest) in self.guests.extract_if(|_, guest| guest.until <= now) {
            if let State::Asks(_) = guest.state {
                let who = &guest.client.who;
                self.log.detail(format_args!("client {who}: closed, its request took too long"));
            }
        }
    }
}

impl Guest {
    fn hear(&mut self, buffer: &mut [u8]) -> Heard {
        for _ in 0..BUFFERS_PER_TURN {
            let room = match &self.state {
                State::Asks(head) => MAX_HEAD - head.len(),
                State::Leaves => buffer.len(),
            };
            let count = match self.client.read(&mut buffer[..room]) {
                Ok(count) if count > 0 => count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => return Heard::End,
            };
            if let State::Asks(head) = &mut self.state {
                head.extend_from_slice(&buffer[..count]);
                match judge(head, &self.client.to) {
                    Heard::More => {}
                    judged => return judged,
                }
            }
        }
        Heard::More
    }
}

/// What a head comes to, so far, at a port that leads `to` web servers.
fn judge(head: &mut Vec<u8>, to: &Destination) -> Heard {
    let (end, host, port) = match connect_head::look(head) {
        Look::Connect(end, host, port) => (end, host, port),
        Look::Unfinished if head.len() < MAX_HEAD => return Heard::More,
        Look::Unfinished => return Heard::End,
        Look::OtherMethod => {
            let why = "only CONNECT is understood here: this proxy is for https:// alone";
            return Heard::Refused(Status::MethodNotAllowed, why.into());
        }
        Look::Bad(why) => {
            let why = format!("the request is not understood: {why}");
            return Heard::Refused(Status::BadRequest, why);
        }
    };
    let Destination::Web(hosts) = to else {
        return Heard::End;
    };
    match hosts.find(&host, port) {
        Some(to) => Heard::Granted(to, head.split_off(end)),
        None => {
            let asked = host_port(&host, port);
            let others = hosts.to_string();
            let others = others.trim_start_matches("https://");
            let why = format!(
                "{asked} is none of this proxy's hosts; the target of licfwd that has it: \
                 https://{asked},{others}"
            );
            Heard::Refused(Status::Forbidden, why)
        }
    }
}
