//! Understands what an ssh that licfwd has started says on its stderr; pure.

use crate::auth::NO_ANSWER;
use crate::error::Code;
use crate::sys::{KEEPER, missing_libraries};

/// What a failed ssh has failed at, where another try would not help: tried
/// again and again, its refused logins would lock an account.
pub fn final_code(words: &str) -> Option<Code> {
    let says = |part: &str| words.contains(part);
    // The second is that of a key too short for RequiredRSASize.
    if says("Host key verification failed") || says("Bad server host key: ") {
        Some(Code::HostKey)
    } else if says(": Permission denied (")
        || says("Too many authentication failures")
        || says(NO_ANSWER)
        // A hop that forbids forwarding.
        || says(": open failed: administratively prohibited")
    {
        Some(Code::Refused)
    } else if (says("Could not resolve hostname") && !says("Temporary failure"))
        || says("Unable to negotiate with")
        || says("Bad configuration option")
        || says("KnownHostsCommand failed")
        // A token or a variable that ssh cannot expand, or `~nobody`.
        || says("percent_expand: ")
        || says("invalid environment variable expansion")
        || says("tilde_expand")
        // Before OpenSSH 7.6 there is no StrictHostKeyChecking=accept-new.
        || says(": unsupported option ")
        || says("error while loading shared libraries: ")
        || words.lines().any(names_no_program)
    {
        Some(Code::Config)
    } else if says(KEEPER)
        // Where it listens is this node's affair.
        || says("unix_listener: cannot")
        || says("muxserver_listen: ")
    {
        Some(Code::System)
    } else {
        None
    }
}

/// Whether a shell says that there is no such program, or none that can be run, as
/// ProxyCommand wants one. Each shell has words of its own.
fn names_no_program(line: &str) -> bool {
    let line = line.trim();
    let why = ["not found", "No such file or directory", "Permission denied", "cannot execute"];
    let zsh = ["command not found: ", "no such file or directory: ", "permission denied: "];
    // dash, ksh and bash; the last leaves the first out where it has a path.
    let by_exec = [": exec: ", ": line 1: "].iter().any(|part| line.contains(part));
    // ssh, which has no such shell.
    let shell = line.split_once(": ").filter(|(shell, _)| shell.starts_with('/'));
    (by_exec && why.iter().any(|why| line.contains(why)))
        || shell.is_some_and(|(_, said)| why.contains(&said))
        || (line.starts_with("zsh:") && zsh.iter().any(|part| line.contains(part)))
        || line.starts_with("fish: Unknown command")
        || [": Command not found.", ": Permission denied."].iter().any(|end| line.ends_with(end))
}

/// Whether a known_hosts file says that the gateway's key is not the right one: it is
/// not just in none of them.
pub fn host_key_is_bad(words: &str) -> bool {
    words.contains("HAS CHANGED!") || words.to_lowercase().contains("revoked")
}

/// Whether the gateway, and no hop before it, closed the connection after the
/// key exchange had begun. sshd sheds load before that: there ssh names the
/// exchange of identifications.
pub fn closed_during_login(words: &str) -> bool {
    let closed = ["Connection closed by", "Connection reset by", "Received disconnect"];
    let before = ["exchange_identification", "banner exchange"];
    closed.iter().any(|part| words.contains(part))
        && !before.iter().any(|part| words.contains(part))
}

/// Stands where words were too many to be kept.
pub const GAP: &str = "\n[...]\n";

/// The last lines of it, on one line: ssh names the cause first and then that
/// the connection is closed. Of a changed host key it tells in five lines. Where much
/// was said, the cause may be the first line.
pub fn summary(words: &str) -> String {
    let count = if words.contains("Offending ") { 5 } else { 3 };
    let (begin, rest) = words.split_once(GAP).unwrap_or(("", words));
    let rest: Vec<&str> = telling_lines(rest).collect();
    let last = &rest[rest.len().saturating_sub(count)..];
    let first = telling_lines(begin).next().map(|first| format!("{first} [...]"));
    first
        .into_iter()
        .chain(last.iter().map(|line| (*line).to_owned()))
        .chain(missing_libraries(words).map(str::to_owned))
        .collect::<Vec<_>>()
        .join("; ")
}

fn telling_lines(words: &str) -> impl Iterator<Item = &str> {
    let lines = words.lines().map(str::trim);
    lines.filter(|line| line.contains(char::is_alphanumeric) && !line.contains('\u{1}'))
}

/// Why streams that were asked for were not opened, in their order.
pub fn why_not_open(words: &str) -> impl Iterator<Item = &str> {
    let refused = words.lines().filter_map(|line| Some(line.split_once(": open failed: ")?.1));
    refused.map(|why| why.strip_prefix("connect failed: ").unwrap_or(why).trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::is_asking;

    #[test]
    fn a_proxy_is_quoted_and_blamed() {
        for (words, quoted, code) in [
            ("nc: no route\n\n", "nc: no route", None),
            (
                "@@@@\nwarning\nkey of a has changed\nHost key verification failed.\r\nclosed\n",
                "key of a has changed; Host key verification failed.; closed",
                Some(Code::HostKey),
            ),
            (
                "\u{1}asking\nPermission denied, please try again.\n",
                "Permission denied, please try again.",
                None,
            ),
            (
                "a@b: Permission denied (publickey,password).",
                "a@b: Permission denied (publickey,password).",
                Some(Code::Refused),
            ),
            (
                "unix_listener: cannot bind: full",
                "unix_listener: cannot bind: full",
                Some(Code::System),
            ),
            // dash, bash twice, zsh, tcsh.
            ("sh: 1: exec: nc: not found", "sh: 1: exec: nc: not found", Some(Code::Config)),
            (
                "bash: line 1: /nc: No such file or directory",
                "bash: line 1: /nc: No such file or directory",
                Some(Code::Config),
            ),
            (
                "bash: line 1: exec: nc: not found",
                "bash: line 1: exec: nc: not found",
                Some(Code::Config),
            ),
            ("zsh:1: command not found: nc", "zsh:1: command not found: nc", Some(Code::Config)),
            ("nc: Command not found.", "nc: Command not found.", Some(Code::Config)),
            (
                "/nc: No such file or directory\r",
                "/nc: No such file or directory",
                Some(Code::Config),
            ),
            (
                "channel 0: open failed: administratively prohibited: no\nstdio forwarding failed",
                "channel 0: open failed: administratively prohibited: no; stdio forwarding failed",
                Some(Code::Refused),
            ),
            (
                "channel 0: open failed: connect failed: Connection refused",
                "channel 0: open failed: connect failed: Connection refused",
                None,
            ),
            (
                "Bad server host key: Invalid key length",
                "Bad server host key: Invalid key length",
                Some(Code::HostKey),
            ),
            ("nc: host gw not found", "nc: host gw not found", None),
            (
                "command-line line 0: unsupported option \"accept-new\".",
                "command-line line 0: unsupported option \"accept-new\".",
                Some(Code::Config),
            ),
        ] {
            assert_eq!((summary(words).as_str(), final_code(words)), (quoted, code));
        }
        assert!(is_asking("\u{1}asking\nssh: debug"));
        assert!(!is_asking("\u{1}asking\n\u{1}answered\n") && !is_asking("asking"));
    }

    #[test]
    fn a_login_that_was_closed_is_told_from_a_full_gateway() {
        for (words, during) in [
            ("Connection closed by 127.0.0.1 port 22", true),
            ("Received disconnect from 127.0.0.1 port 22:2: too many", true),
            (
                "kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by 127.0.0.1 port 22",
                false,
            ),
            ("ssh_exchange_identification: Connection closed by remote host", false),
            ("Connection to gw closed by remote host.", false),
        ] {
            assert_eq!(closed_during_login(words), during, "{words}");
        }
    }

    #[test]
    fn a_refused_stream_says_why() {
        let words = "x\nchannel 2: open failed: administratively prohibited: open failed\n\
                     channel 3: open failed: connect failed: Connection refused\r\n";
        let why: Vec<&str> = why_not_open(words).collect();
        assert_eq!(why, ["administratively prohibited: open failed", "Connection refused"]);
        assert_eq!(why_not_open("Warning: x").count(), 0);
    }
}
