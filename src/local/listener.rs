//! Binds a server's ports on every loopback family, and accepts clients there.

use super::client::Client;
use super::random_port::{Draw, random_loopback};
use crate::error::{Code, Context, Error, Result, cause};
use crate::log::Log;
use crate::sys::{self, errno, node_name};
use crate::target::{Destination, Forward, ForwardSide, Server, Target};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// One listening socket.
#[derive(Debug)]
pub enum Listener {
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
    fn at(path: PathBuf) -> SocketFile {
        let id = SocketFile::stat(&path);
        SocketFile { path, id }
    }

    fn stat(path: &std::path::Path) -> Option<(u64, u64)> {
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
pub struct Door {
    /// One socket per address family or address.
    pub sockets: Vec<Listener>,
    /// What the gateway connects to.
    pub to: Destination,
}

/// A license server with all its ports bound.
#[derive(Debug)]
pub struct BoundServer {
    /// `host:port` as the gateway knows it.
    pub name: String,
    /// The host to announce to the software.
    pub host: String,
    /// The port to announce.
    pub port: u16,
    /// Its doors, the announced port's first, as indices into [`Bound::doors`].
    pub doors: std::ops::Range<usize>,
}

/// A variable and the servers that stand behind it.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Independent groups (`:`) of servers that act as one (`,`), as indices into
    /// [`Bound::servers`].
    pub groups: Vec<Vec<usize>>,
}

/// Everything that is bound.
#[derive(Debug, Default)]
pub struct Bound {
    /// Every forwarded port.
    pub doors: Vec<Door>,
    /// Every license server of the targets.
    pub servers: Vec<BoundServer>,
    /// What to announce.
    pub variables: Vec<Variable>,
}

/// How many ports or addresses are tried before giving up.
const DRAWS: u32 = 10;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

impl Bound {
    /// Binds the ports of all forwards and targets, on loopback or on `listen`.
    ///
    /// # Errors
    /// [`Code::NoPort`]: a fixed port is taken, or ten draws found none free.
    pub fn bind(
        forwards: &[Forward],
        targets: &[Target],
        listen: Option<IpAddr>,
        log: &Log,
    ) -> Result<Bound> {
        let mut bound = Bound::default();
        for forward in forwards {
            bound.doors.push(Door {
                sockets: bind_forward(&forward.listen)?,
                to: forward.to.clone(),
            });
        }
        let kept = targets
            .iter()
            .flat_map(|target| &target.servers)
            .flat_map(|server| server.kept.iter().copied());
        let draw = Draw::new(kept.collect());
        for target in targets {
            if !matches!(target.servers.len(), 1 | 3) {
                log.note(format_args!(
                    "warning: {}: {} servers joined by commas; FlexNet's redundant servers are exactly three, and independent ones are targets of their own ({}=a:1 {}=b:1)",
                    target.name,
                    target.servers.len(),
                    target.name,
                    target.name
                ));
            }
            let group = target
                .servers
                .iter()
                .map(|server| bound.add(server, listen, &draw, log))
                .collect::<Result<Vec<usize>>>()?;
            match bound.variables.iter_mut().find(|v| v.name == target.name) {
                Some(variable) => variable.groups.push(group),
                None => bound.variables.push(Variable {
                    name: target.name.clone(),
                    groups: vec![group],
                }),
            }
        }
        Ok(bound)
    }

    fn add(
        &mut self,
        server: &Server,
        listen: Option<IpAddr>,
        draw: &Draw,
        log: &Log,
    ) -> Result<usize> {
        let (host, bound) = match listen {
            Some(address) => bind_for_other_nodes(server, address, draw)?,
            None => bind_for_this_node(server, draw, log)?,
        };
        let first = self.doors.len();
        let port = bound[0].1;
        for ((sockets, _), remote) in bound
            .into_iter()
            .zip([server.port].into_iter().chain(server.kept.iter().copied()))
        {
            self.doors.push(Door {
                sockets,
                to: Destination::Tcp {
                    host: server.host.clone(),
                    port: remote,
                },
            });
        }
        self.servers.push(BoundServer {
            name: server.to_string(),
            host,
            port,
            doors: first..self.doors.len(),
        });
        Ok(self.servers.len() - 1)
    }
}

/// Ports bound for one server: the announced one first.
type Ports = Vec<(Vec<Listener>, u16)>;

fn bind_for_this_node(server: &Server, draw: &Draw, log: &Log) -> Result<(String, Ports)> {
    let mut ports: Ports = vec![bind_random(draw, bind_loopback)?];
    let taken = server.kept.iter().find(|port| match bind_loopback(**port) {
        Ok(sockets) => {
            ports.push((sockets, **port));
            false
        }
        Err(_) => true,
    });
    let Some(taken) = taken else {
        return Ok(("localhost".into(), ports));
    };
    drop(ports);
    // The license manager tells its client the port's number, so the number
    // stays and the address moves.
    let numbers = || [server.port].into_iter().chain(server.kept.iter().copied());
    let mut refusal = None;
    for _ in 0..DRAWS {
        let address = random_loopback();
        let all: io::Result<Ports> = numbers()
            .map(|port| Ok((vec![bind_one(address.into(), port)?], port)))
            .collect();
        match all {
            Ok(ports) => {
                log.note(format_args!(
                    "port {taken} is taken on this node: license server {server} is at {address} here instead of localhost"
                ));
                return Ok((address.to_string(), ports));
            }
            Err(e) => refusal = Some(e),
        }
    }
    Err(Error::new(
        Code::NoPort,
        format!(
            "cannot bind port {taken} for license server {server}: it is taken on localhost, and on {DRAWS} other loopback addresses: {}",
            refusal.as_ref().map(cause).unwrap_or_default()
        ),
    ))
}

fn bind_for_other_nodes(server: &Server, address: IpAddr, draw: &Draw) -> Result<(String, Ports)> {
    if let Err(e) = bind_one(address, 0)
        && e.kind() == ErrorKind::AddrNotAvailable
    {
        let what = format!("--listen {address}: no interface of this node has that address");
        return Err(Error::new(Code::Usage, what));
    }
    let mut ports: Ports = vec![bind_random(draw, |port| {
        Ok(vec![bind_one(address, port)?])
    })?];
    for port in &server.kept {
        let socket = bind_one(address, *port).map_err(|e| {
            Error::new(
                Code::NoPort,
                format!(
                    "cannot bind port {port} on {address} for license server {server}: {}; its number cannot be changed, so another node or another job's end is the way out",
                    cause(&e)
                ),
            )
        })?;
        ports.push((vec![socket], *port));
    }
    let host = if address.is_unspecified() {
        node_name()
    } else {
        address.to_string()
    };
    Ok((host, ports))
}

/// A random free port, by `bind`, which takes it or says why not.
fn bind_random(
    draw: &Draw,
    bind: impl Fn(u16) -> io::Result<Vec<Listener>>,
) -> Result<(Vec<Listener>, u16)> {
    let mut refusal = None;
    for _ in 0..DRAWS {
        let port = draw.number();
        match bind(port) {
            Ok(sockets) => return Ok((sockets, port)),
            Err(e) => refusal = Some((port, e)),
        }
    }
    let (port, e) = refusal.unwrap_or((0, ErrorKind::AddrInUse.into()));
    Err(Error::new(
        Code::NoPort,
        format!(
            "cannot bind a local port: {DRAWS} random ones were not to be had, the last was {port}: {}",
            cause(&e)
        ),
    ))
}

fn bind_one(address: IpAddr, port: u16) -> io::Result<Listener> {
    let listener = TcpListener::bind((address, port))?;
    listener.set_nonblocking(true)?;
    sys::set_backlog(&listener, BACKLOG)?;
    Ok(Listener::Tcp(listener))
}

/// The port on 127.0.0.1 and ::1 together, so that `localhost` is ours whichever
/// of the two a client tries first; on 127.0.0.1 alone where there is no ::1.
fn bind_loopback(port: u16) -> io::Result<Vec<Listener>> {
    let v4 = bind_one(Ipv4Addr::LOCALHOST.into(), port)?;
    match bind_one(Ipv6Addr::LOCALHOST.into(), port) {
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

/// The local side of `-L`, as ssh binds it.
fn bind_forward(side: &ForwardSide) -> Result<Vec<Listener>> {
    let (bind, port) = match side {
        ForwardSide::Unix(path) => return bind_unix(path).map(|socket| vec![socket]),
        ForwardSide::Tcp { bind, port } => (bind.as_deref(), *port),
    };
    let sockets = match bind {
        None | Some("localhost") => bind_loopback(port),
        // Takes IPv4 as well, unless net.ipv6.bindv6only is set.
        Some("" | "*") => match bind_one(Ipv6Addr::UNSPECIFIED.into(), port) {
            Ok(socket) => Ok(vec![socket]),
            Err(e) if no_such_family(&e) => {
                bind_one(Ipv4Addr::UNSPECIFIED.into(), port).map(|socket| vec![socket])
            }
            Err(e) => Err(e),
        },
        Some(host) => std::net::ToSocketAddrs::to_socket_addrs(&(host, port)).and_then(|all| {
            all.map(|address| bind_one(address.ip(), address.port()))
                .collect()
        }),
    };
    sockets.map_err(|e| {
        let place = bind.filter(|b| !b.is_empty()).unwrap_or("localhost");
        Error::new(
            Code::NoPort,
            format!(
                "cannot listen on {place} port {port}: {}; choose another local port for -L",
                cause(&e)
            ),
        )
    })
}

fn bind_unix(path: &std::path::Path) -> Result<Listener> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // ssh's StreamLocalBindMask: the owner alone may connect.
    sys::set_umask(0o177);
    let listener = UnixListener::bind(&path);
    sys::set_umask(0o077);
    let listener = listener.map_err(|e| {
        Error::new(
            Code::NoPort,
            format!(
                "cannot listen on the Unix socket {}: {}; choose another file or remove this one",
                path.display(),
                cause(&e)
            ),
        )
    })?;
    listener
        .set_nonblocking(true)
        .context(Code::System, || "cannot prepare a Unix socket".into())?;
    Ok(Listener::Unix {
        socket: listener,
        _file: SocketFile::at(path),
    })
}

impl Listener {
    /// The next client, with its address and ours where it came over TCP.
    ///
    /// # Errors
    /// `WouldBlock`: nobody is there. EMFILE, ENFILE, ENOBUFS, ENOMEM: out of
    /// something. Others concern this one client only.
    pub fn accept(&self) -> io::Result<(Client, Option<(SocketAddr, SocketAddr)>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                // License managers speak in small messages, each waited for.
                stream.set_nodelay(true)?;
                let ours = stream.local_addr()?;
                Ok((Client::Tcp(stream), Some((peer, ours))))
            }
            Listener::Unix { socket, .. } => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Client::Unix(stream), None))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix { socket, .. } => socket.as_fd(),
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
