//! The main job, the ports, the owner check, the reconnection and the Slurm jobs
//! once more, over the user's own ssh.

#![allow(clippy::duplicate_mod)]

#[path = "../command.rs"]
mod command;
#[path = "../command_signals.rs"]
mod command_signals;
#[path = "../exit_codes.rs"]
mod exit_codes;
#[path = "../forward.rs"]
mod forward;
#[path = "../gateways.rs"]
mod gateways;
#[path = "../hostile.rs"]
mod hostile;
#[path = "../job.rs"]
mod job;
#[path = "../licenses.rs"]
mod licenses;
#[path = "../life.rs"]
mod life;
#[path = "../other_nodes.rs"]
mod other_nodes;
#[path = "../owner.rs"]
mod owner;
#[path = "../reconnect.rs"]
mod reconnect;
#[path = "../silence.rs"]
mod silence;
#[path = "../slurm.rs"]
mod slurm;
#[path = "../stuck.rs"]
mod stuck;

use crate::rig::job::over_ssh;
use crate::rig::{Gateway, LicenseServer, Service, Tunnel, network};

/// Goal: what stands here runs over ssh, in a network of its own as well.
#[test]
fn ssh_it_is() {
    network::is_our_own();
    assert!(over_ssh());
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&Gateway::start(), server.port());
    tunnel.wait_for_log("over ssh", 1);
}
