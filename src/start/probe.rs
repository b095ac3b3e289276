//! Asks through the gateway whether the license servers answer, before anything is announced.

use crate::error::{Code, Error, Result};
use crate::gateway::{Answer, Connection};
use crate::local::LocalPorts;
use crate::log::Log;
use crate::retry::Limits;

/// What is known of each listener of the targets.
pub struct Findings {
    /// By listener; `None`: not asked yet. Doors of `-L` are never asked.
    listeners: Vec<Option<Finding>>,
}

/// That it answers, or why not.
type Finding = std::result::Result<(), String>;

/// Why asking ended early.
pub enum Failure {
    /// The answer so far is noted, but the question still hangs in the session
    /// (libssh2 cannot take an open back): go on with another session.
    SessionSpent,
    /// The gateway's fault.
    Error(Error),
}

impl Findings {
    /// Nothing is known yet.
    pub fn of(bound: &LocalPorts) -> Findings {
        Findings {
            listeners: vec![None; bound.listeners.len()],
        }
    }

    /// Whether every variable has a server that answers. A server answers when
    /// its first port does; what else is dead is told.
    ///
    /// # Errors
    /// [`Code::ServerDown`], naming the servers of the first variable without.
    pub fn verdict(&self, bound: &LocalPorts, log: &Log) -> Result<()> {
        let refusal = |listener: usize| match &self.listeners[listener] {
            Some(Err(why)) => Some(why.as_str()),
            _ => None,
        };
        for variable in &bound.variables {
            let servers = || variable.groups.iter().flatten().map(|i| &bound.servers[*i]);
            if servers().all(|server| refusal(server.listeners.start).is_some()) {
                let all: Vec<String> = servers()
                    .map(|s| {
                        format!(
                            "{} {}",
                            s.name,
                            refusal(s.listeners.start).unwrap_or_default()
                        )
                    })
                    .collect();
                return Err(Error::new(
                    Code::ServerDown,
                    format!("license server {}", all.join(", ")),
                ));
            }
        }
        for server in &bound.servers {
            if let Some(why) = refusal(server.listeners.start) {
                log.note(format_args!(
                    "warning: license server {} {why}",
                    server.name
                ));
                continue;
            }
            for listener in server.listeners.clone().skip(1) {
                if refusal(listener).is_some() {
                    log.note(format_args!(
                        "warning: license server {} answers, but its port {} does not: the software may get no \
                         license; compare the port with the license file (VENDOR ... port=), or ask the license \
                         administrator whether the vendor daemon runs",
                        server.name, bound.listeners[listener].to
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Opens and closes a stream to every listener of the targets that has not been
/// asked yet.
///
/// # Errors
/// See [`Failure`]; 77 when the gateway forbids a forward.
pub fn ask(
    connection: &mut Connection,
    bound: &LocalPorts,
    findings: &mut Findings,
    limits: Limits,
    log: &Log,
) -> std::result::Result<(), Failure> {
    for server in &bound.servers {
        for listener in server.listeners.clone() {
            if findings.listeners[listener].is_some() {
                continue;
            }
            let to = &bound.listeners[listener].to;
            let limit = limits.next_step();
            let answer = connection.probe(to, limit);
            let spent = matches!(answer, Answer::Late { spent: true });
            let finding = match answer {
                Answer::Yes => Ok(()),
                Answer::No(why) => Err(format!("cannot be reached from the gateway: {why}")),
                Answer::Late { .. } => Err(format!(
                    "did not answer the gateway within {} s",
                    limit.as_secs()
                )),
                Answer::Forbidden => {
                    return Err(Failure::Error(Error::new(
                        Code::Refused,
                        format!(
                            "the gateway forbids forwarding to {to}: ask its administrator (sshd's \
                             AllowTcpForwarding and PermitOpen, or permitopen in authorized_keys)"
                        ),
                    )));
                }
                Answer::Lost(why) => {
                    let what = "the gateway closed the connection right after the login";
                    return Err(Failure::Error(Error::new(
                        Code::GatewayDown,
                        format!("{what} ({why})"),
                    )));
                }
            };
            let said = finding.as_ref().map_or_else(String::as_str, |()| "answers");
            log.step(format_args!("{to} {said}"));
            findings.listeners[listener] = Some(finding);
            if spent {
                return Err(Failure::SessionSpent);
            }
        }
    }
    Ok(())
}
