//! The main job: a script calls licfwd, and its software gets a license.

use crate::rig::job::port_of;
use crate::rig::traffic::check_out;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Service, installed, process, skip, wait_until,
};

const SHELLS: [&str; 4] = ["bash", "dash", "ksh", "zsh"];

/// Both calling forms, as the README has them.
const FORMS: [&str; 2] = [
    r#"eval $(licfwd -F $CONFIG gw 127.0.0.1:$PORT) || exit"#,
    r#"lic=$(licfwd -F $CONFIG gw 127.0.0.1:$PORT) && eval "$lic" || exit"#,
];

/// Goal: both calling forms, in every shell, export a variable with which the
/// software of the job checks a license out, and gives it back.
#[test]
fn software_gets_its_license() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    for shell in installed(&SHELLS) {
        for form in FORMS {
            let job = Job::new();
            // Only a child of the shell can tell whether the variable is exported.
            let text = format!("{form}\nenv | grep '^MLM_LICENSE_FILE='");
            let outcome = job.run(&mut job.script(shell, &text, &gateway, server.port()));
            assert_eq!(outcome.code, 0, "{shell}: {outcome:?}");
            let value = outcome.line().strip_prefix("MLM_LICENSE_FILE=");
            let port = port_of(value.expect("the variable"));

            let seat = check_out(port, "MATLAB").expect("a seat through the tunnel");
            assert_eq!((seat.number, server.seats()), (1, 1), "{shell}: {form}");
            drop(seat);
            wait_until("the seat is back", LIMIT, || server.seats() == 0);
        }
    }
}

/// Goal: no way of calling lets a script run on without its tunnel; each ends
/// with licfwd's own code.
#[test]
fn every_form_sees_every_failure() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let failures = [
        (64, "gw ':1'"),
        (76, "-o UserKnownHostsFile=/dev/null gw 127.0.0.1:$PORT"),
        (78, "-F /nonexistent/ssh_config gw 127.0.0.1:$PORT"),
    ];
    for shell in installed(&SHELLS) {
        for (code, arguments) in failures {
            let call = format!("licfwd -F $CONFIG {arguments}");
            let forms = [
                format!("eval $({call}) || exit"),
                format!("lic=$({call}) && eval \"$lic\" || exit"),
                format!("set -e\neval $({call})"),
                format!("set -e\neval \"$({call})\""),
            ];
            for form in forms {
                let job = Job::new();
                let text = format!("{form}\necho went on");
                let outcome = job.run(&mut job.script(shell, &text, &gateway, server.port()));
                assert_eq!(outcome.code, code, "{shell}: {form}: {outcome:?}");
                assert_eq!(outcome.stdout, "", "{shell}: {form}");
            }
        }
    }
}

/// Goal: the form for long-lived scripts also sees a licfwd that is not there.
#[test]
fn second_form_sees_a_missing_program() {
    let gateway = Gateway::start();
    for shell in installed(&SHELLS) {
        let job = Job::new();
        let text = "lic=$(no-such-licfwd) && eval \"$lic\" || exit\necho went on";
        let outcome = job.run(&mut job.script(shell, text, &gateway, 1));
        assert_eq!(outcome.code, 127, "{shell}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{shell}");
    }
}

/// Goal: a job in a session of its own (as every batch system makes it) leaves
/// no process behind when its script has ended.
#[test]
fn tunnel_ends_with_the_job() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let text = format!("{}\nsleep 1\n", FORMS[0]);
    let mut script = job.command("setsid");
    script.args(["sh", "-c", &text]).env("CONFIG", gateway.config());
    script.env("PORT", server.port().to_string());
    let outcome = job.run(&mut script);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    wait_until("licfwd follows its job", LIMIT, || job.processes().is_empty());
}

/// Goal: both loopback families lead into the tunnel, under one number.
#[test]
fn both_loopback_families_are_served() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        skip!("this machine has no ::1");
    }
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let target = format!("127.0.0.1:{}", server.port());
    let outcome = job.run(job.licfwd(&gateway).args(["gw", &target]));
    let port = outcome.port("MLM_LICENSE_FILE");
    assert!(port >= 1024);
    for host in ["127.0.0.1", "::1"] {
        std::net::TcpStream::connect((host, port)).expect(host);
    }
    assert!(process::alive(job.daemon()));
}
