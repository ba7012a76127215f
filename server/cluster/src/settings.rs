//! What the mesh has to be told: the cluster's settings, this server's identity, route URLs.
//!
//! Owns their form and nats-server's defaults; never reads a file or an environment.

use crate::compression::Compression;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wire::route::SubjectPermission;

/// What can be wrong with what the mesh is told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A route URL cannot be read.
    #[error("route URL {url:?}: {reason}; write it as nats://[user:password@]host:port")]
    Url {
        /// The URL, without its password.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// `cluster.permissions` holds what is no subject.
    #[error("cluster permissions: {0}; correct the subject in the configuration")]
    Permission(#[from] accounts::Error),
}

/// Where a peer listens for routes, and what to say to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteUrl {
    /// Host name or address, lower case, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Route user and password.
    pub user: Option<(String, String)>,
}

impl RouteUrl {
    /// Reads `scheme://[user[:password]@]host:port[/]`; any scheme, percent escapes in user and password.
    ///
    /// # Errors
    /// [`Error::Url`]: no scheme, no host, or no port.
    pub fn parse(text: &str) -> Result<RouteUrl, Error> {
        let fail = |reason| Error::Url { url: redact(text), reason };
        let (_, rest) = text.split_once("://").ok_or(fail("it has no scheme"))?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = address.rsplit_once(':').ok_or(fail("it has no port"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or(fail("its bracket is not closed"))?,
            None if host.contains(':') => return Err(fail("an IPv6 address needs brackets")),
            None => host,
        };
        if host.is_empty() {
            return Err(fail("it has no host"));
        }
        let port = port.parse().map_err(|_| fail("its port is no number up to 65535"))?;
        let user = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (unescape(name), unescape(password))
        });
        Ok(RouteUrl { host: host.to_ascii_lowercase(), port, user })
    }

    /// The address, if the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for RouteUrl {
    /// Without user and password: for logs and for `INFO`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "nats-route://[{}]:{}/", self.host, self.port)
        } else {
            write!(f, "nats-route://{}:{}/", self.host, self.port)
        }
    }
}

impl fmt::Debug for RouteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn redact(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, address))) => format!("{scheme}://***@{address}"),
        _ => url.to_owned(),
    }
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
            .flatten();
        out.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// User and password that a soliciting server must show (`cluster.authorization`).
#[derive(Clone)]
pub struct Authorization {
    /// User.
    pub user: String,
    /// Password as configured: plain, or a bcrypt hash if `verify` understands it.
    pub password: String,
    /// Compares the configured password with the one shown; in constant time.
    pub verify: fn(configured: &str, shown: &str) -> bool,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorization {{ user: {:?} }}", self.user)
    }
}

/// Subjects that routes may import and export (`cluster.permissions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Interest that is sent to peers.
    pub import: Option<SubjectPermission>,
    /// Interest that is taken from peers.
    pub export: Option<SubjectPermission>,
}

/// The `cluster` block of the configuration, with nats-server's defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Cluster name; `None` lets the mesh choose one that gives way to any other.
    pub cluster_name: Option<String>,
    /// Configured routes.
    pub routes: Vec<RouteUrl>,
    /// Connections per peer; 0 (nats-server's -1) makes this server behave like one that knows no pools.
    pub pool_size: usize,
    /// Accounts with connections of their own. nats-server adds the system account unless pooling is off or
    /// `no_system_account` is set; so must whoever fills this in, or no system events cross a mixed cluster.
    pub pinned_accounts: Vec<String>,
    /// What solicitors must show.
    pub authorization: Option<Authorization>,
    /// Time that an accepted connection has to do so.
    pub auth_timeout: Duration,
    /// Route permissions.
    pub permissions: Permissions,
    /// Neither tell peers this server's client URLs nor clients those of the peers.
    pub no_advertise: bool,
    /// Attempts beyond the first to reach a server known by gossip only, at the full rate.
    pub connect_retries: u32,
    /// Double the time between attempts, from 1 s to 30 s.
    pub connect_backoff: bool,
    /// Time between pings; more than 30 s counts as 30 s.
    pub ping_interval: Duration,
    /// Pings that may stay unanswered.
    pub pings_out_max: u32,
    /// Every so many failed first attempts one is logged as an error.
    pub connect_error_reports: u32,
    /// The same for reconnecting.
    pub reconnect_error_reports: u32,
    /// Routes use TLS; shown in `INFO`.
    pub tls_required: bool,
    /// Compression of routes.
    pub compression: Compression,
    /// Time between two looks at a name that resolved and whose cluster is connected.
    pub resolve_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cluster_name: None,
            routes: Vec::new(),
            pool_size: 3,
            pinned_accounts: vec!["$SYS".to_owned()],
            authorization: None,
            auth_timeout: Duration::from_secs(2),
            permissions: Permissions::default(),
            no_advertise: false,
            connect_retries: 0,
            connect_backoff: false,
            ping_interval: Duration::from_secs(120),
            pings_out_max: 2,
            connect_error_reports: 3600,
            reconnect_error_reports: 1,
            tls_required: false,
            compression: Compression::Off,
            resolve_interval: Duration::from_secs(15),
        }
    }
}

/// Who this server is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Random id of this run.
    pub server_id: String,
    /// Name, unique in the cluster.
    pub server_name: String,
    /// nats-server version that peers may count on.
    pub version: String,
    /// Version of Starling.
    pub starling_version: String,
    /// Source revision.
    pub git_commit: String,
    /// What stands in `INFO` where nats-server has its Go version.
    pub go: String,
    /// Headers are understood.
    pub headers: bool,
    /// Largest payload of a client in bytes.
    pub max_payload: i64,
    /// JetStream is on.
    pub jetstream: bool,
    /// JetStream domain.
    pub domain: String,
    /// Host of the route listener as configured.
    pub host: String,
    /// Port that the route listener is bound to.
    pub port: u16,
    /// `cluster_advertise`: host and port to be shown instead.
    pub advertise: Option<(String, u16)>,
    /// `host:port` of the client listener for each address (or `client_advertise`).
    pub connect_urls: Vec<String>,
    /// The same for WebSocket.
    pub ws_connect_urls: Vec<String>,
    /// Addresses of the route listener on every interface of the machine: never dialled.
    pub own_addresses: Vec<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_urls_are_read_as_they_are_configured() {
        let url = RouteUrl::parse("nats-route://ruser:p%40ss@Seed.example:6222/").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("seed.example", 6222));
        assert_eq!(url.user, Some(("ruser".into(), "p@ss".into())));
        assert_eq!(url.address(), None);
        assert_eq!(url.to_string(), "nats-route://seed.example:6222/");
        let six = RouteUrl::parse("nats://[::1]:6222").unwrap();
        assert_eq!(six.address(), Some("[::1]:6222".parse().unwrap()));
        assert_eq!(six.to_string(), "nats-route://[::1]:6222/");
        assert_eq!(RouteUrl::parse("nats://100%:x@h:1").unwrap().user, Some(("100%".into(), "x".into())));
    }

    #[test]
    fn a_wrong_url_says_what_to_write_and_hides_the_password() {
        for bad in
            ["seed:6222", "nats://seed", "nats://:6222", "nats://::1:6222", "nats://[::1:6222", "nats://h:x"]
        {
            assert!(RouteUrl::parse(bad).is_err(), "{bad}");
        }
        let error = RouteUrl::parse("nats://user:secret@host").unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("it has no port"), "{error}");
    }
}
