//! Asks `ssh -G` how to reach the gateway.

use super::gateway::{Gateway, Proxy, split_hop};
use super::keywords::ssh_alone;
use super::parse::parse;
use super::tokens::Here;
use super::without_ssh::without_ssh;
use crate::error::{Code, Context, Error, Result, cause};
use crate::log::Log;
use crate::sys::{self, hear_out};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is left for the directory of users at least, where ssh has taken all the time:
/// if that has answered, it is not to blame.
const GRACE: Duration = Duration::from_millis(500);

/// Resolves `gateway` (`[user@]host`) as ssh would, given ssh's own options;
/// from the command line alone where no ssh is installed.
///
/// # Errors
/// [`Code::Usage`]: a name that ssh would take for an option. [`Code::Config`]:
/// `ssh -G` failed, in its own words, or took longer than `timeout`.
/// [`Code::GatewayDown`]: nobody knows this user, or tells within `timeout` who that is,
/// which may pass.
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
    let begin = Instant::now();
    let no_question = || "cannot ask who this user is".into();
    let user = sys::ask_for_user().context(Code::System, no_question)?;
    // ssh asks that, too, and both at the same time.
    let answer = ask_ssh(gateway, ssh_options, timeout);
    let left = timeout.saturating_sub(begin.elapsed()).max(GRACE);
    let user = user.user(left).map_err(|e| {
        let (user, seconds) = (sys::user_id(), timeout.as_secs());
        let what = match e.kind() {
            io::ErrorKind::TimedOut => format!("no answer within {seconds} s"),
            _ => cause(&e),
        };
        let why = "the directory of users (/etc/passwd, LDAP)";
        Error::new(Code::GatewayDown, format!("cannot find out who user {user} is: {why}: {what}"))
    })?;
    let (mut here, answer) = (Here::find(user), answer?);
    let has_ssh = answer.is_some();
    let (text, remarks) = match answer {
        Some(answer) => answer,
        None => {
            log.detail("no ssh in PATH: using the command line and ssh's defaults");
            (without_ssh(gateway, ssh_options, &here)?, String::new())
        }
    };
    if has_ssh && asks_for_hash(&text) {
        here.hash = connection_hash(gateway, ssh_options, timeout)?;
    }
    let mut found = parse(&text, gateway, &here)?;
    // What ssh would do without any configuration; only where the table does not know.
    let defaults = || {
        let answer = ask_ssh(gateway, &["-F".into(), "none".into()], timeout);
        answer.ok().flatten().map_or(String::new(), |(text, _)| text)
    };
    found.ssh_alone = ssh_alone(&text, defaults);
    found.has_ssh = has_ssh;
    found.by_hand = by_hand(gateway, ssh_options);
    found.login.missing_identities = hear_remarks(&remarks, log);
    // Only a listening master counts: a stale socket file stays for ever.
    found.control_path = found.control_path.filter(|path| UnixStream::connect(path).is_ok());
    if let Some(Proxy::Jump { hosts, config_file }) = &mut found.proxy {
        let words = absolute(ssh_options);
        let file = words.windows(2).rfind(|pair| pair[0] == "-F");
        *config_file = file.map(|pair| pair[1].clone().into());
        *hosts = with_hops_before(hosts, config_file.as_deref(), timeout);
    }
    Ok(found)
}

/// The words of a call of ssh, to be pasted into a shell.
fn by_hand(gateway: &str, ssh_options: &[OsString]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    let quoted = |word: Cow<'_, str>| match word.chars().all(plain) {
        true => word.into_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let options = ssh_options.iter().map(|word| quoted(word.to_string_lossy()));
    options.chain([quoted(gateway.into())]).collect::<Vec<_>>().join(" ")
}

/// The hosts of ProxyJump, and before them those through which the first one is reached,
/// as its own settings have it: ssh would start another ssh there, which nobody could tell
/// to share no connection. Where ssh has an error in them, it will tell by itself.
fn with_hops_before(hosts: &str, config_file: Option<&Path>, timeout: Duration) -> String {
    const MAX_HOPS: usize = 8;
    let mut all = hosts.to_owned();
    for _ in 0..MAX_HOPS {
        let (user, host, port) = split_hop(all.split(',').next().unwrap_or_default());
        let mut options: Vec<OsString> = Vec::new();
        for (option, value) in [("-l", user), ("-p", port)] {
            options.extend(value.into_iter().flat_map(|value| [option.into(), value.into()]));
        }
        if let Some(file) = config_file {
            options.extend(["-F".into(), file.into()]);
        }
        let answer = ask_ssh(host, &options, timeout).ok().flatten();
        let (text, _) = answer.unwrap_or_default();
        let before = text.lines().find_map(|line| line.strip_prefix("proxyjump "));
        match before.filter(|hosts| *hosts != "none") {
            Some(before) => all = format!("{before},{all}"),
            None => break,
        }
    }
    all
}

/// Whether a file's name that ssh has left raw has the token `%C`.
fn asks_for_hash(text: &str) -> bool {
    let mut lines = text.lines();
    lines.any(|line| {
        ["identityfile ", "certificatefile "].iter().any(|key| line.starts_with(key))
            && line.contains("%C")
    })
}

/// What `%C` is here: ssh expands it in ControlPath alone before it prints.
fn connection_hash(gateway: &str, options: &[OsString], timeout: Duration) -> Result<String> {
    let mut with_hash: Vec<OsString> = vec!["-o".into(), "ControlPath=/%C".into()];
    with_hash.extend_from_slice(options);
    let (text, _) = ask_ssh(gateway, &with_hash, timeout)?.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("controlpath /"));
    Ok(line.unwrap_or_default().to_owned())
}

/// Passes on what ssh remarked on stderr. Returns the files of `-i` that it did
/// not find: its answer leaves them out.
fn hear_remarks(stderr: &str, log: &Log) -> Vec<String> {
    let mut missing = Vec::new();
    for line in stderr.lines().map(str::trim) {
        let line = line.strip_prefix("Warning: ").unwrap_or(line);
        let file = line.strip_prefix("Identity file ");
        if let Some((file, _)) = file.and_then(|rest| rest.split_once(" not accessible")) {
            missing.push(file.to_owned());
        }
        // A debug log level in ssh_config tells its steps here.
        if !line.is_empty() && !line.starts_with("debug") && !line.starts_with("OpenSSH_") {
            let way_out = sys::missing_libraries(line);
            let way_out = way_out.map_or(String::new(), |way_out| format!("; {way_out}"));
            log.note(format_args!("ssh: {}{way_out}", line.trim_end_matches('.')));
        }
    }
    missing
}

/// The two outputs of `ssh -G`, or nothing where there is no ssh. It can take its
/// time, because `Match exec` runs programs, and leave one of them behind with
/// its stderr open: hence a limit, and no waiting for that stderr's end.
fn ask_ssh(
    gateway: &str,
    options: &[OsString],
    timeout: Duration,
) -> Result<Option<(String, String)>> {
    let mut command = Command::new("ssh");
    // -T: no remark about the missing terminal. -N: no command is wanted, without which
    // ForkAfterAuthentication is an error. `--` ends ssh's options.
    command.args(["-G", "-T", "-N"]).args(options);
    command.args(["--", gateway]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ssh = match sys::detached_short(&mut command).spawn() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        spawned => spawned.context(Code::System, || "ssh -G: cannot start".into())?,
    };
    let answer = hear_out(&mut ssh, timeout);
    if answer.is_err() {
        sys::kill_group(ssh.id());
        let _ = ssh.wait();
    }
    let (status, text, remarks) =
        answer.context(Code::Config, || format!("ssh -G {gateway}: no answer"))?;
    if status.success() {
        return Ok(Some((from_its_begin(&text), remarks)));
    }
    let words = remarks.lines().map(str::trim).filter(|l| !l.is_empty());
    let why = match words.collect::<Vec<_>>().join("; ") {
        words if words.is_empty() => status.to_string(),
        words => words,
    };
    // The directory that knows the users (LDAP, NIS) may be away for a moment.
    let passing = ["No user exists for uid", "You don't exist, go away"];
    let code = match passing.iter().any(|words| why.contains(words)) {
        true => Code::GatewayDown,
        false => Code::Config,
    };
    Err(Error::new(code, format!("ssh -G {gateway}: {why}")))
}

/// ssh's answer: it begins with these three, and a script that stands in for ssh may
/// say something before.
fn from_its_begin(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = |lines: &[&str]| {
        ["user ", "hostname ", "port "].iter().zip(lines).all(|(key, line)| line.starts_with(key))
    };
    let begin = lines.windows(3).position(first).unwrap_or(0);
    lines[begin..].join("\n")
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
        let setting = word.to_str().and_then(|word| word.split_once(['=', ' ', '\t']));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_says_before_ssh_counts_for_nothing() {
        let answer = "user bob\nhostname h\nport 22\nciphers a";
        for noise in ["", "user friendly\nhostname is nice\nnoise\nhost gw\n"] {
            assert_eq!(from_its_begin(&format!("{noise}{answer}\n")), answer);
        }
    }

    #[test]
    fn file_names_become_absolute_in_every_spelling() {
        let here = std::env::current_dir().unwrap().display().to_string();
        for (word, expected) in [
            ("IdentityFile=k", format!("IdentityFile={here}/k")),
            ("identityfile = k", format!("identityfile={here}/k")),
            ("UserKnownHostsFile k", format!("UserKnownHostsFile={here}/k")),
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
