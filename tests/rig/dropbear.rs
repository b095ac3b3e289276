//! Dropbear's SSH server on loopback, thrown away afterwards.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::gateway::{account, give_to_account};
use super::{LIMIT, Overlay, Scratch, free_port, process, wait_until};

/// A dropbear with a fresh key on a free port of 127.0.0.1, under the account
/// of [`Gateway`](super::Gateway). It looks for authorized_keys in the home
/// directory; a passwd file of its own says where that is.
pub struct Dropbear {
    port: u16,
    directory: Scratch,
    server: Child,
}

impl Dropbear {
    /// A dropbear that lets in the given lines of `authorized_keys`.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn start(authorized_keys: &str) -> Result<Dropbear, String> {
        Overlay::check()?;
        let program = program().ok_or("no dropbear (dropbear-bin)")?;
        let directory = Scratch::new();
        let home = directory.file("home");
        fs::create_dir_all(home.join(".ssh")).expect("make a home");
        fs::write(home.join(".ssh/authorized_keys"), authorized_keys).expect("authorized_keys");
        for name in ["", ".ssh", ".ssh/authorized_keys"] {
            fs::set_permissions(home.join(name), Permissions::from_mode(0o700)).expect("chmod");
            give_to_account(&home.join(name));
        }
        let ids =
            process::id(&["-u", &account().name]) + ":" + &process::id(&["-g", &account().name]);
        let line = format!("{}:x:{ids}::{}:/bin/sh\n", account().name, home.display());
        let passwd = directory.write("passwd", &line);
        fs::set_permissions(&passwd, Permissions::from_mode(0o644)).expect("chmod");
        let host_key = host_key(&directory);
        give_to_account(&directory.file("host_key"));
        give_to_account(directory.path());

        let mut overlay = Overlay::default();
        overlay.add(passwd, "/etc/passwd");
        let port = free_port();
        let log = File::create(directory.file("log")).expect("dropbear's log");
        let mut command = overlay.command(&program, account().ids);
        command.args(["-F", "-E", "-p", &format!("127.0.0.1:{port}"), "-r"]);
        command.arg(directory.file("host_key"));
        command.arg("-P").arg(directory.file("pid"));
        command.env("LICFWD_RIG", directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let server = command.spawn().expect("run dropbear");
        directory.write("known_hosts", &format!("[127.0.0.1]:{port} {host_key}\n"));
        let dropbear = Dropbear { port, directory, server };
        wait_until("dropbear listens", LIMIT, || dropbear.log().contains("Not backgrounding"));
        Ok(dropbear)
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `known_hosts` file that holds its key.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.file("known_hosts")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.directory.read("log")
    }
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        let tag = self.directory.path().display().to_string();
        wait_until("dropbear is gone", LIMIT, || {
            let pids = process::tagged(&tag);
            process::signal("KILL", &pids);
            pids.is_empty()
        });
        let _ = self.server.wait();
        if std::thread::panicking() {
            eprintln!("---- dropbear on port {}\n{}", self.port, self.log());
        }
    }
}

fn program() -> Option<PathBuf> {
    let places = ["/usr/sbin/dropbear", "/usr/local/sbin/dropbear"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.map(PathBuf::from)
}

/// Makes the host key; returns its public half.
fn host_key(directory: &Scratch) -> String {
    let mut command = Command::new("dropbearkey");
    command.args(["-t", "ed25519", "-f"]);
    let output = command.arg(directory.file("host_key")).output();
    let output = output.expect("run dropbearkey");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("ssh-ed25519 "));
    line.expect("a public key").to_owned()
}
