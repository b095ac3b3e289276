//! What a target that does not parse was meant to be, and how it is written here; pure.

use super::{Parsed, Server, check_host, port};

/// `port@host`, as license managers write it.
pub(super) fn flexnet(text: &str) -> Option<Server> {
    let (number, host) = text.split_once('@')?;
    let port = port(number).ok().filter(|_| is_host(host))?;
    Some(Server { host: host.to_owned(), port, kept: Vec::new() })
}

/// The right form of `servers`, which some manual, module or habit writes otherwise;
/// `prefix` is `NAME=`, where it was given.
pub(super) fn check(prefix: &str, servers: &str) -> Parsed<()> {
    let fields: Vec<&str> = servers.split(':').collect();
    let ports = |text: &str| text.split([',', ':', '+']).all(|number| port(number).is_ok());
    let joined = |text: &str| text.replace([',', ':'], "+");
    match fields.as_slice() {
        [local, host, number] if ports(local) && is_host(host) && ports(number) => Err(format!(
            "that is how -L is written: write {prefix}{host}:{}, or -L {servers} for that fixed local port",
            joined(number)
        )),
        [host, rest @ ..] if !rest.is_empty() && is_host(host) && ports(&rest.join(":")) => {
            let numbers = rest.join(":");
            match numbers.contains([',', ':']) {
                true => Err(format!(
                    "ports are joined by '+': write {prefix}{host}:{}, or {prefix}{host}:{} alone for FlexNet, \
                     whose second port is learnt",
                    joined(&numbers),
                    rest[0].split(',').next().unwrap_or_default()
                )),
                false => Ok(()),
            }
        }
        _ if ports(servers) => {
            let example = format!("{prefix}licserver:{}", joined(servers));
            Err(format!("no license server before its ports: {example}, for example"))
        }
        _ => servers.split(',').try_for_each(|server| check_one(prefix, server)),
    }
}

fn check_one(prefix: &str, server: &str) -> Parsed<()> {
    if is_host(server) {
        return Err(no_port(prefix, server));
    }
    if let Some(host) = server.strip_prefix('@').filter(|host| is_host(host)) {
        return Err(format!(
            "without a number FlexNet's clients try ports 27000 to 27009; name the one that is in use: \
             {prefix}{host}:27000, for example"
        ));
    }
    if let Some((number, (host, kept))) =
        server.split_once('@').and_then(|(number, rest)| Some((number, rest.split_once('+')?)))
        && port(number).is_ok()
        && is_host(host)
    {
        return Err(format!("write {prefix}{host}:{number}+{kept}"));
    }
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase());
    match server.split('+').skip(1).find(is_word) {
        Some(word) => Err(format!(
            "{word} stands for a number, the one after port= on the VENDOR line of the license file or of RLM's ISV \
             server; FlexNet needs none here: leave +{word} out"
        )),
        None => Ok(()),
    }
}

/// What a license server without a port is told.
pub fn no_port(prefix: &str, host: &str) -> String {
    format!("{host} has no port: {prefix}{host}:27000, for example")
}

/// A name or address that is not just a number.
fn is_host(text: &str) -> bool {
    check_host(text).is_ok() && !text.contains(':') && !text.bytes().all(|b| b.is_ascii_digit())
}
