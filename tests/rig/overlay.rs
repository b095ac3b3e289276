//! Shows a program other files than the system's, in a mount namespace of its own.

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::gateway::account;
use super::process;

/// Lays file after file over another one, and becomes the program.
const MOUNT: &str = r#"
    while [ "$1" != -- ]; do
        mount --bind "$1" "$2" || exit
        shift 2
    done
    shift
    exec "$@"
"#;

/// Pairs of a file and the one that it hides, and variables of the environment.
/// The machine itself sees none of it, and nothing is left when the program has
/// ended.
#[derive(Clone, Default)]
pub struct Overlay {
    files: Vec<(PathBuf, &'static str)>,
    variables: Vec<String>,
}

impl Overlay {
    /// Whether this machine can do it.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check() -> Result<(), String> {
        static WHY: OnceLock<Result<(), String>> = OnceLock::new();
        let check = || {
            let mut overlay = Overlay::default();
            overlay.add("/dev/null".into(), "/etc/passwd");
            let output = overlay.command(Path::new("true"), account().ids).output();
            let output = output.map_err(|e| format!("unshare: {e}"))?;
            let words = String::from_utf8_lossy(&output.stderr);
            let why = || format!("no namespace of one's own: {}", words.trim());
            output.status.success().then_some(()).ok_or_else(why)
        };
        WHY.get_or_init(check).clone()
    }

    /// From now on `over`, which must exist, is `file`; both may be directories.
    pub fn add(&mut self, file: PathBuf, over: &'static str) {
        self.files.push((file, over));
    }

    /// From now on the environment has this variable, whoever clears the command's.
    pub fn set(&mut self, name: &str, value: impl Display) {
        self.variables.push(format!("{name}={value}"));
    }

    /// A command for the program under the overlay, as that user and group or
    /// as ourselves. Its process id is the program's.
    pub fn command(&self, program: &Path, ids: Option<(u32, u32)>) -> Command {
        let mut words: Vec<&OsStr> = Vec::new();
        if !self.variables.is_empty() {
            words.push("env".as_ref());
            words.extend(self.variables.iter().map(OsStr::new));
        }
        words.push(program.as_ref());
        if self.files.is_empty() {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            if let Some((user, group)) = ids {
                command.uid(user).gid(group);
            }
            return command;
        }
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !process::is_root() {
            command.args(["--map-current-user", "--keep-caps"]);
        }
        command.args(["sh", "-c", MOUNT, "sh"]);
        for (file, over) in &self.files {
            command.arg(file).arg(over);
        }
        command.arg("--");
        if let Some((user, group)) = ids {
            command.args(["setpriv", "--clear-groups"]);
            command.args([format!("--reuid={user}"), format!("--regid={group}")]);
        }
        command.args(words);
        command
    }
}
