//! Tests of the frames: the published one, ours, and bent ones.

use super::*;
use rand::Rng;

/// `mathworks.lm.udel.edu`, 40000: from the README of flexlm-logging-proxy.
const PUBLISHED: &str = "2f25125a003501130000000041000000000000006d617468776f726b732e6c6d2e7564656c2e65647500\
     00009c4000000000005444";

/// A status program's, by the account of a monitoring client: the version (11.16) and
/// two bytes more before the name, the daemon's name after it.
const STATUS: &[u8] = b"\x0b\x10\x00\x13licserver\0lmgrd\0";

fn published() -> Vec<u8> {
    let digits = PUBLISHED.as_bytes().chunks(2);
    let byte = |two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// A frame of that type with its checks.
fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame =
        [&[FIRST_BYTE, 0, 0, 0, 0, 0][..], &kind.to_be_bytes(), &[7; 12], body].concat();
    let length = frame.len() as u16;
    frame[4..6].copy_from_slice(&length.to_be_bytes());
    let crc = crc(&frame[4..]);
    frame[2..4].copy_from_slice(&crc.to_be_bytes());
    frame[1] = sum(&frame);
    frame
}

fn answer(bytes: &[u8]) -> Answer {
    match look(bytes) {
        Look::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_published_frame() {
    let frame = published();
    let seen = answer(&frame);
    assert_eq!((&*seen.name, seen.port), ("mathworks.lm.udel.edu", Some(40_000)));
    assert_eq!(seen.retold(&seen.name, 40_000), frame);
    let ours = seen.retold("127.0.0.1", 1024);
    assert_eq!(ours.len(), frame.len() - "mathworks.lm.udel.edu".len() + "127.0.0.1".len());
    let again = answer(&ours);
    assert_eq!((&*again.name, again.port), ("127.0.0.1", Some(1024)));
    assert_eq!(ours[6..20], frame[6..20]);
    assert!(ours.ends_with(&frame[frame.len() - 7..]));
    // What comes after it is not a part of it, and whatever is missing is waited for.
    assert_eq!(answer(&[&frame[..], b"more"].concat()).frame, frame);
    for length in 0..frame.len() {
        assert_eq!(look(&frame[..length]), Look::Unfinished, "{length}");
    }
}

#[test]
fn in_a_status_programs_frame_the_name_alone_is_replaced() {
    let frame = framed(HELLO, STATUS);
    let seen = answer(&frame);
    assert_eq!((&*seen.name, seen.port), ("licserver", None));
    let ours = seen.retold("127.0.0.1", 1);
    assert_eq!(ours[24..], *b"127.0.0.1\0lmgrd\0");
    assert_eq!((&ours[6..24], &*answer(&ours).name), (&frame[6..24], "127.0.0.1"));
    assert_eq!(ours[4..6], [0, 40]);
}

#[test]
fn what_is_none_of_them_is_known_as_soon_as_possible() {
    let good = published();
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    let long = vec![b'x'; 1004];
    for (bytes, at, why) in [
        (b"SSH-2.0-x".to_vec(), 1, "another protocol"),
        (vec![0x4c; 147], 1, "another protocol"),
        (vec![0x4e; 147], 1, "another protocol"),
        (b"\x2f\x2f\x2f\x2f\x2f\x2f".to_vec(), 6, "of another length"),
        (with(5, 19), 6, "of another length"),
        (framed(VENDOR_IS_AT, &[&long[..], b"\0"].concat()), 6, "of another length"),
        (framed(0x0114, b"licserver\0\0\0\x69\x78"), 8, "of another type"),
        (with(1, 0x26), 20, "with a wrong sum"),
        (with(10, 1), 20, "with a wrong sum"),
        (with(25, b'X'), 53, "with a wrong CRC"),
        (framed(VENDOR_IS_AT, b"licserver\0\0\0\x69"), 33, "cut short"),
        (framed(VENDOR_IS_AT, b"licserver"), 29, "cut short"),
        (framed(VENDOR_IS_AT, b"licserver\0\0\0\0\0"), 34, "cut short"),
        (framed(VENDOR_IS_AT, b"licserver\0\0\x01\0\0"), 34, "cut short"),
        (framed(VENDOR_IS_AT, b"lic\xffserver\0\0\0\x69\x78"), 35, "cut short"),
        (framed(HELLO, b"\0\0\0"), 23, "cut short"),
    ] {
        let shown = bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(look(&bytes[..at - 1]), Look::Unfinished, "{shown}");
        assert_eq!(look(&bytes[..at]), Look::Other(why), "{shown}");
    }
}

/// The longest one that is read.
#[test]
fn a_thousand_bytes() {
    let body = [&vec![b'x'; 999][..], b"\0\0\0\x69\x78"].concat();
    let frame = framed(VENDOR_IS_AT, &body);
    assert_eq!((frame.len(), answer(&frame).port), (1024, Some(27_000)));
}

/// Whatever has been bent on the way is not taken for a frame, or it is one that comes
/// out as it came in.
#[test]
fn ten_thousand_bent_frames() {
    let mut rng = rand::rng();
    let mut passed = 0;
    for n in 0..10_000 {
        let good = if n % 2 == 0 { published() } else { framed(HELLO, STATUS) };
        let mut bent = good.clone();
        match n % 5 {
            0 | 1 => bent[rng.random_range(0..good.len())] ^= 1 << rng.random_range(0..8),
            2 => (0..4).for_each(|_| bent[rng.random_range(0..good.len())] = rng.random()),
            3 => bent.truncate(rng.random_range(0..good.len())),
            _ => bent.insert(rng.random_range(0..good.len()), rng.random()),
        }
        if let Look::Answer(seen) = look(&bent) {
            assert_eq!(seen.retold(&seen.name, seen.port.unwrap_or(9)), bent[..seen.frame.len()]);
            passed += 1;
        }
    }
    // Four random bytes may be what stood there; one inserted, too.
    assert!(passed < 100, "{passed}");
}
