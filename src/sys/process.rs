//! Processes: forking, ending, users, limits, memory.

use super::errno::check;
use super::fd::{own, syscall};
use super::signal::{FAULTS, SIG_IGN, SIGINT, SIGKILL, SIGTERM, deadly, signal};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_long, c_uint, c_void};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
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
    safe fn getpgrp() -> c_int;
    safe fn tcgetpgrp(terminal: c_int) -> c_int;
    pub(super) safe fn kill(pid: c_int, signal: c_int) -> c_int;
    safe fn _exit(status: c_int) -> !;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn getpwuid(uid: c_uint) -> *const Passwd;
    fn getpwnam(name: *const c_char) -> *const Passwd;
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
    end_helper();
    _exit(status)
}

/// Ends the helper of [`end_with_us`]. Async-signal-safe.
pub(super) fn end_helper() {
    kill_group(HELPER.load(Ordering::Relaxed));
}

/// What a signal makes the process end with.
pub struct LastWords {
    /// The exit status.
    pub status: i32,
    /// To standard output.
    pub stdout: String,
    /// To standard error.
    pub stderr: String,
}

/// By the signal's number.
static LAST_WORDS: OnceLock<Vec<LastWords>> = OnceLock::new();

extern "C" fn end_by_signal(number: c_int) {
    let Some(words) = LAST_WORDS.get().and_then(|all| all.get(number as usize)) else {
        exit_now(128 + number)
    };
    for (fd, text) in [(2, &words.stderr), (1, &words.stdout)] {
        // SAFETY: write is async-signal-safe; the bytes live in a static.
        let _ = unsafe { write(fd, text.as_ptr().cast(), text.len()) };
    }
    exit_now(words.status)
}

/// From now on each of [`deadly`]'s signals that is not ignored, and each of [`FAULTS`],
/// ends the process with what `words` says for its number; `true`: it is a fault.
pub fn on_deadly_signal(words: impl Fn(i32, bool) -> LastWords) {
    let all = (0..=64).map(|number| words(number, FAULTS.contains(&number)));
    let _ = LAST_WORDS.set(all.collect());
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

/// The parent of a process.
pub(super) fn parent(pid: i32) -> Option<u32> {
    stat_field(&pid.to_string(), 4)
}

/// A numeric field of proc_pid_stat(5), counted from 1, behind the name.
fn stat_field(process: &str, number: usize) -> Option<u32> {
    let text = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name before it may hold anything.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// Whether this process may read from its controlling terminal, `tty`: in the
/// background that would stop it.
pub fn is_in_foreground(tty: impl AsFd) -> bool {
    tcgetpgrp(tty.as_fd().as_raw_fd()) == getpgrp()
}

/// The controlling terminal's name for a process of another session, to which
/// /dev/tty says nothing.
pub fn terminal_name() -> Option<PathBuf> {
    let device = u64::from(stat_field("self", 7).filter(|device| *device > 0)?);
    let minor = device & 0xff | device >> 12 & 0xf_ff00;
    let open = (0..=2).filter_map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    let usual = [format!("/dev/pts/{minor}"), format!("/dev/tty{minor}"), "/dev/console".into()];
    let is_it = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|it| it.rdev() == device);
    open.chain(usual.map(PathBuf::from)).find(is_it)
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

/// Ends this process as whoever sends it TERM does.
pub fn end_by_term() {
    kill(std::process::id() as c_int, SIGTERM);
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

/// What this process has in memory, in bytes (`resident` of proc_pid_statm(5)); 0 where
/// it cannot be known. Three system calls: a client's message waits for them.
pub fn resident_memory() -> u64 {
    unsafe extern "C" {
        safe fn getpagesize() -> c_int;
    }
    let mut buffer = [0; 128];
    let read = std::fs::File::open("/proc/self/statm").and_then(|mut it| it.read(&mut buffer));
    let text = String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]);
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * getpagesize().unsigned_abs() as u64
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

/// What the kernel's root looks like in this user namespace: whose `/proc/sys` is.
pub fn kernel_root() -> u32 {
    std::fs::metadata("/proc/sys/kernel/overflowuid").map_or(0, |it| it.uid())
}

/// The home directory and login name of that user, of the effective one where it is
/// empty, from the password database, where `ssh` takes them from as well.
pub(super) fn passwd(user: &str) -> Option<(PathBuf, String)> {
    let name = CString::new(user).ok()?;
    // SAFETY: both calls return NULL or a record that stays valid until the next one;
    // both strings are copied before this function returns, and a resolver, who alone
    // asks the password database, has one thread. The name lives as long as the call.
    unsafe {
        let record = match user {
            "" => getpwuid(user_id()),
            _ => getpwnam(name.as_ptr()),
        };
        let record = record.as_ref()?;
        let dir = OsStr::from_bytes(CStr::from_ptr(record.dir).to_bytes()).into();
        let name = CStr::from_ptr(record.name).to_str().ok()?.to_owned();
        Some((dir, name))
    }
}
