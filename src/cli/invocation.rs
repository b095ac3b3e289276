//! What a command line asks for, checked and typed.

use super::value_format::Template;
use crate::config::Via;
use crate::log::Verbosity;
use crate::target::{Forward, Target};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the user wants.
#[derive(Clone, Debug)]
pub enum Request {
    /// `-h`: print [`help`].
    Help,
    /// `-V`
    Version,
    /// `--generate`: print a manual page or completions.
    Generate(Generated),
    /// Forward.
    Run(Box<Invocation>),
}

/// One call of licfwd, checked; file names are as typed.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// `[user@]host` each, as typed; at least one, none twice, none beginning with `-`.
    pub gateways: Vec<String>,
    /// What is handed to `ssh -G` before the gateway, in the order given.
    pub ssh_options: Vec<OsString>,
    /// In the order given; a name may stand there twice.
    pub targets: Vec<Target>,
    /// `-L`, in the order given.
    pub forwards: Vec<Forward>,
    /// The command that stands behind `--`, with its arguments; empty: none.
    pub command: Vec<OsString>,
    /// Whether only to try whether a tunnel would stand.
    pub check: bool,
    /// Whether to leave the caller once everything stands.
    pub background: bool,
    /// `-C`
    pub compress: bool,
    /// Tries to reach the gateway and the license servers, in all.
    pub tries: u32,
    /// Who speaks to the gateway.
    pub via: Via,
    /// Limit for each connection step, where given.
    pub timeout: Option<Duration>,
    /// Limit for everything before the announcement.
    pub deadline: Duration,
    /// Whether the targets are opened once before they are announced.
    pub probe: bool,
    /// Whether license servers' answers pass as they are.
    pub verbatim: bool,
    /// Whose life bounds the tunnel's.
    pub watch: Watch,
    /// The address that serves other nodes, where given.
    pub listen: Option<IpAddr>,
    /// Who may connect there: names and addresses.
    pub allow: Vec<String>,
    /// Whether every user of this node is served.
    pub allow_any_user: bool,
    /// The value of the variables, where given.
    pub format: Option<Template>,
    /// Whose syntax is printed.
    pub shell: Shell,
    /// The variable for the daemon's process id.
    pub pid_var: Option<String>,
    /// The log file.
    pub log: Option<LogFile>,
    /// The batch job, as messages call it.
    pub job: Option<String>,
    /// Variables of the targets that lead to this node already, and their values.
    pub replaced: Vec<(String, String)>,
    /// How much to tell.
    pub verbosity: Verbosity,
}

impl Invocation {
    /// What a variable is set to for one port of this node, behind which license servers
    /// stand, or web servers.
    pub fn value(&self, web: bool, port: u16, host: &str) -> String {
        match &self.format {
            Some(format) => format.render(port, host),
            None if web => Template::of_proxy().render(port, host),
            None => Template::default().render(port, host),
        }
    }

    /// Whether a statement for the calling shell is written to stdout.
    pub fn announces(&self) -> bool {
        !self.targets.is_empty() && !self.check && self.command.is_empty()
    }

    /// Whether the process that was started becomes the command once a tunnel stands.
    pub fn becomes_command(&self) -> bool {
        !self.command.is_empty() && !self.check
    }
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// As typed, or as `LICFWD_LOG` comes to.
    pub path: PathBuf,
    /// Whether the user has not asked for it: no job fails for its sake.
    pub by_default: bool,
}

/// What `--generate` makes of the option table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// `man`: the manual page.
    Manual,
    /// `complete-bash`
    Bash,
    /// `complete-zsh`
    Zsh,
    /// `complete-fish`
    Fish,
}

impl Generated {
    /// All of them, with the names that `--generate` takes.
    pub const ALL: [(&str, Generated); 4] = [
        ("man", Generated::Manual),
        ("complete-bash", Generated::Bash),
        ("complete-zsh", Generated::Zsh),
        ("complete-fish", Generated::Fish),
    ];
}

/// Whose life bounds the tunnel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// The session that started licfwd.
    Session,
    /// `--watch PID`
    Pid(u32),
    /// `--no-watch`
    Nothing,
}

/// Whose syntax the statement on stdout has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shell {
    /// bash, dash, ksh, zsh and other Bourne shells.
    #[default]
    Sh,
    /// csh and tcsh.
    Csh,
    /// fish.
    Fish,
}
