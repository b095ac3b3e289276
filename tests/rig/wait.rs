//! Waits for conditions; the only place that sleeps.

use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(5);

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
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(poll);
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
