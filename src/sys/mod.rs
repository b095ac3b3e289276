//! The only unsafe code: fork, setsid, dup2, epoll and friends as safe functions.
//!
//! Linux only. The numbers are those of the kernel's headers for x86-64 and
//! AArch64, which share them; structures are as glibc and musl lay them out.
#![allow(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("licfwd runs on Linux: it reads /proc and asks the kernel who owns a socket");

pub mod errno;
mod fd;
mod file;
mod helper;
mod poll;
mod process;
mod resolver;
mod restart;
mod safe_base;
mod signal;
mod socket;
mod timer;
mod worker;

pub use fd::{NOCTTY_NONBLOCK, NOFOLLOW, PATH_ONLY, close_inherited, have_room, redirect, replace};
pub use file::{read_file, regular};
pub use helper::{
    ASKPASS, Helper, KEEPER, RESOLVER, detached, detached_short, has_come_from,
    has_come_from_parent, hear_out, missing_libraries, this_program_as, tied_to_this_thread,
};
pub use poll::{Epoll, Event, Interest, poll_readable, wait_any};
pub use process::{
    Fork, LastWords, end_by_term, end_own_group, end_with_us, exit_now, fork_process, interrupt,
    is_in_foreground, kernel_root, kill_group, new_session, node_name, on_deadly_signal,
    overflow_user, pidfd_open, raise_descriptor_limit, resident_memory, session_id, set_umask,
    share_one_heap, terminal_name, test_hook, trim_memory, user_id,
};
pub use resolver::{ask_for_user, home_of, look_up, print_addresses};
pub use restart::{RESTARTED, restart_now, restart_on_fault, take_kept};
pub use safe_base::in_safe_base;
pub use signal::{
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SignalFd, hold_signals, ignore_signals, reset_signals,
    serve_signals,
};
pub use socket::{
    acknowledge, bytes_received, connect_own, connect_unix, ends_within, peer, reset_on_close,
    send_with_descriptor, service_port, set_backlog, set_keepalive, set_unsent_limit,
    set_user_timeout, sock_diag, unacknowledged,
};
pub use timer::{Timer, after_boot, since_boot};
pub use worker::{become_program, split_off_worker};
