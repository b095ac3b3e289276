//! Brings a tunnel up again that a fault has ended: its ports are bound already.

use super::bring_up::{ending_signals, gateways, open_log, probes};
use crate::cli::Invocation;
use crate::error::{Code, Context, Error, Result};
use crate::local::{Access, LocalPorts};
use crate::log::Log;
use crate::retry::Deadline;
use crate::sys;
use crate::tunnel::{Parts, Reconnect, Restarted, Tunnel};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait where the way to the gateway cannot be read again.
const PAUSE: Duration = Duration::from_secs(30);

/// Serves at the ports of `restarted`, whose gateway counts as lost, until the job
/// ends. Never returns but for an error.
///
/// # Errors
/// What keeps a tunnel from serving at all.
pub fn resume(
    invocation: &Invocation,
    restarted: Restarted,
    ignored_signals: &[i32],
) -> Result<()> {
    // What else runs this program looks for that.
    let _ = fs::write("/proc/self/comm", "licfwd");
    let Restarted { restart, mut job, term, learnt, listeners } = restarted;
    let log = Arc::new(Log::new(invocation.verbosity, true));
    // Or that of a directory which is gone meanwhile.
    let _ = std::env::set_current_dir(&restart.directory);
    if let Err(e) = open_log(invocation, &log) {
        log.note(e);
    }
    log.event(format_args!(
        "begins anew after a fault (the {}. of this tunnel), with its ports: what the gateway sent \
         was too much for libssh2, whereas --via ssh is another process",
        restart.faults
    ));
    sys::set_umask(0o077);
    sys::share_one_heap();
    sys::raise_descriptor_limit();
    let bound = LocalPorts::adopt(&invocation.forwards, &invocation.targets, listeners, &log)?;
    let signals = ending_signals(invocation.background, ignored_signals);
    let signals =
        sys::serve_signals(&signals).context(Code::System, || "cannot receive signals".into())?;
    let (access, mut gateways) = loop {
        // Afresh each time: one that could not be read has no further turn.
        let mut gateways = gateways(invocation);
        let deadline = Deadline::after(invocation.deadline);
        let access = Access::new(invocation.allow_any_user, &invocation.allow, deadline.left());
        let error = match access.and_then(|it| gateways.resolve_one(deadline, &log).map(|()| it)) {
            Ok(access) => break (access, gateways),
            Err(e) => e,
        };
        log.event(format_args!("{error}; trying again in {} s", PAUSE.as_secs()));
        let _ = sys::poll_readable(&signals, PAUSE);
        if signals.take().is_some() || !job.still_runs() && !job.still_runs() {
            log.event("ended");
            return Ok(());
        }
    };
    std::env::set_current_dir("/").context(Code::System, || "cannot go to /".into())?;
    // One alone is the one that the tunnel has gone through.
    let probes = if gateways.count() > 1 { probes(invocation) } else { Vec::new() };
    gateways.run(probes);
    gateways.take_over(&learnt);
    let reconnect = Reconnect::new(gateways).after_failures(restart.faults);
    if reconnect.has_given_up() {
        log.event("has given up before the fault; the ports stay bound until the job ends");
    }
    let verbatim = invocation.verbatim;
    let log_too = log.clone();
    let parts =
        Parts { bound, verbatim, access, reconnect, job, signals, term, restart, log: log_too };
    let tunnel = Tunnel::new(parts, None).context(Code::System, || "cannot serve".into())?;
    log.event(format_args!("ended: {}", tunnel.serve()));
    sys::exit_now(0)
}

/// What a process that nobody has begun anew is told.
pub fn nobody_s() -> Error {
    Error::new(Code::Usage, format!("{}: only licfwd itself begins anew", sys::RESTARTED))
}
