//! What most tests need: a gateway, a license server behind it, and a job on this side.

use std::process::Command;

use super::job::{built, over_ssh};
use super::{Gateway, Job, LicenseServer, Outcome, Service, Tunnel};

/// A gateway, a license server behind it, and a job on this side.
pub struct Site {
    /// Where licfwd is called.
    pub job: Job,
    /// Where it logs in.
    pub gateway: Gateway,
    /// Where it leads.
    pub server: LicenseServer,
    /// Options of every call.
    pub options: Vec<String>,
}

impl Site {
    /// With seats to check out.
    pub fn new() -> Site {
        Site::behind(Gateway::start())
    }

    /// The same with lines of `sshd_config`.
    pub fn with(sshd_lines: &[&str]) -> Site {
        Site::behind(Gateway::with(sshd_lines))
    }

    /// The same behind a gateway of one's own.
    pub fn behind(gateway: Gateway) -> Site {
        Site::of(gateway, Service::CheckOut)
    }

    /// With another license server.
    pub fn serving(service: Service) -> Site {
        Site::of(Gateway::start(), service)
    }

    fn of(gateway: Gateway, service: Service) -> Site {
        Site {
            job: Job::new(),
            gateway,
            server: LicenseServer::start(service),
            options: Vec::new(),
        }
    }

    /// The license server, as the gateway sees it.
    pub fn target(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// `licfwd -F CONFIG OPTIONS gw 127.0.0.1:PORT`.
    pub fn call(&self, options: &[&str]) -> Command {
        let mut call = self.job.licfwd(&self.gateway);
        call.args(&self.options).args(options);
        call.args(["gw", &self.target()]);
        call
    }

    /// Runs that call.
    #[track_caller]
    pub fn run(&self, options: &[&str]) -> Outcome {
        self.job.run(&mut self.call(options))
    }

    /// Runs that call, which must announce the server; returns the local port.
    #[track_caller]
    pub fn brings_up(&self, options: &[&str]) -> u16 {
        self.run(options).port("MLM_LICENSE_FILE")
    }

    /// The same, and ends it.
    #[track_caller]
    pub fn logs_in(&self, options: &[&str]) {
        self.brings_up(options);
        self.job.end();
    }

    /// Runs that call, which must end with `code` and say all of `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, options: &[&str], words: &[&str]) {
        self.run(options).fails(code, words);
    }

    /// A script for a shell, with `ssh_config` in `$CONFIG` and the server's port
    /// in `$PORT`.
    pub fn script(&self, shell: &str, text: &str) -> Command {
        let port = self.server.port();
        self.job.script(shell, text, &self.gateway, port)
    }

    /// The same, with `licfwd -F CONFIG` in `$LICFWD` and `licfwd -F CONFIG gw TARGET --`
    /// in `$CALL`, for a command, and with a pipe `gate` that nobody opens by itself.
    pub fn calling(&self, shell: &str, text: &str) -> Command {
        self.job.directory().make_pipe("gate");
        // Not by way of a shell, which would change the command's environment.
        let via = if over_ssh() { " --via ssh" } else { "" };
        let config = self.gateway.config();
        let licfwd = format!("{}{via} -F {}", built().display(), config.display());
        let mut command = self.script(shell, text);
        command.env("CALL", format!("{licfwd} gw {} --", self.target()));
        command.env("LICFWD", licfwd);
        command
    }

    /// A tunnel in a job of its own.
    #[track_caller]
    pub fn tunnel(&self, options: &[&str]) -> Tunnel {
        Tunnel::with(&self.gateway, self.server.port(), options)
    }

    /// How many have come to the gateway.
    pub fn connections(&self) -> usize {
        self.gateway.log().matches("Connection from ").count()
    }
}
