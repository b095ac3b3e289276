//! When to try again.

use crate::sys;
use rand::Rng;
use std::time::{Duration, Instant};

/// Exponential backoff with full jitter: try `n` (counted from 0) is followed by
/// a wait drawn uniformly from zero to `base * growth^n`, never more than `cap`.
///
/// Full jitter keeps a thousand jobs that start in the same second from coming
/// back in the same second ("Exponential Backoff And Jitter", AWS Architecture
/// Blog, 2015). The constants are the ones that the simulation in this file's
/// tests finds sufficient.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait is at most this long.
    pub base: Duration,
    /// By how much each wait may be longer than the one before.
    pub growth: u32,
    /// No wait is longer than this.
    pub cap: Duration,
}

impl Backoff {
    /// Before the announcement. Tripled, not doubled: ten tries are all there
    /// are, and where a thousand jobs start together the early ones are wasted.
    pub const START: Backoff =
        Backoff { base: Duration::from_millis(500), growth: 3, cap: Duration::from_secs(60) };

    /// After a lost connection. Tries are not counted, and clients wait.
    pub const GATEWAY: Backoff =
        Backoff { base: Duration::from_millis(500), growth: 2, cap: Duration::from_secs(30) };

    /// The wait after failed try `n`, counted from 0.
    pub fn wait(&self, n: u32, rng: &mut impl Rng) -> Duration {
        let longest = self.base.saturating_mul(self.growth.saturating_pow(n));
        longest.min(self.cap).mul_f64(rng.random::<f64>())
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

/// How long a gateway has for its greeting, where another one waits for its turn.
pub const GREETING: Duration = Duration::from_secs(2);

/// How one attempt is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For each step: connecting, key exchange, login.
    pub step: Duration,
    /// For all of them.
    pub deadline: Deadline,
    /// By when the gateway has to have greeted, where another one waits for its turn.
    pub greeting: Option<Deadline>,
}

impl Limits {
    /// How long the next step may take.
    pub fn next_step(&self) -> Duration {
        // libssh2 takes a time-out of zero for none at all.
        self.step.min(self.deadline.left()).max(Duration::from_millis(1))
    }

    /// How long the next step may take, where that comes before the greeting.
    pub fn next_step_to_greeting(&self) -> Duration {
        let left = self.greeting.map_or(Duration::MAX, |greeting| greeting.left());
        self.next_step().min(left.max(Duration::from_millis(1)))
    }
}

/// How long to wait after each login that was refused while reconnecting: 1, 5,
/// 15 minutes, then every 30; ten attempts in a row at most, so that an account
/// is not locked (a booting gateway refuses too).
pub fn refusal_waits() -> impl Iterator<Item = Duration> {
    const ATTEMPTS: usize = 10;
    let test = sys::test_hook("REFUSAL_MS")
        .and_then(|milliseconds| milliseconds.parse().ok())
        .map(Duration::from_millis);
    [1, 5, 15]
        .into_iter()
        .chain(std::iter::repeat(30))
        .map(move |minutes| test.unwrap_or(Duration::from_secs(minutes * 60)))
        .take(ATTEMPTS - 1)
}

/// A simulation of what the constants are for: a thousand licfwd processes at
/// one gateway. The waits are the real ones; the gateway is a model of sshd's
/// early drop (`MaxStartups 10:30:100`) that manages 20 logins a second and
/// refuses connections for 5 s when it restarts. Each figure is the worst of
/// 100 seeds. `cargo test -- --ignored --nocapture tables` prints the tables.
///
/// A thousand jobs start in the same second (waits in seconds):
///
/// | first ceiling | growth | last ceiling | most tries | longest wait | last one in |
/// |---|---|---|---|---|---|
/// | **0.5** | **3** | **60** (used) | 9 | 105 | 105 |
/// | 0.5 | 2 | 60 | 12 | 100 | 100 |
/// | 1 | 2 | 60 | 11 | 97 | 98 |
/// | 2 | 2 | 60 | 10 | 99 | 100 |
/// | 0.5 | 3 | 30 | 12 | 72 | 73 |
/// | 0.5 | 3 | 90 | 10 | 129 | 130 |
/// | 0.5 | 4 | 60 | 10 | 97 | 97 |
///
/// Ten tries are all there are, and whoever would need an eleventh ends with exit
/// code 75: only the row in use has a try to spare.
///
/// The same at five such gateways, each job in an order of its own and a try a round over
/// all of them. Ten seconds are the least there:
///
/// | first ceiling | growth | last ceiling | most tries | longest wait | last one in |
/// |---|---|---|---|---|---|
/// | **0.5** | **3** | **60** (used) | 7 | 53 | 54 |
/// | 0.5 | 2 | 60 | 9 | 41 | 41 |
/// | 1 | 2 | 60 | 7 | 38 | 38 |
/// | 0.5 | 3 | 30 | 7 | 37 | 38 |
///
/// A thousand tunnels lose their gateway together:
///
/// | first ceiling | growth | last ceiling | most tries | longest wait | last one back |
/// |---|---|---|---|---|---|
/// | **0.5** | **2** | **30** (used) | 13 | 77 | 77 |
/// | 0.5 | 2 | 10 | 21 | 62 | 62 |
/// | 0.5 | 2 | 20 | 15 | 68 | 69 |
/// | 0.5 | 2 | 60 | 13 | 102 | 102 |
/// | 2 | 2 | 30 | 12 | 77 | 77 |
/// | 0.5 | 3 | 30 | 11 | 75 | 75 |
/// | 0.5 | 3 | 60 | 9 | 103 | 104 |
///
/// Here tries are not counted, and clients wait: what counts is when the last one
/// is back; more tries than that takes only load a gateway that has just come up.
///
/// Fifty seconds are the least that a thousand logins at 20 a second can take.
#[cfg(test)]
mod simulation {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const JOBS: usize = 1000;
    const SEEDS: u64 = 100;
    /// `--tries` and `--deadline`, unless given.
    const TRIES: u32 = 10;
    const DEADLINE: Duration = Duration::from_secs(300);
    /// How long one login keeps the gateway busy: it manages 20 a second.
    const LOGIN: Duration = Duration::from_millis(50);
    /// How long a gateway that restarts refuses connections.
    const RESTART: Duration = Duration::from_secs(5);

    /// An sshd with `MaxStartups 10:30:100` and one processor for its logins.
    #[derive(Default)]
    struct Sshd {
        /// Connections that have not logged in yet.
        startups: u32,
        idle_from: Duration,
    }

    impl Sshd {
        /// When this login is done; `None`: dropped, as `should_drop_connection`
        /// of OpenSSH's sshd.c decides it.
        fn connect(&mut self, now: Duration, rng: &mut StdRng) -> Option<Duration> {
            const BEGIN: u32 = 10;
            const RATE: u32 = 30;
            const FULL: u32 = 100;
            let percent = match self.startups {
                ..BEGIN => 0,
                FULL.. => 100,
                n => (100 - RATE) * (n - BEGIN) / (FULL - BEGIN) + RATE,
            };
            if rng.random_range(0..100) < percent {
                return None;
            }
            self.startups += 1;
            self.idle_from = self.idle_from.max(now) + LOGIN;
            Some(self.idle_from)
        }
    }

    /// How a crowd fared.
    #[derive(Clone, Copy, Debug, Default)]
    struct Result {
        /// The most tries that one of them needed.
        tries: u32,
        /// When the last of them was logged in.
        last: Duration,
        /// The longest that one of them waited for tries, all waits together.
        waits: Duration,
    }

    impl Result {
        fn worst(self, other: Result) -> Result {
            Result {
                tries: self.tries.max(other.tries),
                last: self.last.max(other.last),
                waits: self.waits.max(other.waits),
            }
        }
    }

    /// Everybody goes round that many gateways, each in an order of its own, with the
    /// waits of `backoff` after each round, until all are in. `open_from`: connections are
    /// refused until then.
    fn crowd(
        starts: Vec<Duration>,
        gateways: usize,
        first_wait: u32,
        open_from: Duration,
        backoff: Backoff,
        rng: &mut StdRng,
    ) -> Result {
        let mut sshds: Vec<Sshd> = (0..gateways).map(|_| Sshd::default()).collect();
        let mut result = Result::default();
        // Who comes when; or at which gateway a login is done.
        let mut events: BinaryHeap<_> =
            starts.iter().enumerate().map(|(job, start)| Reverse((*start, Ok((job, 1))))).collect();
        let in_order = |rng: &mut StdRng| {
            let mut order: Vec<usize> = (0..gateways).collect();
            order.shuffle(rng);
            order
        };
        let orders: Vec<Vec<usize>> = starts.iter().map(|_| in_order(rng)).collect();
        while let Some(Reverse((now, event))) = events.pop() {
            let (job, tries) = match event {
                Ok(comes) => comes,
                Err(at) => {
                    let at: usize = at;
                    sshds[at].startups -= 1;
                    result.last = now;
                    continue;
                }
            };
            let mut turns = orders[job].iter().filter(|_| now >= open_from);
            match turns.find_map(|at| Some((*at, sshds[*at].connect(now, rng)?))) {
                Some((at, then)) => {
                    result.tries = result.tries.max(tries);
                    result.waits = result.waits.max(now - starts[job]);
                    events.push(Reverse((then, Err(at))));
                }
                None => {
                    let wait = backoff.wait(first_wait + tries - 1, rng);
                    events.push(Reverse((now + wait, Ok((job, tries + 1)))));
                }
            }
        }
        result
    }

    fn of_all_seeds(one: impl Fn(&mut StdRng) -> Result) -> Result {
        (0..SEEDS)
            .map(|seed| one(&mut StdRng::seed_from_u64(seed)))
            .fold(Result::default(), Result::worst)
    }

    /// A thousand jobs start in the same second, at one gateway or at several.
    fn start_at(gateways: usize, backoff: Backoff) -> Result {
        of_all_seeds(|rng| {
            let starts = (0..JOBS).map(|_| Duration::from_secs(1).mul_f64(rng.random()));
            crowd(starts.collect(), gateways, 0, Duration::ZERO, backoff, rng)
        })
    }

    fn start(backoff: Backoff) -> Result {
        start_at(1, backoff)
    }

    /// A thousand tunnels lose their gateway in the same moment. The first
    /// attempt comes after a wait already.
    fn restart(backoff: Backoff) -> Result {
        of_all_seeds(|rng| {
            let starts = (0..JOBS).map(|_| backoff.wait(0, rng));
            crowd(starts.collect(), 1, 1, RESTART, backoff, rng)
        })
    }

    fn table(
        what: &str,
        chosen: Backoff,
        others: [(u64, u32, u64); 6],
        run: fn(Backoff) -> Result,
    ) {
        println!("{what}: base (s), growth, cap (s); most tries, longest wait, last in (s)");
        let others = others.map(|(base, growth, cap)| Backoff {
            base: Duration::from_millis(base),
            growth,
            cap: Duration::from_secs(cap),
        });
        for backoff in [chosen].into_iter().chain(others) {
            let result = run(backoff);
            println!(
                "{:.1} {} {:3}  {:2} {:4.0} {:4.0}",
                backoff.base.as_secs_f64(),
                backoff.growth,
                backoff.cap.as_secs(),
                result.tries,
                result.waits.as_secs_f64(),
                result.last.as_secs_f64()
            );
        }
    }

    /// Goal: all jobs get in within the tries and the deadline of the defaults.
    #[test]
    fn a_thousand_jobs_start_together() {
        let result = start(Backoff::START);
        assert!(result.tries <= TRIES && result.waits < DEADLINE, "{result:?}");
    }

    /// Goal: over five gateways they are in sooner, and with fewer tries.
    #[test]
    fn a_thousand_jobs_start_at_five_gateways() {
        let (five, one) = (start_at(5, Backoff::START), start(Backoff::START));
        assert!(five.tries < one.tries && five.last * 3 < one.last * 2, "{five:?}, {one:?}");
    }

    /// Goal: all tunnels find back, hardly later than the gateway can take them.
    #[test]
    fn a_thousand_tunnels_find_back() {
        let result = restart(Backoff::GATEWAY);
        let best = RESTART + LOGIN * JOBS as u32;
        assert!(result.last < best * 2, "{result:?}");
    }

    #[test]
    #[ignore = "prints the tables above"]
    fn tables() {
        let others =
            [(500, 2, 60), (1000, 2, 60), (2000, 2, 60), (500, 3, 30), (500, 3, 90), (500, 4, 60)];
        table("start", Backoff::START, others, start);
        table("start at five", Backoff::START, others, |backoff| start_at(5, backoff));
        let others =
            [(500, 2, 10), (500, 2, 20), (500, 2, 60), (2000, 2, 30), (500, 3, 30), (500, 3, 60)];
        table("restart", Backoff::GATEWAY, others, restart);
    }
}
