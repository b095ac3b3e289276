//! A client whose socket somebody else has: only the end is passed on to it.
//!
//! ```text
//! carried --end of the channel--> told --the client has it all, or has ended--> over
//! ```
//! Whoever carries the bytes only closes the socket at the end. The third
//! descriptor, ours, keeps it open until the client has got everything: what a
//! client says to a closed socket would cost it the rest.

use super::relay::BUFFERS_PER_TURN;
use crate::gateway::{self, End};
use crate::local::Local;
use crate::sys::Interest;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

/// One client and the channel that it was handed over to.
pub struct HandedOver<L, H: ?Sized> {
    /// The client.
    pub client: L,
    channel: Box<H>,
    end: Option<End>,
    /// The client has ended, too, or was broken off.
    client_ended: bool,
}

impl<L: Local, H: gateway::HandOver + ?Sized> HandedOver<L, H> {
    /// Watches over a client that has been handed over.
    pub fn new(client: L, channel: Box<H>) -> Self {
        HandedOver { client, channel, end: None, client_ended: false }
    }

    /// The descriptor that tells of the channel's end.
    pub fn channel_fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// That descriptor is ready: passes the end on, if it has come.
    pub fn channel_is_ready(&mut self) {
        if self.end.is_none() {
            self.end = self.channel.end();
            match self.end {
                Some(End::Orderly) => self.client.end_of_output(),
                Some(End::Refused | End::Lost) | None => {}
            }
        }
    }

    /// The client has something to say: after the end it goes nowhere.
    pub fn client_is_ready(&mut self, buffer: &mut [u8]) {
        for _ in 0..BUFFERS_PER_TURN {
            if !self.client_interest().read {
                break;
            }
            match self.client.read(buffer) {
                Ok(count) if count > 0 => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.client_ended = true,
            }
        }
    }

    /// Whether the client is still where it was, and there is no channel for it.
    pub fn is_refused(&self) -> bool {
        self.end == Some(End::Refused)
    }

    /// The client cannot be served any more.
    pub fn abandon(&mut self) {
        self.client_ended = true;
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.client_ended
            || self.is_refused()
            || (self.end == Some(End::Orderly) && self.client.has_it_all())
    }

    /// What to wait for on the client's socket.
    pub fn client_interest(&self) -> Interest {
        Interest { read: self.end == Some(End::Orderly) && !self.client_ended, write: false }
    }

    /// What to wait for on the channel's descriptor; `None`: it has told its last. What
    /// it tells before its end, which is a hang-up, changes nothing: it waits there.
    pub fn channel_interest(&self) -> Option<Interest> {
        self.end.is_none().then_some(Interest::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::relay::tests::Person;
    use super::*;
    use std::os::fd::AsFd;

    struct Ssh(std::fs::File, Option<End>);

    impl gateway::HandOver for Ssh {
        fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
        fn end(&mut self) -> Option<End> {
            self.1
        }
        fn is_open(&self) -> bool {
            true
        }
    }

    fn handed_over(person: Person) -> HandedOver<Person, Ssh> {
        let null = std::fs::File::open("/dev/null").unwrap();
        HandedOver::new(person, Box::new(Ssh(null, None)))
    }

    #[test]
    fn only_the_end_is_passed_on() {
        let mut handed_over = handed_over(Person {
            says: [Some(b"not for us".to_vec())].into(),
            is_slow: true,
            ..Person::default()
        });
        assert_eq!(handed_over.client_interest(), Interest::NONE);
        assert_eq!(handed_over.channel_interest(), Some(Interest::NONE));
        handed_over.client_is_ready(&mut [0; 64]);
        handed_over.channel_is_ready();
        assert!(!handed_over.is_over() && !handed_over.client.says.is_empty());
        handed_over.channel.1 = Some(End::Orderly);
        handed_over.channel_is_ready();
        assert!(handed_over.client.told_the_end);
        assert_eq!(handed_over.channel_interest(), None);
        // It has not got everything yet: what it says meanwhile must not hurt it.
        assert!(handed_over.client_interest().read && !handed_over.is_over());
        handed_over.client_is_ready(&mut [0; 64]);
        assert!(handed_over.client.says.is_empty() && !handed_over.is_over());
        handed_over.client.is_slow = false;
        assert!(handed_over.is_over() && !handed_over.client.broken_off);
    }

    #[test]
    fn a_client_that_ends_ends_it() {
        let mut handed_over = handed_over(Person {
            says: [Some(b"bye".to_vec()), None].into(),
            is_slow: true,
            ..Person::default()
        });
        handed_over.channel.1 = Some(End::Orderly);
        handed_over.channel_is_ready();
        handed_over.client_is_ready(&mut [0; 64]);
        assert!(handed_over.is_over());
    }

    #[test]
    fn a_refused_client_is_left_as_it_was() {
        let mut handed_over = handed_over(Person::default());
        handed_over.channel.1 = Some(End::Refused);
        handed_over.channel_is_ready();
        assert!(handed_over.is_over() && handed_over.is_refused());
        assert!(!handed_over.client.broken_off && !handed_over.client.told_the_end);
    }

    #[test]
    fn with_the_session_it_waits_for_what_the_session_does() {
        let mut handed_over = handed_over(Person::default());
        handed_over.channel.1 = Some(End::Lost);
        handed_over.channel_is_ready();
        assert!(!handed_over.is_over() && !handed_over.client.told_the_end);
        assert_eq!(handed_over.channel_interest(), None);
        assert_eq!(handed_over.client_interest(), Interest::NONE);
    }
}
