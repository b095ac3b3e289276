//! When to try again.

use rand::Rng;
use std::time::{Duration, Instant};

/// Exponential backoff with full jitter: try `n` (counted from 0) is followed by
/// a wait drawn uniformly from zero to `base * 2^n`, never more than `cap`.
///
/// Full jitter keeps a thousand jobs that start in the same second from coming
/// back in the same second ("Exponential Backoff And Jitter", AWS Architecture
/// Blog, 2015). The constants are the ones that the simulation in this file's
/// tests finds sufficient.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait is at most this long.
    pub base: Duration,
    /// No wait is longer than this.
    pub cap: Duration,
}

impl Backoff {
    /// Before the announcement.
    pub const START: Backoff = Backoff {
        base: Duration::from_millis(500),
        cap: Duration::from_secs(60),
    };

    /// After a lost connection.
    pub const GATEWAY: Backoff = Backoff {
        base: Duration::from_millis(500),
        cap: Duration::from_secs(30),
    };

    /// The longest wait after failed try `n`, counted from 0.
    pub fn ceiling(&self, n: u32) -> Duration {
        self.base
            .saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX))
            .min(self.cap)
    }

    /// The wait after failed try `n`, counted from 0.
    pub fn wait(&self, n: u32, rng: &mut impl Rng) -> Duration {
        self.ceiling(n).mul_f64(rng.random::<f64>())
    }
}

/// One point in time by which several steps together must be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// That much time from now.
    pub fn after(limit: Duration) -> Deadline {
        Deadline(Instant::now() + limit)
    }

    /// What is left; zero when it has passed.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// How long to wait after each login that was refused while reconnecting: 1, 5,
/// 15 minutes, then every 30; ten attempts in a row at most, so that an account
/// is not locked (a booting gateway refuses too). `LICFWD_TEST_REFUSAL_MS`
/// makes every wait that many milliseconds, for tests.
pub fn refusal_waits() -> impl Iterator<Item = Duration> {
    const ATTEMPTS: usize = 10;
    let test = std::env::var("LICFWD_TEST_REFUSAL_MS")
        .ok()
        .and_then(|ms| ms.parse().ok())
        .map(Duration::from_millis);
    [1, 5, 15]
        .into_iter()
        .chain(std::iter::repeat(30))
        .map(move |minutes| test.unwrap_or(Duration::from_secs(minutes * 60)))
        .take(ATTEMPTS - 1)
}
