//! Sockets: options, connecting, passing descriptors, netlink.

use super::errno::check;
use super::fd::{CLOEXEC, NONBLOCK, own};
use super::poll::poll_readable;
use super::process::user_id;
use std::ffi::{CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::offset_of;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

unsafe extern "C" {
    safe fn listen(fd: c_int, backlog: c_int) -> c_int;
    safe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: u32) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut u32)
    -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn sendmmsg(fd: c_int, messages: *mut Sent, count: c_uint, flags: c_int) -> c_int;
    fn connect(fd: c_int, address: *const c_void, len: u32) -> c_int;
    fn recv(fd: c_int, to: *mut c_void, len: usize, flags: c_int) -> isize;
    fn getservbyname(name: *const c_char, protocol: *const c_char) -> *const Service;
}

/// Whether the other side ends the connection within that time, instead of saying more.
/// Reads nothing.
pub fn ends_within(socket: &impl AsRawFd, limit: Duration) -> bool {
    const PEEK_AND_WAIT_FOR_NOTHING: c_int = 0x42;
    let mut byte = 0_u8;
    // SAFETY: who lends the number keeps the descriptor open meanwhile.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let _ = poll_readable(socket, limit);
    // SAFETY: the kernel writes one byte at most, and there is room for it.
    let count =
        unsafe { recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, PEEK_AND_WAIT_FOR_NOTHING) };
    count == 0 || count < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// `struct servent`.
#[repr(C)]
struct Service {
    name: *const c_char,
    aliases: *const *const c_char,
    port: c_int,
    protocol: *const c_char,
}

/// The TCP port of a service (services(5)).
pub fn service_port(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    // SAFETY: the names live as long as the call; the record stays valid until the next
    // one, and no other thread of ours asks for services.
    let port = unsafe { getservbyname(name.as_ptr(), c"tcp".as_ptr()).as_ref()?.port };
    // In the network's order, in the lower half.
    Some(u16::from_be(port as u16)).filter(|port| *port > 0)
}

const IPPROTO_TCP: c_int = 6;
const SOL_SOCKET: c_int = 1;

/// `struct msghdr`; where musl has a smaller number, the kernel wants zeros.
#[repr(C)]
struct Message {
    name: *const c_void,
    name_len: u32,
    /// As `struct iovec`.
    pieces: *const c_void,
    piece_count: usize,
    control: *const c_void,
    control_len: usize,
    flags: c_int,
}

/// `struct mmsghdr`: a message, and how many bytes of it were sent.
#[repr(C)]
struct Sent {
    message: Message,
    count: c_uint,
}

/// `struct cmsghdr` with one descriptor, padded to whole words.
#[repr(C, align(8))]
struct Passed {
    len: usize,
    level: c_int,
    kind: c_int,
    descriptor: c_int,
}

fn set_option<T: ?Sized>(fd: impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (fd.as_fd().as_raw_fd(), size_of_val(value) as u32);
    // SAFETY: the kernel reads `len` bytes of the value.
    check(unsafe { setsockopt(fd, level, name, (&raw const *value).cast(), len) }).map(drop)
}

/// Acknowledges at once what has arrived (TCP_QUICKACK of tcp(7); the kernel
/// forgets it soon). No error on a socket that is not TCP.
pub fn acknowledge(socket: impl AsFd) {
    const TCP_QUICKACK: c_int = 12;
    let _ = set_option(socket, IPPROTO_TCP, TCP_QUICKACK, &1_i32);
}

/// How long sent data may stay unacknowledged before the kernel gives the
/// connection up (TCP_USER_TIMEOUT, tcp(7)).
///
/// # Errors
/// ENOPROTOOPT: not a TCP socket.
pub fn set_user_timeout(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    const TCP_USER_TIMEOUT: c_int = 18;
    let ms = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
    set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms)
}

/// The socket takes no more while it holds so many bytes that the network has not
/// been given yet (TCP_NOTSENT_LOWAT, tcp(7)); what is on the way does not count, so it
/// costs no throughput.
///
/// # Errors
/// ENOPROTOOPT: not a TCP socket, or Linux before 3.12.
pub fn set_unsent_limit(socket: impl AsFd, bytes: c_int) -> io::Result<()> {
    const TCP_NOTSENT_LOWAT: c_int = 25;
    set_option(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes)
}

/// Lets the kernel ask whether the other end is still there: after `idle`
/// without a word, then every `interval` (tcp(7)). Whole seconds; costs no
/// wake-up of ours.
///
/// # Errors
/// ENOPROTOOPT: not a TCP socket.
pub fn set_keepalive(socket: impl AsFd, idle: Duration, interval: Duration) -> io::Result<()> {
    const SO_KEEPALIVE: c_int = 9;
    const TCP_KEEPIDLE: c_int = 4;
    const TCP_KEEPINTVL: c_int = 5;
    let seconds = |d: Duration| c_int::try_from(d.as_secs().max(1)).unwrap_or(c_int::MAX);
    let socket = socket.as_fd();
    set_option(socket, SOL_SOCKET, SO_KEEPALIVE, &1_i32)?;
    set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, &seconds(idle))?;
    set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, &seconds(interval))
}

/// Closing this socket will reset the connection instead of ending it in
/// order (SO_LINGER of zero seconds, socket(7)).
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    const SO_LINGER: c_int = 13;
    let linger: [c_int; 2] = [1, 0];
    set_option(socket, SOL_SOCKET, SO_LINGER, &linger)
}

/// Bytes that the other end has not acknowledged (SIOCOUTQ, tcp(7)).
pub fn unacknowledged(socket: &TcpStream) -> c_int {
    const SIOCOUTQ: c_ulong = 0x5411;
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes one int to the address given. musl has the
    // request as an int, which a register holds as well.
    unsafe { ioctl(socket.as_raw_fd(), SIOCOUTQ, &raw mut bytes) };
    bytes
}

/// What the kernel has received over a TCP connection, in bytes (TCP_INFO, tcp(7));
/// `None` for other sockets, and before Linux 4.1.
pub fn bytes_received(socket: impl AsFd) -> Option<u64> {
    const TCP_INFO: c_int = 11;
    // `struct tcp_info`: 8 bytes, 24 words, and then the fourth double word.
    const RECEIVED: usize = 8 + 24 * 4 + 3 * 8;
    let mut info = [0u8; RECEIVED + 8];
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes to the address given.
    let got = unsafe {
        let (fd, info) = (socket.as_fd().as_raw_fd(), info.as_mut_ptr().cast());
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &raw mut size)
    };
    let bytes = info[RECEIVED..].try_into().ok()?;
    (got == 0 && size as usize == info.len()).then(|| u64::from_ne_bytes(bytes))
}

/// Lets the kernel hold `backlog` connections that have not been accepted yet.
/// std's listeners hold 128, and whoever comes then waits a second for its SYN.
pub fn set_backlog(listener: impl AsFd, backlog: i32) -> io::Result<()> {
    check(listen(listener.as_fd().as_raw_fd(), backlog)).map(drop)
}

/// Connects to a Unix socket without waiting.
///
/// # Errors
/// `WouldBlock`: its line of waiting connections is full. `NotFound`,
/// `ConnectionRefused`: nobody listens there. `InvalidInput`: the path is too long.
pub fn connect_unix(path: &str) -> io::Result<UnixStream> {
    const AF_UNIX: u16 = 1;
    let address = [&AF_UNIX.to_ne_bytes(), path.as_bytes(), &[0]].concat();
    let socket = new_socket(AF_UNIX)?;
    connect_to(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

/// The same, but only to a process of this user's.
///
/// # Errors
/// Those of [`connect_unix`]; `PermissionDenied`: another user's listens there.
pub fn connect_own(path: &str) -> io::Result<UnixStream> {
    let socket = connect_unix(path)?;
    match peer(&socket)?.user {
        user if user == user_id() => Ok(socket),
        user => {
            let why = format!("a process of user {user} listens there");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
    }
}

/// A stream socket that never waits.
fn new_socket(family: u16) -> io::Result<OwnedFd> {
    const SOCK_STREAM: c_int = 1;
    own(socket(family.into(), SOCK_STREAM | CLOEXEC | NONBLOCK, 0))
}

/// To a `struct sockaddr` of whatever family.
fn connect_to(socket: &OwnedFd, address: &[u8]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), address.len() as u32);
    // SAFETY: the kernel reads `len` bytes of the address.
    check(unsafe { connect(fd, address.as_ptr().cast(), len) }).map(drop)
}

/// Who is at the other end of a Unix socket.
#[repr(C)]
pub struct Peer {
    /// The process; 0: of another namespace.
    pub process: c_int,
    /// Its user.
    pub user: u32,
    group: u32,
}

/// The process at the other end: who connected or, to whom connects, who listened;
/// of a pair, who made it (SO_PEERCRED, unix(7)).
///
/// # Errors
/// Not a Unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    const SO_PEERCRED: c_int = 17;
    let mut peer = Peer { process: 0, user: u32::MAX, group: u32::MAX };
    let mut size = size_of_val(&peer) as u32;
    let (fd, out) = (socket.as_fd().as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: `struct ucred`, of which the kernel writes at most `size` bytes.
    check(unsafe { getsockopt(fd, SOL_SOCKET, SO_PEERCRED, out, &raw mut size) })?;
    Ok(peer)
}

/// Sends bytes and behind them, `times` times, a zero byte with a descriptor
/// (SCM_RIGHTS, unix(7)), all in one call.
///
/// # Errors
/// Those of sendmmsg(2): nobody is there any more, or this user has too many
/// descriptors under way. `WriteZero`: there was no room for all of it.
pub fn send_with_descriptor(
    to: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
    times: usize,
) -> io::Result<()> {
    const SCM_RIGHTS: c_int = 1;
    const MSG_NOSIGNAL: c_int = 0x4000;
    let (bytes, zero) = (IoSlice::new(bytes), IoSlice::new(&[0]));
    let passed = Passed {
        len: offset_of!(Passed, descriptor) + size_of::<c_int>(),
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        descriptor: descriptor.as_raw_fd(),
    };
    let message = |piece: &IoSlice<'_>, control: Option<&Passed>| Sent {
        message: Message {
            name: std::ptr::null(),
            name_len: 0,
            pieces: std::ptr::from_ref(piece).cast(),
            piece_count: 1,
            control: control.map_or(std::ptr::null(), |control| std::ptr::from_ref(control).cast()),
            control_len: control.map_or(0, |_| size_of::<Passed>()),
            flags: 0,
        },
        count: 0,
    };
    let mut all = vec![message(&bytes, None)];
    all.extend((0..times).map(|_| message(&zero, Some(&passed))));
    let mut rest = &mut all[..];
    // What keeps a message back is told by a call that begins with it.
    while !rest.is_empty() {
        // SAFETY: all that the messages point to lives until the call returns, which writes
        // nothing but their counts.
        let sent = unsafe {
            sendmmsg(to.as_raw_fd(), rest.as_mut_ptr(), rest.len() as c_uint, MSG_NOSIGNAL)
        };
        rest = &mut rest[check(sent)? as usize..];
    }
    match all[0].count as usize == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// A netlink socket to the kernel's socket table (sock_diag(7)); each write is
/// a request, each read an answer.
///
/// # Errors
/// EPROTONOSUPPORT where the kernel was built without it, EPERM under a seccomp
/// filter.
pub fn sock_diag() -> io::Result<File> {
    const AF_NETLINK: c_int = 16;
    const SOCK_RAW: c_int = 3;
    const NETLINK_SOCK_DIAG: c_int = 4;
    own(socket(AF_NETLINK, SOCK_RAW | CLOEXEC, NETLINK_SOCK_DIAG)).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_that_is_not_to_be_had() {
        for (length, why) in [(107, io::ErrorKind::NotFound), (108, io::ErrorKind::InvalidInput)] {
            let path = "/".to_owned() + &"n".repeat(length - 1);
            assert_eq!(connect_unix(&path).unwrap_err().kind(), why);
        }
    }
}
