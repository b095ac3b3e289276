//! Whose turn it is, and which failure decides.

use super::*;
use crate::config::Via;
use crate::log::Verbosity;

fn gateways(names: &[&str]) -> Gateways {
    let settings = Settings {
        ssh_options: Vec::new(),
        absolute_options: Vec::new(),
        via: Via::Auto,
        compress: false,
        forwards: Vec::new(),
        check: false,
        timeout: None,
    };
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Gateways::new(&names, settings)
}

fn round(gateways: &mut Gateways) -> Vec<(usize, bool)> {
    gateways.begin_round();
    let turns = std::iter::from_fn(|| gateways.next());
    turns.map(|turn| (turn.member, turn.hurried)).collect()
}

/// Goal: each name is as often in each place as any other.
#[test]
fn every_order_is_as_likely() {
    const STARTS: usize = 5000;
    let names = ["a", "b", "c", "d", "e"];
    let mut counts = [[0_usize; 5]; 5];
    for _ in 0..STARTS {
        for (place, member) in gateways(&names).members.iter().enumerate() {
            counts[place][names.iter().position(|name| *name == member.name).unwrap()] += 1;
        }
    }
    // Six standard deviations of 28.
    let fair = |count: &usize| count.abs_diff(STARTS / 5) < 170;
    assert!(counts.as_flattened().iter().all(fair), "{counts:?}");
}

/// Goal: in each round each has one turn, and is hurried while another is untried; one
/// that was silent comes last, with all its time; whose tunnel was lost comes last.
#[test]
fn whose_turn_it_is() {
    let mut three = gateways(&["a", "b", "c"]);
    assert_eq!(round(&mut three), [(0, true), (1, true), (2, false)]);
    three.begin_round();
    assert!(three.next().is_some_and(|turn| turn.member == 0));
    three.silent.push_back(0);
    let rest = [three.next(), three.next(), three.next()].map(|it| it.map(|it| it.member));
    assert_eq!(rest, [Some(1), Some(2), Some(0)]);
    assert!(three.is_round_over() && three.next().is_none());
    three.serves(Turn { member: 1, hurried: false });
    three.run(Vec::new());
    assert_eq!(round(&mut three), [(0, true), (2, true), (1, false)]);
    three.failed_while_running(Turn { member: 0, hurried: false }, Code::HostKey);
    three.failed_while_running(Turn { member: 2, hurried: false }, Code::Refused);
    assert_eq!(round(&mut three), [(1, false)]);
    assert_eq!(round(&mut gateways(&["a"])), [(0, false)]);
}

/// Goal: which exit code several failures have together, in whatever order they came.
#[test]
fn which_failure_decides() {
    use Code::{Config, GatewayDown, HostKey, Refused, ServerDown};
    let log = Log::new(Verbosity::Quiet, false);
    for (codes, expected) in [
        (vec![HostKey, Refused, Config], Config),
        (vec![Config, Refused, HostKey], HostKey),
        (vec![Refused, GatewayDown, HostKey], GatewayDown),
        (vec![GatewayDown, ServerDown, GatewayDown], ServerDown),
        (vec![ServerDown, Refused], ServerDown),
        (vec![Refused], Refused),
    ] {
        let mut gateways = gateways(&["a", "b", "c"][..codes.len()]);
        for (member, code) in codes.iter().enumerate() {
            let turn = Turn { member, hurried: false };
            let error = gateways.named(turn, Error::new(*code, "why"));
            gateways.failed_at_start(turn, error, &log).unwrap();
        }
        let verdict = gateways.verdict();
        assert_eq!(verdict.code, expected, "{codes:?}");
        let several = verdict.to_string().contains("gateways serves");
        assert_eq!(several, codes.len() > 1);
    }
    let turn = Turn { member: 0, hurried: false };
    let ours = Error::new(Code::System, "no process");
    assert!(gateways(&["a", "b"]).failed_at_start(turn, ours, &log).is_err());
}
