//! Whose descriptor is ready: the number that epoll hands back.

/// What a descriptor in the loop's epoll belongs to.
///
/// ```text
/// 63      56 55              32 31                      0
/// |  kind   | listener, session | listening socket, slot |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The job has ended, or a signal has come.
    Urgent,
    /// An attempt to reconnect is over.
    Attempt,
    /// A client knocks at this socket of that listener.
    Listener(usize, usize),
    /// The gateway has sent something over this session.
    Session(usize),
    /// The client in that slot of this session is ready.
    Client(usize, usize),
    /// The own socket of the channel of the client in that slot is ready.
    Channel(usize, usize),
    /// What tells how that channel ends is.
    End(usize, usize),
    /// The client of web servers with that number, which is not connected.
    Guest(usize),
}

const KIND: u32 = 56;
const UPPER: u32 = 32;

impl Token {
    /// As a number.
    pub fn pack(self) -> u64 {
        let (kind, upper, lower) = match self {
            Token::Urgent => (0, 0, 0),
            Token::Attempt => (1, 0, 0),
            Token::Listener(listener, socket) => (2, listener, socket),
            Token::Session(session) => (3, session, 0),
            Token::Client(session, slot) => (4, session, slot),
            Token::Channel(session, slot) => (5, session, slot),
            Token::End(session, slot) => (6, session, slot),
            Token::Guest(number) => (7, 0, number),
        };
        kind << KIND | (upper as u64) << UPPER | lower as u64
    }

    /// From a number that [`Token::pack`] made.
    pub fn unpack(number: u64) -> Token {
        let upper = (number >> UPPER & 0xff_ffff) as usize;
        let lower = (number & 0xffff_ffff) as usize;
        match number >> KIND {
            0 => Token::Urgent,
            1 => Token::Attempt,
            2 => Token::Listener(upper, lower),
            3 => Token::Session(upper),
            4 => Token::Client(upper, lower),
            5 => Token::Channel(upper, lower),
            6 => Token::End(upper, lower),
            _ => Token::Guest(lower),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        for n in [0, 1, 7, 4000] {
            for m in [0, 1, 65_536, u32::MAX as usize] {
                for token in [
                    Token::Urgent,
                    Token::Attempt,
                    Token::Listener(n, m),
                    Token::Session(n),
                    Token::Client(n, m),
                    Token::Channel(n, m),
                    Token::End(n, m),
                    Token::Guest(m),
                ] {
                    assert_eq!(Token::unpack(token.pack()), token);
                }
            }
        }
    }
}
