//! The license clients of real products, by what the README tells their users.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::rig::flexnet::{FlexNet, exports};
use crate::rig::job::over_ssh;
use crate::rig::network::{Beyond, is_our_own, run};
use crate::rig::pypi::python_with;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Outcome, Overlay, Promise, Scratch, Service, free_pair,
    free_port, skip, wait_until,
};

/// FlexNet 11.19.6 and 11.18.1: each with its own first words.
const MOSEKS: [&str; 2] = ["11.2.7", "9.3.22"];

/// Loads the library by hand, because there is no old Python for an old wheel, and asks
/// for a seat; tells how long that took.
const CHECK_OUT: &str = r#"
import ctypes, glob, sys, time
for library in sorted(glob.glob(sys.argv[1] + "/mosek/lib*.so*"), key=lambda path: "libmosek" in path):
    mosek = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
environment = ctypes.c_void_p()
assert mosek.MSK_makeenv(ctypes.byref(environment), None) == 0
start = time.time()
code = mosek.MSK_checkoutlicense(environment, 0)
print(code, int(1000 * (time.time() - start)))
"#;

/// A Python with the clients, and where the two generations of Mosek's library are.
///
/// # Errors
/// Why they cannot be had.
fn clients() -> Result<(PathBuf, [PathBuf; 2]), String> {
    let old = ["--no-deps", "--only-binary", ":all:", "--implementation", "cp"];
    let old =
        [&old[..], &["--python-version", "3.9", "--platform", "manylinux2014_x86_64"]].concat();
    let targets = MOSEKS.map(|version| (format!("mosek=={version}"), format!("mosek-{version}")));
    let [new, older] = targets
        .each_ref()
        .map(|(package, target)| [&old[..], &["--target", target, package]].concat());
    let others = ["gurobipy==13.0.3", "knitro==16.0.0", "coptpy==8.0.7"];
    let python = python_with("license-clients", &[&new, &older, &others])?;
    let place = python.ancestors().nth(2).expect("a directory").to_owned();
    Ok((python.clone(), targets.map(|(_, target)| place.join(target))))
}

/// A gateway whose clients, Mosek's among them, ask no name server, where that can be.
fn gateway() -> Gateway {
    Gateway::without_name_servers().unwrap_or_else(|_| Gateway::start())
}

/// A license server on an address where licfwd binds nothing.
fn flexnet(network: u8, number: u8, ports: (u16, u16)) -> FlexNet {
    FlexNet::start(Ipv4Addr::new(127, 0, network, number), ports)
}

fn network() -> u8 {
    rand::random_range(1..=255)
}

/// Mosek's library asks for a seat at `value`. Returns how long it took.
#[track_caller]
fn ask(job: &Job, gateway: &Gateway, value: &str, python: &PathBuf, library: &PathBuf) -> Duration {
    let mut client = job.client(python, gateway);
    client.args(["-c", CHECK_OUT]).arg(library).env("MOSEKLM_LICENSE_FILE", value);
    // It remembers where it once got something.
    let _ = std::fs::remove_file(job.directory().file(".flexlmrc"));
    let outcome = job.spawn(&mut client).wait(2 * LIMIT);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let (_, took) = outcome.line().split_once(' ').expect("code and milliseconds");
    Duration::from_millis(took.parse().expect("milliseconds"))
}

/// Calls licfwd; returns what it announces.
#[track_caller]
fn announce(job: &Job, gateway: &Gateway, arguments: &[&str]) -> (String, Outcome) {
    let outcome = job.run(job.licfwd(gateway).args(arguments));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let value = exports(outcome.line()).remove("MOSEKLM_LICENSE_FILE");
    (value.expect("a value"), outcome)
}

/// Goal: Mosek, told one port alone, by its variable and by a file, gets through to the
/// vendor daemon; two jobs on a node at once; and after the vendor daemon has come back
/// on another port.
#[test]
fn mosek_finds_the_vendor_daemon() {
    let (python, libraries) = match clients() {
        Ok(clients) => clients,
        Err(why) => skip!("no license clients from PyPI: {why}"),
    };
    let (gateway, network, ports) = (gateway(), network(), free_pair());
    let mut server = flexnet(network, 10, ports);
    let target = format!("MOSEKLM_LICENSE_FILE=127.0.{network}.10:{}", ports.0);
    let jobs = [Job::new(), Job::new()];
    let values = jobs.each_ref().map(|job| announce(job, &gateway, &["gw", &target]).0);
    assert_ne!(values[0], values[1]);
    let mut heard = 0;
    for (library, version) in libraries.iter().zip(MOSEKS) {
        for (job, value) in jobs.iter().zip(&values) {
            let port = crate::rig::job::port_of(value);
            let text = format!("SERVER localhost ANY {port}\nUSE_SERVER\n");
            let file = job.directory().write("mosek.lic", &text);
            for value in [value.as_str(), file.to_str().expect("a name")] {
                let took = ask(job, &gateway, value, &python, library);
                let before = std::mem::replace(&mut heard, server.vendor.hellos());
                eprintln!("Mosek {version}, {value}: {} hellos, {took:?}", heard - before);
                assert!(heard > before, "{version} {value}");
            }
        }
    }
    drop(server);
    server = flexnet(network, 10, (ports.0, free_port()));
    for library in &libraries {
        ask(&jobs[0], &gateway, &values[0], &python, library);
        let before = std::mem::replace(&mut heard, server.vendor.hellos());
        assert!(heard != before, "after the restart: {heard}");
    }
}

/// Goal: in a triad whose first server is down, the vendor daemons of the other two are
/// reached, with commas, and with `--verbatim`, which announces colons and says why.
#[test]
fn mosek_and_a_triad_without_its_first() {
    let (python, libraries) = match clients() {
        Ok(clients) => clients,
        Err(why) => skip!("no license clients from PyPI: {why}"),
    };
    let (gateway, network, ports) = (gateway(), network(), free_pair());
    let servers = [11, 12].map(|number| flexnet(network, number, ports));
    for (options, kept, join) in
        [(&["gw"][..], String::new(), ','), (&["--verbatim", "gw"], format!("+{}", ports.1), ':')]
    {
        let job = Job::new();
        let members = [10, 11, 12].map(|n| format!("127.0.{network}.{n}:{}{kept}", ports.0));
        let target = format!("MOSEKLM_LICENSE_FILE={}", members.join(","));
        let (value, outcome) = announce(&job, &gateway, &[options, &[&target]].concat());
        assert_eq!(value.matches(join).count(), 2, "{value}");
        let says_why = outcome.stderr.contains("joined by colons, because of --verbatim");
        assert_eq!(says_why, join == ':', "{outcome:?}");
        for (library, version) in libraries.iter().zip(MOSEKS) {
            let before = servers.each_ref().map(|server| server.vendor.hellos());
            ask(&job, &gateway, &value, &python, library);
            let after = servers.each_ref().map(|server| server.vendor.hellos());
            eprintln!("Mosek {version}, {value}: {before:?} -> {after:?}");
            assert!(after[0] > before[0] && after[1] > before[1], "{version}");
        }
    }
}

/// Goal: where the name that the license server tells resolves, and packets to it vanish,
/// Mosek waits ten seconds with `ssh -L`, and not at all with licfwd.
#[test]
fn mosek_and_a_black_hole() {
    if over_ssh() || !is_our_own() {
        return;
    }
    if let Err(why) = Overlay::check() {
        skip!("{why}");
    }
    let (python, libraries) = match clients() {
        Ok(clients) => clients,
        Err(why) => skip!("no license clients from PyPI: {why}"),
    };
    // Beyond forwards nothing, and says nothing.
    let _beyond = Beyond::new();
    run("ip route add 10.98.0.0/24 via 10.99.0.2");
    let files = Scratch::new();
    let name = crate::rig::flexnet::NAME;
    let mut overlay = Overlay::default();
    let hosts = format!("127.0.0.1 localhost\n10.98.0.1 {name}\n");
    let hosts = files.write("hosts", &hosts);
    overlay.add(hosts, "/etc/hosts");
    let gateway = Gateway::overlaid(Scratch::new(), [Overlay::default(), overlay], &[], &[]);
    let (network, ports) = (network(), free_pair());
    let server = flexnet(network, 10, ports);
    let host = format!("127.0.{network}.10");
    let job = Job::new();

    let target = format!("MOSEKLM_LICENSE_FILE={host}:{}", ports.0);
    let (value, _) = announce(&job, &gateway, &["gw", &target]);
    let ours = ask(&job, &gateway, &value, &python, &libraries[0]);
    let ours_heard = server.vendor.hellos();

    let fixed = free_port();
    let mut ssh = job.client("ssh", &gateway);
    ssh.arg("-F").arg(gateway.config()).args(["-N", "gw"]);
    ssh.args(["-L", &format!("127.0.0.1:{fixed}:{host}:{}", ports.0)]);
    ssh.args(["-L", &format!("127.0.0.1:{}:{host}:{}", ports.1, ports.1)]);
    let _ssh = job.spawn(&mut ssh);
    wait_until("ssh forwards", LIMIT, || {
        std::net::TcpStream::connect(("127.0.0.1", ports.1)).is_ok()
    });
    let theirs = ask(&job, &gateway, &format!("{fixed}@localhost"), &python, &libraries[0]);
    eprintln!("a name in a black hole: {ours:?} with licfwd, {theirs:?} with ssh -L");
    assert!(ours_heard > 0 && server.vendor.hellos() > ours_heard);
    assert!(theirs >= Duration::from_secs(10), "{theirs:?}");
    Promise::seconds(1).kept("a seat is asked for", ours);
}

/// Goal: Gurobi, Knitro and COPT reach their license server by the file or the variable
/// of the README.
#[test]
fn gurobi_knitro_and_copt() {
    if over_ssh() {
        return;
    }
    let python = match clients() {
        Ok((python, _)) => python,
        Err(why) => skip!("no license clients from PyPI: {why}"),
    };
    let gateway = gateway();
    for (product, script) in [
        (
            "gurobipy",
            r#"printf 'TOKENSERVER=localhost\nPORT=%s\n' "$P" > gurobi.lic
               GRB_LICENSE_FILE=$PWD/gurobi.lic "$0" -c 'import gurobipy; gurobipy.Env()'"#,
        ),
        (
            "knitro",
            r#"ARTELYS_LICENSE_NETWORK_ADDR=localhost:$P "$0" -c 'import knitro; knitro.KN_new()'"#,
        ),
        (
            "coptpy",
            r#"printf '[Licensing]\nHost = localhost\nPort = %s\n' "$P" > client.ini
               COPT_LICENSE_DIR=$PWD timeout 5 "$0" -c 'import coptpy; coptpy.Envr()'"#,
        ),
    ] {
        let (job, server) = (Job::new(), LicenseServer::start(Service::Says(b"", 1)));
        let mut licfwd = job.licfwd(&gateway);
        licfwd.args(["--format", "{port}", "gw", &format!("P=127.0.0.1:{}", server.port())]);
        let line = job.run(&mut licfwd);
        let port = exports(line.line()).remove("P").expect("a port");
        let mut shell = job.client("sh", &gateway);
        shell.args(["-c", script]).arg(&python).env("P", port);
        let outcome = job.run(&mut shell);
        eprintln!("{product}: {} times", server.hellos());
        assert!(server.hellos() > 0, "{product}: {outcome:?}");
    }
}
