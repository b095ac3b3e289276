//! One tunnel of one of the programs compared, from its start to its end.

use std::fs;
use std::io::{self, Error, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::rig::{
    Gateway, LIMIT, Scratch, eventually_every, free_port, gateway, process, wait_until,
};

/// A program that forwards ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Licfwd,
    /// licfwd over the ssh program.
    OverSsh,
    Ssh,
    Autossh,
    Dbclient,
}

/// In the order of each round and of the table's columns.
pub const PEERS: [Peer; 5] =
    [Peer::Licfwd, Peer::OverSsh, Peer::Ssh, Peer::Autossh, Peer::Dbclient];

impl Peer {
    /// What stands at its column's head.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Licfwd => "licfwd",
            Peer::OverSsh => "licfwd --via ssh",
            Peer::Ssh => "ssh -L",
            Peer::Autossh => "autossh",
            Peer::Dbclient => "dbclient",
        }
    }

    fn is_licfwd(self) -> bool {
        matches!(self, Peer::Licfwd | Peer::OverSsh)
    }
}

/// What every peer needs to log in.
pub struct Site {
    pub gateway: Gateway,
    pub licfwd: PathBuf,
    /// dbclient's key, and its home with `known_hosts`.
    home: Scratch,
}

impl Site {
    /// Makes a key for dbclient and lets it in beside OpenSSH's.
    pub fn new(gateway: Gateway, licfwd: &Path) -> io::Result<Site> {
        let home = Scratch::new();
        let key = home.file("id_dropbear");
        let made = Command::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(&key).output()?;
        let text = String::from_utf8_lossy(&made.stdout).into_owned();
        let public = text.lines().find(|line| line.starts_with("ssh-ed25519 "));
        let public = public.ok_or_else(|| Error::other(format!("dropbearkey: {made:?}")))?;
        let openssh = fs::read_to_string(gateway.identity().with_extension("pub"))?;
        gateway.authorize(&format!("{openssh}{public}\n"));
        // dbclient knows hosts by name alone.
        let known = fs::read_to_string(gateway.known_hosts())?;
        let fields: Vec<&str> = known.split_whitespace().collect();
        fs::create_dir(home.file(".ssh"))?;
        home.write(".ssh/known_hosts", &format!("127.0.0.1 {} {}\n", fields[1], fields[2]));
        let licfwd = licfwd.to_owned();
        Ok(Site { gateway, licfwd, home })
    }

    /// A program in a clean environment, by which it is found again.
    pub fn command(&self, program: impl AsRef<Path>, tag: &Scratch) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            // Killed with all that it has started, none of it clears up.
            .env("TMPDIR", tag.path())
            .env("LC_ALL", "C")
            .env("AUTOSSH_GATETIME", "0")
            .env("LICFWD_RIG", tag.path())
            .current_dir(tag.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command
    }

    /// The peer's forward of `port` to the server's, in the background.
    fn forward(&self, peer: Peer, port: u16, server: u16, tag: &Scratch) -> Command {
        let way = format!("127.0.0.1:{port}:127.0.0.1:{server}");
        let config = self.gateway.config();
        let mut command = match peer {
            Peer::Licfwd | Peer::OverSsh => {
                let mut command = self.command(&self.licfwd, tag);
                if peer == Peer::OverSsh {
                    command.args(["--via", "ssh"]);
                }
                command.arg("-F").arg(&config).arg(gateway::NAME);
                command.arg(format!("127.0.0.1:{server}"));
                return command;
            }
            Peer::Ssh => self.command("ssh", tag),
            Peer::Autossh => {
                let mut command = self.command("autossh", tag);
                command.args(["-M", "0"]);
                command
            }
            Peer::Dbclient => {
                let mut command = self.command("dbclient", tag);
                command.args(["-f", "-N", "-L", &way, "-p"]);
                command.arg(self.gateway.port().to_string());
                command.arg("-i").arg(self.home.file("id_dropbear"));
                command.arg(format!("{}@127.0.0.1", self.gateway.user()));
                return command;
            }
        };
        command.args(["-f", "-N", "-L", &way, "-F"]).arg(&config);
        command.arg(gateway::NAME);
        command
    }
}

/// A running tunnel; ended when this goes.
pub struct Tunnel {
    /// The local port.
    pub port: u16,
    /// From the start of the program until the port answered.
    pub ready: Duration,
    tag: Scratch,
}

impl Tunnel {
    /// Starts a peer and waits until `answers` is true of its port.
    pub fn start(
        site: &Site,
        peer: Peer,
        server: u16,
        answers: impl Fn(u16) -> io::Result<()>,
    ) -> io::Result<Tunnel> {
        let mut tunnel = Tunnel { port: free_port(), ready: Duration::ZERO, tag: Scratch::new() };
        let mut command = site.forward(peer, tunnel.port, server, &tunnel.tag);
        // Background processes keep what they inherit: only licfwd lets go.
        if !peer.is_licfwd() {
            command.stdout(Stdio::null());
        }
        let begin = Instant::now();
        let mut child = command.spawn()?;
        if peer.is_licfwd() {
            tunnel.port = announced(&mut child)?;
            answers(tunnel.port)?;
        } else {
            let mut last = Ok(());
            let there = eventually_every(Duration::from_millis(1), LIMIT, || {
                last = answers(tunnel.port);
                last.is_ok()
            });
            if !there {
                last?;
            }
        }
        tunnel.ready = begin.elapsed();
        let status = child.wait()?;
        if !status.success() {
            return Err(Error::other(format!("{command:?} ended with {status}")));
        }
        Ok(tunnel)
    }

    /// Its processes.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let pids = process::tagged(&self.tag.path().display().to_string());
        match pids.is_empty() {
            true => Err(Error::other("the tunnel has ended")),
            false => Ok(pids),
        }
    }

    /// Proportional share of memory in kB (proc_pid_smaps(5)).
    pub fn pss(&self) -> io::Result<f64> {
        self.sum(|pid| number_after(&fs::read_to_string(format!("{pid}/smaps_rollup"))?, "Pss:"))
    }

    /// Memory that nobody shares, in kB: what would be free without it.
    pub fn uss(&self) -> io::Result<f64> {
        self.sum(|pid| {
            let text = fs::read_to_string(format!("{pid}/smaps_rollup"))?;
            let clean = number_after(&text, "Private_Clean:")?;
            Ok(clean + number_after(&text, "Private_Dirty:")?)
        })
    }

    /// CPU time used so far, in seconds.
    pub fn cpu(&self) -> io::Result<f64> {
        let nanoseconds = self.sum(|pid| {
            let text = fs::read_to_string(format!("{pid}/schedstat"))?;
            number_after(&text, "")
        });
        Ok(nanoseconds? / 1e9)
    }

    /// Context switches so far.
    pub fn switches(&self) -> io::Result<f64> {
        self.sum(|pid| {
            let text = fs::read_to_string(format!("{pid}/status"))?;
            let own = number_after(&text, "\nvoluntary_ctxt_switches:")?;
            Ok(own + number_after(&text, "nonvoluntary_ctxt_switches:")?)
        })
    }

    fn sum(&self, of: impl Fn(&str) -> io::Result<f64>) -> io::Result<f64> {
        let pids = self.processes()?;
        pids.iter().map(|pid| of(&format!("/proc/{pid}"))).sum()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        end(&self.tag);
    }
}

/// Ends everything that was started under a tag.
pub fn end(tag: &Scratch) {
    let tag = tag.path().display().to_string();
    wait_until("the tunnel ends", LIMIT, || {
        let pids = process::tagged(&tag);
        process::signal("KILL", &pids);
        pids.is_empty()
    });
}

/// The port in what licfwd prints.
fn announced(licfwd: &mut Child) -> io::Result<u16> {
    let mut text = String::new();
    if let Some(stdout) = &mut licfwd.stdout {
        stdout.read_to_string(&mut text)?;
    }
    port_of(&text).ok_or_else(|| Error::other(format!("licfwd printed {text:?}")))
}

/// The port of a line that ends in `NAME=PORT@localhost`.
pub fn port_of(line: &str) -> Option<u16> {
    let value = line.trim().strip_suffix("@localhost")?;
    value.rsplit('=').next()?.parse().ok()
}

fn number_after(text: &str, key: &str) -> io::Result<f64> {
    let rest = text.split_once(key).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Error::other(format!("no {key:?} in {text:?}")))
}
