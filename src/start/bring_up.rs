//! Brings the tunnel up, step by step, and leaves it to the process that serves.

use super::lifeline::Lifeline;
use super::tries::{self, Tries};
use super::{announce, daemon, other_nodes};
use crate::cli::{Invocation, LogFile, Watch};
use crate::config::{self, Gateway};
use crate::error::{Code, Context, Error, Result};
use crate::gateway::{Gateways, Session, Settings};
use crate::local::{self, Access, LocalPorts};
use crate::log::Log;
use crate::retry::{Deadline, Limits};
use crate::sys;
use crate::target::{Behind, Destination, ForwardSide, Server, Target};
use crate::tunnel::{Job, Parts, Reconnect, Restart, Tunnel};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

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
        announce::tell_if_unevaluated(invocation.shell, log);
    }
    log.about(format!(
        "licfwd {} on {}, {}",
        env!("CARGO_PKG_VERSION"),
        sys::node_name(),
        invocation.job.as_deref().unwrap_or("no batch job")
    ));
    if let Some(LogFile { path, .. }) = &invocation.log
        && (invocation.announces() || invocation.background)
        && announce::is_stdout(path)
    {
        // Before it is open, or it would be told of its own refusal.
        let what = "is standard output, which the caller would read until the tunnel ends";
        let what = format!("log {}: {what}; name a file", path.display());
        return Err(Error::new(Code::Usage, what));
    }
    open_log(invocation, log)?;
    let prepared = prepare(invocation, log)?;
    match invocation.check {
        true => Ok(()),
        false => announce_and_serve(invocation, prepared, ignored_signals, log),
    }
}

pub(super) fn open_log(invocation: &Invocation, log: &Log) -> Result<()> {
    let Some(LogFile { path, by_default }) = &invocation.log else {
        return Ok(());
    };
    let what = || format!("cannot open the log file {}", path.display());
    match log.open_file(path).context(Code::Config, what) {
        Err(e) if *by_default => log.note(format_args!("LICFWD_LOG: {e}; going on without")),
        opened => opened?,
    }
    Ok(())
}

/// All that a tunnel needs, and it works. The session with the gateway belongs to
/// the one process that goes on with this value, or drops it.
struct Prepared {
    gateways: Gateways,
    session: Box<dyn Session>,
    bound: LocalPorts,
    access: Access,
    watched_job: Job,
    /// Where licfwd was started.
    directory: PathBuf,
}

/// Everything that can fail, in the foreground and before the fork. What costs the
/// gateway nothing comes before the login.
fn prepare(invocation: &Invocation, log: &Arc<Log>) -> Result<Prepared> {
    if sys::test_hook("PANIC").is_some() {
        panic!("a test wants to see what a bug looks like");
    }
    let deadline = Deadline::after(invocation.deadline);
    let no_thread = || "cannot watch the job".into();
    let lifeline = Lifeline::of(watched_job(invocation)?, log).context(Code::System, no_thread)?;
    let access = Access::new(invocation.allow_any_user, &invocation.allow, deadline.left())?;
    sys::raise_descriptor_limit();
    let mut tries = Tries::new(invocation, deadline, log);
    let mut gateways = gateways(invocation);
    tries.until_done(|| gateways.resolve_one(deadline, log))?;
    let limits = gateways.limits(gateways.again(), deadline);
    let bound = bind_ports(invocation, gateways.current(), limits, log)?;
    log.step("identities read, local ports bound");
    let session = tries::connect(&mut tries, &mut gateways, &bound, log)?;
    gateways.run(probes(invocation));
    other_nodes::tell(invocation, log);
    bound.notes.iter().for_each(|note| log.note(note));
    announce::tell_what_surprises(invocation, log);
    // Where it has none any more, names of files mean nothing.
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let watched_job = lifeline.let_go().context(Code::System, no_thread)?;
    Ok(Prepared { gateways, session, bound, access, watched_job, directory })
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

fn bind_ports(
    invocation: &Invocation,
    gateway: &Gateway,
    limits: Limits,
    log: &Log,
) -> Result<LocalPorts> {
    let mut forwards = invocation.forwards.clone();
    for forward in forwards.iter_mut().filter(|_| gateway.gateway_ports) {
        if let ForwardSide::Tcp { bind, .. } = &mut forward.listen {
            bind.get_or_insert_with(|| "*".to_owned());
        }
    }
    let forwards = &forwards;
    if gateway.unlink_sockets && !invocation.check {
        local::make_way(forwards);
    }
    LocalPorts::bind(forwards, &invocation.targets, invocation.listen, limits, log)
}

pub(super) fn gateways(invocation: &Invocation) -> Gateways {
    let settings = Settings {
        ssh_options: invocation.ssh_options.clone(),
        absolute_options: config::absolute(&invocation.ssh_options),
        via: invocation.via,
        compress: invocation.compress,
        forwards: invocation.forwards.iter().map(|f| f.to.clone()).collect(),
        check: invocation.check,
        timeout: invocation.timeout,
    };
    Gateways::new(&invocation.gateways, settings)
}

/// The license servers of which one has to answer through a gateway that is new.
pub(super) fn probes(invocation: &Invocation) -> Vec<Destination> {
    let targets = invocation.targets.iter().filter(|_| invocation.probe);
    let first = |server: &Server| Destination::Tcp { host: server.host.clone(), port: server.port };
    let probes = |target: &Target| match &target.behind {
        Behind::Licenses(servers) => servers.iter().map(first).collect(),
        Behind::Web(hosts) => Vec::from_iter(hosts.first()),
    };
    targets.flat_map(probes).collect()
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
    let mut variables = announce::variables(invocation, &prepared.bound, log);
    let started = started(&prepared, &variables);
    // The child's: owns the session. In the parent nothing may touch that any more,
    // not even to drop it.
    let build = || tunnel(invocation, prepared, &ending_signals(background, ignored_signals), log);
    // The parent's: it still has the caller's stdout, and knows the child's process id.
    let mut announce = |pid: u32| {
        let pid_variable = invocation.pid_var.clone();
        variables.extend(pid_variable.map(|name| (name, pid.to_string())));
        match invocation.announces() {
            true => announce::print_statement(invocation.shell, &variables),
            false if invocation.becomes_command() => announce::hand_over(&variables),
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
fn tunnel(
    invocation: &Invocation,
    prepared: Prepared,
    signals: &[i32],
    log: &Arc<Log>,
) -> Result<Tunnel> {
    let signals =
        sys::serve_signals(signals).context(Code::System, || "cannot receive signals".into())?;
    let arguments = std::env::args_os().skip(1).collect();
    let parts = Parts {
        restart: Restart::new(arguments, prepared.directory),
        bound: prepared.bound,
        verbatim: invocation.verbatim,
        access: prepared.access,
        reconnect: Reconnect::new(prepared.gateways),
        job: prepared.watched_job,
        term: None,
        signals,
        log: Arc::clone(log),
    };
    let no_service = || "cannot start to serve".into();
    let tunnel = Tunnel::new(parts, Some(prepared.session)).context(Code::System, no_service)?;
    let way_out = "raise the limit of open files (ulimit -n, hard)";
    sys::have_room(DESCRIPTORS_TO_SERVE).advise(Code::System, no_service, way_out)?;
    Ok(tunnel)
}

/// The signals that end the tunnel. Schedulers send all the others to every
/// process of a job; in the foreground a person's control-C counts.
pub(super) fn ending_signals(background: bool, ignored: &[i32]) -> Vec<i32> {
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
    let gateway = prepared.gateways.current();
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
