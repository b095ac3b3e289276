//! Reads and rewrites the frame by which FlexNet's lmgrd sends its client on; pure.
//!
//! One frame, integers big-endian; after the README of the University of Delaware's
//! flexlm-logging-proxy, whose dump of a real server's is the test vector here.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | 0x2f |
//! | 1 | (sum of bytes 2-19 + 47) mod 256 |
//! | 2-3 | 14-bit CRC of bytes 4 to the end |
//! | 4-5 | length of the whole frame |
//! | 6-7 | type: 0x0113, "the vendor daemon is at"; 0x010e, the answer to a hello without a vendor |
//! | 8-19 | a header; in type 0x010e up to 23 |
//! | 20- | 0x0113: name, NUL, port in four bytes, and a rest |
//! | 24- | 0x010e: name, NUL, daemon's name, NUL |
//!
//! lmgrd before 11.10 speaks an older form, which begins with 0x4c or 0x4e.

/// With what a frame begins.
pub const FIRST_BYTE: u8 = 0x2f;
/// A longer one is none of these, in bytes.
const MAX_LENGTH: usize = 1024;
/// Up to where every frame has the same fields, and the sum in byte 1 reaches.
const HEADER: usize = 20;
const VENDOR_IS_AT: u16 = 0x0113;
const HELLO: u16 = 0x010e;
/// 0x2e97 with its 14 bits in reverse order: one shift right for each bit.
const POLYNOMIAL: u16 = 0x2e97_u16.reverse_bits() >> 2;

/// What the first bytes of an answer are.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// They may become such a frame.
    Unfinished,
    /// None of these; why.
    Other(&'static str),
    /// A whole frame, and perhaps more after it.
    Answer(Answer),
}

/// A frame that sends the client on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As it came.
    pub frame: Vec<u8>,
    /// The host to which the client is sent.
    pub name: String,
    /// The vendor daemon's port there; `None`: the port that the client knows.
    pub port: Option<u16>,
}

/// Looks at what a server has said first.
pub fn look(bytes: &[u8]) -> Look {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let length = word(4).map_or(MAX_LENGTH, usize::from);
    let kind = word(6).unwrap_or(VENDOR_IS_AT);
    let header = bytes.get(..HEADER);
    if bytes.first().is_some_and(|first| *first != FIRST_BYTE) {
        Look::Other("another protocol")
    } else if !(HEADER..=MAX_LENGTH).contains(&length) {
        Look::Other("of another length")
    } else if ![VENDOR_IS_AT, HELLO].contains(&kind) {
        Look::Other("of another type")
    } else if header.is_some_and(|header| header[1] != sum(header)) {
        Look::Other("with a wrong sum")
    } else {
        match bytes.get(..length) {
            _ if header.is_none() => Look::Unfinished,
            None => Look::Unfinished,
            Some(frame) if word(2) != Some(crc(&frame[4..])) => Look::Other("with a wrong CRC"),
            Some(frame) => Answer::read(frame, kind).map_or(Look::Other("cut short"), Look::Answer),
        }
    }
}

/// Where the name stands in a frame of that type.
fn name_at(kind: u16) -> usize {
    if kind == HELLO { HEADER + 4 } else { HEADER }
}

impl Answer {
    /// A frame whose checks have been found right.
    fn read(frame: &[u8], kind: u16) -> Option<Answer> {
        let text = frame.get(name_at(kind)..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        let name = String::from_utf8(text[..end].to_owned()).ok()?;
        let port = if kind == VENDOR_IS_AT {
            let number = u32::from_be_bytes(*text[end + 1..].first_chunk()?);
            Some(u16::try_from(number).ok().filter(|port| *port > 0)?)
        } else {
            None
        };
        Some(Answer { frame: frame.to_owned(), name, port })
    }

    /// The frame that sends the client there instead; all else is kept. `port` counts
    /// only where this one names a port, too.
    pub fn retold(&self, name: &str, port: u16) -> Vec<u8> {
        let kind = if self.port.is_some() { VENDOR_IS_AT } else { HELLO };
        let (head, old) = self.frame.split_at(name_at(kind));
        let mut rest = old[self.name.len()..].to_owned();
        if self.port.is_some() {
            rest[1..5].copy_from_slice(&u32::from(port).to_be_bytes());
        }
        let mut frame = [head, name.as_bytes(), &rest].concat();
        let length = frame.len() as u16;
        frame[4..6].copy_from_slice(&length.to_be_bytes());
        let crc = crc(&frame[4..]);
        frame[2..4].copy_from_slice(&crc.to_be_bytes());
        frame[1] = sum(&frame);
        frame
    }
}

/// What byte 1 of a frame has to be. At least [`HEADER`] bytes must be there.
fn sum(frame: &[u8]) -> u8 {
    frame[2..HEADER].iter().fold(FIRST_BYTE, |sum, byte| sum.wrapping_add(*byte))
}

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => crc >> 1 ^ POLYNOMIAL,
        })
    })
}

#[cfg(test)]
mod tests;
