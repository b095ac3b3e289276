//! The tunnel in a real Slurm: it serves its job, and nothing of it is left after that.

use crate::rig::job::over_ssh;
use crate::rig::nodes::{address, way_out};
use crate::rig::other_user::hand_over;
use crate::rig::slurm::Slurm;
use crate::rig::traffic::{ASK, CLOSED};
use crate::rig::{
    Job, LIMIT, LicenseServer, Promise, Service, Site, eventually, long, process, skip, wait_until,
};
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::time::{Duration, Instant};

/// How soon the tunnel must be gone after its job.
const GONE: Promise = Promise::seconds(10);
/// slurmctld looks every 30 s whose time is over.
const TIME_LIMIT: Duration = Duration::from_secs(150);

/// A job script: checks a license out, says so, and goes on with its work.
const SCRIPT: &str = r#"#!/bin/bash
eval $($CALL) || exit
exec 3<>/dev/tcp/localhost/${MLM_LICENSE_FILE%@*}
echo "CHECKOUT MATLAB" >&3
read -r answer <&3
echo "$answer"
"#;

/// Goal: the tunnel lives as long as its job or step. All jobs share a Slurm,
/// because a time limit takes it half a minute to see.
#[test]
fn tunnel_lives_with_its_slurm_job() {
    if let Some(reason) = Slurm::obstacle() {
        skip!("{reason}");
    }
    let cluster = Cluster::of(Slurm::start());
    let scripts = [
        ("expired", format!("{SCRIPT}sleep 600")),
        ("expired-command", with_command("exec sleep 600")),
    ];
    // Once is enough: TERM and KILL come as they do to cancelled jobs, over ssh as well.
    let some = if over_ssh() && !long() { &[] } else { &scripts[..] };
    let expired: Vec<_> = some.iter().map(|(name, text)| cluster.submit(name, text)).collect();
    for expired in &expired {
        // Less than a minute cannot be asked for, but set.
        expired.prints("GRANTED");
        let id = format!("JobId={}", expired.id);
        cluster.run(expired, &["scontrol", "update", &id, "EndTime=now+1"]);
    }

    nothing_is_left_of_a_job(&cluster);
    steps_have_tunnels_of_their_own(&cluster);
    license_lasts_until_the_job_is_killed(&cluster);
    commands_have_tunnels(&cluster);
    for expired in &expired {
        expired.ends_as("TIMEOUT", TIME_LIMIT);
    }
}

/// Goal: whichever way a job ends, it has had its license, and ten seconds
/// later no licfwd of it is left.
fn nothing_is_left_of_a_job(cluster: &Cluster) {
    let cancelled = cluster.submit("cancelled", &format!("{SCRIPT}sleep 600"));
    let killed = cluster.submit("killed", &format!("{SCRIPT}echo $$; exec sleep 600"));
    let completed = cluster.submit("completed", SCRIPT);

    completed.prints("GRANTED");
    completed.ends_as("COMPLETED", LIMIT);

    cancelled.prints("GRANTED");
    cluster.run(&cancelled, &["scancel", &cancelled.id]);
    cancelled.ends_as("CANCELLED", LIMIT);

    let script = || killed.output().lines().nth(1)?.parse().ok();
    wait_until("the script tells its number", LIMIT, || script().is_some());
    process::signal("KILL", &[script().expect("a number")]);
    killed.ends_as("FAILED", LIMIT);
}

/// Goal: a step that calls licfwd ends although the tunnel goes on, and a
/// tunnel called in a step or by its TaskProlog serves that step.
fn steps_have_tunnels_of_their_own(cluster: &Cluster) {
    let work = SCRIPT.split_once("|| exit\n").expect("the call").1;
    let script = format!(
        r#"#!/bin/bash
cat >work <<'END'
{work}END
echo '#!/bin/sh
      exec $CALL --watch $SLURM_TASK_PID' >prolog
chmod +x prolog
srun $CALL >passing || exit
srun $CALL --no-watch --pid-var PID >line || exit
. ./line; kill $PID && echo "step ended, tunnel not" || exit
srun bash -c 'eval $($CALL) || exit; . ./work' || exit
srun --task-prolog=$PWD/prolog bash ./work"#
    );
    let steps = cluster.submit("steps", &script);
    steps.ends_as("COMPLETED", LIMIT);
    let output = steps.output();
    assert!(output.starts_with("step ended, tunnel not\n"), "{steps}");
    assert_eq!(output.matches("GRANTED").count(), 2, "{steps}");
}

/// Goal: a client that uses the time between TERM and KILL to save its work is
/// served to the end of it.
fn license_lasts_until_the_job_is_killed(cluster: &Cluster) {
    let echo = LicenseServer::start(Service::Echo);
    let script = format!(
        r#"#!/bin/bash
eval $($CALL MORE=127.0.0.1:{}) || exit
exec 3<>/dev/tcp/localhost/${{MORE%@*}}
save() {{
    for step in 1 2 3; do
        sleep 1
        echo "saved $step" >&3
        head -n 1 <&3
    done
    exit
}}
trap save TERM
echo READY
sleep 600 & wait"#,
        echo.port()
    );
    let saving = cluster.submit("saving", &script);
    saving.prints("READY");
    cluster.run(&saving, &["scancel", "--full", &saving.id]);
    saving.ends_as("CANCELLED", LIMIT);
    assert_eq!(saving.output(), "READY\nsaved 1\nsaved 2\nsaved 3\n");
}

/// A job script whose command checks a license out, and then does `rest`.
fn with_command(rest: &str) -> String {
    let work = SCRIPT.split_once("|| exit\n").expect("the call").1;
    format!("#!/bin/bash\ncat >work <<'END'\n{work}{rest}\nEND\nexec $CALL -- bash ./work")
}

/// Goal: a job or a step whose command has a tunnel leaves nothing of it, whichever way it
/// ends; with `srun licfwd` each task has one of its own, with `licfwd -- srun` all of
/// this node's tasks have one.
fn commands_have_tunnels(cluster: &Cluster) {
    let cancelled = cluster.submit("cancelled-command", &with_command("sleep 600"));
    let killed = cluster.submit("killed-command", &with_command("echo $$; exec sleep 600"));
    let completed = cluster.submit("completed-command", &with_command("exit 0"));
    let failed = cluster.submit("failed-command", &with_command("exit 7"));

    completed.prints("GRANTED");
    completed.ends_as("COMPLETED", LIMIT);
    failed.prints("GRANTED");
    failed.ends_as("FAILED", LIMIT);
    cancelled.prints("GRANTED");
    cluster.run(&cancelled, &["scancel", &cancelled.id]);
    cancelled.ends_as("CANCELLED", LIMIT);
    let script = || killed.output().lines().nth(1)?.parse().ok();
    wait_until("the script tells its number", LIMIT, || script().is_some());
    process::signal("KILL", &[script().expect("a number")]);
    killed.ends_as("FAILED", LIMIT);

    let work = SCRIPT.split_once("|| exit\n").expect("the call").1;
    let script = format!(
        r#"#!/bin/bash
#SBATCH --ntasks=2
cat >work <<'END'
{work}
echo "$1 $MLM_LICENSE_FILE"
END
srun $CALL -- bash ./work each || exit
$CALL -- srun bash ./work all"#
    );
    let orders = cluster.submit("orders", &script);
    orders.ends_as("COMPLETED", LIMIT);
    let output = orders.output();
    assert_eq!(output.matches("GRANTED").count(), 4, "{orders}");
    let values = |word: &str| {
        let mut values: Vec<&str> =
            output.lines().filter_map(|line| line.strip_prefix(word)).collect();
        assert_eq!(values.len(), 2, "{orders}");
        values.dedup();
        values.len()
    };
    assert_eq!((values("each "), values("all ")), (2, 1), "tunnels{orders}");
}

/// Goal: every rank of a job across nodes has its license through the one
/// licfwd on the first, all at once; the machine outside of the job, on the
/// same network, is closed without a byte and logged.
#[test]
fn ranks_on_every_node_check_out() {
    if let Some(reason) = Slurm::obstacle() {
        skip!("{reason}");
    }
    let names = ["node1", "node2", "node3"];
    let Some(slurm) = Slurm::start_with_nodes(&names, "head") else {
        return;
    };
    let cluster = Cluster::of(slurm);
    let ranks = cluster.submit_to_nodes(names.len(), "ranks", RANKS);
    ranks.prints("READY");
    for name in names {
        ranks.prints(&format!("{name} GRANTED"));
    }
    assert_eq!(cluster.site.server.seats(), names.len(), "seats at once{ranks}");
    ranks.job.daemon();

    let served = cluster.site.server.served();
    let output = ranks.output();
    let server = output.lines().next().and_then(|line| line.split_once(' '));
    let (port, host) = server.expect("READY").1.split_once('@').expect("port@host");
    assert_eq!(host, names[0], "uname -n of the first node");
    let mut ask = cluster.slurm.command(&ranks.job, "bash");
    let stranger = ranks.job.run(ask.args(["-c", ASK, host, port]));
    assert_eq!(stranger.stdout, CLOSED, "{stranger:?}");
    assert_eq!(cluster.site.server.served(), served, "the stranger got through");
    let head = address(names.len());
    let refusal = format!("refused a client: host {head} may not use this tunnel");
    wait_until("the refusal is logged", LIMIT, || {
        ranks.job.directory().read("log").contains(&refusal)
    });

    // Whoever opens it from now on goes on at once.
    let end = ranks.job.directory().file("end");
    let opened = File::options().read(true).write(true).open(end);
    let _end = opened.expect("open the pipe");
    ranks.ends_as("COMPLETED", LIMIT);
    wait_until("the seats are back", LIMIT, || cluster.site.server.seats() == 0);
}

/// A job script: each rank checks out, and keeps its seat until `end` is opened.
const RANKS: &str = r#"#!/bin/bash
mkfifo end
eval $($CALL --listen 0.0.0.0 --allow "$(scontrol show hostnames)" gw $SERVER) || exit
echo "READY $MLM_LICENSE_FILE"
srun bash -c '
exec 3<>/dev/tcp/${MLM_LICENSE_FILE#*@}/${MLM_LICENSE_FILE%@*} || exit
echo "CHECKOUT MATLAB" >&3
read -r answer <&3 || exit
echo "$(uname -n) $answer"
: <end'
"#;

/// A Slurm, and a site for its jobs.
struct Cluster {
    slurm: Slurm,
    site: Site,
}

/// A job of Slurm's, run by a user who is not root.
struct Submitted<'a> {
    id: String,
    job: Job,
    cluster: &'a Cluster,
}

impl Cluster {
    fn of(slurm: Slurm) -> Cluster {
        Cluster { slurm, site: Site::new() }
    }

    /// Submits a script; `$CALL` in it calls licfwd.
    fn submit(&self, name: &str, script: &str) -> Submitted<'_> {
        let job = Job::new();
        job.directory().write(name, script);
        let user = self.site.gateway.user();
        let call = hand_over(&job, &self.site.gateway, user);
        let call = format!("{call} gw {}", self.site.target());
        self.sbatch(job, &call, &["--uid", user, name])
    }

    /// The same for a job of root's on several nodes, from which only root has
    /// a way to the gateway; `$CALL` waits for options, the gateway and `$SERVER`.
    fn submit_to_nodes(&self, count: usize, name: &str, script: &str) -> Submitted<'_> {
        let job = Job::new();
        job.directory().write(name, script);
        let way = way_out(&self.site.gateway).expect("nodes are possible").replacen('=', " ", 1);
        let config = self.site.gateway.client().read("ssh_config");
        job.directory().write("ssh_config", &format!("{config}{way}\n"));
        let call = "licfwd -F ssh_config --log log";
        let nodes = format!("--nodes={count}");
        let options = [&nodes, "--ntasks-per-node=1", name];
        self.sbatch(job, call, &options)
    }

    fn sbatch(&self, job: Job, call: &str, options: &[&str]) -> Submitted<'_> {
        let mut sbatch = self.slurm.command(&job, "sbatch");
        sbatch.args(["--parsable", "--output=output", "--error=errors"]);
        sbatch.args(options).env("CALL", call);
        sbatch.env("SERVER", self.site.target());
        let outcome = job.run(&mut sbatch);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let id = outcome.line().to_string();
        let cluster = self;
        Submitted { id, job, cluster }
    }

    #[track_caller]
    fn run(&self, submitted: &Submitted<'_>, words: &[&str]) {
        self.slurm.run(&submitted.job, words);
    }
}

impl Submitted<'_> {
    fn output(&self) -> String {
        self.job.directory().read("output")
    }

    /// Waits until it has printed this.
    #[track_caller]
    fn prints(&self, text: &str) {
        let printed = || self.output().contains(text);
        assert!(eventually(LIMIT, printed), "not printed {text:?}{self}");
    }

    /// Waits for its end, and that nothing outlives it for long.
    #[track_caller]
    fn ends_as(&self, state: &str, limit: Duration) {
        let mut last = String::new();
        let ended = eventually(limit, || {
            last = self.cluster.slurm.state(&self.id);
            !["PENDING", "RUNNING", "COMPLETING"].contains(&&*last)
        });
        assert!(ended && last == state, "{last} instead of {state}{self}");
        let start = Instant::now();
        let gone = eventually(GONE.room(), || self.job.processes().is_empty());
        let left: Vec<_> = self.job.processes().into_iter().map(process::look).collect();
        assert!(gone, "left behind: {left:?}{self}");
        GONE.kept("nothing is left", start.elapsed());
    }
}

impl Display for Submitted<'_> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let errors = self.job.directory().read("errors");
        write!(to, "\noutput:\n{}\nerrors:\n{errors}", self.output())
    }
}
