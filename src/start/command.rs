//! Becomes the command, once another process has brought the tunnel up.
//!
//! ```text
//! the process that was started     worker                       tunnel
//!   fork --------------------------> all of licfwd, as without
//!   waits, with everything as it      a command
//!   came in                            fork ------------------> lives as long as the
//!   <------ variables, its stdout ---- ends                     process that was started
//!   waits for the worker, sets
//!   them, becomes the command
//! ```
//! So the command has no child that it did not start: neither the tunnel nor what carries
//! its connection, which have lost their parent with the worker.

use super::announce;
use crate::cli::{Invocation, Watch};
use crate::error::{Code, cause};
use crate::log;
use crate::sys;
use std::io::ErrorKind;
use std::process::{self, ExitCode};

/// As env(1), nice(1) and timeout(1) have it.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;

/// Where a command is asked for: returns in the worker, with `None`, or else the exit code
/// of a call whose command does not run.
pub fn become_command(invocation: &mut Invocation) -> Option<ExitCode> {
    let watched = process::id();
    let worker = match sys::split_off_worker() {
        Ok(None) => {
            invocation.watch = Watch::Pid(watched);
            return None;
        }
        Ok(Some(worker)) => worker,
        Err(e) => {
            log::print_error(&format_args!("cannot start a process: {}", cause(&e)));
            return Some(ExitCode::from(Code::System as u8));
        }
    };
    let code = match worker.wait() {
        Ok(lines) => run(invocation, &lines),
        // It has said why.
        Err(code) => code.map_or(Code::System as u8, |code| code as u8),
    };
    Some(ExitCode::from(code))
}

/// Returns the exit code of a command that cannot be run.
fn run(invocation: &Invocation, lines: &str) -> u8 {
    let e = sys::become_program(&invocation.command, &announce::settings(lines));
    let program = invocation.command[0].display();
    log::print_error(&format_args!("cannot run {program}: {}", cause(&e)));
    match e.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    }
}
