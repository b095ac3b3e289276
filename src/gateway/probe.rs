//! Asks through a session whether a license server answers, before anything is announced.

use super::attempt;
use super::session::{CarriedBy, Opened, Session};
use crate::error::{Code, Error, Result, cause};
use crate::retry::Limits;
use crate::sys::{self, errno};
use crate::target::Destination;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What came of asking.
pub enum Answer {
    /// The license server has taken the connection.
    Yes,
    /// The gateway cannot reach it; why.
    No(String),
    /// Nothing came in time. Where the session is not free then, the question
    /// still hangs in it, and it is of no more use.
    Late,
    /// The gateway does not allow it.
    Forbidden,
    /// The session has ended; how.
    Lost(String),
    /// This node has no descriptor, memory or thread left to ask with; which.
    Scarce(String),
}

/// Whether the gateway's resolver says for good that there is no such host: glibc's,
/// musl's and BSD's words, which sshd passes on and ssh alone shows. (What sshd says
/// begins in lower case in our messages.)
pub fn names_nobody(why: &str) -> bool {
    let words = ["name or service not known", "name does not resolve", "nodename nor servname"];
    let why = why.to_lowercase();
    words.iter().any(|word| why.contains(word))
}

/// That a port answers, or why not.
pub type PortResult = std::result::Result<(), String>;

impl Answer {
    /// What it says of that port.
    ///
    /// # Errors
    /// What it says of the gateway: its fault, or 77 where it forbids the forward.
    pub fn judged(self, to: &Destination, limit: Duration) -> Result<PortResult> {
        match self {
            Answer::Yes => Ok(Ok(())),
            Answer::No(why) => Ok(Err(format!("cannot be reached from the gateway: {why}"))),
            Answer::Late => {
                let seconds = limit.as_secs();
                let why = format!("did not answer the gateway within {seconds} s");
                Ok(Err(why))
            }
            Answer::Forbidden => {
                let what = format!(
                    "the gateway forbids forwarding to {to}: ask its administrator (sshd's \
                     AllowTcpForwarding and PermitOpen, or permitopen in authorized_keys)"
                );
                Err(Error::new(Code::Refused, what))
            }
            Answer::Lost(why) => {
                let what = format!("lost the gateway right after the login: {why}");
                Err(Error::new(Code::GatewayDown, what))
            }
            Answer::Scarce(why) => {
                Err(Error::new(Code::System, format!("cannot ask for license server {to}: {why}")))
            }
        }
    }
}

/// Opens a channel to a license server and closes it again, within limits that hold
/// whatever the gateway sends meanwhile.
pub fn probe(session: &mut dyn Session, to: &Destination, limit: Duration) -> Answer {
    let deadline = Instant::now() + limit;
    let failed = |why| Error::new(Code::GatewayDown, why);
    let answer = attempt::run(failed, |attempt| {
        attempt.step("question", limit);
        attempt.hears(session.helper_stderr());
        let asked = attempt.uses(session.socket()).and_then(|()| ask(session, to, deadline));
        Ok(asked.unwrap_or_else(|e| match e.kind() {
            ErrorKind::TimedOut => Answer::Late,
            _ if errno::out_of_something(&e) => Answer::Scarce(cause(&e)),
            _ => Answer::Lost(cause(&e)),
        }))
    });
    answer.unwrap_or_else(|e: Error| match e.code {
        Code::System => Answer::Scarce(e.to_string()),
        // libssh2 reads on while packets come, and nobody in here saw that time was over.
        _ if Instant::now() >= deadline && !session.is_free() => Answer::Late,
        _ => Answer::Lost(e.to_string()),
    })
}

/// Whether one of the license servers answers through that gateway.
///
/// # Errors
/// None does, or what [`Answer::judged`] says of the gateway.
pub fn prove(session: &mut dyn Session, probes: &[Destination], limits: Limits) -> Result<()> {
    let mut refusals = Vec::new();
    for to in probes {
        if !session.is_free() {
            break;
        }
        let limit = limits.next_step();
        match probe(session, to, limit).judged(to, limit)? {
            Ok(()) => return Ok(()),
            Err(why) => refusals.push(format!("license server {to} {why}")),
        }
    }
    match refusals.is_empty() {
        true => Ok(()),
        false => Err(Error::new(Code::ServerDown, refusals.join(", "))),
    }
}

fn ask(session: &mut dyn Session, to: &Destination, deadline: Instant) -> io::Result<Answer> {
    // A client of our own, for who would carry its bytes.
    let (_client, theirs) = UnixStream::pair()?;
    session.open(to.clone(), CarriedBy::Anybody);
    let opened = loop {
        if let Some(opened) = session.opened(Some(theirs.as_fd()))? {
            break opened;
        }
        let again = session.due();
        wait(session.socket(), deadline, again)?;
    };
    match opened {
        Opened::Refused(why) => Ok(refused(why)),
        Opened::Channel(mut channel) => {
            // It has answered, however long the goodbye takes.
            while channel.close().is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
                if wait(session.socket(), deadline, None).is_err() {
                    break;
                }
            }
            Ok(Answer::Yes)
        }
        Opened::HandedOver(mut client) => loop {
            wait(client.fd(), deadline, None)?;
            match client.end() {
                _ if client.is_open() => return Ok(Answer::Yes),
                None => {}
                Some(_) => return session.why_refused().map(refused),
            }
        },
    }
}

fn refused(why: String) -> Answer {
    match why.contains("prohibited") {
        true => Answer::Forbidden,
        false => Answer::No(why),
    }
}

/// sshd holds the answer back until its greeting before it is acknowledged
/// (Nagle), which the kernel puts off for 40 ms.
///
/// # Errors
/// `TimedOut`. What else is wrong shows in the next call.
fn wait(socket: BorrowedFd<'_>, deadline: Instant, again: Option<Duration>) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    sys::acknowledge(socket);
    match again {
        // The socket has nothing to do with it.
        Some(again) => sys::wait_any([], Some(again.min(left))).map(drop),
        None => sys::poll_readable(socket, left).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Asks and never looks at the time, as libssh2 while packets come.
    struct Absorbed(UnixStream, bool);

    impl Session for Absorbed {
        fn name(&self) -> &'static str {
            "absorbed"
        }

        fn socket(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn has_spoken(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn is_free(&self) -> bool {
            !self.1
        }

        fn open(&mut self, _: Destination, _: CarriedBy) {
            self.1 = true;
        }

        fn opened(&mut self, _: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>> {
            self.0.read_exact(&mut [0])?;
            Ok(None)
        }
    }

    /// Goal: a question whose time is over has had no answer, whoever notices; where the
    /// gateway ends it, it is the gateway.
    #[test]
    fn a_question_that_nobody_in_there_ends() {
        let to = Destination::Tcp { host: "lic".into(), port: 1 };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answer = probe(&mut Absorbed(ours, false), &to, Duration::from_millis(1));
        assert!(matches!(answer, Answer::Late));
        drop(theirs);
        let (ours, _) = UnixStream::pair().unwrap();
        let limit = Duration::from_secs(60);
        let lost = probe(&mut Absorbed(ours, false), &to, limit).judged(&to, limit).unwrap_err();
        assert_eq!(lost.code, Code::GatewayDown);
        assert!(lost.to_string().starts_with("lost the gateway right after the login: "));
    }
}
