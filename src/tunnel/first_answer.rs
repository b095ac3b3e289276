//! Holds back what a license server says first, until it is known what that is.
//!
//! ```text
//! reading --a whole frame--> whole --what the client shall get--> (passed)
//!    |
//!    +--none, or late, or the end--> passed
//! ```

use super::flexnet::{self, Answer, FIRST_BYTE, Look};
use std::mem;
use std::time::{Duration, Instant};

/// How long a part of a frame is held back: another protocol may begin as one does.
const MAX_HOLD: Duration = Duration::from_millis(200);

/// What a license server's first words were.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A frame; the client gets nothing before it is known what instead of it.
    Answer(Answer),
    /// None. It has passed as it was.
    Other {
        /// Whether its first byte is that of one.
        as_flexnet: bool,
        /// What was wrong.
        why: &'static str,
    },
}

/// The first words on one connection.
#[derive(Debug)]
pub enum FirstAnswer {
    /// What has come so far, and since when.
    Reading(Vec<u8>, Option<Instant>),
    /// A frame, and what has come after it.
    Whole(Option<Answer>, Vec<u8>),
    /// Nothing is held any more, and this was heard.
    Passed(Heard),
}

impl FirstAnswer {
    /// Nothing has come yet.
    pub fn new() -> FirstAnswer {
        FirstAnswer::Reading(Vec::new(), None)
    }

    /// Takes what has come. Returns what is to be passed on of it and of what was held.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let FirstAnswer::Reading(held, since) = self else {
            return bytes.to_owned();
        };
        held.extend_from_slice(bytes);
        match flexnet::look(held) {
            Look::Unfinished => {
                since.get_or_insert_with(Instant::now);
                Vec::new()
            }
            Look::Other(why) => self.pass(why),
            Look::Answer(answer) => {
                let rest = held.split_off(answer.frame.len());
                *self = FirstAnswer::Whole(Some(answer), rest);
                Vec::new()
            }
        }
    }

    /// Nothing more is waited for: what is held goes on. `why` there was no frame.
    pub fn pass(&mut self, why: &'static str) -> Vec<u8> {
        let FirstAnswer::Reading(held, _) = self else {
            return Vec::new();
        };
        let held = mem::take(held);
        let as_flexnet = held.first() == Some(&FIRST_BYTE);
        *self = FirstAnswer::Passed(Heard::Other { as_flexnet, why });
        held
    }

    /// The same, if it has been held for too long.
    pub fn pass_if_late(&mut self) -> Vec<u8> {
        match self.held_until() {
            Some(until) if until <= Instant::now() => self.pass("cut short"),
            _ => Vec::new(),
        }
    }

    /// Until when something is held back, if it is.
    pub fn held_until(&self) -> Option<Instant> {
        match self {
            FirstAnswer::Reading(_, since) => since.map(|since| since + MAX_HOLD),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_frame_passes_at_once() {
        for (bytes, as_flexnet) in [(&b"SSH-2.0"[..], false), (b"\x2f\0\0\0\xff\xff", true)] {
            let mut first = FirstAnswer::new();
            assert_eq!(first.held_until(), None);
            assert_eq!(first.take(bytes), bytes);
            let FirstAnswer::Passed(Heard::Other { as_flexnet: as_one, .. }) = first else {
                panic!("{first:?}");
            };
            assert_eq!(as_one, as_flexnet);
        }
    }

    #[test]
    fn a_part_is_held_for_a_while() {
        let mut first = FirstAnswer::new();
        assert_eq!(first.take(b"\x2f\x01"), b"");
        let until = first.held_until().expect("a limit");
        assert!(until > Instant::now() && until <= Instant::now() + MAX_HOLD);
        assert_eq!(first.pass_if_late(), b"");
        let long_ago = Instant::now().checked_sub(MAX_HOLD);
        first = FirstAnswer::Reading(b"\x2f\x01".to_vec(), long_ago);
        assert_eq!(first.pass_if_late(), b"\x2f\x01");
        assert_eq!((first.held_until(), first.take(b"more")), (None, b"more".to_vec()));
    }
}
