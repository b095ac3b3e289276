//! Pastes what README and manual show, as it stands, where an ordinary user would, and runs it.

use std::fs;
use std::path::Path;

use crate::rig::pages::{blocks, examples, manual, page, rows};
use crate::rig::{Job, a_cluster, installed, long, say_skipped, skip};

/// What is not run here, by the beginning of a line, and why.
const ELSEWHERE: [(&str, &str); 3] = [
    ("scripts/", "it builds, tests or installs from the source: this is one of its tests"),
    ("tar -xzf licfwd-", "it needs an archive: tests of the packaging install one"),
    ("licfwd-", "the same"),
];

/// The shells that read a line: those of sh take turns, and with `--long` take all.
fn shells(text: &str, turn: usize) -> Vec<&'static str> {
    let line = text.trim_start();
    let all = if line.starts_with("eval `licfwd --shell csh") {
        &["tcsh"][..]
    } else if line.starts_with("eval (licfwd --shell fish") {
        &["fish"]
    } else if long() {
        &["bash", "dash", "ksh", "zsh"][..]
    } else {
        &["bash", "dash"][turn % 2..][..1]
    };
    let there = installed(all);
    if there.len() < all.len() {
        say_skipped(&format!("not all of {all:?} are installed"));
    }
    there
}

/// A block cut where the next lines are for another kind of shell.
fn by_shell(block: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut kind = None;
    for line in block.lines() {
        let of = ["eval `", "eval ("].iter().position(|begin| line.starts_with(begin));
        if kind != Some(of) {
            parts.push(String::new());
            kind = Some(of);
        }
        *parts.last_mut().expect("a part") += &format!("{line}\n");
    }
    parts
}

/// A block without the lines that are listed, and whether there were any.
fn without_listed(block: &str) -> (String, bool) {
    let listed = |line: &&str| ELSEWHERE.iter().any(|(begin, _)| line.starts_with(begin));
    let left: String =
        block.lines().filter(|line| !listed(line)).map(|l| format!("{l}\n")).collect();
    let any = block.lines().any(|line| listed(&line));
    (left, any)
}

/// Goal: each block of README and manual works when it is pasted as it stands, or is
/// listed; nothing is replaced, names and ports are the cluster's.
#[test]
fn blocks_of_readme_and_manual() {
    let cluster = a_cluster!();
    let manual = manual();
    let readme = page("README.md").unwrap_or_default();
    // What stands in other signs would be seen by nobody.
    let fences = readme.lines().filter(|line| line.starts_with("```"));
    let fences: Vec<&str> = fences.filter(|line| !["```", "```bash"].contains(line)).collect();
    assert!(readme.is_empty() || fences == ["````markdown", "````"], "{fences:?}");
    assert_eq!(manual.matches("\n.nf\n").count(), 1, "a file that no test of keys.rs knows");
    let (mut run, mut listed) = (0, 0);
    for block in blocks(&readme).into_iter().chain(examples(&manual)) {
        let (text, left_out) = without_listed(&block);
        listed += usize::from(left_out);
        for part in by_shell(&text) {
            for shell in shells(&part, run) {
                match part.contains("ssh-keygen") {
                    true => cluster.clean_home(),
                    false => cluster.with_a_key(),
                }
                let outcome = cluster.paste(shell, &part);
                assert_eq!(outcome.code, 0, "{shell}:\n{part}{outcome:?}");
                let software = part.contains("matlab");
                assert!(!software || outcome.stdout.contains("GRANTED"), "{outcome:?}");
                eprintln!("{shell}:\n{part}{}{}", outcome.stdout, outcome.stderr);
            }
            run += 1;
        }
    }
    let expected = if readme.is_empty() { (12, 0) } else { (19, 2) };
    assert!(run >= expected.0 && listed == expected.1, "{run} run, {listed} listed");
}

/// `text` with N in the place of each port that was drawn, or of what stands for one.
fn shape(text: &str) -> String {
    let digits = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    let drawn = |word: &str| {
        let (begin, port) = word.split_at(word.rfind(['=', ':', ',']).map_or(0, |at| at + 1));
        let named = port == "PORT" || port.strip_prefix('P').is_some_and(digits);
        (named || digits(port)).then(|| format!("{begin}N"))
    };
    let parts: Vec<&str> = text.trim().split("@localhost").collect();
    let parts = parts.iter().map(|part| drawn(part).unwrap_or((*part).to_owned()));
    parts.collect::<Vec<_>>().join("@localhost")
}

/// Goal: each call of the README's table prints what stands beside it.
#[test]
fn calls_of_the_readmes_table() {
    let Some(readme) = page("README.md") else {
        skip!("there is no README.md");
    };
    let cluster = a_cluster!();
    let table = readme.split("| call | prints |").nth(1).and_then(|rest| rest.split("\n\n").next());
    let mut run = 0;
    for row in rows(table.expect("the table")) {
        let [call, prints] = row.as_slice() else { panic!("{row:?}") };
        let call = call.trim_matches('`').to_owned() + if call.ends_with("``") { "`" } else { "" };
        for shell in shells(&call, run) {
            cluster.with_a_key();
            let mut command = cluster.shell(shell, &call);
            let outcome = cluster.job().run(command.env("MLM_LICENSE_FILE", "27000@lic"));
            assert_eq!(outcome.code, 0, "{shell}: {call}: {outcome:?}");
            if let Some(export) = prints.strip_prefix('`').and_then(|text| text.split('`').next()) {
                assert_eq!(shape(&outcome.stdout), shape(export), "{call}: {outcome:?}");
            }
        }
        run += 1;
    }
    assert!(run >= 12, "only {run} calls");
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

/// Reads each block as bash would, without running it.
fn parses(block: &str) {
    let job = Job::new();
    let outcome = job.run(job.command("bash").args(["-n", "-c", block]));
    assert_eq!(outcome.code, 0, "{block}\n{outcome:?}");
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
    let headings: Vec<&str> = headings.chain(["DIAGNOSTICS", "SECURITY", "KEYS"]).collect();
    assert!(headings.len() > 3, "{headings:?}");
    for heading in headings {
        assert!(readme.contains(&format!("*{heading}*")), "{heading}");
        assert!(manual.contains(&format!("\n.SH {heading}\n")), "{heading}");
    }
}

/// Goal: each job script that is delivered gets its license.
#[test]
fn job_scripts() {
    let cluster = a_cluster!();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/packaging/jobs");
    for entry in fs::read_dir(directory).expect("job scripts") {
        let file = entry.expect("a job script").path();
        cluster.with_a_key();
        let outcome = cluster.paste("bash", &fs::read_to_string(&file).expect("a job script"));
        assert_eq!(outcome.code, 0, "{}: {outcome:?}", file.display());
        assert!(outcome.stdout.contains("GRANTED"), "{outcome:?}");
    }
}
