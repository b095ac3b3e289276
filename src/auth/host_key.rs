//! Decides whether the gateway's key may be trusted.
//!
//! The rules are those of `check_host_key` in OpenSSH 9.2's sshconnect.c, which
//! is the oracle of the tests; what the lines mean stands in `known_hosts.rs`. Lines
//! with a marker are ssh's alone, because libssh2 shows no certificates: one revoked,
//! or one of an authority, could be behind any key.

use super::accepted_keys::AcceptedKeys;
use super::base64::base64_encode;
use super::known_hosts::{self, Entry, KeyFile};
use super::login_error::LoginError;
use super::public_key::{self, CERTIFICATE, key_type};
use crate::config::{Gateway, Strict};
use crate::error::{Code, cause};
use crate::log::Log;
use crate::sys;
use std::io::ErrorKind;
use std::path::PathBuf;

type Verified = Result<(), LoginError>;

/// What a set of lines says about a key; in this order of precedence.
enum Verdict<'a> {
    Known(&'a Entry),
    Changed(&'a Entry),
    Unknown,
}

/// The lines of all files that concern one gateway.
#[derive(Debug)]
pub struct KnownHosts<'a> {
    gateway: &'a Gateway,
    files: Vec<KeyFile>,
    /// The name under which the files know it: the alias, `host`, or
    /// `[host]:port` where the port is not 22 (`put_host_port` in misc.c).
    name: String,
    /// Found under that name.
    named: Vec<Entry>,
    /// Found under its host name alone, although its port is not 22.
    without_port: Vec<Entry>,
}

impl KnownHosts<'_> {
    /// Reads the user's files, then the global ones. Files that cannot be read
    /// and malformed lines are skipped, as `ssh` does.
    pub fn load(gateway: &Gateway) -> KnownHosts<'_> {
        let files = known_hosts::read_files(gateway.host_key.files());
        let read = |name: &str| known_hosts::lines(&files, name);
        let host = gateway.host.to_ascii_lowercase();
        let (name, without_port) = match (&gateway.host_key.alias, gateway.port) {
            (Some(alias), _) => (alias.to_ascii_lowercase(), Vec::new()),
            (None, 22) => (host, Vec::new()),
            (None, port) => (format!("[{host}]:{port}"), read(&host)),
        };
        KnownHosts { gateway, named: read(&name), name, without_port, files }
    }

    /// The host key algorithms to ask libssh2 for, best first: `wanted`
    /// (`HostKeyAlgorithms`; empty means no restriction) as far as `supported`
    /// by libssh2, those whose key the files hold before the others, so that a
    /// known gateway does not show an unknown key. Empty when nothing is left.
    ///
    /// This is `order_hostkeyalgs` of sshconnect2.c, with its exceptions: where
    /// the files hold a key of the very first type, and where the user has an order of
    /// his own, it stays as it is. Certificates are left out: libssh2 cannot check them.
    pub fn preferred(&self, supported: &[&str], wanted: &[String]) -> Vec<String> {
        let order: Vec<&str> = match wanted {
            [] => supported.to_vec(),
            _ => wanted.iter().map(String::as_str).collect(),
        };
        let best = order.first().map(|best| best.trim_end_matches(CERTIFICATE));
        let as_it_is = best.is_some_and(|best| self.holds(best)) || is_users_own(wanted);
        let (first, last): (Vec<&str>, Vec<&str>) = order
            .into_iter()
            .filter(|a| supported.contains(a) && !a.ends_with(CERTIFICATE))
            .partition(|a| as_it_is || self.holds(a));
        first.into_iter().chain(last).map(str::to_owned).collect()
    }

    /// Whether a key of this algorithm's type is there.
    fn holds(&self, algorithm: &str) -> bool {
        let wanted = public_key::type_for(algorithm);
        self.named.iter().any(|entry| key_type(&entry.blob) == wanted)
    }

    /// A line for ssh alone, by place and marker.
    pub fn ssh_alone(&self) -> Option<String> {
        let mut entries = self.named.iter().chain(&self.without_port);
        let entry = entries.find(|entry| !entry.marker.is_empty())?;
        Some(format!("the line with {} in {}", entry.marker, entry.place()))
    }

    /// Whether `key`, the public key blob that the gateway proved to own, may
    /// be trusted. `sha256` is the blob's hash, for the fingerprint in messages.
    ///
    /// A changed key is refused whatever [`Strict`] says; `ssh` would go on without
    /// passwords and forwards, which leaves nothing to do here.
    /// One that is in `accepted` stays good while no file says otherwise.
    ///
    /// # Errors
    /// [`Code::HostKey`] for a key that is changed, unusable, or unknown and not to
    /// be accepted. [`Code::GatewayDown`]: a file cannot be read
    /// that could be before.
    pub fn verify(
        &self,
        key: &[u8],
        sha256: &[u8],
        accepted: &mut AcceptedKeys,
        log: &Log,
    ) -> Verified {
        self.judge_key(key, sha256, accepted, log)?;
        accepted.add(&self.name, key);
        accepted.seen(&self.files);
        Ok(())
    }

    fn judge_key(&self, key: &[u8], sha256: &[u8], accepted: &AcceptedKeys, log: &Log) -> Verified {
        let fingerprint = fingerprint(sha256);
        let Some(kind) = public_key::sound_type(key) else {
            return self.refuse(&format!(
                "it offers a key that ssh does not accept ({fingerprint}): malformed, \
                 of an unknown type, or rsa with less than 1024 bits; it needs a new host key"
            ));
        };
        let offered = format!("the {kind} key {fingerprint} that it offers");
        let required = self.gateway.algorithms.rsa_bits;
        if public_key::rsa_bits(key).is_some_and(|bits| bits < required) {
            return self.refuse(&format!(
                "{offered} is shorter than RequiredRSASize ({required} bits); it needs a new host key"
            ));
        }
        match (judge(&self.named, key), judge(&self.without_port, key)) {
            (Verdict::Known(entry), _) | (Verdict::Unknown, Verdict::Known(entry)) => {
                log.detail(format_args!("host key found in {}", entry.place()));
                Ok(())
            }
            (Verdict::Changed(entry), _) => self.refuse(&self.changed(&offered, entry)),
            // As ssh does: a changed key under the name without port says nothing,
            // because another sshd may listen there.
            (Verdict::Unknown, Verdict::Changed(_) | Verdict::Unknown) => {
                if accepted.has(&self.name, key) {
                    log.detail("host key as before, though no known_hosts file has it now");
                    return Ok(());
                }
                match accepted.missing(&self.files) {
                    Some(missing) => Err(self.error(
                        Code::GatewayDown,
                        &format!(
                            "{offered} is not the one that was accepted before, and {missing}"
                        ),
                    )),
                    None => self.verify_unknown(key, &offered, log),
                }
            }
        }
    }

    /// What [`Strict`] makes of a key that no file knows.
    fn verify_unknown(&self, key: &[u8], offered: &str, log: &Log) -> Verified {
        let gateway = self.gateway();
        match self.gateway.host_key.strict {
            Strict::Yes => {
                log.note(self.no_file_has_it());
                return self.refuse(&self.unknown(offered));
            }
            Strict::AcceptUnwritten => {
                let file = self.file_for_new(offered)?.display();
                log.note(format_args!("{gateway} is new: {offered} would be added to {file}"))
            }
            Strict::AcceptNew => return self.write_down(key, offered, log),
        }
        Ok(())
    }

    /// Where a new key is written down; where it cannot be, ssh does not trust it either.
    fn file_for_new(&self, offered: &str) -> Result<&PathBuf, LoginError> {
        let writable = known_hosts::can_be_written(&self.name);
        let file = self.gateway.host_key.user_files.first().filter(|_| writable);
        file.ok_or_else(|| {
            let why = "is unknown and cannot be written down: UserKnownHostsFile is none, or the \
                       name has characters that known_hosts does not allow";
            self.error(Code::HostKey, &format!("{offered} {why}"))
        })
    }

    fn write_down(&self, key: &[u8], offered: &str, log: &Log) -> Verified {
        let file = self.file_for_new(offered)?;
        let hashed = self.gateway.host_key.hash_known_hosts;
        let added = known_hosts::append(file, &self.name, hashed, key);
        let (gateway, file) = (self.gateway(), file.display());
        match added {
            Ok(()) => log.note(format_args!("{gateway} is new: added {offered} to {file}")),
            // A read-only home must not stop a job: ssh goes on too.
            Err(e) => log.note(format_args!(
                "{gateway} is new: {offered} is trusted this time, but cannot be \
                 added to {file}: {e}"
            )),
        }
        Ok(())
    }

    /// How messages call the gateway.
    fn gateway(&self) -> String {
        let Gateway { host, port, .. } = self.gateway;
        match &self.gateway.host_key.alias {
            Some(alias) => format!("gateway {host} port {port} (HostKeyAlias {alias})"),
            None => format!("gateway {host} port {port}"),
        }
    }

    fn refuse(&self, why: &str) -> Verified {
        Err(self.error(Code::HostKey, why))
    }

    fn error(&self, code: Code, why: &str) -> LoginError {
        let what = format!("check the host key of {}: {why}", self.gateway());
        LoginError::new(code, what, false)
    }

    /// Why a changed key is refused, and the way out.
    fn changed(&self, offered: &str, entry: &Entry) -> String {
        let way_out = if self.gateway.host_key.global_files.contains(&entry.file) {
            "have the administrator of this machine correct that file".to_owned()
        } else {
            let file = entry.file.display();
            format!("run: ssh-keygen -f '{file}' -R '{}'", self.name)
        };
        format!(
            "{offered} is not the {} key in {}: the gateway was set up anew, or somebody \
             is in between; compare the fingerprint with the gateway's administrator, \
             then {way_out}",
            key_type(&entry.blob),
            entry.place()
        )
    }

    /// Where a key was looked for that is unknown.
    fn no_file_has_it(&self) -> String {
        let mut read = Vec::new();
        let mut unreadable = String::new();
        for file in self.gateway.host_key.files() {
            let name = file.display().to_string();
            match sys::read_file(file) {
                Ok(_) => read.push(name),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => unreadable += &format!("; {name} cannot be read: {}", cause(&e)),
            }
        }
        let gateway = self.gateway();
        match read.as_slice() {
            [] => format!("{gateway}: there is no known_hosts file that could have it{unreadable}"),
            read => format!("{gateway} does not stand in {}{unreadable}", read.join(", ")),
        }
    }

    /// That a key is unknown, and the way out.
    fn unknown(&self, offered: &str) -> String {
        let option = match self.gateway.host_key.asks {
            true => "",
            false => "-o StrictHostKeyChecking=ask ",
        };
        let call = format!("ssh {option}{}", self.gateway.by_hand);
        format!("{offered} is unknown; log in once by hand, comparing that: {call}")
    }
}

/// Whether that is an order of the user's (`a,b` or `^a`), not ssh's own, perhaps with
/// something added or removed (`+a`, `-a`): `ssh -G` prints all alike. ssh's own begins
/// with certificates; where all of these are removed, FIDO keys are still there, which
/// nobody writes down who wants a few algorithms.
fn is_users_own(order: &[String]) -> bool {
    let certificate = |name: &String| name.ends_with(CERTIFICATE);
    let begins_as_ssh = order.first().is_none_or(certificate);
    let certificates_removed =
        !order.iter().any(certificate) && order.iter().any(|name| name.starts_with("sk-"));
    !begins_as_ssh && !certificates_removed
}

/// `check_hostkeys_by_key_or_type` in hostfile.c. Of several other keys that
/// of the offered type tells most, so that is the one to name.
fn judge<'a>(entries: &'a [Entry], key: &[u8]) -> Verdict<'a> {
    let mut verdict = Verdict::Unknown;
    for entry in entries {
        match verdict {
            _ if entry.blob == key => return Verdict::Known(entry),
            Verdict::Changed(seen) if key_type(&seen.blob) == key_type(key) => {}
            _ => verdict = Verdict::Changed(entry),
        }
    }
    verdict
}

/// `SHA256:...` as ssh prints it: base64 without padding.
fn fingerprint(sha256: &[u8]) -> String {
    format!("SHA256:{}", base64_encode(sha256).trim_end_matches('='))
}

#[cfg(test)]
mod tests;
