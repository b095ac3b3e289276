//! Configurations drawn from the keywords of licfwd's table, as ssh and as licfwd.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::rig::as_ssh::{Call, LICFWD, Verdict, Who, World, each};
use crate::rig::long;

/// Values that a keyword may get, with a bar between them.
const VALUES: &[(&str, &str)] = &[
    ("AddKeysToAgent", "no|yes"),
    ("AddressFamily", "any|inet|inet|inet6"),
    ("BatchMode", "yes|no"),
    ("BindAddress", "localhost|127.0.0.1"),
    ("BindInterface", "lo"),
    ("CanonicalDomains", "example.org"),
    ("CanonicalizeFallbackLocal", "yes"),
    ("CanonicalizeHostname", "no"),
    ("CanonicalizeMaxDots", "0"),
    ("CanonicalizePermittedCNAMEs", "none"),
    ("CASignatureAlgorithms", "ssh-ed25519|rsa-sha2-512|^ssh-ed25519"),
    (
        "CertificateFile",
        "{world}/id_certified-cert.pub|{world}/elsewhere/id_alone-cert.pub|{world}/elsewhere/id_held-cert.pub|none",
    ),
    ("ChallengeResponseAuthentication", "no|yes"),
    ("ChannelTimeout", "direct-tcpip=10m|none"),
    ("CheckHostIP", "yes|no"),
    (
        "Ciphers",
        "aes128-ctr|aes256-gcm@openssh.com,aes128-ctr|chacha20-poly1305@openssh.com|+3des-cbc|-aes*|^aes128-cbc|aes192-cbc",
    ),
    ("Compression", "yes|no"),
    ("ConnectTimeout", "15"),
    ("ConnectionAttempts", "2"),
    ("ControlMaster", "no|auto"),
    ("ControlPath", "none|{dir}/m-%C"),
    ("ControlPersist", "no"),
    ("EnableEscapeCommandline", "no"),
    ("EnableSSHKeysign", "no|yes"),
    ("EscapeChar", "none|~"),
    ("FingerprintHash", "md5|sha256"),
    ("ForkAfterAuthentication", "yes|no"),
    ("ForwardAgent", "yes|no"),
    ("ForwardX11", "no|yes"),
    ("ForwardX11Timeout", "20m"),
    ("ForwardX11Trusted", "yes"),
    ("GlobalKnownHostsFile", "{dir}/global|/dev/null|{dir}/no-such|none"),
    ("GSSAPIAuthentication", "yes|no"),
    ("GSSAPIDelegateCredentials", "yes"),
    ("GSSAPIKeyExchange", "no"),
    ("HashKnownHosts", "yes|no"),
    ("HostbasedAcceptedAlgorithms", "ssh-ed25519"),
    ("HostbasedAuthentication", "yes|no"),
    (
        "HostKeyAlgorithms",
        "ssh-ed25519|rsa-sha2-512,rsa-sha2-256|ecdsa-sha2-nistp256|ssh-ed25519-cert-v01@openssh.com|-ssh-ed25519*|^rsa-sha2-512|ssh-rsa|+ssh-rsa",
    ),
    ("HostKeyAlias", "gw.example|GW.example|127.0.0.1|other.example"),
    ("IdentitiesOnly", "yes|no"),
    ("IdentityAgent", "none|{agent}|{dir}/no-such"),
    (
        "IdentityFile",
        "{world}/id|{world}/id_rsa|{world}/id_other|{world}/id_certified|{world}/id_rsa_certified|{world}/id_alone|{world}/id_held.pub|none",
    ),
    ("IPQoS", "lowdelay"),
    ("KbdInteractiveAuthentication", "no|yes"),
    ("KbdInteractiveDevices", "pam"),
    (
        "KexAlgorithms",
        "curve25519-sha256|ecdh-sha2-nistp256|diffie-hellman-group14-sha256|sntrup761x25519-sha512@openssh.com|-curve25519*|^ecdh-sha2-nistp521|diffie-hellman-group14-sha1",
    ),
    ("KnownHostsCommand", "{dir}/command %H|/bin/true|/bin/false|none"),
    ("LocalCommand", "true"),
    ("LogLevel", "INFO|VERBOSE|ERROR"),
    (
        "MACs",
        "hmac-sha2-256|hmac-sha2-512-etm@openssh.com|umac-64@openssh.com|hmac-sha1|-umac*|^hmac-sha2-512",
    ),
    ("NoHostAuthenticationForLocalhost", "yes|no"),
    ("NumberOfPasswordPrompts", "1"),
    ("PasswordAuthentication", "no|yes"),
    ("PermitLocalCommand", "yes|no"),
    ("PermitRemoteOpen", "any"),
    ("PKCS11Provider", "none"),
    (
        "PreferredAuthentications",
        "publickey|hostbased,publickey|password|gssapi-with-mic,publickey,password",
    ),
    ("ProxyCommand", "nc %h %p|none|false"),
    ("ProxyUseFdpass", "no"),
    (
        "PubkeyAcceptedAlgorithms",
        "ssh-ed25519|rsa-sha2-512|ssh-ed25519-cert-v01@openssh.com|-ssh-ed25519*|+ssh-rsa|ecdsa-sha2-nistp256",
    ),
    ("PubkeyAuthentication", "yes|yes|yes|no"),
    ("RekeyLimit", "1G|default none"),
    ("RemoteCommand", "none"),
    ("RequestTTY", "no|auto"),
    ("RequiredRSASize", "1024|2048|3072|4096"),
    ("RevokedHostKeys", "none|{dir}/revoked|{dir}/no-such"),
    ("SecurityKeyProvider", "internal"),
    ("SendEnv", "LANG LC_*"),
    ("ServerAliveCountMax", "2"),
    ("ServerAliveInterval", "30"),
    ("SessionType", "none|default"),
    ("SetEnv", "X=1"),
    ("StdinNull", "yes"),
    ("StreamLocalBindMask", "0177"),
    ("StreamLocalBindUnlink", "yes"),
    ("StrictHostKeyChecking", "yes|ask|accept-new|no"),
    ("SyslogFacility", "USER"),
    ("TCPKeepAlive", "no|yes"),
    ("Tunnel", "no"),
    ("UpdateHostKeys", "yes|no|ask"),
    ("User", "{user}|{user}|nobody"),
    (
        "UserKnownHostsFile",
        "{dir}/known_hosts|{dir}/known_hosts {dir}/more|{dir}/more|{dir}/no-such|none",
    ),
    ("VerifyHostKeyDNS", "no|ask"),
    ("VisualHostKey", "no|yes"),
    ("XAuthLocation", "/usr/bin/xauth"),
];

/// Keywords that decide most; they are drawn more often.
const OFTEN: &str = "StrictHostKeyChecking HostKeyAlias UserKnownHostsFile IdentityFile HostKeyAlgorithms \
    KnownHostsCommand RevokedHostKeys CertificateFile RequiredRSASize PubkeyAcceptedAlgorithms IdentityAgent \
    GlobalKnownHostsFile KexAlgorithms MACs";

/// The table's keywords that nobody draws: ssh -G has done with them before, they are
/// about other forwards, or the test needs them itself.
const UNDRAWN: &str = "Host HostName Port Tag IgnoreUnknown RefuseConnection Include Match ProxyJump RSAMinSize \
    PubkeyAcceptedKeyTypes HostbasedKeyTypes GatewayPorts UsePrivilegedPort Cipher CompressionLevel Protocol \
    RhostsRSAAuthentication RSAAuthentication ClearAllForwardings LocalForward RemoteForward DynamicForward \
    TunnelDevice ExitOnForwardFailure GSSAPITrustDns GSSAPIRenewalForcesRekey GSSAPIKexAlgorithms \
    GSSAPIClientIdentity GSSAPIServerIdentity ObscureKeystrokeTiming LogVerbose WarnWeakCrypto VersionAddendum";

/// known_hosts files, the usual one more often.
const KNOWN: &[&str] = &[
    "{known}",
    "{known}",
    "{known}",
    "{known}gw.example {host_ed25519.pub}\n",
    "* {host_ed25519.pub}\n",
    "gw.example,{host} {host_rsa.pub}\n",
    "127.0.0.1 {host_ecdsa.pub}\n",
    "{host} {other.pub}\n",
    "gw.example {other.pub}\n{known}",
    "@cert-authority * {ca.pub}\n",
    "@cert-authority {host} {ca.pub}\n{host} {other.pub}\n",
    "@revoked * {host_ed25519.pub}\n{known}",
    "@revoked * {ca.pub}\n{known}",
    "@revoked * {other.pub}\n{known}",
    "",
];

fn pick<'a, T: ?Sized>(from: &[&'a T], rng: &mut StdRng) -> &'a T {
    from.choose(rng).expect("a choice")
}

fn draw(rng: &mut StdRng) -> Call {
    let often: Vec<&str> = OFTEN.split_whitespace().collect();
    let mut lines = String::from("IgnoreUnknown *\n");
    let mut drawn: Vec<&str> = Vec::new();
    for _ in 0..rng.random_range(2..9) {
        let name = match rng.random_bool(0.5) {
            true => pick(&often, rng),
            false => VALUES.choose(rng).expect("a keyword").0,
        };
        if drawn.contains(&name) {
            continue;
        }
        drawn.push(name);
        let (_, values) = VALUES.iter().find(|(known, _)| *known == name).expect("its values");
        let values: Vec<&str> = values.split('|').collect();
        lines += &format!("{name} {}\n", pick(&values, rng));
    }
    let command = "#!/bin/sh\necho \"$1 {host_ed25519.pub}\"\n";
    let revokes = "#!/bin/sh\necho \"@revoked $1 {host_ed25519.pub}\"\n";
    let files = [
        ("global", pick(KNOWN, rng)),
        ("more", pick(KNOWN, rng)),
        ("revoked", pick(&["{host_ed25519.pub}\n", "{other.pub}\n", "{ca.pub}\n", ""], rng)),
        ("command", pick(&[command, command, revokes, "#!/bin/sh\n"], rng)),
    ];
    Call {
        lines,
        known: Some(pick(KNOWN, rng).to_owned()),
        files: files.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
        ..Call::default()
    }
}

/// Whether this is what may differ: what is ssh's alone is a wrong configuration for
/// libssh2, and what neither enters need not fail in the same way where both know why.
fn may_be(who: Who, verdict: Verdict, said: &str) -> bool {
    who == Who::Libssh2
        && verdict == Verdict::NotReached
        && said.contains("only ssh can do that, not libssh2; --via ssh")
}

/// Goal: licfwd enters what ssh enters and nothing else, and refuses for ssh's reason.
#[test]
fn verdicts_on_drawn_configurations_are_those_of_ssh() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name}={n}")))
    };
    let seed = number("LICFWD_SEED", rand::random());
    let count = number("LICFWD_CASES", if long() { 300 } else { 15 }) as usize;
    // Shown when the test fails.
    println!("seed {seed}: repeat with LICFWD_SEED={seed} LICFWD_CASES={count}");
    let mut rng = StdRng::seed_from_u64(seed);
    let calls: Vec<Call> = (0..count).map(|_| draw(&mut rng)).collect();
    let world = World::new();
    let entered = std::sync::atomic::AtomicUsize::new(0);
    each(count, |at| {
        let call = &calls[at];
        let (ssh, told) = world.run(call, Who::Ssh);
        entered.fetch_add((ssh == Verdict::In).into(), std::sync::atomic::Ordering::Relaxed);
        let mut complaints = String::new();
        for who in LICFWD {
            let (verdict, said) = world.run(call, who);
            if verdict != ssh && !may_be(who, verdict, &said) {
                complaints += &format!("{who:?} comes to {verdict:?}, ssh to {ssh:?}\n{said}");
            }
        }
        match complaints.as_str() {
            "" => Ok(()),
            _ => Err(format!("seed {seed}, number {at}\n{call:#?}\nssh: {told}\n{complaints}")),
        }
    });
    let entered = entered.into_inner();
    println!("seed {seed}: {count} of {count} verdicts equal, {entered} entered");
    // One that always hits one side would prove nothing.
    let share = entered * 100 / count;
    assert!(count < 100 || (15..=85).contains(&share), "{share} % entered: lopsided");
}

/// Goal: no keyword of the table is forgotten.
#[test]
fn each_keyword_of_the_table_is_drawn() {
    let table = include_str!("../../src/config/keywords.rs");
    let rows = ["done(\"", "but(\"", "none(\"", "ssh(\""];
    let names = rows.iter().flat_map(|row| table.split(row).skip(1));
    let names: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() > 100, "{names:?}");
    for name in names {
        let drawn = VALUES.iter().any(|(known, _)| *known == name);
        let undrawn = UNDRAWN.split_whitespace().any(|known| known == name);
        assert!(drawn != undrawn, "{name}: drawn {drawn}, and not: {undrawn}");
    }
}
