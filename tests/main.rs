//! End-to-end tests: the real binary against a real sshd.

#[allow(dead_code, unused_imports)]
mod rig;

mod announce;
mod bad_input;
mod exit_codes;
mod job;
mod known_hosts;
mod life;
mod login;
mod proxy;
mod rig_works;
mod slurm;
mod terminal;
