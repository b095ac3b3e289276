//! Binds the ports of every forward and license server, before anything is announced.

use super::listener::{ListenSocket, Listener, bind_at, bind_forward, bind_loopback};
use super::localhost;
use super::random_port::{RandomPort, random_loopback};
use crate::error::{Code, Context, Error, Result};
use crate::log::Log;
use crate::sys::node_name;
use crate::target::{Destination, Forward, Server, Target};
use std::io::{self, ErrorKind};
use std::net::IpAddr;

/// A license server with all its ports bound.
#[derive(Debug)]
pub struct BoundServer {
    /// `host:port` as the gateway knows it.
    pub name: String,
    /// The host to announce to the software.
    pub host: String,
    /// The port to announce.
    pub port: u16,
    /// Its listeners, the announced port's first, as indices into [`LocalPorts::listeners`].
    pub listeners: std::ops::Range<usize>,
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
    /// Every license server of the targets.
    pub servers: Vec<BoundServer>,
    /// What to announce.
    pub variables: Vec<Variable>,
    /// What people should know of it, once it serves.
    pub notes: Vec<String>,
}

/// Where the targets' ports are bound.
enum Place {
    /// On loopback, which the value calls so.
    ThisNode(String),
    /// There, for other nodes.
    Address(IpAddr),
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
        log: &Log,
    ) -> Result<LocalPorts> {
        let mut bound = LocalPorts::default();
        for forward in forwards {
            bound
                .listeners
                .push(Listener { sockets: bind_forward(&forward.listen)?, to: forward.to.clone() });
        }
        let servers = targets.iter().flat_map(|target| &target.servers);
        let kept = servers.flat_map(|server| server.kept.iter().copied());
        let random = RandomPort::new(kept.collect());
        let place = match listen {
            Some(address) => Place::Address(address),
            None if targets.is_empty() => Place::ThisNode("localhost".into()),
            None => Place::ThisNode(localhost::name(log)),
        };
        for target in targets {
            let (name, count) = (&target.name, target.servers.len());
            if !matches!(count, 1 | 3) {
                log.note(format_args!(
                    "warning: {name}: {count} servers joined by commas; FlexNet's redundant servers are exactly three, and independent ones are targets of their own ({name}=a:1 {name}=b:1)"
                ));
            }
            let servers = target.servers.iter();
            let group = servers.map(|server| bound.add(server, &place, &random));
            let group = group.collect::<Result<Vec<usize>>>()?;
            match bound.variables.iter_mut().find(|v| v.name == *name) {
                Some(variable) => variable.groups.push(group),
                None => bound.variables.push(Variable { name: name.clone(), groups: vec![group] }),
            }
        }
        Ok(bound)
    }

    fn add(&mut self, server: &Server, place: &Place, random: &RandomPort) -> Result<usize> {
        let (host, bound) = match place {
            Place::Address(address) => bind_for_other_nodes(server, *address, random)?,
            Place::ThisNode(name) => bind_for_this_node(server, name, random, &mut self.notes)?,
        };
        let first = self.listeners.len();
        let announced = bound[0].1;
        let remote = [&[server.port], &server.kept[..]].concat();
        for ((sockets, _), port) in bound.into_iter().zip(remote) {
            let host = server.host.clone();
            let to = Destination::Tcp { host, port };
            self.listeners.push(Listener { sockets, to });
        }
        self.servers.push(BoundServer {
            name: server.to_string(),
            host,
            port: announced,
            listeners: first..self.listeners.len(),
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
    bind: impl Fn(u16) -> io::Result<Vec<ListenSocket>>,
) -> std::result::Result<(), (u16, io::Error)> {
    for number in numbers {
        let sockets = bind(*number).map_err(|e| (*number, e))?;
        ports.push((sockets, *number));
    }
    Ok(())
}

/// Binds a random free port, too.
fn bind_random(
    ports: &mut ServerPorts,
    random: &RandomPort,
    bind: impl Fn(u16) -> io::Result<Vec<ListenSocket>>,
) -> Result<()> {
    draw(|| bind_all(ports, &[random.draw()], &bind)).or_else(|(port, e)| {
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
    server: &Server,
    name: &str,
    random: &RandomPort,
    notes: &mut Vec<String>,
) -> Result<(String, ServerPorts)> {
    let mut ports = ServerPorts::new();
    bind_random(&mut ports, random, bind_loopback)?;
    let Err((taken, _)) = bind_all(&mut ports, &server.kept, bind_loopback) else {
        return Ok((name.to_owned(), ports));
    };
    // The license manager tells its client the port's number, so the number
    // stays and the address moves.
    let numbers = [&[server.port], &server.kept[..]].concat();
    let address = draw(|| {
        let address = random_loopback();
        ports.clear();
        let bound = bind_all(&mut ports, &numbers, |port| bind_at(address, port));
        bound.map_or_else(|(_, e)| Err(e), |()| Ok(address))
    });
    let address = address.context(Code::NoPort, || {
        format!("cannot bind port {taken} for license server {server}: it is taken on localhost, and on {MAX_DRAWS} other loopback addresses")
    })?;
    notes.push(format!(
        "port {taken} is taken on this node: license server {server} is at {address} here instead of localhost; nothing has to be done"
    ));
    Ok((address.to_string(), ports))
}

fn bind_for_other_nodes(
    server: &Server,
    address: IpAddr,
    random: &RandomPort,
) -> Result<(String, ServerPorts)> {
    let bind = |port| bind_at(address, port);
    if bind(0).is_err_and(|e| e.kind() == ErrorKind::AddrNotAvailable) {
        let what = format!("--listen {address}: no interface of this node has that address");
        return Err(Error::new(Code::Usage, what));
    }
    let mut ports = ServerPorts::new();
    bind_random(&mut ports, random, bind)?;
    bind_all(&mut ports, &server.kept, bind).or_else(|(port, e)| {
        let what = || format!("cannot bind port {port} on {address} for license server {server}");
        let way_out =
            "its number cannot be changed, so another node or another job's end is the way out";
        Err(e).advise(Code::NoPort, what, way_out)
    })?;
    let host = match address.is_unspecified() {
        true => node_name(),
        false => address.to_string(),
    };
    Ok((host, ports))
}
