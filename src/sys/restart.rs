//! Begins this program anew, in the same process, after a fault.

use super::fd::{fcntl, own};
use super::process::{end_helper, exit_now};
use super::signal::{FAULTS, SIGABRT, signal};
use std::ffi::{CString, OsString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

unsafe extern "C" {
    static environ: *const *const c_char;
    fn execve(file: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
}

/// The name under which a program begins anew.
pub const RESTARTED: &str = "licfwd-restarted";

const F_GETFD: c_int = 1;
const F_SETFD: c_int = 2;
const FD_CLOEXEC: c_int = 1;

/// What a handler of signals needs, made beforehand: it may allocate nothing.
struct Plan {
    /// Ends with a null pointer.
    argv: Vec<*const c_char>,
    kept: Vec<RawFd>,
    _words: Vec<CString>,
}

static PLAN: AtomicPtr<Plan> = AtomicPtr::new(null_mut());

/// From now on a fault of this process, whose memory nobody can trust any more, makes
/// it this program once more: under the name [`RESTARTED`], with `arguments` and the
/// descriptors `kept`. All others are closed, and with them each connection.
///
/// What was planned before is forgotten, but not freed: the handler may be using it.
pub fn restart_on_fault(arguments: Vec<OsString>, kept: &[BorrowedFd<'_>]) {
    let words = std::iter::once(RESTARTED.into()).chain(arguments);
    let words = words.filter_map(|word| CString::new(word.into_vec()).ok());
    let words: Vec<CString> = words.collect();
    let argv = words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    let kept = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let plan = Box::leak(Box::new(Plan { argv, kept, _words: words }));
    PLAN.store(plan, Ordering::SeqCst);
    // The C library's word for a heap that makes no sense.
    for number in FAULTS.into_iter().chain([SIGABRT]) {
        // SAFETY: the handler calls async-signal-safe functions only.
        unsafe { signal(number, restart_by_signal as *const () as usize) };
    }
}

/// Does it now, where it has been planned; else returns.
pub fn restart_now() {
    // SAFETY: a plan is never freed, and never changed once it is stored.
    let Some(plan) = (unsafe { PLAN.load(Ordering::SeqCst).as_ref() }) else {
        return;
    };
    end_helper();
    // SAFETY: the strings end with NUL, the array with a null pointer; both live for
    // ever. Nobody changes the environment meanwhile.
    unsafe {
        for fd in &plan.kept {
            fcntl(*fd, F_SETFD, 0);
        }
        execve(c"/proc/self/exe".as_ptr(), plan.argv.as_ptr(), environ);
    }
}

extern "C" fn restart_by_signal(number: c_int) {
    restart_now();
    exit_now(128 + number)
}

/// A descriptor kept by [`restart_on_fault`].
///
/// # Errors
/// EBADF: it is not open.
pub fn take_kept(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the calls take integers and touch no memory of ours.
    let open = unsafe { fcntl(fd, F_GETFD) != -1 && fcntl(fd, F_SETFD, FD_CLOEXEC) != -1 };
    own(if open { fd } else { -1 })
}
