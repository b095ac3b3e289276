//! Writes the statement that the calling shell evaluates.

use crate::cli::Shell;
use crate::error::{Code, Error, Result, cause};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// The statement that sets `variables`, on one line, safe under both
/// `eval $(...)` and `eval "$(...)"`: names and values hold nothing that a shell
/// would split, expand or quote (the command line has seen to that).
pub fn statement(shell: Shell, variables: &[(String, String)]) -> String {
    let parts: Vec<String> = variables
        .iter()
        .map(|(name, value)| match shell {
            Shell::Sh => format!("{name}={value}"),
            Shell::Csh => format!("setenv {name} {value}"),
            Shell::Fish => format!("set -gx {name} {value}"),
        })
        .collect();
    match shell {
        Shell::Sh => format!("export {}\n", parts.join(" ")),
        Shell::Csh | Shell::Fish => format!("{}\n", parts.join("; ")),
    }
}

/// The statement that fails with `status`: `eval $(licfwd ...)` would otherwise
/// succeed when licfwd fails and prints nothing.
pub fn failing(shell: Shell, status: i32) -> String {
    match shell {
        Shell::Sh | Shell::Csh => format!("(exit {status})\n"),
        Shell::Fish => format!("sh -c \"exit {status}\"\n"),
    }
}

/// What to write to standard output when licfwd fails: the failing statement,
/// or nothing where no shell evaluates it (`None`) or a person reads.
pub fn last_statement(caller: Option<Shell>, status: i32) -> String {
    match caller {
        Some(shell) if !io::stdout().is_terminal() => failing(shell, status),
        _ => String::new(),
    }
}

/// Writes the failing statement. There is nobody to tell if that fails too.
pub fn fail(caller: Option<Shell>, status: i32) {
    let _ = write_whole(&last_statement(caller, status));
}

/// Writes help or version.
///
/// # Errors
/// [`Code::Output`].
pub fn show(text: &str) -> Result<()> {
    write_whole(text)
        .map_err(|e| Error::new(Code::Output, format!("standard output: {}", cause(&e))))
}

/// Writes the statement to standard output.
///
/// # Errors
/// [`Code::Output`]: closed, full, or /dev/null, where the statement would
/// reach no shell.
pub fn print(line: &str) -> Result<()> {
    check()?;
    write_whole(line).map_err(|e| refused(&cause(&e)))
}

/// Whether a statement written to standard output can reach a shell; asked
/// before anything else is tried.
///
/// # Errors
/// [`Code::Output`].
pub fn check() -> Result<()> {
    // A closed standard output is /dev/null as well: Rust opens it at the start.
    let nowhere = same_as(1, "/dev/null");
    if nowhere {
        Err(refused("it is closed or /dev/null"))
    } else {
        Ok(())
    }
}

fn refused(why: &str) -> Error {
    Error::new(
        Code::Output,
        format!(
            "cannot write the statement to standard output: {why}; call licfwd as: eval $(licfwd ...)"
        ),
    )
}

/// In one piece and without std's buffer, which a fork would double.
fn write_whole(text: &str) -> io::Result<()> {
    File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(text.as_bytes())
}

fn same_as(fd: i32, path: &str) -> bool {
    let stat = std::fs::metadata(format!("/proc/self/fd/{fd}"));
    match (stat, std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => a.file_type().is_char_device() && a.rdev() == b.rdev(),
        _ => false,
    }
}

/// Whether standard error is the same pipe or file as standard output (`2>&1`):
/// whatever is said there would be evaluated.
pub fn stderr_is_evaluated() -> bool {
    let stat =
        |fd: std::os::fd::BorrowedFd<'_>| File::from(fd.try_clone_to_owned().ok()?).metadata().ok();
    match (stat(io::stdout().as_fd()), stat(io::stderr().as_fd())) {
        (Some(out), Some(err)) => {
            !out.file_type().is_char_device() && (out.dev(), out.ino()) == (err.dev(), err.ino())
        }
        _ => false,
    }
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
            (
                Shell::Fish,
                "set -gx A 1@h; set -gx B 2\n",
                "sh -c \"exit 77\"\n",
            ),
        ] {
            assert_eq!(statement(shell, &two), line);
            assert_eq!(failing(shell, 77), failure);
        }
    }
}
