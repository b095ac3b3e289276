//! Opens an authenticated session within one deadline.

use crate::auth::{self, Credentials};
use crate::error::{Code, Context, Error, Result, cause};
use crate::host_key::{KnownHosts, Rules};
use crate::link::{Connection, Helper};
use crate::log::Log;
use crate::prompt::Prompter;
use crate::retry::Deadline;
use crate::ssh_config::{Family, Gateway};
use crate::sys;
use ssh2::{ErrorCode, HashType, MethodType, Session};
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How one attempt is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For each step: connecting, key exchange, login.
    pub step: Duration,
    /// For all of them.
    pub deadline: Deadline,
}

impl Limits {
    fn next_step(&self) -> Duration {
        // libssh2 takes a time-out of zero for none at all.
        self.step
            .min(self.deadline.left())
            .max(Duration::from_millis(1))
    }
}

/// How long the gateway may be silent before it counts as lost, and the steps
/// on the way there.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// The connection is given up.
    pub limit: Duration,
    /// The gateway's kernel is asked (TCP keepalive).
    pub idle: Duration,
}

impl Silence {
    /// ServerAliveInterval times ServerAliveCountMax: 60 s at most, by the
    /// bounds that [`Gateway`] puts on both.
    pub fn of(gateway: &Gateway) -> Silence {
        Silence {
            limit: gateway.alive_interval * gateway.alive_count,
            idle: gateway.alive_interval,
        }
    }

    /// When sshd itself is asked. Half the limit, so that an idle tunnel wakes
    /// up four times a minute: twice to ask, twice to hear the answer.
    pub fn ask(&self) -> Duration {
        self.limit / 2
    }
}

/// Connects, checks the host key and logs in.
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
/// [`Code::Refused`] and [`Code::Config`] when it will not.
pub fn open(
    gateway: &Gateway,
    credentials: &mut Credentials,
    prompter: Option<&mut dyn Prompter>,
    limits: Limits,
    log: &Log,
) -> Result<Connection> {
    let mut wire = connect(gateway, limits, prompter.is_some(), log)?;
    let known_hosts_rules = rules(gateway);
    let known_hosts = KnownHosts::load(&known_hosts_rules);
    let session = handshake(gateway, &known_hosts, &wire.socket, limits)
        .map_err(|e| wire.with_helpers_words(e))?;
    let (key, _) = session
        .host_key()
        .ok_or_else(|| Error::new(Code::Internal, "libssh2 has no host key"))?;
    let sha256 = session.host_key_hash(HashType::Sha256).unwrap_or_default();
    known_hosts.verify(&known_hosts_rules, key, sha256, log)?;
    log.detail(format_args!(
        "gateway {}: key exchange done ({}), host key accepted",
        gateway.name,
        session.methods(MethodType::CryptCs).unwrap_or("?")
    ));
    session.set_timeout(milliseconds(limits.next_step()));
    auth::login(&session, gateway, credentials, log, prompter)?;
    log.detail(format_args!(
        "gateway {}: logged in as {}",
        gateway.name, gateway.user
    ));
    Ok(Connection {
        session,
        socket: Arc::clone(&wire.socket),
        helper: wire.helper.take(),
    })
}

fn rules(gateway: &Gateway) -> Rules<'_> {
    Rules {
        host: &gateway.host,
        port: gateway.port,
        alias: gateway.host_key_alias.as_deref(),
        strict: gateway.strict,
        hash_known_hosts: gateway.hash_known_hosts,
        user_files: &gateway.user_known_hosts,
        global_files: &gateway.global_known_hosts,
    }
}

/// The way to the gateway: a socket, and who carries it on.
struct Wire {
    socket: Arc<OwnedFd>,
    helper: Option<Helper>,
    /// The helper's stderr.
    words: Option<File>,
}

impl Wire {
    /// Adds what the helper said to an error that it probably caused.
    fn with_helpers_words(&mut self, e: Error) -> Error {
        let mut words = String::new();
        if let Some(file) = &mut self.words {
            let _ = file.rewind();
            let _ = file.take(4096).read_to_string(&mut words);
        }
        if words.trim().is_empty() {
            return e;
        }
        let code = blame(&words).unwrap_or(e.code);
        Error::new(code, format!("{e}; the proxy said: {}", gist(&words)))
    }
}

/// What an ssh on the way to the gateway has failed at. Tried again and again,
/// its refused logins would lock an account as well.
fn blame(words: &str) -> Option<Code> {
    if words.contains("Host key verification failed") {
        Some(Code::HostKey)
    } else if words.contains(": Permission denied (") {
        Some(Code::Refused)
    } else {
        None
    }
}

/// The last lines of what a proxy said, on one line: ssh names the cause first and
/// then that the connection is closed.
fn gist(words: &str) -> String {
    let lines = words.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .filter(|line| line.contains(char::is_alphanumeric))
        .collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

impl Drop for Wire {
    fn drop(&mut self) {
        sys::end_with_us(None);
    }
}

fn connect(gateway: &Gateway, limits: Limits, interactive: bool, log: &Log) -> Result<Wire> {
    if let Some(command) = proxy(gateway, interactive) {
        return start_proxy(command, log);
    }
    let socket = connect_tcp(gateway, limits, log)?;
    be_nonblocking(socket.set_nonblocking(true))?;
    // None of these is worth failing for.
    let silence = Silence::of(gateway);
    let _ = socket.set_nodelay(true);
    let _ = sys::set_keepalive(&socket, silence.idle, silence.limit / 6);
    let _ = sys::set_user_timeout(&socket, silence.limit * 5 / 6);
    Ok(Wire {
        socket: Arc::new(socket.into()),
        helper: None,
        words: None,
    })
}

fn connect_tcp(gateway: &Gateway, limits: Limits, log: &Log) -> Result<TcpStream> {
    let local = match &gateway.bind_address {
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
            Error::new(
                Code::Config,
                format!("BindAddress {text}: licfwd needs it as an IP address"),
            )
        })?),
        None => None,
    };
    let mut last = None;
    for address in resolve(gateway)? {
        if local.is_some_and(|l| l.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        let local = local.map(|ip| SocketAddr::new(ip, 0));
        let device = gateway.bind_interface.as_deref();
        match sys::connect_from(local, device, address, limits.next_step()) {
            Ok(stream) => {
                log.detail(format_args!(
                    "gateway {}: connected to {address}",
                    gateway.name
                ));
                return Ok(stream);
            }
            Err(e) => last = Some((address, e)),
        }
    }
    Err(match last {
        Some((address, e)) if e.kind() == std::io::ErrorKind::TimedOut => gateway_down(
            gateway,
            format!(
                "connecting to {address} timed out after {} s",
                limits.step.as_secs()
            ),
        ),
        Some((address, e)) => gateway_down(
            gateway,
            format!("cannot connect to {address}: {}", cause(&e)),
        ),
        None => Error::new(
            Code::Config,
            format!(
                "gateway {}: {} has no address of the wanted family",
                gateway.name, gateway.host
            ),
        ),
    })
}

/// The gateway's addresses in the resolver's order, of the wanted family.
fn resolve(gateway: &Gateway) -> Result<Vec<SocketAddr>> {
    let all = (gateway.host.as_str(), gateway.port)
        .to_socket_addrs()
        .map_err(|e| {
            let text = cause(&e);
            // EAI_AGAIN, in glibc's and in musl's words: std keeps no number.
            let passing = text.contains("Temporary failure") || text.contains("Try again");
            let what = text
                .strip_prefix("failed to lookup address information: ")
                .unwrap_or(&text);
            if passing {
                gateway_down(gateway, format!("cannot resolve {}: {what}", gateway.host))
            } else {
                Error::new(
                    Code::Config,
                    format!(
                        "gateway {}: cannot resolve {}: {what}; check the name, or add it to ~/.ssh/config",
                        gateway.name, gateway.host
                    ),
                )
            }
        })?;
    Ok(all
        .filter(|a| match gateway.family {
            Family::Any => true,
            Family::V4 => a.is_ipv4(),
            Family::V6 => a.is_ipv6(),
        })
        .collect())
}

/// The program that carries the connection, if any: ProxyCommand, or for
/// ProxyJump an `ssh -W`, which is how ssh does it.
fn proxy(gateway: &Gateway, interactive: bool) -> Option<Command> {
    if let Some(jump) = &gateway.proxy_jump {
        let (before, last) = match jump.rsplit_once(',') {
            Some((before, last)) => (Some(before), last),
            None => (None, jump.as_str()),
        };
        let last = last.strip_prefix("ssh://").unwrap_or(last);
        let (user, host) = match last.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, last),
        };
        let (host, port) = split_port(host);
        let mut ssh = Command::new("ssh");
        if let Some(user) = user {
            ssh.args(["-l", user]);
        }
        if let Some(port) = port {
            ssh.args(["-p", port]);
        }
        if let Some(before) = before {
            ssh.args(["-J", before]);
        }
        if let Some(file) = &gateway.config_file {
            ssh.arg("-F").arg(file);
        }
        if !interactive {
            ssh.args(["-o", "BatchMode=yes"]);
        }
        let target = crate::target::host_port(&gateway.host, gateway.port);
        ssh.args(["-W", &target, "--", host]);
        return Some(ssh);
    }
    let line = gateway.proxy_command.as_ref()?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new(shell);
    command.arg("-c");
    command.arg(format!("exec {}", expand(line, gateway)));
    Some(command)
}

/// libssh2 as ssh2 builds it does not do this itself, and without it none of its
/// time-outs holds.
fn be_nonblocking(set: std::io::Result<()>) -> Result<()> {
    set.context(Code::System, || {
        "cannot prepare the socket to the gateway".into()
    })
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return (host, port.strip_prefix(':'));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

/// ProxyCommand's tokens (ssh_config(5), TOKENS).
fn expand(line: &str, gateway: &Gateway) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('%')) => out.push('%'),
            ('%', Some('h')) => out.push_str(&gateway.host),
            ('%', Some('p')) => out.push_str(&gateway.port.to_string()),
            ('%', Some('r')) => out.push_str(&gateway.user),
            ('%', Some('n')) => {
                let name = &gateway.name;
                out.push_str(name.rsplit_once('@').map_or(name, |(_, host)| host));
            }
            (c, other) => {
                out.push(c);
                out.extend(other);
            }
        }
    }
    out
}

fn start_proxy(mut command: Command, log: &Log) -> Result<Wire> {
    let refuse = |e: std::io::Error| {
        Error::new(
            Code::Config,
            format!("cannot start the proxy to the gateway: {}", cause(&e)),
        )
    };
    let (ours, theirs) = UnixStream::pair().map_err(refuse)?;
    be_nonblocking(ours.set_nonblocking(true))?;
    let words = sys::nameless_file().ok();
    // Its stderr must not be ours: a pipe that somebody reads to its end.
    let stderr = match words.as_ref().and_then(|file| file.try_clone().ok()) {
        Some(file) => Stdio::from(file),
        None => Stdio::null(),
    };
    let input = OwnedFd::from(theirs.try_clone().map_err(refuse)?);
    command
        .stdin(input)
        .stdout(OwnedFd::from(theirs))
        .stderr(stderr);
    let child = sys::detached(&mut command).spawn().map_err(refuse)?;
    sys::end_with_us(Some(child.id()));
    log.detail(format_args!("proxy started: process {}", child.id()));
    Ok(Wire {
        socket: Arc::new(ours.into()),
        helper: Some(Helper(child)),
        words,
    })
}

fn milliseconds(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

fn handshake(
    gateway: &Gateway,
    known_hosts: &KnownHosts,
    socket: &Arc<OwnedFd>,
    limits: Limits,
) -> Result<Session> {
    let internal = |e: ssh2::Error| Error::new(Code::Internal, format!("libssh2: {e}"));
    let mut session = Session::new().map_err(internal)?;
    session.set_compress(gateway.compression);
    prefer(&session, MethodType::CryptCs, &gateway.ciphers);
    prefer(&session, MethodType::CryptSc, &gateway.ciphers);
    prefer(&session, MethodType::MacCs, &gateway.macs);
    prefer(&session, MethodType::MacSc, &gateway.macs);
    prefer(&session, MethodType::Kex, &gateway.kex_algorithms);
    let supported = session
        .supported_algs(MethodType::HostKey)
        .map_err(internal)?;
    let preferred = known_hosts.preferred(&supported, &gateway.host_key_algorithms);
    if !preferred.is_empty() {
        let _ = session.method_pref(MethodType::HostKey, &preferred.join(","));
    }
    session.set_tcp_stream(Arc::clone(socket));
    session.set_timeout(milliseconds(limits.next_step()));
    session.handshake().map_err(|e| match e.code() {
        ErrorCode::Session(-9) => gateway_down(
            gateway,
            format!("no answer to the key exchange within {} s", limits.step.as_secs()),
        ),
        // LIBSSH2_ERROR_KEX_FAILURE and KEY_EXCHANGE_FAILURE stand for a closed
        // connection as well; one that is still open has a gateway on it that
        // speaks, but nothing in common with us.
        ErrorCode::Session(-5 | -8) if still_open(socket) => Error::new(
            Code::Config,
            format!(
                "gateway {} ({} port {}): no key exchange, host key type, cipher or MAC in common \
                 between this gateway and libssh2 ({}); check -c, -m, HostKeyAlgorithms, Ciphers, MACs and \
                 KexAlgorithms in the ssh configuration, or ask the administrator",
                gateway.name,
                gateway.host,
                gateway.port,
                e.message()
            ),
        ),
        _ => gateway_down(
            gateway,
            format!(
                "the connection was closed before the login ({}); a gateway with too many logins at once does that (sshd's MaxStartups)",
                e.message()
            ),
        ),
    })?;
    Ok(session)
}

fn still_open(socket: &OwnedFd) -> bool {
    !sys::poll_readable(socket, Duration::ZERO).unwrap_or(true)
}

/// Restricts and orders a method as the ssh configuration does, as far as
/// libssh2 knows its names; an order it knows nothing of is left alone.
fn prefer(session: &Session, kind: MethodType, wanted: &[String]) {
    let Ok(supported) = session.supported_algs(kind) else {
        return;
    };
    let common: Vec<&str> = wanted
        .iter()
        .map(String::as_str)
        .filter(|name| supported.contains(name))
        .collect();
    if !common.is_empty() {
        let _ = session.method_pref(kind, &common.join(","));
    }
}

/// A failure at the gateway that another try may mend.
fn gateway_down(gateway: &Gateway, what: String) -> Error {
    Error::new(
        Code::GatewayDown,
        format!(
            "gateway {} ({} port {}): {what}",
            gateway.name, gateway.host, gateway.port
        ),
    )
}
