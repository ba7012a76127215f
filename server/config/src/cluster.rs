//! `cluster { … }`: how servers of one cluster find and talk to each other. Owns the block's keys, ranges
//! and defaults.

use std::time::Duration;

use crate::address::{self, Port, ServerUrl};
use crate::auth;
use crate::duration;
use crate::grammar::{Map, Value};
use crate::permissions::{self, Permissions};
use crate::reader::{Field, Reader, assign};
use crate::settings::{WriteTimeout, auth_timeout};
use crate::tls::{self, Tls, TlsContext};
use crate::tree::Tree;

/// Longest PING interval of routes; a longer one is shortened to it.
pub const ROUTE_PING_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Settings of routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The cluster's name; `None`: the servers agree on one. Holds no spaces.
    pub name: Option<String>,
    /// Name or address that routes are accepted on.
    pub host: String,
    /// Port that routes are accepted on; `None`: no routes at all.
    pub port: Option<Port>,
    /// User that other servers must name.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<String>,
    /// Time for another server's credentials; [`Cluster::auth_timeout`] has the default.
    pub auth_timeout: Option<Duration>,
    /// Subjects whose interest is sent (`publish`, written `import`) and accepted (`subscribe`, written
    /// `export`).
    pub permissions: Option<Permissions>,
    /// TLS of routes. Both sides always verify.
    pub tls: Option<Tls>,
    /// `host[:port]` told to other servers instead of the real one.
    pub advertise: Option<String>,
    /// Clients are not told of the other servers.
    pub no_advertise: bool,
    /// Attempts to reach a server learnt of by gossip, after the first.
    pub connect_retries: u32,
    /// Attempts come ever less often, up to every 30 s.
    pub connect_backoff: bool,
    /// Connections per other server that the accounts share. 0: one for everything, as before 2.10 (written
    /// -1).
    pub pool_size: u32,
    /// Accounts with a connection of their own, as written; [`crate::Settings::pinned_accounts`] has all.
    pub accounts: Vec<String>,
    /// Compression of routes.
    pub compression: Compression,
    /// How often an idle route is sent a PING; `None`: the clients' interval. At most 30 s either way.
    pub ping_interval: Option<Duration>,
    /// PINGs without an answer; `None`: as for clients.
    pub ping_max: Option<u32>,
    /// How long one write may block; `None`: as for clients.
    pub write_deadline: Option<Duration>,
    /// What happens when it is exceeded.
    pub write_timeout: WriteTimeout,
    /// Servers to connect to.
    pub routes: Vec<ServerUrl>,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            name: None,
            host: "0.0.0.0".into(),
            port: None,
            username: None,
            password: None,
            auth_timeout: None,
            permissions: None,
            tls: None,
            advertise: None,
            no_advertise: false,
            connect_retries: 0,
            connect_backoff: false,
            pool_size: 3,
            accounts: Vec::new(),
            compression: Compression::Accept,
            ping_interval: None,
            ping_max: None,
            write_deadline: None,
            write_timeout: WriteTimeout::Default,
            routes: Vec::new(),
        }
    }
}

impl Cluster {
    /// How long another server may take for its credentials.
    pub fn auth_timeout(&self) -> Duration {
        auth_timeout(self.auth_timeout, self.tls.as_ref())
    }
}

/// Compression between servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As a server that has never heard of compression.
    NotSupported,
    /// None.
    Off,
    /// What the other side proposes.
    #[default]
    Accept,
    /// By round-trip time: up to the first threshold none, then fast, better and beyond the last best. A
    /// zero leaves its level out. One to four, rising.
    S2Auto(Vec<Duration>),
    /// S2, fast.
    S2Fast,
    /// S2, denser.
    S2Better,
    /// S2, densest.
    S2Best,
}

/// Thresholds of `s2_auto` unless others are written.
pub const RTT_THRESHOLDS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(100)];

impl Compression {
    /// The mode as nats-server names it in `/varz` and in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Compression::NotSupported => "not supported",
            Compression::Off => "off",
            Compression::Accept => "accept",
            Compression::S2Auto(_) => "s2_auto",
            Compression::S2Fast => "s2_fast",
            Compression::S2Better => "s2_better",
            Compression::S2Best => "s2_best",
        }
    }

    /// A mode by its name; `thresholds` count for `s2_auto` only.
    fn from_name(name: &str, thresholds: &[i64]) -> Result<Compression, String> {
        match name.to_lowercase().as_str() {
            "not supported" | "not_supported" => Ok(Compression::NotSupported),
            "disabled" | "off" | "false" => Ok(Compression::Off),
            "accept" => Ok(Compression::Accept),
            "auto" | "s2_auto" => rtt_thresholds(thresholds).map(Compression::S2Auto),
            "on" | "enabled" | "true" | "fast" | "s2_fast" => Ok(Compression::S2Fast),
            "better" | "s2_better" => Ok(Compression::S2Better),
            "best" | "s2_best" => Ok(Compression::S2Best),
            _ => Err(format!(
                "unsupported compression mode {name:?}; use off, accept, s2_auto, s2_fast, s2_better or s2_best"
            )),
        }
    }
}

/// Checks thresholds as nats-server does: negative ones are zero, zeros at the end fall away.
fn rtt_thresholds(nanoseconds: &[i64]) -> Result<Vec<Duration>, String> {
    if nanoseconds.is_empty() {
        return Ok(RTT_THRESHOLDS.to_vec());
    }
    let mut thresholds: Vec<Duration> =
        nanoseconds.iter().map(|n| Duration::from_nanos(u64::try_from(*n).unwrap_or(0))).collect();
    while thresholds.last().is_some_and(Duration::is_zero) {
        thresholds.pop();
    }
    let rising: Vec<&Duration> = thresholds.iter().filter(|t| !t.is_zero()).collect();
    if !rising.is_sorted() {
        return Err("RTT threshold values should be in ascending order".into());
    }
    match thresholds.len() {
        0 => Err("compression mode \"s2_auto\" requires at least one RTT threshold".into()),
        1..=4 => Ok(thresholds),
        _ => Err("compression mode \"s2_auto\" should have no more than 4 RTT thresholds".into()),
    }
}

pub(crate) const KEYS: &[&str] = &[
    "name",
    "listen",
    "port",
    "host",
    "net",
    "authorization",
    "routes",
    "tls",
    "cluster_advertise",
    "advertise",
    "no_advertise",
    "connect_retries",
    "connect_backoff",
    "permissions",
    "pool_size",
    "accounts",
    "compression",
    "ping_interval",
    "ping_max",
    "write_deadline",
    "write_timeout",
];

/// Reads the block into settings that may come from flags or defaults.
pub(crate) fn read(block: &Field<'_>, cluster: &mut Cluster, reader: &mut Reader) {
    let Some(map) = block.map(reader) else { return };
    let mut deprecated_permissions = None;
    for field in reader.fields(map) {
        match field.key.as_str() {
            "name" => {
                if let Some(name) = field.optional(reader) {
                    check_name(&field, name.as_deref().unwrap_or(""), reader);
                    cluster.name = name;
                }
            }
            "listen" => {
                if let Some((host, port)) = field.listen(reader) {
                    set_host(cluster, host);
                    cluster.port = port;
                }
            }
            "port" => assign(&mut cluster.port, field.port(reader)),
            "host" | "net" => {
                if let Some(host) = field.string(reader) {
                    set_host(cluster, host);
                }
            }
            "authorization" => deprecated_permissions = authorization(&field, cluster, reader),
            "routes" => assign(&mut cluster.routes, address::urls(&field, "route", reader)),
            "tls" => cluster.tls = tls::read(&field, TlsContext::Route, reader),
            "cluster_advertise" | "advertise" => assign(&mut cluster.advertise, field.optional(reader)),
            "no_advertise" => assign(&mut cluster.no_advertise, field.boolean(reader)),
            "connect_retries" => {
                assign(&mut cluster.connect_retries, field.within(reader, 0, i64::from(i32::MAX)))
            }
            "connect_backoff" => assign(&mut cluster.connect_backoff, field.boolean(reader)),
            "permissions" => route_permissions(&field, cluster, reader),
            "pool_size" => pool_size(&field, cluster, reader),
            "accounts" => assign(&mut cluster.accounts, field.strings(reader)),
            "compression" => assign(&mut cluster.compression, compression(&field, reader)),
            "ping_interval" => ping_interval(&field, cluster, reader),
            "ping_max" => assign(
                &mut cluster.ping_max,
                field.count_or(reader, i64::from(i32::MAX), 0).map(|n: u32| Some(n).filter(|n| *n > 0)),
            ),
            "write_deadline" => cluster.write_deadline = field.duration(reader).filter(|d| !d.is_zero()),
            "write_timeout" => assign(&mut cluster.write_timeout, write_timeout(&field, reader)),
            _ => reader.unknown(&field, KEYS),
        }
    }
    if cluster.permissions.is_none() {
        cluster.permissions = deprecated_permissions;
    }
    check_pinned(block, cluster, reader);
}

/// An empty host listens everywhere.
fn set_host(cluster: &mut Cluster, host: String) {
    cluster.host = if host.is_empty() { Cluster::default().host } else { host };
}

fn check_name(field: &Field<'_>, name: &str, reader: &mut Reader) {
    if name.contains(' ') {
        field.problem(reader, "cluster name cannot contain spaces");
    }
    // The name that leaf nodes without a cluster go by.
    if name == "_NOORIGIN_" {
        field.problem(reader, "cluster name is reserved; choose another");
    }
}

/// One user for all routes. Returns permissions, which used to stand in this block.
fn authorization(field: &Field<'_>, cluster: &mut Cluster, reader: &mut Reader) -> Option<Permissions> {
    let auth = auth::read(field, reader)?;
    if auth.users_defined || !auth.users.is_empty() {
        field.problem(reader, "Cluster authorization does not allow multiple users");
        return None;
    }
    if auth.token.is_some() {
        field.problem(reader, "Cluster authorization does not support tokens");
        return None;
    }
    if auth.auth_callout.is_some() {
        field.problem(reader, "Cluster authorization does not support callouts");
        return None;
    }
    cluster.username = auth.username;
    cluster.password = auth.password;
    cluster.auth_timeout = auth.timeout;
    let permissions = auth.default_permissions?;
    reader.warn(
        field.position(),
        "invalid use of field \"authorization\": setting \"permissions\" within cluster authorization block is \
         deprecated; move it up into the cluster block",
    );
    check_permissions(field, &permissions, reader);
    Some(permissions)
}

fn route_permissions(field: &Field<'_>, cluster: &mut Cluster, reader: &mut Reader) {
    let Some(permissions) = permissions::read(field, reader) else { return };
    if permissions.allow_responses.is_some() {
        field.problem(reader, "Cluster permissions do not support dynamic responses");
        return;
    }
    check_permissions(field, &permissions, reader);
    cluster.permissions = Some(permissions);
}

/// Queues, which users' permissions may name, mean nothing to routes.
fn check_permissions(field: &Field<'_>, permissions: &Permissions, reader: &mut Reader) {
    for (permission, side) in [(&permissions.publish, "import"), (&permissions.subscribe, "export")] {
        let Some(permission) = permission else { continue };
        for (subjects, list) in
            [(permission.allow.as_deref().unwrap_or(&[]), "allow"), (&permission.deny, "deny")]
        {
            for subject in subjects {
                if let Err(reason) = permissions::check_subject(subject, false) {
                    field.problem(reader, format!("cluster {side} {list}: {reason}"));
                }
            }
        }
    }
}

fn pool_size(field: &Field<'_>, cluster: &mut Cluster, reader: &mut Reader) {
    match field.integer(reader) {
        None => {}
        Some(0) => cluster.pool_size = Cluster::default().pool_size,
        Some(number) if number < 0 => cluster.pool_size = 0,
        // Go has no upper bound; a million connections to each server are a mistake.
        Some(_) => assign(&mut cluster.pool_size, field.within::<u32>(reader, 1, 1024)),
    }
}

fn check_pinned(block: &Field<'_>, cluster: &Cluster, reader: &mut Reader) {
    if cluster.pool_size == 0 && !cluster.accounts.is_empty() {
        block.problem(reader, "pool_size cannot be negative if pinned accounts are specified");
    }
    for (at, name) in cluster.accounts.iter().enumerate() {
        if cluster.accounts.iter().take(at).any(|earlier| earlier == name) {
            block.problem(reader, format!("found duplicate account name {name:?} in pinned accounts list"));
        }
    }
}

fn ping_interval(field: &Field<'_>, cluster: &mut Cluster, reader: &mut Reader) {
    let Some(interval) = field.duration(reader) else { return };
    if interval > ROUTE_PING_INTERVAL_MAX {
        reader
            .warn(field.position(), "Cluster 'ping_interval' will reset to 30s which is the max for routes");
    }
    cluster.ping_interval = Some(interval).filter(|i| !i.is_zero());
}

pub(crate) fn write_timeout(field: &Field<'_>, reader: &mut Reader) -> Option<WriteTimeout> {
    match field.string(reader)?.as_str() {
        "default" => Some(WriteTimeout::Default),
        "close" => Some(WriteTimeout::Close),
        "retry" => Some(WriteTimeout::Retry),
        _ => {
            field.problem(reader, "write_timeout must be 'default', 'close' or 'retry'");
            None
        }
    }
}

fn compression(field: &Field<'_>, reader: &mut Reader) -> Option<Compression> {
    let read = match &field.node.value {
        Value::Boolean(true) => Ok(Compression::S2Fast),
        Value::Boolean(false) => Ok(Compression::Off),
        Value::String(name) => Compression::from_name(name, &[]),
        Value::Map(map) => return compression_block(field, map, reader),
        other => Err(format!(
            "field {:?} should be a boolean or a structure, found {}",
            field.written,
            other.kind()
        )),
    };
    read.map_err(|reason| field.problem(reader, reason)).ok()
}

fn compression_block(block: &Field<'_>, map: &Map, reader: &mut Reader) -> Option<Compression> {
    let mut mode = None;
    let mut thresholds = Vec::new();
    for field in reader.fields(map) {
        match field.key.as_str() {
            "mode" => match &field.node.value {
                // Unquoted `on` and `off` are booleans by the grammar.
                Value::Boolean(on) => mode = Some(if *on { "on".to_string() } else { "off".to_string() }),
                _ => mode = field.string(reader),
            },
            "rtt_thresholds" | "thresholds" | "rtts" | "rtt" => {
                for text in field.strings(reader)? {
                    match duration::parse_nanoseconds(&text) {
                        Ok(nanoseconds) => thresholds.push(nanoseconds),
                        Err(reason) => field.problem(reader, reason),
                    }
                }
            }
            _ => reader.unknown(&field, &["mode", "rtt_thresholds"]),
        }
    }
    match mode.as_deref() {
        None | Some("") => Some(Compression::default()),
        Some(mode) => {
            Compression::from_name(mode, &thresholds).map_err(|reason| block.problem(reader, reason)).ok()
        }
    }
}

impl Cluster {
    pub(crate) fn tree(&self) -> Tree {
        let default = Cluster::default();
        let mut tree = Tree::default();
        tree.optional("name", &self.name);
        if self.host != default.host {
            tree.string("host", &self.host);
        }
        tree.port("port", self.port);
        let mut auth = Tree::default();
        auth.optional("user", &self.username);
        auth.optional("password", &self.password);
        auth.optional_duration("timeout", self.auth_timeout);
        tree.tree("authorization", auth);
        if let Some(permissions) = &self.permissions {
            tree.tree_even_empty("permissions", permissions.tree("import", "export"));
        }
        if let Some(tls) = &self.tls {
            tree.tree_even_empty("tls", tls.tree());
        }
        tree.optional("advertise", &self.advertise);
        tree.boolean("no_advertise", self.no_advertise, false);
        tree.integer("connect_retries", self.connect_retries, 0);
        tree.boolean("connect_backoff", self.connect_backoff, false);
        tree.integer(
            "pool_size",
            if self.pool_size == 0 { -1 } else { i64::from(self.pool_size) },
            default.pool_size,
        );
        tree.strings("accounts", &self.accounts);
        match &self.compression {
            Compression::Accept => {}
            Compression::S2Auto(thresholds) => {
                let mut inner = Tree::default();
                inner.string("mode", "s2_auto");
                let texts: Vec<String> = thresholds.iter().map(|t| duration::render(*t)).collect();
                inner.strings("rtt_thresholds", &texts);
                tree.tree("compression", inner);
            }
            mode => tree.string("compression", mode.name()),
        }
        tree.optional_duration("ping_interval", self.ping_interval);
        tree.integer("ping_max", self.ping_max.unwrap_or(0), 0);
        tree.optional_duration("write_deadline", self.write_deadline);
        if self.write_timeout != WriteTimeout::Default {
            tree.string("write_timeout", self.write_timeout.name());
        }
        let urls: Vec<String> = self.routes.iter().map(ServerUrl::to_string).collect();
        tree.strings("routes", &urls);
        tree
    }
}
