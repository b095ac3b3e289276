//! What a tunnel that a fault has ended needs to begin anew: its ports and its job.
//!
//! libssh2 is C, and speaks to whoever the gateway is: a fault in it must not leave
//! the job without its license server for good, nor the ports to a stranger. So the
//! same process becomes licfwd once more (see [`sys::restart_on_fault`]): the ports
//! stay bound, the process id stays the one announced, and all else is read again,
//! from the command line on. Clients are closed, and the gateway is one that is lost.

use super::job::Job;
use crate::local::Listener;
use crate::sys;
use crate::target::{Destination, WebHosts};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Ends the list of listeners.
const END: &str = "end";

/// How a tunnel was started, as often as that was.
pub struct Restart {
    /// As typed.
    pub arguments: Vec<OsString>,
    /// Where, for the names of files.
    pub directory: PathBuf,
    /// Faults so far.
    pub faults: u32,
}

/// A tunnel that begins anew.
pub struct Restarted {
    /// How it was started.
    pub restart: Restart,
    /// Whose life bounds it.
    pub job: Job,
    /// Its ports.
    pub listeners: Vec<Listener>,
}

impl Restart {
    /// From now on this tunnel begins anew after a fault.
    pub fn plan(&self, listeners: &[Listener], job: &Job) {
        let mut words: Vec<OsString> = vec![
            std::process::id().to_string().into(),
            (self.faults + 1).to_string().into(),
            job.to_string().into(),
            self.directory.clone().into(),
        ];
        words.extend(listeners.iter().map(describe));
        words.push(END.into());
        words.extend(self.arguments.iter().cloned());
        let sockets = listeners.iter().flat_map(|listener| &listener.sockets);
        let kept: Vec<_> = sockets.map(AsFd::as_fd).collect();
        sys::restart_on_fault(words, &kept);
    }
}

/// `FD[,FD] PORT HOST`, `FD - PATH`, or `FD[,FD] = HOSTS`.
fn describe(listener: &Listener) -> OsString {
    let numbers = listener.sockets.iter().map(|socket| socket.number().to_string());
    let numbers = numbers.collect::<Vec<_>>().join(",");
    match &listener.to {
        Destination::Tcp { host, port } => format!("{numbers} {port} {host}"),
        Destination::Unix(path) => format!("{numbers} - {path}"),
        Destination::Web(hosts) => format!("{numbers} = {hosts}"),
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
        let mut listeners = Vec::new();
        loop {
            let word = words.next()?.into_string().ok()?;
            if word == END {
                break;
            }
            listeners.push(listener(&word)?);
        }
        let restart = Restart { arguments: words.collect(), directory, faults };
        Some(Restarted { restart, job, listeners })
    }
}
