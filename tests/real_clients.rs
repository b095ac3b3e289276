//! The license clients of real products, by what the README tells their users.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::rig::black_hole::BlackHole;
use crate::rig::flexnet::{FlexNet, exports};
use crate::rig::job::over_ssh;
use crate::rig::mosek::{Clients, MOSEKS, announce};
use crate::rig::network::is_our_own;
use crate::rig::{Gateway, Job, LicenseServer, Promise, Service, free_pair, free_port, skip};

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

/// Goal: Mosek, told one port alone, by its variable and by a file, gets through to the
/// vendor daemon; two jobs on a node at once; and after the vendor daemon has come back
/// on another port.
#[test]
fn mosek_finds_the_vendor_daemon() {
    let clients = match Clients::fetch() {
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
    for (generation, version) in MOSEKS.into_iter().enumerate() {
        for (job, value) in jobs.iter().zip(&values) {
            let port = crate::rig::job::port_of(value);
            let text = format!("SERVER localhost ANY {port}\nUSE_SERVER\n");
            let file = job.directory().write("mosek.lic", &text);
            for value in [value.as_str(), file.to_str().expect("a name")] {
                let took = clients.ask(job, &gateway, value, generation);
                let before = std::mem::replace(&mut heard, server.vendor.hellos());
                eprintln!("Mosek {version}, {value}: {} hellos, {took:?}", heard - before);
                assert!(heard > before, "{version} {value}");
            }
        }
    }
    drop(server);
    server = flexnet(network, 10, (ports.0, free_port()));
    for generation in 0..MOSEKS.len() {
        clients.ask(&jobs[0], &gateway, &values[0], generation);
        let before = std::mem::replace(&mut heard, server.vendor.hellos());
        assert!(heard != before, "after the restart: {heard}");
    }
}

/// Goal: in a triad whose first server is down, the vendor daemons of the other two are
/// reached, with commas, and with `--verbatim`, which announces colons and says why.
#[test]
fn mosek_and_a_triad_without_its_first() {
    let clients = match Clients::fetch() {
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
        for (generation, version) in MOSEKS.into_iter().enumerate() {
            let before = servers.each_ref().map(|server| server.vendor.hellos());
            clients.ask(&job, &gateway, &value, generation);
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
    if over_ssh() {
        return;
    }
    // From our own network there is no way to PyPI.
    if let Err(why) = Clients::fetch() {
        skip!("no license clients from PyPI: {why}");
    }
    if !is_our_own() {
        return;
    }
    let hole = match BlackHole::new() {
        Ok(hole) => hole,
        Err(why) => skip!("{why}"),
    };
    let (ours, theirs) = (hole.through_licfwd(&[]), hole.through_ssh());
    eprintln!("a name in a black hole: {ours:?} with licfwd, {theirs:?} with ssh -L");
    assert!(theirs >= Duration::from_secs(10), "{theirs:?}");
    Promise::seconds(1).kept("the vendor daemon hears", ours);
}

/// Goal: Gurobi, Knitro and COPT reach their license server by the file or the variable
/// of the README.
#[test]
fn gurobi_knitro_and_copt() {
    if over_ssh() {
        return;
    }
    let python = match Clients::fetch() {
        Ok(clients) => clients.python,
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
