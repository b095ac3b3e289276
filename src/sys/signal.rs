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
pub(super) const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGPIPE: i32 = 13;
const SIGALRM: i32 = 14;
/// Please end.
pub const SIGTERM: i32 = 15;
const SIGTSTP: i32 = 20;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;

/// `sigset_t`: 1024 bits in both C libraries.
#[repr(C)]
struct SigSet([u64; 16]);

/// Every signal back to its default and none blocked: `trap '' TERM` is
/// inherited otherwise. SIGPIPE stays ignored, as Rust programs have it.
/// Returns which came in ignored: HUP by `nohup`, INT by `command &` in a script.
pub fn reset_signals() -> Vec<i32> {
    const SIG_SETMASK: c_int = 2;
    // SAFETY: SIG_DFL is always a valid disposition; numbers that do not exist
    // or cannot be caught are refused with EINVAL. The set outlives the call.
    unsafe {
        let ignored = (1..=64)
            .filter(|number| *number != SIGPIPE && signal(*number, SIG_DFL) == SIG_IGN)
            .collect();
        sigprocmask(SIG_SETMASK, &SigSet([0; 16]), std::ptr::null_mut());
        ignored
    }
}

pub(super) const DEADLY: [c_int; 3] = [SIGHUP, SIGINT, SIGTERM];

/// Blocks HUP, INT and TERM (`true`) or lets them through again.
pub fn hold_signals(hold: bool) {
    const SIG_BLOCK: c_int = 0;
    const SIG_UNBLOCK: c_int = 1;
    let how = if hold { SIG_BLOCK } else { SIG_UNBLOCK };
    let set = signal_set(&DEADLY);
    // SAFETY: the set outlives the call.
    unsafe { sigprocmask(how, &set, std::ptr::null_mut()) };
}

/// What schedulers send to every process of a job.
const SENT: [c_int; 8] = [
    SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGTERM,
];

/// Ignores what schedulers send to every process of a job; programs started
/// from here begin with that.
pub fn ignore_signals() {
    for number in SENT {
        // SAFETY: the disposition is valid for all of these.
        unsafe { signal(number, SIG_IGN) };
    }
}

/// Ignores what schedulers send to every process of a job, and delivers
/// `wanted` through the returned descriptor instead of a handler.
///
/// # Errors
/// Those of signalfd.
pub fn serve_signals(wanted: &[i32]) -> io::Result<SignalFd> {
    const SIG_SETMASK: c_int = 2;
    for number in SENT {
        let disposition = if wanted.contains(&number) {
            SIG_DFL
        } else {
            SIG_IGN
        };
        // SAFETY: both dispositions are valid for all of these.
        unsafe { signal(number, disposition) };
    }
    let set = signal_set(wanted);
    // SAFETY: the set outlives both calls.
    let fd = unsafe {
        sigprocmask(SIG_SETMASK, &set, std::ptr::null_mut());
        signalfd(-1, &set, CLOEXEC | NONBLOCK)
    };
    Ok(SignalFd(File::from(own(fd)?)))
}

fn signal_set(numbers: &[c_int]) -> SigSet {
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
        match Read::read(&mut &self.0, &mut info) {
            Ok(128) => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
