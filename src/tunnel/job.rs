//! Knows whether the job still runs.
//!
//! The tunnel lives as long as the session that started it has a process of
//! this user. A session holds together what a job script starts in all the
//! ways that were measured (Slurm's steps, `timeout`, TaskProlog, shells with
//! and without job control), whereas process groups and parents do not. Of its
//! processes one is the witness: a pidfd on it costs nothing while it lives,
//! and when it ends the next one is looked for.

use crate::error::{Code, Error, Result};
use crate::sys;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Whose job bounds the tunnel's.
#[derive(Debug)]
pub struct Job {
    bound: Watched,
    witness: Option<Witness>,
    /// Looks that found nobody, one after another.
    misses: u32,
    looked: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Watched {
    /// Nothing: `--no-watch`, or the end of our PID namespace will do it.
    Nothing,
    /// One process, by id and start time (ids are used again).
    Process { pid: i32, start: u64 },
    /// Every process of this session and user.
    Session { id: i32, uid: u32 },
}

#[derive(Debug)]
struct Witness {
    pid: i32,
    start: u64,
    /// `None` on kernels before 5.3: then it is looked at now and then.
    fd: Option<OwnedFd>,
}

/// How often to look where the kernel has no pidfd. Ten seconds is how soon a
/// tunnel must be gone after its job.
const LOOK_WITHOUT_PIDFD: Duration = Duration::from_secs(8);

/// A process may fork its successor while /proc is being read: nobody found
/// must be seen twice, this much apart.
const SECOND_LOOK: Duration = Duration::from_millis(300);

impl Job {
    /// A tunnel that nothing ends but a signal.
    pub fn unbounded() -> Job {
        Job::new(Watched::Nothing)
    }

    /// Watched to one process (`--watch PID`).
    ///
    /// # Errors
    /// [`Code::Usage`] when there is no such process.
    pub fn of_process(pid: u32) -> Result<Job> {
        let bound = i32::try_from(pid)
            .ok()
            .and_then(|pid| Some((pid, Stat::read(pid)?)))
            .filter(|(_, stat)| stat.runs())
            .map(|(pid, stat)| Watched::Process {
                pid,
                start: stat.start,
            });
        bound.map(Job::new).ok_or_else(|| {
            Error::new(
                Code::Usage,
                format!("--watch {pid}: there is no such process on this node"),
            )
        })
    }

    /// Watched to the session that this process was started in. Where it is alone
    /// in that (`setsid`, `su -c`), to the session of the process that started
    /// it, or to that process itself when nobody there is this user's.
    ///
    /// # Errors
    /// [`Code::Usage`] when none of them tells the job: the starter has ended already.
    pub fn of_caller() -> Result<Job> {
        let uid = sys::user_id();
        let own = sys::session_id();
        if own == 0 {
            // The session's leader is outside this PID namespace, whose end
            // ends everything in it.
            return Ok(Job::unbounded());
        }
        let session_of_ours = |id: i32| {
            let session = Watched::Session { id, uid };
            find_witness(&session).map(|_| session)
        };
        let bound = session_of_ours(own).or_else(|| {
            let (pid, stat) = starter()?;
            let process = Watched::Process {
                pid,
                start: stat.start,
            };
            // Not just that process: it may be a shell that is passing by.
            match stat.session {
                0 => Some(process),
                id => session_of_ours(id).or(Some(process)),
            }
        });
        bound.map(Job::new).ok_or_else(|| {
            Error::new(
                Code::Usage,
                "cannot tell which job this tunnel belongs to: licfwd is alone in its session and \
                 the process that started it has ended; name a process with --watch PID (in a job \
                 script: --watch $$), or use --no-watch",
            )
        })
    }

    fn new(bound: Watched) -> Job {
        Job {
            bound,
            witness: None,
            misses: 0,
            looked: Instant::now(),
        }
    }

    /// The descriptor that becomes readable when it is time for [`Job::look`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.witness.as_ref()?.fd.as_ref().map(AsFd::as_fd)
    }

    /// When to look without being woken by [`Job::fd`].
    pub fn next_look(&self) -> Option<Duration> {
        let span = match (&self.bound, &self.witness) {
            (Watched::Nothing, _) => return None,
            (_, Some(Witness { fd: Some(_), .. })) => return None,
            (_, Some(_)) => LOOK_WITHOUT_PIDFD,
            (_, None) => SECOND_LOOK,
        };
        Some(span.saturating_sub(self.looked.elapsed()))
    }

    /// Whether the job still runs; looks for a new witness where that is needed.
    pub fn look(&mut self) -> bool {
        if self.bound == Watched::Nothing {
            return true;
        }
        self.looked = Instant::now();
        let lives = self.witness.as_ref().is_some_and(|witness| {
            Stat::read(witness.pid).is_some_and(|stat| stat.runs() && stat.start == witness.start)
        });
        if !lives {
            self.witness = find_witness(&self.bound);
        }
        match self.witness {
            Some(_) => self.misses = 0,
            None => self.misses += 1,
        }
        self.misses < 2
    }
}

/// The process that started this one, unless it has ended; for one that only
/// changes the user and then waits for us, the process that started that.
fn starter() -> Option<(i32, Stat)> {
    let mut pid = std::os::unix::process::parent_id() as i32;
    loop {
        // 1 has taken over from somebody, 0 is outside our PID namespace.
        let stat = Stat::read(pid).filter(|stat| pid > 1 && stat.runs())?;
        if !matches!(stat.name.as_str(), "su" | "sudo" | "runuser") {
            return Some((pid, stat));
        }
        pid = stat.parent;
    }
}

/// The process whose end is worth waking up for: the session's leader while it
/// lives, else the oldest one, which will most likely live longest.
fn find_witness(bound: &Watched) -> Option<Witness> {
    let (pid, start) = match *bound {
        Watched::Nothing => return None,
        Watched::Process { pid, start } => (pid, start),
        Watched::Session { id, uid } => {
            let leader = Stat::read(id).filter(|s| s.session == id && belongs(id, s, uid));
            match leader {
                Some(stat) => (id, stat.start),
                None => oldest_of(id, uid)?,
            }
        }
    };
    let fd = match sys::test_hook("NO_PIDFD") {
        Some(_) => None,
        None => sys::pidfd_open(pid).ok(),
    };
    // The id may have passed to another process before the pidfd was open.
    Stat::read(pid)
        .filter(|stat| stat.runs() && stat.start == start)
        .map(|_| Witness { pid, start, fd })
}

fn oldest_of(session: i32, uid: u32) -> Option<(i32, u64)> {
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, Stat::read(pid)?)))
        .filter(|(pid, stat)| stat.session == session && belongs(*pid, stat, uid))
        .map(|(pid, stat)| (pid, stat.start))
        .min_by_key(|(_, start)| *start)
}

/// Whether a process counts as the job's: alive, this user's, and no licfwd
/// (two tunnels of one job would keep each other alive).
fn belongs(pid: i32, stat: &Stat, uid: u32) -> bool {
    stat.runs()
        && stat.name != "licfwd"
        && pid != std::process::id() as i32
        && fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == uid)
}

/// What /proc/PID/stat says of a process (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: u8,
    parent: i32,
    session: i32,
    /// Clock ticks since boot.
    start: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Stat> {
        Stat::parse(&String::from_utf8_lossy(
            &fs::read(format!("/proc/{pid}/stat")).ok()?,
        ))
    }

    /// The name stands in parentheses and may itself hold anything, also `)`.
    fn parse(text: &str) -> Option<Stat> {
        let (head, tail) = text.rsplit_once(')')?;
        let mut fields = tail.split_ascii_whitespace();
        Some(Stat {
            name: head.split_once('(')?.1.to_owned(),
            state: *fields.next()?.as_bytes().first()?,
            parent: fields.next()?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
            start: fields.nth(15)?.parse().ok()?,
        })
    }

    /// Neither zombie nor dead.
    fn runs(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_may_hold_anything() {
        let text = "77 (a) b (c)) S 1 77 70 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                name: "a) b (c)".into(),
                state: b'S',
                parent: 1,
                session: 70,
                start: 123_456
            })
        );
        for bad in ["", "1", "1 (x", "1 (x) S 1", "1 (x) S 1 2 y 0"] {
            assert_eq!(Stat::parse(bad), None, "{bad}");
        }
    }

    /// A watched process is alive until it has ended, also as a zombie that
    /// nobody has waited for yet.
    #[test]
    fn a_zombie_is_dead() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("cat");
        let mut job = Job::of_process(child.id()).expect("alive");
        assert!(job.look());
        drop(child.stdin.take());
        // Readable pidfd: the process has ended, and is a zombie now.
        let fd = job.fd().expect("a kernel with pidfd").try_clone_to_owned();
        assert!(sys::poll_readable(fd.expect("dup"), Duration::from_secs(5)).expect("poll"));
        job.look();
        assert!(!job.look());
        child.wait().expect("wait");
        assert!(Job::of_process(child.id()).is_err());
    }
}
