//! Tries to connect until the license servers answer, within tries and deadline.

use super::probe::ProbeResults;
use crate::auth::Terminal;
use crate::cli::Invocation;
use crate::error::{Error, Result};
use crate::gateway::{Gateways, Session, Turn};
use crate::local::LocalPorts;
use crate::log::Log;
use crate::retry::{Backoff, Deadline};
use std::sync::Arc;

/// One counter for everything that may be tried again: the directory that knows the
/// user, gateway and servers.
pub struct Tries<'a> {
    invocation: &'a Invocation,
    deadline: Deadline,
    log: &'a Log,
    /// The one under way.
    n: u32,
}

impl<'a> Tries<'a> {
    /// The first.
    pub fn new(invocation: &'a Invocation, deadline: Deadline, log: &'a Log) -> Tries<'a> {
        Tries { invocation, deadline, log, n: 1 }
    }

    /// Tries, waits and tries again.
    ///
    /// # Errors
    /// The last try's, or the first that another try cannot mend.
    pub fn until_done<T>(&mut self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match attempt() {
                Err(e) if e.code.is_transient() => self.wait(&e)?,
                result => return result,
            }
        }
    }

    fn wait(&mut self, error: &Error) -> Result<()> {
        let (n, tries) = (self.n, self.invocation.tries);
        let gave_up =
            |why: &str| Err(Error::new(error.code, format!("{error}; gave up after {n} {why}")));
        if n >= tries {
            return gave_up(if n == 1 { "try" } else { "tries" });
        }
        let wait = Backoff::START.wait(n - 1, &mut rand::rng());
        if wait >= self.deadline.left() {
            let deadline = self.invocation.deadline.as_secs();
            return gave_up(&format!("tries, because the deadline of {deadline} s is near"));
        }
        self.log.note(format_args!(
            "try {n} of {tries} failed: {error}; next one in {:.1} s",
            wait.as_secs_f64()
        ));
        std::thread::sleep(wait);
        self.n += 1;
        Ok(())
    }
}

/// Goes round the gateways until the servers answer through one; with `--check`, through
/// all of them that it has turns at. Ends with one line for each gateway.
///
/// # Errors
/// The last round's, or the first that another round cannot mend.
pub fn connect(
    tries: &mut Tries<'_>,
    gateways: &mut Gateways,
    bound: &LocalPorts,
    log: &Arc<Log>,
) -> Result<Box<dyn Session>> {
    let (invocation, deadline) = (tries.invocation, tries.deadline);
    let mut start = Start { invocation, deadline, gateways, bound, log, kept: Vec::new() };
    let connected = tries.until_done(|| start.go_round());
    connected.inspect_err(|_| start.gateways.tell_failures(log))
}

/// What a round needs.
struct Start<'a> {
    invocation: &'a Invocation,
    deadline: Deadline,
    gateways: &'a mut Gateways,
    bound: &'a LocalPorts,
    log: &'a Arc<Log>,
    /// Sessions over which the servers did not answer, kept for the next round: logins
    /// are dear at a busy gateway.
    kept: Vec<(Turn, Box<dyn Session>)>,
}

impl Start<'_> {
    fn go_round(&mut self) -> Result<Box<dyn Session>> {
        self.gateways.begin_round();
        let all = self.invocation.check && self.gateways.count() > 1;
        let mut found = None;
        let mut works = 0;
        while let Some(turn) = self.gateways.next() {
            match self.try_through(turn) {
                Ok(session) => {
                    self.gateways.serves(turn);
                    if !all {
                        return Ok(session);
                    }
                    works += 1;
                    found = Some(session);
                    self.log.step(format_args!("{} works", self.gateways.in_the_log()));
                }
                Err(e) => {
                    let e = self.gateways.named(turn, e);
                    self.gateways.failed_at_start(turn, e, self.log)?;
                }
            }
        }
        if found.is_some() {
            let count = self.gateways.count();
            self.log.step(format_args!("{works} of {count} gateways work"));
        }
        found.ok_or_else(|| self.gateways.verdict())
    }

    /// A session that a probe has left unusable is dropped.
    fn try_through(&mut self, turn: Turn) -> Result<Box<dyn Session>> {
        let mut results = ProbeResults::new(self.bound);
        loop {
            let kept = self.kept.iter().position(|(known, _)| known.is_at_the_same(turn));
            let mut session = match kept {
                Some(at) => self.kept.swap_remove(at).1,
                None => {
                    let mut terminal = Terminal::open();
                    let prompter = terminal.as_mut().map(|terminal| terminal as _);
                    self.gateways.open(turn, prompter, self.deadline, self.log)?
                }
            };
            if !self.invocation.probe {
                return Ok(session);
            }
            let limits = self.gateways.limits(turn, self.deadline);
            results.probe(&mut *session, limits, self.log)?;
            if let Err(e) = results.check() {
                if session.is_free() {
                    self.kept.push((turn, session));
                }
                return Err(self.say_how_to_tell(turn, e));
            }
            if !session.is_free() {
                continue;
            }
            results.warn(self.log);
            return Ok(session);
        }
    }

    /// libssh2 keeps to itself what the gateway says of a forward that fails; ssh does not.
    fn say_how_to_tell(&self, turn: Turn, e: Error) -> Error {
        let text = e.to_string();
        let cannot_tell = |name: &&str| text.contains(&format!("{name} cannot be reached"));
        let mut names = self.bound.servers.iter().map(|server| server.name.as_str());
        let name = names.find(cannot_tell).filter(|_| text.contains("or its name is unknown"));
        match (name, self.gateways.by_hand(turn)) {
            (Some(to), Some(call)) => {
                Error::new(e.code, format!("{text} (which of the two: ssh -W {to} {call})"))
            }
            _ => e,
        }
    }
}
