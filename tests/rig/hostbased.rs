//! A gateway that lets in whom another machine vouches for, with its host key.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::gateway::keygen;
use super::{Gateway, Overlay, Scratch, process};

/// Where systems keep the program that signs with the machine's key.
const KEYSIGN: [&str; 4] = [
    "/usr/lib/openssh/ssh-keysign",
    "/usr/libexec/openssh/ssh-keysign",
    "/usr/lib/ssh/ssh-keysign",
    "/usr/libexec/ssh/ssh-keysign",
];

/// A gateway that takes hostbased logins and no others. Its own /etc/ssh and its
/// clients' are a directory of its own.
///
/// # Errors
/// Why this machine cannot have one.
pub fn gateway() -> Result<Gateway, String> {
    if !process::is_root() {
        return Err("only root can give ssh-keysign other host keys".into());
    }
    Overlay::check()?;
    if !KEYSIGN.iter().any(|place| Path::new(place).exists()) {
        return Err("no ssh-keysign".into());
    }
    let server = Scratch::new();
    let etc = server.file("etc-ssh");
    fs::create_dir(&etc).expect("make a directory");
    let host_key = keygen(&etc.join("ssh_host_ed25519_key"), &["-t", "ed25519"]);
    let client = process::id(&["-un"]);
    for (name, text) in [
        ("etc-ssh/ssh_config", "EnableSSHKeysign yes\n"),
        ("etc-ssh/ssh_known_hosts", &format!("localhost {host_key}") as &str),
        // Whoever is called so there is let in here under every name but root's.
        ("etc-ssh/shosts.equiv", &format!("localhost {client}\n")),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ] {
        open(&server.write(name, text), 0o644);
    }
    open(&etc, 0o755);
    let mut overlay = Overlay::default();
    overlay.add(etc, "/etc/ssh");
    overlay.add(server.file("hosts"), "/etc/hosts");
    let lines = [
        "HostbasedAuthentication yes",
        "HostbasedUsesNameFromPacketOnly yes",
        "PubkeyAuthentication no",
    ];
    let client_lines = ["HostbasedAuthentication yes"];
    let overlays = [overlay.clone(), overlay];
    Ok(Gateway::overlaid(server, overlays, &lines, &client_lines))
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}
