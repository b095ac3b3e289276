//! Asks a person at the terminal, or through SSH_ASKPASS.

use super::prompt::Prompter;
use crate::log::one_line;
use crate::sys;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{self, Command, ExitCode, Stdio};
use std::time::Duration;

/// A gateway waits that long for a login by default (sshd's LoginGraceTime).
const TYPING_TIMEOUT: Duration = Duration::from_secs(120);

/// What control-C sends while the terminal does not turn it into a signal.
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const KILL_LINE: u8 = 21;

/// The way to a person.
pub enum Terminal {
    /// /dev/tty.
    Tty(File),
    /// The program named by SSH_ASKPASS.
    Askpass(String),
}

impl Terminal {
    /// The way to the person who started this, if there is one: the terminal,
    /// whatever stdin is, or SSH_ASKPASS by the rules of ssh(1), which in a batch job
    /// has to be set on purpose. In a batch job, which has no terminal, nobody is asked
    /// and nothing hangs, nor in the background of one.
    pub fn open() -> Option<Terminal> {
        let require = env::var("SSH_ASKPASS_REQUIRE").unwrap_or_default();
        let display = env::var_os("DISPLAY").is_some() || env::var_os("WAYLAND_DISPLAY").is_some();
        let askpass = env::var("SSH_ASKPASS")
            .ok()
            .filter(|program| !program.is_empty() && require != "never")
            .filter(|_| display || require == "force")
            .map(Terminal::Askpass);
        if askpass.is_some() && matches!(require.as_str(), "force" | "prefer") {
            return askpass;
        }
        let tty = open_tty("/dev/tty").filter(|tty| sys::is_in_foreground(tty));
        tty.map(Terminal::Tty).or(askpass)
    }
}

impl Prompter for Terminal {
    fn ask(&mut self, prompt: &str, echo: bool) -> Option<String> {
        match self {
            Terminal::Tty(tty) => ask_on_tty(tty, prompt, echo),
            Terminal::Askpass(program) => ask_by_program(program, prompt),
        }
    }

    /// An ssh on the way to the gateway has no terminal, being in a session of its
    /// own, and would send empty passwords. So licfwd itself becomes its SSH_ASKPASS.
    fn lend(&self, ssh: &mut Command) -> bool {
        if let Terminal::Askpass(_) = self {
            return true;
        }
        let (Some(tty), Ok(licfwd)) = (sys::terminal_name(), env::current_exe()) else {
            return false;
        };
        ssh.env(sys::ASKPASS, format!("{} {}", process::id(), tty.display()));
        ssh.env("SSH_ASKPASS", licfwd);
        ssh.env("SSH_ASKPASS_REQUIRE", "force");
        // Before OpenSSH 8.4 that is not known, but any display will do.
        if env::var_os("DISPLAY").is_none() {
            ssh.env("DISPLAY", "none");
        }
        true
    }
}

/// What an SSH_ASKPASS of our own says on stderr, which is ssh's, so that nobody
/// counts the seconds.
const ASKING: &str = "\u{1}asking";
const ANSWERED: &str = "\u{1}answered";
/// And when there is no answer.
pub const NO_ANSWER: &str = "nobody answered";

/// Whether a helper that has said `words` waits for a person just now.
pub fn is_asking(words: &str) -> bool {
    words.lines().rfind(|line| line.starts_with('\u{1}')) == Some(ASKING)
}

/// The program of an SSH_ASKPASS: on that terminal asks what an ssh on the way to
/// the gateway wants to know. Control-C there is meant for the process `caller`.
pub fn answer_ssh(caller: u32, tty: &str) -> ExitCode {
    let Some(prompt) = env::args().nth(1) else {
        return ExitCode::FAILURE;
    };
    let tty = open_tty(tty);
    eprintln!("{ASKING}");
    let yes_or_no = prompt.contains("(yes/no");
    let answer = tty.and_then(|mut tty| converse(&mut tty, &prompt, yes_or_no));
    eprintln!("{ANSWERED}");
    match answer {
        Some(Typed::Text(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Some(Typed::Interrupted) => sys::interrupt(caller),
        None => eprintln!("{NO_ANSWER}: {}", one_line(&prompt)),
    }
    // Without an answer ssh would send an empty one.
    sys::end_own_group();
    ExitCode::FAILURE
}

fn open_tty(path: &str) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(path).ok()
}

fn ask_on_tty(tty: &mut File, prompt: &str, echo: bool) -> Option<String> {
    match converse(tty, prompt, echo)? {
        Typed::Text(text) => Some(text),
        Typed::Interrupted => {
            sys::interrupt(process::id());
            None
        }
    }
}

fn converse(tty: &mut File, prompt: &str, echo: bool) -> Option<Typed> {
    // A signal must not leave the terminal silent: it waits until the end.
    let _held = sys::hold_signals();
    let typed = converse_raw(tty, prompt, echo);
    let _ = tty.write_all(b"\n");
    typed
}

fn converse_raw(tty: &mut File, prompt: &str, echo: bool) -> Option<Typed> {
    let _raw = RawMode::enter(tty)?;
    write!(tty, "{}", one_line(prompt)).ok()?;
    read_line(tty, echo)
}

enum Typed {
    Text(String),
    Interrupted,
}

/// Reads one line by itself, with the two editing keys that a password needs.
fn read_line(tty: &mut File, echo: bool) -> Option<Typed> {
    let mut typed = Vec::new();
    loop {
        if !sys::poll_readable(&*tty, TYPING_TIMEOUT).ok()? {
            return None;
        }
        let mut byte = [0];
        if tty.read(&mut byte).ok()? == 0 {
            return None;
        }
        match byte[0] {
            b'\n' | b'\r' => return Some(Typed::Text(String::from_utf8(typed).ok()?)),
            INTERRUPT => return Some(Typed::Interrupted),
            END if typed.is_empty() => return None,
            8 | 127 => {
                if typed.pop().is_some() && echo {
                    let _ = tty.write_all(b"\x08 \x08");
                }
            }
            KILL_LINE => typed.clear(),
            key => {
                typed.push(key);
                if echo {
                    let _ = tty.write_all(&byte);
                }
            }
        }
    }
}

/// The terminal gives each key at once, shows none and sends no signal, until
/// this is dropped. stty(1) does it, by the layout of its own system.
struct RawMode {
    tty: File,
    before: String,
}

impl RawMode {
    fn enter(tty: &File) -> Option<RawMode> {
        let tty = tty.try_clone().ok()?;
        let before = stty(&tty, &["-g"])?;
        let raw = RawMode { tty, before };
        let settings = ["-icanon", "-echo", "-isig", "min", "1", "time", "0"];
        stty(&raw.tty, &settings)?;
        Some(raw)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        stty(&self.tty, &[&self.before]);
    }
}

fn stty(tty: &File, words: &[&str]) -> Option<String> {
    let output = Command::new("stty")
        .args(words)
        .stdin(tty.try_clone().ok()?)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// SSH_ASKPASS prints the answer; a status other than 0 is the person's no.
fn ask_by_program(program: &str, prompt: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(prompt).stdin(Stdio::null());
    let output = sys::detached_short(&mut command).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next().unwrap_or_default();
    output.status.success().then(|| line.to_owned())
}
