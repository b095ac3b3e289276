//! Which programs this machine has.

use super::{Job, say_skipped};

/// Whether a program of that name is in a job's `PATH`.
pub fn has(program: &str) -> bool {
    let job = Job::new();
    let look = format!("command -v {program}");
    job.run(job.command("sh").args(["-c", &look])).code == 0
}

/// Those of the programs that are not in a job's `PATH`.
pub fn missing<'a>(programs: &[&'a str]) -> Vec<&'a str> {
    let programs = programs.iter().copied();
    programs.filter(|program| !has(program)).collect()
}

/// Those of the programs that are; the others are named as skipped.
///
/// # Panics
/// When there is none: a test that tries each of nothing would pass.
#[track_caller]
pub fn installed<'a>(programs: &[&'a str]) -> Vec<&'a str> {
    let missing = missing(programs);
    if !missing.is_empty() {
        say_skipped(&format!("not installed: {}", missing.join(", ")));
    }
    let all = programs.iter().copied();
    let found: Vec<&str> = all.filter(|program| !missing.contains(program)).collect();
    assert!(!found.is_empty(), "none of {programs:?} is installed");
    found
}
