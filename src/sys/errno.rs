//! The error numbers that are told apart, and what C's -1 stands for.

use std::ffi::c_int;
use std::io;

/// No such file, or no such socket.
pub const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
/// No such device, as a network interface is one.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
/// The kernel has no such address family.
pub const EAFNOSUPPORT: i32 = 97;
const ENOBUFS: i32 = 105;
const ETOOMANYREFS: i32 = 109;

/// Turns C's -1 into the error that errno names.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Out of descriptors or memory: trying again at once would spin.
pub fn out_of_something(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS | ETOOMANYREFS))
}
