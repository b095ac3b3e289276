//! A private directory for one ssh's sockets, removed with it.
//!
//! The keeper of that ssh holds a lock in it. A directory whose lock is free
//! belongs to nobody any more (both were killed): the next one to make a
//! directory removes it.

use crate::sys;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "licfwd-ssh-";
const LOCK: &str = "lock";
/// A directory without a lock is being made; one as old as this has been left.
const NEW: Duration = Duration::from_secs(60);
/// A socket's path has 107 bytes (unix(7)). Ours take `/licfwd-ssh-12345678`,
/// and ssh appends `/ctl.` with 16 random letters before it renames the file.
const LONGEST_BASE: usize = 107 - 20 - 21;

/// The directory; removed with this value.
#[derive(Debug)]
pub struct Room(PathBuf);

impl Room {
    /// A new one in XDG_RUNTIME_DIR, TMPDIR or /tmp, for this user alone.
    ///
    /// # Errors
    /// None of the three can be written to; why not the last.
    pub fn make() -> io::Result<Room> {
        let named = ["XDG_RUNTIME_DIR", "TMPDIR"].map(std::env::var_os);
        let bases = named.into_iter().flatten().map(PathBuf::from);
        let mut failure = None;
        for base in bases.filter(|base| is_usable(base)).chain(["/tmp".into()]) {
            sweep(&base);
            match Room::in_base(&base) {
                Ok(room) => return Ok(room),
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| ErrorKind::NotFound.into()))
    }

    fn in_base(base: &Path) -> io::Result<Room> {
        loop {
            let path = base.join(format!("{NAME}{:08x}", rand::random::<u32>()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Room(path)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The one that another process has made, and the lock that keeps it.
    ///
    /// # Errors
    /// It is gone.
    pub fn enter(path: PathBuf) -> io::Result<(Room, File)> {
        // Under its name the lock is never free while this process lives.
        let new = path.join("lock-");
        let lock = File::create(&new)?;
        lock.lock()?;
        fs::rename(&new, path.join(LOCK))?;
        Ok((Room(path), lock))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it. ssh needs no quoting for such a name.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.0.display())
    }

    /// Removes it with all that is in it, as far as it is still there.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_dir(&self.0);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.clear();
    }
}

/// ssh's options know `%`, `:`, quotes and blanks; none of them may stand there.
fn is_usable(base: &Path) -> bool {
    let plain = |c: &u8| c.is_ascii_alphanumeric() || b"/_.-+@=,".contains(c);
    let bytes = base.as_os_str().as_encoded_bytes();
    base.is_absolute() && bytes.len() <= LONGEST_BASE && bytes.iter().all(plain)
}

/// Removes what this user's killed processes have left there.
fn sweep(base: &Path) {
    let is_ours = |name: &OsStr| name.to_string_lossy().starts_with(NAME);
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let Ok(about) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if !is_ours(&entry.file_name()) || !about.is_dir() || about.uid() != sys::user_id() {
            continue;
        }
        match File::open(entry.path().join(LOCK)) {
            Ok(lock) if lock.try_lock().is_ok() => Room(entry.path()).clear(),
            Ok(_) => {}
            Err(_) => {
                let age = about.modified().ok().and_then(|then| then.elapsed().ok());
                if age.is_some_and(|age| age > NEW) {
                    // Only if it is empty.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_room_is_removed_and_a_kept_one_is_not() {
        let base = Room::make().unwrap();
        let room = || {
            let room = Room::in_base(base.path()).unwrap();
            let path = room.path().to_owned();
            std::mem::forget(room);
            path
        };
        let (new, left, kept) = (room(), room(), room());
        let (forgotten, lock) = Room::enter(left.clone()).unwrap();
        std::mem::forget(forgotten);
        drop(lock);
        File::create(left.join("ctl")).unwrap();
        let keeper = Room::enter(kept.clone()).unwrap();
        sweep(base.path());
        assert!(new.exists() && kept.exists() && !left.exists());
        drop(keeper);
        assert!(!kept.exists());
        fs::remove_dir(new).unwrap();
    }

    #[test]
    fn bases_are_such_that_ssh_needs_no_quoting() {
        let long = format!("/{}", "x".repeat(LONGEST_BASE));
        for (base, usable) in [
            ("/tmp", true),
            ("/run/user/1000", true),
            ("tmp", false),
            ("/a b", false),
            ("/a%h", false),
            ("/a:b", false),
            (&long, false),
            (&long[..LONGEST_BASE], true),
        ] {
            assert_eq!(is_usable(Path::new(base)), usable, "{base}");
        }
    }
}
