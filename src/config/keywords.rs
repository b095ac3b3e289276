//! What becomes of each keyword of ssh_config(5) where libssh2 speaks to the gateway.
//!
//! One row for each keyword that `ssh -G` prints or can print, from OpenSSH 7.4 to 10
//! and with the patches of Debian and Red Hat. `ssh -G` does not tell the user's
//! settings, the system's and the built-in ones apart. What the distributions set in
//! their own /etc/ssh/ssh_config, and what comes of it:
//!
//! | system | sets | comes to |
//! |---|---|---|
//! | Debian, Ubuntu | SendEnv, HashKnownHosts, GSSAPIAuthentication | libssh2; ssh after a refusal alone |
//! | RHEL, Fedora | GSSAPIAuthentication, ForwardX11Trusted, SendEnv | the same |
//! | their crypto policies | Ciphers, MACs, KexAlgorithms, HostKeyAlgorithms, PubkeyAcceptedAlgorithms | libssh2, cut to what it knows |
//! | | RequiredRSASize (RSAMinSize) 2048 or more | honoured |
//! | | GSSAPIKexAlgorithms, CASignatureAlgorithms, HostbasedAcceptedAlgorithms | without effect |
//! | SUSE | SendEnv, ForwardX11Trusted, UpdateHostKeys | libssh2 |
//! | FreeIPA, SSSD, before RHEL 9.6 | GlobalKnownHostsFile, written by ProxyCommand | libssh2, which reads it when the gateway has greeted |
//! | since | KnownHostsCommand | ssh: nobody else can run it with all its tokens |

/// Who does as a keyword says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Both sides of licfwd. A note tells where libssh2's does it otherwise than ssh.
    Both,
    /// Nobody has to: it makes no difference to a forward.
    NoEffect,
    /// ssh alone, so it is ssh that speaks to the gateway where this is set.
    SshAlone,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Keyword {
    /// As ssh_config(5) spells it.
    pub name: &'static str,
    /// Whose it is.
    pub side: Side,
    /// Of what is ssh's alone: the values with which it says nothing.
    idle: &'static [&'static str],
    /// What the manual tells of it; nothing where it is simply honoured.
    pub note: &'static str,
}

/// Every keyword.
#[rustfmt::skip]
pub const KEYWORDS: &[Keyword] = {
    use Side::{Both, NoEffect, SshAlone};
    const fn row(name: &'static str, side: Side, idle: &'static [&'static str], note: &'static str) -> Keyword {
        Keyword { name, side, idle, note }
    }
    const fn done(name: &'static str) -> Keyword { row(name, Both, &[], "") }
    const fn but(name: &'static str, note: &'static str) -> Keyword { row(name, Both, &[], note) }
    const fn none(name: &'static str, note: &'static str) -> Keyword { row(name, NoEffect, &[], note) }
    const fn ssh(name: &'static str, idle: &'static [&'static str], note: &'static str) -> Keyword {
        row(name, SshAlone, idle, note)
    }
    const OLD: &str = "a matter of protocol 1";
    const BASED: &str = "a matter of hostbased logins, which are ssh's";
    const AFTER: &str = "over ssh: after a refusal, or where there is no key to show";
    const OFF: &[&str] = &["no", "false"];
    const CUT: &str = "cut to what libssh2 knows; over ssh where that is nothing";
    const OF_SESSIONS: &str = "a matter of sessions";
    const OWN: &str = "those of the command line are the only ones";
    const TELLS: &str = "a matter of what ssh tells";
    const TO_ASK: &str = "a matter of GSSAPI, which is ssh's";
    &[
        // Where: found by ssh -G itself.
        done("Host"), done("HostName"), done("User"), done("Port"), done("Tag"),
        done("CanonicalDomains"), done("CanonicalizeFallbackLocal"), done("CanonicalizeHostname"),
        done("CanonicalizeMaxDots"), done("CanonicalizePermittedCNAMEs"), done("IgnoreUnknown"),
        done("RefuseConnection"), done("Include"), done("Match"),
        // How to get there: gateway/connect.
        done("AddressFamily"), done("ConnectTimeout"), done("ProxyCommand"), done("ProxyJump"),
        but("ServerAliveInterval", "20 where it is 0 or more than that"),
        but("ServerAliveCountMax", "3 at most"),
        // The key exchange: gateway/libssh2.
        but("Ciphers", CUT), but("MACs", CUT), but("KexAlgorithms", CUT), but("HostKeyAlgorithms", CUT),
        done("Compression"),
        // The host key: auth/host_key.
        done("GlobalKnownHostsFile"), done("UserKnownHostsFile"), done("HostKeyAlias"), done("HashKnownHosts"),
        but("StrictHostKeyChecking", "ask is yes (nobody is there), no is accept-new (ssh, too, forwards nothing where a key has changed)"),
        done("RequiredRSASize"), done("RSAMinSize"),
        // The login: auth/login.
        done("IdentityFile"), done("IdentitiesOnly"), done("IdentityAgent"), done("CertificateFile"),
        done("BatchMode"), done("PreferredAuthentications"), done("NumberOfPasswordPrompts"),
        done("PubkeyAuthentication"), done("PasswordAuthentication"),
        done("KbdInteractiveAuthentication"), done("ChallengeResponseAuthentication"),
        but("PubkeyAcceptedAlgorithms", CUT), but("PubkeyAcceptedKeyTypes", CUT),
        but("GSSAPIAuthentication", AFTER),
        but("HostbasedAuthentication", AFTER),
        // This node's side: local.
        done("GatewayPorts"), done("StreamLocalBindUnlink"),

        ssh("BindAddress", &[], "the address to connect from"),
        ssh("BindInterface", &[], "the interface to connect from"),
        ssh("ChannelTimeout", &["none"], "closes idle forwards"),
        ssh("CheckHostIP", OFF, "the address in known_hosts, too; not where it is ssh's default (before OpenSSH 8.5)"),
        ssh("GSSAPIKeyExchange", OFF, "another proof of who the gateway is"),
        ssh("KbdInteractiveDevices", &[], "which questions to be asked"),
        ssh("KnownHostsCommand", &["none"], "a program that knows host keys (FreeIPA, SSSD)"),
        ssh("NoHostAuthenticationForLocalhost", OFF, "trusts any key of this node"),
        ssh("PKCS11Provider", &["none"], "keys on a token"),
        ssh("ProxyUseFdpass", OFF, "a ProxyCommand that hands over a socket"),
        ssh("RekeyLimit", &["0 0"], "new keys after so many bytes"),
        ssh("RevokedHostKeys", &["none"], "host keys that are not to be trusted"),
        ssh("UsePrivilegedPort", OFF, "a local port below 1024"),
        ssh("VerifyHostKeyDNS", &["no", "false", "ask"], "host keys in the DNS (SSHFP); ask says nothing where nobody is asked"),

        none("AddKeysToAgent", "no key is added"),
        none("CASignatureAlgorithms", "a matter of certified host keys, which are ssh's"),
        none("Cipher", OLD), none("CompressionLevel", OLD), none("Protocol", "it is 2"),
        none("RhostsRSAAuthentication", OLD), none("RSAAuthentication", OLD),
        none("ConnectionAttempts", "see --tries"),
        none("ControlMaster", "nothing is shared"), none("ControlPersist", "nothing is shared"),
        none("ControlPath", "named in the message where a login fails and ssh has a connection"),
        none("ClearAllForwardings", OWN), none("LocalForward", OWN), none("RemoteForward", OWN),
        none("DynamicForward", OWN), none("Tunnel", OWN), none("TunnelDevice", OWN), none("PermitRemoteOpen", OWN),
        none("ExitOnForwardFailure", "always yes"),
        none("EnableSSHKeysign", BASED),
        none("HostbasedAcceptedAlgorithms", BASED), none("HostbasedKeyTypes", BASED),
        none("GSSAPIDelegateCredentials", TO_ASK), none("GSSAPITrustDns", TO_ASK),
        none("GSSAPIRenewalForcesRekey", TO_ASK), none("GSSAPIKexAlgorithms", TO_ASK),
        none("GSSAPIClientIdentity", TO_ASK), none("GSSAPIServerIdentity", TO_ASK),
        none("EnableEscapeCommandline", OF_SESSIONS), none("EscapeChar", OF_SESSIONS),
        none("ForwardAgent", OF_SESSIONS), none("ForwardX11", OF_SESSIONS), none("ForwardX11Timeout", OF_SESSIONS),
        none("ForwardX11Trusted", OF_SESSIONS), none("XAuthLocation", OF_SESSIONS),
        none("ObscureKeystrokeTiming", OF_SESSIONS), none("RemoteCommand", OF_SESSIONS), none("RequestTTY", OF_SESSIONS),
        none("SendEnv", OF_SESSIONS), none("SetEnv", OF_SESSIONS), none("SessionType", OF_SESSIONS), none("StdinNull", OF_SESSIONS),
        none("ForkAfterAuthentication", "see -f"),
        none("FingerprintHash", TELLS), none("LogLevel", TELLS), none("LogVerbose", TELLS), none("SyslogFacility", TELLS),
        none("VisualHostKey", TELLS), none("WarnWeakCrypto", TELLS),
        none("IPQoS", "the kernel's default"), none("TCPKeepAlive", "always yes"),
        none("LocalCommand", "no program is run"), none("PermitLocalCommand", "no program is run"),
        none("SecurityKeyProvider", "a FIDO key in a file is ssh's"),
        none("StreamLocalBindMask", "a socket is its owner's"),
        none("UpdateHostKeys", "only a new gateway's key is written down"),
        none("VersionAddendum", "libssh2 has its own words"),
    ]
};

/// The first setting in the text of `ssh -G` that is ssh's alone, as ssh_config would
/// have it. `defaults` is the text of an ssh without any configuration; it is asked
/// for only where the table does not know a value or a keyword.
pub fn ssh_alone(text: &str, defaults: impl FnOnce() -> String) -> Option<String> {
    let unknown: Vec<&str> = text.lines().map(str::trim).filter(|line| !is_settled(line)).collect();
    if unknown.is_empty() {
        return None;
    }
    let defaults = defaults();
    let mut set = unknown.iter().filter(|line| !defaults.lines().any(|d| d.trim() == **line));
    set.next().map(|line| {
        let (key, value) = split(line);
        format!("{} {value}", row(key).map_or(key, |keyword| keyword.name))
    })
}

/// Whether the table alone says that a line is not ssh's.
fn is_settled(line: &str) -> bool {
    let (key, value) = split(line);
    row(key).is_some_and(|keyword| match keyword.side {
        Side::Both | Side::NoEffect => true,
        Side::SshAlone => keyword.idle.contains(&value),
    }) || line.is_empty()
}

fn split(line: &str) -> (&str, &str) {
    let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (key, value.trim())
}

fn row(key: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name.eq_ignore_ascii_case(key))
}

#[cfg(test)]
mod tests;
