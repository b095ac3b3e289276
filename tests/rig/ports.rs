//! Free ports, none of which is handed out twice.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below those that the system gives to clients: a port must still be free when
/// a killed gateway comes back.
const FIRST: usize = 10_000;
const COUNT: usize = 22_000;

/// A port that nobody has.
pub fn free_port() -> u16 {
    free(1)
}

/// Two of them, one after the other.
pub fn free_pair() -> (u16, u16) {
    let first = free(2);
    (first, first + 1)
}

/// The first of so many in a row. Each process begins somewhere else and goes
/// round once.
fn free(count: usize) -> u16 {
    static BEGIN: OnceLock<usize> = OnceLock::new();
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let begin = *BEGIN.get_or_init(|| rand::random_range(0..COUNT));
    loop {
        let given = GIVEN.fetch_add(count, Ordering::Relaxed);
        assert!(given + count <= COUNT, "no free port is left");
        let numbers = (given..given + count).map(|n| FIRST + (begin + n) % COUNT);
        let ports: Vec<u16> = numbers.map(|n| n as u16).collect();
        let in_a_row = ports.is_sorted();
        if in_a_row && ports.iter().all(|port| is_free(*port)) {
            return ports[0];
        }
    }
}

/// On every address of both families.
fn is_free(port: u16) -> bool {
    let free = |address: &str| match TcpListener::bind((address, port)) {
        Ok(_) => true,
        // There may be no IPv6.
        Err(e) => e.kind() != std::io::ErrorKind::AddrInUse,
    };
    free("0.0.0.0") && free("::")
}
