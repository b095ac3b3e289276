//! Moves to the background and leaves the caller alone.
//!
//! ```text
//! parent                          child
//!   fork ------------------------> session of its own; stdin, stdout and stderr
//!                                  on /dev/null; builds the tunnel
//!   announces it <------ READY --- waits
//!   ends --------------- GO -----> serves
//! ```
//! The parent announces only when the child stands. If that fails, or a signal
//! takes the parent away in between, the child reads the end of the socket pair
//! instead of GO, and ends.

use crate::error::{Code, Context, Result};
use crate::sys::{self, Fork};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// What the child sends when it stands; anything else is why it does not.
const READY: [u8; 1] = [0];
const GO: [u8; 1] = [0];

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
    let (to_child, to_parent) = UnixStream::pair().context(Code::System, no_background)?;
    let fork = sys::fork_process();
    match fork.context(Code::System, || no_background() + ": fork failed")? {
        Fork::Parent(child) => {
            // The session in `build` is the child's now: dropping it here would
            // end the program that carries it.
            std::mem::forget((build, serve));
            drop(to_parent);
            be_parent(to_child, || announce(child))
        }
        Fork::Child => {
            drop(to_child);
            sys::new_session();
            be_child(to_parent, build, serve);
            sys::exit_now(0)
        }
    }
}

fn no_background() -> String {
    "cannot go to the background".into()
}

fn be_parent(mut child: UnixStream, announce: impl FnOnce() -> Result<()>) -> Result<()> {
    // One byte when all is well; a sentence and the end otherwise.
    let mut report = Vec::new();
    let _ = (&child).take(1).read_to_end(&mut report);
    if report != READY {
        let _ = child.read_to_end(&mut report);
        return Err(String::from_utf8_lossy(&report)).context(Code::System, no_background);
    }
    announce()?;
    child.write_all(&GO).context(Code::Internal, || "the background process is gone".into())
}

fn be_child<T>(mut parent: UnixStream, build: impl FnOnce() -> Result<T>, serve: impl FnOnce(T)) {
    let left = leave_the_caller().context(Code::System, || "cannot let go of the caller".into());
    let product = match left.and_then(|()| build()) {
        Ok(product) => product,
        Err(e) => {
            let _ = parent.write_all(e.to_string().as_bytes());
            return;
        }
    };
    let mut answer = [1];
    let answered = parent.write_all(&READY).and_then(|()| parent.read_exact(&mut answer));
    if answered.is_ok() && answer == GO {
        drop(parent);
        serve(product);
    }
}

/// Holds on to nothing of the caller's: directory, terminal, pipes.
fn leave_the_caller() -> io::Result<()> {
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    (0..=2).try_for_each(|standard| sys::redirect(&null, standard))
}
