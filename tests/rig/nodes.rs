//! Machines of a cluster: namespaces of this one, each with its own name,
//! address and loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{Gateway, Job, LIMIT, Running, process, say_skipped, wait_until};

/// Nodes on one network, 10.77.0.1 and up, which know each other by name. They
/// vanish with the job's processes.
pub struct Nodes {
    nodes: Vec<Running>,
}

/// What a node lives as long as. Its network is made from outside.
const NODE: &str = "mount --bind \"$2\" /etc/hosts && hostname \"$1\" && \
                    ip link set lo up && echo ready && exec sleep 100000";

impl Nodes {
    /// Makes them; `None`, and said aloud, where that is not allowed.
    pub fn start(job: &Job, names: &[&str]) -> Option<Nodes> {
        if !may_make_namespaces() {
            return None;
        }
        let line = |(n, name): (usize, &&str)| format!("{} {name}\n", address(n));
        let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        hosts.extend(names.iter().enumerate().map(line));
        let hosts = job.directory().write("hosts", &hosts);
        // Every user of the nodes reads it.
        fs::set_permissions(&hosts, fs::Permissions::from_mode(0o644)).expect("chmod");
        let start = |name: &&str| {
            let mut node = job.command("unshare");
            node.args(["-num", "sh", "-c", NODE, "node", name]);
            job.spawn(node.arg(&hosts))
        };
        let nodes = Nodes { nodes: names.iter().map(start).collect() };
        for node in &nodes.nodes {
            wait_until("a node starts", LIMIT, || node.stdout() == "ready\n");
        }
        nodes.connect(job);
        Some(nodes)
    }

    /// A program on a node; it starts in `/`.
    pub fn command(&self, job: &Job, node: usize, program: &str) -> Command {
        let mut command = job.command("nsenter");
        let pid = self.nodes[node].pid().to_string();
        command.args(["-n", "-u", "-m", "-t", &pid, program]);
        command
    }

    /// The first node is the switch, too.
    fn connect(&self, job: &Job) {
        let mut text = String::from("set -e; ip link add eth0 type bridge; ip link set eth0 up\n");
        for (n, node) in self.nodes.iter().enumerate().skip(1) {
            text += &format!(
                "ip link add port{n} type veth peer name eth0 netns {pid}\n\
                 ip link set port{n} master eth0 up\n\
                 nsenter -n -t {pid} ip address add {address}/24 dev eth0\n\
                 nsenter -n -t {pid} ip link set eth0 up\n",
                pid = node.pid(),
                address = address(n)
            );
        }
        text += &format!("ip address add {}/24 dev eth0\n", address(0));
        let mut call = self.command(job, 0, "sh");
        let outcome = job.run(call.args(["-c", &text]));
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
}

/// A node's address.
pub fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

/// The option for licfwd and ssh that leads from any node to the gateway, which
/// listens where the tests run; `None`, and said aloud, where that cannot be.
pub fn way_out(gateway: &Gateway) -> Option<String> {
    if !may_make_namespaces() {
        return None;
    }
    let (here, port) = (std::process::id(), gateway.port());
    Some(format!("ProxyCommand=nsenter --net=/proc/{here}/ns/net nc 127.0.0.1 {port}"))
}

fn may_make_namespaces() -> bool {
    let test = "unshare -num true && command -v ip nsenter nc";
    let works = || {
        let output = Command::new("sh").args(["-c", test]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let root = process::is_root();
    let may = root && works();
    if !may {
        say_skipped(match root {
            true => "nodes need namespaces, unshare, nsenter, ip and nc",
            false => "only root can make nodes",
        });
    }
    may
}
