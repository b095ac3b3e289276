//! Only the user who started the tunnel may use it.

use crate::rig::license_server::RefusingPort;
use crate::rig::traffic::{ASK, CLOSED, SERVED, check_out};
use crate::rig::{
    Gateway, Job, LIMIT, LicenseServer, Outcome, Service, Tunnel, process, skip, wait_until,
};
use std::io::{self, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

/// Sends and is gone before anybody can ask whose socket it was.
const SEND_AND_GO: &str = r#"
    exec 3<>"/dev/tcp/$0/$1" || exit 3
    printf 'CHECKOUT MATLAB\n' >&3
    exec 3>&-
    echo gone
"#;

/// Goal: another user of this node gets nothing through, on either loopback
/// family, quick or slow; the owner is served all the while, and a dual-stack
/// program of the owner's too. Each uid is logged once.
#[test]
fn another_user_gets_nothing() {
    if !process::is_root() {
        skip!("only root can be another user");
    }
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::start(&gateway, server.port());
    let port = tunnel.port();
    let probes = server.served();
    for (round, uid) in [2, 3, 2, 3].into_iter().enumerate() {
        for host in loopback() {
            let outcome = as_user(uid, tunnel.job(), ASK, host, port);
            assert_eq!(outcome.stdout, CLOSED, "{host}: {outcome:?}");
            let outcome = as_user(uid, tunnel.job(), SEND_AND_GO, host, port);
            assert_eq!(outcome.stdout, "gone\n", "{host}: {outcome:?}");
        }
        // The owner stood behind them in the queue: theirs are all decided.
        drop(check_out(port, "MATLAB").expect("a seat for the owner"));
        dual_stack(port).expect("a seat for the owner's dual-stack program");
        assert_eq!(server.served() - probes, 2 * (round + 1));
    }
    for uid in [2, 3] {
        assert_eq!(tunnel.logged(&format!("user {uid} of this node")), 1);
    }
}

/// Goal: a client of the owner's that is gone before its owner can be told is dropped,
/// and the log says so, once where there are several; where the kernel knows the owner
/// all the same, it is served.
#[test]
fn who_is_gone_too_early_is_spoken_of() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::start(&gateway, server.port());
    let daemon = || process::look(tunnel.pid()).into_iter().collect();
    let stopped = process::stop_all("the daemon", daemon);
    for _ in 0..3 {
        let mut client = TcpStream::connect(("127.0.0.1", tunnel.port())).expect("connect");
        client.write_all(b"CHECKOUT MATLAB\n").expect("a word");
    }
    let served = server.served();
    process::signal("CONT", &stopped);
    if keeps_owners() {
        wait_until("all are served", LIMIT, || server.served() - served == 3);
        return assert_eq!(tunnel.logged("before it was known whose it is"), 0);
    }
    tunnel.wait_for_log("before it was known whose it is", 1);
    drop(check_out(tunnel.port(), "MATLAB").expect("a seat"));
    assert_eq!(tunnel.logged("before it was known whose it is"), 1);
}

/// Whether a socket that its process has closed still has its owner, as from Linux 6.17
/// on; root's cannot be told from none.
fn keeps_owners() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("its release");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next(), numbers.next());
    !process::is_root() && version >= (Some(6), Some(17))
}

/// Goal: `--allow-any-user` lets everybody on this node in.
#[test]
fn everybody_where_everybody_may() {
    if !process::is_root() {
        skip!("only root can be another user");
    }
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::with(&gateway, server.port(), &["--allow-any-user"]);
    for host in loopback() {
        let outcome = as_user(2, tunnel.job(), ASK, host, tunnel.port());
        assert_eq!(outcome.stdout, SERVED, "{host}: {outcome:?}");
        wait_until("the seat is back", LIMIT, || server.seats() == 0);
    }
}

/// Goal: the owner's dual-stack program (every Java program) on 127.0.0.1 is
/// the owner's, for ordinary users as well.
#[test]
fn a_mapped_address_is_served() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let tunnel = Tunnel::start(&gateway, server.port());
    dual_stack(tunnel.port()).expect("a seat");
}

/// Goal: in a user namespace without a map everybody looks like us: then
/// licfwd says so and does not start, unless everybody may use it anyway.
#[test]
fn a_namespace_in_which_all_users_look_alike() {
    let job = Job::new();
    let unshare = job.run(job.command("unshare").args(["-U", "true"]));
    if unshare.code != 0 {
        skip!("no namespace of one's own: {}", unshare.stderr.trim());
    }
    let gateway = Gateway::start();
    let refusing = RefusingPort::new();
    let target = format!("127.0.0.1:{}", refusing.port());
    let run = |options: &[&str]| {
        let mut command = job.command("unshare");
        command.arg("-U").arg(crate::rig::job::licfwd());
        command.arg("-F").arg(gateway.config());
        job.run(command.args(options).args(["--tries", "1", "gw", &target]))
    };
    let refused = run(&[]);
    assert_eq!(refused.code, 71, "{refused:?}");
    assert!(refused.stderr.contains("--allow-any-user"), "{refused:?}");
    // It gets as far as asking the license server, which refuses.
    let allowed = run(&["--allow-any-user"]);
    assert_eq!(allowed.code, 69, "{allowed:?}");
}

fn as_user(uid: u32, job: &Job, script: &str, host: &str, port: u16) -> Outcome {
    let id = uid.to_string();
    let mut command = job.command("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.args(["bash", "-c", script, host, &port.to_string()]);
    job.run(command.current_dir("/"))
}

fn dual_stack(port: u16) -> io::Result<()> {
    // An IPv6 address makes std open an AF_INET6 socket.
    let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().expect("an address");
    let mut client = TcpStream::connect((mapped, port))?;
    writeln!(client, "CHECKOUT MATLAB")?;
    let answer = crate::rig::traffic::read_line(&mut BufReader::new(&client))?;
    assert!(answer.starts_with("GRANTED "), "{answer}");
    Ok(())
}

fn loopback() -> Vec<&'static str> {
    let here = |host: &&str| TcpListener::bind((*host, 0)).is_ok();
    ["127.0.0.1", "::1"].into_iter().filter(here).collect()
}
