//! The tunnel lives exactly as long as its job, and nobody waits in vain for it.

use crate::rig::job::port_of;
use crate::rig::other_user::hand_over;
use crate::rig::pty::Pty;
use crate::rig::traffic::read_line;
use crate::rig::{
    Job, LIMIT, Promise, Running, Service, Site, eventually, has, installed, process, skip,
    wait_until,
};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::slice::from_ref;
use std::time::{Duration, Instant};

/// How soon the tunnel must be gone after the last process of its job.
const GONE: Promise = Promise::seconds(10);
/// How soon it must be gone where it is said to go at once.
const AT_ONCE: Promise = Promise::seconds(2);
/// How long the tests look out for what must not happen: more than twice what
/// a tunnel takes to find that its job has ended.
const A_WHILE: Duration = Duration::from_millis(1500);

/// The end of every script: shows the test the port, and waits for it.
const HOLD: &str = r#"echo "$MLM_LICENSE_FILE"; read -r _ <gate"#;

/// The plain form of the call.
const CALL: &str = "eval $($CALL) || exit";

/// Its relatives: each makes other sessions, process groups, parents or pipes.
const FORMS: [&str; 8] = [
    CALL,
    "eval $(timeout 300 $CALL) || exit",
    "eval $(setsid $CALL) || exit",
    "eval $(setsid $CALL || exit 1; :) || exit",
    "set -m; eval $($CALL) || exit",
    r#"$CALL | tee line >/dev/null; eval "$(cat line)" || exit"#,
    r#"lic=$($CALL || exit 1) || exit; eval "$lic""#,
    r#"mkfifo line; $CALL --foreground >line & read -r lic <line; eval "$lic" || exit"#,
];

/// Goal: whichever way a script calls licfwd, the tunnel serves it to its end
/// and then goes, and the script waits neither for its start nor for its end.
#[test]
fn every_form_of_call_binds_the_tunnel_to_the_job() {
    let site = site();
    let mut sessions = Vec::new();
    for shell in installed(&["bash", "dash"]) {
        for form in FORMS {
            sessions.push(start(&site, &[shell, "-c", &format!("{form}\n{HOLD}")]));
        }
        // A subshell that ends at once: the variable is lost, the tunnel is not.
        let text = r#"(eval $($CALL); echo "$MLM_LICENSE_FILE"); read -r _ <gate"#;
        sessions.push(start(&site, &[shell, "-c", text]));
    }
    live_as_long_as_their_scripts(sessions);
}

/// Goal: su makes a session for the command alone, and goes with it. A tunnel
/// called through it is the calling script's, one below it is the command's.
#[test]
fn su_is_no_obstacle() {
    if !process::is_root() {
        skip!("only root can su without a password");
    }
    let site = site();
    let (files, user) = (Job::new(), site.gateway.user());
    let call = hand_over(&files, &site.gateway, user);
    // The test is root, and another user for the tunnel.
    let call = format!("{call} gw {} --allow-any-user", site.target());
    // A shell that does not replace itself by its last command is the whole job.
    let su = "su -s /bin/bash -c";

    let scripts = [
        format!("eval $({su} '{call}' {user}) || exit; {HOLD}"),
        format!("{su} 'eval $({call}) || exit; echo $MLM_LICENSE_FILE; read _' {user} <gate"),
    ];
    let start = |text: &String| start(&site, &["sh", "-c", text]);
    live_as_long_as_their_scripts(scripts.iter().map(start).collect());
}

/// Goal: the end of a PID namespace is the tunnel's, whether the session has a
/// number inside it or not.
#[test]
fn pid_namespace_ends_the_tunnel() {
    let mut unshare = vec!["unshare", "-pf", "--mount-proc"];
    if !process::is_root() {
        // In a user namespace of one's own everybody may.
        unshare.push("--map-current-user");
    }
    let mut probe = Command::new(unshare[0]);
    let probe = probe.args(&unshare[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip!("no namespace of one's own: {unshare:?}");
    }
    let site = site();
    let text = format!("{CALL}; {HOLD}");
    let shells: [&[&str]; 2] = [&["sh", "-c", &text], &["setsid", "-w", "sh", "-c", &text]];
    let start = |shell: &[&str]| start(&site, &[&unshare, shell].concat());
    live_as_long_as_their_scripts(shells.map(start).into());
}

/// Goal: where the kernel has no pidfd, the job's end is noticed in time too.
#[test]
fn works_without_pidfd() {
    let site = site();
    let text = format!("export LICFWD_TEST_NO_PIDFD=1; {CALL}; {HOLD}");
    live_as_long_as_their_scripts(vec![start(&site, &["sh", "-c", &text])]);
}

/// Goal: a lock that the script holds on a descriptor of its own is free when
/// the script has ended, although the tunnel lives on.
#[test]
fn inherited_lock_is_let_go() {
    let site = site();
    if !has("flock") {
        skip!("flock is not installed");
    }
    let text = format!("exec 9>lock; flock 9; eval $($CALL --no-watch) || exit; {HOLD}");
    let mut session = start(&site, &["sh", "-c", &text]);
    let try_lock = |job: &Job| job.run(job.command("flock").args(["-n", "lock", "true"]));
    assert_eq!(try_lock(&session.job).code, 1, "the script has the lock");
    session.let_go();
    session.script_ends();
    assert_eq!(try_lock(&session.job).code, 0, "nobody has the lock");
    assert!(session.serves());
}

/// Goal: a script killed without warning takes its tunnel along, also when a
/// client is connected.
#[test]
fn killed_script_takes_the_tunnel_along() {
    let site = site();
    let session = hold(&site);
    let mut client = session.client();
    process::signal("KILL", &[session.leader()]);
    are_gone(from_ref(&session));
    assert!(ping(&mut client).is_err(), "the client is closed");
}

/// Goal: a program that the script leaves behind in the background is part of
/// the job.
#[test]
fn orphan_keeps_the_tunnel() {
    let site = site();
    let text = r#"eval $($CALL) || exit; echo "$MLM_LICENSE_FILE"
        { read -r _ <gate; } >/dev/null 2>&1 &"#;
    let mut session = start(&site, &["sh", "-c", text]);
    session.script_ends();
    live_on(from_ref(&session));
    session.let_go();
    are_gone(from_ref(&session));
}

/// Goal: `--watch PID` binds the tunnel to that process alone, and with
/// `--no-watch` nothing ends it but a signal.
#[test]
fn watch_names_the_process() {
    let site = site();
    let text = r#"setsid sh -c 'echo $$ >pid; read -r _ <gate' >/dev/null 2>&1 &
        until pid=$(cat pid) && [ "$pid" ]; do sleep 0.01; done 2>/dev/null
        eval $($CALL --watch $pid) && echo "$MLM_LICENSE_FILE""#;
    let mut watching = start(&site, &["timeout", "300", "sh", "-c", text]);
    let text = r#"eval $($CALL --no-watch) && echo "$MLM_LICENSE_FILE""#;
    let mut unbounded = start(&site, &["sh", "-c", text]);
    watching.script_ends();
    unbounded.script_ends();
    live_on(from_ref(&watching));
    watching.let_go();
    are_gone(from_ref(&watching));
    assert!(unbounded.serves());
    process::signal("TERM", &[unbounded.job.daemon()]);
    are_gone(from_ref(&unbounded));
}

/// Goal: a ProxyCommand's helper ends with the tunnel, also with one that is
/// killed.
#[test]
fn proxy_helper_ends_with_the_tunnel() {
    let site = site();
    if !has("nc") {
        skip!("nc is not installed");
    }
    let text = format!(r#"eval $($CALL -o "ProxyCommand=nc %h %p") || exit; {HOLD}"#);
    let [ended, killed] = [(); 2].map(|()| start(&site, &["sh", "-c", &text]));
    for session in [&ended, &killed] {
        assert_eq!(session.programs("nc").len(), 1);
    }
    process::signal("KILL", &[killed.job.daemon()]);
    let only_script = || killed.job.processes() == [killed.leader()];
    GONE.wait_until("the helper of the killed is gone", only_script);
    let logins = site.gateway.log().matches("Accepted publickey").count();
    assert_eq!(logins, 2, "one for each tunnel");
    live_as_long_as_their_scripts(vec![ended]);
}

/// Goal: at a prompt the tunnel belongs to the login session: neither the
/// keyboard's signals nor job control touch it, and it ends when the shell exits.
#[test]
fn tunnel_called_at_a_prompt_ends_with_the_shell() {
    if let Err(reason) = Pty::check() {
        skip!("{reason}");
    }
    let site = site();
    let shells = [&["bash", "--norc", "-i"][..], &["dash", "-i"]];
    let installed = installed(&["bash", "dash"]);
    let (mut sessions, mut prompts) = (Vec::new(), Vec::new());
    for shell in shells.into_iter().filter(|shell| installed.contains(&shell[0])) {
        let mut session = prepare(shell);
        let mut command = session.job.command(shell[0]);
        command.args(&shell[1..]).env("CALL", call(&site));
        let mut prompt = Pty::start(&session.job, &command);
        // What is typed must not look like it.
        prompt.enter("PS1='rea''dy> '");
        prompt.expect("ready> ");
        prompt.enter("eval $($CALL); echo \"<$MLM_LICENSE_FILE>\"");
        prompt.expect("\n<");
        session.port = port_of(&prompt.expect(">"));
        prompt.expect("ready> ");

        prompt.press("\x03");
        prompt.expect("ready> ");
        prompt.enter("cat");
        session.waits_for_cat("a program in the foreground", "RS");
        prompt.press("\x1a");
        prompt.expect("ready> ");
        session.waits_for_cat("Ctrl-Z stops it", "T");
        prompt.enter("fg");
        session.waits_for_cat("fg continues it", "RS");
        prompt.press("\x1c");
        prompt.expect("ready> ");
        session.waits_for_cat("Ctrl-\\ ends it", "");
        prompt.enter("cat &");
        session.waits_for_cat("the terminal stops a reader in the background", "T");
        prompt.enter("fg");
        session.waits_for_cat("fg continues that too", "RS");
        prompt.press("\x03");
        session.waits_for_cat("Ctrl-C ends it", "");
        sessions.push(session);
        prompts.push(prompt);
    }
    live_on(&sessions);
    for mut prompt in prompts {
        prompt.enter("exit 0");
        assert_eq!(prompt.wait().code, 0);
    }
    are_gone(&sessions);
}

/// Goal: TERM ends a tunnel without clients at once.
#[test]
fn term_ends_an_idle_tunnel() {
    let site = site();
    let session = hold(&site);
    let daemon = session.job.daemon();
    process::signal("TERM", &[daemon]);
    AT_ONCE.wait_until("TERM ends it", || !process::alive(daemon));
}

/// Goal: after TERM a connected client is served until it leaves; a second
/// TERM ends the tunnel at once.
#[test]
fn term_lets_a_client_finish() {
    let site = site();
    for twice in [false, true] {
        let session = hold(&site);
        let daemon = session.job.daemon();
        let mut client = session.client();
        process::signal("TERM", &[daemon]);
        let ended = eventually(A_WHILE, || !process::alive(daemon));
        assert!(!ended, "TERM does not end it while a client is there");
        ping(&mut client).expect("an answer after TERM");
        match twice {
            true => process::signal("TERM", &[daemon]),
            false => client.shutdown(Shutdown::Both).expect("shutdown"),
        }
        AT_ONCE.wait_until("then it ends", || !process::alive(daemon));
        assert!(ping(&mut client).is_err(), "the client is closed");
    }
}

/// Goal: the signals that schedulers send to every process of a job change
/// nothing, with a client and without.
#[test]
fn other_signals_change_nothing() {
    let site = site();
    let session = hold(&site);
    let daemon = session.job.daemon();
    for client in [None, Some(session.client())] {
        for signal in ["USR1", "USR2", "HUP", "INT", "QUIT", "ALRM", "TSTP"] {
            process::signal(signal, &[daemon]);
        }
        live_on(from_ref(&session));
        if let Some(mut client) = client {
            ping(&mut client).expect("an answer");
        }
        assert_eq!(session.job.daemon(), daemon);
    }
}

// ---- sessions --------------------------------------------------------------

/// With an echo for the clients.
fn site() -> Site {
    Site::serving(Service::Echo)
}

/// licfwd's call for `$CALL`.
fn call(site: &Site) -> String {
    let config = site.gateway.config();
    format!("licfwd -F {} gw {}", config.display(), site.target())
}

/// A script that calls licfwd in the plain way.
fn hold(site: &Site) -> Session {
    start(site, &["sh", "-c", &format!("{CALL}; {HOLD}")])
}

/// The same for any command, which prints its `PORT@localhost`: starts it in a
/// session of its own, as a batch system does, with the call of licfwd in `$CALL`.
fn start(site: &Site, command: &[&str]) -> Session {
    let mut session = prepare(command);
    let mut setsid = session.job.command("setsid");
    let script = session.job.spawn(setsid.args(command).env("CALL", call(site)));
    let announced = eventually(LIMIT, || script.stdout().ends_with('\n'));
    assert!(announced, "no port: {}", session.name);
    session.port = port_of(&script.stdout());
    session.script = Some(script);
    session
}

/// A directory with the FIFO `gate` in it.
fn prepare(command: &[&str]) -> Session {
    let job = Job::new();
    let made = job.run(job.command("mkfifo").arg("gate"));
    assert_eq!(made.code, 0, "{made:?}");
    // With both ends open here, neither side waits for the other to open it.
    let mut gate = File::options();
    let gate = gate.read(true).write(true);
    let gate = gate.open(job.directory().file("gate")).expect("the gate");
    Session { name: command.join(" "), script: None, gate, port: 0, job }
}

/// A session that has, or had, a script in it that calls licfwd.
struct Session {
    name: String,
    script: Option<Running>,
    gate: File,
    /// Where the tunnel begins.
    port: u16,
    job: Job,
}

impl Session {
    /// The script's process, which leads the session.
    fn leader(&self) -> u32 {
        self.script.as_ref().expect("a script").pid()
    }

    /// A client that has been served.
    #[track_caller]
    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(("127.0.0.1", self.port));
        let mut client = client.expect("connect to the tunnel");
        ping(&mut client).expect("an answer through the tunnel");
        client
    }

    fn serves(&self) -> bool {
        let client = TcpStream::connect(("127.0.0.1", self.port));
        client.and_then(|mut client| ping(&mut client)).is_ok()
    }

    /// Opens the gate: the script ends.
    fn let_go(&mut self) {
        self.gate.write_all(b"\n").expect("the gate");
    }

    /// Waits until the script has ended and nobody has its output open.
    #[track_caller]
    fn script_ends(&mut self) {
        let outcome = self.script.take().expect("a script").wait(LIMIT);
        assert_eq!(outcome.code, 0, "{}: {outcome:?}", self.name);
    }

    /// The session's processes of that name.
    fn programs(&self, name: &str) -> Vec<u32> {
        let comm = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let is_it = |pid: &u32| comm(pid).is_ok_and(|comm| comm.trim_end() == name);
        self.job.processes().into_iter().filter(is_it).collect()
    }

    /// Waits until the session's `cat` is in one of these states, or is gone
    /// when there are none.
    #[track_caller]
    fn waits_for_cat(&self, what: &str, states: &str) {
        wait_until(&format!("{what}: {}", self.name), LIMIT, || {
            let cat = self.programs("cat").pop();
            match cat.and_then(process::look) {
                Some(cat) => states.contains(cat.state),
                None => states.is_empty(),
            }
        });
    }
}

/// Sends a line to an echoing server and waits for it.
fn ping(client: &mut TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(LIMIT))?;
    client.write_all(b"ping\n")?;
    read_line(&mut BufReader::new(client)).map(drop)
}

/// Every tunnel serves while its script waits, and is gone soon after.
#[track_caller]
fn live_as_long_as_their_scripts(mut sessions: Vec<Session>) {
    live_on(&sessions);
    sessions.iter_mut().for_each(Session::let_go);
    sessions.iter_mut().for_each(Session::script_ends);
    are_gone(&sessions);
}

/// Every tunnel serves now and a while later.
#[track_caller]
fn live_on(sessions: &[Session]) {
    let dead = || -> Vec<&str> {
        let dead = sessions.iter().filter(|session| !session.serves());
        dead.map(|session| session.name.as_str()).collect()
    };
    let mut ended = dead();
    eventually(A_WHILE, || {
        ended = dead();
        !ended.is_empty()
    });
    assert!(ended.is_empty(), "ended too early: {ended:#?}");
}

/// Every tunnel is gone in time, and nothing else of its job is left.
#[track_caller]
fn are_gone(sessions: &[Session]) {
    let mut left = Vec::new();
    let start = Instant::now();
    eventually(GONE.room(), || {
        let lives = |session: &&Session| !session.job.processes().is_empty();
        left = sessions.iter().filter(lives).map(|s| s.name.as_str()).collect();
        left.is_empty()
    });
    assert!(left.is_empty(), "left behind: {left:#?}");
    GONE.kept("all gone", start.elapsed());
}
