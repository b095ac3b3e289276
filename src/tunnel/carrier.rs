//! One connection to the gateway with the clients that it carries.

use super::relay::Relay;
use crate::gateway::{Opened, Remote, Transport};
use crate::local::{Client, Waiting};
use crate::sys::{self, Epoll, Event, Interest};
use crate::target::Destination;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What a turn brought that others should know.
pub enum News {
    /// This client's stream is open.
    Served(String),
    /// The gateway could not connect this client; why.
    Refused(Waiting, Instant, String),
    /// A client has gone: its name; bytes up and down, where licfwd carried them.
    Left(String, Option<(u64, u64)>),
}

struct Passenger {
    relay: Relay<Client, Box<dyn Remote>>,
    /// What epoll knows of the client's socket; `None`: it is not there.
    watched: Option<Interest>,
    /// The same of the stream's own socket, where it has one.
    remote_watched: Option<Interest>,
    who: String,
}

/// A link, its clients, and the one that is being connected.
pub struct Lane {
    /// The connection.
    pub link: Box<dyn Transport>,
    /// Token of slot 0 in epoll.
    tokens: u64,
    slots: Vec<Option<Box<Passenger>>>,
    free: Vec<usize>,
    /// Streams whose client has gone; the gateway has not agreed yet.
    closing: Vec<Box<dyn Remote>>,
    opening: Option<(Waiting, Instant)>,
    /// The gateway has sent something since the last turn.
    spoken: bool,
    /// Something may be ready that no event will tell.
    unfinished: bool,
}

/// Sweeps over all clients in one turn, before other lanes and new clients
/// have theirs.
const SWEEPS: usize = 4;

/// Set in the token of a stream's own socket, beside the client's slot.
const REMOTE: usize = 1 << 31;

impl Lane {
    /// A connection without clients yet, whose clients' events carry `tokens + slot`.
    pub fn new(link: Box<dyn Transport>, tokens: u64) -> Lane {
        Lane {
            link,
            tokens,
            slots: Vec::new(),
            free: Vec::new(),
            closing: Vec::new(),
            opening: None,
            spoken: false,
            unfinished: false,
        }
    }

    /// How many clients are connected or being connected.
    pub fn clients(&self) -> usize {
        self.slots.len() - self.free.len() + usize::from(self.opening.is_some())
    }

    /// Whether nobody is here, nor still saying goodbye.
    pub fn is_empty(&self) -> bool {
        self.clients() == 0 && self.closing.is_empty()
    }

    /// Which door's client is being connected, and since when.
    pub fn opening(&self) -> Option<(usize, Instant)> {
        self.opening
            .as_ref()
            .map(|(waiting, since)| (waiting.door, *since))
    }

    /// How long until [`Lane::turn`] should come again without an event.
    pub fn due(&self) -> Option<Duration> {
        match self.unfinished {
            true => Some(Duration::ZERO),
            false => self.link.due(),
        }
    }

    /// Begins to connect a client. The connection must be free.
    pub fn connect(&mut self, waiting: Waiting, to: Destination) {
        self.opening = Some((waiting, Instant::now()));
        self.link.ask(to);
        self.unfinished = true;
    }

    /// Whether [`Lane::ask_for_life`] would ask: not while an answer is owed.
    pub fn can_ask_for_life(&self) -> bool {
        let mut passengers = self.slots.iter().flatten().peekable();
        self.link.is_free()
            || (self.opening.is_some()
                && passengers.peek().is_some()
                && !passengers.any(|passenger| passenger.relay.remote.is_asking()))
    }

    /// Asks whether the gateway is still there: on the link, or through a client's
    /// stream while the link waits for a slow license server.
    ///
    /// # Errors
    /// The link is lost.
    pub fn ask_for_life(&mut self) -> io::Result<()> {
        if self.link.is_free() {
            self.link.ask_for_life();
        } else if let Some(passenger) = self.slots.iter_mut().flatten().next() {
            passenger.relay.remote.ask_for_life()?;
            if !passenger.relay.remote.is_asking() {
                // Answered already, before the socket could tell.
                self.link.has_spoken()?;
            }
        }
        self.unfinished = true;
        Ok(())
    }

    /// Notes that the gateway has sent something.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn has_spoken(&mut self) -> io::Result<()> {
        self.spoken = true;
        self.link.has_spoken()
    }

    /// A client's socket is ready, or that of its stream.
    ///
    /// # Errors
    /// The link is lost.
    pub fn client_is_ready(
        &mut self,
        slot: usize,
        event: &Event,
        epoll: &Epoll,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let (remote, slot) = (slot & REMOTE != 0, slot & !REMOTE);
        let Some(Some(passenger)) = self.slots.get_mut(slot) else {
            return Ok(());
        };
        if remote {
            passenger.relay.remote.is_ready(event);
            passenger.relay.carry_down(buffer)?;
            passenger.relay.carry_up(false, buffer)?;
        } else {
            if event.writable() {
                passenger.relay.carry_down(buffer)?;
            }
            if event.readable() {
                passenger.relay.carry_up(true, buffer)?;
            }
        }
        // Writing to a channel reads the socket first: others may have got data.
        self.unfinished = true;
        passenger.watch(epoll, self.tokens + slot as u64);
        Ok(())
    }

    /// Carries everything that can be carried now.
    ///
    /// # Errors
    /// The link is lost.
    pub fn turn(&mut self, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<Vec<News>> {
        let mut news = Vec::new();
        if !self.spoken && self.due() != Some(Duration::ZERO) {
            return Ok(news);
        }
        let mute = self.spoken && self.closing.is_empty() && self.link.is_free();
        if mute && !self.read_dry()? {
            // No stream to read through, or all have ended: the answer to a
            // question does it.
            self.link.ask_for_life();
        }
        self.spoken = false;
        for _ in 0..SWEEPS {
            for passenger in self.slots.iter_mut().flatten() {
                passenger.relay.notice_hang_up()?;
                if passenger.relay.remote.is_asking() {
                    passenger.relay.remote.ask_for_life()?;
                    if !passenger.relay.remote.is_asking() {
                        self.link.has_spoken()?;
                    }
                }
            }
            self.close_streams()?;
            // Each of these stops reading when it has what it wants, and may leave
            // whole packets inside libssh2, of which no event would tell: so the
            // rest is read now. Whatever carries bytes reads, too, and queues
            // what others wait for: so the last round has to find nothing to do.
            self.read_dry()?;
            let answered = self.ask(epoll, &mut news)?;
            self.unfinished = self.sweep(epoll, buffer, &mut news)? || answered;
            if !self.unfinished {
                break;
            }
        }
        if self.opening.is_some() {
            // sshd holds back a small packet while an earlier one is not
            // acknowledged (Nagle), and we have nothing to send before it comes.
            sys::acknowledge(self.link.socket());
        }
        Ok(news)
    }

    /// Reads everything that has arrived, through the first stream that can;
    /// false when none can.
    fn read_dry(&self) -> io::Result<bool> {
        for passenger in self.slots.iter().flatten() {
            if passenger.relay.remote.read_dry()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes on with saying goodbye, until the gateway has agreed.
    fn close_streams(&mut self) -> io::Result<()> {
        let mut failure = None;
        self.closing.retain_mut(|stream| match stream.close() {
            Ok(()) => false,
            Err(e) if e.kind() == ErrorKind::WouldBlock => true,
            Err(e) => {
                failure = Some(e);
                true
            }
        });
        failure.map_or(Ok(()), Err)
    }

    /// Goes on with the client that is being connected, or with the question
    /// for life. Returns whether an answer has come.
    fn ask(&mut self, epoll: &Epoll, news: &mut Vec<News>) -> io::Result<bool> {
        let asked = !self.link.is_free();
        let client = self.opening.as_ref();
        let client = client.map(|(waiting, _)| waiting.client.as_fd());
        let Some(opened) = self.link.answer(client)? else {
            return Ok(asked && self.link.is_free());
        };
        let Some((waiting, since)) = self.opening.take() else {
            return Ok(true);
        };
        match opened {
            Opened::Refused(why) => news.push(News::Refused(waiting, since, why)),
            Opened::Stream(stream) => {
                news.push(News::Served(waiting.who.clone()));
                self.admit(waiting, stream, epoll);
            }
        }
        Ok(true)
    }

    fn admit(&mut self, waiting: Waiting, stream: Box<dyn Remote>, epoll: &Epoll) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let mut passenger = Box::new(Passenger {
            relay: Relay::new(waiting.client, stream),
            watched: None,
            remote_watched: None,
            who: waiting.who,
        });
        passenger.watch(epoll, self.tokens + slot as u64);
        self.slots[slot] = Some(passenger);
    }

    /// Looks at every client once. Returns whether anything was done.
    fn sweep(
        &mut self,
        epoll: &Epoll,
        buffer: &mut [u8],
        news: &mut Vec<News>,
    ) -> io::Result<bool> {
        let mut acted = false;
        for slot in 0..self.slots.len() {
            let Some(passenger) = &mut self.slots[slot] else {
                continue;
            };
            let relay = &mut passenger.relay;
            let down = relay.down_is_due() && relay.carry_down(buffer)?;
            let up = relay.up_is_due() && relay.carry_up(false, buffer)?;
            if relay.is_over() {
                self.retire(slot, news);
                acted = true;
            } else if up || down {
                passenger.watch(epoll, self.tokens + slot as u64);
                acted = true;
            }
        }
        Ok(acted)
    }

    fn retire(&mut self, slot: usize, news: &mut Vec<News>) {
        if let Some(passenger) = self.slots[slot].take() {
            let relay = passenger.relay;
            let carried = !relay.remote.has_the_client();
            let bytes = carried.then_some((relay.bytes_up, relay.bytes_down));
            news.push(News::Left(passenger.who, bytes));
            // The client's socket closes here, and epoll forgets it (see Relay::carry_up).
            self.closing.push(relay.remote);
            self.free.push(slot);
        }
    }

    /// Breaks every client off; the one whose stream was not open yet may wait
    /// for another connection.
    pub fn break_off(self) -> (usize, Option<Waiting>) {
        let count = self.slots.iter().flatten().count();
        // The connection first: then its streams free themselves at once.
        drop(self.link);
        for passenger in self.slots.into_iter().flatten() {
            passenger.relay.local.reset();
        }
        (count, self.opening.map(|(waiting, _)| waiting))
    }
}

impl Passenger {
    /// Tells epoll what this client's relay waits for. A socket with nothing to
    /// wait for leaves epoll altogether: hang-ups are reported unasked, for ever.
    fn watch(&mut self, epoll: &Epoll, token: u64) {
        let relay = &self.relay;
        let wanted = Some(relay.interest()).filter(|wanted| *wanted != Interest::default());
        let mut done = register(epoll, relay.local.as_fd(), token, &mut self.watched, wanted);
        if let Some(socket) = relay.remote.socket() {
            let (token, wanted) = (token | REMOTE as u64, relay.remote_interest());
            done = done.and(register(
                epoll,
                socket,
                token,
                &mut self.remote_watched,
                wanted,
            ));
        }
        // Out of memory in the kernel: this client cannot be served.
        if done.is_err() {
            self.relay.abandon();
        }
    }
}

/// Brings what epoll knows of a socket up to date.
fn register(
    epoll: &Epoll,
    socket: BorrowedFd<'_>,
    token: u64,
    known: &mut Option<Interest>,
    wanted: Option<Interest>,
) -> io::Result<()> {
    match (*known, wanted) {
        (old, new) if old == new => {}
        (None, Some(interest)) => epoll.add(socket, token, interest)?,
        (Some(_), Some(interest)) => epoll.modify(socket, token, interest)?,
        (_, None) => epoll.remove(socket),
    }
    *known = wanted;
    Ok(())
}
