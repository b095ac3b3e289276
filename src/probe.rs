//! Asks through the gateway whether the license servers answer, before anything is announced.

use crate::error::{Code, Error, Result};
use crate::link::{self, EAGAIN};
use crate::listener::Bound;
use crate::log::Log;
use crate::retry::Limits;
use crate::session::Answer;
use crate::sys::{self, Interest};
use crate::transport::Connection;
use ssh2::{BlockDirections, Channel, ErrorCode};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What is known of each door of the targets.
pub struct Findings {
    /// By door; `None`: not asked yet. Doors of `-L` are never asked.
    doors: Vec<Option<Finding>>,
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
    pub fn of(bound: &Bound) -> Findings {
        Findings {
            doors: vec![None; bound.doors.len()],
        }
    }

    /// Whether every variable has a server that answers. A server answers when
    /// its first port does; what else is dead is told.
    ///
    /// # Errors
    /// [`Code::ServerDown`], naming the servers of the first variable without.
    pub fn verdict(&self, bound: &Bound, log: &Log) -> Result<()> {
        let refusal = |door: usize| match &self.doors[door] {
            Some(Err(why)) => Some(why.as_str()),
            _ => None,
        };
        for variable in &bound.variables {
            let servers = || variable.groups.iter().flatten().map(|i| &bound.servers[*i]);
            if servers().all(|server| refusal(server.doors.start).is_some()) {
                let all: Vec<String> = servers()
                    .map(|s| format!("{} {}", s.name, refusal(s.doors.start).unwrap_or_default()))
                    .collect();
                return Err(Error::new(
                    Code::ServerDown,
                    format!("license server {}", all.join(", ")),
                ));
            }
        }
        for server in &bound.servers {
            if let Some(why) = refusal(server.doors.start) {
                log.note(format_args!(
                    "warning: license server {} {why}",
                    server.name
                ));
                continue;
            }
            for door in server.doors.clone().skip(1) {
                if refusal(door).is_some() {
                    log.note(format_args!(
                        "warning: license server {} answers, but its port {} does not: the software may get no \
                         license; compare the port with the license file (VENDOR ... port=), or ask the license \
                         administrator whether the vendor daemon runs",
                        server.name, bound.doors[door].to
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Opens and closes a stream to every door of the targets that has not been
/// asked yet.
///
/// # Errors
/// See [`Failure`]; 77 when the gateway forbids a forward.
pub fn ask(
    connection: &mut Connection,
    bound: &Bound,
    findings: &mut Findings,
    limits: Limits,
    log: &Log,
) -> std::result::Result<(), Failure> {
    for server in &bound.servers {
        for door in server.doors.clone() {
            if findings.doors[door].is_some() {
                continue;
            }
            let to = &bound.doors[door].to;
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
            findings.doors[door] = Some(finding);
            if spent {
                return Err(Failure::SessionSpent);
            }
        }
    }
    Ok(())
}

impl link::Connection {
    /// Opens a stream over libssh2 and closes it again, within `limit`.
    pub fn probe(&self, host: &str, port: u16, limit: Duration) -> Answer {
        match self.open(host, port, limit) {
            Ok(mut channel) => {
                let _ = channel.close();
                Answer::Yes
            }
            Err(e) => match e.code() {
                // LIBSSH2_ERROR_CHANNEL_FAILURE: the gateway said no.
                ErrorCode::Session(-21) if e.message().contains("prohibited") => Answer::Forbidden,
                ErrorCode::Session(-21) => {
                    Answer::No("connection refused, or its name is unknown there".into())
                }
                // libssh2 cannot take the question back.
                EAGAIN => Answer::Late { spent: true },
                _ => Answer::Lost(e.message().to_owned()),
            },
        }
    }

    /// `EAGAIN`: no answer within `limit`. Not left to libssh2's own waiting,
    /// because sshd holds the answer back until its greeting before it is
    /// acknowledged (Nagle), which the kernel puts off for 40 ms.
    fn open(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> std::result::Result<Channel, ssh2::Error> {
        let end = Instant::now() + limit;
        self.session.set_blocking(false);
        let opened = loop {
            let opened = self.session.channel_direct_tcpip(host, port, None);
            let left = end.saturating_duration_since(Instant::now());
            match &opened {
                Err(e) if e.code() == EAGAIN && !left.is_zero() => {}
                _ => break opened,
            }
            let write = self.session.block_directions() != BlockDirections::Inbound;
            let interest = Interest { read: true, write };
            sys::acknowledge(&self.socket);
            // An error shows in the next call.
            let _ = sys::wait_any([(self.socket.as_fd(), interest)], Some(left));
        };
        self.session.set_blocking(true);
        opened
    }
}
