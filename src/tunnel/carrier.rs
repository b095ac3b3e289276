//! One session with the gateway, and the clients that it carries.

use super::connect_head::GRANTED;
use super::first_answer::Heard;
use super::handed_over::HandedOver;
use super::relay::Relay;
use super::seat::{Seat, Served};
use super::token::Token;
use crate::config::Silence;
use crate::gateway::{CarriedBy, Channel, Opened, Session};
use crate::local::{Client, Waiting};
use crate::sys::{self, Epoll, Event, Interest};
use crate::target::Destination;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What a turn brought that others should know.
pub enum Report {
    /// This client's channel is open.
    Connected(String),
    /// The gateway could not connect this client; since when it was asked, and why not.
    Refused(Waiting, Instant, String),
    /// A client has gone: its name; bytes up and down, where licfwd carried them.
    Ended(String, Option<(u64, u64)>),
    /// What a license server has said first to the client in that slot.
    Heard(usize, Heard),
}

/// A client that is being connected.
struct Opening {
    waiting: Waiting,
    since: Instant,
    /// What the license server says first is to be read.
    reads: bool,
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
    /// In which slot the next sweep begins.
    first: usize,
    /// In the last sweep a packet had to wait for the gateway.
    congested: bool,
    opening: Option<Opening>,
    /// The gateway has sent something since the last turn.
    spoken: bool,
    /// Something may be ready that no event will tell.
    unfinished: bool,
    /// When what is held back of somebody's first answer has to go on.
    held_until: Option<Instant>,
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
            first: 0,
            congested: false,
            opening: None,
            spoken: false,
            unfinished: false,
            held_until: None,
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

    /// Where a client is being connected to, and since when.
    pub fn opening(&self) -> Option<(&Destination, Instant)> {
        self.opening.as_ref().map(|opening| (&opening.waiting.client.to, opening.since))
    }

    /// How long until [`Carrier::turn`] should come again without an event.
    pub fn due(&self) -> Option<Duration> {
        let held = self.held_until.map(|until| until.saturating_duration_since(Instant::now()));
        match self.unfinished {
            true => Some(Duration::ZERO),
            false => [self.session.due(), held].into_iter().flatten().min(),
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

    /// Begins to connect a client, and to read what its license server says first, where
    /// `reads`, and we carry its bytes. The session must be free.
    pub fn connect(&mut self, waiting: Waiting, (reads, by): (bool, CarriedBy)) {
        self.session.open(waiting.client.to.clone(), by);
        self.opening = Some(Opening { waiting, since: Instant::now(), reads });
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
        let (Token::Client(_, slot) | Token::Channel(_, slot) | Token::End(_, slot)) = token else {
            return Ok(());
        };
        let Some(Some(seat)) = self.slots.get_mut(slot) else {
            return Ok(());
        };
        if seat.is_ready(token, event, buffer)? {
            // Where nothing is said, the session's socket tells why.
            let why = self.session.why_refused();
            seat.refused = Some(why.unwrap_or_else(|e| e.to_string()));
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
        let heard = std::mem::take(&mut self.spoken);
        self.pass_what_is_late(epoll, buffer)?;
        for _ in 0..SWEEPS_PER_TURN {
            for seat in self.slots.iter_mut().flatten() {
                if let Served::Relayed(relay) = &mut seat.served {
                    relay.notice_hang_up()?;
                }
            }
            self.close_channels()?;
            self.session.read_arrived()?;
            let answered = self.take_answer(epoll, buffer, &mut reports)?;
            self.unfinished = self.sweep(epoll, buffer, &mut reports)? || answered;
            // What waits for the gateway lets new events come first.
            if !self.unfinished || self.congested {
                break;
            }
        }
        if self.opening.is_some() || heard && self.clients() > 1 {
            // sshd holds back a small packet while an earlier one is not acknowledged
            // (Nagle), and we may have nothing to send before it comes: another
            // client's, or the answer to a question.
            sys::acknowledge(self.session.socket());
        }
        self.listen(epoll)?;
        Ok(reports)
    }

    /// Lets go what has been held back for too long.
    fn pass_what_is_late(&mut self, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<()> {
        if self.held_until.is_none_or(|until| until > Instant::now()) {
            return Ok(());
        }
        self.held_until = None;
        for (slot, seat) in self.slots.iter_mut().enumerate() {
            let Some(seat) = seat else { continue };
            if let Served::Relayed(relay) = &mut seat.served
                && relay.held_until().is_some()
            {
                relay.pass_if_late();
                relay.carry_down(buffer)?;
                self.held_until = earlier(self.held_until, relay.held_until());
                seat.watch(epoll, self.number, slot);
            }
        }
        Ok(())
    }

    /// What the client in that slot gets instead of the answer that it waits for.
    ///
    /// # Errors
    /// The session is lost.
    pub fn pass_on(
        &mut self,
        slot: usize,
        frame: Vec<u8>,
        epoll: &Epoll,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if let Some(Some(seat)) = self.slots.get_mut(slot)
            && let Served::Relayed(relay) = &mut seat.served
        {
            relay.pass_on(frame);
            relay.carry_down(buffer)?;
            self.unfinished = true;
            seat.watch(epoll, self.number, slot);
        }
        Ok(())
    }

    /// The client in that slot.
    pub fn client(&self, slot: usize) -> Option<&Client> {
        Some(self.slots.get(slot)?.as_ref()?.client())
    }

    /// Waits on the session's socket, or no longer.
    fn listen(&mut self, epoll: &Epoll) -> io::Result<()> {
        let listens = self.session.listens();
        if listens != mem::replace(&mut self.listening, listens) {
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
    ///
    /// # Errors
    /// The session is lost.
    pub fn take_answer(
        &mut self,
        epoll: &Epoll,
        buffer: &mut [u8],
        reports: &mut Vec<Report>,
    ) -> io::Result<bool> {
        let asked = !self.session.is_free();
        let client = self.opening.as_ref();
        let client = client.map(|opening| opening.waiting.client.as_fd());
        let Some(opened) = self.session.opened(client)? else {
            return Ok(asked && self.session.is_free());
        };
        let Some(Opening { waiting, since, reads }) = self.opening.take() else {
            return Ok(true);
        };
        let who = waiting.client.who.clone();
        let served = match opened {
            Opened::Refused(why) => {
                reports.push(Report::Refused(waiting, since, why));
                return Ok(true);
            }
            Opened::Channel(channel) => {
                let mut relay = Relay::new(waiting.client, channel);
                if reads {
                    relay.read_first_answer();
                }
                if let Some(early) = relay.local.asked.as_mut().map(mem::take) {
                    relay.reply_when_open(GRANTED, early);
                }
                // Nearly every client speaks first, and has done so by now.
                self.carried |= relay.carry_up(true, buffer)?;
                Served::Relayed(relay)
            }
            Opened::HandedOver(channel) => {
                Served::HandedOver(HandedOver::new(waiting.client, channel))
            }
        };
        reports.push(Report::Connected(who));
        self.seat(served, epoll);
        Ok(true)
    }

    fn seat(&mut self, served: Served, epoll: &Epoll) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let mut seat = Box::new(Seat::new(served));
        seat.watch(epoll, self.number, slot);
        self.slots[slot] = Some(seat);
    }

    /// Looks at every client once. Where packets have to wait for the gateway, one
    /// leaves, and the next sweep begins behind whose it was: a client with little to
    /// say comes before the second packet of those with much. Returns whether
    /// anything was done, or put off.
    fn sweep(
        &mut self,
        epoll: &Epoll,
        buffer: &mut [u8],
        reports: &mut Vec<Report>,
    ) -> io::Result<bool> {
        let mut acted = false;
        let (count, first) = (self.slots.len(), self.first);
        self.congested = false;
        for slot in (0..count).map(|n| (first + n) % count) {
            let Some(seat) = &mut self.slots[slot] else {
                continue;
            };
            let (moved, over) = match &mut seat.served {
                Served::Relayed(relay) => {
                    let down = relay.down_is_due() && relay.carry_down(buffer)?;
                    let due = relay.up_is_due();
                    let up = due && !self.congested && relay.carry_up(false, buffer)?;
                    acted |= due && self.congested;
                    if up && relay.remote.is_congested() {
                        (self.congested, self.first) = (true, slot + 1);
                    }
                    self.held_until = earlier(self.held_until, relay.held_until());
                    let (heard, over) = (relay.first_answer(), relay.is_over());
                    // Another client may have the slot of one that is over, by then.
                    let heard = heard.filter(|_| !over);
                    reports.extend(heard.map(|heard| Report::Heard(slot, heard)));
                    (up || down, over)
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
            let refused = |client, why| {
                let now = Instant::now();
                Report::Refused(Waiting { client, since: now }, now, why)
            };
            reports.push(match (seat.served, seat.refused) {
                (Served::Relayed(relay), Some(why)) => refused(relay.local, why),
                (Served::HandedOver(it), Some(why)) => refused(it.client, why),
                (Served::Relayed(relay), None) => {
                    self.closing.push(relay.remote);
                    let bytes = (relay.bytes_up, relay.bytes_down);
                    Report::Ended(relay.local.who, Some(bytes))
                }
                (Served::HandedOver(it), None) => Report::Ended(it.client.who, None),
            });
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
        (count, self.opening.map(|opening| opening.waiting))
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}
