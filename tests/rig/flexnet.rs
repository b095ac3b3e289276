//! A stand-in for FlexNet: lmgrd, which names the port of a vendor daemon, and a client
//! that goes there as the real ones do (seen of 11.16, 11.18 and 11.19).

use std::collections::HashMap;
use std::io::{self, Error, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};

use super::traffic::{Seat, check_out_from};
use super::{LicenseServer, Service};

/// What lmgrd calls its own host, unless told otherwise; nobody else knows that name.
pub const NAME: &str = "licserver.invalid";
/// "The vendor daemon is at", and what a hello without a vendor gets.
pub const VENDOR_IS_AT: u16 = 0x0113;
pub const HELLO: u16 = 0x010e;

/// A license server with two ports, as FlexNet and RLM have them.
pub struct FlexNet {
    /// Tells its clients where the seats are.
    pub manager: LicenseServer,
    /// Hands the seats out.
    pub vendor: LicenseServer,
}

impl FlexNet {
    /// Starts it on an address of this machine, on the manager's and the vendor
    /// daemon's port.
    pub fn start(address: Ipv4Addr, ports: (u16, u16)) -> FlexNet {
        FlexNet::named(NAME, address, ports)
    }

    /// The same for a server that calls its host `name`.
    pub fn named(name: &'static str, at: Ipv4Addr, (port, vendor): (u16, u16)) -> FlexNet {
        FlexNet {
            manager: LicenseServer::at(Service::Manager(name, vendor), (at, port).into()),
            vendor: LicenseServer::at(Service::CheckOut, (at, vendor).into()),
        }
    }
}

/// A frame of that type with its length and its checks.
pub fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [&[0x2f, 0, 0, 0, 0, 0], &kind.to_be_bytes()[..], &[0; 12], body].concat();
    let length = frame.len() as u16;
    frame[4..6].copy_from_slice(&length.to_be_bytes());
    let crc = crc(&frame[4..]).to_be_bytes();
    frame[2..4].copy_from_slice(&crc);
    frame[1] = (2..20).fold(47, |sum: u8, n| sum.wrapping_add(frame[n]));
    frame
}

/// "The vendor daemon is at that name, that port."
pub fn vendor_is_at(name: &str, port: u16) -> Vec<u8> {
    let body = [name.as_bytes(), &[0], &u32::from(port).to_be_bytes(), b"\0\0\0\0\0\x54\x44"];
    frame(VENDOR_IS_AT, &body.concat())
}

/// What a status program gets: the version (11.16), the host's name, the daemon's.
pub fn hello_from(name: &str) -> Vec<u8> {
    frame(HELLO, &[b"\x0b\x10\0\x13", name.as_bytes(), b"\0lmgrd\0"].concat())
}

/// Reflected, by the remainder of each bit: 14 bits, 0x2e97.
fn crc(bytes: &[u8]) -> u16 {
    let polynomial = (0..14).fold(0, |sum, bit| sum | (0x2e97 >> bit & 1) << (13 - bit));
    let mut crc = 0;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1 == 1;
            crc >>= 1;
            crc ^= if carry { polynomial } else { 0 };
        }
    }
    crc
}

/// The next frame, whose checks must be right.
pub fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 20];
    from.read_exact(&mut frame)?;
    let length = usize::from(u16::from_be_bytes([frame[4], frame[5]]));
    frame.resize(length.max(20), 0);
    from.read_exact(&mut frame[20..])?;
    let right = frame[0] == 0x2f
        && frame[2..4] == crc(&frame[4..]).to_be_bytes()
        && frame[1] == (2..20).fold(47, |sum: u8, n| sum.wrapping_add(frame[n]));
    right.then_some(frame.clone()).ok_or_else(|| Error::other(format!("no frame: {frame:02x?}")))
}

/// Type, name and, of the first kind, port.
pub fn read_answer(from: &mut impl Read) -> io::Result<(u16, String, u16)> {
    let frame = read_frame(from)?;
    let kind = u16::from_be_bytes([frame[6], frame[7]]);
    let text = &frame[if kind == HELLO { 24 } else { 20 }..];
    let end = text.iter().position(|byte| *byte == 0).expect("a name");
    let port = text.get(end + 3..end + 5).filter(|_| kind != HELLO);
    let port = port.map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    Ok((kind, String::from_utf8_lossy(&text[..end]).into_owned(), port))
}

/// A client's first words, of 147 bytes as before 11.19: who it is, and which vendor
/// daemon it wants.
pub fn hello(vendor: &str) -> [u8; 147] {
    let mut hello = [0; 147];
    hello[..4].copy_from_slice(b"\x68\0\x31\x33");
    hello[4..8].copy_from_slice(b"user");
    hello[58..58 + vendor.len()].copy_from_slice(vendor.as_bytes());
    hello[1] = hello[4..145].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    hello
}

/// What lmgrd answers to the hello that it reads: `None` where nothing came.
pub fn answer(from: &mut impl Read, name: &str, vendor: u16) -> io::Result<Option<Vec<u8>>> {
    let mut hello = vec![0; 20];
    if from.read(&mut hello[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut hello[1..])?;
    let length = match hello[0] {
        0x2f => usize::from(u16::from_be_bytes([hello[4], hello[5]])),
        0x68 => 147,
        _ => return Err(Error::other(format!("what is {hello:02x?}?"))),
    };
    hello.resize(length, 0);
    from.read_exact(&mut hello[20..])?;
    let wants_none = hello[0] == 0x68 && hello[58] == 0;
    Ok(Some(if wants_none { hello_from(name) } else { vendor_is_at(name, vendor) }))
}

/// Checks a feature out as licensed software does: every server of the
/// variable's value (`port@host`, joined by commas and colons) in turn, first
/// its manager, then the vendor daemon at the name and port that the manager tells.
/// Where nobody is there, the real clients try that port on the host of their variable,
/// in a triad on the first one's, whichever server has told it.
/// Returns the vendor daemon's address with the seat.
pub fn check_out(value: &str, feature: &str) -> io::Result<(SocketAddr, Seat)> {
    let mut errors = Vec::new();
    for group in value.split(':') {
        let (_, first_host) = group.split(',').next().and_then(at).expect("port@host");
        for server in group.split(',') {
            match check_out_of(server, first_host, feature) {
                Ok(found) => return Ok(found),
                Err(error) => errors.push(format!("{server}: {error}")),
            }
        }
    }
    Err(Error::other(errors.join("; ")))
}

fn at(server: &str) -> Option<(u16, &str)> {
    let (port, host) = server.split_once('@')?;
    Some((port.parse().ok()?, host))
}

fn check_out_of(server: &str, fallback: &str, feature: &str) -> io::Result<(SocketAddr, Seat)> {
    let (_kind, name, port) = ask(server, "demo")?;
    let named = connect(&name, port);
    let vendor = named.or_else(|_| connect(fallback, port))?;
    Ok((vendor.peer_addr()?, check_out_from(vendor, feature)?))
}

/// What the manager at `port@host` answers to a hello.
pub fn ask(server: &str, vendor: &str) -> io::Result<(u16, String, u16)> {
    let (port, host) = at(server).expect("port@host");
    let mut manager = connect(host, port)?;
    manager.write_all(&hello(vendor))?;
    read_answer(&mut manager)
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    // A resolver of the test's machine may take its time over a name that cannot be.
    let all = if host == NAME { vec![] } else { (host, port).to_socket_addrs()?.collect() };
    TcpStream::connect(&all[..])
}

/// The variables of `export A=1 B=2`, which must be all there is.
#[track_caller]
pub fn exports(line: &str) -> HashMap<String, String> {
    let exports = line.strip_prefix("export ").expect("an export");
    let pairs = exports.split(' ').map(|pair| pair.split_once('='));
    pairs
        .map(|pair| pair.expect("NAME=VALUE"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
