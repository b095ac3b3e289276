//! A cluster as README and manual have it: their names lead to a gateway and to license
//! servers, and an ordinary user has a clean home, which nodes and gateway share.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::gateway::{ALL_KEX, account, keygen};
use super::job::built;
use super::{Gateway, Job, LicenseServer, Outcome, Overlay, Scratch, Service};

/// The ports of license servers that the documentation names.
const PORTS: [u16; 9] = [443, 1055, 1700, 5053, 5055, 8349, 9999, 27000, 41954];
/// Where they are, and what they are called.
pub const SERVERS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
const SERVER_NAMES: &str = "licserver lic lic1 lic2 a b c k token.gurobi.com";
const GATEWAY_NAMES: &str = "localhost tri-gw l1 l2 l3 l4 l5 login";

/// Licensed software: checks a feature out of whichever server it is told.
const SOFTWARE: &str = r#"#!/bin/bash
value=${MLM_LICENSE_FILE:-${ANSYSLMD_LICENSE_FILE:?}}
exec 3<>"/dev/tcp/${value#*@}/${value%@*}" || exit
echo 'CHECKOUT x' >&3
read -r answer <&3
echo "$answer"
[[ $answer = GRANTED* ]]
"#;

/// What else a site has installed.
const PROGRAMS: [(&str, &str); 6] = [
    ("matlab", SOFTWARE),
    ("solver", SOFTWARE),
    ("srun", "#!/bin/sh\nexec \"$@\"\n"),
    ("hostname", "#!/bin/sh\necho 127.0.0.1\n"),
    ("scontrol", "#!/bin/sh\necho localhost\n"),
    ("module", "#!/bin/sh\n"),
];

/// Only in a network of the test's own: all ports are those of the documentation.
pub struct Cluster {
    /// Its sshd; it lets in whom `~/.ssh/authorized_keys` lets in, as sshd's defaults have it.
    pub gateway: Gateway,
    /// The user's processes.
    job: Job,
    overlay: Overlay,
    /// What the site gives to everybody: programs, and the gateway's host key.
    site: Scratch,
    _servers: Vec<LicenseServer>,
}

impl Cluster {
    /// With lines of `sshd_config`.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn with(sshd_lines: &[&str]) -> Result<Cluster, String> {
        Overlay::check()?;
        // In this network alone.
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "22").expect("port 22");
        let (site, job, server) = (Scratch::new(), Job::new(), Scratch::new());
        fs::set_permissions(site.path(), Permissions::from_mode(0o755)).expect("chmod");
        for (name, text) in PROGRAMS {
            public(&site, name, text, 0o755);
        }
        fs::copy(built(), site.file("licfwd")).expect("licfwd");
        let home = job.directory().path();
        let node = fs::read_to_string("/proc/sys/kernel/hostname").expect("the node's name");
        let hosts = format!("127.0.0.1 {GATEWAY_NAMES} {node}{SERVERS} {SERVER_NAMES}\n");
        let known = site.file("ssh_known_hosts").display().to_string();
        // The rest is Debian's.
        let config = format!(
            "Host *\n GlobalKnownHostsFile {known}\n HashKnownHosts yes\n GSSAPIAuthentication yes\n"
        );
        let mut overlay = Overlay::default();
        for (name, text, over) in [
            ("passwd", with_user(home), "/etc/passwd"),
            ("hosts", hosts, "/etc/hosts"),
            (
                "nsswitch",
                "passwd: files\ngroup: files\nhosts: files\n".into(),
                "/etc/nsswitch.conf",
            ),
            ("ssh_config", config, "/etc/ssh/ssh_config"),
        ] {
            overlay.add(public(&site, name, &text, 0o644), over);
        }
        let rules =
            ["Port 22", "StrictModes yes", "AuthorizedKeysFile .ssh/authorized_keys", ALL_KEX];
        let lines = [sshd_lines, &rules].concat();
        let overlays = [overlay.clone(), overlay.clone()];
        let gateway = Gateway::overlaid(server, overlays, &lines, &[]);
        let host_key = fs::read_to_string(format!("{}.pub", gateway.host_key().display()));
        let known = format!("* {}", host_key.expect("the gateway's key"));
        public(&site, "ssh_known_hosts", &known, 0o644);
        let serve = |port| LicenseServer::at(Service::CheckOut, SocketAddr::from((SERVERS, port)));
        let servers = PORTS.into_iter().map(serve).collect();
        let cluster = Cluster { gateway, job, overlay, site, _servers: servers };
        cluster.clean_home();
        Ok(cluster)
    }

    /// The user's home directory.
    pub fn home(&self) -> &Path {
        self.job.directory().path()
    }

    /// The user has no file, and no process.
    pub fn clean_home(&self) {
        self.job.end();
        for entry in fs::read_dir(self.home()).expect("the home directory") {
            let path = entry.expect("a file").path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.expect("remove what is in it");
        }
        self.give(self.home());
    }

    /// The user has a key, and the gateway lets it in for everything.
    pub fn with_a_key(&self) {
        self.clean_home();
        let ssh = self.home().join(".ssh");
        fs::create_dir(&ssh).expect("~/.ssh");
        let key = keygen(&ssh.join("id_ed25519"), &["-t", "ed25519"]);
        fs::write(ssh.join("authorized_keys"), key).expect("authorized_keys");
        for file in ["", "id_ed25519", "id_ed25519.pub", "authorized_keys"] {
            self.give(&ssh.join(file));
        }
    }

    fn give(&self, path: &Path) {
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        if let Some((user, group)) = account().ids {
            chown(path, Some(user), Some(group)).expect("chown");
        }
    }

    /// No login by hand has been made: the node knows no gateway.
    pub fn forget_the_gateway(&self) {
        public(&self.site, "ssh_known_hosts", "", 0o644);
    }

    /// A shell of the user's on a node, for `text`; as a file, because tcsh's `-c` goes
    /// on after `exit`.
    pub fn shell(&self, shell: &str, text: &str) -> Command {
        let script = public(&self.site, "script", text, 0o644);
        let mut command = self.overlay.command(Path::new(shell), account().ids);
        command.arg(script);
        let mut command = self.job.wrap(command);
        let site = self.site.path().display();
        command.env("PATH", format!("{site}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"));
        command.env("USER", "user").env("LOGNAME", "user");
        command
    }

    /// Runs what somebody pastes there.
    #[track_caller]
    pub fn paste(&self, shell: &str, text: &str) -> Outcome {
        self.job.run(&mut self.shell(shell, text))
    }

    /// The user's processes.
    pub fn job(&self) -> &Job {
        &self.job
    }
}

/// A file that everybody can read.
fn public(site: &Scratch, name: &str, text: &str, mode: u32) -> PathBuf {
    // In place: it may lie over another.
    let path = site.file(name);
    fs::write(&path, text).expect("write a file");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
    path
}

/// The users of this machine, and in the place of our [`account`] one called `user`.
fn with_user(home: &Path) -> String {
    let ours = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let name = &account().name;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [known, _, uid, gid, ..] if known == name => {
                format!("user:x:{uid}:{gid}::{}:/bin/bash\n", home.display())
            }
            _ => format!("{line}\n"),
        }
    };
    ours.lines().map(line).collect()
}
