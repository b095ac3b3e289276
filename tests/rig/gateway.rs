//! A real OpenSSH server on loopback, thrown away afterwards.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::{LIMIT, Overlay, Scratch, debian13, free_port, network, process, wait_until};

/// The name under which the gateway stands in its `ssh_config`.
pub const NAME: &str = "gw";

/// An sshd with fresh keys on a free port of 127.0.0.1.
///
/// It runs as the user of the test, or as `daemon` when that is root: such an
/// sshd lets only its own user in, but needs no directory outside its own, and
/// it does not mind a machine whose root account is locked (`nobody` counts as
/// locked where systemd answers for it).
pub struct Gateway {
    port: u16,
    /// Keys, configuration and log of sshd, owned by its user.
    server: Scratch,
    /// The key, `ssh_config` and `known_hosts` of the one who logs in.
    client: Scratch,
    /// What sshd sees in place of the system's files.
    overlay: Overlay,
    /// What they see who log in.
    client_overlay: Overlay,
    place: Place,
    sshd: Option<Child>,
}

/// Where sshd runs.
enum Place {
    /// In this machine's network, and its own program.
    Here,
    /// In the network of a process.
    Network(u32),
    /// In another system's root, and that system's program.
    Root(&'static Path),
}

/// The password of the account behind [`Gateway::asking`].
pub const PASSWORD: &str = "a secret";
/// Its second factor.
pub const CODE: &str = "123456";

/// The line that keeps all of sshd's key exchanges: of most gateways' those are taken
/// away that cost an ssh more than the rest of its login.
pub const ALL_KEX: &str = "KexAlgorithms +curve25519-sha256";

/// The first as `crypt(3)` has it, in a line of /etc/shadow.
const SHADOW: &str = "$6$licfwd$T.UEhTZh5WLzOBATUQsd8YEwvY5.PAIbfEAodzhGiehbqwj5dGprME/WY93RzXtmf7B2VnB/0phuirzwvFSZX/:19000:0:99999:7:::";
/// One module asks for the password, the next for anything, and the last
/// compares that with the second factor.
const PAM: &str = "auth required pam_unix.so nodelay
auth optional pam_ftp.so
auth required pam_exec.so quiet expose_authtok ";

impl Gateway {
    /// A gateway that lets its user forward everything.
    pub fn start() -> Gateway {
        Gateway::with(&[])
    }

    /// A gateway with lines of `sshd_config` that come before the rig's own
    /// (sshd takes the first of each kind). `ListenAddress ::1` adds that family.
    pub fn with(lines: &[&str]) -> Gateway {
        Gateway::new(Scratch::new(), Overlay::default(), Place::Here, lines)
    }

    /// The same in the network of a process (root only).
    pub fn inside(network: u32, lines: &[&str]) -> Gateway {
        Gateway::new(Scratch::new(), Overlay::default(), Place::Network(network), lines)
    }

    /// The sshd of another root ([`debian13::root`]), with its files in `server`.
    pub fn in_root(root: &'static Path, server: Scratch, lines: &[&str]) -> Gateway {
        Gateway::new(server, Overlay::default(), Place::Root(root), lines)
    }

    /// A gateway whose account has a [`PASSWORD`], and with `UsePAM yes` a
    /// [`CODE`] as well; both only inside sshd's own mount namespace.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn asking(lines: &[&str]) -> Result<Gateway, String> {
        Overlay::check()?;
        let with_pam = lines.contains(&"UsePAM yes");
        if with_pam && !has_pam() {
            return Err("no PAM, or not all of its modules".into());
        }
        let server = Scratch::new();
        let name = &account().name;
        let shadow = server.write("shadow", &format!("{name}:{SHADOW}\n"));
        let check = format!("#!/bin/sh\n[ \"$(tr -d '\\0')\" = {CODE} ]\n");
        let check = server.write("check", &check);
        fs::set_permissions(&check, Permissions::from_mode(0o700)).expect("chmod");
        let rest = "account required pam_permit.so\nsession required pam_permit.so";
        let pam = format!("{PAM}{}\n{rest}\n", check.display());
        let pam = server.write("pam", &pam);
        for file in [&shadow, &check, &pam] {
            give_to_account(file);
        }
        let mut overlay = Overlay::default();
        overlay.add(shadow, "/etc/shadow");
        if with_pam {
            overlay.add(pam, "/etc/pam.d/sshd");
        }
        Ok(Gateway::new(server, overlay, Place::Here, lines))
    }

    /// A gateway that asks no name server, nor do its clients: who does not stand in
    /// /etc/hosts is unknown.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn without_name_servers() -> Result<Gateway, String> {
        Overlay::check()?;
        let server = Scratch::new();
        let ours = fs::read_to_string("/etc/nsswitch.conf");
        let ours = ours.map_err(|e| format!("/etc/nsswitch.conf: {e}"))?;
        let others = ours.lines().filter(|line| !line.starts_with("hosts:"));
        let text = others.fold(String::from("hosts: files\n"), |text, line| text + line + "\n");
        let file = server.write("nsswitch.conf", &text);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
        let mut overlay = Overlay::default();
        overlay.add(file, "/etc/nsswitch.conf");
        Ok(Gateway::overlaid(server, [overlay.clone(), overlay], &[], &[]))
    }

    /// A gateway that keeps its files in `server` and sees what the overlay has;
    /// so do its clients ([`Job::licfwd`](super::Job::licfwd)), with theirs.
    /// `client_lines` are added to its `ssh_config`.
    pub fn overlaid(
        server: Scratch,
        overlays: [Overlay; 2],
        lines: &[&str],
        client_lines: &[&str],
    ) -> Gateway {
        let [overlay, client_overlay] = overlays;
        let mut gateway = Gateway::new(server, overlay, Place::Here, lines);
        gateway.client_overlay = client_overlay;
        let config = gateway.client.read("ssh_config") + &client_lines.join("\n") + "\n";
        gateway.client.write("ssh_config", &config);
        gateway
    }

    fn new(server: Scratch, overlay: Overlay, place: Place, lines: &[&str]) -> Gateway {
        let client = Scratch::new();
        let host_key = keygen(&server.file("host_ed25519"), &["-t", "ed25519"]);
        let user_key = keygen(&client.file("id_ed25519"), &["-t", "ed25519"]);
        server.write("authorized_keys", &user_key);
        for name in ["", "host_ed25519", "authorized_keys"] {
            give_to_account(&server.file(name));
        }
        let mut gateway = Gateway {
            port: 0,
            server,
            client,
            overlay,
            client_overlay: Overlay::default(),
            place,
            sshd: None,
        };
        for _ in 0..10 {
            gateway.port = free_port();
            gateway.configure(lines, &host_key);
            if gateway.try_start() {
                return gateway;
            }
        }
        panic!("no gateway after ten ports");
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `ssh_config` file for `-F`, in which the gateway is called [`NAME`].
    pub fn config(&self) -> PathBuf {
        self.client.file("ssh_config")
    }

    /// The `known_hosts` file that holds its key.
    pub fn known_hosts(&self) -> PathBuf {
        self.client.file("known_hosts")
    }

    /// The private key that it lets in.
    pub fn identity(&self) -> PathBuf {
        self.client.file("id_ed25519")
    }

    /// The private key that shows who it is.
    pub fn host_key(&self) -> PathBuf {
        self.server.file("host_ed25519")
    }

    /// A program as its clients see it.
    pub fn client_command(&self, program: &Path) -> Command {
        self.client_overlay.command(program, None)
    }

    /// The directory with the three files above, for more of that kind.
    pub fn client(&self) -> &Scratch {
        &self.client
    }

    /// The user that may log in.
    pub fn user(&self) -> &'static str {
        &account().name
    }

    /// Lets in the given public keys (lines of `authorized_keys`) and no others.
    pub fn authorize(&self, public_keys: &str) {
        fs::write(self.server.file("authorized_keys"), public_keys).expect("authorized_keys");
    }

    /// Gives it another host key from the next start on; `known_hosts` keeps the old one.
    pub fn change_host_key(&self) {
        let key = self.server.file("host_ed25519");
        fs::remove_file(&key).expect("remove the host key");
        keygen(&key, &["-t", "ed25519"]);
        give_to_account(&key);
    }

    /// What sshd has logged since the gateway was made.
    pub fn log(&self) -> String {
        self.server.read("log")
    }

    /// Processes of its sessions, logged in or not yet.
    pub fn sessions(&self) -> Vec<process::Process> {
        let listener = self.sshd.as_ref().map(Child::id);
        listener.map(process::descendants).unwrap_or_default()
    }

    /// Ends listener and sessions without warning.
    pub fn kill(&mut self) {
        let Some(mut sshd) = self.sshd.take() else {
            return;
        };
        let listener = sshd.id();
        let pids = process::stop_all("sshd", || {
            let mut family = process::descendants(listener);
            family.extend(process::look(listener));
            family
        });
        process::signal("KILL", &pids);
        sshd.wait().expect("wait for sshd");
        let gone = || !pids.iter().any(|pid| process::alive(*pid));
        wait_until("sshd is gone", LIMIT, gone);
        let _ = fs::remove_file(self.server.file("sshd.pid"));
    }

    /// Ends the sessions without warning; the listener goes on.
    pub fn kill_sessions(&self) {
        let pids = process::stop_all("sessions of sshd", || self.sessions());
        process::signal("KILL", &pids);
    }

    /// Freezes the sessions: their connections stay open and say nothing.
    pub fn stop_sessions(&self) {
        process::stop_all("sessions of sshd", || self.sessions());
    }

    /// Lets frozen sessions go on.
    pub fn cont_sessions(&self) {
        let pids: Vec<u32> = self.sessions().iter().map(|p| p.pid).collect();
        process::signal("CONT", &pids);
    }

    /// Starts a killed gateway again, on the same port with the same keys.
    pub fn restart(&mut self) {
        self.kill();
        wait_until("sshd binds its port again", LIMIT, || self.try_start());
    }

    fn configure(&self, lines: &[&str], host_key: &str) {
        let server = self.server.path().display();
        let client = self.client.path().display();
        let port = self.port;
        let rules = [
            "ListenAddress 127.0.0.1".into(),
            format!("Port {port}"),
            format!("HostKey {server}/host_ed25519"),
            format!("AuthorizedKeysFile {server}/authorized_keys"),
            "PidFile none".into(),
            "StrictModes no".into(),
            "UsePAM no".into(),
            "UseDNS no".into(),
            "PasswordAuthentication no".into(),
            "KbdInteractiveAuthentication no".into(),
            "LogLevel VERBOSE".into(),
        ];
        let mut text = lines.join("\n") + "\n" + &rules.join("\n") + "\n";
        // A crowd of logins is what most tests make. Of this keyword sshd takes
        // the last one, not the first.
        if !lines.iter().any(|line| line.starts_with("MaxStartups")) {
            text += "MaxStartups 1000\n";
        }
        if !lines.iter().any(|line| line.starts_with("KexAlgorithms")) {
            text += "KexAlgorithms -sntrup*\n";
        }
        // Since 9.8 sshd locks out addresses whose logins fail.
        if knows_penalties() && !lines.iter().any(|line| line.starts_with("PerSourcePenalties")) {
            text += "PerSourcePenalties no\n";
        }
        let config = self.server.write("sshd_config", &text);
        give_to_account(&config);
        self.client
            .write("known_hosts", &format!("[127.0.0.1]:{port} {host_key}[::1]:{port} {host_key}"));
        let user = self.user();
        self.client.write(
            "ssh_config",
            &format!(
                "Host {NAME}\n\
                 HostName 127.0.0.1\n\
                 Port {port}\n\
                 User {user}\n\
                 IdentityFile {client}/id_ed25519\n\
                 IdentitiesOnly yes\n\
                 IdentityAgent none\n\
                 UserKnownHostsFile {client}/known_hosts\n\
                 GlobalKnownHostsFile /dev/null\n"
            ),
        );
    }

    /// Whether sshd got its port.
    fn try_start(&mut self) -> bool {
        let before = self.times_ready();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.server.file("log"))
            .expect("sshd's log");
        let mut sshd = self.sshd(&["-D", "-e"]).stderr(log).spawn().expect("run sshd");
        self.server.write("sshd.pid", &format!("{}\n", sshd.id()));
        let mut ended = false;
        wait_until("sshd listens", LIMIT, || {
            ended = sshd.try_wait().expect("wait for sshd").is_some();
            ended || self.times_ready() > before
        });
        self.sshd = (!ended).then_some(sshd);
        !ended
    }

    fn times_ready(&self) -> usize {
        self.log().matches("Server listening on 127.0.0.1").count()
    }

    fn sshd(&self, arguments: &[&str]) -> Command {
        let ids = account().ids;
        let mut command = match self.place {
            Place::Network(pid) => network::command(pid, sshd_program(), ids),
            Place::Root(root) => debian13::command(root, Path::new("/usr/sbin/sshd"), ids),
            Place::Here => self.overlay.command(sshd_program(), ids),
        };
        tame(&mut command);
        command.arg("-f").arg(self.server.file("sshd_config"));
        command.args(arguments);
        command
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- sshd on port {}\n{}", self.port, self.log());
        }
    }
}

/// Makes a key pair without passphrase; returns the public half as one line.
pub fn keygen(path: &Path, kind: &[&str]) -> String {
    // ssh-keygen's own 3072 take a second of work.
    let is_rsa = kind.contains(&"rsa") && !kind.contains(&"-b");
    let output = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "licfwd-rig"])
        .args(kind)
        .args(if is_rsa { &["-b", "2048"][..] } else { &[] })
        .arg("-f")
        .arg(path)
        .output()
        .expect("run ssh-keygen");
    assert!(output.status.success(), "ssh-keygen: {output:?}");
    let public = PathBuf::from(format!("{}.pub", path.display()));
    fs::read_to_string(public).expect("read the public key")
}

/// The account that a server runs as and lets in.
pub struct Account {
    /// Its name.
    pub name: String,
    /// User and group, when they are not our own.
    pub ids: Option<(u32, u32)>,
}

/// Our own account, or `daemon` when that is root.
pub fn account() -> &'static Account {
    static ACCOUNT: OnceLock<Account> = OnceLock::new();
    ACCOUNT.get_or_init(|| {
        let number = |option| process::id(&[option, "daemon"]).parse().expect("a number");
        match process::is_root() {
            true => Account { name: "daemon".into(), ids: Some((number("-u"), number("-g"))) },
            false => Account { name: process::id(&["-un"]), ids: None },
        }
    })
}

/// Makes the account the owner of a file.
pub fn give_to_account(path: &Path) {
    if let Some((user, group)) = account().ids {
        chown(path, Some(user), Some(group)).expect("chown");
    }
}

fn sshd_program() -> &'static Path {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"];
    let mut places = places.into_iter().map(Path::new);
    let place = places.find(|place| place.exists());
    place.expect("sshd is not installed (openssh-server)")
}

/// Nothing of the caller's reaches the command.
fn tame(command: &mut Command) {
    command.env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null());
}

/// Whether [`PAM`]'s modules are installed, and PAM has a file to lay it over.
fn has_pam() -> bool {
    let places = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
    let entries = places.into_iter().filter_map(|place| fs::read_dir(place).ok());
    let below = entries.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut places = below.chain(places.map(PathBuf::from));
    let complete = |place: PathBuf| {
        let mut modules = ["unix", "ftp", "exec", "permit"].into_iter();
        modules.all(|name| place.join(format!("security/pam_{name}.so")).exists())
    };
    Path::new("/etc/pam.d/sshd").exists() && places.any(complete)
}

fn knows_penalties() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let mut check = Overlay::default().command(sshd_program(), account().ids);
        tame(&mut check);
        check.args(["-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no"]);
        let output = check.output().expect("run sshd -t");
        !String::from_utf8_lossy(&output.stderr).contains("Bad configuration option")
    })
}
