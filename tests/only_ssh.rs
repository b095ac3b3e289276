//! Gateways that `ssh` can enter and libssh2 cannot.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rig::kerberos::Kerberos;
use crate::rig::traffic::check_out;
use crate::rig::{Gateway, Site, certified, hostbased, skip};

/// Every OpenSSH since 8.5 has it, and libssh2 has not.
const KEY_EXCHANGE: &str = "sntrup761x25519-sha512@openssh.com";

/// Goal: a gateway that trusts the node instead of a key.
#[test]
fn hostbased_login() {
    match hostbased::gateway() {
        Ok(gateway) => only_ssh_enters(&Site::behind(gateway), 77, "hostbased"),
        Err(why) => skip!("{why}"),
    }
}

/// Goal: a gateway that wants a Kerberos ticket.
#[test]
fn gssapi_login() {
    match Kerberos::start() {
        Ok((_kdc, gateway)) => only_ssh_enters(&Site::behind(gateway), 77, "gssapi"),
        Err(why) => skip!("{why}"),
    }
}

/// Goal: a gateway whose key nobody knows, only the authority that signed it.
#[test]
fn host_certificate() {
    only_ssh_enters(&Site::behind(certified::gateway()), 78, "@cert-authority");
}

/// Goal: a gateway that shakes hands in one way only, which libssh2 lacks.
#[test]
fn key_exchange() {
    match post_quantum() {
        Ok(gateway) => only_ssh_enters(&Site::behind(gateway), 78, "key exchange"),
        Err(why) => skip!("{why}"),
    }
}

/// Goal: the last two behind a hop that libssh2 could enter.
#[test]
fn behind_a_hop() {
    let (hop, certified) = (Gateway::start(), certified::gateway());
    let exchange = match post_quantum() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    for (gateway, code, word) in
        [(certified, 78, "@cert-authority"), (exchange, 78, "key exchange")]
    {
        let mut site = Site::behind(gateway);
        go_through(&mut site, &[("hop", &hop)]);
        only_ssh_enters(&site, code, word);
    }
    assert!(hop.log().contains("Accepted publickey"), "{}", hop.log());
}

/// Goal: both as hops, on the way to a gateway that libssh2 can enter.
#[test]
fn as_hops() {
    let one = certified::gateway();
    let two = match post_quantum() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    let mut site = Site::new();
    go_through(&mut site, &[("one", &one), ("two", &two)]);
    for via in ["", "auto", "ssh", "libssh2"] {
        serves(&site, via);
    }
}

fn post_quantum() -> Result<Gateway, String> {
    let known = Command::new("ssh").args(["-Q", "kex"]).output();
    let known = known.expect("run ssh").stdout;
    match String::from_utf8_lossy(&known).contains(KEY_EXCHANGE) {
        true => Ok(Gateway::with(&[&format!("KexAlgorithms {KEY_EXCHANGE}")])),
        false => Err(format!("ssh knows no {KEY_EXCHANGE}")),
    }
}

/// From now on the way to the gateway leads through these, by ProxyJump.
fn go_through(site: &mut Site, hops: &[(&str, &Gateway)]) {
    let read = |path: &Path| fs::read_to_string(path).expect("ssh_config");
    let names: Vec<&str> = hops.iter().map(|(name, _)| *name).collect();
    let mut text = format!("Host gw\nProxyJump {}\n", names.join(","));
    for (name, hop) in hops {
        text += &read(&hop.config()).replace("Host gw\n", &format!("Host {name}\n"));
    }
    text += &read(&site.gateway.config());
    let config = site.gateway.client().write("with_hops", &text);
    site.options = vec!["-F".into(), config.display().to_string()];
}

/// Both forms that leave the choice to licfwd bring up a tunnel that serves, as
/// does `ssh`; libssh2 fails with `code`, says why, and names the other way.
#[track_caller]
fn only_ssh_enters(site: &Site, code: i32, word: &str) {
    ssh_enters(site);
    for via in ["", "auto", "ssh"] {
        serves(site, via);
    }
    site.fails(code, &["--via", "libssh2"], &[word, "ssh"]);
    site.job.wait_until_empty();
}

/// What the user has today: else the gateway is at fault, not licfwd.
#[track_caller]
fn ssh_enters(site: &Site) {
    let mut ssh = site.job.client("ssh", &site.gateway);
    ssh.arg("-F").arg(site.gateway.config()).args(&site.options);
    ssh.args(["-o", "BatchMode=yes", "-W", &site.target(), "gw"]);
    let outcome = site.job.run(&mut ssh);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

/// By that transport, or by none in particular.
#[track_caller]
fn serves(site: &Site, via: &str) {
    let options = ["--via", via];
    let port = site.brings_up(if via.is_empty() { &[] } else { &options });
    check_out(port, "MATLAB").expect("a seat");
    site.job.end();
}
