//! Runs one call as ssh and as licfwd, over each transport, and tells what came of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use super::gateway::{ALL_KEX, give_to_account, keygen};
use super::job::licfwd;
use super::traffic::check_out;
use super::{Gateway, Job, LIMIT, LicenseServer, Scratch, Service, free_port, process, wait_until};

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A client behind the forward gets its seat.
    In,
    /// 76: the gateway's host key is not trusted.
    HostKey,
    /// 77: the login, or the forward, is refused.
    Refused,
    /// Whatever else.
    NotReached,
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The oracle: `ssh -f -N -L`.
    Ssh,
    /// licfwd, which may choose.
    Auto,
    /// `licfwd --check`, which may too.
    Check,
    /// `licfwd --via libssh2`.
    Libssh2,
    /// `licfwd --via ssh`.
    ViaSsh,
}

/// All but the oracle.
pub const LICFWD: [Who; 4] = [Who::Auto, Who::Check, Who::Libssh2, Who::ViaSsh];

/// One call. Of its texts `{dir}` is a directory of the run's own, which is the home as
/// well; the others are [`World::fill`]'s.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Which of the world's gateways.
    pub gateway: Kind,
    /// Lines of ssh_config that come before the world's own.
    pub lines: String,
    /// The user's known_hosts; `None`: all the gateway's keys.
    pub known: Option<String>,
    /// Files in `{dir}`, by name; what begins with `#!` is a program.
    pub files: Vec<(String, String)>,
    /// Options.
    pub words: Vec<String>,
    /// Variables.
    pub env: Vec<(String, String)>,
    /// What the gateway is called; empty: `gw`.
    pub name: String,
}

/// A gateway of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It takes whatever sshd takes, and has a key of each kind and a certificate.
    #[default]
    Plain,
    /// It knows one algorithm of each kind, and no other.
    Narrow,
    /// It forbids forwarding.
    Forbidding,
    /// It has a banner of 60,000 bytes.
    Talking,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::Narrow, Kind::Forbidding, Kind::Talking];

/// The one algorithm of each kind that [`Kind::Narrow`] knows.
pub const NARROW: [(&str, &str); 5] = [
    ("KexAlgorithms", "curve25519-sha256"),
    ("Ciphers", "aes256-ctr"),
    ("MACs", "hmac-sha2-256"),
    ("HostKeyAlgorithms", "ssh-ed25519"),
    ("PubkeyAcceptedAlgorithms", "ssh-ed25519"),
];

/// Gateways, a license server behind them, and keys of all kinds.
pub struct World {
    gateways: Vec<Gateway>,
    server: LicenseServer,
    agent: Agent,
}

/// Keys: `id` and `id_rsa` get in, `id_certified` and `id_rsa_certified` with their
/// certificates, `id_alone` with its certificate that lies elsewhere, `id_other` not.
/// `host_*` are the gateways'. All worlds have the same: some take long to make.
fn files() -> &'static Scratch {
    static FILES: OnceLock<Scratch> = OnceLock::new();
    FILES.get_or_init(|| {
        let files = Scratch::new();
        fs::set_permissions(files.path(), Permissions::from_mode(0o711)).expect("chmod");
        let key = |name: &str, kind: &str| {
            keygen(&files.file(name), &kind.split(' ').collect::<Vec<_>>());
        };
        for kind in ["ed25519", "ecdsa", "rsa"] {
            key(&format!("host_{kind}"), &format!("-t {kind}"));
            give_to_account(&files.file(&format!("host_{kind}")));
        }
        for name in ["id", "id_certified", "id_alone", "id_other", "id_held", "ca", "other"] {
            key(name, "-t ed25519");
        }
        key("id_rsa", "-t rsa -b 2048");
        key("id_rsa_certified", "-t rsa -b 2048");
        let user = super::gateway::account().name.as_str();
        sign(&files, &["-h", "-n", "127.0.0.1,gw,localhost"], "host_ed25519");
        for name in ["id_certified", "id_rsa_certified", "id_alone", "id_held"] {
            sign(&files, &["-n", user], name);
        }
        fs::create_dir(files.file("elsewhere")).expect("a directory");
        for name in ["id_alone-cert.pub", "id_held-cert.pub"] {
            fs::rename(files.file(name), files.file(&format!("elsewhere/{name}"))).expect("move");
        }
        files.write("banner", &"welcome\n".repeat(7500));
        for name in ["banner", "ca.pub", "host_ed25519-cert.pub"] {
            fs::set_permissions(files.file(name), Permissions::from_mode(0o644)).expect("chmod");
        }
        files
    })
}

impl World {
    /// All of it.
    pub fn new() -> World {
        let gateways = KINDS.map(|kind| gateway(files(), kind)).into();
        let server = LicenseServer::start(Service::CheckOut);
        World { gateways, server, agent: Agent::start(files()) }
    }

    /// One of its gateways.
    pub fn gateway(&self, kind: Kind) -> &Gateway {
        &self.gateways[kind as usize]
    }

    /// Replaces `{world}` (its files' directory), `{agent}` (an agent's socket),
    /// `{port}` and `{host}` (the gateway's, as known_hosts has it), `{user}`, `{me}`
    /// (who runs this), `{KEY.pub}` of each key, as `type base64`, and `{known}`.
    pub fn fill(&self, kind: Kind, text: &str) -> String {
        let gateway = self.gateway(kind);
        let host = format!("[127.0.0.1]:{}", gateway.port());
        let known = "{host} {host_ed25519.pub}\n{host} {host_ecdsa.pub}\n{host} {host_rsa.pub}\n";
        let mut text = text.replace("{known}", known);
        for (name, value) in [
            ("{world}", files().path().display().to_string()),
            ("{agent}", self.agent.socket().display().to_string()),
            ("{port}", gateway.port().to_string()),
            ("{server}", self.server.port().to_string()),
            ("{host}", host),
            ("{user}", gateway.user().to_owned()),
        ] {
            text = text.replace(name, &value);
        }
        if text.contains("{me}") {
            text = text.replace("{me}", &process::id(&["-un"]));
        }
        while let Some((before, rest)) = text.split_once('{')
            && let Some((name, after)) = rest.split_once(".pub}")
        {
            let line = files().read(&format!("{name}.pub"));
            let key = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
            text = format!("{before}{key}{after}");
        }
        text
    }

    /// What comes of the call, and what was said.
    pub fn run(&self, call: &Call, who: Who) -> (Verdict, String) {
        let job = Job::new();
        let dir = job.directory().path().display().to_string();
        let fill = |text: &str| self.fill(call.gateway, &text.replace("{dir}", &dir));
        for (name, text) in &call.files {
            let path = job.directory().write(name, &fill(text));
            if text.starts_with("#!") {
                fs::set_permissions(path, Permissions::from_mode(0o700)).expect("chmod");
            }
        }
        let known = call.known.as_deref().unwrap_or("{known}");
        job.directory().write("known_hosts", &fill(known));
        job.directory().write("config", &fill(&config(&call.lines)));
        let gateway = self.gateway(call.gateway);
        let name = if call.name.is_empty() { "gw" } else { &call.name };
        let words = call.words.iter().map(|word| fill(word));
        let mut command = match who {
            Who::Ssh => job.client("sh", gateway),
            _ => job.client(licfwd(), gateway),
        };
        let path = format!("{}:{}", dir, std::env::var("PATH").unwrap_or_default());
        let env = call.env.iter().map(|(name, value)| (name, fill(value)));
        let port = free_port();
        if who == Who::Ssh {
            // Going to the background it would keep a pipe open.
            command.args(["-c", r#"exec ssh "$@" >said 2>&1"#, "ssh", "-F", "config", "-f", "-N"]);
            command.args(["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]);
            command.args(["-L", &format!("{port}:127.0.0.1:{}", self.server.port())]);
        } else {
            command.args(["-F", "config", "--tries", "1", "--timeout", "10"]);
            match who {
                Who::Check => drop(command.arg("--check")),
                Who::Libssh2 => drop(command.args(["--via", "libssh2"])),
                Who::ViaSsh => drop(command.args(["--via", "ssh"])),
                _ => {}
            }
        }
        command.args(words).arg(fill(name));
        if who != Who::Ssh {
            command.arg(format!("127.0.0.1:{}", self.server.port()));
        }
        command.env("PATH", path).envs(env);
        let outcome = job.run(&mut command);
        let mut said = outcome.stderr;
        let verdict = match (who, outcome.code) {
            (Who::Ssh, 0) if check_out(port, "MATLAB").is_ok() => Verdict::In,
            // From the background nothing is heard: the gateway forbids it.
            (Who::Ssh, 0) => Verdict::Refused,
            (Who::Ssh, _) => {
                said += &job.directory().read("said");
                of_ssh(&said)
            }
            (_, 0) => Verdict::In,
            (_, 76) => Verdict::HostKey,
            (_, 77) => Verdict::Refused,
            _ => Verdict::NotReached,
        };
        (verdict, said)
    }
}

/// What an ssh has come to that did not get in.
fn of_ssh(said: &str) -> Verdict {
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    if says(&["Host key verification failed", "host key check failure", "Bad server host key"]) {
        Verdict::HostKey
    } else if says(&["Permission denied (", "Too many authentication"]) {
        Verdict::Refused
    } else {
        Verdict::NotReached
    }
}

/// The lines, and what they leave open. Of each keyword the first counts, but of
/// IdentityFile every one.
fn config(lines: &str) -> String {
    let identity = match lines.contains("IdentityFile") {
        true => "",
        false => "IdentityFile {world}/id\n",
    };
    format!(
        "{lines}\nHost *\nHostName 127.0.0.1\nPort {{port}}\nUser {{user}}\n{identity}IdentitiesOnly yes\n\
         IdentityAgent none\nUserKnownHostsFile {{dir}}/known_hosts\nGlobalKnownHostsFile /dev/null\n\
         ConnectTimeout 10\nKexAlgorithms curve25519-sha256\n"
    )
}

fn sign(files: &Scratch, words: &[&str], name: &str) {
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-I", "rig", "-s"]).arg(files.file("ca")).args(words);
    let output = sign.arg(files.file(&format!("{name}.pub"))).output();
    let output = output.expect("run ssh-keygen");
    assert!(output.status.success(), "ssh-keygen -s: {output:?}");
}

/// An agent with the RSA certificate and with the key of the certificate elsewhere.
struct Agent {
    guardian: Child,
    job: Job,
}

/// Nobody may look into an agent (`PR_SET_DUMPABLE`), so that a job of an ordinary user
/// does not know it for its own: the end of the pipe is its end.
const GUARDIAN: &str = r#"ssh-agent -D -a "$0" >/dev/null 2>&1 & read -r _; kill $!; wait"#;

impl Agent {
    fn start(files: &Scratch) -> Agent {
        let job = Job::new();
        let socket = job.directory().file("agent");
        let mut guardian = job.command("sh");
        guardian.args(["-c", GUARDIAN]).arg(&socket).stdin(Stdio::piped());
        guardian.env_remove("LICFWD_RIG").current_dir("/");
        let guardian = guardian.spawn().expect("run sh");
        // The file is there a moment before it listens.
        wait_until("the agent listens", LIMIT, || UnixStream::connect(&socket).is_ok());
        for name in ["id_rsa_certified", "id_held"] {
            let mut add = job.command("ssh-add");
            add.arg("-q").arg(files.file(name)).env("SSH_AUTH_SOCK", &socket);
            assert_eq!(job.run(&mut add).code, 0, "ssh-add {name}");
        }
        Agent { guardian, job }
    }

    fn socket(&self) -> PathBuf {
        self.job.directory().file("agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

fn gateway(files: &Scratch, kind: Kind) -> Gateway {
    let file = |name: &str| files.file(name).display().to_string();
    let mut lines = vec![
        format!("HostKey {}", file("host_ed25519")),
        format!("HostKey {}", file("host_ecdsa")),
        format!("HostKey {}", file("host_rsa")),
        format!("HostCertificate {}", file("host_ed25519-cert.pub")),
        format!("TrustedUserCAKeys {}", file("ca.pub")),
    ];
    match kind {
        Kind::Plain => {}
        Kind::Narrow => lines.extend(NARROW.map(|(key, value)| format!("{key} {value}"))),
        Kind::Forbidding => lines.push("AllowTcpForwarding no".into()),
        Kind::Talking => lines.push(format!("Banner {}", file("banner"))),
    }
    // Of each keyword the first counts.
    lines.push(ALL_KEX.into());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&lines);
    gateway.authorize(&["id.pub", "id_rsa.pub"].map(|name| files.read(name)).concat());
    gateway
}

/// Does `one` for each of so many, several at a time, and fails with all that it
/// complains of.
#[track_caller]
pub fn each(count: usize, one: impl Fn(usize) -> Result<(), String> + Sync) {
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    if let Err(complaint) = one(number) {
                        complaints.lock().expect("a lock").push(complaint);
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().expect("a lock");
    assert!(complaints.is_empty(), "{} of {count}:\n{}", complaints.len(), complaints.join("\n"));
}

/// A program's path, or nothing where it is not installed.
pub fn path_of(program: &str) -> Option<String> {
    let places = ["/usr/bin", "/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(program));
    places.into_iter().find(|place| place.exists()).map(|place| place.display().to_string())
}
