//! A tunnel that serves: licfwd in the background of a job of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Gateway, Job, LIMIT, job::port_of, process, wait_until};

/// A licfwd that has announced its ports. It watches nothing and ends with
/// this value.
pub struct Tunnel {
    job: Job,
    /// What it announced: name, port.
    ports: Vec<(String, u16)>,
    pid: u32,
}

impl Tunnel {
    /// To a license server on a port of the gateway's machine.
    #[track_caller]
    pub fn start(gateway: &Gateway, server: u16) -> Tunnel {
        Tunnel::with(gateway, server, &[])
    }

    /// The same with further options.
    #[track_caller]
    pub fn with(gateway: &Gateway, server: u16, options: &[&str]) -> Tunnel {
        let target = format!("127.0.0.1:{server}");
        Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(gateway);
            command.args(options).args(["gw", &target]);
            command
        })
    }

    /// Whatever the command is: `--no-watch --log FILE` are added to it.
    #[track_caller]
    pub fn of(job: Job, command: impl FnOnce(&Job) -> Command) -> Tunnel {
        let mut command = command(&job);
        command.arg("--no-watch").arg("--log").arg(log_file(&job));
        let outcome = job.run(&mut command);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let line = outcome.line().strip_prefix("export ");
        let ports = line.unwrap_or_default().split(' ').map(|word| {
            let (name, value) = word.split_once('=').expect("NAME=PORT@localhost");
            (name.to_owned(), port_of(value))
        });
        let ports = ports.collect();
        let pid = job.daemon();
        let tunnel = Tunnel { job, ports, pid };
        // By then it has let go of what it announced itself with. (Some have a log
        // that is no file.)
        if log_file(&tunnel.job).is_file() {
            tunnel.wait_for_log("started: ", 1);
        }
        tunnel
    }

    /// Its first port.
    pub fn port(&self) -> u16 {
        self.ports[0].1
    }

    /// The port that a variable names.
    pub fn port_of(&self, name: &str) -> u16 {
        let found = self.ports.iter().find(|(known, _)| known == name);
        found.expect("an announced variable").1
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The job that it was started in.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(log_file(&self.job)).unwrap_or_default()
    }

    /// How often a text stands in its log.
    pub fn logged(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Waits until a text stands in its log `times` times.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, times: usize) {
        wait_until(&format!("log: {text}"), LIMIT, || self.logged(text) >= times);
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        process::descriptors(self.pid)
    }

    /// Its resident memory in kB.
    pub fn resident_kb(&self) -> usize {
        process::resident_kb(self.pid)
    }

    /// How often it has gone to sleep so far, all threads together: as often as
    /// it was woken.
    pub fn sleeps(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("its threads");
        let count = |path: PathBuf| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
        };
        tasks.flatten().map(|task| count(task.path())).sum::<u64>()
    }

    /// Processor time that it has used, in hundredths of a second (proc_pid_stat(5)).
    pub fn processor_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("its stat");
        let fields = stat.rsplit_once(')').expect("a name").1;
        let numbers = fields.split_whitespace().skip(11).take(2);
        numbers.map(|n| n.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- licfwd's log\n{}", self.log());
        }
    }
}

fn log_file(job: &Job) -> PathBuf {
    job.directory().file("licfwd.log")
}
