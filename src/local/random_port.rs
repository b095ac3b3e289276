//! Draws random ports and loopback addresses.

use rand::Rng;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Draws random ports.
#[derive(Debug, Default)]
pub struct RandomPort {
    /// Ranges that the administrator keeps for others
    /// (`net.ipv4.ip_local_reserved_ports`) and numbers this licfwd needs itself.
    avoid: Vec<RangeInclusive<u16>>,
}

impl RandomPort {
    /// Avoids what the administrator reserves, and `kept`.
    pub fn new(kept: Vec<u16>) -> RandomPort {
        let reserved =
            fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        let mut avoid = parse_ranges(&reserved);
        avoid.extend(kept.into_iter().map(|port| port..=port));
        RandomPort { avoid }
    }

    /// Uniform over 1024-65535 without those to avoid. Should they leave next to
    /// nothing, a kept one is drawn in the end and `bind` has the last word.
    pub fn draw(&self) -> u16 {
        let draw = || rand::rng().random_range(1024..=65535);
        let is_free = |port: &u16| !self.avoid.iter().any(|range| range.contains(port));
        let mut draws = (0..100_000).map(|_| draw());
        draws.find(is_free).unwrap_or_else(draw)
    }
}

/// `8080,9148-9150` as ranges.
fn parse_ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            Some(low.parse().ok()?..=high.parse().ok()?)
        })
        .collect()
}

/// 127.x.y.z, neither in 127.0.0.0/16, where people look for localhost, nor the
/// broadcast address.
pub fn random_loopback() -> Ipv4Addr {
    let mut rng = rand::rng();
    loop {
        let address = Ipv4Addr::new(127, rng.random_range(1..=255), rng.random(), rng.random());
        if address != Ipv4Addr::new(127, 255, 255, 255) {
            return address;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ranges() {
        assert_eq!(parse_ranges("8080,9148-9150\n"), [8080..=8080, 9148..=9150]);
        assert_eq!(parse_ranges("\n"), []);
    }

    #[test]
    fn draws_avoid_what_is_reserved_and_stay_in_range() {
        let random = RandomPort { avoid: vec![1024..=60_000] };
        for _ in 0..1000 {
            assert!(random.draw() > 60_000);
        }
    }

    /// Every sixteenth of the range gets its share: 16,000 draws, 1,000 expected
    /// in each, standard deviation 31.
    #[test]
    fn draws_are_uniform() {
        let random = RandomPort { avoid: Vec::new() };
        let mut shares = [0; 16];
        for _ in 0..16_000 {
            shares[(usize::from(random.draw()) - 1024) * 16 / 64_512] += 1;
        }
        assert!(shares.iter().all(|n| (800..1200).contains(n)), "{shares:?}");
    }

    #[test]
    fn random_loopback_addresses_are_out_of_the_way() {
        for _ in 0..10_000 {
            let [a, b, ..] = random_loopback().octets();
            assert!(a == 127 && b != 0);
        }
    }
}
