//! Descriptors: closing, redirecting, replacing.

use super::errno::check;
use std::ffi::{c_int, c_long};
use std::fs::{DirEntry, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

unsafe extern "C" {
    safe fn close(fd: c_int) -> c_int;
    pub(super) fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    safe fn dup2(from: c_int, to: c_int) -> c_int;
    safe fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    pub(super) fn syscall(number: c_long, ...) -> c_long;
}

pub(super) const CLOEXEC: c_int = 0o2_000_000;
pub(super) const NONBLOCK: c_int = 0o4000;
/// For open(2): no terminal becomes ours, and a pipe without a reader hangs nobody.
pub const NOCTTY_NONBLOCK: c_int = 0o400 | NONBLOCK;
/// O_PATH: a descriptor that is a name, and nothing else.
pub const PATH_ONLY: c_int = 0o10_000_000;
/// For open(2): no symbolic link. Every architecture has its own number.
pub const NOFOLLOW: c_int = if cfg!(target_arch = "aarch64") { 0o100_000 } else { 0o400_000 };

/// Owns a descriptor that the kernel has just handed out.
pub(super) fn own(fd: c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel returned this descriptor a moment ago, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every inherited descriptor above 2: a kept pipe would hang `$(...)`,
/// a kept lock file would keep its lock for days. To be called before anything
/// else is open.
pub fn close_inherited() {
    let open = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let number = |entry: DirEntry| entry.file_name().to_str()?.parse().ok();
        entries.flatten().filter_map(number).collect()
    });
    // The directory's own descriptor is closed by now; EBADF is harmless.
    let open: Vec<RawFd> = open.unwrap_or_else(|_| (0..1024).collect());
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        close(fd);
    }
}

/// Makes the standard descriptor `to` (0, 1 or 2) refer to what `from` refers to.
pub fn redirect(from: impl AsFd, to: RawFd) -> io::Result<()> {
    check(dup2(from.as_fd().as_raw_fd(), to)).map(drop)
}

/// Makes the socket inside `to` refer to what `from` refers to, whatever else
/// knows its number.
pub fn replace(from: impl AsFd, to: &OwnedFd) -> io::Result<()> {
    check(dup3(from.as_fd().as_raw_fd(), to.as_raw_fd(), CLOEXEC)).map(drop)
}

/// Whether that many more descriptors could be opened now.
///
/// # Errors
/// EMFILE or ENFILE: they could not.
pub fn have_room(count: usize) -> io::Result<()> {
    let one = File::open("/dev/null")?;
    let others: io::Result<Vec<File>> = (1..count).map(|_| one.try_clone()).collect();
    others.map(drop)
}
