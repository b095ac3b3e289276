//! Which keys to show to a gateway, in which order; pure.
//!
//! The order is ssh's (`sshconnect2.c`, `pubkey_prepare`): certificates, then
//! agent keys that are also identity files, then other agent keys, then
//! identity files. What libssh2 cannot do: a certificate file whose private key
//! only the agent holds, and RSA certificates inside an agent (it asks the
//! agent for a SHA-1 signature then).

use super::agent::{AgentFound, AgentKey};
use super::identities::{Credentials, Identity};
use super::public_key::{CERTIFICATE, certified_key, key_type, rsa_bits, type_for};
use crate::config::{AlgorithmSettings, Gateway};

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

/// What of these only ssh can show to the gateway: a certificate whose key is in the
/// agent, an RSA certificate in it; or all there is, where no key is at hand and a
/// person neither (`attended`).
pub fn only_ssh_shows(
    gateway: &Gateway,
    credentials: &Credentials,
    agent: &AgentFound,
    attended: bool,
) -> Option<String> {
    let (login, held) = (&gateway.login, agent.as_ref().ok().and_then(Option::as_ref));
    let held = held.map_or(&[][..], |agent| &agent.keys);
    if login.pubkey {
        let holds = |certificate: &Vec<u8>| {
            let key = certified_key(certificate);
            held.iter().any(|held| Some(&held.blob) == key.as_ref())
        };
        let shut = credentials.identities.iter().filter(|i| i.private.is_none() || i.is_locked());
        let shut = shut.flat_map(|i| i.certificates.iter().map(|c| (&i.path, c)));
        let lone = credentials.without_key.iter().map(|(path, certificate)| (path, certificate));
        if let Some((path, _)) = shut.chain(lone).find(|(_, certificate)| holds(certificate)) {
            return Some(format!(
                "the certificate of {}, whose key the agent holds",
                path.display()
            ));
        }
    }
    let shown = offers(credentials, held, login.identities_only);
    let rsa = shown.iter().find_map(|offer| match offer {
        Offer::Agent(key) if key_type(&key.blob) == "ssh-rsa-cert-v01@openssh.com" => Some(key),
        _ => None,
    });
    if let Some(key) = rsa {
        return Some(format!("the RSA certificate {} in the agent", key.comment));
    }
    let no_key = |offer: &Offer| match offer {
        Offer::File(at, _) => credentials.identities[*at].private.is_none(),
        Offer::Agent(_) => false,
    };
    let nothing = !login.pubkey || shown.iter().all(no_key);
    let keyword = match (login.hostbased, login.gssapi) {
        (true, _) => "HostbasedAuthentication",
        (_, true) => "GSSAPIAuthentication",
        _ => return None,
    };
    let alone = nothing && (!attended || login.batch_mode);
    alone.then(|| format!("no key to show, and {keyword} yes"))
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

/// The signatures of `wanted` (PubkeyAcceptedAlgorithms) that libssh2 can make, which
/// are those that it can check (`supported`), by the names of plain keys.
pub fn signatures(supported: &[&str], wanted: &[String]) -> Vec<String> {
    let plain = wanted.iter().map(|name| name.trim_end_matches(CERTIFICATE));
    let mut known: Vec<String> = Vec::new();
    for name in plain.filter(|name| supported.contains(name)) {
        if !known.iter().any(|known| known == name) {
            known.push(name.to_owned());
        }
    }
    known
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
