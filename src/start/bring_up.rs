//! Brings the tunnel up: ports, gateway, probe, within tries and deadline.

use super::probe::{self, Findings};
use super::{announce, daemon};
use crate::auth::{Credentials, Terminal};
use crate::cli::{Invocation, Watch};
use crate::config::{self, Strict};
use crate::error::{Code, Context, Error, Result};
use crate::gateway::{self, Connection, Route};
use crate::local::{self, Access, Bound};
use crate::log::Log;
use crate::retry::{Backoff, Deadline, Limits};
use crate::sys;
use crate::tunnel::{Lifeline, Parts, Reconnect, Tunnel};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Limit for one connection step where neither `--timeout` nor ConnectTimeout is given.
const STEP: Duration = Duration::from_secs(15);

/// Does what the command line asks: returns when the tunnel stands in the
/// background, or when a foreground one has ended.
///
/// # Errors
/// Whatever keeps the tunnel from standing, with its exit code.
pub fn run(invocation: &Invocation, inherited: Inherited) -> Result<()> {
    let log = Log::new(
        invocation.verbosity,
        !invocation.announces() || !announce::stderr_is_evaluated(),
    );
    if !invocation.check {
        return bring_up(invocation, inherited, Arc::new(log));
    }
    let log = Arc::new(log.timing_steps());
    let begin = Instant::now();
    let result = bring_up(invocation, inherited, Arc::clone(&log));
    match &result {
        Ok(()) => log.note(format_args!(
            "{:8.1} ms  in all: the tunnel would stand, nothing is left of this check",
            begin.elapsed().as_secs_f64() * 1e3
        )),
        Err(e) => log.step(format_args!("failed with exit code {}", e.code as u8)),
    }
    result
}

fn bring_up(invocation: &Invocation, inherited: Inherited, log: Arc<Log>) -> Result<()> {
    sys::set_umask(0o077);
    sys::share_one_heap();
    if invocation.announces() {
        announce::check()?;
    }
    if let Some(path) = &invocation.log {
        log.open_file(path).context(Code::Config, || {
            format!("cannot open the log file {}", path.display())
        })?;
    }
    stand(invocation, inherited, &log)
        .inspect_err(|e| log.record(format_args!("failed ({}): {e}", e.code as i32)))
}

fn stand(invocation: &Invocation, inherited: Inherited, log: &Arc<Log>) -> Result<()> {
    if std::env::var_os("LICFWD_TEST_PANIC").is_some() {
        panic!("a test wants to see what a bug looks like");
    }
    let log = Arc::clone(log);
    let announces = invocation.announces();
    let deadline = Deadline::after(invocation.deadline);
    let life = lifeline(invocation)?;
    let access = Access::new(invocation.allow_any_user, &invocation.allow)?;
    sys::raise_descriptor_limit();

    let step = invocation.timeout.unwrap_or(STEP);
    let mut gateway = config::resolve(
        &invocation.gateway,
        &invocation.ssh_options,
        step.min(deadline.left()),
        &log,
    )?;
    gateway.algorithms.compression |= invocation.compress;
    if invocation.check && gateway.host_key.strict == Strict::AcceptNew {
        gateway.host_key.strict = Strict::AcceptUnwritten;
    }
    log.step(format_args!(
        "gateway {} is {} port {}, user {}",
        gateway.name, gateway.host, gateway.port, gateway.user
    ));
    let step = invocation
        .timeout
        .or(gateway.connect_timeout)
        .unwrap_or(STEP);
    gateway::check(invocation.via, &gateway)?;
    let credentials = Credentials::load(&gateway, &log);
    if gateway.unlink_sockets && !invocation.check {
        local::make_way(&invocation.forwards);
    }
    let bound = Bound::bind(
        &invocation.forwards,
        &invocation.targets,
        invocation.listen,
        &log,
    )?;

    log.step("identities read, local ports bound");

    let silence = gateway.silence;
    let mut route = Route {
        gateway,
        credentials,
        via: invocation.via,
        ssh_options: config::absolute(&invocation.ssh_options),
        forwards: invocation.forwards.iter().map(|f| f.to.clone()).collect(),
        dry: invocation.check,
        cut_off: false,
    };
    let limits = Limits { step, deadline };
    let way = Way {
        invocation,
        limits,
        log: &log,
    };
    let connection = way.try_until_it_works(&mut route, &bound)?;
    tell_where_it_works(invocation, &log);
    if invocation.check {
        return Ok(());
    }

    let Bound {
        doors,
        servers,
        variables,
    } = bound;
    let mut values: Vec<(String, String)> = variables
        .iter()
        .map(|variable| {
            let group = |group: &Vec<usize>| {
                let server = |i: &usize| {
                    invocation
                        .format
                        .render(servers[*i].port, &servers[*i].host)
                };
                group.iter().map(server).collect::<Vec<_>>().join(",")
            };
            let groups: Vec<String> = variable.groups.iter().map(group).collect();
            (variable.name.clone(), groups.join(":"))
        })
        .collect();
    let told = Arc::clone(&log);
    let started = format!(
        "started: gateway {} ({} port {}) over {}, {}",
        route.gateway.name,
        route.gateway.host,
        route.gateway.port,
        connection.name(),
        values
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let build = move || {
        let signals = sys::serve_signals(&ending_signals(invocation.background, inherited))
            .context(Code::System, || "cannot receive signals".into())?;
        let parts = Parts {
            doors,
            access,
            reconnect: Reconnect::new(route, step),
            silence,
            life,
            signals,
            log,
        };
        Tunnel::new(parts, connection).context(Code::System, || "cannot start to serve".into())
    };
    let mut announce = |pid: u32| {
        values.extend(
            invocation
                .pid_var
                .clone()
                .map(|name| (name, pid.to_string())),
        );
        if announces {
            announce::print(&announce::statement(invocation.shell, &values))
        } else {
            Ok(())
        }
    };
    let serve = |tunnel: Tunnel| {
        told.event(started);
        let why = tunnel.serve();
        told.event(format_args!("ended: {why}"));
    };
    // From here on a signal must not end one side without the other.
    sys::hold_signals(true);
    if invocation.background {
        told.detail("going to the background");
        let quiet = Arc::clone(&told);
        daemon::detach(
            || {
                quiet.leave_stderr();
                build()
            },
            announce,
            serve,
        )
    } else {
        let tunnel = build()?;
        announce(std::process::id())?;
        if announces {
            // The line has an end for whoever reads it to there.
            let null = File::options().write(true).open("/dev/null");
            let _ = null.map(|null| sys::redirect(null, 1));
        }
        serve(tunnel);
        // A reconnecting thread may be anywhere; nothing is left to clean up.
        sys::exit_now(0)
    }
}

/// What the process came with.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// HUP was ignored (`nohup`).
    pub ignores_hup: bool,
    /// INT was ignored (`command &` in a script).
    pub ignores_int: bool,
}

/// The signals that end the tunnel. Schedulers send all the others to every
/// process of a job; in the foreground a person's control-C counts.
fn ending_signals(background: bool, inherited: Inherited) -> Vec<i32> {
    let mut signals = vec![sys::SIGTERM];
    if !background && !inherited.ignores_int {
        signals.extend([sys::SIGINT, sys::SIGQUIT]);
    }
    if !background && !inherited.ignores_hup {
        signals.push(sys::SIGHUP);
    }
    signals
}

fn lifeline(invocation: &Invocation) -> Result<Lifeline> {
    match invocation.watch {
        Watch::Nothing => Ok(Lifeline::unbounded()),
        Watch::Pid(pid) => Lifeline::of_process(pid),
        // As with ssh -f: a tunnel that a person opened by hand.
        Watch::Session if invocation.targets.is_empty() && File::open("/dev/tty").is_ok() => {
            Ok(Lifeline::unbounded())
        }
        Watch::Session => Lifeline::of_caller(),
    }
}

/// One note where programs on other nodes could expect to use the tunnel.
fn tell_where_it_works(invocation: &Invocation, log: &Log) {
    if invocation.listen.is_some() || invocation.targets.is_empty() {
        return;
    }
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    let pbs_nodes = std::fs::read_to_string(set("PBS_NODEFILE")).unwrap_or_default();
    let mut pbs_nodes: Vec<&str> = pbs_nodes.lines().collect();
    pbs_nodes.sort_unstable();
    pbs_nodes.dedup();
    let lsb_hosts = set("LSB_HOSTS");
    let mut lsb_nodes: Vec<&str> = lsb_hosts.split_whitespace().collect();
    lsb_nodes.sort_unstable();
    lsb_nodes.dedup();
    let several = set("SLURM_JOB_NUM_NODES").parse().is_ok_and(|n: u32| n > 1)
        || pbs_nodes.len() > 1
        || lsb_nodes.len() > 1;
    let outside = !set("SLURM_JOB_ID").is_empty() && set("SLURMD_NODENAME").is_empty();
    if several || outside {
        log.note(format_args!(
            "only programs on this node, {}, can use the tunnel; --listen and --allow serve the other nodes of a job",
            sys::node_name()
        ));
    }
}

/// The way to a connection over which the license servers answer.
struct Way<'a> {
    invocation: &'a Invocation,
    limits: Limits,
    log: &'a Arc<Log>,
}

impl Way<'_> {
    /// Tries, waits and tries again, with one counter for gateway and servers.
    fn try_until_it_works(&self, route: &mut Route, bound: &Bound) -> Result<Connection> {
        let mut connection = None;
        let tries = self.invocation.tries;
        for n in 1.. {
            let error = match self.try_once(&mut connection, route, bound) {
                Ok(()) => break,
                Err(e) if !e.code.is_transient() => return Err(e),
                Err(e) => e,
            };
            if n == tries {
                return Err(Error::new(
                    error.code,
                    format!(
                        "{error}; gave up after {n} {}",
                        if n == 1 { "try" } else { "tries" }
                    ),
                ));
            }
            let wait = Backoff::START.wait(n - 1, &mut rand::rng());
            if wait >= self.limits.deadline.left() {
                return Err(Error::new(
                    error.code,
                    format!(
                        "{error}; gave up after {n} tries, because the deadline of {} s is near",
                        self.invocation.deadline.as_secs()
                    ),
                ));
            }
            self.log.note(format_args!(
                "try {n} of {tries} failed: {error}; next one in {:.1} s",
                wait.as_secs_f64()
            ));
            std::thread::sleep(wait);
        }
        connection.ok_or_else(|| Error::new(Code::Internal, "no connection after all tries"))
    }

    /// A session that served a failed probe is used again, unless the probe has
    /// left it unusable.
    fn try_once(
        &self,
        connection: &mut Option<Connection>,
        route: &mut Route,
        bound: &Bound,
    ) -> Result<()> {
        let mut findings = Findings::of(bound);
        loop {
            if connection.is_none() {
                let mut terminal = Terminal::open();
                let prompter = terminal.as_mut().map(|t| t as _);
                *connection = Some(route.open(prompter, self.limits, self.log)?);
            }
            let Some(open) = connection else {
                continue;
            };
            if !self.invocation.probe {
                return Ok(());
            }
            match probe::ask(open, bound, &mut findings, self.limits, self.log) {
                Ok(()) => return findings.verdict(bound, self.log),
                Err(probe::Failure::SessionSpent) => *connection = None,
                Err(probe::Failure::Error(e)) => {
                    *connection = None;
                    return Err(e);
                }
            }
        }
    }
}
