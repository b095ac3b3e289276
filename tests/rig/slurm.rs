//! A real Slurm, thrown away afterwards: its one node is this machine, or each is
//! a namespace of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::nodes::{Nodes, address};
use super::programs::missing;
use super::{Job, LIMIT, Outcome, Running, free_port, process, wait_until};

/// What it consists of (Debian: slurmctld, slurmd, slurm-client, munge).
const PROGRAMS: [&str; 8] =
    ["munged", "slurmctld", "slurmd", "sinfo", "sbatch", "srun", "scancel", "scontrol"];

/// munged, slurmctld and slurmd in a directory of their own: nothing in /etc,
/// /run or /var is read or written. They are ended on drop, with every step.
pub struct Slurm {
    daemons: Vec<Running>,
    /// The daemons' directory, and their environment.
    home: Job,
    /// Where they run, if not on this machine itself.
    nodes: Option<Nodes>,
    /// The machine of slurmctld, and of the commands.
    head: Machine,
}

#[derive(Clone)]
struct Machine {
    /// Its place among the namespaces.
    number: usize,
    name: String,
    address: String,
}

impl Slurm {
    /// Why this machine cannot run it, if so.
    pub fn obstacle() -> Option<String> {
        if !process::is_root() {
            return Some("only root can run slurmd".into());
        }
        let missing = missing(&PROGRAMS);
        (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
    }

    /// Starts it; when this returns, its node takes jobs of every user.
    pub fn start() -> Slurm {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
        let here = Machine {
            number: 0,
            name: name.trim().split('.').next().unwrap_or_default().into(),
            address: "127.0.0.1".into(),
        };
        Slurm::start_on(Job::new(), None, here.clone(), vec![here])
    }

    /// Starts it with these nodes, and with the machine `head`, which takes no
    /// jobs and comes after them; `None`, and said aloud, where that cannot be.
    pub fn start_with_nodes(names: &[&str], head: &str) -> Option<Slurm> {
        let home = Job::new();
        let names = [names, &[head]].concat();
        let nodes = Nodes::start(&home, &names)?;
        let machine = |(number, name): (usize, &&str)| Machine {
            number,
            name: (*name).into(),
            address: address(number),
        };
        let mut workers: Vec<Machine> = names.iter().enumerate().map(machine).collect();
        let head = workers.pop().expect("the head");
        Some(Slurm::start_on(home, Some(nodes), head, workers))
    }

    fn start_on(home: Job, nodes: Option<Nodes>, head: Machine, workers: Vec<Machine>) -> Slurm {
        let directory = home.directory();
        // The commands within a job read the configuration, and talk to munged.
        open(directory.path(), 0o711);
        let version = home.run(home.command("slurmd").arg("-V")).stdout;
        let text = configuration(directory.path(), &head, &workers);
        open(&directory.write("slurm.conf", &text), 0o644);
        open(&directory.write("cgroup.conf", cgroups(&version)), 0o644);
        open(&directory.write("plugstack.conf", ""), 0o644);
        directory.write("key-file", &format!("{:032x}", rand::random::<u128>()).repeat(4));
        for name in ["state", "spool"] {
            fs::create_dir(directory.file(name)).expect("create a directory");
        }
        for worker in &workers {
            let spool = format!("spool/{}", worker.name);
            fs::create_dir(directory.file(&spool)).expect("create a directory");
        }
        let mut slurm = Slurm { daemons: Vec::new(), home, nodes, head: head.clone() };
        let file = |name| format!("--{name}={}", slurm.home.directory().file(name).display());
        let munged = ["socket", "key-file", "pid-file", "log-file", "seed-file"].map(file);
        let mut munged: Vec<&str> = munged.iter().map(String::as_str).collect();
        // It would rather have its directory in /run.
        munged.extend(["--foreground", "--force"]);
        // Its socket can be reached from every namespace.
        slurm.run_daemon(&head, "munged", &munged);
        let socket = slurm.home.directory().file("socket");
        wait_until("munged listens", LIMIT, || UnixStream::connect(&socket).is_ok());
        slurm.run_daemon(&head, "slurmctld", &["-D"]);
        for worker in &workers {
            slurm.run_daemon(worker, "slurmd", &["-D"]);
        }
        wait_until("the nodes are idle", LIMIT, || {
            let mut sinfo = slurm.command(&slurm.home, "sinfo");
            let output = sinfo.args(["-h", "-o", "%T"]).output();
            output.expect("run sinfo").stdout == b"idle\n"
        });
        slurm
    }

    /// One of Slurm's programs, or another on its head, in the environment of a job.
    pub fn command(&self, job: &Job, program: &str) -> Command {
        self.command_on(&self.head, job, program)
    }

    fn command_on(&self, machine: &Machine, job: &Job, program: &str) -> Command {
        let mut command = match &self.nodes {
            None => job.command(program),
            Some(nodes) => {
                let mut command = nodes.command(job, machine.number, "env");
                command.arg("-C").arg(job.directory().path()).arg(program);
                command
            }
        };
        command.env("SLURM_CONF", self.home.directory().file("slurm.conf"));
        command
    }

    /// The same run to its end, which must be a good one.
    #[track_caller]
    pub fn run(&self, job: &Job, words: &[&str]) -> Outcome {
        let outcome = job.run(self.command(job, words[0]).args(&words[1..]));
        assert_eq!(outcome.code, 0, "{words:?}: {outcome:?}");
        outcome
    }

    /// The state of a job, such as `COMPLETED`.
    #[track_caller]
    pub fn state(&self, id: &str) -> String {
        let mut scontrol = self.command(&self.home, "scontrol");
        let shown = scontrol.args(["show", "job", id]).output();
        let shown = shown.expect("run scontrol").stdout;
        let shown = String::from_utf8_lossy(&shown);
        let mut words = shown.split_whitespace();
        let state = words.find_map(|word| word.strip_prefix("JobState="));
        state.unwrap_or_else(|| panic!("no job {id}: {shown}")).into()
    }

    fn run_daemon(&mut self, machine: &Machine, program: &str, options: &[&str]) {
        let mut command = self.command_on(machine, &self.home, program);
        self.daemons.push(self.home.spawn(command.args(options)));
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.home.end();
        for daemon in &mut self.daemons {
            wait_until("Slurm's daemons end", LIMIT, || daemon.has_ended());
        }
        // Keepers of steps carry no tag, because they write their titles over
        // it, and would try for good to tell the controller of their job's end.
        wait_until("Slurm's steps end", LIMIT, || {
            let steps = working_in(self.home.directory().path());
            process::signal("KILL", &steps);
            steps.is_empty()
        });
    }
}

/// The processes whose current directory that is.
fn working_in(directory: &Path) -> Vec<u32> {
    let all = process::all().into_iter().map(|process| process.pid);
    let current = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd"));
    all.filter(|pid| current(pid).is_ok_and(|path| path == directory)).collect()
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn configuration(directory: &Path, head: &Machine, workers: &[Machine]) -> String {
    let line = |Machine { name, address, .. }: &Machine| {
        format!("NodeName={name} NodeAddr={address} CPUs=32\n")
    };
    let directory = directory.display();
    let (controller, node) = (free_port(), free_port());
    format!(
        "ClusterName=rig\n\
         SlurmctldHost={}({})\n\
         SlurmctldPort={controller}\n\
         SlurmdPort={node}\n\
         SlurmUser=root\n\
         SlurmdUser=root\n\
         AuthType=auth/munge\n\
         CredType=cred/munge\n\
         AuthInfo=socket={directory}/socket\n\
         StateSaveLocation={directory}/state\n\
         SlurmdSpoolDir={directory}/spool/%n\n\
         SlurmctldPidFile={directory}/slurmctld.pid\n\
         SlurmdPidFile={directory}/slurmd-%n.pid\n\
         PlugStackConfig={directory}/plugstack.conf\n\
         ProctrackType=proctrack/linuxproc\n\
         TaskPlugin=task/none\n\
         JobAcctGatherType=jobacct_gather/none\n\
         AccountingStorageType=accounting_storage/none\n\
         MpiDefault=none\n\
         MailProg=/bin/true\n\
         ReturnToService=2\n\
         KillWait=20\n\
         SchedulerParameters=sched_interval=1,batch_sched_delay=0\n\
         SelectType=select/cons_tres\n\
         SelectTypeParameters=CR_CPU\n\
         SlurmdParameters=config_overrides\n\
         {}\
         PartitionName=rig Nodes=ALL Default=YES\n",
        head.name,
        head.address,
        workers.iter().map(line).collect::<String>()
    )
}

/// Not needed for linuxproc, but slurmd wants to know: old ones cannot do
/// without, and the plugin of the old kind touches nothing unasked.
fn cgroups(version: &str) -> &'static str {
    let number = version.split_whitespace().last().unwrap_or_default();
    let major = number.split('.').next().and_then(|n| n.parse().ok());
    match major {
        Some(24..) => "CgroupPlugin=disabled\n",
        _ => "CgroupPlugin=cgroup/v1\n",
    }
}
