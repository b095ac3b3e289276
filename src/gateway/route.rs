//! Decides who speaks to the gateway, libssh2 or the user's own ssh, and remembers it.
//!
//! What stands above knows of neither: it has a [`Session`].

use super::session::Session;
use super::{libssh2, openssh};
use crate::auth::{AcceptedKeys, Credentials, Prompter, Ssh};
use crate::config::{Gateway, Via};
use crate::error::{Code, Error, Result};
use crate::log::Log;
use crate::retry::Limits;
use crate::target::Destination;
use std::ffi::OsString;
use std::sync::Arc;

/// The way to the gateway: everything that each further connection needs again.
pub struct Route {
    /// Where.
    pub gateway: Gateway,
    /// What is shown to it, by libssh2.
    pub credentials: Credentials,
    /// Who speaks to it; ssh for good where it was left open and libssh2 did not get in.
    pub via: Via,
    /// libssh2 has got in: ssh is asked no more about a refusal.
    pub entered: bool,
    /// The options with which the user would call ssh.
    pub ssh_options: Vec<OsString>,
    /// Where `-L` leads.
    pub forwards: Vec<Destination>,
    /// Nothing is to be written down (`--check`).
    pub dry: bool,
    /// The attempt over ssh before this one was cut off without a word.
    pub cut_off: bool,
    /// The last attempt ended because no greeting had come, in less than all its time.
    pub silent: bool,
}

impl Route {
    /// Connects, checks the host key and logs in. `accepted`: the host keys by which
    /// this and other gateways have been known so far.
    ///
    /// # Errors
    /// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
    /// [`Code::Refused`] and [`Code::Config`] when it will not.
    pub fn open(
        &mut self,
        accepted: &mut AcceptedKeys,
        prompter: Option<&mut dyn Prompter>,
        limits: Limits,
        log: &Arc<Log>,
    ) -> Result<Box<dyn Session>> {
        self.silent = false;
        if self.via == Via::Ssh {
            return self.open_ssh(accepted, limits, log);
        }
        let (gateway, credentials) = (&self.gateway, &mut self.credentials);
        let refusal = match libssh2::open(gateway, credentials, accepted, prompter, limits, log) {
            Ok(session) => {
                self.entered = true;
                return Ok(Box::new(session));
            }
            Err(e) => e,
        };
        let (ssh, silent, refusal) = (refusal.ssh, refusal.silent, refusal.error);
        let hint = match ssh {
            Ssh::WouldFail => {
                self.silent = silent;
                return Err(refusal);
            }
            _ if !gateway.has_ssh => "and no ssh is installed here",
            Ssh::MayGetIn => "ssh itself may get in: --via ssh",
            Ssh::Alone => "--via ssh",
        };
        let final_for_libssh2 = self.via == Via::Libssh2 || (self.entered && ssh == Ssh::MayGetIn);
        if final_for_libssh2 || !gateway.has_ssh {
            return Err(Error::new(refusal.code, format!("{refusal}; {hint}")));
        }
        log.event(format_args!("using ssh itself: {refusal}"));
        // Or it has greeted.
        let greeting = limits.greeting.filter(|_| ssh == Ssh::Alone);
        let opened = self.open_ssh(accepted, Limits { greeting, ..limits }, log);
        // A connection that was closed proves nothing: the next try may find
        // libssh2 good enough.
        if opened.is_ok() || !refusal.code.is_transient() {
            self.via = Via::Ssh;
        }
        opened.map_err(|e| match ssh {
            Ssh::Alone => e,
            _ => Error::new(e.code, format!("{e}; libssh2 before it: {refusal}")),
        })
    }

    fn open_ssh(
        &mut self,
        accepted: &mut AcceptedKeys,
        limits: Limits,
        log: &Arc<Log>,
    ) -> Result<Box<dyn Session>> {
        let call = openssh::Call {
            gateway: &self.gateway,
            ssh_options: &self.ssh_options,
            forwards: &self.forwards,
            dry: self.dry,
            accepted,
            cut_off: &mut self.cut_off,
            silent: &mut self.silent,
        };
        Ok(Box::new(openssh::open(call, limits, log)?))
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
