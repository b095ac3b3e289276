//! Moves to the background and lets go of the caller.
//!
//! ```text
//! parent                          child
//!   fork ------------------------> session of its own, builds the tunnel,
//!                                  stdin, stdout, stderr on /dev/null
//!   prints the line <--- ready --- waits
//!   leaves ------------- go -----> serves
//! ```
//! The parent prints only when the child stands. If printing fails, or a signal
//! takes the parent away in between, the child finds the end of the wire
//! instead of `go`, and leaves.

use crate::error::{Code, Context, Error, Result};
use crate::sys::{self, Fork};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// What the child says when it stands; anything else is why it does not.
const READY: &[u8] = b"\0";
const GO: &[u8] = b"\0";

/// Puts `build`'s product into a background process, which calls `serve` with it
/// and never returns; returns in the foreground after `announce`, given the
/// process id, has succeeded. Neither side runs the other's destructors: the
/// session with the gateway belongs to exactly one.
///
/// # Errors
/// [`Code::System`]: no fork, or `build` failed. Those of `announce`, and then
/// the child has ended.
pub fn detach<T>(
    build: impl FnOnce() -> Result<T>,
    announce: impl FnOnce(u32) -> Result<()>,
    serve: impl FnOnce(T),
) -> Result<()> {
    let (mut ours, theirs) =
        UnixStream::pair().context(Code::System, || "cannot go to the background".into())?;
    match sys::fork_process().context(Code::System, || {
        "cannot go to the background: fork failed".into()
    })? {
        Fork::Parent(child) => {
            // The session in `build` is the child's now: dropping it here would
            // end the program that carries it.
            std::mem::forget((build, serve));
            drop(theirs);
            let mut word = Vec::new();
            let mut byte = [0];
            // One byte when all is well; a sentence and the end otherwise.
            while ours.read(&mut byte).is_ok_and(|n| n == 1) {
                word.push(byte[0]);
                if word == READY {
                    break;
                }
            }
            if word != READY {
                return Err(Error::new(
                    Code::System,
                    format!(
                        "cannot go to the background: {}",
                        String::from_utf8_lossy(&word)
                    ),
                ));
            }
            announce(child)?;
            ours.write_all(GO)
                .context(Code::Internal, || "the background process is gone".into())
        }
        Fork::Child => {
            drop(ours);
            sys::new_session();
            be_child(theirs, build, serve);
            sys::exit_now(0)
        }
    }
}

fn be_child<T>(mut wire: UnixStream, build: impl FnOnce() -> Result<T>, serve: impl FnOnce(T)) {
    let built = let_go().and_then(|()| build());
    let product = match built {
        Ok(product) => product,
        Err(e) => {
            let _ = wire.write_all(e.to_string().as_bytes());
            return;
        }
    };
    if wire.write_all(READY).is_err() {
        return;
    }
    let mut word = [1];
    if wire.read(&mut word).is_ok_and(|n| n == 1) && word == GO {
        drop(wire);
        serve(product);
    }
}

/// Holds on to nothing of the caller's: directory, terminal, pipes.
fn let_go() -> Result<()> {
    let what = || "cannot let go of the caller".to_owned();
    std::env::set_current_dir("/").context(Code::System, what)?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context(Code::System, what)?;
    for standard in 0..=2 {
        sys::redirect(&null, standard).context(Code::System, what)?;
    }
    Ok(())
}
