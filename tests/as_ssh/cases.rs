//! Calls of each kind that once came to something else over libssh2, and their like.

use super::Case;
use crate::rig::as_ssh::Kind::{Forbidding, Talking};
use crate::rig::as_ssh::Verdict::{HostKey, In, NotReached, Refused};
use crate::rig::as_ssh::Who::Libssh2;
use crate::rig::as_ssh::path_of;

/// A line for another key of the gateway.
const STALE: &str = "{host} {other.pub}\n";
const CA: &str = "@cert-authority {host} {ca.pub}\n";
const REVOKED_CA: &str = "@revoked {host} {ca.pub}\n{known}";
/// What knows the gateway's keys, and revokes one.
const KNOWS: &str = "#!/bin/sh\necho \"$1 {host_ed25519.pub}\"\n";
const REVOKES: &str = "#!/bin/sh\nsed 's/^/@revoked /' {dir}/known_hosts\n";
const REVOKED: &str =
    "@revoked * {host_ed25519.pub}\n@revoked * {host_ecdsa.pub}\n@revoked * {host_rsa.pub}\n";
const COMMAND: &str = "KnownHostsCommand {dir}/command %H";
const ALIAS: &str = "HostKeyAlias gw.example\n";

/// Each of them.
pub fn all() -> Vec<Case> {
    [host_keys(), programs(), logins(), tokens(), words(), ways()].into_iter().flatten().collect()
}

fn host_keys() -> Vec<Case> {
    let new = "StrictHostKeyChecking accept-new";
    let no = "StrictHostKeyChecking no";
    vec![
        Case::new("all good", "", In).ordinary(),
        Case::new("unknown", "", HostKey).known("").ordinary(),
        Case::new("changed", "", HostKey).known(STALE),
        Case::new("unknown, accept-new", new, In).known("").ordinary(),
        Case::new("changed, accept-new", new, HostKey).known(STALE),
        Case::new("unknown, no", no, In).known(""),
        Case::new("changed, no", no, HostKey).known(STALE).ordinary(),
        Case::new("ask", "StrictHostKeyChecking ask", HostKey).known(""),
        Case::new("no file, accept-new", &format!("{new}\nUserKnownHostsFile none"), HostKey)
            .ordinary(),
        Case::new("no file, no", &format!("{no}\nUserKnownHostsFile none"), HostKey).ordinary(),
        Case::new(
            "only the global file",
            "UserKnownHostsFile none\nGlobalKnownHostsFile {dir}/all",
            In,
        )
        .file("all", "{known}"),
        Case::new("without port", "", In).known("127.0.0.1 {host_ed25519.pub}\n"),
        Case::new("alias", ALIAS, In).known("gw.example {host_rsa.pub}\n"),
        Case::new("alias that nobody knows", ALIAS, HostKey),
        Case::new("alias, changed", ALIAS, HostKey).known("gw.example {other.pub}\n{known}"),
        Case::new("only rsa known", "", In).known("{host} {host_rsa.pub}\n"),
        Case::new("only ecdsa known", "", In).known("{host} {host_ecdsa.pub}\n"),
        Case::new("two of one kind", "", In).known("{host} {other.pub}\n{known}"),
        Case::new("revoked", "", HostKey).known(&format!("{REVOKED}{{known}}")).ordinary(),
        Case::new("another is revoked", "", In).known("@revoked * {other.pub}\n{known}"),
        Case::new("authority alone", "", In).known(CA).ordinary(),
        Case::new("authority of others", "", HostKey).known("@cert-authority {host} {other.pub}\n"),
        Case::new("authority beside a stale key", "", In).known(&format!("{CA}{STALE}")),
        Case::new("authority revoked", "", HostKey).known(REVOKED_CA),
        Case::new("authority and no certificates", "HostKeyAlgorithms ssh-ed25519", HostKey)
            .known(CA),
        Case::new("revoked in a text", "RevokedHostKeys {dir}/revoked", HostKey)
            .file("revoked", "{host_ed25519.pub}\n"),
        Case::new("another in that text", "RevokedHostKeys {dir}/revoked", In)
            .file("revoked", "{other.pub}\n"),
        Case::new("no such text", "RevokedHostKeys {dir}/revoked", HostKey),
        Case::new("local without a key", "NoHostAuthenticationForLocalhost yes", In)
            .known("")
            .ordinary(),
        Case::new("hashed", "", In).known("{known}").words(["-o", "HashKnownHosts=yes"]),
    ]
}

/// Programs that know host keys, and others that ssh starts.
fn programs() -> Vec<Case> {
    let proxy = "ProxyCommand {dir}/proxy %h %p\nGlobalKnownHostsFile {dir}/global";
    let sssd = "#!/bin/sh\necho '{known}' >{dir}/global\nexec nc \"$@\"\n";
    vec![
        Case::new("known to a program", COMMAND, In).file("command", KNOWS).known(""),
        Case::new("unknown to a program", COMMAND, HostKey)
            .file("command", "#!/bin/sh\n")
            .known(""),
        Case::new("revoked by a program", COMMAND, HostKey).file("command", REVOKES),
        Case::new("a program that fails", COMMAND, NotReached)
            .file("command", "#!/bin/sh\nexit 1\n"),
        Case::new("no such program", COMMAND, In),
        Case::new("known once the proxy has started", proxy, In).file("proxy", sssd).known(""),
        Case::new(
            "match by a program",
            "Match exec \"test %h = gw\"\nUserKnownHostsFile {dir}/other",
            HostKey,
        )
        .file("other", STALE),
        Case::new("an empty shell", "ProxyCommand nc %h %p", In).env("SHELL", "").ordinary(),
        Case::new("no such shell", "ProxyCommand nc %h %p", NotReached).env("SHELL", "/no/shell"),
        Case::new("a proxy that is not there", "ProxyCommand no-such-program", NotReached)
            .ordinary(),
        Case::new("a proxy that fails", "ProxyCommand false", NotReached),
        Case::new("a script in ssh's place", "", In).file("ssh", &wrapper()).ordinary(),
    ]
}

/// It says something first, and leaves somebody who has its stdout.
fn wrapper() -> String {
    let ssh = path_of("ssh").expect("ssh in its usual place");
    format!("#!/bin/sh\necho user friendly\necho\nsleep 1000 2>/dev/null &\nexec {ssh} \"$@\"\n")
}

fn logins() -> Vec<Case> {
    let held = "IdentityFile {world}/id_held.pub\nCertificateFile {world}/elsewhere/id_held-cert.pub\nIdentityAgent {agent}";
    let alone = "IdentityFile {world}/id_alone\n";
    vec![
        Case::new("another key", "IdentityFile {world}/id_other", Refused).ordinary(),
        Case::new(
            "the second of two",
            "IdentityFile {world}/id_other\nIdentityFile {world}/id",
            In,
        ),
        Case::new("rsa", "IdentityFile {world}/id_rsa", In),
        Case::new("no such key", "IdentityFile {world}/nobody", Refused),
        Case::new("no keys", "PubkeyAuthentication no", Refused).ordinary(),
        Case::new("only passwords", "PreferredAuthentications password", Refused),
        Case::new("a certificate beside its key", "IdentityFile {world}/id_certified", In)
            .ordinary(),
        Case::new(
            "another certificate is named",
            "IdentityFile {world}/id_certified\nCertificateFile none",
            Refused,
        )
        .ordinary(),
        Case::new("an rsa certificate", "IdentityFile {world}/id_rsa_certified", In),
        Case::new("its certificate is elsewhere", alone, Refused),
        Case::new(
            "and named",
            &format!("{alone}CertificateFile {{world}}/elsewhere/id_alone-cert.pub"),
            In,
        ),
        // As Vault's documentation has it.
        Case::new("a certificate as an identity", "", In).words([
            "-i",
            "{world}/elsewhere/id_alone-cert.pub",
            "-i",
            "{world}/id_alone",
        ]),
        Case::new(
            "an rsa certificate in the agent",
            "IdentityFile none\nIdentitiesOnly no\nIdentityAgent {agent}",
            In,
        )
        .ordinary(),
        Case::new("a certificate whose key the agent holds", held, In).ordinary(),
        Case::new(
            "only keys of files",
            "IdentityFile {world}/id_other\nIdentityAgent {agent}",
            Refused,
        ),
        Case::new("a forbidden forward", "", Refused).on(Forbidding).ordinary(),
        Case::new("a banner of 60,000 bytes", "", In)
            .on(Talking)
            .but(&[Libssh2], NotReached, "libssh2 reads no packet of more than 34,000 bytes: 78")
            .ordinary(),
        Case::new("another user", "User nobody", Refused),
    ]
}

fn tokens() -> Vec<Case> {
    let link = "#!/bin/sh\nln -sf {world}/id {dir}/\"$1\"\n";
    // In the configuration, so that each run makes its own.
    let linked = |link: &str, name: &str| {
        format!(
            "HostName 127.0.0.1\nPort {{port}}\nUser {{user}}\nMatch exec \"sh {{dir}}/link {link}\"\nIdentityFile {{dir}}/{name}\nMatch all\nIdentityFile none\n"
        )
    };
    let made = |name: &str| linked(name, name);
    let up = "../../../../../../../..";
    vec![
        Case::new("%n %k", &linked("id-gw-gw", "id-%n-%k"), In).file("link", link).ordinary(),
        Case::new("%n of a URI", &made("id-%n"), In)
            .file("link", link)
            .named("ssh://gw:{port}")
            .ordinary(),
        Case::new("%k with an alias", &format!("{ALIAS}{}", made("id-%k")), In)
            .file("link", link)
            .known("gw.example {host_ed25519.pub}\n"),
        Case::new("%C", &made("id-%C"), In).file("link", link).ordinary(),
        Case::new("%h %p %r %u %i %l %L %%", &made("id-%h-%p-%r-%u-%i-%l-%L-%%"), In)
            .file("link", link),
        Case::new("~user", &format!("IdentityFile ~{{me}}/{up}{{world}}/id"), In).ordinary(),
        Case::new("~nobody", "IdentityFile ~no-such-user/id", NotReached),
        Case::new("a variable", "IdentityFile ${KEYS}/id${EMPTY}", In)
            .env("KEYS", "{world}")
            .env("EMPTY", "")
            .ordinary(),
        Case::new("a variable that is not set", "IdentityFile ${NO_SUCH}/id", NotReached)
            .ordinary(),
        Case::new("an unknown token", "IdentityFile {world}/id%Z", NotReached),
        Case::new("an unknown token in the proxy", "ProxyCommand nc %h %p %Z", NotReached)
            .ordinary(),
        Case::new(
            "%k %n in the proxy",
            "ProxyCommand sh -c 'test %%k%%n = gwgw && exec nc %h %p'".replace("%%", "%").as_str(),
            In,
        )
        .ordinary(),
        Case::new("tokens of known_hosts", "UserKnownHostsFile {dir}/%n-%k", In)
            .file("gw-gw", "{known}")
            .known(""),
        Case::new("a per cent sign in known_hosts", "UserKnownHostsFile {dir}/%%h", In)
            .file("%h", "{known}")
            .known("")
            .ordinary(),
        Case::new("no tokens in the global file", "GlobalKnownHostsFile {dir}/%h", In)
            .file("%h", "{known}")
            .known(""),
        Case::new("blanks", "UserKnownHostsFile \"{dir}/a b\"", In)
            .file("a b", "{known}")
            .known(""),
    ]
}

fn words() -> Vec<Case> {
    vec![
        Case::new("a service's name", "ProxyCommand nc 127.0.0.1 {port}", In)
            .words(["-p", "ssh"])
            .known("127.0.0.1 {host_ed25519.pub}\n")
            .ordinary(),
        Case::new("a tab", "Port 1", In).words(["-o", "Port\t{port}"]).ordinary(),
        Case::new("a URI", "Port 1", In).named("ssh://{user}@gw:{port}"),
        Case::new("a bad option", "NoSuchKeyword yes", NotReached),
        Case::new("ignored", "IgnoreUnknown NoSuch*\nNoSuchKeyword yes", In),
        Case::new("included", "Include {dir}/more", In).file("more", "Port {port}\n"),
        Case::new("in the background", "ForkAfterAuthentication yes", In),
    ]
}

fn ways() -> Vec<Case> {
    let hop = "Host hop\nHostName 127.0.0.1\nHost gw\nProxyJump hop\n";
    let two = "Host hop two\nHostName 127.0.0.1\nHost gw\nProxyJump hop,{user}@two:{port}\n";
    let shared = "ControlMaster auto\nControlPath {dir}/m-%n\nControlPersist 60\n";
    let fdpass = "#!/usr/bin/env python3\nimport array, socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])))\nout = socket.socket(fileno=1)\nout.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])\n";
    vec![
        Case::new("a hop", hop, In).ordinary(),
        Case::new("two hops", two, In),
        Case::new("a hop that is shared", &format!("{shared}{hop}"), In),
        Case::new("a hop on the command line", "Host hop\nHostName 127.0.0.1", In)
            .words(["-J", "hop"]),
        Case::new("an unknown hop", &format!("Host hop\nUserKnownHostsFile none\n{hop}"), HostKey),
        Case::new(
            "a hop that refuses",
            &format!(
                "Host hop\nIdentityFile {{world}}/id_other\n{hop}Host gw\nIdentityFile {{world}}/id\n"
            ),
            Refused,
        ),
        Case::new("a socket handed over", "ProxyCommand {dir}/proxy %h %p\nProxyUseFdpass yes", In)
            .file("proxy", fdpass),
        Case::new("from an address by name", "BindAddress localhost", In).ordinary(),
        Case::new("from no address of ours", "BindAddress 192.0.2.1", NotReached),
        Case::new("by another family", "AddressFamily inet6", NotReached).ordinary(),
        Case::new("another port", "Port 1", NotReached),
    ]
}
