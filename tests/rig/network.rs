//! Network namespaces: a network of the test's own, with a link that can be cut.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::{LIMIT, process, retell, say_skipped, test_name, wait_until};

/// Holds the name of the test that runs again in its own network.
const INSIDE: &str = "LICFWD_TEST_NETWORK";

/// Whether this process has a network of its own. If not, runs this very test
/// again in a process that has one; where that is impossible, says so.
#[track_caller]
pub fn is_our_own() -> bool {
    let test = test_name();
    if let Some(meant) = std::env::var_os(INSIDE) {
        assert_eq!(meant.to_str(), Some(&*test), "another test runs here");
        return true;
    }
    let output = match in_our_own(&test, &[&test, "--exact", "--nocapture"]) {
        Ok(output) => output,
        Err(why) => {
            say_skipped(why);
            return false;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "in a network of its own:\n{text}\n{errors}"
    );
    // What it has measured.
    retell(&errors, &test);
    false
}

/// Runs this program with those arguments in a network of its own, under a name by which
/// it knows that it has one.
///
/// # Errors
/// Why that is impossible.
pub fn in_our_own(name: &str, arguments: &[&str]) -> Result<Output, &'static str> {
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    if !process::is_root() {
        return Err("only root can make a network");
    }
    if !["unshare", "nsenter", "ip"].into_iter().all(has) {
        return Err("unshare, nsenter or ip is missing");
    }
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
        .arg(std::env::current_exe().expect("this program"))
        .args(arguments)
        .env(INSIDE, name)
        .output();
    Ok(output.expect("run unshare"))
}

/// Makes the sockets of our own network hold little, so that a sender soon
/// finds them full.
pub fn make_sockets_small() {
    assert!(std::env::var_os(INSIDE).is_some(), "not the machine's");
    for (name, bytes) in [("tcp_wmem", "4096 32768 32768"), ("tcp_rmem", "4096 131072 131072")] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), bytes).expect(name);
    }
    // Segments that fit in, as on a real network.
    run("ip link set lo mtu 9000");
}

/// A program in the network of a process, as that user and group. Its process
/// id is the program's.
pub fn command(network: u32, program: &Path, ids: Option<(u32, u32)>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{network}/ns/net"));
    if let Some((user, group)) = ids {
        command.args([format!("--setuid={user}"), format!("--setgid={group}")]);
    }
    command.arg(program);
    command
}

/// A second network behind a link. Gone, link and all, with this value.
pub struct Beyond {
    /// A process that does nothing but be there.
    holder: Child,
}

impl Beyond {
    /// Our address on the link.
    pub const NEAR: [u8; 4] = [10, 99, 0, 1];
    /// Its address.
    pub const FAR: [u8; 4] = [10, 99, 0, 2];

    /// Only where the network [`is_our_own`].
    pub fn new() -> Beyond {
        assert!(std::env::var_os(INSIDE).is_some(), "not the machine's");
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("run unshare");
        let beyond = Beyond { holder };
        let pid = beyond.process();
        let name = |id: &str| fs::read_link(format!("/proc/{id}/ns/net")).ok();
        wait_until("the second network", LIMIT, || {
            let its = name(&pid.to_string());
            its.is_some() && its != name("self")
        });
        run(&format!("ip link add near type veth peer name far netns {pid}"));
        run("ip addr add 10.99.0.1/30 dev near");
        run("ip link set near up");
        beyond.run("ip link set lo up");
        beyond.run("ip addr add 10.99.0.2/30 dev far");
        beyond.run("ip link set far up");
        beyond
    }

    /// A process in it.
    pub fn process(&self) -> u32 {
        self.holder.id()
    }

    /// From now on every packet vanishes, and nobody is told.
    pub fn cut_off(&self) {
        self.run("ip link set far down");
    }

    /// The link is back.
    pub fn reach_again(&self) {
        self.run("ip link set far up");
    }

    fn run(&self, words: &str) {
        run(&format!("nsenter --net=/proc/{}/ns/net {words}", self.process()));
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a command that must succeed.
pub fn run(words: &str) {
    let mut words = words.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words.clone())
        .output()
        .expect("run ip");
    assert!(output.status.success(), "{words:?}: {output:?}");
}
