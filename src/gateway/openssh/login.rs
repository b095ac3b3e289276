//! Starts the user's own ssh, as a master of shared connections (ssh(1), -M), and
//! waits until it is logged in.

use super::control_dir::ControlDir;
use super::keeper;
use super::mux::{self, Sentinel};
use super::output::Output;
use super::session::OpensshSession;
use crate::auth::{AcceptedKeys, KeyFile, key_advice, read_files};
use crate::config::{Gateway, Proxy, Strict, gateway_down};
use crate::error::{Code, Context, Error, Result, cause};
use crate::gateway::connect;
use crate::gateway::jump;
use crate::gateway::ssh_stderr::{closed_during_login, final_code, host_key_is_bad, summary};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys::{Helper, errno};
use crate::target::Destination;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the user's shell does not run LocalCommand (nologin, false), the control
/// socket tells: how often to look.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What ssh says where its ConnectTimeout is over, in connect or before the greeting.
const TIMED_OUT: &str = "onnection timed out";

/// How ssh is to be called.
pub struct Call<'a> {
    /// Where.
    pub gateway: &'a Gateway,
    /// The options with which the user would call it.
    pub ssh_options: &'a [OsString],
    /// Where `-L` leads.
    pub forwards: &'a [Destination],
    /// Nothing is to be written down (`--check`).
    pub dry: bool,
    /// By which host keys the gateway has been known so far.
    pub accepted: &'a mut AcceptedKeys,
    /// The attempt before this one was cut off without a word.
    pub cut_off: &'a mut bool,
    /// Set where the gateway has not greeted in time, and that was not all its time.
    pub silent: &'a mut bool,
}

/// Lets ssh log in and listen. Connecting, key exchange and login are ssh's
/// affair: they may take three steps' time together.
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
/// [`Code::Refused`] and [`Code::Config`] when it will not;
/// [`Code::System`]: no process or private directory was to be had.
pub fn open(mut call: Call<'_>, limits: Limits, log: &Arc<Log>) -> Result<OpensshSession> {
    let gateway = call.gateway;
    let what = || format!("gateway {}: ssh", gateway.name);
    let dir = ControlDir::make()
        .context(Code::System, || format!("{}: no private directory for its sockets", what()))?;
    // What ssh's LocalCommand prints when the user is logged in: what a gateway says
    // before that comes the same way, and must not be able to say this.
    let logged_in = format!("licfwd-{:016x}", rand::random::<u64>());
    // ssh's ConnectTimeout ends with the greeting.
    let hurried = limits.greeting.filter(|_| gateway.proxy.is_none());
    // But it waits for name servers as long as they please.
    let unnamed = hurried.is_some() && connect::resolve(gateway, limits).is_err();
    if unnamed && hurried.is_some_and(|by| by.left().is_zero()) {
        *call.silent = true;
        return Err(connect::no_greeting(gateway));
    }
    let connect_limit = hurried.map_or(limits.step, |by| by.left().min(limits.step));
    let arguments = arguments(&call, &dir, &logged_in, connect_limit);
    let key_files = read_files(gateway.host_key.files());
    // ssh would believe another key now, and write it down.
    if gateway.host_key.strict != Strict::Yes
        && let Some(missing) = call.accepted.missing(&key_files)
    {
        return Err(gateway_down(gateway, missing));
    }
    let (child, output) = keeper::start(&arguments, &dir).context(Code::System, what)?;
    // Dropped before the directory that it keeps.
    let keeper = Helper(child);
    let output = Output::new(output);
    let limit = (limits.step * 3).min(limits.deadline.left());
    match wait_for_login(&output, &dir, &logged_in, limit) {
        Ok(true) => {}
        Ok(false) => return Err(gateway_down(gateway, too_late(&output, limit))),
        Err(_) if hurried.is_some() && output.text().contains(TIMED_OUT) => {
            *call.silent = true;
            return Err(connect::no_greeting(gateway));
        }
        Err(_) => return Err(why_not(&output, &mut call, &key_files)),
    }
    *call.cut_off = false;
    call.accepted.seen(&key_files);
    log.step(format_args!("gateway {}: ssh has logged in", gateway.name));
    // Before anything else that ssh opens.
    let sentinel = Sentinel::over(&dir.socket()).map_err(|e| no_socket(&e, &output, &what()))?;
    for (n, to) in call.forwards.iter().enumerate() {
        let listen = dir.file(&n.to_string());
        mux::forward(&dir.socket(), &listen, to, limits.next_step())
            .map_err(|e| no_socket(&e, &output, &format!("{} -L for {to}", what())))?;
    }
    let forwards = call.forwards.to_owned();
    Ok(OpensshSession::new(output, forwards, sentinel, keeper, dir, log))
}

/// An ssh that has ended, or says nothing, is worth another try; not so one that
/// answers that it cannot listen, and not so where this process lacks something.
fn no_socket(e: &io::Error, output: &Output, what: &str) -> Error {
    let here = e.kind() == ErrorKind::Other || errno::out_of_something(e);
    let code = if here { Code::System } else { Code::GatewayDown };
    // It has said why on its stderr, if at all.
    let _ = output.read();
    let why = [cause(e), summary(&output.text())].join("; ");
    Error::new(code, format!("{what}: {}", why.trim_end_matches("; ")))
}

/// Whether ssh is logged in before `limit` is over.
///
/// # Errors
/// ssh has ended.
fn wait_for_login(
    output: &Output,
    dir: &ControlDir,
    logged_in: &str,
    limit: Duration,
) -> io::Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if output.wait(left.min(LOOK_INTERVAL))? {
            output.read()?;
            if output.text().contains(logged_in) {
                output.stderr().forget();
                return Ok(true);
            }
        } else if Path::new(&dir.socket()).exists() {
            output.stderr().forget();
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

fn too_late(output: &Output, limit: Duration) -> String {
    let why = format!("ssh: no login within {} s", limit.as_secs());
    match summary(&output.text()) {
        said if said.is_empty() => why,
        said => format!("{why}; it said: {said}"),
    }
}

/// What kept ssh from logging in, in its own words. `key_files`: just before.
fn why_not(output: &Output, call: &mut Call<'_>, key_files: &[KeyFile]) -> Error {
    let (said, words) = (output.why_it_ended(), output.text());
    let mut text = format!("ssh: {}", said.strip_prefix("ssh: ").unwrap_or(&said));
    // ssh does not tell whether that was in the middle of the key exchange, as
    // a gateway does that sheds load, or a refused login; one more will tell.
    let cut_off = closed_during_login(&words);
    let twice = std::mem::replace(call.cut_off, cut_off) && cut_off;
    let mut code = final_code(&words).or_else(|| twice.then_some(Code::Refused));
    if code == Some(Code::HostKey) && !host_key_is_bad(&words) {
        let now = read_files(call.gateway.host_key.files());
        if let Some(missing) =
            [key_files, &now].iter().find_map(|files| call.accepted.missing(files))
        {
            text = format!("{text}; {missing}");
            code = None;
        }
    }
    if words.contains(": Temporary failure in name resolution") {
        text += connect::MAY_BE_MISSPELT;
    }
    if code == Some(Code::Refused) {
        if words.contains(": Permission denied (") {
            text += &format!("; {}", key_advice(call.gateway));
        }
        text += &call.gateway.master();
    }
    let error = gateway_down(call.gateway, text);
    match code {
        Some(code) => Error::new(code, error.to_string()),
        None => error,
    }
}

/// What ssh is called with. Of each option the first counts: ours come before
/// the user's, and those before the configuration file's.
fn arguments(
    call: &Call<'_>,
    dir: &ControlDir,
    logged_in: &str,
    connect_limit: Duration,
) -> Vec<OsString> {
    let gateway = call.gateway;
    // ssh gives up at the third question without an answer.
    let interval = (gateway.silence.limit / 3).as_secs().max(1);
    let strict = match gateway.host_key.strict {
        Strict::Yes => "yes",
        // With `no` ssh would go on with a changed key.
        Strict::AcceptNew | Strict::AcceptUnwritten => "accept-new",
    };
    let mut options = vec![
        "ControlPersist=no".to_owned(),
        "BatchMode=yes".to_owned(),
        "PermitLocalCommand=yes".to_owned(),
        format!("LocalCommand=echo {logged_in}"),
        // The configuration's own forwards are another ssh's business.
        "ClearAllForwardings=yes".to_owned(),
        "StreamLocalBindUnlink=yes".to_owned(),
        "LogLevel=INFO".to_owned(),
        format!("StrictHostKeyChecking={strict}"),
        format!("ServerAliveInterval={interval}"),
        "ServerAliveCountMax=2".to_owned(),
        format!("ConnectTimeout={}", connect_limit.as_secs_f64().round().max(1.0)),
    ];
    if gateway.algorithms.compression {
        options.push("Compression=yes".to_owned());
    }
    if gateway.forks {
        options.push("ForkAfterAuthentication=no".to_owned());
    }
    if call.dry {
        // A new key goes to the first file of the user's, and is refused without one.
        let files = gateway.host_key.files().map(|f| format!("\"{}\"", f.display()));
        let files = files.reduce(|all, file| all + " " + &file);
        options.push(format!("GlobalKnownHostsFile={}", files.as_deref().unwrap_or("none")));
        let new = if gateway.host_key.user_files.is_empty() { "none" } else { "/dev/null" };
        options.push(format!("UserKnownHostsFile={new}"));
        options.push("UpdateHostKeys=no".to_owned());
    }
    let mut words: Vec<OsString> = ["-N", "-M", "-S"].map(Into::into).into();
    words.push(dir.socket().into());
    for option in options {
        words.extend(["-o".into(), option.into()]);
    }
    let mut users = call.ssh_options.to_owned();
    if let Some(Proxy::Jump { hosts, config_file }) = &gateway.proxy {
        // In its place; ssh takes not both.
        if let Some(at) = users.iter().position(|word| word == "-J") {
            users.drain(at..at + 2);
        }
        let mut setting = OsString::from("ProxyCommand=");
        setting.push(jump::command(hosts, config_file.as_deref(), true));
        words.extend(["-o".into(), setting]);
    }
    words.append(&mut users);
    words.extend(["--".into(), gateway.name.clone().into()]);
    words
}
