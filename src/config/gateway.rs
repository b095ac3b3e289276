//! Asks `ssh -G` how to reach the gateway.
//!
//! `ssh -G` prints one `keyword value` per line and leaves some values raw; which
//! ones depends on its version (read in `ssh.c` of 7.4, 8.0 and 9.2):
//!
//! | keyword | 7.4, 8.0 | 9.2 |
//! |---|---|---|
//! | IdentityFile, CertificateFile | raw `~` and `%`; 7.4 prints no CertificateFile | raw |
//! | UserKnownHostsFile, IdentityAgent | raw | expanded |
//! | ControlPath | expanded | expanded |
//!
//! Expanding an expanded value again changes nothing, so all of them are.

use super::ssh_g::{ask_ssh, without_ssh};
use super::tokens::{Here, Tokens};
use crate::error::{Code, Error, Result};
use crate::log::Log;
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

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

/// What to do about a key that no file knows: `StrictHostKeyChecking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    /// Refuse it: `yes`, and `ask` too, because nobody is there to ask.
    Yes,
    /// Trust it and write it down.
    AcceptNew,
    /// Trust it and say that it would be written down: a dry run of `accept-new`.
    AcceptUnwritten,
    /// Trust it with a warning.
    No,
}

impl Strict {
    /// The value as ssh_config(5) spells it, or as `ssh -G` prints it (`true`
    /// for `yes`, `false` for `no`). Anything unknown is strict.
    pub fn parse(word: &str) -> Strict {
        match word.to_ascii_lowercase().as_str() {
            "accept-new" => Strict::AcceptNew,
            "no" | "off" | "false" => Strict::No,
            _ => Strict::Yes,
        }
    }
}

/// Which address family the gateway is reached by (`-4`, `-6`, AddressFamily).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Either.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// How to reach the gateway and log in there: ssh_config(5), resolved.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// As typed, `user@` included.
    pub name: String,
    /// HostName.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// IdentityFile, in order; a file need not exist.
    pub identity_files: Vec<PathBuf>,
    /// Files named with `-i` that ssh found inaccessible and dropped, as it names them.
    pub missing_identities: Vec<String>,
    /// CertificateFile.
    pub certificate_files: Vec<PathBuf>,
    /// The agent's socket: IdentityAgent, else SSH_AUTH_SOCK.
    pub identity_agent: Option<PathBuf>,
    /// IdentitiesOnly: no agent key besides those of `identity_files`.
    pub identities_only: bool,
    /// UserKnownHostsFile.
    pub user_known_hosts: Vec<PathBuf>,
    /// GlobalKnownHostsFile.
    pub global_known_hosts: Vec<PathBuf>,
    /// HostKeyAlias.
    pub host_key_alias: Option<String>,
    /// StrictHostKeyChecking; `ask` is [`Strict::Yes`], because nobody is there to ask.
    pub strict: Strict,
    /// HashKnownHosts.
    pub hash_known_hosts: bool,
    /// HostKeyAlgorithms; empty: no preference.
    pub host_key_algorithms: Vec<String>,
    /// Ciphers; empty: no preference.
    pub ciphers: Vec<String>,
    /// MACs; empty: no preference.
    pub macs: Vec<String>,
    /// KexAlgorithms; empty: no preference.
    pub kex_algorithms: Vec<String>,
    /// ConnectTimeout.
    pub connect_timeout: Option<Duration>,
    /// ServerAliveInterval, 20 s at most.
    pub alive_interval: Duration,
    /// ServerAliveCountMax, from 1 to 3.
    pub alive_count: u32,
    /// BindAddress.
    pub bind_address: Option<String>,
    /// BindInterface.
    pub bind_interface: Option<String>,
    /// AddressFamily.
    pub family: Family,
    /// Compression.
    pub compression: bool,
    /// StreamLocalBindUnlink: an old socket makes way for a new one.
    pub unlink_sockets: bool,
    /// `-F`, for the jump hosts; absolute, because the daemon lives in `/`.
    pub config_file: Option<PathBuf>,
    /// ProxyJump.
    pub proxy_jump: Option<String>,
    /// ProxyCommand, its `%` tokens as written.
    pub proxy_command: Option<String>,
    /// ControlPath, where an ssh master listens on it right now.
    pub control_path: Option<PathBuf>,
    /// BatchMode: never ask.
    pub batch_mode: bool,
    /// PubkeyAuthentication.
    pub pubkey: bool,
    /// PasswordAuthentication.
    pub password: bool,
    /// KbdInteractiveAuthentication.
    pub keyboard_interactive: bool,
    /// NumberOfPasswordPrompts.
    pub password_prompts: u32,
    /// HostbasedAuthentication, which only ssh can do.
    pub hostbased: bool,
    /// GSSAPIAuthentication, which only ssh can do.
    pub gssapi: bool,
    /// PKCS11Provider is set: a token holds keys, which only ssh can use.
    pub token: bool,
    /// ForkAfterAuthentication.
    pub forks: bool,
    /// The ssh program is installed.
    pub has_ssh: bool,
    /// PreferredAuthentications; empty: ssh's own order.
    pub preferred_methods: Vec<String>,
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
    /// ServerAliveInterval times ServerAliveCountMax: 60 s at most, by the
    /// bounds that [`Gateway`] puts on both.
    pub fn of(gateway: &Gateway) -> Silence {
        let promised = gateway.alive_interval * gateway.alive_count;
        Silence {
            limit: promised * 19 / 20,
            ask: promised / 2,
            idle: gateway.alive_interval,
        }
    }
}

/// A failure at the gateway that another try may mend.
pub fn gateway_down(gateway: &Gateway, what: String) -> Error {
    Error::new(
        Code::GatewayDown,
        format!(
            "gateway {} ({} port {}): {what}",
            gateway.name, gateway.host, gateway.port
        ),
    )
}

/// Resolves `gateway` (`[user@]host`) as ssh would, given ssh's own options;
/// from the command line alone where no ssh is installed.
///
/// # Errors
/// [`Code::Usage`]: a name that ssh would take for an option. [`Code::Config`]:
/// `ssh -G` failed, in its own words, or took longer than `timeout`.
pub fn resolve(
    gateway: &str,
    ssh_options: &[OsString],
    timeout: Duration,
    log: &Log,
) -> Result<Gateway> {
    if gateway.is_empty() || gateway.starts_with('-') {
        let why = "not a host name";
        return Err(Error::new(
            Code::Usage,
            format!("gateway {gateway:?}: {why}"),
        ));
    }
    let here = Here::find();
    let answer = ask_ssh(gateway, ssh_options, timeout)?;
    let has_ssh = answer.is_some();
    let (text, remarks) = match answer {
        Some(answer) => answer,
        None => {
            log.detail("no ssh in PATH: using the command line and ssh's defaults");
            (without_ssh(gateway, ssh_options, &here)?, String::new())
        }
    };
    let mut found = parse(&text, gateway, &here)?;
    found.has_ssh = has_ssh;
    for line in remarks.lines().map(str::trim) {
        let line = line.strip_prefix("Warning: ").unwrap_or(line);
        if let Some(rest) = line.strip_prefix("Identity file ")
            && let Some((file, _)) = rest.split_once(" not accessible")
        {
            found.missing_identities.push(file.to_owned());
        }
        // A debug log level in ssh_config tells its steps here.
        if !line.is_empty() && !line.starts_with("debug") && !line.starts_with("OpenSSH_") {
            log.note(format_args!("ssh: {}", line.trim_end_matches('.')));
        }
    }
    // Only a listening master counts: a stale socket file stays for ever.
    found.control_path = found
        .control_path
        .filter(|path| UnixStream::connect(path).is_ok());
    found.config_file = ssh_options
        .windows(2)
        .rfind(|pair| pair[0] == "-F")
        .map(|pair| std::path::absolute(&pair[1]).unwrap_or_else(|_| pair[1].clone().into()));
    Ok(found)
}

/// Turns the text of `ssh -G` into a [`Gateway`]. Pure but for `here.env`.
fn parse(text: &str, name: &str, here: &Here) -> Result<Gateway> {
    let lines: Vec<(String, &str)> = text
        .lines()
        .filter_map(|line| line.trim().split_once([' ', '\t']))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.trim()))
        .collect();
    // ssh's own rule: the first value obtained counts.
    let get = |key: &str| lines.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
    let some = |key: &str| get(key).filter(|v| !v.eq_ignore_ascii_case("none"));
    let on = |key: &str, unset: bool| {
        get(key).map_or(unset, |v| !matches!(v, "no" | "false" | "off" | "none"))
    };
    let list = |key: &str| -> Vec<String> {
        let value = some(key).unwrap_or_default();
        // An edit of the default list (`+x`) comes only without an ssh to apply it.
        if value.starts_with(['+', '-', '^']) {
            return Vec::new();
        }
        let parts = value.split(',').map(str::to_owned);
        parts.filter(|part| !part.is_empty()).collect()
    };
    let seconds = |key: &str| get(key).and_then(|v| v.parse().ok());
    let bad = |key: &str| {
        let value = get(key).unwrap_or("missing");
        let what = format!("ssh -G {name}: {key}: {value}");
        Error::new(Code::Config, what)
    };

    let host = get("hostname").ok_or_else(|| bad("hostname"))?.to_owned();
    let user = get("user").ok_or_else(|| bad("user"))?.to_owned();
    let port: u16 = match get("port").unwrap_or("22").parse() {
        Ok(port) if port > 0 => port,
        _ => return Err(bad("port")),
    };
    let alias = some("hostkeyalias").map(str::to_owned);
    let tokens = Tokens {
        here,
        name: name.rsplit_once('@').map_or(name, |(_, host)| host),
        host: &host,
        port,
        user: &user,
        alias: alias.as_deref().unwrap_or(&host),
        jump: some("proxyjump").unwrap_or_default(),
    };
    let file = |value: &str| tokens.path(value);
    let files = |key: &str| -> Vec<PathBuf> {
        let named = lines.iter().filter(|(k, _)| k == key);
        let named = named.filter(|(_, v)| !v.eq_ignore_ascii_case("none"));
        named.map(|(_, v)| file(v)).collect()
    };
    let file_list = |key: &str| -> Vec<PathBuf> {
        let words = split_paths(some(key).unwrap_or_default());
        words.iter().map(|word| tokens.path(word)).collect()
    };
    let socket = |variable: &str| (here.env)(variable).map(PathBuf::from);
    let identity_agent = match get("identityagent") {
        None | Some("SSH_AUTH_SOCK") => socket("SSH_AUTH_SOCK"),
        Some(value) if value.eq_ignore_ascii_case("none") => None,
        Some(value) => match value.strip_prefix('$') {
            Some(variable) if !variable.starts_with('{') => socket(variable),
            _ => Some(file(value)),
        },
    };

    Ok(Gateway {
        name: name.to_owned(),
        port,
        identity_files: files("identityfile"),
        missing_identities: Vec::new(),
        certificate_files: files("certificatefile"),
        identity_agent,
        identities_only: on("identitiesonly", false),
        user_known_hosts: file_list("userknownhostsfile"),
        global_known_hosts: file_list("globalknownhostsfile"),
        strict: Strict::parse(get("stricthostkeychecking").unwrap_or("ask")),
        hash_known_hosts: on("hashknownhosts", false),
        host_key_algorithms: list("hostkeyalgorithms"),
        ciphers: list("ciphers"),
        macs: list("macs"),
        kex_algorithms: list("kexalgorithms"),
        connect_timeout: seconds("connecttimeout")
            .filter(|&s| s > 0)
            .map(Duration::from_secs),
        // The contract's limits: a silent loss is noticed within 60 s.
        alive_interval: seconds("serveraliveinterval")
            .filter(|s| (1..=20).contains(s))
            .map_or(Duration::from_secs(20), Duration::from_secs),
        alive_count: seconds("serveralivecountmax").unwrap_or(3).clamp(1, 3) as u32,
        bind_address: some("bindaddress").map(str::to_owned),
        bind_interface: some("bindinterface").map(str::to_owned),
        family: match get("addressfamily") {
            Some("inet") => Family::V4,
            Some("inet6") => Family::V6,
            _ => Family::Any,
        },
        compression: on("compression", false),
        unlink_sockets: on("streamlocalbindunlink", false),
        config_file: None,
        proxy_jump: some("proxyjump").map(str::to_owned),
        proxy_command: some("proxycommand").map(str::to_owned),
        control_path: some("controlpath").map(file),
        batch_mode: on("batchmode", false),
        pubkey: on("pubkeyauthentication", true),
        password: on("passwordauthentication", true),
        // The second is the first's old name and stands beside it in 7.4.
        keyboard_interactive: on("kbdinteractiveauthentication", true)
            && on("challengeresponseauthentication", true),
        password_prompts: seconds("numberofpasswordprompts").unwrap_or(3).min(10) as u32,
        hostbased: on("hostbasedauthentication", false),
        gssapi: on("gssapiauthentication", false),
        token: some("pkcs11provider").is_some(),
        forks: on("forkafterauthentication", false),
        has_ssh: true,
        preferred_methods: list("preferredauthentications"),
        host_key_alias: alias,
        host,
        user,
    })
}

/// Splits a list of files. `ssh -G` prints them separated by blanks and prints
/// blanks inside a name as they are; files of such a list are nearly always
/// absolute, so a relative word continues an absolute one.
fn split_paths(value: &str) -> Vec<String> {
    let absolute = |word: &str| word.starts_with(['/', '~', '%', '$']);
    let mut files: Vec<String> = Vec::new();
    for word in value.split_whitespace() {
        match files.last_mut() {
            Some(last) if absolute(last) && !absolute(word) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => files.push(word.to_owned()),
        }
    }
    files
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn here() -> Here {
        Here {
            home: Some("/home/ann".into()),
            user: "ann".into(),
            uid: 1000,
            host: "n1.cluster".into(),
            cwd: "/here".into(),
            env: |name| match name {
                "SSH_AUTH_SOCK" => Some("/tmp/agent".into()),
                "MY_AGENT" => Some("/tmp/mine".into()),
                _ => None,
            },
        }
    }

    /// A gateway as `ssh -G` would describe it with these lines.
    pub(crate) fn gateway(text: &str) -> Gateway {
        let text = format!("{text}\nhostname gw.example\nuser bob\nport 2222\n");
        parse(&text, "bob@gw", &here()).unwrap()
    }

    #[test]
    fn tokens_are_those_of_ssh_config() {
        for (value, path) in [
            ("~/.ssh/id_rsa", "/home/ann/.ssh/id_rsa"),
            ("~", "/home/ann"),
            ("~other/key", "/here/~other/key"),
            ("key", "/here/key"),
            ("/k/%d", "/k//home/ann"),
            ("/k/%h_%u_%r_%n_%%", "/k/gw.example_ann_bob_gw_%"),
            ("/k/%i-%l-%L-%k-%p", "/k/1000-n1.cluster-n1-gw.example-2222"),
            ("/k/${MY_AGENT}x", "/k//tmp/minex"),
            ("/k/100%", "/k/100%"),
            ("/k/%Z${no}$", "/k/%Z${no}$"),
            ("/k/\u{e9}%h", "/k/\u{e9}gw.example"),
        ] {
            let found = gateway(&format!("identityfile {value}"));
            let expected: PathBuf = std::path::absolute(path).unwrap();
            assert_eq!(found.identity_files, [expected], "{value}");
        }
    }

    #[test]
    fn agents_are_found_as_ssh_finds_them() {
        for (line, socket) in [
            ("", Some("/tmp/agent")),
            ("identityagent SSH_AUTH_SOCK", Some("/tmp/agent")),
            ("identityagent none", None),
            ("identityagent $MY_AGENT", Some("/tmp/mine")),
            ("identityagent $UNSET", None),
            ("identityagent ~/a_%r", Some("/home/ann/a_bob")),
        ] {
            assert_eq!(gateway(line).identity_agent, socket.map(PathBuf::from));
        }
    }

    #[test]
    fn values_are_read_once_and_limited() {
        let g = gateway("serveraliveinterval 0\nserveralivecountmax 9");
        assert_eq!((g.alive_interval.as_secs(), g.alive_count), (20, 3));
        let g = gateway("serveraliveinterval 300\nserveralivecountmax 0");
        assert_eq!((g.alive_interval.as_secs(), g.alive_count), (20, 1));
        let g = gateway("serveraliveinterval 5\nconnecttimeout none");
        assert_eq!((g.alive_interval.as_secs(), g.connect_timeout), (5, None));
        let g = gateway("port 7\nhostname a\nconnecttimeout 3\naddressfamily inet6");
        assert_eq!((g.port, g.host.as_str(), g.family), (7, "a", Family::V6));
        assert_eq!(g.connect_timeout, Some(Duration::from_secs(3)));
        let g = gateway("ciphers a,b\nmacs +c\nproxycommand none\nproxyjump u@j:1,k");
        assert_eq!(g.ciphers, ["a", "b"]);
        assert!(g.macs.is_empty() && g.proxy_command.is_none());
        assert_eq!(g.proxy_jump.as_deref(), Some("u@j:1,k"));
        for (word, strict) in [
            ("ask", Strict::Yes),
            ("true", Strict::Yes),
            ("false", Strict::No),
            ("accept-new", Strict::AcceptNew),
        ] {
            assert_eq!(
                gateway(&format!("stricthostkeychecking {word}")).strict,
                strict
            );
        }
        assert!(gateway("").keyboard_interactive && gateway("").pubkey);
        assert!(!gateway("challengeresponseauthentication no").keyboard_interactive);
        for text in ["user a", "hostname b", "hostname b\nuser a\nport 0"] {
            let code = parse(text, "b", &here()).unwrap_err().code;
            assert_eq!(code, Code::Config);
        }
    }

    #[test]
    fn file_lists_may_hold_blanks() {
        for (value, files) in [
            ("none", &[] as &[&str]),
            ("/a /b", &["/a", "/b"]),
            ("/a b/c ~/d", &["/a b/c", "/home/ann/d"]),
            ("k1 k2", &["/here/k1", "/here/k2"]),
        ] {
            let found = gateway(&format!("userknownhostsfile {value}")).user_known_hosts;
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            assert_eq!(found, files, "{value}");
        }
    }

    #[test]
    fn the_command_line_stands_in_for_ssh() {
        let options = ["-p22", "-o", "User=eve", "-i", "k", "-oCiphers x,y", "-4"];
        let options = options.map(Into::into);
        let text = without_ssh("bob@[::1]", &options, &here()).unwrap();
        let g = parse(&text, "bob@[::1]", &here()).unwrap();
        assert_eq!(
            (g.host.as_str(), g.port, g.user.as_str()),
            ("::1", 22, "eve")
        );
        assert_eq!(g.identity_files, [PathBuf::from("/here/k")]);
        assert_eq!((g.ciphers.len(), g.family), (2, Family::V4));
        let text = without_ssh("gw", &[], &here()).unwrap();
        let g = parse(&text, "gw", &here()).unwrap();
        assert_eq!((g.user.as_str(), g.identity_files.len()), ("ann", 3));
        assert_eq!(g.user_known_hosts.len(), 2);
        for needs_ssh in ["-Fx", "-J", "-oProxyJump=j"] {
            let error = without_ssh("gw", &[needs_ssh.into()], &here()).unwrap_err();
            assert_eq!(error.code, Code::Config);
        }
    }
}
