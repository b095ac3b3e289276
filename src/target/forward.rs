//! Reads and prints `-L`; pure.

use super::{Destination, Parsed, check_host, host_port, port_or_service, quoted};
use crate::error::{Code, Context, Result};
use std::fmt;
use std::path::PathBuf;

/// How `-L` is written, for messages.
const FORWARD_FORM: &str = "[bind_address:]port:host:hostport, or a socket's path on either side";

/// Where a forward listens on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardSide {
    /// A port; without `bind` on loopback. `bind` is `*` (every address), or a
    /// name or address without brackets.
    Tcp {
        /// The address to bind.
        bind: Option<String>,
        /// The fixed local port.
        port: u16,
    },
    /// A Unix socket, as typed.
    Unix(PathBuf),
}

/// One `-L`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// This side.
    pub listen: ForwardSide,
    /// The gateway's side.
    pub to: Destination,
}

/// Reads the argument of `-L` by the rules of ssh's `parse_forward`
/// (readconf.c): fields end at colons, brackets take a field literally, a
/// backslash takes one character literally, and a field with a slash is a path.
/// Unlike ssh, neither `${VAR}` nor `%` tokens are expanded.
///
/// # Errors
/// [`Code::Usage`], quoting the text and naming the expected form.
pub fn parse_forward(text: &str) -> Result<Forward> {
    forward(text).context(Code::Usage, || format!("-L {}", quoted(text)))
}

fn forward(text: &str) -> Parsed<Forward> {
    let (listen, to) = match fields(text)?.as_slice() {
        [path, to] if path.is_path && to.is_path => (local_path(path)?, remote_path(to)?),
        [number, to] if to.is_path => (local_port(None, number)?, remote_path(to)?),
        [path, host, number] if path.is_path => (local_path(path)?, remote(host, number)?),
        [bind, number, to] if to.is_path => (local_port(Some(bind), number)?, remote_path(to)?),
        [local, host, number] => (local_port(None, local)?, remote(host, number)?),
        [bind, local, host, number] => (local_port(Some(bind), local)?, remote(host, number)?),
        _ => return Err(format!("expected {FORWARD_FORM}")),
    };
    Ok(Forward { listen, to })
}

/// What stands between two colons of a forward.
#[derive(Default)]
struct Field {
    text: String,
    is_path: bool,
}

fn fields(text: &str) -> Parsed<Vec<Field>> {
    let mut fields = Vec::new();
    let mut rest = text.trim_ascii_start();
    // A colon at the very end closes the last field and opens none, as in ssh.
    while !rest.is_empty() {
        let field;
        (field, rest) = match rest.strip_prefix('[') {
            Some(inside) => bracketed_field(inside)?,
            None => plain_field(rest)?,
        };
        fields.push(field);
    }
    Ok(fields)
}

fn bracketed_field(inside: &str) -> Parsed<(Field, &str)> {
    let (text, rest) = inside.split_once(']').ok_or("[ without ]")?;
    let field = Field { text: text.to_owned(), is_path: text.contains('/') };
    match rest.strip_prefix(':') {
        None if !rest.is_empty() => Err("expected a colon after ]".to_owned()),
        after => Ok((field, after.unwrap_or_default())),
    }
}

fn plain_field(rest: &str) -> Parsed<(Field, &str)> {
    let mut field = Field::default();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ':' => return Ok((field, &rest[at + 1..])),
            '\\' => field.text.push(chars.next().ok_or("nothing after \\")?.1),
            c => {
                field.is_path |= c == '/';
                field.text.push(c);
            }
        }
    }
    Ok((field, ""))
}

fn local_port(bind: Option<&Field>, number: &Field) -> Parsed<ForwardSide> {
    let bind = match bind.map(|field| field.text.as_str()) {
        Some("" | "*") => Some("*".to_owned()),
        Some(address) => check_host(address).map(|()| Some(address.to_owned()))?,
        None => None,
    };
    let port = port_or_service(&number.text)?;
    Ok(ForwardSide::Tcp { bind, port })
}

fn local_path(field: &Field) -> Parsed<ForwardSide> {
    Ok(ForwardSide::Unix(socket_path(&field.text)?.into()))
}

fn remote(host: &Field, number: &Field) -> Parsed<Destination> {
    check_host(&host.text)?;
    let (host, port) = (host.text.clone(), port_or_service(&number.text)?);
    Ok(Destination::Tcp { host, port })
}

fn remote_path(field: &Field) -> Parsed<Destination> {
    Ok(Destination::Unix(socket_path(&field.text)?))
}

/// `sun_path` holds 108 bytes, the closing zero included. ssh expands `${VAR}`
/// and `%` tokens; a file of that literal name is not what anybody meant.
fn socket_path(path: &str) -> Parsed<String> {
    if path.len() >= 108 {
        Err("a socket's path has 107 bytes at most".to_owned())
    } else if path.chars().any(char::is_control) {
        Err("control character in a socket's path".to_owned())
    } else if path.contains('%') || path.contains("${") {
        Err("% and ${ in a socket's path are not expanded here; write it out".to_owned())
    } else {
        Ok(path.to_owned())
    }
}

impl fmt::Display for ForwardSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardSide::Tcp { bind, port } => match bind {
                Some(bind) => f.write_str(&host_port(bind, *port)),
                None => write!(f, "{port}"),
            },
            ForwardSide::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.listen, self.to)
    }
}
