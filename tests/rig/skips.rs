//! What a test does that this machine cannot run: it says so, and in strict mode it fails.

use super::process;

/// Set where the machine must be able to run everything (`.ci/run`): a skip is a
/// failure there, unless [`EXPECTED`] has its reason.
const STRICT: &str = "LICFWD_TEST_STRICT";

/// With what the reason begins, whether it counts for root as well, and why no
/// machine can be blamed for it.
const EXPECTED: [(&str, bool, &str); 6] = [
    ("only root can ", false, "the same tests run as root, too, and these run there"),
    ("no namespace of one's own: ", false, "many systems keep them from ordinary users"),
    ("no license clients from PyPI: ", true, "they may be gone, or the network down"),
    ("no Debian 13 from its mirror: ", true, "the network may be down, and nothing else needs it"),
    ("no Java here", true, "it is large, and curl and Python ask in the same way"),
    ("no Jupyter from PyPI: ", true, "the network may be down, and nothing else needs it"),
];

/// Says what is to be kept of a test that passes, with its name.
///
/// Writes to standard error itself: only the `print` macros are captured.
pub fn say(text: &str) {
    print("", text);
}

fn print(begin: &str, text: &str) {
    let thread = std::thread::current();
    print_line(&format!("{begin}{}: {text}", thread.name().unwrap_or("rig")));
}

fn print_line(line: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints what a test that ran in another process has printed: what it has said is kept.
pub fn retell(printed: &str, test: &str) {
    for line in printed.lines() {
        match line.strip_prefix("SKIPPED: ").unwrap_or(line).starts_with(test) {
            true => print_line(line),
            false => eprintln!("{line}"),
        }
    }
}

/// Says that a test, or a part of it, is left out.
///
/// # Panics
/// In strict mode, for a reason that is not expected.
#[track_caller]
pub fn say_skipped(reason: &str) {
    print("SKIPPED: ", reason);
    let strict = std::env::var_os(STRICT).is_some();
    assert!(
        !strict || is_expected(reason, process::is_root()),
        "nothing unexpected may be skipped here: {reason}"
    );
}

/// Whether strict mode lets that pass.
pub fn is_expected(reason: &str, root: bool) -> bool {
    EXPECTED.iter().any(|(begin, for_root, _)| reason.starts_with(begin) && (*for_root || !root))
}
