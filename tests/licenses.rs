//! What sites have: license managers with two ports, triads, several servers
//! and several variables.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Instant;

use crate::rig::flexnet::{FlexNet, check_out, exports};
use crate::rig::license_server::RefusingPort;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Outcome, Promise, Service, free_pair, free_port, traffic,
    wait_until,
};

/// Goal: a seat behind `host:port+vendor` is checked out and given back. The
/// first port has a number of its own here, the second keeps its own.
#[test]
fn vendor_port_keeps_its_number() {
    let (gateway, servers) = (Gateway::start(), Servers::new(1));
    let job = Job::new();
    let outcome = servers.call(&job, &gateway, &[&format!("LIC={}", servers.server(0))]);
    let value = only_export(&outcome, "LIC");
    let (port, host) = value.split_once('@').expect("port@host");
    assert_eq!((host, outcome.stderr.as_str()), ("localhost", ""));
    assert_ne!(port, servers.ports.0.to_string());

    let (vendor, seat) = check_out(&value, "ansys").expect("a seat");
    assert_eq!(vendor.port(), servers.ports.1);
    assert!(vendor.ip() != servers.address(0), "not through the tunnel");
    assert_eq!(servers.server(0).seats(), 1);
    drop(seat);
    wait_until("the seat is back", LIMIT, || servers.server(0).seats() == 0);
}

/// Goal: two jobs on one node need the same number; the second one is told an
/// address of its own, and each gets its seat.
#[test]
fn two_jobs_share_a_vendor_port() {
    let (gateway, servers) = (Gateway::start(), Servers::new(1));
    let target = format!("LIC={}", servers.server(0));
    let jobs = [Job::new(), Job::new()];
    let outcomes = jobs.each_ref().map(|job| servers.call(job, &gateway, &[&target]));
    let [first, second] = outcomes.each_ref().map(|o| only_export(o, "LIC"));
    assert_eq!(outcomes[0].stderr, "");
    assert!(first.ends_with("@localhost"), "{first}");
    let address = servers.moved(&second);
    let note = format!(
        "licfwd: port {} is taken on this node: license server {} is at {address} here instead of localhost; nothing has to be done\n",
        servers.ports.1,
        servers.name(0),
    );
    assert_eq!(outcomes[1].stderr, note);

    let seats = [&first, &second].map(|value| check_out(value, "ansys").expect("a seat"));
    assert_eq!(seats.map(|(_, seat)| seat.number), [1, 2]);
}

/// Goal: two servers of one licfwd with the same vendor port do not collide
/// either: the second one moves.
#[test]
fn two_targets_share_a_vendor_port() {
    let (gateway, servers) = (Gateway::start(), Servers::new(2));
    let targets = [format!("A={}", servers.server(0)), format!("B={}", servers.server(1))];
    let job = Job::new();
    let outcome = servers.call(&job, &gateway, &[&targets[0], &targets[1]]);
    let values = exports(outcome.line());
    assert!(values["A"].ends_with("@localhost"), "{outcome:?}");
    servers.moved(&values["B"]);
    for (number, name) in ["A", "B"].into_iter().enumerate() {
        let (_vendor, _seat) = check_out(&values[name], "ansys").expect(name);
        assert_eq!(servers.server(number).seats(), 1, "{name}");
    }
}

/// Goal: a triad with a dead server is announced with a warning that names it,
/// and the software gets its seat from another.
#[test]
fn triad_with_a_dead_server() {
    let (gateway, mut servers) = (Gateway::start(), Servers::new(3));
    let target = format!("LIC={}", servers.triad());
    let dead = servers.name(0);
    servers.all[0] = None;
    let job = Job::new();
    let outcome = servers.call(&job, &gateway, &[&target]);
    let value = only_export(&outcome, "LIC");
    let parts: Vec<&str> = value.split(',').collect();
    let &[first, second, third] = parts.as_slice() else {
        panic!("no triad: {value}");
    };
    assert!(first.ends_with("@localhost"), "{value}");
    assert_ne!(servers.moved(second), servers.moved(third));
    let warning = format!("licfwd: warning: license server {dead} cannot be reached");
    assert!(outcome.stderr.contains(&warning), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 3, "{outcome:?}");

    let (vendor, _seat) = check_out(&value, "ansys").expect("a seat");
    assert!(second.ends_with(&vendor.ip().to_string()), "{vendor}");
    assert_eq!(servers.server(1).seats(), 1);
}

/// Goal: a triad without a living server is no license server: 69, naming all.
#[test]
fn triad_of_the_dead() {
    let (gateway, mut servers) = (Gateway::start(), Servers::new(3));
    let target = format!("LIC={}", servers.triad());
    let names: Vec<String> = (0..3).map(|n| servers.name(n)).collect();
    servers.all.fill_with(|| None);
    let job = Job::new();
    let outcome = servers.call(&job, &gateway, &["--tries", "2", &target]);
    assert_eq!(outcome.code, 69, "{outcome:?}");
    assert_eq!(outcome.line(), "(exit 69)");
    let last = outcome.stderr.lines().last().unwrap_or_default();
    assert!(names.iter().all(|name| last.contains(name)), "{last}");
    job.wait_until_empty();
}

/// Goal: FlexNet knows one server or three; two are probably a mistake.
#[test]
fn two_servers_are_no_triad() {
    let (gateway, servers) = (Gateway::start(), Servers::new(2));
    let target = format!("LIC={},{}", servers.server(0), servers.server(1));
    let job = Job::new();
    let outcome = servers.call(&job, &gateway, &[&target]);
    let value = only_export(&outcome, "LIC");
    assert_eq!(value.split(',').count(), 2, "{value}");
    assert!(outcome.stderr.contains("licfwd: warning: LIC:"), "{outcome:?}");
    assert!(outcome.stderr.contains("three"), "{outcome:?}");
}

/// Goal: independent servers of one variable are joined by colons in the order
/// given; one that is dead is told and does not matter.
#[test]
fn independent_servers() {
    let gateway = Gateway::start();
    let alive = LicenseServer::start(Service::CheckOut);
    let dead = RefusingPort::new();
    let ports = [dead.port(), alive.port()];
    let targets = ports.map(|port| format!("A=127.0.0.1:{port}"));
    let job = Job::new();
    let outcome = job.run(job.licfwd(&gateway).arg("gw").args(&targets));
    let value = only_export(&outcome, "A");
    let (first, second) = value.split_once(':').expect("two servers");
    let ports = [first, second].map(crate::rig::job::port_of);
    let warning = format!("warning: license server 127.0.0.1:{}", dead.port());
    assert!(outcome.stderr.contains(&warning), "{outcome:?}");
    assert!(traffic::check_out(ports[0], "f").is_err());
    traffic::check_out(ports[1], "f").expect("a seat");
}

/// Goal: several variables, a fixed port and the process id in one call, and
/// one line for all of them in the order given.
#[test]
fn several_variables_in_one_line() {
    let gateway = Gateway::start();
    let servers: Vec<LicenseServer> =
        (0..3).map(|_| LicenseServer::start(Service::CheckOut)).collect();
    let address = |n: usize| format!("127.0.0.1:{}", servers[n].port());
    let fixed = free_port();
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    call.args(["-L", &format!("{fixed}:{}", address(2))]);
    call.args(["--pid-var", "LICFWD_PID", "gw", &address(0)]);
    let outcome = job.run(call.arg(format!("RLM_LICENSE={}", address(1))));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));

    let values = exports(outcome.line());
    let [matlab, rlm] = ["MLM_LICENSE_FILE", "RLM_LICENSE"].map(|name| &values[name]);
    let line =
        format!("export MLM_LICENSE_FILE={matlab} RLM_LICENSE={rlm} LICFWD_PID={}\n", job.daemon());
    assert_eq!(outcome.stdout, line);
    let ports = [matlab, rlm].map(|value| crate::rig::job::port_of(value));
    for (n, port) in ports.into_iter().chain([fixed]).enumerate() {
        let _seat = traffic::check_out(port, "f").expect("a seat");
        assert_eq!(servers[n].seats(), 1, "{port}");
    }
}

/// Goal: all or nothing. A variable without a living server, or a fixed port
/// that is taken, spoils the others: no export, no process, no bound port.
#[test]
fn all_or_nothing() {
    let (gateway, servers) = (Gateway::start(), Servers::new(1));
    let good = format!("A={}", servers.server(0));
    let dead = RefusingPort::new();
    let dead = format!("B=127.0.0.1:{}", dead.port());
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = taken.local_addr().expect("address").port();
    let forward = format!("{taken}:127.0.0.1:1");
    let calls: [(i32, &[&str]); 2] =
        [(69, &["--tries", "1", "gw", &good, &dead]), (73, &["-L", &forward, "gw", &good])];
    for (code, arguments) in calls {
        let job = Job::new();
        let outcome = job.run(job.licfwd(&gateway).args(arguments));
        assert_eq!(outcome.code, code, "{outcome:?}");
        assert_eq!(outcome.line(), format!("(exit {code})"));
        job.wait_until_empty();
        TcpListener::bind(("127.0.0.1", servers.ports.1)).expect("the vendor port is free again");
    }
}

/// Goal: a kept port that is taken on every address is 73 and named, before
/// any login.
#[test]
fn kept_port_taken_everywhere() {
    let gateway = Gateway::start();
    let other = TcpListener::bind("0.0.0.0:0").expect("bind");
    let taken = other.local_addr().expect("address").port();
    let job = Job::new();
    let target = format!("127.0.0.1:1+{taken}");
    let outcome = job.run(job.licfwd(&gateway).args(["gw", &target]));
    assert_eq!(outcome.code, 73, "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("port {taken}")), "{outcome:?}");
    assert!(!gateway.log().contains("Connection from"));
}

/// Goal: ports that the administrator reserves are never drawn, and cost no
/// try where they are nearly all.
#[test]
fn reserved_ports_are_avoided() {
    // A network of our own may have reservations of its own.
    let script = "echo 1024-59000,59300-65535 >/proc/sys/net/ipv4/ip_local_reserved_ports &&
        ip link set lo up && exec licfwd \"$@\"";
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let Some(way) = crate::rig::nodes::way_out(&gateway) else {
        return;
    };
    let mut call = job.command("unshare");
    call.args(["-n", "sh", "-c", script, "licfwd", "-F"]);
    call.arg(gateway.config()).args(["-o", &way, "gw"]);
    let outcome = job.run(call.arg(format!("127.0.0.1:{}", server.port())));
    let port = outcome.port("MLM_LICENSE_FILE");
    assert!((59_001..59_300).contains(&port), "{port}");
}

/// Goal: a probe that fails costs no further login, and a server that comes up
/// meanwhile is found.
#[test]
fn server_comes_up_while_it_is_tried() {
    let (gateway, mut servers) = (Gateway::start(), Servers::new(1));
    let target = format!("LIC={}", servers.server(0));
    servers.all[0] = None;
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    let running = job.spawn(call.args(["--tries", "50", "gw", &target]));
    wait_until("a try fails", LIMIT, || running.stderr().contains("try 1 of 50 failed"));
    servers.all[0] = Some(FlexNet::start(servers.address(0), servers.ports));
    let outcome = running.wait(LIMIT);
    check_out(&only_export(&outcome, "LIC"), "ansys").expect("a seat");
    assert_eq!(gateway.log().matches("Accepted publickey").count(), 1);
}

/// Goal: one server that swallows packets does not keep the clients of another
/// waiting, though both share a licfwd.
#[test]
fn servers_do_not_wait_for_each_other() {
    let gateway = Gateway::start();
    let swallowing = crate::rig::license_server::SwallowingPort::new();
    let alive = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let mut call = job.licfwd(&gateway);
    call.args(["--timeout", "1", "gw"]);
    call.arg(format!("A=127.0.0.1:{}", swallowing.port()));
    let outcome = job.run(call.arg(format!("A=127.0.0.1:{}", alive.port())));
    let value = only_export(&outcome, "A");
    let (first, second) = value.split_once(':').expect("two servers");
    let [dead, good] = [first, second].map(crate::rig::job::port_of);
    let _stuck = std::net::TcpStream::connect(("127.0.0.1", dead)).expect("the tunnel");
    let start = Instant::now();
    traffic::check_out(good, "f").expect("a seat");
    Promise::seconds(5).kept("a seat", start.elapsed());
}

/// License servers of FlexNet's shape, each on an address of its own, all on
/// the same two ports.
struct Servers {
    network: u8,
    ports: (u16, u16),
    all: Vec<Option<FlexNet>>,
}

impl Servers {
    /// Addresses where licfwd itself binds nothing: it is on the same machine.
    fn new(count: u8) -> Servers {
        let mut servers =
            Servers { network: rand::random_range(1..=255), ports: free_pair(), all: Vec::new() };
        for number in 0..count {
            let server = FlexNet::start(servers.address(number.into()), servers.ports);
            servers.all.push(Some(server));
        }
        servers
    }

    fn address(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.network, 10 + number as u8)
    }

    fn server(&self, number: usize) -> Named<'_> {
        Named(self, number)
    }

    /// How licfwd calls that server in messages.
    fn name(&self, number: usize) -> String {
        format!("{}:{}", self.address(number), self.ports.0)
    }

    fn triad(&self) -> String {
        format!("{},{},{}", self.server(0), self.server(1), self.server(2))
    }

    fn call(&self, job: &Job, gateway: &Gateway, arguments: &[&str]) -> Outcome {
        let mut call: Command = job.licfwd(gateway);
        let (options, targets) = match arguments {
            ["--tries", n, rest @ ..] => (vec!["--tries", n], rest),
            rest => (vec![], rest),
        };
        job.run(call.args(options).arg("gw").args(targets))
    }

    /// The address of a server that has left localhost, under its own number.
    #[track_caller]
    fn moved(&self, value: &str) -> Ipv4Addr {
        let address = value.strip_prefix(&format!("{}@", self.ports.0));
        let address: Ipv4Addr = address.expect("its own port").parse().expect("an address");
        let [first, second, ..] = address.octets();
        assert!(first == 127 && second != 0, "{address}");
        address
    }
}

/// One of them; it prints as it stands in a target.
struct Named<'a>(&'a Servers, usize);

impl Named<'_> {
    fn seats(&self) -> usize {
        let server = self.0.all[self.1].as_ref();
        server.map_or(0, |server| server.vendor.seats())
    }
}

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (port, vendor) = self.0.ports;
        write!(f, "{}:{port}+{vendor}", self.0.address(self.1))
    }
}

#[track_caller]
fn only_export(outcome: &Outcome, name: &str) -> String {
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let mut exports = exports(outcome.line());
    assert_eq!(exports.len(), 1, "{outcome:?}");
    exports.remove(name).expect(name)
}
