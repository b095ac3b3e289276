//! Reads public keys as the SSH protocol sends them.

/// How the names of certificate algorithms end.
pub const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// The key type that goes with a signature algorithm (RFC 8332).
pub fn key_type(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-256" | "rsa-sha2-512" => "ssh-rsa",
        other => other,
    }
}

/// The type of a public key blob (RFC 4253, section 6.6; RFC 5656; RFC 8709),
/// if it is one that ssh would read: a line with any other is malformed.
pub fn type_of_blob(blob: &[u8]) -> Option<String> {
    let mut rest = blob;
    let mut next = || {
        let (field, tail) = split_field(rest)?;
        rest = tail;
        Some(field)
    };
    let name = str::from_utf8(next()?).ok()?;
    if name.ends_with(CERTIFICATE) {
        // Never equal to a plain key, so what is inside does not matter.
        return Some(name.to_owned());
    }
    let fields: Vec<&[u8]> = std::iter::from_fn(next).collect();
    let positive = |number: &[u8]| number.first().is_none_or(|b| *b < 0x80);
    let bits = |number: &[u8]| {
        let zeros = number.iter().take_while(|b| **b == 0).count();
        (number.len() - zeros) * 8 - number.get(zeros).map_or(0, |b| b.leading_zeros() as usize)
    };
    let point = |curve: &[u8], point: &[u8]| {
        let size = match curve {
            b"nistp256" => 32,
            b"nistp384" => 48,
            b"nistp521" => 66,
            _ => return false,
        };
        name.as_bytes().ends_with(curve) && point.len() == 1 + 2 * size && point[0] == 4
    };
    let sound = match (name, fields.as_slice()) {
        ("ssh-ed25519", [key]) | ("sk-ssh-ed25519@openssh.com", [key, _]) => key.len() == 32,
        ("ssh-rsa", [e, n]) => positive(e) && positive(n) && bits(n) >= 1024,
        ("ssh-dss", numbers @ [_, _, _, _]) => numbers.iter().all(|n| positive(n)),
        ("sk-ecdsa-sha2-nistp256@openssh.com", [b"nistp256", at, _]) => at.len() == 65,
        (_, [curve, at]) => name.starts_with("ecdsa-sha2-") && point(curve, at),
        _ => false,
    };
    (sound && rest.is_empty()).then(|| name.to_owned())
}

/// Whether `certificate` is one for `key`, a plain key. In a certificate a nonce
/// stands between the type and the fields of the key (PROTOCOL.certkeys).
pub fn certifies(certificate: &[u8], key: &[u8]) -> bool {
    let fields_certified = || {
        let (certificate_type, rest) = split_field(certificate)?;
        let (_nonce, rest) = split_field(rest)?;
        let (key_type, fields) = split_field(key)?;
        let plain = certificate_type.strip_suffix(CERTIFICATE.as_bytes())?;
        Some(plain == key_type && rest.starts_with(fields))
    };
    fields_certified().unwrap_or(false)
}

/// A `string` of the SSH protocol (RFC 4251, section 5), and what follows it.
fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, tail) = bytes.split_first_chunk()?;
    tail.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A key blob: each field with its length before it.
    pub fn blob(fields: &[&[u8]]) -> Vec<u8> {
        let field = |f: &&[u8]| [&(f.len() as u32).to_be_bytes(), *f].concat();
        fields.iter().flat_map(field).collect()
    }

    #[test]
    fn keys_that_ssh_reads() {
        let point = |size| [&[4], vec![1; size].as_slice()].concat();
        let rsa = b"ssh-rsa".as_slice();
        let p384 = b"ecdsa-sha2-nistp384".as_slice();
        for (sound, fields) in [
            (true, &[rsa, &[3], &[0x7f; 129]][..]),
            (true, &[rsa, &[3], &[&[0, 0x80][..], &[1; 127]].concat()]),
            (false, &[rsa, &[3], &[0x7f; 128]]),
            (false, &[rsa, &[3], &[0x80; 256]]),
            (false, &[rsa, &[3], &[1; 256], &[]]),
            (true, &[p384, b"nistp384", &point(96)]),
            (false, &[p384, b"nistp256", &point(64)]),
            (false, &[p384, b"nistp384", &point(95)]),
            (false, &[p384, b"nistp384", &[2; 97]]),
            (true, &[b"sk-ssh-ed25519@openssh.com", &[1; 32], b"ssh:"]),
            (false, &[b"ssh-ed25519", &[1; 31]]),
            (false, &[b"ssh-ed448", &[1; 57]]),
        ] {
            assert_eq!(type_of_blob(&blob(fields)).is_some(), sound, "{fields:?}");
        }
    }

    #[test]
    fn a_certificate_certifies_its_key() {
        let cert: &[u8] = b"ssh-ed25519-cert-v01@openssh.com";
        let mut cert = blob(&[cert, b"nonce", b"key", b"serial and more"]);
        assert!(certifies(&cert, &blob(&[b"ssh-ed25519", b"key"])));
        assert!(!certifies(&cert, &blob(&[b"ssh-ed25519", b"kex"])));
        assert!(!certifies(&cert, &blob(&[b"ssh-rsa", b"key"])));
        cert.truncate(40);
        assert!(!certifies(&cert, &blob(&[b"ssh-ed25519", b"key"])));
    }
}
