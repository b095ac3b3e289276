//! Looks at processes through /proc and signals them by id.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use super::{LIMIT, wait_until};

/// What /proc/PID/stat tells about one process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Its session's id.
    pub session: u32,
    /// `R`, `S`, `T` and so on.
    pub state: char,
}

/// Every process of the machine that is not a zombie.
pub fn all() -> Vec<Process> {
    ids().filter_map(look).collect()
}

fn ids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("read /proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// One process, unless it is gone or a zombie.
pub fn look(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold brackets and blanks itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let process = Process {
        pid,
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        session: fields.nth(1)?.parse().ok()?,
    };
    (!matches!(process.state, 'Z' | 'X')).then_some(process)
}

/// Whether a process that this one started is still this one's program: for a moment
/// after the spawn its memory, and what /proc tells of it, is ours (vfork(2)).
pub fn is_still_ours(pid: u32) -> bool {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe"));
    let ours = program("self").expect("our own program");
    program(&pid.to_string()).is_ok_and(|program| program == ours)
}

/// Whether a process runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    look(pid).is_some()
}

/// All processes below `pid`, itself not included.
pub fn descendants(pid: u32) -> Vec<Process> {
    let all = all();
    let mut family = vec![pid];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        for child in all.iter().filter(|p| p.parent == parent) {
            family.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// The processes that were started with `LICFWD_RIG=tag` in their environment; a zombie
/// has none.
pub fn tagged(tag: &str) -> Vec<u32> {
    let wanted = format!("LICFWD_RIG={tag}");
    let has_tag = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).split('\0').any(|entry| entry == wanted)
    };
    ids().filter(|pid| has_tag(*pid)).collect()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process in kB.
pub fn resident_kb(pid: u32) -> usize {
    status_of(pid, "VmRSS:")
}

/// The most that it has ever been, in kB.
pub fn peak_kb(pid: u32) -> usize {
    status_of(pid, "VmHWM:")
}

/// What of it the process has written to, without its program's code, in kB.
pub fn written_kb(pid: u32) -> usize {
    status_of(pid, "RssAnon:")
}

/// Whether somebody traces a process (ptrace(2)).
pub fn is_traced(pid: u32) -> bool {
    status_of(pid, "TracerPid:") > 0
}

fn status_of(pid: u32, key: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Sends a signal (`TERM`, `KILL` and so on); processes that are gone are no error.
pub fn signal(name: &str, pids: &[u32]) {
    send(r#"kill -s "$0" "$@" 2>/dev/null"#, name, pids);
}

/// Kills them so that none sees another's end and acts on it: a licfwd that does would
/// come to its gateway once more.
pub fn kill_together(pids: &[u32]) {
    send(r#"kill -s STOP "$@" 2>/dev/null; kill -s KILL "$@" 2>/dev/null"#, "sh", pids);
}

fn send(text: &str, name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let pids = pids.iter().map(u32::to_string);
    let status = Command::new("sh").args(["-c", text, name]).args(pids).status();
    status.expect("run sh");
}

/// Stops the processes that `list` finds until it finds running ones no more,
/// and returns them all. A stopped process starts no others, so whoever kills
/// them now has killed the whole family.
pub fn stop_all(what: &str, list: impl Fn() -> Vec<Process>) -> Vec<u32> {
    let mut pids = Vec::new();
    wait_until(&format!("stop {what}"), LIMIT, || {
        let family = list();
        let running = family.iter().filter(|p| !matches!(p.state, 'T' | 't'));
        let running: Vec<u32> = running.map(|p| p.pid).collect();
        signal("STOP", &running);
        pids = family.iter().map(|p| p.pid).collect();
        running.is_empty()
    });
    pids
}

/// Whether this is the superuser.
pub fn is_root() -> bool {
    static UID: OnceLock<String> = OnceLock::new();
    UID.get_or_init(|| id(&["-u"])) == "0"
}

/// What `id` prints with these arguments.
pub fn id(arguments: &[&str]) -> String {
    let output = Command::new("id").args(arguments).output().expect("run id");
    assert!(output.status.success(), "id {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}
