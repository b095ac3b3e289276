//! Binds a server's ports on every loopback family, and accepts clients there.

use super::client::Usage;
use crate::error::{Code, Context, Result};
use crate::sys::{self, errno};
use crate::target::{Destination, Forward, ForwardSide};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One listening socket.
#[derive(Debug)]
pub enum ListenSocket {
    /// A TCP port on one address.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix {
        /// Listens.
        socket: UnixListener,
        /// Lives as long.
        _file: SocketFile,
    },
}

/// A Unix socket's file, removed with this value, unless another stands there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: Option<(u64, u64)>,
}

impl SocketFile {
    fn stat(path: &Path) -> Option<(u64, u64)> {
        let stat = fs::symlink_metadata(path).ok()?;
        Some((stat.dev(), stat.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && SocketFile::stat(&self.path) == self.id {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// One forwarded port: its listening sockets and where they lead.
#[derive(Debug)]
pub struct Listener {
    /// One socket per address family or address.
    pub sockets: Vec<ListenSocket>,
    /// What the gateway connects to.
    pub to: Destination,
    /// Who is there.
    pub usage: Usage,
}

impl Listener {
    /// Without clients yet.
    pub fn new(sockets: Vec<ListenSocket>, to: Destination) -> Listener {
        Listener { sockets, to, usage: Usage::new() }
    }

    /// Sockets that listen already.
    pub fn adopt(sockets: Vec<OwnedFd>, to: Destination) -> Listener {
        Listener::new(sockets.into_iter().map(ListenSocket::adopt).collect(), to)
    }
}

/// Connections that the kernel holds until they are accepted.
const MAX_BACKLOG: i32 = 4096;

fn bind_one(address: SocketAddr) -> io::Result<ListenSocket> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    sys::set_backlog(&listener, MAX_BACKLOG)?;
    Ok(ListenSocket::Tcp(listener))
}

/// The port on that address alone.
pub fn bind_at(address: impl Into<IpAddr>, port: u16) -> io::Result<Vec<ListenSocket>> {
    bind_one((address, port).into()).map(|socket| vec![socket])
}

/// The port on 127.0.0.1 and ::1 together, so that `localhost` is ours whichever
/// of the two a client tries first; on 127.0.0.1 alone where there is no ::1.
pub fn bind_loopback(port: u16) -> io::Result<Vec<ListenSocket>> {
    let v4 = bind_one((Ipv4Addr::LOCALHOST, port).into())?;
    match bind_one((Ipv6Addr::LOCALHOST, port).into()) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(e) if no_such_family(&e) => Ok(vec![v4]),
        Err(e) => Err(e),
    }
}

fn no_such_family(e: &io::Error) -> bool {
    e.kind() == ErrorKind::AddrNotAvailable || e.raw_os_error() == Some(errno::EAFNOSUPPORT)
}

/// Removes the Unix sockets that stand where forwards want theirs, as ssh does
/// with StreamLocalBindUnlink; nothing but sockets.
pub fn make_way(forwards: &[Forward]) {
    for forward in forwards {
        if let ForwardSide::Unix(path) = &forward.listen
            && fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// The local side of `-L`, as ssh binds it; a name is looked up within `limit`.
pub fn bind_forward(side: &ForwardSide, limit: Duration) -> Result<Vec<ListenSocket>> {
    let (bind, port) = match side {
        ForwardSide::Unix(path) => return bind_unix(path).map(|socket| vec![socket]),
        ForwardSide::Tcp { bind, port } => (bind.as_deref(), *port),
    };
    let sockets = match bind {
        None | Some("localhost") => bind_loopback(port),
        // Takes IPv4 as well, unless net.ipv6.bindv6only is set.
        Some("" | "*") => match bind_at(Ipv6Addr::UNSPECIFIED, port) {
            Err(e) if no_such_family(&e) => bind_at(Ipv4Addr::UNSPECIFIED, port),
            bound => bound,
        },
        Some(host) => {
            let all = sys::look_up(&[host], port, limit);
            all.and_then(|all| all.into_iter().map(bind_one).collect())
        }
    };
    let place = bind.filter(|b| !b.is_empty()).unwrap_or("localhost");
    let what = || format!("cannot listen on {place} port {port}");
    // What only a look-up has.
    let no_answer = sockets.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut);
    if no_answer {
        return sockets.context(Code::GatewayDown, what);
    }
    sockets.advise(Code::NoPort, what, "choose another local port for -L")
}

fn bind_unix(path: &Path) -> Result<ListenSocket> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // ssh's StreamLocalBindMask: the owner alone may connect.
    sys::set_umask(0o177);
    let listener = UnixListener::bind(&path);
    sys::set_umask(0o077);
    let what = || format!("cannot listen on the Unix socket {}", path.display());
    let socket = listener.advise(Code::NoPort, what, "choose another file or remove this one")?;
    let nonblocking = socket.set_nonblocking(true);
    nonblocking.context(Code::System, || "cannot prepare a Unix socket".into())?;
    let id = SocketFile::stat(&path);
    let _file = SocketFile { path, id };
    Ok(ListenSocket::Unix { socket, _file })
}

impl ListenSocket {
    fn adopt(socket: OwnedFd) -> ListenSocket {
        let listener = TcpListener::from(socket);
        if listener.local_addr().is_ok() {
            return ListenSocket::Tcp(listener);
        }
        let socket = UnixListener::from(OwnedFd::from(listener));
        let address = socket.local_addr().ok();
        let path = address.and_then(|a| a.as_pathname().map(Path::to_owned)).unwrap_or_default();
        let id = SocketFile::stat(&path);
        ListenSocket::Unix { socket, _file: SocketFile { path, id } }
    }

    /// Where it listens, if that is TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            ListenSocket::Tcp(listener) => listener.local_addr().ok(),
            ListenSocket::Unix { .. } => None,
        }
    }

    /// The descriptor's.
    pub fn number(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// The next client's socket; its address and ours, where it came over TCP.
    ///
    /// # Errors
    /// `WouldBlock`: nobody is there. EMFILE, ENFILE, ENOBUFS, ENOMEM: out of
    /// something. Others concern this one client only.
    pub fn accept(&self) -> io::Result<(TcpStream, Option<(SocketAddr, SocketAddr)>)> {
        let (socket, ends) = match self {
            ListenSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                // License managers speak in small messages, each waited for.
                stream.set_nodelay(true)?;
                let ours = stream.local_addr()?;
                (stream, Some((peer, ours)))
            }
            ListenSocket::Unix { socket, .. } => (OwnedFd::from(socket.accept()?.0).into(), None),
        };
        socket.set_nonblocking(true)?;
        Ok((socket, ends))
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ListenSocket::Tcp(listener) => listener.as_fd(),
            ListenSocket::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port taken on one family only is no port for us.
    #[test]
    fn both_families_or_neither() {
        // A port that was given back may be somebody else's a moment later.
        for _ in 0..10 {
            let Ok(other) = TcpListener::bind("[::1]:0") else {
                eprintln!("SKIPPED: no ::1 here");
                return;
            };
            let port = other.local_addr().unwrap().port();
            assert!(bind_loopback(port).is_err());
            drop(other);
            if let Ok(listeners) = bind_loopback(port) {
                assert_eq!(listeners.len(), 2);
                return;
            }
        }
        panic!("ten free ports, and none to be had");
    }
}
