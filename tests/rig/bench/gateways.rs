//! A list of gateways: what dead ones cost a start, and how long a move takes.

use std::io::{self, Read, Write};
use std::time::Instant;

use super::table::{Row, Table};
use super::tunnel::Peer;
use super::{first_byte, milliseconds};
use crate::rig::traffic::connect;
use crate::rig::{Gateway, Sites, free_port};

/// Starts and moves in one run.
const ROUNDS: usize = 11;

/// Both rows, over libssh2 and over ssh, in turn.
pub fn run(table: &mut Table) -> io::Result<()> {
    for (peer, via) in [(Peer::Licfwd, "auto"), (Peer::OverSsh, "ssh")] {
        let sites = Sites::new(vec![Gateway::start()], &[free_port(), free_port()]);
        for _ in 0..ROUNDS {
            let (_, alone) = sites.brings_up(&["g0", "--via", via]);
            table.add(Row::OneGateway, peer, milliseconds(alone));
            let (_, took) = sites.brings_up(&["x0,g0,x1", "--via", via]);
            table.add(Row::TwoDead, peer, milliseconds(took));
        }
        let mut sites = Sites::of(2);
        let tunnel = sites.tunnel(&["g0,g1", "--via", via]);
        for _ in 0..ROUNDS {
            let mut busy = connect(tunnel.port())?;
            busy.write_all(b"x")?;
            busy.read_exact(&mut [0])?;
            let serving = sites.serving()[0];
            sites.gateways[serving].kill();
            let begin = Instant::now();
            // Its connection ends first.
            let _ = busy.read(&mut [0]);
            first_byte(tunnel.port())?;
            table.add(Row::Move, peer, milliseconds(begin.elapsed()));
            sites.gateways[serving].restart();
        }
    }
    Ok(())
}
