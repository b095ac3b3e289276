//! Runs licfwd and shell scripts as a batch job would, and ends what they leave behind.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{LIMIT, Scratch, eventually, eventually_every, gateway::Gateway, process, wait_until};

/// How often all processes are looked through: that takes milliseconds.
const LOOK: Duration = Duration::from_millis(20);

/// A clean environment with a directory of its own, in which programs run.
///
/// Its processes know each other by the variable `LICFWD_RIG`. On drop they
/// are ended, daemons included; on a failed test everything they have printed
/// is shown.
pub struct Job {
    directory: Scratch,
    transcript: Arc<Mutex<String>>,
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code, or 128 and the signal's number, as a shell has it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Job {
    /// An empty job.
    pub fn new() -> Job {
        Job { directory: Scratch::new(), transcript: Arc::default() }
    }

    /// Its directory: `$HOME`, and where its programs start.
    pub fn directory(&self) -> &Scratch {
        &self.directory
    }

    /// A program with the job's environment: no agent, no settings of the
    /// user's, `licfwd` first in `PATH`.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.wrap(Command::new(program.as_ref()))
    }

    /// Gives a command the job's environment.
    pub fn wrap(&self, mut command: Command) -> Command {
        let inherited = std::env::var("PATH").unwrap_or_default();
        let licfwd = licfwd();
        let licfwd = licfwd.parent().expect("a directory").display();
        command
            .env_clear()
            .env("PATH", format!("{licfwd}:{inherited}:/usr/sbin:/sbin"))
            .env("HOME", self.directory.path())
            .env("TMPDIR", self.directory.path())
            .env("LC_ALL", "C")
            .env("LICFWD_RIG", self.tag())
            .current_dir(self.directory.path());
        command
    }

    /// A program as the gateway's clients see it ([`Gateway::client_command`]).
    pub fn client(&self, program: impl AsRef<Path>, gateway: &Gateway) -> Command {
        self.wrap(gateway.client_command(program.as_ref()))
    }

    /// `licfwd -F CONFIG` of that gateway, to be continued with its name
    /// (`gw`) or options.
    pub fn licfwd(&self, gateway: &Gateway) -> Command {
        let mut command = self.client(licfwd(), gateway);
        command.arg("-F").arg(gateway.config());
        command
    }

    /// A script for a shell, with the gateway's `ssh_config` in `$CONFIG` and
    /// the license server's port in `$PORT`.
    pub fn script(&self, shell: &str, text: &str, gateway: &Gateway, port: u16) -> Command {
        let mut command = self.client(shell, gateway);
        command.env("CONFIG", gateway.config()).env("PORT", port.to_string());
        command.args(["-c", text]);
        command
    }

    /// Runs a program to its end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Outcome {
        self.spawn(command).wait(LIMIT)
    }

    /// Starts a program and collects what it prints.
    pub fn spawn(&self, command: &mut Command) -> Running {
        self.spawn_typing(command.stdin(Stdio::null())).0
    }

    /// The same, with standard input as the command has it; returns the other
    /// end where that is a pipe.
    pub fn spawn_typing(&self, command: &mut Command) -> (Running, Option<ChildStdin>) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        wait_until("it runs its program", LIMIT, || !process::is_still_ours(child.id()));
        let stdout = Collector::new(child.stdout.take().expect("a pipe"));
        let stderr = Collector::new(child.stderr.take().expect("a pipe"));
        let keys = child.stdin.take();
        let running = Running {
            words: format!("{:?} {:?}", command.get_program(), command.get_args()),
            child,
            status: None,
            stdout,
            stderr,
            tag: self.tag(),
            transcript: self.transcript.clone(),
        };
        (running, keys)
    }

    /// Its processes that still run, daemons included.
    pub fn processes(&self) -> Vec<u32> {
        process::tagged(&self.tag())
    }

    /// Those of them that run the program `name`.
    pub fn processes_named(&self, name: &str) -> Vec<u32> {
        let has_name = |pid: &u32| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        };
        self.processes().into_iter().filter(has_name).collect()
    }

    /// The one licfwd of this job that runs.
    #[track_caller]
    pub fn daemon(&self) -> u32 {
        let daemons = self.processes_named("licfwd");
        assert_eq!(daemons.len(), 1, "how many licfwd processes");
        daemons[0]
    }

    /// Waits until none of its processes is left: a helper may end after its master.
    #[track_caller]
    pub fn wait_until_empty(&self) {
        let empty = eventually_every(LOOK, LIMIT, || self.processes().is_empty());
        assert!(empty, "waited {LIMIT:?} in vain: no process is left");
    }

    /// Ends all its processes.
    pub fn end(&self) {
        let ended = eventually_every(LOOK, LIMIT, || {
            let pids = self.processes();
            process::kill_together(&pids);
            pids.is_empty()
        });
        assert!(ended || thread::panicking(), "the job's processes do not end");
    }

    fn tag(&self) -> String {
        self.directory.path().display().to_string()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            let transcript = self.transcript.lock().unwrap_or_else(|e| e.into_inner());
            eprintln!("---- job\n{transcript}");
        }
    }
}

impl Outcome {
    /// The line of standard output; there must be exactly one.
    #[track_caller]
    pub fn line(&self) -> &str {
        let line = self.stdout.strip_suffix('\n').unwrap_or_default();
        assert!(!line.is_empty() && !line.contains('\n'), "not one line: {self:?}");
        line
    }

    /// The outcome must be that failure: its code, its statement, its message.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, format!("(exit {code})\n"), "{self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("licfwd: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {self:?}");
        }
    }

    /// The port of `export NAME=PORT@localhost`, which must be all there is.
    #[track_caller]
    pub fn port(&self, name: &str) -> u16 {
        let value = self.line().strip_prefix(&format!("export {name}="));
        port_of(value.unwrap_or_else(|| panic!("no export of {name}: {self:?}")))
    }
}

/// The port of `PORT@localhost`, or of a proxy, `http://localhost:PORT`.
#[track_caller]
pub fn port_of(value: &str) -> u16 {
    let value = value.trim();
    let port = value.strip_suffix("@localhost").or(value.strip_prefix("http://localhost:"));
    port.and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("not PORT@localhost: {value:?}"))
}

/// A program that was started by [`Job::spawn`].
pub struct Running {
    words: String,
    child: Child,
    status: Option<ExitStatus>,
    stdout: Collector,
    stderr: Collector,
    tag: String,
    transcript: Arc<Mutex<String>>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has complained about so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until it has ended and its output is closed by everybody who had
    /// it. After `limit` the job's processes are killed and the test fails.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let in_time = eventually(limit, || {
            self.has_ended() && self.stdout.is_closed() && self.stderr.is_closed()
        });
        if !in_time {
            process::signal("KILL", &process::tagged(&self.tag));
            let what = match self.status {
                Some(_) => "ended, but somebody keeps its output open",
                None => "does not end",
            };
            panic!("after {limit:?} {} {what}", self.words);
        }
        let status = self.status.expect("it has ended");
        let signal = || 128 + status.signal().expect("a code or a signal");
        Outcome {
            code: status.code().unwrap_or_else(signal),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    /// Whether the program itself has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for a child");
        }
        self.status.is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut transcript = self.transcript.lock().expect("the transcript");
        *transcript += &format!(
            "{}\nstatus {:?}\nstdout:\n{}\nstderr:\n{}\n",
            self.words,
            self.status,
            self.stdout(),
            self.stderr()
        );
    }
}

/// Reads a pipe to its end in the background.
struct Collector {
    text: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn new(mut pipe: impl Read + Send + 'static) -> Collector {
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let thread = thread::spawn({
            let text = text.clone();
            move || {
                let mut buffer = [0; 4096];
                while let Ok(got @ 1..) = pipe.read(&mut buffer) {
                    text.lock().expect("a lock").extend(&buffer[..got]);
                }
            }
        });
        Collector { text, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("a lock")).into_owned()
    }

    fn is_closed(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The program under test; in the tests of the module `over_ssh` a script that
/// calls it with `--via ssh`.
pub fn licfwd() -> PathBuf {
    static OVER_SSH: OnceLock<Scratch> = OnceLock::new();
    if !over_ssh() {
        return built();
    }
    let directory = OVER_SSH.get_or_init(|| {
        let directory = Scratch::new();
        let text = format!("#!/bin/sh\nexec {} --via ssh \"$@\"\n", built().display());
        let script = directory.write("licfwd", &text);
        fs::set_permissions(script, Permissions::from_mode(0o700)).expect("chmod");
        directory
    });
    directory.file("licfwd")
}

/// As cargo built it for these tests, or what stands in for that: an archive's
/// (`scripts/packaging/prove`).
pub fn built() -> PathBuf {
    if let Some(other) = std::env::var_os("LICFWD_TEST_BINARY") {
        return other.into();
    }
    let built = option_env!("CARGO_BIN_EXE_licfwd");
    PathBuf::from(built.expect("only integration tests know where licfwd is"))
}

/// Whether this test is one of the module `over_ssh`: the harness gives each
/// test's thread the test's name.
pub fn over_ssh() -> bool {
    let thread = thread::current();
    thread.name().is_some_and(|name| name.starts_with("over_ssh::"))
}
