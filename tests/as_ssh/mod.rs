//! licfwd enters exactly where ssh enters: each call is made with ssh and, over every
//! transport, with licfwd, and the verdicts are compared.

mod cases;
mod faults;
mod generated;
mod restrictions;

use crate::rig::as_ssh::{Call, Kind, LICFWD, Verdict, Who, World, each};
use crate::rig::long;

/// A call, and what has to come of it.
pub struct Case {
    call: Call,
    name: String,
    expected: Verdict,
    /// Who comes to something else than ssh, and why that has to be so.
    exceptions: Vec<(Who, Verdict, &'static str)>,
    /// In the ordinary suite as well.
    ordinary: bool,
}

impl Case {
    /// With these lines of ssh_config, all else being good.
    pub fn new(name: &str, lines: &str, expected: Verdict) -> Case {
        let call = Call { lines: lines.into(), ..Call::default() };
        Case { call, name: name.into(), expected, exceptions: Vec::new(), ordinary: false }
    }

    /// One of its kind that the ordinary suite has, too, unless `entering` has it.
    pub fn ordinary(mut self) -> Case {
        self.ordinary = true;
        self
    }

    pub fn known(mut self, text: &str) -> Case {
        self.call.known = Some(text.into());
        self
    }

    pub fn file(mut self, name: &str, text: &str) -> Case {
        self.call.files.push((name.into(), text.into()));
        self
    }

    /// One option, or an option and its value.
    pub fn words<const N: usize>(mut self, words: [&str; N]) -> Case {
        self.call.words.extend(words.map(String::from));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Case {
        self.call.env.push((name.into(), value.into()));
        self
    }

    pub fn on(mut self, kind: Kind) -> Case {
        self.call.gateway = kind;
        self
    }

    pub fn named(mut self, name: &str) -> Case {
        self.call.name = name.into();
        self
    }

    /// An exception.
    pub fn but(mut self, who: &[Who], verdict: Verdict, why: &'static str) -> Case {
        self.exceptions.extend(who.iter().map(|who| (*who, verdict, why)));
        self
    }

    fn holds(&self, world: &World) -> Result<(), String> {
        let mut complaints = String::new();
        for who in [Who::Ssh].into_iter().chain(LICFWD) {
            let (verdict, said) = world.run(&self.call, who);
            let exception = self.exceptions.iter().find(|(other, ..)| *other == who);
            let expected = exception.map_or(self.expected, |(_, expected, _)| *expected);
            // What is ssh's alone is a wrong configuration for libssh2.
            let declined = who == Who::Libssh2
                && verdict == Verdict::NotReached
                && said.contains("only ssh can do that, not libssh2; --via ssh");
            if verdict != expected && !declined {
                complaints += &format!(
                    "{}: {who:?} comes to {verdict:?}, not to {expected:?}\n{said}\n",
                    self.name
                );
            }
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }
}

/// Those of them that are to be tried, each with ssh and with licfwd.
fn try_all(cases: Vec<Case>) {
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.ordinary || long()).collect();
    let world = World::new();
    each(cases.len(), |number| cases[number].holds(&world));
    println!("{} calls as ssh", cases.len());
}

/// Goal: whatever ssh makes of a configuration, licfwd makes of it, too.
#[test]
fn cases_by_kind() {
    try_all(cases::all());
}

/// Goal: what keeps ssh out keeps licfwd out: of no restriction is anything dropped.
#[test]
fn no_restriction_vanishes() {
    try_all(restrictions::all());
}
