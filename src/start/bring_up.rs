//! Brings the tunnel up, step by step, and leaves it to the process that serves.

use super::tries::{self, Tries};
use super::{announce, daemon, other_nodes};
use crate::auth::{AcceptedKeys, Credentials};
use crate::cli::{Invocation, Watch};
use crate::config::{self, Gateway, Strict};
use crate::error::{Code, Context, Error, Result};
use crate::gateway::{self, Route, Session};
use crate::local::{self, Access, LocalPorts};
use crate::log::Log;
use crate::retry::{Deadline, Limits};
use crate::sys;
use crate::tunnel::{Job, Parts, Reconnect, Tunnel};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Limit for one connection step where neither `--timeout` nor ConnectTimeout is given.
const STEP_LIMIT: Duration = Duration::from_secs(15);

/// Descriptors without which nobody could be served, or a lost gateway not be reached
/// again through a proxy.
const DESCRIPTORS_TO_SERVE: usize = 10;

/// Does what the command line asks: returns when the tunnel stands in the
/// background, or a check is done. A tunnel in the foreground ends the process.
///
/// # Errors
/// Whatever keeps the tunnel from standing, with its exit code.
pub fn run(invocation: &Invocation, ignored_signals: &[i32]) -> Result<()> {
    let stderr = !invocation.announces() || !announce::stderr_is_evaluated();
    let mut log = Log::new(invocation.verbosity, stderr);
    if invocation.check {
        log = log.timing_steps();
    }
    let begin = Instant::now();
    let log = Arc::new(log);
    let result = bring_up(invocation, ignored_signals, &log)
        .inspect_err(|e| log.record(format_args!("failed ({}): {e}", e.code as i32)));
    match &result {
        _ if !invocation.check => {}
        Ok(()) => log.note(format_args!(
            "{:8.1} ms  in all: the tunnel would stand, nothing is left of this check",
            begin.elapsed().as_secs_f64() * 1e3
        )),
        Err(e) => log.step(format_args!("failed with exit code {}", e.code as u8)),
    }
    result
}

fn bring_up(invocation: &Invocation, ignored_signals: &[i32], log: &Arc<Log>) -> Result<()> {
    sys::set_umask(0o077);
    sys::share_one_heap();
    // Else whatever is started would seem to be missing.
    File::options().read(true).write(true).open("/dev/null").advise(
        Code::System,
        || "cannot open /dev/null".into(),
        "give this node or container a whole /dev",
    )?;
    if invocation.announces() {
        announce::check_stdout()?;
    }
    if let Some(path) = &invocation.log {
        // Before it is open, or it would be told of its own refusal.
        if (invocation.announces() || invocation.background) && announce::is_stdout(path) {
            let what = "is standard output, which the caller would read until the tunnel ends";
            let what = format!("--log {}: {what}; name a file", path.display());
            return Err(Error::new(Code::Usage, what));
        }
        log.open_file(path)
            .context(Code::Config, || format!("cannot open the log file {}", path.display()))?;
    }
    let prepared = prepare(invocation, log)?;
    match invocation.check {
        true => Ok(()),
        false => announce_and_serve(invocation, prepared, ignored_signals, log),
    }
}

/// All that a tunnel needs, and it works. The session with the gateway belongs to
/// the one process that goes on with this value, or drops it.
struct Prepared {
    route: Route,
    session: Box<dyn Session>,
    bound: LocalPorts,
    access: Access,
    watched_job: Job,
    step_limit: Duration,
}

/// Everything that can fail, in the foreground and before the fork. What costs the
/// gateway nothing comes before the login.
fn prepare(invocation: &Invocation, log: &Arc<Log>) -> Result<Prepared> {
    if sys::test_hook("PANIC").is_some() {
        panic!("a test wants to see what a bug looks like");
    }
    let deadline = Deadline::after(invocation.deadline);
    let watched_job = watched_job(invocation)?;
    let access = Access::new(invocation.allow_any_user, &invocation.allow, deadline.left())?;
    sys::raise_descriptor_limit();
    let mut tries = Tries::new(invocation, deadline, log);
    let gateway = tries.until_done(|| resolve_gateway(invocation, deadline, log))?;
    let step = invocation.timeout.or(gateway.connect_timeout);
    let step = step.unwrap_or(STEP_LIMIT);
    let limits = Limits { step, deadline };
    gateway::check(invocation.via, &gateway)?;
    let credentials = Credentials::load(&gateway, log);
    let bound = bind_ports(invocation, &gateway, limits, log)?;
    log.step("identities read, local ports bound");
    let mut route = route(invocation, gateway, credentials);
    let session = tries::connect(&mut tries, invocation.probe, &mut route, &bound, limits, log)?;
    other_nodes::tell(invocation, log);
    Ok(Prepared { route, session, bound, access, watched_job, step_limit: step })
}

fn watched_job(invocation: &Invocation) -> Result<Job> {
    match invocation.watch {
        Watch::Nothing => Ok(Job::unbounded()),
        Watch::Pid(pid) => Job::of_process(pid),
        // As with ssh -f: a tunnel that a person opened by hand.
        Watch::Session if invocation.targets.is_empty() && File::open("/dev/tty").is_ok() => {
            Ok(Job::unbounded())
        }
        Watch::Session => Job::of_caller(),
    }
}

fn resolve_gateway(invocation: &Invocation, deadline: Deadline, log: &Log) -> Result<Gateway> {
    let limit = invocation.timeout.unwrap_or(STEP_LIMIT);
    let limit = limit.min(deadline.left());
    let mut gateway = config::resolve(&invocation.gateway, &invocation.ssh_options, limit, log)?;
    gateway.algorithms.compression |= invocation.compress;
    if invocation.check && gateway.host_key.strict == Strict::AcceptNew {
        gateway.host_key.strict = Strict::AcceptUnwritten;
    }
    log.step(format_args!(
        "gateway {} is {} port {}, user {}",
        gateway.name, gateway.host, gateway.port, gateway.user
    ));
    Ok(gateway)
}

fn bind_ports(
    invocation: &Invocation,
    gateway: &Gateway,
    limits: Limits,
    log: &Log,
) -> Result<LocalPorts> {
    let forwards = &invocation.forwards;
    if gateway.unlink_sockets && !invocation.check {
        local::make_way(forwards);
    }
    LocalPorts::bind(forwards, &invocation.targets, invocation.listen, limits, log)
}

fn route(invocation: &Invocation, gateway: Gateway, credentials: Credentials) -> Route {
    Route {
        gateway,
        credentials,
        accepted: AcceptedKeys::default(),
        via: invocation.via,
        ssh_options: config::absolute(&invocation.ssh_options),
        forwards: invocation.forwards.iter().map(|f| f.to.clone()).collect(),
        dry: invocation.check,
        cut_off: false,
    }
}

/// Three steps are closures, because in the background two processes share them, and
/// [`daemon::detach`] alone knows in which of the two it is. In the foreground this
/// process does all three.
fn announce_and_serve(
    invocation: &Invocation,
    prepared: Prepared,
    ignored_signals: &[i32],
    log: &Arc<Log>,
) -> Result<()> {
    let background = invocation.background;
    let mut variables = announce::variables(invocation, &prepared.bound);
    let started = started(&prepared, &variables);
    // The child's: owns the session. In the parent nothing may touch that any more,
    // not even to drop it.
    let build = || tunnel(prepared, &ending_signals(background, ignored_signals), log);
    // The parent's: it still has the caller's stdout, and knows the child's process id.
    let mut announce = |pid: u32| {
        let pid_variable = invocation.pid_var.clone();
        variables.extend(pid_variable.map(|name| (name, pid.to_string())));
        match invocation.announces() {
            true => announce::print_statement(invocation.shell, &variables),
            false => Ok(()),
        }
    };
    // The child's again, once the parent has announced it.
    let serve = |tunnel: Tunnel| {
        log.event(started);
        let why = tunnel.serve();
        log.event(format_args!("ended: {why}"));
    };
    // From here on a signal must not end one side without the other.
    std::mem::forget(sys::hold_signals());
    if background {
        log.detail("going to the background");
        return daemon::detach(build, announce, serve);
    }
    let tunnel = build()?;
    announce(std::process::id())?;
    if invocation.announces() {
        announce::close_stdout();
    }
    serve(tunnel);
    // A reconnecting thread may be anywhere; nothing is left to clean up.
    sys::exit_now(0)
}

/// To be called by the process that serves: the descriptors for signals and events
/// belong to the process that made them.
fn tunnel(prepared: Prepared, signals: &[i32], log: &Arc<Log>) -> Result<Tunnel> {
    let signals =
        sys::serve_signals(signals).context(Code::System, || "cannot receive signals".into())?;
    let parts = Parts {
        listeners: prepared.bound.listeners,
        access: prepared.access,
        silence: prepared.route.gateway.silence,
        reconnect: Reconnect::new(prepared.route, prepared.step_limit),
        job: prepared.watched_job,
        signals,
        log: Arc::clone(log),
    };
    let no_service = || "cannot start to serve".into();
    let tunnel = Tunnel::new(parts, prepared.session).context(Code::System, no_service)?;
    let way_out = "raise the limit of open files (ulimit -n, hard)";
    sys::have_room(DESCRIPTORS_TO_SERVE).advise(Code::System, no_service, way_out)?;
    Ok(tunnel)
}

/// The signals that end the tunnel. Schedulers send all the others to every
/// process of a job; in the foreground a person's control-C counts.
fn ending_signals(background: bool, ignored: &[i32]) -> Vec<i32> {
    let mut signals = vec![sys::SIGTERM];
    if !background && !ignored.contains(&sys::SIGINT) {
        signals.extend([sys::SIGINT, sys::SIGQUIT]);
    }
    if !background && !ignored.contains(&sys::SIGHUP) {
        signals.push(sys::SIGHUP);
    }
    signals
}

/// The first line of a tunnel in the log.
fn started(prepared: &Prepared, variables: &[(String, String)]) -> String {
    let gateway = &prepared.route.gateway;
    let values = variables.iter().map(|(name, value)| format!("{name}={value}"));
    format!(
        "started: gateway {} ({} port {}) over {}, {}",
        gateway.name,
        gateway.host,
        gateway.port,
        prepared.session.name(),
        values.collect::<Vec<_>>().join(" ")
    )
}
