//! One live session of the user's own ssh.
//!
//! ```text
//! client ------------------- ssh -M -- gateway -- license server
//! client -- licfwd -- a pair of sockets -- ssh -M -- gateway -- license server
//! client -- licfwd -- DIR/n -- ssh -M -- gateway -- -L number n
//! ```
//! ssh logs in as it would for its user, in whatever way that is, and never
//! asks. Ports, owner check, retries and announcement stay licfwd's own; then
//! ssh gets the socket of a license server's client ([`super::mux`]). Channels
//! that it opens so are at their end when the server has ended its output, as
//! those of `ssh -W`. Where the bytes have to be read ([`CarriedBy::Us`]), ssh gets one
//! end of a pair of sockets instead ([`super::relayed`]). For `-L`, behind which may be any program, it listens on
//! sockets of its own, and licfwd carries the bytes there.

use super::control_dir::ControlDir;
use super::forward_socket::ForwardSocket;
use super::mux::{HandedClient, Sentinel};
use super::open_failures::OpenFailures;
use super::output::Output;
use super::relayed::RelayedClient;
use crate::error::cause;
use crate::gateway::helper_stderr::HelperStderr;
use crate::gateway::{CarriedBy, Opened, Session};
use crate::log::Log;
use crate::sys::{self, Epoll, Helper, errno};
use crate::target::Destination;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait before connecting again where ssh's queue of connections is
/// full (64, of which a turn of ssh's takes one), and when to give up.
const CONNECT_INTERVAL: Duration = Duration::from_millis(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Descriptors that ssh needs for a client that it has, and how many it has to keep
/// for itself and for those who have just come.
const DESCRIPTORS_PER_CLIENT: u64 = 3;
const RESERVED: u64 = 16;
/// The same of this process: a client's socket, the way to ssh and, where the bytes are
/// read, one end of a pair; and what it needs with a further ssh that is being started.
const OWN_PER_CLIENT: u64 = 3;
const OWN_RESERVED: u64 = 24;

/// A logged-in ssh, its sockets, and who keeps it.
pub struct OpensshSession {
    output: Output,
    /// Where the socket with that number leads.
    forwards: Vec<Destination>,
    /// The daemon's: before that nobody's bytes go through it, only questions.
    serving: bool,
    /// What a client waits for.
    asked: Option<Asked>,
    open_failures: OpenFailures,
    /// Held by every channel of a client that ssh has, too: so it counts them.
    sentinel: Arc<Sentinel>,
    /// How many descriptors each process may have.
    descriptors: u64,
    log: Arc<Log>,
    // Dropped in this order: who keeps the directory, then the directory.
    _keeper: Helper,
    dir: ControlDir,
}

/// A client waits for a channel.
struct Asked {
    to: Destination,
    by: CarriedBy,
    since: Instant,
    /// When to connect to ssh's socket again.
    again: Instant,
}

impl OpensshSession {
    /// Takes over an ssh that is logged in, and listens for `forwards`.
    pub fn new(
        output: Output,
        forwards: Vec<Destination>,
        sentinel: Sentinel,
        keeper: Helper,
        dir: ControlDir,
        log: &Arc<Log>,
    ) -> OpensshSession {
        OpensshSession {
            output,
            forwards,
            serving: false,
            asked: None,
            open_failures: OpenFailures::default(),
            sentinel: Arc::new(sentinel),
            descriptors: sys::raise_descriptor_limit(),
            log: Arc::clone(log),
            _keeper: keeper,
            dir,
        }
    }

    fn connect(&self, asked: &Asked, client: BorrowedFd<'_>) -> io::Result<Opened> {
        // Its own socket would say yes whatever the license server says.
        let may = self.serving && asked.by == CarriedBy::Anybody;
        let forward = self.forwards.iter().position(|known| may && *known == asked.to);
        let (ssh, sentinel) = (&self.dir.socket(), &self.sentinel);
        match (forward, &asked.to) {
            (None, Destination::Tcp { host, port }) => match asked.by {
                CarriedBy::Anybody => {
                    let client = HandedClient::over(ssh, sentinel, (host, *port), client)?;
                    Ok(Opened::HandedOver(Box::new(client)))
                }
                CarriedBy::Us => {
                    let (ours, theirs) = UnixStream::pair()?;
                    ours.set_nonblocking(true)?;
                    let client = HandedClient::over(ssh, sentinel, (host, *port), theirs.as_fd())?;
                    Ok(Opened::Channel(Box::new(RelayedClient::new(ours, client))))
                }
            },
            (None, Destination::Unix(_) | Destination::Web(_)) => Err(ErrorKind::NotFound.into()),
            (Some(n), _) => {
                let socket = sys::connect_own(&self.dir.file(&n.to_string()))?;
                Ok(Opened::Channel(Box::new(ForwardSocket::new(socket))))
            }
        }
    }
}

impl Session for OpensshSession {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn serve(&mut self, _: &Arc<Epoll>, _: Duration) {
        self.serving = true;
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    fn helper_stderr(&self) -> Option<Arc<HelperStderr>> {
        Some(Arc::clone(self.output.stderr()))
    }

    fn has_spoken(&mut self) -> io::Result<()> {
        match self.output.read_on() {
            Ok(Some(said)) => {
                self.open_failures.add(self.output.open_failures());
                self.log.detail(format_args!("ssh: {said}"))
            }
            Ok(None) => {}
            Err(_) => {
                let why = format!("ssh: {}", self.output.why_it_ended());
                return Err(io::Error::new(ErrorKind::ConnectionReset, why));
            }
        }
        Ok(())
    }

    fn is_free(&self) -> bool {
        // One of the sentinel's holders is this session itself.
        let clients = Arc::strong_count(&self.sentinel) - 1;
        let most = self.descriptors.saturating_sub(RESERVED) / DESCRIPTORS_PER_CLIENT;
        self.asked.is_none() && clients < most.max(1) as usize
    }

    fn max_clients(&self) -> usize {
        let most = self.descriptors.saturating_sub(OWN_RESERVED) / OWN_PER_CLIENT;
        most.max(1) as usize
    }

    fn open(&mut self, destination: Destination, by: CarriedBy) {
        // What it says next is about this question.
        if !self.serving && self.output.read().is_ok() {
            self.output.stderr().forget();
        }
        let now = Instant::now();
        self.asked = Some(Asked { to: destination, by, since: now, again: now });
    }

    /// What comes of it is told in the channel.
    fn answers_at_once(&self) -> bool {
        true
    }

    fn opened(&mut self, client: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>> {
        let (Some(mut asked), Some(client)) = (self.asked.take(), client) else {
            return Ok(None);
        };
        let error = match self.connect(&asked, client) {
            Ok(opened) => return Ok(Some(opened)),
            Err(e) => e,
        };
        // Nobody leaves before the tunnel serves, so it would not pass.
        if !self.serving && errno::out_of_something(&error) {
            return Err(error);
        }
        let why = format!("ssh's socket: {}", cause(&error));
        // Its queue is full, or somebody is out of descriptors: that passes.
        let passing = error.kind() == ErrorKind::WouldBlock || errno::out_of_something(&error);
        if !passing {
            // Where ssh has ended, its own words say more.
            let why = match self.output.read() {
                Ok(()) => why,
                Err(_) => format!("ssh: {}", self.output.why_it_ended()),
            };
            Err(io::Error::new(ErrorKind::ConnectionReset, why))
        } else if asked.since.elapsed() > CONNECT_LIMIT {
            Ok(Some(Opened::Refused(why)))
        } else {
            asked.again = Instant::now() + CONNECT_INTERVAL;
            self.asked = Some(asked);
            Ok(None)
        }
    }

    fn why_refused(&mut self) -> io::Result<String> {
        // It is said before the channel is closed. Where ssh has ended altogether, it may
        // tell so a little later.
        if !self.serving {
            // What has been read since the question, by whoever waited for the answer.
            let _ = self.output.read();
            self.open_failures.add(self.output.open_failures());
        } else {
            self.has_spoken()?;
        }
        match self.open_failures.tell() {
            Some(why) => Ok(why),
            None => Err(io::Error::other(self.output.why_it_ended())),
        }
    }

    fn due(&self) -> Option<Duration> {
        let asked = self.asked.as_ref()?;
        Some(asked.again.saturating_duration_since(Instant::now()))
    }
}
