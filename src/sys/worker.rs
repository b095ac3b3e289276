//! A process that works while the one that started it waits, to become a command afterwards.
//!
//! In the waiting process nothing of what the command will inherit is touched, but
//! dispositions, which come back: descriptors, limits, umask and directory are changed
//! in the worker alone.

use super::errno::check;
use super::fd::{close_inherited, redirect};
use super::process::{Fork, exit_now, fork_process, kill};
use super::signal::{
    HeldSignals, SIG_DFL, SIG_IGN, SIGCHLD, SIGPIPE, SIGTERM, deadly, hold_signals, mask_nothing,
    signal,
};
use std::ffi::{OsString, c_int, c_long};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::process::{self, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    safe fn raise(signal: c_int) -> c_int;
}

/// The worker that is waited for; 0: none.
static WORKER: AtomicI32 = AtomicI32::new(0);
/// The last signal that came while it was; 0: none.
static PASSED_ON: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(number: c_int) {
    PASSED_ON.store(number, Ordering::SeqCst);
    let worker = WORKER.load(Ordering::SeqCst);
    if worker > 1 {
        kill(worker, number);
    }
}

/// A worker, as the process sees it that waits for it.
pub struct Worker {
    pid: c_int,
    output: PipeReader,
    child_signal: usize,
}

/// Splits off a worker, whose standard output the old process reads; `None` is the
/// worker, which has let go of everything else of the caller's above descriptor 2 and
/// ends with the old process, however that does. Until [`Worker::wait`] returns, a
/// signal that would end the old process is the worker's instead. What the caller
/// ignores, the worker ignores; what it blocks, the worker does not.
///
/// # Errors
/// The kernel's refusal: no pipe or no process.
pub fn split_off_worker() -> io::Result<Option<Worker>> {
    let (output, input) = io::pipe()?;
    let waiting = process::id();
    let held = hold_signals();
    for number in deadly() {
        change_unless_ignored(number, pass_on as *const () as usize);
    }
    // SAFETY: SIG_DFL is valid; where it is ignored nobody can be waited for.
    let child_signal = unsafe { signal(SIGCHLD, SIG_DFL) };
    match fork_process() {
        Ok(Fork::Child) => {
            drop(output);
            be_worker(waiting, input, held);
            Ok(None)
        }
        Ok(Fork::Parent(pid)) => {
            let pid = pid as c_int;
            WORKER.store(pid, Ordering::SeqCst);
            Ok(Some(Worker { pid, output, child_signal }))
        }
        Err(e) => Err(e),
    }
}

fn be_worker(waiting: u32, output: PipeWriter, held: HeldSignals) {
    const PR_SET_PDEATHSIG: c_int = 1;
    // SAFETY: prctl with this option takes an integer.
    unsafe { prctl(PR_SET_PDEATHSIG, c_long::from(SIGTERM)) };
    if parent_id() != waiting || redirect(&output, 1).is_err() {
        exit_now(128 + SIGTERM);
    }
    drop(output);
    close_inherited();
    for number in (1..=64).filter(|number| *number != SIGPIPE) {
        change_unless_ignored(number, SIG_DFL);
    }
    for number in [SIGCHLD, SIGTERM] {
        // SAFETY: SIG_DFL is valid. A worker waits for children of its own, and has to
        // hear that the waiting process is gone.
        unsafe { signal(number, SIG_DFL) };
    }
    // Instead of what the caller had blocked.
    std::mem::forget(held);
    mask_nothing();
}

fn change_unless_ignored(number: c_int, disposition: usize) {
    // SAFETY: all dispositions are valid: the default, to ignore, and a handler that
    // calls async-signal-safe functions only.
    unsafe {
        if signal(number, disposition) == SIG_IGN {
            signal(number, SIG_IGN);
        }
    }
}

impl Worker {
    /// Waits for the worker's end; then dispositions and children are as they were.
    /// What it has printed is the result.
    ///
    /// # Errors
    /// The exit code of a worker that has failed, as a shell has it; `None` where the
    /// system does not tell.
    pub fn wait(mut self) -> Result<String, Option<i32>> {
        let mut printed = String::new();
        let read = self.output.read_to_string(&mut printed);
        // Nobody of that number may get a signal when it has been waited for.
        WORKER.store(0, Ordering::SeqCst);
        let mut status = 0;
        let ended = loop {
            // SAFETY: the status outlives the call.
            match check(unsafe { waitpid(self.pid, &raw mut status, 0) }) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                ended => break ended,
            }
        };
        for number in deadly() {
            change_unless_ignored(number, SIG_DFL);
        }
        // SAFETY: the default or to ignore, and either discards the worker's, should the
        // caller have blocked it.
        unsafe { signal(SIGCHLD, self.child_signal) };
        ended.and(read).map_err(|_| None)?;
        let status = ExitStatus::from_raw(status);
        if !status.success() {
            return Err(status.code().or(status.signal().map(|number| 128 + number)));
        }
        // It came too late for the worker, and would have ended this process.
        let late = PASSED_ON.load(Ordering::SeqCst);
        if late != 0 {
            raise(late);
        }
        Ok(printed)
    }
}

/// Becomes that program, with those variables set and everything else as it is; its
/// name is looked for as execvp(3) does. Returns only if that fails.
pub fn become_program(words: &[OsString], variables: &[(&str, &str)]) -> io::Error {
    let Some((program, arguments)) = words.split_first() else {
        return io::ErrorKind::NotFound.into();
    };
    for (name, value) in variables {
        // SAFETY: nobody else reads the environment; this process has one thread. So
        // what is odd in it stays, which Command::env would leave out.
        unsafe { std::env::set_var(name, value) };
    }
    Command::new(program).args(arguments).exec()
}
