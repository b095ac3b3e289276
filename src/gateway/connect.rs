//! Reaches the gateway: over TCP, or through a program that carries the connection.
//!
//! That program is the helper: ProxyCommand, or the `ssh -W` of ProxyJump. What
//! comes of it is a socket all the same, so that nobody above has to know.

use super::ssh_stderr::{final_code, summary};
use crate::auth::{LoginError, Prompter};
use crate::config::{Family, Gateway, Proxy, TcpSettings, gateway_down};
use crate::error::{Code, Context, Error, Result, cause};
use crate::log::Log;
use crate::retry::{Deadline, GREETING, Limits};
use crate::sys::{self, Helper, errno};
use crate::target::{host_port, split_port, split_user};
use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How much of a helper's stderr there is room for, in bytes: it may talk for as long
/// as the tunnel lives, and nobody reads it once somebody is logged in.
const MAX_STDERR: u64 = 256 << 10;

/// A socket on which the gateway is to be spoken to, and who carries it there.
///
/// While this lives, the helper ends with the process, also where a signal ends
/// that. Then somebody has a session with the gateway, has taken the helper, and
/// ends it by dropping it; or nobody has, and it is dropped here.
pub struct GatewaySocket {
    /// Non-blocking: libssh2 as ssh2 builds it does not do this itself, and
    /// without it none of its time-outs holds.
    pub fd: Arc<OwnedFd>,
    /// The program on the way, if any.
    pub helper: Option<Helper>,
    stderr: Option<File>,
}

impl GatewaySocket {
    /// The first and the last that the helper has said on stderr so far.
    pub fn helper_stderr(&self) -> String {
        const PART: u64 = 4096;
        let parts = |mut file: &File| -> io::Result<Vec<u8>> {
            // Shared with the helper: where it will write next.
            let end = file.stream_position()?;
            let first = end.min(PART);
            let last = (end - first).min(PART);
            let mut text = vec![0; (first + last) as usize];
            let (one, other) = text.split_at_mut(first as usize);
            file.read_exact_at(one, 0)?;
            file.read_exact_at(other, end - last)?;
            Ok(text)
        };
        let text = self.stderr.as_ref().and_then(|file| parts(file).ok());
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// Adds what the helper said to an error that it probably caused.
    pub fn with_helper_stderr(&self, e: LoginError) -> LoginError {
        let said = self.helper_stderr();
        let summary = summary(&said);
        if summary.is_empty() {
            return e;
        }
        let code = final_code(&said).unwrap_or(e.error.code);
        let text = format!("{}; the proxy said: {summary}", e.error);
        LoginError::new(code, text, e.ssh_may)
    }
}

impl Drop for GatewaySocket {
    fn drop(&mut self) {
        sys::end_with_us(None);
    }
}

/// Reaches the gateway. `person` is whom a helper may ask.
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::Config`] when it
/// will not; `silent` where the time for a greeting was over.
pub fn connect(
    gateway: &Gateway,
    limits: Limits,
    person: Option<&dyn Prompter>,
    log: &Log,
) -> std::result::Result<GatewaySocket, LoginError> {
    if let Some(proxy) = &gateway.proxy {
        return Ok(start_helper(command(gateway, proxy, person), log)?);
    }
    let connected = connect_tcp(gateway, limits, log);
    let greeted = connected.as_ref().ok().zip(limits.greeting).map(|(it, by)| greets(it, by));
    let late = limits.greeting.is_some_and(|by| by.left().is_zero());
    if greeted == Some(false) || connected.is_err() && late {
        return Err(LoginError { silent: true, ..no_greeting(gateway).into() });
    }
    let socket = connected?;
    be_nonblocking(socket.set_nonblocking(true))?;
    // None of these is worth failing for.
    let silence = gateway.silence;
    let _ = socket.set_nodelay(true);
    let _ = sys::set_keepalive(&socket, silence.idle, silence.limit / 6);
    let _ = sys::set_user_timeout(&socket, silence.limit * 5 / 6);
    Ok(GatewaySocket { fd: Arc::new(socket.into()), helper: None, stderr: None })
}

/// What comes of a gateway that has not greeted in time.
pub fn no_greeting(gateway: &Gateway) -> Error {
    gateway_down(gateway, format!("no greeting within {} s", GREETING.as_secs()))
}

/// Whether the gateway says who it is in time. Other lines may come before that one (RFC
/// 4253, section 4.2), as from an sshd that sheds load; they are taken away, as the key
/// exchange would, so that it is seen when the connection ends. That is no silence.
fn greets(socket: &TcpStream, by: Deadline) -> bool {
    const LOOK_INTERVAL: Duration = Duration::from_millis(20);
    let mut text = [0; 4096];
    while sys::poll_readable(socket, by.left()).unwrap_or(true) && !by.left().is_zero() {
        let length = socket.peek(&mut text).unwrap_or(0);
        let begins = text[..length].windows(4).position(|part| part == b"SSH-");
        let ends = text[..length].iter().rposition(|byte| *byte == b'\n');
        match ends {
            _ if length == 0 || begins.is_some_and(|begin| ends > Some(begin)) => return true,
            Some(end) => drop((&*socket).read(&mut text[..=end])),
            // The rest of the line is on its way; what is there would be told again at once.
            None => drop(sys::wait_any([], Some(LOOK_INTERVAL))),
        }
    }
    false
}

fn be_nonblocking(set: io::Result<()>) -> Result<()> {
    set.context(Code::System, || "cannot prepare the socket to the gateway".into())
}

/// Tries each address in the resolver's order, with the limit of a step for each.
fn connect_tcp(gateway: &Gateway, limits: Limits, log: &Log) -> Result<TcpStream> {
    let tcp = &gateway.tcp;
    let source = tcp.bind_address.as_deref().map(source_address);
    let source = source.transpose()?;
    let interface = tcp.bind_interface.as_deref();
    let name = &gateway.name;
    let addresses = resolve(gateway, limits)?;
    log.step(format_args!("gateway {name}: resolved to {addresses:?}"));
    let mut last = None;
    for address in addresses {
        if source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        match sys::connect_from(source, interface, address, limits.next_step_to_greeting()) {
            Ok(stream) => {
                log.step(format_args!("gateway {name}: connected to {address}"));
                return Ok(stream);
            }
            Err(e) => match not_of_this_node(tcp, &e) {
                Some(error) => return Err(error),
                None => last = Some((address, e)),
            },
        }
    }
    Err(why_not_connected(gateway, last, limits))
}

fn why_not_connected(
    gateway: &Gateway,
    last: Option<(SocketAddr, io::Error)>,
    limits: Limits,
) -> Error {
    let Some((address, e)) = last else {
        let (name, host) = (&gateway.name, &gateway.host);
        let what = format!("gateway {name}: {host} has no address of the wanted family");
        return Error::new(Code::Config, what);
    };
    let what = match e.kind() {
        ErrorKind::TimedOut => {
            let seconds = limits.step.as_secs();
            format!("connecting to {address} timed out after {seconds} s")
        }
        _ => format!("cannot connect to {address}: {}", cause(&e)),
    };
    gateway_down(gateway, what)
}

fn source_address(text: &str) -> Result<SocketAddr> {
    let address: std::result::Result<IpAddr, _> = text.parse();
    address.map(|ip| SocketAddr::new(ip, 0)).map_err(|_| {
        let what = format!("BindAddress {text}: licfwd needs it as an IP address");
        Error::new(Code::Config, what)
    })
}

/// What is wrong with the settings, where that is what the kernel complains of.
fn not_of_this_node(tcp: &TcpSettings, e: &io::Error) -> Option<Error> {
    let what = match (&tcp.bind_address, &tcp.bind_interface) {
        (Some(address), _) if e.kind() == ErrorKind::AddrNotAvailable => {
            format!("BindAddress {address}: no interface of this node has that address")
        }
        (_, Some(interface)) if e.raw_os_error() == Some(errno::ENODEV) => {
            format!("BindInterface {interface}: this node has no such interface")
        }
        _ => return None,
    };
    Some(Error::new(Code::Config, what))
}

/// The gateway's addresses in the resolver's order, of the wanted family.
///
/// # Errors
/// [`Code::GatewayDown`]: no answer; [`Code::Config`]: there is no such name.
pub fn resolve(gateway: &Gateway, limits: Limits) -> Result<Vec<SocketAddr>> {
    let Gateway { name, host, port, .. } = gateway;
    let found = match host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, *port)],
        Err(_) => look_up(host, *port, limits.next_step_to_greeting()).map_err(|why| {
            // EAI_AGAIN, in glibc's and in musl's words: std keeps no number.
            let passing = ["Temporary failure", "Try again", "timed out"];
            let passing = passing.iter().any(|words| why.contains(words));
            let what = format!("cannot resolve {host}: {why}");
            if passing {
                let what = format!("{what} (a misspelt name can look the same)");
                return gateway_down(gateway, what);
            }
            let way_out = "check the name, or add it to ~/.ssh/config";
            Error::new(Code::Config, format!("gateway {name}: {what}; {way_out}"))
        })?,
    };
    let wanted = |address: &SocketAddr| match gateway.tcp.family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    Ok(found.into_iter().filter(wanted).collect())
}

/// Looks a name up in a process of its own: the resolver knows no limit, and takes
/// minutes where no name server answers.
fn look_up(host: &str, port: u16, limit: Duration) -> std::result::Result<Vec<SocketAddr>, String> {
    let mut resolver = sys::this_program_as(sys::RESOLVER);
    resolver.arg(port.to_string()).arg(host);
    resolver.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut spawn = || {
        // Nothing is said there.
        let (_ours, theirs) = UnixStream::pair()?;
        sys::detached_short(resolver.stdin(OwnedFd::from(theirs))).spawn()
    };
    let answer = spawn().and_then(|mut child| {
        let answer = sys::hear_out(&mut child, limit);
        if answer.is_err() {
            sys::kill_group(child.id());
            let _ = child.wait();
        }
        answer
    });
    match answer.map_err(|e| cause(&e))? {
        (status, found, _) if status.success() => {
            Ok(found.lines().filter_map(|line| line.parse().ok()).collect())
        }
        (_, _, why) => Err(why.trim().to_owned()),
    }
}

/// The program of a resolver. Its arguments: a port and the name whose addresses it
/// prints.
pub fn print_addresses() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    match (arguments.next().unwrap_or_default().as_str(), port).to_socket_addrs() {
        Ok(found) => {
            found.for_each(|address| println!("{address}"));
            ExitCode::SUCCESS
        }
        Err(e) => {
            let why = cause(&e);
            let about = "failed to lookup address information: ";
            eprintln!("{}", why.strip_prefix(about).unwrap_or(&why));
            ExitCode::FAILURE
        }
    }
}

/// How the helper is called: ProxyCommand as a line for the user's shell, and
/// for ProxyJump an `ssh -W`, which is how ssh does it. Either may be an ssh that
/// has to ask somebody.
fn command(gateway: &Gateway, proxy: &Proxy, person: Option<&dyn Prompter>) -> Command {
    let (hosts, config_file) = match proxy {
        Proxy::Jump { hosts, config_file } => (hosts, config_file),
        Proxy::Command(line) => {
            let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
            let mut command = Command::new(shell);
            command.arg("-c").arg(format!("exec {line}"));
            person.map(|person| person.lend(&mut command));
            return command;
        }
    };
    let (before, last) = match hosts.rsplit_once(',') {
        Some((before, last)) => (Some(before), last),
        None => (None, hosts.as_str()),
    };
    let last = last.strip_prefix("ssh://").unwrap_or(last);
    let (user, host) = split_user(last);
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
    let target = host_port(&gateway.host, gateway.port);
    ssh.args(["-W", &target, "--", host]);
    ssh
}

/// Starts the helper in a session of its own ([`sys::detached`]): it is no
/// process of the job that licfwd watches, a control-C at the terminal does not
/// end it, and it can be ended together with all that its shell has started.
///
/// Its stdin and stdout are one end of a socket pair, because libssh2 reads and
/// writes one descriptor, which two pipes are not. Its stderr is a file without a
/// name, which needs no reader. Ours it must not have: that can be a pipe that
/// somebody reads to its end (`licfwd 2>&1 | tee`), and its end would not come
/// while the helper lives.
fn start_helper(mut command: Command, log: &Log) -> Result<GatewaySocket> {
    let refuse = |e: io::Error| {
        let what = format!("cannot start the proxy to the gateway: {}", cause(&e));
        Error::new(Code::Config, what)
    };
    let (ours, theirs) = UnixStream::pair().map_err(refuse)?;
    be_nonblocking(ours.set_nonblocking(true))?;
    let stderr = sys::nameless_file(MAX_STDERR).ok();
    let theirs_too = stderr.as_ref().and_then(|file| file.try_clone().ok());
    command
        .stdin(OwnedFd::from(theirs.try_clone().map_err(refuse)?))
        .stdout(OwnedFd::from(theirs))
        .stderr(theirs_too.map_or_else(Stdio::null, Stdio::from));
    // A signal in between would leave it behind.
    let held = sys::hold_signals();
    let child = sys::detached(&mut command).spawn().map_err(refuse)?;
    sys::end_with_us(Some(child.id()));
    drop(held);
    log.step(format_args!("proxy started: process {}", child.id()));
    Ok(GatewaySocket { fd: Arc::new(ours.into()), helper: Some(Helper(child)), stderr })
}
