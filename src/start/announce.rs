//! Writes the statement that the calling shell evaluates.

use crate::cli::{Invocation, Shell};
use crate::error::{Code, Context, Result};
use crate::local::{BoundServer, LocalPorts};
use crate::log::Log;
use crate::sys;
use std::fmt::Display;
use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The variables to set, with their values: where each license server is now.
///
/// A FlexNet client that is told a name takes the vendor port of every member of a
/// triad for the first one's; told address and port, it takes each for what it is.
pub fn variables(invocation: &Invocation, bound: &LocalPorts, log: &Log) -> Vec<(String, String)> {
    let join = if invocation.verbatim { ":" } else { "," };
    let triads = bound.variables.iter().filter(|it| it.groups.iter().any(|all| all.len() > 1));
    for triad in triads.filter(|_| invocation.verbatim) {
        log.note(format_args!(
            "{}: the servers are joined by colons, because of --verbatim: a client that is told a name takes the vendor daemon's port of every server of a triad for the first one's",
            triad.name
        ));
    }
    let server = |i: &usize| {
        let BoundServer { port, host, is_web, .. } = &bound.servers[*i];
        // As a URL has it (RFC 3986, section 3.2.2).
        let brackets = *is_web && host.contains(':');
        let host = if brackets { format!("[{host}]") } else { host.clone() };
        invocation.value(*is_web, *port, &host)
    };
    let group = |group: &Vec<usize>| group.iter().map(server).collect::<Vec<_>>().join(join);
    let variables = bound.variables.iter().map(|variable| {
        let groups: Vec<String> = variable.groups.iter().map(group).collect();
        (variable.name.clone(), groups.join(":"))
    });
    variables.collect()
}

/// The statement that sets `variables`, on one line, safe under both
/// `eval $(...)` and `eval "$(...)"`: names and values hold nothing that a shell
/// would split, expand or quote (the command line has seen to that), but for the
/// brackets of an IPv6 address in a URL.
fn statement(shell: Shell, variables: &[(String, String)]) -> String {
    let settings: Vec<String> = variables
        .iter()
        .map(|(name, value)| match value.contains('[') {
            true => (name, format!("'{value}'")),
            false => (name, value.clone()),
        })
        .map(|(name, value)| match shell {
            Shell::Sh => format!("{name}={value}"),
            Shell::Csh => format!("setenv {name} {value}"),
            Shell::Fish => format!("set -gx {name} {value}"),
        })
        .collect();
    match shell {
        Shell::Sh => format!("export {}\n", settings.join(" ")),
        Shell::Csh | Shell::Fish => format!("{}\n", settings.join("; ")),
    }
}

/// The statement that fails with `status`: `eval $(licfwd ...)` would otherwise
/// succeed when licfwd fails and prints nothing.
fn failing_statement(shell: Shell, status: i32) -> String {
    match shell {
        Shell::Sh | Shell::Csh => format!("(exit {status})\n"),
        Shell::Fish => format!("sh -c \"exit {status}\"\n"),
    }
}

/// What to write to standard output when licfwd fails: the failing statement,
/// or nothing where no shell evaluates it (`None`) or a person reads.
pub fn failing_output(shell: Option<Shell>, status: i32) -> String {
    match shell {
        Some(shell) if !io::stdout().is_terminal() => failing_statement(shell, status),
        _ => String::new(),
    }
}

/// Writes help, version, or the failing statement.
///
/// # Errors
/// [`Code::Output`].
pub fn print_text(text: &str) -> Result<()> {
    write_whole(text).context(Code::Output, || "standard output".into())
}

/// Writes the statement that sets `variables`.
///
/// # Errors
/// [`Code::Output`]: nobody reads, or the disk is full.
pub fn print_statement(shell: Shell, variables: &[(String, String)]) -> Result<()> {
    writable(write_whole(&statement(shell, variables)))
}

/// Hands `variables` over to the process that is to become the command, which reads
/// standard output ([`settings`]).
///
/// # Errors
/// [`Code::System`]: that process is gone.
pub fn hand_over(variables: &[(String, String)]) -> Result<()> {
    let lines = variables.iter().map(|(name, value)| format!("{name}={value}\n"));
    let what = || "cannot tell the process that is to become the command".into();
    write_whole(&lines.collect::<String>()).context(Code::System, what)
}

/// What [`hand_over`] has written.
pub fn settings(lines: &str) -> Vec<(&str, &str)> {
    lines.lines().filter_map(|line| line.split_once('=')).collect()
}

/// Asked before anything else is tried.
///
/// # Errors
/// [`Code::Output`]: no statement written to standard output would reach a shell.
pub fn check_stdout() -> Result<()> {
    // A closed standard output is /dev/null as well: Rust opens it at the start.
    match (file_behind(io::stdout().as_fd()), fs::metadata("/dev/null")) {
        (Ok(out), Ok(null)) if out.file_type().is_char_device() && out.rdev() == null.rdev() => {
            writable(Err("it is closed or /dev/null"))
        }
        _ => Ok(()),
    }
}

fn writable(statement: std::result::Result<(), impl Display>) -> Result<()> {
    let what = || "cannot write the statement to standard output".into();
    statement.advise(Code::Output, what, "call licfwd as: eval $(licfwd ...)")
}

/// The end of what a foreground tunnel announces, for whoever reads to there.
pub fn close_stdout() {
    let null = File::options().write(true).open("/dev/null");
    let _ = null.map(|null| sys::redirect(null, 1));
}

/// In one piece and without std's buffer, which a fork would double.
fn write_whole(text: &str) -> io::Result<()> {
    File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(text.as_bytes())
}

/// One note where a person or a file, and no shell, gets the statement.
pub fn tell_if_unevaluated(shell: Shell, log: &Log) {
    let stdout = io::stdout();
    let what = match file_behind(stdout.as_fd()) {
        _ if stdout.is_terminal() => "the terminal",
        Ok(out) if out.is_file() => "a file",
        _ => return,
    };
    let form = match shell {
        Shell::Sh => "eval $(licfwd ...)",
        Shell::Csh => "eval `licfwd --shell csh ...`",
        Shell::Fish => "eval (licfwd --shell fish ...)",
    };
    log.note(format_args!(
        "standard output is {what}, and no shell evaluates the line that is printed there; \
         write {form}"
    ));
}

/// What may look like success or like a fault and is neither, once the tunnel stands.
pub fn tell_what_surprises(invocation: &Invocation, log: &Log) {
    let is_pipe = file_behind(io::stdout().as_fd()).is_ok_and(|out| out.file_type().is_fifo());
    let foreground = !invocation.background && !invocation.check;
    if is_pipe && foreground && !invocation.announces() && !invocation.becomes_command() {
        log.note(
            "-L serves in the foreground, and this process ends with the tunnel; where a script \
             is to go on: licfwd -f -L ... || exit, without eval, because nothing is printed",
        );
    }
    for (name, value) in &invocation.replaced {
        let one_call = match value.starts_with("http://") {
            true => format!("{name}=https://first,second"),
            false => format!("{name}=first:PORT {name}=second:PORT"),
        };
        log.note(format_args!(
            "{name}={value}, which leads to this node already, is replaced; for both servers \
             one call: licfwd GATEWAY {one_call}"
        ));
    }
}

/// Whether standard error is the same pipe as standard output (`2>&1`): whatever is
/// said there would be evaluated. A file nobody evaluates; there people look for it.
pub fn stderr_is_evaluated() -> bool {
    let (Ok(out), Ok(err)) = (file_behind(io::stdout().as_fd()), file_behind(io::stderr().as_fd()))
    else {
        return false;
    };
    let is_stream = out.file_type().is_fifo() || out.file_type().is_socket();
    is_stream && (out.dev(), out.ino()) == (err.dev(), err.ino())
}

/// Whether that file is the one in which the caller waits for the end of standard
/// output, or which it evaluates.
pub fn is_stdout(path: &Path) -> bool {
    let (Ok(about), Ok(out)) = (fs::metadata(path), file_behind(io::stdout().as_fd())) else {
        return false;
    };
    !out.file_type().is_char_device() && (out.dev(), out.ino()) == (about.dev(), about.ino())
}

fn file_behind(descriptor: BorrowedFd<'_>) -> io::Result<Metadata> {
    File::from(descriptor.try_clone_to_owned()?).metadata()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_its_form() {
        let two = [("A".into(), "1@h".into()), ("B".into(), "2".into())];
        for (shell, line, failure) in [
            (Shell::Sh, "export A=1@h B=2\n", "(exit 77)\n"),
            (Shell::Csh, "setenv A 1@h; setenv B 2\n", "(exit 77)\n"),
            (Shell::Fish, "set -gx A 1@h; set -gx B 2\n", "sh -c \"exit 77\"\n"),
        ] {
            assert_eq!(statement(shell, &two), line);
            assert_eq!(failing_statement(shell, 77), failure);
        }
    }
}
