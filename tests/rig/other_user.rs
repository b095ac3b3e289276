//! What another user of this machine needs to call licfwd. Only root can hand it over.

use super::job::{built, over_ssh};
use super::{Gateway, Job};

/// Copies licfwd and the gateway's client files into the job's directory, gives
/// all that lies there to `user`, and returns the beginning of a call,
/// `.../licfwd -F .../ssh_config`.
#[track_caller]
pub fn hand_over(job: &Job, gateway: &Gateway, user: &str) -> String {
    let copy = r#"cp "$0"/* "$2" . &&
        sed -i "s|$0|$PWD|" ssh_config && chown -R "$1": ."#;
    let from = gateway.client().path();
    let mut shell = job.command("sh");
    let outcome = job.run(shell.args(["-c", copy]).arg(from).arg(user).arg(built()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let directory = job.directory().path().display();
    let via = if over_ssh() { " --via ssh" } else { "" };
    format!("{directory}/licfwd{via} -F {directory}/ssh_config")
}
