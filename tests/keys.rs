//! The recipes for a key, pasted, and the gateway's own rules: what they open, and what not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::rig::cluster::SERVERS;
use crate::rig::flexnet::{FlexNet, check_out, exports};
use crate::rig::gateway::account;
use crate::rig::pages::{blocks, examples, files, manual, page, section};
use crate::rig::{Cluster, Outcome, Scratch, a_cluster, process, skip};

/// A home directory as umask 002 leaves it, and keys without a line end at the end.
const BEFORE: &str = "umask 002\nmkdir ~/.ssh && printf '# no line end' >~/.ssh/authorized_keys\n";

/// Asks for a license server over both transports, which have to agree.
#[track_caller]
fn check(cluster: &Cluster, call: &str, code: i32, told: &str) {
    for via in ["libssh2", "ssh"] {
        let outcome = cluster.paste("dash", &format!("licfwd --via {via} --check {call}"));
        assert_eq!(outcome.code, code, "--via {via} {call}: {outcome:?}");
        assert!(outcome.stderr.contains(told), "--via {via} {call}: {outcome:?}");
    }
}

/// Goes where a FlexNet server of another host's name sends its clients, over both transports.
fn gets_a_seat_of_flexnet(cluster: &Cluster, gateway: &str) {
    let _server = FlexNet::start(SERVERS, (27002, 27003));
    for via in ["libssh2", "ssh"] {
        // This test is another user.
        let call = format!("licfwd --allow-any-user --via {via} {gateway} licserver:27002 | cat");
        let line = cluster.paste("sh", &call).line().to_owned();
        let value = &exports(&line)["MLM_LICENSE_FILE"];
        check_out(value, "x").unwrap_or_else(|e| panic!("--via {via} {gateway}: {value}: {e}"));
        cluster.job().end();
    }
}

/// No shell, and no command: the key is accepted, and that is all.
#[track_caller]
fn no_shell(outcome: Outcome) {
    let (code, said) = (outcome.code, outcome.stderr.contains("Permission denied"));
    assert!(code != 0 && code != 255 && !said && outcome.stdout.is_empty(), "{outcome:?}");
}

/// What upstream's sshd, and so RHEL's, wants with StrictModes, which the sshd of this
/// test has too; Debian's lets the user's own group write besides.
#[track_caller]
fn modes_are_strict(home: &Path) {
    for name in ["", ".ssh", ".ssh/authorized_keys", ".ssh/id_licfwd"] {
        let about = fs::metadata(home.join(name)).expect(name);
        assert_eq!(about.mode() & 0o022, 0, "{name}: {:o}", about.mode());
    }
}

/// Replaces in the user's authorized_keys.
fn restrict(cluster: &Cluster, from: &str, to: &str) {
    let file = cluster.home().join(".ssh/authorized_keys");
    let keys = fs::read_to_string(&file).expect("authorized_keys");
    assert!(keys.contains(from), "{keys}");
    fs::write(&file, keys.replace(from, to)).expect("authorized_keys");
}

/// Goal: the manual's recipe, as it stands, in a home that it may find: the key opens all
/// ports of the license server, and no shell, no other host and, where it names one, no
/// other port or client; the user's other logins go on with the keys they had.
#[test]
fn the_recipes_key() {
    let cluster = a_cluster!();
    let manual = manual();
    let recipe = examples(section(&manual, "KEYS")).swap_remove(0);
    for shell in ["bash", "dash"] {
        cluster.clean_home();
        let outcome = cluster.paste(shell, &format!("{BEFORE}{recipe}"));
        assert_eq!(outcome.code, 0, "{shell}: {outcome:?}");
        modes_are_strict(cluster.home());
        let job = format!("{shell}: the job");
        let got = cluster.paste(shell, "licfwd lic-gw licserver:27000 -- matlab -batch main");
        assert_eq!((got.code, got.stdout.contains("GRANTED")), (0, true), "{job}: {got:?}");
    }
    check(&cluster, "lic-gw licserver:27000", 0, "");
    check(&cluster, "lic-gw licserver:1055", 0, "");
    check(&cluster, "lic-gw lic:27000", 77, "forbids forwarding to lic:27000");
    gets_a_seat_of_flexnet(&cluster, "lic-gw");
    no_shell(cluster.paste("sh", "ssh -T lic-gw"));
    no_shell(cluster.paste("sh", "ssh -T lic-gw echo a shell"));
    let other = cluster.paste("sh", "ssh -o BatchMode=yes tri-gw echo a shell");
    assert!(other.stderr.contains("Permission denied"), "the key is for lic-gw alone: {other:?}");

    restrict(&cluster, "licserver:*", "licserver:27000");
    check(&cluster, "lic-gw licserver:27000", 0, "");
    check(&cluster, "lic-gw licserver:1055", 77, "forbids forwarding to licserver:1055");
    for (from, code) in [("127.0.0.0/8", 0), ("10.1.0.0/16", 77)] {
        let list = format!("restrict,from=\"{from}\"");
        restrict(&cluster, "restrict", &list);
        check(&cluster, "lic-gw licserver:27000", code, "");
        restrict(&cluster, &list, "restrict");
    }

    // Where others may write, sshd takes no key.
    let ssh = cluster.home().join(".ssh");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o777)).expect("chmod");
    for (via, told) in [("libssh2", "(chmod go-w)"), ("ssh", "section KEYS")] {
        let call = format!("licfwd --via {via} lic-gw licserver:27000");
        let refused = cluster.paste("dash", &call);
        assert!(refused.code == 77 && refused.stderr.contains(told), "{refused:?}");
    }
}

/// Goal: the README's three lines make such a key as well, for `-i`.
#[test]
fn the_readmes_key() {
    let Some(readme) = page("README.md") else {
        skip!("there is no README.md");
    };
    let cluster = a_cluster!();
    let recipe = blocks(&readme).into_iter().find(|block| block.contains("ssh-keygen"));
    let recipe = recipe.expect("a key");
    let outcome = cluster.paste("bash", &format!("{BEFORE}{recipe}"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    modes_are_strict(cluster.home());
    check(&cluster, "-i ~/.ssh/id_licfwd tri-gw licserver:27000", 0, "");
    check(&cluster, "-i ~/.ssh/id_licfwd tri-gw lic:27000", 77, "forbids forwarding");
    no_shell(cluster.paste("sh", "ssh -T -i ~/.ssh/id_licfwd tri-gw"));
}

/// Goal: the block for an administrator's sshd_config, as it stands: whoever is in that
/// group gets the license server and nothing else, with whatever key.
#[test]
fn rules_of_the_gateway() {
    let manual = manual();
    let block = files(section(&manual, "ON THE GATEWAY")).swap_remove(0);
    // The group's name alone is the site's.
    assert!(block.starts_with("Match Group licenses\n"), "{block}");
    let group = process::id(&["-gn", &account().name]);
    let rules = Scratch::new();
    let file = rules.write("licenses.conf", &block.replacen("licenses", &group, 1));
    fs::set_permissions(rules.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
    let cluster = a_cluster!(&format!("Include {}", file.display()));
    cluster.with_a_key();
    check(&cluster, "tri-gw licserver:27000", 0, "");
    check(&cluster, "tri-gw licserver:1055", 0, "");
    check(&cluster, "tri-gw lic:27000", 77, "forbids forwarding");
    gets_a_seat_of_flexnet(&cluster, "tri-gw");
    no_shell(cluster.paste("sh", "ssh -T tri-gw"));
    no_shell(cluster.paste("sh", "ssh -T tri-gw echo a shell"));
    let back =
        cluster.paste("sh", "ssh -T -N -R 4242:localhost:22 -o ExitOnForwardFailure=yes tri-gw");
    assert_eq!(back.code, 255, "{back:?}");
}
