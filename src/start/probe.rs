//! Asks through the gateway whether the license servers answer, before anything is announced.

use crate::error::{Code, Error, Result};
use crate::gateway::{self, PortResult, Session};
use crate::local::LocalPorts;
use crate::log::Log;
use crate::retry::Limits;
use crate::target::Destination;

/// What is known of each port of the targets.
pub struct ProbeResults<'a> {
    bound: &'a LocalPorts,
    /// By listener; `None`: not asked yet. Listeners of `-L` are never asked.
    listeners: Vec<Option<PortResult>>,
}

impl ProbeResults<'_> {
    /// Nothing is known yet.
    pub fn new(bound: &LocalPorts) -> ProbeResults<'_> {
        ProbeResults { bound, listeners: vec![None; bound.listeners.len()] }
    }

    /// Opens and closes a stream to every port of the targets that has not been
    /// asked yet; of web servers to the first, unless that is any. Where the session is not free afterwards, the last question still
    /// hangs in it (libssh2 cannot take an open back): go on with another session.
    ///
    /// # Errors
    /// The gateway's fault; 77 when it forbids a forward.
    pub fn probe(&mut self, session: &mut dyn Session, limits: Limits, log: &Log) -> Result<()> {
        let servers = self.bound.servers.iter();
        for listener in servers.flat_map(|server| server.listeners.clone()) {
            if self.listeners[listener].is_some() || !session.is_free() {
                continue;
            }
            let to = match &self.bound.listeners[listener].to {
                Destination::Web(hosts) => hosts.first(),
                to => Some(to.clone()),
            };
            let Some(to) = &to else {
                continue;
            };
            let limit = limits.next_step();
            let result = gateway::probe(session, to, limit).judged(to, limit)?;
            let outcome = result.as_ref().map_or_else(String::as_str, |()| "answers");
            log.step(format_args!("{to} {outcome}"));
            self.listeners[listener] = Some(result);
        }
        Ok(())
    }

    /// Why that port does not answer, where it does not.
    fn refusal(&self, listener: usize) -> Option<&str> {
        self.listeners[listener].as_ref()?.as_ref().err().map(String::as_str)
    }

    /// Whether every variable has a server that answers. A server answers when
    /// its first port does.
    ///
    /// # Errors
    /// [`Code::ServerDown`], naming the servers of the first variable without;
    /// [`Code::Config`] where the gateway knows none of their names.
    pub fn check(&self) -> Result<()> {
        for variable in &self.bound.variables {
            let refusal = |i: &usize| {
                let server = &self.bound.servers[*i];
                let why = self.refusal(server.listeners.start)?;
                Some(format!("{} {why}", server.name))
            };
            let servers = variable.groups.iter().flatten();
            let refusals: Option<Vec<String>> = servers.map(refusal).collect();
            if let Some(refusals) = refusals {
                let what = format!("license server {}", refusals.join(", "));
                return Err(match refusals.iter().all(|why| gateway::names_nobody(why)) {
                    true => Error::new(Code::Config, format!("{what}; is the name misspelt?")),
                    false => Error::new(Code::ServerDown, what),
                });
            }
        }
        Ok(())
    }

    /// Tells of all that does not answer, where enough does.
    pub fn warn(&self, log: &Log) {
        for server in &self.bound.servers {
            let name = &server.name;
            if let Some(why) = self.refusal(server.listeners.start) {
                log.note(format_args!("warning: license server {name} {why}"));
                continue;
            }
            for listener in server.listeners.clone().skip(1) {
                if self.refusal(listener).is_some() {
                    log.note(format_args!(
                        "warning: license server {name} answers, but its port {} does not: the software may get no \
                         license; compare the port with the license file (VENDOR ... port=), or ask the license \
                         administrator whether the vendor daemon runs",
                        self.bound.listeners[listener].to
                    ));
                }
            }
        }
    }
}
