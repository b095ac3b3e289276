//! Pastes what README and job scripts show, and runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::rig::{Gateway, Job, LicenseServer, Outcome, Service, skip};

/// What no test can run: it builds, tests, installs, or asks for a machine.
const ELSEWHERE: [&str; 14] = [
    "scripts/",
    "./install",
    "cargo ",
    "cp ",
    "git ",
    "tar ",
    "sha256sum ",
    "apt",
    "sudo ",
    "spack ",
    "eb ",
    "module ",
    "sbatch ",
    "./licfwd",
];

/// Stands in `PATH` before licfwd: the names of the documentation lead to the
/// rig's gateway and license server.
const LICFWD: &str = r#"#!/bin/bash
set -- "${@/#tri-gw/gw}"
for word; do
  if [[ $word =~ ^([A-Z_]+=)?lic[a-z0-9]*:[0-9+]+$ ]]; then word=${BASH_REMATCH[1]}127.0.0.1:$PORT; fi
  words+=("$word")
done
exec "$LICFWD" -F "$CONFIG" "${words[@]}"
"#;

/// Licensed software: checks a feature out of whichever server it is told.
const SOFTWARE: &str = r#"#!/bin/bash
value=${MLM_LICENSE_FILE:-${ANSYSLMD_LICENSE_FILE:?}}
exec 3<>"/dev/tcp/${value#*@}/${value%@*}" || exit
echo 'CHECKOUT x' >&3
read -r answer <&3
echo "$answer"
[[ $answer = GRANTED* ]]
"#;

struct Desk {
    gateway: Gateway,
    server: LicenseServer,
}

impl Desk {
    fn new() -> Desk {
        Desk {
            gateway: Gateway::start(),
            server: LicenseServer::start(Service::CheckOut),
        }
    }

    /// Runs a text as somebody who pastes it, in a fresh home.
    fn paste(&self, text: &str) -> Outcome {
        let job = Job::new();
        fs::create_dir(job.directory().file(".ssh")).expect("~/.ssh");
        fs::create_dir(job.directory().file("stubs")).expect("stubs");
        for (name, text) in [
            ("licfwd", LICFWD),
            ("matlab", SOFTWARE),
            ("srun", "#!/bin/sh\nexec \"$@\"\n"),
            ("solver", SOFTWARE),
            ("hostname", "#!/bin/sh\necho 127.0.0.1\n"),
            ("scontrol", "#!/bin/sh\necho localhost\n"),
        ] {
            let file = job.directory().write(&format!("stubs/{name}"), text);
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let text = format!("PATH=$HOME/stubs:$PATH\n{text}");
        let mut script = job.script("bash", &text, &self.gateway, self.server.port());
        job.run(script.env("LICFWD", crate::rig::job::licfwd()))
    }
}

/// The shell blocks of a text in Markdown.
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.trim()) {
            (None, "```bash" | "```sh") => block = Some(String::new()),
            (Some(_), "```") => found.extend(block.take()),
            (Some(block), _) => *block += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    found
}

/// Goal: what the README shows works when it is pasted as it stands.
#[test]
fn blocks_of_the_readme() {
    let Ok(readme) = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")) else {
        skip!("there is no README.md");
    };
    let desk = Desk::new();
    let mut run = 0;
    for block in blocks(&readme) {
        let syntax = Job::new();
        let syntax = syntax.run(syntax.command("bash").args(["-n", "-c", &block]));
        assert_eq!(syntax.code, 0, "{block}\n{syntax:?}");
        let here = |line: &str| !ELSEWHERE.iter().any(|word| line.trim().starts_with(word));
        if block.lines().all(here) {
            let outcome = desk.paste(&block);
            assert_eq!(outcome.code, 0, "{block}\n{outcome:?}");
            run += 1;
        }
    }
    assert!(run >= 3, "only {run} blocks could be run");
}

/// Goal: each job script that is delivered gets its license.
#[test]
fn job_scripts() {
    let desk = Desk::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/packaging/jobs");
    for entry in fs::read_dir(directory).expect("job scripts") {
        let file = entry.expect("a job script").path();
        let outcome = desk.paste(&fs::read_to_string(&file).expect("a job script"));
        assert_eq!(outcome.code, 0, "{}: {outcome:?}", file.display());
        assert!(outcome.stdout.contains("GRANTED"), "{outcome:?}");
    }
}
