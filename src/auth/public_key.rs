//! Reads public keys and certificates as the SSH protocol sends them: as blobs,
//! whose fields are strings of it (RFC 4251, section 5).

use super::base64::base64_encode;

/// How the names of certificate algorithms end.
pub const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// A certificate of an RSA key.
pub const RSA_CERTIFICATE: &str = "ssh-rsa-cert-v01@openssh.com";

/// The key type that goes with a signature algorithm (RFC 8332).
pub fn type_for(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-256" | "rsa-sha2-512" => "ssh-rsa",
        "rsa-sha2-256-cert-v01@openssh.com" | "rsa-sha2-512-cert-v01@openssh.com" => {
            RSA_CERTIFICATE
        }
        other => other,
    }
}

/// The type that a blob says it has, such as `ssh-ed25519`; empty where it is none.
pub fn key_type(mut blob: &[u8]) -> &str {
    let name = take_string(&mut blob).unwrap_or_default();
    str::from_utf8(name).unwrap_or_default()
}

/// The type of a public key blob (RFC 4253, section 6.6; RFC 5656; RFC 8709),
/// if it is one that ssh would read: a line with any other is malformed.
pub fn sound_type(blob: &[u8]) -> Option<&str> {
    let mut rest = blob;
    let name = str::from_utf8(take_string(&mut rest)?).ok()?;
    if name.ends_with(CERTIFICATE) {
        // Never equal to a plain key, so what is inside does not matter.
        return Some(name);
    }
    let fields: Vec<&[u8]> = std::iter::from_fn(|| take_string(&mut rest)).collect();
    let positive = |number: &[u8]| number.first().is_none_or(|b| *b < 0x80);
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
    (sound && rest.is_empty()).then_some(name)
}

/// How long the RSA key is, in bits, that a blob is or certifies; `None` for others.
pub fn rsa_bits(blob: &[u8]) -> Option<usize> {
    let plain = certified_key(blob);
    let mut rest = plain.as_deref().unwrap_or(blob);
    let kind = take_string(&mut rest)?;
    let (_exponent, modulus) = (take_string(&mut rest)?, take_string(&mut rest)?);
    (kind == b"ssh-rsa").then(|| bits(modulus))
}

/// The length of a number, in bits.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    (number.len() - zeros) * 8 - number.get(zeros).map_or(0, |b| b.leading_zeros() as usize)
}

/// The plain public key inside a certificate; `None` for anything else, and for
/// a type that libssh2 cannot log in with.
pub fn certified_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (plain, fields) = opened(certificate)?;
    let count = match plain {
        "ssh-ed25519" => 1,
        "ssh-rsa" => 2,
        kind if kind.starts_with("ecdsa-sha2-") => 2,
        _ => return None,
    };
    let mut rest = fields;
    for _ in 0..count {
        take_string(&mut rest)?;
    }
    let fields = &fields[..fields.len() - rest.len()];
    let length = (plain.len() as u32).to_be_bytes();
    Some([&length, plain.as_bytes(), fields].concat())
}

/// The type of the key that a certificate is for, and what follows the nonce:
/// the fields of that key first (PROTOCOL.certkeys).
fn opened(mut certificate: &[u8]) -> Option<(&str, &[u8])> {
    let plain = key_type(certificate).strip_suffix(CERTIFICATE)?;
    let (_type, _nonce) = (take_string(&mut certificate)?, take_string(&mut certificate)?);
    Some((plain, certificate))
}

/// A key or certificate as files have it: the type, then the blob in base64.
pub fn public_line(blob: &[u8]) -> String {
    format!("{} {}", key_type(blob), base64_encode(blob))
}

/// Takes a string off the front: a length of four bytes, then the bytes.
pub fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk()?;
    let (text, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = tail;
    Some(text)
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
            assert_eq!(sound_type(&blob(fields)).is_some(), sound, "{fields:?}");
        }
    }

    #[test]
    fn a_certificate_holds_a_key() {
        let cert = b"ssh-ed25519-cert-v01@openssh.com".as_slice();
        let cert = blob(&[cert, b"nonce", &[7; 32], b"serial", b"more"]);
        let plain = blob(&[b"ssh-ed25519", &[7; 32]]);
        assert_eq!(certified_key(&cert), Some(plain.clone()));
        assert_eq!(certified_key(&plain), None);
        assert_eq!(certified_key(&cert[..50]), None);
        assert_eq!(certified_key(&[]), None);
        assert_eq!(key_type(&cert), "ssh-ed25519-cert-v01@openssh.com");
    }

    #[test]
    fn no_length_goes_past_the_end() {
        assert_eq!(take_string(&mut &[0, 0, 0][..]), None);
        assert_eq!(take_string(&mut &[0xff, 0xff, 0xff, 0xff, 1][..]), None);
        assert_eq!(key_type(&[0, 0, 0, 1, 0xff]), "");
    }
}
