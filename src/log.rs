//! One-line diagnostics: notes to people on stderr, events to the log file.
//!
//! | verb   | stderr hears it  | the log file keeps it |
//! |--------|------------------|-----------------------|
//! | note   | except with `-q` | always                |
//! | event  | with `-v`, `--check` | always            |
//! | detail | with `-v`        | with `-v`             |
//! | record | never            | always                |
//! | step   | like a detail; with `--check`, like a note |

use crate::sys;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How much to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// `-q`: only the error that ends the program.
    Quiet,
    /// What a person should know.
    #[default]
    Normal,
    /// `-v`: also each step, and each client in the log.
    Verbose,
}

const ALWAYS: Verbosity = Verbosity::Quiet;

/// Where diagnostics go. Shared by the main thread and a reconnecting one.
#[derive(Debug)]
pub struct Log {
    verbosity: Verbosity,
    /// Whether stderr is there to be read. In the background it is /dev/null.
    stderr: bool,
    file: Mutex<Option<File>>,
    /// The first line of a file that is opened.
    about: Mutex<String>,
    /// When the last step ended, where steps are timed (`--check`).
    last_step: Option<Mutex<Instant>>,
}

impl Log {
    /// A log to stderr, or to nowhere when `stderr` is false (because that is
    /// the pipe whose text the calling shell will evaluate).
    pub fn new(verbosity: Verbosity, stderr: bool) -> Log {
        Log { verbosity, stderr, file: Mutex::new(None), about: Mutex::default(), last_step: None }
    }

    /// Also shows each [`step`](Log::step), with its time.
    pub fn timing_steps(self) -> Log {
        Log { last_step: Some(Mutex::new(Instant::now())), ..self }
    }

    /// What a file that is opened later begins with: who writes to it, and where.
    pub fn about(&self, text: String) {
        *lock(&self.about) = text;
    }

    /// Also appends events to `path`, created with mode 0600 where it is absent.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open_file(&self, path: &Path) -> io::Result<()> {
        // In a directory that others can write to, a link or a file of theirs may
        // wait under that name. /dev/stderr is a link, too.
        let system = path.starts_with("/dev") || path.starts_with("/proc");
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(sys::NOCTTY_NONBLOCK | if system { 0 } else { sys::NOFOLLOW })
            .open(path)?;
        let about = file.metadata()?;
        if about.is_file() && about.uid() != sys::user_id() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        *lock(&self.file) = Some(file);
        let about = lock(&self.about).clone();
        if !about.is_empty() {
            self.record(about);
        }
        Ok(())
    }

    /// Something a person should know.
    pub fn note(&self, text: impl Display) {
        self.tell(Some(Verbosity::Normal), ALWAYS, &text);
    }

    /// Something that the log file keeps and a terminal need not show.
    pub fn event(&self, text: impl Display) {
        let heard = self.last_step.as_ref().map_or(Verbosity::Verbose, |_| Verbosity::Normal);
        self.tell(Some(heard), ALWAYS, &text);
    }

    /// A client, or what else fills a log.
    pub fn detail(&self, text: impl Display) {
        self.tell(Some(Verbosity::Verbose), Verbosity::Verbose, &text);
    }

    /// Something that stderr hears of anyway.
    pub fn record(&self, text: impl Display) {
        self.tell(None, ALWAYS, &text);
    }

    /// A step on the way to a tunnel that has just ended: a detail, but with
    /// `--check` a note with the time since the step before.
    pub fn step(&self, text: impl Display) {
        let Some(last) = &self.last_step else {
            return self.detail(text);
        };
        let took = std::mem::replace(&mut *lock(last), Instant::now()).elapsed();
        let milliseconds = took.as_secs_f64() * 1e3;
        self.note(format_args!("{milliseconds:8.1} ms  {text}"));
    }

    /// One line to whoever hears of such things at this verbosity: stderr from
    /// `stderr` on (`None`: never), the log file from `file` on.
    fn tell(&self, stderr: Option<Verbosity>, file: Verbosity, text: &dyn Display) {
        if self.stderr && stderr.is_some_and(|least| self.verbosity >= least) {
            print_error(text);
        }
        if let Some(open) = &mut *lock(&self.file)
            && self.verbosity >= file
        {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = utc(now.map_or(0, |now| now.as_secs()));
            let text = one_line(&text.to_string());
            let line = format!("{now} licfwd[{}]: {text}\n", std::process::id());
            // A full disk or a vanished directory must never stop a running job:
            // the line is then lost, and nothing else.
            let _ = open.write(line.as_bytes());
        }
    }
}

/// Writes a line to stderr, in one piece, so that two processes' lines do not mix.
pub fn print_error(text: &dyn Display) {
    let line = format!("licfwd: {}\n", one_line(&text.to_string()));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// A thread that panicked has left nothing half done in here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Replaces whatever cannot be seen, which a gateway's or a user's text may carry,
/// so that one message stays one line, cannot drive a terminal, and reads as it is:
/// control characters, foreign line ends, and what turns text round or hides in it.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_visible(c) { c } else { ' ' }).collect()
}

fn is_visible(c: char) -> bool {
    // std has the tables, and lets them be asked in this way alone. Behind a letter
    // an accent counts as visible.
    matches!(c, ' '..='~') || !c.is_ascii() && format!("a{c}").escape_debug().count() == 2
}

/// `2026-11-22T04:20:28Z` for seconds since the epoch (proleptic Gregorian
/// calendar; the day count is Howard Hinnant's `civil_from_days`, whose years
/// begin in March).
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    let month = (month + 2) % 12 + 1;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_321_228, "2026-11-22T04:20:28Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn a_message_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m'\"\\\u{7f}"), "a b [31m'\"\\ ");
        for hidden in "\u{85}\u{ad}\u{61c}\u{200b}\u{200e}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}\u{feff}\u{fff9}\u{e0001}\u{e0041}".chars() {
            assert_eq!(one_line(&format!("a{hidden}b")), "a b", "{hidden:?}");
        }
        let words = "z\u{fc}rich zu\u{308}rich \u{6771}\u{4eac} \u{5d0}\u{5d1} \u{1f600}";
        assert_eq!(one_line(words), words);
    }
}
