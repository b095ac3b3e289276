//! Ends a start whose job has ended.
//!
//! A tunnel looks after its job from its loop. A start waits for the gateway, in many
//! places and for minutes, so that meanwhile a thread waits for the job's end. It is
//! joined before the fork.

use crate::log::Log;
use crate::sys::{self, Interest};
use crate::tunnel::Job;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Watches the job in the place of a tunnel that is not there yet.
pub struct Lifeline {
    /// Closed when that is over.
    over: UnixStream,
    thread: JoinHandle<Job>,
}

impl Lifeline {
    /// From now on this process ends with the job, as TERM would end it.
    ///
    /// # Errors
    /// The kernel refuses a descriptor or a thread.
    pub fn of(job: Job, log: &Arc<Log>) -> io::Result<Lifeline> {
        let (over, end) = UnixStream::pair()?;
        let log = Arc::clone(log);
        // Signals are for those who know when they have to wait.
        let held = sys::hold_signals();
        let named = thread::Builder::new().name("lifeline".into());
        let thread = named.spawn(move || watch(job, &end, &log));
        drop(held);
        Ok(Lifeline { over, thread: thread? })
    }

    /// No longer: whoever has the job now looks after it.
    ///
    /// # Errors
    /// The thread has died.
    pub fn let_go(self) -> io::Result<Job> {
        drop(self.over);
        self.thread.join().map_err(|_| io::ErrorKind::Other.into())
    }
}

fn watch(mut job: Job, end: &UnixStream, log: &Log) -> Job {
    let mut runs = job.still_runs();
    loop {
        if !runs {
            log.event("the job has ended");
            sys::end_by_term();
            return job;
        }
        let (end, limit) = ((end.as_fd(), Interest::READ), job.next_look());
        let over = match job.fd() {
            Some(fd) => sys::wait_any([end, (fd, Interest::READ)], limit).map(|it| it[0]),
            None => sys::wait_any([end], limit).map(|it| it[0]),
        };
        if over.unwrap_or(true) {
            return job;
        }
        runs = job.still_runs();
    }
}
