//! Binds the ports of every forward and license server, before anything is announced.

use super::listener::{ListenSocket, Listener, bind_at, bind_forward, bind_loopback};
use super::localhost;
use super::random_port::{RandomPort, random_loopback};
use crate::error::{Code, Context, Error, Result};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys::node_name;
use crate::target::{Behind, Destination, Forward, Server, Target, WebHosts};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};

/// A license server, or a target's web servers, with all ports bound.
#[derive(Debug)]
pub struct BoundServer {
    /// As messages call it: `host:port` as the gateway knows it.
    pub name: String,
    /// Whether it is web servers.
    pub is_web: bool,
    /// The host to announce to the software.
    pub host: String,
    /// The port to announce.
    pub port: u16,
    /// Its listeners, the announced port's first, as indices into [`LocalPorts::listeners`].
    pub listeners: std::ops::Range<usize>,
    /// Where its ports are bound.
    pub at: Addresses,
}

/// Where a server's ports are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// On every loopback family.
    Loopback,
    /// There alone.
    One(IpAddr),
}

impl Addresses {
    fn bind(self, port: u16) -> io::Result<Vec<ListenSocket>> {
        match self {
            Addresses::Loopback => bind_loopback(port),
            Addresses::One(address) => bind_at(address, port),
        }
    }

    /// Binds a random free port there. Returns it, and what leads through it to `to`.
    ///
    /// # Errors
    /// [`Code::NoPort`]: ten draws found none free.
    pub fn bind_random(self, random: &RandomPort, to: Destination) -> Result<(u16, Listener)> {
        let (sockets, port) = bind_random(self, random)?;
        Ok((port, Listener::new(sockets, to)))
    }
}

/// A variable and the servers that stand behind it.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Independent groups (`:`) of servers that act as one (`,`), as indices into
    /// [`LocalPorts::servers`].
    pub groups: Vec<Vec<usize>>,
}

/// Everything that is bound.
#[derive(Debug, Default)]
pub struct LocalPorts {
    /// Every forwarded port.
    pub listeners: Vec<Listener>,
    /// Every license server of the targets, and the web servers of each.
    pub servers: Vec<BoundServer>,
    /// What to announce.
    pub variables: Vec<Variable>,
    /// Draws further ports.
    pub random: RandomPort,
    /// What people should know of it, once it serves.
    pub notes: Vec<String>,
}

/// Where the targets' ports are bound.
enum Place {
    /// On loopback, which the value calls so.
    ThisNode(String),
    /// There, for other nodes.
    Address(IpAddr),
    /// They are bound already.
    Bound(std::vec::IntoIter<Listener>),
}

/// What ports are bound for.
struct Wanted<'a> {
    /// As messages call it.
    name: String,
    /// That port, which is drawn here,
    port: u16,
    /// and those, which keep their numbers.
    kept: &'a [u16],
}

impl Wanted<'_> {
    fn of(server: &Server) -> Wanted<'_> {
        Wanted { name: server.to_string(), port: server.port, kept: &server.kept }
    }

    fn for_proxy(hosts: &WebHosts) -> Wanted<'static> {
        let first = hosts.first();
        let name = first.map_or_else(|| hosts.to_string(), |first| first.to_string());
        Wanted { name, port: 0, kept: &[] }
    }
}

/// How many ports or addresses are tried before giving up.
const MAX_DRAWS: u32 = 10;

impl LocalPorts {
    /// Binds the ports of all forwards and targets, on loopback or on `listen`.
    ///
    /// # Errors
    /// [`Code::NoPort`]: a fixed port is taken, or ten draws found none free.
    pub fn bind(
        forwards: &[Forward],
        targets: &[Target],
        listen: Option<IpAddr>,
        limits: Limits,
        log: &Log,
    ) -> Result<LocalPorts> {
        let mut bound = LocalPorts::default();
        for forward in forwards {
            let sockets = bind_forward(&forward.listen, limits.next_step())?;
            bound.listeners.push(Listener::new(sockets, forward.to.clone()));
        }
        let mut place = match listen {
            Some(address) => Place::Address(address),
            None if targets.is_empty() => Place::ThisNode("localhost".into()),
            None => Place::ThisNode(localhost::name(log)),
        };
        bound.add_all(targets, &mut place, log)?;
        Ok(bound)
    }

    /// What was bound for these forwards and targets, in the order of
    /// [`LocalPorts::listeners`], and perhaps more.
    ///
    /// # Errors
    /// [`Code::NoPort`]: it was for others.
    pub fn adopt(
        forwards: &[Forward],
        targets: &[Target],
        listeners: Vec<Listener>,
        log: &Log,
    ) -> Result<LocalPorts> {
        let mut listeners = listeners.into_iter();
        let mut bound = LocalPorts::default();
        bound.listeners.extend(listeners.by_ref().take(forwards.len()));
        let mut place = Place::Bound(listeners);
        bound.add_all(targets, &mut place, log)?;
        if let Place::Bound(more) = place {
            bound.listeners.extend(more);
        }
        Ok(bound)
    }

    fn add_all(&mut self, targets: &[Target], place: &mut Place, log: &Log) -> Result<()> {
        let servers = targets.iter().flat_map(Target::servers);
        let kept = servers.flat_map(|server| server.kept.iter().copied());
        self.random = RandomPort::new(kept.collect());
        for target in targets {
            let (name, count) = (&target.name, target.servers().len());
            if !matches!(count, 0 | 1 | 3) {
                log.note(format_args!(
                    "warning: {name}: {count} servers joined by commas; FlexNet's redundant servers are exactly three, and independent ones are targets of their own ({name}=a:1 {name}=b:1)"
                ));
            }
            let group = match &target.behind {
                Behind::Licenses(servers) => {
                    let group = servers.iter().map(|server| {
                        let host = || server.host.clone();
                        let to = |port| Destination::Tcp { host: host(), port };
                        self.add(Wanted::of(server), false, to, place)
                    });
                    group.collect::<Result<Vec<usize>>>()?
                }
                Behind::Web(hosts) => {
                    let to = |_| Destination::Web(hosts.clone());
                    vec![self.add(Wanted::for_proxy(hosts), true, to, place)?]
                }
            };
            match self.variables.iter_mut().find(|v| v.name == *name) {
                Some(variable) => variable.groups.push(group),
                None => self.variables.push(Variable { name: name.clone(), groups: vec![group] }),
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        wanted: Wanted<'_>,
        is_web: bool,
        to: impl Fn(u16) -> Destination,
        place: &mut Place,
    ) -> Result<usize> {
        let (host, at, bound) = match place {
            Place::Address(address) => bind_for_other_nodes(&wanted, *address, &self.random)?,
            Place::ThisNode(name) => {
                bind_for_this_node(&wanted, name, &self.random, &mut self.notes)?
            }
            Place::Bound(listeners) => take_bound(&wanted, listeners)?,
        };
        let first = self.listeners.len();
        let announced = bound[0].1;
        let remote = [&[wanted.port], wanted.kept].concat();
        for ((sockets, _), port) in bound.into_iter().zip(remote) {
            self.listeners.push(Listener::new(sockets, to(port)));
        }
        self.servers.push(BoundServer {
            name: wanted.name,
            is_web,
            host,
            port: announced,
            listeners: first..self.listeners.len(),
            at,
        });
        Ok(self.servers.len() - 1)
    }
}

/// The ports bound for one server, the announced one first.
type ServerPorts = Vec<(Vec<ListenSocket>, u16)>;

/// Binds these ports, too, or says which of them is not to be had.
fn bind_all(
    ports: &mut ServerPorts,
    numbers: &[u16],
    at: Addresses,
) -> std::result::Result<(), (u16, io::Error)> {
    for number in numbers {
        let sockets = at.bind(*number).map_err(|e| (*number, e))?;
        ports.push((sockets, *number));
    }
    Ok(())
}

/// Binds a random free port.
fn bind_random(at: Addresses, random: &RandomPort) -> Result<(Vec<ListenSocket>, u16)> {
    let attempt = || {
        let port = random.draw();
        at.bind(port).map(|sockets| (sockets, port)).map_err(|e| (port, e))
    };
    draw(attempt).or_else(|(port, e)| {
        Err(e).context(Code::NoPort, || {
            format!("cannot bind a local port: {MAX_DRAWS} random ones were not to be had, the last was {port}")
        })
    })
}

/// The first success, or the last failure, of [`MAX_DRAWS`] attempts.
fn draw<T, E>(mut attempt: impl FnMut() -> std::result::Result<T, E>) -> std::result::Result<T, E> {
    (1..MAX_DRAWS).fold(attempt(), |drawn, _| drawn.or_else(|_| attempt()))
}

fn bind_for_this_node(
    wanted: &Wanted<'_>,
    name: &str,
    random: &RandomPort,
    notes: &mut Vec<String>,
) -> Result<(String, Addresses, ServerPorts)> {
    let mut ports = vec![bind_random(Addresses::Loopback, random)?];
    let Err((taken, _)) = bind_all(&mut ports, wanted.kept, Addresses::Loopback) else {
        return Ok((name.to_owned(), Addresses::Loopback, ports));
    };
    // The license manager tells its client the port's number, so the number
    // stays and the address moves.
    let numbers = [&[wanted.port], wanted.kept].concat();
    let address = draw(|| {
        let address = random_loopback();
        ports.clear();
        let bound = bind_all(&mut ports, &numbers, Addresses::One(address.into()));
        bound.map_or_else(|(_, e)| Err(e), |()| Ok(address))
    });
    let address = address.context(Code::NoPort, || {
        format!("cannot bind port {taken} for license server {}: it is taken on localhost, and on {MAX_DRAWS} other loopback addresses", wanted.name)
    })?;
    notes.push(format!(
        "port {taken} is taken on this node: license server {} is at {address} here instead of localhost; nothing has to be done",
        wanted.name
    ));
    Ok((address.to_string(), Addresses::One(address.into()), ports))
}

fn bind_for_other_nodes(
    wanted: &Wanted<'_>,
    address: IpAddr,
    random: &RandomPort,
) -> Result<(String, Addresses, ServerPorts)> {
    let at = Addresses::One(address);
    if at.bind(0).is_err_and(|e| e.kind() == ErrorKind::AddrNotAvailable) {
        let what = format!("--listen {address}: no interface of this node has that address");
        return Err(Error::new(Code::Usage, what));
    }
    let mut ports = vec![bind_random(at, random)?];
    bind_all(&mut ports, wanted.kept, at).or_else(|(port, e)| {
        let name = &wanted.name;
        let what = || format!("cannot bind port {port} on {address} for license server {name}");
        let way_out =
            "its number cannot be changed, so another node or another job's end is the way out";
        Err(e).advise(Code::NoPort, what, way_out)
    })?;
    let host = match address.is_unspecified() {
        true => node_name(),
        false => address.to_string(),
    };
    Ok((host, at, ports))
}

fn take_bound(
    wanted: &Wanted<'_>,
    listeners: &mut std::vec::IntoIter<Listener>,
) -> Result<(String, Addresses, ServerPorts)> {
    let taken = listeners.take(1 + wanted.kept.len());
    let address = |listener: &Listener| listener.sockets.first()?.address();
    let ports: Vec<_> = taken.filter_map(|it| Some((address(&it)?, it.sockets))).collect();
    let first = ports.first().map(|(address, _)| address.ip());
    let ports: ServerPorts = ports.into_iter().map(|(at, sockets)| (sockets, at.port())).collect();
    let Some(ip) = first.filter(|_| ports.len() == 1 + wanted.kept.len()) else {
        let name = &wanted.name;
        let what = format!("the ports that are bound are not those of license server {name}");
        return Err(Error::new(Code::NoPort, what));
    };
    Ok(match ip {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => ("localhost".into(), Addresses::Loopback, ports),
        ip if ip.is_unspecified() => (node_name(), Addresses::One(ip), ports),
        ip => (ip.to_string(), Addresses::One(ip), ports),
    })
}
