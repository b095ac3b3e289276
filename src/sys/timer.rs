//! A timer that is a descriptor, and the clock that it goes by.

use super::errno::check;
use super::fd::{CLOEXEC, NONBLOCK, own};
use std::ffi::{c_int, c_long};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

unsafe extern "C" {
    safe fn timerfd_create(clock: c_int, flags: c_int) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut [c_long; 2]) -> c_int;
    fn timerfd_settime(
        fd: c_int,
        flags: c_int,
        new: *const TimerSpec,
        old: *mut TimerSpec,
    ) -> c_int;
}

/// The clock of which `Instant` is made.
const CLOCK_MONOTONIC: c_int = 1;

/// `struct itimerspec`: seconds and nanoseconds of the interval, then of the time.
#[repr(C)]
struct TimerSpec([c_long; 4]);

/// Readable once its time has come (timerfd_create(2)).
#[derive(Debug)]
pub struct Timer(File);

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// EMFILE and its like.
    pub fn new() -> io::Result<Timer> {
        own(timerfd_create(CLOCK_MONOTONIC, CLOEXEC | NONBLOCK)).map(|fd| Timer(File::from(fd)))
    }

    /// Sets it that far ahead; `None`: it never comes.
    pub fn set(&self, ahead: Option<Duration>) {
        let ahead = ahead.map_or(Duration::ZERO, |ahead| ahead.max(Duration::from_nanos(1)));
        let (seconds, nanos) =
            (ahead.as_secs() as c_long, c_long::from(ahead.subsec_nanos() as i32));
        let spec = TimerSpec([0, 0, seconds, nanos]);
        // SAFETY: the kernel reads the structure, which outlives the call; no old one is
        // asked for.
        let set = unsafe {
            timerfd_settime(self.0.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut())
        };
        debug_assert!(check(set).is_ok());
    }

    /// Whether its time has come since it was last asked.
    pub fn take(&self) -> bool {
        (&self.0).read(&mut [0; 8]).is_ok()
    }
}

fn now() -> Duration {
    let mut time = [0; 2];
    // SAFETY: the kernel writes seconds and nanoseconds to the address given.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time[0] as u64, time[1] as u32)
}

/// A moment in milliseconds since the boot, which every program of it understands.
pub fn since_boot(moment: Instant) -> u64 {
    let (now, clock) = (Instant::now(), now());
    let ahead = clock + moment.saturating_duration_since(now);
    ahead.saturating_sub(now.saturating_duration_since(moment)).as_millis() as u64
}

/// The moment of which [`since_boot`] has told.
pub fn after_boot(milliseconds: u64) -> Instant {
    let (now, clock) = (Instant::now(), now());
    let then = Duration::from_millis(milliseconds);
    let past = now.checked_sub(clock.saturating_sub(then)).unwrap_or(now);
    past + then.saturating_sub(clock)
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll_readable;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    /// Goal: a moment is the same again, whether it is past or to come.
    #[test]
    fn a_moment_in_numbers_and_back() {
        let now = Instant::now();
        for moment in [now, now + LONG, now - SHORT] {
            let back = after_boot(since_boot(moment));
            let apart = back.max(moment) - back.min(moment);
            assert!(apart < SHORT, "{apart:?}");
        }
    }

    /// Goal: it comes once, not before it is set, not after it is put off, and also
    /// when it is set no time ahead, which the kernel takes for putting it off.
    #[test]
    fn it_comes_when_it_was_set() {
        let timer = Timer::new().unwrap();
        let comes = |within| poll_readable(&timer, within).unwrap();
        assert!(!comes(SHORT) && !timer.take());
        for ahead in [SHORT, Duration::ZERO] {
            timer.set(Some(ahead));
            assert!(comes(LONG) && timer.take(), "{ahead:?}");
            assert!(!comes(SHORT) && !timer.take(), "{ahead:?}");
        }
        timer.set(Some(LONG));
        timer.set(None);
        assert!(!comes(SHORT));
        // Set again before anybody has asked: what has come is forgotten.
        timer.set(Some(Duration::ZERO));
        assert!(comes(LONG));
        timer.set(Some(LONG));
        assert!(!comes(SHORT));
    }
}
