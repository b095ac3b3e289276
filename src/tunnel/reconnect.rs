//! Gets back to the gateway, without hammering it and without locking the account.

use crate::error::{Code, Error};
use crate::gateway::{Route, Session};
use crate::log::Log;
use crate::retry::{Backoff, Deadline, Limits, refusal_waits};
use crate::sys::{Epoll, Interest};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The way back to the gateway.
pub struct Reconnect {
    /// Locked by the attempt under way.
    route: Arc<Mutex<Route>>,
    step: Duration,
    phase: Phase,
    /// Failures in a row, of any kind.
    failures: u32,
    /// Refused logins in a row.
    refusals: u32,
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
    thread: JoinHandle<Result<Box<dyn Session>, Error>>,
    /// Reads end of file when the thread is done, however it ended.
    done: UnixStream,
}

/// What an attempt came to.
pub enum Outcome {
    /// Back again.
    Connected(Box<dyn Session>),
    /// Not yet; the next attempt is that far away.
    Later(Error, Duration),
    /// Never.
    GivenUp(Error),
}

impl Reconnect {
    /// The way by which the first connection was made; `step` limits each step.
    pub fn new(route: Route, step: Duration) -> Reconnect {
        Reconnect {
            route: Arc::new(Mutex::new(route)),
            step,
            phase: Phase::Idle,
            failures: 0,
            refusals: 0,
        }
    }

    /// As if that many attempts had failed already.
    pub fn after_failures(self, failures: u32) -> Reconnect {
        Reconnect { failures, ..self }
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
        lock(&self.route).can_log_in_alone()
    }

    /// Wants a connection. A thousand tunnels lose their gateway in the same
    /// second: the first wait is random already.
    pub fn want(&mut self) {
        if self.is_idle() {
            self.phase = Phase::Until(Instant::now() + self.backoff());
        }
    }

    /// Forgets an attempt at a further session that has failed: what it met does
    /// not count for the connection that the tunnel lives on.
    pub fn start_over(&mut self) {
        if !matches!(self.phase, Phase::Trying(_)) {
            self.phase = Phase::Idle;
            self.failures = 0;
            self.refusals = 0;
        }
    }

    /// Wants a further connection beside a good one, at once.
    pub fn want_now(&mut self) {
        if self.is_idle() {
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
        match self.start(epoll, token, log) {
            Ok(attempt) => self.phase = Phase::Trying(attempt),
            Err(e) => {
                // No thread or no descriptors just now.
                log.event(format_args!("cannot reconnect yet: {e}"));
                self.failures += 1;
                self.phase = Phase::Until(Instant::now() + Backoff::GATEWAY.cap);
            }
        }
    }

    fn start(&mut self, epoll: &Epoll, token: u64, log: &Arc<Log>) -> std::io::Result<Attempt> {
        let (done, end) = UnixStream::pair()?;
        epoll.add(&done, token, Interest::READ)?;
        let route = Arc::clone(&self.route);
        let log = Arc::clone(log);
        let limits = Limits { step: self.step, deadline: Deadline::after(self.step * 4) };
        let thread = thread::Builder::new().spawn(move || {
            // Closed when this thread ends, in whatever way.
            let _end = end;
            lock(&route).open(None, limits, &log)
        })?;
        Ok(Attempt { thread, done })
    }

    /// Collects the attempt that has just ended.
    pub fn finish(&mut self, epoll: &Epoll) -> Option<Outcome> {
        let Phase::Trying(attempt) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return None;
        };
        epoll.remove(attempt.done.as_fd());
        let error = match attempt.thread.join() {
            Ok(Ok(session)) => {
                self.failures = 0;
                self.refusals = 0;
                return Some(Outcome::Connected(session));
            }
            Ok(Err(e)) => e,
            Err(_) => Error::new(Code::Internal, "the reconnecting thread died"),
        };
        self.failures += 1;
        let wait = match error.code {
            Code::HostKey => None,
            Code::Refused if !self.can_log_in_alone() => None,
            Code::Refused => {
                self.refusals += 1;
                // The first attempt was one of the ten.
                refusal_waits().nth(self.refusals as usize - 1)
            }
            _ => {
                self.refusals = 0;
                Some(self.backoff())
            }
        };
        Some(match wait {
            Some(wait) => {
                self.phase = Phase::Until(Instant::now() + wait);
                Outcome::Later(error, wait)
            }
            None => {
                self.phase = Phase::GivenUp;
                Outcome::GivenUp(error)
            }
        })
    }
}

/// A panic in the thread leaves the route as good as it was.
fn lock(route: &Mutex<Route>) -> MutexGuard<'_, Route> {
    route.lock().unwrap_or_else(|e| e.into_inner())
}
