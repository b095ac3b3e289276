//! Child programs that help: how they are started, heard out and ended.

use super::poll::poll_readable;
use super::process::{kill_group, new_session};
use super::signal::SIGKILL;
use std::ffi::{c_int, c_long};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
}

/// Tells a process of this binary which of its three programs it is: `keeper
/// DIRECTORY`, `askpass PID TTY`; without it, or with anything else, licfwd.
pub const ROLE: &str = "LICFWD_ROLE";

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

/// Reads both outputs until ssh has ended. What it prints on stderr fits into a
/// pipe, so that one output can be read after the other. A process started by
/// `Match exec` may keep stderr open for good: then ssh's own end is the end.
pub fn hear_out(ssh: &mut Child, timeout: Duration) -> io::Result<(ExitStatus, String, String)> {
    const GLANCE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + timeout;
    let time_left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => {
            let seconds = timeout.as_secs();
            Err(io::Error::other(format!("timed out after {seconds} s")))
        }
        left => Ok(left),
    };
    let (mut text, mut remarks) = (Vec::new(), Vec::new());
    if let Some(out) = &mut ssh.stdout {
        while read_some(out, &mut text, time_left()?)? != Some(0) {}
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
    to.extend_from_slice(&chunk[..count]);
    Ok(Some(count))
}
