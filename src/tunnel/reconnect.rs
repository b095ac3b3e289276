//! Gets back to a gateway, without hammering it and without locking the account.

use crate::config::Silence;
use crate::error::{Code, Error};
use crate::gateway::{Gateways, Session, Turn};
use crate::log::Log;
use crate::retry::Backoff;
use crate::sys::{Epoll, Interest};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The way back to a gateway.
pub struct Reconnect {
    /// Locked by the attempt under way, which nobody here may wait for.
    gateways: Arc<Mutex<Gateways>>,
    several: bool,
    /// How the log calls the one that the tunnel goes through, and how long that may be
    /// silent.
    gateway: String,
    silence: Silence,
    phase: Phase,
    /// Rounds in a row that have failed.
    failures: u32,
    /// A session beside a good one is wanted, at the same gateway.
    further: bool,
    /// What the gateways have taught up to the last attempt, for a fault.
    learnt: Vec<String>,
}

enum Phase {
    /// Nothing is wanted.
    Idle,
    /// The next attempt begins then.
    Until(Instant),
    /// A thread is at it.
    Trying(Attempt),
    /// It makes no sense to try again.
    GivenUp,
}

struct Attempt {
    turn: Turn,
    thread: JoinHandle<Result<Box<dyn Session>, Error>>,
    /// Reads end of file when the thread is done, however it ended.
    done: UnixStream,
}

/// What an attempt came to.
pub enum Outcome {
    /// Back again.
    Connected(Box<dyn Session>),
    /// Not yet; the next attempt is that far away, or made at another gateway at once.
    Later(Error, Option<Duration>),
    /// Never.
    GivenUp(Error),
}

impl Reconnect {
    /// By those gateways.
    pub fn new(gateways: Gateways) -> Reconnect {
        Reconnect {
            several: gateways.count() > 1,
            gateway: gateways.in_the_log(),
            silence: gateways.current().silence,
            learnt: gateways.in_words(),
            // After a fault all may have had their last turn before it.
            phase: if gateways.rest().is_some() { Phase::Idle } else { Phase::GivenUp },
            gateways: Arc::new(Mutex::new(gateways)),
            failures: 0,
            further: false,
        }
    }

    /// As if that many attempts had failed already.
    pub fn after_failures(self, failures: u32) -> Reconnect {
        Reconnect { failures, ..self }
    }

    /// What the gateways have taught, for [`Gateways::take_over`] after a fault.
    pub fn learnt(&self) -> &[String] {
        &self.learnt
    }

    /// Whether clients may hope.
    pub fn has_given_up(&self) -> bool {
        matches!(self.phase, Phase::GivenUp)
    }

    /// Whether nothing is going on.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether a login needs nobody at a keyboard.
    pub fn can_log_in_alone(&self) -> bool {
        lock(&self.gateways).can_log_in_alone()
    }

    /// How the log calls the gateway that the tunnel goes through.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Where a session is, for the log: nothing where there is one gateway alone.
    pub fn at_which(&self) -> String {
        if self.several { format!(" at {}", self.gateway) } else { String::new() }
    }

    /// How the log calls all of them.
    pub fn all_gateways(&self) -> &'static str {
        if self.several { "all gateways" } else { "the gateway" }
    }

    /// How long that may be silent.
    pub fn silence(&self) -> Silence {
        self.silence
    }

    /// Wants a connection. A thousand tunnels lose their gateway in the same
    /// second: the first wait is random already, unless there is another to go to.
    pub fn want(&mut self) {
        if self.is_idle() {
            self.further = false;
            lock(&self.gateways).begin_round();
            // A tunnel that begins anew after faults has failures to wait for.
            let at_once = self.several && self.failures == 0;
            let wait = if at_once { Duration::ZERO } else { self.backoff() };
            self.phase = Phase::Until(Instant::now() + wait);
        }
    }

    /// Forgets an attempt at a further session that has failed: what it met does
    /// not count for the connection that the tunnel lives on.
    pub fn start_over(&mut self) {
        if !matches!(self.phase, Phase::Trying(_)) {
            self.phase = Phase::Idle;
            self.failures = 0;
            let mut gateways = lock(&self.gateways);
            gateways.forgive();
            self.learnt = gateways.in_words();
        }
    }

    /// Wants a further connection beside a good one, at once.
    pub fn want_now(&mut self) {
        if self.is_idle() {
            self.further = true;
            self.phase = Phase::Until(Instant::now());
        }
    }

    fn backoff(&self) -> Duration {
        Backoff::GATEWAY.wait(self.failures, &mut rand::rng())
    }

    /// How long until [`Reconnect::start_when_due`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Until(then) => Some(then.saturating_duration_since(Instant::now())),
            _ => None,
        }
    }

    /// Starts an attempt when its time has come. `token` will be told by `epoll`
    /// when it is over.
    pub fn start_when_due(&mut self, epoll: &Epoll, token: u64, log: &Arc<Log>) {
        if self.due() != Some(Duration::ZERO) {
            return;
        }
        let Some(turn) = self.next_turn() else {
            let rest = lock(&self.gateways).rest().unwrap_or(Backoff::GATEWAY.cap);
            self.phase = Phase::Until(Instant::now() + rest);
            return;
        };
        match self.start(turn, epoll, token, log) {
            Ok(attempt) => self.phase = Phase::Trying(attempt),
            Err(e) => {
                // No thread or no descriptors just now.
                log.event(format_args!("cannot reconnect yet: {e}"));
                self.failures += 1;
                self.phase = Phase::Until(Instant::now() + Backoff::GATEWAY.cap);
            }
        }
    }

    fn next_turn(&self) -> Option<Turn> {
        let mut gateways = lock(&self.gateways);
        if self.further {
            return Some(gateways.again());
        }
        gateways.next().or_else(|| {
            gateways.begin_round();
            gateways.next()
        })
    }

    fn start(
        &mut self,
        turn: Turn,
        epoll: &Epoll,
        token: u64,
        log: &Arc<Log>,
    ) -> std::io::Result<Attempt> {
        let (done, end) = UnixStream::pair()?;
        epoll.add(&done, token, Interest::READ)?;
        let gateways = Arc::clone(&self.gateways);
        let log = Arc::clone(log);
        let thread = thread::Builder::new().spawn(move || {
            // Closed when this thread ends, in whatever way.
            let _end = end;
            lock(&gateways).open_again(turn, &log)
        })?;
        Ok(Attempt { turn, thread, done })
    }

    /// Collects the attempt that has just ended.
    pub fn finish(&mut self, epoll: &Epoll) -> Option<Outcome> {
        let Phase::Trying(attempt) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return None;
        };
        epoll.remove(attempt.done.as_fd());
        let result = attempt.thread.join();
        let gateways = Arc::clone(&self.gateways);
        let mut gateways = lock(&gateways);
        let error = match result {
            Ok(Ok(session)) => {
                self.failures = 0;
                gateways.serves(attempt.turn);
                self.gateway = gateways.in_the_log();
                self.silence = gateways.current().silence;
                self.learnt = gateways.in_words();
                return Some(Outcome::Connected(session));
            }
            Ok(Err(e)) => e,
            Err(_) => Error::new(Code::Internal, "the reconnecting thread died"),
        };
        gateways.failed_while_running(attempt.turn, error.code);
        self.learnt = gateways.in_words();
        if std::mem::take(&mut self.further) && self.several {
            // Where the good one has been lost meanwhile.
            gateways.begin_round();
        }
        let another = !gateways.is_round_over();
        let Some(rest) = gateways.rest() else {
            self.phase = Phase::GivenUp;
            return Some(Outcome::GivenUp(error));
        };
        self.failures += u32::from(!another);
        let wait = match another {
            true => None,
            false if rest.is_zero() => Some(self.backoff()),
            false => Some(rest),
        };
        self.phase = Phase::Until(Instant::now() + wait.unwrap_or_default());
        Some(Outcome::Later(error, wait))
    }
}

/// A panic in the thread leaves them as good as they were.
fn lock(gateways: &Mutex<Gateways>) -> MutexGuard<'_, Gateways> {
    gateways.lock().unwrap_or_else(|e| e.into_inner())
}
