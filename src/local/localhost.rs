//! Whether `localhost`, which the software will ask for, leads to what is bound.

use crate::log::Log;
use crate::sys;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

/// How the value names this node: `localhost`, or 127.0.0.1 and a note where that
/// leads elsewhere or nowhere. Only the file is looked at: a name server may take
/// its time, and one that is asked for localhost is no good sign.
pub fn name(log: &Log) -> String {
    let hosts = sys::read_file(Path::new("/etc/hosts")).unwrap_or_default();
    let has_v6 = || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let Some(why) = why_not(&String::from_utf8_lossy(&hosts), has_v6) else {
        return "localhost".into();
    };
    let address = Ipv4Addr::LOCALHOST.to_string();
    log.note(format_args!("localhost {why} in /etc/hosts of this node: the value names {address}"));
    address
}

/// Why a client that asks for localhost might not find what is bound there.
fn why_not(hosts: &str, has_v6: impl Fn() -> bool) -> Option<String> {
    let addresses = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case("localhost")).then_some(address)
    });
    let addresses: Vec<IpAddr> = addresses.collect();
    let elsewhere = addresses.iter().find(|address| match address {
        IpAddr::V4(address) => *address != Ipv4Addr::LOCALHOST,
        // One that is not there is passed over, if there is another.
        IpAddr::V6(address) => {
            *address != Ipv6Addr::LOCALHOST || !addresses.iter().any(IpAddr::is_ipv4) && !has_v6()
        }
    });
    match elsewhere {
        Some(address) => Some(format!("leads to {address}")),
        None if addresses.is_empty() => Some("is missing".into()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_what_is_bound_or_not_named() {
        let (missing, to) = (Some("is missing".into()), |ip| Some(format!("leads to {ip}")));
        for (hosts, has_v6, why) in [
            ("127.0.0.1 localhost", false, None),
            ("127.0.0.1\tnode1 LocalHost # x\n::1 ip6-localhost localhost\n", false, None),
            ("::1 localhost", true, None),
            ("::1 localhost", false, to("::1")),
            ("", true, missing.clone()),
            ("# 127.0.0.1 localhost\n127.0.0.1 localhost.localdomain\nx localhost", true, missing),
            ("127.0.0.1 localhost\n10.1.2.3 node1 localhost", true, to("10.1.2.3")),
            ("127.0.1.1 localhost", true, to("127.0.1.1")),
        ] {
            assert_eq!(why_not(hosts, || has_v6), why, "{hosts}");
        }
    }
}
