//! End-to-end tests: the real binary against a real sshd.

#[allow(dead_code, unused_imports)]
mod rig;

mod announce;
mod applications;
mod bad_input;
mod check;
mod crowd;
mod dropin;
mod exit_codes;
mod forward;
mod hostile;
mod house;
mod job;
mod known_hosts;
mod licenses;
mod life;
mod log;
mod login;
mod manual;
mod master;
mod only_ssh;
mod other_nodes;
mod over_ssh;
mod owner;
mod packaging;
mod proxy;
mod readme;
mod reconnect;
mod relay;
mod rig_works;
mod shells;
mod silence;
mod slurm;
mod stuck;
mod terminal;
