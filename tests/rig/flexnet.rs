//! A stand-in for FlexNet: a manager whose answer names the port of a vendor daemon.

use std::collections::HashMap;
use std::io::{self, BufReader, Error, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use super::traffic::{Seat, check_out_from, read_line};
use super::{LicenseServer, Service};

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
    pub fn start(address: Ipv4Addr, (port, vendor): (u16, u16)) -> FlexNet {
        FlexNet {
            manager: LicenseServer::at(Service::Manager(vendor), (address, port).into()),
            vendor: LicenseServer::at(Service::CheckOut, (address, vendor).into()),
        }
    }
}

/// Checks a feature out as licensed software does: every server of the
/// variable's value (`port@host`, joined by commas and colons) in turn, first
/// its manager, then the vendor daemon on the port that the manager names.
/// Returns the vendor daemon's address with the seat.
pub fn check_out(value: &str, feature: &str) -> io::Result<(SocketAddr, Seat)> {
    let mut errors = Vec::new();
    for server in value.split([',', ':']) {
        match check_out_of(server, feature) {
            Ok(found) => return Ok(found),
            Err(error) => errors.push(format!("{server}: {error}")),
        }
    }
    Err(Error::other(errors.join("; ")))
}

fn check_out_of(server: &str, feature: &str) -> io::Result<(SocketAddr, Seat)> {
    let (port, host) = server.split_once('@').expect("port@host");
    let connect = |port: u16| TcpStream::connect((host, port));
    let mut manager = connect(port.parse().expect("a port"))?;
    writeln!(manager, "HELLO")?;
    let answer = read_line(&mut BufReader::new(&manager))?;
    // The name is the one that the server has for itself, of no use out here.
    let vendor = answer.strip_prefix("HOST licserver VENDOR ");
    let vendor = vendor.and_then(|port| port.parse().ok());
    let vendor = connect(vendor.ok_or_else(|| Error::other(answer.clone()))?)?;
    Ok((vendor.peer_addr()?, check_out_from(vendor, feature)?))
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
