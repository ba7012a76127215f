//! Ports, `host:port` pairs and server URLs. Owns their text forms; resolves no names.

use std::fmt;

use crate::error::Problem;
use crate::grammar::Value;
use crate::reader::{Field, Reader};

/// A port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The operating system chooses: written `-1`.
    Random,
    /// This one, 1 to 65535.
    Fixed(u16),
}

impl Port {
    /// What to hand to the socket: 0 stands for a random port there.
    pub fn to_bind(self) -> u16 {
        match self {
            Port::Random => 0,
            Port::Fixed(port) => port,
        }
    }

    /// The port as nats.conf and the flags write it.
    pub fn written(self) -> i64 {
        match self {
            Port::Random => -1,
            Port::Fixed(port) => i64::from(port),
        }
    }

    /// Reads a written port: `None` for 0, which means "not set".
    ///
    /// # Errors
    /// For numbers that are no port.
    pub fn from_written(number: i64) -> Result<Option<Port>, String> {
        match number {
            -1 => Ok(Some(Port::Random)),
            0 => Ok(None),
            1..=65535 => Ok(u16::try_from(number).ok().map(Port::Fixed)),
            _ => Err(format!("port {number} is out of the range: use 1 to 65535, or -1 for a random port")),
        }
    }
}

impl Field<'_> {
    /// A port; the inner `None` means "not set".
    pub fn port(&self, reader: &mut Reader) -> Option<Option<Port>> {
        let number = self.integer(reader)?;
        Port::from_written(number).map_err(|reason| self.problem(reader, reason)).ok()
    }

    /// A port alone, or `host:port`, as the `listen`, `http` and `https` keys take it.
    pub fn listen(&self, reader: &mut Reader) -> Option<(String, Option<Port>)> {
        let read = match &self.node.value {
            Value::Integer(number) => Port::from_written(*number).map(|port| (String::new(), port)),
            Value::String(text) => parse_listen(text),
            other => Err(format!("expected port or host:port, found {}", other.kind())),
        };
        read.map_err(|reason| self.problem(reader, reason)).ok()
    }
}

/// Splits `host:port`; an IPv6 host stands in brackets; the host may be empty.
///
/// # Errors
/// nats-server's words for what is wrong.
pub fn parse_listen(text: &str) -> Result<(String, Option<Port>), String> {
    let (host, port) = split_host_port(text).ok_or_else(|| {
        format!("could not parse address string {text:?}; write host:port, as in 0.0.0.0:4222")
    })?;
    let number: i64 =
        port.parse().map_err(|_| format!("could not parse port {port:?}; it must be a number"))?;
    Ok((host.to_string(), Port::from_written(number)?))
}

/// Reads an address to advertise: a host, or `host:port`; without a port, or with 0 or -1, it is the
/// listener's.
///
/// # Errors
/// For text that is neither.
pub fn parse_advertise(text: &str, listening: u16) -> Result<(String, u16), String> {
    if split_host_port(text).is_none() {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let bracketed = bare.len() != text.len();
        if bare.is_empty() || bare.contains(['[', ']']) || (bare.contains(':') && !bracketed) {
            return Err(format!(
                "address {text:?} is neither a host nor host:port; an IPv6 host stands in brackets"
            ));
        }
        return Ok((bare.trim().to_string(), listening));
    }
    match parse_listen(text)? {
        (host, Some(Port::Fixed(port))) => Ok((host.trim().to_string(), port)),
        (host, _) => Ok((host.trim().to_string(), listening)),
    }
}

/// The host without brackets, and the port's text.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return Some((host, rest.strip_prefix(':')?));
    }
    let (host, port) = text.split_once(':')?;
    (!port.contains(':') && !host.contains([']', '['])).then_some((host, port))
}

/// `host:port` as text, IPv6 hosts in brackets.
pub fn join_host_port(host: &str, port: i64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Another server's address, as `routes` lists it: `nats-route://user:password@host:6222`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    /// `nats-route`, `nats`, `tls`… Servers treat all alike.
    pub scheme: String,
    /// User name, decoded.
    pub username: Option<String>,
    /// Password, decoded. A secret: [`ServerUrl::redacted`] is for logs.
    pub password: Option<String>,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port; `None` if the URL names none, which no connection can be made to.
    pub port: Option<u16>,
}

impl ServerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// nats-server's words, without the URL's secrets. `kind` is what the URL is for, e.g. `route`.
    pub fn parse(text: &str, kind: &str) -> Result<ServerUrl, String> {
        let text = text.trim();
        Self::read(text).ok_or_else(|| {
            let shown = match text.rsplit_once('@') {
                Some((_, host)) => format!("…@{host}"),
                None => text.to_string(),
            };
            format!("error parsing {kind} url [{shown:?}]; write nats-route://host:port")
        })
    }

    fn read(text: &str) -> Option<ServerUrl> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(scheme_letter) {
            return None;
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (username, password) = match userinfo {
            None => (None, None),
            Some(userinfo) => match userinfo.split_once(':') {
                Some((name, password)) => (Some(percent_decoded(name)?), Some(percent_decoded(password)?)),
                None => (Some(percent_decoded(userinfo)?), None),
            },
        };
        let (host, port) = match split_host_port(address) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => match address.strip_prefix('[').and_then(|a| a.strip_suffix(']')) {
                Some(host) => (host, None),
                None if address.contains([':', '[', ']']) => return None,
                None => (address, None),
            },
        };
        let bad = |c: char| {
            c.is_whitespace()
                || c.is_control()
                || matches!(c, '[' | ']' | '@' | '%' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}')
        };
        if host.is_empty() || host.contains(bad) {
            return None;
        }
        Some(ServerUrl { scheme: scheme.to_lowercase(), username, password, host: host.to_string(), port })
    }

    /// `host:port`, or the host alone if no port is named.
    pub fn address(&self) -> String {
        match self.port {
            Some(port) => join_host_port(&self.host, i64::from(port)),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    /// The URL with its password hidden, for logs and monitoring.
    pub fn redacted(&self) -> String {
        let hidden = ServerUrl { password: self.password.as_ref().map(|_| "xxxxx".into()), ..self.clone() };
        hidden.to_string()
    }
}

impl fmt::Display for ServerUrl {
    /// The URL in full, password included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(username) = &self.username {
            f.write_str(&percent_encoded(username))?;
            if let Some(password) = &self.password {
                write!(f, ":{}", percent_encoded(password))?;
            }
            f.write_str("@")?;
        }
        f.write_str(&self.address())
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else if byte.is_ascii_whitespace() || byte.is_ascii_control() {
            return None;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'$' | b'!' | b'*') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Reads a list of URLs. A URL listed twice counts once, with a warning.
pub(crate) fn urls(field: &Field<'_>, kind: &str, reader: &mut Reader) -> Option<Vec<ServerUrl>> {
    let nodes = field.array(reader)?;
    let mut urls = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for node in nodes {
        let Value::String(text) = &node.value else {
            reader.problem(
                &node.position,
                format!("expected a {kind} url in a string, found {}", node.value.kind()),
            );
            continue;
        };
        if !seen.insert(text.as_str()) {
            reader.warnings.push(Problem::at(
                &node.position,
                format!("Duplicate {kind} entry detected: it is used once"),
            ));
            continue;
        }
        match ServerUrl::parse(text, kind) {
            Ok(url) => urls.push(url),
            Err(reason) => reader.problem(&node.position, reason),
        }
    }
    Some(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_split() {
        let fixed = |port| Some(Port::Fixed(port));
        assert_eq!(parse_listen("0.0.0.0:4222"), Ok(("0.0.0.0".into(), fixed(4222))));
        assert_eq!(parse_listen("[::1]:4222"), Ok(("::1".into(), fixed(4222))));
        assert_eq!(parse_listen(":4222"), Ok((String::new(), fixed(4222))));
        assert_eq!(parse_listen("localhost:-1"), Ok(("localhost".into(), Some(Port::Random))));
        assert!(parse_listen("localhost").unwrap_err().starts_with("could not parse address string"));
        assert!(parse_listen("::1:4222").is_err());
        assert!(parse_listen("a:b").unwrap_err().starts_with("could not parse port \"b\""));
        assert!(parse_listen("a:70000").unwrap_err().contains("70000"));
    }

    #[test]
    fn an_advertised_address_may_leave_out_its_port() {
        for (text, host, port) in [
            ("example.com", "example.com", 4222),
            ("example.com:5222", "example.com", 5222),
            ("example.com:0", "example.com", 4222),
            ("[::1]", "::1", 4222),
            ("[::1]:5", "::1", 5),
        ] {
            assert_eq!(parse_advertise(text, 4222), Ok((host.to_string(), port)), "{text}");
        }
        for text in ["", "::1", "a:b", "a:b:c", "[::1"] {
            assert!(parse_advertise(text, 4222).is_err(), "{text}");
        }
    }

    #[test]
    fn route_urls_keep_their_credentials_and_hide_them_in_logs() {
        let url = ServerUrl::parse("nats-route://us%40er:p%3Aw@[::1]:6222", "route").unwrap();
        assert_eq!(url.username.as_deref(), Some("us@er"));
        assert_eq!(url.password.as_deref(), Some("p:w"));
        assert_eq!((url.host.as_str(), url.port), ("::1", Some(6222)));
        assert_eq!(ServerUrl::parse(&url.to_string(), "route"), Ok(url.clone()));
        assert!(!url.redacted().contains("p%3Aw") && url.redacted().contains("us%40er"));
        let broken = ServerUrl::parse("nats-route://user:secret@ho st:1", "route").unwrap_err();
        assert!(!broken.contains("secret"), "{broken}");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in ["", "host:6222", "://a", "nats://", "nats://a:b:c", "nats://a:99999", "nats://u%zz@h:1"]
        {
            assert!(ServerUrl::parse(text, "route").is_err(), "{text}");
        }
    }
}
