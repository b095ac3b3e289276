//! Words the ssh that carries the connection through the hosts of ProxyJump.
//!
//! ssh itself does it with `ssh -W`, and so does licfwd. But each of these is told to
//! share no connection: with `ControlMaster auto` and ControlPersist in the configuration
//! a master would stay behind, which no job has asked for. `-J` would start one that
//! cannot be told so, so that of several hosts each is the ProxyCommand of the next.

use crate::config::split_hop;
use std::ffi::OsString;
use std::path::Path;

/// Where a ProxyCommand leads.
const ANYWHERE: &str = "[%h]:%p";

/// The program and its arguments: through `hosts`, which have commas between, to `target`.
pub fn words(hosts: &str, config_file: Option<&Path>, batch: bool, target: &str) -> Vec<OsString> {
    let (before, last) = match hosts.rsplit_once(',') {
        Some((before, last)) => (Some(before), last),
        None => (None, hosts),
    };
    let (user, host, port) = split_hop(last);
    let mut words: Vec<OsString> = vec!["ssh".into()];
    for (option, value) in [("-l", user), ("-p", port)] {
        words.extend(value.into_iter().flat_map(|value| [option.into(), value.into()]));
    }
    if let Some(file) = config_file {
        words.extend(["-F".into(), file.into()]);
    }
    let before = before.map(|before| {
        let mut setting = OsString::from("ProxyCommand=");
        setting.push(command(before, config_file, batch));
        setting
    });
    let batch = batch.then(|| "BatchMode=yes".into());
    let settings = ["ControlMaster=no".into(), "ControlPath=none".into()];
    for setting in settings.into_iter().chain(batch).chain(before) {
        words.extend(["-o".into(), setting]);
    }
    words.extend(["-W".into(), target.into(), "--".into(), host.into()]);
    words
}

/// The same as a ProxyCommand: a line for a shell, in which ssh expands `%`.
pub fn command(hosts: &str, config_file: Option<&Path>, batch: bool) -> OsString {
    let mut line = OsString::new();
    for word in words(hosts, config_file, batch, ANYWHERE) {
        if !line.is_empty() {
            line.push(" ");
        }
        line.push(quoted(word));
    }
    line
}

/// A word for the user's shell. All of them know single quotes; what is not text has
/// come from a file's name, and is no target.
fn quoted(word: OsString) -> OsString {
    let Ok(word) = word.into_string() else {
        return OsString::new();
    };
    let tokens = if word == ANYWHERE { word.clone() } else { word.replace('%', "%%") };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@,+".contains(c);
    match word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", tokens.replace('\'', r"'\''")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_the_way_to_the_next() {
        let told = |hosts: &str, file: Option<&str>, batch| {
            let words = words(hosts, file.map(Path::new), batch, "gw:22");
            words.join("|".as_ref()).into_string().unwrap()
        };
        let alone = "ControlMaster=no|-o|ControlPath=none";
        assert_eq!(
            told("ann@a:7", None, false),
            format!("ssh|-l|ann|-p|7|-o|{alone}|-W|gw:22|--|a")
        );
        let quoted = "ssh -F '/a b' -o ControlMaster=no -o ControlPath=none -o BatchMode=yes \
            -W '[%h]:%p' -- ::1";
        assert_eq!(
            told("ssh://[::1],b", Some("/a b"), true),
            format!(
                "ssh|-F|/a b|-o|{alone}|-o|BatchMode=yes|-o|ProxyCommand={quoted}|-W|gw:22|--|b"
            )
        );
        let three = told("a,b%,c", None, false);
        assert!(three.contains(r"-W '\''[%%h]:%%p'\'' -- a' -W '[%h]:%p' -- 'b%%'|-W"), "{three}");
    }
}
