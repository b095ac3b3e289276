//! Asks the name services in a process of its own, which can be given up: they know no
//! limit, and take minutes where a server does not answer.

use super::file::read_file;
use super::helper::{RESOLVER, detached_short, hear_out, this_program_as};
use super::process::{kill_group, passwd, user_id};
use std::env;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
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

/// A user's home directory and login name.
type User = (PathBuf, String);

/// Asks who this process's user is, unless the file of the node's own users, which
/// comes before any directory, knows that: a process takes a millisecond.
///
/// # Errors
/// No process was to be had.
pub fn ask_for_user() -> Result<UserQuestion> {
    let own = user_id().to_string();
    match listed(|_, id| id == own) {
        Some(user) => Ok(UserQuestion::Answered(user)),
        None => Question::ask(&[]).map(UserQuestion::Asked),
    }
}

/// Another user's home directory; `None`: there is no such user, or no answer within
/// `limit`.
pub fn home_of(name: &str, limit: Duration) -> Option<PathBuf> {
    let ask = || Question::ask(&[format!("~{name}")]).ok()?.user(limit).ok()?;
    listed(|it, _| it == name).or_else(ask).map(|(home, _)| home)
}

/// The user in passwd(5) of whom `is_it` is true, by name and number.
fn listed(is_it: impl Fn(&str, &str) -> bool) -> Option<User> {
    let text = read_file(Path::new("/etc/passwd")).ok()?;
    str::from_utf8(&text).ok()?.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id, home) = (fields.next()?, fields.nth(1)?, fields.nth(2)?);
        is_it(name, id).then(|| (home.into(), name.to_owned()))
    })
}

/// Who this process's user is.
pub enum UserQuestion {
    /// The node's own file knows.
    Answered(User),
    /// The directory is being asked.
    Asked(Question),
}

impl UserQuestion {
    /// The home directory and login name of the effective user, from the password
    /// database, where `ssh` takes them from as well; `None`: it has no such user.
    ///
    /// # Errors
    /// `TimedOut`: no answer within `limit`.
    pub fn user(self, limit: Duration) -> Result<Option<User>> {
        match self {
            UserQuestion::Answered(user) => Ok(Some(user)),
            UserQuestion::Asked(question) => question.user(limit),
        }
    }
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

    fn user(self, limit: Duration) -> Result<Option<User>> {
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
/// its arguments; behind a ~ the home of that user; without any, who its user is.
pub fn print_addresses() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let first = arguments.next();
    let user = first.as_deref().map_or(Some(""), |word| word.strip_prefix('~'));
    if let Some(user) = user {
        if let Some((home, name)) = passwd(user) {
            print!("{}\0{name}", home.display());
        }
        return ExitCode::SUCCESS;
    }
    let port = first.unwrap_or_default();
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
