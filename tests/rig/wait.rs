//! Waits for conditions; the only place that sleeps.

use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The same for hundreds of clients, or of megabytes.
pub const FLOOD: Duration = Duration::from_secs(300);

const POLL: Duration = Duration::from_millis(5);
/// How often at least it is looked where a look takes its time.
const SELDOM: Duration = Duration::from_millis(50);

/// Whether `condition` came true within `limit`.
pub fn eventually(limit: Duration, condition: impl FnMut() -> bool) -> bool {
    eventually_every(POLL, limit, condition)
}

/// The same with a look at the condition every `poll`.
pub fn eventually_every(
    poll: Duration,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> bool {
    let end = Instant::now() + limit;
    loop {
        let begin = Instant::now();
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        // A look at all processes costs; others wait for the processor.
        sleep((begin.elapsed() * 4).clamp(poll, poll.max(SELDOM)));
    }
}

/// Returns as soon as `condition` is true, and fails the test by name of
/// `what` when it is not within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    if !eventually(limit, condition) {
        let complaint = format!("waited {limit:?} in vain: {what}");
        // Cleaning up after a failure must not hide it: a second panic aborts.
        match panicking() {
            true => eprintln!("{complaint}"),
            false => panic!("{complaint}"),
        }
    }
}

/// When each of so many conditions came true; they are looked at together.
#[track_caller]
pub fn times_until(
    what: &str,
    count: usize,
    limit: Duration,
    mut condition: impl FnMut(usize) -> bool,
) -> Vec<Instant> {
    let mut times = vec![None; count];
    wait_until(what, limit, || {
        for (number, time) in times.iter_mut().enumerate() {
            if time.is_none() && condition(number) {
                *time = Some(Instant::now());
            }
        }
        times.iter().all(Option::is_some)
    });
    times.into_iter().flatten().collect()
}

/// What licfwd promises to do in so many seconds. On a busy machine it may take
/// three times as long; what it took is printed.
pub struct Promise(Duration);

impl Promise {
    /// Of so many seconds.
    pub const fn seconds(seconds: u64) -> Promise {
        Promise(Duration::from_secs(seconds))
    }

    /// What is promised.
    pub fn time(&self) -> Duration {
        self.0
    }

    /// How long a test waits before it takes the promise for broken.
    pub fn room(&self) -> Duration {
        self.0 * 3
    }

    /// Fails the test unless it was kept.
    #[track_caller]
    pub fn kept(&self, what: &str, took: Duration) {
        eprintln!("{what}: {took:.1?}, promised {:?}", self.0);
        assert!(took <= self.room(), "{what}: {took:.1?} for {:?}", self.0);
    }

    /// Waits until it is.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        let start = Instant::now();
        wait_until(what, self.room(), condition);
        eprintln!("{what}: {:.1?}, promised {:?}", start.elapsed(), self.0);
    }
}
