//! Knows when the tunnel has to end: with the job, or on a signal.

use super::job::Job;
use crate::sys::{self, Epoll, Interest, SignalFd};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After TERM connected clients are served that much longer: Slurm sends TERM
/// 30 s before KILL, which is when a solver returns its seat.
const SERVE_AFTER_TERM: Duration = Duration::from_secs(30);

/// The job's life and the signals, and what is waited for to learn of them.
pub struct Shutdown {
    job: Job,
    signals: SignalFd,
    /// Apart from the main loop's descriptors, so that a session that waits for a
    /// stuck gateway sees them too.
    urgent: Arc<Epoll>,
    /// When TERM came.
    term: Option<Instant>,
}

impl Shutdown {
    /// Takes over both; `term`: when TERM came, if it did before a fault.
    ///
    /// # Errors
    /// The kernel refuses a descriptor.
    pub fn new(mut job: Job, signals: SignalFd, term: Option<Instant>) -> io::Result<Shutdown> {
        let urgent = Arc::new(Epoll::new()?);
        urgent.add(&signals, 0, Interest::READ)?;
        job.still_runs();
        let shutdown = Shutdown { job, signals, urgent, term };
        shutdown.watch_witness()?;
        Ok(shutdown)
    }

    /// Whose life bounds the tunnel's.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// When TERM came.
    pub fn term(&self) -> Option<Instant> {
        self.term
    }

    /// Readable when it is time for [`Shutdown::reason`].
    pub fn urgent(&self) -> &Arc<Epoll> {
        &self.urgent
    }

    fn watch_witness(&self) -> io::Result<()> {
        match self.job.fd() {
            Some(fd) => self.urgent.add(fd, 0, Interest::READ),
            None => Ok(()),
        }
    }

    /// Why to end now, if so, with that many clients left.
    pub fn reason(&mut self, clients: usize) -> Option<String> {
        while let Some(number) = self.signals.take() {
            if number != sys::SIGTERM {
                return Some(format!("signal {number}"));
            }
            if self.term.replace(Instant::now()).is_some() {
                return Some("TERM, twice".into());
            }
        }
        if let Some(since) = self.term {
            if clients == 0 {
                return Some("TERM".into());
            }
            if since.elapsed() >= SERVE_AFTER_TERM {
                return Some(format!("TERM, {} s ago", SERVE_AFTER_TERM.as_secs()));
            }
        }
        self.job_has_ended()
    }

    fn job_has_ended(&mut self) -> Option<String> {
        let number = |job: &Job| job.fd().map(|fd| fd.as_raw_fd());
        let woken = match self.job.fd() {
            Some(fd) => sys::poll_readable(fd, Duration::ZERO).unwrap_or(true),
            None => self.job.next_look() == Some(Duration::ZERO),
        };
        if !woken {
            return None;
        }
        let before = number(&self.job);
        if !self.job.still_runs() {
            return Some("the job has ended".into());
        }
        if number(&self.job) == before {
            return None;
        }
        let watched = self.watch_witness();
        watched.err().map(|e| format!("cannot watch the job: {e}"))
    }

    /// How long until [`Shutdown::reason`] has to be asked without being woken.
    pub fn due(&self, clients: usize) -> Option<Duration> {
        let term = self.term.map(|since| match clients {
            // The last client has left since it was asked.
            0 => Duration::ZERO,
            _ => SERVE_AFTER_TERM.saturating_sub(since.elapsed()),
        });
        [self.job.next_look(), term].into_iter().flatten().min()
    }
}
