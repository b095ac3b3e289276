//! Over ssh, where processes, space or programs are missing.

use std::process::Command;

use crate::rig::other_user::hand_over;
use crate::rig::{Overlay, Site, free_port, process, skip};

/// Goal: where no thread or process is to be had, that is said, once.
#[test]
fn no_process_is_to_be_had() {
    // A user of whom nothing else runs here.
    const USER: &str = "uucp";
    if !process::is_root() {
        skip!("root has no such limit, and nobody else can be another user");
    }
    let site = Site::new();
    let call = hand_over(&site.job, &site.gateway, USER);
    let ids = [process::id(&["-u", USER]), process::id(&["-g", USER])];
    // licfwd and its keeper; one more, a thread or ssh.
    for limit in [2, 3] {
        let text =
            format!("ulimit -u {limit}; exec {call} --via ssh --deadline 20 gw {}", site.target());
        let mut licfwd = site.job.command("setpriv");
        licfwd.args(["--reuid", &ids[0], "--regid", &ids[1], "--clear-groups"]);
        licfwd.args(["bash", "-c", &text]);
        let outcome = site.job.run(&mut licfwd);
        outcome.fails(71, &["Resource temporarily unavailable"]);
        assert!(!outcome.stderr.contains("try "), "{limit}: {outcome:?}");
    }
}

/// Goal: where there is no room for ssh's sockets, that is said, once.
#[test]
fn no_room_for_sshs_sockets() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    if !process::is_root() {
        skip!("only root can mount");
    }
    const MOUNT: &str = r#"
        mkdir -m 700 small && mount -t tmpfs -o mode=0700,nr_inodes=$1 none small &&
        shift && TMPDIR=$PWD/small exec "$@"
    "#;
    // For itself, the private directory and its lock; then for ssh's socket, which has
    // two names for a moment, and for the first of two for -L.
    for (inodes, forwards) in [("3", 0), ("4", 0), ("5", 2)] {
        let site = Site::new();
        let mut call = site.call(&["--via", "ssh", "--deadline", "20"]);
        for _ in 0..forwards {
            call.args(["-L", &format!("{}:{}", free_port(), site.target())]);
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["-m", "sh", "-c", MOUNT, "sh", inodes]);
        unshare.arg(call.get_program()).args(call.get_args());
        let outcome = site.job.run(&mut site.job.wrap(unshare));
        outcome.fails(71, &[if forwards > 0 { "-L" } else { "No space left on device" }]);
        assert!(!outcome.stderr.contains("try "), "{outcome:?}");
    }
}

/// Goal: a ProxyCommand that does not exist is the configuration's fault, whoever
/// speaks to the gateway and whatever shell says so.
#[test]
fn a_proxy_that_does_not_exist() {
    for shell in ["/bin/sh", "/bin/bash"] {
        for via in ["libssh2", "ssh"] {
            for program in ["no-such-proxy", "/no/such/proxy"] {
                let site = Site::new();
                let proxy = format!("ProxyCommand={program} %h %p");
                let mut call = site.call(&["--via", via, "--deadline", "20", "-o", &proxy]);
                let outcome = site.job.run(call.env("SHELL", shell));
                outcome.fails(78, &[program]);
                assert!(!outcome.stderr.contains("try "), "{shell}, {via}: {outcome:?}");
            }
        }
    }
}
