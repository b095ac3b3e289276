//! A private directory for one ssh's sockets, removed with it.
//!
//! The keeper of that ssh holds a lock in it. A directory whose lock is free
//! belongs to nobody any more (both were killed): the next one to make a
//! directory removes it. All that is done in it goes through a descriptor of the
//! directory: where everybody may write, another user can put a link in its
//! place as soon as it is gone.

use crate::error::cause;
use crate::sys::{self, node_name};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "licfwd-ssh-";
/// A directory without a lock is being made; one as old as this has been left.
const NEW: Duration = Duration::from_secs(60);
/// A socket's path has 107 bytes (unix(7)). Ours take `/licfwd-ssh-12345678`,
/// and ssh appends `/ctl.` with 16 random letters before it renames the file.
const LONGEST_BASE: usize = 107 - 20 - 21;

/// The directory; removed with this value.
#[derive(Debug)]
pub struct Room(Held);

/// A private directory of this user's, under whatever name it is by now.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    directory: File,
}

impl Room {
    /// A new one in XDG_RUNTIME_DIR, TMPDIR or /tmp, for this user alone.
    ///
    /// # Errors
    /// None of the three can be written to; why not the last.
    pub fn make() -> io::Result<Room> {
        let named = ["XDG_RUNTIME_DIR", "TMPDIR"].map(std::env::var_os);
        let bases = named.into_iter().flatten().map(PathBuf::from);
        let bases = bases.filter(|base| is_usable(base) && is_safe(base));
        let mut failure = None;
        for base in bases.chain(["/tmp".into()]) {
            sweep(&base);
            match Room::in_base(&base) {
                Ok(room) => return Ok(room),
                Err(e) => {
                    let text = format!("{}: {}", base.display(), cause(&e));
                    failure = Some(io::Error::new(e.kind(), text));
                }
            }
        }
        Err(failure.unwrap_or_else(|| ErrorKind::NotFound.into()))
    }

    fn in_base(base: &Path) -> io::Result<Room> {
        loop {
            let path = base.join(format!("{NAME}{:08x}", rand::random::<u32>()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Held::new(path).map(Room),
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
        let held = Held::new(path)?;
        // Under its name the lock is never free while this process lives.
        let new = held.file("lock-");
        let lock = File::create(&new)?;
        lock.lock()?;
        fs::rename(&new, held.file(&lock_name()))?;
        Ok((Room(held), lock))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
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

impl Drop for Room {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Held {
    /// # Errors
    /// It is gone, or something else.
    fn new(path: PathBuf) -> io::Result<Held> {
        let named = fs::symlink_metadata(&path)?;
        // The dot: opening a FIFO would wait for ever.
        let directory = File::open(path.join("."))?;
        let about = directory.metadata()?;
        let same = named.is_dir() && (named.dev(), named.ino()) == (about.dev(), about.ino());
        match same && about.uid() == sys::user_id() && about.mode() & 0o077 == 0 {
            true => Ok(Held { path, directory }),
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
    fn is_left(&self) -> bool {
        File::open(self.file(&lock_name())).is_ok_and(|lock| lock.try_lock().is_ok())
    }
}

/// Where nodes share a file system, another one's locks may not be seen: each
/// has a name of its own, and cleans up for itself.
fn lock_name() -> String {
    format!("lock-{}", node_name())
}

/// ssh's options know `%`, `:`, quotes and blanks; none of them may stand there.
fn is_usable(base: &Path) -> bool {
    let plain = |c: &u8| c.is_ascii_alphanumeric() || b"/_.-+@=,".contains(c);
    let bytes = base.as_os_str().as_encoded_bytes();
    base.is_absolute() && bytes.len() <= LONGEST_BASE && bytes.iter().all(plain)
}

/// Whether nobody else can rename what is in there: even a private directory
/// could be taken away then, and another put in its place.
fn is_safe(base: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    fs::metadata(base).is_ok_and(|about| {
        let shared = about.mode() & 0o022 != 0 && about.mode() & STICKY == 0;
        !shared && [0, sys::user_id()].contains(&about.uid())
    })
}

/// Removes what this user's killed processes have left there.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(NAME) {
            continue;
        }
        let Ok(held) = Held::new(entry.path()) else {
            continue;
        };
        let about = held.directory.metadata();
        let age = about.and_then(|about| about.modified()).ok();
        let age = age.and_then(|then| then.elapsed().ok());
        if held.is_left() {
            held.clear();
        } else if age.is_some_and(|age| age > NEW) {
            // Only if it is empty.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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

    /// Goal: nothing of its user's is removed through a link that another user
    /// has put where the directory was, nor through its lock.
    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let base = Room::make().unwrap();
        let precious = Room::in_base(base.path()).unwrap();
        for name in ["thesis", &lock_name()] {
            fs::write(precious.0.file(name), "").unwrap();
        }
        let room = Room::in_base(base.path()).unwrap();
        let path = room.path().to_owned();
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(precious.path(), &path).unwrap();
        let kept = File::open(precious.0.file(&lock_name())).unwrap();
        kept.lock().unwrap();
        assert!(Room::enter(path.clone()).is_err());
        drop(room);
        sweep(base.path());
        assert!(precious.0.file("thesis").exists());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn another_nodes_room_is_left_alone() {
        let base = Room::make().unwrap();
        let room = Room::in_base(base.path()).unwrap();
        fs::write(room.0.file("lock-another"), "").unwrap();
        sweep(base.path());
        assert!(room.path().exists());
    }

    #[test]
    fn a_base_where_others_may_rename_is_not_used() {
        let base = Room::make().unwrap();
        for (mode, safe) in [
            (0o755, true),
            (0o1777, true),
            (0o777, false),
            (0o770, false),
        ] {
            fs::set_permissions(base.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_safe(base.path()), safe, "{mode:o}");
        }
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
