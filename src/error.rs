//! Says what went wrong and which exit code that is.

use std::fmt;

/// Why licfwd ends, as the exit code that a batch script branches on.
///
/// The numbers are those of `sysexits.h`; the contract's table says what a
/// script can do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Bad option, target or port, or a remote command.
    Usage = 64,
    /// The gateway works, the license server does not answer.
    ServerDown = 69,
    /// A bug in licfwd.
    Internal = 70,
    /// The operating system refused something.
    System = 71,
    /// No local port could be bound.
    NoPort = 73,
    /// The statement could not be written to standard output.
    Output = 74,
    /// The gateway could not be reached, or kept dropping the connection.
    GatewayDown = 75,
    /// The gateway's host key is unknown, revoked or has changed.
    HostKey = 76,
    /// The gateway refused the login or forbids the forward.
    Refused = 77,
    /// Configuration: unreadable identity, `ssh -G` failed, unknown gateway.
    Config = 78,
}

impl Code {
    /// Whether the same call can succeed a little later: the two codes that
    /// licfwd itself tries again.
    pub fn is_transient(self) -> bool {
        matches!(self, Code::ServerDown | Code::GatewayDown)
    }
}

/// A failure, told in one line: operation with its arguments, then the cause,
/// then the way out where one is known.
#[derive(Clone, Debug)]
pub struct Error {
    /// The exit code.
    pub code: Code,
    message: String,
}

/// What every fallible function here returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure with its exit code; `message` is lower case, without full stop.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Shorthand for the `map_err` that turns a cause into a message and a code.
pub trait Context<T> {
    /// Wraps the cause as `what: cause` with the given exit code.
    fn context(self, code: Code, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, code: Code, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(code, format!("{}: {cause}", what())))
    }
}

/// What the system said, without Rust's ` (os error 111)`, which helps nobody
/// who reads the message.
pub fn cause(e: &std::io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
