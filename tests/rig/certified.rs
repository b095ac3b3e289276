//! A gateway whose host key nobody knows, only the authority that vouches for it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::gateway::{give_to_account, keygen};
use super::{Gateway, Overlay, Scratch};

/// A gateway with a host certificate; its `known_hosts` holds one line, which is
/// `@cert-authority`.
pub fn gateway() -> Gateway {
    gateway_of(|server, lines| Gateway::overlaid(server, <[Overlay; 2]>::default(), lines, &[]))
}

/// The same with another way to start it, given its directory and lines.
pub fn gateway_of(start: impl FnOnce(Scratch, &[&str]) -> Gateway) -> Gateway {
    let server = Scratch::new();
    let key = server.file("certified");
    let authority = server.file("authority");
    keygen(&key, &["-t", "ed25519"]);
    let public = keygen(&authority, &["-t", "ed25519"]);
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-h", "-I", "gateway", "-n", "127.0.0.1,::1", "-s"]);
    let output = sign.arg(&authority).arg(&key).output();
    let output = output.expect("run ssh-keygen");
    assert!(output.status.success(), "ssh-keygen -s: {output:?}");
    let certificate = server.file("certified-cert.pub");
    fs::set_permissions(&certificate, Permissions::from_mode(0o644)).expect("chmod");
    give_to_account(&key);

    // Before the rig's own key, of which there is only one kind.
    let lines = [
        format!("HostKey {}", key.display()),
        format!("HostCertificate {}", certificate.display()),
    ];
    let lines = lines.each_ref().map(String::as_str);
    let gateway = start(server, &lines);
    let port = gateway.port();
    let known = format!("@cert-authority [127.0.0.1]:{port},[::1]:{port} {public}");
    gateway.client().write("known_hosts", &known);
    gateway
}
