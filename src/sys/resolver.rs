//! Asks the name services in a process of its own, which can be given up: they know no
//! limit, and take minutes where a server does not answer.

use super::helper::{RESOLVER, detached_short, hear_out, this_program_as};
use super::process::{kill_group, passwd};
use std::env;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

/// The addresses of all these names (or addresses) together, with that port, in the
/// resolver's order.
///
/// # Errors
/// Which name has none, and why, or what else is wrong. `TimedOut`: no answer within
/// `limit`, or in the resolver's own time, which may pass.
pub fn look_up(names: &[&str], port: u16, limit: Duration) -> Result<Vec<SocketAddr>> {
    let addresses = names.iter().map(|name| name.parse().map(|ip: IpAddr| (ip, port).into()));
    if let Ok(addresses) = addresses.collect() {
        return Ok(addresses);
    }
    let mut arguments = vec![port.to_string()];
    arguments.extend(names.iter().map(|name| (*name).to_owned()));
    let question = Question::ask(&arguments)?;
    let answer = question.answer(limit).map_err(|e| match e.kind() {
        ErrorKind::TimedOut => Error::new(e.kind(), format!("{}: {e}", names.join(", "))),
        _ => e,
    })?;
    Ok(answer.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Asks who this process's user is.
///
/// # Errors
/// No process was to be had.
pub fn ask_for_user() -> Result<Question> {
    Question::ask(&[])
}

/// A question that is being answered.
pub struct Question(Child);

impl Question {
    fn ask(arguments: &[String]) -> Result<Question> {
        // Nothing is said there.
        let (_ours, theirs) = UnixStream::pair()?;
        let mut resolver = this_program_as(RESOLVER);
        resolver.args(arguments).stdin(OwnedFd::from(theirs));
        resolver.stdout(Stdio::piped()).stderr(Stdio::piped());
        detached_short(&mut resolver).spawn().map(Question)
    }

    fn answer(mut self, limit: Duration) -> Result<String> {
        let (status, answer, why) = hear_out(&mut self.0, limit)?;
        if status.success() {
            return Ok(answer);
        }
        // EAI_AGAIN, in glibc's and in musl's words: std keeps no number.
        let passing = ["Temporary failure", "Try again"].iter().any(|words| why.contains(words));
        let kind = if passing { ErrorKind::TimedOut } else { ErrorKind::NotFound };
        Err(Error::new(kind, why.trim().to_owned()))
    }

    /// The home directory and login name of the effective user, from the password
    /// database, where `ssh` takes them from as well; `None`: it has no such user.
    ///
    /// # Errors
    /// `TimedOut`: no answer within `limit`.
    pub fn user(self, limit: Duration) -> Result<Option<(PathBuf, String)>> {
        let answer = self.answer(limit)?;
        let record = answer.split_once('\0');
        Ok(record.map(|(home, name)| (home.into(), name.to_owned())))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            kill_group(self.0.id());
            let _ = self.0.wait();
        }
    }
}

/// The program of a resolver: prints the addresses of the names that follow a port in
/// its arguments; without any, who its user is.
pub fn print_addresses() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(port) = arguments.next() else {
        if let Some((home, name)) = passwd() {
            print!("{}\0{name}", home.display());
        }
        return ExitCode::SUCCESS;
    };
    let port = port.parse().unwrap_or(0);
    for name in arguments {
        match (name.as_str(), port).to_socket_addrs() {
            Ok(found) => found.for_each(|address| println!("{address}")),
            Err(e) => {
                let why = e.to_string();
                let about = "failed to lookup address information: ";
                eprintln!("{name}: {}", why.strip_prefix(about).unwrap_or(&why));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
