//! One-line diagnostics: notes to people on stderr, events to the log file.

use std::fmt::{Arguments, Display};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
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

/// Where diagnostics go. Shared by the main thread and a reconnecting one.
#[derive(Debug)]
pub struct Log {
    verbosity: Verbosity,
    sinks: Mutex<Sinks>,
    /// When the last step ended, where steps are timed (`--check`).
    steps: Option<Mutex<Instant>>,
}

#[derive(Debug)]
struct Sinks {
    /// Whether stderr still belongs to us and is not the pipe that gets evaluated.
    stderr: bool,
    file: Option<(File, PathBuf)>,
}

impl Log {
    /// A log to stderr, or to nowhere yet when `stderr` is false (because stderr
    /// is the pipe whose text the calling shell will evaluate).
    pub fn new(verbosity: Verbosity, stderr: bool) -> Log {
        Log {
            verbosity,
            sinks: Mutex::new(Sinks { stderr, file: None }),
            steps: None,
        }
    }

    /// Also shows each [`step`](Log::step), with its time.
    pub fn timing_steps(self) -> Log {
        Log {
            steps: Some(Mutex::new(Instant::now())),
            ..self
        }
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
            .custom_flags(NOCTTY_NONBLOCK | if system { 0 } else { NOFOLLOW })
            .open(path)?;
        let about = file.metadata()?;
        if about.is_file() && about.uid() != crate::sys::user_id() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        self.sinks().file = Some((file, path.to_owned()));
        Ok(())
    }

    /// Lets go of stderr: the process has gone to the background.
    pub fn leave_stderr(&self) {
        self.sinks().stderr = false;
    }

    /// Something a person should know: stderr and the log file.
    pub fn note(&self, text: impl Display) {
        if self.verbosity >= Verbosity::Normal {
            self.to_stderr(format_args!("{text}"));
        }
        self.to_file(format_args!("{text}"));
    }

    /// A step or a client: shown with `-v` only, in both places.
    pub fn detail(&self, text: impl Display) {
        if self.verbosity >= Verbosity::Verbose {
            self.to_stderr(format_args!("{text}"));
            self.to_file(format_args!("{text}"));
        }
    }

    /// A step on the way to a tunnel that has just ended: shown with `-v`, and by
    /// `--check` with the time since the step before.
    pub fn step(&self, text: impl Display) {
        let Some(last) = &self.steps else {
            return self.detail(text);
        };
        let mut last = last.lock().unwrap_or_else(|e| e.into_inner());
        let milliseconds = last.elapsed().as_secs_f64() * 1e3;
        *last = Instant::now();
        self.note(format_args!("{milliseconds:8.1} ms  {text}"));
    }

    /// Something that the log file keeps and a terminal need not show.
    pub fn event(&self, text: impl Display) {
        if self.verbosity >= Verbosity::Verbose {
            self.to_stderr(format_args!("{text}"));
        }
        self.to_file(format_args!("{text}"));
    }

    /// Something that stderr hears of anyway: the log file alone.
    pub fn record(&self, text: impl Display) {
        self.to_file(format_args!("{text}"));
    }

    fn sinks(&self) -> std::sync::MutexGuard<'_, Sinks> {
        self.sinks.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn to_stderr(&self, text: Arguments<'_>) {
        if self.sinks().stderr {
            // One write per line, so that two processes' lines do not mix.
            let line = format!("licfwd: {}\n", one_line(&text.to_string()));
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    /// A full disk or a vanished directory must never stop a running job: the
    /// line is then lost, and nothing else.
    fn to_file(&self, text: Arguments<'_>) {
        if let Some((file, _)) = &mut self.sinks().file {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs());
            let line = format!(
                "{} licfwd[{}]: {}\n",
                utc(now),
                std::process::id(),
                one_line(&text.to_string())
            );
            let _ = file.write(line.as_bytes());
        }
    }
}

/// O_NOCTTY | O_NONBLOCK: a named pipe without a reader must not hang the start.
const NOCTTY_NONBLOCK: i32 = 0o400 | 0o4000;
/// O_NOFOLLOW, of which every architecture has its own.
const NOFOLLOW: i32 = if cfg!(target_arch = "aarch64") {
    0o100_000
} else {
    0o400_000
};

/// Replaces control characters, which a gateway's or a user's text may carry,
/// so that one message stays one line and cannot drive a terminal.
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `2026-11-22T04:20:28Z` for seconds since the epoch (proleptic Gregorian
/// calendar; the day count is Howard Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let s = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        s / 3_600,
        s / 60 % 60,
        s % 60
    )
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
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a b [31m");
    }
}
