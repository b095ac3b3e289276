//! Many clients at once, each in a thread, none of which may hang.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs `client(0)` to `client(count - 1)` at the same time and fails the test
/// with the words of those that failed or did not come back within `limit`.
#[track_caller]
pub fn all_at_once(
    count: usize,
    limit: Duration,
    client: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static,
) {
    let end = Instant::now() + limit;
    let client = Arc::new(client);
    let (sender, results) = mpsc::channel();
    for number in 0..count {
        let (client, sender) = (client.clone(), sender.clone());
        let thread = thread::Builder::new().stack_size(256 * 1024);
        let body = move || {
            let _ = sender.send((number, client(number)));
        };
        thread.spawn(body).expect("a thread for a client");
    }
    drop(sender);
    let mut missing: Vec<usize> = (0..count).collect();
    let mut failures = Vec::new();
    while !missing.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        // A thread that panicked has said so itself.
        let Ok((number, result)) = results.recv_timeout(left) else {
            break;
        };
        missing.retain(|other| *other != number);
        failures.extend(result.err().map(|e| format!("client {number}: {e}")));
    }
    assert!(
        missing.is_empty() && failures.is_empty(),
        "of {count} clients {} hang or panicked: {missing:?}; {} failed: {failures:#?}",
        missing.len(),
        failures.len(),
    );
}

/// Runs one client, which may not hang either, and says how long it took.
#[track_caller]
pub fn alone(
    limit: Duration,
    client: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Duration {
    let start = Instant::now();
    all_at_once(1, limit, move |_| client());
    start.elapsed()
}
