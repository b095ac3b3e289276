//! Files that a user has named: whatever stands behind the name, reading it ends.

use super::fd::NOCTTY_NONBLOCK;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// More than any list of hosts or keys has. A site's known_hosts with three keys of
/// 10,000 nodes has 12 MB.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a regular file; /dev/null counts as an empty one. A pipe would have to be
/// waited for, and a device may have no end.
///
/// # Errors
/// Those of opening and reading; it is something else, or too large.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Asked first, because opening is enough to wake a pipe's writer or wind a tape.
    if is_null(&fs::metadata(path).and_then(regular)?) {
        return Ok(Vec::new());
    }
    // Another may stand there by now.
    let file = File::options().read(true).custom_flags(NOCTTY_NONBLOCK).open(path)?;
    file.metadata().and_then(regular)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("larger than {} MB", MAX_BYTES >> 20))),
        false => Ok(bytes),
    }
}

/// Passes on what is a regular file or /dev/null.
///
/// # Errors
/// It is something else.
pub fn regular(about: Metadata) -> io::Result<Metadata> {
    match about.is_file() || is_null(&about) {
        true => Ok(about),
        false => Err(io::Error::other("not a regular file")),
    }
}

fn is_null(about: &Metadata) -> bool {
    const NULL: u64 = 0x103;
    about.file_type().is_char_device() && about.rdev() == NULL
}
