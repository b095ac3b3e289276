//! The main loop: listeners, sessions, clients; reconnects.
//!
//! The way of a byte: a client connects to a [`Door`]; its user is checked; it
//! waits in line until a [`Lane`] is free to ask the gateway for a stream; from
//! then on its [`super::relay::Relay`] carries bytes both ways.

use super::carrier::{Lane, News};
use super::job::Lifeline;
use super::pool::{LANES, Lanes, SLOW};
use super::reconnect::{Outcome, Reconnect};
use super::shutdown::Ending;
use crate::config::Silence;
use crate::gateway::Connection;
use crate::local::{Access, Door, Reception, Waiting};
use crate::log::Log;
use crate::sys::{self, Epoll, Event, Interest, SignalFd};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a tunnel is made of.
pub struct Parts {
    /// Every forwarded port.
    pub doors: Vec<Door>,
    /// Who may use them.
    pub access: Access,
    /// The way back to the gateway.
    pub reconnect: Reconnect,
    /// How a silent gateway is noticed.
    pub silence: Silence,
    /// Whose life bounds the tunnel's.
    pub life: Lifeline,
    /// TERM and, in the foreground, INT and HUP.
    pub signals: SignalFd,
    /// Where to tell.
    pub log: Arc<Log>,
}

/// New clients wait that long for a gateway that is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waiting clients looked at in one turn.
const BATCH: usize = 64;

/// Tokens: the kind in the top byte, below it an index.
const KIND: u32 = 56;
const URGENT: u64 = 1 << KIND;
const ATTEMPT: u64 = 2 << KIND;
const DOOR: u64 = 3 << KIND;
const SESSION: u64 = 4 << KIND;
const CLIENT: u64 = 5 << KIND;
/// Within DOOR and CLIENT: the door or lane stands above the socket or slot.
const UPPER: u32 = 32;

const READ: Interest = Interest {
    read: true,
    write: false,
};

/// The running tunnel.
pub struct Tunnel {
    reception: Reception,
    reconnect: Reconnect,
    silence: Silence,
    ending: Ending,
    log: Arc<Log>,
    epoll: Epoll,
    lanes: Lanes,
    line: VecDeque<Waiting>,
    /// When the last lane was lost, and why.
    lost: Option<(Instant, String)>,
    /// A further session was not to be had: those that there are have to do.
    one_session: bool,
    most_clients: usize,
    buffer: Vec<u8>,
}

impl Tunnel {
    /// Takes over what is bound and the first connection.
    ///
    /// # Errors
    /// The kernel refuses a descriptor.
    pub fn new(parts: Parts, connection: Connection) -> io::Result<Tunnel> {
        let mut tunnel = Tunnel {
            reception: Reception::new(parts.doors, parts.access, DOOR, Arc::clone(&parts.log)),
            reconnect: parts.reconnect,
            silence: parts.silence,
            ending: Ending::new(parts.life, parts.signals)?,
            log: parts.log,
            epoll: Epoll::new()?,
            lanes: Default::default(),
            line: VecDeque::new(),
            lost: None,
            one_session: false,
            most_clients: 0,
            // Instead of 32 kB: some 10 % more through a socket of ssh's, and 4 % by
            // libssh2, which writes 32700 bytes at most in one call.
            buffer: vec![0; 131_072],
        };
        let urgent = tunnel.ending.urgent();
        tunnel.epoll.add(&**urgent, URGENT, READ)?;
        tunnel.reception.open(&tunnel.epoll)?;
        tunnel.add_lane(connection)?;
        Ok(tunnel)
    }

    /// Serves until the job's end, a signal, or an error that leaves nothing to
    /// serve. Returns why it ended.
    pub fn serve(mut self) -> String {
        let mut events = [Event::NONE; 256];
        loop {
            let ready = match self.epoll.wait(&mut events, self.next_timer()) {
                Ok(ready) => ready,
                Err(e) => return format!("waiting failed: {e}"),
            };
            let events = &events[..ready];
            events.iter().for_each(|event| self.dispatch(event));
            // Two system calls that carry nobody's bytes.
            let clients = self.clients();
            if (events.iter().any(|event| event.token() == URGENT)
                || self.ending.due(clients) == Some(Duration::ZERO))
                && let Some(why) = self.ending.reason(clients)
            {
                return why;
            }
            self.look_after_the_gateway();
            self.seat_clients();
            self.carry();
            self.seat_clients();
        }
    }

    fn dispatch(&mut self, event: &Event) {
        let token = event.token();
        let upper = (token >> UPPER & 0xff_ffff) as usize;
        let lower = (token & 0xffff_ffff) as usize;
        match token >> KIND << KIND {
            // Looked after when all others have been.
            URGENT => {}
            ATTEMPT => self.end_attempt(),
            DOOR => self.accept(upper, lower),
            SESSION => {
                if let Some(lane) = self.lanes.get_mut(lower)
                    && let Err(e) = lane.has_spoken()
                {
                    self.lose(lower, &e.to_string());
                }
            }
            _ => {
                if let Some(lane) = self.lanes.get_mut(upper)
                    && let Err(e) =
                        lane.client_is_ready(lower, event, &self.epoll, &mut self.buffer)
                {
                    self.lose(upper, &e.to_string());
                }
            }
        }
    }

    // ---- clients ---------------------------------------------------------

    fn accept(&mut self, door: usize, socket: usize) {
        let hopeless = self.reconnect.has_given_up() && self.lanes.is_empty();
        for waiting in self.reception.welcome(door, socket, &self.epoll) {
            if hopeless {
                self.log.detail(format_args!(
                    "client {}: closed, the gateway is lost",
                    waiting.who
                ));
                waiting.client.reset();
            } else {
                self.line.push_back(waiting);
            }
        }
    }

    /// Gives free lanes to waiting clients, first come first served, but none
    /// to a license server that is slow to answer another.
    fn seat_clients(&mut self) {
        let mut waiting = 0;
        while waiting < self.line.len() && waiting <= BATCH && !self.lanes.are_all_asking() {
            if self.line[waiting].client.is_broken() {
                self.line.remove(waiting);
                continue;
            }
            let to = self.reception.leads_to(self.line[waiting].door).clone();
            let slow = self
                .lanes
                .slow()
                .any(|door| *self.reception.leads_to(door) == to);
            match self.lanes.free().filter(|_| !slow) {
                Some(lane) => {
                    if let Some(client) = self.line.remove(waiting) {
                        lane.connect(client, to);
                    }
                }
                None => {
                    if !slow && self.lanes.are_all_slow() {
                        self.want_lane("a license server is slow to connect");
                    }
                    waiting += 1;
                }
            }
        }
    }

    fn want_lane(&mut self, why: &str) {
        if !self.one_session && self.reconnect.is_idle() && self.reconnect.can_log_in_alone() {
            self.log
                .event(format_args!("{why}: opening another session"));
            self.reconnect.want_now();
        }
    }

    /// A crowd gets further lanes, which go when most of it has gone and nobody
    /// waits.
    fn fit_lanes(&mut self) {
        let clients = self.clients();
        if self.lanes.are_too_few_for(clients) {
            self.want_lane("many clients");
        }
        if self.line.is_empty() {
            for lane in self.lanes.take_superfluous(clients) {
                self.log.detail("closed a session without clients");
                self.epoll.remove(lane.link.socket());
            }
        }
    }

    fn carry(&mut self) {
        for index in 0..LANES {
            let Some(lane) = self.lanes.get_mut(index) else {
                continue;
            };
            match lane.turn(&self.epoll, &mut self.buffer) {
                Ok(news) => news.into_iter().for_each(|item| self.tell(item)),
                Err(e) => self.lose(index, &e.to_string()),
            }
        }
        self.fit_lanes();
        let clients = self.clients();
        self.most_clients = self.most_clients.max(clients);
        if clients == 0 && self.most_clients > 16 {
            self.most_clients = 0;
            sys::trim_memory();
        }
    }

    fn tell(&mut self, news: News) {
        match news {
            News::Served(who) => self.log.detail(format_args!("client {who}: connected")),
            News::Left(who, Some((up, down))) => self.log.detail(format_args!(
                "client {who}: ended, {up} bytes up, {down} down"
            )),
            News::Left(who, None) => self.log.detail(format_args!("client {who}: ended")),
            News::Refused(waiting, since, why) => {
                let to = self.reception.leads_to(waiting.door).clone();
                self.log.detail(format_args!(
                    "client {}: {to} cannot be reached from the gateway: {why}",
                    waiting.who
                ));
                waiting.client.reset();
                if since.elapsed() > SLOW {
                    // Those behind would wait as long for the same answer.
                    self.dismiss(|reception, waiting| {
                        *reception.leads_to(waiting.door) == to && waiting.since <= since
                    });
                }
            }
        }
    }

    /// Closes the waiting clients that `which` names.
    fn dismiss(&mut self, which: impl Fn(&Reception, &Waiting) -> bool) {
        for waiting in std::mem::take(&mut self.line) {
            if which(&self.reception, &waiting) {
                self.log.detail(format_args!(
                    "client {}: closed, it waited in vain",
                    waiting.who
                ));
                waiting.client.reset();
            } else {
                self.line.push_back(waiting);
            }
        }
    }

    fn clients(&self) -> usize {
        self.line.len() + self.lanes.iter().map(Lane::clients).sum::<usize>()
    }

    // ---- the gateway -----------------------------------------------------

    fn add_lane(&mut self, connection: Connection) -> io::Result<()> {
        let Some(index) = self.lanes.vacancy() else {
            return Ok(());
        };
        let urgent = Rc::clone(self.ending.urgent());
        let link = connection.drive(urgent, self.silence.limit);
        self.epoll
            .add(link.socket(), SESSION | index as u64, READ)?;
        let mut lane = Lane::new(link, CLIENT | (index as u64) << UPPER);
        // Packets may have come with the login already.
        lane.has_spoken()?;
        self.lanes.put(index, lane);
        Ok(())
    }

    fn lose(&mut self, index: usize, why: &str) {
        let Some(lane) = self.lanes.take(index) else {
            return;
        };
        self.epoll.remove(lane.link.socket());
        let (clients, waiting) = lane.break_off();
        match waiting {
            Some(waiting) if waiting.since.elapsed() < PATIENCE => self.line.push_front(waiting),
            Some(waiting) => waiting.client.reset(),
            None => {}
        }
        sys::trim_memory();
        if self.lanes.is_empty() {
            // The next gateway, or the same one later, may be more generous.
            self.one_session = false;
            self.log.event(format_args!(
                "lost the gateway: {why}; closed {clients} clients, reconnecting"
            ));
            self.lost = Some((Instant::now(), why.to_owned()));
            self.reconnect.want();
        } else {
            self.log.event(format_args!(
                "lost a session: {why}; closed {clients} clients"
            ));
        }
    }

    fn end_attempt(&mut self) {
        match self.reconnect.finish(&self.epoll) {
            None => {}
            Some(Outcome::Later(e, _) | Outcome::GivenUp(e)) if !self.lanes.is_empty() => {
                self.log
                    .event(format_args!("no further session: {e}; going on without"));
                self.one_session = true;
                self.reconnect.start_over();
            }
            Some(Outcome::Connected(connection)) => {
                if let Some((since, why)) = self.lost.take() {
                    self.log.event(format_args!(
                        "reconnected to the gateway after {:.1} s ({why})",
                        since.elapsed().as_secs_f64()
                    ));
                }
                if let Err(e) = self.add_lane(connection) {
                    self.log
                        .event(format_args!("cannot use the new connection: {e}"));
                    self.reconnect.want();
                }
            }
            Some(Outcome::Later(e, wait)) => self.log.event(format_args!(
                "reconnecting failed: {e}; trying again in {:.1} s",
                wait.as_secs_f64()
            )),
            Some(Outcome::GivenUp(e)) => {
                self.log.event(format_args!(
                    "giving up on the gateway: {e}; the ports stay bound until the job ends"
                ));
                self.dismiss(|_, _| true);
            }
        }
    }

    fn look_after_the_gateway(&mut self) {
        if self.lanes.is_empty() {
            self.dismiss(|_, waiting| waiting.since.elapsed() >= PATIENCE);
            if self.lost.is_some() {
                self.reconnect.want();
            }
        }
        for index in 0..LANES {
            let Some(lane) = self.lanes.get_mut(index) else {
                continue;
            };
            let Silence { limit, .. } = self.silence;
            let Some(silence) = lane.link.silence() else {
                continue;
            };
            if silence >= limit {
                self.lose(index, &format!("no sign of life for {} s", limit.as_secs()));
            } else if silence >= self.silence.ask
                && lane.can_ask_for_life()
                && let Err(e) = lane.ask_for_life()
            {
                self.lose(index, &e.to_string());
            }
        }
        self.reconnect.carry_on(&self.epoll, ATTEMPT, &self.log);
        self.reception.carry_on(&self.epoll);
    }

    // ---- time ------------------------------------------------------------

    /// How long nothing is due: the wait is for events alone where it is `None`.
    fn next_timer(&self) -> Option<Duration> {
        let until = |since: Instant, span: Duration| span.saturating_sub(since.elapsed());
        let mut due = vec![
            self.ending.due(self.clients()),
            self.reconnect.due(),
            self.reception.due(),
        ];
        if self.lanes.is_empty() {
            due.push(
                self.line
                    .front()
                    .map(|waiting| until(waiting.since, PATIENCE)),
            );
        }
        for lane in self.lanes.iter() {
            let next = if lane.can_ask_for_life() {
                self.silence.ask
            } else {
                self.silence.limit
            };
            let silence = lane.link.silence();
            due.push(silence.map(|silence| next.saturating_sub(silence)));
            due.push(lane.due());
            // Somebody may wait behind a slow one.
            if let Some((_, since)) = lane.opening().filter(|_| !self.line.is_empty())
                && since.elapsed() < SLOW
            {
                due.push(Some(SLOW - since.elapsed()));
            }
        }
        due.into_iter().flatten().min()
    }
}
