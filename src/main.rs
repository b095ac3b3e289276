//! Runs the program once: parse, start, one error line, one exit code.

#[path = "auth/agent.rs"]
mod agent;
#[path = "start/announce.rs"]
mod announce;
#[path = "auth/login.rs"]
mod auth;
#[path = "auth/base64.rs"]
mod base64;
#[path = "cli/parse.rs"]
mod cli;
#[path = "local/client.rs"]
mod client;
#[path = "start/daemon.rs"]
mod daemon;
#[path = "local/random_port.rs"]
mod draw;
#[path = "tunnel/shutdown.rs"]
mod ending;
mod error;
#[path = "gateway/libssh2/login.rs"]
mod gateway;
#[path = "auth/host_key.rs"]
mod host_key;
#[path = "auth/identities.rs"]
mod identities;
#[path = "gateway/openssh/keeper.rs"]
mod keeper;
#[path = "auth/key_file.rs"]
mod keys;
#[path = "auth/known_hosts.rs"]
mod known_hosts;
#[path = "tunnel/carrier.rs"]
mod lane;
#[path = "tunnel/pool.rs"]
mod lanes;
#[path = "tunnel/job.rs"]
mod lifeline;
#[path = "gateway/libssh2/session.rs"]
mod link;
#[path = "local/listener.rs"]
mod listener;
mod log;
#[path = "cli/manual.rs"]
mod manual;
#[path = "gateway/openssh/session.rs"]
mod master;
#[path = "gateway/openssh/mux.rs"]
mod mux;
#[path = "local/owner.rs"]
mod peer;
#[path = "start/probe.rs"]
mod probe;
#[path = "auth/prompt.rs"]
mod prompt;
#[path = "auth/public_key.rs"]
mod public_key;
#[path = "local/accept.rs"]
mod reception;
#[path = "tunnel/reconnect.rs"]
mod reconnect;
#[path = "auth/refusal.rs"]
mod refusal;
#[path = "tunnel/relay.rs"]
mod relay;
mod retry;
#[path = "gateway/openssh/control_dir.rs"]
mod room;
#[path = "gateway/ssh_stderr.rs"]
mod said;
#[path = "gateway/session.rs"]
mod session;
#[path = "gateway/openssh/forward_socket.rs"]
mod socket;
#[path = "config/gateway.rs"]
mod ssh_config;
#[path = "config/ssh_g.rs"]
mod ssh_query;
#[path = "start/bring_up.rs"]
mod start;
mod sys;
mod target;
#[path = "cli/value_format.rs"]
mod template;
#[path = "auth/terminal.rs"]
mod terminal;
#[path = "config/tokens.rs"]
mod tokens;
#[path = "gateway/route.rs"]
mod transport;
#[path = "tunnel/serve.rs"]
mod tunnel;
#[path = "gateway/connect.rs"]
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
