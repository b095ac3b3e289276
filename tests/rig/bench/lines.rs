//! What needs a network of the benchmark's own: a slow line, and a name that leads nowhere.

use std::io::{self, Error};
use std::time::Duration;

use super::milliseconds;
use super::table::{Row, Table};
use super::tunnel::{PEERS, Peer};
use crate::rig::black_hole::BlackHole;
use crate::rig::mosek::Clients;
use crate::rig::network;
use crate::rig::slow_line::SlowLine;

/// How often each is measured.
const ROUNDS: usize = 3;
const ROWS: [Row; 3] = [Row::Heartbeat, Row::LongestHeartbeat, Row::BlackHole];
/// Those that are measured, with licfwd's options.
const MEASURED: [(Peer, &[&str]); 3] =
    [(Peer::Licfwd, &[]), (Peer::OverSsh, &["--via", "ssh"]), (Peer::Ssh, &[])];

/// Fills those rows by this program in another network; without root they stay empty,
/// and that is said.
pub fn run(table: &mut Table) -> io::Result<()> {
    // From a network of our own there is no way to PyPI.
    if let Err(why) = Clients::fetch() {
        eprintln!("left out: no license clients from PyPI: {why}");
    }
    let output = match network::in_our_own("bench", &["lines"]) {
        Ok(output) => output,
        Err(why) => {
            eprintln!("left out: {why}");
            return Ok(());
        }
    };
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(Error::other("in a network of its own"));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<f64>().ok());
        let sample = number().zip(number()).zip(number());
        let ((row, peer), sample) = sample.ok_or_else(|| Error::other(line.to_owned()))?;
        table.add(ROWS[row as usize], PEERS[peer as usize], sample);
    }
    Ok(())
}

/// Measures there, and prints a row's number, a program's and a sample on each line.
pub fn measure() {
    let line = SlowLine::new();
    for _ in 0..ROUNDS {
        for (peer, options) in MEASURED {
            let waits = match peer {
                Peer::Ssh => line.through_ssh(),
                _ => line.through_licfwd(options),
            };
            tell(0, peer, waits.median);
            tell(1, peer, waits.worst);
        }
    }
    drop(line);
    let hole = match BlackHole::new() {
        Ok(hole) => hole,
        Err(why) => return eprintln!("left out: {why}"),
    };
    for _ in 0..ROUNDS {
        for (peer, options) in MEASURED {
            let wait = match peer {
                Peer::Ssh => hole.through_ssh(),
                _ => hole.through_licfwd(options),
            };
            tell(2, peer, wait);
        }
    }
}

fn tell(row: usize, peer: Peer, took: Duration) {
    let column = PEERS.iter().position(|it| *it == peer).expect("a column");
    println!("{row} {column} {}", milliseconds(took));
}
