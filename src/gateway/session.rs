//! What a session with the gateway can do, whoever speaks to it: the contract.

use super::helper_stderr::HelperStderr;
use crate::sys::{Epoll, Event};
use crate::target::Destination;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// One live session with the gateway, driven without blocking.
///
/// It begins in one thread, and may be driven by another.
pub trait Session: Send {
    /// Who speaks to the gateway.
    fn name(&self) -> &'static str;

    /// From now on the daemon drives it. `urgent` becomes readable when that has
    /// something better to do than to wait for a stuck gateway; `packet_limit` is
    /// how long a packet may take to leave.
    fn serve(&mut self, _urgent: &Arc<Epoll>, _packet_limit: Duration) {}

    /// The socket to wait on.
    fn socket(&self) -> BorrowedFd<'_>;

    /// That socket is ready: the gateway has sent something.
    ///
    /// # Errors
    /// The session is lost.
    fn has_spoken(&mut self) -> io::Result<()>;

    /// Whether to wait on the socket now. Not where nobody would read what has come:
    /// it would wake the loop again and again.
    fn listens(&self) -> bool {
        true
    }

    /// Whether a channel can be asked for now: one at a time.
    fn is_free(&self) -> bool;

    /// For how many clients this process has descriptors, where one takes more than its
    /// own socket; who takes no more than that, is accepted while there are any.
    fn max_clients(&self) -> usize {
        usize::MAX
    }

    /// Asks for a channel, whose bytes `by` may carry. [`Session::opened`] has the
    /// outcome, now or later.
    fn open(&mut self, destination: Destination, by: CarriedBy);

    /// Whether [`Session::opened`] has the outcome as soon as [`Session::open`] returns.
    fn answers_at_once(&self) -> bool {
        false
    }

    /// How the channel that was asked for came out; `None`: nothing is known yet.
    /// `client` is the socket that it is for, for somebody who can carry its
    /// bytes alone.
    ///
    /// # Errors
    /// The session is lost.
    fn opened(&mut self, client: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>>;

    /// Why a client has been refused whose channel was there before the gateway's answer,
    /// in the gateway's words; to be asked once for each of them, as soon as that is known.
    ///
    /// # Errors
    /// The session is lost.
    fn why_refused(&mut self) -> io::Result<String> {
        Ok(String::new())
    }

    /// How long until [`Session::opened`] is worth another call even if the
    /// socket tells nothing.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// What the program says that carries the session; before the daemon drives it,
    /// whoever waits has to read that.
    fn helper_stderr(&self) -> Option<Arc<HelperStderr>> {
        None
    }

    /// Reads everything that has arrived, for whatever channel. Where channels
    /// share a socket, each of them leaves behind what it does not want itself.
    ///
    /// # Errors
    /// The session is lost.
    fn read_arrived(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// For how long the gateway has sent nothing; `None` where somebody else
    /// notices a silent gateway.
    fn silence(&self) -> Option<Duration> {
        None
    }

    /// For how long the gateway has owed an answer to [`Session::ask_for_life`];
    /// `None`: it has sent something since, or was not asked. Only this counts
    /// against it: a suspended job has heard nothing because it asked nothing.
    fn unanswered(&self) -> Option<Duration> {
        None
    }

    /// Asks whether the gateway is still there.
    ///
    /// # Errors
    /// The session is lost.
    fn ask_for_life(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who may carry the bytes of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarriedBy {
    /// Who asks for it: they have to be read.
    Us,
    /// Whoever does it with the least effort.
    Anybody,
}

/// How a channel that was asked for came out.
pub enum Opened {
    /// The gateway has connected it, or will say so in it.
    Channel(Box<dyn Channel>),
    /// Somebody else has the client's socket and carries its bytes.
    HandedOver(Box<dyn HandOver>),
    /// The gateway says no, in its words.
    Refused(String),
}

/// One channel to a license server, through the gateway.
///
/// Every error but `WouldBlock` means that the session is lost. A call that
/// answered `WouldBlock` has left nothing half done.
pub trait Channel {
    /// Whether the license server has taken the connection, as far as was heard.
    fn is_open(&self) -> bool {
        true
    }
    /// Bytes that [`Channel::read`] will return without asking the network; at
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
    /// Whether what is written waits for a slow gateway, so that after each packet
    /// somebody else should have a turn, who may have less to say.
    fn is_congested(&self) -> bool {
        false
    }
    /// Tells the license server that no more will come.
    fn send_eof(&mut self) -> io::Result<()>;
    /// Whether the license server's side is gone altogether, both ways.
    fn hung_up(&mut self) -> io::Result<bool>;
    /// Ends the channel; `WouldBlock` until the gateway has agreed.
    fn close(&mut self) -> io::Result<()>;
    /// The channel's own socket, where it does not share the session's.
    fn own_socket(&mut self) -> Option<&mut dyn OwnSocket> {
        None
    }
}

/// The socket of a channel that has one of its own.
pub trait OwnSocket {
    /// What to wait on for something to read, or room.
    fn fd(&self) -> BorrowedFd<'_>;
    /// It is ready.
    fn is_ready(&mut self, event: &Event);
    /// Whether it has told its last: to wait for more would be to be woken for ever.
    fn is_cut(&self) -> bool;
    /// Another descriptor, where it takes that to hear how the channel ends, and whether
    /// it has not been heard yet.
    fn end_fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        None
    }
    /// That one is ready: whether and how it has ended.
    fn end(&mut self) -> Option<End> {
        None
    }
}

/// A client in somebody else's hands.
pub trait HandOver {
    /// What to wait on for something to hear; until the end, which is a hang-up.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Reads what there is to hear of it: whether and how it has ended.
    fn end(&mut self) -> Option<End>;
    /// Whether the license server has taken the connection, as far as was heard.
    fn is_open(&self) -> bool;
}

/// How a client that was handed over has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The license server has ended its output; the client has got all of it.
    Orderly,
    /// There was no channel to be had.
    Refused,
    /// With the session, whose own socket tells of it.
    Lost,
}
