//! Runs the program once: parse, start, one error line, one exit code.

mod agent;
mod announce;
mod auth;
mod base64;
mod cli;
mod client;
mod daemon;
mod draw;
mod ending;
mod error;
mod gateway;
mod host_key;
mod identities;
mod keeper;
mod keys;
mod known_hosts;
mod lane;
mod lanes;
mod lifeline;
mod link;
mod listener;
mod log;
mod manual;
mod master;
mod mux;
mod peer;
mod probe;
mod prompt;
mod public_key;
mod reception;
mod reconnect;
mod refusal;
mod relay;
mod retry;
mod room;
mod said;
mod session;
mod socket;
mod ssh_config;
mod ssh_query;
mod start;
mod sys;
mod target;
mod template;
mod terminal;
mod tokens;
mod transport;
mod tunnel;
mod wire;

use cli::{Request, Shell};
use error::Code;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    sys::close_inherited();
    let (ignores_hup, ignores_int) = sys::reset_signals();
    if let Some(code) = keeper::keep().or_else(terminal::answer_for_ssh) {
        return code;
    }
    let inherited = start::Inherited {
        ignores_hup,
        ignores_int,
    };
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let request = cli::parse(&arguments);
    let caller = evaluating_shell(&arguments, &request);
    be_ready_to_fail(caller);
    let result = request.and_then(|request| match request {
        Request::Help => announce::show(&cli::help()),
        Request::Version => announce::show(concat!("licfwd ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Generate(what) => announce::show(&manual::generate(what)),
        Request::Run(invocation) => start::run(&invocation, inherited),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            last_words(caller, &e);
            announce::fail(caller, e.code as i32);
            ExitCode::from(e.code as u8)
        }
    }
}

/// The shell that evaluates what stands on stdout: none with `-L` alone and `--check`.
fn evaluating_shell(arguments: &[OsString], request: &error::Result<Request>) -> Option<Shell> {
    match request {
        Ok(Request::Run(invocation)) if !invocation.announces() => None,
        Ok(Request::Generate(_)) => None,
        Err(_) if arguments.iter().any(|word| word == "--check") => None,
        _ => Some(cli::shell_hint(arguments)),
    }
}

/// A panic, and a signal before the announcement, must not look like success
/// to `eval $(licfwd ...)` either.
fn be_ready_to_fail(caller: Option<Shell>) {
    sys::on_deadly_signal(|status| announce::last_statement(caller, status));
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("main") {
            // The reconnecting thread: the tunnel finds it dead, and lives on.
            return;
        }
        last_words(
            caller,
            &format_args!("internal error, please report it: {panic}"),
        );
        announce::fail(caller, Code::Internal as i32);
        sys::exit_now(Code::Internal as i32);
    }));
}

/// The one line that says why the program ends, on stderr, unless that is the
/// pipe that the calling shell, if there is one, evaluates.
fn last_words(caller: Option<Shell>, text: &dyn Display) {
    if caller.is_none() || !announce::stderr_is_evaluated() {
        let line = format!("licfwd: {}\n", log::one_line(&text.to_string()));
        let _ = io::stderr().write_all(line.as_bytes());
    }
}
