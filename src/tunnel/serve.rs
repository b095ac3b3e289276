//! The main loop: listeners, sessions, clients; reconnects.
//!
//! The life of a client, from file to file:
//!
//! ```text
//! local/listener   its connection waits in the kernel
//! local/accept     accepted; its user is checked (local/owner)
//! tunnel/connect_proxy  where web servers are behind the port: asks for one of them
//! tunnel/serve     in the queue, until a session is free to ask the gateway
//! tunnel/carrier   asks for a channel, gives it a slot, looks at it in each turn
//! tunnel/relay     its bytes, both ways, until each direction has ended;
//!                  or tunnel/handed_over: somebody else's, until the end
//! gateway/session  the channel: gateway/libssh2/channel or gateway/openssh
//! ```

use super::carrier::Carrier;
use super::connect_proxy::ConnectProxy;
use super::job::Job;
use super::pool::{MAX_SESSIONS, Pool, SLOW_ANSWER};
use super::reconnect::{Outcome, Reconnect};
use super::restart::Restart;
use super::shutdown::Shutdown;
use super::token::Token;
use super::vendor_ports::VendorPorts;
use super::watchdog::Watchdog;
use crate::config::Silence;
use crate::gateway::Session;
use crate::local::{Acceptor, Access, LocalPorts, Waiting};
use crate::log::Log;
use crate::sys::{self, Epoll, Event, Interest, SignalFd};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod clients;

/// What a tunnel is made of.
pub struct Parts {
    /// Every forwarded port.
    pub bound: LocalPorts,
    /// Whether license servers' answers pass as they are.
    pub verbatim: bool,
    /// Who may use them.
    pub access: Access,
    /// The way back to the gateway.
    pub reconnect: Reconnect,
    /// Whose life bounds the tunnel's.
    pub job: Job,
    /// TERM and, in the foreground, INT and HUP.
    pub signals: SignalFd,
    /// When TERM came, if it did before a fault.
    pub term: Option<Instant>,
    /// How to begin anew.
    pub restart: Restart,
    /// Where to tell.
    pub log: Arc<Log>,
}

/// How long new clients wait for a gateway that is lost.
const MAX_WAIT_FOR_GATEWAY: Duration = Duration::from_secs(10);
/// What those are told of them who understand it.
const NO_GATEWAY: &str = "the gateway is lost";
/// Bytes read in one go. Instead of 32 kB: some 10 % more through a socket of
/// ssh's, and 4 % by libssh2, which writes 32700 bytes at most in one call.
const BUFFER: usize = 131_072;

/// The running tunnel.
pub struct Tunnel {
    acceptor: Acceptor,
    vendor_ports: VendorPorts,
    proxy: ConnectProxy,
    restart: Restart,
    reconnect: Reconnect,
    /// How a silent gateway is noticed.
    silence: Silence,
    shutdown: Shutdown,
    watchdog: Arc<Watchdog>,
    log: Arc<Log>,
    epoll: Epoll,
    pool: Pool,
    /// Clients that wait until a session is free to ask for their channel.
    queue: VecDeque<Waiting>,
    /// When the last session was lost, and why.
    lost: Option<(Instant, String)>,
    /// A further session was not to be had: those that there are have to do.
    one_session: bool,
    /// Since there were none.
    most_clients: usize,
    /// As many as the last session can serve.
    max_clients: usize,
    buffer: Vec<u8>,
}

impl Tunnel {
    /// Takes over what is bound and the first session, or a gateway that is lost.
    ///
    /// # Errors
    /// The kernel refuses a descriptor.
    pub fn new(mut parts: Parts, session: Option<Box<dyn Session>>) -> io::Result<Tunnel> {
        let token = |listener, socket| Token::Listener(listener, socket).pack();
        let log = Arc::clone(&parts.log);
        let vendor_ports = VendorPorts::new(&mut parts.bound, parts.verbatim, Arc::clone(&log));
        let shutdown = Shutdown::new(parts.job, parts.signals, parts.term)?;
        let watchdog = Watchdog::start(shutdown.urgent(), &log)?;
        let mut tunnel = Tunnel {
            acceptor: Acceptor::new(parts.bound.listeners, parts.access, token, log),
            vendor_ports,
            proxy: ConnectProxy::new(Arc::clone(&parts.log)),
            restart: parts.restart,
            silence: parts.reconnect.silence(),
            reconnect: parts.reconnect,
            shutdown,
            watchdog,
            log: parts.log,
            epoll: Epoll::new()?,
            pool: Pool::default(),
            queue: VecDeque::new(),
            lost: None,
            one_session: false,
            most_clients: 0,
            max_clients: usize::MAX,
            buffer: vec![0; BUFFER],
        };
        let (urgent, token) = (tunnel.shutdown.urgent(), Token::Urgent.pack());
        tunnel.epoll.add(&**urgent, token, Interest::READ)?;
        tunnel.acceptor.listen(&tunnel.epoll)?;
        let Some(session) = session else {
            tunnel.lost = Some((Instant::now(), "a fault".into()));
            tunnel.reconnect.want();
            return Ok(tunnel);
        };
        // It reads already: the gateway may flood from here on.
        tunnel.watchdog.turn_begins();
        tunnel.add_session(session)?;
        tunnel.watchdog.turn_ends(0, true);
        Ok(tunnel)
    }

    /// Serves until the job's end, a signal, or an error that leaves nothing to
    /// serve. Returns why it ended.
    ///
    /// A turn has four steps, in this order:
    ///
    /// 1. Each descriptor that is ready is told to whoever it belongs to, which
    ///    carries that one client's bytes, or only notes it.
    /// 2. What is more urgent than any client: the job's end, a silent or lost gateway.
    /// 3. Waiting clients ask for channels, before the sessions have their turn, so
    ///    that the questions leave with it; and once more after it, because an answer
    ///    has made a session free.
    /// 4. Each session has its turn: everything that has come for whichever client
    ///    is carried until nothing is left that no event would tell.
    pub fn serve(mut self) -> String {
        // Not before it is announced: until then a fault is the start's.
        self.plan_restart();
        let mut events = [Event::NONE; 256];
        loop {
            let ready = match self.epoll.wait(&mut events, self.due()) {
                Ok(ready) => ready,
                Err(e) => return format!("waiting failed: {e}"),
            };
            self.watchdog.turn_begins();
            let mut urgent = false;
            for event in &events[..ready] {
                urgent |= self.dispatch(event);
            }
            // Two system calls that carry nobody's bytes.
            let clients = self.clients();
            if (urgent || self.shutdown.due(clients) == Some(Duration::ZERO))
                && let Some(why) = self.shutdown.reason(clients)
            {
                return why;
            }
            if urgent {
                self.plan_restart();
            }
            self.look_after_the_gateway();
            self.connect_waiting();
            self.carry();
            self.connect_waiting();
            self.watchdog.turn_ends(self.clients(), !self.pool.has_carried());
        }
    }

    /// Tells one event to whoever it is for; true when it is urgent.
    fn dispatch(&mut self, event: &Event) -> bool {
        let token = Token::unpack(event.token());
        match token {
            Token::Urgent => {}
            Token::Attempt => {
                self.end_attempt();
                self.plan_restart();
            }
            Token::Listener(listener, socket) => self.accept(listener, socket),
            Token::Guest(number) => {
                let waiting = self.proxy.is_ready(number, &self.epoll, &mut self.buffer);
                waiting.into_iter().for_each(|waiting| self.enqueue(waiting));
            }
            Token::Session(number)
            | Token::Client(number, _)
            | Token::Channel(number, _)
            | Token::End(number, _) => {
                let carrier = self.pool.get_mut(number);
                let done = carrier.map(|carrier| match token {
                    Token::Session(_) => carrier.has_spoken(),
                    _ => carrier.is_ready(token, event, &self.epoll, &mut self.buffer),
                });
                if let Some(Err(e)) = done {
                    self.lose(number, &e.to_string());
                }
            }
        }
        token == Token::Urgent
    }

    /// What is known now is what a fault leaves.
    fn plan_restart(&mut self) {
        let (listeners, job) = (self.acceptor.listeners(), self.shutdown.job());
        let (term, learnt) = (self.shutdown.term(), self.reconnect.learnt());
        self.restart.plan(listeners, job, term, learnt);
    }

    // ---- the gateway -----------------------------------------------------

    fn add_session(&mut self, mut session: Box<dyn Session>) -> io::Result<()> {
        let Some(number) = self.pool.vacancy() else {
            return Ok(());
        };
        session.serve(self.shutdown.urgent(), self.silence.limit);
        self.max_clients = session.max_clients();
        let token = Token::Session(number).pack();
        self.epoll.add(session.socket(), token, Interest::READ)?;
        self.watchdog.add(number, session.socket())?;
        let mut carrier = Carrier::new(session, number);
        // Packets may have come with the login already.
        carrier.has_spoken()?;
        self.pool.put(number, carrier);
        Ok(())
    }

    fn want_session(&mut self, why: &str) {
        if !self.one_session && self.reconnect.is_idle() && self.reconnect.can_log_in_alone() {
            let at = self.reconnect.at_which();
            self.log.event(format_args!("{why}: opening another session{at}"));
            self.reconnect.want_now();
        }
    }

    /// A crowd gets further sessions, which go when most of it has gone and nobody
    /// waits.
    fn fit_pool(&mut self) {
        let clients = self.clients();
        if self.pool.is_too_small_for(clients) {
            self.want_session("many clients");
        }
        if self.queue.is_empty() {
            for carrier in self.pool.take_superfluous(clients) {
                self.log.detail("closed a session without clients");
                self.epoll.remove(carrier.session.socket());
                self.watchdog.remove(carrier.number);
            }
        }
    }

    fn lose(&mut self, number: usize, why: &str) {
        let Some(carrier) = self.pool.take(number) else {
            return;
        };
        self.epoll.remove(carrier.session.socket());
        let cut_off = self.watchdog.remove(number);
        let why = cut_off.as_deref().unwrap_or(why);
        let (clients, waiting) = carrier.break_off();
        match waiting {
            Some(waiting) if waiting.since.elapsed() < MAX_WAIT_FOR_GATEWAY => {
                self.queue.push_front(waiting);
            }
            Some(waiting) => self.turn_away(waiting, why),
            None => {}
        }
        sys::trim_memory();
        if self.pool.is_empty() {
            // The next gateway, or the same one later, may be more generous.
            self.one_session = false;
            self.log.event(format_args!(
                "lost {}: {why}; closed {clients} clients, reconnecting",
                self.reconnect.gateway()
            ));
            self.lost = Some((Instant::now(), why.to_owned()));
            self.reconnect.want();
        } else {
            let at = self.reconnect.at_which();
            self.log.event(format_args!("lost a session{at}: {why}; closed {clients} clients"));
        }
    }

    fn end_attempt(&mut self) {
        match self.reconnect.finish(&self.epoll) {
            None => {}
            Some(Outcome::Later(e, _) | Outcome::GivenUp(e)) if !self.pool.is_empty() => {
                self.log.event(format_args!("no further session: {e}; going on without"));
                self.one_session = true;
                self.reconnect.start_over();
            }
            Some(Outcome::Connected(session)) => {
                self.silence = self.reconnect.silence();
                if let Some((since, why)) = self.lost.take() {
                    self.log.event(format_args!(
                        "reconnected to {} after {:.1} s ({why})",
                        self.reconnect.gateway(),
                        since.elapsed().as_secs_f64()
                    ));
                }
                if let Err(e) = self.add_session(session) {
                    self.log.event(format_args!("cannot use the new connection: {e}"));
                    self.reconnect.want();
                }
            }
            Some(Outcome::Later(e, None)) => {
                self.log.event(format_args!("reconnecting failed: {e}; trying another"));
            }
            Some(Outcome::Later(e, Some(wait))) => self.log.event(format_args!(
                "reconnecting failed: {e}; trying again in {:.1} s",
                wait.as_secs_f64()
            )),
            Some(Outcome::GivenUp(e)) => {
                self.log.event(format_args!(
                    "giving up on {}: {e}; the ports stay bound until the job ends",
                    self.reconnect.all_gateways()
                ));
                self.close_waiting(NO_GATEWAY, |_| true);
            }
        }
    }

    fn look_after_the_gateway(&mut self) {
        if self.pool.is_empty() {
            self.close_waiting(NO_GATEWAY, |it| it.since.elapsed() >= MAX_WAIT_FOR_GATEWAY);
            if self.lost.is_some() {
                self.reconnect.want();
            }
        }
        for number in 0..MAX_SESSIONS {
            let Some(carrier) = self.pool.get_mut(number) else {
                continue;
            };
            if carrier.silence_due(self.silence) != Some(Duration::ZERO) {
                continue;
            }
            let lost = if carrier.session.unanswered().is_none() {
                carrier.ask_for_life().err().map(|e| e.to_string())
            } else {
                // After a suspension the answer may wait in the socket.
                let arrived = sys::poll_readable(carrier.session.socket(), Duration::ZERO);
                let seconds = self.silence.limit.as_secs();
                (!arrived.unwrap_or(false)).then(|| format!("no sign of life for {seconds} s"))
            };
            if let Some(why) = lost {
                self.lose(number, &why);
            }
        }
        let token = Token::Attempt.pack();
        self.reconnect.start_when_due(&self.epoll, token, &self.log);
        self.acceptor.resume_when_due(&self.epoll);
        self.proxy.close_late();
    }

    // ---- time ------------------------------------------------------------

    /// How long nothing is due: the wait is for events alone where it is `None`.
    fn due(&self) -> Option<Duration> {
        let until = |since: Instant, span: Duration| span.saturating_sub(since.elapsed());
        let oldest = self.queue.front().filter(|_| self.pool.is_empty());
        let mut due = vec![
            self.shutdown.due(self.clients()),
            self.reconnect.due(),
            self.acceptor.due(),
            self.proxy.due(),
            oldest.map(|waiting| until(waiting.since, MAX_WAIT_FOR_GATEWAY)),
        ];
        for carrier in self.pool.iter() {
            due.push(carrier.silence_due(self.silence));
            due.push(carrier.due());
            // Somebody may wait behind a slow one.
            let opening = carrier.opening().filter(|_| !self.queue.is_empty());
            let until_slow = opening.map(|(_, since)| until(since, SLOW_ANSWER));
            due.push(until_slow.filter(|left| !left.is_zero()));
        }
        due.into_iter().flatten().min()
    }
}
