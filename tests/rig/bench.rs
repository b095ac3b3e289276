//! Measures licfwd and other programs that forward ports on the same gateway, in turn.
//!
//! Each round is one life of every program, one after the other: started,
//! measured with few clients and with many, ended. What the machine does
//! meanwhile meets all of them alike.

mod crowd;
pub mod floor;
mod gateways;
pub mod lines;
mod table;
mod tunnel;

use std::fs;
use std::io::{self, Error};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::rig::traffic::{End, connect, exchange};
use crate::rig::{Gateway, LicenseServer, Service};
use table::{Row, Table, percentile};
use tunnel::{PEERS, Peer, Site, Tunnel};

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Further cold starts in each round.
    starts: usize,
    /// Round trips for one sample.
    pings: usize,
    /// How long one bulk transfer should take, in seconds.
    bulk: f64,
    /// With the rows that take a minute each.
    long: bool,
}

const QUICK: Plan = Plan { rounds: 1, starts: 2, pings: 300, bulk: 0.4, long: false };

const FULL: Plan = Plan { rounds: 5, starts: 2, pings: 1000, bulk: 1.2, long: true };

/// Runs everything and prints the table.
pub fn run(licfwd: &Path, quick: bool) -> io::Result<()> {
    let plan = if quick { QUICK } else { FULL };
    let licfwd = &licfwd.canonicalize()?;
    println!("{}\n", machine(licfwd)?);
    let bench = Bench {
        site: Site::new(Gateway::start(), licfwd)?,
        echo: LicenseServer::start(Service::Echo),
        bulk: LicenseServer::start(Service::Exchange),
        plan,
    };
    let mut table = Table::default();
    for round in 1..=bench.plan.rounds {
        for peer in PEERS {
            eprintln!("round {round} of {}: {}", bench.plan.rounds, peer.name());
            bench
                .live(peer, &mut table)
                .map_err(|e| Error::other(format!("{}: {e}", peer.name())))?;
        }
    }
    if bench.plan.long {
        eprintln!("an idle minute");
        bench.idle(&mut table)?;
        crowd::start_together(licfwd, &mut table)?;
        eprintln!("several gateways");
        gateways::run(&mut table)?;
        eprintln!("a slow line, and a name that leads nowhere");
        lines::run(&mut table)?;
    }
    print!("{}", table.print());
    Ok(())
}

struct Bench {
    site: Site,
    echo: LicenseServer,
    bulk: LicenseServer,
    plan: Plan,
}

impl Bench {
    /// One life of a program, with all measurements.
    fn live(&self, peer: Peer, table: &mut Table) -> io::Result<()> {
        for _ in 0..self.plan.starts {
            let tunnel = self.start(peer)?;
            table.add(Row::ColdStart, peer, milliseconds(tunnel.ready));
            if peer == Peer::Licfwd {
                let floor = floor::measure(&self.site, self.echo.port())?;
                table.add(Row::Floor, peer, milliseconds(floor));
            }
        }
        let tunnel = self.start(peer)?;
        table.add(Row::ColdStart, peer, milliseconds(tunnel.ready));
        self.few(peer, &tunnel, table)?;
        for (clients, burst, beside) in
            [(100, Row::Burst100, Row::Median100), (900, Row::Burst900, Row::Median900)]
        {
            let begin = Instant::now();
            let crowd = crowd::connect_all(tunnel.port, clients)?;
            table.add(burst, peer, milliseconds(begin.elapsed()));
            let trips = round_trips(tunnel.port, self.plan.pings / 2)?;
            table.add(beside, peer, percentile(&trips, 0.5).unwrap_or(f64::NAN));
            if clients == 900 {
                table.add(Row::Crowd, peer, tunnel.pss()?);
                table.add(Row::CrowdOwn, peer, tunnel.uss()?);
            }
            drop(crowd);
            self.nobody_left(&self.echo)?;
        }
        drop(tunnel);
        self.carry(peer, table)
    }

    fn start(&self, peer: Peer) -> io::Result<Tunnel> {
        let tunnel =
            Tunnel::start(&self.site, peer, self.echo.port(), |port| first_byte(port).map(drop))?;
        self.nobody_left(&self.echo)?;
        Ok(tunnel)
    }

    fn few(&self, peer: Peer, tunnel: &Tunnel, table: &mut Table) -> io::Result<()> {
        table.add(Row::Idle, peer, tunnel.pss()?);
        table.add(Row::IdleOwn, peer, tunnel.uss()?);
        let firsts = (0..self.plan.pings / 10)
            .map(|_| first_byte(tunnel.port))
            .collect::<io::Result<Vec<f64>>>()?;
        let middle = percentile(&firsts, 0.5).unwrap_or(f64::NAN);
        table.add(Row::FirstByte, peer, middle);
        self.nobody_left(&self.echo)?;
        let one = connect(tunnel.port)?;
        crowd::ping(&one, b"x")?;
        table.add(Row::One, peer, tunnel.pss()?);
        drop(one);
        let trips = round_trips(tunnel.port, self.plan.pings)?;
        for (row, share) in [(Row::Median, 0.5), (Row::Tail, 0.99)] {
            table.add(row, peer, percentile(&trips, share).unwrap_or(f64::NAN));
        }
        self.nobody_left(&self.echo)
    }

    /// Bulk transfers, every byte compared, through a tunnel of their own.
    fn carry(&self, peer: Peer, table: &mut Table) -> io::Result<()> {
        let tunnel = Tunnel::start(&self.site, peer, self.bulk.port(), |port| {
            exchange(port, 1, 1, 1, End::Counted)
        })?;
        for up in [true, false] {
            // As many bytes as take the time planned, by a small transfer.
            let taste = 8 << 20;
            let rate = taste as f64 / transfer(tunnel.port, taste, up, 1)?;
            let bytes = (rate * self.plan.bulk).clamp(4e6, 1e9) as usize;
            let before = tunnel.cpu()?;
            let took = transfer(tunnel.port, bytes, up, 1)?;
            let cpu = tunnel.cpu()? - before;
            let together = transfer(tunnel.port, bytes / 4, up, 4)?;
            let gigabits = |seconds| bytes as f64 * 8e-9 / seconds;
            let (one, four, work) = match up {
                true => (Row::UpOne, Row::UpFour, Row::CpuUp),
                false => (Row::DownOne, Row::DownFour, Row::CpuDown),
            };
            table.add(one, peer, gigabits(took));
            table.add(four, peer, gigabits(together));
            table.add(work, peer, cpu * 1e9 / bytes as f64);
        }
        drop(tunnel);
        self.nobody_left(&self.bulk)
    }

    /// All programs side by side, with nothing to do.
    fn idle(&self, table: &mut Table) -> io::Result<()> {
        let tunnels = PEERS
            .into_iter()
            .map(|peer| Ok((peer, self.start(peer)?)))
            .collect::<io::Result<Vec<_>>>()?;
        pause(Duration::from_secs(5));
        let before = tunnels
            .iter()
            .map(|(_, tunnel)| tunnel.switches())
            .collect::<io::Result<Vec<f64>>>()?;
        pause(Duration::from_secs(60));
        for ((peer, tunnel), before) in tunnels.iter().zip(before) {
            table.add(Row::Switches, *peer, tunnel.switches()? - before);
        }
        Ok(())
    }

    /// The next measurement must not pay for the last one's farewells.
    fn nobody_left(&self, server: &LicenseServer) -> io::Result<()> {
        match crate::rig::eventually(crate::rig::LIMIT, || server.clients() == 0) {
            true => Ok(()),
            false => Err(Error::other("clients' connections stay open")),
        }
    }
}

/// Lets time pass in which nothing is to happen.
fn pause(span: Duration) {
    crate::rig::eventually_every(span, span, || false);
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// From connecting until the first byte has come back, in microseconds.
fn first_byte(port: u16) -> io::Result<f64> {
    let begin = Instant::now();
    crowd::ping(&connect(port)?, b"x")?;
    Ok(begin.elapsed().as_secs_f64() * 1e6)
}

/// Round trips of a FlexNet-sized message on one connection, in microseconds.
fn round_trips(port: u16, count: usize) -> io::Result<Vec<f64>> {
    let client = connect(port)?;
    client.set_nodelay(true)?;
    let message = [7; 147];
    crowd::ping(&client, &message)?;
    let trip = |_| {
        let begin = Instant::now();
        crowd::ping(&client, &message)?;
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    };
    (0..count).map(trip).collect()
}

/// So many bytes one way on each of so many connections; the seconds it took.
fn transfer(port: u16, bytes: usize, up: bool, clients: u64) -> io::Result<f64> {
    let begin = Instant::now();
    let (to, from) = if up { (bytes, 0) } else { (0, bytes) };
    let threads: Vec<_> = (0..clients)
        .map(|seed| std::thread::spawn(move || exchange(port, to, from, seed, End::Counted)))
        .collect();
    for thread in threads {
        thread.join().expect("a client's thread")?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// The first line: what it was measured on.
fn machine(licfwd: &Path) -> io::Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{}, {} cores, Linux {}; {}; {}; {}; {}",
        model.trim_start_matches([' ', '\t', ':']),
        std::thread::available_parallelism()?,
        kernel.trim(),
        version(licfwd.as_os_str())?,
        version("ssh".as_ref())?,
        version("autossh".as_ref())?,
        version("dbclient".as_ref())?,
    ))
}

/// What `-V` says, on whichever stream.
fn version(program: &std::ffi::OsStr) -> io::Result<String> {
    let output = Command::new(program)
        .arg("-V")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::other(format!("{}: {e}", program.display())))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
