//! Which keys to show to a gateway, in which order; pure.
//!
//! The order is ssh's (`sshconnect2.c`, `pubkey_prepare`): certificates, then
//! agent keys that are also identity files, then other agent keys, then
//! identity files. What libssh2 cannot do: a certificate file whose private key
//! only the agent holds, and RSA certificates inside an agent (it asks the
//! agent for a SHA-1 signature then).

use super::agent::AgentKey;
use super::identities::{Credentials, Identity};
use super::public_key::{certified_key, key_type};

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
