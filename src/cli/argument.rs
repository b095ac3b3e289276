//! One argument: its bytes, its length, and what it may contain.

use crate::target::{self, Parsed};
use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The longest argument taken, in bytes; only `--allow` may be longer.
pub const MAX_ARGUMENT_BYTES: usize = 4096;

/// Whether a word has what no program's name has.
pub fn target_like(word: &str) -> bool {
    word.contains([':', '=', '@', ',', '['])
}

/// What is wrong with a word in a target's place.
pub fn no_target(word: &str) -> String {
    let why = match target::check_host(word) {
        Ok(()) => target::no_port("", word),
        Err(_) => format!("expected a target, {}", target::TARGET_FORM),
    };
    let word = shown(word);
    format!(
        "{word}: {why}; licfwd runs no remote command, ssh does; one of this node's stands after --"
    )
}

/// Refuses an empty argument and one of more than `limit` bytes.
pub fn check_length(value: &str, limit: usize) -> Parsed<()> {
    match value.len() {
        0 => Err("expected something, got an empty argument".to_owned()),
        n if n > limit => Err(format!("longer than {limit} bytes")),
        _ => Ok(()),
    }
}

/// Refuses what only a file name may contain.
pub fn plain(value: &str) -> Parsed<()> {
    if value.contains(is_escape) {
        Err("not UTF-8".to_owned())
    } else if value.contains(char::is_control) {
        Err("control character in it".to_owned())
    } else {
        Ok(())
    }
}

/// Takes `[user@]name[,[user@]name...]` apart, with `ssh://` before any of them: a user
/// holds for its name and for those after it that have none, and a name that stands
/// there twice counts once.
pub fn gateways(text: &str) -> Parsed<Vec<String>> {
    const SCHEME: &str = "ssh://";
    check_length(text, MAX_ARGUMENT_BYTES)?;
    let mut last_user = None;
    let mut found: Vec<String> = Vec::new();
    for word in text.split(',') {
        if word.is_empty() {
            return Err("a gateway's name is missing beside a comma".to_owned());
        }
        check_gateway(word)?;
        let (scheme, name) = match word.strip_prefix(SCHEME) {
            Some(name) => (SCHEME, name),
            None => ("", word),
        };
        let (user, host) = target::split_user(name);
        last_user = user.or(last_user);
        let name = match last_user {
            Some(user) => format!("{scheme}{user}@{host}"),
            None => word.to_owned(),
        };
        if !found.contains(&name) {
            found.push(name);
        }
    }
    Ok(found)
}

/// The rules of ssh's `ssh_valid_ruser` and `ssh_valid_hostname` (readconf.c), and
/// no blanks: a name may come to stand in somebody's ProxyCommand.
fn check_gateway(text: &str) -> Parsed<()> {
    plain(text)?;
    let (user, host) = target::split_user(text);
    user.map_or(Ok(()), check_user)?;
    let allowed = |c: char| {
        c.is_alphanumeric() || (c.is_ascii_graphic() && !"'`\"$\\;&<>|(){},@".contains(c))
    };
    if text.starts_with('-') || host.starts_with('-') {
        Err("a gateway's name does not begin with '-'".to_owned())
    } else if host.is_empty() || !host.chars().all(allowed) {
        Err("expected [user@]gateway, without blanks and quotes".to_owned())
    } else {
        Ok(())
    }
}

fn check_user(user: &str) -> Parsed<()> {
    let allowed =
        |c: char| c.is_alphanumeric() || (c.is_ascii_graphic() && !"'`\";&<>|(){}".contains(c));
    if user.is_empty()
        || user.starts_with('-')
        || user.ends_with('\\')
        || !user.chars().all(allowed)
    {
        Err("expected a user name, without blanks and quotes".to_owned())
    } else {
        Ok(())
    }
}

/// What ssh would take and do nothing with, or misread, is refused here; all
/// else is for `ssh -G` to judge.
pub fn check_ssh_value(option: &str, value: &str) -> Parsed<()> {
    const FORWARDS: [&str; 3] = ["localforward", "remoteforward", "dynamicforward"];
    let keyword = value.trim_start().split(['=', ' ', '\t']).next();
    let keyword = keyword.unwrap_or_default().to_ascii_lowercase();
    match option {
        "p" => target::port_or_service(value).map(|_| ()),
        "l" => check_user(value),
        "o" if FORWARDS.contains(&keyword.as_str()) => {
            Err("forwards of ssh_config are ignored; write it with -L".to_owned())
        }
        "J" | "b" | "B" if value.starts_with('-') => {
            Err("expected a name, not an option".to_owned())
        }
        _ => Ok(()),
    }
}

/// As [`target::quoted`], for an encoded argument.
pub fn shown(word: &str) -> String {
    if word.contains(is_escape) {
        let head: String = word.chars().take(80).collect();
        format!("{:?}", decode(&head))
    } else {
        target::quoted(word)
    }
}

/// Stand for the bytes 0x80 to 0xff where an argument is not UTF-8, because
/// getopts takes text only: the last characters that Unicode has, and private.
const ESCAPES: RangeInclusive<char> = '\u{10ff80}'..='\u{10ffff}';

fn is_escape(c: char) -> bool {
    ESCAPES.contains(&c)
}

/// Any bytes as text; UTF-8 stays as it is.
pub fn encode(arg: &OsStr) -> String {
    let mut text = String::new();
    let escape = |byte: &u8| char::from_u32(0x10_ff00 + u32::from(*byte));
    for chunk in arg.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.encode_utf8(&mut [0; 4]).as_bytes() {
                bytes if is_escape(c) => text.extend(bytes.iter().filter_map(escape)),
                _ => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().filter_map(escape));
    }
    text
}

/// The inverse of [`encode`].
pub fn decode(word: &str) -> OsString {
    let mut bytes = Vec::new();
    for c in word.chars() {
        if is_escape(c) {
            bytes.push((u32::from(c) & 0xff) as u8);
        } else {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    OsString::from_vec(bytes)
}
