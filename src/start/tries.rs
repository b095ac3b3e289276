//! Tries to connect until the license servers answer, within tries and deadline.

use super::probe::ProbeResults;
use crate::auth::Terminal;
use crate::cli::Invocation;
use crate::error::{Error, Result};
use crate::gateway::{Route, Session};
use crate::local::LocalPorts;
use crate::log::Log;
use crate::retry::{Backoff, Limits};
use std::sync::Arc;

/// Tries, waits and tries again, with one counter for gateway and servers.
///
/// # Errors
/// The last try's, or the first that another try cannot mend.
pub fn connect(
    invocation: &Invocation,
    route: &mut Route,
    bound: &LocalPorts,
    limits: Limits,
    log: &Arc<Log>,
) -> Result<Box<dyn Session>> {
    let tries = invocation.tries;
    let mut kept = None;
    let mut n = 1;
    loop {
        let error = match try_once(&mut kept, invocation.probe, route, bound, limits, log) {
            Err(e) if e.code.is_transient() => e,
            result => return result,
        };
        let gave_up =
            |why: &str| Error::new(error.code, format!("{error}; gave up after {n} {why}"));
        if n == tries {
            return Err(gave_up(if n == 1 { "try" } else { "tries" }));
        }
        let wait = Backoff::START.wait(n - 1, &mut rand::rng());
        if wait >= limits.deadline.left() {
            let deadline = invocation.deadline.as_secs();
            let why = format!("tries, because the deadline of {deadline} s is near");
            return Err(gave_up(&why));
        }
        log.note(format_args!(
            "try {n} of {tries} failed: {error}; next one in {:.1} s",
            wait.as_secs_f64()
        ));
        std::thread::sleep(wait);
        n += 1;
    }
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
