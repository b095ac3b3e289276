//! Packages from PyPI, in cargo's target directory, fetched once.

use std::path::PathBuf;
use std::process::Command;

/// Makes a Python there under an exclusive lock, and calls its pip once for each line of
/// arguments.
const MAKE: &str = r#"
    exec 9>"$0.lock" && flock 9 && if [ ! -e "$0/ready" ]; then
        python3 -m venv --clear "$0" && cd "$0" || exit
        for line; do
            timeout 240 bin/pip -q --disable-pip-version-check install $line || exit
        done
        touch ready
    fi"#;

/// A Python with what each call of pip has installed; the directory that it works in is
/// the one above `bin`.
///
/// # Errors
/// Why it cannot be had.
pub fn python_with(name: &str, calls: &[&[&str]]) -> Result<PathBuf, String> {
    let place = directory().join(name);
    let lines = calls.iter().map(|words| words.join(" "));
    let output = Command::new("sh").args(["-c", MAKE]).arg(&place).args(lines).output();
    let output = output.expect("run sh");
    match output.status.success() {
        true => Ok(place.join("bin/python")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Cargo's directory for that, `tmp` beside those of its profiles; it tells integration
/// tests alone.
fn directory() -> PathBuf {
    let beside = || {
        let program = std::env::current_exe().expect("this program");
        program.ancestors().nth(3).expect("a directory").join("tmp")
    };
    option_env!("CARGO_TARGET_TMPDIR").map_or_else(beside, PathBuf::from)
}
