//! The connections to the gateway that are open: one is the rule.
//!
//! libssh2 can ask for one stream at a time, and a license server that swallows
//! packets holds the question for minutes: then another server's client gets a
//! further lane, with a login of its own. So do hundreds of clients, for as
//! long as they are there: each turn of sshd, and of ssh, looks at all streams
//! of its session.

use super::carrier::Lane;
use std::time::{Duration, Instant};

/// Lanes at most, however many license servers there are.
pub const LANES: usize = 8;
/// A question to the gateway that takes longer holds up other servers' clients.
pub const SLOW: Duration = Duration::from_millis(250);
/// Lanes that a crowd of clients gets, and how many clients make one.
const CREW: usize = 4;
const CROWD: usize = 150;

/// All lanes; each keeps its number while it lives.
#[derive(Default)]
pub struct Lanes([Option<Lane>; LANES]);

impl Lanes {
    /// The lanes that there are.
    pub fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The lane with that number.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Lane> {
        self.0.get_mut(index)?.as_mut()
    }

    /// A number without a lane.
    pub fn vacancy(&self) -> Option<usize> {
        self.0.iter().position(Option::is_none)
    }

    /// Adds a lane.
    pub fn put(&mut self, index: usize, lane: Lane) {
        self.0[index] = Some(lane);
    }

    /// Takes a lane away.
    pub fn take(&mut self, index: usize) -> Option<Lane> {
        self.0.get_mut(index)?.take()
    }

    /// The free lane with the fewest clients.
    pub fn free(&mut self) -> Option<&mut Lane> {
        let lanes = self.0.iter_mut().flatten();
        lanes
            .filter(|lane| lane.link.is_free())
            .min_by_key(|lane| lane.clients())
    }

    /// Whether each has asked the gateway for a stream just now.
    pub fn are_all_asking(&self) -> bool {
        let young = |since: Instant| since.elapsed() < SLOW;
        self.iter()
            .all(|lane| lane.opening().is_some_and(|(_, since)| young(since)))
    }

    /// The doors whose license servers are slow to answer.
    pub fn slow(&self) -> impl Iterator<Item = usize> {
        let openings = self.iter().filter_map(Lane::opening);
        openings.filter_map(|(door, since)| (since.elapsed() >= SLOW).then_some(door))
    }

    /// Whether every lane waits for a slow answer, and a further one would not.
    pub fn are_all_slow(&self) -> bool {
        self.slow().count() == self.iter().count() && self.may_have_company()
    }

    /// Whether that many clients deserve a further lane.
    pub fn are_too_few_for(&self, clients: usize) -> bool {
        let lanes = self.iter().count();
        lanes < CREW && clients > CROWD * lanes && self.may_have_company()
    }

    fn may_have_company(&self) -> bool {
        !self.is_empty() && self.vacancy().is_some()
    }

    /// Takes lanes without clients away when that many clients in all need fewer,
    /// unless one waits for a license server.
    pub fn take_superfluous(&mut self, clients: usize) -> Vec<Lane> {
        let mut lanes = self.iter().count();
        let mut taken = Vec::new();
        if self.iter().any(|lane| lane.opening().is_some()) {
            return taken;
        }
        for slot in &mut self.0 {
            if lanes > 1
                && clients * 2 <= CROWD * (lanes - 1)
                && let Some(lane) = slot.take_if(|lane| lane.is_empty())
            {
                taken.push(lane);
                lanes -= 1;
            }
        }
        taken
    }
}
