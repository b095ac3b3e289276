//! One channel of a libssh2 session.

use super::driver::Driver;
use crate::auth::libssh2_error::{EAGAIN, INVAL, SOCKET_RECV};
use crate::gateway::Channel;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// libssh2's own channel, and what the session has to know of it.
pub struct State {
    /// A clone is another handle to the same channel.
    pub channel: ssh2::Channel,
    /// [`Channel::close`] has begun.
    closing: AtomicBool,
}

impl State {
    /// Whether it is being closed: nothing can be asked through it.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// A channel to a license server. It shares its session's socket with the others.
pub struct Libssh2Channel {
    state: Arc<State>,
    driver: Arc<Driver>,
}

impl Libssh2Channel {
    /// A channel that the gateway has opened.
    pub fn new(channel: ssh2::Channel, driver: Arc<Driver>) -> Libssh2Channel {
        let closing = AtomicBool::new(false);
        let state = Arc::new(State { channel, closing });
        Libssh2Channel { state, driver }
    }

    /// What the session remembers it by.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// A call that reads on through the channel itself while its packet leaves.
    fn finish<T>(
        &self,
        mut call: impl FnMut(&mut ssh2::Channel) -> Result<T, ssh2::Error>,
    ) -> io::Result<T> {
        let pump = self.state.channel.clone();
        let mut channel = self.state.channel.clone();
        self.driver.finish(Some(pump), &mut || call(&mut channel))
    }
}

impl Channel for Libssh2Channel {
    /// Asks no socket, so it is exact, and spares a system call for each channel
    /// and turn.
    fn available(&self) -> usize {
        self.state.channel.read_window().available as usize
    }

    fn at_end(&self) -> bool {
        self.state.channel.eof()
    }

    fn room(&self) -> usize {
        self.state.channel.write_window().remaining as usize
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.finish(|channel| channel.read(buffer).map_err(|e| to_ssh2(&e)));
        if result.is_ok() && self.at_end() && self.driver.packet_in_flight() {
            // ssh2 answers 0 at the end of file without asking libssh2, which
            // may still hold half of the window adjustment that the read began.
            let mut channel = self.state.channel.clone();
            self.driver.finish(None, &mut || channel.adjust_receive_window(0, true).map(drop))?;
        }
        result
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.finish(|channel| channel.write(bytes).map_err(|e| to_ssh2(&e)))
    }

    fn is_congested(&self) -> bool {
        self.driver.is_congested()
    }

    fn send_eof(&mut self) -> io::Result<()> {
        self.finish(ssh2::Channel::send_eof)
    }

    fn hung_up(&mut self) -> io::Result<bool> {
        match self.state.channel.clone().wait_close() {
            Ok(()) => Ok(true),
            Err(e) if e.code() == EAGAIN => Ok(false),
            // Not even at end of file.
            Err(e) if e.code() == INVAL => Ok(false),
            Err(e) => Err(self.driver.lost(&e)),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        self.state.closing.store(true, Ordering::Relaxed);
        self.finish(ssh2::Channel::close)
    }
}

/// ssh2 turns its own errors into `io::Error` in `Read` and `Write`, where only
/// kind and text survive: turns them back as far as [`Driver::finish`] needs it.
fn to_ssh2(e: &io::Error) -> ssh2::Error {
    ssh2::Error::from_errno(match e.kind() {
        ErrorKind::WouldBlock => EAGAIN,
        _ => SOCKET_RECV,
    })
}
