//! Child programs that help: how they are started, heard out and ended.

use super::poll::poll_readable;
use super::process::{kill_group, new_session, parent, session_id};
use super::signal::SIGKILL;
use super::socket::peer;
use std::ffi::{c_int, c_long};
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
}

/// The names under which licfwd starts itself as another program, with a socket on
/// stdin: see [`has_come_from_parent`].
pub const KEEPER: &str = "licfwd-keeper";
/// The other one.
pub const RESOLVER: &str = "licfwd-resolver";
/// `PID TTY`: makes an SSH_ASKPASS of licfwd, started by an ssh that it has started;
/// see [`has_come_from`].
pub const ASKPASS: &str = "LICFWD_ASKPASS";

/// This very program under another name, also where its file has been replaced since.
pub fn this_program_as(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    command
}

/// Whether the socket on stdin was made by the process that has started this one.
/// Anybody can use a name, and set a variable for all that follows; no shell hands
/// over such a socket.
pub fn has_come_from_parent() -> bool {
    peer(io::stdin()).is_ok_and(|maker| maker.process as u32 == parent_id())
}

/// Whether this process belongs to a helper ([`detached`]) of the process `pid`,
/// which runs this same program.
pub fn has_come_from(pid: u32) -> bool {
    let program = |process: &str| {
        let about = fs::metadata(format!("/proc/{process}/exe")).ok();
        about.map(|about| (about.dev(), about.ino()))
    };
    let same = program(&pid.to_string()).is_some_and(|its| Some(its) == program("self"));
    same && parent(session_id()) == Some(pid)
}

/// Prepares a helper program: a session of its own (so that it is no process of
/// the job that licfwd watches, and a terminal's signals do not reach it), and
/// without the library paths of the job's modules.
pub fn detached(command: &mut Command) -> &mut Command {
    command.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            new_session();
            Ok(())
        })
    }
}

/// The way round where a helper has said that the loader did not find its libraries:
/// [`detached`] keeps LD_LIBRARY_PATH from it, and it may be one of the few that need it.
pub fn missing_libraries(said: &str) -> Option<&'static str> {
    let asked_for = std::env::var_os("LD_LIBRARY_PATH").is_some();
    // glibc's words, and musl's.
    let words = ["error while loading shared libraries: ", "Error loading shared library "];
    let missing = asked_for && words.iter().any(|words| said.contains(words));
    missing.then_some(
        "licfwd keeps LD_LIBRARY_PATH from the programs that it starts; write \
         env LD_LIBRARY_PATH=... before the program's name in the ssh configuration",
    )
}

/// Like [`detached`], for a helper that must not outlive this process, killed or
/// not: see [`tied_to_this_thread`].
pub fn detached_short(command: &mut Command) -> &mut Command {
    tied_to_this_thread(detached(command))
}

/// Prepares a program that dies with the calling *thread* (PR_SET_PDEATHSIG,
/// prctl(2)), hence only for those that end before that thread should.
pub fn tied_to_this_thread(command: &mut Command) -> &mut Command {
    const PR_SET_PDEATHSIG: c_int = 1;
    // SAFETY: prctl with this option takes an integer and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            prctl(PR_SET_PDEATHSIG, SIGKILL as c_long);
            Ok(())
        })
    }
}

/// A helper program that carries the connection; ended with it.
pub struct Helper(pub Child);

impl Drop for Helper {
    fn drop(&mut self) {
        kill_group(self.0.id());
        let _ = self.0.wait();
    }
}

/// Bytes of an output that are kept: ssh -G prints some 5 kB.
const MAX_HEARD: usize = 1 << 20;

/// Reads both outputs until ssh has ended. What it prints on stderr fits into a
/// pipe, so that one output can be read after the other. A process started by
/// `Match exec`, or by a script that stands in for ssh, may keep either open for good:
/// then ssh's own end is the end.
pub fn hear_out(ssh: &mut Child, timeout: Duration) -> io::Result<(ExitStatus, String, String)> {
    const GLANCE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + timeout;
    let time_left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => {
            let seconds = timeout.as_secs();
            let why = format!("timed out after {seconds} s");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
        left => Ok(left),
    };
    let (mut text, mut remarks) = (Vec::new(), Vec::new());
    if let Some(mut out) = ssh.stdout.take() {
        loop {
            let left = time_left()?;
            let ended = ssh.try_wait()?.is_some();
            match read_some(&mut out, &mut text, left.min(GLANCE))? {
                Some(0) => break,
                None if ended => break,
                _ => {}
            }
        }
    }
    let mut err = ssh.stderr.take();
    let status = loop {
        let left = time_left()?;
        let ended = ssh.try_wait()?;
        let got = match &mut err {
            Some(err) => read_some(err, &mut remarks, left.min(GLANCE))?,
            None => Some(0),
        };
        match (ended, got) {
            (Some(status), None | Some(0)) => break status,
            // Both outputs closed: it is about to end.
            (None, Some(0)) => {
                err = None;
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => {}
        }
    };
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status, lossy(text), lossy(remarks)))
}

/// What one read gave, or nothing when there was nothing to read within `limit`.
fn read_some(
    from: &mut (impl Read + AsFd),
    to: &mut Vec<u8>,
    limit: Duration,
) -> io::Result<Option<usize>> {
    if !poll_readable(&*from, limit)? {
        return Ok(None);
    }
    let mut chunk = [0; 4096];
    let count = from.read(&mut chunk)?;
    // What a program says beyond that nobody reads.
    to.extend_from_slice(&chunk[..count.min(MAX_HEARD.saturating_sub(to.len()))]);
    Ok(Some(count))
}
