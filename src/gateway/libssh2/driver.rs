//! Drives libssh2 without blocking: finishes each packet on the spot.
//!
//! libssh2 holds one half-sent packet per session. Only the very call that
//! started it can finish it, with the same arguments and, where the packet lies
//! on the stack (`channel_send_eof`), from the same stack frame; until then
//! every other call answers EAGAIN. So no call ever leaves [`Driver::finish`]
//! before its packet has left altogether.

use crate::auth::libssh2_error::{EAGAIN, SOCKET_DISCONNECT, SOCKET_RECV, SOCKET_SEND};
use crate::gateway::helper_stderr::HelperStderr;
use crate::gateway::ssh_stderr::summary;
use crate::sys::{self, Epoll, Interest};
use ssh2::{BlockDirections, Channel};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long to go on with a packet that does not leave once something urgent waits.
const URGENT_PACKET_LIMIT: Duration = Duration::from_secs(2);

/// What a session shares with its channels.
pub struct Driver {
    /// The session, authenticated, not blocking.
    pub session: ssh2::Session,
    /// What it runs over: TCP to the gateway, or one end of a pair whose other end is a
    /// helper's stdin and stdout.
    pub socket: Arc<OwnedFd>,
    /// What that helper says.
    pub helper_stderr: Option<Arc<HelperStderr>>,
    /// How long a packet may take to leave until a daemon says otherwise.
    packet_limit: Duration,
    daemon: OnceLock<Daemon>,
    /// The last packet had to wait for room in the socket.
    congested: AtomicBool,
}

/// What the daemon adds.
struct Daemon {
    /// Readable when it should look up from a stuck gateway: the job has ended, or a
    /// signal has come.
    urgent: Arc<Epoll>,
    packet_limit: Duration,
}

impl Driver {
    /// Drives `session`, authenticated, over `socket`.
    pub fn new(
        session: ssh2::Session,
        socket: Arc<OwnedFd>,
        helper_stderr: Option<Arc<HelperStderr>>,
        packet_limit: Duration,
    ) -> Driver {
        let (daemon, congested) = (OnceLock::new(), AtomicBool::new(false));
        Driver { session, socket, helper_stderr, packet_limit, daemon, congested }
    }

    /// From now on for a daemon.
    pub fn serve(&self, urgent: Arc<Epoll>, packet_limit: Duration) {
        let daemon = Daemon { urgent, packet_limit };
        let _ = self.daemon.set(daemon);
    }

    /// Repeats a call until it has left no half-sent packet behind, waiting on
    /// the socket. What arrives meanwhile is read through `pump`, because a
    /// gateway that cannot write may stop reading.
    ///
    /// # Errors
    /// `WouldBlock`: nothing half done, try when the gateway has spoken. Any
    /// other: the session is lost.
    pub fn finish<T>(
        &self,
        mut pump: Option<Channel>,
        call: &mut dyn FnMut() -> Result<T, ssh2::Error>,
    ) -> io::Result<T> {
        let mut since = None;
        let error = loop {
            match call() {
                Ok(value) => {
                    self.congested.store(since.is_some(), Ordering::Relaxed);
                    return Ok(value);
                }
                Err(e) if e.code() != EAGAIN => break self.lost(&e),
                Err(_) if !self.packet_in_flight() => return Err(ErrorKind::WouldBlock.into()),
                Err(_) => {}
            }
            let since = *since.get_or_insert_with(Instant::now);
            if let Err(e) = self.wait_for_room(since, pump.is_some()) {
                break e;
            }
            // A channel that has ended reads no more.
            pump = pump.filter(|channel| matches!(read_dry(channel), Some(Ok(()))));
        };
        // The dead end takes everything: makes libssh2 let go of the packet.
        let _open = self.replace_by_dead_end();
        let _ = call();
        Err(error)
    }

    /// Whether the last packet had to wait for room: the gateway takes them more slowly
    /// than they come.
    pub fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }

    /// Whether half a packet waits to be sent.
    pub fn packet_in_flight(&self) -> bool {
        matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }

    fn wait_for_room(&self, since: Instant, read: bool) -> io::Result<()> {
        let room = (self.socket.as_fd(), Interest { read, write: true });
        let left = |limit: Duration| Some(limit.saturating_sub(since.elapsed()));
        let ready = match self.daemon.get() {
            None => sys::wait_any([room], left(self.packet_limit))?[0],
            Some(daemon) => {
                let event = (daemon.urgent.as_fd(), Interest::READ);
                let limit = daemon.packet_limit;
                let [ready, urgent] = sys::wait_any([room, event], left(limit))?;
                let limit = limit.min(URGENT_PACKET_LIMIT);
                ready || (urgent && sys::wait_any([room], left(limit))?[0])
            }
        };
        ready
            .then_some(())
            .ok_or_else(|| io::Error::new(ErrorKind::TimedOut, "the gateway takes no more data"))
    }

    /// Reads everything that has arrived for any channel, through this one;
    /// false when it has ended and cannot.
    ///
    /// # Errors
    /// The session is lost.
    pub fn read_through(&self, channel: &Channel) -> io::Result<bool> {
        self.finish(None, &mut || match read_dry(channel) {
            None => Ok(false),
            // A reply to the gateway's own request may be on its way out.
            Some(Ok(())) if self.packet_in_flight() => Err(ssh2::Error::from_errno(EAGAIN)),
            Some(outcome) => outcome.map(|()| true),
        })
    }

    /// Any error but EAGAIN ends the session: tells which it was, and what the helper
    /// said, which has probably caused it.
    pub fn lost(&self, e: &ssh2::Error) -> io::Error {
        let what = match e.code() {
            SOCKET_RECV | SOCKET_DISCONNECT => "the gateway closed the connection",
            SOCKET_SEND => "the connection to the gateway broke",
            _ => e.message(),
        };
        let said = self.helper_stderr.as_ref().map(|stderr| summary(&stderr.text()));
        let said =
            said.filter(|said| !said.is_empty()).map(|said| format!("; the proxy said: {said}"));
        io::Error::new(ErrorKind::ConnectionReset, what.to_owned() + &said.unwrap_or_default())
    }

    /// Puts a dead end in the place of the socket: reads find the end, and sends
    /// vanish while the returned half lives, then fail. libssh2 frees a session
    /// only after it has said goodbye to every channel; on a socket that takes
    /// nothing it would answer EAGAIN, and ssh2 would leak the session.
    pub fn replace_by_dead_end(&self) -> Option<UnixStream> {
        let (dead, end) = UnixStream::pair().ok()?;
        dead.set_nonblocking(true).ok()?;
        end.shutdown(Shutdown::Write).ok()?;
        sys::replace(&dead, &self.socket).ok()?;
        Some(end)
    }
}

/// Reads what has arrived and sends nothing: `wait_eof` and `wait_close` of
/// libssh2 read the socket until it is empty. `None`: this channel has ended
/// and reads no more.
fn read_dry(channel: &Channel) -> Option<Result<(), ssh2::Error>> {
    let mut channel = channel.clone();
    let outcome = channel.wait_eof().and_then(|()| channel.wait_close());
    match outcome {
        Ok(()) => None,
        Err(e) if e.code() == EAGAIN => Some(Ok(())),
        Err(e) => Some(Err(e)),
    }
}
