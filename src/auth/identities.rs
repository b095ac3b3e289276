//! Holds the keys that can be shown to a gateway.

use super::key_file::{self, Content, Flaw, PrivateKey};
use super::public_key;
use crate::config::Gateway;
use crate::log::Log;
use std::path::{Path, PathBuf};

/// What can be shown to a gateway. Keys read from files stay in memory, so that
/// a reconnection works after `~/.ssh` has gone away. No `Debug`: it holds secrets.
pub struct Credentials {
    /// What was found, in the order of ssh_config.
    pub identities: Vec<Identity>,
    /// What cannot be used, as `name: why`.
    pub flaws: Vec<String>,
    /// Certificates whose private key is in none of the files.
    pub without_key: Vec<PathBuf>,
    /// An identity that the user named cannot be read.
    pub unreadable: bool,
    /// The last login needed something typed that must not be sent twice, so that
    /// no reconnection can log in by itself. A passphrase is not of that kind.
    pub needs_a_person: bool,
}

/// One IdentityFile and what belongs to it.
pub struct Identity {
    /// The file.
    pub path: PathBuf,
    /// The public key, where it is known without a passphrase.
    pub public: Option<Vec<u8>>,
    /// The private key; without it an agent must hold it.
    pub private: Option<PrivateKey>,
    /// Typed once; it never leaves this process.
    pub passphrase: Option<String>,
    /// User certificates for the key.
    pub certificates: Vec<Vec<u8>>,
}

impl Identity {
    /// Whether a passphrase protects the private key and nobody has typed it yet.
    pub fn is_locked(&self) -> bool {
        let encrypted = self.private.as_ref().is_some_and(|key| key.encrypted);
        encrypted && self.passphrase.is_none()
    }
}

impl Credentials {
    /// Reads the identity files and certificates that `gateway` names. Those that are
    /// missing or of no use are skipped, as ssh skips them, and named when the
    /// gateway refuses the login: it alone decides whether what was found is enough.
    pub fn load(gateway: &Gateway, log: &Log) -> Credentials {
        let login = &gateway.login;
        let missing = login.missing_identities.iter();
        let mut found = Credentials {
            identities: Vec::new(),
            flaws: (missing.map(|name| format!("key {name}: no such file"))).collect(),
            without_key: Vec::new(),
            unreadable: !login.missing_identities.is_empty(),
            needs_a_person: false,
        };
        // As ssh (load_public_identity_files): unless certificates are named.
        let with_certificate = login.certificate_files.is_empty();
        for path in &login.identity_files {
            found.add_identity(path, with_certificate, log);
        }
        // A certificate may be named as an identity, too.
        for path in login.certificate_files.iter().chain(&login.identity_files) {
            match read_certificate(path) {
                None if login.identity_files.contains(path) => {}
                Some(certificate) => found.add_certificate(certificate, path),
                None => log.detail(format_args!("certificate {}: unusable", path.display())),
            }
        }
        found
    }

    /// Passphrases that were typed for the same keys: they belong to no gateway.
    pub fn take_passphrases(&mut self, from: &Credentials) {
        for identity in &mut self.identities {
            let same = |known: &&Identity| known.path == identity.path;
            let known = from.identities.iter().find(same).and_then(|it| it.passphrase.clone());
            identity.passphrase = identity.passphrase.take().or(known);
        }
    }

    /// Whether one of the keys is on a FIDO device.
    pub fn on_a_device(&self) -> bool {
        let mut keys = self.identities.iter().filter_map(|i| i.public.as_ref());
        keys.any(|key| public_key::key_type(key).starts_with("sk-"))
    }

    /// Whether there is a certificate.
    pub fn has_certificates(&self) -> bool {
        let of_keys = self.identities.iter().any(|i| !i.certificates.is_empty());
        of_keys || !self.without_key.is_empty()
    }

    fn add_identity(&mut self, path: &Path, with_certificate: bool, log: &Log) {
        if self.identities.iter().any(|known| known.path == path) {
            return;
        }
        let name = path.display();
        let (private, public) = match key_file::read(path) {
            Ok(Content::Private(key, public)) => (Some(key), public),
            Ok(Content::Public(blob)) if public_key::certified_key(&blob).is_some() => return,
            // The private key is in an agent then.
            Ok(Content::Public(blob)) => (None, Some(blob)),
            Err(Flaw::Missing) => {
                log.detail(format_args!("identity {name}: no such file"));
                (None, None)
            }
            Err(Flaw::Unusable(why)) => {
                log.note(format_args!("identity {name}: {why}"));
                self.flaws.push(format!("key {name}: {why}"));
                self.unreadable |= !is_default(path);
                (None, None)
            }
        };
        let certificate =
            with_certificate.then(|| read_certificate(&key_file::beside(path, "-cert.pub")));
        let certificate = certificate.flatten();
        let public = public
            .or_else(|| key_file::read_public(&key_file::beside(path, ".pub")))
            .or_else(|| certificate.as_deref().and_then(public_key::certified_key));
        if private.is_some() || public.is_some() {
            self.identities.push(Identity {
                path: path.to_owned(),
                public,
                private,
                passphrase: None,
                certificates: certificate.into_iter().collect(),
            });
        }
    }

    fn add_certificate(&mut self, certificate: Vec<u8>, path: &Path) {
        let key = public_key::certified_key(&certificate);
        let owner = self.identities.iter_mut().find(|identity| {
            identity.public == key || key_file::beside(&identity.path, "-cert.pub") == path
        });
        match owner {
            Some(identity) if identity.certificates.contains(&certificate) => {}
            Some(identity) => identity.certificates.insert(0, certificate),
            None => self.without_key.push(path.to_owned()),
        }
    }
}

fn read_certificate(path: &Path) -> Option<Vec<u8>> {
    let blob = key_file::read_public(path);
    blob.filter(|blob| public_key::certified_key(blob).is_some())
}

/// Whether ssh looks for this file without being told to.
fn is_default(path: &Path) -> bool {
    let mut kinds = "rsa dsa ecdsa ecdsa_sk ed25519 ed25519_sk xmss".split(' ');
    kinds.any(|kind| path.ends_with(format!(".ssh/id_{kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::gateway;
    use crate::log::Verbosity;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_sorted_into_keys_and_flaws() {
        let dir = std::env::temp_dir().join(format!("licfwd-identities-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let line = |name: &str, text: &str, mode: u32| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            format!("identityfile {}\n", path.display())
        };
        let pem = "-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----";
        let public =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";
        let key = line("key", pem, 0o600);
        line("key.pub", public, 0o644);
        let open = line("open", pem, 0o640);
        let text = format!("{key}{key}{open}identityfile {}/none", dir.display());
        let log = Log::new(Verbosity::Quiet, false);
        let found = Credentials::load(&gateway(&text), &log);
        fs::remove_dir_all(&dir).unwrap();

        let [key] = found.identities.as_slice() else {
            panic!("one usable key");
        };
        assert!(key.private.as_ref().is_some_and(|k| !k.encrypted));
        assert!(key.public.is_some() && !found.needs_a_person);
        // The open one; a configured file that is missing is no flaw.
        assert_eq!(found.flaws.len(), 1);
        assert!(found.flaws[0].contains("permissions 0640") && found.unreadable);
        fn sendable(_: impl Send) {}
        sendable(found);
    }
}
