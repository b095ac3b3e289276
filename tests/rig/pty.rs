//! Runs a program on a pseudo-terminal, with a person's fingers on the keys.

use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use super::{Job, LIMIT, Outcome, Running, wait_until};

/// Python has what Rust's standard library lacks.
const HELPER: &str = include_str!("on_pty.py");

/// A program that leads the session of a terminal.
pub struct Pty {
    screen: Running,
    keys: ChildStdin,
    /// How much of the screen has been expected already.
    seen: usize,
}

impl Pty {
    /// Whether this machine can do it.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check() -> Result<(), String> {
        let try_it = Command::new("python3").args(["-c", "import pty"]).output();
        match try_it {
            Ok(output) if output.status.success() => Ok(()),
            other => Err(format!("no Python 3: {other:?}")),
        }
    }

    /// Starts the command, one of that job's.
    pub fn start(job: &Job, command: &Command) -> Pty {
        let mut on_pty = job.command("python3");
        on_pty.args(["-c", HELPER]);
        on_pty.arg(command.get_program()).args(command.get_args());
        let changed = command.get_envs();
        on_pty.envs(changed.filter_map(|(name, value)| Some((name, value?))));
        let (screen, keys) = job.spawn_typing(on_pty.stdin(Stdio::piped()));
        Pty { screen, keys: keys.expect("a pipe"), seen: 0 }
    }

    /// Waits until `text` stands on the screen, after what was expected before;
    /// returns what came between.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let mut between = String::new();
        wait_until(&format!("{text:?} on the screen"), LIMIT, || {
            let screen = self.screen.stdout();
            let found = screen[self.seen..].split_once(text);
            if let Some((before, _)) = found {
                between = before.to_owned();
                self.seen += before.len() + text.len();
            }
            found.is_some()
        });
        between
    }

    /// Types a line.
    pub fn enter(&mut self, line: &str) {
        self.press(&format!("{line}\n"));
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("type");
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.screen.has_ended()
    }

    /// Waits until the program has ended and nobody has the terminal any more.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        self.screen.wait(LIMIT)
    }
}
