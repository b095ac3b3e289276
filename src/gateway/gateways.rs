//! The gateways of one call: each with its own settings and standing, and whose turn it is.
//!
//! Start and reconnection go round them in the same way. In a round each has its turn,
//! one after another, in an order that is random at each start, so that a thousand jobs
//! spread. One that has not greeted in time while another is untried comes last in the
//! round, with all its time. With one gateway a round is one attempt.

use super::member::{Member, Settings, Standing};
use super::probe::prove;
use super::session::Session;
use crate::auth::{AcceptedKeys, Named, Prompter};
use crate::config::Gateway;
use crate::error::{Code, Error, Result};
use crate::log::Log;
use crate::retry::{Deadline, GREETING, Limits};
use crate::target::Destination;
use rand::seq::SliceRandom;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All of them.
pub struct Gateways {
    settings: Settings,
    /// In this start's order.
    members: Vec<Member>,
    /// By which host keys they have been known so far.
    accepted: AcceptedKeys,
    /// Whose turn comes in this round, and who comes last in it.
    untried: VecDeque<usize>,
    silent: VecDeque<usize>,
    /// Whose turn at the start has failed, the last one last.
    failed: Vec<usize>,
    /// Through which the tunnel goes, or went last.
    current: usize,
    /// The tunnel serves: nobody is there to be asked.
    running: bool,
    /// The license servers of which one has to answer through a gateway that is new to a
    /// running tunnel.
    probes: Vec<Destination>,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
pub struct Turn {
    member: usize,
    /// Another one is untried: the time for the greeting is short.
    hurried: bool,
}

impl Turn {
    /// Whether both are of one gateway.
    pub fn is_at_the_same(self, other: Turn) -> bool {
        self.member == other.member
    }
}

impl Gateways {
    /// Those names (`[user@]host`), in a random order, each as likely as any other.
    pub fn new(names: &[String], settings: Settings) -> Gateways {
        let mut members: Vec<Member> = names.iter().map(|name| Member::new(name)).collect();
        members.shuffle(&mut rand::rng());
        Gateways {
            settings,
            members,
            accepted: AcceptedKeys::default(),
            untried: VecDeque::new(),
            silent: VecDeque::new(),
            failed: Vec::new(),
            current: 0,
            running: false,
            probes: Vec::new(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    fn are_several(&self) -> bool {
        self.count() > 1
    }

    /// How the log calls the one that the tunnel goes through.
    pub fn in_the_log(&self) -> String {
        match self.are_several() {
            true => format!("the gateway {}", self.members[self.current].name),
            false => "the gateway".to_owned(),
        }
    }

    /// The settings of the one that the tunnel goes through, or of the first that has any.
    ///
    /// # Panics
    /// None has had its turn.
    pub fn current(&self) -> &Gateway {
        let all = self.members[self.current..].iter().chain(&self.members);
        let route = all.filter_map(|member| member.route.as_ref()).next();
        &route.expect("a gateway that has had its turn").gateway
    }

    /// Whether a login at the one that the tunnel goes through needs nobody at a keyboard.
    pub fn can_log_in_alone(&self) -> bool {
        self.members[self.current].can_log_in_alone()
    }

    // ---- rounds ------------------------------------------------------------

    /// Begins a round of all that may have a turn now; whose tunnel has just been lost
    /// comes last.
    pub fn begin_round(&mut self) {
        let now = Instant::now();
        let may = |n: &usize| self.members[*n].rest(now) == Some(Duration::ZERO);
        let mut round: VecDeque<usize> = (0..self.count()).filter(may).collect();
        if self.running {
            let lost = round.iter().position(|n| *n == self.current);
            let lost = lost.and_then(|at| round.remove(at));
            round.extend(lost);
        }
        self.untried = round;
        self.silent.clear();
    }

    /// Whose turn it is in this round; `None`: it is over.
    pub fn next(&mut self) -> Option<Turn> {
        if let Some(member) = self.untried.pop_front() {
            return Some(Turn { member, hurried: !self.untried.is_empty() });
        }
        self.silent.pop_front().map(|member| Turn { member, hurried: false })
    }

    /// Whether the round is over.
    pub fn is_round_over(&self) -> bool {
        self.untried.is_empty() && self.silent.is_empty()
    }

    /// A turn, outside any round, of the one that the tunnel goes through.
    pub fn again(&self) -> Turn {
        Turn { member: self.current, hurried: false }
    }

    /// How long until one may have a turn, where none may now; nothing if that is never.
    pub fn rest(&self) -> Option<Duration> {
        let now = Instant::now();
        self.members.iter().filter_map(|member| member.rest(now)).min()
    }

    // ---- a turn ------------------------------------------------------------

    /// Reads the settings of the first that has any.
    ///
    /// # Errors
    /// As [`Gateways::failed_at_start`] has them.
    pub fn resolve_one(&mut self, deadline: Deadline, log: &Log) -> Result<()> {
        self.begin_round();
        while let Some(turn) = self.next() {
            match self.resolve(turn.member, deadline, log) {
                Ok(()) => return Ok(()),
                // Nobody knows this user at the moment, at whatever gateway.
                Err(e) if e.code.is_transient() => return Err(e),
                Err(e) => self.failed_at_start(turn, e, log)?,
            }
        }
        Err(self.verdict())
    }

    fn resolve(&mut self, n: usize, deadline: Deadline, log: &Log) -> Result<()> {
        if self.members[n].route.is_some() {
            return Ok(());
        }
        let (name, settings) = (&self.members[n].name, &self.settings);
        let mut route = settings.route(name, self.running, deadline, log)?;
        for known in self.members.iter().filter_map(|member| member.route.as_ref()) {
            route.credentials.take_passphrases(&known.credentials);
        }
        self.members[n].route = Some(route);
        self.members[n].teach();
        Ok(())
    }

    fn step(&self, turn: Turn) -> Duration {
        let route = self.members[turn.member].route.as_ref();
        self.settings.step(route.map(|route| &route.gateway))
    }

    /// What a person gives ssh to get to that one.
    pub fn by_hand(&self, turn: Turn) -> Option<&str> {
        let route = self.members[turn.member].route.as_ref();
        route.map(|route| route.gateway.by_hand.as_str())
    }

    /// The limits of a turn, once the gateway's settings are known.
    pub fn limits(&self, turn: Turn, deadline: Deadline) -> Limits {
        let step = self.step(turn);
        let greeting = (turn.hurried && step > GREETING).then(|| Deadline::after(GREETING));
        Limits { step, deadline, greeting }
    }

    /// Connects, checks the host key and logs in; where the tunnel runs, also asks a
    /// gateway that it has not gone through yet for a license server: behind a firewall
    /// it may be of no use.
    ///
    /// # Errors
    /// Those of [`Route::open`]; [`Code::ServerDown`]. With several gateways the message
    /// names this one.
    pub fn open(
        &mut self,
        turn: Turn,
        prompter: Option<&mut dyn Prompter>,
        deadline: Deadline,
        log: &Arc<Log>,
    ) -> Result<Box<dyn Session>> {
        let opened = self.open_unnamed(turn, prompter, deadline, log);
        opened.map_err(|e| self.named(turn, e))
    }

    /// The same for a running tunnel: with nobody to ask, and in four steps' time.
    ///
    /// # Errors
    /// Those of [`Gateways::open`].
    pub fn open_again(&mut self, turn: Turn, log: &Arc<Log>) -> Result<Box<dyn Session>> {
        self.open(turn, None, Deadline::after(self.step(turn) * 4), log)
    }

    fn open_unnamed(
        &mut self,
        turn: Turn,
        prompter: Option<&mut dyn Prompter>,
        deadline: Deadline,
        log: &Arc<Log>,
    ) -> Result<Box<dyn Session>> {
        self.resolve(turn.member, deadline, log)?;
        let limits = self.limits(turn, deadline);
        let several = self.are_several();
        let member = &mut self.members[turn.member];
        let name = several.then_some(member.name.as_str());
        let mut person = prompter.map(|prompter| Named { prompter, name });
        let prompter = person.as_mut().map(|person| person as _);
        let route = member.route.as_mut();
        let route =
            route.ok_or_else(|| Error::new(Code::Internal, "a gateway without settings"))?;
        let opened = route.open(&mut self.accepted, prompter, limits, log);
        if opened.is_err() && route.silent {
            self.silent.push_back(turn.member);
        }
        let mut session = opened?;
        if self.running && !member.proven {
            prove(&mut *session, &self.probes, limits)?;
        }
        Ok(session)
    }

    /// An error that says at which of several gateways it happened.
    pub fn named(&self, turn: Turn, e: Error) -> Error {
        let (name, text) = (&self.members[turn.member].name, e.to_string());
        let said = text.strip_prefix("gateway ").and_then(|rest| rest.strip_prefix(&**name));
        match said.is_some_and(|rest| rest.starts_with([' ', ':'])) || !self.are_several() {
            true => e,
            false => Error::new(e.code, format!("gateway {name}: {text}")),
        }
    }

    /// That one serves.
    pub fn serves(&mut self, turn: Turn) {
        self.current = turn.member;
        let member = &mut self.members[turn.member];
        member.proven = true;
        member.failure = None;
        self.forgive();
    }

    /// Forgets what the one that the tunnel goes through has refused.
    pub fn forgive(&mut self) {
        self.members[self.current].forgive();
    }

    // ---- the start ---------------------------------------------------------

    /// A turn at the start has failed. A gateway that another try would not mend has no
    /// further one, and that is said where others are left.
    ///
    /// # Errors
    /// What no other gateway would mend either.
    pub fn failed_at_start(&mut self, turn: Turn, e: Error, log: &Log) -> Result<()> {
        let member = &mut self.members[turn.member];
        match e.code {
            Code::GatewayDown | Code::ServerDown => {}
            Code::HostKey | Code::Refused | Code::Config => member.standing = Standing::Closed,
            _ => return Err(e),
        }
        member.failure = Some(e.clone());
        let closed = member.standing == Standing::Closed;
        let are_left = self.members.iter().any(|member| member.standing == Standing::Open);
        match e.code {
            _ if !self.are_several() => {}
            code if self.settings.check => {
                log.step(format_args!("{e} (exit code {})", code as u8));
            }
            Code::HostKey if are_left => {
                log.note(format_args!("warning: {e}; this gateway gets nothing, others are tried"));
            }
            _ if closed && are_left => log.note(format_args!("{e}; others are tried")),
            _ => log.event(&e),
        }
        self.failed.retain(|n| *n != turn.member);
        self.failed.push(turn.member);
        Ok(())
    }

    /// Whose failure decides: where the license servers do not answer, one that has said
    /// so; else one that may be back in the next round; else the last one.
    fn deciding(&self) -> Option<(usize, &Error)> {
        let failures = || {
            let all = self.failed.iter().rev();
            all.filter_map(|n| Some((*n, self.members[*n].failure.as_ref()?)))
        };
        let of = |code| failures().find(|(_, e)| e.code == code);
        of(Code::ServerDown).or_else(|| of(Code::GatewayDown)).or_else(|| failures().next())
    }

    /// Why none serves.
    pub fn verdict(&self) -> Error {
        match self.deciding() {
            Some((_, e)) if self.are_several() => {
                let count = self.count();
                Error::new(e.code, format!("{e}; none of the {count} gateways serves"))
            }
            Some((_, e)) => e.clone(),
            None => Error::new(Code::Internal, "no gateway was tried"),
        }
    }

    /// One line for each that is still open, besides the one of the [`verdict`](Gateways::verdict).
    pub fn tell_failures(&self, log: &Log) {
        let deciding = self.deciding().map(|(n, _)| n);
        for (n, member) in self.members.iter().enumerate() {
            if let Some(e) = &member.failure
                && Some(n) != deciding
                && member.standing == Standing::Open
            {
                log.note(e);
            }
        }
    }

    // ---- a running tunnel --------------------------------------------------

    /// The tunnel runs from here on, to these license servers, where they may be asked. A
    /// login refused at the start is the first in a row.
    pub fn run(&mut self, probes: Vec<Destination>) {
        self.running = true;
        self.probes = probes;
        for n in 0..self.count() {
            let failure = self.members[n].failure.take();
            if failure.is_some_and(|e| e.code == Code::Refused) {
                self.members[n].refused();
            }
        }
    }

    /// What has been learnt of each, in words for [`Gateways::take_over`].
    pub fn in_words(&self) -> Vec<String> {
        self.members.iter().map(Member::in_words).collect()
    }

    /// Goes on where the process before a fault was.
    pub fn take_over(&mut self, words: &[String]) {
        for member in &mut self.members {
            let _ = words.iter().find_map(|words| member.take_over(words));
        }
    }

    /// A turn of a running tunnel has failed.
    pub fn failed_while_running(&mut self, turn: Turn, code: Code) {
        self.members[turn.member].failed_while_running(code);
    }
}

#[cfg(test)]
mod tests;
