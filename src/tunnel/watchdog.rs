//! Cuts the gateway off when the loop does not come round, or memory runs away.
//!
//! libssh2 reads on while packets come, and keeps what it does not know: a gateway
//! that floods keeps the loop inside a call for ever. So a thread of its own looks
//! at the loop from outside, and shuts the sessions' sockets down; what libssh2
//! does then is an ordinary lost connection.
//!
//! It costs nothing while the tunnel idles: the loop sets a timer when a turn
//! begins, fifty times a second at most, and puts it off when the turn has carried
//! nobody's bytes. Of such turns there may be many, and each may leave something in
//! memory: that the loop looks at itself when a turn ends, as often.

use crate::log::Log;
use crate::sys::{self, Epoll, Interest, Timer};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

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
    /// When the loop looked at the memory.
    looked: Mutex<Instant>,
    clients: AtomicUsize,
    /// Duplicates of the sessions' sockets, by the sessions' numbers.
    sockets: Mutex<Vec<(usize, TcpStream)>>,
    /// Why the sockets were shut down last.
    why: Mutex<Option<String>>,
    log: Arc<Log>,
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
            looked: Mutex::new(Instant::now()),
            clients: AtomicUsize::new(0),
            sockets: Mutex::new(Vec::new()),
            why: Mutex::new(None),
            log: Arc::clone(log),
        });
        let (shared, urgent) = (Arc::clone(&watchdog), Arc::clone(urgent));
        let named = thread::Builder::new().name("watchdog".into());
        named.spawn(move || shared.look(&urgent))?;
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
        self.turns.fetch_add(1, Ordering::SeqCst);
        if !self.armed.swap(true, Ordering::SeqCst) {
            self.timer.set(Some(LOOK_INTERVAL));
        }
    }

    /// A turn of the loop ends, with that many clients; `idle`: it has carried
    /// nobody's bytes.
    pub fn turn_ends(&self, clients: usize, idle: bool) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.clients.store(clients, Ordering::Relaxed);
        if !idle {
            return;
        }
        if self.armed.swap(false, Ordering::SeqCst) {
            self.timer.set(None);
        }
        let mut looked = lock(&self.looked);
        if looked.elapsed() >= LOOK_INTERVAL {
            *looked = Instant::now();
            if let Some(why) = self.too_much_memory() {
                self.cut(why);
            }
        }
    }

    /// The thread's: never ends.
    fn look(&self, urgent: &Epoll) {
        loop {
            let fds = [(self.timer.as_fd(), Interest::READ)];
            let _ = sys::wait_any(fds, None);
            // In this order: a turn that begins from here on sets the timer again, and
            // any other is the one that is looked at.
            self.timer.take();
            self.armed.store(false, Ordering::SeqCst);
            let turn = self.turns.load(Ordering::SeqCst);
            // Counted, not measured: suspended with the loop, this has not looked.
            let mut stays = LOOK_INTERVAL;
            loop {
                let urgent = sys::poll_readable(urgent, Duration::ZERO).unwrap_or(false);
                let comes_round =
                    self.turns.load(Ordering::SeqCst) != turn || turn.is_multiple_of(2);
                if let Some(why) = self.exceeded(stays, urgent, comes_round) {
                    self.cut(why);
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
        let too_long = stays > MAX_TURN || urgent && stays > MAX_TURN_IF_URGENT;
        let why = "it kept sending, and nothing else could be done";
        self.too_much_memory().or_else(|| (!comes_round && too_long).then(|| why.to_owned()))
    }

    fn too_much_memory(&self) -> Option<String> {
        let clients = self.clients.load(Ordering::Relaxed) as u64;
        let limit = MAX_MEMORY + clients * MAX_MEMORY_PER_CLIENT;
        let is_over = || Some(sys::resident_memory()).filter(|memory| *memory > limit);
        // What a crowd has left behind is not the gateway's doing.
        let memory = is_over().and_then(|_| {
            sys::trim_memory();
            is_over()
        })?;
        Some(format!("it made the tunnel take {} MB of memory", memory >> 20))
    }

    fn cut(&self, why: String) {
        if lock(&self.why).replace(why.clone()).is_none() {
            self.log.event(format_args!("cutting the gateway off: {why}"));
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

    /// Goal: memory is looked at also where each turn is short and carries nothing.
    #[test]
    fn turns_that_leave_something_behind() {
        let (watchdog, _urgent, ours, _theirs) = watched();
        let kept = vec![1_u8; 2 * MAX_MEMORY as usize];
        while !sys::poll_readable(&ours, LOOK_INTERVAL / 4).unwrap() {
            watchdog.turn_ends(0, true);
            watchdog.turn_begins();
        }
        assert_eq!(kept[kept.len() / 2], 1);
        assert!(watchdog.remove(3).is_some_and(|why| why.contains("MB of memory")));
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
