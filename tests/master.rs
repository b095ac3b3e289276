//! The user's own ssh as the way to the gateway: whoever dies, nothing is left and the port stays.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::rig::crowd::all_at_once;
use crate::rig::gateway::keygen;
use crate::rig::sockets;
use crate::rig::traffic::{connect, uninterrupted};
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Scratch, Service, Site, Tunnel, free_port, process,
    wait_until,
};

/// A tunnel over ssh, with an echo at its end.
struct OverSsh {
    site: Site,
    tunnel: Tunnel,
}

impl OverSsh {
    fn new() -> OverSsh {
        let site = Site::serving(Service::Echo);
        let tunnel = site.tunnel(&["--via", "ssh"]);
        OverSsh { site, tunnel }
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

    /// A client that has been served.
    #[track_caller]
    fn client(&self) -> TcpStream {
        served_at(self.tunnel.port())
    }
}

/// A client of an echo that has been served.
#[track_caller]
fn served_at(port: u16) -> TcpStream {
    let mut client = connect(port).expect("connect");
    client.write_all(b"x").expect("write");
    client.read_exact(&mut [0]).expect("an answer");
    client
}

/// Goal: ssh, its keeper or the gateway dies: the client's connection breaks off,
/// instead of ending as if all had been said; the port stays, and the next client
/// is served by a new ssh.
#[test]
fn who_loses_ssh_gets_another() {
    let mut over = OverSsh::new();
    for round in 0..6 {
        let mut client = over.client();
        let family = over.family();
        if round % 3 == 2 {
            over.site.gateway.restart();
        } else {
            process::signal("KILL", &[family[round % 3]]);
        }
        let told = uninterrupted(|| client.read(&mut [0]));
        let reset = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionReset;
        assert!(told.as_ref().is_err_and(reset), "round {round}: {told:?}");
        over.tunnel.wait_for_log("reconnected to the gateway", round + 1);
        over.client();
        assert_eq!(over.family()[2], family[2]);
        wait_until("one private directory", LIMIT, || over.rooms().len() == 1);
    }
    assert!(over.tunnel.log().contains("over ssh"));
    // The client of the round before may not have gone yet.
    assert_eq!(over.tunnel.logged("clients, reconnecting"), 6);
    assert_eq!(over.tunnel.logged("closed 0 clients"), 0);
}

/// Goal: a license server that cannot be reached breaks its client's connection
/// off, and the log says why.
#[test]
fn a_refused_stream_breaks_its_client_off() {
    let over = OverSsh::new();
    let nobody = free_port();
    let target = format!("127.0.0.1:{nobody}");
    let options = ["--via", "ssh", "--no-probe", "-v"];
    let tunnel = Tunnel::with(&over.site.gateway, nobody, &options);
    let mut client = connect(tunnel.port()).expect("connect");
    let told = uninterrupted(|| client.read(&mut [0])).expect_err(&target);
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset);
    tunnel.wait_for_log("Connection refused", 1);
    let others = over.tunnel.descriptors();
    over.client();
    wait_until("all is closed", LIMIT, || over.tunnel.descriptors() == others);
}

/// Goal: the daemon dies by SIGKILL: ssh and its keeper end, and their sockets go.
#[test]
fn nothing_outlives_the_daemon() {
    let over = OverSsh::new();
    over.client();
    process::signal("KILL", &[over.tunnel.pid()]);
    wait_until("all processes have ended", LIMIT, || over.tunnel.job().processes().is_empty());
    wait_until("the directory is gone", LIMIT, || over.rooms().is_empty());
    wait_until("sshd's session ends", LIMIT, || over.site.gateway.sessions().is_empty());
}

/// Goal: daemon, keeper and ssh die in the same moment: nobody is left to
/// clean up, so the next licfwd does.
#[test]
fn what_a_massacre_leaves_is_swept_up_by_the_next() {
    let over = OverSsh::new();
    process::signal("STOP", &over.family());
    process::signal("KILL", &over.family());
    let job = over.tunnel.job();
    wait_until("all have ended", LIMIT, || job.processes().is_empty());
    assert_eq!(over.rooms().len(), 1);
    let mut next = job.licfwd(&over.site.gateway);
    next.args(["--via", "ssh", "--no-watch", "gw", &over.site.target()]);
    let next = job.run(&mut next);
    assert_eq!(next.code, 0, "{next:?}");
    assert_eq!(over.rooms().len(), 1);
    process::signal("TERM", &[job.daemon()]);
    wait_until("it has ended", LIMIT, || job.processes().is_empty());
    assert!(over.rooms().is_empty());
}

/// Goal: what a scheduler sends to every process of a job ends no ssh.
#[test]
fn a_schedulers_signals_do_not_end_ssh() {
    let over = OverSsh::new();
    let mut client = connect(over.tunnel.port()).expect("connect");
    let family = over.family();
    for name in ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TSTP", "TERM"] {
        process::signal(name, &family[..2]);
        client.write_all(b"x").expect("write");
        client.read_exact(&mut [0]).expect("an answer");
    }
    assert_eq!(over.family(), family);
}

/// Goal: 600 clients at once are more than ssh's line of waiting connections
/// holds; all are served.
#[test]
fn a_crowd_is_served() {
    let over = OverSsh::new();
    let port = over.tunnel.port();
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

/// Goal: what the user's configuration wants from an ssh of their own does not
/// get in the way: forwards on taken ports, masters, commands, forks.
#[test]
fn the_configuration_is_for_another_ssh() {
    let (gateway, server, job) =
        (Gateway::start(), LicenseServer::start(Service::Echo), Job::new());
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
    served_at(tunnel.port());
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
        let text = text.replace(&gateway.client().path().display().to_string(), "/nonexistent");
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
        let mut site = over_ssh();
        site.gateway.change_host_key();
        site.gateway.restart();
        let option = format!("StrictHostKeyChecking={strict}");
        site.fails(76, &["-o", &option], &[]);
    }
    let site = over_ssh();
    let known_hosts = site.gateway.known_hosts();
    let lines = fs::read_to_string(&known_hosts).expect("known_hosts");
    let revoked: Vec<String> = lines.lines().map(|l| format!("@revoked {l}\n")).collect();
    fs::write(known_hosts, revoked.concat()).expect("known_hosts");
    site.fails(76, &["-o", "StrictHostKeyChecking=no"], &[]);
}

/// Goal: a check of a new gateway writes nothing down; the real call does.
#[test]
fn a_check_over_ssh_writes_nothing_down() {
    let site = over_ssh();
    let written = || site.gateway.client().read("known_hosts");
    fs::write(site.gateway.known_hosts(), "").expect("known_hosts");
    let new = ["-o", "StrictHostKeyChecking=accept-new"];
    let outcome = site.run(&[&new[..], &["--check"]].concat());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(written(), "");
    site.brings_up(&new);
    assert!(written().contains("ssh-ed25519"));
}

/// Goal: a login that fails is told in ssh's words, and costs one login.
#[test]
fn a_refusal_is_told_in_sshs_words() {
    let site = over_ssh();
    let other = keygen(&site.gateway.client().file("other"), &["-t", "ed25519"]);
    site.gateway.authorize(&other);
    site.fails(77, &[], &["Permission denied (publickey"]);
    assert_eq!(site.connections(), 1, "{}", site.gateway.log());
}

/// Goal: what a gateway says before the login is not taken for the login.
#[test]
fn a_banner_is_no_login() {
    let directory = Scratch::new();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("chmod");
    let banner = directory.write("banner", "licfwd-logged-in\nlicfwd-logged-in\n");
    fs::set_permissions(&banner, Permissions::from_mode(0o644)).expect("chmod");
    let gateway = Gateway::with(&[&format!("Banner {}", banner.display())]);
    let other = keygen(&gateway.client().file("other"), &["-t", "ed25519"]);
    gateway.authorize(&other);
    let site = Site::behind(gateway);
    site.fails(77, &["--via", "ssh", "--tries", "1"], &["Permission denied"]);
}

/// Goal: service accounts have a shell that runs nothing.
#[test]
fn a_shell_that_runs_nothing_is_no_obstacle() {
    let site = over_ssh();
    let mut call = site.call(&["--tries", "1", "--check"]);
    let outcome = site.job.run(call.env("SHELL", "/bin/false"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

/// Goal: a license server that has gone is heard to its end, however long that
/// takes its client and whatever that one goes on to say.
#[test]
fn the_last_words_of_a_server_reach_a_client_that_goes_on_talking() {
    const SIZE: usize = 5_000_000;
    let gateway = Gateway::start();
    let port = server(|mut client| client.write_all(&vec![7; SIZE]));
    let tunnel = Tunnel::with(&gateway, port, &["--via", "ssh", "--no-probe"]);
    let mut client = connect(tunnel.port()).expect("connect");
    // Else the kernel would forget what the gateway has not heard yet.
    wait_until("the gateway lets go of the server", LIMIT, || sockets::has_ended(port));
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
            match uninterrupted(|| client.read(&mut [0; 4000]))? {
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
    let over = OverSsh::new();
    let mut client = over.client();
    fs::remove_file(over.rooms()[0].join("ctl")).expect("ssh's socket");
    client.shutdown(Shutdown::Write).expect("shutdown");
    let end = uninterrupted(|| client.read(&mut [0]));
    assert_eq!(end.expect("its end"), 0);
    let port = over.tunnel.port();
    all_at_once(1, LIMIT, move |_| {
        let mut client = connect(port)?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])
    });
    over.tunnel.wait_for_log("reconnected to the gateway", 1);
}

/// Goal: without ssh `--via ssh` says so.
#[test]
fn without_ssh_it_says_so() {
    let site = over_ssh();
    let mut call = site.call(&[]);
    let outcome = site.job.run(call.env("PATH", "/nonexistent"));
    outcome.fails(78, &["not installed"]);
}

/// A site whose calls go over ssh.
fn over_ssh() -> Site {
    Site { options: ["--via", "ssh", "--timeout", "15"].map(String::from).into(), ..Site::new() }
}

/// A license server that does that for each client; its port.
fn server(serve: fn(TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            thread::spawn(move || serve(client));
        }
    });
    port
}
