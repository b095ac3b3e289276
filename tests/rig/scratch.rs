//! Private directories, and a keeper that cleans up after a rig that was killed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{LIMIT, process, wait_until};

/// Waits for its standard input to close, which the kernel sees to however the
/// rig ends, Ctrl-C and SIGKILL included. Then ends the gateways whose process
/// ids lie in the directory and everything that was started with the
/// directory's name in its environment, or works in there (Slurm's steps write
/// their titles over their environment).
const KEEPER: &str = r#"
    trap '' HUP INT TERM
    read -r _
    for file in "$1"/*/sshd.pid; do
        read -r pid 2>/dev/null <"$file" || continue
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = sshd ] || continue
        kill -KILL $(cat "/proc/$pid/task/$pid/children" 2>/dev/null) "$pid"
    done
    for file in $(grep -ls "LICFWD_RIG=$1/" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}"
    done
    for link in /proc/[0-9]*/cwd; do
        case $(readlink "$link") in "$1"/*) ;; *) continue ;; esac
        pid=${link#/proc/}
        kill -KILL "${pid%/cwd}"
    done
    rm -rf "$1"
"#;

/// A directory that nobody else can enter, removed on drop.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory with a short name (sockets fit in).
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root().join(number.to_string());
        make_directory(&path, 0o700);
        Scratch { path }
    }

    /// The directory's absolute name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The absolute name of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file that only its owner can read, and returns its name.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).expect("write a scratch file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    }

    /// Reads a file; one that is not there yet is empty.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.file(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes a pipe with a name, unless it is there: who opens it waits until
    /// [`Scratch::open_pipe`].
    pub fn make_pipe(&self, name: &str) {
        let path = self.file(name);
        let made =
            path.exists() || Command::new("mkfifo").arg(&path).status().is_ok_and(|s| s.success());
        assert!(made, "mkfifo {name}");
    }

    /// Writes a line to whoever reads there, now or soon.
    #[track_caller]
    pub fn open_pipe(&self, name: &str) {
        const NONBLOCK: i32 = 0o4000;
        let mut pipe = None;
        wait_until("somebody reads the pipe", LIMIT, || {
            let mut open = fs::File::options();
            pipe = open.write(true).custom_flags(NONBLOCK).open(self.file(name)).ok();
            pipe.is_some()
        });
        pipe.expect("open").write_all(b"\n").expect("a pipe has room");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The directory that holds all others of this process.
fn root() -> &'static Path {
    static ROOT: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (path, _keeper) = ROOT.get_or_init(|| {
        // Root's gateways run as another user, who must get through to theirs.
        let (base, mode) = match process::is_root() {
            true => (PathBuf::from("/tmp"), 0o711),
            false => (std::env::temp_dir(), 0o700),
        };
        let path = base.join(format!("licfwd-{:08x}", rand::random::<u32>()));
        make_directory(&path, mode);
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .expect("start the keeper");
        (path, keeper)
    });
    path
}

fn make_directory(path: &Path, mode: u32) {
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .unwrap_or_else(|e| panic!("make {}: {e}", path.display()));
}
