//! Several gateways: whichever is there serves, and none holds up another.

use crate::rig::gateway::{PASSWORD, keygen};
use crate::rig::hostile::{Behaviour, Front};
use crate::rig::job::over_ssh;
use crate::rig::license_server::SwallowingPort;
use crate::rig::traffic::connect;
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Outcome, Promise, Service, Sites, Tunnel, free_port,
    long, skip, wait_until,
};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Beside the time that one living gateway takes.
const BESIDE_DEAD_ONES: Promise = Promise::seconds(1);
const BESIDE_SILENT_ONES: Promise = Promise::seconds(3);
const NEXT_CLIENT: Promise = Promise::seconds(1);

/// Lines of a message that name that gateway.
fn lines(outcome: &Outcome, name: &str) -> usize {
    let names = |line: &&str| line.starts_with("licfwd: ") && line.contains(name);
    outcome.stderr.lines().filter(names).count()
}

fn served(tunnel: &Tunnel) -> bool {
    let echo = || {
        let mut client = connect(tunnel.port())?;
        client.set_read_timeout(Some(LIMIT))?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])
    };
    echo().is_ok()
}

/// Goal: dead gateways cost no time, silent ones two seconds, whether they accept and say
/// nothing or swallow what is sent; where all are dead: 75, with a line for each.
#[test]
fn dead_and_silent_gateways() {
    let accepting = TcpListener::bind("127.0.0.1:0").expect("bind");
    let swallowing = SwallowingPort::new();
    let busy = Front::start(Behaviour::Raw("turned-away"));
    let ports = [
        free_port(),
        free_port(),
        accepting.local_addr().expect("address").port(),
        swallowing.port(),
        free_port(),
        busy.port(),
    ];
    let sites = Sites::new(vec![Gateway::start()], &ports);
    let (_, alone) = sites.brings_up(&["g0"]);
    // The order is random.
    for _ in 0..4 {
        let (_, took) = sites.brings_up(&["x0,g0,x1"]);
        BESIDE_DEAD_ONES.kept("beside two dead ones", took.saturating_sub(alone));
    }
    for _ in 0..20 {
        let (_, took) = sites.brings_up(&["x5,g0"]);
        BESIDE_DEAD_ONES.kept("beside one that turns away", took.saturating_sub(alone));
        if busy.connections() > 1 {
            break;
        }
    }
    for silent in ["x2", "x3"] {
        let mut waited = false;
        for _ in 0..if long() { 20 } else { 4 } {
            let (_, took) = sites.brings_up(&[&format!("x0,{silent},g0"), "--timeout", "60"]);
            BESIDE_SILENT_ONES.kept(&format!("beside {silent}"), took);
            waited |= took > Duration::from_secs(2);
            if waited {
                break;
            }
        }
    }
    let outcome = sites.run(&["x0,x1,x4", "--tries", "2"]);
    outcome.fails(75, &["none of the 3 gateways serves", "gave up after 2 tries"]);
    for name in ["gateway x0 ", "gateway x1 ", "gateway x4 "] {
        // Of the last one also that the first try has failed.
        assert!([1, 2].contains(&lines(&outcome, name)), "{outcome:?}");
    }
    let quiet = sites.run(&["x0,x1", "--tries", "1", "-q"]);
    assert_eq!(quiet.stderr.lines().count(), 1, "{quiet:?}");
}

/// Goal: a silent gateway comes last in its round, and has all its time there.
#[test]
fn a_silent_gateway_comes_last() {
    if over_ssh() && !long() {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
    let ports = [free_port(), silent.local_addr().expect("address").port()];
    let sites = Sites::new(vec![Gateway::start()], &ports);
    let begin = Instant::now();
    let outcome = sites.run(&["x0,x1", "--tries", "1", "--timeout", "5", "-v"]);
    outcome.fails(75, &["none of the 2 gateways serves"]);
    let (took, line) = (begin.elapsed(), outcome.stderr.find("no greeting within 2 s"));
    // It is not hurried where it comes second.
    let least = if line.is_some() { 7 } else { 5 };
    assert!(took >= Duration::from_millis(least * 1000 - 100), "{took:?}: {outcome:?}");
}

/// Goal: the gateway under a tunnel is killed again and again, under traffic: the same
/// process serves the next client on the same port, through the other one. With `--long`
/// 20 times.
#[test]
fn the_serving_gateway_is_killed_again_and_again() {
    let mut sites = Sites::of(2);
    let tunnel = sites.tunnel(&["g0,g1"]);
    let pid = tunnel.pid();
    for round in 1..=if long() { 20 } else { 6 } {
        let mut busy = connect(tunnel.port()).expect("connect");
        busy.write_all(b"x").expect("write");
        busy.read_exact(&mut [0]).expect("an answer");
        let [serving] = sites.serving()[..] else {
            panic!("round {round}: through {:?}", sites.serving());
        };
        sites.gateways[serving].kill();
        let begin = Instant::now();
        assert!(busy.read(&mut [0]).map_or(true, |got| got == 0), "round {round}");
        assert!(served(&tunnel), "round {round}");
        NEXT_CLIENT.kept(&format!("round {round}: the next client"), begin.elapsed());
        assert_eq!(sites.serving(), [1 - serving], "round {round}");
        tunnel.wait_for_log(&format!("reconnected to the gateway g{} after", 1 - serving), 1);
        sites.gateways[serving].restart();
        assert!(served(&tunnel), "round {round}: it stays there");
        assert_eq!(sites.serving(), [1 - serving], "round {round}");
    }
    assert_eq!(tunnel.job().daemon(), pid);
    // Neither is there, and then one of them.
    sites.gateways.iter_mut().for_each(Gateway::kill);
    tunnel.wait_for_log("trying again in", 1);
    sites.gateways[0].restart();
    wait_until("served again", LIMIT, || served(&tunnel));
}

/// Goal: a changed host key is told loudly, and that gateway gets nothing: of one, another
/// serves; of all, it is 76.
#[test]
fn a_changed_host_key() {
    let mut sites = Sites::of(2);
    let logins = |gateway: &Gateway| gateway.log().matches("Accepted publickey").count();
    sites.gateways[0].change_host_key();
    sites.gateways[0].restart();
    let told = |_| {
        let (outcome, _) = sites.brings_up(&["g0,g1"]);
        outcome.stderr.contains("licfwd: warning: gateway g0")
            && outcome.stderr.contains("this gateway gets nothing")
    };
    let told = (0..20).find(|n| told(*n));
    assert!(told.is_some(), "never first in 20 starts");
    assert_eq!(logins(&sites.gateways[0]), 0);
    sites.gateways[1].change_host_key();
    sites.gateways[1].restart();
    let outcome = sites.run(&["g0,g1"]);
    outcome.fails(76, &["none of the 2 gateways serves"]);
    assert_eq!((lines(&outcome, "gateway g0"), lines(&outcome, "gateway g1")), (1, 1));
}

/// Goal: a login that is refused, or a forward that is forbidden, is told, and another
/// gateway serves; each refusal costs one login.
#[test]
fn refused_at_one_and_forbidden_at_another() {
    if over_ssh() && !long() {
        return;
    }
    let forbidding = Gateway::with(&["AllowTcpForwarding no"]);
    let sites = Sites::new(vec![Gateway::start(), forbidding, Gateway::start()], &[]);
    sites.gateways[0].authorize("");
    let both = |_| {
        let (outcome, _) = sites.brings_up(&["g0,g1,g2"]);
        lines(&outcome, "gateway g0") == 1 && lines(&outcome, "gateway g1") == 1
    };
    let both = (0..40).find(|n| both(*n));
    assert!(both.is_some(), "never last in 40 starts");
    let outcome = sites.run(&["g0,g1"]);
    outcome.fails(77, &["none of the 2 gateways serves"]);
    assert_eq!((lines(&outcome, "gateway g0"), lines(&outcome, "gateway g1")), (1, 1));
    assert_eq!(lines(&outcome, "try 1 of"), 0, "{outcome:?}");
}

/// Goal: a license server that one gateway cannot reach is asked through another before
/// 69 counts, and a running tunnel does not move to the one that cannot.
#[test]
fn a_license_server_that_one_gateway_cannot_reach() {
    let lame = Gateway::with(&["AddressFamily inet"]);
    let mut sites = Sites::new(vec![lame, Gateway::start()], &[]);
    let address = "[::1]:0".parse().expect("an address");
    if TcpListener::bind(address).is_err() {
        skip!("this machine has no ::1");
    }
    let server = LicenseServer::at(Service::Echo, address);
    let target = format!("[::1]:{}", server.port());
    let run = |words: &[&str]| {
        let outcome = sites.job.run(sites.call(&sites.job, words).arg(&target));
        sites.job.end();
        outcome
    };
    let told = |_| {
        let outcome = run(&["g0,g1", "-v"]);
        outcome.port("MLM_LICENSE_FILE");
        lines(&outcome, "gateway g0: license server") == 1
    };
    assert!((0..20).any(told), "never first in 20 starts");
    run(&["g0", "--tries", "1"]).fails(69, &["cannot be reached from the gateway"]);
    let outcome = run(&["g0,x", "--tries", "1"]);
    outcome.fails(69, &["gateway g0: license server", "gateway x"]);

    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut call = sites.call(job, &["g0,g1"]);
        call.arg(&target);
        call
    });
    sites.gateways[1].kill();
    tunnel.wait_for_log("reconnecting failed: gateway g0: license server", 1);
    sites.gateways[1].restart();
    wait_until("served again", LIMIT, || served(&tunnel));
    assert_eq!(sites.serving(), [1]);
}

/// Goal: names: one that does not exist is told and skipped, all of them are 78; one that
/// stands there twice has one turn; an empty one is 64; `-L` alone has the same gateways.
#[test]
fn names() {
    if over_ssh() && !long() {
        return;
    }
    let sites = Sites::of(1);
    let first = |_| {
        let (outcome, _) = sites.brings_up(&["no.such.invalid,g0,g0"]);
        lines(&outcome, "no.such.invalid: cannot resolve") == 1
            || lines(&outcome, "no.such.invalid (") == 1
    };
    assert!((0..20).any(first) || over_ssh(), "never first in 20 starts");
    let outcome = sites.run(&["a.invalid,b.invalid"]);
    if outcome.code != 75 {
        // Not where the name server gives no answer at all.
        outcome.fails(78, &["a.invalid", "b.invalid", "none of the 2 gateways"]);
    }
    sites.run(&["g0,"]).fails(64, &["missing beside a comma"]);
    let port = free_port().to_string();
    let mut call = sites.call(&sites.job, &["-f", "-N", "-L"]);
    call.args([&format!("{port}:127.0.0.1:{}", sites.server.port()), "x,g0"]);
    let outcome = sites.job.run(&mut call);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
}

/// Goal: a check tries them all, tells the steps and the result of each, and says 0 when
/// one works.
#[test]
fn a_check() {
    if over_ssh() && !long() {
        return;
    }
    let sites = Sites::new(vec![Gateway::start(), Gateway::start()], &[free_port()]);
    sites.gateways[1].authorize("");
    let outcome = sites.run(&["--check", "x0,g0,g1"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    for words in
        ["the gateway g0 works", "(exit code 77)", "(exit code 75)", "1 of 3 gateways work"]
    {
        assert_eq!(lines(&outcome, words), 1, "{words}: {outcome:?}");
    }
    let outcome = sites.run(&["--check", "x0,g1"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (75, ""), "{outcome:?}");
}

/// Goal: a password is asked for by the gateway's name, and goes to that gateway alone.
#[test]
fn passwords() {
    let lines = ["PasswordAuthentication yes", "PubkeyAuthentication no"];
    let asking = || Gateway::asking(&lines);
    let gateways = match asking().and_then(|one| Ok(vec![one, asking()?])) {
        Ok(gateways) => gateways,
        Err(why) => skip!("{why}"),
    };
    let sites = Sites::new(gateways, &[]);
    let directory = sites.job.directory();
    let asked = directory.file("asked");
    let text = format!(
        "#!/bin/sh\necho \"$1\" >>{file}\n[ $(wc -l <{file}) -gt 3 ] && echo '{PASSWORD}' || echo wrong\n",
        file = asked.display()
    );
    let askpass = directory.write("askpass", &text);
    fs::set_permissions(&askpass, Permissions::from_mode(0o700)).expect("chmod");
    let target = format!("127.0.0.1:{}", sites.server.port());
    let mut call = sites.call(&sites.job, &["--via", "libssh2", "g0,g1", &target]);
    call.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force");
    sites.job.run(&mut call).port("MLM_LICENSE_FILE");
    let asked = fs::read_to_string(asked).expect("what was asked");
    let asked: Vec<&str> = asked.lines().map(|line| &line[.."gateway g0: ".len()]).collect();
    let other = if asked[0] == "gateway g0: " { "gateway g1: " } else { "gateway g0: " };
    assert_eq!(asked, [asked[0], asked[0], asked[0], other]);
}

/// Goal: the passphrase of a key that both take is typed once, and a running tunnel finds
/// to the other gateway with it.
#[test]
fn a_passphrase() {
    if over_ssh() {
        // ssh is never asked.
        return;
    }
    let mut sites = Sites::of(2);
    let directory = sites.job.directory();
    let key = directory.file("encrypted");
    let public = keygen(&key, &["-t", "ed25519", "-N", "a passphrase"]);
    sites.gateways.iter().for_each(|gateway| gateway.authorize(&public));
    let asked = directory.file("asked");
    let text = format!("#!/bin/sh\necho \"$1\" >>{}\necho 'a passphrase'\n", asked.display());
    let askpass = directory.write("askpass", &text);
    fs::set_permissions(&askpass, Permissions::from_mode(0o700)).expect("chmod");
    let target = format!("127.0.0.1:{}", sites.server.port());
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut call = sites.call(job, &["g0,g1", &target, "-i"]);
        call.arg(&key).env("SSH_ASKPASS", &askpass).env("SSH_ASKPASS_REQUIRE", "force");
        call
    });
    let [serving] = sites.serving()[..] else { panic!("one gateway") };
    sites.gateways[serving].kill();
    wait_until("served again", LIMIT, || served(&tunnel));
    assert_eq!(sites.serving(), [1 - serving]);
    let asked = fs::read_to_string(asked).expect("what was asked");
    let begin = format!("gateway g{serving}: Enter passphrase for key '{}': ", key.display());
    assert_eq!(asked.trim_end_matches('\n'), begin);
}

/// Goal: further sessions for a crowd go to the gateway that the tunnel is at.
#[test]
fn a_crowd_stays_at_its_gateway() {
    if over_ssh() && !long() {
        return;
    }
    let sites = Sites::of(2);
    let tunnel = sites.tunnel(&["g0,g1"]);
    let [serving] = sites.serving()[..] else { panic!("one gateway") };
    let alone = sites.gateways[serving].sessions().len();
    let crowd: Vec<_> = (0..160).map(|_| connect(tunnel.port()).expect("connect")).collect();
    wait_until("there is a further session", LIMIT, || {
        sites.gateways[serving].sessions().len() > alone
    });
    assert_eq!(sites.serving(), [serving]);
    assert_eq!(tunnel.logged(&format!("opening another session at the gateway g{serving}")), 1);
    drop(crowd);
}

/// Goal: a gateway that has refused the login rests, however often the tunnel comes by,
/// and does not hold up the other one.
#[test]
fn the_account_at_each_gateway_is_protected() {
    let mut sites = Sites::of(2);
    let tunnel = sites.tunnel(&["g0,g1"]);
    let [serving] = sites.serving()[..] else { panic!("one gateway") };
    let other = 1 - serving;
    sites.gateways[other].authorize("");
    sites.gateways[serving].kill();
    tunnel.wait_for_log("trying again in", 3);
    let log = sites.gateways[other].log();
    assert_eq!(log.matches("Connection from ").count(), 1, "{log}");
    assert_eq!(tunnel.logged(&format!("reconnecting failed: gateway g{other}")), 1);
    sites.gateways[serving].restart();
    wait_until("served again", LIMIT, || served(&tunnel));
}

/// Goal: jobs that start together at two gateways with sshd's default MaxStartups all
/// get their tunnel, and both gateways have a fair part of them. With `--long` 200.
#[test]
fn many_jobs_share_two_gateways() {
    let jobs = if long() { 200 } else { 80 };
    if over_ssh() && !long() {
        return;
    }
    let crowded = || Gateway::with(&["MaxStartups 10:30:100"]);
    let sites = Sites::new(vec![crowded(), crowded()], &[]);
    let target = format!("127.0.0.1:{}", sites.server.port());
    let start = Instant::now();
    let running: Vec<_> = (0..jobs)
        .map(|_| sites.job.spawn(sites.call(&sites.job, &["--no-watch", "g0,g1"]).arg(&target)))
        .collect();
    let mut tries = [0; 11];
    for one in running {
        let outcome = one.wait(2 * FLOOD);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        tries[outcome.stderr.matches("licfwd: try ").count()] += 1;
    }
    let took = start.elapsed();
    let logins = |gateway: &Gateway| gateway.log().matches("Accepted publickey").count();
    let parts: Vec<usize> = sites.gateways.iter().map(logins).collect();
    eprintln!("{jobs} jobs in {took:?} over {parts:?}; by failed tries: {tries:?}");
    assert!(parts.iter().all(|part| *part >= jobs / 4), "{parts:?}");
}
