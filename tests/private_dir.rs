//! Over ssh: no other user of this node gets between licfwd and its ssh.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::rig::job::built;
use crate::rig::traffic::check_out;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Overlay, Scratch, Service, Site, Tunnel, process, skip,
    wait_until,
};

/// Moves the private directory away, listens in its place, and answers what it gets.
const RENAME_AND_LISTEN: &str = r#"
import os, socket, sys
os.setgid(2)
os.setuid(2)
project, path = sys.argv[1:]
os.rename(project + "/mine", project + "/gone")
listener = socket.socket(socket.AF_UNIX)
try:
    os.makedirs(os.path.dirname(path))
    listener.bind(path)
except OSError:
    sys.exit("kept out")
listener.listen()
print("listening", flush=True)
peer, _ = listener.accept()
got = []
while not got:
    words, got, _, _ = socket.recv_fds(peer, 4096, 2)
os.write(got[0], b"GRANTED by somebody else\n")
"#;

/// What listens there belongs to user 2.
const LISTEN_AS_ANOTHER: &str = r#"
import os, socket, sys
path = sys.argv[1]
os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.setuid(2)
listener.listen()
print("listening", flush=True)
peer, _ = listener.accept()
words = b"?"
got = []
while words and not got:
    words, got, _, _ = socket.recv_fds(peer, 4096, 2)
print(len(got), "descriptors")
"#;

/// A directory in which everybody may rename what is there, and where nobody else
/// may enter one of this user's.
fn project() -> (Scratch, String) {
    let project = Scratch::new();
    fs::create_dir(project.file("mine")).expect("mkdir");
    fs::set_permissions(project.file("mine"), Permissions::from_mode(0o700)).expect("chmod");
    fs::set_permissions(project.path(), Permissions::from_mode(0o777)).expect("chmod");
    let mine = project.file("mine").display().to_string();
    (project, mine)
}

/// A tunnel over ssh with that TMPDIR.
fn tunnel(gateway: &Gateway, server: &LicenseServer, temporary: Option<&str>) -> Tunnel {
    let target = format!("127.0.0.1:{}", server.port());
    Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(gateway);
        command.args(["--via", "ssh", "gw", &target]);
        command.envs(temporary.map(|path| ("TMPDIR", path)));
        command
    })
}

/// Where its ssh listens.
fn control_socket(tunnel: &Tunnel) -> String {
    let pid = tunnel.job().processes_named("ssh")[0];
    let words = fs::read(format!("/proc/{pid}/cmdline")).expect("its arguments");
    let words = String::from_utf8(words).expect("text");
    let mut words = words.split('\0').skip_while(|word| *word != "-S");
    words.nth(1).expect("a path").to_owned()
}

/// Goal: a private directory in one that others may write is not private: they
/// would rename it, and read the license traffic.
#[test]
fn nobody_else_renames_the_private_directory() {
    if !process::is_root() {
        skip!("only root can be another user");
    }
    let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::CheckOut));
    let (project, mine) = project();
    let tunnel = tunnel(&gateway, &server, Some(&mine));
    let mut meddler = tunnel.job().command("python3");
    meddler.args(["-c", RENAME_AND_LISTEN]).arg(project.path());
    meddler.arg(control_socket(&tunnel)).current_dir("/");
    let mut meddler = tunnel.job().spawn(&mut meddler);
    wait_until("the other one is there, or out", LIMIT, || {
        meddler.has_ended() || !meddler.stdout().is_empty()
    });
    let before = server.served();
    drop(check_out(tunnel.port(), "MATLAB").expect("a seat"));
    assert_eq!(server.served() - before, 1, "somebody else has answered");
    let outcome = meddler.wait(LIMIT);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", "kept out\n"));
    // Its private directory is in /tmp, and not in this test's own: it has to clear up.
    process::signal("TERM", &[tunnel.pid()]);
    tunnel.job().wait_until_empty();
}

/// Goal: whoever listens at ssh's socket gets no client's connection unless it is a
/// process of the owner's.
#[test]
fn another_users_process_gets_no_client() {
    if !process::is_root() {
        skip!("only root can be another user");
    }
    let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::CheckOut));
    let tunnel = tunnel(&gateway, &server, None);
    let mut other = tunnel.job().command("python3");
    other.args(["-c", LISTEN_AS_ANOTHER]).arg(control_socket(&tunnel));
    let other = tunnel.job().spawn(&mut other);
    wait_until("it listens", LIMIT, || !other.stdout().is_empty());
    let before = server.served();
    let seat = check_out(tunnel.port(), "MATLAB");
    assert_eq!(other.wait(LIMIT).stdout, "listening\n0 descriptors\n");
    drop(seat.expect("a seat, by another ssh"));
    assert_eq!(server.served() - before, 1);
    tunnel.wait_for_log("a process of user 2", 1);
}

/// Goal: where /tmp is no better, licfwd says so and does not start.
#[test]
fn no_safe_place_is_named() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    if !process::is_root() {
        skip!("only root can mount");
    }
    // The same /tmp, as far as the rig needs it, but everybody may rename there.
    const MOUNT: &str = r#"
        mount -t tmpfs -o mode=0777 none /mnt && mkdir -m 711 "/mnt/$1" &&
        mount --bind "/tmp/$1" "/mnt/$1" && mount --rbind /mnt /tmp &&
        shift && exec "$@"
    "#;
    let site = Site::new();
    // It may have been built below /tmp.
    let licfwd = site.job.directory().file("licfwd");
    fs::copy(built(), &licfwd).expect("copy");
    let call = site.call(&["--via", "ssh"]);
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", MOUNT, "sh"]);
    let path = site.job.directory().path();
    unshare.arg(path.parent().and_then(|rig| rig.file_name()).expect("the rig's directory"));
    unshare.arg(licfwd).args(call.get_args());
    let outcome = site.job.run(&mut site.job.wrap(unshare));
    outcome.fails(71, &["private directory", "/tmp: "]);
    assert!(!outcome.stderr.contains("try 1"), "{outcome:?}");
}
