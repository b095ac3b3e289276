//! Talks to ssh-agent.
//!
//! The list of keys is asked for here, with a time-out: libssh2's own agent
//! socket has none, and an agent forwarded over a dead connection never answers.

use super::public_key::take_string;
use ssh2::Session;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

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
}

impl Agent {
    /// Connects to the agent behind the socket `path`.
    ///
    /// # Errors
    /// Those of the socket; TimedOut and InvalidData for an agent that hangs or
    /// answers nonsense.
    pub fn open(session: &Session, path: &Path) -> io::Result<Agent> {
        let mut socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(LIST_TIMEOUT))?;
        socket.set_write_timeout(Some(LIST_TIMEOUT))?;
        let keys = list(&mut socket)?;
        let mut inner = session.agent()?;
        inner.set_identity_path(path)?;
        inner.connect()?;
        inner.list_identities()?;
        Ok(Agent { inner, keys })
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
