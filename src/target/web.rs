//! Web servers that a proxy's clients may ask for; pure.

use super::{Destination, Parsed, check_host, host_port, port, quoted, split_port};
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// The variable that a target of web servers sets without `NAME=`.
pub(super) const DEFAULT_NAME: &str = "https_proxy";

/// Such a target's form, for messages.
const WEB_FORM: &str = "[NAME=]https://host[:port][,host[:port]...]";

const SCHEME: &str = "https://";
/// RFC 9110, section 4.2.2.
const DEFAULT_PORT: u16 = 443;

/// All that one port of this node leads to: whichever of them a client names in its
/// CONNECT (RFC 9110, section 9.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebHosts(Arc<[WebHost]>);

#[derive(Debug, PartialEq, Eq)]
enum WebHost {
    /// Name or address without brackets, and port.
    One(String, u16),
    /// That port of any host.
    Any(u16),
    /// Any port of any host.
    All,
}

/// `NAME=`, where it was given, and the hosts behind it, where a target's text was meant
/// for web servers.
pub(super) fn split(text: &str) -> Option<(Option<&str>, &str)> {
    let before = &text[..text.find("://")?];
    Some(match before.split_once('=') {
        Some((name, _)) => (Some(name), &text[name.len() + 1..]),
        None => (None, text),
    })
}

impl WebHosts {
    /// Reads `https://host[:port][,[https://]host[:port]...]`; a host may be `*`, and its
    /// port as well.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Parsed<WebHosts> {
        if !text.starts_with(SCHEME) {
            return Err(format!("only https:// can be forwarded so: expected {WEB_FORM}"));
        }
        text.split(',').map(web_host).collect::<Parsed<_>>().map(WebHosts)
    }

    /// The first of them; `None`: it is any host.
    pub fn first(&self) -> Option<Destination> {
        match self.0.first()? {
            WebHost::One(host, port) => Some(Destination::Tcp { host: host.clone(), port: *port }),
            WebHost::Any(_) | WebHost::All => None,
        }
    }

    /// Where a client is led that asks for this host, which [`check_host`] has passed, and
    /// port: `None`, unless it is one of them. One that stands here goes by the name that it
    /// has here.
    pub fn find(&self, host: &str, port: u16) -> Option<Destination> {
        let known = |it: &WebHost| match it {
            WebHost::One(known, its) => {
                (*its == port && same_host(known, host)).then(|| known.clone())
            }
            WebHost::Any(its) => (*its == port).then(|| host.to_owned()),
            WebHost::All => Some(host.to_owned()),
        };
        self.0.iter().find_map(known).map(|host| Destination::Tcp { host, port })
    }
}

fn web_host(text: &str) -> Parsed<WebHost> {
    let text = text.strip_prefix(SCHEME).unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains("://") {
        return Err(format!("only https:// can be forwarded so: expected {WEB_FORM}"));
    }
    if text.contains(['/', '?', '#']) {
        return Err(format!("{}: a host has no path here: expected {WEB_FORM}", quoted(text)));
    }
    let (host, number) = split_port(text);
    if host.contains(':') && !text.starts_with('[') {
        return Err("an IPv6 address stands in brackets".to_owned());
    }
    let port = match (host, number) {
        ("*", Some("*")) => return Ok(WebHost::All),
        (_, None) => DEFAULT_PORT,
        (_, Some(number)) if number.contains('+') => {
            return Err("a web server has one port: no + here".to_owned());
        }
        (_, Some(number)) => port(number)?,
    };
    match host {
        "*" => Ok(WebHost::Any(port)),
        _ if host.contains('*') => Err("a * stands for a whole host".to_owned()),
        _ => check_host(host).map(|()| WebHost::One(host.to_owned(), port)),
    }
}

/// Names are equal in either case, with and without the root's dot (RFC 1034, section
/// 3.1); addresses, however they are written.
fn same_host(one: &str, other: &str) -> bool {
    let name = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match (one.parse::<Ipv6Addr>(), other.parse::<Ipv6Addr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => name(one) == name(other),
    }
}

impl fmt::Display for WebHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WebHost::One(host, port) => f.write_str(&host_port(host, *port)),
            WebHost::Any(port) => write!(f, "*:{port}"),
            WebHost::All => f.write_str("*:*"),
        }
    }
}

/// As in a target.
impl fmt::Display for WebHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.0.iter().map(WebHost::to_string).collect();
        write!(f, "{SCHEME}{}", hosts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, why: &str) {
        let error = WebHosts::parse(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }

    #[test]
    fn what_is_accepted() {
        for (text, printed) in [
            ("https://token.gurobi.com", "https://token.gurobi.com:443"),
            ("https://a:8443/,b,https://c/", "https://a:8443,b:443,c:443"),
            ("https://[2001:db8::1]:444", "https://[2001:db8::1]:444"),
            ("https://*", "https://*:443"),
            ("https://*:*", "https://*:*"),
            ("https://a,*:8443", "https://a:443,*:8443"),
        ] {
            let hosts = WebHosts::parse(text).unwrap();
            assert_eq!(hosts.to_string(), printed);
            assert_eq!(WebHosts::parse(printed).unwrap(), hosts);
        }
        assert_eq!(split("https://h?a=b"), Some((None, "https://h?a=b")));
        assert_eq!(split("A=https://h"), Some((Some("A"), "https://h")));
        assert_eq!(split("A=h:1"), None);
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("http://a", "only https://"),
            ("a,https://b", "only https://"),
            ("https://a,http://b", "only https://"),
            ("https://", "no host"),
            ("https://a,", "no host"),
            ("https://a/b", "no path"),
            ("https://a?b", "no path"),
            ("https://a//", "no path"),
            ("https://a:443+444", "one port"),
            ("https://a:0", "1 to 65535"),
            ("https://a:", "1 to 65535"),
            ("https://a:*", "1 to 65535"),
            ("https://*.a", "whole host"),
            ("https://::1", "brackets"),
            ("https://[::1", "brackets"),
            ("https://u@a", "expected letters"),
            ("https://a b", "expected letters"),
            ("https://-a", "expected letters"),
        ] {
            refused(text, why);
        }
    }

    #[test]
    fn who_is_led_where() {
        let hosts = WebHosts::parse("https://Token.gurobi.com,b.:8443,[::1]:1,10.0.0.1").unwrap();
        for (host, port, to) in [
            ("token.GUROBI.com", 443, Some("Token.gurobi.com:443")),
            ("token.gurobi.com.", 443, Some("Token.gurobi.com:443")),
            ("token.gurobi.com", 80, None),
            ("b", 8443, Some("b.:8443")),
            ("b", 443, None),
            ("xtoken.gurobi.com", 443, None),
            ("gurobi.com", 443, None),
            ("token.gurobi.com..", 443, None),
            ("0:0::1", 1, Some("[::1]:1")),
            ("10.0.0.1", 443, Some("10.0.0.1:443")),
            ("10.0.1", 443, None),
        ] {
            let found = hosts.find(host, port).map(|to| to.to_string());
            assert_eq!(found.as_deref(), to, "{host}:{port}");
        }
        let any = WebHosts::parse("https://*").unwrap();
        assert!(any.first().is_none() && any.find("a", 80).is_none());
        assert_eq!(any.find("a", 443).unwrap().to_string(), "a:443");
        let all = WebHosts::parse("https://b,*:*").unwrap();
        assert_eq!(all.first().unwrap().to_string(), "b:443");
        assert_eq!(all.find("a", 80).unwrap().to_string(), "a:80");
    }
}
