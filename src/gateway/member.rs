//! One of the gateways: how it is reached, and whether it has further turns.

use super::route::{Route, check};
use crate::auth::Credentials;
use crate::config::{self, Gateway, Strict, Via};
use crate::error::{Code, Error, Result};
use crate::log::Log;
use crate::retry::{Deadline, refusal_waits};
use crate::sys;
use crate::target::Destination;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// Limit for one connection step where neither `--timeout` nor ConnectTimeout is given.
const STEP_LIMIT: Duration = Duration::from_secs(15);

/// What the command line says of all gateways.
pub struct Settings {
    /// ssh's options, as typed.
    pub ssh_options: Vec<OsString>,
    /// The same with absolute names of files: the daemon lives in `/`.
    pub absolute_options: Vec<OsString>,
    /// Who is to speak to them.
    pub via: Via,
    /// `-C`
    pub compress: bool,
    /// Where `-L` leads.
    pub forwards: Vec<Destination>,
    /// `--check`: all are tried, and nothing is written down.
    pub check: bool,
    /// `--timeout`
    pub timeout: Option<Duration>,
}

impl Settings {
    /// How this gateway is reached, and what there is to show to it.
    ///
    /// # Errors
    /// Those of [`config::resolve`]; [`Code::Config`] where `--via ssh` cannot be.
    pub fn route(
        &self,
        name: &str,
        in_daemon: bool,
        deadline: Deadline,
        log: &Log,
    ) -> Result<Route> {
        let options = if in_daemon { &self.absolute_options } else { &self.ssh_options };
        let limit = self.step(None).min(deadline.left());
        let mut gateway = config::resolve(name, options, limit, log)?;
        gateway.algorithms.compression |= self.compress;
        if self.check && gateway.host_key.strict == Strict::AcceptNew {
            gateway.host_key.strict = Strict::AcceptUnwritten;
        }
        log.step(format_args!(
            "gateway {} is {} port {}, user {}",
            gateway.name, gateway.host, gateway.port, gateway.user
        ));
        check(self.via, &gateway)?;
        Ok(Route {
            credentials: Credentials::load(&gateway, log),
            gateway,
            via: self.via,
            entered: false,
            ssh_options: self.absolute_options.clone(),
            forwards: self.forwards.clone(),
            dry: self.check,
            cut_off: false,
            silent: false,
        })
    }

    /// How long one step on the way there may take.
    pub fn step(&self, gateway: Option<&Gateway>) -> Duration {
        let own = gateway.and_then(|gateway| gateway.connect_timeout);
        self.timeout.or(own).unwrap_or(STEP_LIMIT)
    }
}

/// One of them.
pub struct Member {
    /// As typed.
    pub name: String,
    /// Its settings and what to show to it, from its first turn on.
    pub route: Option<Route>,
    /// Whether it has turns.
    pub standing: Standing,
    /// It has been of use, and is taken back unasked.
    pub proven: bool,
    /// What its last turn at the start came to.
    pub failure: Option<Error>,
    /// Logins of a running tunnel that it has refused in a row.
    refusals: u32,
    /// What the process before a fault knew of the way there.
    known: Known,
}

/// What a login has taught, and no setting says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Known {
    /// [`Route::entered`]
    entered: bool,
    /// Somebody had to type.
    needs_a_person: bool,
    /// Only ssh gets in.
    ssh_alone: bool,
}

/// Whether a gateway has turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// It has.
    Open,
    /// Not before that: it has refused the login.
    RestsUntil(Instant),
    /// Never again: another try would not help.
    Closed,
}

impl Member {
    /// One that nobody knows anything of.
    pub fn new(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            route: None,
            standing: Standing::Open,
            refusals: 0,
            proven: false,
            failure: None,
            known: Known::default(),
        }
    }

    /// What it has taught so far, for [`Member::take_over`]: all but its settings.
    pub fn in_words(&self) -> String {
        let Known { entered, needs_a_person, ssh_alone } = self.known();
        let standing = match self.standing {
            Standing::Open => "open".to_owned(),
            Standing::RestsUntil(then) => sys::since_boot(then).to_string(),
            Standing::Closed => "closed".to_owned(),
        };
        let (refusals, name) = (self.refusals, &self.name);
        let facts = [self.proven, entered, needs_a_person, ssh_alone].map(u8::from);
        let [proven, entered, person, ssh] = facts;
        format!("{refusals} {standing} {proven}{entered}{person}{ssh} {name}")
    }

    /// Goes on where the process before a fault was, if the words are of this gateway.
    pub fn take_over(&mut self, words: &str) -> Option<()> {
        let mut words = words.splitn(4, ' ');
        let (refusals, standing, facts) = (words.next()?, words.next()?, words.next()?);
        if words.next()? != self.name {
            return None;
        }
        let mut facts = facts.chars().map(|fact| fact == '1');
        self.refusals = refusals.parse().ok()?;
        self.standing = match standing {
            "open" => Standing::Open,
            "closed" => Standing::Closed,
            then => Standing::RestsUntil(sys::after_boot(then.parse().ok()?)),
        };
        self.proven = facts.next()?;
        let (entered, needs_a_person) = (facts.next()?, facts.next()?);
        self.known = Known { entered, needs_a_person, ssh_alone: facts.next()? };
        self.teach();
        Some(())
    }

    fn known(&self) -> Known {
        let Some(route) = &self.route else {
            return self.known;
        };
        Known {
            entered: route.entered,
            needs_a_person: route.credentials.needs_a_person,
            ssh_alone: route.via == Via::Ssh,
        }
    }

    /// Its settings have been read; what was known before counts.
    pub fn teach(&mut self) {
        let Some(route) = &mut self.route else {
            return;
        };
        route.entered |= self.known.entered;
        route.credentials.needs_a_person |= self.known.needs_a_person;
        if self.known.ssh_alone && route.gateway.has_ssh {
            route.via = Via::Ssh;
        }
    }

    /// How long until its next turn; `None`: it has none.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        match self.standing {
            Standing::Open => Some(Duration::ZERO),
            Standing::RestsUntil(then) => Some(then.saturating_duration_since(now)),
            Standing::Closed => None,
        }
    }

    /// Whether a login there needs nobody at a keyboard.
    pub fn can_log_in_alone(&self) -> bool {
        self.route.as_ref().is_none_or(Route::can_log_in_alone)
    }

    /// Forgets what it has refused.
    pub fn forgive(&mut self) {
        self.standing = Standing::Open;
        self.refusals = 0;
    }

    /// A turn of a running tunnel has failed there. A changed key is final; a login that
    /// was refused must not lock the account.
    pub fn failed_while_running(&mut self, code: Code) {
        // Refused for want of a key that cannot be read is of the latter code.
        let unreadable = self.route.as_ref().is_some_and(|route| route.credentials.unreadable);
        match code {
            Code::HostKey => self.standing = Standing::Closed,
            Code::Refused => self.refused(),
            Code::Config if unreadable => self.refused(),
            _ => self.refusals = 0,
        }
    }

    /// It has refused a login.
    pub fn refused(&mut self) {
        self.refusals += 1;
        // The first attempt was one of the ten.
        let wait = refusal_waits().nth(self.refusals as usize - 1);
        self.standing = match wait.filter(|_| self.can_log_in_alone()) {
            Some(wait) => Standing::RestsUntil(Instant::now() + wait),
            None => Standing::Closed,
        };
        // What was shown may have been missing for a while.
        self.route = self.route.take().filter(|_| self.proven);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a login is refused ten times in a row at most, with rests that grow; what is
    /// no refusal ends the row; a changed key is final.
    #[test]
    fn an_account_is_not_locked() {
        let mut member = Member::new("gw");
        let minutes = |member: &Member| {
            member.rest(Instant::now()).map(|rest| (rest.as_secs_f64() / 60.0).round() as u32)
        };
        for expected in [1, 5, 15, 30, 30, 30, 30, 30, 30] {
            member.failed_while_running(Code::Refused);
            assert_eq!(minutes(&member), Some(expected));
        }
        member.failed_while_running(Code::Refused);
        assert_eq!(minutes(&member), None);
        member.forgive();
        member.failed_while_running(Code::Refused);
        member.failed_while_running(Code::GatewayDown);
        member.failed_while_running(Code::Refused);
        assert_eq!(minutes(&member), Some(1));
        member.failed_while_running(Code::HostKey);
        assert_eq!(member.standing, Standing::Closed);
    }

    /// Goal: what a gateway has refused, and until when it has no turn, is known again,
    /// and of no other gateway.
    #[test]
    fn in_words_and_back() {
        let mut member = Member::new("user@gw");
        let same = |member: &Member| {
            let mut other = Member::new("user@gw");
            other.take_over(&member.in_words()).expect("of this gateway");
            (other.refusals, other.known, other.proven)
                == (member.refusals, member.known, member.proven)
                && other.rest(Instant::now()).map(|it| it.as_secs() / 5)
                    == member.rest(Instant::now()).map(|it| it.as_secs() / 5)
        };
        assert!(same(&member));
        member.known = Known { entered: true, needs_a_person: false, ssh_alone: true };
        member.proven = true;
        for _ in 0..10 {
            member.failed_while_running(Code::Refused);
            assert!(same(&member), "{}", member.in_words());
        }
        assert_eq!(member.standing, Standing::Closed);
        assert_eq!(Member::new("gw").take_over(&member.in_words()), None);
    }
}
