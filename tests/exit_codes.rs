//! Every exit code of the contract, provoked for real.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use crate::rig::gateway::keygen;
use crate::rig::job::{built, over_ssh};
use crate::rig::license_server::{RefusingPort, SwallowingPort};
use crate::rig::other_user::hand_over;
use crate::rig::traffic::connect;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Outcome, Overlay, Scratch, Service, Site, free_port,
    process, skip, wait_until,
};

/// Goal: 0 is a working tunnel, at once.
#[test]
fn code_0_announced() {
    let site = Site::new();
    let outcome = site.run(&[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    let port = outcome.port("MLM_LICENSE_FILE");
    TcpStream::connect(("127.0.0.1", port)).expect("connect to the tunnel");
}

/// Goal: 64 for what no retry can mend: the script has to be fixed.
#[test]
fn code_64_usage() {
    let job = Job::new();
    let calls: [&[&str]; 6] = [
        &[],
        &["gw"],
        &["--no-such-option", "gw", "127.0.0.1:1"],
        &["--tries", "many", "gw", "127.0.0.1:1"],
        &["gw", "127.0.0.1:1", "hostname"],
        &["-D", "1080", "gw", "127.0.0.1:1"],
    ];
    for arguments in calls {
        let licfwd = crate::rig::job::licfwd();
        job.run(job.command(licfwd).args(arguments)).fails(64, &[]);
    }
}

/// Goal: 69 names the license server that refuses, or that swallows what it is
/// sent. One login does for all tries, and for one where the question still hangs in it.
#[test]
fn code_69_license_server_down() {
    let (job, gateway) = (Job::new(), Gateway::start());
    let (refusing, swallowing) = (RefusingPort::new(), SwallowingPort::new());
    let targets =
        [format!("127.0.0.1:{}", refusing.port()), format!("127.0.0.1:{}", swallowing.port())];
    let calls = targets.each_ref().map(|target| {
        let mut call = job.licfwd(&gateway);
        job.spawn(call.args(["--tries", "2", "--timeout", "4", "gw", target]))
    });
    for (call, target) in calls.into_iter().zip(&targets) {
        call.wait(LIMIT).fails(69, &[target]);
    }
    let logins = gateway.log().matches("Accepted publickey").count();
    assert_eq!(logins, if over_ssh() { 2 } else { 3 });
    job.wait_until_empty();
}

/// Goal: a license server to which `-L` leads as well is asked all the same: ssh's
/// own socket for that would always say yes.
#[test]
fn code_69_of_a_target_that_is_a_forward_too() {
    let (job, gateway, refusing) = (Job::new(), Gateway::start(), RefusingPort::new());
    let target = format!("127.0.0.1:{}", refusing.port());
    let mut call = job.licfwd(&gateway);
    call.args(["-L", &format!("{}:{target}", free_port())]);
    call.args(["--tries", "1", "gw", &target]);
    job.run(&mut call).fails(69, &[&target]);
}

/// Goal: a license server of which nobody knows the address is 69, tried again, and how
/// to find out stands there; over ssh, which tells why, it ends the start with 78.
#[test]
fn code_69_unknown_license_server() {
    let gateway = match Gateway::without_name_servers() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    let (job, target) = (Job::new(), "licserver.invalid:27000");
    let mut call = job.licfwd(&gateway);
    let outcome = job.run(call.args(["--tries", "2", "gw", target]));
    if over_ssh() {
        outcome.fails(78, &[target, "name or service not known; is the name misspelt?"]);
        assert_eq!(outcome.stderr.lines().count(), 1, "tried again: {outcome:?}");
        return;
    }
    let way = format!("ssh -W {target} -F {} gw", gateway.config().display());
    outcome.fails(69, &["or its name is unknown there", "gave up after 2 tries", &way]);
    let told = job.run(job.client("sh", &gateway).args(["-c", &way]));
    assert!(told.stderr.contains("Name or service not known"), "{told:?}");
}

/// Goal: 71 when the system has no descriptors left for licfwd.
#[test]
fn code_71_no_descriptors() {
    let site = Site::new();
    // The loader needs one descriptor to get the program running at all, and the
    // shell of a script more: it is called without one.
    let via = if over_ssh() { "--via ssh" } else { "" };
    let config = site.gateway.config();
    let call = format!("{} {via} -F {}", built().display(), config.display());
    limited(&site, "bash", "ulimit -n 4", &call).fails(71, &[]);
}

/// Goal: 70 for a panic, which looks like success to no shell either.
#[test]
fn code_70_a_bug() {
    if !cfg!(debug_assertions) {
        skip!("a release build has no hook for tests");
    }
    let site = Site::new();
    let mut call = site.call(&[]);
    call.env("LICFWD_TEST_PANIC", "1");
    site.job.run(&mut call).fails(70, &["internal error"]);
}

/// Goal: 71 when the system refuses a process.
#[test]
fn code_71_no_processes() {
    let site = Site::new();
    let user = site.gateway.user();
    let call = hand_over(&site.job, &site.gateway, user);
    let shell = match process::is_root() {
        // Whom no limit of processes holds for.
        true => format!("setpriv --reuid={user} --regid={user} --clear-groups bash"),
        false => "bash".into(),
    };
    limited(&site, &shell, "ulimit -u 1", &call).fails(71, &[]);
}

/// Goal: 71 where there is no /dev/null, without which no program can be started: not
/// that ssh is missing.
#[test]
fn code_71_no_dev_null() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let (server, nothing) = (Scratch::new(), Scratch::new());
    let mut overlay = Overlay::default();
    overlay.add(nothing.path().to_owned(), "/dev");
    let gateway = Gateway::overlaid(server, [Overlay::default(), overlay], &[], &[]);
    let job = Job::new();
    let outcome = job.run(job.licfwd(&gateway).args(["gw", "127.0.0.1:1"]));
    outcome.fails(71, &["cannot open /dev/null"]);
}

/// Goal: 71 under a limit of open files that leaves none for a client, or the client
/// is served.
#[test]
fn code_71_few_descriptors() {
    let site = Site::serving(Service::Echo);
    for limit in 12..=26 {
        let words = format!("ulimit -n {limit}; exec licfwd -F $CONFIG gw 127.0.0.1:$PORT");
        let outcome = site.job.run(&mut site.script("sh", &words));
        if outcome.code == 71 {
            assert_eq!(outcome.stdout, "(exit 71)\n", "{outcome:?}");
            continue;
        }
        let mut client = connect(outcome.port("MLM_LICENSE_FILE")).expect("connect");
        client.write_all(b"x").expect("a byte up");
        let served = client.read_exact(&mut [0]);
        assert!(served.is_ok(), "{limit}: {served:?}");
        site.job.end();
    }
}

/// Goal: 73 at once when a port that was asked for is taken.
#[test]
fn code_73_port_taken() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port();
    let forward = format!("{port}:127.0.0.1:{}", site.server.port());
    site.fails(73, &["-L", &forward], &[&port.to_string()]);
}

/// Goal: 74 when nobody can have read the line, and no daemon stays behind.
#[test]
fn code_74_line_not_written() {
    let site = Site::new();
    for redirection in [">&-", ">/dev/full", ">/dev/null"] {
        let text = format!("licfwd -F $CONFIG gw 127.0.0.1:$PORT {redirection}");
        let outcome = site.job.run(&mut site.script("sh", &text));
        assert_eq!(outcome.code, 74, "{redirection}: {outcome:?}");
        assert!(outcome.stderr.starts_with("licfwd: "), "{outcome:?}");
        let nobody = || site.job.processes().is_empty();
        wait_until("the daemon is ended", LIMIT, nobody);
    }
}

/// Goal: 75 when nothing listens where the gateway should be.
#[test]
fn code_75_gateway_gone() {
    let mut site = Site::new();
    site.gateway.kill();
    let port = site.gateway.port().to_string();
    site.fails(75, &["--tries", "2"], &["127.0.0.1", &port]);
}

/// Goal: 75 when nobody knows the user, as where the directory of a site is away for a
/// moment; and a later try finds it back.
#[test]
fn code_75_unknown_user() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let files = Scratch::new();
    let known = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let ours = format!(":{}:", process::id(&["-u"]));
    let others = known.lines().filter(|line| !line.contains(&ours));
    let unknown = others.map(|line| format!("{line}\n")).collect::<String>();
    let passwd = files.write("passwd", &unknown);
    fs::set_permissions(&passwd, Permissions::from_mode(0o644)).expect("chmod");
    let switch = files.write("nsswitch.conf", "passwd: files\nhosts: files\n");
    fs::set_permissions(&switch, Permissions::from_mode(0o644)).expect("chmod");
    let mut overlay = Overlay::default();
    overlay.add(passwd.clone(), "/etc/passwd");
    overlay.add(switch, "/etc/nsswitch.conf");
    let gateway = Gateway::overlaid(Scratch::new(), [Overlay::default(), overlay], &[], &[]);
    let (job, server) = (Job::new(), LicenseServer::start(Service::Echo));
    let target = format!("127.0.0.1:{}", server.port());
    let mut call = job.licfwd(&gateway);
    job.run(call.args(["--tries", "1", "gw", &target])).fails(75, &["No user exists for uid"]);
    let mut call = job.licfwd(&gateway);
    let running = job.spawn(call.args(["gw", &target]));
    wait_until("it tries again", LIMIT, || running.stderr().contains("try 1 of 10"));
    // The same file, which is laid over the other.
    fs::write(passwd, known).expect("the user is back");
    running.wait(LIMIT).port("MLM_LICENSE_FILE");
}

/// Goal: 75 when the gateway accepts connections and never says a word.
#[test]
fn code_75_gateway_silent() {
    let site = Site::new();
    let mute = LicenseServer::start(Service::Mute);
    let port = mute.port().to_string();
    site.fails(75, &["-p", &port, "--tries", "2", "--timeout", "1"], &[]);
    assert_eq!(mute.served(), 2);
}

/// Goal: 75 when the gateway sheds all load (MaxStartups): after all tries,
/// each of which has a note.
#[test]
fn code_75_gateway_sheds_load() {
    let site = Site::with(&["MaxStartups 1:100:1"]);
    // One login that never gets on takes the only place.
    let _slow = TcpStream::connect(("127.0.0.1", site.gateway.port())).expect("connect");
    let taken = || !site.gateway.sessions().is_empty();
    wait_until("sshd takes the slow login", LIMIT, taken);
    let outcome = site.run(&["--tries", "3"]);
    outcome.fails(75, &[]);
    assert!(outcome.stderr.lines().count() >= 3, "{outcome:?}");
}

/// Goal: 76 for a host key that nobody knows, that has changed (naming file
/// and line), or that is revoked, whatever else is known about it.
#[test]
fn code_76_host_key() {
    let site = Site::new();
    let empty = ["-o", "UserKnownHostsFile=/dev/null"];
    site.fails(76, &empty, &[]);

    let known = fs::read_to_string(site.gateway.known_hosts()).expect("known_hosts");
    let other = keygen(&site.job.directory().file("other"), &["-t", "ed25519"]);
    let changed = format!("# comment\n[127.0.0.1]:{} {other}", site.gateway.port());
    let revoked = format!("{known}@revoked * {}", key_of(&known));
    for (text, words) in [(changed, vec!["known_hosts:2"]), (revoked, vec!["revoked"])] {
        fs::write(site.gateway.known_hosts(), text).expect("known_hosts");
        site.fails(76, &[], &words);
        // A changed or revoked key stays forbidden where unknown ones are let in.
        site.fails(76, &["-o", "StrictHostKeyChecking=accept-new"], &words);
    }
}

/// Goal: 77, at the first try, when the gateway does not take the key.
#[test]
fn code_77_login_refused() {
    let site = Site::new();
    site.gateway.authorize("");
    site.fails(77, &[], &["publickey"]);
    let logins = site.gateway.log().matches("Connection from").count();
    assert_eq!(logins, 1, "a refused login must not be tried again");
}

/// Goal: 77 when the gateway forbids the forward, wholly or to this server.
#[test]
fn code_77_forward_forbidden() {
    for rule in ["AllowTcpForwarding no", "PermitOpen 127.0.0.1:1"] {
        let site = Site::with(&[rule]);
        site.fails(77, &[], &[&site.server.port().to_string()]);
    }
}

/// Goal: 78 with ssh's own words when its configuration is broken.
#[test]
fn code_78_bad_configuration() {
    let site = Site::new();
    let broken = site.job.directory().write("broken", "NoSuchOption yes\n");
    let broken = broken.display().to_string();
    site.fails(78, &["-F", &broken], &["nosuchoption"]);
}

/// Goal: 78 when nobody knows the gateway's name.
#[test]
fn code_78_unknown_gateway() {
    let gateway = match Gateway::without_name_servers() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    call.args(["-o", "HostName=gateway.invalid", "gw", "127.0.0.1:1"]);
    job.run(&mut call).fails(78, &["gateway.invalid"]);
}

/// Goal: 75 where no name server answers, and that a misspelt name looks like that.
#[test]
fn code_75_no_name_server() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let files = Scratch::new();
    let mut overlay = Overlay::default();
    for (name, text, over) in [
        ("resolv", "nameserver 127.213.47.5\n", "/etc/resolv.conf"),
        ("nsswitch", "passwd: files\nhosts: files dns\n", "/etc/nsswitch.conf"),
    ] {
        let file = files.write(name, text);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
        overlay.add(file, over);
    }
    let gateway = Gateway::overlaid(Scratch::new(), [Overlay::default(), overlay], &[], &[]);
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    call.args(["-o", "HostName=tri-gv.example", "--tries", "1", "gw", "127.0.0.1:1"]);
    job.run(&mut call).fails(75, &["tri-gv.example", "a misspelt name can look the same"]);
}

/// A call under a limit that the shell sets first.
fn limited(site: &Site, shell: &str, limit: &str, call: &str) -> Outcome {
    let text = format!("{limit}; exec {call} gw {}", site.target());
    let mut words = shell.split(' ');
    let mut script = site.job.command(words.next().expect("a program"));
    site.job.run(script.args(words).args(["-c", &text]))
}

/// Type and base64 of the first line of a `known_hosts` file.
fn key_of(known_hosts: &str) -> String {
    let line = known_hosts.lines().next().expect("a line");
    let (_, key) = line.split_once(' ').expect("names and a key");
    format!("{key}\n")
}
