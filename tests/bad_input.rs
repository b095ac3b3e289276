//! Whatever stands on the command line: a clear error, 64, and none of it on
//! standard output, which the calling shell evaluates.

use crate::rig::{Job, Outcome, Scratch, Site};
use std::fs::File;

/// Targets that mean nothing.
const TARGETS: &[&str] = &[
    "",
    " ",
    "host",
    "host:",
    ":1",
    ":",
    "host:0",
    "host:65536",
    "host:99999999999999999999",
    "host:-1",
    "host:+1",
    "host: 1",
    "host:1 ",
    "host:0x10",
    "host:1:2",
    "host:1+",
    "host:1++2",
    "host:1,",
    ",host:1",
    "host:1,,host:1",
    "[::1:1",
    "::1]:1",
    "[]:1",
    "[[::1]]:1",
    "[::1]",
    "[::1]1",
    "ho st:1",
    "host\n:1",
    "host:1\n",
    "host\t:1",
    "ho'st:1",
    "ho\"st:1",
    "ho`id`st:1",
    "host;id:1",
    "host&id:1",
    "host|id:1",
    "$(id):1",
    "${HOME}:1",
    "ho\\st:1",
    "-host:1",
    "=host:1",
    "1NAME=host:1",
    "A B=host:1",
    "A;id=host:1",
    "A$(id)=host:1",
    "A'=host:1",
    "A\n=host:1",
    "A-B=host:1",
    "\u{e9}=host:1",
];

/// Gateways that mean nothing.
const GATEWAYS: &[&str] = &["", " ", "-gw", "user@", "@gw", "g w", "gw\n", "gw;id", "$(id)"];

/// Templates with what the shell would see.
const TEMPLATES: &[&str] = &[
    "",
    "{port}@{host};id",
    "{port} {host}",
    "$(id)",
    "`id`",
    "{port}'",
    "{nothing}",
    "{port",
    "*",
];

/// Goal: each bad target is refused by name, before anything else happens.
#[test]
fn targets() {
    for target in TARGETS {
        refused(&["--", "gw", target], &format!("target {target:?}"));
        refused(&["--", "gw", "good:1", target], &format!("second target {target:?}"));
    }
}

/// Goal: a gateway that cannot be one is never passed on to ssh.
#[test]
fn gateways() {
    for gateway in GATEWAYS {
        refused(&["--", gateway, "host:1"], &format!("gateway {gateway:?}"));
    }
}

/// Goal: a template gets nothing past the shell's quoting.
#[test]
fn templates() {
    for template in TEMPLATES {
        let arguments = ["--format", template, "gw", "host:1"];
        refused(&arguments, &format!("template {template:?}"));
    }
}

/// Goal: options with values that mean nothing.
#[test]
fn option_values() {
    let calls: &[&[&str]] = &[
        &["--tries", "0"],
        &["--tries", "-1"],
        &["--tries", ""],
        &["--timeout", "soon"],
        &["--timeout", "0"],
        &["--deadline", "99999999999999999999"],
        &["--shell", "perl"],
        &["--shell", "sh;id"],
        &["--pid-var", "A B"],
        &["--pid-var", "$(id)"],
        &["--watch", "me"],
        &["-L", "0:host:1"],
        &["-L", "1055:host"],
        &["-L", "1055:host:65536"],
        &["-L", ""],
    ];
    for call in calls {
        let arguments = [*call, &["gw", "host:1"]].concat();
        refused(&arguments, &format!("{call:?}"));
    }
}

/// Goal: arguments of a megabyte altogether end as quickly as short ones, and
/// the message stays readable.
#[test]
fn long_arguments() {
    let long = "a".repeat(100_000);
    let targets = [
        long.clone(),
        format!("{long}:1"),
        format!("{long}=host:1"),
        format!("host:{}", "1".repeat(100_000)),
    ];
    for target in &targets {
        let outcome = refused(&["gw", target], "a long target");
        assert!(outcome.stderr.len() < 1000, "{} bytes", outcome.stderr.len());
    }
    refused(&["--", &long, "host:1"], "a long gateway");
    let many = vec!["host:0"; 1000];
    refused(&[&["gw"], many.as_slice()].concat(), "many targets");
}

/// Goal: arguments that are no text at all.
#[test]
fn not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let job = Job::new();
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe:1");
    let mut call = job.command(crate::rig::job::licfwd());
    check(&job.run(call.arg("gw").arg(bytes)), "bytes");
}

#[track_caller]
fn refused(arguments: &[&str], what: &str) -> Outcome {
    let job = Job::new();
    let mut call = job.command(crate::rig::job::licfwd());
    let outcome = job.run(call.args(arguments));
    check(&outcome, what);
    outcome
}

#[track_caller]
fn check(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.code, 64, "{what}: {outcome:?}");
    assert_eq!(outcome.stdout, "(exit 64)\n", "{what}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let told = lines.iter().all(|line| !line.contains(char::is_control));
    assert!(told && lines.len() <= 2, "{what}: {outcome:?}");
    assert!(outcome.stderr.starts_with("licfwd: "), "{what}: {outcome:?}");
}

/// Goal: a variable that somebody has set, or a name by which licfwd is called,
/// makes no helper of it: what is in the caller's directory stays, and so do the
/// processes of the caller's group.
#[test]
fn only_licfwd_makes_a_helper_of_itself() {
    let job = Job::new();
    let mine = Scratch::new();
    mine.write("thesis", "");
    let directory = mine.path().display();
    let calls = [
        format!("LICFWD_ROLE='keeper {directory}' licfwd --version"),
        format!("LICFWD_KEEPS='{directory}' licfwd --version"),
        "LICFWD_ROLE='resolver 1 localhost' licfwd --version".to_owned(),
        "LICFWD_ROLE=\"askpass $$ /dev/tty\" licfwd --version".to_owned(),
        "LICFWD_ASKPASS=\"$$ /dev/tty\" licfwd --version".to_owned(),
        "LICFWD_ASKPASS=\"$PPID /dev/tty\" licfwd --version".to_owned(),
        "LICFWD_ROLE=\"askpass $PPID /dev/tty\" licfwd --version".to_owned(),
        format!("(exec -a licfwd-keeper licfwd {directory})"),
        format!("(exec -a licfwd-keeper licfwd {directory} </dev/null)"),
        "(exec -a licfwd-resolver licfwd 1 localhost)".to_owned(),
    ];
    for call in calls {
        let mut bash = job.command("setsid");
        bash.args(["-w", "bash", "-c", &format!("{call}; echo $? alive")]);
        let outcome = job.run(&mut bash);
        let version = format!("licfwd {}\n0 alive\n", env!("CARGO_PKG_VERSION"));
        match call.contains("exec") {
            true => assert_eq!(outcome.stdout, "64 alive\n", "{call}: {outcome:?}"),
            false => assert_eq!(outcome.stdout, version, "{call}: {outcome:?}"),
        }
        assert!(mine.file("thesis").exists(), "{call}");
    }
}

/// Goal: a file that licfwd is to read and that is none, or has no end, is said to be
/// so: it is neither waited for nor read into memory.
#[test]
fn files_that_are_none() {
    let site = Site::new();
    let job = &site.job;
    let pipe = job.directory().file("pipe");
    assert_eq!(job.run(job.command("mkfifo").arg(&pipe)).code, 0);
    let large = job.directory().file("large");
    let made = File::create(&large).and_then(|file| file.set_len(17 << 20));
    made.expect("a large file");
    let name = |path: &std::path::PathBuf| path.display().to_string();
    for (file, why) in [
        (name(&pipe), "not a regular file"),
        ("/dev/zero".into(), "not a regular file"),
        (name(&large), "larger than 16 MB"),
    ] {
        let why = format!("cannot be read: {why}");
        for setting in ["UserKnownHostsFile", "GlobalKnownHostsFile"] {
            let setting = format!("-o{setting}={file}");
            let others = ["-oUserKnownHostsFile=/dev/null", "-oGlobalKnownHostsFile=/dev/null"];
            let options = [&[setting.as_str()], &others[..], &["-oStrictHostKeyChecking=yes"]];
            site.fails(76, &options.concat(), &[&file, &why]);
        }
        // A key is another's, or one that licfwd knows of without the file.
        for setting in ["CertificateFile", "IdentityFile"] {
            site.logs_in(&[&format!("-o{setting}={file}")]);
        }
        let outcome = job.run(site.call(&[]).env("PBS_NODEFILE", &file));
        outcome.port("MLM_LICENSE_FILE");
        let told = outcome.stderr.contains("PBS_NODEFILE: cannot read");
        assert!(told && outcome.stderr.lines().count() == 1, "{outcome:?}");
    }
    let new = ["-oStrictHostKeyChecking=accept-new", "-oGlobalKnownHostsFile=/dev/null"];
    let file = format!("-oUserKnownHostsFile={}", pipe.display());
    let outcome = site.run(&[&new[..], &[&file]].concat());
    outcome.port("MLM_LICENSE_FILE");
    assert!(outcome.stderr.contains("not a regular file"), "{outcome:?}");
}
