//! Decides who speaks to the gateway, libssh2 or the user's own ssh, and remembers it.
//!
//! What stands above knows of neither: it has a [`Transport`].

use super::libssh2::{self, Link};
use super::openssh::{self, Master};
use super::session::{Answer, Transport};
use crate::auth::{Credentials, Prompter};
use crate::config::{Gateway, Via};
use crate::error::{Code, Error, Result};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys::Epoll;
use crate::target::Destination;
use std::ffi::OsString;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A connection on which somebody is logged in; not driven yet.
pub enum Connection {
    /// libssh2's.
    Libssh2(libssh2::Connection),
    /// The user's own ssh.
    Ssh(Master),
}

impl Connection {
    /// Opens a stream to a license server and closes it again, within `limit`.
    pub fn probe(&mut self, to: &Destination, limit: Duration) -> Answer {
        let Destination::Tcp { host, port } = to else {
            return Answer::No("targets are TCP ports".into());
        };
        match self {
            Connection::Libssh2(connection) => connection.probe(host, *port, limit),
            Connection::Ssh(master) => master.probe(host, *port, limit),
        }
    }

    /// Who speaks to the gateway.
    pub fn name(&self) -> &'static str {
        match self {
            Connection::Libssh2(_) => "libssh2",
            Connection::Ssh(_) => "ssh",
        }
    }

    /// Begins to drive it. `urgent` becomes readable when the daemon has
    /// something better to do than to wait for a stuck gateway; `patience` is
    /// how long a packet may take to leave.
    pub fn drive(self, urgent: Rc<Epoll>, patience: Duration) -> Box<dyn Transport> {
        match self {
            Connection::Libssh2(connection) => Box::new(Link::new(connection, urgent, patience)),
            Connection::Ssh(master) => Box::new(master),
        }
    }
}

/// The way to the gateway: everything that each further connection needs again.
pub struct Route {
    /// Where.
    pub gateway: Gateway,
    /// What is shown to it, by libssh2.
    pub credentials: Credentials,
    /// Who speaks to it; decided by the first connection where it was left open.
    pub via: Via,
    /// The options with which the user would call ssh.
    pub ssh_options: Vec<OsString>,
    /// Where `-L` leads.
    pub forwards: Vec<Destination>,
    /// Nothing is to be written down (`--check`).
    pub dry: bool,
    /// The attempt over ssh before this one was cut off without a word.
    pub cut_off: bool,
}

impl Route {
    /// Connects, checks the host key and logs in.
    ///
    /// # Errors
    /// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
    /// [`Code::Refused`] and [`Code::Config`] when it will not.
    pub fn open(
        &mut self,
        prompter: Option<&mut dyn Prompter>,
        limits: Limits,
        log: &Arc<Log>,
    ) -> Result<Connection> {
        if self.via == Via::Ssh {
            return self.open_ssh(limits, log);
        }
        let (gateway, credentials) = (&self.gateway, &mut self.credentials);
        let refusal = match libssh2::open(gateway, credentials, prompter, limits, log) {
            Ok(connection) => {
                self.via = Via::Libssh2;
                return Ok(Connection::Libssh2(connection));
            }
            Err(e) if !e.ssh_may || !gateway.has_ssh => return Err(e.error),
            Err(e) => e.error,
        };
        if self.via == Via::Libssh2 {
            return Err(Error::new(
                refusal.code,
                format!("{refusal}; ssh itself may get in: --via ssh"),
            ));
        }
        log.event(format_args!("using ssh itself: {refusal}"));
        let opened = self.open_ssh(limits, log);
        // A connection that was closed proves nothing: the next try may find
        // libssh2 good enough.
        if opened.is_ok() || !refusal.code.is_transient() {
            self.via = Via::Ssh;
        }
        opened.map_err(|e| Error::new(e.code, format!("{e}; libssh2 before it: {refusal}")))
    }

    fn open_ssh(&mut self, limits: Limits, log: &Arc<Log>) -> Result<Connection> {
        let call = openssh::Call {
            gateway: &self.gateway,
            ssh_options: &self.ssh_options,
            forwards: &self.forwards,
            dry: self.dry,
            cut_off: &mut self.cut_off,
        };
        openssh::open(call, limits, log).map(Connection::Ssh)
    }

    /// Whether a login needs nobody at a keyboard.
    pub fn can_log_in_alone(&self) -> bool {
        self.via == Via::Ssh || !self.credentials.needs_a_person
    }
}

/// Fails where `--via ssh` cannot be.
///
/// # Errors
/// [`Code::Config`]: no ssh is installed.
pub fn check(via: Via, gateway: &Gateway) -> Result<()> {
    if via == Via::Ssh && !gateway.has_ssh {
        let why = "needs the ssh program, which is not installed here";
        return Err(Error::new(Code::Config, format!("--via ssh: {why}")));
    }
    Ok(())
}
