//! Runs the program once: parse, start, one error line, one exit code.

mod agent;
mod announce;
mod auth;
mod base64;
mod cli;
mod daemon;
mod error;
mod gateway;
mod host_key;
mod identities;
mod keys;
mod known_hosts;
mod lane;
mod lifeline;
mod link;
mod listener;
mod log;
mod peer;
mod probe;
mod prompt;
mod public_key;
mod reconnect;
mod refusal;
mod relay;
mod retry;
mod ssh_config;
mod ssh_query;
mod start;
mod sys;
mod target;
mod terminal;
mod tokens;
mod tunnel;

use cli::{Request, Shell};
use error::Code;
use std::process::ExitCode;

fn main() -> ExitCode {
    sys::close_inherited();
    let (ignores_hup, ignores_int) = sys::reset_signals();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let shell = cli::shell_hint(&arguments);
    be_ready_to_fail(shell);
    let inherited = start::Inherited {
        ignores_hup,
        ignores_int,
    };
    let result = cli::parse(&arguments).and_then(|request| match request {
        Request::Help => announce::show(&cli::help()),
        Request::Version => announce::show(concat!("licfwd ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Run(invocation) => start::run(&invocation, inherited),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::last_words(&e);
            announce::fail(shell, e.code as i32);
            ExitCode::from(e.code as u8)
        }
    }
}

/// A panic, and a signal before the announcement, must not look like success
/// to `eval $(licfwd ...)` either.
fn be_ready_to_fail(shell: Shell) {
    sys::on_deadly_signal(|status| announce::last_statement(shell, status));
    std::panic::set_hook(Box::new(move |panic| {
        log::last_words(&format_args!("internal error, please report it: {panic}"));
        announce::fail(shell, Code::Internal as i32);
        sys::exit_now(Code::Internal as i32);
    }));
}
