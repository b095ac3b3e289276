//! licfwd enters where ssh enters, and nowhere else: ssh beside it is the oracle, and
//! every transport has the same verdict, or libssh2 says that it leaves that to ssh (78).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::login::Agent;
use crate::rig::gateway::{ALL_KEX, give_to_account, keygen};
use crate::rig::{
    FLOOD, Gateway, Outcome, Scratch, Site, certified, debian13, free_port, hostbased, long,
    say_skipped, skip,
};

/// How libssh2 alone comes out.
#[derive(Clone, Copy, PartialEq)]
enum Libssh2 {
    /// As all others.
    Alike,
    /// It leaves that to ssh.
    LeavesIt,
}
use Libssh2::{Alike, LeavesIt};

/// `ssh -f -N -L` with these options.
fn ssh(site: &Site, options: &[&str]) -> Outcome {
    let mut ssh = site.job.client("ssh", &site.gateway);
    ssh.arg("-F").arg(site.gateway.config()).args(&site.options).args(options);
    ssh.args(["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-f", "-N", "-L"]);
    ssh.arg(format!("{}:{}", free_port(), site.target())).arg("gw");
    // In the background it keeps its stderr.
    let mut shell = site.job.client("sh", &site.gateway);
    let own = |word: &std::ffi::OsStr| word.to_owned();
    shell.args(["-c", r#""$@" 2>said; code=$?; cat said >&2; exit $code"#, "sh"]);
    shell.arg(ssh.get_program()).args(ssh.get_args().map(own));
    shell.envs(ssh.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = site.job.run(&mut shell);
    site.job.end();
    outcome
}

/// ssh is let in where `code` is 0 and refused elsewhere; licfwd ends with that code
/// over each transport, and says `word` where it is not 0 or ssh is asked at once.
#[track_caller]
fn alike(site: &Site, options: &[&str], code: i32, libssh2: Libssh2, word: &str) {
    let oracle = ssh(site, options);
    assert_eq!(oracle.code == 0, code == 0, "{options:?}: {oracle:?}");
    for via in ["auto", "ssh", "libssh2"] {
        let expected = match (libssh2, via) {
            (LeavesIt, "libssh2") => 78,
            _ => code,
        };
        let before = site.connections();
        let outcome = site.run(&[options, &["-v", "--via", via]].concat());
        site.job.end();
        assert_eq!(outcome.code, expected, "{via} {options:?}: {outcome:?}");
        if via == "libssh2" || (via == "auto" && libssh2 == LeavesIt) {
            let told = libssh2 == Alike && expected == 0 || outcome.stderr.contains(word);
            assert!(told, "{via} {options:?}: {outcome:?}");
        }
        let made = site.connections() - before;
        // After a refusal ssh may be asked, once.
        let most = match (libssh2, via) {
            (LeavesIt, "libssh2") => 0,
            (Alike, "auto") if code == 77 => 2,
            _ => 1,
        };
        assert!(made <= most, "{via} {options:?}: {made} connections");
    }
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// `host key` as a line of known_hosts has it: without name.
fn host_key(site: &Site) -> String {
    let lines = site.gateway.client().read("known_hosts");
    lines.lines().next().and_then(|line| line.split_once(' ')).expect("a line").1.to_owned()
}

fn name(site: &Site) -> String {
    format!("[127.0.0.1]:{}", site.gateway.port())
}

/// An executable script of the client's.
fn program(site: &Site, name: &str, script: &str) -> String {
    let path = site.gateway.client().write(name, &format!("#!/bin/sh\n{script}\n"));
    open(&path, 0o700);
    text(&path)
}

/// The way to an agent.
fn option(agent: &Agent) -> String {
    format!("-oIdentityAgent={}", text(&agent.socket))
}

fn keygen_with(arguments: &[&str]) {
    let mut keygen = Command::new("ssh-keygen");
    let output = keygen.args(["-q"]).args(arguments).output().expect("run ssh-keygen");
    assert!(output.status.success(), "{keygen:?}: {output:?}");
}

/// Goal: a program that knows host keys is asked by ssh, and what it says holds
/// (FreeIPA and SSSD since RHEL 9.6).
#[test]
fn host_keys_of_a_program() {
    let site = Site::new();
    let line = format!("{} {}", name(&site), host_key(&site));
    let known = format!("-oUserKnownHostsFile={}", text(&site.gateway.known_hosts()));
    let unknown = "-oUserKnownHostsFile=/dev/null";
    for (called, script, file, code) in [
        ("knows", format!("echo '{line}'"), unknown, 0),
        ("revokes", format!("echo '@revoked {line}'"), known.as_str(), 76),
        ("is-empty", "true".to_owned(), unknown, 76),
        ("fails", "exit 1".to_owned(), known.as_str(), 78),
    ] {
        let program = program(&site, called, &script);
        let option = format!("-oKnownHostsCommand={program} %H");
        alike(&site, &[file, &option], code, LeavesIt, "KnownHostsCommand ");
        let told =
            site.job.run(site.job.licfwd(&site.gateway).args([file, &option, "--check", "gw"]));
        assert_eq!(told.code, code, "{told:?}");
        assert!(told.stderr.contains("using ssh itself: gateway gw: KnownHosts"), "{told:?}");
    }
}

/// Goal: a ProxyCommand that writes the gateway's key down before it connects (FreeIPA
/// and SSSD before): the file is read when the gateway has greeted.
#[test]
fn host_keys_that_a_proxy_writes_down() {
    let site = Site::new();
    let file = text(&site.gateway.client().file("written"));
    // It asks its directory first.
    let line = format!("{} {}", name(&site), host_key(&site));
    let script = format!("sleep 0.3; echo '{line}' > {file}; exec nc $1 $2");
    let proxy = format!("-oProxyCommand={} %h %p", program(&site, "proxy", &script));
    let options = ["-oUserKnownHostsFile=/dev/null", &format!("-oGlobalKnownHostsFile={file}")];
    for via in ["auto", "ssh", "libssh2"] {
        let _ = fs::remove_file(&file);
        assert_eq!(ssh(&site, &[&options[..], &[&proxy]].concat()).code, 0);
        fs::remove_file(&file).expect("written");
        site.logs_in(&[&options[..], &[&proxy, "--via", via]].concat());
    }
}

/// Goal: `StrictHostKeyChecking no` writes a new key down, and refuses another one.
#[test]
fn without_strict_checking() {
    for via in ["auto", "ssh", "libssh2"] {
        let mut site = Site::new();
        let file = site.gateway.client().file("fresh");
        let options =
            ["-oStrictHostKeyChecking=no", &format!("-oUserKnownHostsFile={}", text(&file))];
        site.logs_in(&[&options[..], &["--via", via]].concat());
        let written = fs::read_to_string(&file).expect("written down");
        assert!(written.starts_with(&name(&site)), "{via}: {written}");
        site.gateway.change_host_key();
        site.gateway.restart();
        assert_ne!(ssh(&site, &options).code, 0);
        site.fails(76, &[&options[..], &["--via", via]].concat(), &[]);
        assert_eq!(fs::read_to_string(&file).expect("kept"), written);
    }
}

/// Goal: RevokedHostKeys in each of its forms, one that is missing included.
#[test]
fn revoked_host_keys() {
    let site = Site::new();
    let directory = Scratch::new();
    let key = directory.write("key.pub", &format!("{}\n", host_key(&site)));
    let stranger = directory.file("stranger");
    keygen(&stranger, &["-t", "ed25519"]);
    let (krl, hash, other) =
        (directory.file("krl"), directory.file("hash"), directory.file("other"));
    keygen_with(&["-k", "-f", &text(&krl), &text(&key)]);
    let print = Command::new("ssh-keygen").args(["-lf", &text(&key)]).output().expect("run");
    let print = String::from_utf8_lossy(&print.stdout).into_owned();
    let print = print.split(' ').nth(1).expect("a fingerprint");
    let rule = directory.write("rule", &format!("hash: {print}\n"));
    keygen_with(&["-k", "-f", &text(&hash), &text(&rule)]);
    keygen_with(&["-k", "-f", &text(&other), &text(&stranger.with_extension("pub"))]);
    for (file, code) in [(&key, 76), (&krl, 76), (&hash, 76), (&other, 0)] {
        let option = format!("-oRevokedHostKeys={}", text(file));
        alike(&site, &[&option], code, LeavesIt, "RevokedHostKeys ");
    }
    alike(&site, &["-oRevokedHostKeys=/nowhere"], 76, LeavesIt, "RevokedHostKeys ");
}

/// Goal: what known_hosts says with a marker is for ssh: a certificate that is good
/// beside a plain key that is not, an authority that is revoked although the plain key
/// is known, a key that is.
#[test]
fn marked_lines() {
    let site = Site::behind(certified::gateway());
    let authority = site.gateway.client().read("known_hosts");
    let (_, authority) = authority.split_once(' ').expect("a marked line");
    let (_, authority) = authority.split_once(' ').expect("its names");
    let stale = Scratch::new();
    let stale = keygen(&stale.file("stale"), &["-t", "ed25519"]);
    let plain = site.gateway.host_key().with_file_name("certified.pub");
    let plain = fs::read_to_string(plain).expect("a key");
    let name = name(&site);
    for (lines, code) in [
        (format!("{name} {stale}@cert-authority {name} {authority}"), 0),
        (format!("@cert-authority {name} {stale}{name} {plain}"), 0),
        (format!("{name} {plain}@revoked * {authority}"), 76),
        (format!("{name} {plain}@revoked {name} {plain}"), 76),
        (format!("{name} {plain}@revoked {name} {stale}"), 0),
    ] {
        let file = site.gateway.client().write("marked", &lines);
        let option = format!("-oUserKnownHostsFile={}", text(&file));
        alike(&site, &[&option], code, LeavesIt, "the line with @");
    }
    let file = site.gateway.client().write("marked", &format!("{name} {plain}"));
    alike(&site, &[&format!("-oUserKnownHostsFile={}", text(&file))], 0, Alike, "");
}

/// Goal: a restriction of which libssh2 knows no name, or that it has to honour itself.
#[test]
fn restrictions() {
    let kex = ["-oKexAlgorithms=sntrup761x25519-sha512@openssh.com"];
    alike(&Site::with(&[ALL_KEX]), &kex, 0, LeavesIt, "KexAlgorithms ");
    let site = Site::new();
    let key = site.gateway.client().file("rsa");
    let public = keygen(&key, &["-t", "rsa", "-b", "2048"]);
    site.gateway.authorize(
        &(public + &fs::read_to_string(beside(&site.gateway.identity(), ".pub")).expect("a key")),
    );
    let key = text(&key);
    for (options, code, libssh2, word) in [
        (&["-oMACs=umac-128-etm@openssh.com"][..], 0, LeavesIt, "MACs "),
        // Whose host key is not certified.
        (
            &["-oHostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com"],
            78,
            LeavesIt,
            "HostKeyAlgorithms ",
        ),
        (
            &["-oPubkeyAcceptedAlgorithms=sk-ssh-ed25519@openssh.com"],
            77,
            LeavesIt,
            "PubkeyAcceptedAlgorithms ",
        ),
        (
            &["-oPubkeyAcceptedAlgorithms=rsa-sha2-512"],
            77,
            Alike,
            "PubkeyAcceptedAlgorithms does not",
        ),
        (&["-oPubkeyAcceptedAlgorithms=rsa-sha2-512", "-i", &key], 0, Alike, ""),
        (&["-oPubkeyAcceptedAlgorithms=ssh-ed25519,rsa-sha2-256"], 0, Alike, ""),
        (
            &["-oRequiredRSASize=2048", "-i", &key, "-oPubkeyAcceptedAlgorithms=rsa-sha2-256"],
            0,
            Alike,
            "",
        ),
        (
            &["-oRequiredRSASize=2049", "-i", &key, "-oPubkeyAcceptedAlgorithms=rsa-sha2-256"],
            77,
            Alike,
            "RequiredRSASize",
        ),
        (&["-oRekeyLimit=1M"], 0, LeavesIt, "RekeyLimit "),
        (&["-oVerifyHostKeyDNS=yes"], 0, LeavesIt, "VerifyHostKeyDNS "),
        (&["-oCheckHostIP=yes"], 0, LeavesIt, "CheckHostIP yes"),
    ] {
        alike(&site, options, code, libssh2, word);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Goal: a host key of RSA that is too short for RequiredRSASize.
#[test]
fn a_short_host_key() {
    let server = Scratch::new();
    let key = server.file("host_rsa");
    let public = keygen(&key, &["-t", "rsa", "-b", "2048"]);
    give_to_account(&key);
    let line = format!("HostKey {}", text(&key));
    let gateway = Gateway::overlaid(server, Default::default(), &[&line], &[]);
    let site = Site::behind(gateway);
    site.gateway.client().write("known_hosts", &format!("{} {public}", name(&site)));
    let rsa = "-oHostKeyAlgorithms=rsa-sha2-512";
    alike(&site, &[rsa, "-oRequiredRSASize=2048"], 0, Alike, "");
    let oracle = ssh(&site, &[rsa, "-oRequiredRSASize=4096"]);
    assert_ne!(oracle.code, 0, "{oracle:?}");
    site.fails(76, &[rsa, "-oRequiredRSASize=4096"], &["RequiredRSASize (4096 bits)"]);
}

/// Goal: certificates that only ssh can show go over it at once; and who names one as an
/// identity (as Vault's documentation has it) logs in.
#[test]
fn certificates() {
    let authority = Scratch::new();
    let ca = authority.file("ca");
    keygen(&ca, &["-t", "ed25519"]);
    open(authority.path(), 0o711);
    let site = Site::with(&[&format!("TrustedUserCAKeys {}.pub", text(&ca))]);
    site.gateway.authorize("");
    for kind in ["rsa", "ed25519"] {
        let agent = Agent::start();
        let key = site.gateway.client().file(kind);
        keygen(&key, &["-t", kind]);
        let user = site.gateway.user();
        keygen_with(&["-s", &text(&ca), "-I", "rig", "-n", user, &text(&key)]);
        let (key, beside) = (text(&key), format!("{}-cert.pub", text(&key)));
        let certificate = format!("{key}-signed.pub");
        fs::rename(&beside, &certificate).expect("move");
        agent.add(Path::new(&key));
        alike(&site, &["-i", &certificate, "-i", &key], 0, Alike, "");
        let named = format!("-oCertificateFile={certificate}");
        fs::remove_file(&key).expect("remove the key");
        let public = format!("{key}.pub");
        for options in [
            [&option(&agent), &named, "-i", &public],
            [&option(&agent), &named, "-o", "IdentitiesOnly=no"],
        ] {
            alike(&site, &options, 0, LeavesIt, "whose key is elsewhere");
        }
        agent.forget();
        alike(
            &site,
            &[&option(&agent), &named, "-i", &public],
            77,
            LeavesIt,
            "whose key is elsewhere",
        );
    }
    let agent = Agent::start();
    let key = site.gateway.client().file("inside");
    keygen(&key, &["-t", "rsa"]);
    keygen_with(&["-s", &text(&ca), "-I", "rig", "-n", site.gateway.user(), &text(&key)]);
    agent.add(&key);
    for file in [key.clone(), beside(&key, ".pub"), beside(&key, "-cert.pub")] {
        fs::remove_file(file).expect("remove");
    }
    let options = [&option(&agent), "-oIdentitiesOnly=no"];
    alike(&site, &options, 0, LeavesIt, "the RSA certificate");
}

/// Goal: a key that the agent keeps for this way alone (`ssh-add -h`): after libssh2 was
/// refused ssh is asked, once; and nobody is asked anew once the connection is closed.
#[test]
fn what_cannot_be_seen_before() {
    let site = Site::new();
    let agent = Agent::start();
    let known = text(&site.gateway.known_hosts());
    let mut add = site.job.command("ssh-add");
    add.args(["-q", "-H", &known, "-h", &name(&site)]).arg(site.gateway.identity());
    let added = site.job.run(add.env("SSH_AUTH_SOCK", &agent.socket));
    if added.code != 0 {
        skip!("this ssh-add knows no -h: {}", added.stderr.trim());
    }
    let kept = site.gateway.client().file("away");
    fs::rename(site.gateway.identity(), &kept).expect("move");
    let options = [&option(&agent), "-oIdentitiesOnly=no"];
    let oracle = ssh(&site, &options);
    assert_eq!(oracle.code, 0, "{oracle:?}");
    for (via, code, most) in [("auto", 0, 2), ("ssh", 0, 1), ("libssh2", 77, 1)] {
        let before = site.connections();
        let outcome = site.run(&[&options[..], &["--via", via]].concat());
        assert_eq!(outcome.code, code, "{outcome:?}");
        site.job.end();
        assert_eq!(site.connections() - before, most, "{via}");
    }
    site.gateway.authorize("");
    let before = site.connections();
    site.fails(77, &options, &["refused", "publickey"]);
    assert_eq!(site.connections() - before, 2);
    // Too many keys: the gateway closes the connection.
    let strict = Site::with(&["MaxAuthTries 1"]);
    strict.gateway.authorize("");
    let crowd = Agent::start();
    crowd.add_strangers(3);
    strict.fails(77, &[&option(&crowd), "-oIdentitiesOnly=no"], &["closed the connection"]);
    assert_eq!(strict.connections(), 1);
}

/// Goal: settings that licfwd did not know, or took for an error.
#[test]
fn other_settings() {
    let site = Site::new();
    let unknown = "-oUserKnownHostsFile=/dev/null";
    let trusts = "-oNoHostAuthenticationForLocalhost=yes";
    alike(&site, &[unknown, trusts], 0, LeavesIt, "NoHostAuthenticationForLocalhost ");
    alike(&site, &["-oBindAddress=localhost", "-4"], 0, LeavesIt, "BindAddress localhost");
    alike(&site, &["-b", "127.0.0.3"], 0, LeavesIt, "BindAddress 127.0.0.3");
    alike(&site, &["-B", "lo"], 0, LeavesIt, "BindInterface lo");
    alike(&site, &["-oForkAfterAuthentication=yes"], 0, Alike, "");
    let socket = ["-oProxyCommand=nc -F %h %p", "-oProxyUseFdpass=yes"];
    if ssh(&site, &socket).code == 0 {
        alike(&site, &socket, 0, LeavesIt, "ProxyUseFdpass ");
    } else {
        skip!("this nc hands over no socket");
    }
}

/// Goal: a hop without any configuration, and a ProxyCommand without a shell of the user's.
#[test]
fn ways_through_a_program() {
    let site = Site::new();
    let mut call = site.call(&["-oProxyCommand=nc %h %p"]);
    site.job.run(call.env("SHELL", "")).port("MLM_LICENSE_FILE");
    site.job.end();
    let here = format!("{}@127.0.0.1", site.gateway.user());
    let hop = format!("{here}:{}", site.gateway.port());
    for via in ["auto", "ssh", "libssh2"] {
        let mut call = site.job.command(crate::rig::job::licfwd());
        call.args(["-F", "none", "-J", &hop, "--via", via, &here, &site.target()]);
        // Nobody knows the hop.
        site.job.run(&mut call).fails(76, &["Host key verification failed"]);
    }
}

/// Goal: at a gateway that is known by its authority alone, each start makes one
/// connection, which logs in.
#[test]
fn no_connection_without_a_login() {
    let site = Site::behind(certified::gateway());
    for _ in 0..3 {
        site.logs_in(&[]);
    }
    assert_eq!(logins(&site), (3, 3));
    // No key to show, and nobody to type.
    match hostbased::gateway() {
        Ok(gateway) => {
            let site = Site::behind(gateway);
            site.logs_in(&["-oIdentityFile=/nowhere", "-oPubkeyAuthentication=no"]);
            assert_eq!(site.connections(), 1);
        }
        Err(why) => say_skipped(&why),
    }
}

fn logins(site: &Site) -> (usize, usize) {
    (site.connections(), site.gateway.log().matches("Accepted publickey").count())
}

/// Goal: sshd of 9.8 and later punishes an address for connections that end without a
/// login: 60 starts together get in as fast as over ssh, and an ssh beside them does.
#[test]
fn sixty_starts_where_sshd_punishes() {
    const STARTS: usize = 60;
    if !long() {
        return;
    }
    let root = match debian13::root() {
        Ok(root) => root,
        Err(why) => skip!("{why}"),
    };
    let site = Site::behind(certified::gateway_of(|server, lines| {
        let lines = [lines, &["PerSourcePenalties yes"]].concat();
        Gateway::in_root(root, server, &lines)
    }));
    let took = ["auto", "ssh"].map(|via| {
        let start = Instant::now();
        let starts: Vec<_> = (0..STARTS)
            .map(|_| site.job.spawn(&mut site.call(&["--no-watch", "--via", via])))
            .collect();
        let beside = ssh_beside(&site);
        for one in starts {
            let outcome = one.wait(2 * FLOOD);
            assert_eq!(outcome.code, 0, "{outcome:?}");
        }
        let took = start.elapsed();
        assert_eq!(beside, 0, "{via}: ssh beside it");
        site.job.end();
        took
    });
    eprintln!("{STARTS} starts: {took:?}");
    assert!(took[0] < 3 * took[1] + Duration::from_secs(3), "{took:?}");
    assert_eq!(logins(&site), (2 * STARTS + 2, 2 * STARTS + 2));
    assert!(!site.gateway.log().contains("penalty"), "{}", site.gateway.log());
    assert_eq!(ssh(&site, &[]).code, 0);
}

/// Goal: what refused logins of one job mean for the node's others, where nobody has
/// exempted its address: they wait until sshd's penalty is over, and get in.
#[test]
fn refused_logins_where_sshd_punishes() {
    if !long() {
        return;
    }
    let root = match debian13::root() {
        Ok(root) => root,
        Err(why) => skip!("{why}"),
    };
    let lines = ["PerSourcePenalties yes"];
    let site = Site::behind(Gateway::in_root(root, Scratch::new(), &lines));
    let key = fs::read_to_string(site.gateway.client().file("id_ed25519.pub")).expect("the key");
    site.gateway.authorize("");
    let mut refused = 0;
    while site.run(&["--tries", "1"]).code == 77 {
        refused += 1;
        assert!(refused < 20, "nobody is punished");
    }
    site.gateway.authorize(&key);
    let start = Instant::now();
    let outcome = site.run(&[]);
    let took = start.elapsed();
    eprintln!("after {refused} refused logins: in after {took:?}\n{}", outcome.stderr);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

/// An ssh that logs in and leaves, while others log in.
fn ssh_beside(site: &Site) -> i32 {
    let mut ssh = site.job.client("ssh", &site.gateway);
    ssh.arg("-F").arg(site.gateway.config()).args(["-o", "BatchMode=yes"]);
    site.job.run(ssh.args(["-W", &site.target(), "gw"])).code
}
