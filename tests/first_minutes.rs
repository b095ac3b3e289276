//! What a first user writes instead of the right line, and what licfwd makes of it.

use std::fs;

use crate::rig::{Gateway, Job, LicenseServer, Service};

/// Goal: the short forms announce what the long form does.
#[test]
fn short_forms() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    for form in [
        "licfwd -F $CONFIG gw MLM_LICENSE_FILE=127.0.0.1:$PORT",
        "licfwd -F $CONFIG gw $PORT@127.0.0.1",
        "MLM_LICENSE_FILE=$PORT@0x7f000001 licfwd -F $CONFIG gw MLM_LICENSE_FILE",
        "LICFWD_GATEWAY=gw licfwd -F $CONFIG 127.0.0.1:$PORT",
        "LICFWD_GATEWAY=gw,gw2 MLM_LICENSE_FILE=$PORT@0x7f000001 licfwd -F $CONFIG MLM_LICENSE_FILE",
    ] {
        let job = Job::new();
        let outcome = job.run(&mut job.script("sh", form, &gateway, server.port()));
        outcome.port("MLM_LICENSE_FILE");
    }
}

/// Goal: each mistake of the first five minutes has its message beside it.
#[test]
fn mistakes() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    for (shells, text, code, told) in [
        (&["bash", "dash"][..], "eval $(licfwd gw licserver) || exit", 64, "licserver:27000, for"),
        (&["bash"], "eval $(licfwd gw licserver:27000,27001) || exit", 64, "licserver:27000+27001"),
        (&["dash"], "eval $(licfwd gw licserver:27000:27001) || exit", 64, "licserver:27000+27001"),
        (&["dash"], "eval $(licfwd gw licserver:1055+VENDOR) || exit", 64, "VENDOR line"),
        (&["dash"], "eval $(licfwd gw 9999:licserver:9999) || exit", 64, "write licserver:9999"),
        (&["dash"], "eval $(licfwd gw @licserver) || exit", 64, "27000 to 27009"),
        (&["dash"], "eval $(licfwd gw NO_SUCH_FILE) || exit", 64, "load the software's module"),
        (&["dash"], "eval $(licfwd licserver:27000) || exit", 64, "set LICFWD_GATEWAY"),
        (&["tcsh"], "eval `licfwd --shell csh gw licserver` || exit $status", 64, "has no port"),
        (
            &["bash", "dash"],
            "licfwd -F $CONFIG gw 127.0.0.1:$PORT >both 2>&1; cat both >&2",
            0,
            "write eval $(licfwd ...)",
        ),
        (
            &["dash"],
            "MLM_LICENSE_FILE=1@localhost; export MLM_LICENSE_FILE
             eval $(licfwd -F $CONFIG gw 127.0.0.1:$PORT)",
            0,
            "is replaced; for both servers",
        ),
        (
            &["dash"],
            "eval $(timeout 3 licfwd -F $CONFIG -L $HOME/socket:127.0.0.1:$PORT gw); true",
            0,
            "serves in the foreground",
        ),
    ] {
        for shell in shells {
            let job = Job::new();
            let outcome = job.run(&mut job.script(shell, text, &gateway, server.port()));
            assert_eq!(outcome.code, code, "{shell}: {text}: {outcome:?}");
            assert!(outcome.stderr.contains(told), "{shell}: {text}: {outcome:?}");
        }
    }
}

/// Goal: a log that a module asks for says whose it is, and fails no job.
#[test]
fn a_log_by_default() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let text = "export SLURM_JOB_ID=4711 SLURMD_NODENAME=n
                LICFWD_LOG=$HOME/log-%j licfwd -F $CONFIG gw 127.0.0.1:$PORT
                LICFWD_LOG=/no/such/place licfwd -F $CONFIG gw 127.0.0.1:$PORT";
    let outcome = job.run(&mut job.script("sh", text, &gateway, server.port()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("LICFWD_LOG: cannot open"), "{outcome:?}");
    let log = fs::read_to_string(job.directory().file("log-4711")).expect("the log");
    let first = log.lines().next().expect("a line");
    assert!(first.contains("licfwd 0.") && first.ends_with("Slurm job 4711"), "{log}");
}
