//! Debian 13's sshd, which locks addresses out (PerSourcePenalties, since OpenSSH 9.8),
//! unpacked into a root of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{Overlay, Scratch, has, process};

/// sshd and what it is linked with.
const PACKAGES: &str = "openssh-server libaudit1 libc6 libcap-ng0 libcom-err2 libcrypt1 \
    libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libpam0g libpcre2-8-0 \
    libselinux1 libsqlite3-0 libssl3t64 libwrap0 libwtmpdb0 libzstd1 zlib1g";

/// The root, made by the first who asks.
///
/// # Errors
/// Why this machine cannot have one.
pub fn root() -> Result<&'static Path, String> {
    static ROOT: OnceLock<Result<Scratch, String>> = OnceLock::new();
    let root = ROOT.get_or_init(unpack);
    root.as_ref().map(Scratch::path).map_err(Clone::clone)
}

fn unpack() -> Result<Scratch, String> {
    if !process::is_root() {
        return Err("only root can give sshd a root of its own".into());
    }
    Overlay::check()?;
    if !["apt-get", "dpkg", "chroot"].iter().all(|program| has(program)) {
        return Err("no apt-get, dpkg or chroot".into());
    }
    let (apt, root) = (Scratch::new(), Scratch::new());
    for directory in ["state/lists/partial", "cache/archives/partial", "packages"] {
        fs::create_dir_all(apt.file(directory)).expect("make a directory");
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = format!("deb [signed-by={keys}] http://deb.debian.org/debian trixie main\n");
    apt.write("sources.list", &source);
    apt.write("status", "");
    apt_get(&apt, &["update"])?;
    apt_get(&apt, &[&["download"], &*PACKAGES.split_whitespace().collect::<Vec<_>>()].concat())?;
    for package in fs::read_dir(apt.file("packages")).expect("packages") {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-x").arg(package.expect("a package").path()).arg(root.path());
        assert!(dpkg.status().expect("run dpkg").success(), "{dpkg:?}");
    }
    for name in ["lib", "lib64", "bin", "sbin"] {
        let _ = symlink(format!("usr/{name}"), root.file(name));
    }
    for directory in ["dev", "proc", "tmp"] {
        fs::create_dir_all(root.file(directory)).expect("make a directory");
    }
    // sshd lets in nobody whose shell does not exist.
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let shell = |line: &str| Some(format!("{}:/usr/sbin/sshd\n", line.rsplit_once(':')?.0));
    let users: String = users.lines().filter_map(shell).collect();
    fs::write(root.file("etc/passwd"), users).expect("write passwd");
    fs::copy("/etc/group", root.file("etc/group")).expect("copy");
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("chmod");
    Ok(root)
}

/// Knows of nothing that is installed here.
fn apt_get(apt: &Scratch, words: &[&str]) -> Result<(), String> {
    let own = apt.path().display();
    let mut command = Command::new("timeout");
    command.args(["120", "apt-get", "-qq"]);
    for option in [
        format!("Dir::Etc::sourcelist={own}/sources.list"),
        "Dir::Etc::sourceparts=/dev/null".into(),
        format!("Dir::State={own}/state"),
        format!("Dir::State::status={own}/status"),
        format!("Dir::Cache={own}/cache"),
        "APT::Sandbox::User=root".into(),
        "Acquire::Retries=0".into(),
    ] {
        command.arg("-o").arg(option);
    }
    command.args(words).current_dir(apt.file("packages")).stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("apt-get: {e}"))?;
    let why = String::from_utf8_lossy(&output.stderr);
    let why = || format!("no Debian 13 from its mirror: {}", why.trim().replace('\n', "; "));
    output.status.success().then_some(()).ok_or_else(why)
}

/// A command for a program in there, which sees this machine's /tmp and devices, as
/// that user and group. Its process id is the program's.
pub fn command(root: &Path, program: &Path, ids: Option<(u32, u32)>) -> Command {
    const ENTER: &str = r#"
        for shared in dev tmp; do mount --rbind "/$shared" "$1/$shared" || exit; done
        mount -t proc proc "$1/proc" || exit
        user=$2
        root=$1
        shift 2
        exec chroot --userspec="$user" --groups= "$root" "$@"
    "#;
    let (user, group) = ids.unwrap_or((0, 0));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", ENTER, "sh"]).arg(root);
    command.arg(format!("{user}:{group}")).arg(program);
    command
}
