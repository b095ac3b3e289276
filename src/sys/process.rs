//! Processes: forking, ending, users, limits, memory.

use super::errno::check;
use super::fd::{own, syscall};
use super::signal::{FAULTS, SIG_IGN, SIGINT, SIGKILL, deadly, signal};
use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uint, c_void};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

unsafe extern "C" {
    /// Becomes the leader of a new session, without a controlling terminal.
    #[link_name = "setsid"]
    pub safe fn new_session() -> c_int;
    /// The effective user id.
    #[link_name = "geteuid"]
    pub safe fn user_id() -> c_uint;
    /// Sets the file mode creation mask.
    #[link_name = "umask"]
    pub safe fn set_umask(mask: c_uint) -> c_uint;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
    safe fn fork() -> c_int;
    safe fn getsid(pid: c_int) -> c_int;
    pub(super) safe fn kill(pid: c_int, signal: c_int) -> c_int;
    safe fn _exit(status: c_int) -> !;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn getpwuid(uid: c_uint) -> *const Passwd;
}

#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

#[repr(C)]
struct Passwd {
    name: *const c_char,
    passwd: *const c_char,
    uid: c_uint,
    gid: c_uint,
    gecos: *const c_char,
    dir: *const c_char,
    shell: *const c_char,
}

/// What a test asks of a debug build by the variable `LICFWD_TEST_` + `name`:
/// PANIC, NO_PIDFD or REFUSAL_MS. A release build asks nobody, because the last
/// one takes away the pauses that protect an account.
pub fn test_hook(name: &str) -> Option<String> {
    let ask = || std::env::var(format!("LICFWD_TEST_{name}")).ok();
    cfg!(debug_assertions).then(ask).flatten()
}

/// Which side of a fork this is.
pub enum Fork {
    /// The old process; the new one's id.
    Parent(u32),
    /// The new one.
    Child,
}

/// Splits the process in two. The caller must be single-threaded.
///
/// # Errors
/// The kernel's refusal, such as RLIMIT_NPROC.
pub fn fork_process() -> io::Result<Fork> {
    Ok(match check(fork())? {
        0 => Fork::Child,
        child => Fork::Parent(child as u32),
    })
}

/// The helper that a connection is being made through; 0: none.
static HELPER: AtomicU32 = AtomicU32::new(0);

/// From now on that helper, as [`kill_group`] ends one, ends with this process,
/// killed by a signal or in [`exit_now`]; `None`: no longer. One that has its
/// connection ends when its input does.
pub fn end_with_us(helper: Option<u32>) {
    HELPER.store(helper.unwrap_or(0), Ordering::Relaxed);
}

/// Ends the process at once: no destructor runs and no buffer is flushed, so
/// that the side of a fork that leaves does not touch what the other side uses.
pub fn exit_now(status: i32) -> ! {
    kill_group(HELPER.load(Ordering::Relaxed));
    _exit(status)
}

/// What each signal, by its number, writes to standard output before it ends the
/// process.
static SIGNAL_OUTPUT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

extern "C" fn end_by_signal(number: c_int) {
    if let Some(output) = SIGNAL_OUTPUT.get().and_then(|all| all.get(number as usize)) {
        // SAFETY: write is async-signal-safe; the bytes live in a static.
        let _ = unsafe { write(1, output.as_ptr().cast(), output.len()) };
    }
    kill_group(HELPER.load(Ordering::Relaxed));
    _exit(128 + number)
}

/// From now on each of [`deadly`]'s signals that is not ignored, and each of
/// [`FAULTS`], writes `output(128 + n)` to standard output and ends the process with
/// that status.
pub fn on_deadly_signal(output: impl Fn(i32) -> String) {
    let outputs = (0..=64).map(|number| output(128 + number).into_bytes());
    let _ = SIGNAL_OUTPUT.set(outputs.collect());
    for number in deadly().chain(FAULTS) {
        // SAFETY: the handler calls async-signal-safe functions only.
        unsafe {
            if signal(number, end_by_signal as *const () as usize) == SIG_IGN {
                signal(number, SIG_IGN);
            }
        }
    }
}

/// The session of this process; 0 when its leader is outside our PID namespace.
pub fn session_id() -> i32 {
    getsid(0)
}

/// The parent of a process (field 4 of proc_pid_stat(5)).
pub(super) fn parent(pid: i32) -> Option<u32> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name before it may hold anything.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Ends a helper that we started, and everything in its session's first group.
/// Async-signal-safe.
pub fn kill_group(leader: u32) {
    if let Ok(pid) = c_int::try_from(leader)
        && pid > 1
    {
        kill(-pid, SIGKILL);
    }
}

/// A descriptor that becomes readable when the process ends (Linux 5.3).
///
/// # Errors
/// ESRCH: no such process; ENOSYS: the kernel is older.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    const SYS_PIDFD_OPEN: c_long = 434;
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { syscall(SYS_PIDFD_OPEN, pid, 0) };
    own(fd as c_int)
}

/// Does what control-C does: the terminal did not, because it was reading a password.
pub fn interrupt(pid: u32) {
    if pid > 1 {
        kill(pid as c_int, SIGINT);
    }
}

/// Kills this process and those of its group, which is a helper's.
pub fn end_own_group() {
    kill(0, SIGKILL);
}

/// Raises the soft limit of open descriptors to the hard one, and returns it.
pub fn raise_descriptor_limit() -> u64 {
    const RLIMIT_NOFILE: c_int = 7;
    let mut limit = Limit { soft: 0, hard: 0 };
    // SAFETY: the structures outlive both calls and have the layout they expect.
    unsafe {
        if getrlimit(RLIMIT_NOFILE, &mut limit) != 0 {
            return 1024;
        }
        let soft = limit.hard;
        if setrlimit(RLIMIT_NOFILE, &Limit { soft, ..limit }) == 0 {
            return soft;
        }
    }
    limit.soft
}

/// Gives memory that a burst of clients has freed back to the system.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> c_int;
        }
        malloc_trim(0);
    }
}

/// What this process has in memory, in bytes (`VmRSS` of proc_pid_status(5)).
pub fn resident_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.and_then(|kb| kb.parse().ok()).unwrap_or(0) * 1024
}

/// Keeps glibc from giving the reconnecting thread a heap of its own, from
/// which the new session would never move (mallopt(3)).
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        const M_ARENA_MAX: c_int = -8;
        unsafe extern "C" {
            safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        mallopt(M_ARENA_MAX, 1);
    }
}

/// What `uname -n` says: the name by which the job's other nodes know this one.
pub fn node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}

/// The user id that stands for every unmapped one, in a user namespace
/// (user_namespaces(7)); elsewhere it is a user's like any other.
pub fn overflow_user() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let everybody = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    let id = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    let id = id.and_then(|id| id.trim().parse().ok()).unwrap_or(65_534);
    (!everybody).then_some(id)
}

/// The home directory and login name of the effective user, from the password
/// database, where `ssh` takes them from as well.
fn passwd() -> Option<(PathBuf, String)> {
    // SAFETY: getpwuid returns NULL or a record that stays valid until the next
    // call; both strings are copied before this function returns, and no other
    // thread of ours asks the password database.
    unsafe {
        let record = getpwuid(user_id()).as_ref()?;
        let dir = OsStr::from_bytes(CStr::from_ptr(record.dir).to_bytes()).into();
        let name = CStr::from_ptr(record.name).to_str().ok()?.to_owned();
        Some((dir, name))
    }
}

/// The user's home directory according to the password database.
pub fn home_dir() -> Option<PathBuf> {
    passwd().map(|(dir, _)| dir)
}

/// The user's login name according to the password database.
pub fn user_name() -> Option<String> {
    passwd().map(|(_, name)| name)
}
