//! What `ssh -G` would print where no ssh is installed.

use super::tokens::Here;
use crate::error::{Code, Error, Result};
use crate::target::{split_user, without_brackets};
use std::ffi::OsString;

/// ssh's options that have a keyword of ssh_config.
const KEYWORDS: [(&str, &str); 7] = [
    ("-p", "port"),
    ("-l", "user"),
    ("-i", "identityfile"),
    ("-b", "bindaddress"),
    ("-B", "bindinterface"),
    ("-c", "ciphers"),
    ("-m", "macs"),
];

/// What `ssh -G` would print for this command line, had ssh no configuration
/// files. The first value counts, hence the defaults come last.
///
/// # Errors
/// [`Code::Config`]: an option that needs a real ssh.
pub fn without_ssh(gateway: &str, options: &[OsString], here: &Here) -> Result<String> {
    let mut lines = Vec::new();
    let mut words = options.iter().map(|word| word.to_string_lossy());
    while let Some(option) = words.next() {
        lines.push(match &*option {
            "-4" => "addressfamily inet".to_owned(),
            "-6" => "addressfamily inet6".to_owned(),
            option => line(option, &words.next().unwrap_or_default())?,
        });
    }
    let (user, host) = split_user(gateway);
    lines.push(format!("user {}", user.unwrap_or(&here.user)));
    lines.push(format!("hostname {}", without_brackets(host)));
    if !lines.iter().any(|line| line.starts_with("identityfile ")) {
        let kinds = ["rsa", "ecdsa", "ed25519"];
        lines.extend(kinds.map(|kind| format!("identityfile ~/.ssh/id_{kind}")));
    }
    let (own, all) = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts");
    lines.push(format!("userknownhostsfile {own} {own}2"));
    lines.push(format!("globalknownhostsfile {all} {all}2"));
    Ok(lines.join("\n"))
}

/// The line for one option and its value.
fn line(option: &str, value: &str) -> Result<String> {
    let needs_ssh = |what: &str| {
        let way = "needs the ssh program, which is not installed here";
        Err(Error::new(Code::Config, format!("{what}: {way}")))
    };
    let (key, value) = match KEYWORDS.iter().find(|(known, _)| *known == option) {
        Some((_, key)) => (*key, value),
        None if option == "-o" => value.split_once(['=', ' ', '\t']).unwrap_or((value, "")),
        None => return needs_ssh(&format!("option {option}")),
    };
    let value = value.trim().trim_start_matches('=').trim().trim_matches('"');
    match key.trim().to_ascii_lowercase().as_str() {
        "proxyjump" if value != "none" => needs_ssh("ProxyJump"),
        // Of the algorithms that it has by default.
        _ if value.starts_with(['+', '-', '^']) => needs_ssh(&format!("{key} {value}")),
        key => Ok(format!("{key} {}", value.replace(['\n', '\r'], " "))),
    }
}
