//! Reaches the gateway: over TCP, or through a program that carries the connection.

use super::ssh_stderr::{blame, gist};
use crate::auth::Prompter;
use crate::config::{Family, Gateway, Proxy, gateway_down};
use crate::error::{Code, Context, Error, Result, cause};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys::{self, Helper, errno};
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The way to the gateway: a socket, and who carries it on.
pub struct Wire {
    /// Non-blocking.
    pub socket: Arc<OwnedFd>,
    /// The program on the way, if any.
    pub helper: Option<Helper>,
    /// The helper's stderr.
    words: Option<File>,
}

impl Wire {
    /// What the helper has said so far, the beginning of it.
    pub fn helpers_words(&self) -> String {
        let mut words = vec![0; 4096];
        // Wherever the helper writes next, it goes on there.
        let read = self.words.as_ref().map(|file| file.read_at(&mut words, 0));
        words.truncate(read.and_then(std::io::Result::ok).unwrap_or(0));
        String::from_utf8_lossy(&words).into_owned()
    }

    /// Adds what the helper said to an error that it probably caused.
    pub fn with_helpers_words(&self, e: Error) -> Error {
        let words = self.helpers_words();
        if words.trim().is_empty() {
            return e;
        }
        let code = blame(&words).unwrap_or(e.code);
        let text = format!("{e}; the proxy said: {}", gist(&words));
        Error::new(code, text).if_not_for_ssh(e.ssh_may)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        sys::end_with_us(None);
    }
}

/// Reaches the gateway.
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::Config`] when it
/// will not.
pub fn connect(
    gateway: &Gateway,
    limits: Limits,
    person: Option<&dyn Prompter>,
    log: &Log,
) -> Result<Wire> {
    if let Some(proxy) = &gateway.proxy {
        return start_proxy(command(gateway, proxy, person), log);
    }
    let socket = connect_tcp(gateway, limits, log)?;
    be_nonblocking(socket.set_nonblocking(true))?;
    // None of these is worth failing for.
    let silence = gateway.silence;
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
    let local = match &gateway.tcp.bind_address {
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
            Error::new(
                Code::Config,
                format!("BindAddress {text}: licfwd needs it as an IP address"),
            )
        })?),
        None => None,
    };
    let addresses = resolve(gateway)?;
    let name = &gateway.name;
    log.step(format_args!("gateway {name}: resolved to {addresses:?}"));
    let mut last = None;
    for address in addresses {
        if local.is_some_and(|l| l.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        let local = local.map(|ip| SocketAddr::new(ip, 0));
        let device = gateway.tcp.bind_interface.as_deref();
        match sys::connect_from(local, device, address, limits.next_step()) {
            Ok(stream) => {
                log.step(format_args!(
                    "gateway {}: connected to {address}",
                    gateway.name
                ));
                return Ok(stream);
            }
            Err(e) if local.is_some() && e.kind() == ErrorKind::AddrNotAvailable => {
                let what = gateway.tcp.bind_address.as_deref().unwrap_or_default();
                return Err(Error::new(
                    Code::Config,
                    format!("BindAddress {what}: no interface of this node has that address"),
                ));
            }
            Err(e) if device.is_some() && e.raw_os_error() == Some(errno::ENODEV) => {
                let what = device.unwrap_or_default();
                return Err(Error::new(
                    Code::Config,
                    format!("BindInterface {what}: this node has no such interface"),
                ));
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
        .filter(|a| match gateway.tcp.family {
            Family::Any => true,
            Family::V4 => a.is_ipv4(),
            Family::V6 => a.is_ipv6(),
        })
        .collect())
}

/// The program that carries the connection: ProxyCommand, or for ProxyJump an
/// `ssh -W`, which is how ssh does it.
fn command(gateway: &Gateway, proxy: &Proxy, person: Option<&dyn Prompter>) -> Command {
    let (hosts, config_file) = match proxy {
        Proxy::Jump { hosts, config_file } => (hosts, config_file),
        Proxy::Command(line) => {
            let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
            let mut command = Command::new(shell);
            command.arg("-c").arg(format!("exec {line}"));
            // It may be an ssh as well.
            person.map(|person| person.lend(&mut command));
            return command;
        }
    };
    let (before, last) = match hosts.rsplit_once(',') {
        Some((before, last)) => (Some(before), last),
        None => (None, hosts.as_str()),
    };
    let last = last.strip_prefix("ssh://").unwrap_or(last);
    let (user, host) = match last.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, last),
    };
    let (host, port) = split_port(host);
    let mut ssh = Command::new("ssh");
    for (option, value) in [("-l", user), ("-p", port), ("-J", before)] {
        ssh.args(value.into_iter().flat_map(|value| [option, value]));
    }
    if let Some(file) = config_file {
        ssh.arg("-F").arg(file);
    }
    if !person.is_some_and(|person| person.lend(&mut ssh)) {
        ssh.args(["-o", "BatchMode=yes"]);
    }
    let target = crate::target::host_port(&gateway.host, gateway.port);
    ssh.args(["-W", &target, "--", host]);
    ssh
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
    log.step(format_args!("proxy started: process {}", child.id()));
    Ok(Wire {
        socket: Arc::new(ours.into()),
        helper: Some(Helper(child)),
        words,
    })
}
