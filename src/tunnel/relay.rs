//! Carries one client's bytes, each direction open, draining or closed.
//!
//! ```text
//! client socket --read--> up:   held bytes --write--> channel
//! client socket <-write-- down: held bytes <--read--- channel
//! ```
//! A direction holds bytes only while its receiver cannot take them, and does
//! not read on until they are gone: that is the whole back-pressure. Idle
//! relays own no buffer; all share the caller's.

use super::first_answer::{FirstAnswer, Heard};
use crate::gateway::Channel;
use crate::local::Local;
use crate::sys::Interest;
use std::io::{self, ErrorKind};
use std::mem;
use std::time::Instant;

/// How far one direction of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Bytes may come.
    Open,
    /// The sender has ended; what is held must still be delivered.
    Draining,
    /// The receiver has been told.
    Closed,
}

struct Direction {
    flow: Flow,
    /// Read, and not delivered yet. Without memory while it is empty: most relays
    /// never hold anything again.
    held: Vec<u8>,
}

impl Direction {
    fn new() -> Direction {
        Direction { flow: Flow::Open, held: Vec::new() }
    }

    fn close(&mut self) {
        self.flow = Flow::Closed;
        self.held = Vec::new();
    }
}

/// One client and its channel.
pub struct Relay<L, R: ?Sized> {
    /// The client.
    pub local: L,
    /// The channel through the gateway.
    pub remote: Box<R>,
    up: Direction,
    down: Direction,
    /// The license server's first words, until they have passed.
    first: Option<Box<FirstAnswer>>,
    /// What the client gets first, as soon as the stream is open.
    reply: Option<&'static [u8]>,
    /// Bytes carried to the license server.
    pub bytes_up: u64,
    /// Bytes carried to the client.
    pub bytes_down: u64,
}

/// Bytes that may be read although they cannot be sent on, and so have to be held.
const HELD_WITHOUT_ROOM: usize = 32_768;

fn up_to(buffer: &mut [u8], limit: usize) -> &mut [u8] {
    let size = buffer.len().min(limit.max(HELD_WITHOUT_ROOM));
    &mut buffer[..size]
}

/// How many buffers one direction may carry before others have their turn.
pub const BUFFERS_PER_TURN: usize = 4;

impl<L: Local, R: Channel + ?Sized> Relay<L, R> {
    /// Joins a client and its channel.
    pub fn new(local: L, remote: Box<R>) -> Self {
        Relay {
            local,
            remote,
            up: Direction::new(),
            down: Direction::new(),
            first: None,
            reply: None,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// Before anything is carried: what the license server says first is to be read.
    pub fn read_first_answer(&mut self) {
        self.first = Some(Box::new(FirstAnswer::new()));
    }

    /// Before anything is carried: the client has said `early` already, and gets `reply`
    /// first, as soon as the stream is open.
    pub fn reply_when_open(&mut self, reply: &'static [u8], early: Vec<u8>) {
        self.up.held = early;
        self.reply = Some(reply);
        self.reply_if_open();
    }

    /// The stream may be open by now.
    pub fn reply_if_open(&mut self) {
        if self.remote.is_open()
            && let Some(reply) = self.reply.take()
        {
            self.deliver_later(reply.to_owned());
        }
    }

    /// What it has said first, once that is known. After an answer nothing is carried
    /// to the client before [`Relay::pass_on`].
    pub fn first_answer(&mut self) -> Option<Heard> {
        match &mut **self.first.as_mut()? {
            FirstAnswer::Reading(..) => None,
            FirstAnswer::Whole(answer, _) => answer.take().map(Heard::Answer),
            FirstAnswer::Passed(_) => match *self.first.take()? {
                FirstAnswer::Passed(heard) => Some(heard),
                _ => None,
            },
        }
    }

    /// What the client gets instead of an answer.
    pub fn pass_on(&mut self, mut frame: Vec<u8>) {
        if let Some(FirstAnswer::Whole(_, rest)) = self.first.as_deref_mut() {
            frame.append(rest);
            self.first = None;
            self.deliver_later(frame);
        }
    }

    /// Until when something is held back because it may become an answer.
    pub fn held_until(&self) -> Option<Instant> {
        self.first.as_ref()?.held_until()
    }

    /// Lets go what has been held back for too long.
    pub fn pass_if_late(&mut self) {
        if let Some(first) = &mut self.first {
            let late = first.pass_if_late();
            self.deliver_later(late);
        }
    }

    fn deliver_later(&mut self, bytes: Vec<u8>) {
        if self.down.flow != Flow::Closed && !bytes.is_empty() {
            self.down.held = bytes;
        }
    }

    /// Whether [`Relay::carry_up`] has something to do even if the client says nothing.
    pub fn up_is_due(&self) -> bool {
        match self.up.flow {
            Flow::Closed => false,
            Flow::Draining if self.up.held.is_empty() => true,
            _ => !self.up.held.is_empty() && self.remote.room() > 0,
        }
    }

    /// Whether [`Relay::carry_down`] has something to do. Asks no socket, so the
    /// answer cannot make itself wrong.
    pub fn down_is_due(&self) -> bool {
        self.down.flow == Flow::Open
            && self.down.held.is_empty()
            && self.reply.is_none()
            && !matches!(self.first.as_deref(), Some(FirstAnswer::Whole(..)))
            && (self.remote.available() > 0 || self.remote.at_end())
    }

    /// Client to license server. `readable` says whether the client's socket
    /// may have something. Returns whether anything came of it.
    ///
    /// # Errors
    /// The connection to the gateway is lost. A broken client is no error: the
    /// relay closes.
    pub fn carry_up(&mut self, mut readable: bool, buffer: &mut [u8]) -> io::Result<bool> {
        let mut moved = false;
        for _ in 0..BUFFERS_PER_TURN {
            if moved && self.remote.is_congested() {
                break;
            }
            match self.up.flow {
                _ if !self.up.held.is_empty() => {
                    let mut held = mem::take(&mut self.up.held);
                    let sent = self.write_up(&held)?;
                    if sent < held.len() {
                        held.drain(..sent);
                        self.up.held = held;
                    }
                    if sent == 0 {
                        break;
                    }
                }
                Flow::Closed => break,
                Flow::Draining => match self.remote.send_eof() {
                    Ok(()) => self.up.close(),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                },
                Flow::Open if !readable => break,
                // No more than can be sent on, or little: it would have to be held.
                Flow::Open => match self.local.read(up_to(buffer, self.remote.room())) {
                    Ok(0) => self.up.flow = Flow::Draining,
                    Ok(count) => {
                        readable = count >= HELD_WITHOUT_ROOM.min(buffer.len());
                        let sent = self.write_up(&buffer[..count])?;
                        self.up.held.extend_from_slice(&buffer[sent..count]);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => self.abandon(),
                },
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Returns how many of the bytes the channel has taken.
    fn write_up(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() && self.remote.room() > 0 {
            match self.remote.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
            if self.remote.is_congested() {
                break;
            }
        }
        self.bytes_up += sent as u64;
        Ok(sent)
    }

    /// License server to client. Returns whether anything came of it.
    ///
    /// # Errors
    /// The connection to the gateway is lost. A broken client is no error: the
    /// relay closes.
    pub fn carry_down(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut moved = false;
        for _ in 0..BUFFERS_PER_TURN {
            if !self.down.held.is_empty() {
                let mut held = mem::take(&mut self.down.held);
                let sent = self.write_down(&held);
                if sent < held.len() {
                    held.drain(..sent);
                    self.down.held = held;
                }
                if sent == 0 {
                    break;
                }
            } else if !self.down_is_due() {
                break;
            } else {
                let arrived = match self.remote.available() {
                    0 => Ok(0),
                    _ => self.remote.read(buffer),
                };
                match (arrived, self.first.as_deref_mut()) {
                    // What is held back goes before the end.
                    (Ok(0), Some(first)) if first.held_until().is_some() => {
                        self.down.held = first.pass("cut short");
                    }
                    (Ok(count), Some(first @ FirstAnswer::Reading(..))) if count > 0 => {
                        self.down.held = first.take(&buffer[..count]);
                    }
                    // The end; or what is there belongs to another stream of the channel.
                    (Ok(0), _) => {
                        self.down.close();
                        self.local.end_of_output();
                    }
                    // The client's socket first, so that nothing is copied while it keeps up.
                    (Ok(count), _) => {
                        let sent = self.write_down(&buffer[..count]);
                        self.down.held.extend_from_slice(&buffer[sent..count]);
                    }
                    (Err(e), _) if e.kind() == ErrorKind::WouldBlock => break,
                    (Err(e), _) => return Err(e),
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Returns how many of the bytes need not be held. One that is broken takes all.
    fn write_down(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.local.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.abandon();
                    return bytes.len();
                }
            }
        }
        self.bytes_down += sent as u64;
        sent
    }

    /// Where the license server has ended its output, finds out whether it is
    /// gone altogether; a client that only writes would never learn of it.
    ///
    /// # Errors
    /// The connection to the gateway is lost.
    pub fn notice_hang_up(&mut self) -> io::Result<()> {
        let half_closed = self.down.flow == Flow::Closed && self.up.flow != Flow::Closed;
        // What a client says to a closed socket costs it what it has not got yet. A
        // socket of ssh's takes it, though nobody hears it; a closed channel does not.
        let may_go = half_closed && (self.remote.own_socket().is_none() || self.local.has_it_all());
        if may_go && self.remote.hung_up()? {
            self.abandon();
        }
        Ok(())
    }

    /// The client is gone, or must go: nothing more is carried.
    pub fn abandon(&mut self) {
        self.up.close();
        self.down.close();
    }

    /// Whether both directions are over, so that only the stream is left to close.
    pub fn is_over(&self) -> bool {
        self.up.flow == Flow::Closed && self.down.flow == Flow::Closed
    }

    /// What to wait for on the client's socket.
    pub fn interest(&self) -> Interest {
        Interest {
            read: self.up.flow == Flow::Open && self.up.held.is_empty(),
            write: !self.down.held.is_empty(),
        }
    }

    /// What to wait for on the channel's own socket, where it has one and that has
    /// not told its last.
    pub fn remote_interest(&self) -> Interest {
        Interest {
            read: self.down.flow == Flow::Open && self.down.held.is_empty(),
            write: !self.up.held.is_empty(),
        }
    }
}

#[cfg(test)]
pub mod tests;
