//! The manual page and the completions, judged by the programs that read them.

use crate::rig::{Job, Outcome, skip};

/// Writes what `--generate` prints to files of the job's, and runs a script there.
fn judged(script: &str, shell: &str) -> Option<Outcome> {
    let job = Job::new();
    for (what, file) in [
        ("man", "licfwd.1"),
        ("complete-bash", "licfwd.bash"),
        ("complete-zsh", "_licfwd"),
        ("complete-fish", "licfwd.fish"),
    ] {
        let licfwd = crate::rig::job::licfwd();
        let outcome = job.run(job.command(licfwd).args(["--generate", what]));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{what}");
        job.directory().write(file, &outcome.stdout);
    }
    job.directory().write("ssh_config", "");
    let there = job.run(job.command("sh").args(["-c", &format!("command -v {shell}")]));
    (there.code == 0).then(|| job.run(job.command(shell).args(["-c", script])))
}

/// Goal: nobody who checks manual pages finds anything in this one.
#[test]
fn the_manual_is_clean() {
    for (program, call) in [
        ("mandoc", "mandoc -T lint licfwd.1"),
        ("groff", "groff -ww -man -Tutf8 licfwd.1 >/dev/null"),
    ] {
        let script = format!("command -v {program} >/dev/null || exit 99; {call} 2>&1");
        let outcome = judged(&script, "sh").expect("sh");
        if outcome.code == 99 {
            skip!("{program} is not installed");
        }
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{program}");
    }
}

/// Goal: each shell loads its completions without a word and completes options
/// and their values with them, and after `--` commands.
#[test]
fn completions_work() {
    let bash = "set -u; . ./licfwd.bash; c() { COMP_WORDS=(licfwd \"$@\"); COMP_CWORD=$#; _licfwd; \
                echo \"${COMPREPLY[*]}\"; }; c --dead; c --shell f; c -F ssh_c; \
                c gw h:1 -- mkfif; c gw h:1 -- cat licfwd.f; c -- --dead";
    // zsh completes on a terminal only.
    let zsh = "zmodload zsh/zpty; zpty z 'zsh -f -i'; \
               zpty -w z 'fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; print re\"\"ady'; \
               zpty -r z out '*ready*'; \
               c() { zpty -w -n z $'\\x15'\"licfwd $1\"$'\\t'; zpty -r z out \"*$2*\" && print -- $2; }; \
               c --dea --deadline; c --shell=f fish; c '-F ssh_c' ssh_config; \
               c 'gw h:1 -- mkfif' mkfifo; c 'gw h:1 -- cat licfwd.f' licfwd.fish; zpty -d z";
    let fish = "source licfwd.fish; echo (complete -C 'licfwd --dead') (complete -C 'licfwd --shell f') \
                (complete -C 'licfwd -F ssh_c') \
                (complete -C 'licfwd gw h:1 -- mkfif') (complete -C 'licfwd gw h:1 -- cat licfwd.f')";
    for (shell, script) in [("bash", bash), ("zsh", zsh), ("fish", fish)] {
        let Some(outcome) = judged(script, shell) else {
            skip!("{shell} is not installed");
        };
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{shell}");
        for word in ["--deadline", "fish", "ssh_config", "mkfifo", "licfwd.fish"] {
            assert!(outcome.stdout.contains(word), "{shell}: {outcome:?}");
        }
    }
}
