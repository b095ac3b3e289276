//! Reads and writes the lines of known_hosts files.
//!
//! The format is that of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"; in the corners
//! that the manual leaves open it is what OpenSSH 9.2 does. libssh2's own
//! `known_hosts` knows neither wildcards nor markers, and one bad line fails
//! its whole file.

use super::base64::{base64_decode, base64_encode};
use super::public_key::{public_line, sound_type, type_for};
use crate::sys;
use std::ffi::OsStr;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A well-formed line.
#[derive(Debug)]
pub struct Entry {
    /// `@cert-authority`, `@revoked` or nothing: the gateway's own key.
    pub marker: &'static str,
    /// The public key as the SSH protocol sends it.
    pub blob: Vec<u8>,
    /// Where the line stands.
    pub file: PathBuf,
    /// Counted from 1.
    pub number: usize,
}

impl Entry {
    /// `file:line`, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.number)
    }
}

const BLANK: [u8; 2] = [b' ', b'\t'];

/// A file, as far as it could be read.
#[derive(Debug)]
pub struct KeyFile {
    /// Where.
    pub path: PathBuf,
    /// Bytes, not text: one name in Latin-1 must not hide the file.
    pub text: io::Result<Vec<u8>>,
}

/// Reads each file once.
pub fn read_files<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Vec<KeyFile> {
    files.map(|path| KeyFile { path: path.clone(), text: sys::read_file(path) }).collect()
}

/// The lines that name `name`, which is lower case. Files that could not be read
/// and malformed lines are skipped.
pub fn lines(files: &[KeyFile], name: &str) -> Vec<Entry> {
    let mut lines = Vec::new();
    for file in files {
        let text = file.text.as_deref().unwrap_or_default();
        for (index, line) in text.split(|b| *b == b'\n').enumerate() {
            if let Some((marker, blob)) = parse(line, name) {
                let (file, number) = (file.path.clone(), index + 1);
                lines.push(Entry { marker, blob, file, number });
            }
        }
    }
    lines
}

/// Marker and blob of a line that is well formed and names `name`
/// (`hostkeys_foreach_file` in hostfile.c, `sshkey_read` in sshkey.c).
fn parse(line: &[u8], name: &str) -> Option<(&'static str, Vec<u8>)> {
    let line = trim_blanks(line);
    if line.first() == Some(&b'#') {
        return None;
    }
    let (marker, line) = split_marker(line)?;
    let (hosts, rest) = split_word(line);
    if !names(hosts, name) {
        return None;
    }
    let (label, rest) = split_word(rest);
    let blob = base64_decode(str::from_utf8(split_word(rest).0).ok()?)?;
    let sound = sound_type(&blob)? == type_for(str::from_utf8(label).ok()?);
    sound.then_some((marker, blob))
}

fn split_marker(line: &[u8]) -> Option<(&'static str, &[u8])> {
    if line.first() != Some(&b'@') {
        return Some(("", line));
    }
    // As ssh does it: up to the first space; a tab ends the marker only in a
    // line without any space.
    let at = |blank| line.iter().position(|b| *b == blank);
    let (word, rest) = line.split_at(at(b' ').or_else(|| at(b'\t'))?);
    let rest = trim_blanks(rest);
    match word {
        _ if rest.first() == Some(&b'@') => None,
        b"@cert-authority" => Some(("@cert-authority", rest)),
        b"@revoked" => Some(("@revoked", rest)),
        _ => None,
    }
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !BLANK.contains(b));
    &text[start.unwrap_or(text.len())..]
}

/// The first word, and what follows it without the blanks between.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| BLANK.contains(b));
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, trim_blanks(rest))
}

/// Whether a line's host field names `name`, which is lower case: one hashed
/// name, or a list of patterns of which one matches and no negated one does.
fn names(field: &[u8], name: &str) -> bool {
    if field.first() == Some(&b'|') {
        return salt_of(field).is_some_and(|salt| hash_name(&salt, name).as_bytes() == field);
    }
    let mut found = false;
    for pattern in field.split(|b| *b == b',') {
        let negated = pattern.first() == Some(&b'!');
        let pattern = pattern[usize::from(negated)..].to_ascii_lowercase();
        // match_pattern_list in match.c gives up on patterns of this length.
        if pattern.len() >= 1023 {
            return false;
        }
        if matches(&pattern, name.as_bytes()) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// `*` is any run of bytes, `?` any one byte. After a mismatch the last `*`
/// takes one byte more, which keeps hostile patterns from costing exponential time.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&b) if b == b'?' || b == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Whether `name`, or the host in `[host]:port`, has none of the characters
/// with which ssh never writes a name down (`check_host_key` in sshconnect.c).
pub fn can_be_written(name: &str) -> bool {
    let bare = name.strip_prefix('[').unwrap_or(name);
    let bare = bare.rsplit_once("]:").map_or(bare, |(host, _)| host);
    !bare.is_empty() && !bare.contains(|c: char| c <= ' ' || "@?*#[]|'\"\\,!".contains(c))
}

/// Adds a line for `key` to `file`, which is created (0600) together with its
/// directory (0700) where needed. It is one write, so that jobs that start
/// together do not mix their lines.
///
/// # Errors
/// Those of opening and writing the file.
pub fn append(file: &Path, name: &str, hashed: bool, key: &[u8]) -> io::Result<()> {
    let hashed = hashed.then(|| hash_name(&rand::random(), name));
    let name = hashed.as_deref().unwrap_or(name);
    let line = format!("{name} {}\n", public_line(key));

    let directory = file.parent().filter(|d| *d != OsStr::new(""));
    if let Some(directory) = directory.filter(|d| !d.exists()) {
        DirBuilder::new().mode(0o700).create(directory)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut to = options.custom_flags(sys::NOCTTY_NONBLOCK).open(file)?;
    to.metadata().and_then(sys::regular)?;
    let mut last = [b'\n'];
    if to.seek(SeekFrom::End(-1)).is_ok() {
        // A line without its end must not swallow ours. /dev/null reads nothing.
        let _ = to.read(&mut last)?;
    }
    let line_break = if last == *b"\n" { "" } else { "\n" };
    to.write_all(format!("{line_break}{line}").as_bytes())
}

/// The salt of `|1|salt|hash`.
fn salt_of(field: &[u8]) -> Option<[u8; 20]> {
    let (salt, _) = str::from_utf8(field).ok()?.strip_prefix("|1|")?.split_once('|')?;
    base64_decode(salt)?.try_into().ok()
}

/// `|1|salt|hash`, both in base64; the hash is HMAC-SHA1 with the salt as key.
fn hash_name(salt: &[u8; 20], name: &str) -> String {
    // RFC 2104: the key, filled up to a block with zeros, xor a constant.
    let block = |pad: u8| {
        let mut block = [pad; 64];
        block.iter_mut().zip(salt).for_each(|(b, s)| *b ^= s);
        block
    };
    let inner = sha1(&[&block(0x36), name.as_bytes()].concat());
    let hash = sha1(&[block(0x5c).as_slice(), &inner].concat());
    format!("|1|{}|{}", base64_encode(salt), base64_encode(&hash))
}

/// SHA-1 (RFC 3174), because known_hosts hashes names with it and libssh2
/// keeps its own to itself.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((message.len() + 9).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());

    let mut state: [u32; 5] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
    for block in padded.as_chunks::<64>().0 {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        for i in 16..80 {
            words[i] = (words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (i, word) in words.into_iter().enumerate() {
            let (mixed, constant) = match i / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let sum =
                [mixed, e, constant, word].into_iter().fold(a.rotate_left(5), u32::wrapping_add);
            (a, b, c, d, e) = (sum, a, b.rotate_left(30), c, d);
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d, e]) {
            *old = old.wrapping_add(new);
        }
    }
    std::array::from_fn(|i| state[i / 4].to_be_bytes()[i % 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::public_key::tests::blob;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const HASHED: &str = "|1|AAECAwQFBgcICQoLDA0ODxAREhM=|MCG+v+7iG2Atuuy6MI/AzlkP0Wc=";

    #[test]
    fn names_and_patterns() {
        let long = format!("[gate]:2222,{}", "x".repeat(1023));
        for (field, expected) in [
            ("[gate]:2222", true),
            ("[GATE]:2222", true),
            ("gate", false),
            ("[gate]:222", false),
            ("a,[gate]:2222,b", true),
            (",[gate]:2222,", true),
            ("", false),
            (",", false),
            ("*", true),
            ("[*]:2222", true),
            ("[g?te]:*", true),
            ("?[gate]:2222", false),
            ("*?2", true),
            ("*[gate]:2222*", true),
            ("*,![gate]:2222", false),
            ("![gate]:2222,*", false),
            ("!*", false),
            ("!b,*", true),
            ("!b", false),
            ("!![gate]:2222,*", true),
            (HASHED, true),
            // Hashed names stand alone, and are compared letter by letter.
            (&HASHED.replace("|1|", "|2|"), false),
            (&HASHED.replace('=', ""), false),
            (&HASHED.to_lowercase(), false),
            (&format!("{HASHED},*"), false),
            (&format!("*,{HASHED}"), true),
            ("|1|", false),
            ("|1||", false),
            (&long, false),
            (&long[..long.len() - 1], true),
        ] {
            let found = names(field.as_bytes(), "[gate]:2222");
            assert_eq!(found, expected, "{field}");
        }
        assert!(names(b"caf\xe9,gate", "gate"));
        // Exponential for a matcher that recurses at every asterisk.
        assert!(!matches(&b"*a".repeat(300), "a".repeat(299).as_bytes()));
    }

    #[test]
    fn lines() {
        let key = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &[7; 32]].concat();
        let key = base64_encode(&key);
        let rest = format!("gate ssh-ed25519 {key}");
        for (line, marker) in [
            (rest.clone(), Some("")),
            (format!(" \tgate\t ssh-ed25519\t{key} a b # c\r"), Some("")),
            (format!("{rest}\r"), Some("")),
            (format!("@revoked {rest}"), Some("@revoked")),
            (format!("@revoked \t{rest}"), Some("@revoked")),
            (format!("@cert-authority {rest}"), Some("@cert-authority")),
            (format!("@revoked\t{}", rest.replace(' ', "\t")), Some("@revoked")),
            // A corner of ssh: the tab ends no marker while a space is to come.
            (format!("@revoked\t{rest}"), None),
            (format!("@revoked @revoked {rest}"), None),
            (format!("@revoke {rest}"), None),
            (format!("#{rest}"), None),
            (format!("other{rest}"), None),
            ("".into(), None),
            ("@revoked".into(), None),
            ("gate".into(), None),
            ("gate ssh-ed25519".into(), None),
            (format!("gate {key}"), None),
            (format!("gate ssh-rsa {key}"), None),
            (format!("gate ssh-ed25519 {}", &key[4..]), None),
            (format!("gate ssh-ed25519 {}", &key[..64]), None),
            (format!("gate ssh-ed25519 {key}AAAA"), None),
            ("gate 1024 65537 123456789".into(), None),
        ] {
            let found = parse(line.as_bytes(), "gate").map(|(marker, ..)| marker);
            assert_eq!(found, marker, "{line:?}");
        }
    }

    #[test]
    fn hashes() {
        let hex = |bytes: [u8; 20]| bytes.map(|b| format!("{b:02x}")).concat();
        for (length, expected) in [
            (0, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (3, "7e240de74fb1ed08fa08d38063f6a6a91462a815"),
            (55, "c1c8bbdc22796e28c0e15163d20899b65621d65a"),
            (56, "c2db330f6083854c99d4b5bfb6e8f29f201be699"),
            (63, "03f09f5b158a7a8cdad920bddc29b81c18a551f5"),
            (64, "0098ba824b5c16427bd7a1122a5a442a25ec644d"),
            (65, "11655326c708d70319be2610e8a57d9a5b959d3b"),
            (119, "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56"),
            (120, "f34c1488385346a55709ba056ddd08280dd4c6d6"),
            (1000, "291e9a6c66994949b57ba5e650361e98fc36b1ba"),
        ] {
            assert_eq!(hex(sha1(&vec![b'a'; length])), expected, "{length}");
        }
        let salt = std::array::from_fn(|i| i as u8);
        assert_eq!(hash_name(&salt, "[gate]:2222"), HASHED);
    }

    #[test]
    fn lines_are_added_to_private_files() {
        let dir = std::env::temp_dir().join(format!("licfwd-append-{}", std::process::id()));
        let file = dir.join("known_hosts");
        let key = blob(&[b"type"]);
        append(&file, "a", false, &key).expect("create");
        let mode = |path: &Path| fs::metadata(path).expect("made").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
        append(&file, "b", false, &key).expect("append");
        fs::write(&file, "a line without end").expect("write");
        append(&file, "c", false, &key).expect("append");
        let text = fs::read_to_string(&file).expect("read");
        assert_eq!(text, "a line without end\nc type AAAABHR5cGU=\n");
        append(Path::new("/dev/null"), "d", true, &key).expect("ssh writes there too");
        fs::remove_dir_all(&dir).expect("remove");
        for (name, expected) in
            [("gate", true), ("[::1]:22", true), ("a*", false), ("[a,b]:22", false), ("", false)]
        {
            assert_eq!(can_be_written(name), expected, "{name}");
        }
    }
}
