//! A slow line to the gateway: whoever says little does not wait behind those who say much.

use crate::rig::network;
use crate::rig::slow_line::{COPIES, SlowLine};

/// Goal: four uploads over 2 MB/s do not keep the heartbeat of a fifth client waiting, as
/// they do with `ssh -L`: half of that at most, median and worst.
#[test]
fn a_heartbeat_is_not_kept_waiting_by_a_copy() {
    if !network::is_our_own() {
        return;
    }
    let line = SlowLine::new();
    let (ours, its) = (line.through_licfwd(&[]), line.through_ssh());
    eprintln!("behind {COPIES} uploads: licfwd {ours:?}, ssh -L {its:?}");
    assert!(ours.median < its.median.mul_f64(0.75), "half, with a margin");
    assert!(ours.worst < its.worst.mul_f64(3.0), "half, with the margin of a busy machine");
}

/// Goal: over ssh it waits as long as with ssh.
#[test]
fn over_ssh_it_waits_as_long_as_with_ssh() {
    if !network::is_our_own() {
        return;
    }
    let line = SlowLine::new();
    let (ours, its) = (line.through_licfwd(&["--via", "ssh"]), line.through_ssh());
    eprintln!("behind {COPIES} uploads: licfwd --via ssh {ours:?}, ssh -L {its:?}");
    assert!(ours.median < its.median.mul_f64(1.5), "1.1, with a margin");
}
