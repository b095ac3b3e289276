//! Asks `ssh -G` how to reach the gateway, or makes its answer up where no ssh is
//! installed.

use super::gateway::{Gateway, Proxy};
use super::parse::parse;
use super::tokens::Here;
use crate::error::{Code, Context, Error, Result};
use crate::log::Log;
use crate::sys::{self, hear_out};
use crate::target::without_brackets;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Resolves `gateway` (`[user@]host`) as ssh would, given ssh's own options;
/// from the command line alone where no ssh is installed.
///
/// # Errors
/// [`Code::Usage`]: a name that ssh would take for an option. [`Code::Config`]:
/// `ssh -G` failed, in its own words, or took longer than `timeout`.
pub fn resolve(
    gateway: &str,
    ssh_options: &[OsString],
    timeout: Duration,
    log: &Log,
) -> Result<Gateway> {
    if gateway.is_empty() || gateway.starts_with('-') {
        let what = format!("gateway {gateway:?}: not a host name");
        return Err(Error::new(Code::Usage, what));
    }
    let here = Here::find();
    let answer = ask_ssh(gateway, ssh_options, timeout)?;
    let has_ssh = answer.is_some();
    let (text, remarks) = match answer {
        Some(answer) => answer,
        None => {
            log.detail("no ssh in PATH: using the command line and ssh's defaults");
            (without_ssh(gateway, ssh_options, &here)?, String::new())
        }
    };
    let mut found = parse(&text, gateway, &here)?;
    found.has_ssh = has_ssh;
    found.login.missing_identities = missing_identities(&remarks);
    pass_on(&remarks, log);
    // Only a listening master counts: a stale socket file stays for ever.
    found.control_path = found
        .control_path
        .filter(|path| UnixStream::connect(path).is_ok());
    if let Some(Proxy::Jump { config_file, .. }) = &mut found.proxy {
        let mut pairs = ssh_options.windows(2);
        *config_file = pairs
            .rfind(|pair| pair[0] == "-F")
            .map(|pair| std::path::absolute(&pair[1]).unwrap_or_else(|_| pair[1].clone().into()));
    }
    Ok(found)
}

/// The lines of ssh's remarks, without what stands before each warning.
fn remarks_of(stderr: &str) -> impl Iterator<Item = &str> {
    let lines = stderr.lines().map(str::trim);
    lines.map(|line| line.strip_prefix("Warning: ").unwrap_or(line))
}

/// The files of `-i` that ssh did not find: its answer leaves them out.
fn missing_identities(stderr: &str) -> Vec<String> {
    let missing = remarks_of(stderr).filter_map(|line| {
        let rest = line.strip_prefix("Identity file ")?;
        let (file, _) = rest.split_once(" not accessible")?;
        Some(file.to_owned())
    });
    missing.collect()
}

/// Tells what ssh remarked. A debug log level in ssh_config tells its steps there, too.
fn pass_on(stderr: &str, log: &Log) {
    let steps = ["debug", "OpenSSH_"];
    for line in remarks_of(stderr).filter(|line| !line.is_empty()) {
        if !steps.iter().any(|step| line.starts_with(step)) {
            log.note(format_args!("ssh: {}", line.trim_end_matches('.')));
        }
    }
}

/// The two outputs of `ssh -G`, or nothing where there is no ssh.
fn ask_ssh(
    gateway: &str,
    options: &[OsString],
    timeout: Duration,
) -> Result<Option<(String, String)>> {
    // -T: no remark about the missing terminal. `--` ends ssh's options.
    let mut command = Command::new("ssh");
    command.args(["-G", "-T"]).args(options);
    command.args(["--", gateway]);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ssh = match sys::detached_short(&mut command).spawn() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        spawned => spawned.context(Code::System, || "ssh -G: cannot start".into())?,
    };
    let answer = hear_out(&mut ssh, timeout);
    if answer.is_err() {
        // `Match exec` may have left the hanging process behind ssh.
        sys::kill_group(ssh.id());
        let _ = ssh.wait();
    }
    let (status, text, remarks) =
        answer.context(Code::Config, || format!("ssh -G {gateway}: no answer"))?;
    if status.success() {
        return Ok(Some((text, remarks)));
    }
    let words: Vec<&str> = remarks
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let words = if words.is_empty() {
        status.to_string()
    } else {
        words.join("; ")
    };
    Err(Error::new(
        Code::Config,
        format!("ssh -G {gateway}: {words}"),
    ))
}

/// ssh's options with the files of `-F`, `-i` and `-o ...File=` made absolute: the
/// daemon lives in `/`. What ssh itself expands, or splits, stays as it is.
pub fn absolute(options: &[OsString]) -> Vec<OsString> {
    let file = |word: &OsStr| match std::path::absolute(word) {
        Ok(path) if word != "none" && plain(word) => path.into(),
        _ => word.to_owned(),
    };
    let mut before = OsStr::new("");
    let words = options.iter().map(|word| {
        let option = std::mem::replace(&mut before, word);
        let setting = word
            .to_str()
            .and_then(|word| word.split_once(['=', ' ', '\t']));
        match setting {
            _ if option == "-F" || option == "-i" => file(word),
            Some((key, value)) if option == "-o" && names_a_file(key.trim()) => {
                let value = value.trim_start_matches(['=', ' ', '\t']).trim();
                let mut setting = OsString::from(format!("{}=", key.trim()));
                setting.push(file(value.as_ref()));
                setting
            }
            _ => word.clone(),
        }
    });
    words.collect()
}

fn names_a_file(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.ends_with("file") || ["revokedhostkeys", "pkcs11provider"].contains(&key.as_str())
}

fn plain(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b"~") && !name.iter().any(|c| b"%$\" \t".contains(c))
}

/// What `ssh -G` would print for this command line, were there an ssh without
/// configuration files. The first value counts, hence the defaults come last.
///
/// # Errors
/// [`Code::Config`]: an option that needs a real ssh.
pub(super) fn without_ssh(gateway: &str, options: &[OsString], here: &Here) -> Result<String> {
    let mut text = String::new();
    let mut add = |key: &str, value: &str| {
        text.push_str(&format!("{key} {}\n", value.replace(['\n', '\r'], " ")));
    };
    let needs_ssh = |what: &str| {
        let way = "needs the ssh program, which is not installed here";
        Err(Error::new(Code::Config, format!("{what}: {way}")))
    };
    let mut identities = 0;
    let mut words = options.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
        let Some(letter) = letters.next() else {
            continue;
        };
        let attached = letters.as_str().to_owned();
        let key = match letter {
            '4' => {
                add("addressfamily", "inet");
                continue;
            }
            '6' => {
                add("addressfamily", "inet6");
                continue;
            }
            'C' => {
                add("compression", "yes");
                continue;
            }
            'p' => "port",
            'l' => "user",
            'i' => "identityfile",
            'b' => "bindaddress",
            'B' => "bindinterface",
            'c' => "ciphers",
            'm' => "macs",
            'o' => "-o",
            'F' | 'J' => return needs_ssh(&format!("option -{letter}")),
            _ => continue,
        };
        let value = match attached.is_empty() {
            true => words.next().unwrap_or_default().into_owned(),
            false => attached,
        };
        let (key, value) = match key {
            "-o" => value.split_once(['=', ' ', '\t']).unwrap_or((&value, "")),
            key => (key, value.as_str()),
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        let value = value.trim_start_matches('=').trim().trim_matches('"');
        match key.as_str() {
            "proxyjump" if value != "none" => return needs_ssh("ProxyJump"),
            "identityfile" => identities += 1,
            _ => {}
        }
        add(&key, value);
    }
    let (user, host) = gateway
        .rsplit_once('@')
        .unwrap_or((here.user.as_str(), gateway));
    add("user", user);
    add("hostname", without_brackets(host));
    if identities == 0 {
        for kind in ["rsa", "ecdsa", "ed25519"] {
            add("identityfile", &format!("~/.ssh/id_{kind}"));
        }
    }
    let (own, all) = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts");
    add("userknownhostsfile", &format!("{own} {own}2"));
    add("globalknownhostsfile", &format!("{all} {all}2"));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_absolute_in_every_spelling() {
        let here = std::env::current_dir().unwrap().display().to_string();
        for (word, expected) in [
            ("IdentityFile=k", format!("IdentityFile={here}/k")),
            ("identityfile = k", format!("identityfile={here}/k")),
            (
                "UserKnownHostsFile k",
                format!("UserKnownHostsFile={here}/k"),
            ),
            ("IdentityFile=~/k", "IdentityFile=~/k".into()),
            ("CertificateFile=/k", "CertificateFile=/k".into()),
            ("User=k", "User=k".into()),
        ] {
            let options = ["-o".into(), word.into()];
            assert_eq!(absolute(&options)[1], *expected, "{word}");
        }
        let options = ["-F", "none", "-i", "k", "-p", "k"].map(Into::into);
        let words = ["-F", "none", "-i", &format!("{here}/k"), "-p", "k"];
        assert_eq!(absolute(&options), words);
    }
}
