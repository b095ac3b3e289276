//! Reaches the gateway through the user's own ssh, as a master of shared connections (ssh(1), -M).
//!
//! ```text
//! client ------------------- ssh -M -- gateway -- license server
//! client -- licfwd -- DIR/n -- ssh -M -- gateway -- -L number n
//! ```
//! ssh logs in as it would for its user, in whatever way that is, and never
//! asks. Ports, owner check, retries and announcement stay licfwd's own; then
//! ssh gets the socket of a license server's client ([`super::mux`]). Streams
//! that it opens so are at their end when the server has ended its output, as
//! those of `ssh -W`. For `-L`, behind which may be any program, a second ssh
//! has it listen on sockets of its own, and licfwd carries the bytes there.

use super::control_dir::Room;
use super::forward_socket::Socket;
use super::keeper;
use super::mux::{Handed, Watch};
use crate::config::{Gateway, Strict, gateway_down};
use crate::error::{Code, Context, Error, Result, cause};
use crate::gateway::session::{Answer, Opened, Remote, Transport};
use crate::gateway::ssh_stderr::{blame, closed_during_login, gist, why_not_open};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys::{self, Helper, errno, hear_out};
use crate::target::{Destination, host_port};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What ssh's LocalCommand prints when the user is logged in.
const LOGGED_IN: &str = "licfwd-logged-in";
/// Where the user's shell does not run LocalCommand (nologin, false), the control
/// socket tells: how often to look.
const GLANCE: Duration = Duration::from_millis(100);
/// How much of ssh's words is remembered, and how much is read in one go: a
/// program that carries its connection may talk for ever.
const MEMORY: usize = 4096;
const MOUTHFUL: usize = 2;
/// How long to wait before knocking again where ssh's line of waiting
/// connections is full, and when to give up.
const KNOCK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// What ssh needs for a client that it has, and what it needs itself, in clients.
const DESCRIPTORS: u64 = 3;
const RESERVE: u64 = 16;

/// A logged-in ssh, its sockets, and who keeps it.
pub struct Master {
    /// What ssh says; its end is ssh's.
    wire: UnixStream,
    /// The last of it.
    words: String,
    forwards: Vec<Destination>,
    /// What a client waits for.
    asking: Option<Question>,
    /// Since the login. Every stream of a client that ssh has holds it, too.
    watch: Option<Arc<Watch>>,
    /// For how many such clients ssh has descriptors.
    most: usize,
    log: Arc<Log>,
    // Dropped in this order: who keeps the room, then the room.
    _keeper: Helper,
    room: Room,
}

/// A client waits for a stream.
struct Question {
    to: Destination,
    since: Instant,
    /// When to knock at ssh's socket again.
    again: Instant,
}

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
    /// The attempt before this one was cut off without a word.
    pub cut_off: &'a mut bool,
}

/// Lets ssh log in and listen. Connecting, key exchange and login are ssh's
/// affair: they may take three steps' time together.
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
/// [`Code::Refused`] and [`Code::Config`] when it will not;
/// [`Code::System`]: no process or private directory was to be had.
pub fn open(mut call: Call<'_>, limits: Limits, log: &Arc<Log>) -> Result<Master> {
    let gateway = call.gateway;
    let what = || format!("gateway {}: ssh", gateway.name);
    let room = Room::make().context(Code::System, || {
        format!("{}: no private directory for its sockets", what())
    })?;
    let arguments = arguments(&call, &room, limits.step);
    let (child, wire) = keeper::start(&arguments, &room).context(Code::System, what)?;
    wire.set_nonblocking(true).context(Code::System, what)?;
    let mut master = Master {
        wire,
        words: String::new(),
        forwards: call.forwards.to_owned(),
        asking: None,
        watch: None,
        most: (sys::raise_descriptor_limit() / DESCRIPTORS).saturating_sub(RESERVE) as usize,
        log: Arc::clone(log),
        _keeper: Helper(child),
        room,
    };
    let limit = (limits.step * 3).min(limits.deadline.left());
    match master.wait_for_login(limit) {
        Ok(true) => {}
        Ok(false) => {
            let why = format!("no login within {} s", limit.as_secs());
            let why = match gist(&master.words) {
                gist if gist.is_empty() => format!("ssh: {why}"),
                gist => format!("ssh: {why}; it said: {gist}"),
            };
            return Err(gateway_down(gateway, why));
        }
        Err(_) => return Err(master.why_not(&mut call)),
    }
    *call.cut_off = false;
    log.step(format_args!("gateway {}: ssh has logged in", gateway.name));
    // Before anything else that ssh opens.
    let watch = Watch::over(&master.room.file("ctl")).context(Code::GatewayDown, what)?;
    master.watch = Some(Arc::new(watch));
    master.listen(limits)?;
    Ok(master)
}

/// What ssh is called with. Of each option the first counts: ours come before
/// the user's, and those before the configuration file's.
fn arguments(call: &Call<'_>, room: &Room, step: Duration) -> Vec<OsString> {
    let gateway = call.gateway;
    // ssh gives up at the third question without an answer.
    let interval = (gateway.silence.limit / 3).as_secs().max(1);
    let strict = match gateway.host_key.strict {
        Strict::Yes => "yes",
        // With `no` ssh would go on with a changed key.
        Strict::AcceptNew | Strict::AcceptUnwritten | Strict::No => "accept-new",
    };
    let mut options = vec![
        "ControlPersist=no".to_owned(),
        "BatchMode=yes".to_owned(),
        "PermitLocalCommand=yes".to_owned(),
        format!("LocalCommand=echo {LOGGED_IN}"),
        // The configuration's own forwards are another ssh's business.
        "ClearAllForwardings=yes".to_owned(),
        "StreamLocalBindUnlink=yes".to_owned(),
        "LogLevel=INFO".to_owned(),
        format!("StrictHostKeyChecking={strict}"),
        format!("ServerAliveInterval={interval}"),
        "ServerAliveCountMax=2".to_owned(),
        format!("ConnectTimeout={}", step.as_secs().max(1)),
    ];
    if gateway.algorithms.compression {
        options.push("Compression=yes".to_owned());
    }
    if gateway.forks {
        options.push("ForkAfterAuthentication=no".to_owned());
    }
    if call.dry {
        // A new key goes to the first file of the user's.
        let files = gateway.host_key.files();
        let files: Vec<String> = files.map(|f| format!("\"{}\"", f.display())).collect();
        options.push(format!("GlobalKnownHostsFile={}", files.join(" ")));
        options.push("UserKnownHostsFile=/dev/null".to_owned());
        options.push("UpdateHostKeys=no".to_owned());
    }
    let mut words: Vec<OsString> = ["-N", "-M", "-S"].map(Into::into).into();
    words.push(room.file("ctl").into());
    for option in options {
        words.extend(["-o".into(), option.into()]);
    }
    words.extend(call.ssh_options.iter().cloned());
    words.extend(["--".into(), gateway.name.clone().into()]);
    words
}

impl Master {
    /// Whether ssh is logged in before `limit` is over.
    ///
    /// # Errors
    /// ssh has ended.
    fn wait_for_login(&mut self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if sys::poll_readable(&self.wire, left.min(GLANCE))? {
                self.hear()?;
                if let Some(at) = self.words.find(LOGGED_IN) {
                    self.words.truncate(at);
                    return Ok(true);
                }
            } else if Path::new(&self.room.file("ctl")).exists() {
                self.words.clear();
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Reads what ssh has said.
    ///
    /// # Errors
    /// It has ended.
    fn hear(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1024];
        for _ in 0..MOUTHFUL {
            match self.wire.read(&mut chunk) {
                Ok(0) => return Err(io::Error::other("it has ended without a word")),
                Ok(count) => {
                    self.words += &String::from_utf8_lossy(&chunk[..count]);
                    let mut excess = self.words.len().saturating_sub(MEMORY);
                    while !self.words.is_char_boundary(excess) {
                        excess += 1;
                    }
                    self.words.drain(..excess);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What kept ssh from logging in, in its own words.
    fn why_not(&self, call: &mut Call<'_>) -> Error {
        let said = self.last_words();
        let text = format!("ssh: {}", said.strip_prefix("ssh: ").unwrap_or(&said));
        // ssh does not tell whether that was in the middle of the key exchange, as
        // a gateway does that sheds load, or a refused login; one more will tell.
        let cut_off = closed_during_login(&self.words);
        let twice = std::mem::replace(call.cut_off, cut_off) && cut_off;
        let code = blame(&self.words).or_else(|| twice.then_some(Code::Refused));
        let error = gateway_down(call.gateway, text);
        match code {
            Some(code) => Error::new(code, error.to_string()),
            None => error,
        }
    }

    fn last_words(&self) -> String {
        match gist(&self.words) {
            gist if gist.is_empty() => "it has ended without a word".to_owned(),
            gist => gist,
        }
    }

    /// Has ssh listen on a socket for each `-L`.
    fn listen(&self, limits: Limits) -> Result<()> {
        if self.forwards.is_empty() {
            return Ok(());
        }
        let mut ssh = Command::new("ssh");
        // Should the master be gone, this one must not go out by itself.
        ssh.args(["-F", "/dev/null", "-o", "ProxyCommand=false", "-S"]);
        ssh.arg(self.room.file("ctl")).args(["-O", "forward"]);
        for (n, to) in self.forwards.iter().enumerate() {
            let to = match to {
                Destination::Tcp { host, port } => host_port(host, *port),
                Destination::Unix(path) => path.replace('\\', "\\\\").replace(':', "\\:"),
            };
            let socket = self.room.file(&n.to_string());
            ssh.arg("-L").arg(format!("{socket}:{to}"));
        }
        ssh.args(["--", "licfwd.invalid"]);
        ssh.stdin(Stdio::null());
        ssh.stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = || "ssh -O forward".to_owned();
        let ssh = sys::detached_short(&mut ssh);
        let mut ssh = ssh.spawn().context(Code::System, what)?;
        let heard = hear_out(&mut ssh, limits.next_step());
        if heard.is_err() {
            sys::kill_group(ssh.id());
            let _ = ssh.wait();
        }
        let (status, _, words) = heard.context(Code::GatewayDown, what)?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::new(
                Code::GatewayDown,
                format!("{}: {}", what(), gist(&words)),
            )),
        }
    }

    /// Has ssh open a stream, within `limit`.
    pub fn probe(&mut self, host: &str, port: u16, limit: Duration) -> Answer {
        if self.hear().is_err() {
            return Answer::Lost(self.last_words());
        }
        self.words.clear();
        let end = Instant::now() + limit;
        let asked = UnixStream::pair().and_then(|(ours, theirs)| {
            let stream = self.hand_over(host, port, theirs.as_fd())?;
            Ok((ours, stream))
        });
        let (_client, mut stream) = match asked {
            Ok(asked) => asked,
            Err(e) => return Answer::Lost(format!("ssh's control socket: {}", cause(&e))),
        };
        while !stream.is_cut() {
            let left = end.saturating_duration_since(Instant::now());
            let spoken = stream.socket().map(|s| sys::poll_readable(s, left));
            if matches!(spoken, Some(Ok(false))) {
                return Answer::Late { spent: false };
            }
            stream.listen();
            if stream.is_open() {
                return Answer::Yes;
            }
        }
        let heard = self.hear();
        match (why_not_open(&self.words), heard) {
            (Some(why), _) if why.contains("prohibited") => Answer::Forbidden,
            (Some(why), _) => Answer::No(why.to_lowercase()),
            // The end of the wire may come a little later than that of the master.
            (None, _) => Answer::Lost(self.last_words()),
        }
    }

    fn hand_over(&self, host: &str, port: u16, client: BorrowedFd<'_>) -> io::Result<Handed> {
        let watch = self.watch.as_ref().ok_or(ErrorKind::NotConnected)?;
        Handed::over(&self.room.file("ctl"), watch, (host, port), client)
    }

    fn open(&self, to: &Destination, client: BorrowedFd<'_>) -> io::Result<Box<dyn Remote>> {
        let forward = self.forwards.iter().position(|known| known == to);
        match (forward, to) {
            (None, Destination::Tcp { host, port }) => {
                Ok(Box::new(self.hand_over(host, *port, client)?))
            }
            (None, Destination::Unix(_)) => Err(ErrorKind::NotFound.into()),
            (Some(n), _) => {
                let socket = sys::connect_unix(&self.room.file(&n.to_string()))?;
                Ok(Box::new(Socket::new(socket)))
            }
        }
    }
}

impl Transport for Master {
    fn socket(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }

    /// ssh asks by itself (ServerAliveInterval).
    fn silence(&self) -> Option<Duration> {
        None
    }

    fn has_spoken(&mut self) -> io::Result<()> {
        let before = std::mem::take(&mut self.words);
        let heard = self.hear();
        if self.words.is_empty() {
            // Why it ended may have been said before.
            self.words = before;
        } else {
            self.log.detail(format_args!("ssh: {}", gist(&self.words)));
        }
        heard.map_err(|_| {
            let why = format!("ssh: {}", self.last_words());
            io::Error::new(ErrorKind::ConnectionReset, why)
        })
    }

    fn is_free(&self) -> bool {
        let clients = self.watch.as_ref().map_or(0, Arc::strong_count);
        self.asking.is_none() && clients <= self.most.max(1)
    }

    fn ask(&mut self, destination: Destination) {
        let now = Instant::now();
        self.asking = Some(Question {
            to: destination,
            since: now,
            again: now,
        });
    }

    fn ask_for_life(&mut self) {}

    fn answer(&mut self, client: Option<BorrowedFd<'_>>) -> io::Result<Option<Opened>> {
        let (Some(mut question), Some(client)) = (self.asking.take(), client) else {
            return Ok(None);
        };
        match self.open(&question.to, client) {
            Ok(stream) => Ok(Some(Opened::Stream(stream))),
            // Its line is full, or somebody is out of descriptors: that passes.
            Err(e) if e.kind() == ErrorKind::WouldBlock || errno::out_of_something(&e) => {
                if question.since.elapsed() > PATIENCE {
                    let why = format!("ssh's socket: {}", cause(&e));
                    return Ok(Some(Opened::Refused(why)));
                }
                question.again = Instant::now() + KNOCK;
                self.asking = Some(question);
                Ok(None)
            }
            Err(e) => {
                let why = format!("ssh's socket: {}", cause(&e));
                Err(io::Error::new(ErrorKind::ConnectionReset, why))
            }
        }
    }

    fn due(&self) -> Option<Duration> {
        let question = self.asking.as_ref()?;
        Some(question.again.saturating_duration_since(Instant::now()))
    }
}
