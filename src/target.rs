//! Parses and prints targets and forwards; pure.

mod forward;
mod spelling;
mod variable;
mod web;

pub use forward::{Forward, ForwardSide, parse_forward};
pub use spelling::no_port;
pub use variable::{is_variable, leads_here, of_variable};
pub use web::WebHosts;

use crate::error::{Code, Context, Error, Result};
use crate::sys;
use std::fmt;
use std::net::Ipv6Addr;

/// The variable that a target without `NAME=` sets.
pub const DEFAULT_NAME: &str = "MLM_LICENSE_FILE";

/// A target's form, for messages.
pub const TARGET_FORM: &str = "[NAME=]host:port[+port...][,host:port...]";

/// One license server, as the gateway reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address, without brackets.
    pub host: String,
    /// The port that the variable announces under another number.
    pub port: u16,
    /// Ports after `+`: the license manager names them to its clients, so they
    /// keep their numbers on this side.
    pub kept: Vec<u16>,
}

/// One variable and the servers behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The variable to export.
    pub name: String,
    /// What stands behind it.
    pub behind: Behind,
}

/// What stands behind a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// License servers in the order given; more than one is a redundant group (a triad).
    Licenses(Vec<Server>),
    /// Web servers, for clients that speak to a proxy.
    Web(WebHosts),
}

impl Target {
    /// The license servers; of web servers none.
    pub fn servers(&self) -> &[Server] {
        match &self.behind {
            Behind::Licenses(servers) => servers,
            Behind::Web(_) => &[],
        }
    }
}

/// Where a forward leads, as the gateway reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A port of a host.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A Unix socket's path on the gateway.
    Unix(String),
    /// Whichever of these a client names: no gateway is ever asked for this.
    Web(WebHosts),
}

/// What went wrong inside one argument; the caller says which argument.
pub type Parsed<T> = std::result::Result<T, String>;

/// Reads `[NAME=]host:port[+port...][,host:port[+port...]...]`, or
/// `[NAME=]https://host[:port][,...]`. Where a server stands as `port@host` there may be
/// several targets, of that one name, between colons, as in the variables of license
/// managers.
///
/// # Errors
/// [`Code::Usage`], quoting the text and naming the expected form.
pub fn parse_targets(text: &str) -> Result<Vec<Target>> {
    let parsed = match web::split(text) {
        Some((name, hosts)) => web_target(name.unwrap_or(web::DEFAULT_NAME), hosts),
        None => {
            let (name, servers) = text.split_once('=').unwrap_or((DEFAULT_NAME, text));
            targets(name, &text[..text.len() - servers.len()], servers)
        }
    };
    parsed.context(Code::Usage, || format!("target {}", quoted(text)))
}

fn web_target(name: &str, hosts: &str) -> Parsed<Vec<Target>> {
    check_name(name)?;
    let behind = Behind::Web(WebHosts::parse(hosts)?);
    Ok(vec![Target { name: name.to_owned(), behind }])
}

/// Whether the targets of one call can stand beside each other.
///
/// # Errors
/// [`Code::Usage`]: a variable cannot name two proxies.
pub fn check_together(targets: &[Target]) -> Result<()> {
    let is_web = |target: &&Target| matches!(target.behind, Behind::Web(_));
    let twice = |web: &&Target| targets.iter().filter(|it| it.name == web.name).count() > 1;
    match targets.iter().filter(is_web).find(twice) {
        Some(Target { name, .. }) => Err(Error::new(
            Code::Usage,
            format!("{name} stands there twice: one proxy for all, {name}=https://first,second"),
        )),
        None => Ok(()),
    }
}

fn targets(name: &str, prefix: &str, servers: &str) -> Parsed<Vec<Target>> {
    check_name(name)?;
    let groups: Vec<&str> = match servers.contains('@') {
        true => servers.split(':').collect(),
        false => vec![servers],
    };
    let target = |group: &&str| {
        spelling::check(prefix, group)?;
        let servers = group.split(',').map(server).collect::<Parsed<_>>()?;
        Ok(Target { name: name.to_owned(), behind: Behind::Licenses(servers) })
    };
    groups.iter().map(target).collect()
}

fn server(text: &str) -> Parsed<Server> {
    if let Some(server) = spelling::flexnet(text) {
        return Ok(server);
    }
    let (host, ports) = match split_port(text) {
        (host, Some(ports)) if !ports.contains(':') => (host, ports),
        (_, None) if text.starts_with('[') => return Err("expected [address]:port".to_owned()),
        _ if text.contains(':') => {
            return Err("expected one colon; an IPv6 address stands in brackets".to_owned());
        }
        _ => return Err(format!("expected {TARGET_FORM}")),
    };
    check_host(host)?;
    let mut numbers = Vec::new();
    for number in ports.split('+') {
        let number = port(number)?;
        if numbers.contains(&number) {
            return Err(format!("port {number} stands there twice"));
        }
        numbers.push(number);
    }
    Ok(Server { host: host.to_owned(), port: numbers.remove(0), kept: numbers })
}

/// Reads a port, 1 to 65535 in decimal digits.
///
/// # Errors
/// The text and what was expected.
pub fn port(text: &str) -> Parsed<u16> {
    let what = || format!("port {}: expected a number from 1 to 65535", quoted(text));
    match text.parse() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err(what()),
    }
}

/// Reads a port as ssh does: a number, or the name of a service (`getservbyname`).
///
/// # Errors
/// The text and what was expected.
pub fn port_or_service(text: &str) -> Parsed<u16> {
    port(text).or_else(|why| sys::service_port(text).ok_or(format!("{why}, or a service's name")))
}

/// Whether `host`, freed of brackets, may be handed to a gateway or a resolver:
/// a name of letters, digits and `. _ -`, or an IPv6 address with or without `%zone`.
///
/// # Errors
/// The text and what was expected.
pub fn check_host(host: &str) -> Parsed<()> {
    let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
    // 253: RFC 1035 section 2.3.4, in its text form.
    let good = if address.contains(':') {
        address.parse::<Ipv6Addr>().is_ok() && is_name(zone)
    } else {
        is_name(host) && host.len() <= 253
    };
    match host {
        "" => Err("no host before the colon".to_owned()),
        _ if good => Ok(()),
        _ => Err(format!(
            "host {}: expected letters, digits and . _ - only, or an IPv6 address in brackets",
            quoted(host)
        )),
    }
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    text.bytes().all(inner) && !text.is_empty() && !text.starts_with(['-', '.'])
}

/// Names that shells, the loader or interpreters give a meaning of their own,
/// or that some shell keeps read-only: exporting one would break the job far
/// from here. zsh ties `path` to `PATH`; `status` is read-only in zsh and fish.
const RESERVED: &str = "\
    _ ARGC CDPATH CPUTYPE DIRSTACK EGID ENV ERRNO EUID FIGNORE FPATH FUNCNAME GID GLOBIGNORE \
    GROUPS HOME HOST HOSTNAME HOSTTYPE IFS INPUTRC LANG LANGUAGE LINENO LOGNAME MACHTYPE \
    MAILCHECK MAILPATH MANPATH NULLCMD OLDPWD OPTARG OPTERR OPTIND OSTYPE PATH PIPESTATUS \
    POSIXLY_CORRECT PPID PROMPT PROMPT_COMMAND PS0 PS1 PS2 PS3 PS4 PWD RANDOM READNULLCMD \
    REPLY SECONDS SHELL SHELLOPTS SHLVL SRANDOM TERM TMOUT TMPDIR TZ UID USER USERNAME ZDOTDIR \
    argv cdpath fignore fpath funcstack history hostname mailpath manpath module_path options \
    parameters path pipestatus prompt psvar signals status umask version GCONV_PATH \
    GLIBC_TUNABLES JAVA_TOOL_OPTIONS NODE_OPTIONS PERL5LIB PERL5OPT PYTHONHOME PYTHONPATH \
    PYTHONSTARTUP RUBYLIB RUBYOPT";

/// Families of such names.
const RESERVED_PREFIXES: &str = "BASH COMP_ DYLD_ EPOCH HISTFILE LC_ LD_ fish_";

fn is_reserved(name: &str) -> bool {
    let mut prefixes = RESERVED_PREFIXES.split(' ');
    RESERVED.split(' ').any(|word| word == name) || prefixes.any(|p| name.starts_with(p))
}

/// Whether `name` may be exported: a shell identifier without a meaning of its own.
///
/// # Errors
/// The name and what was expected.
pub fn check_name(name: &str) -> Parsed<()> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(inner)
    {
        let expected = "expected letters, digits and '_', not beginning with a digit";
        Err(format!("variable {}: {expected}", quoted(name)))
    } else if is_reserved(name) {
        let owner = "belongs to the shell or the system; choose another";
        Err(format!("variable {name} {owner}"))
    } else {
        Ok(())
    }
}

/// `text` in quotes and shortened, with everything escaped that could break the
/// line or drive a terminal.
pub fn quoted(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Takes `[user@]host` apart, at the last `@` as ssh does.
pub fn split_user(text: &str) -> (Option<&str>, &str) {
    match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    }
}

/// Takes `host`, `[host]`, `host:port` and `[host]:port` apart. Several colons
/// without brackets are an IPv6 address, and whatever else is a host.
pub fn split_port(text: &str) -> (&str, Option<&str>) {
    let parts = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').and_then(|(host, rest)| match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?))),
        }),
        None => (text.split_once(':'))
            .filter(|(_, port)| !port.contains(':'))
            .map(|(host, port)| (host, Some(port))),
    };
    parts.unwrap_or((text, None))
}

/// `host` or `[host]`, freed of the brackets.
pub fn without_brackets(text: &str) -> &str {
    match split_port(text) {
        (host, None) => host,
        _ => text,
    }
}

/// `host:port`, an IPv6 host in brackets.
pub fn host_port(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// `host:port`, without the kept ports: what messages name.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_port(&self.host, self.port))
    }
}

/// The whole target, as it could be typed.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Behind::Web(hosts) = &self.behind {
            write!(f, "={hosts}")?;
        }
        for (i, server) in self.servers().iter().enumerate() {
            write!(f, "{}{server}", if i == 0 { '=' } else { ',' })?;
            for port in &server.kept {
                write!(f, "+{port}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Tcp { host, port } => f.write_str(&host_port(host, *port)),
            Destination::Unix(path) => f.write_str(path),
            Destination::Web(hosts) => hosts.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
