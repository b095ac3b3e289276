//! Waiting for descriptors: epoll and poll.

use super::errno::check;
use super::fd::{CLOEXEC, own};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

unsafe extern "C" {
    safe fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut Event) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut Event, max: c_int, timeout_ms: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: usize, timeout_ms: c_int) -> c_int;
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// What to wait for on a descriptor. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Something to read, or end of file.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Something to read.
    pub const READ: Interest = Interest::of(true, false);
    /// Nothing.
    pub const NONE: Interest = Interest::of(false, false);

    const fn of(read: bool, write: bool) -> Interest {
        Interest { read, write }
    }

    /// As bits, which are the same for epoll and poll.
    fn bits(self) -> u32 {
        (u32::from(self.read) * EPOLLIN) | (u32::from(self.write) * EPOLLOUT)
    }
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
const BROKEN: u32 = EPOLLHUP | EPOLLERR;

impl Event {
    /// Nothing.
    pub const NONE: Event = Event { events: 0, token: 0 };

    /// The number given when the descriptor was added.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Reading will not block.
    pub fn readable(&self) -> bool {
        self.events & (EPOLLIN | BROKEN) != 0
    }

    /// Both ends are closed, or the connection broke.
    pub fn hung_up(&self) -> bool {
        self.events & BROKEN != 0
    }

    /// Writing will not block.
    pub fn writable(&self) -> bool {
        self.events & (EPOLLOUT | BROKEN) != 0
    }
}

/// An epoll instance: a wait costs what is ready, not what is watched.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// A new, empty one.
    pub fn new() -> io::Result<Epoll> {
        own(epoll_create1(CLOEXEC)).map(Epoll)
    }

    /// Watches a descriptor, which must be removed before it is closed.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(1, fd, token, interest)
    }

    /// Stops watching a descriptor.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.control(2, fd, 0, Interest::NONE);
    }

    /// Changes what to wait for.
    ///
    /// # Errors
    /// ENOENT: the descriptor is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(3, fd, token, interest)
    }

    fn control(&self, op: c_int, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let events = interest.bits();
        let mut event = Event { events, token };
        // SAFETY: the event outlives the call, which copies it.
        check(unsafe { epoll_ctl(self.0.as_raw_fd(), op, fd.as_fd().as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Fills `events` with what is ready, waiting for `limit` at most, and
    /// returns how many. A signal ends the wait early.
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
        unless_interrupted(ready).map(|count| count as usize)
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A signal counts as nothing being ready.
fn unless_interrupted(ready: io::Result<c_int>) -> io::Result<c_int> {
    match ready {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

/// Rounded up, so that a wait never ends before its time and turns round idly.
fn milliseconds(limit: Option<Duration>) -> c_int {
    limit.map_or(-1, |d| c_int::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX))
}

/// Waits until one of the descriptors is ready or `limit` has passed; the
/// result says for each whether it is (also for an error or a hang-up). A signal
/// ends the wait early.
pub fn wait_any<const N: usize>(
    fds: [(BorrowedFd<'_>, Interest); N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|(fd, interest)| PollFd {
        fd: fd.as_raw_fd(),
        events: interest.bits() as i16,
        revents: 0,
    });
    // SAFETY: the array outlives the call and has N entries.
    let ready = check(unsafe { poll(polled.as_mut_ptr(), N, milliseconds(limit)) });
    unless_interrupted(ready).map(|_| polled.map(|p| p.revents != 0))
}

/// Whether there is something to read within `limit`.
pub fn poll_readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    wait_any([(fd.as_fd(), Interest::READ)], Some(limit)).map(|[ready]| ready)
}
