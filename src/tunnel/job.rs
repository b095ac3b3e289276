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
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Whose life bounds the tunnel's.
#[derive(Debug)]
pub struct Job {
    watched: Watched,
    witness: Option<Witness>,
    /// Looks that found nobody, one after another.
    misses: u32,
    looked: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Watched {
    /// Nothing: `--no-watch`, or the end of our PID namespace will do it.
    Nothing,
    /// One process.
    Process(Process),
    /// Every process of this session and user.
    Session { id: i32, uid: u32 },
}

/// A process by id and start time: ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    start: u64,
}

impl Process {
    fn runs(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start == self.start)
    }
}

#[derive(Debug)]
struct Witness {
    process: Process,
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

    /// Bound to one process (`--watch PID`).
    ///
    /// # Errors
    /// [`Code::Usage`] when there is no such process.
    pub fn of_process(pid: u32) -> Result<Job> {
        let stat = i32::try_from(pid).ok().and_then(Stat::read);
        let what = || format!("--watch {pid}: there is no such process on this node");
        let stat = stat.ok_or_else(|| Error::new(Code::Usage, what()))?;
        Ok(Job::new(Watched::Process(stat.process())))
    }

    /// Bound to the session that this process was started in. Where it is alone
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
        let watched = session_of_ours(own).or_else(|| {
            let stat = starter()?;
            let process = Some(Watched::Process(stat.process()));
            // Not just that process: it may be a shell that is passing by.
            match stat.session {
                0 => process,
                id => session_of_ours(id).or(process),
            }
        });
        watched.map(Job::new).ok_or_else(|| {
            Error::new(
                Code::Usage,
                "cannot tell which job this tunnel belongs to: licfwd is alone in its session and \
                 the process that started it has ended; name a process with --watch PID (in a job \
                 script: --watch $$), or use --no-watch",
            )
        })
    }

    /// Of the words that [`Job`]'s `Display` prints.
    pub fn parse(words: &str) -> Option<Job> {
        let mut words = words.split(' ');
        let watched = match words.next()? {
            "nothing" => Watched::Nothing,
            "process" => Watched::Process(Process {
                pid: words.next()?.parse().ok()?,
                start: words.next()?.parse().ok()?,
            }),
            "session" => Watched::Session {
                id: words.next()?.parse().ok()?,
                uid: words.next()?.parse().ok()?,
            },
            _ => return None,
        };
        Some(Job::new(watched))
    }

    fn new(watched: Watched) -> Job {
        Job { watched, witness: None, misses: 0, looked: Instant::now() }
    }

    /// The descriptor that becomes readable when it is time for [`Job::still_runs`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.witness.as_ref()?.fd.as_ref().map(AsFd::as_fd)
    }

    /// When to look without being woken by [`Job::fd`].
    pub fn next_look(&self) -> Option<Duration> {
        let span = match (&self.watched, &self.witness) {
            (Watched::Nothing, _) => return None,
            (_, Some(Witness { fd: Some(_), .. })) => return None,
            (_, Some(_)) => LOOK_WITHOUT_PIDFD,
            (_, None) => SECOND_LOOK,
        };
        Some(span.saturating_sub(self.looked.elapsed()))
    }

    /// Whether the job still runs; looks for a new witness where that is needed.
    pub fn still_runs(&mut self) -> bool {
        if self.watched == Watched::Nothing {
            return true;
        }
        self.looked = Instant::now();
        let witness = self.witness.as_ref();
        if !witness.is_some_and(|witness| witness.process.runs()) {
            // Found before the old one's descriptor is closed: its number tells that
            // it is another.
            self.witness = find_witness(&self.watched);
        }
        match self.witness {
            Some(_) => self.misses = 0,
            None => self.misses += 1,
        }
        self.misses < 2
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.watched {
            Watched::Nothing => write!(f, "nothing"),
            Watched::Process(Process { pid, start }) => write!(f, "process {pid} {start}"),
            Watched::Session { id, uid } => write!(f, "session {id} {uid}"),
        }
    }
}

/// The process that started this one, unless it has ended; for one that only
/// changes the user and then waits for us, the process that started that.
fn starter() -> Option<Stat> {
    let mut pid = std::os::unix::process::parent_id() as i32;
    loop {
        // 1 has taken over from somebody, 0 is outside our PID namespace.
        let stat = Stat::read(pid).filter(|_| pid > 1)?;
        if !matches!(stat.name.as_str(), "su" | "sudo" | "runuser") {
            return Some(stat);
        }
        pid = stat.parent;
    }
}

/// The process whose end is worth waking up for: the session's leader while it
/// lives, else the oldest one, which will most likely live longest.
fn find_witness(watched: &Watched) -> Option<Witness> {
    let process = match *watched {
        Watched::Nothing => return None,
        Watched::Process(process) => process,
        Watched::Session { id, uid } => {
            let leader = Stat::read(id).filter(|stat| stat.belongs_to(id, uid));
            leader.or_else(|| oldest_of(id, uid))?.process()
        }
    };
    let fd = match sys::test_hook("NO_PIDFD") {
        Some(_) => None,
        None => sys::pidfd_open(process.pid).ok(),
    };
    // The id may have passed to another process before the pidfd was open.
    process.runs().then_some(Witness { process, fd })
}

fn oldest_of(session: i32, uid: u32) -> Option<Stat> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    entries
        .filter_map(|entry| Stat::read(entry.file_name().to_str()?.parse().ok()?))
        .filter(|stat| stat.belongs_to(session, uid))
        .min_by_key(|stat| stat.start)
}

/// What /proc/PID/stat says of a process (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: i32,
    name: String,
    state: u8,
    parent: i32,
    session: i32,
    /// Clock ticks since boot.
    start: u64,
}

impl Stat {
    /// Of a process that is neither zombie nor dead.
    fn read(pid: i32) -> Option<Stat> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&String::from_utf8_lossy(&text)).filter(|stat| !b"ZXx".contains(&stat.state))
    }

    /// The name stands in parentheses and may itself hold anything, also `)`.
    fn parse(text: &str) -> Option<Stat> {
        let (head, tail) = text.rsplit_once(')')?;
        let mut fields = tail.split_ascii_whitespace();
        let (pid, name) = head.split_once('(')?;
        Some(Stat {
            pid: pid.trim().parse().ok()?,
            name: name.to_owned(),
            state: *fields.next()?.as_bytes().first()?,
            parent: fields.next()?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
            start: fields.nth(15)?.parse().ok()?,
        })
    }

    fn process(&self) -> Process {
        Process { pid: self.pid, start: self.start }
    }

    /// Whether it counts as the job's: this session's, this user's, and no licfwd
    /// (two tunnels of one job would keep each other alive).
    fn belongs_to(&self, session: i32, uid: u32) -> bool {
        self.session == session
            && self.name != "licfwd"
            && self.pid != std::process::id() as i32
            && fs::metadata(format!("/proc/{}", self.pid)).is_ok_and(|m| m.uid() == uid)
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
                pid: 77,
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

    /// What is printed is read again as the same job.
    #[test]
    fn in_words_and_back() {
        for watched in [
            Watched::Nothing,
            Watched::Process(Process { pid: 77, start: 123_456 }),
            Watched::Session { id: 70, uid: 1000 },
        ] {
            let words = Job::new(watched).to_string();
            assert_eq!(Job::parse(&words).expect(&words).to_string(), words);
        }
        for bad in ["", "process", "process 7", "session 7 x", "job"] {
            assert!(Job::parse(bad).is_none(), "{bad}");
        }
    }

    /// A watched process is alive until it has ended, also as a zombie that
    /// nobody has waited for yet.
    #[test]
    fn a_zombie_is_dead() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let mut job = Job::of_process(child.id()).expect("alive");
        assert!(job.still_runs());
        drop(child.stdin.take());
        // Readable pidfd: the process has ended, and is a zombie now.
        let fd = job.fd().expect("a kernel with pidfd").try_clone_to_owned();
        assert!(sys::poll_readable(fd.expect("dup"), Duration::from_secs(5)).expect("poll"));
        job.still_runs();
        assert!(!job.still_runs());
        child.wait().expect("wait");
        assert!(Job::of_process(child.id()).is_err());
    }
}
