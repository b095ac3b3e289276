//! One live session of libssh2: opens one channel at a time, and notices when
//! the gateway falls silent.

use super::channel::{Libssh2Channel, State};
use super::driver::Driver;
use crate::auth::libssh2_error::{CHANNEL_FAILURE, CHANNEL_REQUEST_DENIED};
use crate::gateway::helper_stderr::HelperStderr;
use crate::gateway::{CarriedBy, Opened, Session};
use crate::sys::{Epoll, Helper};
use crate::target::Destination;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// One live session, driven without blocking.
pub struct Libssh2Session {
    driver: Arc<Driver>,
    /// When the gateway last sent anything.
    heard: Instant,
    /// When it was asked for a sign of life, and has sent nothing since.
    unanswered: Option<Instant>,
    /// Somebody has to read that.
    unread: bool,
    /// What the gateway has not answered yet: only one channel can be asked for
    /// at a time, and libssh2 cannot take the question back.
    asked: Option<Asked>,
    /// The channel that the gateway owes an answer to [`ask_through`].
    asked_through: Weak<State>,
    /// Each channel that lives, also while it is being closed.
    channels: Vec<Weak<State>>,
    /// A gateway that grants what no server knows: there we can read and ask.
    granted: Option<Libssh2Channel>,
    /// When [`Session::has_spoken`] last had to ask in order to read.
    asked_to_read: Option<Instant>,
    _helper: Option<Helper>,
}

#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Channel(Destination),
    AreYouThere,
}

impl Libssh2Session {
    /// Takes over an authenticated session, and `helper`, ProxyCommand's or ProxyJump's
    /// process, which may carry it.
    pub fn new(driver: Driver, helper: Option<Helper>) -> Libssh2Session {
        driver.session.set_blocking(false);
        Libssh2Session {
            driver: Arc::new(driver),
            heard: Instant::now(),
            unanswered: None,
            unread: false,
            asked: None,
            asked_through: Weak::new(),
            channels: Vec::new(),
            granted: None,
            asked_to_read: None,
            _helper: helper,
        }
    }

    /// The gateway has sent something.
    fn hear(&mut self) {
        self.heard = Instant::now();
        self.unanswered = None;
    }

    /// Channels that are not being closed.
    fn in_use(&self) -> impl Iterator<Item = Arc<State>> {
        let live = self.channels.iter().filter_map(Weak::upgrade);
        live.filter(|state| !state.is_closing())
    }

    fn is_closing_one(&self) -> bool {
        let mut live = self.channels.iter().filter_map(Weak::upgrade);
        live.any(|state| state.is_closing())
    }

    /// Reads everything that has arrived, through the first channel that can;
    /// false when none can.
    fn read_dry(&self) -> io::Result<bool> {
        for state in self.in_use() {
            if self.driver.read_through(&state.channel)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends the question, or goes on with it. The gateway's no is no error.
    fn ask(&self, question: &Asked) -> io::Result<Result<ssh2::Channel, ssh2::Error>> {
        let session = &self.driver.session;
        self.driver.finish(None, &mut || {
            let opened = match question {
                Asked::Channel(Destination::Tcp { host, port }) => {
                    session.channel_direct_tcpip(host, *port, None)
                }
                Asked::Channel(Destination::Unix(path)) => {
                    session.channel_direct_streamlocal(path, None)
                }
                // Nobody has said which.
                Asked::Channel(Destination::Web(_)) => {
                    Err(ssh2::Error::from_errno(CHANNEL_FAILURE))
                }
                // A type that no server knows. The refusal proves that the gateway's
                // sshd lives (its kernel alone would acknowledge a packet for a
                // stopped process), and libssh2 forgets it at once, whereas it keeps
                // the replies to keepalive requests for ever.
                Asked::AreYouThere => session.channel_open("are-you-there@licfwd", 0, 1, None),
            };
            match opened {
                Err(e) if e.code() != CHANNEL_FAILURE => Err(e),
                answer => Ok(answer),
            }
        })
    }

    /// Asks through a channel, also while the session waits for another answer:
    /// a request that a forwarded connection cannot grant, so that sshd has to
    /// refuse it. To be called again when the gateway has spoken, to take the
    /// answer.
    fn ask_through(&mut self, state: &Arc<State>) -> io::Result<()> {
        let mut channel = state.channel.clone();
        let answer = self.driver.finish(None, &mut || match channel.setenv("ARE_YOU_THERE", "") {
            Err(e) if e.code() == CHANNEL_REQUEST_DENIED => Ok(()),
            answer => answer,
        });
        match answer {
            Ok(()) => {
                // Perhaps before the socket could tell.
                self.hear();
                self.asked_through = Weak::new();
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.asked_through = Arc::downgrade(state);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// How long until there may be another question in order to read: one a second.
    /// Nobody needs more, and a gateway could answer each with something to read.
    fn deaf_for(&self) -> Option<Duration> {
        const INTERVAL: Duration = Duration::from_secs(1);
        let since = self.asked_to_read.filter(|_| self.in_use().next().is_none())?;
        let left = INTERVAL.saturating_sub(since.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// The channel through which an answer is owed.
    fn asked_through(&self) -> Option<Arc<State>> {
        let state = self.asked_through.upgrade();
        state.filter(|state| !state.is_closing())
    }
}

impl Session for Libssh2Session {
    fn name(&self) -> &'static str {
        "libssh2"
    }

    fn serve(&mut self, urgent: &Arc<Epoll>, packet_limit: Duration) {
        self.hear();
        self.driver.serve(Arc::clone(urgent), packet_limit);
        if let Some(stderr) = &self.driver.helper_stderr {
            stderr.read_in_the_background();
        }
    }

    fn helper_stderr(&self) -> Option<Arc<HelperStderr>> {
        self.driver.helper_stderr.clone()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.driver.socket.as_fd()
    }

    fn has_spoken(&mut self) -> io::Result<()> {
        self.hear();
        // Whoever closes a channel reads what has come.
        self.unread = !self.is_closing_one();
        Ok(())
    }

    fn listens(&self) -> bool {
        !self.is_free() || self.deaf_for().is_none()
    }

    fn is_free(&self) -> bool {
        self.asked.is_none()
    }

    fn open(&mut self, destination: Destination, _: CarriedBy) {
        debug_assert!(self.is_free());
        self.asked = Some(Asked::Channel(destination));
    }

    fn opened(&mut self, _: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>> {
        let Some(question) = &self.asked else {
            return Ok(None);
        };
        let answer = match self.ask(question) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            answer => answer?,
        };
        // The answer may have come before the socket could tell of it.
        self.hear();
        let question = self.asked.take();
        let answer = answer.map(|channel| {
            let channel = Libssh2Channel::new(channel, Arc::clone(&self.driver));
            self.channels.retain(|known| known.strong_count() > 0);
            self.channels.push(Arc::downgrade(channel.state()));
            channel
        });
        if question == Some(Asked::AreYouThere) {
            self.granted = answer.ok().or(self.granted.take());
            return Ok(None);
        }
        Ok(Some(match answer {
            Ok(channel) => Opened::Channel(Box::new(channel)),
            // The rest of RFC 4254's reasons (section 5.1) libssh2 does not tell apart.
            Err(e) => Opened::Refused(match e.message().contains("prohibited") {
                true => "administratively prohibited".into(),
                false => "connection refused, or its name is unknown there".into(),
            }),
        }))
    }

    /// Where the answer to one question has brought the next thing to read, and so on.
    fn due(&self) -> Option<Duration> {
        self.deaf_for().filter(|_| self.is_free())
    }

    fn read_arrived(&mut self) -> io::Result<()> {
        if let Some(state) = self.asked_through() {
            self.ask_through(&state)?;
        }
        // Where nobody opens a channel, and none is there to read through, or all have
        // ended, the answer to a question reads what has come.
        if !self.read_dry()? && self.unread && self.is_free() && self.listens() {
            self.asked = Some(Asked::AreYouThere);
            self.asked_to_read = Some(Instant::now());
        }
        self.unread = false;
        Ok(())
    }

    fn silence(&self) -> Option<Duration> {
        Some(self.heard.elapsed())
    }

    fn unanswered(&self) -> Option<Duration> {
        self.unanswered.map(|since| since.elapsed())
    }

    fn ask_for_life(&mut self) -> io::Result<()> {
        self.unanswered = Some(Instant::now());
        if self.is_free() && self.granted.is_none() {
            self.asked = Some(Asked::AreYouThere);
        } else if self.asked_through().is_none()
            && let Some(state) = { self.in_use().next() }
        {
            // A license server is slow: through another's channel. Without one the
            // question that is out has to do.
            self.ask_through(&state)?;
        }
        Ok(())
    }
}

/// A session goes before its channels, which then free themselves at once.
impl Drop for Libssh2Session {
    fn drop(&mut self) {
        drop(self.driver.replace_by_dead_end());
    }
}
