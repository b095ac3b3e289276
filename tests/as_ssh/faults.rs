//! What a verdict does not tell: that nothing is tried in vain, that nothing is left
//! behind, and what is said.

use std::fs;
use std::process::Command;

use crate::rig::as_ssh::Verdict::{HostKey, NotReached, Refused};
use crate::rig::as_ssh::{Call, Kind, Verdict, Who, World, each};
use crate::rig::gateway::keygen;
use crate::rig::{LIMIT, Site, installed, process, wait_until};

/// Goal: what no further try can mend is tried once, over either transport.
#[test]
fn permanent_faults_are_tried_once() {
    let call = |lines: &str| Call { lines: lines.into(), ..Call::default() };
    let hop = "Host hop\nHostName 127.0.0.1\nHost gw\nProxyJump hop\n";
    let shell = |shell: &str, program: &str| Call {
        env: vec![("SHELL".into(), format!("/usr/bin/{shell}"))],
        ..call(&format!("ProxyCommand {program} %h"))
    };
    let mut calls: Vec<(Call, Verdict)> = vec![
        (call("HostKeyAlgorithms rsa-sha2-512\nRequiredRSASize 4096"), HostKey),
        (call("KnownHostsCommand /bin/false"), NotReached),
        (call("IdentityFile /%Z"), NotReached),
        (call("IdentityFile ${NO_SUCH}"), NotReached),
        (call("ProxyCommand nc %Z"), NotReached),
        (
            Call { env: vec![("SHELL".into(), "/no/shell".into())], ..call("ProxyCommand nc %h") },
            NotReached,
        ),
        (Call { gateway: Kind::Forbidding, ..call(hop) }, Refused),
    ];
    for name in installed(&["dash", "bash", "ksh", "zsh", "tcsh", "fish"]) {
        for program in ["no-such-program", "/no/such/program", "/etc/passwd"] {
            calls.push((shell(name, program), NotReached));
        }
    }
    let world = World::new();
    each(calls.len(), |number| {
        let (call, expected) = &calls[number];
        let mut call = call.clone();
        call.words = ["--tries", "10"].map(String::from).into();
        for who in [Who::Auto, Who::ViaSsh] {
            let (verdict, said) = world.run(&call, who);
            if verdict != *expected || said.contains("next one in") {
                return Err(format!("{call:?}\n{who:?} comes to {verdict:?}: {said}"));
            }
        }
        Ok(())
    });
}

/// Goal: where the configuration shares connections, no master of a hop is left, neither
/// after a check nor after a tunnel.
#[test]
fn hops_leave_no_master_behind() {
    let site = Site::new();
    let hops = "Host two gw\nHostName 127.0.0.1\nHost gw\nProxyJump two\nHost two\nProxyJump one\nHost *\n\
                ControlMaster auto\nControlPath %d/mux-%n\nControlPersist 600\n";
    let hops = hops.replace("%d", &site.job.directory().path().display().to_string());
    let own = fs::read_to_string(site.gateway.config()).expect("ssh_config");
    let config = hops + &own.replace("Host gw\n", "Host *\n");
    site.gateway.client().write("ssh_config", &config);
    for via in ["libssh2", "ssh"] {
        for options in [&["--via", via, "--check"][..], &["--via", via]] {
            let outcome = site.run(options);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            if options.len() == 2 {
                process::signal("TERM", &site.job.processes_named("licfwd"));
            }
            site.job.wait_until_empty();
        }
    }
    assert_eq!(site.gateway.log().matches("Accepted publickey").count(), 4 * 3);
}

/// Goal: a program that misses its libraries, because LD_LIBRARY_PATH is kept from it, is
/// told the way round, and that leads in.
#[test]
fn programs_that_need_a_library_path() {
    installed(&["cc"]);
    let site = Site::new();
    let directory = site.job.directory();
    directory.write("lib.c", "int zero(void) { return 0; }\n");
    directory.write("main.c", "int zero(void);\nint main(void) { return zero(); }\n");
    for line in ["-shared -fPIC -o libzero.so lib.c", "-o needy main.c -L. -lzero"] {
        let outcome = site.job.run(site.job.command("cc").args(line.split(' ')));
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
    let path = directory.path().display().to_string();
    let proxy =
        |before: &str| format!("-oProxyCommand=sh -c '{before} {path}/needy && exec nc %h %p'");
    let run = |options: &[&str]| {
        let mut call = site.call(options);
        site.job.run(call.env("LD_LIBRARY_PATH", &path))
    };
    let config = format!("Match exec {path}/needy\nUser nobody\n");
    let config = config + &fs::read_to_string(site.gateway.config()).expect("ssh_config");
    let with_match = site.gateway.client().write("with_match", &config);
    let with_match = with_match.display().to_string();
    let hint = "env LD_LIBRARY_PATH=";
    for via in ["libssh2", "ssh"] {
        let outcome = run(&["--via", via, &proxy("")]);
        assert_eq!(outcome.code, 78, "{outcome:?}");
        assert!(outcome.stderr.contains(hint), "{outcome:?}");
        let outcome = run(&["--via", via, "-F", &with_match]);
        assert!(outcome.code == 0 && outcome.stderr.contains(hint), "{outcome:?}");
        site.job.end();
        let outcome = run(&["--via", via, &proxy(&format!("env LD_LIBRARY_PATH={path}"))]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        site.job.end();
    }
}

/// Goal: who is refused while ssh has a connection to reuse is told of it.
#[test]
fn refused_beside_a_living_master() {
    let site = Site::new();
    let socket = site.job.directory().file("master");
    let path = format!("-oControlPath={}", socket.display());
    let mut master = site.job.client("ssh", &site.gateway);
    master.arg("-F").arg(site.gateway.config()).args(["-M", "-N", &path, "gw"]);
    let _master = site.job.spawn(&mut master);
    wait_until("the master listens", LIMIT, || socket.exists());
    site.gateway.authorize("");
    for via in ["libssh2", "ssh"] {
        let words = ["would reuse the connection at", "master"];
        site.fails(77, &["--via", via, &path], &words);
    }
}

/// Goal: a key file in a cipher that libssh2 has not is named as such.
#[test]
fn key_in_an_unknown_cipher() {
    let site = Site::new();
    let key = site.gateway.client().file("id_3des");
    keygen(&key, &["-t", "ed25519"]);
    let mut encrypt = Command::new("ssh-keygen");
    encrypt.args(["-q", "-p", "-P", "", "-N", "secret", "-Z", "3des-cbc", "-f"]).arg(&key);
    assert!(encrypt.output().expect("run ssh-keygen").status.success());
    site.gateway.authorize("");
    let key = key.display().to_string();
    site.fails(78, &["-i", &key], &["3des-cbc, which libssh2 cannot decrypt"]);
}
