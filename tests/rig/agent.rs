//! Agents that do what no agent does: fall silent, dawdle, have a full queue.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::eventually;

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Answers the first question of all, and none after it.
    OneAnswer,
    /// Lists its key and never signs.
    NeverSigns,
    /// Sends a byte a second.
    Drips,
    /// Has a full queue and accepts nobody.
    Full,
    /// Goes on sending an answer that has no end.
    Floods,
    /// Says that it has more keys than there are.
    Lies,
}

/// All of them.
pub const HABITS: [Habit; 6] =
    [Habit::OneAnswer, Habit::NeverSigns, Habit::Drips, Habit::Full, Habit::Floods, Habit::Lies];

/// An agent with one key, which is what the gateway wants. Its threads end with those
/// that they talk to.
pub struct HostileAgent {
    socket: PathBuf,
    /// In its queue.
    _crowd: Vec<UnixStream>,
    _listener: Option<Arc<UnixListener>>,
}

impl HostileAgent {
    /// On a socket of that name, with the key of that public half.
    pub fn start(socket: PathBuf, habit: Habit, public_key: &Path) -> HostileAgent {
        let listener = Arc::new(UnixListener::bind(&socket).expect("bind"));
        if habit == Habit::Full {
            let crowd = fill(&socket);
            return HostileAgent { socket, _crowd: crowd, _listener: Some(listener) };
        }
        let blob = blob(public_key);
        thread::spawn(move || {
            let answered = Arc::new(AtomicUsize::new(0));
            while let Ok((client, _)) = listener.accept() {
                let (blob, answered) = (blob.clone(), Arc::clone(&answered));
                thread::spawn(move || {
                    let _ = answer(client, habit, &blob, &answered);
                });
            }
        });
        HostileAgent { socket, _crowd: Vec::new(), _listener: None }
    }

    /// The option that leads to it.
    pub fn option(&self) -> String {
        format!("-oIdentityAgent={}", self.socket.display())
    }
}

impl Drop for HostileAgent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn answer(
    mut client: UnixStream,
    habit: Habit,
    blob: &[u8],
    answered: &AtomicUsize,
) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut question = vec![0; u32::from_be_bytes(length) as usize];
        client.read_exact(&mut question)?;
        let number = answered.fetch_add(1, Ordering::SeqCst);
        let list = [&[12, 0, 0, 0, 1][..], &string(blob), &string(b"a key")].concat();
        match (habit, question.first()) {
            (Habit::OneAnswer, _) if number > 0 => {}
            (Habit::NeverSigns, Some(13)) => {}
            (Habit::Drips, _) => {
                for byte in string(&list) {
                    client.write_all(&[byte])?;
                    eventually(Duration::from_secs(1), || false);
                }
            }
            (Habit::Floods, _) => {
                client.write_all(&[0, 3, 0, 0, 12])?;
                while client.write_all(&[0; 4096]).is_ok() {}
            }
            (Habit::Lies, _) => client.write_all(&string(&[12, 255, 255, 255, 255]))?,
            _ => client.write_all(&string(&list))?,
        }
    }
}

/// With its length before it.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// What stands in a line of a public key.
fn blob(public_key: &Path) -> Vec<u8> {
    let script = r#"cut -d ' ' -f 2 "$0" | base64 -d"#;
    let output = Command::new("sh").args(["-c", script]).arg(public_key).output();
    output.expect("run base64").stdout
}

/// Connects until nobody else can.
fn fill(socket: &Path) -> Vec<UnixStream> {
    let connect = || {
        let (sender, connected) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        // It waits for room, for ever if need be.
        thread::spawn(move || sender.send(UnixStream::connect(socket)));
        connected.recv_timeout(Duration::from_millis(500)).ok()?.ok()
    };
    std::iter::from_fn(connect).take(10_000).collect()
}
