//! What a list of gateways needs: several of them, in one `ssh_config`.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::gateway::NAME;
use super::{Gateway, Job, LicenseServer, Outcome, Scratch, Service, Tunnel};

/// Gateways that are called `g0`, `g1`, ... in one `ssh_config`, each with a port, a key
/// and a host key of its own, and what is called `x0`, `x1`, ... and is none.
pub struct Sites {
    /// In the order of their names.
    pub gateways: Vec<Gateway>,
    /// Behind each of them.
    pub server: LicenseServer,
    /// Where licfwd is called.
    pub job: Job,
    config: Scratch,
}

impl Sites {
    /// Those, and `x0`, `x1`, ... at those ports of 127.0.0.1.
    pub fn new(gateways: Vec<Gateway>, other_ports: &[u16]) -> Sites {
        let config = Scratch::new();
        let of = |(n, gateway): (usize, &Gateway)| {
            let text = fs::read_to_string(gateway.config()).expect("ssh_config");
            text.replace(&format!("Host {NAME}\n"), &format!("Host g{n}\n"))
        };
        let mut text: String = gateways.iter().enumerate().map(of).collect();
        for (n, port) in other_ports.iter().enumerate() {
            text += &format!("Host x{n}\nHostName 127.0.0.1\nPort {port}\n");
        }
        config.write("ssh_config", &text);
        let server = LicenseServer::start(Service::Echo);
        Sites { gateways, server, job: Job::new(), config }
    }

    /// So many that let their user forward everything.
    pub fn of(count: usize) -> Sites {
        Sites::new((0..count).map(|_| Gateway::start()).collect(), &[])
    }

    /// `licfwd -F CONFIG WORDS`.
    pub fn call(&self, job: &Job, words: &[&str]) -> Command {
        let mut call = job.licfwd(&self.gateways[0]);
        call.arg("-F").arg(self.config.file("ssh_config")).args(words);
        call
    }

    /// `licfwd -F CONFIG WORDS 127.0.0.1:PORT`, and ends what has come of it.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Outcome {
        let target = format!("127.0.0.1:{}", self.server.port());
        let outcome = self.job.run(self.call(&self.job, words).arg(target));
        self.job.end();
        outcome
    }

    /// The same, which must announce the server; and how long it took.
    #[track_caller]
    pub fn brings_up(&self, words: &[&str]) -> (Outcome, Duration) {
        let begin = Instant::now();
        let outcome = self.run(words);
        outcome.port("MLM_LICENSE_FILE");
        (outcome, begin.elapsed())
    }

    /// A tunnel in a job of its own.
    #[track_caller]
    pub fn tunnel(&self, words: &[&str]) -> Tunnel {
        let target = format!("127.0.0.1:{}", self.server.port());
        Tunnel::of(Job::new(), |job| {
            let mut call = self.call(job, words);
            call.arg(&target);
            call
        })
    }

    /// Those who have a session of the tunnel's.
    pub fn serving(&self) -> Vec<usize> {
        let serves = |n: &usize| !self.gateways[*n].sessions().is_empty();
        (0..self.gateways.len()).filter(serves).collect()
    }
}
