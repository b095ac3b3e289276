//! Cuts the gateway off when the loop does not come round, or memory runs away.
//!
//! libssh2 reads on while packets come, and keeps what it does not know: a gateway
//! that floods keeps the loop inside a call for ever. So a thread of its own looks
//! at the loop from outside, and shuts the sessions' sockets down; what libssh2
//! does then is an ordinary lost connection.
//!
//! It costs nothing while the tunnel idles: the loop sets a timer when a turn
//! begins, fifty times a second at most, and puts it off when the turn has carried
//! nobody's bytes.

use crate::log::Log;
use crate::sys::{self, Epoll, Interest, Timer};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How long a turn may last before somebody looks, and how often from then on: a
/// fast link brings 20 MB meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the loop may stay away while the job's end or a signal waits, and
/// how long in any case.
const MAX_TURN_IF_URGENT: Duration = Duration::from_secs(2);
const MAX_TURN: Duration = Duration::from_secs(10);
/// Bytes that the tunnel may take in memory, and for each client: libssh2's window
/// of 2 MB, and what is held.
const MAX_MEMORY: u64 = 32 << 20;
const MAX_MEMORY_PER_CLIENT: u64 = 3 << 20;

/// What the loop and its watchdog share.
pub struct Watchdog {
    timer: Timer,
    /// The timer runs.
    armed: AtomicBool,
    /// Turns that have begun or ended.
    turns: AtomicU64,
    clients: AtomicUsize,
    /// Duplicates of the sessions' sockets, by the sessions' numbers.
    sockets: Mutex<Vec<(usize, TcpStream)>>,
    /// Why the sockets were shut down last.
    why: Mutex<Option<String>>,
}

impl Watchdog {
    /// Begins to look. `urgent` is readable when the loop should end or look up.
    ///
    /// # Errors
    /// The kernel refuses a descriptor or a thread.
    pub fn start(urgent: &Arc<Epoll>, log: &Arc<Log>) -> io::Result<Arc<Watchdog>> {
        let watchdog = Arc::new(Watchdog {
            timer: Timer::new()?,
            armed: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            clients: AtomicUsize::new(0),
            sockets: Mutex::new(Vec::new()),
            why: Mutex::new(None),
        });
        let (shared, urgent, log) = (Arc::clone(&watchdog), Arc::clone(urgent), Arc::clone(log));
        let named = thread::Builder::new().name("watchdog".into());
        named.spawn(move || shared.look(&urgent, &log))?;
        Ok(watchdog)
    }

    /// Looks after that socket, too.
    ///
    /// # Errors
    /// No descriptor for the duplicate.
    pub fn add(&self, number: usize, socket: BorrowedFd<'_>) -> io::Result<()> {
        let duplicate = TcpStream::from(socket.try_clone_to_owned()?);
        lock(&self.sockets).push((number, duplicate));
        Ok(())
    }

    /// That session is gone. Returns why it was cut off, if so.
    pub fn remove(&self, number: usize) -> Option<String> {
        lock(&self.sockets).retain(|(known, _)| *known != number);
        lock(&self.why).take()
    }

    /// A turn of the loop begins.
    pub fn turn_begins(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        if !self.armed.swap(true, Ordering::AcqRel) {
            self.timer.set(Some(LOOK_INTERVAL));
        }
    }

    /// A turn of the loop ends, with that many clients; `idle`: it has carried
    /// nobody's bytes.
    pub fn turn_ends(&self, clients: usize, idle: bool) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.clients.store(clients, Ordering::Relaxed);
        if idle && self.armed.swap(false, Ordering::AcqRel) {
            self.timer.set(None);
        }
    }

    /// The thread's: never ends.
    fn look(&self, urgent: &Epoll, log: &Log) {
        loop {
            let fds = [(self.timer.as_fd(), Interest::READ)];
            let _ = sys::wait_any(fds, None);
            let turn = self.turns.load(Ordering::Relaxed);
            self.timer.take();
            self.armed.store(false, Ordering::Release);
            // Counted, not measured: suspended with the loop, this has not looked.
            let mut stays = LOOK_INTERVAL;
            loop {
                let urgent = sys::poll_readable(urgent, Duration::ZERO).unwrap_or(false);
                let comes_round =
                    self.turns.load(Ordering::Relaxed) != turn || turn.is_multiple_of(2);
                if let Some(why) = self.exceeded(stays, urgent, comes_round) {
                    self.cut(why, log);
                }
                if comes_round {
                    break;
                }
                let _ = sys::poll_readable(&self.timer, LOOK_INTERVAL);
                stays += LOOK_INTERVAL;
            }
        }
    }

    /// Which limit is over.
    fn exceeded(&self, stays: Duration, urgent: bool, comes_round: bool) -> Option<String> {
        let clients = self.clients.load(Ordering::Relaxed) as u64;
        let memory = sys::resident_memory();
        if memory > MAX_MEMORY + clients * MAX_MEMORY_PER_CLIENT {
            Some(format!("it made the tunnel take {} MB of memory", memory >> 20))
        } else if !comes_round && (stays > MAX_TURN || urgent && stays > MAX_TURN_IF_URGENT) {
            Some("it kept sending, and nothing else could be done".to_owned())
        } else {
            None
        }
    }

    fn cut(&self, why: String, log: &Log) {
        if lock(&self.why).replace(why.clone()).is_none() {
            log.event(format_args!("cutting the gateway off: {why}"));
        }
        for (_, socket) in lock(&self.sockets).iter() {
            // Both ways: the receiving side alone would still take what the kernel holds.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A panic leaves what is in it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Verbosity;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    /// A watchdog with a session, which a read waits for in vain until it is cut.
    fn watched() -> (Arc<Watchdog>, Arc<Epoll>, UnixStream, UnixStream) {
        let urgent = Arc::new(Epoll::new().unwrap());
        let log = Arc::new(Log::new(Verbosity::Quiet, false));
        let watchdog = Watchdog::start(&urgent, &log).unwrap();
        // The memory is that of all tests.
        watchdog.turn_begins();
        watchdog.turn_ends(1000, false);
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(MAX_TURN)).unwrap();
        watchdog.add(3, ours.as_fd()).unwrap();
        watchdog.turn_begins();
        (watchdog, urgent, ours, theirs)
    }

    /// Goal: a turn that does not end is cut off when something urgent waits, not before.
    #[test]
    fn a_turn_that_keeps_something_urgent_waiting() {
        let (watchdog, urgent, mut ours, _theirs) = watched();
        let (waits, mut end) = UnixStream::pair().unwrap();
        assert!(!sys::poll_readable(&ours, MAX_TURN_IF_URGENT * 2).unwrap());
        end.write_all(b"x").unwrap();
        urgent.add(&waits, 0, Interest::READ).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        assert!(watchdog.remove(2).is_some_and(|why| why.contains("kept sending")));
        assert_eq!(watchdog.remove(3), None);
    }

    /// Goal: turns that end are let alone, whatever waits.
    #[test]
    fn turns_that_end() {
        let (watchdog, urgent, ours, _theirs) = watched();
        let (waits, end) = UnixStream::pair().unwrap();
        drop(end);
        urgent.add(&waits, 0, Interest::READ).unwrap();
        let begin = Instant::now();
        while begin.elapsed() < MAX_TURN_IF_URGENT * 2 {
            watchdog.turn_ends(1000, begin.elapsed().as_millis().is_multiple_of(2));
            watchdog.turn_begins();
            assert!(!sys::poll_readable(&ours, LOOK_INTERVAL / 2).unwrap());
        }
        assert_eq!(watchdog.remove(3), None);
    }
}
