//! The table of every option, and what is made from it: getopts' and help.

use crate::error::EXITS;
use getopts::{HasArg, Occur, Options};
use std::fmt::Write as _;

/// What becomes of an option, and under which heading help shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Says what is forwarded and for how long.
    Tunnel,
    /// Says who may connect.
    Access,
    /// Says what is printed and logged.
    Output,
    /// Handed to `ssh -G`.
    Ssh,
    /// A flag of ssh's that changes nothing here.
    Accepted,
    /// Means something that licfwd does not do; the text says what to do instead.
    Refused,
}

/// One row of the option table.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// What becomes of it.
    pub kind: Kind,
    /// One letter, or empty.
    pub short: &'static str,
    /// Without dashes, or empty.
    pub long: &'static str,
    /// The argument's name; empty for a flag.
    pub arg: &'static str,
    /// For help and manual; of a refused option: what to do instead.
    pub text: &'static str,
}

/// Every option, in the order in which help shows them.
#[rustfmt::skip]
pub const OPTIONS: &[Opt] = {
    use Kind::*;
    const fn opt(kind: Kind, short: &'static str, long: &'static str, arg: &'static str, text: &'static str) -> Opt {
        Opt { kind, short, long, arg, text }
    }
    &[
        opt(Tunnel, "L", "", "SPEC", "a fixed local port: [bind:]port:host:hostport"),
        opt(Tunnel, "C", "", "", "compress what passes through the gateway"),
        opt(Tunnel, "f", "", "", "background (default with targets)"),
        opt(Tunnel, "", "foreground", "", "foreground (default with -L alone)"),
        opt(Tunnel, "", "via", "libssh2|ssh|auto", "who logs in at the gateway (auto)"),
        opt(Tunnel, "", "tries", "N", "tries for gateway and license server together (10)"),
        opt(Tunnel, "", "timeout", "SECONDS", "limit for each connection step (ConnectTimeout or 15)"),
        opt(Tunnel, "", "deadline", "SECONDS", "limit for everything before the announcement (300)"),
        opt(Tunnel, "", "no-probe", "", "announce without opening the targets once"),
        opt(Tunnel, "", "verbatim", "", "pass the license server's answers on unchanged"),
        opt(Tunnel, "", "watch", "PID", "end with this process (default: with the session)"),
        opt(Tunnel, "", "no-watch", "", "end only when told to"),
        opt(Tunnel, "", "check", "", "try it once: each step with its time; leave nothing"),
        opt(Access, "", "listen", "ADDR", "serve the job's other nodes at this address"),
        opt(Access, "", "allow", "HOST[,HOST...]", "the hosts that --listen serves"),
        opt(Access, "", "allow-any-user", "", "serve every user of this node, not only you"),
        opt(Output, "", "format", "TEMPLATE", "value of the variable ({port}@{host})"),
        opt(Output, "", "shell", "sh|csh|fish", "whose syntax to print (sh)"),
        opt(Output, "", "pid-var", "NAME", "export the daemon's process id as well"),
        opt(Output, "E", "log", "FILE", "append events to FILE"),
        opt(Output, "v", "", "", "tell more"),
        opt(Output, "q", "", "", "tell errors only"),
        opt(Output, "", "generate", "WHAT", "print man, complete-bash, -zsh or -fish"),
        opt(Output, "h", "help", "", "show this help"),
        opt(Output, "V", "version", "", "show the version"),
        opt(Ssh, "F", "", "FILE", "configuration file"),
        opt(Ssh, "o", "", "OPTION", "an option as in ssh_config"),
        opt(Ssh, "p", "", "PORT", "port of the gateway"),
        opt(Ssh, "l", "", "USER", "user name at the gateway"),
        opt(Ssh, "i", "", "FILE", "identity (private key) file"),
        opt(Ssh, "J", "", "HOST", "jump host on the way to the gateway"),
        opt(Ssh, "b", "", "ADDR", "local address to connect from"),
        opt(Ssh, "B", "", "INTERFACE", "local interface to connect from"),
        opt(Ssh, "c", "", "CIPHERS", "ciphers"),
        opt(Ssh, "m", "", "MACS", "message authentication codes"),
        opt(Ssh, "4", "", "", "reach the gateway by IPv4 only"),
        opt(Ssh, "6", "", "", "reach the gateway by IPv6 only"),
        opt(Accepted, "N", "", "", "no remote command: there never is one"),
        opt(Accepted, "T", "", "", "no remote terminal: there never is one"),
        opt(Accepted, "n", "", "", "stdin is never read"),
        opt(Accepted, "x", "", "", "no X11: it is never forwarded"),
        opt(Accepted, "X", "", "", "X11 is not forwarded"),
        opt(Accepted, "Y", "", "", "X11 is not forwarded"),
        opt(Accepted, "a", "", "", "no agent: it is never forwarded"),
        opt(Accepted, "A", "", "", "the agent is not forwarded"),
        opt(Accepted, "k", "", "", "no GSSAPI credentials: they are never forwarded"),
        opt(Accepted, "K", "", "", "GSSAPI is not used"),
        opt(Accepted, "y", "", "", "see --log"),
        opt(Refused, "D", "", "PORT", "licfwd is no SOCKS proxy; name each server as a target, web servers as https://HOST (an HTTP proxy), or use ssh -D"),
        opt(Refused, "R", "", "SPEC", "forwards lead from here to the gateway's side only; use ssh -R"),
        opt(Refused, "W", "", "HOST:PORT", "stdin and stdout are not forwarded; use ssh -W, or -L with a fixed port"),
        opt(Refused, "g", "", "", "say who may connect: --listen ADDR --allow HOST, or -L with a bind address"),
        opt(Refused, "M", "", "", "licfwd shares no connection; leave it out"),
        opt(Refused, "S", "", "PATH", "licfwd shares no connection; leave it out"),
        opt(Refused, "O", "", "COMMAND", "licfwd shares no connection; to end a tunnel, send TERM to its process"),
        opt(Refused, "t", "", "", "licfwd opens no remote terminal; leave it out, or use ssh for a session"),
        opt(Refused, "s", "", "", "licfwd starts no subsystem; leave it out, or use ssh"),
        opt(Refused, "w", "", "TUN", "licfwd forwards no tunnel devices; use ssh -w"),
        opt(Refused, "e", "", "CHAR", "there is no session to escape from; leave it out"),
        opt(Refused, "I", "", "PKCS11", "load the token into ssh-agent with ssh-add -s"),
        opt(Refused, "P", "", "TAG", "write -o Tag=..., where your ssh knows tags"),
        opt(Refused, "Q", "", "QUERY", "ask ssh -Q"),
        opt(Refused, "G", "", "", "ask ssh -G"),
        opt(Refused, "1", "", "", "protocol 1 is gone; leave it out"),
        opt(Refused, "2", "", "", "there is no other protocol; leave it out"),
    ]
};

impl Opt {
    /// What getopts knows it by.
    pub fn key(&self) -> &'static str {
        if self.long.is_empty() { self.short } else { self.long }
    }
}

/// The parser. Every option may repeat, as with ssh.
pub fn parser() -> Options {
    let mut options = Options::new();
    for row in OPTIONS {
        let has_arg = match row.arg {
            "" => HasArg::No,
            _ => HasArg::Yes,
        };
        let Opt { short, long, arg, text, .. } = row;
        options.opt(short, long, text, arg, has_arg, Occur::Multi);
    }
    options
}

/// What `--help` prints: at most 80 columns, made from [`OPTIONS`].
pub fn help() -> String {
    let mut text = String::from(
        "\
usage: eval $(licfwd [options] [user@]gateway[,gateway...] target...)
       licfwd [options] [user@]gateway[,...] target... -- command [argument...]
       licfwd [options] -L SPEC... [user@]gateway[,...] [target...]

target: [NAME=]host:port[+port...][,host:port[+port...]...], port@host, or NAME
  Prints 'export NAME=PORT@localhost' (MLM_LICENSE_FILE unless given) or becomes
  the command; PORT leads to host:port for as long as the job lives. One after +
  keeps its number (RLM). Commas join a triad; https://HOST is a proxy to HOST;
  NAME alone: the servers it has. LICFWD_GATEWAY: gateway, LICFWD_LOG: logfile.
",
    );
    for (kind, heading) in
        [(Kind::Tunnel, "Tunnel"), (Kind::Access, "Who may connect"), (Kind::Output, "Output")]
    {
        let _ = writeln!(text, "\n{heading}:");
        for row in OPTIONS.iter().filter(|row| row.kind == kind) {
            let _ = writeln!(text, "  {:<24} {}", synopsis(row), row.text);
        }
    }
    let in_ssh = OPTIONS.iter().filter(|row| row.kind == Kind::Ssh);
    let accepted = OPTIONS.iter().filter(|row| row.kind == Kind::Accepted);
    let accepted: String = accepted.map(|row| row.short).collect();
    let accepted = format!("-{accepted} (no effect)");
    let in_ssh = wrapped(in_ssh.map(synopsis).chain([accepted]), "  ", 74);
    let codes = EXITS.iter().map(|exit| format!("{} {}", exit.code, exit.short));
    let codes = format!("Exit codes: {}.", codes.collect::<Vec<_>>().join(", "));
    let codes = wrapped(codes.split(' ').map(str::to_owned), "", 80);
    text + &format!("\nAs in ssh:\n{in_ssh}\n\n{codes}\n")
}

/// The items in lines of at most `width` columns, with `indent` before each line
/// and, after a blank where that is nothing, between two items.
fn wrapped(items: impl Iterator<Item = String>, indent: &str, width: usize) -> String {
    let gap = if indent.is_empty() { " " } else { indent };
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if line.len() + gap.len() + item.len() <= width => {
                *line += &(gap.to_owned() + &item)
            }
            _ => lines.push(indent.to_owned() + &item),
        }
    }
    lines.join("\n")
}

/// `-E, --log FILE`
fn synopsis(row: &Opt) -> String {
    let names = [row.short, row.long].into_iter();
    let names = names.filter(|name| !name.is_empty()).map(dashed);
    let names = names.collect::<Vec<_>>().join(", ");
    format!("{names} {}", row.arg).trim_end().to_owned()
}

/// The long option that was probably meant by `dashed`, an unknown one.
pub fn nearest(dashed: &str) -> Option<&'static str> {
    let name = dashed.trim_start_matches('-');
    let long_names = OPTIONS.iter().map(|row| row.long);
    let (distance, long) = long_names.map(|long| (distance(name, long), long)).min()?;
    // Two slips, but in a short word two slips make another word.
    (distance <= 2 && distance * 2 <= name.len()).then_some(long)
}

/// A long option written with one dash: getopts takes it for a bundle of letters.
pub fn single_dash(words: &[String]) -> Option<&'static str> {
    let named = |word: &String| {
        let name = word.strip_prefix('-')?.split('=').next()?;
        let mut long_names = OPTIONS.iter().map(|row| row.long);
        long_names.find(|long| !long.is_empty() && *long == name)
    };
    let mut options = words.iter().take_while(|word| *word != "--");
    options.find_map(named)
}

/// Levenshtein's: insertions, deletions and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 2 * b.len() {
        return a.len();
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// `-x` or `--long`.
pub fn dashed(name: &str) -> String {
    let dashes = if name.chars().count() == 1 { "-" } else { "--" };
    format!("{dashes}{name}")
}
