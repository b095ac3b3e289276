//! Binds the ports of every forward and license server, before anything is announced.

use super::listener::{ListenSocket, Listener, bind_forward, bind_loopback, bind_one};
use super::random_port::{RandomPort, random_loopback};
use crate::error::{Code, Error, Result, cause};
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
            bound.listeners.push(Listener {
                sockets: bind_forward(&forward.listen)?,
                to: forward.to.clone(),
            });
        }
        let kept = targets
            .iter()
            .flat_map(|target| &target.servers)
            .flat_map(|server| server.kept.iter().copied());
        let random = RandomPort::new(kept.collect());
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
                .map(|server| bound.add(server, listen, &random, log))
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
        random: &RandomPort,
        log: &Log,
    ) -> Result<usize> {
        let (host, bound) = match listen {
            Some(address) => bind_for_other_nodes(server, address, random)?,
            None => bind_for_this_node(server, random, log)?,
        };
        let first = self.listeners.len();
        let port = bound[0].1;
        for ((sockets, _), remote) in bound
            .into_iter()
            .zip([server.port].into_iter().chain(server.kept.iter().copied()))
        {
            self.listeners.push(Listener {
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
            listeners: first..self.listeners.len(),
        });
        Ok(self.servers.len() - 1)
    }
}

/// ServerPorts bound for one server: the announced one first.
type ServerPorts = Vec<(Vec<ListenSocket>, u16)>;

fn bind_for_this_node(
    server: &Server,
    random: &RandomPort,
    log: &Log,
) -> Result<(String, ServerPorts)> {
    let mut ports: ServerPorts = vec![bind_random(random, bind_loopback)?];
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
    for _ in 0..MAX_DRAWS {
        let address = random_loopback();
        let all: io::Result<ServerPorts> = numbers()
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
            "cannot bind port {taken} for license server {server}: it is taken on localhost, and on {MAX_DRAWS} other loopback addresses: {}",
            refusal.as_ref().map(cause).unwrap_or_default()
        ),
    ))
}

fn bind_for_other_nodes(
    server: &Server,
    address: IpAddr,
    random: &RandomPort,
) -> Result<(String, ServerPorts)> {
    if let Err(e) = bind_one(address, 0)
        && e.kind() == ErrorKind::AddrNotAvailable
    {
        let what = format!("--listen {address}: no interface of this node has that address");
        return Err(Error::new(Code::Usage, what));
    }
    let mut ports: ServerPorts = vec![bind_random(random, |port| {
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
    random: &RandomPort,
    bind: impl Fn(u16) -> io::Result<Vec<ListenSocket>>,
) -> Result<(Vec<ListenSocket>, u16)> {
    let mut refusal = None;
    for _ in 0..MAX_DRAWS {
        let port = random.draw();
        match bind(port) {
            Ok(sockets) => return Ok((sockets, port)),
            Err(e) => refusal = Some((port, e)),
        }
    }
    let (port, e) = refusal.unwrap_or((0, ErrorKind::AddrInUse.into()));
    Err(Error::new(
        Code::NoPort,
        format!(
            "cannot bind a local port: {MAX_DRAWS} random ones were not to be had, the last was {port}: {}",
            cause(&e)
        ),
    ))
}
