//! Its limits hold, too, where not the gateway is at fault: agents and name servers
//! that do not answer, or not as they should.

use crate::rig::agent::{HABITS, Habit, HostileAgent};
use crate::rig::job::over_ssh;
use crate::rig::traffic::check_out;
use crate::rig::{
    Gateway, LIMIT, Overlay, Promise, Scratch, Site, free_port, long, network, process, skip,
    times_until,
};
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

const LIMITS: [&str; 6] = ["--tries", "1", "--timeout", "3", "--deadline", "6"];
/// The deadline, and a second.
const START: Promise = Promise::seconds(7);
/// Four steps of three seconds, and the wait before.
const ATTEMPT: Promise = Promise::seconds(13);
const RECOVERY: Promise = Promise::seconds(15);
const END: Promise = Promise::seconds(1);

/// Goal: at the start: within the limits; where it can be known in time that the agent
/// is of no use, with the key from the file.
#[test]
fn agents_at_the_start() {
    if over_ssh() && !long() {
        return;
    }
    let habits = habits(&[Habit::OneAnswer, Habit::Drips, Habit::Full]);
    let start = |habit: &Habit| {
        let site = Site::new();
        let agent = agent(&site, *habit);
        let mut call = site.call(&LIMITS);
        let running = site.job.spawn(call.arg(agent.option()).arg("--no-watch"));
        (*habit, site, agent, running, Instant::now())
    };
    let mut sites: Vec<_> = habits.iter().map(start).collect();
    let ended = |number: usize| sites[number].3.has_ended();
    let times = times_until("all have ended", habits.len(), START.room(), ended);
    for ((habit, _site, _agent, running, begin), ended) in sites.into_iter().zip(times) {
        let outcome = running.wait(LIMIT);
        let last = outcome.stderr.lines().last().unwrap_or_default();
        let what = format!("{habit:?} [{}; {last}]", outcome.code);
        START.kept(&what, ended - begin);
        assert!([0, 75].contains(&outcome.code), "{what}: {outcome:?}");
        if habit == Habit::Lies {
            assert_eq!(outcome.code, 0, "{what}: {outcome:?}");
        }
    }
}

/// Goal: while it reconnects: an attempt that hangs in an agent has failed when its
/// time is over, and says so; without that agent the next one succeeds.
#[test]
fn agents_while_it_reconnects() {
    if over_ssh() && !long() {
        return;
    }
    let habits = habits(&[Habit::OneAnswer, Habit::NeverSigns]);
    let start = |habit: &Habit| {
        let site = Site::new();
        let socket = site.job.directory().file("agent");
        // Not there yet: the key from the file it is.
        let option = format!("-oIdentityAgent={}", socket.display());
        let tunnel = site.tunnel(&["--timeout", "3", &option]);
        let agent = agent(&site, *habit);
        site.gateway.kill_sessions();
        (*habit, site, tunnel, Some(agent), Instant::now())
    };
    let mut sites: Vec<_> = habits.iter().map(start).collect();
    let ends = |number: usize| {
        let (_, _, tunnel, agent, _) = &mut sites[number];
        let log = tunnel.log();
        let ends =
            log.contains("reconnecting failed") || log.contains("reconnected to the gateway");
        if ends {
            *agent = None;
        }
        ends
    };
    let times = times_until("an attempt of each ends", habits.len(), ATTEMPT.room(), ends);
    for ((habit, _site, tunnel, _, begin), ended) in sites.into_iter().zip(times) {
        ATTEMPT.kept(&format!("{habit:?}: the attempt has ended"), ended - begin);
        if [Habit::OneAnswer, Habit::NeverSigns].contains(&habit) {
            assert!(tunnel.logged("reconnecting failed") > 0, "{habit:?}");
        }
        RECOVERY.wait_until(&format!("{habit:?}: clients are served"), || {
            check_out(tunnel.port(), "f").is_ok()
        });
        process::signal("TERM", &[tunnel.pid()]);
        END.wait_until("it ends", || !process::alive(tunnel.pid()));
    }
}

/// These few, or with `--long` all.
fn habits(few: &[Habit]) -> Vec<Habit> {
    if long() { HABITS.to_vec() } else { few.to_vec() }
}

fn agent(site: &Site, habit: Habit) -> HostileAgent {
    let socket = site.job.directory().file("agent");
    HostileAgent::start(socket, habit, &site.gateway.client().file("id_ed25519.pub"))
}

/// Goal: name servers that never answer: within the limits at the start, and while it
/// reconnects one attempt that has failed, and not the last.
#[test]
fn name_servers_that_never_answer() {
    if !network::is_our_own() {
        return;
    }
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    // All there is in this network.
    let _mute = UdpSocket::bind("0.0.0.0:53").expect("bind");
    let files = Scratch::new();
    let mut overlay = Overlay::default();
    let hosts = files.write("hosts", KNOWN);
    for (file, over) in [
        (hosts.clone(), "/etc/hosts"),
        (
            files.write("resolv", &SERVERS.map(|it| format!("nameserver {it}\n")).concat()),
            "/etc/resolv.conf",
        ),
        (files.write("nsswitch", "passwd: files\nhosts: files dns\n"), "/etc/nsswitch.conf"),
    ] {
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
        overlay.add(file, over);
    }
    let gateway = Gateway::overlaid(Scratch::new(), [Overlay::default(), overlay], &[], &[]);
    let site = Site::behind(gateway);
    let alias = format!("-oHostKeyAlias=[127.0.0.1]:{}", site.gateway.port());
    let named = ["-oHostName=gw.example", &alias];
    let tunnel = site.tunnel(&[&named[..], &["--timeout", "3"]].concat());

    // The file itself: each program sees this one.
    fs::write(&hosts, "127.0.0.1 localhost\n").expect("hosts");
    // Nor do other names that are looked up: of other nodes, and to listen on.
    let forward = format!("-Lnode.example:{}:127.0.0.1:1", free_port());
    let all = [
        (&named[..], "gw.example"),
        (&["--listen", "0.0.0.0", "--allow", "localhost,node.example"], "node.example"),
        (&[&forward], "node.example"),
    ];
    let mut starts = all.map(|(options, name)| {
        let mut call = site.call(&[options, &["--timeout", "2", "--deadline", "5"]].concat());
        (options[0], name, site.job.spawn(&mut call), Instant::now())
    });
    let limit = Promise::seconds(6);
    let ended = |number: usize| starts[number].2.has_ended();
    let times = times_until("all have ended", all.len(), limit.room(), ended);
    for ((what, name, start, begin), ended) in starts.into_iter().zip(times) {
        limit.kept(what, ended - begin);
        let failure = start.wait(LIMIT);
        failure.fails(75, &[name]);
        let told = over_ssh() || name != "gw.example" || failure.stderr.contains("misspelt name");
        assert!(told, "{failure:?}");
    }

    site.gateway.kill_sessions();
    let begin = Instant::now();
    tunnel.wait_for_log("reconnecting failed", 1);
    ATTEMPT.kept("name servers while it reconnects", begin.elapsed());
    fs::write(&hosts, KNOWN).expect("hosts");
    RECOVERY.wait_until("clients are served", || check_out(tunnel.port(), "f").is_ok());
}

/// Goal: a directory of users that never answers, as where its server is away: within
/// the limits, and tried again like a name server.
#[test]
fn a_directory_of_users_that_never_answers() {
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let files = Scratch::new();
    // Who opens it waits for a writer.
    let passwd = files.file("passwd");
    let made = Command::new("mkfifo").args(["-m", "644"]).arg(&passwd).status();
    assert!(made.is_ok_and(|status| status.success()));
    let switch = files.write("nsswitch", "passwd: files\nhosts: files\n");
    fs::set_permissions(&switch, Permissions::from_mode(0o644)).expect("chmod");
    let mut overlay = Overlay::default();
    overlay.add(passwd, "/etc/passwd");
    overlay.add(switch, "/etc/nsswitch.conf");
    let gateway = Gateway::overlaid(Scratch::new(), [Overlay::default(), overlay], &[], &[]);
    let site = Site::behind(gateway);
    let begin = Instant::now();
    let failure = site.run(&["--timeout", "2", "--deadline", "5"]);
    Promise::seconds(6).kept("a directory of users", begin.elapsed());
    failure.fails(75, &["who user ", "no answer within 2 s"]);
    site.job.wait_until_empty();
}

/// Goal: an `ssh -G` that hangs in a program of the configuration's is the configuration's
/// fault, told within the time of a step, and nothing of it is left.
#[test]
fn a_configuration_that_hangs() {
    let site = Site::new();
    let config = site.gateway.config().display().to_string();
    let hangs = format!("Match exec \"sleep 1000\"\nMatch all\nInclude {config}\n");
    let file = site.job.directory().write("hangs", &hangs).display().to_string();
    let begin = Instant::now();
    let failure = site.run(&["-F", &file, "--timeout", "2"]);
    Promise::seconds(3).kept("ssh -G", begin.elapsed());
    failure.fails(78, &["ssh -G gw: no answer: timed out after 2 s"]);
    site.job.wait_until_empty();
}

/// As many as a resolver asks, one after another, each twice.
const SERVERS: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
const KNOWN: &str = "127.0.0.1 localhost gw.example\n";
