//! One live session with the gateway: finishes each packet on the spot, opens
//! one channel at a time, and notices when the gateway falls silent.
//!
//! libssh2 holds one half-sent packet per session. Only the very call that
//! started it can finish it, with the same arguments and, where the packet lies
//! on the stack (`channel_send_eof`), from the same stack frame; until then
//! every other call answers EAGAIN. So no call ever leaves [`Link::finish`]
//! before its packet has left altogether.

use crate::auth::libssh2_error::{
    CHANNEL_FAILURE, CHANNEL_REQUEST_DENIED, EAGAIN, INVAL, SOCKET_DISCONNECT, SOCKET_RECV,
    SOCKET_SEND,
};
use crate::gateway::session::{Answer, Opened, Remote, Transport};
use crate::sys::{self, Epoll, Helper, Interest};
use crate::target::Destination;
use ssh2::{BlockDirections, Channel, Session};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An authenticated session and what it runs over.
pub struct Connection {
    /// The session, authenticated.
    pub session: Session,
    /// The socket that the session reads and writes: TCP to the gateway, or one
    /// end of a pair whose other end is a helper's stdin and stdout.
    pub socket: Arc<OwnedFd>,
    /// ProxyCommand's or ProxyJump's process.
    pub helper: Option<Helper>,
}

impl Connection {
    /// Opens a stream over libssh2 and closes it again, within `limit`.
    pub fn probe(&self, host: &str, port: u16, limit: Duration) -> Answer {
        match self.open(host, port, limit) {
            Ok(mut channel) => {
                let _ = channel.close();
                Answer::Yes
            }
            Err(e) => match e.code() {
                CHANNEL_FAILURE if e.message().contains("prohibited") => Answer::Forbidden,
                CHANNEL_FAILURE => {
                    Answer::No("connection refused, or its name is unknown there".into())
                }
                // libssh2 cannot take the question back.
                EAGAIN => Answer::Late { spent: true },
                _ => Answer::Lost(e.message().to_owned()),
            },
        }
    }

    /// `EAGAIN`: no answer within `limit`. Not left to libssh2's own waiting,
    /// because sshd holds the answer back until its greeting before it is
    /// acknowledged (Nagle), which the kernel puts off for 40 ms.
    fn open(&self, host: &str, port: u16, limit: Duration) -> Result<Channel, ssh2::Error> {
        let end = Instant::now() + limit;
        self.session.set_blocking(false);
        let opened = loop {
            let opened = self.session.channel_direct_tcpip(host, port, None);
            let left = end.saturating_duration_since(Instant::now());
            match &opened {
                Err(e) if e.code() == EAGAIN && !left.is_zero() => {}
                _ => break opened,
            }
            let write = self.session.block_directions() != BlockDirections::Inbound;
            let interest = Interest { read: true, write };
            sys::acknowledge(&self.socket);
            // An error shows in the next call.
            let _ = sys::wait_any([(self.socket.as_fd(), interest)], Some(left));
        };
        self.session.set_blocking(true);
        opened
    }
}

/// One live session, driven without blocking.
pub struct Link {
    core: Rc<Core>,
    /// When the gateway last sent anything.
    heard: Instant,
    /// A question that the gateway has not answered yet: only one channel can
    /// be asked for at a time.
    asking: Option<Question>,
    _helper: Option<Helper>,
}

#[derive(Clone, Debug, PartialEq)]
enum Question {
    Open(Destination),
    AreYouThere,
}

/// What a link shares with its streams.
struct Core {
    session: Session,
    socket: Arc<OwnedFd>,
    /// Readable when the daemon should look up from a stuck gateway: the job
    /// has ended, or a signal has come.
    urgent: Rc<Epoll>,
    /// How long a packet may take to leave.
    patience: Duration,
}

/// How long to go on with a packet that does not leave once something urgent waits.
const URGENT_PATIENCE: Duration = Duration::from_secs(2);

impl Core {
    /// Repeats a call until it has left no half-sent packet behind, waiting on
    /// the socket. What arrives meanwhile is read through `pump`, because a
    /// gateway that cannot write may stop reading.
    ///
    /// # Errors
    /// `WouldBlock`: nothing half done, try when the gateway has spoken. Any
    /// other: the connection is lost.
    fn finish<T>(
        &self,
        mut pump: Option<Channel>,
        call: &mut dyn FnMut() -> Result<T, ssh2::Error>,
    ) -> io::Result<T> {
        let mut since = None;
        let error = loop {
            match call() {
                Ok(value) => return Ok(value),
                Err(e) if e.code() != EAGAIN => break lost(&e),
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
        // The grave takes everything: makes libssh2 let go of the packet.
        let _grave = self.bury();
        let _ = call();
        Err(error)
    }

    fn packet_in_flight(&self) -> bool {
        matches!(
            self.session.block_directions(),
            BlockDirections::Outbound | BlockDirections::Both
        )
    }

    fn wait_for_room(&self, since: Instant, read: bool) -> io::Result<()> {
        let room = (self.socket.as_fd(), Interest { read, write: true });
        let event = (
            self.urgent.as_fd(),
            Interest {
                read: true,
                write: false,
            },
        );
        let left = |patience: Duration| Some(patience.saturating_sub(since.elapsed()));
        let [ready, urgent] = sys::wait_any([room, event], left(self.patience))?;
        let ready = ready
            || (urgent && sys::wait_any([room], left(URGENT_PATIENCE.min(self.patience)))?[0]);
        if ready {
            Ok(())
        } else {
            Err(io::Error::new(
                ErrorKind::TimedOut,
                "the gateway takes no more data",
            ))
        }
    }

    /// Puts a dead end in the place of the socket: reads find the end, and sends
    /// vanish while the returned half lives, then fail. libssh2 frees a session
    /// only after it has said goodbye to every channel; on a socket that takes
    /// nothing it would answer EAGAIN, and ssh2 would leak the session.
    fn bury(&self) -> Option<UnixStream> {
        let (dead, end) = UnixStream::pair().ok()?;
        dead.set_nonblocking(true).ok()?;
        end.shutdown(Shutdown::Write).ok()?;
        sys::replace(&dead, &self.socket).ok()?;
        Some(end)
    }
}

/// Any error but EAGAIN ends the session: tells which it was.
fn lost(e: &ssh2::Error) -> io::Error {
    let what = match e.code() {
        SOCKET_RECV | SOCKET_DISCONNECT => "the gateway closed the connection",
        SOCKET_SEND => "the connection to the gateway broke",
        _ => e.message(),
    };
    io::Error::new(ErrorKind::ConnectionReset, what.to_owned())
}

/// Reads everything that has arrived for any channel, through one of them, and
/// sends nothing. `None`: this channel has ended and reads no more.
fn read_dry(channel: &Channel) -> Option<Result<(), ssh2::Error>> {
    let mut channel = channel.clone();
    let outcome = channel.wait_eof().and_then(|()| channel.wait_close());
    match outcome {
        Ok(()) => None,
        Err(e) if e.code() == EAGAIN => Some(Ok(())),
        Err(e) => Some(Err(e)),
    }
}

impl Link {
    /// Takes over an authenticated session. `urgent` becomes readable when the
    /// daemon has something better to do than to wait for a stuck gateway;
    /// `patience` is how long a packet may take to leave.
    pub fn new(connection: Connection, urgent: Rc<Epoll>, patience: Duration) -> Link {
        connection.session.set_blocking(false);
        Link {
            core: Rc::new(Core {
                session: connection.session,
                socket: connection.socket,
                urgent,
                patience,
            }),
            heard: Instant::now(),
            asking: None,
            _helper: connection.helper,
        }
    }
}

impl Transport for Link {
    fn socket(&self) -> BorrowedFd<'_> {
        self.core.socket.as_fd()
    }

    fn silence(&self) -> Option<Duration> {
        Some(self.heard.elapsed())
    }

    fn has_spoken(&mut self) -> io::Result<()> {
        self.heard = Instant::now();
        Ok(())
    }

    fn is_free(&self) -> bool {
        self.asking.is_none()
    }

    fn ask(&mut self, destination: Destination) {
        debug_assert!(self.is_free());
        self.asking = Some(Question::Open(destination));
    }

    /// Asks for a channel of a type that no server knows. The refusal proves
    /// that the gateway's sshd lives (its kernel alone would acknowledge a
    /// packet for a stopped process), and libssh2 forgets it at once, whereas
    /// it keeps the replies to keepalive requests for ever.
    fn ask_for_life(&mut self) {
        debug_assert!(self.is_free());
        self.asking = Some(Question::AreYouThere);
    }

    fn answer(&mut self, _: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>> {
        let Some(question) = self.asking.clone() else {
            return Ok(None);
        };
        let session = &self.core.session;
        let mut refused = None;
        let outcome = self.core.finish(None, &mut || {
            let opened = match &question {
                Question::Open(Destination::Tcp { host, port }) => {
                    session.channel_direct_tcpip(host, *port, None)
                }
                Question::Open(Destination::Unix(path)) => {
                    session.channel_direct_streamlocal(path, None)
                }
                Question::AreYouThere => session.channel_open("are-you-there@licfwd", 0, 1, None),
            };
            match opened {
                Ok(channel) => Ok(Some(channel)),
                Err(e) if e.code() == CHANNEL_FAILURE => {
                    refused = Some(e);
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        });
        match outcome {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
            // The answer may have come before the socket could tell of it.
            Ok(_) => self.has_spoken()?,
        }
        self.asking = None;
        if question == Question::AreYouThere {
            return Ok(None);
        }
        Ok(match (outcome?, refused) {
            (Some(channel), _) => Some(Opened::Stream(Box::new(Stream {
                channel,
                core: Rc::clone(&self.core),
                asking: false,
            }))),
            (None, Some(e)) => Some(Opened::Refused(e.message().to_owned())),
            (None, None) => None,
        })
    }
}

/// A link goes before its streams, whose channels then free themselves at once.
impl Drop for Link {
    fn drop(&mut self) {
        drop(self.core.bury());
    }
}

/// One channel of a link: a stream to a license server.
pub struct Stream {
    channel: Channel,
    core: Rc<Core>,
    /// The gateway owes this stream an answer to [`Stream::ask_for_life`].
    asking: bool,
}

impl Remote for Stream {
    fn available(&self) -> usize {
        self.channel.read_window().available as usize
    }

    fn at_end(&self) -> bool {
        self.channel.eof()
    }

    fn room(&self) -> usize {
        self.channel.write_window().remaining as usize
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let pump = self.channel.clone();
        let channel = &mut self.channel;
        let result = self.core.finish(Some(pump), &mut || {
            channel.read(buffer).map_err(|e| to_ssh2(&e))
        });
        if result.is_ok() && channel.eof() && self.core.packet_in_flight() {
            // ssh2 answers 0 at the end of file without asking libssh2, which
            // may still hold half of the window adjustment that the read began.
            self.core.finish(None, &mut || {
                channel.adjust_receive_window(0, true).map(drop)
            })?;
        }
        result
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let pump = self.channel.clone();
        let channel = &mut self.channel;
        self.core.finish(Some(pump), &mut || {
            channel.write(bytes).map_err(|e| to_ssh2(&e))
        })
    }

    fn send_eof(&mut self) -> io::Result<()> {
        let pump = self.channel.clone();
        let channel = &mut self.channel;
        self.core.finish(Some(pump), &mut || channel.send_eof())
    }

    fn hung_up(&mut self) -> io::Result<bool> {
        match self.channel.wait_close() {
            Ok(()) => Ok(true),
            Err(e) if e.code() == EAGAIN => Ok(false),
            // Not even at end of file.
            Err(e) if e.code() == INVAL => Ok(false),
            Err(e) => Err(lost(&e)),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        let pump = self.channel.clone();
        let channel = &mut self.channel;
        self.core.finish(Some(pump), &mut || channel.close())
    }

    fn read_dry(&self) -> io::Result<bool> {
        self.core
            .finish(None, &mut || match read_dry(&self.channel) {
                None => Ok(false),
                // A reply to the gateway's own request may be on its way out.
                Some(Ok(())) if self.core.packet_in_flight() => {
                    Err(ssh2::Error::from_errno(EAGAIN))
                }
                Some(outcome) => outcome.map(|()| true),
            })
    }

    /// A request that a forwarded connection cannot grant, so that sshd has to
    /// refuse it, also while the link waits for another answer.
    fn ask_for_life(&mut self) -> io::Result<()> {
        let channel = &mut self.channel;
        let answer = self
            .core
            .finish(None, &mut || match channel.setenv("ARE_YOU_THERE", "") {
                Err(e) if e.code() == CHANNEL_REQUEST_DENIED => Ok(()),
                answer => answer,
            });
        self.asking = match answer {
            Ok(()) => false,
            Err(e) if e.kind() == ErrorKind::WouldBlock => true,
            Err(e) => return Err(e),
        };
        Ok(())
    }

    fn is_asking(&self) -> bool {
        self.asking
    }
}

/// ssh2 turns its own errors into `io::Error` in `Read` and `Write`, where only
/// kind and text survive: turns them back as far as [`Core::finish`] needs it.
fn to_ssh2(e: &io::Error) -> ssh2::Error {
    ssh2::Error::from_errno(match e.kind() {
        ErrorKind::WouldBlock => EAGAIN,
        _ => SOCKET_RECV,
    })
}
