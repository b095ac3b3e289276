//! The table against ssh_config(5) and the ssh that is installed.

use super::*;
use std::process::{Command, Stdio};

/// The keywords of ssh_config(5), of every OpenSSH from 7.4 to 10.5, those of the
/// patches of Debian and Red Hat, and for each a value that no ssh has by default.
#[rustfmt::skip]
const SETTINGS: &[(&str, &str)] = &[
    ("AddKeysToAgent", "yes"), ("AddressFamily", "inet"), ("BatchMode", "yes"), ("BindAddress", "127.0.0.2"),
    ("BindInterface", "lo"), ("CASignatureAlgorithms", "ssh-ed25519"), ("CanonicalDomains", "example"),
    ("CanonicalizeFallbackLocal", "no"), ("CanonicalizeHostname", "yes"), ("CanonicalizeMaxDots", "7"),
    ("CanonicalizePermittedCNAMEs", "*.a:*.b"), ("CertificateFile", "/c"), ("ChallengeResponseAuthentication", "no"),
    ("ChannelTimeout", "direct-tcpip=1s"), ("CheckHostIP", "OTHER"), ("Cipher", "3des"), ("Ciphers", "aes128-ctr"),
    ("ClearAllForwardings", "yes"), ("Compression", "yes"), ("CompressionLevel", "9"), ("ConnectTimeout", "7"),
    ("ConnectionAttempts", "7"), ("ControlMaster", "auto"), ("ControlPath", "/c"), ("ControlPersist", "7"),
    ("DynamicForward", "1080"), ("EnableEscapeCommandline", "yes"), ("EnableSSHKeysign", "yes"), ("EscapeChar", "!"),
    ("ExitOnForwardFailure", "yes"), ("FingerprintHash", "md5"), ("ForkAfterAuthentication", "yes"),
    ("ForwardAgent", "yes"), ("ForwardX11", "yes"), ("ForwardX11Timeout", "7"), ("ForwardX11Trusted", "no"),
    ("GSSAPIAuthentication", "yes"), ("GSSAPIClientIdentity", "me"), ("GSSAPIDelegateCredentials", "yes"),
    ("GSSAPIKexAlgorithms", "gss-gex-sha1-"), ("GSSAPIKeyExchange", "yes"), ("GSSAPIRenewalForcesRekey", "yes"),
    ("GSSAPIServerIdentity", "host"), ("GSSAPITrustDns", "yes"), ("GatewayPorts", "yes"),
    ("GlobalKnownHostsFile", "/g"), ("HashKnownHosts", "yes"), ("Host", ""), ("HostKeyAlgorithms", "ssh-ed25519"),
    ("HostKeyAlias", "other"), ("HostName", "other"), ("HostbasedAcceptedAlgorithms", "ssh-ed25519"),
    ("HostbasedAuthentication", "yes"), ("HostbasedKeyTypes", "ssh-ed25519"), ("IPQoS", "af21"),
    ("IdentitiesOnly", "yes"), ("IdentityAgent", "/a"), ("IdentityFile", "/i"), ("IgnoreUnknown", "x"), ("Include", ""),
    ("KbdInteractiveAuthentication", "no"), ("KbdInteractiveDevices", "pam"), ("KexAlgorithms", "curve25519-sha256"),
    ("KnownHostsCommand", "/k %H"), ("LocalCommand", "true"), ("LocalForward", "1080 a:1"), ("LogLevel", "QUIET"),
    ("LogVerbose", "*"), ("MACs", "hmac-sha2-256"), ("Match", ""), ("NoHostAuthenticationForLocalhost", "yes"),
    ("NumberOfPasswordPrompts", "7"), ("ObscureKeystrokeTiming", "no"), ("PKCS11Provider", "/p"),
    ("PasswordAuthentication", "no"), ("PermitLocalCommand", "yes"), ("PermitRemoteOpen", "a:1"), ("Port", "7"),
    ("PreferredAuthentications", "publickey"), ("Protocol", "2"), ("ProxyCommand", "nc %h"), ("ProxyJump", "hop"),
    ("ProxyUseFdpass", "yes"), ("PubkeyAcceptedAlgorithms", "ssh-ed25519"), ("PubkeyAcceptedKeyTypes", "ssh-ed25519"),
    ("PubkeyAuthentication", "no"), ("RSAAuthentication", "no"), ("RSAMinSize", "4096"), ("RefuseConnection", "no"),
    ("RekeyLimit", "1M"), ("RemoteCommand", "true"), ("RemoteForward", "1080 a:1"), ("RequestTTY", "force"),
    ("RequiredRSASize", "4096"), ("RevokedHostKeys", "/r"), ("RhostsRSAAuthentication", "yes"),
    ("SecurityKeyProvider", "/s"), ("SendEnv", "X"), ("ServerAliveCountMax", "7"), ("ServerAliveInterval", "7"),
    ("SessionType", "none"), ("SetEnv", "X=1"), ("StdinNull", "yes"), ("StreamLocalBindMask", "0111"),
    ("StreamLocalBindUnlink", "yes"), ("StrictHostKeyChecking", "no"), ("SyslogFacility", "AUTH"), ("TCPKeepAlive", "no"),
    ("Tag", "x"), ("Tunnel", "yes"), ("TunnelDevice", "7:7"), ("UpdateHostKeys", "ask"), ("UsePrivilegedPort", "yes"),
    ("User", "other"), ("UserKnownHostsFile", "/u"), ("VerifyHostKeyDNS", "yes"), ("VersionAddendum", "x"),
    ("VisualHostKey", "yes"), ("WarnWeakCrypto", "no"), ("XAuthLocation", "/x"),
];

/// What `ssh -G` prints with those settings alone, or what it complains of.
fn ssh_g(options: &[String]) -> Result<String, String> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-G", "-T"]).args(options).args(["--", "127.0.0.1"]);
    let output = ssh.stdin(Stdio::null()).output().expect("run ssh");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() && output.stderr.is_empty() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

fn no_defaults() -> String {
    panic!("the table knows it all")
}

/// Goal: every keyword has a row and its row is right: what is ssh's alone is told as
/// such, whatever is set; nothing else is; and of what ssh reads it prints everything,
/// so that nothing vanishes.
#[test]
fn every_keyword_of_the_installed_ssh() {
    let defaults = ssh_g(&[]).expect("ssh -G");
    assert_eq!(ssh_alone(&defaults, || defaults.clone()), None);
    for line in defaults.lines() {
        assert!(row(split(line).0).is_some(), "no row for {line}");
    }
    let mut seen = 0;
    for (name, value) in SETTINGS {
        let keyword = row(name).unwrap_or_else(|| panic!("no row for {name}"));
        let is = |line: &&str| split(line).0.eq_ignore_ascii_case(name);
        let value = match *value {
            "OTHER" if defaults.lines().find(is).is_some_and(|line| line.ends_with("yes")) => "no",
            "OTHER" => "yes",
            value => value,
        };
        // Those are no settings; and of others this ssh knows nothing any more, or not yet.
        let text = match ssh_g(&["-o".into(), format!("{name}={value}")]) {
            Ok(text) if !value.is_empty() => text,
            _ => continue,
        };
        let new: Vec<&str> =
            text.lines().filter(|line| !defaults.lines().any(|d| d == *line)).collect();
        // Newer ones ignore what protocol 1 needed; and -T says more than RequestTTY.
        let old = ["Cipher", "Protocol", "UsePrivilegedPort", "RequestTTY"].contains(name);
        assert!(old || !new.is_empty(), "{name} vanishes");
        if new.is_empty() {
            continue;
        }
        for line in &new {
            assert!(row(split(line).0).is_some(), "no row for {line}");
        }
        let told = ssh_alone(&text, || defaults.clone());
        match keyword.side {
            Side::SshAlone => {
                assert_eq!(told, Some(format!("{name} {}", split(new[0]).1)), "{new:?}");
            }
            Side::Both | Side::NoEffect => assert_eq!(told, None, "{name}"),
        }
        seen += 1;
    }
    println!("{seen} of {} keywords are known to this ssh", SETTINGS.len());
    assert!(seen >= 70, "{seen}");
    let known = |keyword: &&Keyword| {
        SETTINGS.iter().any(|(name, _)| name.eq_ignore_ascii_case(keyword.name))
    };
    assert!(KEYWORDS.iter().all(|keyword| known(&keyword)));
}

/// Goal: only what the table does not know is asked for, and a stranger's keyword is
/// passed over as long as it says what ssh says without any configuration.
#[test]
fn defaults_are_asked_for_where_the_table_does_not_know() {
    let defaults = || "hpndisabled no\ncheckhostip yes\nx y".to_owned();
    for (text, alone) in [
        ("user a\nloglevel INFO\nrekeylimit 0 0\ncheckhostip no\nrevokedhostkeys none\n\n", None),
        ("verifyhostkeydns ask", None),
    ] {
        assert_eq!(ssh_alone(text, no_defaults), alone);
    }
    for (text, alone) in [
        ("hpndisabled no\ncheckhostip yes", None),
        ("hpndisabled yes", Some("hpndisabled yes")),
        ("x y", None),
        ("noarguments", Some("noarguments ")),
        ("checkhostip yes\nverifyhostkeydns true\nx z", Some("VerifyHostKeyDNS true")),
        ("revokedhostkeys /r one", Some("RevokedHostKeys /r one")),
    ] {
        assert_eq!(ssh_alone(text, defaults).as_deref(), alone, "{text}");
    }
}

/// Goal: nobody is pushed onto ssh by what the distribution has set (the table at the
/// top of this file), but by FreeIPA's program.
#[test]
fn what_distributions_set() {
    const RHEL_8: &str = "GSSAPIAuthentication=yes ForwardX11Trusted=yes SendEnv=LANG \
        Ciphers=aes256-gcm@openssh.com,aes256-ctr,aes128-gcm@openssh.com,aes128-ctr \
        MACs=hmac-sha2-256-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256 \
        GSSAPIKexAlgorithms=gss-nistp256-sha256-,gss-group14-sha256- \
        KexAlgorithms=curve25519-sha256,ecdh-sha2-nistp256,diffie-hellman-group14-sha256 \
        PubkeyAcceptedKeyTypes=ecdsa-sha2-nistp256,ssh-ed25519,rsa-sha2-256,rsa-sha2-512,ssh-rsa \
        CASignatureAlgorithms=ecdsa-sha2-nistp256,ssh-ed25519,rsa-sha2-256";
    // From its FIPS policy, which has the most.
    const RHEL_9: &str = "GSSAPIKeyExchange=no Ciphers=aes256-gcm@openssh.com,aes128-ctr \
        MACs=hmac-sha2-256-etm@openssh.com,hmac-sha1-etm@openssh.com,hmac-sha2-512 \
        KexAlgorithms=ecdh-sha2-nistp256,ecdh-sha2-nistp384,diffie-hellman-group-exchange-sha256 \
        PubkeyAcceptedAlgorithms=ecdsa-sha2-nistp256,rsa-sha2-256,rsa-sha2-512 \
        HostKeyAlgorithms=ecdsa-sha2-nistp256,rsa-sha2-256,rsa-sha2-512 \
        HostbasedAcceptedAlgorithms=ecdsa-sha2-nistp256,rsa-sha2-256 RequiredRSASize=2048";
    const DEBIAN: &str = "SendEnv=LANG HashKnownHosts=yes GSSAPIAuthentication=yes";
    const SUSE: &str = "ForwardX11Trusted=yes SendEnv=LC_ALL UpdateHostKeys=yes CheckHostIP=no";
    const SSSD: &str = "GlobalKnownHostsFile=/var/lib/sss/pubconf/known_hosts";
    let program = "KnownHostsCommand=/usr/bin/sss_ssh_knownhosts";
    for (settings, alone) in [
        (DEBIAN.to_owned(), None),
        (RHEL_8.to_owned(), None),
        (RHEL_9.to_owned(), None),
        (SUSE.to_owned(), None),
        (format!("{SSSD} ProxyCommand=/usr/bin/sss_ssh_knownhostsproxy"), None),
        (format!("{SSSD} {program}"), Some("KnownHostsCommand /usr/bin/sss_ssh_knownhosts")),
    ] {
        let options = settings.split_whitespace().flat_map(|s| ["-o".to_owned(), s.to_owned()]);
        let text = match ssh_g(&options.collect::<Vec<_>>()) {
            Ok(text) => text,
            // Another ssh than Debian's lacks a keyword, or an algorithm.
            Err(why) => {
                println!("passed over: {why}");
                continue;
            }
        };
        assert_eq!(ssh_alone(&text, || ssh_g(&[]).unwrap()).as_deref(), alone, "{settings}");
    }
}
