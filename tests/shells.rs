//! The statement for csh and fish, and what else the line can say.

use crate::rig::job::port_of;
use crate::rig::traffic::check_out;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Outcome, Service, installed, process, wait_until,
};

/// How shells that are not sh call licfwd; `CALL` stands for the program, its
/// options and operands. Afterwards each shows what its children inherit.
const FORMS: [(&str, &str); 7] = [
    ("tcsh", "eval `CALL` || exit $status\n"),
    ("tcsh", "eval \"`CALL`\" || exit $status\n"),
    ("tcsh", "eval `CALL`\nif ($status) exit $status\n"),
    ("fish", "eval (CALL); or exit $status\n"),
    ("fish", "eval \"$(CALL)\"; or exit $status\n"),
    ("fish", "CALL | source; or exit $status\n"),
    ("fish", "CALL | source\nor exit $status\n"),
];

/// Runs a form with these arguments, and `rest` after it. As a file: tcsh's
/// `-c` goes on with the next line after `exit`.
fn run(
    job: &Job,
    (shell, form): (&str, &str),
    arguments: &str,
    rest: &str,
    environment: (&Gateway, u16),
) -> Outcome {
    let (gateway, port) = environment;
    let syntax = shell.trim_start_matches('t');
    let call = format!("licfwd --shell {syntax} -F $CONFIG {arguments}");
    let text = form.replace("CALL", &call) + rest;
    let mut script = job.command(shell);
    script.env("CONFIG", gateway.config());
    script.env("PORT", port.to_string());
    script.env("FORWARD", format!("{port}:h:1"));
    job.run(script.arg(job.directory().write("script", &text)))
}

fn forms() -> impl Iterator<Item = (&'static str, &'static str)> {
    let shells = installed(&["tcsh", "fish"]);
    let forms = FORMS.into_iter();
    forms.filter(move |(shell, _)| shells.contains(shell))
}

/// Goal: each form exports a variable with which software gets its seat.
#[test]
fn every_form_exports() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    // Two variables need two commands in csh and fish.
    let arguments = "--pid-var LICPID gw LIC=127.0.0.1:$PORT";
    let show = "env | grep '^LIC='\nenv | grep '^LICPID='\n";
    for form in forms() {
        let job = Job::new();
        let outcome = run(&job, form, arguments, show, (&gateway, server.port()));
        assert_eq!(outcome.code, 0, "{form:?}: {outcome:?}");
        let (first, second) = outcome.stdout.split_once('\n').expect("two lines");
        let value = first.strip_prefix("LIC=").expect("the variable");
        let seat = check_out(port_of(value), "MATLAB").expect("a seat");
        assert_eq!(seat.number, 1);
        assert_eq!(second, format!("LICPID={}\n", job.daemon()));
        drop(seat);
        wait_until("the seat is back", LIMIT, || server.seats() == 0);
    }
}

/// Goal: no form lets a script run on without its tunnel, and each sees the
/// code, usage errors included.
#[test]
fn every_form_sees_failures() {
    let gateway = Gateway::start();
    for form in forms() {
        for (code, arguments) in
            [(64, "gw LIC=:1"), (73, "-L $FORWARD gw LIC=h:1"), (78, "-F /nonexistent gw LIC=h:1")]
        {
            let job = Job::new();
            // The gateway's own port is taken for sure.
            let environment = (&gateway, gateway.port());
            let outcome = run(&job, form, arguments, "echo went on\n", environment);
            assert_eq!(outcome.code, code, "{form:?} {arguments}: {outcome:?}");
            assert_eq!(outcome.stdout, "", "{form:?} {arguments}");
        }
    }
}

/// Goal: the value as other products want it.
#[test]
fn formats() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    for (format, before, after) in [
        ("{host}:{port}", "localhost:", ""),
        ("{port}", "", ""),
        ("tcp://{host}:{port}/x-1_%20+a=b,c.d@e", "tcp://localhost:", "/x-1_%20+a=b,c.d@e"),
    ] {
        let job = Job::new();
        let mut call = job.licfwd(&gateway);
        call.args(["--format", format, "gw"]);
        let outcome = job.run(call.arg(format!("KNITRO=127.0.0.1:{}", server.port())));
        let value = outcome.line().strip_prefix("export KNITRO=");
        let value = value.expect("an export");
        let port = value.strip_prefix(before).and_then(|v| v.strip_suffix(after));
        let port = port.and_then(|port| port.parse().ok());
        check_out(port.unwrap_or_else(|| panic!("{value}")), "f").expect("a seat");
    }
}

/// Goal: the process id is the daemon's, for scripts that end it themselves.
#[test]
fn process_id() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let text = "eval $(licfwd -F $CONFIG --pid-var LICPID gw 127.0.0.1:$PORT) || exit
                kill $LICPID && echo $LICPID";
    let outcome = job.run(&mut job.script("sh", text, &gateway, server.port()));
    let pid = outcome.line().parse().expect("a process id");
    wait_until("the daemon ends", LIMIT, || !process::alive(pid));
    job.wait_until_empty();
}
