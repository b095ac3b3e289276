//! Where files of this user's may lie that nobody else must get hold of.

use super::process::{overflow_user, user_id};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Gives `make` the directories XDG_RUNTIME_DIR, TMPDIR and /tmp, one after another
/// until one serves, without those in which somebody else could put another thing
/// in the place of what is made there. They come without symbolic links.
///
/// # Errors
/// None of the three serves: why not the last, which is named.
pub fn in_safe_base<T>(mut make: impl FnMut(&Path) -> Result<T>) -> Result<T> {
    let named = ["XDG_RUNTIME_DIR", "TMPDIR"].map(std::env::var_os);
    let bases = named.into_iter().flatten().map(PathBuf::from).filter(|base| base.is_absolute());
    let mut failure = Error::from(ErrorKind::NotFound);
    for base in bases.chain(["/tmp".into()]) {
        let made = fs::canonicalize(&base).and_then(|real| {
            be_safe(&real)?;
            make(&real)
        });
        match made {
            Ok(made) => return Ok(made),
            Err(e) => failure = Error::new(e.kind(), format!("{}: {e}", base.display())),
        }
    }
    Err(failure)
}

/// Whether nobody else can rename what is in there, nor any directory on the way:
/// even a private directory could be taken away then, and another put in its place.
/// That is sshd's StrictModes; where the sticky bit is, only owners rename.
///
/// # Errors
/// Which directory is not safe, and why.
fn be_safe(real: &Path) -> Result<()> {
    const STICKY: u32 = 0o1000;
    // Where a user namespace has no number for root, its files look like nobody's.
    let owners = [Some(0), Some(user_id()), overflow_user()];
    for directory in real.ancestors() {
        let about = fs::metadata(directory)?;
        let why = if !owners.contains(&Some(about.uid())) {
            format!("belongs to user {}", about.uid())
        } else if about.mode() & 0o022 != 0 && about.mode() & STICKY == 0 {
            "can be written by others, and is not sticky".to_owned()
        } else {
            continue;
        };
        let why = format!("not safe from other users: {} {why}", directory.display());
        return Err(Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_as_safe_as_its_least_safe_ancestor() {
        let name = format!("licfwd-safe-{:08x}", rand::random::<u32>());
        let project = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
        let mine = project.join("a/mine");
        fs::create_dir_all(&mine).unwrap();
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod(&mine, 0o700);
        for (mode, safe) in
            [(0o700, true), (0o755, true), (0o1777, true), (0o777, false), (0o770, false)]
        {
            for directory in [&project, &project.join("a"), &mine] {
                let before = fs::metadata(directory).unwrap().mode() & 0o7777;
                chmod(directory, mode);
                let told = be_safe(&mine).map_err(|e| e.to_string());
                assert_eq!(told.is_ok(), safe, "{mode:o}: {told:?}");
                let names = told.is_err_and(|why| why.contains(&*directory.to_string_lossy()));
                assert_eq!(names, !safe);
                chmod(directory, before);
            }
        }
        fs::remove_dir_all(project).unwrap();
    }
}
