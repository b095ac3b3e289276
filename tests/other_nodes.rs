//! `--listen` and `--allow`: who on a cluster may use the tunnel, and who not.

use std::process::Command;

use crate::rig::nodes::{Nodes, address, way_out};
use crate::rig::traffic::{ASK, CLOSED, SERVED};
use crate::rig::{Gateway, Job, Outcome, Site, skip, wait_until};

/// A gateway and a license server outside, and a cluster of four nodes.
struct Cluster {
    site: Site,
    nodes: Nodes,
    way_out: String,
}

const NAMES: [&str; 4] = ["node1", "node2", "node3", "stranger"];

impl Cluster {
    fn start() -> Option<Cluster> {
        let site = Site::new();
        Some(Cluster {
            way_out: way_out(&site.gateway)?,
            nodes: Nodes::start(&site.job, &NAMES)?,
            site,
        })
    }

    /// licfwd on the first node; it logs to `log`.
    fn licfwd(&self, options: &[&str], ports: &str) -> Outcome {
        let mut call = self.nodes.command(&self.site.job, 0, "licfwd");
        call.arg("-F").arg(self.site.gateway.config());
        call.arg("--log").arg(self.site.job.directory().file("log"));
        call.args(["-o", &self.way_out]).args(options);
        call.args(["gw", &format!("LIC={}{ports}", self.site.target())]);
        self.site.job.run(&mut call)
    }

    /// What a client on a node gets.
    fn ask(&self, node: usize, server: &str) -> String {
        self.client(self.nodes.command(&self.site.job, node, "bash"), server)
    }

    /// What a client of another user on a node gets.
    fn ask_as_daemon(&self, node: usize, server: &str) -> String {
        let mut call = self.nodes.command(&self.site.job, node, "setpriv");
        call.args(["--reuid=daemon", "--regid=daemon", "--clear-groups"]);
        call.arg("bash");
        self.client(call, server)
    }

    fn client(&self, mut call: Command, server: &str) -> String {
        let (port, host) = server.split_once('@').expect("port@host");
        let outcome = self.site.job.run(call.args(["-c", ASK, host, port]));
        // The seat must be back before the next one asks.
        wait_until("the seat is back", crate::rig::LIMIT, || self.site.server.seats() == 0);
        outcome.stdout
    }

    fn log(&self) -> String {
        self.site.job.directory().read("log")
    }
}

/// The value of LIC, the only export.
#[track_caller]
fn value(outcome: &Outcome) -> String {
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let value = outcome.line().strip_prefix("export LIC=");
    value.expect("an export of LIC").to_owned()
}

/// Goal: the allowed nodes are served, every user there included; others are
/// closed without a byte and logged once; on this node the owner alone counts,
/// by whatever address a client comes.
#[test]
fn allowed_nodes_and_nobody_else() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    // As `scontrol show hostnames` prints them; this node is always among them.
    let hosts = "node1\nnode2\nnode3\n";
    let outcome = cluster.licfwd(&["--listen", &address(0), "--allow", hosts], "");
    let server = value(&outcome);
    assert_eq!(outcome.stderr, "");
    assert!(server.ends_with(&format!("@{}", address(0))), "{server}");

    let served = cluster.site.server.served();
    for node in [3, 3] {
        assert_eq!(cluster.ask(node, &server), CLOSED, "{}", NAMES[node]);
    }
    assert_eq!(cluster.ask_as_daemon(0, &server), CLOSED);
    assert_eq!(cluster.site.server.served(), served, "they got through");
    for node in [0, 1, 2] {
        assert_eq!(cluster.ask(node, &server), SERVED, "{}", NAMES[node]);
    }
    assert_eq!(cluster.ask_as_daemon(1, &server), SERVED);

    let log = cluster.log();
    let refusal = |whom: &str| format!("refused a client: {whom} may not use this tunnel");
    for whom in [format!("host {}", address(3)), "user 1 of this node".into()] {
        assert_eq!(log.matches(&refusal(&whom)).count(), 1, "{whom}: {log}");
    }
}

/// Goal: on every address the announced name is the node's own, with which the
/// other nodes find it; loopback is served too, and guarded as well.
#[test]
fn every_address_is_announced_by_the_nodes_name() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let outcome = cluster.licfwd(&["--listen", "0.0.0.0", "--allow", "node2"], "");
    let server = value(&outcome);
    let port = server.strip_suffix("@node1").expect("uname -n");
    assert_eq!(cluster.ask(1, &server), SERVED);
    assert_eq!(cluster.ask(2, &server), CLOSED);
    for host in ["node1", "127.0.0.1"] {
        let server = format!("{port}@{host}");
        assert_eq!(cluster.ask(0, &server), SERVED, "{host}");
        assert_eq!(cluster.ask_as_daemon(0, &server), CLOSED, "{host}");
    }
}

/// Goal: `--allow-any-user` is about this node's users only.
#[test]
fn any_user_is_not_any_node() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let options = ["--listen", "0.0.0.0", "--allow", "node2", "--allow-any-user"];
    let server = value(&cluster.licfwd(&options, ""));
    assert_eq!(cluster.ask_as_daemon(0, &server), SERVED);
    assert_eq!(cluster.ask(3, &server), CLOSED);
}

/// Goal: a kept port cannot move to an address that the other nodes do not
/// know: when it is taken there, 73 names it.
#[test]
fn kept_port_is_taken() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let options = ["--listen", &address(0), "--allow", "node2", "--no-probe"];
    let first = cluster.licfwd(&options, "+27001");
    value(&first);
    let second = cluster.licfwd(&options, "+27001");
    assert_eq!(second.code, 73, "{second:?}");
    assert_eq!(second.line(), "(exit 73)");
    assert!(second.stderr.contains("port 27001"), "{second:?}");
    assert!(second.stderr.contains(&address(0)), "{second:?}");
}

/// Goal: serving other nodes without saying which is refused.
#[test]
fn listen_needs_allow() {
    let job = Job::new();
    let calls: [&[&str]; 3] =
        [&["--listen", "0.0.0.0"], &["--listen", "::"], &["--allow", "node2"]];
    for options in calls {
        let mut call = job.command(crate::rig::job::licfwd());
        let outcome = job.run(call.args(options).args(["gw", "127.0.0.1:1"]));
        assert_eq!(outcome.code, 64, "{outcome:?}");
        assert!(outcome.stderr.contains("--allow"), "{outcome:?}");
    }
}

/// Goal: hosts that nobody knows cannot be allowed.
#[test]
fn unknown_hosts_are_refused() {
    let gateway = match Gateway::without_name_servers() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    call.args(["--listen", "127.0.0.1", "--allow", "no-such-host.invalid"]);
    let outcome = job.run(call.args(["gw", "127.0.0.1:1"]));
    assert_eq!(outcome.code, 64, "{outcome:?}");
    assert!(outcome.stderr.contains("--allow"), "{outcome:?}");
}

/// Goal: a job of several nodes, or a licfwd outside of its job, hears once
/// which host alone can use the tunnel; a job of one node hears nothing.
#[test]
fn jobs_of_several_nodes_are_told() {
    let site = Site::new();
    let job = &site.job;
    let nodes = job.directory().write("nodes", "n1\nn1\nn2\n");
    let node = job.directory().write("node", "n1\nn1\n");
    let [nodes, node] = [&nodes, &node].map(|file| file.to_str().expect("a name"));
    let cases: [(bool, &[(&str, &str)]); 7] = [
        (true, &[("SLURM_JOB_NUM_NODES", "2"), ("SLURMD_NODENAME", "n1")]),
        (true, &[("PBS_NODEFILE", nodes)]),
        (true, &[("LSB_HOSTS", "n1 n1 n2")]),
        (true, &[("SLURM_JOB_ID", "7"), ("SLURM_JOB_NUM_NODES", "1")]),
        (false, &[("SLURM_JOB_ID", "7"), ("SLURM_JOB_NUM_NODES", "1"), ("SLURMD_NODENAME", "n1")]),
        (false, &[("PBS_NODEFILE", node)]),
        (false, &[("LSB_HOSTS", "n1 n1")]),
    ];
    let name = job.run(job.command("uname").arg("-n")).stdout;
    for (told, environment) in cases {
        let mut call = site.call(&[]);
        let outcome = job.run(call.envs(environment.iter().copied()));
        outcome.port("MLM_LICENSE_FILE");
        let lines = outcome.stderr.lines().count();
        assert_eq!(lines, usize::from(told), "{environment:?}: {outcome:?}");
        if told {
            assert!(outcome.stderr.contains(name.trim()), "{outcome:?}");
            assert!(outcome.stderr.contains("--listen"), "{outcome:?}");
        }
    }
}
