//! Turns argv into an invocation; owns every option's text; pure.

use super::argument::{
    self, MAX_ARGUMENT_BYTES, check_length, decode, no_target, plain, shown, target_like,
};
use super::command;
use super::environment::{self, Environment};
use super::invocation::{Generated, Invocation, LogFile, Request, Shell, Watch};
use super::options::{self, Kind, OPTIONS, Opt, dashed};
use super::value_format::Template;
use crate::config::Via;
use crate::error::{Code, Context, Error, Result};
use crate::log::Verbosity;
use crate::sys;
use crate::target::{self, Forward, Parsed, Target};
use getopts::{Fail, Matches, Options};
use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The calling form, for messages.
const FORM: &str = "licfwd [options] [user@]gateway target...";

/// The limit for everything before the announcement, unless given.
const DEADLINE: Duration = Duration::from_secs(300);

/// Reads the arguments after the program's name, and what `environment` adds to them.
///
/// # Errors
/// [`Code::Usage`], naming the argument and what was expected; never a line
/// break or another control character in the message.
pub fn parse(args: &[OsString], environment: Environment<'_>) -> Result<Request> {
    let (words, command) = command::split(args, environment);
    let arguments = Arguments::read(&words, environment)?;
    if let Some(request) = arguments.for_itself(args.len())? {
        return Ok(request);
    }
    arguments.refuse(&words)?;
    Ok(Request::Run(Box::new(arguments.invocation(command)?)))
}

/// Whose syntax was asked for, as far as can be told from arguments that may not
/// parse: their failure has to be printed in some syntax too.
pub fn shell_hint(args: &[OsString]) -> Shell {
    let mut hint = Shell::Sh;
    let mut follows = false;
    for word in args.iter().map(|arg| arg.to_string_lossy()) {
        let name = match follows {
            true => Some(&*word),
            false => word.strip_prefix("--shell="),
        };
        if let Some(Ok(shell)) = name.map(parse_shell) {
            hint = shell;
        } else if word == "--" {
            break;
        }
        follows = word == "--shell";
    }
    hint
}

/// What getopts made of the arguments, and typed access to it.
struct Arguments<'a>(Matches, Environment<'a>);

impl<'a> Arguments<'a> {
    fn read(words: &[String], environment: Environment<'a>) -> Result<Arguments<'a>> {
        let parser = options::parser();
        let arguments = parser.parse(words).map(|matches| Arguments(matches, environment));
        arguments.map_err(|fail| {
            usage(match fail {
                Fail::UnrecognizedOption(name) => unknown(&parser, words, &name),
                Fail::ArgumentMissing(name) => {
                    let named = |row: &&Opt| row.short == name || row.long == name;
                    let value = OPTIONS.iter().find(named).map_or("a value", |row| row.arg);
                    format!("{}: expected {value} after it", dashed(&name))
                }
                Fail::UnexpectedArgument(name) => format!("{}: takes no value", dashed(&name)),
                other => shown(&other.to_string()),
            })
        })
    }

    /// What is asked for by itself only: a script that evaluates what stands on
    /// stdout must not get a page of text because of a slip such as `gw -host:1`.
    fn for_itself(&self, count: usize) -> Result<Option<Request>> {
        for (name, request) in [("help", Request::Help), ("version", Request::Version)] {
            if self.has(name) {
                return match count {
                    1 => Ok(Some(request)),
                    _ => Err(usage(format!("--{name} stands alone"))),
                };
            }
        }
        match self.last("generate", parse_generated)? {
            Some(_) if count > 2 => Err(usage("--generate stands alone")),
            what => Ok(what.map(Request::Generate)),
        }
    }

    fn invocation(&self, command: Option<&[OsString]>) -> Result<Invocation> {
        let (gateway, gateways, targets) = self.operands()?;
        let command = command.map_or(Ok(Vec::new()), |words| command::check(words, &self.0))?;
        let forwards = self.texts("L")?;
        let forwards = forwards.iter().map(|spec| target::parse_forward(spec));
        let forwards: Vec<Forward> = forwards.collect::<Result<_>>()?;
        let check = self.has("check");
        if targets.is_empty() && forwards.is_empty() && !check {
            return Err(self.nothing_to_forward(&gateway));
        }
        let (listen, allow) = self.access()?;
        Ok(Invocation {
            format: self.last("format", Template::parse)?,
            ssh_options: self.ssh_options()?,
            background: self.background(!targets.is_empty() || !command.is_empty())?,
            check,
            compress: self.has("C"),
            // Who checks wants to hear at once; a job can wait.
            tries: (self.number("tries", 1..=1000)?).unwrap_or(if check { 1 } else { 10 }),
            via: self.last("via", parse_via)?.unwrap_or_default(),
            timeout: self.seconds("timeout")?,
            deadline: self.seconds("deadline")?.unwrap_or(DEADLINE),
            probe: !self.has("no-probe"),
            verbatim: self.has("verbatim"),
            watch: self.watch()?,
            listen,
            allow,
            allow_any_user: self.has("allow-any-user"),
            shell: self.last("shell", parse_shell)?.unwrap_or_default(),
            pid_var: self.pid_var(&targets)?,
            log: self.log()?,
            job: environment::job(self.1).map(|(scheduler, id)| format!("{scheduler} job {id}")),
            replaced: environment::replaced(&targets, self.1),
            verbosity: self.verbosity(),
            gateways,
            targets,
            forwards,
            command,
        })
    }

    fn has(&self, key: &str) -> bool {
        self.0.opt_present(key)
    }

    /// The values of an option in order, still encoded: file names may be any bytes.
    fn values(&self, key: &str) -> Result<Vec<String>> {
        let values = self.0.opt_strs(key);
        // The names of a thousand nodes are long.
        let limit = match key {
            "allow" => usize::MAX,
            _ => MAX_ARGUMENT_BYTES,
        };
        for value in &values {
            check_length(value, limit).context(Code::Usage, || dashed(key))?;
        }
        Ok(values)
    }

    /// The values of an option that is no file name, in order.
    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let mut values = self.values(key)?;
        for value in &mut values {
            // In ssh_config a tab is a blank like any other.
            if key == "o" {
                *value = value.replace('\t', " ");
            }
            plain(value).context(Code::Usage, || format!("{} {}", dashed(key), shown(value)))?;
        }
        Ok(values)
    }

    /// Checks every value of an option; the last one counts.
    fn last<T>(&self, key: &str, read: impl Fn(&str) -> Parsed<T>) -> Result<Option<T>> {
        let mut last = None;
        for value in self.texts(key)? {
            let what = || format!("{} {}", dashed(key), shown(&value));
            last = Some(read(&value).context(Code::Usage, what)?);
        }
        Ok(last)
    }

    fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        self.last(key, |value| match value.parse() {
            Ok(number) if range.contains(&number) && !value.starts_with('+') => Ok(number),
            _ => {
                let (low, high) = (range.start(), range.end());
                Err(format!("expected a number from {low} to {high}"))
            }
        })
    }

    fn seconds(&self, key: &str) -> Result<Option<Duration>> {
        let seconds = self.number(key, 1..=86_400)?;
        Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
    }

    fn refuse(&self, words: &[String]) -> Result<()> {
        let refused = OPTIONS.iter().filter(|row| row.kind == Kind::Refused);
        let first = refused
            .filter_map(|row| Some((*self.0.opt_positions(row.key()).first()?, row)))
            .min_by_key(|(position, _)| *position);
        match first {
            Some((_, row)) => Err(usage(match options::single_dash(words) {
                Some(long) => format!("-{long}: did you mean --{long}?"),
                None => format!("-{}: {}", row.short, row.text),
            })),
            None => Ok(()),
        }
    }

    /// The gateways as they stand and one by one; the targets.
    fn operands(&self) -> Result<(String, Vec<String>, Vec<Target>)> {
        let (what, gateway, words) = self.gateway()?;
        let gateways = argument::gateways(&gateway)
            .context(Code::Usage, || format!("{what} {}", shown(&gateway)))?;
        let first = &self.0.free.first().map_or("", String::as_str);
        let targets = words.iter().map(|word| self.targets(word, first));
        let targets: Vec<Vec<Target>> = targets.collect::<Result<_>>()?;
        let targets = targets.concat();
        target::check_together(&targets)?;
        match gateways.iter().find_map(|name| port_in(name)) {
            Some(number) if !targets.is_empty() => {
                Err(usage(format!("{what} {}: a port is given with -p {number}", shown(&gateway))))
            }
            _ => Ok((gateway, gateways, targets)),
        }
    }

    /// Who names the gateways, these, and the words that are targets.
    fn gateway(&self) -> Result<(&'static str, String, &[String])> {
        let words = &self.0.free[..];
        match (words.split_first(), environment::value(self.1, environment::GATEWAY)) {
            (Some((first, _)), Some(gateway)) if environment::is_target(first, self.1) => {
                Ok((environment::GATEWAY, gateway, words))
            }
            (None, Some(gateway)) => Ok((environment::GATEWAY, gateway, words)),
            (Some((first, rest)), _) => Ok(("gateway", first.clone(), rest)),
            (None, None) => Err(usage(format!("no gateway: {FORM} (see licfwd --help)"))),
        }
    }

    /// One operand after the gateway, which may stand in the wrong place.
    fn targets(&self, word: &str, first: &str) -> Result<Vec<Target>> {
        check_length(word, MAX_ARGUMENT_BYTES)
            .and_then(|()| plain(word))
            .context(Code::Usage, || format!("target {}", shown(word)))?;
        if target_like(word) || target::port(word).is_ok() {
            target::parse_targets(word)
        } else if target::parse_targets(first).is_ok() {
            let first = shown(first);
            Err(usage(format!("{first} stands before the gateway: {FORM}")))
        } else if target::is_variable(word) {
            environment::targets(word, self.1)
        } else {
            Err(usage(no_target(word)))
        }
    }

    fn log(&self) -> Result<Option<LogFile>> {
        let given = self.values("log")?.pop().map(|file| decode(&file).into());
        Ok(match given {
            Some(path) => Some(LogFile { path, by_default: false }),
            None => environment::log(self.1, &sys::node_name())?
                .map(|path| LogFile { path, by_default: true }),
        })
    }

    /// What the only operand is told, which is taken for a gateway.
    fn nothing_to_forward(&self, gateway: &str) -> Error {
        let word = shown(gateway);
        let why = match target::parse_targets(gateway) {
            Err(e) if target::port(gateway).is_ok() => return e,
            Ok(_) => {
                let way_out = format!("{FORM}, or set {}", environment::GATEWAY);
                return usage(format!("no gateway before target {word}: {way_out}"));
            }
            Err(_) if target::is_variable(gateway) => {
                let by_default = environment::value(self.1, environment::GATEWAY).is_some();
                match environment::targets(gateway, self.1) {
                    Err(e) if by_default => return e,
                    _ => format!("{word} is not set, nor is it a target: "),
                }
            }
            Err(_) if target::check_host(gateway).is_ok() => format!(
                "{word} is taken for the gateway; a license server has a port (licserver:27000): "
            ),
            Err(_) => String::new(),
        };
        usage(format!("nothing to forward: {why}{FORM}, or -L SPEC (see licfwd --help)"))
    }

    fn ssh_options(&self) -> Result<Vec<OsString>> {
        let mut found = Vec::new();
        for row in OPTIONS.iter().filter(|row| row.kind == Kind::Ssh) {
            let values = match row.short {
                "F" | "i" => self.values(row.short)?,
                _ => self.texts(row.short)?,
            };
            for value in &values {
                argument::check_ssh_value(row.short, value)
                    .context(Code::Usage, || format!("-{} {}", row.short, shown(value)))?;
            }
            let mut values = values.into_iter();
            for position in self.0.opt_positions(row.short) {
                found.push((position, dashed(row.short), values.next()));
            }
        }
        found.sort_by_key(|(position, ..)| *position);
        let pairs = found.into_iter().map(|(_, name, value)| [Some(name), value]);
        Ok(pairs.flatten().flatten().map(|word| decode(&word)).collect())
    }

    fn background(&self, with_targets: bool) -> Result<bool> {
        match (self.has("f"), self.has("foreground")) {
            (true, true) => Err(usage("-f and --foreground: choose one")),
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => Ok(with_targets),
        }
    }

    fn watch(&self) -> Result<Watch> {
        let pid = self.number("watch", 1..=i32::MAX as u32)?;
        match (pid, self.has("no-watch")) {
            (Some(_), true) => Err(usage("--watch and --no-watch: choose one")),
            (Some(pid), false) => Ok(Watch::Pid(pid)),
            (None, true) => Ok(Watch::Nothing),
            (None, false) => Ok(Watch::Session),
        }
    }

    fn access(&self) -> Result<(Option<IpAddr>, Vec<String>)> {
        let (listen, allow) = (self.last("listen", parse_listen)?, self.allow()?);
        match listen {
            None if !allow.is_empty() => {
                Err(usage("--allow: needs --listen ADDR, the address to serve"))
            }
            Some(address) if allow.is_empty() && !address.is_loopback() => Err(usage(format!(
                "--listen {address}: needs --allow HOST[,HOST...], the hosts to serve"
            ))),
            _ => Ok((listen, allow)),
        }
    }

    fn allow(&self) -> Result<Vec<String>> {
        let mut allow = Vec::new();
        for list in self.values("allow")? {
            let before = allow.len();
            let hosts = list.split(|c: char| c == ',' || c.is_ascii_whitespace());
            for host in hosts.filter(|host| !host.is_empty()) {
                let host = target::without_brackets(host);
                target::check_host(host).context(Code::Usage, || "--allow".to_owned())?;
                allow.push(host.to_owned());
            }
            if allow.len() == before {
                return Err(usage("--allow: names no host"));
            }
        }
        Ok(allow)
    }

    fn pid_var(&self, targets: &[Target]) -> Result<Option<String>> {
        let name =
            self.last("pid-var", |name| target::check_name(name).map(|()| name.to_owned()))?;
        match name {
            Some(name) if targets.iter().any(|target| target.name == name) => {
                Err(usage(format!("--pid-var {name}: a target sets that variable; choose another")))
            }
            name => Ok(name),
        }
    }

    /// The later of `-q` and `-v` counts, in one bundle `-v`.
    fn verbosity(&self) -> Verbosity {
        let last = |key| self.0.opt_positions(key).into_iter().max();
        match (last("q"), last("v")) {
            (None, None) => Verbosity::Normal,
            (quiet, verbose) if quiet > verbose => Verbosity::Quiet,
            _ => Verbosity::Verbose,
        }
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Code::Usage, message)
}

/// What looks like the port in `host:port`.
fn port_in(gateway: &str) -> Option<&str> {
    let (_, number) = gateway.split_once(':')?;
    target::port(number).is_ok().then_some(number)
}

fn parse_listen(value: &str) -> Parsed<IpAddr> {
    let inside = target::without_brackets(value);
    match inside.parse::<IpAddr>() {
        // Brackets are for IPv6.
        Ok(ip) if ip.is_ipv6() || inside == value => Ok(ip.to_canonical()),
        _ => Err("expected an address of this machine".to_owned()),
    }
}

fn parse_shell(name: &str) -> Parsed<Shell> {
    match name {
        "sh" => Ok(Shell::Sh),
        "csh" => Ok(Shell::Csh),
        "fish" => Ok(Shell::Fish),
        _ => Err("expected sh (also for bash, ksh and zsh), csh (also for tcsh) or fish".into()),
    }
}

fn parse_via(name: &str) -> Parsed<Via> {
    match name {
        "libssh2" => Ok(Via::Libssh2),
        "ssh" => Ok(Via::Ssh),
        "auto" => Ok(Via::Auto),
        _ => Err("expected libssh2, ssh or auto".to_owned()),
    }
}

fn parse_generated(name: &str) -> Parsed<Generated> {
    let found = Generated::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, what)| *what).ok_or_else(|| {
        let names = Generated::ALL.map(|(name, _)| name).join(", ");
        format!("expected one of {names}")
    })
}

/// Names the mistake where it can be told: a remote command whose own options
/// came up, one dash too few, a slip of the finger.
fn unknown(parser: &Options, words: &[String], name: &str) -> String {
    let meets_it =
        |n: &usize| matches!(parser.parse(&words[..*n]), Err(Fail::UnrecognizedOption(_)));
    let lengths: Vec<usize> = (0..=words.len()).collect();
    let before = lengths.partition_point(|n| !meets_it(n)).saturating_sub(1);
    let taken = parser.parse(&words[..before]).map_or(Vec::new(), |arguments| arguments.free);
    if let Some(command) = taken.iter().skip(1).find(|word| !target_like(word)) {
        return no_target(command);
    }
    let name = dashed(name);
    let advice = match options::single_dash(words).or_else(|| options::nearest(&name)) {
        Some(long) => format!("did you mean --{long}?"),
        None => "licfwd --help lists them all".to_owned(),
    };
    format!("unknown option {}: {advice}", shown(&name))
}

#[cfg(test)]
mod tests;
