//! One session with the gateway, and the clients that it carries.

use super::handed_over::HandedOver;
use super::relay::Relay;
use super::token::Token;
use crate::config::Silence;
use crate::gateway::{self, Channel, Opened, Session};
use crate::local::{Client, Waiting};
use crate::sys::{self, Epoll, Event, Interest};
use crate::target::Destination;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What a turn brought that others should know.
pub enum Report {
    /// This client's channel is open.
    Connected(String),
    /// The gateway could not connect this client; since when it was asked, and why not.
    Refused(Waiting, Instant, String),
    /// A client has gone: its name; bytes up and down, where licfwd carried them.
    Ended(String, Option<(u64, u64)>),
}

/// How a client's bytes get to its channel.
enum Served {
    /// Through this process.
    Relayed(Relay<Client, dyn Channel>),
    /// Without it.
    HandedOver(HandedOver<Client, dyn gateway::HandOver>),
}

/// A connected client in its slot.
struct Seat {
    served: Served,
    /// What epoll knows of the client's socket; `None`: it is not there.
    watched: Option<Interest>,
    /// The same of the channel's own descriptor, where it has one.
    channel_watched: Option<Interest>,
    who: String,
}

/// A session, its clients, and the one that is being connected.
pub struct Carrier {
    /// The session.
    pub session: Box<dyn Session>,
    /// Which one it is, for [`Token`].
    pub number: usize,
    slots: Vec<Option<Box<Seat>>>,
    free: Vec<usize>,
    /// Channels whose client has gone; the gateway has not agreed yet.
    closing: Vec<Box<dyn Channel>>,
    opening: Option<(Waiting, Instant)>,
    /// The gateway has sent something since the last turn.
    spoken: bool,
    /// Something may be ready that no event will tell.
    unfinished: bool,
    /// epoll waits on the session's socket.
    listening: bool,
    /// Bytes of clients have moved since this was last set to false.
    pub carried: bool,
}

/// Sweeps over all clients in one turn, before other sessions and new clients
/// have theirs.
const SWEEPS_PER_TURN: usize = 4;

impl Carrier {
    /// A session without clients yet.
    pub fn new(session: Box<dyn Session>, number: usize) -> Carrier {
        Carrier {
            session,
            number,
            slots: Vec::new(),
            free: Vec::new(),
            closing: Vec::new(),
            opening: None,
            spoken: false,
            unfinished: false,
            listening: true,
            carried: false,
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

    /// Which listener's client is being connected, and since when.
    pub fn opening(&self) -> Option<(usize, Instant)> {
        self.opening.as_ref().map(|(waiting, since)| (waiting.listener, *since))
    }

    /// How long until [`Carrier::turn`] should come again without an event.
    pub fn due(&self) -> Option<Duration> {
        match self.unfinished {
            true => Some(Duration::ZERO),
            false => self.session.due(),
        }
    }

    /// How long until the gateway is to be asked for a sign of life, or the answer
    /// is overdue.
    pub fn silence_due(&self, Silence { ask, limit, .. }: Silence) -> Option<Duration> {
        match self.session.unanswered() {
            Some(since) => Some((limit - ask).saturating_sub(since)),
            None => self.session.silence().map(|silence| ask.saturating_sub(silence)),
        }
    }

    /// Begins to connect a client. The session must be free.
    pub fn connect(&mut self, waiting: Waiting, to: Destination) {
        self.opening = Some((waiting, Instant::now()));
        self.session.open(to);
        self.unfinished = true;
    }

    /// Asks whether the gateway is still there.
    ///
    /// # Errors
    /// The session is lost.
    pub fn ask_for_life(&mut self) -> io::Result<()> {
        self.unfinished = true;
        self.session.ask_for_life()
    }

    /// The session's socket is ready.
    ///
    /// # Errors
    /// The session is lost.
    pub fn has_spoken(&mut self) -> io::Result<()> {
        self.spoken = true;
        self.session.has_spoken()
    }

    /// A client's socket is ready, or its channel's own, as `token` says.
    ///
    /// # Errors
    /// The session is lost.
    pub fn is_ready(
        &mut self,
        token: Token,
        event: &Event,
        epoll: &Epoll,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let (Token::Client(_, slot) | Token::Channel(_, slot)) = token else {
            return Ok(());
        };
        let Some(Some(seat)) = self.slots.get_mut(slot) else {
            return Ok(());
        };
        match (&mut seat.served, token) {
            (Served::Relayed(relay), Token::Client(..)) => {
                if event.writable() {
                    relay.carry_down(buffer)?;
                }
                if event.readable() {
                    relay.carry_up(true, buffer)?;
                }
            }
            (Served::Relayed(relay), _) => {
                if let Some(socket) = relay.remote.own_socket() {
                    socket.is_ready(event);
                }
                relay.carry_down(buffer)?;
                relay.carry_up(false, buffer)?;
            }
            (Served::HandedOver(client), Token::Client(..)) => client.client_is_ready(buffer),
            (Served::HandedOver(client), _) => client.channel_is_ready(),
        }
        // Writing to a channel reads the socket first: others may have got data.
        self.unfinished = true;
        self.carried = true;
        seat.watch(epoll, self.number, slot);
        Ok(())
    }

    /// Carries everything that can be carried now.
    ///
    /// Each sweep takes its steps in this order, and the last one has to find
    /// nothing to do: every call into a session may read its socket, queue what
    /// others wait for, and leave no event behind that would tell of it.
    ///
    /// 1. What only looks for its own end (hang-ups, goodbyes) goes first: it
    ///    stops reading when it has that.
    /// 2. Then everything that has arrived is read, whoever it is for.
    /// 3. An answer to the open channel may be among it.
    /// 4. At last the clients are looked at, each once.
    ///
    /// # Errors
    /// The session is lost.
    pub fn turn(&mut self, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<Vec<Report>> {
        let mut reports = Vec::new();
        self.listen(epoll)?;
        if !self.spoken && self.due() != Some(Duration::ZERO) {
            return Ok(reports);
        }
        self.spoken = false;
        for _ in 0..SWEEPS_PER_TURN {
            for seat in self.slots.iter_mut().flatten() {
                if let Served::Relayed(relay) = &mut seat.served {
                    relay.notice_hang_up()?;
                }
            }
            self.close_channels()?;
            self.session.read_arrived()?;
            let answered = self.take_answer(epoll, &mut reports)?;
            self.unfinished = self.sweep(epoll, buffer, &mut reports)? || answered;
            if !self.unfinished {
                break;
            }
        }
        if self.opening.is_some() {
            // sshd holds back a small packet while an earlier one is not
            // acknowledged (Nagle), and we have nothing to send before it comes.
            sys::acknowledge(self.session.socket());
        }
        self.listen(epoll)?;
        Ok(reports)
    }

    /// Waits on the session's socket, or no longer.
    fn listen(&mut self, epoll: &Epoll) -> io::Result<()> {
        let listens = self.session.listens();
        if listens != std::mem::replace(&mut self.listening, listens) {
            let (socket, token) = (self.session.socket(), Token::Session(self.number).pack());
            match listens {
                true => epoll.add(socket, token, Interest::READ)?,
                false => epoll.remove(socket),
            }
        }
        Ok(())
    }

    /// Goes on with saying goodbye, until the gateway has agreed.
    fn close_channels(&mut self) -> io::Result<()> {
        let mut failure = None;
        self.closing.retain_mut(|channel| match channel.close() {
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
    fn take_answer(&mut self, epoll: &Epoll, reports: &mut Vec<Report>) -> io::Result<bool> {
        let asked = !self.session.is_free();
        let client = self.opening.as_ref();
        let client = client.map(|(waiting, _)| waiting.client.as_fd());
        let Some(opened) = self.session.opened(client)? else {
            return Ok(asked && self.session.is_free());
        };
        let Some((waiting, since)) = self.opening.take() else {
            return Ok(true);
        };
        match opened {
            Opened::Refused(why) => reports.push(Report::Refused(waiting, since, why)),
            Opened::Channel(channel) => {
                let served = Served::Relayed(Relay::new(waiting.client, channel));
                self.seat(served, waiting.who, epoll, reports);
            }
            Opened::HandedOver(channel) => {
                let served = Served::HandedOver(HandedOver::new(waiting.client, channel));
                self.seat(served, waiting.who, epoll, reports);
            }
        }
        Ok(true)
    }

    fn seat(&mut self, served: Served, who: String, epoll: &Epoll, reports: &mut Vec<Report>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        reports.push(Report::Connected(who.clone()));
        let mut seat = Box::new(Seat { served, watched: None, channel_watched: None, who });
        seat.watch(epoll, self.number, slot);
        self.slots[slot] = Some(seat);
    }

    /// Looks at every client once. Returns whether anything was done.
    fn sweep(
        &mut self,
        epoll: &Epoll,
        buffer: &mut [u8],
        reports: &mut Vec<Report>,
    ) -> io::Result<bool> {
        let mut acted = false;
        for slot in 0..self.slots.len() {
            let Some(seat) = &mut self.slots[slot] else {
                continue;
            };
            let (moved, over) = match &mut seat.served {
                Served::Relayed(relay) => {
                    let down = relay.down_is_due() && relay.carry_down(buffer)?;
                    let up = relay.up_is_due() && relay.carry_up(false, buffer)?;
                    (up || down, relay.is_over())
                }
                Served::HandedOver(client) => (false, client.is_over()),
            };
            if over {
                self.retire(slot, reports);
            } else if moved {
                seat.watch(epoll, self.number, slot);
            }
            acted |= moved || over;
            self.carried |= moved;
        }
        Ok(acted)
    }

    /// Closes the client's socket. epoll forgets it with that, unless a program
    /// that is just being started keeps it open a moment longer: then an event may
    /// find the next client in the slot, who is asked in vain whether he is ready.
    fn retire(&mut self, slot: usize, reports: &mut Vec<Report>) {
        if let Some(seat) = self.slots[slot].take() {
            let bytes = match seat.served {
                Served::Relayed(relay) => {
                    self.closing.push(relay.remote);
                    Some((relay.bytes_up, relay.bytes_down))
                }
                Served::HandedOver(_) => None,
            };
            reports.push(Report::Ended(seat.who, bytes));
            self.free.push(slot);
        }
    }

    /// Breaks every client off; the one whose channel was not open yet may wait
    /// for another session.
    pub fn break_off(self) -> (usize, Option<Waiting>) {
        let count = self.slots.iter().flatten().count();
        // The session first: then its channels free themselves at once.
        drop(self.session);
        for seat in self.slots.into_iter().flatten() {
            match seat.served {
                Served::Relayed(relay) => relay.local.reset(),
                Served::HandedOver(handed_over) => handed_over.client.reset(),
            }
        }
        (count, self.opening.map(|(waiting, _)| waiting))
    }
}

impl Seat {
    /// Tells epoll what this client waits for. A socket with nothing to wait for
    /// leaves epoll altogether: hang-ups are reported unasked, for ever.
    fn watch(&mut self, epoll: &Epoll, session: usize, slot: usize) {
        let (client, channel) = (Token::Client(session, slot), Token::Channel(session, slot));
        let (watched, channel_watched) = (&mut self.watched, &mut self.channel_watched);
        let done = match &mut self.served {
            Served::Relayed(relay) => {
                let wanted = Some(relay.interest()).filter(|wanted| *wanted != Interest::NONE);
                let done = register(epoll, relay.local.as_fd(), client, watched, wanted);
                let wanted = relay.remote_interest();
                done.and(relay.remote.own_socket().map_or(Ok(()), |socket| {
                    let wanted = (!socket.is_cut()).then_some(wanted);
                    register(epoll, socket.fd(), channel, channel_watched, wanted)
                }))
            }
            Served::HandedOver(handed_over) => {
                let wanted = Some(handed_over.client_interest()).filter(|wanted| wanted.read);
                let fd = handed_over.client.as_fd();
                register(epoll, fd, client, watched, wanted).and_then(|()| {
                    let (fd, wanted) = (handed_over.channel_fd(), handed_over.channel_interest());
                    register(epoll, fd, channel, channel_watched, wanted)
                })
            }
        };
        // Out of memory in the kernel: this client cannot be served.
        if done.is_err() {
            match &mut self.served {
                Served::Relayed(relay) => relay.abandon(),
                Served::HandedOver(handed_over) => handed_over.abandon(),
            }
        }
    }
}

/// Brings what epoll knows of a descriptor up to date.
fn register(
    epoll: &Epoll,
    fd: BorrowedFd<'_>,
    token: Token,
    known: &mut Option<Interest>,
    wanted: Option<Interest>,
) -> io::Result<()> {
    match (*known, wanted) {
        (old, new) if old == new => {}
        (None, Some(interest)) => epoll.add(fd, token.pack(), interest)?,
        (Some(_), Some(interest)) => epoll.modify(fd, token.pack(), interest)?,
        (_, None) => epoll.remove(fd),
    }
    *known = wanted;
    Ok(())
}
