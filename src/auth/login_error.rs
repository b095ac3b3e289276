//! Why libssh2 did not get in, and whether ssh itself may.

use crate::config::Gateway;
use crate::error::{Code, Error};

/// A failed login, with the hint that only a login can give.
#[derive(Clone, Debug)]
pub struct LoginError {
    /// What went wrong.
    pub error: Error,
    /// What ssh itself can do about it.
    pub ssh: Ssh,
    /// The gateway has not greeted in time, and that was less than all its time.
    pub silent: bool,
}

/// What ssh itself can do where libssh2 did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ssh {
    /// Nothing: it would fail as well.
    WouldFail,
    /// It may get further than libssh2 did.
    MayGetIn,
    /// It alone can do what is wanted: there was no attempt without it.
    Alone,
}

impl LoginError {
    /// A failure that ssh itself may not have.
    pub fn new(code: Code, message: impl Into<String>, ssh_may: bool) -> LoginError {
        let ssh = if ssh_may { Ssh::MayGetIn } else { Ssh::WouldFail };
        LoginError { error: Error::new(code, message), ssh, silent: false }
    }

    /// `what` is ssh's alone.
    pub fn ssh_alone(gateway: &Gateway, what: &str) -> LoginError {
        let text = format!("gateway {}: {what}: only ssh can do that, not libssh2", gateway.name);
        LoginError { error: Error::new(Code::Config, text), ssh: Ssh::Alone, silent: false }
    }
}

/// Whatever does not know better: ssh would fail there, too.
impl From<Error> for LoginError {
    fn from(error: Error) -> LoginError {
        LoginError { error, ssh: Ssh::WouldFail, silent: false }
    }
}
