//! Over ssh, where processes, space, programs or descriptors are missing.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::rig::crowd::all_at_once;
use crate::rig::other_user::hand_over;
use crate::rig::traffic::connect;
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Overlay, Service, Site, Tunnel, eventually_every,
    free_port, process, skip, wait_until,
};

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
        outcome.fails(71, &["No space left on device"]);
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

/// Goal: ssh needs three descriptors for each client, and licfwd two; who finds none
/// left waits for a turn, and nobody is turned away.
#[test]
fn few_descriptors_are_taken_in_turns() {
    thread::scope(|scope| {
        scope.spawn(|| take_turns(256, 200, 60));
        // More clients than either has descriptors.
        scope.spawn(|| take_turns(48, 60, 6));
    });
}

/// Serves `clients`, at least `at_once` of them at the same time, where nobody may
/// have more descriptors than `limit`.
fn take_turns(limit: u32, clients: usize, at_once: usize) {
    const LOOK: Duration = Duration::from_millis(200);
    let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::Echo));
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(Job::new(), |job| {
        let licfwd = job.licfwd(&gateway);
        let mut command = job.command("sh");
        command.args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"]);
        command.arg(licfwd.get_program()).args(licfwd.get_args());
        command.args(["--via", "ssh", "gw", &target]);
        command
    });
    let port = tunnel.port();
    let may_go = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // No more get in than those who sit there.
            let mut before = 0;
            let full = eventually_every(LOOK, LIMIT, || {
                let now = server.clients();
                now >= at_once && now == std::mem::replace(&mut before, now)
            });
            may_go.store(true, Ordering::SeqCst);
            eprintln!("{before} of {clients} clients at once, of {limit} descriptors");
            assert!(full && before < clients, "{before} clients at once");
        });
        let may_go = may_go.clone();
        all_at_once(clients, FLOOD, move |_| {
            let mut client = connect(port)?;
            client.write_all(b"x")?;
            client.read_exact(&mut [0])?;
            wait_until("all seats are taken", 2 * LIMIT, || may_go.load(Ordering::SeqCst));
            client.write_all(b"x")?;
            client.read_exact(&mut [0])
        });
    });
    assert_eq!(server.served(), clients + 1, "and licfwd's own question");
}
