//! Runs one of the four programs in this binary: licfwd, or one of three that help it.

// The rooms; tests/house.rs says which may use which.
mod auth;
mod cli;
mod config;
mod gateway;
mod local;
mod start;
mod tunnel;

// The vocabulary, and below it the system: everybody may use these.
mod error;
mod log;
mod retry;
mod sys;
mod target;

use cli::{Request, Shell};
use error::Code;
use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if name == sys::RESTARTED {
        return run_restarted();
    }
    // The two that licfwd starts by name, each to be had from it alone: what they do
    // to a directory, or to a group of processes, must happen to nobody else's.
    let helper = match name.to_str().unwrap_or_default() {
        sys::KEEPER => gateway::keep_ssh as fn() -> ExitCode,
        sys::RESOLVER => gateway::print_addresses,
        _ => return run_askpass().unwrap_or_else(run_licfwd),
    };
    let_go_of_the_caller();
    match sys::has_come_from_parent() {
        true => helper(),
        false => ExitCode::from(Code::Usage as u8),
    }
}

/// Holds on to no descriptor of the caller's, and begins with every signal as it is by
/// default. Returns which the caller had ignored.
fn let_go_of_the_caller() -> Vec<i32> {
    sys::close_inherited();
    sys::reset_signals()
}

/// The third, which ssh starts for licfwd. The name of a terminal comes last, because
/// the kernel may append a blank and "(deleted)".
fn run_askpass() -> Option<ExitCode> {
    let words = std::env::var(sys::ASKPASS).ok()?;
    let (caller, tty) = words.split_once(' ')?;
    let caller = caller.parse().ok()?;
    sys::has_come_from(caller).then(|| {
        let_go_of_the_caller();
        auth::answer_ssh(caller, tty)
    })
}

/// licfwd proper: parses, starts, and says in one line why it fails.
fn run_licfwd() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut request = cli::parse(&arguments, &environment);
    let ignored_signals = match &mut request {
        // What the caller gave is the command's: nothing of it is touched before.
        Ok(Request::Run(invocation)) if invocation.becomes_command() => {
            match start::become_command(invocation) {
                Some(code) => return code,
                None => Vec::new(),
            }
        }
        _ => let_go_of_the_caller(),
    };
    let shell = evaluating_shell(&arguments, &request);
    be_ready_to_fail(shell);
    let result = request.and_then(|request| match request {
        Request::Help => start::print_text(&cli::help()),
        Request::Version => start::print_text(concat!("licfwd ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Generate(what) => start::print_text(&cli::generate(what)),
        Request::Run(invocation) => start::run(&invocation, &ignored_signals),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            print_failure(shell, e.code, &e);
            ExitCode::from(e.code as u8)
        }
    }
}

/// A tunnel that a fault has ended, in the same process; its ports are descriptors.
fn run_restarted() -> ExitCode {
    let ignored_signals = sys::reset_signals();
    be_ready_to_fail(None);
    let result = match tunnel::Restarted::take_over(std::env::args_os().skip(1)) {
        None => Err(start::nobody_s()),
        Some(restarted) => match cli::parse(&restarted.restart.arguments, &environment) {
            Ok(Request::Run(invocation)) => start::resume(&invocation, restarted, &ignored_signals),
            _ => Err(start::nobody_s()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::print_error(&e);
            ExitCode::from(e.code as u8)
        }
    }
}

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The shell that evaluates what stands on stdout: none with `-L` alone, `--check` and a
/// command.
fn evaluating_shell(arguments: &[OsString], request: &error::Result<Request>) -> Option<Shell> {
    match request {
        Ok(Request::Run(invocation)) if !invocation.announces() => None,
        Ok(Request::Generate(_)) => None,
        Err(_) if cli::has_command(arguments, &environment) => None,
        Err(_) if arguments.iter().any(|argument| argument == "--check") => None,
        _ => Some(cli::shell_hint(arguments)),
    }
}

/// A panic, and a signal before the announcement, must not look like success
/// to `eval $(licfwd ...)` either.
fn be_ready_to_fail(shell: Option<Shell>) {
    sys::on_deadly_signal(|number, fault| {
        // The only code here that is not safe is libssh2's.
        let status = if fault { Code::GatewayDown as i32 } else { 128 + number };
        let stderr = match fault && is_heard(shell) {
            true => format!(
                "licfwd: crashed (signal {number}) on what the gateway sent, in libssh2; \
                 --via ssh keeps to the ssh program, which this does not concern\n"
            ),
            false => String::new(),
        };
        sys::LastWords { status, stdout: start::failing_output(shell, status), stderr }
    });
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("main") {
            // The reconnecting thread: the tunnel finds it dead, and lives on.
            return;
        }
        let what = format_args!("internal error, please report it: {panic}");
        print_failure(shell, Code::Internal, &what);
        sys::restart_now();
        sys::exit_now(Code::Internal as i32);
    }));
}

/// Whether stderr is for people: not the pipe that the calling shell evaluates.
fn is_heard(shell: Option<Shell>) -> bool {
    shell.is_none() || !start::stderr_is_evaluated()
}

/// The one line that says why the program ends, unless stderr is the pipe that the
/// calling shell evaluates; and what that shell gets instead of the announcement.
fn print_failure(shell: Option<Shell>, code: Code, why: &dyn Display) {
    if is_heard(shell) {
        log::print_error(why);
    }
    // There is nobody to tell if that fails too.
    let _ = start::print_text(&start::failing_output(shell, code as i32));
}
