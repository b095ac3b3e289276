//! Which keys to show to a gateway, in which order; pure.
//!
//! The order is ssh's (`sshconnect2.c`, `pubkey_prepare`): certificates, then
//! agent keys that are also identity files, then other agent keys, then
//! identity files. What libssh2 cannot do: a certificate file whose private key
//! only the agent holds, and RSA certificates inside an agent (it asks the
//! agent for a SHA-1 signature then).

use super::agent::{Agent, AgentKey};
use super::identities::{Credentials, Identity};
use super::public_key::{RSA_CERTIFICATE, certified_key, key_type, rsa_bits, type_for};
use crate::config::{AlgorithmSettings, LoginSettings};

/// A key to show to the gateway.
pub enum Offer {
    /// The identity at this place in the credentials, or a certificate of it.
    File(usize, Option<Vec<u8>>),
    /// A key or certificate that the agent holds.
    Agent(AgentKey),
}

/// What to show, in order. `held` is what the agent has; with `identities_only`
/// it shows no keys but those of the identity files.
pub fn offers(credentials: &Credentials, held: &[AgentKey], identities_only: bool) -> Vec<Offer> {
    let identities = &credentials.identities;
    // A locked certificate comes after the agent, which may hold it unlocked.
    let (locked, open): (Vec<usize>, Vec<usize>) = (0..identities.len())
        .filter(|&at| identities[at].private.is_some())
        .partition(|&at| identities[at].is_locked());
    let certificates = |at: usize| {
        let certificates = identities[at].certificates.iter();
        certificates.map(move |c| Offer::File(at, Some(c.clone())))
    };
    // An agent's certificate belongs to the identity whose key it certifies.
    let place = |blob: &[u8]| {
        let plain = certified_key(blob).unwrap_or_else(|| blob.to_vec());
        let mine = |identity: &Identity| identity.public.as_ref() == Some(&plain);
        identities.iter().position(mine)
    };
    let mut held: Vec<_> = held.iter().map(|key| (place(&key.blob), key)).collect();
    held.retain(|(place, _)| place.is_some() || !identities_only);
    held.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));

    let open = open.into_iter().flat_map(certificates);
    let held = held.into_iter().map(|(_, key)| Offer::Agent(key.clone()));
    let locked = locked.into_iter().flat_map(certificates);
    let files = (0..identities.len()).map(|at| Offer::File(at, None));
    open.chain(held).chain(locked).chain(files).collect()
}

/// What only ssh can show to the gateway: a certificate whose key is in no file that is
/// open, an RSA certificate in the agent. Or all there is: where no key is at hand and
/// nobody to type (`attended`), it may have a ticket, or a node's word.
pub fn only_ssh_shows(
    login: &LoginSettings,
    credentials: &Credentials,
    agent: Option<&Agent>,
    attended: bool,
) -> Option<String> {
    let held = agent.map_or(&[][..], |agent| &agent.keys);
    let open = |i: &Identity| i.private.is_some() && (attended || !i.is_locked());
    let shut = credentials.identities.iter().filter(|i| !open(i) && !i.certificates.is_empty());
    let mut lone = shut.map(|i| &i.path).chain(&credentials.without_key);
    if let Some(path) = lone.next().filter(|_| login.pubkey) {
        return Some(format!("the certificate of {}, whose key is elsewhere", path.display()));
    }
    let mut alone = true;
    for offer in offers(credentials, held, login.identities_only) {
        match offer {
            Offer::Agent(AgentKey { blob, comment }) if key_type(&blob) == RSA_CERTIFICATE => {
                return Some(format!("the RSA certificate {comment} in the agent"));
            }
            Offer::Agent(_) => alone = false,
            Offer::File(at, _) => alone &= !open(&credentials.identities[at]),
        }
    }
    let keyword = match (login.hostbased, login.gssapi) {
        (true, _) => "HostbasedAuthentication",
        (_, true) => "GSSAPIAuthentication",
        _ => return None,
    };
    let alone = !attended && (alone || !login.pubkey);
    alone.then(|| format!("{keyword} yes, and no key to show"))
}

/// Why a key is not to be shown: PubkeyAcceptedAlgorithms and RequiredRSASize. Of a key
/// whose public part nobody knows, it has to be allowed whatever it may be.
pub fn not_to_be_shown(algorithms: &AlgorithmSettings, blob: Option<&[u8]>) -> Option<String> {
    let accepted = |kind: &str| {
        let mut list = algorithms.public_key.iter();
        list.as_slice().is_empty() || list.any(|name| type_for(name) == kind)
    };
    let Some(blob) = blob else {
        let all = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"].into_iter().all(accepted);
        let why =
            "of an unknown kind, which PubkeyAcceptedAlgorithms may not allow: add its .pub file";
        return (!all).then(|| why.to_owned());
    };
    let (kind, required) = (key_type(blob), algorithms.rsa_bits);
    if !accepted(kind) {
        return Some(format!("PubkeyAcceptedAlgorithms does not allow {kind}"));
    }
    let short = rsa_bits(blob).is_some_and(|bits| bits < required);
    short.then(|| format!("shorter than RequiredRSASize ({required} bits)"))
}

impl Offer {
    /// The public key or certificate, where it is known.
    pub fn blob(&self, credentials: &Credentials) -> Option<Vec<u8>> {
        match self {
            Offer::File(_, Some(certificate)) => Some(certificate.clone()),
            Offer::File(at, None) => credentials.identities[*at].public.clone(),
            Offer::Agent(key) => Some(key.blob.clone()),
        }
    }

    /// How messages call it.
    pub fn name(&self, credentials: &Credentials) -> String {
        let path = |at: &usize| credentials.identities[*at].path.display();
        match self {
            Offer::File(at, Some(_)) => format!("certificate of {}", path(at)),
            Offer::File(at, None) => format!("key {}", path(at)),
            Offer::Agent(AgentKey { blob, comment }) => {
                format!("agent key {comment} ({})", key_type(blob))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key_file::PrivateKey;
    use crate::auth::public_key::tests::blob;
    use crate::config::tests::gateway;
    use std::path::PathBuf;

    fn key(seed: u8) -> Vec<u8> {
        blob(&[b"ssh-ed25519", &[seed; 32]])
    }

    fn certificate(seed: u8) -> Vec<u8> {
        blob(&[b"ssh-ed25519-cert-v01@openssh.com", b"nonce", &[seed; 32]])
    }

    fn identity(name: &str, seed: u8, encrypted: bool, certified: bool) -> Identity {
        let text = String::new();
        Identity {
            path: name.into(),
            public: Some(key(seed)),
            private: Some(PrivateKey { text, encrypted }),
            passphrase: None,
            certificates: certified.then(|| certificate(seed)).into_iter().collect(),
        }
    }

    /// Goal: what libssh2 need not try is known before, and nothing else is ssh's.
    #[test]
    fn what_only_ssh_can_show() {
        let found = |identities: Vec<Identity>, without_key: Vec<PathBuf>| Credentials {
            identities,
            flaws: Vec::new(),
            without_key,
            unreadable: false,
            needs_a_person: false,
        };
        let public = |certified| Identity { private: None, ..identity("p", 1, false, certified) };
        let [plain, locked] = [false, true].map(|locked| identity("k", 1, locked, false));
        let certified = |locked| identity("c", 1, locked, true);
        let (host, gss) = ("hostbasedauthentication yes", "gssapiauthentication yes");
        for (config, credentials, attended, alone) in [
            ("", found(vec![], vec![]), false, None),
            ("", found(vec![certified(false)], vec![]), false, None),
            ("", found(vec![certified(true)], vec![]), true, None),
            ("", found(vec![certified(true)], vec![]), false, Some("the certificate of c,")),
            ("", found(vec![public(true)], vec![]), true, Some("the certificate of p,")),
            ("", found(vec![], vec!["l".into()]), true, Some("the certificate of l,")),
            ("pubkeyauthentication no", found(vec![], vec!["l".into()]), true, None),
            (host, found(vec![], vec![]), true, None),
            (host, found(vec![plain], vec![]), false, None),
            (host, found(vec![locked], vec![]), false, Some("HostbasedAuthentication yes,")),
            (gss, found(vec![public(false)], vec![]), false, Some("GSSAPIAuthentication yes,")),
        ] {
            let login = gateway(config).login;
            let told = only_ssh_shows(&login, &credentials, None, attended).unwrap_or_default();
            assert!(told.starts_with(alone.unwrap_or("")), "{config}: {told}");
            assert_eq!(told.is_empty(), alone.is_none(), "{config}: {told}");
        }
    }

    #[test]
    fn keys_that_are_not_to_be_shown() {
        let rsa = |kind: &[u8]| blob(&[kind, &[1, 0, 1], &[0x7f; 256]]);
        let certificate = blob(&[RSA_CERTIFICATE.as_bytes(), b"nonce", &[3], &[0x7f; 256], b""]);
        for (config, key, shown) in [
            ("", Some(rsa(b"ssh-rsa")), true),
            ("", None, true),
            ("requiredrsasize 2047", Some(rsa(b"ssh-rsa")), true),
            ("requiredrsasize 2048", Some(rsa(b"ssh-rsa")), false),
            ("requiredrsasize 2048", Some(certificate.clone()), false),
            ("requiredrsasize 2048", Some(key(1)), true),
            ("pubkeyacceptedalgorithms rsa-sha2-256", Some(rsa(b"ssh-rsa")), true),
            ("pubkeyacceptedkeytypes rsa-sha2-256", Some(key(1)), false),
            ("pubkeyacceptedalgorithms rsa-sha2-512", Some(certificate.clone()), false),
            ("pubkeyacceptedalgorithms rsa-sha2-512-cert-v01@openssh.com", Some(certificate), true),
            ("pubkeyacceptedalgorithms rsa-sha2-256", None, false),
        ] {
            let algorithms = gateway(config).algorithms;
            let why = not_to_be_shown(&algorithms, key.as_deref());
            assert_eq!(why.is_none(), shown, "{config}: {why:?}");
        }
    }

    #[test]
    fn the_order_is_that_of_ssh() {
        let credentials = Credentials {
            identities: vec![
                identity("locked", 1, true, true),
                identity("open", 2, false, true),
                identity("plain", 3, false, false),
            ],
            flaws: Vec::new(),
            without_key: Vec::new(),
            unreadable: false,
            needs_a_person: false,
        };
        let held = |comment: &str, blob| AgentKey { blob, comment: comment.into() };
        let held = [held("other", key(9)), held("third", key(3)), held("first", certificate(1))];
        let own = "certificate of open,\
            agent key first (ssh-ed25519-cert-v01@openssh.com),agent key third (ssh-ed25519),";
        let files = "certificate of locked,key locked,key open,key plain";
        for (identities_only, expected) in [
            (true, format!("{own}{files}")),
            (false, format!("{own}agent key other (ssh-ed25519),{files}")),
        ] {
            let offers = offers(&credentials, &held, identities_only);
            let names: Vec<String> = offers.iter().map(|o| o.name(&credentials)).collect();
            assert_eq!(names.join(","), expected);
        }
    }
}
