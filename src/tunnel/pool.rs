//! The sessions with the gateway that are open: one is the rule.
//!
//! libssh2 can ask for one channel at a time, and a license server that swallows
//! packets holds the question for minutes: then another server's client gets a
//! further session, with a login of its own. So do hundreds of clients, for as
//! long as they are there: each turn of sshd, and of ssh, looks at all channels
//! of its session.

use super::carrier::Carrier;
use crate::target::Destination;
use std::time::{Duration, Instant};

/// Sessions at most, however many license servers there are.
pub const MAX_SESSIONS: usize = 8;
/// A question to the gateway that takes longer holds up other servers' clients.
pub const SLOW_ANSWER: Duration = Duration::from_millis(250);
/// Sessions at most for a crowd of clients, and how many clients deserve one.
const MAX_SESSIONS_OF_CROWD: usize = 4;
const CLIENTS_PER_SESSION: usize = 150;

/// All sessions with their clients; each keeps its number while it lives.
#[derive(Default)]
pub struct Pool([Option<Carrier>; MAX_SESSIONS]);

impl Pool {
    /// The sessions that there are.
    pub fn iter(&self) -> impl Iterator<Item = &Carrier> {
        self.0.iter().flatten()
    }

    /// Whether bytes of clients have moved since this was last asked.
    pub fn has_carried(&mut self) -> bool {
        let all = self.0.iter_mut().flatten();
        let carried = all.map(|carrier| std::mem::take(&mut carrier.carried));
        carried.filter(|carried| *carried).count() > 0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The session with that number.
    pub fn get_mut(&mut self, number: usize) -> Option<&mut Carrier> {
        self.0.get_mut(number)?.as_mut()
    }

    /// A number without a session.
    pub fn vacancy(&self) -> Option<usize> {
        self.0.iter().position(Option::is_none)
    }

    /// Adds a session.
    pub fn put(&mut self, number: usize, carrier: Carrier) {
        self.0[number] = Some(carrier);
    }

    /// Takes a session away.
    pub fn take(&mut self, number: usize) -> Option<Carrier> {
        self.0.get_mut(number)?.take()
    }

    /// The free session with the fewest clients.
    pub fn free(&mut self) -> Option<&mut Carrier> {
        let all = self.0.iter_mut().flatten();
        all.filter(|carrier| carrier.session.is_free()).min_by_key(|carrier| carrier.clients())
    }

    /// How many clients are connected or being connected.
    pub fn clients(&self) -> usize {
        self.iter().map(Carrier::clients).sum()
    }

    /// Whether each has asked the gateway for a channel just now.
    pub fn are_all_asking(&self) -> bool {
        let young = |since: Instant| since.elapsed() < SLOW_ANSWER;
        self.iter().all(|carrier| carrier.opening().is_some_and(|(_, since)| young(since)))
    }

    /// The license servers that are slow to answer.
    pub fn slow(&self) -> impl Iterator<Item = &Destination> {
        let openings = self.iter().filter_map(Carrier::opening);
        let slow = openings.filter(|(_, since)| since.elapsed() >= SLOW_ANSWER);
        slow.map(|(to, _)| to)
    }

    /// Whether every session waits for a slow answer, and a further one would not.
    pub fn are_all_slow(&self) -> bool {
        self.slow().count() == self.iter().count() && self.may_grow()
    }

    /// Whether that many clients deserve a further session.
    pub fn is_too_small_for(&self, clients: usize) -> bool {
        let sessions = self.iter().count();
        let crowded = clients > CLIENTS_PER_SESSION * sessions;
        crowded && sessions < MAX_SESSIONS_OF_CROWD && self.may_grow()
    }

    fn may_grow(&self) -> bool {
        !self.is_empty() && self.vacancy().is_some()
    }

    /// Takes sessions without clients away when that many clients in all need fewer,
    /// unless one waits for a license server.
    pub fn take_superfluous(&mut self, clients: usize) -> Vec<Carrier> {
        let mut sessions = self.iter().count();
        let mut taken = Vec::new();
        if self.iter().any(|carrier| carrier.opening().is_some()) {
            return taken;
        }
        for place in &mut self.0 {
            if sessions > 1
                && clients * 2 <= CLIENTS_PER_SESSION * (sessions - 1)
                && let Some(carrier) = place.take_if(|carrier| carrier.is_empty())
            {
                taken.push(carrier);
                sessions -= 1;
            }
        }
        taken
    }
}
