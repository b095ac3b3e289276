//! Keeps one ssh exactly as long as the tunnel that uses it.
//!
//! The kernel can tie a process to the thread that started it, but the ssh of a
//! tunnel is started by a process that forks and leaves, or by a thread that
//! ends. So licfwd starts itself once more, in between:
//!
//! ```text
//! tunnel <------ socket ------> keeper, stdin       the tunnel goes: the keeper reads
//!        <--- words, the end -- ssh, stdout+stderr  the end, and kills ssh
//! ```
//! The other way round ssh dies with the keeper (PR_SET_PDEATHSIG), and the
//! tunnel reads the end of the socket.

use super::control_dir::ControlDir;
use crate::error::cause;
use crate::sys::{self, KEEPER};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::{env, fs, thread};

/// Starts an ssh with those arguments and its keeper; the socket brings what ssh
/// says, and its end is ssh's.
///
/// # Errors
/// No process or descriptor was to be had.
pub fn start(arguments: &[OsString], dir: &ControlDir) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let mut keeper = sys::this_program_as(KEEPER);
    keeper.arg(dir.path()).args(arguments);
    // A job's directory must not stay busy.
    keeper.current_dir("/");
    keeper.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    Ok((sys::detached(&mut keeper).spawn()?, ours))
}

/// The program of a keeper. Its arguments: the private directory that it keeps, and
/// those of the ssh that it starts and keeps.
pub fn keep_ssh() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let directory = arguments.next().unwrap_or_default();
    // Schedulers signal every process of a job; ssh inherits the indifference.
    sys::ignore_signals();
    // Else it would be called exe in ps and top.
    let _ = fs::write("/proc/self/comm", KEEPER);
    let (dir, _lock) = match ControlDir::enter(directory.into()) {
        Ok(entered) => entered,
        Err(e) => return fail("private directory", &e),
    };
    let dir: &'static ControlDir = Box::leak(Box::new(dir));
    let refuse = |what: &str, e: &io::Error| {
        dir.clear();
        fail(what, e)
    };
    // Before ssh, which then needs nobody to end it where there is no thread.
    let watch = thread::Builder::new().spawn(move || {
        let mut tunnel = io::stdin();
        // Nobody writes there: what comes is the end.
        while tunnel.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        leave(dir);
    });
    if let Err(e) = watch {
        return refuse("cannot start a thread", &e);
    }
    let mut ssh = Command::new("ssh");
    ssh.args(arguments)
        .env("SSH_ASKPASS_REQUIRE", "never")
        // Before OpenSSH 8.4 these two decide.
        .env_remove("SSH_ASKPASS")
        .env_remove("DISPLAY")
        .stdin(Stdio::null());
    match sys::tied_to_this_thread(&mut ssh).spawn() {
        Ok(mut ssh) => {
            let _ = ssh.wait();
            leave(dir)
        }
        Err(e) => refuse("cannot start ssh", &e),
    }
}

/// Nobody of this group stays: a program that carries ssh's connection would
/// hold the socket.
fn leave(dir: &ControlDir) -> ! {
    dir.clear();
    sys::end_own_group();
    sys::exit_now(0)
}

fn fail(what: &str, e: &io::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "{KEEPER}: {what}: {}", cause(e));
    ExitCode::FAILURE
}
