//! The tunnel in a real Slurm: it serves its job, and nothing of it is left after that.

use crate::rig::other_user::hand_over;
use crate::rig::slurm::Slurm;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Service, eventually, process, skip, wait_until,
};
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// How soon the tunnel must be gone after its job.
const GONE: Duration = Duration::from_secs(10);
/// slurmctld looks every 30 s whose time is over.
const TIME_LIMIT: Duration = Duration::from_secs(50);

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
    let site = Site::start();
    let expired = site.submit("expired", &format!("{SCRIPT}sleep 600"));
    // Less than a minute cannot be asked for, but set.
    expired.prints("GRANTED");
    let id = format!("JobId={}", expired.id);
    site.run(&expired, &["scontrol", "update", &id, "EndTime=now+1"]);

    nothing_is_left_of_a_job(&site);
    steps_have_tunnels_of_their_own(&site);
    license_lasts_until_the_job_is_killed(&site);
    expired.ends_as("TIMEOUT", TIME_LIMIT);
}

/// Goal: whichever way a job ends, it has had its license, and ten seconds
/// later no licfwd of it is left.
fn nothing_is_left_of_a_job(site: &Site) {
    let cancelled = site.submit("cancelled", &format!("{SCRIPT}sleep 600"));
    let killed = site.submit("killed", &format!("{SCRIPT}echo $$; exec sleep 600"));
    let completed = site.submit("completed", SCRIPT);

    completed.prints("GRANTED");
    completed.ends_as("COMPLETED", LIMIT);

    cancelled.prints("GRANTED");
    site.run(&cancelled, &["scancel", &cancelled.id]);
    cancelled.ends_as("CANCELLED", LIMIT);

    let script = || killed.output().lines().nth(1)?.parse().ok();
    wait_until("the script tells its number", LIMIT, || script().is_some());
    process::signal("KILL", &[script().expect("a number")]);
    killed.ends_as("FAILED", LIMIT);
}

/// Goal: a step that calls licfwd ends although the tunnel goes on, and a
/// tunnel called in a step or by its TaskProlog serves that step.
fn steps_have_tunnels_of_their_own(site: &Site) {
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
    let steps = site.submit("steps", &script);
    steps.ends_as("COMPLETED", LIMIT);
    let output = steps.output();
    assert!(output.starts_with("step ended, tunnel not\n"), "{steps}");
    assert_eq!(output.matches("GRANTED").count(), 2, "{steps}");
}

/// Goal: a client that uses the time between TERM and KILL to save its work is
/// served to the end of it.
fn license_lasts_until_the_job_is_killed(site: &Site) {
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
    let saving = site.submit("saving", &script);
    saving.prints("READY");
    site.run(&saving, &["scancel", "--full", &saving.id]);
    saving.ends_as("CANCELLED", LIMIT);
    assert_eq!(saving.output(), "READY\nsaved 1\nsaved 2\nsaved 3\n");
}

/// A Slurm, and a gateway with a license server behind it.
struct Site {
    slurm: Slurm,
    gateway: Gateway,
    server: LicenseServer,
}

/// A job of Slurm's, run by a user who is not root.
struct Submitted<'a> {
    id: String,
    job: Job,
    site: &'a Site,
}

impl Site {
    fn start() -> Site {
        Site {
            slurm: Slurm::start(),
            gateway: Gateway::start(),
            server: LicenseServer::start(Service::CheckOut),
        }
    }

    /// Submits a script; `$CALL` in it calls licfwd.
    fn submit(&self, name: &str, script: &str) -> Submitted<'_> {
        let job = Job::new();
        job.directory().write(name, script);
        let user = self.gateway.user();
        let call = hand_over(&job, &self.gateway, user);
        let call = format!("{call} gw 127.0.0.1:{}", self.server.port());
        let mut sbatch = self.slurm.command(&job, "sbatch");
        sbatch.args(["--parsable", "--output=output", "--error=errors"]);
        sbatch.args(["--uid", user, name]).env("CALL", call);
        let outcome = job.run(&mut sbatch);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let id = outcome.line().to_string();
        let site = self;
        Submitted { id, job, site }
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
            last = self.site.slurm.state(&self.id);
            !["PENDING", "RUNNING", "COMPLETING"].contains(&&*last)
        });
        assert!(ended && last == state, "{last} instead of {state}{self}");
        let gone = eventually(GONE, || self.job.processes().is_empty());
        let left: Vec<_> = self
            .job
            .processes()
            .into_iter()
            .map(process::look)
            .collect();
        assert!(gone, "left behind: {left:?}{self}");
    }
}

impl Display for Submitted<'_> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let errors = self.job.directory().read("errors");
        write!(to, "\noutput:\n{}\nerrors:\n{errors}", self.output())
    }
}
