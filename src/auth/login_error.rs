//! Why libssh2 did not get in, and whether ssh itself may.

use crate::error::{Code, Error};

/// A failed login, with the hint that only a login can give.
#[derive(Clone, Debug)]
pub struct LoginError {
    /// What went wrong.
    pub error: Error,
    /// ssh itself may get further than libssh2 did.
    pub ssh_may: bool,
    /// The gateway has not greeted in time, and that was less than all its time.
    pub silent: bool,
}

impl LoginError {
    /// A failure that ssh itself may not have.
    pub fn new(code: Code, message: impl Into<String>, ssh_may: bool) -> LoginError {
        let error = Error::new(code, message);
        LoginError { error, ssh_may, silent: false }
    }
}

/// Whatever does not know better: ssh would fail there, too.
impl From<Error> for LoginError {
    fn from(error: Error) -> LoginError {
        LoginError { error, ssh_may: false, silent: false }
    }
}
