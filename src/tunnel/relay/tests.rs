//! Tests of the relay in memory.

use super::*;
use std::collections::VecDeque;

/// A client: what it will say (`None`: it ends), what it got, what it takes.
#[derive(Default)]
pub struct Person {
    pub says: VecDeque<Option<Vec<u8>>>,
    pub got: Vec<u8>,
    pub takes: usize,
    pub told_the_end: bool,
    pub broken: bool,
    pub broken_off: bool,
    pub is_slow: bool,
}

impl Local for Person {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        match self.says.pop_front() {
            None => Err(ErrorKind::WouldBlock.into()),
            Some(None) => Ok(0),
            Some(Some(bytes)) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.takes);
        if self.broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.takes -= count;
        self.got.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn end_of_output(&mut self) {
        self.told_the_end = true;
    }

    fn has_it_all(&self) -> bool {
        !self.is_slow
    }

    fn break_off(&mut self) {
        self.broken_off = true;
    }
}

/// A stream whose packets have come already, with a window to write to.
#[derive(Default)]
struct Server {
    arrived: Vec<u8>,
    ended: bool,
    gone: bool,
    window: usize,
    got: Vec<u8>,
    got_eof: u32,
    /// Calls that answer `WouldBlock` first, as during a key exchange.
    busy: u32,
    lost: bool,
}

impl Server {
    fn ready(&mut self) -> io::Result<()> {
        if self.lost {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if self.busy > 0 {
            self.busy -= 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

impl Channel for Server {
    fn available(&self) -> usize {
        self.arrived.len()
    }
    fn at_end(&self) -> bool {
        self.ended && self.arrived.is_empty()
    }
    fn room(&self) -> usize {
        self.window
    }
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ready()?;
        let count = buffer.len().min(self.arrived.len());
        buffer[..count].copy_from_slice(&self.arrived[..count]);
        self.arrived.drain(..count);
        Ok(count)
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ready()?;
        let count = bytes.len().min(self.window);
        self.window -= count;
        self.got.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
    fn send_eof(&mut self) -> io::Result<()> {
        self.ready()?;
        self.got_eof += 1;
        Ok(())
    }
    fn hung_up(&mut self) -> io::Result<bool> {
        Ok(self.gone)
    }
    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn relay(person: Person, server: Server) -> Relay<Person, Server> {
    Relay::new(person, Box::new(server))
}

const AMPLE: usize = 1 << 20;

#[test]
fn a_half_close_travels_each_way_by_itself() {
    let person =
        Person { says: [Some(b"ask".to_vec()), None].into(), takes: AMPLE, ..Person::default() };
    let server = Server { window: AMPLE, ..Server::default() };
    let mut relay = relay(person, server);
    let mut buffer = [0; 64];
    relay.carry_up(true, &mut buffer).unwrap();
    relay.carry_up(true, &mut buffer).unwrap();
    assert_eq!((&relay.remote.got[..], relay.remote.got_eof), (&b"ask"[..], 1));
    assert!(!relay.is_over() && !relay.local.told_the_end);
    // The answer comes after the client has ended its side.
    relay.remote.arrived = b"answer".to_vec();
    relay.remote.ended = true;
    relay.carry_down(&mut buffer).unwrap();
    assert_eq!(relay.local.got, b"answer");
    assert!(relay.local.told_the_end && relay.is_over());
    assert_eq!((relay.bytes_up, relay.bytes_down), (3, 6));
}

#[test]
fn end_of_file_waits_for_the_last_byte() {
    let person = Person { says: [Some(b"0123456789".to_vec()), None].into(), ..Person::default() };
    let server = Server { window: 4, ..Server::default() };
    let mut relay = relay(person, server);
    let mut buffer = [0; 64];
    relay.carry_up(true, &mut buffer).unwrap();
    assert_eq!(relay.remote.got, b"0123");
    // Back-pressure: the client is not even listened to now.
    assert_eq!(relay.interest(), Interest::NONE);
    assert!(!relay.up_is_due());
    relay.remote.window = 3;
    assert!(relay.up_is_due());
    relay.carry_up(false, &mut buffer).unwrap();
    assert_eq!((&relay.remote.got[..], relay.remote.got_eof), (&b"0123456"[..], 0));
    relay.remote.window = 100;
    relay.carry_up(false, &mut buffer).unwrap();
    assert!(relay.interest().read);
    relay.carry_up(true, &mut buffer).unwrap();
    assert_eq!((&relay.remote.got[..], relay.remote.got_eof), (&b"0123456789"[..], 1));
}

#[test]
fn a_client_that_does_not_read_stops_the_reading_too() {
    let server = Server { arrived: vec![7; 1000], ..Server::default() };
    let mut relay = relay(Person::default(), server);
    let mut buffer = [0; 64];
    relay.carry_down(&mut buffer).unwrap();
    assert_eq!(relay.remote.arrived.len(), 1000 - 64);
    assert!(!relay.down_is_due() && relay.interest().write);
    relay.local.takes = AMPLE;
    while relay.interest().write || relay.down_is_due() {
        relay.carry_down(&mut buffer).unwrap();
    }
    assert_eq!(relay.local.got, vec![7; 1000]);
}

#[test]
fn a_busy_session_loses_nothing() {
    let person =
        Person { says: [Some(b"abc".to_vec()), None].into(), takes: AMPLE, ..Person::default() };
    let server = Server { window: AMPLE, busy: 5, ..Server::default() };
    let mut relay = relay(person, server);
    let mut buffer = [0; 64];
    for _ in 0..12 {
        relay.carry_up(true, &mut buffer).unwrap();
    }
    assert_eq!((&relay.remote.got[..], relay.remote.got_eof), (&b"abc"[..], 1));
}

#[test]
fn a_broken_client_ends_the_relay_and_not_the_session() {
    for readable in [true, false] {
        let person = Person { broken: true, ..Person::default() };
        let server = Server { arrived: b"x".to_vec(), ..Server::default() };
        let mut relay = relay(person, server);
        let mut buffer = [0; 64];
        if readable {
            relay.carry_up(true, &mut buffer).unwrap();
        } else {
            relay.carry_down(&mut buffer).unwrap();
        }
        assert!(relay.is_over());
    }
}

#[test]
fn a_lost_session_is_an_error() {
    let person = Person { says: [Some(b"x".to_vec())].into(), ..Person::default() };
    let server = Server { window: 1, lost: true, ..Server::default() };
    assert!(relay(person, server).carry_up(true, &mut [0; 8]).is_err());
}

/// A client that only writes would otherwise never learn that the server,
/// which had ended its output before, is gone altogether.
#[test]
fn a_server_gone_both_ways_ends_the_relay() {
    let server = Server { ended: true, ..Server::default() };
    let mut relay = relay(Person::default(), server);
    relay.carry_down(&mut [0; 8]).unwrap();
    relay.notice_hang_up().unwrap();
    assert!(!relay.is_over());
    relay.remote.gone = true;
    relay.notice_hang_up().unwrap();
    assert!(relay.is_over());
}
