//! The main job, the ports, the owner check, the reconnection and the Slurm jobs
//! once more, over the user's own ssh.

#![allow(clippy::duplicate_mod)]

#[path = "../command.rs"]
mod command;
#[path = "../command_signals.rs"]
mod command_signals;
#[path = "../exit_codes.rs"]
mod exit_codes;
#[path = "../flexnet.rs"]
mod flexnet;
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
#[path = "../real_clients.rs"]
mod real_clients;
#[path = "../reconnect.rs"]
mod reconnect;
#[path = "../restart.rs"]
mod restart;
#[path = "../silence.rs"]
mod silence;
#[path = "../slurm.rs"]
mod slurm;
#[path = "../stuck.rs"]
mod stuck;
#[path = "../web.rs"]
mod web;

use crate::rig::flexnet::{FlexNet, check_out};
use crate::rig::job::over_ssh;
use crate::rig::traffic::connect;
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Service, Tunnel, free_pair, network, wait_until,
};
use std::io::{Read, Write};
use std::net::Shutdown;

/// Goal: what stands here runs over ssh, in a network of its own as well.
#[test]
fn ssh_it_is() {
    network::is_our_own();
    assert!(over_ssh());
    let server = LicenseServer::start(Service::Echo);
    let tunnel = Tunnel::start(&Gateway::start(), server.port());
    tunnel.wait_for_log("over ssh", 1);
}

/// Goal: the first client of a license server is carried by licfwd, to see what the
/// server speaks; where that is not FlexNet's, ssh carries all later ones. With
/// `--verbatim` it carries the first as well, and a vendor daemon's always.
#[test]
fn ssh_carries_what_need_not_be_read() {
    let (gateway, ports) = (Gateway::start(), free_pair());
    let echo = LicenseServer::start(Service::Echo);
    let carried = |tunnel: &Tunnel, ended: usize| {
        wait_until("a client's end is logged", LIMIT, || tunnel.logged(": ended") == ended);
        tunnel.logged("bytes up")
    };
    let say = |port: u16| {
        let mut client = connect(port).expect("connect");
        client.write_all(b"word").expect("a word");
        client.shutdown(Shutdown::Write).expect("the end");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, "word");
    };
    for (options, first) in [(&["-v"][..], 1), (&["-v", "--verbatim"], 0)] {
        let tunnel = Tunnel::with(&gateway, echo.port(), options);
        for ended in 1..=3 {
            say(tunnel.port());
            assert_eq!(carried(&tunnel, ended), first);
        }
    }
    let at = [127, 0, rand::random_range(1..=255), 10].into();
    let server = FlexNet::start(at, ports);
    let target = format!("{at}:{}", ports.0);
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["-v", "gw", &target]);
        command
    });
    for round in 1..=2 {
        check_out(&format!("{}@localhost", tunnel.port()), "f").expect("a seat");
        assert_eq!((carried(&tunnel, 2 * round), server.vendor.served()), (round, round));
    }
}
