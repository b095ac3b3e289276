//! Tries to connect until the license servers answer, within tries and deadline.

use super::probe::ProbeResults;
use crate::auth::Terminal;
use crate::cli::Invocation;
use crate::error::{Error, Result};
use crate::gateway::{Route, Session};
use crate::local::LocalPorts;
use crate::log::Log;
use crate::retry::{Backoff, Deadline, Limits};
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

/// Tries to connect until the servers answer.
///
/// # Errors
/// The last try's, or the first that another try cannot mend.
pub fn connect(
    tries: &mut Tries<'_>,
    probe: bool,
    route: &mut Route,
    bound: &LocalPorts,
    limits: Limits,
    log: &Arc<Log>,
) -> Result<Box<dyn Session>> {
    let mut kept = None;
    tries.until_done(|| try_once(&mut kept, probe, route, bound, limits, log))
}

/// A session over which the servers did not answer is kept for the next try: logins
/// are dear at a busy gateway. One that a probe has left unusable is dropped.
fn try_once(
    kept: &mut Option<Box<dyn Session>>,
    probe: bool,
    route: &mut Route,
    bound: &LocalPorts,
    limits: Limits,
    log: &Arc<Log>,
) -> Result<Box<dyn Session>> {
    let mut results = ProbeResults::new(bound);
    loop {
        let mut session = match kept.take() {
            Some(session) => session,
            None => {
                let mut terminal = Terminal::open();
                let prompter = terminal.as_mut().map(|terminal| terminal as _);
                route.open(prompter, limits, log)?
            }
        };
        if !probe {
            return Ok(session);
        }
        results.probe(&mut *session, limits, log)?;
        if !session.is_free() {
            continue;
        }
        if let Err(e) = results.check() {
            *kept = Some(session);
            return Err(e);
        }
        results.warn(log);
        return Ok(session);
    }
}
