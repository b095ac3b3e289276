//! What a tunnel that a fault has ended needs to begin anew: its ports, its job, and what
//! it has promised.
//!
//! libssh2 is C, and speaks to whoever the gateway is: a fault in it must not leave
//! the job without its license server for good, nor the ports to a stranger. So the
//! same process becomes licfwd once more (see [`sys::restart_on_fault`]): the ports
//! stay bound, the process id stays the one announced, and all else is read again,
//! from the command line on. Clients are closed, and the gateway is one that is lost.
//! It counts on where it was: a login that was refused, and until when it rests; who
//! alone can log in; a TERM that has come.

use super::job::Job;
use crate::local::Listener;
use crate::sys;
use crate::target::{Destination, WebHosts};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

/// What the words of a plan begin with.
const TERM: &str = "term";
const LEARNT: &str = "gateway";
const LISTENER: &str = "listener";
/// Ends them.
const END: &str = "end";

/// How a tunnel was started, as often as that was.
pub struct Restart {
    /// As typed.
    pub arguments: Vec<OsString>,
    /// Where, for the names of files.
    pub directory: PathBuf,
    /// Faults so far.
    pub faults: u32,
    /// What was planned last.
    planned: Vec<OsString>,
}

/// A tunnel that begins anew.
pub struct Restarted {
    /// How it was started.
    pub restart: Restart,
    /// Whose life bounds it.
    pub job: Job,
    /// When TERM came, if it did.
    pub term: Option<Instant>,
    /// What the gateways had taught.
    pub learnt: Vec<String>,
    /// Its ports.
    pub listeners: Vec<Listener>,
}

impl Restart {
    /// For a tunnel without a fault so far, that was started with those arguments there.
    pub fn new(arguments: Vec<OsString>, directory: PathBuf) -> Restart {
        Restart { arguments, directory, faults: 0, planned: Vec::new() }
    }

    /// From now on this tunnel begins anew after a fault, and as it is now.
    pub fn plan(
        &mut self,
        listeners: &[Listener],
        job: &Job,
        term: Option<Instant>,
        learnt: &[String],
    ) {
        let mut words: Vec<OsString> = vec![
            std::process::id().to_string().into(),
            (self.faults + 1).to_string().into(),
            job.to_string().into(),
            self.directory.clone().into(),
        ];
        let term = term.map(|then| format!("{TERM} {}", sys::since_boot(then)).into());
        words.extend(term);
        words.extend(learnt.iter().map(|learnt| format!("{LEARNT} {learnt}").into()));
        words.extend(listeners.iter().map(describe));
        words.push(END.into());
        words.extend(self.arguments.iter().cloned());
        // Each plan stays in memory.
        if words == self.planned {
            return;
        }
        self.planned.clone_from(&words);
        let sockets = listeners.iter().flat_map(|listener| &listener.sockets);
        let kept: Vec<_> = sockets.map(AsFd::as_fd).collect();
        sys::restart_on_fault(words, &kept);
    }
}

/// `listener FD[,FD] PORT HOST`, `listener FD - PATH`, or `listener FD[,FD] = HOSTS`.
fn describe(listener: &Listener) -> OsString {
    let numbers = listener.sockets.iter().map(|socket| socket.number().to_string());
    let numbers = numbers.collect::<Vec<_>>().join(",");
    match &listener.to {
        Destination::Tcp { host, port } => format!("{LISTENER} {numbers} {port} {host}"),
        Destination::Unix(path) => format!("{LISTENER} {numbers} - {path}"),
        Destination::Web(hosts) => format!("{LISTENER} {numbers} = {hosts}"),
    }
    .into()
}

fn listener(word: &str) -> Option<Listener> {
    let mut parts = word.splitn(3, ' ');
    let (numbers, port, host) = (parts.next()?, parts.next()?, parts.next()?.to_owned());
    let to = match port {
        "-" => Destination::Unix(host),
        "=" => Destination::Web(WebHosts::parse(&host).ok()?),
        port => Destination::Tcp { host, port: port.parse().ok()? },
    };
    let kept = numbers.split(',').map(|number| sys::take_kept(number.parse().ok()?).ok());
    Some(Listener::adopt(kept.collect::<Option<_>>()?, to))
}

impl Restarted {
    /// Reads what [`Restart::plan`] wrote: `None` where another process did.
    pub fn take_over(words: impl IntoIterator<Item = OsString>) -> Option<Restarted> {
        let mut words = words.into_iter();
        let mut text = || words.next()?.into_string().ok();
        let process: u32 = text()?.parse().ok()?;
        let faults = text()?.parse().ok()?;
        let job = Job::parse(&text()?)?;
        if process != std::process::id() {
            return None;
        }
        let directory = words.next()?.into();
        let (mut term, mut learnt, mut listeners) = (None, Vec::new(), Vec::new());
        loop {
            let word = words.next()?.into_string().ok()?;
            match word.split_once(' ') {
                Some((TERM, then)) => term = Some(sys::after_boot(then.parse().ok()?)),
                Some((LEARNT, what)) => learnt.push(what.to_owned()),
                Some((LISTENER, what)) => listeners.push(listener(what)?),
                _ if word == END => break,
                _ => return None,
            }
        }
        let restart = Restart { faults, ..Restart::new(words.collect(), directory) };
        Some(Restarted { restart, job, term, learnt, listeners })
    }
}
