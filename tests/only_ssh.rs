//! Gateways that `ssh` can enter and libssh2 cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::kerberos::Kerberos;
use crate::rig::traffic::check_out;
use crate::rig::{Gateway, Job, LicenseServer, Service, certified, hostbased, skip};

/// Every OpenSSH since 8.5 has it, and libssh2 has not.
const KEY_EXCHANGE: &str = "sntrup761x25519-sha512@openssh.com";

/// Goal: a gateway that trusts the node instead of a key.
#[test]
fn hostbased_login() {
    match hostbased::gateway() {
        Ok(gateway) => Site::new(&gateway).only_ssh_enters(77, "hostbased"),
        Err(why) => skip!("{why}"),
    }
}

/// Goal: a gateway that wants a Kerberos ticket.
#[test]
fn gssapi_login() {
    match Kerberos::start() {
        Ok(kerberos) => Site::new(kerberos.gateway()).only_ssh_enters(77, "gssapi"),
        Err(why) => skip!("{why}"),
    }
}

/// Goal: a gateway whose key nobody knows, only the authority that signed it.
#[test]
fn host_certificate() {
    Site::new(&certified::gateway()).only_ssh_enters(76, "host key");
}

/// Goal: a gateway that shakes hands in one way only, which libssh2 lacks.
#[test]
fn key_exchange() {
    match post_quantum() {
        Ok(gateway) => Site::new(&gateway).only_ssh_enters(78, "key exchange"),
        Err(why) => skip!("{why}"),
    }
}

/// Goal: the last two behind a hop that libssh2 could enter.
#[test]
fn behind_a_hop() {
    let (hop, certified) = (Gateway::start(), certified::gateway());
    let exchange = match post_quantum() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    for (gateway, code, word) in [
        (&certified, 76, "host key"),
        (&exchange, 78, "key exchange"),
    ] {
        let mut site = Site::new(gateway);
        site.go_through(&[("hop", &hop)]);
        site.only_ssh_enters(code, word);
    }
    assert!(hop.log().contains("Accepted publickey"), "{}", hop.log());
}

/// Goal: both as hops, on the way to a gateway that libssh2 can enter.
#[test]
fn as_hops() {
    let (one, gateway) = (certified::gateway(), Gateway::start());
    let two = match post_quantum() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    let mut site = Site::new(&gateway);
    site.go_through(&[("one", &one), ("two", &two)]);
    for via in ["", "auto", "ssh", "libssh2"] {
        site.serves(via);
    }
}

fn post_quantum() -> Result<Gateway, String> {
    let known = Command::new("ssh").args(["-Q", "kex"]).output();
    let known = known.expect("run ssh").stdout;
    match String::from_utf8_lossy(&known).contains(KEY_EXCHANGE) {
        true => Ok(Gateway::with(&[&format!("KexAlgorithms {KEY_EXCHANGE}")])),
        false => Err(format!("ssh knows no {KEY_EXCHANGE}")),
    }
}

/// A gateway, and a license server behind it.
struct Site<'a> {
    gateway: &'a Gateway,
    /// The `ssh_config`, in which it is called `gw`.
    config: PathBuf,
    server: LicenseServer,
}

impl Site<'_> {
    fn new(gateway: &Gateway) -> Site<'_> {
        Site {
            gateway,
            config: gateway.config(),
            server: LicenseServer::start(Service::CheckOut),
        }
    }

    /// From now on the way to the gateway leads through these, by ProxyJump.
    fn go_through(&mut self, hops: &[(&str, &Gateway)]) {
        let read = |path: &Path| fs::read_to_string(path).expect("ssh_config");
        let names: Vec<&str> = hops.iter().map(|(name, _)| *name).collect();
        let mut text = format!("Host gw\nProxyJump {}\n", names.join(","));
        for (name, hop) in hops {
            text += &read(&hop.config()).replace("Host gw\n", &format!("Host {name}\n"));
        }
        text += &read(&self.gateway.config());
        self.config = self.gateway.client().write("with_hops", &text);
    }

    /// Both forms that leave the choice to licfwd bring up a tunnel that serves,
    /// as does `ssh`; libssh2 fails with `code`, says why, and names the other way.
    #[track_caller]
    fn only_ssh_enters(&self, code: i32, word: &str) {
        self.ssh_enters();
        for via in ["", "auto", "ssh"] {
            self.serves(via);
        }
        let job = Job::new();
        let outcome = job.run(&mut self.call(&job, "libssh2"));
        assert_eq!(outcome.code, code, "{outcome:?}");
        assert_eq!(outcome.stdout, format!("(exit {code})\n"), "{outcome:?}");
        for word in [word, "ssh"] {
            assert!(outcome.stderr.contains(word), "no {word:?}: {outcome:?}");
        }
        assert!(job.processes().is_empty(), "{outcome:?}");
    }

    /// What the user has today: else the gateway is at fault, not licfwd.
    #[track_caller]
    fn ssh_enters(&self) {
        let job = Job::new();
        let mut ssh = job.client("ssh", self.gateway);
        ssh.arg("-F").arg(&self.config);
        ssh.args(["-o", "BatchMode=yes", "-W", &self.target(), "gw"]);
        let outcome = job.run(&mut ssh);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }

    #[track_caller]
    fn serves(&self, via: &str) {
        let job = Job::new();
        let outcome = job.run(&mut self.call(&job, via));
        assert_eq!(outcome.code, 0, "--via {via:?}: {outcome:?}");
        let port = outcome.port("MLM_LICENSE_FILE");
        check_out(port, "MATLAB").expect("a seat");
    }

    /// licfwd by that transport, or by none in particular.
    fn call(&self, job: &Job, via: &str) -> Command {
        let mut call = job.client(crate::rig::job::licfwd(), self.gateway);
        call.arg("-F").arg(&self.config);
        if !via.is_empty() {
            call.args(["--via", via]);
        }
        call.args(["gw", &self.target()]);
        call
    }

    fn target(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }
}
