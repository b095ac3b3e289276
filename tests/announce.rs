//! What reaches the calling shell, and that licfwd lets go of it.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Overlay, Scratch, Service, process, skip, wait_until,
};

/// Goal: with `2>&1` the shell evaluates what is meant for people, so there
/// must be nothing of that kind.
#[test]
fn notes_are_dropped_where_they_would_be_evaluated() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    // An unknown key that is accepted is worth a note.
    let call = "licfwd -F $CONFIG -o UserKnownHostsFile=/dev/null \
                -o StrictHostKeyChecking=no gw 127.0.0.1:$PORT";
    let job = Job::new();
    let outcome = job.run(&mut job.script("sh", call, &gateway, server.port()));
    outcome.port("MLM_LICENSE_FILE");
    assert!(outcome.stderr.starts_with("licfwd: "), "{outcome:?}");

    for both in ["2>&1", "2>&1 | cat"] {
        let job = Job::new();
        let text = format!("{call} {both}");
        let outcome = job.run(&mut job.script("sh", &text, &gateway, server.port()));
        outcome.port("MLM_LICENSE_FILE");
    }
}

/// Goal: the same for failures: only the statement with the code is left.
#[test]
fn errors_are_dropped_where_they_would_be_evaluated() {
    let job = Job::new();
    let outcome = job.run(job.command("sh").args(["-c", "licfwd gw :1 2>&1"]));
    assert_eq!(outcome.code, 64);
    assert_eq!(outcome.line(), "(exit 64)");
}

/// Goal: whatever signal a terminal or a scheduler sends before the announcement
/// ends licfwd with the code that the shell expects, and the statement says so too. A
/// fault is the gateway's doing, and is told.
#[test]
fn signals_before_the_announcement() {
    let gateway = Gateway::start();
    // A gateway that says nothing holds licfwd back.
    let mute = LicenseServer::start(Service::Mute);
    let deadly = [1, 2, 3, 10, 12, 14, 15, 24, 26, 30, 36].map(|number| (number, 128 + number));
    let faults = [4, 7, 8, 11].map(|number| (number, 75));
    for (signal, code) in deadly.into_iter().chain(faults) {
        let job = Job::new();
        let mut call = job.licfwd(&gateway);
        call.args(["-p", &mute.port().to_string(), "gw", "127.0.0.1:1"]);
        let running = job.spawn(&mut call);
        wait_until("licfwd connects", LIMIT, || mute.clients() == 1);
        process::signal(&signal.to_string(), &[running.pid()]);
        let outcome = running.wait(LIMIT);
        assert_eq!(outcome.code, code, "{outcome:?}");
        let told = outcome.stderr.contains(&format!("licfwd: crashed (signal {signal}) "));
        assert_eq!(told, code == 75, "{outcome:?}");
        assert_eq!(outcome.line(), format!("(exit {code})"));
        wait_until("its connection is closed", LIMIT, || mute.clients() == 0);
    }
}

/// Goal: a signal that the caller ignores is not ignored by licfwd.
#[test]
fn inherited_dispositions_are_reset() {
    let gateway = Gateway::start();
    let mute = LicenseServer::start(Service::Mute);
    let job = Job::new();
    let text = format!("trap '' TERM; exec licfwd -F $CONFIG -p {} gw 127.0.0.1:1", mute.port());
    let running = job.spawn(&mut job.script("sh", &text, &gateway, 1));
    wait_until("licfwd connects", LIMIT, || mute.clients() == 1);
    process::signal("TERM", &[running.pid()]);
    assert_eq!(running.wait(LIMIT).code, 143);
}

/// Goal: a log that is standard output, however it is called, is refused: the caller
/// would wait for its end as long as the tunnel lives, and evaluate it.
#[test]
fn a_log_on_standard_output_is_refused() {
    let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::CheckOut));
    for (log, more) in [
        ("/dev/stdout", ""),
        ("/dev/fd/1", ""),
        ("/proc/self/fd/1", ""),
        ("/dev/stderr", "2>&1"),
        ("out", ">out"),
    ] {
        let job = Job::new();
        let text = format!(
            "lic=$(licfwd --log {log} -F $CONFIG gw 127.0.0.1:$PORT {more}); code=$?; \
             cat out 2>/dev/null; printf %s \"$lic\"; exit $code"
        );
        let outcome = job.run(&mut job.script("sh", &text, &gateway, server.port()));
        assert_eq!((outcome.code, outcome.stdout.trim()), (64, "(exit 64)"), "{outcome:?}");
        assert!(!more.is_empty() || outcome.stderr.contains(log), "{outcome:?}");
        job.wait_until_empty();
    }
}

/// Goal: the value says localhost only where that leads to what is bound.
#[test]
fn localhost_that_leads_elsewhere_is_not_named() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let server = LicenseServer::start(Service::CheckOut);
    for (hosts, host, note) in [
        ("127.0.0.1 localhost\n::1 localhost\n", "localhost", ""),
        ("127.0.0.1 localhost.localdomain\n", "127.0.0.1", "localhost is missing"),
        ("10.98.7.6 localhost\n", "127.0.0.1", "localhost leads to 10.98.7.6"),
    ] {
        let files = Scratch::new();
        let file = files.write("hosts", hosts);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
        let mut overlay = Overlay::default();
        overlay.add(file, "/etc/hosts");
        let overlays = [Overlay::default(), overlay];
        let gateway = Gateway::overlaid(Scratch::new(), overlays, &[], &[]);
        let job = Job::new();
        let target = format!("127.0.0.1:{}", server.port());
        let outcome = job.run(job.licfwd(&gateway).args(["gw", &target]));
        assert_eq!(outcome.line().rsplit_once('@').map(|(_, host)| host), Some(host));
        let notes = outcome.stderr.lines().count();
        assert!(notes == usize::from(!note.is_empty()), "{outcome:?}");
        assert!(outcome.stderr.contains(note), "{outcome:?}");
    }
}

/// Goal: file names are the caller's, though the daemon's directory is `/`.
#[test]
fn relative_file_names() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let mut call = job.command(crate::rig::job::licfwd());
    call.current_dir(gateway.client().path());
    call.args(["-F", "ssh_config", "-i", "id_ed25519"]);
    call.args(["-o", "UserKnownHostsFile=known_hosts", "--log", "licfwd.log"]);
    call.args(["gw", &format!("127.0.0.1:{}", server.port())]);
    let outcome = job.run(&mut call);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let daemon = job.daemon();
    let directory = fs::read_link(format!("/proc/{daemon}/cwd")).expect("cwd");
    assert_eq!(directory.to_str(), Some("/"));
    // It tells of its start after the announcement.
    wait_until("the log is written", LIMIT, || !gateway.client().read("licfwd.log").is_empty());
}

/// Goal: the daemon keeps nothing open that it inherited: not the pipe of
/// `$(...)` or of `| tee`, which would hang, and not the lock on descriptor 9.
#[test]
fn inherited_descriptors_are_closed() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let text = "exec 9>lock\n\
                flock 9 || exit\n\
                eval $(licfwd -F $CONFIG gw 127.0.0.1:$PORT | tee copy) || exit\n\
                lost=$(false || { licfwd -F $CONFIG gw 127.0.0.1:$PORT >other; exit 1; })\n\
                test $? = 1 && cat copy";
    let outcome = job.run(&mut job.script("sh", text, &gateway, server.port()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.port("MLM_LICENSE_FILE");
    assert_eq!(job.processes().len(), 2, "both daemons run");
    let lock = job.run(job.command("flock").args(["-n", "lock", "true"]));
    assert_eq!(lock.code, 0, "somebody holds the lock: {lock:?}");
}

/// Goal: the daemon is nobody's child: its own session, its streams on
/// `/dev/null`.
#[test]
fn daemon_has_let_go() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    let outcome = job.run(call.args(["gw", &format!("127.0.0.1:{}", server.port())]));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let daemon = process::look(job.daemon()).expect("the daemon");
    let caller = process::look(std::process::id()).expect("this test");
    assert_ne!(daemon.session, caller.session);
    for descriptor in 0..3 {
        let file = format!("/proc/{}/fd/{descriptor}", daemon.pid);
        let file = fs::read_link(file).expect("an open descriptor");
        assert_eq!(file.to_str(), Some("/dev/null"));
    }
}

/// Goal: with `--foreground` the line comes when the tunnel is ready, from the
/// process that goes on serving, and TERM ends it at once.
#[test]
fn foreground() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    call.args(["--foreground", "gw"]);
    let mut running = job.spawn(call.arg(format!("127.0.0.1:{}", server.port())));
    wait_until("the line", LIMIT, || running.stdout().ends_with('\n'));
    assert!(!running.has_ended());
    assert_eq!(job.daemon(), running.pid());
    let line = running.stdout();
    let value = line.trim().strip_prefix("export MLM_LICENSE_FILE=");
    let port = crate::rig::job::port_of(value.expect("an export"));
    drop(TcpStream::connect(("127.0.0.1", port)).expect("the tunnel"));
    process::signal("TERM", &[running.pid()]);
    running.wait(LIMIT);
}
