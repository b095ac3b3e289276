//! Reaches the gateway: over TCP, or through a program that carries the connection.
//!
//! That program is the helper: ProxyCommand, or the `ssh -W` of ProxyJump. What
//! comes of it is a socket all the same, so that nobody above has to know.

use super::helper_stderr::HelperStderr;
use super::jump;
use super::ssh_stderr::{final_code, summary};
use crate::auth::{LoginError, Prompter};
use crate::config::{Family, Gateway, Proxy, gateway_down};
use crate::error::{Code, Context, Error, Result, cause};
use crate::log::Log;
use crate::retry::{Deadline, GREETING, Limits};
use crate::sys::{self, Helper};
use crate::target::host_port;
use std::env;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that may wait in the gateway's socket: what is said next waits behind them.
/// One packet and a half: with less the network may wait for us, and 128 kB let a message
/// wait three times as long behind a copy over 2 MB/s.
const UNSENT_LIMIT: i32 = 49_152;

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
    /// What that says.
    pub stderr: Option<Arc<HelperStderr>>,
}

impl GatewaySocket {
    /// The first and the last that the helper has said on stderr so far.
    pub fn helper_stderr(&self) -> String {
        self.stderr.as_ref().map(|stderr| stderr.text()).unwrap_or_default()
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
        LoginError { error: Error::new(code, text), ..e }
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
    let _ = sys::set_unsent_limit(&socket, UNSENT_LIMIT);
    let _ = sys::set_keepalive(&socket, silence.idle, silence.limit / 6);
    let _ = sys::set_user_timeout(&socket, silence.limit * 5 / 6);
    Ok(GatewaySocket { fd: Arc::new(socket.into()), helper: None, stderr: None })
}

/// Where name servers do not answer, nobody can tell.
pub const MAY_BE_MISSPELT: &str = " (a misspelt name can look the same)";

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
    let name = &gateway.name;
    let addresses = resolve(gateway, limits)?;
    log.step(format_args!("gateway {name}: resolved to {addresses:?}"));
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, limits.next_step_to_greeting()) {
            Ok(stream) => {
                log.step(format_args!("gateway {name}: connected to {address}"));
                return Ok(stream);
            }
            Err(e) => last = Some((address, e)),
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

/// The gateway's addresses in the resolver's order, of the wanted family.
///
/// # Errors
/// [`Code::GatewayDown`]: no answer; [`Code::Config`]: there is no such name.
pub fn resolve(gateway: &Gateway, limits: Limits) -> Result<Vec<SocketAddr>> {
    let Gateway { name, host, port, .. } = gateway;
    let found = match host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, *port)],
        Err(_) => sys::look_up(&[host], *port, limits.next_step_to_greeting()).map_err(|e| {
            let what = format!("cannot resolve {}", cause(&e));
            if e.kind() == ErrorKind::TimedOut {
                let what = format!("{what}{MAY_BE_MISSPELT}");
                return gateway_down(gateway, what);
            }
            let way_out = "check the name, or add it to ~/.ssh/config";
            Error::new(Code::Config, format!("gateway {name}: {what}; {way_out}"))
        })?,
    };
    let wanted = |address: &SocketAddr| match gateway.family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    Ok(found.into_iter().filter(wanted).collect())
}

/// How the helper is called: ProxyCommand as a line for the user's shell, and
/// for ProxyJump an `ssh -W` ([`jump`]). Either may be an ssh that has to ask somebody.
fn command(gateway: &Gateway, proxy: &Proxy, person: Option<&dyn Prompter>) -> Command {
    let (hosts, config_file) = match proxy {
        Proxy::Jump { hosts, config_file } => (hosts, config_file),
        Proxy::Command(line) => {
            let shell = env::var_os("SHELL").filter(|shell| !shell.is_empty());
            let shell = shell.unwrap_or_else(|| "/bin/sh".into());
            let mut command = Command::new(shell);
            command.arg("-c").arg(format!("exec {line}"));
            person.map(|person| person.lend(&mut command));
            return command;
        }
    };
    let mut ssh = Command::new("ssh");
    let batch = !person.is_some_and(|person| person.lend(&mut ssh));
    let target = host_port(&gateway.host, gateway.port);
    let words = jump::words(hosts, config_file.as_deref(), batch, &target);
    ssh.args(&words[1..]);
    ssh
}

/// Starts the helper in a session of its own ([`sys::detached`]): it is no
/// process of the job that licfwd watches, a control-C at the terminal does not
/// end it, and it can be ended together with all that its shell has started.
///
/// Its stdin and stdout are one end of a socket pair, because libssh2 reads and
/// writes one descriptor, which two pipes are not. Its stderr is a pipe to us. Ours it
/// must not have: that can be a pipe that somebody reads to its end
/// (`licfwd 2>&1 | tee`), and its end would not come while the helper lives.
fn start_helper(mut command: Command, log: &Log) -> Result<GatewaySocket> {
    let refuse = |e: io::Error| {
        let what = format!("cannot start the proxy to the gateway: {}", cause(&e));
        Error::new(Code::Config, what)
    };
    let (ours, theirs) = UnixStream::pair().map_err(refuse)?;
    be_nonblocking(ours.set_nonblocking(true))?;
    let (stderr, to_stderr) = io::pipe().map_err(refuse)?;
    command
        .stdin(OwnedFd::from(theirs.try_clone().map_err(refuse)?))
        .stdout(OwnedFd::from(theirs))
        .stderr(to_stderr);
    // A signal in between would leave it behind.
    let held = sys::hold_signals();
    let child = sys::detached(&mut command).spawn().map_err(refuse)?;
    sys::end_with_us(Some(child.id()));
    drop(held);
    log.step(format_args!("proxy started: process {}", child.id()));
    let (helper, stderr) = (Some(Helper(child)), Some(HelperStderr::new(stderr)));
    Ok(GatewaySocket { fd: Arc::new(ours.into()), helper, stderr })
}
