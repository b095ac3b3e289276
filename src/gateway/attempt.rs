//! Holds an attempt to log in, or to ask for a channel, to its limits from outside.
//!
//! libssh2 looks at its time-out only while the socket has nothing to read, keeps
//! whatever it does not know, and has no limit at all for an agent: a peer that
//! goes on sending keeps it for ever. So the attempt runs in a thread of its own,
//! and who waits for it holds a duplicate of each socket that it uses. When time,
//! bytes or memory are over, these are shut down, and what libssh2 does then is an
//! ordinary lost connection.

use super::helper_stderr::HelperStderr;
use crate::error::{Code, Error};
use crate::sys;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How often to look while an attempt is under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What a step leaves libssh2 for its own time-out, which words it better.
const GRACE: Duration = Duration::from_millis(500);
/// What a gateway may send meanwhile: a banner of a megabyte is
/// legal, and nobody needs more than a few of them.
const MAX_BYTES: u64 = 16 << 20;
/// By how much an attempt may make this process grow.
const MAX_GROWTH: u64 = 32 << 20;

/// What is known of an attempt while it runs.
pub struct Attempt {
    sockets: Mutex<Vec<TcpStream>>,
    step: Mutex<Step>,
    stderr: Mutex<Option<Arc<HelperStderr>>>,
}

#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    limit: Duration,
    begin: Instant,
}

impl Attempt {
    /// The next step begins, and may take that long.
    pub fn step(&self, name: &'static str, limit: Duration) {
        let begin = Instant::now();
        *lock(&self.step) = Step { name, limit, begin };
    }

    /// What is read from that socket counts, and it is shut down with the attempt.
    ///
    /// # Errors
    /// No descriptor for the duplicate.
    pub fn uses(&self, socket: impl AsFd) -> std::io::Result<()> {
        let duplicate = socket.as_fd().try_clone_to_owned()?;
        // Shutting down is the same call for every kind of socket.
        lock(&self.sockets).push(TcpStream::from(duplicate));
        Ok(())
    }

    /// What a helper says there is read meanwhile.
    pub fn hears(&self, stderr: Option<Arc<HelperStderr>>) {
        *lock(&self.stderr) = stderr;
    }

    /// Waits for a moment; whether the attempt is over.
    fn wait(&self, done: &UnixStream) -> std::io::Result<bool> {
        let stderr = lock(&self.stderr).clone();
        match stderr {
            Some(stderr) => stderr.read_until(done.as_fd(), LOOK_INTERVAL),
            None => sys::poll_readable(done, LOOK_INTERVAL),
        }
    }

    /// Which limit is over.
    fn exceeded(&self, memory_before: u64) -> Option<String> {
        let step = *lock(&self.step);
        let sockets = lock(&self.sockets);
        let received: u64 = sockets.iter().filter_map(sys::bytes_received).sum();
        let growth = sys::resident_memory().saturating_sub(memory_before);
        if step.begin.elapsed() > step.limit.saturating_add(GRACE) {
            let seconds = step.limit.as_secs_f64().ceil();
            Some(format!("the {} timed out after {seconds} s", step.name))
        } else if received > MAX_BYTES {
            Some(format!("{} MB came during the {}", received >> 20, step.name))
        } else if growth > MAX_GROWTH {
            let name = step.name;
            Some(format!("the {name} took {} MB of memory", growth >> 20))
        } else {
            None
        }
    }

    fn cut(&self) {
        for socket in lock(&self.sockets).iter() {
            // Both ways: the receiving side alone would still take what the kernel holds.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Runs `attempt`, and cuts it off when a limit is over; `failed` words that.
/// Signals reach the attempt's thread alone: only that knows when they have to wait,
/// because a terminal is silent or a helper is being started.
///
/// # Errors
/// The attempt's own; that of a limit.
pub fn run<T: Send, E: From<Error> + Send>(
    failed: impl Fn(String) -> Error,
    attempt: impl FnOnce(&Attempt) -> Result<T, E> + Send,
) -> Result<T, E> {
    let no_thread = |e: std::io::Error| {
        Error::new(Code::System, format!("cannot start a thread: {}", crate::error::cause(&e)))
    };
    let memory_before = sys::resident_memory();
    let (done, end) = UnixStream::pair().map_err(no_thread)?;
    let shared = Attempt {
        sockets: Mutex::new(Vec::new()),
        step: Mutex::new(Step { name: "connection", limit: Duration::MAX, begin: Instant::now() }),
        stderr: Mutex::new(None),
    };
    let held = sys::hold_signals();
    thread::scope(|scope| {
        let begin = || {
            // Closed when the thread ends, in whatever way.
            let _end = end;
            held.let_through_here();
            attempt(&shared)
        };
        let named = thread::Builder::new().name("attempt".into());
        let thread = named.spawn_scoped(scope, begin).map_err(no_thread)?;
        let mut over = None;
        while !shared.wait(&done).unwrap_or(true) {
            over = over.or_else(|| shared.exceeded(memory_before));
            if over.is_some() {
                // Again and again: it may have opened a further socket since.
                shared.cut();
            }
        }
        match (thread.join(), over) {
            (Ok(_), Some(why)) => Err(failed(why).into()),
            (Ok(result), None) => result,
            (Err(_), _) => Err(Error::new(Code::Internal, "the attempt's thread died").into()),
        }
    })
}

/// A panic leaves what is in it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Longer than anything here takes.
    const LIMIT: Duration = Duration::from_secs(30);

    fn attempt<T: Send>(
        body: impl FnOnce(&Attempt) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        run(|why| Error::new(Code::GatewayDown, why), body)
    }

    fn why(result: Result<usize, Error>) -> String {
        let error = result.expect_err("cut off");
        assert_eq!(error.code, Code::GatewayDown);
        error.to_string()
    }

    /// Goal: what it waits for ends when the time of a step is over, also a socket that
    /// comes only then; and a result that comes too late is none.
    #[test]
    fn a_step_that_takes_too_long() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (later, _theirs) = UnixStream::pair().unwrap();
        let begin = Instant::now();
        let result = attempt(|attempt| {
            attempt.uses(&ours).unwrap();
            attempt.step("nap", Duration::from_millis(1));
            let read = (&ours).read(&mut [0]).unwrap();
            attempt.uses(&later).unwrap();
            Ok(read + (&later).read(&mut [0]).unwrap())
        });
        assert!(begin.elapsed() < LIMIT);
        assert!(why(result).contains("the nap timed out after 1 s"));
    }

    /// Goal: more bytes than anybody needs are too many.
    #[test]
    fn more_than_anybody_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        thread::spawn(move || while theirs.write_all(&[b'z'; 65536]).is_ok() {});
        let result = attempt(|attempt| {
            attempt.uses(&ours).unwrap();
            attempt.step("flood", LIMIT);
            let mut buffer = [0; 65536];
            while ours.read(&mut buffer).is_ok_and(|got| got > 0) {}
            Ok(0)
        });
        assert!(why(result).contains(" MB came during the flood"));
    }

    /// Goal: what is done in time is its result, whatever that is; a panic is a failure.
    #[test]
    fn what_ends_by_itself() {
        assert_eq!(attempt(|_| Ok(7)).unwrap(), 7);
        let refused = attempt::<()>(|_| Err(Error::new(Code::Refused, "no")));
        assert_eq!(refused.unwrap_err().code, Code::Refused);
        let died = attempt::<()>(|_| std::panic::resume_unwind(Box::new("as it may be")));
        assert_eq!(died.unwrap_err().code, Code::Internal);
    }
}
