//! Pastes what README, manual and job scripts show, and runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::rig::{Gateway, Job, LicenseServer, Outcome, Service, skip};

/// What no test can run: it builds, tests, installs, or asks for a machine or a
/// shell that need not be there.
const ELSEWHERE: [&str; 5] =
    ["scripts/", "tar ", "licfwd-", "licfwd -N -f -L ", "eval `licfwd --shell csh "];

/// Stands in `PATH` before licfwd: the names of the documentation lead to the
/// rig's gateway and license server.
const LICFWD: &str = r#"#!/bin/bash
set -- "${@/#tri-gw/gw}"
set -- "${@/#l1,l2,*/gw,gw}"
for word; do
  if [[ $word =~ ^([A-Z_]+=)?lic[a-z0-9]*:[0-9+]+$ ]]; then word=${BASH_REMATCH[1]}127.0.0.1:$PORT; fi
  if [[ $word =~ ^https://[a-z.]+$ ]]; then word=https://127.0.0.1:$PORT; fi
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
        Desk { gateway: Gateway::start(), server: LicenseServer::start(Service::CheckOut) }
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
            ("module", "#!/bin/sh\n"),
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

/// The text of a page, by its path in the source.
fn page(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The manual as it is printed, in the macros of man(7).
fn manual() -> String {
    let job = Job::new();
    let outcome = job.run(job.command(crate::rig::job::licfwd()).args(["--generate", "man"]));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.stdout
}

/// The examples of a manual page.
fn examples(text: &str) -> Vec<String> {
    let begun = text.split("\n.EX\n").skip(1);
    let roff = begun.filter_map(|rest| rest.split("\n.EE").next());
    let signs = [("\\-", "-"), ("\\(ti", "~"), ("\\(aq", "'"), ("\\(ga", "`"), ("\\e", "\\")];
    let plain = |text: &str| {
        let text =
            signs.iter().fold(text.to_owned(), |text, (roff, sign)| text.replace(roff, sign));
        text + "\n"
    };
    roff.map(plain).collect()
}

/// Reads each block as bash would, without running it.
fn parses(block: &str) {
    let job = Job::new();
    let outcome = job.run(job.command("bash").args(["-n", "-c", block]));
    assert_eq!(outcome.code, 0, "{block}\n{outcome:?}");
}

/// Runs the blocks that can be run here, and says how many those were.
fn paste_all(blocks: Vec<String>) -> usize {
    let desk = Desk::new();
    let here = |line: &str| !ELSEWHERE.iter().any(|word| line.trim().starts_with(word));
    let run = blocks.into_iter().filter(|block| block.lines().all(here));
    run.map(|block| {
        let outcome = desk.paste(&block);
        assert_eq!(outcome.code, 0, "{block}\n{outcome:?}");
    })
    .count()
}

/// Goal: what the README shows works when it is pasted as it stands.
#[test]
fn blocks_of_the_readme() {
    let Some(readme) = page("README.md") else {
        skip!("there is no README.md");
    };
    let blocks = blocks(&readme);
    blocks.iter().for_each(|block| parses(block));
    let run = paste_all(blocks);
    // Both calling forms, other nodes, a key, and the page for a cluster's own documentation.
    assert!(run >= 5, "only {run} blocks could be run");
}

/// Goal: what the manual shows works when it is pasted as it stands.
#[test]
fn examples_of_the_manual() {
    let run = paste_all(examples(&manual()));
    assert!(run >= 6, "only {run} examples could be run");
}

/// Goal: what the pages about the scripts show can be pasted, and is there.
#[test]
fn pages_about_scripts() {
    let mut read = 0;
    for path in ["README.md", "scripts/README.md", "scripts/packaging/README.md"] {
        let Some(text) = page(path) else { continue };
        blocks(&text).iter().for_each(|block| parses(block));
        let in_path = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
        for word in text.split(|c| !in_path(c)) {
            let named = word.trim_end_matches('.');
            if named.starts_with("scripts/") {
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(named);
                assert!(file.exists(), "{path} names {named}");
            }
        }
        read += 1;
    }
    if read == 0 {
        skip!("there is no README.md");
    }
}

/// Goal: where the README sends its reader to the manual, there is something to read.
#[test]
fn sections_of_the_manual() {
    let Some(readme) = page("README.md") else {
        skip!("there is no README.md");
    };
    let manual = manual();
    let headings = readme.split('*').filter(|word| {
        word.contains(' ') && word.chars().all(|c| c.is_ascii_uppercase() || c == ' ')
    });
    let headings: Vec<&str> = headings.chain(["DIAGNOSTICS", "SECURITY"]).collect();
    assert!(headings.len() > 3, "{headings:?}");
    for heading in headings {
        assert!(readme.contains(&format!("*{heading}*")), "{heading}");
        assert!(manual.contains(&format!("\n.SH {heading}\n")), "{heading}");
    }
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
