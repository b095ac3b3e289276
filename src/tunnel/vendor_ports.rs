//! Opens a port of this node for each vendor daemon to which a license server sends.

use super::first_answer::Heard;
use super::flexnet::Answer;
use crate::gateway::CarriedBy;
use crate::local::{Acceptor, Addresses, Client, LocalPorts, RandomPort};
use crate::log::Log;
use crate::sys::Epoll;
use crate::target::{self, Destination};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// For one license server; a vendor daemon that is started again has a new port.
const MAX_PORTS: usize = 16;

/// What the license servers have told of their vendor daemons, and what leads there.
pub struct VendorPorts {
    servers: Vec<Server>,
    /// By listener: the server whose first port it is.
    first: HashMap<usize, usize>,
    random: RandomPort,
    /// Answers pass as they are.
    verbatim: bool,
    log: Arc<Log>,
}

struct Server {
    /// `host:port` as the gateway knows it.
    name: String,
    host: String,
    /// How the value names this side of it.
    announced: String,
    at: Addresses,
    /// All of its group, itself included.
    members: Vec<usize>,
    /// Ports that are forwarded under their own numbers.
    kept: Vec<u16>,
    ports: Vec<VendorPort>,
    /// It has said something that does not begin as FlexNet's answers do.
    speaks_otherwise: bool,
    /// The log has it that an answer was not understood.
    misunderstood: bool,
    /// The log has it that a status program came.
    had_status_program: bool,
}

struct VendorPort {
    /// There.
    number: u16,
    /// Here.
    local: u16,
    listener: usize,
    /// Where it leads too, should the server's own host refuse: as the server told.
    told: Option<Destination>,
}

impl VendorPorts {
    /// Nothing is known yet of what is bound.
    pub fn new(bound: &mut LocalPorts, verbatim: bool, log: Arc<Log>) -> VendorPorts {
        let to = |listener: usize| match &bound.listeners[listener].to {
            Destination::Tcp { host, port } => (host.clone(), *port),
            Destination::Unix(path) => (path.clone(), 0),
            Destination::Web(hosts) => (hosts.to_string(), 0),
        };
        let servers = bound.servers.iter().enumerate().map(|(number, server)| {
            let groups = bound.variables.iter().flat_map(|variable| &variable.groups);
            Server {
                name: server.name.clone(),
                host: to(server.listeners.start).0,
                announced: server.host.clone(),
                at: server.at,
                members: groups
                    .filter(|group| group.contains(&number))
                    .flatten()
                    .copied()
                    .collect(),
                kept: server.listeners.clone().skip(1).map(|listener| to(listener).1).collect(),
                ports: Vec::new(),
                speaks_otherwise: false,
                misunderstood: false,
                had_status_program: false,
            }
        });
        VendorPorts {
            servers: servers.collect(),
            first: bound
                .servers
                .iter()
                .enumerate()
                .filter(|(_, it)| !it.is_web)
                .map(|(n, it)| (it.listeners.start, n))
                .collect(),
            random: std::mem::take(&mut bound.random),
            verbatim,
            log,
        }
    }

    /// Whether the first answer to a listener's clients is read, and who may carry
    /// their bytes.
    pub fn plan(&self, listener: usize) -> (bool, CarriedBy) {
        match self.first.get(&listener) {
            _ if self.verbatim => (false, CarriedBy::Anybody),
            None => (false, CarriedBy::Anybody),
            Some(server) if self.servers[*server].speaks_otherwise => (true, CarriedBy::Anybody),
            Some(_) => (true, CarriedBy::Us),
        }
    }

    /// What a server has said first to a client that dialled `dialled`; returns what the
    /// client shall get instead of an answer.
    pub fn hear(
        &mut self,
        listener: usize,
        dialled: Option<IpAddr>,
        heard: Heard,
        acceptor: &mut Acceptor,
        epoll: &Epoll,
    ) -> Option<Vec<u8>> {
        let first = *self.first.get(&listener)?;
        let server = &mut self.servers[first];
        let answer = match heard {
            Heard::Answer(answer) => answer,
            Heard::Other { as_flexnet: false, .. } => {
                server.speaks_otherwise = true;
                return None;
            }
            Heard::Other { why, .. } => {
                if !std::mem::replace(&mut server.misunderstood, true) {
                    self.log.event(format_args!(
                        "license server {}: an answer like FlexNet's was not understood ({why}) and has passed unchanged",
                        server.name
                    ));
                }
                return None;
            }
        };
        let Some(number) = answer.port else {
            let here = server.address_here(dialled);
            if !std::mem::replace(&mut server.had_status_program, true) {
                self.log.event(format_args!(
                    "license server {} calls itself {}: a status program is told {here}",
                    server.name, answer.name
                ));
            }
            return Some(answer.retold(&here, 0));
        };
        let holder = self.member(first, &answer.name);
        Some(match self.local_port(holder, &answer, number, acceptor, epoll) {
            Some(local) => answer.retold(&self.servers[holder].address_here(dialled), local),
            None => answer.frame,
        })
    }

    /// The server of the same group that has that name, else the one that told it.
    fn member(&self, first: usize, name: &str) -> usize {
        let mut members = self.servers[first].members.iter().copied();
        let own = same_host(&self.servers[first].host, name).then_some(first);
        let other = || members.find(|member| same_host(&self.servers[*member].host, name));
        own.or_else(other).unwrap_or(first)
    }

    /// The port of this node that leads to that port of a server's.
    fn local_port(
        &mut self,
        holder: usize,
        answer: &Answer,
        number: u16,
        acceptor: &mut Acceptor,
        epoll: &Epoll,
    ) -> Option<u16> {
        let server = &mut self.servers[holder];
        let told = server.other_way(&answer.name, number);
        if server.kept.contains(&number) {
            return Some(number);
        }
        if let Some(port) = server.ports.iter_mut().find(|port| port.number == number) {
            port.told = told;
            acceptor.usage(port.listener).expect();
            return Some(port.local);
        }
        let to = Destination::Tcp { host: server.host.clone(), port: number };
        let opened = match server.ports.len() {
            MAX_PORTS => server.lead_an_idle_one(to, acceptor),
            _ => server.at.bind_random(&self.random, to).map_err(|e| e.to_string()).and_then(
                |(local, listener)| {
                    let listener = acceptor.add(listener, epoll).map_err(|e| e.to_string())?;
                    server.ports.push(VendorPort { number, local, listener, told: None });
                    Ok(server.ports.len() - 1)
                },
            ),
        };
        let (name, told_name) = (&server.name, &answer.name);
        match opened {
            Ok(n) => {
                let port = &mut server.ports[n];
                (port.number, port.told) = (number, told);
                acceptor.usage(port.listener).expect();
                self.log.event(format_args!(
                    "license server {name}: the vendor daemon is at {told_name}, port {number}; port {} of this node leads there",
                    port.local
                ));
                Some(port.local)
            }
            Err(why) => {
                self.log.event(format_args!(
                    "license server {name}: the vendor daemon is at {told_name}, port {number}; the answer has passed unchanged: {why}"
                ));
                None
            }
        }
    }

    /// Where a client may go on that its license server's own host has refused.
    pub fn second_way(&self, client: &Client) -> Option<Destination> {
        let mut all = self.servers.iter().flat_map(|server| &server.ports);
        let told = all.find(|port| port.listener == client.listener)?.told.clone()?;
        let number = |to: &Destination| match to {
            Destination::Tcp { port, .. } => Some(*port),
            Destination::Unix(_) | Destination::Web(_) => None,
        };
        (told != client.to && number(&told) == number(&client.to)).then_some(told)
    }
}

impl Server {
    /// How a client of this node, or of one that is served, finds what is bound.
    fn address_here(&self, dialled: Option<IpAddr>) -> String {
        match (self.at, dialled.map(|ip| ip.to_canonical())) {
            (Addresses::Loopback, _) => Ipv4Addr::LOCALHOST.to_string(),
            (Addresses::One(ip), Some(IpAddr::V4(dialled))) if ip.is_unspecified() => {
                dialled.to_string()
            }
            _ => self.announced.clone(),
        }
    }

    /// What the server told, where that is another host than its own, and none of the
    /// gateway's own names.
    fn other_way(&self, name: &str, port: u16) -> Option<Destination> {
        let usable = target::check_host(name).is_ok() && !is_the_gateways_own(name);
        let other = usable && !self.host.eq_ignore_ascii_case(name);
        other.then(|| Destination::Tcp { host: name.to_owned(), port })
    }

    /// Leads the port that has been without a client for longest somewhere else.
    fn lead_an_idle_one(
        &mut self,
        to: Destination,
        acceptor: &mut Acceptor,
    ) -> Result<usize, String> {
        let listener = |n: &usize| self.ports[*n].listener;
        let idle = (0..self.ports.len()).filter(|n| acceptor.usage(listener(n)).clients() == 0);
        let idle = idle.min_by_key(|n| acceptor.usage(listener(n)).since());
        let n = idle.ok_or_else(|| format!("all of {MAX_PORTS} ports for it are in use"))?;
        acceptor.lead(self.ports[n].listener, to);
        Ok(n)
    }
}

/// Whether two names mean the same host: one of them may lack its domain.
fn same_host(one: &str, other: &str) -> bool {
    let short = |name: &str| name.parse::<IpAddr>().is_err() && !name.contains('.');
    let label = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    one.eq_ignore_ascii_case(other)
        || (short(one) != short(other)
            && [one, other].iter().all(|name| name.parse::<IpAddr>().is_err())
            && label(one) == label(other))
}

/// Whether a name leads to the gateway itself there: localhost, a loopback or wildcard
/// address, or what a resolver may take for one (`0`, `127.1`, `0x7f000001`).
fn is_the_gateways_own(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = name.parse::<IpAddr>() {
        let address = address.to_canonical();
        return address.is_loopback() || address.is_unspecified();
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    last.starts_with(|c: char| c.is_ascii_digit())
        || name.split(['.', '-']).any(|label| label == "localhost" || label == "loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_to_the_gateway_itself() {
        for name in [
            "localhost",
            "LocalHost.",
            "localhost.localdomain",
            "ip6-localhost",
            "ip6-loopback",
            "a.localhost",
            "127.0.0.1",
            "127.3.2.1",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "0",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "x.0x7f",
        ] {
            assert!(is_the_gateways_own(name), "{name}");
        }
        for name in ["licserver", "lic.site.org", "10.1.2.3", "2001:db8::1", "localhosts", "7.org"]
        {
            assert!(!is_the_gateways_own(name), "{name}");
        }
    }

    #[test]
    fn a_name_may_lack_its_domain() {
        for (one, other, same) in [
            ("lic1", "LIC1", true),
            ("lic1", "lic1.site.org", true),
            ("lic1.site.org", "lic1", true),
            ("lic1.a.org", "lic1.b.org", false),
            ("lic1", "lic2", false),
            ("10.0.0.1", "10", false),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(same_host(one, other), same, "{one} {other}");
        }
    }
}
