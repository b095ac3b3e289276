//! What a session with the gateway can do, whoever speaks to it: the contract.

use crate::sys::Event;
use crate::target::Destination;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How a stream that was asked for came out.
pub enum Opened {
    /// The gateway has connected it, or will say so in the stream.
    Stream(Box<dyn Remote>),
    /// The gateway says no, in its words.
    Refused(String),
}

/// One live connection to the gateway, driven without blocking.
pub trait Transport {
    /// The socket to wait on.
    fn socket(&self) -> BorrowedFd<'_>;
    /// For how long the gateway has sent nothing; `None` where somebody else
    /// notices a silent gateway.
    fn silence(&self) -> Option<Duration>;
    /// The socket is ready.
    ///
    /// # Errors
    /// The connection is lost.
    fn has_spoken(&mut self) -> io::Result<()>;
    /// Whether a stream can be asked for now.
    fn is_free(&self) -> bool;
    /// Asks for a stream. [`Transport::answer`] has the outcome, now or later.
    fn ask(&mut self, destination: Destination);
    /// Asks whether the gateway is still there, where [`Transport::silence`] counts.
    fn ask_for_life(&mut self);
    /// Carries an outstanding question on. `None`: not answered yet, or it was
    /// only the question whether the gateway is there. `client` is the socket
    /// for which the stream is, for somebody who can carry its bytes alone.
    ///
    /// # Errors
    /// The connection is lost.
    fn answer(&mut self, client: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>>;
    /// How long until [`Transport::answer`] is worth another call even if the
    /// socket tells nothing.
    fn due(&self) -> Option<Duration> {
        None
    }
}

/// The license server's side: one stream through the gateway.
///
/// Every error but `WouldBlock` means that the connection to the gateway is
/// lost. A call that answered `WouldBlock` has left nothing half done.
pub trait Remote {
    /// Bytes that [`Remote::read`] will return without asking the network; at
    /// least one where it is not known how many.
    fn available(&self) -> usize;
    /// Whether everything has been read and no more will come.
    fn at_end(&self) -> bool;
    /// Bytes that the other side is ready to take.
    fn room(&self) -> usize;
    /// Reads what has arrived.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes some of the bytes. After `WouldBlock` the next call must offer
    /// the same bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Tells the license server that no more will come.
    fn send_eof(&mut self) -> io::Result<()>;
    /// Whether the license server's side is gone altogether, both ways.
    fn hung_up(&mut self) -> io::Result<bool>;
    /// Ends the stream; `WouldBlock` until the gateway has agreed.
    fn close(&mut self) -> io::Result<()>;

    /// Whether the other side has the client's own socket: then the relay
    /// carries nothing, and passes on the end alone.
    fn has_the_client(&self) -> bool {
        false
    }
    /// Whether the stream was not to be had.
    fn is_refused(&self) -> bool {
        false
    }

    // A stream with a socket of its own:

    /// The socket that tells when there is something to read, or room.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Whether that socket has told its last.
    fn is_cut(&self) -> bool {
        false
    }
    /// The socket is ready.
    fn is_ready(&mut self, _event: &Event) {}

    // A stream that shares one with others:

    /// Reads everything that has arrived, for whatever stream; false when this
    /// one has ended and cannot.
    fn read_dry(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// Asks through this stream whether the gateway is still there. To be called
    /// again when the gateway has spoken, to take the answer.
    fn ask_for_life(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Whether the gateway owes this stream an answer.
    fn is_asking(&self) -> bool {
        false
    }
}

/// Whichever transport carries it.
impl Remote for Box<dyn Remote> {
    fn available(&self) -> usize {
        (**self).available()
    }
    fn at_end(&self) -> bool {
        (**self).at_end()
    }
    fn room(&self) -> usize {
        (**self).room()
    }
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read(buffer)
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (**self).write(bytes)
    }
    fn send_eof(&mut self) -> io::Result<()> {
        (**self).send_eof()
    }
    fn hung_up(&mut self) -> io::Result<bool> {
        (**self).hung_up()
    }
    fn close(&mut self) -> io::Result<()> {
        (**self).close()
    }
    fn has_the_client(&self) -> bool {
        (**self).has_the_client()
    }
    fn is_refused(&self) -> bool {
        (**self).is_refused()
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        (**self).socket()
    }
    fn is_cut(&self) -> bool {
        (**self).is_cut()
    }
    fn is_ready(&mut self, event: &Event) {
        (**self).is_ready(event)
    }
    fn read_dry(&self) -> io::Result<bool> {
        (**self).read_dry()
    }
    fn ask_for_life(&mut self) -> io::Result<()> {
        (**self).ask_for_life()
    }
    fn is_asking(&self) -> bool {
        (**self).is_asking()
    }
}

/// What came of asking for one stream.
pub enum Answer {
    /// The license server has taken the connection.
    Yes,
    /// The gateway cannot reach it; why.
    No(String),
    /// Nothing came in time.
    Late {
        /// The question still hangs in the connection: it is of no more use.
        spent: bool,
    },
    /// The gateway does not allow it.
    Forbidden,
    /// The connection to the gateway has ended; how.
    Lost(String),
}
