//! Talks to ssh-agent.
//!
//! The list of keys is asked for here, with a time-out: libssh2's own agent
//! socket has none, and an agent forwarded over a dead connection never answers.

use super::public_key::take_string;
use crate::config::LoginSettings;
use crate::log::Log;
use crate::sys::{self, Interest};
use ssh2::Session;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an agent may take to list its keys. A signature has no limit,
/// because the agent may ask its owner first.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer accepted, in bytes (`authfd.c`, MAX_AGENT_REPLY_LEN).
const MAX_REPLY_BYTES: usize = 256 * 1024;

/// A key or certificate that an agent holds.
#[derive(Clone)]
pub struct AgentKey {
    /// The public key or certificate.
    pub blob: Vec<u8>,
    /// The agent's name for it.
    pub comment: String,
}

/// A connection to an agent that answers.
pub struct Agent {
    inner: ssh2::Agent,
    /// What it holds, in its order.
    pub keys: Vec<AgentKey>,
    // Dropped after libssh2's end of it.
    _relay: Relay,
}

/// The agent, if there is one that answers; a flaw of the credentials, if there is one
/// that does not. SSH_AUTH_SOCK often comes along from another machine, so that a
/// missing socket is no news. Each socket that is waited for is told to `cuttable`.
pub fn open_agent(
    session: &Session,
    login: &LoginSettings,
    cuttable: &dyn Fn(BorrowedFd<'_>) -> io::Result<()>,
    log: &Log,
) -> Result<Option<Agent>, String> {
    let Some(path) = login.identity_agent.as_ref().filter(|_| login.pubkey) else {
        return Ok(None);
    };
    Agent::open(session, path, cuttable).map(Some).map_err(|e| {
        let why = format!("agent {}: {e}", path.display());
        match path.exists() {
            true => log.note(&why),
            false => log.detail(&why),
        }
        why
    })
}

impl Agent {
    /// Connects to the agent behind the socket `path`. What is waited for is told
    /// to `cuttable`.
    ///
    /// # Errors
    /// Those of the socket; TimedOut and InvalidData for an agent that hangs or
    /// answers nonsense.
    fn open(
        session: &Session,
        path: &Path,
        cuttable: &dyn Fn(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<Agent> {
        let mut socket = connect(path)?;
        cuttable(socket.as_fd())?;
        let keys = list(&mut socket)?;
        let mut inner = session.agent()?;
        let meeting = Meeting::new()?;
        inner.set_identity_path(&meeting.name())?;
        inner.connect()?;
        let relay = Relay::start(meeting.listener.accept()?.0, socket)?;
        cuttable(relay.libssh2.as_fd())?;
        inner.list_identities()?;
        Ok(Agent { inner, keys, _relay: relay })
    }

    /// Logs `user` in with the key `blob`.
    ///
    /// # Errors
    /// libssh2's own.
    pub fn login(&self, user: &str, blob: &[u8]) -> Result<(), ssh2::Error> {
        let keys = self.inner.identities()?;
        match keys.iter().find(|key| key.blob() == blob) {
            Some(key) => self.inner.userauth(user, key),
            None => Err(ssh2::Error::unknown()),
        }
    }
}

/// Waits no longer for an agent with a full queue than for its answer.
fn connect(path: &Path) -> io::Result<UnixStream> {
    const RETRY: Duration = Duration::from_millis(50);
    let path = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let begin = Instant::now();
    loop {
        match sys::connect_unix(path) {
            Ok(socket) => {
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(LIST_TIMEOUT))?;
                socket.set_write_timeout(Some(LIST_TIMEOUT))?;
                return Ok(socket);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < LIST_TIMEOUT => {
                sys::wait_any([], Some(RETRY))?;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its queue is full"));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Where libssh2 finds us instead of the agent: its own client waits for ever, and
/// nobody else knows its socket. The socket's file is gone at once; its descriptor
/// is a name that leaves nothing behind.
struct Meeting {
    listener: UnixListener,
    file: File,
}

impl Meeting {
    /// Nobody else may put a socket of their own in its place before it has its name.
    fn new() -> io::Result<Meeting> {
        sys::in_safe_base(Meeting::in_base)
    }

    fn in_base(base: &Path) -> io::Result<Meeting> {
        let path = base.join(format!("licfwd-agent-{:016x}", rand::random::<u64>()));
        // The umask lets nobody else connect.
        let listener = UnixListener::bind(&path)?;
        let file = File::options().read(true).custom_flags(sys::PATH_ONLY).open(&path);
        let removed = std::fs::remove_file(&path);
        let file = file?;
        removed.map(|()| Meeting { listener, file })
    }

    fn name(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Carries libssh2's questions to the agent and the answers back, in a thread, until
/// one of them ends, or is cut off.
struct Relay {
    libssh2: UnixStream,
    agent: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(libssh2: UnixStream, agent: UnixStream) -> io::Result<Relay> {
        agent.set_read_timeout(None)?;
        let (mut near, mut far) = (libssh2.try_clone()?, agent.try_clone()?);
        let thread = thread::Builder::new().name("agent".into()).spawn(move || {
            let _ = relay(&mut near, &mut far);
            let _ = near.shutdown(Shutdown::Both);
        })?;
        Ok(Relay { libssh2, agent, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for socket in [&self.libssh2, &self.agent] {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // The process may fork when nobody but its own thread is left.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn relay(near: &mut UnixStream, far: &mut UnixStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let fds = [(near.as_fd(), Interest::READ), (far.as_fd(), Interest::READ)];
        let [asked, answered] = sys::wait_any(fds, None)?;
        for (ready, from, to) in [(asked, &*near, &*far), (answered, &*far, &*near)] {
            if ready {
                let (mut from, mut to) = (from, to);
                match from.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => to.write_all(&buffer[..count])?,
                }
            }
        }
    }
}

/// SSH_AGENTC_REQUEST_IDENTITIES and its answer (draft-ietf-sshm-ssh-agent).
fn list(agent: &mut (impl Read + Write)) -> io::Result<Vec<AgentKey>> {
    let in_time = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock => {
            let text = format!("no answer within {} s", LIST_TIMEOUT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        _ => e,
    };
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "unexpected answer");
    agent.write_all(&[0, 0, 0, 1, 11]).map_err(in_time)?;
    let mut length = [0; 4];
    agent.read_exact(&mut length).map_err(in_time)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_REPLY_BYTES {
        return Err(nonsense());
    }
    let mut answer = vec![0; length];
    agent.read_exact(&mut answer).map_err(in_time)?;
    parse(&answer).ok_or_else(nonsense)
}

/// SSH_AGENT_IDENTITIES_ANSWER: a count, then pairs of key and comment.
fn parse(answer: &[u8]) -> Option<Vec<AgentKey>> {
    let (count, mut rest) = answer.strip_prefix(&[12])?.split_first_chunk()?;
    let mut found = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let blob = take_string(&mut rest)?.to_vec();
        let comment = String::from_utf8_lossy(take_string(&mut rest)?).into_owned();
        found.push(AgentKey { blob, comment });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: questions and answers go through, and whoever waits on one side learns of
    /// the other's end, or that both are cut off.
    #[test]
    fn a_relay_lives_as_long_as_both_sides() {
        let relay = || {
            let ((ours, near), (far, theirs)) =
                (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
            (ours, Relay::start(near, far).unwrap(), theirs)
        };
        let carries = |mut from: &UnixStream, mut to: &UnixStream| {
            from.write_all(b"words").unwrap();
            let mut got = [0; 5];
            to.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"words");
        };
        let is_over = |mut side: &UnixStream| assert_eq!(side.read(&mut [0]).unwrap(), 0);
        let (ours, _relay, theirs) = relay();
        carries(&ours, &theirs);
        carries(&theirs, &ours);
        drop(theirs);
        is_over(&ours);
        let (ours, relay, theirs) = relay();
        drop(relay);
        is_over(&ours);
        is_over(&theirs);
    }

    /// Goal: a socket of libssh2's leads to us and leaves no file behind.
    #[test]
    fn a_meeting_leaves_nothing_behind() {
        let base = std::env::temp_dir();
        let meeting = Meeting::in_base(&base).unwrap();
        let address = meeting.listener.local_addr().unwrap();
        assert!(!address.as_pathname().unwrap().exists());
        let mut one = UnixStream::connect(meeting.name()).unwrap();
        let (mut other, _) = meeting.listener.accept().unwrap();
        one.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn answers_are_parsed_or_refused() {
        let two = [
            &[12, 0, 0, 0, 2][..],
            &[0, 0, 0, 1, b'a', 0, 0, 0, 2, b'm', b'e'],
            &[0, 0, 0, 1, b'b', 0, 0, 0, 0],
        ]
        .concat();
        let found = parse(&two).unwrap();
        assert_eq!((found.len(), found[0].comment.as_str()), (2, "me"));
        assert_eq!(found[1].blob, b"b");
        assert_eq!(parse(&[12, 0, 0, 0, 0]).map(|k| k.len()), Some(0));
        for bad in [&two[..two.len() - 3], &[], &[5], &[12, 0], &[12, 255, 255, 255, 255]] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
