//! Signals: which are ignored, which end the process, which are read.

use super::fd::{CLOEXEC, NONBLOCK, own};
use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

unsafe extern "C" {
    pub(super) fn signal(signal: c_int, handler: usize) -> usize;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SigSet, flags: c_int) -> c_int;
}

/// Hang up: the terminal or the login session is gone.
pub const SIGHUP: i32 = 1;
/// Interrupt from the keyboard.
pub const SIGINT: i32 = 2;
/// Quit from the keyboard.
pub const SIGQUIT: i32 = 3;
const SIGABRT: i32 = 6;
pub(super) const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
pub(super) const SIGPIPE: i32 = 13;
const SIGALRM: i32 = 14;
/// Please end.
pub const SIGTERM: i32 = 15;
pub(super) const SIGCHLD: i32 = 17;
const SIGTSTP: i32 = 20;
pub(super) const SIG_DFL: usize = 0;
pub(super) const SIG_IGN: usize = 1;
const SIG_BLOCK: c_int = 0;
const SIG_SETMASK: c_int = 2;

/// `sigset_t`: 1024 bits in both C libraries.
#[repr(C)]
struct SigSet([u64; 16]);

/// Every signal back to its default and none blocked: `trap '' TERM` is
/// inherited otherwise. SIGPIPE stays ignored, as Rust programs have it.
/// Returns which came in ignored: HUP by `nohup`, INT by `command &` in a script.
pub fn reset_signals() -> Vec<i32> {
    let others = (1..=64).filter(|number| *number != SIGPIPE);
    // SAFETY: SIG_DFL is always a valid disposition; numbers that do not exist
    // or cannot be caught are refused with EINVAL.
    let ignored = others.filter(|number| unsafe { signal(*number, SIG_DFL) } == SIG_IGN);
    let ignored = ignored.collect();
    mask_nothing();
    ignored
}

/// Lets every signal through.
pub(super) fn mask_nothing() {
    mask(SIG_SETMASK, &set_of([]));
}

/// Whatever ends a program that knows nothing of it and can be caught: schedulers
/// warn a job with this or that, and their users choose which. Not what the C library
/// keeps for itself (32, 33), nor [`FAULTS`], which nobody can hold back.
pub(super) fn deadly() -> impl Iterator<Item = c_int> {
    // STKFLT, XCPU, XFSZ, VTALRM, PROF, IO, PWR, SYS, and the real-time ones.
    let late = [16, 24, 25, 26, 27, 29, 30, 31].into_iter().chain(34..=64);
    let early = [SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM];
    early.into_iter().chain(late)
}

/// Faults of the program itself: ILL, BUS, FPE, SEGV. A gateway can bring them about,
/// because libssh2 has such.
pub(super) const FAULTS: [c_int; 4] = [4, 7, 8, 11];

/// Keeps [`deadly`]'s signals from this thread, and from those that it starts, until
/// what is returned is dropped; then whatever was held before is held again.
#[must_use]
pub fn hold_signals() -> HeldSignals {
    HeldSignals(mask(SIG_BLOCK, &set_of(deadly())))
}

/// Signals that wait; what was held before.
pub struct HeldSignals(SigSet);

impl HeldSignals {
    /// In the calling thread it is as it was before. The signals go to that one then.
    pub fn let_through_here(&self) {
        mask(SIG_SETMASK, &self.0);
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        self.let_through_here();
    }
}

/// Ignores what schedulers send to every process of a job; programs started
/// from here begin with that.
pub fn ignore_signals() {
    ignore_all_but(&[]);
}

/// Ignores what schedulers send to every process of a job, and delivers
/// `wanted` through the returned descriptor instead of a handler.
pub fn serve_signals(wanted: &[i32]) -> io::Result<SignalFd> {
    ignore_all_but(wanted);
    let set = set_of(wanted.iter().copied());
    mask(SIG_SETMASK, &set);
    // SAFETY: the set outlives the call.
    let fd = unsafe { signalfd(-1, &set, CLOEXEC | NONBLOCK) };
    Ok(SignalFd(File::from(own(fd)?)))
}

fn ignore_all_but(wanted: &[i32]) {
    const SENT_TO_JOBS: [i32; 8] =
        [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGTERM];
    // Nothing is left to be written to stdout.
    for number in deadly().chain(FAULTS).chain([SIGTSTP]) {
        let ignored = SENT_TO_JOBS.contains(&number) && !wanted.contains(&number);
        // SAFETY: both dispositions are valid for all of these.
        unsafe { signal(number, if ignored { SIG_IGN } else { SIG_DFL }) };
    }
}

/// Changes which signals this thread holds, and returns which it held before.
fn mask(how: c_int, set: &SigSet) -> SigSet {
    let mut before = SigSet([0; 16]);
    // SAFETY: both sets outlive the call.
    unsafe { sigprocmask(how, set, &raw mut before) };
    before
}

fn set_of(numbers: impl IntoIterator<Item = c_int>) -> SigSet {
    let mut set = SigSet([0; 16]);
    for number in numbers {
        set.0[0] |= 1 << (number - 1);
    }
    set
}

/// Signals as something to read.
#[derive(Debug)]
pub struct SignalFd(File);

impl SignalFd {
    /// The next signal that has arrived, if any.
    pub fn take(&self) -> Option<i32> {
        // struct signalfd_siginfo: 128 bytes, the number in the first four.
        let mut info = [0u8; 128];
        (&self.0).read_exact(&mut info).ok()?;
        info.first_chunk().map(|number| i32::from_ne_bytes(*number))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
