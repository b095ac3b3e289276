//! Reads key files and tells what they hold.
//!
//! Formats: openssh-key-v1 (`PROTOCOL.key`), PEM (PKCS#1, PKCS#8, SEC1), and the
//! lines of public keys and certificates (sshd(8), AUTHORIZED_KEYS FILE FORMAT).

use super::base64::base64_decode;
use super::public_key::{key_type, take_string};
use crate::sys;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A private key file in memory. It has no `Debug`: nothing of it may be printed.
pub struct PrivateKey {
    /// The file's text.
    pub text: String,
    /// Whether a passphrase protects it.
    pub encrypted: bool,
}

/// What a key file holds.
pub enum Content {
    /// A private key, and its public part where the format shows it.
    Private(PrivateKey, Option<Vec<u8>>),
    /// A public key or a certificate.
    Public(Vec<u8>),
}

/// Why a key file is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// There is no such file, which is usual for the default ones.
    Missing,
    /// It cannot be used; why, and what to do.
    Unusable(String),
}

/// Reads an identity file under ssh's rule that nobody else may read it.
///
/// # Errors
/// A [`Flaw`].
pub fn read(path: &Path) -> Result<Content, Flaw> {
    let text = read_text(path)?;
    let content = parse(&text).map_err(Flaw::Unusable)?;
    // authfile.c, sshkey_perm_ok: others' files are others' business.
    if let Content::Private(..) = content
        && let Ok(about) = fs::metadata(path)
        && about.uid() == sys::user_id()
        && about.mode() & 0o077 != 0
    {
        let mode = about.mode() & 0o7777;
        return Err(Flaw::Unusable(format!(
            "permissions {mode:04o} are too open, others can read it: chmod 600 {}",
            path.display()
        )));
    }
    Ok(content)
}

/// The public key or certificate that `path` holds.
pub fn read_public(path: &Path) -> Option<Vec<u8>> {
    match parse(&read_text(path).ok()?) {
        Ok(Content::Public(blob)) => Some(blob),
        _ => None,
    }
}

/// `path` with `suffix` appended, as in `id_rsa` and `id_rsa.pub`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn read_text(path: &Path) -> Result<String, Flaw> {
    let bytes = sys::read_file(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Flaw::Missing,
        _ => Flaw::Unusable(e.to_string()),
    })?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Flaw::Unusable("not a private key".to_owned()))?;
    // libssh2 takes neither foreign line ends nor a missing last one.
    let mut text = text.replace("\r\n", "\n");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Content, String> {
    const OPENSSH: &str = "OPENSSH PRIVATE KEY-----";
    if text.starts_with("PuTTY-User-Key-File") {
        return Err("a PuTTY key: convert it with puttygen -O private-openssh".into());
    }
    if let Some((_, body)) = text.split_once(&format!("-----BEGIN {OPENSSH}")) {
        let body = body.split("-----END").next().unwrap_or_default();
        let key = base64_decode(body).ok_or("damaged: not base64")?;
        let (cipher, public) = openssh_head(&key).ok_or("damaged: cut short")?;
        // With any other, above all 3des-cbc, libssh2 takes each passphrase for wrong.
        if !["none", "aes", "chacha20"].iter().any(|known| cipher.starts_with(known)) {
            return Err(format!(
                "encrypted with {cipher}, which libssh2 cannot decrypt: ssh-keygen -p -f FILE \
                 encrypts it anew, or ssh-add it"
            ));
        }
        return private(text, cipher != "none", Some(public));
    }
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        let encrypted = text.contains("BEGIN ENCRYPTED") || text.contains("4,ENCRYPTED");
        return private(text, encrypted, None);
    }
    let mut words = text.split_whitespace();
    if let (Some(kind), Some(body)) = (words.next(), words.next())
        && let Some(blob) = base64_decode(body)
        && key_type(&blob) == kind
    {
        return Ok(Content::Public(blob));
    }
    Err("not a private key".into())
}

fn private(text: &str, encrypted: bool, public: Option<Vec<u8>>) -> Result<Content, String> {
    let text = text.to_owned();
    let kind = public.as_deref().map_or("", key_type);
    if kind.starts_with("sk-") {
        return Err("a security key: only an agent can use it here".into());
    }
    Ok(Content::Private(PrivateKey { text, encrypted }, public))
}

/// How an openssh-key-v1 container is encrypted, and its public key, which stands
/// outside the encrypted part.
fn openssh_head(key: &[u8]) -> Option<(&str, Vec<u8>)> {
    let mut rest = key.strip_prefix(b"openssh-key-v1\0")?;
    let cipher = str::from_utf8(take_string(&mut rest)?).ok()?;
    let (_kdf, _kdf_options) = (take_string(&mut rest)?, take_string(&mut rest)?);
    let (_count, mut rest) = rest.split_at_checked(4)?;
    Some((cipher, take_string(&mut rest)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::base64::base64_encode;
    use crate::auth::public_key::public_line;
    use crate::auth::public_key::tests::blob;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";

    fn container(cipher: &[u8], public: &[u8]) -> String {
        let parts = [
            b"openssh-key-v1\0".to_vec(),
            blob(&[cipher, b"none", b""]),
            vec![0, 0, 0, 1],
            blob(&[public]),
        ];
        let body = base64_encode(&parts.concat());
        let (head, tail) = body.split_at(70);
        let name = "OPENSSH PRIVATE KEY-----";
        format!("-----BEGIN {name}\n{head}\n{tail}\n-----END {name}\n")
    }

    fn told(text: &str) -> String {
        match parse(text) {
            Ok(Content::Private(key, public)) => format!(
                "private{}{}",
                if key.encrypted { " encrypted" } else { "" },
                public.map_or(String::new(), |p| format!(" {}", key_type(&p)))
            ),
            Ok(Content::Public(blob)) => format!("public {}", key_type(&blob)),
            Err(why) => why,
        }
    }

    #[test]
    fn files_tell_what_they_are() {
        let public = blob(&[b"ssh-rsa"]);
        let pem = |kind: &str, head: &str| format!("-----BEGIN {kind} KEY-----\n{head}MII=\n");
        for (text, expected) in [
            (container(b"none", &public), "private ssh-rsa"),
            (container(b"aes256-ctr", &public), "private encrypted ssh-rsa"),
            (
                container(b"3des-cbc", &public),
                "encrypted with 3des-cbc, which libssh2 cannot decrypt: ssh-keygen -p -f FILE \
                 encrypts it anew, or ssh-add it",
            ),
            (
                container(b"none", &blob(&[b"sk-ssh-ed25519@openssh.com"])),
                "a security key: only an agent can use it here",
            ),
            (pem("RSA PRIVATE", ""), "private"),
            (pem("PRIVATE", ""), "private"),
            (pem("ENCRYPTED PRIVATE", ""), "private encrypted"),
            (pem("EC PRIVATE", "Proc-Type: 4,ENCRYPTED\n"), "private encrypted"),
            (pem("PUBLIC", ""), "not a private key"),
            (format!("{ED25519} me@here"), "public ssh-ed25519"),
            ("ssh-rsa AAAA".into(), "not a private key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".into(), "damaged: cut short"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n!".into(), "damaged: not base64"),
            (String::new(), "not a private key"),
        ] {
            assert_eq!(told(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_blob_and_its_line() {
        let blob = base64_decode(ED25519.split_once(' ').unwrap().1).unwrap();
        assert_eq!(public_line(&blob), ED25519);
    }
}
