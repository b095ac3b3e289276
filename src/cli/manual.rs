//! Writes the manual page and the completions.
//!
//! Options and exit codes come from the tables that `--help` shows too; the prose
//! around them stands in `manual/page.man`, in the macros of man(7).

mod completions;

use super::invocation::Generated;
use super::options::{Kind, OPTIONS, Opt, dashed};
use crate::config::{KEYWORDS, Side};
use crate::error::EXITS;
use std::fmt::Write as _;

/// When the manual last changed its meaning (man-pages(7) wants a date).
const DATE: &str = "2026-11-26";

/// What help has no room for, by [`Opt::key`].
#[rustfmt::skip]
const MORE: &[(&str, &str)] = &[
    ("L", "Repeatable. A path with a slash on either side is a Unix socket; * as bind_address is every address. Nothing is printed for it and it is never probed. A port that is taken ends licfwd with 73 at once."),
    ("via", "auto: libssh2, and the ssh program where only that gets in; see LOGGING IN. For gigabytes ssh is the faster one."),
    ("tries", "The waits in between grow and are random. Only what may pass is tried again: exit codes 69 and 75. With --check: 1."),
    ("deadline", "When it comes, licfwd ends with the exit code of the last failure."),
    ("no-probe", "For MySQL and other servers that count broken handshakes and then block a host."),
    ("verbatim", "For a client that is to hear its license server's own words, for instance because it checks the name. FlexNet's vendor daemon then needs its port after a +, and the servers of a triad are joined by colons, with a note. See FLEXNET."),
    ("watch", "In a make or Snakemake recipe: --watch $$; in a TaskProlog: --watch $SLURM_TASK_PID. With -L alone and a terminal nothing is watched, as with ssh -f."),
    ("no-watch", "kill with the process id ends it; see --pid-var."),
    ("check", "Resolves the gateway, binds ports, connects, checks the host key, logs in and asks the license servers, as a job would. Each step is told on standard error with its time; nothing is printed, no port stays bound, no host key is written down. The exit codes are the same. Without targets the gateway alone is checked."),
    ("listen", "Needs --allow unless ADDR is a loopback address. See OTHER NODES OF THE JOB."),
    ("allow", "Names and addresses, separated by commas, blanks or newlines. This node is served in any case, you alone there; any user of an allowed host gets in."),
    ("allow-any-user", "Where a container hides who the users are (exit code 71), nothing else works."),
    ("format", "{port} and {host} aside, it may hold letters, digits and @:.,/_-+%=. Where web servers stand behind the variable: http://{host}:{port} unless given."),
    ("shell", "sh serves bash, dash, ksh and zsh as well, csh serves tcsh."),
    ("log", "Start, each reconnection, refused users, end; with -v each client. A file that cannot be opened is exit code 78."),
    ("generate", "One of man, complete-bash, complete-zsh and complete-fish; nothing else is done."),
    ("4", "The local ports stay on both families."),
    ("6", "The local ports stay on both families."),
];

/// The text that `--generate` prints.
pub fn generate(what: Generated) -> String {
    match what {
        Generated::Manual => page(),
        Generated::Bash => completions::bash(),
        Generated::Zsh => completions::zsh(),
        Generated::Fish => completions::fish(),
    }
}

fn page() -> String {
    let mut text = include_str!("manual/page.man").to_owned();
    for (mark, filling) in [
        ("@DATE@", DATE.to_owned()),
        ("@VERSION@", roff(env!("CARGO_PKG_VERSION"))),
        ("@TUNNEL@\n", options(Kind::Tunnel)),
        ("@ACCESS@\n", options(Kind::Access)),
        ("@OUTPUT@\n", options(Kind::Output)),
        ("@SSH@\n", options(Kind::Ssh)),
        ("@ACCEPTED@\n", options(Kind::Accepted)),
        ("@REFUSED@\n", options(Kind::Refused)),
        ("@EXITS@\n", exits()),
        ("@SSH_ALONE@\n", keywords(Side::SshAlone)),
        ("@BOTH@\n", keywords(Side::Both)),
        ("@NO_EFFECT@\n", keywords(Side::NoEffect)),
    ] {
        text = text.replace(mark, &filling);
    }
    text.lines().map(wrapped).collect()
}

/// A line of prose, broken as man-pages(7) and mandoc's lint want it.
fn wrapped(line: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in line.split(' ') {
        let fits = column + word.len() < 80 || line.starts_with('.');
        match (column, fits) {
            (0, _) => {}
            (_, true) => text.push(' '),
            (_, false) => text.push('\n'),
        }
        column = if fits { column + 1 } else { 0 } + word.len();
        text += word;
    }
    text + "\n"
}

fn options(kind: Kind) -> String {
    let mut text = String::new();
    for row in OPTIONS.iter().filter(|row| row.kind == kind) {
        let names = names(row).map(|name| format!("\\fB{}\\fR", roff(&name)));
        let _ = write!(text, ".TP\n{}", names.collect::<Vec<_>>().join(", "));
        if !row.arg.is_empty() {
            let _ = write!(text, " \\fI{}\\fR", roff(row.arg));
        }
        let _ = writeln!(text, "\n{}.", roff(&capital(row.text)));
        let more = MORE.iter().filter(|(key, _)| *key == row.key());
        for sentence in more.flat_map(|(_, more)| more.split_inclusive(". ")) {
            let _ = writeln!(text, "{}", roff(sentence.trim_end()));
        }
    }
    text
}

fn exits() -> String {
    let mut text = String::new();
    for exit in EXITS {
        let (meaning, advice) = (roff(&capital(exit.meaning)), roff(exit.advice));
        let _ = writeln!(text, ".TP\n.B {}\n{meaning}.\nIn a batch script: {advice}.", exit.code);
    }
    text
}

/// What there is to tell of ssh_config's keywords, a line for each.
fn keywords(side: Side) -> String {
    let mut text = String::from(".PD 0\n");
    for keyword in KEYWORDS.iter().filter(|k| k.side == side && !k.note.is_empty()) {
        let _ = writeln!(text, ".TP 34\n.B {}\n{}", keyword.name, roff(keyword.note));
    }
    text + ".PD\n"
}

/// `-E` and `--log`.
fn names(row: &Opt) -> impl Iterator<Item = String> {
    let given = [row.short, row.long].into_iter();
    given.filter(|name| !name.is_empty()).map(dashed)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Text as roff wants it: no escapes, no requests, and hyphens that can be pasted.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let text = text.replace('\'', "\\(aq").replace('~', "\\(ti");
    match text.starts_with('.') {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests;
