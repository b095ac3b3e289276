//! Reads the text of `ssh -G` into settings; pure but for the environment.
//!
//! `ssh -G` prints one `keyword value` per line and leaves some values raw; which
//! ones depends on its version (read in `ssh.c` of 7.4, 8.0 and 9.2):
//!
//! | keyword | 7.4, 8.0 | 9.2, 10.5 |
//! |---|---|---|
//! | IdentityFile, CertificateFile | raw; 7.4 prints no CertificateFile | raw |
//! | ProxyCommand | raw | raw |
//! | IdentityAgent | raw | expanded |
//! | UserKnownHostsFile | raw `~`, no tokens (until 8.4) | expanded |
//! | GlobalKnownHostsFile | raw `~`, no tokens | raw `~`, no tokens |
//! | ControlPath | expanded | expanded |
//!
//! What is raw is expanded here ([`Tokens`]), by the rules of 9.2 and later. What may
//! have been expanded is not expanded again, or `%%h` would become a host: of
//! IdentityAgent that happens with what looks like a token, because 8.0 is RHEL 8's.

use super::gateway::{
    AlgorithmSettings, Family, Gateway, HostKeySettings, LoginSettings, Proxy, Silence, Strict,
    split_hop,
};
use super::tokens::{Here, Tokens};
use crate::error::{Code, Error, Result};
use crate::target;
use std::path::PathBuf;
use std::time::Duration;

/// What `ssh -G` printed about the gateway `name`, which is as typed.
///
/// # Errors
/// [`Code::Config`]: it lacks what every ssh prints.
pub fn parse(text: &str, name: &str, here: &Here) -> Result<Gateway> {
    let values = Values::read(text);
    let bad = |key| {
        let value = values.first(key).unwrap_or("missing");
        Error::new(Code::Config, format!("ssh -G {name}: {key}: {value}"))
    };
    let host = values.first("hostname").ok_or_else(|| bad("hostname"))?;
    let user = values.first("user").ok_or_else(|| bad("user"))?;
    let port =
        target::port_or_service(values.first("port").unwrap_or("22")).map_err(|_| bad("port"))?;
    let timeout = values.number("connecttimeout").filter(|&s| s > 0);
    let typed = typed_host(name);
    let tokens = Tokens {
        here,
        name: typed,
        host,
        port,
        user,
        alias: values.some("hostkeyalias").unwrap_or(typed),
        jump: last_hop(values.some("proxyjump").unwrap_or_default()),
    };
    Ok(Gateway {
        name: name.to_owned(),
        by_hand: name.to_owned(),
        host: host.to_owned(),
        port,
        user: user.to_owned(),
        connect_timeout: timeout.map(Duration::from_secs),
        family: family(&values),
        proxy: proxy(&values, &tokens)?,
        algorithms: algorithms(&values),
        host_key: host_key(&values, &tokens)?,
        login: login(&values, &tokens)?,
        silence: Silence::new(
            values.number("serveraliveinterval"),
            values.number("serveralivecountmax"),
        ),
        unlink_sockets: values.is_on("streamlocalbindunlink", false),
        control_path: values.some("controlpath").map(PathBuf::from),
        gateway_ports: values.is_on("gatewayports", false),
        forks: values.is_on("forkafterauthentication", false),
        ssh_alone: None,
        has_ssh: true,
    })
}

fn family(values: &Values<'_>) -> Family {
    match values.first("addressfamily") {
        Some("inet") => Family::V4,
        Some("inet6") => Family::V6,
        _ => Family::Any,
    }
}

fn proxy(values: &Values<'_>, tokens: &Tokens<'_>) -> Result<Option<Proxy>> {
    if let Some(hosts) = values.some("proxyjump") {
        return Ok(Some(Proxy::Jump { hosts: hosts.to_owned(), config_file: None }));
    }
    let command = values.some("proxycommand").map(|line| tokens.command(line));
    Ok(command.transpose()?.map(Proxy::Command))
}

/// `[user@]host` or `ssh://[user@]host[:port]`, as the command line has it.
fn typed_host(name: &str) -> &str {
    match name.starts_with("ssh://") {
        true => split_hop(name).1,
        false => target::split_user(name).1,
    }
}

/// The host of the last one in ProxyJump's list.
fn last_hop(hosts: &str) -> &str {
    split_hop(hosts.rsplit(',').next().unwrap_or_default()).1
}

fn algorithms(values: &Values<'_>) -> AlgorithmSettings {
    AlgorithmSettings {
        ciphers: values.list("ciphers"),
        macs: values.list("macs"),
        kex: values.list("kexalgorithms"),
        // The second is the first's name until OpenSSH 8.4.
        public_key: [
            values.list("pubkeyacceptedalgorithms"),
            values.list("pubkeyacceptedkeytypes"),
        ]
        .concat(),
        rsa_bits: values.number("requiredrsasize").or(values.number("rsaminsize")).unwrap_or(0)
            as usize,
        compression: values.is_on("compression", false),
    }
}

fn host_key(values: &Values<'_>, tokens: &Tokens<'_>) -> Result<HostKeySettings> {
    let files = |key| {
        let words = split_paths(values.some(key).unwrap_or_default());
        words.iter().map(|word| tokens.plain_path(word)).collect::<Result<_>>()
    };
    let strict = values.first("stricthostkeychecking").unwrap_or("ask");
    Ok(HostKeySettings {
        alias: values.some("hostkeyalias").map(str::to_owned),
        strict: Strict::parse(strict),
        asks: strict == "ask",
        hash_known_hosts: values.is_on("hashknownhosts", false),
        user_files: files("userknownhostsfile")?,
        global_files: files("globalknownhostsfile")?,
        algorithms: values.list("hostkeyalgorithms"),
    })
}

fn login(values: &Values<'_>, tokens: &Tokens<'_>) -> Result<LoginSettings> {
    // Of IdentityFile `none` is nothing, of CertificateFile a file that is not there.
    let certificates = values.all("certificatefile");
    let identities = values.all("identityfile").filter(|value| !is_none(value));
    Ok(LoginSettings {
        identity_files: identities.map(|value| tokens.path(value)).collect::<Result<_>>()?,
        missing_identities: Vec::new(),
        certificate_files: certificates.map(|value| tokens.path(value)).collect::<Result<_>>()?,
        identity_agent: agent(values, tokens),
        identities_only: values.is_on("identitiesonly", false),
        batch_mode: values.is_on("batchmode", false),
        preferred_methods: values.list("preferredauthentications"),
        pubkey: values.is_on("pubkeyauthentication", true),
        password: values.is_on("passwordauthentication", true),
        // The second is the first's old name and stands beside it in 7.4.
        keyboard_interactive: values.is_on("kbdinteractiveauthentication", true)
            && values.is_on("challengeresponseauthentication", true),
        password_prompts: values.number("numberofpasswordprompts").unwrap_or(3).min(10) as u32,
        hostbased: values.is_on("hostbasedauthentication", false),
        gssapi: values.is_on("gssapiauthentication", false),
    })
}

/// IdentityAgent is a path, or a variable that holds one.
fn agent(values: &Values<'_>, tokens: &Tokens<'_>) -> Option<PathBuf> {
    let full = |value: &String| !value.is_empty();
    let socket = |variable: &str| (tokens.here.env)(variable).filter(full).map(PathBuf::from);
    match values.first("identityagent") {
        None | Some("SSH_AUTH_SOCK") => socket("SSH_AUTH_SOCK"),
        Some(value) if value.eq_ignore_ascii_case("none") => None,
        Some(value) => match value.strip_prefix('$') {
            Some(variable) if !variable.starts_with('{') => socket(variable),
            // Already expanded, it may hold anything.
            _ => tokens.path(value).ok().or_else(|| Some(value.into())),
        },
    }
}

/// The lines of `ssh -G`, the keywords in lower case.
struct Values<'a>(Vec<(String, &'a str)>);

impl<'a> Values<'a> {
    fn read(text: &'a str) -> Values<'a> {
        let pairs = text.lines().filter_map(|line| line.trim().split_once([' ', '\t']));
        Values(pairs.map(|(key, value)| (key.to_ascii_lowercase(), value.trim())).collect())
    }

    /// ssh's own rule: the first value obtained counts.
    fn first(&self, key: &str) -> Option<&'a str> {
        let mut found = self.0.iter().filter(|(known, _)| known == key);
        found.next().map(|(_, value)| *value)
    }

    /// The first value, where that is not `none`.
    fn some(&self, key: &str) -> Option<&'a str> {
        self.first(key).filter(|value| !is_none(value))
    }

    /// Every value, of a keyword that may stand there several times.
    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        let found = self.0.iter().filter(move |(known, _)| known == key);
        found.map(|(_, value)| *value)
    }

    fn is_on(&self, key: &str, unset: bool) -> bool {
        self.first(key).map_or(unset, |v| !matches!(v, "no" | "false" | "off" | "none"))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.first(key)?.parse().ok()
    }

    fn list(&self, key: &str) -> Vec<String> {
        let value = self.some(key).unwrap_or_default();
        let parts = value.split(',').filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    }
}

fn is_none(value: &str) -> bool {
    value.eq_ignore_ascii_case("none")
}

/// Splits a list of files. `ssh -G` prints them separated by blanks and prints
/// blanks inside a name as they are; files of such a list are nearly always
/// absolute, so a relative word continues an absolute one.
fn split_paths(value: &str) -> Vec<String> {
    let absolute = |word: &str| word.starts_with(['/', '~', '%', '$']);
    let mut files: Vec<String> = Vec::new();
    for word in value.split_whitespace() {
        match files.last_mut() {
            Some(last) if absolute(last) && !absolute(word) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => files.push(word.to_owned()),
        }
    }
    files
}

#[cfg(test)]
pub(crate) mod tests;
