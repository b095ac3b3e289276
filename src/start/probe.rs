//! Asks through the gateway whether the license servers answer, before anything is announced.

use crate::error::{Code, Error, Result};
use crate::gateway::{self, Answer, Session};
use crate::local::LocalPorts;
use crate::log::Log;
use crate::retry::Limits;
use crate::target::Destination;
use std::time::Duration;

/// What is known of each port of the targets.
pub struct ProbeResults<'a> {
    bound: &'a LocalPorts,
    /// By listener; `None`: not asked yet. Listeners of `-L` are never asked.
    listeners: Vec<Option<PortResult>>,
}

/// That it answers, or why not.
type PortResult = std::result::Result<(), String>;

/// Why probing ended early.
pub enum ProbeError {
    /// The result so far is noted, but the question still hangs in the session
    /// (libssh2 cannot take an open back): go on with another session.
    SessionSpent,
    /// The gateway's fault.
    Gateway(Error),
}

impl ProbeResults<'_> {
    /// Nothing is known yet.
    pub fn new(bound: &LocalPorts) -> ProbeResults<'_> {
        ProbeResults {
            bound,
            listeners: vec![None; bound.listeners.len()],
        }
    }

    /// Opens and closes a stream to every port of the targets that has not been
    /// asked yet.
    ///
    /// # Errors
    /// See [`ProbeError`]; 77 when the gateway forbids a forward.
    pub fn probe(
        &mut self,
        session: &mut dyn Session,
        limits: Limits,
        log: &Log,
    ) -> std::result::Result<(), ProbeError> {
        let servers = self.bound.servers.iter();
        for listener in servers.flat_map(|server| server.listeners.clone()) {
            if self.listeners[listener].is_some() {
                continue;
            }
            let to = &self.bound.listeners[listener].to;
            let limit = limits.next_step();
            let answer = gateway::probe(session, to, limit);
            let result = port_result(answer, to, limit).map_err(ProbeError::Gateway)?;
            let outcome = result.as_ref().map_or_else(String::as_str, |()| "answers");
            log.step(format_args!("{to} {outcome}"));
            self.listeners[listener] = Some(result);
            if !session.is_free() {
                return Err(ProbeError::SessionSpent);
            }
        }
        Ok(())
    }

    /// Why that port does not answer, where it does not.
    fn refusal(&self, listener: usize) -> Option<&str> {
        match &self.listeners[listener] {
            Some(Err(why)) => Some(why),
            _ => None,
        }
    }

    /// Whether every variable has a server that answers. A server answers when
    /// its first port does.
    ///
    /// # Errors
    /// [`Code::ServerDown`], naming the servers of the first variable without.
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
                return Err(Error::new(Code::ServerDown, what));
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

/// What the answer says of that port.
///
/// # Errors
/// What it says of the gateway.
fn port_result(answer: Answer, to: &Destination, limit: Duration) -> Result<PortResult> {
    match answer {
        Answer::Yes => Ok(Ok(())),
        Answer::No(why) => Ok(Err(format!("cannot be reached from the gateway: {why}"))),
        Answer::Late => {
            let seconds = limit.as_secs();
            Ok(Err(format!(
                "did not answer the gateway within {seconds} s"
            )))
        }
        Answer::Forbidden => {
            let what = format!(
                "the gateway forbids forwarding to {to}: ask its administrator (sshd's \
                 AllowTcpForwarding and PermitOpen, or permitopen in authorized_keys)"
            );
            Err(Error::new(Code::Refused, what))
        }
        Answer::Lost(why) => {
            let what = "the gateway closed the connection right after the login";
            Err(Error::new(Code::GatewayDown, format!("{what} ({why})")))
        }
    }
}
