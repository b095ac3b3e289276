//! The manual's recipe for a key, pasted: what that key opens, and what it does not.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::rig::{Gateway, Job, LicenseServer, Service};

/// The block of the manual's section about keys, as a reader pastes it.
fn recipe() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/manual/page.man");
    let page = fs::read_to_string(page).expect("the manual");
    let section = page.split("\n.SH KEYS\n").nth(1).expect("KEYS");
    let block = section.split("\n.EX\n").nth(1).and_then(|rest| rest.split("\n.EE").next());
    let signs = [("\\-", "-"), ("\\(ti", "~"), ("\\(aq", "'"), ("\\e", "\\")];
    let block = block.expect("a block").to_owned();
    signs.iter().fold(block, |text, (roff, sign)| text.replace(roff, sign)) + "\n"
}

/// Goal: the recipe's key opens the license server's port, over both transports, and no
/// shell, no other port and no other address; the files are as sshd wants them.
#[test]
fn the_recipes_key() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let other = TcpListener::bind(("127.0.0.1", 0)).expect("another port");
    let other = other.local_addr().expect("its number").port();
    let job = Job::new();
    let home = job.directory().file("");
    let home = home.display().to_string();
    let home = home.trim_end_matches('/');
    // ssh knows the home directory from the system, whatever HOME says.
    let way = format!(
        "HostName 127.0.0.1\n  Port {}\n  User {}\n  UserKnownHostsFile {}",
        gateway.port(),
        gateway.user(),
        gateway.known_hosts().display()
    );
    let text = recipe()
        .replace("HostName tri-gw", &way)
        .replace("IdentityFile ~", &format!("IdentityFile {home}"))
        .replace("licserver:*", &format!("127.0.0.1:{}", server.port()));
    fs::create_dir(format!("{home}/.ssh")).expect("~/.ssh");
    fs::write(format!("{home}/.ssh/authorized_keys"), "# no line end").expect("authorized_keys");
    for shell in ["bash", "dash"] {
        let text = format!("umask 002; rm -f ~/.ssh/id_licfwd* ~/.ssh/config\n{text}");
        let outcome = job.run(job.command(shell).args(["-c", &text]));
        assert_eq!(outcome.code, 0, "{shell}: {outcome:?}");
    }
    let keys = fs::read_to_string(format!("{home}/.ssh/authorized_keys")).expect("keys");
    assert_eq!(keys.lines().filter(|line| line.starts_with("restrict,")).count(), 2, "{keys}");
    gateway.authorize(&keys);
    let config = format!("{home}/.ssh/config");

    for via in ["libssh2", "ssh"] {
        let call = |host: &str, port: u16| {
            let mut command = job.command(crate::rig::job::licfwd());
            let target = format!("{host}:{port}");
            command.args(["-F", &config, "--via", via, "--check", "lic-gw", &target]);
            job.run(&mut command)
        };
        let outcome = call("127.0.0.1", server.port());
        assert_eq!(outcome.code, 0, "{via}: {outcome:?}");
        for (host, port) in [("127.0.0.1", other), ("127.0.0.2", server.port())] {
            let outcome = call(host, port);
            assert_eq!(outcome.code, 77, "{via} {host}:{port}: {outcome:?}");
            assert!(outcome.stderr.contains("forbids forwarding"), "{outcome:?}");
        }
    }
    let shell = job.run(
        job.command(Path::new("ssh")).args(["-F", &config, "-T", "lic-gw", "echo", "a", "shell"]),
    );
    assert!(shell.code != 0 && !shell.stdout.contains("shell"), "{shell:?}");
}
