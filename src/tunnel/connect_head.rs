//! The head of a CONNECT request, and the answers to it (RFC 9110, section 9.3.6); pure.
//!
//! ```text
//! CONNECT token.gurobi.com:443 HTTP/1.1
//! Host: token.gurobi.com:443
//! (empty line)
//! ```
//! The first line alone says what is asked for; fields are checked for their form and
//! mean nothing here: no `Proxy-*`, no length and no keep-alive, because whatever follows
//! is the stream's. What is not exactly understood asks for nothing.

use crate::target::{self, check_host, split_port};

/// What a client may say before it gets its stream, in bytes.
pub const MAX_HEAD: usize = 8192;

/// The answer to who gets a stream; what follows is the stream's.
pub const GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What a client's first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// May become a head.
    Unfinished,
    /// A head of so many bytes asks for that host and port.
    Connect(usize, String, u16),
    /// A whole head with another method.
    OtherMethod,
    /// None; what is wrong.
    Bad(&'static str),
}

/// Why a client gets no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its head is none.
    BadRequest = 400,
    /// The target does not have that host.
    Forbidden = 403,
    /// It wants something else than a stream.
    MethodNotAllowed = 405,
    /// The gateway cannot open it.
    BadGateway = 502,
}

/// Looks at what has come so far.
pub fn look(bytes: &[u8]) -> Look {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let head = &bytes[..end.map_or(bytes.len(), |end| end + 2)];
    if let Some(why) = unprintable(head) {
        return Look::Bad(why);
    }
    let Some(end) = end else {
        return Look::Unfinished;
    };
    let mut lines = head[..end].split(|byte| *byte == b'\n').map(|line| match line {
        [line @ .., b'\r'] => line,
        line => line,
    });
    let request = lines.next().unwrap_or_default();
    match (read_request(request), check_fields(lines)) {
        (Ok(Some((host, port))), Ok(())) => Look::Connect(end + 4, host.to_owned(), port),
        (Ok(None), Ok(())) => Look::OtherMethod,
        (Err(why), _) | (_, Err(why)) => Look::Bad(why),
    }
}

/// What no head has in it: a client that speaks TLS or SOCKS is told so at its first byte.
fn unprintable(head: &[u8]) -> Option<&'static str> {
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' if !matches!(head.get(at + 1), None | Some(b'\n')) => {
                return Some("a CR without an LF");
            }
            b'\n' if at == 0 || head[at - 1] != b'\r' => return Some("an LF without a CR"),
            b'\r' | b'\n' | b'\t' => {}
            0..b' ' | 0x7f => return Some("this is no HTTP: the proxy's address is http://"),
            _ => {}
        }
    }
    None
}

/// Host and port; `None`: the method is another.
fn read_request(line: &[u8]) -> Result<Option<(&str, u16)>, &'static str> {
    let line = str::from_utf8(line).map_err(|_| "a request line that is not ASCII")?;
    let [method, authority, version] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("a request line has three words");
    };
    let minor = version.strip_prefix("HTTP/1.").map(str::as_bytes);
    if !matches!(minor, Some([b'0'..=b'9'])) {
        return Err("expected HTTP/1.1");
    }
    if !is_token(method.as_bytes()) || authority.is_empty() {
        return Err("a request line begins with a method and a target");
    }
    if method != "CONNECT" {
        return Ok(None);
    }
    let (host, port) = split_port(authority);
    // Brackets are for IPv6, whose zones mean nothing elsewhere.
    let is_v6 = host.contains(':');
    let good = is_v6 == authority.starts_with('[') && !host.contains('%');
    match port.and_then(|port| target::port(port).ok()) {
        Some(port) if good && check_host(host).is_ok() => Ok(Some((host, port))),
        _ => Err("expected CONNECT host:port"),
    }
}

/// RFC 9112, sections 3.2 and 5. Clients of HTTP/1.0 send no Host, and it would say what
/// the request line says.
fn check_fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<(), &'static str> {
    let mut hosts = 0;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let name = &line[..colon.ok_or("a field without a colon")?];
        if !is_token(name) {
            return Err("a field's name is not one word");
        }
        hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
    }
    match hosts {
        0 | 1 => Ok(()),
        _ => Err("two Host fields"),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(word: &[u8]) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(inner)
}

/// An answer without a stream. `why` stands in its first line, because that is what most
/// clients show of it, and in its text.
pub fn refusal(status: Status, why: &str) -> Vec<u8> {
    const LIMIT: usize = 500;
    let plain = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let why: String = why.chars().take(LIMIT).map(plain).collect();
    let allow = match status {
        Status::MethodNotAllowed => "Allow: CONNECT\r\n",
        _ => "",
    };
    let text = format!("licfwd: {why}\n");
    format!(
        "HTTP/1.1 {} licfwd: {why}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         {allow}Connection: close\r\n\r\n{text}",
        status as u16,
        text.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_may_come_in_any_pieces() {
        let head =
            b"CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\nProxy-Connection: Keep-Alive\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(look(&head[..end]), Look::Unfinished, "{end}");
        }
        let connect = Look::Connect(head.len(), "a.b".into(), 443);
        assert_eq!(look(head), connect);
        // Whatever follows is the stream's.
        assert_eq!(look(&[&head[..], b"\x16\x03\x01\n\r"].concat()), connect);
    }

    #[test]
    fn what_asks_for_a_stream() {
        for (head, host, port) in [
            ("CONNECT a:1 HTTP/1.0\r\n\r\n", "a", 1),
            ("CONNECT [::1]:65535 HTTP/1.1\r\n\r\n", "::1", 65535),
            ("CONNECT A_b-c.:0443 HTTP/1.9\r\nX:\r\n\r\n", "A_b-c.", 443),
            ("CONNECT a:1 HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n", "a", 1),
            ("CONNECT a:1 HTTP/1.1\r\nX: caf\u{e9}\t\r\n\r\n", "a", 1),
        ] {
            assert_eq!(look(head.as_bytes()), Look::Connect(head.len(), host.into(), port));
        }
    }

    #[test]
    fn what_asks_for_nothing() {
        for head in ["GET / HTTP/1.1", "connect a:1 HTTP/1.1", "POST http://a/ HTTP/1.0"] {
            assert_eq!(look(format!("{head}\r\n\r\n").as_bytes()), Look::OtherMethod, "{head}");
        }
        for head in [
            "",
            "CONNECT",
            "CONNECT a:1",
            "CONNECT  a:1 HTTP/1.1",
            "CONNECT a:1  HTTP/1.1",
            " CONNECT a:1 HTTP/1.1",
            "CONNECT a:1 HTTP/1.1 ",
            "CONNECT\ta:1 HTTP/1.1",
            "CONNECT a:1 HTTP/2.0",
            "CONNECT a:1 HTTP/1.10",
            "CONNECT a:1 HTTP/1.",
            "CONNECT a:1 http/1.1",
            "CONNECT a HTTP/1.1",
            "CONNECT a: HTTP/1.1",
            "CONNECT :1 HTTP/1.1",
            "CONNECT a:0 HTTP/1.1",
            "CONNECT a:65536 HTTP/1.1",
            "CONNECT a:+1 HTTP/1.1",
            "CONNECT a:1:2 HTTP/1.1",
            "CONNECT ::1:1 HTTP/1.1",
            "CONNECT [::1] HTTP/1.1",
            "CONNECT [a]:1 HTTP/1.1",
            "CONNECT [fe80::1%eth0]:1 HTTP/1.1",
            "CONNECT u@a:1 HTTP/1.1",
            "CONNECT a%2e:1 HTTP/1.1",
            "CONNECT a\u{e9}:1 HTTP/1.1",
            "CONNECT https://a:1 HTTP/1.1",
            "CONNECT a:1/ HTTP/1.1",
            "CONNECT -a:1 HTTP/1.1",
            "CONNECT *:1 HTTP/1.1",
            "C\"ONNECT a:1 HTTP/1.1",
            "\r\nCONNECT a:1 HTTP/1.1",
            "CONNECT a:1 HTTP/1.1\r\nno colon",
            "CONNECT a:1 HTTP/1.1\r\n: b",
            "CONNECT a:1 HTTP/1.1\r\nA : b",
            "CONNECT a:1 HTTP/1.1\r\nA: b\r\n c",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nhost: b",
            "CONNECT a:1 HTTP/1.1\nHost: a",
            "CONNECT a:1 HTTP/1.1\rHost: a",
            "CONNECT a:1 HTTP/1.1\r\nA: \0",
            "\x16\x03\x01",
            "\x05\x01",
        ] {
            let whole = format!("{head}\r\n\r\n");
            assert!(matches!(look(whole.as_bytes()), Look::Bad(_)), "{head:?}");
        }
        // That is clear before the end.
        for head in ["\x16", "\x05", "a\0", "CONNECT a:1 HTTP/1.1\n", "a\rb"] {
            assert!(matches!(look(head.as_bytes()), Look::Bad(_)), "{head:?}");
        }
    }

    #[test]
    fn a_refusal_is_plain() {
        let answer = String::from_utf8(refusal(Status::BadGateway, "a\r\nb\u{e9}")).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 502 licfwd: a??b?\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", text.len())), "{head}");
        assert_eq!(text, "licfwd: a??b?\n");
        let answer = refusal(Status::MethodNotAllowed, &"x".repeat(10_000));
        assert!(answer.len() < 2000 && answer.windows(14).any(|it| it == b"Allow: CONNECT"));
    }
}
