//! Tables of verdicts, messages and orders of algorithms.

use super::*;
use crate::auth::Ssh;
use crate::auth::public_key::tests::blob;
use crate::config::tests::gateway;
use crate::log::Verbosity;
use std::fs;
use std::path::PathBuf;

fn ed25519(seed: u8) -> Vec<u8> {
    blob(&[b"ssh-ed25519", &[seed; 32]])
}

fn rsa(seed: u8) -> Vec<u8> {
    blob(&[b"ssh-rsa", &[1, 0, 1], &[seed; 256]])
}

fn line(names: &str, key: &[u8]) -> String {
    format!("{names} {}\n", public_key::public_line(key))
}

/// A private directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("licfwd-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("create a private directory");
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is made of `key` with these lines of `ssh -G`, when the user's file
/// holds `user` and the global one `global`.
fn verdict(config: &str, user: &str, global: &str, key: &[u8]) -> Verified {
    let name = format!("host-key-{:?}", std::thread::current().id());
    let dir = Dir::new(&name.replace(['(', ')'], ""));
    let [user_file, global_file] = ["user", "global"].map(|name| dir.0.join(name));
    fs::write(&user_file, user).expect("write known_hosts");
    fs::write(&global_file, global).expect("write known_hosts");
    let mut gateway = gate(config);
    gateway.host_key.user_files = vec![user_file];
    gateway.host_key.global_files = vec![global_file];
    let log = Log::new(Verbosity::Quiet, false);
    KnownHosts::load(&gateway).verify(key, &[7; 32], &mut AcceptedKeys::default(), &log)
}

/// Port 2222 unless told otherwise.
fn gate(config: &str) -> Gateway {
    gateway(&format!("{config}\nhostname Gate"))
}

#[test]
fn verdicts() {
    let key = ed25519(1);
    let right = |names| line(names, &ed25519(1));
    let wrong = |names| line(names, &ed25519(2));
    let alias = "hostkeyalias TRI";
    let port_22 = "port 22";
    let no = "stricthostkeychecking no";
    let accept_new = "stricthostkeychecking accept-new";
    let none = String::new;
    for (config, user, global, trusted) in [
        ("", right("[gate]:2222"), none(), true),
        ("", none(), right("[gate]:2222"), true),
        ("", right("[gate]:2223"), none(), false),
        // Another key of the same name does not matter beside the right one.
        ("", wrong("[gate]:2222"), right("*"), true),
        ("", wrong("[gate]:2222"), none(), false),
        // Without the port only where nothing is known with it.
        ("", right("gate"), none(), true),
        ("", right("gate"), wrong("[gate]:2222"), false),
        ("", wrong("gate"), none(), false),
        (port_22, right("gate"), none(), true),
        (port_22, right("[gate]:22"), none(), false),
        (alias, right("tri"), none(), true),
        (alias, right("gate,[gate]:2222,[tri]:2222"), none(), false),
        (no, none(), none(), true),
        (no, wrong("gate"), none(), true),
        (no, wrong("[gate]:2222"), none(), false),
        (accept_new, none(), none(), true),
        (accept_new, wrong("gate"), none(), true),
        (accept_new, wrong("[gate]:2222"), none(), false),
    ] {
        let result = verdict(config, &user, &global, &key);
        let code = result.as_ref().err().map(|e| e.error.code);
        let expected = (!trusted).then_some(Code::HostKey);
        assert_eq!(code, expected, "{config}\n{user}{global}{result:?}");
    }
}

#[test]
fn messages_name_place_and_way_out() {
    let comment = "# one line before\n";
    let old = format!("{comment}{}", line("[gate]:2222", &ed25519(2)));
    let changed = ["user:2", "ssh-keygen -f ", "-R '[gate]:2222'"];
    for (user, global, parts) in [
        (old.as_str(), "", changed.as_slice()),
        ("", &old, &["global:2", "administrator of this machine"]),
        ("", "", &["is unknown", "comparing that: ssh bob@gw"]),
        ("", "", &["comparing that: ssh -o StrictHostKeyChecking=ask bob@gw"]),
    ] {
        let config = match parts[0].contains("=ask") {
            true => "stricthostkeychecking true",
            false => "",
        };
        let error = verdict(config, user, global, &ed25519(1)).expect_err("refused");
        let text = error.error.to_string();
        for part in ["gateway Gate port 2222", "SHA256:BwcH"].iter().chain(parts) {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
        assert_eq!(error.ssh, Ssh::WouldFail, "{text}");
    }
    let short = blob(&[b"ssh-rsa", &[1, 0, 1], &[1; 64]]);
    let trusting = "stricthostkeychecking no";
    assert!(verdict(trusting, "", "", &short).is_err(), "512 bits");
    for (bits, trusted) in [(2041, true), (2042, false)] {
        let config = format!("{trusting}\nrequiredrsasize {bits}");
        let known = line("[gate]:2222", &rsa(1));
        assert_eq!(verdict(&config, &known, "", &rsa(1)).is_ok(), trusted, "{bits}");
    }
}

/// Goal: whatever has a marker is ssh's, wherever it stands, if it names the gateway.
#[test]
fn marked_lines_are_for_ssh() {
    let [name, file] = ["marked", "known_hosts"];
    let dir = Dir::new(name);
    let file = dir.0.join(file);
    for (line, alone) in [
        (format!("\n@revoked {}", line("*", &rsa(1))), Some("@revoked in ")),
        (format!("\n@cert-authority {}", line("gate", &rsa(1))), Some("@cert-authority in ")),
        (format!("\n@cert-authority {}", line("other", &rsa(1))), None),
        (line("[gate]:2222", &rsa(1)), None),
    ] {
        fs::write(&file, &line).expect("write known_hosts");
        let mut gateway = gate("");
        gateway.host_key.global_files = vec![file.clone()];
        let told = KnownHosts::load(&gateway).ssh_alone();
        let place = format!("{}:2", file.display());
        let expected = alone.map(|marker| format!("the line with {marker}{place}"));
        assert_eq!(told, expected, "{line}");
    }
}

#[test]
fn an_accepted_key_is_known_the_next_time() {
    let dir = Dir::new("accept-new");
    let log = Log::new(Verbosity::Quiet, false);
    for (hashed, config) in
        [(false, ""), (true, "hashknownhosts yes"), (true, "hashknownhosts yes\nhostkeyalias tri")]
    {
        let file = dir.0.join(config.len().to_string());
        let verify = |strict, key: &[u8]| {
            let mut gateway = gate(config);
            gateway.host_key.strict = strict;
            gateway.host_key.user_files = vec![file.clone()];
            KnownHosts::load(&gateway).verify(key, &[], &mut AcceptedKeys::default(), &log)
        };
        assert!(verify(Strict::Yes, &ed25519(1)).is_err());
        assert!(verify(Strict::AcceptNew, &ed25519(1)).is_ok());
        assert!(verify(Strict::AcceptNew, &ed25519(1)).is_ok());
        assert!(verify(Strict::Yes, &ed25519(1)).is_ok());
        assert!(verify(Strict::AcceptNew, &ed25519(2)).is_err());
        let text = fs::read_to_string(&file).expect("written");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(text.contains("gate"), !hashed, "{text}");
    }
    let accept = "stricthostkeychecking accept-new";
    let odd = format!("{accept}\nhostname a*");
    assert!(verdict(&odd, "", "", &ed25519(1)).is_err());
    let nowhere = gate(accept);
    let known = KnownHosts::load(&nowhere);
    assert!(known.verify(&ed25519(1), &[], &mut AcceptedKeys::default(), &log).is_err());
}

#[test]
fn algorithms_of_known_keys_come_first() {
    let supported = [
        "ssh-ed25519-cert-v01@openssh.com",
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-rsa",
    ];
    let rsa_known = line("[gate]:2222", &rsa(1));
    let both = rsa_known.clone() + &line("[gate]:2222", &ed25519(1));
    let all = "ssh-ed25519 ecdsa-sha2-nistp256 rsa-sha2-512 rsa-sha2-256 ssh-rsa";
    for (lines, wanted, expected) in [
        (String::new(), "", all),
        (both.clone(), "", all),
        (line("gate", &rsa(1)), "", all),
        (
            rsa_known.clone(),
            "",
            "rsa-sha2-512 rsa-sha2-256 ssh-rsa ssh-ed25519 ecdsa-sha2-nistp256",
        ),
        (
            rsa_known.clone(),
            "ssh-ed25519 sk-ssh-ed25519@openssh.com rsa-sha2-256",
            "rsa-sha2-256 ssh-ed25519",
        ),
        (
            both,
            "ssh-rsa-cert-v01@openssh.com ecdsa-sha2-nistp256 rsa-sha2-256 ssh-ed25519",
            "ecdsa-sha2-nistp256 rsa-sha2-256 ssh-ed25519",
        ),
        // `-ecdsa-*` of an ssh that has no RSA certificates, a list, and `^ecdsa-*`.
        (
            rsa_known.clone(),
            "ssh-ed25519-cert-v01@openssh.com ssh-ed25519 rsa-sha2-256",
            "rsa-sha2-256 ssh-ed25519",
        ),
        (rsa_known.clone(), "ssh-ed25519 rsa-sha2-256", "ssh-ed25519 rsa-sha2-256"),
        (
            rsa_known.clone(),
            "ecdsa-sha2-nistp256 ssh-ed25519-cert-v01@openssh.com rsa-sha2-256",
            "ecdsa-sha2-nistp256 rsa-sha2-256",
        ),
        (rsa_known, "ssh-dss", ""),
    ] {
        let dir = Dir::new("preferred");
        let file = dir.0.join("known_hosts");
        fs::write(&file, &lines).expect("write known_hosts");
        let mut gateway = gate("");
        gateway.host_key.user_files = vec![file];
        let known = KnownHosts::load(&gateway);
        let wanted: Vec<String> = wanted.split_whitespace().map(str::to_owned).collect();
        let order = known.preferred(&supported, &wanted).join(" ");
        assert_eq!(order, expected, "{lines}");
    }
}

#[test]
fn strictness_as_configured_and_as_printed_by_ssh() {
    for (word, strict) in [
        ("yes", Strict::Yes),
        ("true", Strict::Yes),
        ("ask", Strict::Yes),
        ("?", Strict::Yes),
        ("Accept-New", Strict::AcceptNew),
        ("no", Strict::AcceptNew),
        ("off", Strict::AcceptNew),
        ("false", Strict::AcceptNew),
    ] {
        assert_eq!(Strict::parse(word), strict, "{word}");
    }
}

/// A tunnel's own memory outlasts a file that is away, and no more than that.
#[test]
fn what_was_accepted_holds_while_a_file_is_away() {
    let dir = Dir::new("accepted");
    let (file, log) = (dir.0.join("user"), Log::new(Verbosity::Quiet, false));
    let write = |keys: &[&str]| fs::write(&file, keys.concat()).expect("write known_hosts");
    let [one, two] = [ed25519(1), ed25519(2)];
    let [line_one, line_two] = [&one, &two].map(|key| line("[gate]:2222", key));
    for strict in [Strict::Yes, Strict::AcceptNew] {
        let mut gateway = gate("");
        gateway.host_key.strict = strict;
        gateway.host_key.user_files = vec![file.clone(), dir.0.join("never there")];
        let mut accepted = AcceptedKeys::default();
        let mut verify = |key: &[u8]| {
            let known = KnownHosts::load(&gateway);
            known.verify(key, &[], &mut accepted, &log).map_err(|e| e.error.code)
        };
        write(&[&line_one]);
        assert_eq!(verify(&one), Ok(()));
        fs::remove_file(&file).expect("remove");
        assert_eq!(verify(&one), Ok(()));
        assert_eq!(verify(&two), Err(Code::GatewayDown));
        write(&[]);
        assert_eq!(verify(&one), Ok(()));
        write(&[&line_two]);
        assert_eq!(verify(&one), Err(Code::HostKey));
        write(&[&line_one]);
        assert_eq!(verify(&two), Err(Code::HostKey));
    }
}
