//! Its promises hold against a gateway that floods, dawdles or falls silent: at the
//! start, under a running tunnel, and while it reconnects.

use crate::rig::gateway::keygen;
use crate::rig::hostile::{Behaviour, Front, RAW, Script, Way};
use crate::rig::job::over_ssh;
use crate::rig::traffic::{End, connect, exchange};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Promise, Running, Service, Tunnel, eventually,
    eventually_every, long, process, skip, times_until, wait_until,
};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What any of it may take, in kB.
const MEMORY: usize = 64 << 10;
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
/// After TERM or the job's end, where nothing has been announced.
const AT_ONCE: Promise = Promise::seconds(1);
/// The same, with the gateway at its worst.
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
        self.tunnel_by(Way::Straight, front, options)
    }

    fn tunnel_by(&self, way: Way, front: &Front, options: &[&str]) -> Tunnel {
        Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(&self.gateway);
            command.args(front.options_by(way)).args(options).args(["gw", &self.target()]);
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

    /// That behaviour on that way, and what comes of it.
    fn row(&self, when: &str, what: &str, way: Way) -> Row {
        let code = match (when, what) {
            ("auth", "failure" | "methods") => 77,
            ("open", "empty" | "deaf") => 0,
            ("open", _) if !breaks_off(what, way) => 69,
            _ => 75,
        };
        // On a busy machine enough of it may take longer than a question may.
        let counted = when == "open" && is_counted(what, way);
        Row {
            what: format!("{when} {what}"),
            behaviour: self.script.behaviour(when, what),
            way,
            code,
            limits: if counted { &LIMITS[..2] } else { &LIMITS },
        }
    }

    fn target(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }
}

/// A start, and the code that it has to end with.
struct Start {
    what: String,
    code: i32,
    running: Running,
    begin: Instant,
    peak: usize,
    // Last: their processes end with them.
    _front: Front,
    job: Job,
}

/// What to start at.
struct Row {
    /// By name.
    what: String,
    behaviour: Behaviour,
    way: Way,
    code: i32,
    limits: &'static [&'static str],
}

impl Start {
    fn new(gateway: &Gateway, row: Row, options: &[&str]) -> Start {
        let Row { what, behaviour, way, code, limits } = row;
        let (job, front) = (Job::new(), Front::start(behaviour));
        let mut command = job.licfwd(gateway);
        // Of each option the last counts.
        command.args(front.options_by(way)).args(limits).args(options);
        // The scripted gateway reaches whatever it is asked for.
        let running = job.spawn(command.args(["--no-watch", "gw", "127.0.0.1:1"]));
        let (what, begin) = (format!("{what} ({way:?})"), Instant::now());
        Start { what, code, running, begin, peak: 0, _front: front, job }
    }

    fn has_ended(&mut self) -> bool {
        self.peak = self.peak.max(process::peak_kb(self.running.pid()));
        self.running.has_ended()
    }
}

/// Starts at all of them, so many at a time; each must keep to time and memory, and end
/// with its code. They are many: all that do not are told together.
fn all_rows_end(gateway: &Gateway, mut rows: Vec<Row>, together: usize) {
    let mut wrong = Vec::new();
    while !rows.is_empty() {
        let some = rows.drain(..rows.len().min(together));
        let starts = some.map(|row| Start::new(gateway, row, &[])).collect();
        wrong.extend(wrong_ends(starts, &START));
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same for those.
fn all_end(starts: Vec<Start>, promise: &Promise) {
    let wrong = wrong_ends(starts, promise);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of those the ones that do not.
fn wrong_ends(mut starts: Vec<Start>, promise: &Promise) -> Vec<String> {
    let count = starts.len();
    let ended = |number: usize| starts[number].has_ended();
    let times = times_until("all have ended", count, promise.room(), ended);
    let mut wrong = Vec::new();
    for (start, ended) in starts.into_iter().zip(times) {
        let outcome = start.running.wait(LIMIT);
        let last = outcome.stderr.lines().last().unwrap_or_default();
        let what = format!("{} [{}; {} MB; {last}]", start.what, outcome.code, start.peak >> 10);
        promise.kept(&what, ended - start.begin);
        let line = match outcome.code {
            0 => outcome.stdout.clone(),
            code => format!("(exit {code})\n"),
        };
        if (outcome.code, &outcome.stdout) != (start.code, &line) || start.peak >= MEMORY {
            wrong.push(format!("{what}, not {}: {outcome:?}", start.code));
        }
        start.job.end();
    }
    wrong
}

/// Whether who asks for the license server learns that the gateway is at fault: it breaks
/// the protocol, as the one who speaks to it sees that, or so many bytes come that they
/// are counted. Else there is no answer, as from a license server that swallows packets.
fn breaks_off(what: &str, way: Way) -> bool {
    const FOR_BOTH: [&str; 5] = ["confirmation", "open-failure", "half-packet", "drip", "garbage"];
    const FOR_SSH: [&str; 7] =
        ["unknown", "slow-unknown", "data", "data-live", "extended-live", "eof", "close"];
    const FOR_LIBSSH2: [&str; 2] = ["kexinit", "window-live"];
    let seen = match over_ssh() {
        true => &FOR_SSH[..],
        false => &FOR_LIBSSH2,
    };
    is_counted(what, way) || seen.contains(&what) || FOR_BOTH.contains(&what)
}

/// Whether it is cut off for its bytes, as soon as that many have come: behind a proxy
/// for those alone that libssh2 keeps.
fn is_counted(what: &str, way: Way) -> bool {
    const FLOODS: [&str; 7] =
        ["unknown", "global", "ignore", "debug", "data", "data-live", "extended-live"];
    let floods = if way == Way::Straight { &FLOODS[..] } else { &FLOODS[..1] };
    !over_ssh() && floods.contains(&what)
}

/// What comes before the keys is no gateway that serves, whatever it is.
fn raw(what: &'static str, way: Way) -> Row {
    let (behaviour, limits) = (Behaviour::Raw(what), &LIMITS);
    Row { what: what.to_owned(), behaviour, way, code: 75, limits }
}

/// Floods of which it is a matter of chance whether the time for a question to libssh2 is
/// over first, or enough has come to be counted.
const BY_CHANCE: [&str; 4] = ["global-reply", "request-live", "slow-unknown", "banner"];

/// What a gateway can answer when it is asked for a channel, with `--long` everything.
fn at_the_question(few: &[&'static str]) -> Vec<&'static str> {
    let all = RUNNING.into_iter().chain(["deaf"]);
    match long() {
        true => all.filter(|what| over_ssh() || !BY_CHANCE.contains(what)).collect(),
        false => few.to_vec(),
    }
}

/// Goal: before there are keys: within the limits, in little memory, and 75, whatever
/// the gateway sends or does not. With `--long` all that we can think of.
#[test]
fn at_the_start_before_the_keys() {
    let gateway = Gateway::start();
    let kinds = match (long(), over_ssh()) {
        (true, _) => &RAW[..],
        (false, false) => &RAW[..6],
        // It is ssh that reads them.
        (false, true) => &["lines", "unknown", "silence"],
    };
    let rows = kinds.iter().map(|what| raw(what, Way::Straight));
    all_rows_end(&gateway, rows.collect(), 8);
}

/// Goal: the same with what comes behind the keys, during and after the login.
#[test]
fn at_the_start_behind_the_keys() {
    let place = place!();
    let auth = if long() { &AUTH[..] } else { &["banner", "silence", "rekey-flood"] };
    let open = at_the_question(&["unknown", "global", "silence"]);
    let mut rows: Vec<_> = auth.iter().map(|what| place.row("auth", what, Way::Straight)).collect();
    rows.extend(open.iter().map(|what| place.row("open", what, Way::Straight)));
    all_rows_end(&place.gateway, rows, 6);
}

/// The ways behind a program. Over ssh a ProxyJump is that ssh's own.
fn proxies() -> Vec<Way> {
    let jump = (!over_ssh() || long()).then_some(Way::Jump);
    [Way::Command].into_iter().chain(jump).collect()
}

/// Goal: behind a ProxyCommand and a ProxyJump, where the kernel counts no bytes: the
/// same limits, of time and of memory.
#[test]
fn at_the_start_behind_a_proxy() {
    let place = place!();
    let before = if long() { &RAW[..] } else { &["lines", "unknown"] };
    let auth = if long() { &AUTH[..] } else { &["banner"] };
    let open = at_the_question(&["global"]);
    let mut rows = Vec::new();
    for way in proxies() {
        rows.extend(before.iter().map(|what| raw(what, way)));
        rows.extend(auth.iter().map(|what| place.row("auth", what, way)));
        // On a busy machine the way through another gateway may be as long as a step.
        let asked = if way == Way::Jump && !long() { &[] } else { &open[..] };
        rows.extend(asked.iter().map(|what| place.row("open", what, way)));
    }
    all_rows_end(&place.gateway, rows, 4);
}

/// Goal: so are those of a ProxyCommand that never becomes a gateway.
#[test]
fn a_proxy_that_says_yes() {
    let gateway = Gateway::start();
    // What ssh's proxy says is for ssh, what it complains of for licfwd.
    let some = if over_ssh() && !long() { 2 } else { 4 };
    let proxies = ["sleep 1000", "sh -c 'yes >&2'", "yes", "cat /dev/zero"];
    let starts = proxies[..some].iter().map(|proxy| {
        let proxy = format!("-oProxyCommand={proxy}");
        let row = Row { what: proxy.clone(), ..raw("closed", Way::Straight) };
        Start::new(&gateway, row, &[&proxy])
    });
    all_end(starts.collect(), &START);
}

/// What a gateway can send to a tunnel that runs. What hurt once comes first.
const RUNNING: [&str; 39] = [
    "unknown",
    "slow-unknown",
    "global",
    "kexinit",
    "ignore",
    "global-reply",
    "debug",
    "unimplemented",
    "banner",
    "success",
    "failure",
    "info-request",
    "service-accept",
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
    // Over ssh it is ssh that reads all but its end.
    let few = if over_ssh() { 2 } else { 4 };
    running(Way::Straight, if long() { &RUNNING[..] } else { &RUNNING[..few] });
}

/// Goal: the same for a gateway that begins to exchange keys again and goes on with
/// something else.
#[test]
fn a_flood_instead_of_new_keys() {
    running(Way::Straight, if long() { &["rekey-flood"; 10] } else { &["rekey-flood"] });
}

/// Goal: the same behind a proxy.
#[test]
fn under_a_running_tunnel_behind_a_proxy() {
    for (way, few) in proxies().into_iter().zip([["unknown"], ["global"]]) {
        running(way, if long() { &RUNNING[..] } else { &few });
    }
}

fn running(way: Way, kinds: &[&'static str]) {
    let quick = ["-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2"];
    for kinds in kinds.chunks(2) {
        let mut tunnels = Vec::new();
        for what in kinds {
            let place = place!();
            let front = Front::start(place.script.behaviour("running", what));
            let tunnel = place.tunnel_by(way, &front, &quick);
            tunnels.push((*what, place, front, tunnel));
        }
        thread::scope(|scope| {
            for (what, place, front, tunnel) in &tunnels {
                scope.spawn(|| is_outlived(what, place, front, tunnel));
            }
        });
    }
}

/// What that gateway does, by that tunnel.
fn is_outlived(what: &str, place: &Place, front: &Front, tunnel: &Tunnel) {
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
                cut(front, tunnel);
                cut_jump(tunnel);
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
    ends_at_once(tunnel, what);
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
    let auth = if long() { &AUTH[..] } else { &["banner", "global", "methods", "rekey-flood"] };
    reconnecting(&place, Way::Straight, raw, auth);
}

/// Goal: the same behind a proxy.
#[test]
fn while_it_reconnects_behind_a_proxy() {
    let place = place!();
    for (way, raw, auth) in [(Way::Command, "lines", &["banner"][..]), (Way::Jump, "unknown", &[])]
    {
        let raw = if long() { &RAW[..] } else { &[raw] };
        let auth = if long() { &AUTH[..] } else { auth };
        if proxies().contains(&way) {
            reconnecting(&place, way, raw, auth);
        }
    }
}

fn reconnecting(place: &Place, way: Way, raw: &[&'static str], auth: &[&str]) {
    let mut cases: Vec<Behaviour> = raw.iter().map(|what| Behaviour::Raw(what)).collect();
    cases.extend(auth.iter().map(|what| place.script.behaviour("auth", what)));
    for cases in cases.chunks(6) {
        let start = |behaviour: &Behaviour| {
            let front = Front::start(place.good());
            let tunnel = place.tunnel_by(way, &front, &["--timeout", "3"]);
            front.set(behaviour.clone());
            cut(&front, &tunnel);
            (format!("{behaviour:?} ({way:?})"), front, tunnel, Instant::now())
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
            cut(front, tunnel);
            wait_until("another attempt", LIMIT, || front.connections() > before);
            ends_at_once(tunnel, what);
        }
    }
}

/// Ends its connection; nc, with its other side still open, would go on without.
fn cut(front: &Front, tunnel: &Tunnel) {
    front.cut();
    process::signal("KILL", &tunnel.job().processes_named("nc"));
}

/// Ends what carries it through a ProxyJump, and has two megabytes to go on with: seconds
/// of the processor's time for an ssh whose answers nobody takes.
fn cut_jump(tunnel: &Tunnel) {
    let carries = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"-W")
    };
    let ssh = tunnel.job().processes_named("ssh");
    process::signal("KILL", &ssh.into_iter().filter(carries).collect::<Vec<_>>());
}

/// What a gateway does while somebody waits for it, at the start or to get back.
fn waited_for(place: &Place) -> Vec<Behaviour> {
    let raw = if long() { &RAW[..] } else { &["lines"] };
    let raw = raw.iter().filter(|what| **what != "closed").map(|what| Behaviour::Raw(what));
    let auth = if long() { &AUTH[..] } else { &["banner"] };
    let ends = ["failure", "methods", "garbage"];
    let auth = auth.iter().filter(|what| !ends.contains(what));
    raw.chain(auth.map(|what| place.script.behaviour("auth", what))).collect()
}

/// Goal: TERM and the job's end end a start, whatever the gateway is at, and with all
/// its time left.
#[test]
fn term_and_the_jobs_end_at_the_start() {
    let place = place!();
    for behaviour in waited_for(&place) {
        let (job, front) = (Job::new(), Front::start(behaviour.clone()));
        let watched = job.spawn(job.command("sleep").arg("600"));
        let start = |watch: &[&str]| {
            let mut command = job.licfwd(&place.gateway);
            command.args(front.options()).args(watch);
            job.spawn(command.args(["gw", &place.target()]))
        };
        let told = start(&["--no-watch"]);
        let watching = start(&["--watch", &watched.pid().to_string()]);
        let what = format!("{behaviour:?}");
        wait_until("both are there", LIMIT, || front.connections() > 1);
        process::signal("TERM", &[told.pid()]);
        process::signal("KILL", &[watched.pid()]);
        for (how, mut start) in [("TERM", told), ("the job's end", watching)] {
            AT_ONCE.wait_until(&format!("{what}: {how}"), || start.has_ended());
            let outcome = start.wait(LIMIT);
            assert_eq!((outcome.code, &*outcome.stdout), (143, "(exit 143)\n"), "{what}: {how}");
        }
        drop(watched);
        job.wait_until_empty();
    }
}

/// Goal: so does the job's end while it reconnects.
#[test]
fn the_jobs_end_while_it_reconnects() {
    let place = place!();
    for behaviours in waited_for(&place).chunks(6) {
        let start = |behaviour: &Behaviour| {
            let front = Front::start(place.good());
            let tunnel = place.watching_tunnel(&front);
            front.set(behaviour.clone());
            let before = front.connections();
            front.cut();
            (format!("{behaviour:?}"), front, before, tunnel)
        };
        let tunnels: Vec<_> = behaviours.iter().map(start).collect();
        for (what, front, before, (job, daemon, _, watched)) in tunnels {
            wait_until("an attempt", LIMIT, || front.connections() > before);
            process::signal("KILL", &[watched.pid()]);
            END.wait_until(&format!("{what}: it ends"), || !process::alive(daemon));
            job.wait_until_empty();
        }
    }
}

/// What can be said during the login.
const AUTH: [&str; 18] = [
    "banner",
    "global",
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
    let mut options = vec!["--deadline", "8"];
    options.extend(keys.iter().map(String::as_str));
    let row = place.row("never", "slow-keys", Way::Straight);
    let start = Start::new(&place.gateway, row, &options);
    all_end(vec![start], &Promise::seconds(9));
}

/// Goal: a list of methods that is no text is a login that is refused.
#[test]
fn a_list_of_methods_that_is_no_text() {
    let place = place!();
    let row = place.row("auth", "methods", Way::Straight);
    all_end(vec![Start::new(&place.gateway, row, &[])], &START);
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
