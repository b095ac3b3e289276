//! The only unsafe code: fork, setsid, dup2, epoll and friends as safe functions.
//!
//! Linux only. The numbers are those of the kernel's headers for x86-64 and
//! AArch64, which share them; structures are as glibc and musl lay them out.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::mem::offset_of;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

#[cfg(not(target_os = "linux"))]
compile_error!("licfwd runs on Linux: it reads /proc and asks the kernel who owns a socket");

unsafe extern "C" {
    safe fn fork() -> c_int;
    safe fn setsid() -> c_int;
    safe fn getsid(pid: c_int) -> c_int;
    safe fn getppid() -> c_int;
    safe fn geteuid() -> c_uint;
    safe fn umask(mask: c_uint) -> c_uint;
    safe fn kill(pid: c_int, signal: c_int) -> c_int;
    safe fn close(fd: c_int) -> c_int;
    safe fn dup2(from: c_int, to: c_int) -> c_int;
    safe fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    safe fn listen(fd: c_int, backlog: c_int) -> c_int;
    safe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    safe fn _exit(status: c_int) -> !;
    safe fn epoll_create1(flags: c_int) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SigSet, flags: c_int) -> c_int;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
    fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut Event) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut Event, max: c_int, timeout_ms: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: usize, timeout_ms: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: u32) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut u32)
    -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn sendmsg(fd: c_int, message: *const Message, flags: c_int) -> isize;
    fn bind(fd: c_int, address: *const c_void, len: u32) -> c_int;
    fn connect(fd: c_int, address: *const c_void, len: u32) -> c_int;
    fn getpwuid(uid: c_uint) -> *const Passwd;
}

/// Hang up: the terminal or the login session is gone.
pub const SIGHUP: i32 = 1;
/// Interrupt from the keyboard.
pub const SIGINT: i32 = 2;
/// Quit from the keyboard.
pub const SIGQUIT: i32 = 3;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGPIPE: i32 = 13;
const SIGALRM: i32 = 14;
/// Please end.
pub const SIGTERM: i32 = 15;
const SIGTSTP: i32 = 20;

const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const CLOEXEC: c_int = 0o2_000_000;
const NONBLOCK: c_int = 0o4000;

/// `sigset_t`: 1024 bits in both C libraries.
#[repr(C)]
struct SigSet([u64; 16]);

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// `struct iovec`.
#[repr(C)]
struct Piece {
    bytes: *const c_void,
    count: usize,
}

/// `struct msghdr`; where musl has a smaller number, the kernel wants zeros.
#[repr(C)]
struct Message {
    name: *const c_void,
    name_len: u32,
    pieces: *const Piece,
    piece_count: usize,
    control: *const c_void,
    control_len: usize,
    flags: c_int,
}

/// `struct cmsghdr` with one descriptor, padded to whole words.
#[repr(C, align(8))]
struct Passed {
    len: usize,
    level: c_int,
    kind: c_int,
    descriptor: c_int,
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

/// Turns C's -1 into the error that errno names.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Owns a descriptor that the kernel has just handed out.
fn own(fd: c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel returned this descriptor a moment ago, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Out of descriptors or memory: accepting again at once would spin.
pub fn out_of_something(e: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    const ETOOMANYREFS: i32 = 109;
    let number = e.raw_os_error();
    matches!(
        number,
        Some(ENOMEM | ENFILE | EMFILE | ENOBUFS | ETOOMANYREFS)
    )
}

// ---- processes -----------------------------------------------------------

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
static HELPER: AtomicI32 = AtomicI32::new(0);

/// From now on that helper, as [`kill_group`] ends one, ends with this process,
/// killed by a signal or in [`exit_now`]; `None`: no longer. One that has its
/// connection ends when its input does.
pub fn end_with_us(helper: Option<u32>) {
    let leader = helper.and_then(|pid| pid.try_into().ok());
    HELPER.store(leader.unwrap_or(0), Ordering::Relaxed);
}

/// Async-signal-safe.
fn end_helper() {
    let leader = HELPER.load(Ordering::Relaxed);
    if leader > 1 {
        kill(-leader, SIGKILL);
    }
}

/// Ends the process at once: no destructor runs and no buffer is flushed, so
/// that the side of a fork that leaves does not touch what the other side uses.
pub fn exit_now(status: i32) -> ! {
    end_helper();
    _exit(status)
}

/// Becomes the leader of a new session, without a controlling terminal.
pub fn new_session() {
    let _ = setsid();
}

/// The session of this process; 0 when its leader is outside our PID namespace.
pub fn session_id() -> i32 {
    getsid(0)
}

/// The parent's process id; 0 when it is outside our PID namespace.
pub fn parent_id() -> i32 {
    getppid()
}

/// The effective user id.
pub fn user_id() -> u32 {
    geteuid()
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    umask(mask);
}

/// Ends a helper that we started, and everything in its session's first group.
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

/// Prepares a helper program: a session of its own (so that it is no process of
/// the job that licfwd watches, and a terminal's signals do not reach it), and
/// without the library paths of the job's modules.
pub fn detached(command: &mut Command) -> &mut Command {
    command
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD");
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            setsid();
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
    let late = || {
        let seconds = timeout.as_secs();
        io::Error::other(format!("timed out after {seconds} s"))
    };
    let (mut text, mut remarks) = (Vec::new(), Vec::new());
    if let Some(out) = &mut ssh.stdout {
        while read_some(
            out,
            &mut text,
            deadline.saturating_duration_since(Instant::now()),
        )? != Some(0)
        {
            if Instant::now() >= deadline {
                return Err(late());
            }
        }
    }
    let mut err = ssh.stderr.take();
    let status = loop {
        let left = deadline.saturating_duration_since(Instant::now());
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
        if left.is_zero() {
            return Err(late());
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

/// Raises the soft limit of open descriptors to the hard one, and returns it.
pub fn raise_descriptor_limit() -> u64 {
    const RLIMIT_NOFILE: c_int = 7;
    let mut limit = Limit { soft: 0, hard: 0 };
    // SAFETY: the structure outlives both calls and has the layout they expect.
    unsafe {
        if getrlimit(RLIMIT_NOFILE, &mut limit) != 0 {
            return 1024;
        }
        let raised = Limit {
            soft: limit.hard,
            hard: limit.hard,
        };
        if setrlimit(RLIMIT_NOFILE, &raised) == 0 {
            limit.soft = limit.hard;
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

/// A file without a name, in memory: a helper's stderr that nobody has to empty.
///
/// # Errors
/// ENOSYS before Linux 3.17.
pub fn nameless_file() -> io::Result<File> {
    const SYS_MEMFD_CREATE: c_long = if cfg!(target_arch = "x86_64") {
        319
    } else {
        279
    };
    const MFD_CLOEXEC: c_long = 1;
    // SAFETY: the name is a NUL-terminated string that the kernel copies.
    let fd = unsafe { syscall(SYS_MEMFD_CREATE, c"licfwd".as_ptr(), MFD_CLOEXEC) };
    own(fd as c_int).map(File::from)
}

/// What `uname -n` says: the name by which the job's other nodes know this one.
pub fn node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}

/// The home directory and login name of the effective user, from the password
/// database, where `ssh` takes them from as well.
fn passwd() -> Option<(PathBuf, String)> {
    // SAFETY: getpwuid returns NULL or a record that stays valid until the next
    // call; both strings are copied before this function returns, and no other
    // thread of ours asks the password database.
    unsafe {
        let record = getpwuid(geteuid()).as_ref()?;
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

// ---- descriptors ---------------------------------------------------------

/// Closes every inherited descriptor above 2: a kept pipe would hang `$(...)`,
/// a kept lock file would keep its lock for days. To be called before anything
/// else is open.
pub fn close_inherited() {
    match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => {
            let open: Vec<RawFd> = entries
                .flatten()
                .filter_map(|e| e.file_name().to_str()?.parse().ok())
                .filter(|fd| *fd > 2)
                .collect();
            // The directory's own descriptor is closed by now; EBADF is harmless.
            for fd in open {
                close(fd);
            }
        }
        Err(_) => {
            for fd in 3..1024 {
                close(fd);
            }
        }
    }
}

/// Makes the standard descriptor `to` (0, 1 or 2) refer to what `from` refers to.
///
/// # Errors
/// Those of dup2.
pub fn redirect(from: impl AsFd, to: RawFd) -> io::Result<()> {
    check(dup2(from.as_fd().as_raw_fd(), to)).map(drop)
}

/// Makes the socket inside `to` refer to what `from` refers to, whatever else
/// knows its number.
///
/// # Errors
/// Those of dup2.
pub fn replace(from: impl AsFd, to: &OwnedFd) -> io::Result<()> {
    check(dup3(from.as_fd().as_raw_fd(), to.as_raw_fd(), CLOEXEC)).map(drop)
}

// ---- signals -------------------------------------------------------------

/// Every signal back to its default and none blocked: `trap '' TERM` is
/// inherited otherwise. SIGPIPE stays ignored, as Rust programs have it.
/// Returns whether HUP and INT came in ignored (`nohup`, `command &`).
pub fn reset_signals() -> (bool, bool) {
    const SIG_SETMASK: c_int = 2;
    let mut ignored = [false; 65];
    // SAFETY: SIG_DFL is always a valid disposition; numbers that do not exist
    // or cannot be caught are refused with EINVAL. The set outlives the call.
    unsafe {
        for number in 1..=64 {
            if number != SIGPIPE {
                ignored[number as usize] = signal(number, SIG_DFL) == SIG_IGN;
            }
        }
        sigprocmask(SIG_SETMASK, &SigSet([0; 16]), std::ptr::null_mut());
    }
    (ignored[SIGHUP as usize], ignored[SIGINT as usize])
}

/// What HUP, INT and TERM write to standard output before they end the process.
static LAST_WORDS: OnceLock<[Vec<u8>; 3]> = OnceLock::new();

const DEADLY: [c_int; 3] = [SIGHUP, SIGINT, SIGTERM];

extern "C" fn say_last_words(number: c_int) {
    if let (Some(words), Some(i)) = (
        LAST_WORDS.get(),
        DEADLY.iter().position(|deadly| *deadly == number),
    ) {
        // SAFETY: write is async-signal-safe; the bytes live in a static.
        let _ = unsafe { write(1, words[i].as_ptr().cast(), words[i].len()) };
    }
    end_helper();
    _exit(128 + number)
}

/// From now on HUP, INT and TERM write `words(128 + n)` to standard output and
/// end the process with that status.
pub fn on_deadly_signal(words: impl Fn(i32) -> String) {
    let _ = LAST_WORDS.set(DEADLY.map(|number| words(128 + number).into_bytes()));
    for number in DEADLY {
        // SAFETY: the handler calls async-signal-safe functions only.
        unsafe { signal(number, say_last_words as *const () as usize) };
    }
}

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

// ---- waiting -------------------------------------------------------------

/// What to wait for on a descriptor. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Something to read, or end of file.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

/// One descriptor's readiness, as `epoll_wait` reports it.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
pub struct Event {
    events: u32,
    token: u64,
}

const EPOLLIN: u32 = 1;
const EPOLLOUT: u32 = 4;
const EPOLLERR: u32 = 8;
const EPOLLHUP: u32 = 16;

impl Event {
    /// Nothing.
    pub const NONE: Event = Event {
        events: 0,
        token: 0,
    };

    /// The number given when the descriptor was added.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Reading will not block.
    pub fn readable(&self) -> bool {
        self.events & (EPOLLIN | EPOLLHUP | EPOLLERR) != 0
    }

    /// Both ends are closed, or the connection broke.
    pub fn hung_up(&self) -> bool {
        self.events & (EPOLLHUP | EPOLLERR) != 0
    }

    /// Writing will not block.
    pub fn writable(&self) -> bool {
        self.events & (EPOLLOUT | EPOLLHUP | EPOLLERR) != 0
    }
}

/// An epoll instance: a wait costs what is ready, not what is watched.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// A new, empty one.
    ///
    /// # Errors
    /// EMFILE and its like.
    pub fn new() -> io::Result<Epoll> {
        own(epoll_create1(CLOEXEC)).map(Epoll)
    }

    /// Watches a descriptor, which must be removed before it is closed.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(1, fd, token, interest)
    }

    /// Stops watching a descriptor.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.control(2, fd, 0, Interest::default());
    }

    /// Changes what to wait for.
    ///
    /// # Errors
    /// ENOENT: the descriptor is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(3, fd, token, interest)
    }

    fn control(&self, op: c_int, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = Event {
            events: if interest.read { EPOLLIN } else { 0 }
                | if interest.write { EPOLLOUT } else { 0 },
            token,
        };
        // SAFETY: the event outlives the call, which copies it.
        check(unsafe { epoll_ctl(self.0.as_raw_fd(), op, fd.as_fd().as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Fills `events` with what is ready, waiting for `limit` at most, and
    /// returns how many. A signal ends the wait early.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn wait(&self, events: &mut [Event], limit: Option<Duration>) -> io::Result<usize> {
        // SAFETY: the kernel writes at most `len` events into the slice.
        let ready = check(unsafe {
            epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                c_int::try_from(events.len()).unwrap_or(c_int::MAX),
                milliseconds(limit),
            )
        });
        match ready {
            Ok(count) => Ok(count as usize),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Rounded up, so that a wait never ends before its time and turns round idly.
fn milliseconds(limit: Option<Duration>) -> c_int {
    limit.map_or(-1, |d| {
        c_int::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
    })
}

/// Waits until one of the descriptors is ready or `limit` has passed; the
/// result says for each whether it is (also for an error or a hang-up).
///
/// # Errors
/// None that a caller could cause; EINTR counts as nothing being ready.
pub fn wait_any<const N: usize>(
    fds: [(BorrowedFd<'_>, Interest); N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|(fd, interest)| PollFd {
        fd: fd.as_raw_fd(),
        events: if interest.read { 1 } else { 0 } | if interest.write { 4 } else { 0 },
        revents: 0,
    });
    // SAFETY: the array outlives the call and has N entries.
    let ready = check(unsafe { poll(polled.as_mut_ptr(), N, milliseconds(limit)) });
    match ready {
        Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(polled.map(|p| p.revents != 0)),
    }
}

/// Whether there is something to read within `limit`.
///
/// # Errors
/// None that a caller could cause.
pub fn poll_readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let interest = Interest {
        read: true,
        write: false,
    };
    wait_any([(fd.as_fd(), interest)], Some(limit)).map(|[ready]| ready)
}

// ---- sockets -------------------------------------------------------------

const IPPROTO_TCP: c_int = 6;
const SOL_SOCKET: c_int = 1;

fn set_option(fd: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int from the address given.
    check(unsafe {
        setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as u32,
        )
    })
    .map(drop)
}

/// Acknowledges at once what has arrived (TCP_QUICKACK of tcp(7); the kernel
/// forgets it soon). No error on a socket that is not TCP.
pub fn acknowledge(socket: impl AsFd) {
    const TCP_QUICKACK: c_int = 12;
    let _ = set_option(socket, IPPROTO_TCP, TCP_QUICKACK, 1);
}

/// How long sent data may stay unacknowledged before the kernel gives the
/// connection up (TCP_USER_TIMEOUT, tcp(7)).
///
/// # Errors
/// ENOPROTOOPT: not a TCP socket.
pub fn set_user_timeout(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    const TCP_USER_TIMEOUT: c_int = 18;
    let ms = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
    set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, ms)
}

/// Lets the kernel ask whether the other end is still there: after `idle`
/// without a word, then every `interval` (tcp(7)). Whole seconds; costs no
/// wake-up of ours.
///
/// # Errors
/// ENOPROTOOPT: not a TCP socket.
pub fn set_keepalive(socket: impl AsFd, idle: Duration, interval: Duration) -> io::Result<()> {
    const SO_KEEPALIVE: c_int = 9;
    const TCP_KEEPIDLE: c_int = 4;
    const TCP_KEEPINTVL: c_int = 5;
    let seconds = |d: Duration| c_int::try_from(d.as_secs().max(1)).unwrap_or(c_int::MAX);
    let socket = socket.as_fd();
    set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1)?;
    set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, seconds(idle))?;
    set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, seconds(interval))
}

/// Closing this socket will reset the connection instead of ending it in
/// order (SO_LINGER of zero seconds, socket(7)).
///
/// # Errors
/// None that a caller could cause.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    const SO_LINGER: c_int = 13;
    let linger: [c_int; 2] = [1, 0];
    // SAFETY: the kernel reads two ints from the address given.
    check(unsafe {
        setsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_SOCKET,
            SO_LINGER,
            linger.as_ptr().cast(),
            size_of_val(&linger) as u32,
        )
    })
    .map(drop)
}

/// Bytes that the other end has not acknowledged (SIOCOUTQ, tcp(7)).
pub fn unacknowledged(socket: &TcpStream) -> c_int {
    const SIOCOUTQ: c_ulong = 0x5411;
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes one int to the address given. musl has the
    // request as an int, which a register holds as well.
    unsafe { ioctl(socket.as_raw_fd(), SIOCOUTQ, &raw mut bytes) };
    bytes
}

/// Lets the kernel hold `backlog` connections that have not been accepted yet.
/// std's listeners hold 128, and whoever comes then waits a second for its SYN.
///
/// # Errors
/// None that a caller could cause.
pub fn set_backlog(listener: impl AsFd, backlog: i32) -> io::Result<()> {
    check(listen(listener.as_fd().as_raw_fd(), backlog)).map(drop)
}

/// Connects to a Unix socket without waiting.
///
/// # Errors
/// `WouldBlock`: its line of waiting connections is full. `NotFound`,
/// `ConnectionRefused`: nobody listens there. `InvalidInput`: the path is too long.
pub fn connect_unix(path: &str) -> io::Result<UnixStream> {
    const AF_UNIX: u16 = 1;
    const SOCK_STREAM: c_int = 1;
    // `struct sockaddr_un`: family, 107 bytes, and a zero.
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&AF_UNIX.to_ne_bytes());
    match address[2..109].get_mut(..path.len()) {
        Some(room) => room.copy_from_slice(path.as_bytes()),
        None => return Err(io::ErrorKind::InvalidInput.into()),
    }
    let flags = SOCK_STREAM | CLOEXEC | NONBLOCK;
    let fd = own(socket(c_int::from(AF_UNIX), flags, 0))?;
    // SAFETY: the kernel reads that many bytes of the buffer.
    check(unsafe { connect(fd.as_raw_fd(), address.as_ptr().cast(), 110) })?;
    Ok(UnixStream::from(fd))
}

/// The process at the other end: who connected or, to whom connects, who
/// listened (SO_PEERCRED, unix(7)).
///
/// # Errors
/// None that a caller could cause.
pub fn peer_process(socket: &UnixStream) -> io::Result<i32> {
    const SO_PEERCRED: c_int = 17;
    // `struct ucred`: process, user, group.
    let mut peer: [c_int; 3] = [0; 3];
    let mut size = size_of_val(&peer) as u32;
    // SAFETY: the kernel writes at most `size` bytes to the address given.
    check(unsafe {
        getsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_PEERCRED,
            peer.as_mut_ptr().cast(),
            &raw mut size,
        )
    })?;
    Ok(peer[0])
}

/// Sends a descriptor together with one zero byte (SCM_RIGHTS, unix(7)).
///
/// # Errors
/// Those of sendmsg(2): nobody is there any more, or this user has too many
/// descriptors under way.
pub fn send_descriptor(to: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    const SCM_RIGHTS: c_int = 1;
    const MSG_NOSIGNAL: c_int = 0x4000;
    let zero = [0u8];
    let piece = Piece {
        bytes: zero.as_ptr().cast(),
        count: zero.len(),
    };
    let passed = Passed {
        len: offset_of!(Passed, descriptor) + size_of::<c_int>(),
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        descriptor: descriptor.as_raw_fd(),
    };
    let message = Message {
        name: std::ptr::null(),
        name_len: 0,
        pieces: &raw const piece,
        piece_count: 1,
        control: (&raw const passed).cast(),
        control_len: size_of::<Passed>(),
        flags: 0,
    };
    // SAFETY: all that the message points to lives until the call returns.
    match unsafe { sendmsg(to.as_raw_fd(), &raw const message, MSG_NOSIGNAL) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Connects within `limit`, from a given local address (ssh's BindAddress) or
/// through a given interface (BindInterface) where one is wanted, which std cannot.
///
/// # Errors
/// Those of socket, bind and connect; `TimedOut` after `limit`.
pub fn connect_from(
    local: Option<SocketAddr>,
    interface: Option<&str>,
    remote: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    if local.is_none() && interface.is_none() {
        return TcpStream::connect_timeout(&remote, limit);
    }
    const SOCK_STREAM: c_int = 1;
    let family = if remote.is_ipv4() { 2 } else { 10 };
    let stream = TcpStream::from(own(socket(family, SOCK_STREAM | CLOEXEC | NONBLOCK, 0))?);
    let fd = stream.as_raw_fd();
    if let Some(name) = interface {
        const SO_BINDTODEVICE: c_int = 25;
        let (level, option) = (SOL_SOCKET, SO_BINDTODEVICE);
        // SAFETY: the kernel reads `len` bytes of the name.
        let set = unsafe { setsockopt(fd, level, option, name.as_ptr().cast(), name.len() as u32) };
        check(set)?;
    }
    if let Some(local) = local {
        let (address, len) = sockaddr(local);
        // SAFETY: the kernel reads `len` bytes of a buffer that is at least as long.
        check(unsafe { bind(fd, address.as_ptr().cast(), len) })?;
    }
    let (address, len) = sockaddr(remote);
    let deadline = Instant::now() + limit;
    // SAFETY: as above.
    match check(unsafe { connect(fd, address.as_ptr().cast(), len) }) {
        Err(e) if e.raw_os_error() != Some(EINPROGRESS) => return Err(e),
        _ => {}
    }
    let interest = Interest {
        read: false,
        write: true,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if wait_any([(stream.as_fd(), interest)], Some(left))?[0] {
            break;
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}
const EINPROGRESS: i32 = 115;

/// `struct sockaddr_in` or `sockaddr_in6`, and how much of the buffer it is.
fn sockaddr(address: SocketAddr) -> ([u8; 28], u32) {
    let mut bytes = [0u8; 28];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes[0..2].copy_from_slice(&2u16.to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            (bytes, 16)
        }
        SocketAddr::V6(v6) => {
            bytes[0..2].copy_from_slice(&10u16.to_ne_bytes());
            bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            bytes[8..24].copy_from_slice(&v6.ip().octets());
            bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (bytes, 28)
        }
    }
}

/// A netlink socket to the kernel's socket table (sock_diag(7)); each write is
/// a request, each read an answer.
///
/// # Errors
/// EPROTONOSUPPORT where the kernel was built without it, EPERM under a seccomp
/// filter.
pub fn sock_diag() -> io::Result<File> {
    const AF_NETLINK: c_int = 16;
    const SOCK_RAW: c_int = 3;
    const NETLINK_SOCK_DIAG: c_int = 4;
    own(socket(AF_NETLINK, SOCK_RAW | CLOEXEC, NETLINK_SOCK_DIAG)).map(File::from)
}
