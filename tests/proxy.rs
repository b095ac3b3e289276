//! ProxyCommand and ProxyJump: the way to a gateway that leads through a program.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::rig::traffic::check_out;
use crate::rig::{Gateway, LIMIT, Site, process, wait_until};

/// Goal: ProxyCommand carries the tunnel, with all its tokens.
#[test]
fn proxy_command_and_its_tokens() {
    let site = Site::new();
    let seen = site.job.directory().file("seen");
    let note = format!("echo %n %r %h %p 100%% >{}", seen.display());
    let port = site.brings_up(&[&through(&format!("sh -c '{note}; exec nc %h %p'"))]);
    check_out(port, "MATLAB").expect("a seat");
    let (user, port) = (site.gateway.user(), site.gateway.port());
    let expected = format!("gw {user} 127.0.0.1 {port} 100%\n");
    assert_eq!(fs::read_to_string(seen).expect("a note"), expected);
    assert_eq!(site.connections(), 1, "going to the background must not cost the proxy");
}

/// Goal: neither `$(...)` nor `2>&1` waits for the proxy, which lives on, and
/// holds none of the job's descriptors.
#[test]
fn proxy_lets_go_of_the_caller() {
    for form in [
        r#"eval $(licfwd -F $CONFIG -o "$PROXY" gw 127.0.0.1:$PORT)"#,
        r#"eval "$(licfwd -F $CONFIG -o "$PROXY" gw 127.0.0.1:$PORT 2>&1)""#,
        r#"lic=$(licfwd -F $CONFIG -o "$PROXY" gw 127.0.0.1:$PORT 2>log) && eval "$lic""#,
    ] {
        let site = Site::new();
        let text = format!("exec 8>kept; {form} || exit; echo $MLM_LICENSE_FILE");
        let mut script = site.script("bash", &text);
        script.env("PROXY", "ProxyCommand=nc %h %p");
        let outcome = site.job.run(&mut script);
        assert_eq!(outcome.code, 0, "{form}: {outcome:?}");
        let kept = site.job.directory().file("kept");
        for pid in proxies(&site) {
            let holds = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
            let mut holds = holds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            assert!(!holds.any(|file| file == kept), "{form}");
        }
    }
}

/// Goal: no proxy outlives the daemon, however that ends.
#[test]
fn proxy_ends_with_the_daemon() {
    for signal in ["TERM", "KILL"] {
        let site = Site::new();
        site.brings_up(&[&through("nc %h %p")]);
        assert_eq!(proxies(&site).len(), 1);
        ends_by(&site, signal);
    }
}

/// Goal: when the proxy is killed, a new one brings the tunnel back.
#[test]
fn tunnel_comes_back_when_the_proxy_is_killed() {
    let site = Site::new();
    let port = site.brings_up(&[&through("nc %h %p")]);
    let killed = proxies(&site);
    process::signal("KILL", &killed);
    wait_until("the tunnel is back", LIMIT, || check_out(port, "MATLAB").is_ok());
    let proxies = proxies(&site);
    assert!(proxies.len() == 1 && proxies != killed, "{proxies:?}");
}

/// Goal: what a broken proxy says stands in the message, and no proxy is left.
#[test]
fn broken_proxy_is_quoted() {
    let site = Site::new();
    for (command, code, words) in [
        ("sh -c 'echo no route to the moon >&2; exit 1'", 75, "no route to the moon"),
        ("nc 127.0.0.1 1; echo this never runs", 75, "127.0.0.1"),
        ("no-such-proxy-program", 78, "no-such-proxy-program"),
    ] {
        let outcome = site.run(&[&through(command), "--tries", "1"]);
        assert_eq!(outcome.code, code, "{outcome:?}");
        assert!(outcome.stderr.contains(words), "no {words:?}: {outcome:?}");
        site.job.wait_until_empty();
    }
}

/// Goal: a proxy may say as much as it likes, before the login and for as long as the
/// tunnel lives, whoever speaks to the gateway: no write of its fails or waits for ever,
/// clients are served meanwhile, and little of it is kept.
#[test]
fn talkative_proxy() {
    for via in ["libssh2", "ssh"] {
        let site = Site::new();
        let [go, done] = ["go", "done"].map(|name| site.job.directory().file(name));
        let later = format!(
            "while ! [ -e {} ]; do sleep 0.1; done; {TALK} && echo last words >&2 && echo >{}",
            go.display(),
            done.display()
        );
        let proxy = format!("sh -c 'echo first words >&2; {TALK} && ({later}) & exec nc %h %p'");
        let tunnel = site.tunnel(&["--via", via, &through(&proxy)]);
        let start = Instant::now();
        fs::write(go, "").expect("go");
        wait_until("all is said", LIMIT, || {
            check_out(tunnel.port(), "MATLAB").expect("a seat");
            done.exists()
        });
        let (took, peak) = (start.elapsed(), process::peak_kb(tunnel.pid()));
        eprintln!("{via}: 100 MB in {took:.1?} under the tunnel, {peak} kB at most");
        assert!(peak < MUCH_KB, "{peak} kB");
        assert_eq!(tunnel.logged("lost the gateway"), 0);
        // The last client's end may still be on its way.
        let mut second = (tunnel.sleeps(), Instant::now());
        wait_until("a second with few wake-ups", LIMIT, || {
            let (before, since) = second;
            if since.elapsed().as_secs() == 0 {
                return false;
            }
            second = (tunnel.sleeps(), Instant::now());
            second.0 - before < 5
        });

        process::signal("KILL", &tunnel.job().processes_named("nc"));
        tunnel.wait_for_log("lost the gateway", 1);
        let log = tunnel.log();
        let lost = log.lines().find(|line| line.contains("lost the gateway")).unwrap_or_default();
        // ssh's own words are those that count; the loop has heard all others.
        let quoted = ["first words [...]", "last words"].iter().all(|words| lost.contains(words));
        assert!(quoted || via == "ssh", "{lost}");
        tunnel.job().end();
    }
}

/// Says 100 MB; fails where a write does.
const TALK: &str = "yes and so on | head -c 100000000 >&2";
/// What licfwd takes itself is a fifth of it.
const MUCH_KB: usize = 64 << 10;

/// Goal: of a proxy that has said much, and failed, the first and the last is quoted.
#[test]
fn talkative_proxy_that_fails() {
    for via in ["libssh2", "ssh"] {
        let site = Site::new();
        let said = format!("echo first words >&2; {TALK} && echo last words >&2; exit 1");
        let proxy = through(&format!("sh -c '{said}'"));
        let outcome = site.run(&["--via", via, &proxy, "--tries", "1"]);
        outcome.fails(75, &["first words [...]; ", "last words"]);
        assert!(outcome.stderr.len() < 1000, "{outcome:?}");
    }
}

/// Goal: a proxy that never connects ends with the time limit, and leaves
/// nothing, the processes below it included.
#[test]
fn hanging_proxy_ends_in_time() {
    let site = Site::new();
    for command in ["sleep 1000", "sh -c 'sleep 1000 & sleep 1000; :'"] {
        let options = [&through(command), "--tries", "1", "--timeout", "1"];
        let running = site.job.spawn(&mut site.call(&options));
        let outcome = running.wait(LIMIT);
        assert_eq!(outcome.code, 75, "{outcome:?}");
        assert!(outcome.stderr.contains("within 1 s"), "{outcome:?}");
        let nobody = || site.job.processes().is_empty();
        wait_until("the proxy is gone", LIMIT, nobody);
    }
}

/// Goal: a signal while the proxy hangs leaves nothing of it either.
#[test]
fn hanging_proxy_ends_with_licfwd() {
    let site = Site::new();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let running = site.job.spawn(&mut site.call(&[&through("sleep 1000")]));
        let proxy_runs = || site.job.processes_named("sleep").len() == 1;
        wait_until("the proxy runs", LIMIT, proxy_runs);
        process::signal(signal, &[running.pid()]);
        let outcome = running.wait(LIMIT);
        assert_eq!(outcome.code, code, "{outcome:?}");
        let nobody = || site.job.processes().is_empty();
        wait_until(&format!("the proxy is gone after {signal}"), LIMIT, nobody);
    }
}

/// Goal: two hops by -J, each with its own key and known_hosts entry; nothing
/// is left of them, however the daemon ends; a lost hop is gone round again.
#[test]
fn two_hops() {
    let mut hops = Hops::new();
    for (signal, options) in [("TERM", "-J one,two gw"), ("KILL", "behind-both")] {
        let mut call = hops.call(options);
        let outcome = hops.site.job.run(&mut call);
        let port = outcome.port("MLM_LICENSE_FILE");
        check_out(port, "MATLAB").expect("a seat");
        for hop in [&hops.one, &hops.two, &hops.site.gateway] {
            let log = hop.log();
            assert!(log.contains("Accepted publickey"), "{options}: {log}");
        }
        // One ssh to the first hop, through which the other one reaches the second.
        let ssh = hops.site.job.processes_named("ssh");
        assert_eq!(ssh.len(), 2, "{options}");
        hops.two.restart();
        wait_until("the tunnel is back", LIMIT, || check_out(port, "MATLAB").is_ok());
        ends_by(&hops.site, signal);
    }
}

/// Goal: a hop that refuses, or that nobody knows, is named in ssh's own words,
/// and not asked again.
#[test]
fn refusing_hop_is_quoted() {
    let hops = Hops::new();
    hops.two.authorize("");
    let denied = hops.site.job.run(&mut hops.call("behind-both"));
    assert_eq!(denied.code, 77, "{denied:?}");
    assert!(denied.stderr.contains("Permission denied"), "{denied:?}");

    fs::write(hops.one.known_hosts(), "").expect("known_hosts");
    let unknown = hops.site.job.run(&mut hops.call("behind-both"));
    assert_eq!(unknown.code, 76, "{unknown:?}");
    let words = "Host key verification failed";
    assert!(unknown.stderr.contains(words), "{unknown:?}");
    hops.site.job.wait_until_empty();
}

/// The option for a way through that program.
fn through(proxy: &str) -> String {
    format!("-oProxyCommand={proxy}")
}

/// The job's processes that are not licfwd.
fn proxies(site: &Site) -> Vec<u32> {
    let daemon = site.job.daemon();
    let pids = site.job.processes();
    pids.into_iter().filter(|pid| *pid != daemon).collect()
}

/// The daemon, and then nothing is left of the job or on the gateway.
#[track_caller]
fn ends_by(site: &Site, signal: &str) {
    process::signal(signal, &[site.job.daemon()]);
    wait_until(&format!("all is gone after {signal}"), LIMIT, || {
        site.job.processes().is_empty() && site.gateway.sessions().is_empty()
    });
}

/// A site behind two more gateways, which nothing but their names joins.
struct Hops {
    one: Gateway,
    two: Gateway,
    site: Site,
}

impl Hops {
    fn new() -> Hops {
        let (one, two, site) = (Gateway::start(), Gateway::start(), Site::new());
        let hosts = [("one", &one), ("two", &two), ("gw behind-both", &site.gateway)];
        let mut config = String::from("Host behind-both\nProxyJump one,two\n");
        for (names, gateway) in hosts {
            let block = fs::read_to_string(gateway.config()).expect("ssh_config");
            config += &block.replace("Host gw\n", &format!("Host {names}\n"));
        }
        site.job.directory().write("config", &config);
        Hops { one, two, site }
    }

    /// licfwd with these words and the target.
    fn call(&self, words: &str) -> Command {
        let mut call = self.site.job.command(crate::rig::job::licfwd());
        call.args(["-F", "config"]).args(words.split(' '));
        call.arg(self.site.target());
        call
    }
}
