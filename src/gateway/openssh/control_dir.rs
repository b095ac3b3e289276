//! A private directory for one ssh's sockets, removed with it.
//!
//! The keeper of that ssh holds a lock in it. A directory whose lock is free
//! belongs to nobody any more (both were killed): the next one to make a
//! directory removes it. All that is done in it goes through a descriptor of the
//! directory: where everybody may write, another user can put a link in its
//! place as soon as it is gone.

use crate::sys::{self, node_name};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "licfwd-ssh-";
/// A directory without a lock is being made; one as old as this has been left.
const MAX_AGE_WITHOUT_LOCK: Duration = Duration::from_secs(60);
/// A socket's path has 107 bytes (unix(7)). Ours take `/licfwd-ssh-12345678`,
/// and ssh appends `/ctl.` with 16 random letters before it renames the file.
const MAX_BASE_LENGTH: usize = 107 - 20 - 21;

/// The directory; removed with this value.
#[derive(Debug)]
pub struct ControlDir(OpenDir);

/// A private directory of this user's, under whatever name it is by now.
#[derive(Debug)]
struct OpenDir {
    path: PathBuf,
    directory: File,
}

impl ControlDir {
    /// A new one in XDG_RUNTIME_DIR, TMPDIR or /tmp, for this user alone.
    ///
    /// # Errors
    /// None of the three can be used; why not the last.
    pub fn make() -> io::Result<ControlDir> {
        sys::in_safe_base(|base| {
            be_usable(base)?;
            sweep(base);
            ControlDir::make_in(base)
        })
    }

    fn make_in(base: &Path) -> io::Result<ControlDir> {
        loop {
            let path = base.join(format!("{PREFIX}{:08x}", rand::random::<u32>()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return OpenDir::new(path).map(ControlDir),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The one that another process has made, and the lock that keeps it.
    ///
    /// # Errors
    /// It is gone.
    pub fn enter(path: PathBuf) -> io::Result<(ControlDir, File)> {
        let held = OpenDir::new(path)?;
        // Under its name the lock is never free while this process lives.
        let new = held.file("lock-");
        let lock = File::create(&new)?;
        lock.lock()?;
        fs::rename(&new, held.file(&lock_name()))?;
        Ok((ControlDir(held), lock))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// ssh's control socket.
    pub fn socket(&self) -> String {
        self.file("ctl")
    }

    /// A file in it. ssh needs no quoting for such a name.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path().display())
    }

    /// Removes it with all that is in it, as far as it is still there.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl Drop for ControlDir {
    fn drop(&mut self) {
        self.clear();
    }
}

impl OpenDir {
    /// # Errors
    /// It is gone, or something else.
    fn new(path: PathBuf) -> io::Result<OpenDir> {
        let named = fs::symlink_metadata(&path)?;
        // The dot: opening a FIFO would wait for ever.
        let directory = File::open(path.join("."))?;
        let about = directory.metadata()?;
        let same = named.is_dir() && (named.dev(), named.ino()) == (about.dev(), about.ino());
        match same && about.uid() == sys::user_id() && about.mode() & 0o077 == 0 {
            true => Ok(OpenDir { path, directory }),
            false => Err(io::Error::other("not a private directory")),
        }
    }

    /// Nobody can turn that way elsewhere.
    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()).into()
    }

    fn clear(&self) {
        for entry in fs::read_dir(self.file("")).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        // Follows no link, and leaves what is not empty.
        let _ = fs::remove_dir(&self.path);
    }

    /// Whether this node's killed processes have left it.
    fn is_abandoned(&self) -> bool {
        File::open(self.file(&lock_name())).is_ok_and(|lock| lock.try_lock().is_ok())
    }
}

/// Where nodes share a file system, another one's locks may not be seen: each
/// has a name of its own, and cleans up for itself.
fn lock_name() -> String {
    format!("lock-{}", node_name())
}

/// ssh's options know `%`, `:`, quotes and blanks; none of them may stand there.
fn be_usable(base: &Path) -> io::Result<()> {
    let plain = |c: &u8| c.is_ascii_alphanumeric() || b"/_.-+@=,".contains(c);
    let bytes = base.as_os_str().as_encoded_bytes();
    match bytes.len() <= MAX_BASE_LENGTH && bytes.iter().all(plain) {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "its name is not one for ssh")),
    }
}

/// Removes what this user's killed processes have left there.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(held) = OpenDir::new(entry.path()) else {
            continue;
        };
        let about = held.directory.metadata();
        let age = about.and_then(|about| about.modified()).ok();
        let age = age.and_then(|then| then.elapsed().ok());
        if held.is_abandoned() {
            held.clear();
        } else if age.is_some_and(|age| age > MAX_AGE_WITHOUT_LOCK) {
            // Only if it is empty.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_room_is_removed_and_a_kept_one_is_not() {
        let base = ControlDir::make().unwrap();
        let dir = || {
            let dir = ControlDir::make_in(base.path()).unwrap();
            let path = dir.path().to_owned();
            std::mem::forget(dir);
            path
        };
        let (new, left, kept) = (dir(), dir(), dir());
        let (forgotten, lock) = ControlDir::enter(left.clone()).unwrap();
        std::mem::forget(forgotten);
        drop(lock);
        File::create(left.join("ctl")).unwrap();
        let keeper = ControlDir::enter(kept.clone()).unwrap();
        sweep(base.path());
        assert!(new.exists() && kept.exists() && !left.exists());
        drop(keeper);
        assert!(!kept.exists());
        fs::remove_dir(new).unwrap();
    }

    /// Goal: nothing of its user's is removed through a link that another user
    /// has put where the directory was, nor through its lock.
    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let base = ControlDir::make().unwrap();
        let precious = ControlDir::make_in(base.path()).unwrap();
        for name in ["thesis", &lock_name()] {
            fs::write(precious.0.file(name), "").unwrap();
        }
        let dir = ControlDir::make_in(base.path()).unwrap();
        let path = dir.path().to_owned();
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(precious.path(), &path).unwrap();
        let kept = File::open(precious.0.file(&lock_name())).unwrap();
        kept.lock().unwrap();
        assert!(ControlDir::enter(path.clone()).is_err());
        drop(dir);
        sweep(base.path());
        assert!(precious.0.file("thesis").exists());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn another_nodes_room_is_left_alone() {
        let base = ControlDir::make().unwrap();
        let dir = ControlDir::make_in(base.path()).unwrap();
        fs::write(dir.0.file("lock-another"), "").unwrap();
        sweep(base.path());
        assert!(dir.path().exists());
    }

    #[test]
    fn bases_are_such_that_ssh_needs_no_quoting() {
        let long = format!("/{}", "x".repeat(MAX_BASE_LENGTH));
        for (base, usable) in [
            ("/tmp", true),
            ("/run/user/1000", true),
            ("/a b", false),
            ("/a%h", false),
            ("/a:b", false),
            (&long, false),
            (&long[..MAX_BASE_LENGTH], true),
        ] {
            assert_eq!(be_usable(Path::new(base)).is_ok(), usable, "{base}");
        }
    }
}
