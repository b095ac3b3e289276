//! Its promises hold against a gateway that floods, dawdles or falls silent: at the
//! start, under a running tunnel, and while it reconnects.

use crate::rig::gateway::keygen;
use crate::rig::hostile::{Behaviour, Front, RAW, Script};
use crate::rig::job::over_ssh;
use crate::rig::traffic::{End, connect, exchange};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Promise, Running, Service, Tunnel, eventually,
    eventually_every, long, process, skip, times_until, wait_until,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What any of it may take, in kB: three times what is promised, as with times,
/// because a flood goes on while whoever looks waits for a processor.
const MEMORY: usize = 3 * (64 << 10);
const LIMITS: [&str; 6] = ["--tries", "1", "--timeout", "3", "--deadline", "6"];
/// The deadline, and a second.
const START: Promise = Promise::seconds(7);
/// A turn of the loop, and the way back.
const RECOVERY: Promise = Promise::seconds(15);
/// Four steps of three seconds, and the wait before.
const ATTEMPT: Promise = Promise::seconds(13);
/// How long to wait for a flood to do harm.
const BITES: Duration = Duration::from_secs(4);
/// Two questions that are three seconds apart, and what has been sent before.
const SILENCE: Promise = Promise::seconds(10);
/// After TERM or the job's end, with the gateway at its worst.
const END: Promise = Promise::seconds(3);

/// A good gateway, and a bad one beside it with the same key.
struct Place {
    gateway: Gateway,
    server: LicenseServer,
    script: Script,
}

/// One, or the test is skipped.
macro_rules! place {
    () => {
        match Place::new() {
            Ok(place) => place,
            Err(why) => skip!("{why}"),
        }
    };
}

impl Place {
    fn new() -> Result<Place, String> {
        let gateway = Gateway::start();
        let script = Script::start(&gateway)?;
        Ok(Place { gateway, server: LicenseServer::start(Service::Echo), script })
    }

    fn good(&self) -> Behaviour {
        Behaviour::Good(self.gateway.port())
    }

    fn tunnel(&self, front: &Front, options: &[&str]) -> Tunnel {
        Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(&self.gateway);
            command.args(front.options()).args(options).args(["gw", &self.target()]);
            // Ten refusals would be the end: more than there is time for.
            command.env("LICFWD_TEST_REFUSAL_MS", "3000");
            command
        })
    }

    /// One that ends with a process of its job; its daemon and port, and that process.
    fn watching_tunnel(&self, front: &Front) -> (Job, u32, u16, Running) {
        let job = Job::new();
        let watched = job.spawn(job.command("sleep").arg("600"));
        let mut command = job.licfwd(&self.gateway);
        command.args(front.options()).args(["--watch", &watched.pid().to_string()]);
        let port = job.run(command.args(["gw", &self.target()])).port("MLM_LICENSE_FILE");
        let daemon = job.daemon();
        (job, daemon, port, watched)
    }

    fn target(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }
}

/// A start that is going to fail.
struct Start {
    what: String,
    running: Running,
    begin: Instant,
    peak: usize,
    // Last: their processes end with them.
    _front: Front,
    job: Job,
}

impl Start {
    fn new(gateway: &Gateway, what: &str, behaviour: Behaviour, options: &[&str]) -> Start {
        let (job, front) = (Job::new(), Front::start(behaviour));
        let mut command = job.licfwd(gateway);
        command.args(front.options()).args(options).args(["--no-watch", "gw", "127.0.0.1:1"]);
        let running = job.spawn(&mut command);
        let (what, begin) = (what.to_owned(), Instant::now());
        Start { what, running, begin, peak: 0, _front: front, job }
    }

    fn has_ended(&mut self) -> bool {
        self.peak = self.peak.max(process::peak_kb(self.running.pid()));
        self.running.has_ended()
    }
}

/// Waits for all of them; each must keep to time and memory, and end with one of the codes.
fn all_end(mut starts: Vec<Start>, promise: &Promise, codes: &[i32]) {
    let count = starts.len();
    let ended = |number: usize| starts[number].has_ended();
    let times = times_until("all have ended", count, promise.room(), ended);
    for (start, ended) in starts.into_iter().zip(times) {
        let outcome = start.running.wait(LIMIT);
        let last = outcome.stderr.lines().last().unwrap_or_default();
        let what = format!("{} [{}; {} MB; {last}]", start.what, outcome.code, start.peak >> 10);
        promise.kept(&what, ended - start.begin);
        assert!(codes.contains(&outcome.code), "{what}: {outcome:?}");
        if outcome.code != 0 {
            assert_eq!(outcome.stdout, format!("(exit {})\n", outcome.code), "{what}");
        }
        assert!(start.peak < MEMORY, "{what}: {} kB", start.peak);
        start.job.end();
    }
}

/// Goal: before there are keys: within the limits, in little memory, and 75, whatever
/// the gateway sends or does not. With `--long` all that we can think of.
#[test]
fn at_the_start_before_the_keys() {
    let gateway = Gateway::start();
    let kinds = if long() { &RAW[..] } else { &RAW[..7] };
    for kinds in kinds.chunks(8) {
        let start = |what: &&'static str| Start::new(&gateway, what, Behaviour::Raw(what), &LIMITS);
        // What is no SSH at all may pass for one with nothing in common.
        let codes = if kinds[0] == RAW[0] { &[75][..] } else { &[75, 78] };
        all_end(kinds.iter().map(start).collect(), &START, codes);
    }
}

/// Goal: the same with what comes behind the keys, during and after the login.
#[test]
fn at_the_start_behind_the_keys() {
    let place = place!();
    let mut cases = vec![("auth", "banner"), ("auth", "silence"), ("open", "global")];
    cases.extend([("open", "unknown"), ("open", "silence"), ("auth", "rekey-flood")]);
    if long() {
        let auth = ["unknown", "ignore", "debug", "failure", "info-request", "service-accept"];
        cases.extend(auth.map(|what| ("auth", what)));
        let both = [
            "half-packet",
            "drip",
            "garbage",
            "drip-ignore",
            "rekey",
            "kexinit",
            "newkeys",
            "deaf",
        ];
        cases.extend(both.iter().flat_map(|what| [("auth", *what), ("open", *what)]));
        cases.extend(RUNNING.iter().map(|what| ("open", *what)));
    }
    for cases in cases.chunks(5) {
        // Some of what one can think of is no harm, or means that nobody may come in.
        let codes = if cases[0].1 == "banner" { &[75, 69][..] } else { &[75, 69, 77, 0] };
        let start = |(when, what): &(&str, &str)| {
            let behaviour = place.script.behaviour(when, what);
            Start::new(&place.gateway, &format!("{when} {what}"), behaviour, &LIMITS)
        };
        all_end(cases.iter().map(start).collect(), &START, codes);
    }
}

/// What a gateway can send to a tunnel that runs. What hurt once comes first.
const RUNNING: [&str; 39] = [
    "unknown",
    "slow-unknown",
    "global",
    "ignore",
    "global-reply",
    "debug",
    "unimplemented",
    "banner",
    "success",
    "failure",
    "info-request",
    "service-accept",
    "kexinit",
    "newkeys",
    "request-success",
    "request-failure",
    "open",
    "open-x11",
    "open-agent",
    "confirmation",
    "open-failure",
    "window",
    "window-live",
    "data",
    "data-live",
    "extended-live",
    "eof",
    "close",
    "request",
    "request-live",
    "channel-success",
    "channel-failure",
    "empty",
    "silence",
    "half-packet",
    "drip",
    "garbage",
    "drip-ignore",
    "rekey",
];

/// Goal: under a running tunnel: little memory, and clients are served again as soon
/// as the gateway is good.
#[test]
fn under_a_running_tunnel() {
    running(if long() { &RUNNING[..] } else { &RUNNING[..3] });
}

/// Goal: the same for a gateway that begins to exchange keys again and goes on with
/// something else.
#[test]
fn a_flood_instead_of_new_keys() {
    running(if long() { &["rekey-flood"; 10] } else { &["rekey-flood"] });
}

fn running(kinds: &[&'static str]) {
    for what in kinds {
        let place = place!();
        let front = Front::start(place.script.behaviour("running", what));
        let quick = ["-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2"];
        let tunnel = place.tunnel(&front, &quick);
        let port = tunnel.port();
        let mut client = connect(port).expect("connect");
        echo(&mut client).expect("an echo");
        front.set(place.good());
        place.script.go();
        wait_until("it begins", LIMIT, || place.script.said("begins: ") > 0);
        let begin = Instant::now();
        // Most are cut off. What libssh2 takes in its stride goes on meanwhile; what then
        // leaves the gateway no time for clients is for it to end.
        let begins_anew = || tunnel.logged("begins anew after a fault") > 0;
        let is_lost = || tunnel.logged("lost the gateway") > 0 || begins_anew();
        let bites = what.ends_with("unknown");
        let lost = eventually(if bites { LIMIT } else { BITES }, is_lost);
        assert!(lost || !bites, "{what}: it is kept for ever");
        let served = || {
            let served = is_served(port);
            if !served {
                assert!(process::alive(tunnel.pid()), "{what}: licfwd is dead");
                // Not the good one, which may be on its way.
                if !is_lost() {
                    front.cut();
                }
            }
            served
        };
        wait_until(&format!("{what}: clients are served"), RECOVERY.room(), served);
        let took = begin.elapsed();
        let peak = process::peak_kb(tunnel.pid());
        let log = tunnel.log();
        let lost = log.lines().find(|line| line.contains("lost the gateway")).unwrap_or_default();
        RECOVERY.kept(&format!("{what} [{} MB; {lost}]", peak >> 10), took);
        assert!(peak < MEMORY, "{what}: {peak} kB");
        drop(client);
        ends_at_once(&tunnel, what);
    }
}

/// Goal: a good gateway that exchanges keys again and again, over a network that delivers
/// each packet in pieces: nothing is lost.
#[test]
fn new_keys_in_pieces() {
    let rounds = if long() { 20 } else { 3 };
    let gateway = Gateway::with(&["RekeyLimit 64K"]);
    let server = LicenseServer::start(Service::Exchange);
    let front = Front::start(Behaviour::InPieces(gateway.port(), 100));
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        let target = format!("127.0.0.1:{}", server.port());
        command.args(front.options()).args(["gw", &target]);
        command
    });
    let (port, pid) = (tunnel.port(), tunnel.pid());
    for seed in 0..rounds {
        let done = exchange(port, 200_000, 2_000, seed, End::Counted);
        assert!(process::alive(pid), "licfwd is dead after {seed}: {done:?}");
        done.expect("an exchange");
    }
    assert_eq!(tunnel.logged("lost the gateway"), 0);
}

/// Goal: TERM and the job's end are obeyed while the gateway floods with what
/// libssh2 throws away, so that no memory tells of it.
#[test]
fn term_and_the_jobs_end_under_a_flood() {
    let place = place!();
    let front = Front::start(place.script.behaviour("running", "ignore"));
    let (told, watching) = (place.tunnel(&front, &[]), place.watching_tunnel(&front));
    place.script.go();
    wait_until("both flood", LIMIT, || place.script.said("begins: ") == 2);
    ends_at_once(&told, "TERM");
    let (job, daemon, _, watched) = watching;
    process::signal("KILL", &[watched.pid()]);
    END.wait_until("the job's end: it ends", || !process::alive(daemon));
    job.wait_until_empty();
}

/// Goal: TERM is obeyed, too, in the middle of a call of libssh2's that does not end,
/// because more comes than it can read.
#[test]
fn term_in_the_middle_of_a_call() {
    // Its reading takes longer, the thread of the watchdog's does not.
    const SLOW: [&str; 5] =
        ["-qq", "-o/dev/null", "-etrace=recvfrom", "-einject=recvfrom:delay_exit=2000", "-p"];
    if over_ssh() {
        // There it is ssh's reading, and ssh is killed.
        return;
    }
    let has_strace = Command::new("strace").arg("-V").output().is_ok();
    if !has_strace || !process::is_root() {
        skip!("only root can attach strace, which slows a process down, to another's child");
    }
    let place = place!();
    let front = Front::start(place.script.behaviour("running", "ignore"));
    let tunnel = place.tunnel(&front, &[]);
    let pid = tunnel.pid().to_string();
    let mut strace = tunnel.job().command("strace");
    let mut strace = tunnel.job().spawn(strace.args(SLOW).arg(&pid));
    // What reads through a channel has no other end than that nothing comes.
    let mut client = connect(tunnel.port()).expect("connect");
    echo(&mut client).expect("an echo");
    wait_until("strace is there", LIMIT, || strace.has_ended() || process::is_traced(tunnel.pid()));
    place.script.go();
    wait_until("it begins", LIMIT, || place.script.said("begins: ") > 0);
    // Until the flood has filled what lies between.
    eventually(BITES / 2, || false);
    ends_at_once(&tunnel, "TERM in a call");
    let log = tunnel.log();
    assert!(log.contains("cutting the gateway off: it kept sending"), "no such call: {log}");
}

/// Goal: a gateway that takes nothing, from a client that sends on: it is lost when its
/// time is over, and TERM and the job's end do not wait for that.
#[test]
fn a_gateway_that_takes_nothing() {
    let place = place!();
    let front = Front::start(place.script.behaviour("running", "deaf"));
    let quick = ["-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2"];
    let (lost, told) = (place.tunnel(&front, &quick), place.tunnel(&front, &[]));
    let (job, daemon, port, watched) = place.watching_tunnel(&front);
    let sent = [lost.port(), told.port(), port].map(|port| {
        let mut client = connect(port).expect("connect");
        echo(&mut client).expect("an echo");
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        thread::spawn(move || {
            while let Ok(more) = client.write(&[b'z'; 65536]) {
                count.fetch_add(more, Ordering::Relaxed);
            }
        });
        sent
    });
    front.set(place.good());
    place.script.go();
    let mut before = [0; 3];
    let begin = Instant::now();
    let stuck = eventually_every(Duration::from_millis(300), LIMIT, || {
        let now = [0, 1, 2].map(|n| sent[n].load(Ordering::Relaxed));
        now == std::mem::replace(&mut before, now) && now[0] > 1 << 20
    });
    assert!(stuck, "it takes everything: {before:?}");
    let ends = || {
        // The first lets clients go on, where the loop hears of it.
        process::signal("TERM", &[told.pid()]);
        !process::alive(told.pid())
    };
    END.wait_until("TERM: it ends", ends);
    process::signal("KILL", &[watched.pid()]);
    END.wait_until("the job's end: it ends", || !process::alive(daemon));
    job.wait_until_empty();
    wait_until("it is lost", LIMIT, || lost.logged("lost the gateway") > 0);
    SILENCE.kept("it is lost", begin.elapsed());
    RECOVERY.wait_until("clients are served", || is_served(lost.port()));
    let peak = process::peak_kb(lost.pid());
    assert!(peak < MEMORY, "{peak} kB");
    eprintln!("a gateway that takes nothing: {} MB; {}", peak >> 10, lost.log());
}

/// Goal: an attempt to get back that hangs, floods or is told nonsense is one that has
/// failed, and not the last: as soon as the gateway is good, clients are served again.
#[test]
fn while_it_reconnects() {
    let place = place!();
    let raw = if long() { &RAW[..] } else { &["lines", "unknown"] };
    let mut cases: Vec<Behaviour> = raw.iter().map(|what| Behaviour::Raw(what)).collect();
    let auth = if long() { &AUTH[..] } else { &["banner", "methods", "rekey-flood"] };
    cases.extend(auth.iter().map(|what| place.script.behaviour("auth", what)));
    for cases in cases.chunks(6) {
        let start = |behaviour: &Behaviour| {
            let front = Front::start(place.good());
            let tunnel = place.tunnel(&front, &["--timeout", "3"]);
            front.set(behaviour.clone());
            front.cut();
            (format!("{behaviour:?}"), front, tunnel, Instant::now())
        };
        let tunnels: Vec<_> = cases.iter().map(start).collect();
        let fails = |number: usize| {
            let (_, front, tunnel, _) = &tunnels[number];
            let failed = tunnel.logged("reconnecting failed") + tunnel.logged("begins anew") > 0;
            if failed {
                front.set(place.good());
            }
            failed
        };
        let times = times_until("an attempt of each fails", tunnels.len(), ATTEMPT.room(), fails);
        for ((what, _, tunnel, begin), failed) in tunnels.iter().zip(times) {
            ATTEMPT.kept(&format!("{what}: an attempt failed"), failed - *begin);
            let port = tunnel.port();
            RECOVERY.wait_until(&format!("{what}: clients are served"), || is_served(port));
            let peak = process::peak_kb(tunnel.pid());
            let log = tunnel.log();
            let why = log.lines().find(|line| line.contains("reconnecting failed"));
            eprintln!("{what}: {} MB; {}", peak >> 10, why.unwrap_or_default());
            assert!(peak < MEMORY, "{what}: {peak} kB");
        }
        // And while an attempt is under way.
        for (what, front, tunnel, _) in &tunnels {
            front.set(Behaviour::Raw("lines"));
            let before = front.connections();
            front.cut();
            wait_until("another attempt", LIMIT, || front.connections() > before);
            ends_at_once(tunnel, what);
        }
    }
}

/// What can be said during the login.
const AUTH: [&str; 17] = [
    "banner",
    "methods",
    "silence",
    "unknown",
    "ignore",
    "debug",
    "failure",
    "info-request",
    "service-accept",
    "half-packet",
    "drip",
    "garbage",
    "drip-ignore",
    "rekey",
    "rekey-flood",
    "kexinit",
    "deaf",
];

/// Goal: eight keys, each answered within the limit of a step: the deadline holds for
/// all of them together.
#[test]
fn a_gateway_that_takes_its_time_with_each_key() {
    let place = place!();
    let keys: Vec<String> = (0..8)
        .map(|number| {
            let key = place.gateway.client().file(&format!("key{number}"));
            keygen(&key, &["-t", "ed25519"]);
            format!("-i{}", key.display())
        })
        .collect();
    let mut options = vec!["--timeout", "3", "--deadline", "8"];
    options.extend(keys.iter().map(String::as_str));
    let behaviour = place.script.behaviour("never", "slow-keys");
    let start = Start::new(&place.gateway, "slow keys", behaviour, &options);
    all_end(vec![start], &Promise::seconds(9), &[75]);
}

/// Goal: a list of methods that is no text is a login that is refused.
#[test]
fn a_list_of_methods_that_is_no_text() {
    let place = place!();
    let behaviour = place.script.behaviour("never", "methods");
    let start = Start::new(&place.gateway, "methods", behaviour, &LIMITS);
    all_end(vec![start], &START, &[77]);
}

/// Goal: an idle tunnel asks a gateway that grants what no server knows, or says one
/// thing more after each answer, no more than about once a second.
#[test]
fn no_storm_of_questions() {
    if over_ssh() {
        // ssh asks by itself.
        return;
    }
    let kinds = ["grants", "grants-one-more", "one-more"];
    let tunnels = kinds.map(|what| {
        let place = Place::new()?;
        let front = Front::start(place.script.behaviour("never", what));
        let quick = ["-o", "ServerAliveInterval=3"];
        let tunnel = place.tunnel(&front, &quick);
        Ok::<_, String>((what, place, front, tunnel, Instant::now()))
    });
    for place in tunnels {
        let (what, place, _front, tunnel, begin) = match place {
            Ok(all) => all,
            Err(why) => skip!("{why}"),
        };
        wait_until("ten seconds", LIMIT, || begin.elapsed() > Duration::from_secs(10));
        let (asked, ticks) = (place.script.said("question"), tunnel.processor_ticks());
        let took = begin.elapsed();
        eprintln!("{what}: {asked} questions in {took:.1?}, {ticks} ticks");
        assert!(asked as u64 <= 3 * took.as_secs(), "{what}: {asked} questions");
        assert!(ticks < 100, "{what}: {ticks} ticks");
    }
}

#[track_caller]
fn ends_at_once(tunnel: &Tunnel, what: &str) {
    process::signal("TERM", &[tunnel.pid()]);
    END.wait_until(&format!("{what}: it ends"), || !process::alive(tunnel.pid()));
}

fn is_served(port: u16) -> bool {
    let client = connect(port);
    client.is_ok_and(|mut client| {
        let limit = client.set_read_timeout(Some(Duration::from_secs(3)));
        limit.and_then(|()| echo(&mut client)).is_ok()
    })
}

fn echo(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"x")?;
    client.read_exact(&mut [0])
}
