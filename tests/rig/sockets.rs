//! What the kernel tells about TCP sockets (proc_net_tcp(5)), and what std does not tell it.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

/// A TCP socket of this network, whoever has it.
#[derive(Debug)]
pub struct Socket {
    /// Its own address, as the kernel writes it.
    pub address: String,
    /// Its own port.
    pub local: u16,
    /// The other one's.
    pub remote: u16,
    /// [`LISTENS`] and so on.
    pub state: u8,
}

/// It waits for clients.
pub const LISTENS: u8 = 0x0A;
/// Nobody has it any more.
const IS_A_MEMORY: u8 = 0x06;

/// All of both families.
pub fn all() -> Vec<Socket> {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/net/{name}")));
    let lines = tables.iter().flatten().flat_map(|table| table.lines());
    lines.filter_map(socket).collect()
}

/// Whether a connection to that port has been and is no more.
pub fn has_ended(port: u16) -> bool {
    let ours =
        |socket: &Socket| [socket.local, socket.remote].contains(&port) && socket.state != LISTENS;
    let ours: Vec<Socket> = all().into_iter().filter(ours).collect();
    !ours.is_empty() && ours.iter().all(|socket| socket.state == IS_A_MEMORY)
}

/// Lets the kernel hold so many connections that have not been accepted yet (listen(2)).
#[allow(unsafe_code)]
pub fn set_backlog(listener: &TcpListener, backlog: i32) {
    unsafe extern "C" {
        safe fn listen(fd: c_int, backlog: c_int) -> c_int;
    }
    let done = listen(listener.as_raw_fd(), backlog);
    assert_eq!(done, 0, "listen: {}", io::Error::last_os_error());
}

fn socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, local) = fields.next()?.split_once(':')?;
    let (_, remote) = fields.next()?.split_once(':')?;
    Some(Socket {
        address: address.into(),
        local: u16::from_str_radix(local, 16).ok()?,
        remote: u16::from_str_radix(remote, 16).ok()?,
        state: u8::from_str_radix(fields.next()?, 16).ok()?,
    })
}
