//! What there is to know about a gateway: ssh_config(5), resolved.
//!
//! One struct for each part of the way there, so that whoever goes that part
//! takes its settings and no others. Where a field is called as ssh_config's
//! keyword is, that says what it means; a list of algorithms that is empty
//! stands for no preference.

use crate::error::{Code, Error};
use crate::target::{split_port, split_user};
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the gateway and log in there.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// As typed, `user@` included.
    pub name: String,
    /// What a person gives ssh to get there: its options as typed, and the name.
    pub by_hand: String,
    /// HostName.
    pub host: String,
    pub port: u16,
    pub user: String,
    /// ConnectTimeout: a limit for each step on the way.
    pub connect_timeout: Option<Duration>,
    /// AddressFamily, where nothing else carries the connection.
    pub family: Family,
    /// What carries the connection instead.
    pub proxy: Option<Proxy>,
    /// What the key exchange may agree on.
    pub algorithms: AlgorithmSettings,
    /// How the gateway proves who it is.
    pub host_key: HostKeySettings,
    /// How the user does.
    pub login: LoginSettings,
    /// ServerAliveInterval and ServerAliveCountMax.
    pub silence: Silence,
    /// StreamLocalBindUnlink: an old socket makes way for a new one.
    pub unlink_sockets: bool,
    /// GatewayPorts: a forward without a bind address listens at every address.
    pub gateway_ports: bool,
    /// ControlPath, where an ssh master listens on it right now.
    pub control_path: Option<PathBuf>,
    /// ForkAfterAuthentication.
    pub forks: bool,
    /// The first setting that is ssh's alone, as ssh_config has it.
    pub ssh_alone: Option<String>,
    /// The ssh program is installed.
    pub has_ssh: bool,
}

impl Gateway {
    /// For the message of a refused login: who has a living master connection never
    /// notices that a login without it does not work.
    pub fn master(&self) -> String {
        let tell = |path: &PathBuf| {
            let path = path.display();
            format!("; ssh itself would reuse the connection at {path}, licfwd cannot")
        };
        self.control_path.as_ref().map_or_else(String::new, tell)
    }
}

/// Which address family the gateway is reached by (`-4`, `-6`, AddressFamily).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

/// A program that carries the connection to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// ProxyJump.
    Jump {
        /// The hosts on the way, with commas between, the first one first.
        hosts: String,
        /// `-F`, for their settings; absolute, because the daemon lives in `/`.
        config_file: Option<PathBuf>,
    },
    /// ProxyCommand, for the shell; its `%` tokens are expanded.
    Command(String),
}

/// Takes a host of ProxyJump apart: `[user@]host[:port]`, or the same as a URI.
pub fn split_hop(text: &str) -> (Option<&str>, &str, Option<&str>) {
    let text = text.trim();
    let text = text.strip_prefix("ssh://").map_or(text, |uri| uri.trim_end_matches('/'));
    let (user, host) = split_user(text);
    let (host, port) = split_port(host);
    (user, host, port)
}

/// What the key exchange may agree on.
#[derive(Clone, Debug)]
pub struct AlgorithmSettings {
    pub ciphers: Vec<String>,
    pub macs: Vec<String>,
    /// KexAlgorithms.
    pub kex: Vec<String>,
    /// PubkeyAcceptedAlgorithms: of the keys that are shown to the gateway.
    pub public_key: Vec<String>,
    /// RequiredRSASize: how long an RSA key has to be, in bits, theirs and ours.
    pub rsa_bits: usize,
    pub compression: bool,
}

/// Which host keys are to be trusted.
#[derive(Clone, Debug)]
pub struct HostKeySettings {
    /// HostKeyAlias: replaces host and port in every look-up.
    pub alias: Option<String>,
    /// StrictHostKeyChecking.
    pub strict: Strict,
    /// ssh would ask about a new key, as it does without that setting.
    pub asks: bool,
    /// HashKnownHosts: whether a name that is written down is hashed.
    pub hash_known_hosts: bool,
    /// UserKnownHostsFile; a new key goes to the first.
    pub user_files: Vec<PathBuf>,
    /// GlobalKnownHostsFile.
    pub global_files: Vec<PathBuf>,
    /// HostKeyAlgorithms.
    pub algorithms: Vec<String>,
}

impl HostKeySettings {
    /// All files, in the order in which ssh reads them.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.user_files.iter().chain(&self.global_files)
    }
}

/// What to do about a key that no file knows: `StrictHostKeyChecking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    /// Refuse it: `yes`, and `ask` too, because nobody is there to ask.
    Yes,
    /// Trust it and write it down: `accept-new`, and `no` too. ssh would go on with
    /// a changed key then, but forward nothing.
    AcceptNew,
    /// Trust it and say that it would be written down: a dry run of `accept-new`.
    AcceptUnwritten,
}

impl Strict {
    /// The value as ssh_config(5) spells it, or as `ssh -G` prints it (`true`
    /// for `yes`, `false` for `no`). Anything unknown is strict.
    pub fn parse(word: &str) -> Strict {
        match word.to_ascii_lowercase().as_str() {
            "accept-new" | "no" | "off" | "false" => Strict::AcceptNew,
            _ => Strict::Yes,
        }
    }
}

/// How the user may log in, and with what.
#[derive(Clone, Debug)]
pub struct LoginSettings {
    /// IdentityFile, in order; a file need not exist.
    pub identity_files: Vec<PathBuf>,
    /// Files named with `-i` that ssh found inaccessible and dropped, as it names them.
    pub missing_identities: Vec<String>,
    pub certificate_files: Vec<PathBuf>,
    /// The agent's socket: IdentityAgent, else SSH_AUTH_SOCK.
    pub identity_agent: Option<PathBuf>,
    /// IdentitiesOnly: no agent key besides those of `identity_files`.
    pub identities_only: bool,
    /// BatchMode: never ask.
    pub batch_mode: bool,
    /// PreferredAuthentications; empty: ssh's own order.
    pub preferred_methods: Vec<String>,
    /// PubkeyAuthentication.
    pub pubkey: bool,
    pub password: bool,
    /// KbdInteractiveAuthentication.
    pub keyboard_interactive: bool,
    /// NumberOfPasswordPrompts.
    pub password_prompts: u32,
    /// HostbasedAuthentication, which only ssh can do.
    pub hostbased: bool,
    /// GSSAPIAuthentication, which only ssh can do.
    pub gssapi: bool,
}

/// Who logs in at the gateway: `--via`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// libssh2, and ssh where only ssh can get in.
    #[default]
    Auto,
    /// libssh2 alone.
    Libssh2,
    /// ssh alone.
    Ssh,
}

/// How long the gateway may be silent before it counts as lost, and the steps
/// on the way there.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// The connection is given up. A little less than what is promised.
    pub limit: Duration,
    /// sshd itself is asked. Half of what is promised, so that an idle tunnel
    /// wakes up four times a minute: twice to ask, twice to hear the answer.
    pub ask: Duration,
    /// The gateway's kernel is asked (TCP keepalive).
    pub idle: Duration,
}

impl Silence {
    /// What is promised is ServerAliveInterval times ServerAliveCountMax. Both
    /// have a bound, so that a silent loss is always noticed within 60 s.
    pub fn new(interval: Option<u64>, count: Option<u64>) -> Silence {
        let interval = interval.filter(|seconds| (1..=20).contains(seconds));
        let idle = Duration::from_secs(interval.unwrap_or(20));
        let promised = idle * count.unwrap_or(3).clamp(1, 3) as u32;
        Silence { limit: promised * 19 / 20, ask: promised / 2, idle }
    }
}

/// A failure at the gateway that another try may mend.
pub fn gateway_down(gateway: &Gateway, what: String) -> Error {
    Error::new(
        Code::GatewayDown,
        format!("gateway {} ({} port {}): {what}", gateway.name, gateway.host, gateway.port),
    )
}
