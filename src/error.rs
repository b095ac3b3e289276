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

/// An exit code as help, manual and tests tell it.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// What the process ends with.
    pub code: u8,
    /// In help.
    pub short: &'static str,
    /// In the manual.
    pub meaning: &'static str,
    /// What a batch script can do about it.
    pub advice: &'static str,
}

/// Every exit code, in order.
#[rustfmt::skip]
pub const EXITS: &[Exit] = {
    const fn exit(code: u8, short: &'static str, meaning: &'static str, advice: &'static str) -> Exit {
        Exit { code, short, meaning, advice }
    }
    &[
        exit(0, "announced", "announced; at least one server of every variable answered through the gateway", "run"),
        exit(Code::Usage as u8, "usage", "usage: bad option, target or port, or a remote command", "fix the script"),
        exit(Code::ServerDown as u8, "no license server", "the gateway works, the license server does not answer, after all tries", "requeue, a few times"),
        exit(Code::Internal as u8, "internal", "internal error", "report it"),
        exit(Code::System as u8, "system", "the system refused: no process, no descriptor, no way to tell users apart", "tell the administrator"),
        exit(Code::NoPort as u8, "no port", "no local port could be bound", "requeue"),
        exit(Code::Output as u8, "stdout", "the line could not be written: standard output is full, closed or /dev/null", "fix the script"),
        exit(Code::GatewayDown as u8, "no gateway", "the gateway could not be reached or kept dropping the connection, after all tries", "requeue, a few times"),
        exit(Code::HostKey as u8, "host key", "the gateway's host key is unknown, revoked or has changed", "look, then fix known_hosts"),
        exit(Code::Refused as u8, "refused", "the gateway refused the login or forbids the forward", "fix the keys or ask the administrator"),
        exit(Code::Config as u8, "configuration", "configuration: an identity that cannot be read, ssh -G failed, a gateway name that does not exist, or a license server's where ssh tells", "fix it"),
    ]
};

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
        Error { code, message: message.into() }
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
    /// The same with a way out: `what: cause; way_out`.
    fn advise(self, code: Code, what: impl FnOnce() -> String, way_out: &str) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, code: Code, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(code, format!("{}: {}", what(), cause(&e))))
    }

    fn advise(self, code: Code, what: impl FnOnce() -> String, way_out: &str) -> Result<T> {
        self.map_err(|e| Error::new(code, format!("{}: {}; {way_out}", what(), cause(&e))))
    }
}

/// What the system said, without Rust's ` (os error 111)` at the end, which helps
/// nobody who reads the message.
pub fn cause(e: &impl fmt::Display) -> String {
    let text = e.to_string();
    match text.rsplit_once(" (os error ") {
        Some((said, number)) if number.trim_start_matches(char::is_numeric) == ")" => {
            said.to_owned()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// The system's number goes, whatever else stands in brackets stays.
    #[test]
    fn a_failure_tells_operation_cause_and_way_out() {
        let refused = || io::Error::from_raw_os_error(111);
        for (cause, said) in [
            (refused(), "Connection refused"),
            (io::Error::other(refused()), "Connection refused"),
            (io::Error::other("late (os error 5) again"), "late (os error 5) again"),
        ] {
            let told =
                Err::<(), _>(cause).advise(Code::System, || "cannot do it".into(), "give up");
            let told = told.expect_err("a failure").to_string();
            assert_eq!(told, format!("cannot do it: {said}; give up"));
        }
    }
}
