//! The user's own ssh as the way to the gateway: whoever dies, nothing is left and the port stays.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::rig::crowd::all_at_once;
use crate::rig::gateway::keygen;
use crate::rig::traffic::connect;
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Outcome, Service, Tunnel, eventually_every,
    free_port, process, wait_until,
};

/// A tunnel over ssh, with an echo at its end.
struct Site {
    gateway: Gateway,
    server: LicenseServer,
    tunnel: Tunnel,
}

impl Site {
    fn new() -> Site {
        let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::Echo));
        let tunnel = Tunnel::with(&gateway, server.port(), &["--via", "ssh"]);
        Site {
            gateway,
            server,
            tunnel,
        }
    }

    /// The processes of the tunnel: keeper, ssh, daemon.
    fn family(&self) -> [u32; 3] {
        let one = |name| {
            let found = self.tunnel.job().processes_named(name);
            assert_eq!(found.len(), 1, "how many {name}");
            found[0]
        };
        [one("licfwd-keeper"), one("ssh"), self.tunnel.pid()]
    }

    /// The private directories of ssh's sockets.
    fn rooms(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.tunnel.job().directory().path()).expect("read");
        let all = all.map(|entry| entry.expect("an entry").path());
        let is_room = |path: &PathBuf| path.display().to_string().contains("/licfwd-ssh-");
        all.filter(is_room).collect()
    }

    #[track_caller]
    fn serves(&self) {
        let mut client = connect(self.tunnel.port()).expect("connect");
        client.write_all(b"x").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
    }
}

/// Goal: ssh, its keeper or the gateway dies: the client's connection breaks off,
/// instead of ending as if all had been said; the port stays, and the next client
/// is served by a new ssh.
#[test]
fn who_loses_ssh_gets_another() {
    let mut site = Site::new();
    for round in 0..6 {
        let mut client = connect(site.tunnel.port()).expect("connect");
        client.write_all(b"x").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
        let family = site.family();
        if round % 3 == 2 {
            site.gateway.restart();
        } else {
            process::signal("KILL", &[family[round % 3]]);
        }
        let told = client.read(&mut [0]);
        let reset = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionReset;
        assert!(told.as_ref().is_err_and(reset), "round {round}: {told:?}");
        site.tunnel
            .wait_for_log("reconnected to the gateway", round + 1);
        site.serves();
        assert_eq!(site.family()[2], family[2]);
        wait_until("one private directory", LIMIT, || site.rooms().len() == 1);
    }
    assert!(site.tunnel.log().contains("over ssh"));
    assert_eq!(site.tunnel.logged("closed 1 clients, reconnecting"), 6);
}

/// Goal: a license server that cannot be reached breaks its client's connection
/// off, and the log says why.
#[test]
fn a_refused_stream_breaks_its_client_off() {
    let site = Site::new();
    let nobody = free_port();
    let target = format!("127.0.0.1:{nobody}");
    let options = ["--via", "ssh", "--no-probe", "-v"];
    let tunnel = Tunnel::with(&site.gateway, nobody, &options);
    let mut client = connect(tunnel.port()).expect("connect");
    let told = client.read(&mut [0]).expect_err(&target);
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset);
    tunnel.wait_for_log("Connection refused", 1);
    let others = site.tunnel.descriptors();
    site.serves();
    wait_until("all is closed", LIMIT, || {
        site.tunnel.descriptors() == others
    });
}

/// Goal: the daemon dies by SIGKILL: ssh and its keeper end, and their sockets go.
#[test]
fn nothing_outlives_the_daemon() {
    let site = Site::new();
    site.serves();
    process::signal("KILL", &[site.tunnel.pid()]);
    wait_until("all processes have ended", LIMIT, || {
        site.tunnel.job().processes().is_empty()
    });
    wait_until("the directory is gone", LIMIT, || site.rooms().is_empty());
    wait_until("sshd's session ends", LIMIT, || {
        site.gateway.sessions().is_empty()
    });
}

/// Goal: daemon, keeper and ssh die in the same moment: nobody is left to
/// clean up, so the next licfwd does.
#[test]
fn what_a_massacre_leaves_is_swept_up_by_the_next() {
    let site = Site::new();
    process::signal("STOP", &site.family());
    process::signal("KILL", &site.family());
    let job = site.tunnel.job();
    wait_until("all have ended", LIMIT, || job.processes().is_empty());
    assert_eq!(site.rooms().len(), 1);
    let target = format!("127.0.0.1:{}", site.server.port());
    let mut next = job.licfwd(&site.gateway);
    let next = job.run(next.args(["--via", "ssh", "--no-watch", "gw", &target]));
    assert_eq!(next.code, 0, "{next:?}");
    assert_eq!(site.rooms().len(), 1);
    process::signal("TERM", &[job.daemon()]);
    wait_until("it has ended", LIMIT, || job.processes().is_empty());
    assert!(site.rooms().is_empty());
}

/// Goal: what a scheduler sends to every process of a job ends no ssh.
#[test]
fn a_schedulers_signals_do_not_end_ssh() {
    let site = Site::new();
    let mut client = connect(site.tunnel.port()).expect("connect");
    let family = site.family();
    for name in ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TSTP", "TERM"] {
        process::signal(name, &family[..2]);
        client.write_all(b"x").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
    }
    assert_eq!(site.family(), family);
}

/// Goal: 600 clients at once are more than ssh's line of waiting connections
/// holds; all are served.
#[test]
fn a_crowd_is_served() {
    let site = Site::new();
    let port = site.tunnel.port();
    all_at_once(600, FLOOD, move |number| {
        let mut client = connect(port)?;
        let word = number.to_be_bytes();
        client.write_all(&word)?;
        let mut answer = [0; 8];
        client.read_exact(&mut answer)?;
        assert_eq!(answer, word);
        Ok(())
    });
}

/// Goal: ssh needs three descriptors for each client; who finds none left waits
/// for a turn, and nobody is turned away.
#[test]
fn few_descriptors_are_taken_in_turns() {
    const CLIENTS: usize = 200;
    const LOOK: Duration = Duration::from_millis(200);
    let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::Echo));
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(Job::new(), |job| {
        let licfwd = job.licfwd(&gateway);
        let mut command = job.command("sh");
        command.args(["-c", "ulimit -n 256 && exec \"$@\"", "sh"]);
        command.arg(licfwd.get_program()).args(licfwd.get_args());
        command.args(["--via", "ssh", "gw", &target]);
        command
    });
    let port = tunnel.port();
    let may_go = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // No more get in than those who sit there.
            let mut before = 0;
            let full = eventually_every(LOOK, LIMIT, || {
                let now = server.clients();
                now > 0 && now == std::mem::replace(&mut before, now)
            });
            may_go.store(true, Ordering::SeqCst);
            assert!(full && before < CLIENTS, "{before} clients at once");
        });
        let may_go = may_go.clone();
        all_at_once(CLIENTS, FLOOD, move |_| {
            let mut client = connect(port)?;
            client.write_all(b"x")?;
            client.read_exact(&mut [0])?;
            wait_until("all seats are taken", 2 * LIMIT, || {
                may_go.load(Ordering::SeqCst)
            });
            client.write_all(b"x")?;
            client.read_exact(&mut [0])
        });
    });
    assert_eq!(server.served(), CLIENTS + 1, "and licfwd's own question");
}

/// Goal: what the user's configuration wants from an ssh of their own does not
/// get in the way: forwards on taken ports, masters, commands, forks.
#[test]
fn the_configuration_is_for_another_ssh() {
    let (gateway, server, job) = (
        Gateway::start(),
        LicenseServer::start(Service::Echo),
        Job::new(),
    );
    let taken = server.port();
    let master = job.directory().file("master");
    let lines = format!(
        "Host gw\nLocalForward {taken} localhost:1\nDynamicForward {taken}\nControlMaster auto\n\
         ControlPath {}\nControlPersist 60\nExitOnForwardFailure yes\nRemoteCommand false\n\
         ForkAfterAuthentication yes\nPermitLocalCommand yes\nLocalCommand false\n\
         RequestTTY force\nLogLevel QUIET\nServerAliveInterval 7\n",
        master.display()
    );
    let config = gateway.client().read("ssh_config");
    let config = gateway.client().write("ssh_config", &(lines + &config));
    let target = format!("127.0.0.1:{taken}");
    let tunnel = Tunnel::of(job, |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["--via", "ssh", "gw", &target]);
        command
    });
    let mut client = connect(tunnel.port()).expect("connect");
    client.write_all(b"x").expect("write");
    client.read_exact(&mut [0]).expect("an answer");
    assert!(config.exists() && !master.exists());
}

/// Goal: file names on the command line hold after the daemon has left the
/// directory in which they were typed.
#[test]
fn relative_names_survive_a_reconnection() {
    let (mut gateway, server) = (Gateway::start(), LicenseServer::start(Service::Echo));
    let job = Job::new();
    let here = job.directory().path().display().to_string();
    for name in ["ssh_config", "id_ed25519", "known_hosts"] {
        let text = gateway.client().read(name);
        let text = text.replace(
            &gateway.client().path().display().to_string(),
            "/nonexistent",
        );
        job.directory().write(name, &text);
    }
    let target = format!("127.0.0.1:{}", server.port());
    let tunnel = Tunnel::of(job, |job| {
        let mut command = job.command(crate::rig::job::licfwd());
        command.args(["--via", "ssh", "-F", "ssh_config", "-i", "./id_ed25519"]);
        command.args(["-o", "UserKnownHostsFile=known_hosts"]);
        command.args(["gw", &target]).current_dir(&here);
        command
    });
    gateway.restart();
    tunnel.wait_for_log("reconnected to the gateway", 1);
}

/// Goal: a key that has changed is refused whatever StrictHostKeyChecking says,
/// and so is a revoked one.
#[test]
fn a_bad_host_key_is_final_over_ssh_too() {
    for strict in ["yes", "accept-new", "no"] {
        let mut gateway = Gateway::start();
        gateway.change_host_key();
        gateway.restart();
        let outcome = call(
            &gateway,
            &["-o", &format!("StrictHostKeyChecking={strict}")],
        );
        assert_eq!(outcome.code, 76, "{strict}: {outcome:?}");
    }
    let gateway = Gateway::start();
    let lines = fs::read_to_string(gateway.known_hosts()).expect("known_hosts");
    let revoked: Vec<String> = lines.lines().map(|l| format!("@revoked {l}\n")).collect();
    fs::write(gateway.known_hosts(), revoked.concat()).expect("known_hosts");
    let outcome = call(&gateway, &["-o", "StrictHostKeyChecking=no"]);
    assert_eq!(outcome.code, 76, "{outcome:?}");
}

/// Goal: a check of a new gateway writes nothing down; the real call does.
#[test]
fn a_check_over_ssh_writes_nothing_down() {
    let gateway = Gateway::start();
    fs::write(gateway.known_hosts(), "").expect("known_hosts");
    let new = ["-o", "StrictHostKeyChecking=accept-new"];
    let outcome = call(&gateway, &[&new[..], &["--check"]].concat());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(gateway.client().read("known_hosts"), "");
    let outcome = call(&gateway, &new);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(gateway.client().read("known_hosts").contains("ssh-ed25519"));
}

/// Goal: a login that fails is told in ssh's words, and costs one login.
#[test]
fn a_refusal_is_told_in_sshs_words() {
    let gateway = Gateway::start();
    gateway.authorize(&keygen(&gateway.client().file("other"), &["-t", "ed25519"]));
    let outcome = call(&gateway, &[]);
    assert_eq!(outcome.code, 77, "{outcome:?}");
    assert!(outcome.stderr.contains("Permission denied (publickey"));
    let logins = gateway.log().matches("Connection from ").count();
    assert_eq!(logins, 1, "{}", gateway.log());
}

/// Goal: service accounts have a shell that runs nothing.
#[test]
fn a_shell_that_runs_nothing_is_no_obstacle() {
    let (gateway, server) = (Gateway::start(), LicenseServer::start(Service::Echo));
    let job = Job::new();
    let mut command = job.licfwd(&gateway);
    command.env("SHELL", "/bin/false").args(["--via", "ssh"]);
    command.args(["--tries", "1", "--check", "gw"]);
    let outcome = job.run(command.arg(format!("127.0.0.1:{}", server.port())));
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

/// Goal: a license server that has gone is heard to its end, however long that
/// takes its client and whatever that one goes on to say.
#[test]
fn the_last_words_of_a_server_reach_a_client_that_goes_on_talking() {
    const SIZE: usize = 5_000_000;
    let gateway = Gateway::start();
    let (said, has_said) = mpsc::channel();
    let port = server(move |mut client| {
        client.write_all(&vec![7; SIZE])?;
        drop(client);
        said.send(()).map_err(io::Error::other)
    });
    let tunnel = Tunnel::with(&gateway, port, &["--via", "ssh", "--no-probe"]);
    let mut client = connect(tunnel.port()).expect("connect");
    // Else the kernel would forget the rest.
    has_said.recv_timeout(LIMIT).expect("all is said");
    for _ in 0..8 {
        // A word each time, not all in one.
        thread::sleep(Duration::from_millis(100));
        client.write_all(b"are you there").expect("write");
    }
    let mut words = Vec::new();
    client.read_to_end(&mut words).expect("all of it");
    assert_eq!(words.len(), SIZE);
}

/// Goal: a license server that ends its output and reads on is heard to its end
/// by a client that reads slowly and talks all the while.
#[test]
fn the_last_words_reach_a_slow_client_that_talks_all_the_while() {
    const SIZE: usize = 300_000;
    let gateway = Gateway::start();
    let port = server(|mut client| {
        client.read_exact(&mut [0])?;
        client.write_all(&vec![7; SIZE])?;
        client.shutdown(Shutdown::Write)?;
        io::copy(&mut client, &mut io::sink()).map(drop)
    });
    let tunnel = Tunnel::with(&gateway, port, &["--via", "ssh"]);
    let port = tunnel.port();
    all_at_once(8, LIMIT, move |_| {
        let mut client = connect(port)?;
        let mut mouth = client.try_clone()?;
        // Until nobody takes it any more.
        thread::spawn(move || while mouth.write_all(&[1; 3000]).is_ok() {});
        let mut heard = 0;
        loop {
            thread::sleep(Duration::from_micros(500));
            match client.read(&mut [0; 4000])? {
                0 => break,
                count => heard += count,
            }
        }
        assert_eq!(heard, SIZE);
        Ok(())
    });
}

/// Goal: where ssh's socket has been removed, as a cleaner of temporary files
/// does, the streams that there are end as ever, and the next client gets a
/// new ssh.
#[test]
fn a_removed_socket_hurts_nobody() {
    let site = Site::new();
    let mut client = connect(site.tunnel.port()).expect("connect");
    client.write_all(b"x").expect("write");
    client.read_exact(&mut [0]).expect("an answer");
    fs::remove_file(site.rooms()[0].join("ctl")).expect("ssh's socket");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(client.read(&mut [0]).expect("its end"), 0);
    let port = site.tunnel.port();
    all_at_once(1, LIMIT, move |_| {
        let mut client = connect(port)?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])
    });
    site.tunnel.wait_for_log("reconnected to the gateway", 1);
}

/// Goal: without ssh `--via ssh` says so.
#[test]
fn without_ssh_it_says_so() {
    let gateway = Gateway::start();
    let job = Job::new();
    let mut command = job.licfwd(&gateway);
    command.env("PATH", "/nonexistent");
    let outcome = job.run(command.args(["--via", "ssh", "gw", "127.0.0.1:1"]));
    assert_eq!(outcome.code, 78, "{outcome:?}");
    assert!(outcome.stderr.contains("not installed"), "{outcome:?}");
}

/// A whole call over ssh, and its end.
fn call(gateway: &Gateway, options: &[&str]) -> Outcome {
    let (server, job) = (LicenseServer::start(Service::Echo), Job::new());
    let mut command = job.licfwd(gateway);
    command
        .args(["--via", "ssh", "--timeout", "15"])
        .args(options);
    command.args(["gw", &format!("127.0.0.1:{}", server.port())]);
    job.run(&mut command)
}

/// A license server that does that for each client; its port.
fn server(serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            let serve = serve.clone();
            thread::spawn(move || serve(client));
        }
    });
    port
}
