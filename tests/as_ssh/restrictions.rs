//! Single restrictions, each of which keeps ssh out.

use std::process::Command;

use super::Case;
use crate::rig::as_ssh::Kind::Narrow;
use crate::rig::as_ssh::NARROW;
use crate::rig::as_ssh::Verdict::{HostKey, NotReached, Refused};

/// What the ordinary suite has of each keyword: what libssh2 knows, and what it does not.
const ORDINARY: [&str; 8] = [
    "sntrup761x25519-sha512@openssh.com",
    "ecdh-sha2-nistp256",
    "aes128-gcm@openssh.com",
    "umac-64@openssh.com",
    "hmac-sha2-512",
    "ssh-ed25519-cert-v01@openssh.com",
    "rsa-sha2-512",
    "sk-ssh-ed25519@openssh.com",
];

/// Each of them: one for every algorithm that this ssh knows, where the gateway knows
/// another one, and those that are no algorithms.
pub fn all() -> Vec<Case> {
    let mut all = others();
    for (keyword, only) in NARROW {
        for name in known(keyword).iter().filter(|name| *name != only) {
            let lines = format!("{keyword} {name}");
            let verdict = match keyword {
                "PubkeyAcceptedAlgorithms" => Refused,
                _ => NotReached,
            };
            let case = Case::new(&lines, &lines, verdict).on(Narrow);
            all.push(if ORDINARY.contains(&name.as_str()) { case.ordinary() } else { case });
        }
    }
    all
}

fn known(keyword: &str) -> Vec<String> {
    let output = Command::new("ssh").args(["-Q", keyword]).output().expect("run ssh -Q");
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    names.lines().map(str::to_owned).collect()
}

fn others() -> Vec<Case> {
    let ca = "@cert-authority {host} {ca.pub}\n";
    let rsa = "HostKeyAlgorithms rsa-sha2-512\n";
    vec![
        Case::new("a longer host key", &format!("{rsa}RequiredRSASize 4096"), HostKey).ordinary(),
        Case::new("a longer key", "IdentityFile {world}/id_rsa\nRequiredRSASize 4096", Refused)
            .ordinary(),
        Case::new("other authorities", "CASignatureAlgorithms rsa-sha2-512", HostKey)
            .known(ca)
            .ordinary(),
        Case::new("no certificates", "HostKeyAlgorithms ssh-ed25519", HostKey).known(ca),
        Case::new("revoked", "RevokedHostKeys {world}/host_ed25519.pub", HostKey),
        Case::new("unreadable", "RevokedHostKeys {world}", HostKey),
        Case::new("alias", "HostKeyAlias other.example", HostKey),
        Case::new("user's file", "UserKnownHostsFile /dev/null", HostKey),
        Case::new("no file", "UserKnownHostsFile none", HostKey),
        Case::new("no keys", "PubkeyAuthentication no", Refused),
        Case::new("no such method", "PreferredAuthentications hostbased", Refused),
        Case::new("other key", "IdentityFile {world}/id_other", Refused),
        Case::new(
            "no agent's keys",
            "IdentityFile {world}/id_other\nIdentityAgent {agent}\nIdentitiesOnly yes",
            Refused,
        ),
        Case::new("interface", "BindInterface no-such0", NotReached),
        Case::new("address", "BindAddress 192.0.2.1", NotReached),
        Case::new("family", "AddressFamily inet6", NotReached),
        Case::new("program", "KnownHostsCommand /bin/false", NotReached),
        Case::new("proxy", "ProxyCommand /bin/false", NotReached),
        Case::new(
            "key of another kind",
            "IdentityFile {world}/id_rsa\nPubkeyAcceptedAlgorithms ssh-ed25519",
            Refused,
        ),
        Case::new(
            "signature",
            "IdentityFile {world}/id_rsa\nPubkeyAcceptedAlgorithms ssh-rsa",
            Refused,
        ),
    ]
}
