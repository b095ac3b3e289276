//! Collects samples by row and program, and prints medians, spreads and ratios.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::tunnel::{PEERS, Peer};

/// What is measured, in the table's order, with unit and digits after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    ColdStart,
    Floor,
    Median,
    Tail,
    Median100,
    Median900,
    FirstByte,
    Burst100,
    Burst900,
    Idle,
    One,
    Crowd,
    IdleOwn,
    CrowdOwn,
    Switches,
    CpuUp,
    CpuDown,
    UpOne,
    DownOne,
    UpFour,
    DownFour,
    Successes,
    Last,
    OneGateway,
    TwoDead,
    Move,
    Heartbeat,
    LongestHeartbeat,
    BlackHole,
}

impl Row {
    fn text(self) -> (&'static str, usize) {
        match self {
            Row::ColdStart => ("cold start until the port answers, ms", 0),
            Row::Floor => ("the same by a client on libssh2 that does nothing else, ms", 0),
            Row::Median => ("round trip of 147 bytes, p50, us", 0),
            Row::Tail => ("round trip of 147 bytes, p99, us", 0),
            Row::Median100 => ("the same beside 100 idle clients, p50, us", 0),
            Row::Median900 => ("the same beside 900 idle clients, p50, us", 0),
            Row::FirstByte => ("connect and first byte, one at a time, p50, us", 0),
            Row::Burst100 => ("100 clients connecting at once, ms", 0),
            Row::Burst900 => ("900 clients connecting at once, ms", 0),
            Row::Idle => ("memory (PSS) idle, kB", 0),
            Row::One => ("memory (PSS) with 1 client, kB", 0),
            Row::Crowd => ("memory (PSS) with 900 clients, kB", 0),
            Row::IdleOwn => ("memory of its own (USS) idle, kB", 0),
            Row::CrowdOwn => ("memory of its own (USS) with 900 clients, kB", 0),
            Row::Switches => ("context switches in an idle minute", 0),
            Row::CpuUp => ("CPU seconds per GB up", 2),
            Row::CpuDown => ("CPU seconds per GB down", 2),
            Row::UpOne => ("Gbit/s up, 1 client", 2),
            Row::DownOne => ("Gbit/s down, 1 client", 2),
            Row::UpFour => ("Gbit/s up, 4 clients", 2),
            Row::DownFour => ("Gbit/s down, 4 clients", 2),
            Row::Successes => ("200 starts together: successes", 0),
            Row::Last => ("200 starts together: until the last, s", 1),
            Row::OneGateway => ("start, one gateway, ms", 0),
            Row::TwoDead => ("start, two of three gateways dead, ms", 0),
            Row::Move => ("the serving gateway is killed: until the next client is served, ms", 0),
            Row::Heartbeat => ("147 bytes behind four uploads over 2 MB/s, p50, ms", 0),
            Row::LongestHeartbeat => ("the same, the longest of four seconds, ms", 0),
            Row::BlackHole => {
                ("Mosek, the told name leads nowhere: until the vendor daemon hears it, ms", 0)
            }
        }
    }
}

/// All samples so far.
#[derive(Default)]
pub struct Table(BTreeMap<Row, [Vec<f64>; PEERS.len()]>);

impl Table {
    /// Adds one sample.
    pub fn add(&mut self, row: Row, peer: Peer, sample: f64) {
        let column = PEERS.iter().position(|p| *p == peer).expect("a column");
        self.0.entry(row).or_default()[column].push(sample);
    }

    /// The table in Markdown: median, (least-greatest) and ratio to `ssh -L`.
    pub fn print(&self) -> String {
        let mut out = String::from("| median (least-greatest), ratio to ssh |");
        for peer in PEERS {
            let _ = write!(out, " {} |", peer.name());
        }
        let _ = writeln!(out, "\n|---{}|", "|---".repeat(PEERS.len()));
        for (row, columns) in &self.0 {
            let (name, digits) = row.text();
            let _ = write!(out, "| {name} |");
            let ssh = PEERS.iter().position(|peer| *peer == Peer::Ssh);
            let base = ssh.and_then(|ssh| median(&columns[ssh]));
            for (peer, samples) in PEERS.into_iter().zip(columns) {
                let Some(middle) = median(samples) else {
                    out.push_str(" - |");
                    continue;
                };
                let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
                let greatest = samples.iter().copied().fold(0.0, f64::max);
                let _ = write!(out, " {middle:.digits$}");
                if samples.len() > 1 {
                    let _ = write!(out, " ({least:.digits$}-{greatest:.digits$})");
                }
                if let Some(base) = base.filter(|base| peer != Peer::Ssh && *base > 0.0) {
                    let _ = write!(out, ", {:.2}", middle / base);
                }
                out.push_str(" |");
            }
            out.push('\n');
        }
        out
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    percentile(samples, 0.5)
}

/// The sample below which that share of them lies; halfway between two at 0.5.
pub fn percentile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = last as f64 * share;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some((low + high) / 2.0)
}
