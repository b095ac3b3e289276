//! A connected client, and what epoll knows of its descriptors.

use super::handed_over::HandedOver;
use super::relay::Relay;
use super::token::Token;
use crate::gateway::{self, Channel, End};
use crate::local::Client;
use crate::sys::{Epoll, Event, Interest};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// How a client's bytes get to its channel.
pub enum Served {
    /// Through this process.
    Relayed(Relay<Client, dyn Channel>),
    /// Without it.
    HandedOver(HandedOver<Client, dyn gateway::HandOver>),
}

/// A connected client in its slot.
pub struct Seat {
    /// How it is served.
    pub served: Served,
    /// Why there is no channel for it after all, where that is so.
    pub refused: Option<String>,
    /// What epoll knows of the client's socket; `None`: it is not there.
    watched: Option<Interest>,
    /// The same of the channel's own descriptor, where it has one.
    channel_watched: Option<Interest>,
    /// The same of what tells how the channel ends.
    end_watched: Option<Interest>,
}

impl Seat {
    /// epoll knows nothing of it yet.
    pub fn new(served: Served) -> Seat {
        Seat { served, refused: None, watched: None, channel_watched: None, end_watched: None }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        match &self.served {
            Served::Relayed(relay) => &relay.local,
            Served::HandedOver(handed_over) => &handed_over.client,
        }
    }

    /// Carries what can be carried where the client's socket is ready, or its channel's
    /// own, as `token` says. Returns whether it turns out that there is no channel for it.
    ///
    /// # Errors
    /// The session is lost.
    pub fn is_ready(&mut self, token: Token, event: &Event, buffer: &mut [u8]) -> io::Result<bool> {
        let mut refused = false;
        match (&mut self.served, token) {
            (Served::Relayed(relay), Token::Client(..)) => {
                if event.writable() {
                    relay.carry_down(buffer)?;
                }
                if event.readable() {
                    relay.carry_up(true, buffer)?;
                }
            }
            (Served::Relayed(relay), Token::End(..)) => {
                let end = relay.remote.own_socket().and_then(|it| it.end());
                refused = end == Some(End::Refused);
                if refused {
                    relay.abandon();
                }
                relay.reply_if_open();
                relay.carry_down(buffer)?;
            }
            (Served::Relayed(relay), _) => {
                if let Some(socket) = relay.remote.own_socket() {
                    socket.is_ready(event);
                }
                relay.carry_down(buffer)?;
                relay.carry_up(false, buffer)?;
            }
            (Served::HandedOver(client), Token::Client(..)) => client.client_is_ready(buffer),
            (Served::HandedOver(client), _) => {
                client.channel_is_ready();
                refused = client.is_refused();
            }
        }
        Ok(refused)
    }

    /// Tells epoll what this client waits for. A socket with nothing to wait for
    /// leaves epoll altogether: hang-ups are reported unasked, for ever.
    pub fn watch(&mut self, epoll: &Epoll, session: usize, slot: usize) {
        let (client, channel) = (Token::Client(session, slot), Token::Channel(session, slot));
        let (watched, channel_watched) = (&mut self.watched, &mut self.channel_watched);
        let end_watched = &mut self.end_watched;
        let done = match &mut self.served {
            Served::Relayed(relay) => {
                let wanted = Some(relay.interest()).filter(|wanted| *wanted != Interest::NONE);
                let done = register(epoll, relay.local.as_fd(), client, watched, wanted);
                let wanted = relay.remote_interest();
                done.and(relay.remote.own_socket().map_or(Ok(()), |socket| {
                    let wanted = (!socket.is_cut()).then_some(wanted);
                    register(epoll, socket.fd(), channel, channel_watched, wanted)?;
                    let (end, token) = (socket.end_fd(), Token::End(session, slot));
                    end.map_or(Ok(()), |(fd, waits)| {
                        let wanted = waits.then_some(Interest::READ);
                        register(epoll, fd, token, end_watched, wanted)
                    })
                }))
            }
            Served::HandedOver(handed_over) => {
                let wanted = Some(handed_over.client_interest()).filter(|wanted| wanted.read);
                let fd = handed_over.client.as_fd();
                register(epoll, fd, client, watched, wanted).and_then(|()| {
                    let (fd, wanted) = (handed_over.channel_fd(), handed_over.channel_interest());
                    register(epoll, fd, channel, channel_watched, wanted)
                })
            }
        };
        // Out of memory in the kernel: this client cannot be served.
        if done.is_err() {
            match &mut self.served {
                Served::Relayed(relay) => relay.abandon(),
                Served::HandedOver(handed_over) => handed_over.abandon(),
            }
        }
    }
}

/// Brings what epoll knows of a descriptor up to date.
fn register(
    epoll: &Epoll,
    fd: BorrowedFd<'_>,
    token: Token,
    known: &mut Option<Interest>,
    wanted: Option<Interest>,
) -> io::Result<()> {
    match (*known, wanted) {
        (old, new) if old == new => {}
        (None, Some(interest)) => epoll.add(fd, token.pack(), interest)?,
        (Some(_), Some(interest)) => epoll.modify(fd, token.pack(), interest)?,
        (_, None) => epoll.remove(fd),
    }
    *known = wanted;
    Ok(())
}
