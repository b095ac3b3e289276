//! The main loop: listeners, sessions, clients; reconnects.
//!
//! The way of a byte: a client connects to a [`Door`]; its user is checked; it
//! waits in line until a [`Lane`] is free to ask the gateway for a stream; from
//! then on its [`crate::relay::Relay`] carries bytes both ways.
//!
//! One lane is the rule. libssh2 can ask for one stream at a time, and a
//! license server that swallows packets holds the question for minutes: only
//! then does another server's client get a further lane, with a login of its own.

use crate::gateway::Silence;
use crate::lane::{Lane, News, Waiting};
use crate::lifeline::Lifeline;
use crate::link::{Connection, Link};
use crate::listener::Door;
use crate::log::Log;
use crate::peer::{Access, Verdict};
use crate::reconnect::{Outcome, Reconnect};
use crate::sys::{self, Epoll, Event, Interest, SignalFd};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
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
/// After TERM connected clients are served that much longer: Slurm sends TERM
/// 30 s before KILL, which is when a solver returns its seat.
const LAST_ORDERS: Duration = Duration::from_secs(30);
/// A question to the gateway that takes longer holds up other servers' clients.
const SLOW: Duration = Duration::from_millis(250);
/// How long accepting pauses when the system is out of descriptors.
const PAUSE: Duration = Duration::from_secs(1);
/// Clients accepted from one socket before others have their turn.
const BATCH: usize = 64;
/// Lanes at most, however many license servers there are.
const LANES: usize = 8;

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
    doors: Vec<Door>,
    access: Access,
    reconnect: Reconnect,
    silence: Silence,
    life: Lifeline,
    signals: SignalFd,
    log: Arc<Log>,
    epoll: Epoll,
    /// Signals and the job's witness, apart, so that a link that waits for a
    /// stuck gateway sees them too.
    urgent: Rc<Epoll>,
    lanes: [Option<Lane>; LANES],
    line: VecDeque<Waiting>,
    /// When the last lane was lost, and why.
    lost: Option<(Instant, String)>,
    /// When TERM came.
    term: Option<Instant>,
    /// Accepting is off until then.
    paused: Option<Instant>,
    /// Users and hosts refused so far: each is logged once.
    refused: HashSet<String>,
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
            doors: parts.doors,
            access: parts.access,
            reconnect: parts.reconnect,
            silence: parts.silence,
            life: parts.life,
            signals: parts.signals,
            log: parts.log,
            epoll: Epoll::new()?,
            urgent: Rc::new(Epoll::new()?),
            lanes: Default::default(),
            line: VecDeque::new(),
            lost: None,
            term: None,
            paused: None,
            refused: HashSet::new(),
            most_clients: 0,
            // libssh2 writes 32700 bytes at most in one call.
            buffer: vec![0; 32_700],
        };
        tunnel.urgent.add(&tunnel.signals, 0, READ)?;
        tunnel.epoll.add(&*tunnel.urgent, URGENT, READ)?;
        tunnel.open_doors(true)?;
        tunnel.life.look();
        tunnel.watch_witness()?;
        tunnel.add_lane(connection)?;
        Ok(tunnel)
    }

    /// Serves until the job's end, a signal, or an error that leaves nothing to
    /// serve. Returns why it ended.
    pub fn serve(mut self) -> String {
        let mut events = [Event::NONE; 256];
        let why = loop {
            let ready = match self.epoll.wait(&mut events, self.next_timer()) {
                Ok(ready) => ready,
                Err(e) => break format!("waiting failed: {e}"),
            };
            for event in &events[..ready] {
                self.dispatch(event);
            }
            if let Some(why) = self.look_after_the_job() {
                break why;
            }
            self.look_after_the_gateway();
            self.seat_clients();
            self.carry();
            self.seat_clients();
        };
        for door in &self.doors {
            door.sockets.iter().for_each(|socket| socket.clean_up());
        }
        why
    }

    fn dispatch(&mut self, event: &Event) {
        let token = event.token();
        let upper = (token >> UPPER & 0xff_ffff) as usize;
        let lower = (token & 0xffff_ffff) as usize;
        match token >> KIND << KIND {
            // Looked after in any case.
            URGENT => {}
            ATTEMPT => self.end_attempt(),
            DOOR => self.accept(upper, lower),
            SESSION => {
                if let Some(lane) = &mut self.lanes[lower] {
                    lane.has_spoken();
                }
            }
            _ => {
                if let Some(lane) = &mut self.lanes[upper]
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
        for _ in 0..BATCH {
            let accepted = self.doors[door].sockets[socket].accept();
            let (client, addresses) = match accepted {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if out_of_something(&e) => {
                    self.log.event(format_args!(
                        "cannot accept clients: {e}; trying again in {} s",
                        PAUSE.as_secs()
                    ));
                    let _ = self.open_doors(false);
                    self.paused = Some(Instant::now() + PAUSE);
                    return;
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
                Verdict::Welcome if self.reconnect.has_given_up() && self.no_lane() => {
                    self.log
                        .detail(format_args!("client {who}: closed, the gateway is lost"));
                    client.reset();
                }
                Verdict::Welcome => self.line.push_back(Waiting {
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
    }

    fn refuse(&mut self, whom: String) {
        if self.refused.len() < 1000 && self.refused.insert(whom.clone()) {
            self.log.event(format_args!(
                "refused a client: {whom} may not use this tunnel"
            ));
        }
    }

    /// Listens, or stops to.
    fn open_doors(&mut self, open: bool) -> io::Result<()> {
        for (d, door) in self.doors.iter().enumerate() {
            for (s, socket) in door.sockets.iter().enumerate() {
                let token = DOOR | (d as u64) << UPPER | s as u64;
                if open {
                    self.epoll.add(socket, token, READ)?;
                } else {
                    self.epoll.remove(socket);
                }
            }
        }
        Ok(())
    }

    /// Gives free lanes to waiting clients, first come first served, but only
    /// one at a time to each license server.
    fn seat_clients(&mut self) {
        let young = |lane: &Lane| {
            lane.opening()
                .is_some_and(|(_, since)| since.elapsed() < SLOW)
        };
        if self.lanes.iter().flatten().all(young) {
            return;
        }
        let mut waiting = 0;
        while waiting < self.line.len() {
            if self.line[waiting].client.is_broken() {
                self.line.remove(waiting);
                continue;
            }
            let to = self.doors[self.line[waiting].door].to.clone();
            let busy = self.lanes.iter().flatten().any(|lane| {
                lane.opening()
                    .is_some_and(|(door, _)| self.doors[door].to == to)
            });
            let lane = self
                .lanes
                .iter_mut()
                .flatten()
                .find(|lane| lane.link.is_free());
            match (busy, lane) {
                (false, Some(lane)) => {
                    if let Some(client) = self.line.remove(waiting) {
                        lane.connect(client, to);
                    }
                }
                (false, None) => {
                    self.make_room();
                    waiting += 1;
                }
                (true, _) => waiting += 1,
            }
            if waiting > BATCH {
                return;
            }
        }
    }

    /// Every lane waits for an answer: when all are slow, a further one is
    /// worth a login.
    fn make_room(&mut self) {
        let all_slow = self.lanes.iter().flatten().all(|lane| {
            lane.opening()
                .is_some_and(|(_, since)| since.elapsed() >= SLOW)
        });
        if all_slow
            && !self.no_lane()
            && self.lanes.iter().any(Option::is_none)
            && self.reconnect.is_idle()
            && self.reconnect.can_log_in_alone()
        {
            self.log.event(
                "a license server is slow to connect: opening another session for the others",
            );
            self.reconnect.want_now();
        }
    }

    fn carry(&mut self) {
        for index in 0..LANES {
            let Some(lane) = &mut self.lanes[index] else {
                continue;
            };
            match lane.turn(&self.epoll, &mut self.buffer) {
                Ok(news) => news.into_iter().for_each(|item| self.tell(item)),
                Err(e) => self.lose(index, &e.to_string()),
            }
        }
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
            News::Left(who, up, down) => self.log.detail(format_args!(
                "client {who}: ended, {up} bytes up, {down} down"
            )),
            News::Refused(waiting, since, why) => {
                let to = &self.doors[waiting.door].to;
                self.log.detail(format_args!(
                    "client {}: {to} cannot be reached from the gateway: {why}",
                    waiting.who
                ));
                waiting.client.reset();
                if since.elapsed() > SLOW {
                    // Those behind would wait as long for the same answer.
                    let to = to.clone();
                    self.dismiss(|doors, waiting| {
                        doors[waiting.door].to == to && waiting.since <= since
                    });
                }
            }
        }
    }

    /// Closes the waiting clients that `which` names.
    fn dismiss(&mut self, which: impl Fn(&[Door], &Waiting) -> bool) {
        for waiting in std::mem::take(&mut self.line) {
            if which(&self.doors, &waiting) {
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
        self.line.len()
            + self
                .lanes
                .iter()
                .flatten()
                .map(Lane::clients)
                .sum::<usize>()
    }

    // ---- the gateway -----------------------------------------------------

    fn no_lane(&self) -> bool {
        self.lanes.iter().all(Option::is_none)
    }

    fn add_lane(&mut self, connection: Connection) -> io::Result<()> {
        let Some(index) = self.lanes.iter().position(Option::is_none) else {
            return Ok(());
        };
        let link = Link::new(connection, Rc::clone(&self.urgent), self.silence.limit);
        self.epoll
            .add(link.socket(), SESSION | index as u64, READ)?;
        let mut lane = Lane::new(link, CLIENT | (index as u64) << UPPER);
        // Packets may have come with the login already.
        lane.has_spoken();
        self.lanes[index] = Some(lane);
        Ok(())
    }

    fn lose(&mut self, index: usize, why: &str) {
        let Some(lane) = self.lanes[index].take() else {
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
        if self.no_lane() {
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
            Some(Outcome::GivenUp(why)) => {
                self.log.event(format_args!(
                    "giving up on the gateway: {why}; the ports stay bound until the job ends"
                ));
                if self.no_lane() {
                    self.dismiss(|_, _| true);
                }
            }
        }
    }

    fn look_after_the_gateway(&mut self) {
        if self.no_lane() {
            self.dismiss(|_, waiting| waiting.since.elapsed() >= PATIENCE);
            if self.lost.is_some() {
                self.reconnect.want();
            }
        }
        for index in 0..LANES {
            let Some(lane) = &mut self.lanes[index] else {
                continue;
            };
            let Silence { limit, .. } = self.silence;
            let silence = lane.link.silence();
            if silence >= limit {
                self.lose(index, &format!("no sign of life for {} s", limit.as_secs()));
            } else if silence >= self.silence.ask()
                && lane.can_ask_for_life()
                && let Err(e) = lane.ask_for_life()
            {
                self.lose(index, &e.to_string());
            }
        }
        self.reconnect.carry_on(&self.epoll, ATTEMPT, &self.log);
        if self.paused.is_some_and(|until| until <= Instant::now()) {
            self.paused = None;
            let _ = self.open_doors(true);
        }
    }

    // ---- the job ---------------------------------------------------------

    fn watch_witness(&mut self) -> io::Result<()> {
        if let Some(fd) = self.life.fd() {
            self.urgent.add(fd, 0, READ)?;
        }
        Ok(())
    }

    /// Why to end, if so.
    fn look_after_the_job(&mut self) -> Option<String> {
        while let Some(number) = self.signals.take() {
            if number != sys::SIGTERM {
                return Some(format!("signal {number}"));
            }
            if self.term.replace(Instant::now()).is_some() {
                return Some("TERM, twice".into());
            }
        }
        if let Some(since) = self.term {
            if self.clients() == 0 {
                return Some("TERM".into());
            }
            if since.elapsed() >= LAST_ORDERS {
                return Some(format!("TERM, {} s ago", LAST_ORDERS.as_secs()));
            }
        }
        let before = self.life.fd().map(|fd| fd.as_fd().as_raw_fd());
        let woken = match self.life.fd() {
            Some(fd) => sys::poll_readable(fd, Duration::ZERO).unwrap_or(true),
            None => self.life.next_look() == Some(Duration::ZERO),
        };
        if woken {
            if !self.life.look() {
                return Some("the job has ended".into());
            }
            if self.life.fd().map(|fd| fd.as_fd().as_raw_fd()) != before
                && let Err(e) = self.watch_witness()
            {
                return Some(format!("cannot watch the job: {e}"));
            }
        }
        None
    }

    // ---- time ------------------------------------------------------------

    /// How long nothing is due: the wait is for events alone where it is `None`.
    fn next_timer(&self) -> Option<Duration> {
        if self.lanes.iter().flatten().any(Lane::is_unfinished) {
            return Some(Duration::ZERO);
        }
        let until = |since: Instant, span: Duration| span.saturating_sub(since.elapsed());
        let mut due = vec![self.life.next_look(), self.reconnect.due()];
        due.push(self.term.map(|since| match self.clients() {
            // The last client has left since the job was looked after.
            0 => Duration::ZERO,
            _ => until(since, LAST_ORDERS),
        }));
        due.push(
            self.paused
                .map(|then| then.saturating_duration_since(Instant::now())),
        );
        if self.no_lane() {
            due.push(
                self.line
                    .front()
                    .map(|waiting| until(waiting.since, PATIENCE)),
            );
        }
        for lane in self.lanes.iter().flatten() {
            let silence = lane.link.silence();
            let next = if lane.can_ask_for_life() {
                self.silence.ask()
            } else {
                self.silence.limit
            };
            due.push(Some(next.saturating_sub(silence)));
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

/// Out of descriptors or memory: accepting again at once would spin.
fn out_of_something(e: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(e.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}
