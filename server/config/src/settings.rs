//! A server's settings, typed and complete: what nats-server's `Options` are. Owns the fields and their
//! defaults; reading is in `read`, writing in `render`, comparing in `diff`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::accounts::{Account, Mapping};
pub use crate::address::{Port, ServerUrl};
use crate::auth::{Authorization, User};
use crate::cluster::Cluster;
use crate::tls::Tls;
use crate::trust::Trust;

/// Everything that can be set. Fields bear the names of nats.conf's keys; their units are stated.
///
/// `Default` is a server without a configuration file. Defaults are nats-server 2.15.2's (`const.go`,
/// `setBaselineOptions`).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of this server; `None`: its id. Holds no spaces.
    pub server_name: Option<String>,
    /// Name or address that clients are accepted on.
    pub host: String,
    /// Port that clients are accepted on.
    pub port: Port,
    /// `host[:port]` told to clients and other servers instead of the real one.
    pub client_advertise: Option<String>,
    /// Bounds on clients.
    pub limits: Limits,
    /// How often an idle client is sent a PING.
    pub ping_interval: Duration,
    /// PINGs without an answer before a client is cut off.
    pub ping_max: u32,
    /// How long one write to a client may block before the client counts as slow.
    pub write_deadline: Duration,
    /// What happens to a client that exceeds it.
    pub write_timeout: WriteTimeout,
    /// Over how long clients are closed in lame duck mode. At least 30 s.
    pub lame_duck_duration: Duration,
    /// How long lame duck mode waits before it closes the first client. Below the duration.
    pub lame_duck_grace_period: Duration,
    /// Where and what is logged.
    pub logging: Logging,
    /// The HTTP port for monitoring.
    pub monitoring: Monitoring,
    /// File that holds the process's id.
    pub pid_file: Option<String>,
    /// Directory for the file that lists the ports (`<program>_<pid>.ports`).
    pub ports_file_dir: Option<String>,
    /// Port for profiling; `None`: off.
    pub prof_port: Option<Port>,
    /// Go's block profiling rate. Accepted, without effect here.
    pub prof_block_rate: i64,
    /// TLS for clients; `None`: plain text.
    pub tls: Option<Tls>,
    /// With TLS: clients may stay in plain text.
    pub allow_non_tls: bool,
    /// OCSP stapling, as written. `None`: not configured.
    pub ocsp: Option<Ocsp>,
    /// Where responses about peers are kept, as written. `None`: not configured, which is the default [`OcspCache`].
    pub ocsp_cache: Option<OcspCache>,
    /// Clients begin with a PROXY protocol header that names their address.
    pub proxy_protocol: bool,
    /// Public keys of proxies whose signature is trusted.
    pub trusted_proxies: Vec<String>,
    /// Other servers of the same cluster.
    pub cluster: Cluster,
    /// Who may connect, as far as no account says so.
    pub authorization: Authorization,
    /// Accounts in the order written, without `$G` and `$SYS` unless written.
    pub accounts: Vec<Account>,
    /// Whether an `accounts` block was written, even an empty one.
    pub accounts_defined: bool,
    /// Subject mappings of the global account `$G`.
    pub mappings: Vec<Mapping>,
    /// Name of the system account; `None`: `$SYS`, unless [`Settings::no_system_account`].
    pub system_account: Option<String>,
    /// There is no system account unless one is named.
    pub no_system_account: bool,
    /// User that a client without credentials becomes.
    pub no_auth_user: Option<String>,
    /// Operators, resolver and preloaded account JWTs.
    pub trust: Trust,
    /// The subject cache is off. Accepted, without effect here.
    pub disable_sublist_cache: bool,
    /// Message headers are off.
    pub no_header_support: bool,
    /// Producers are not slowed down when a consumer falls behind.
    pub no_fast_producer_stall: bool,
    /// Closed connections kept for `/connz`.
    pub max_closed_clients: u32,
    /// Failed attempts to connect to a server between two log lines, before the first success.
    pub connect_error_reports: u32,
    /// The same after a connection was lost.
    pub reconnect_error_reports: u32,
    /// Tags of this server, lower case, no duplicates.
    pub server_tags: Vec<String>,
    /// Metadata of this server.
    pub server_metadata: BTreeMap<String, String>,
    /// Features switched on or off by name.
    pub feature_flags: BTreeMap<String, bool>,
    /// JetStream's directory. Kept, without effect until JetStream is there.
    pub store_dir: Option<String>,
    /// Accounts' default JetStream domains. Kept, without effect until JetStream is there.
    pub default_js_domain: BTreeMap<String, String>,
    /// What nats-server does not have.
    pub starling: Starling,
}

/// Bounds on clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at a time. 0: none is accepted (written 0 or below; `/varz` says -1).
    pub max_connections: u32,
    /// Subscriptions of one client; `None`: no bound.
    pub max_subscriptions: Option<u32>,
    /// Tokens of a subject subscribed to; `None`: no bound.
    pub max_sub_tokens: Option<u8>,
    /// Bytes of a protocol line.
    pub max_control_line: u32,
    /// Bytes of a message, headers included. At most 2^31 - 1.
    pub max_payload: u32,
    /// Bytes waiting to be written to a client before it counts as slow.
    pub max_pending: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 64 * 1024,
            max_subscriptions: None,
            max_sub_tokens: None,
            max_control_line: 4096,
            max_payload: 1024 * 1024,
            max_pending: 64 * 1024 * 1024,
        }
    }
}

/// What happens when a write deadline passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteTimeout {
    /// Close clients, retry for servers.
    #[default]
    Default,
    /// Close the connection.
    Close,
    /// Keep the connection and go on.
    Retry,
}

impl WriteTimeout {
    /// The word for it in nats.conf.
    pub fn name(self) -> &'static str {
        match self {
            WriteTimeout::Default => "default",
            WriteTimeout::Close => "close",
            WriteTimeout::Retry => "retry",
        }
    }
}

/// Where and what is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Lines for developers.
    pub debug: bool,
    /// The protocol's lines of every client.
    pub trace: bool,
    /// Those of the system account, too.
    pub trace_verbose: bool,
    /// Traced messages show headers, not payloads.
    pub trace_headers: bool,
    /// Lines begin with the time.
    pub logtime: bool,
    /// The time is UTC, not local.
    pub logtime_utc: bool,
    /// File to log to; `None`: standard error, or syslog.
    pub log_file: Option<String>,
    /// Bytes at which the file is rotated; 0: never.
    pub log_size_limit: u64,
    /// Rotated files kept; 0: all.
    pub log_max_num: u64,
    /// Log to syslog.
    pub syslog: bool,
    /// Address of a remote syslog, e.g. `udp://127.0.0.1:514`.
    pub remote_syslog: Option<String>,
    /// Bytes of a traced message that are shown; 0: all.
    pub max_traced_msg_len: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Logging {
            debug: false,
            trace: false,
            trace_verbose: false,
            trace_headers: false,
            logtime: true,
            logtime_utc: false,
            log_file: None,
            log_size_limit: 0,
            log_max_num: 0,
            syslog: false,
            remote_syslog: None,
            max_traced_msg_len: 0,
        }
    }
}

/// The HTTP port for monitoring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitoring {
    /// Name or address to listen on; `None`: the clients' ([`Settings::http_host`]).
    pub host: Option<String>,
    /// Port for HTTP; `None`: off.
    pub http_port: Option<Port>,
    /// Port for HTTPS, with the clients' TLS settings; `None`: off.
    pub https_port: Option<Port>,
    /// Path that all endpoints are under, as written; [`Settings::http_base_path`] cleans it.
    pub base_path: Option<String>,
}

/// OCSP stapling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ocsp {
    /// When to staple.
    pub mode: OcspMode,
    /// Responders asked instead of those in the certificate.
    pub urls: Vec<String>,
}

/// When to staple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspMode {
    /// If the certificate demands it.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
    /// If the certificate demands it, and shut down if it is revoked.
    Must,
}

impl OcspMode {
    /// The word for it in nats.conf.
    pub fn name(self) -> &'static str {
        match self {
            OcspMode::Auto => "auto",
            OcspMode::Always => "always",
            OcspMode::Never => "never",
            OcspMode::Must => "must",
        }
    }
}

/// Where responses about peers' certificates are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspCache {
    /// In memory and in a file, or not at all.
    pub kind: OcspCacheKind,
    /// Folder of the file.
    pub local_store: String,
    /// Revoked certificates are remembered when the response counts no more.
    pub preserve_revoked: bool,
    /// Between two writings of the file, at least a second.
    pub save_interval: Duration,
}

/// Kinds of [`OcspCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspCacheKind {
    /// No response is kept.
    None,
    /// In memory, and in a file over a restart.
    Local,
}

impl Default for OcspCache {
    fn default() -> Self {
        OcspCache {
            kind: OcspCacheKind::Local,
            local_store: "_rc_".into(),
            preserve_revoked: false,
            save_interval: Duration::from_secs(300),
        }
    }
}

/// What nats-server does not have: the block `starling { … }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starling {
    /// Threads that serve connections; `None`: one per core. 1 to 1024.
    pub worker_threads: Option<u16>,
    /// Directory for what a server remembers, such as its id; `None`: it remembers nothing.
    pub data_dir: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            server_name: None,
            host: "0.0.0.0".into(),
            port: Port::Fixed(4222),
            client_advertise: None,
            limits: Limits::default(),
            ping_interval: Duration::from_secs(120),
            ping_max: 2,
            write_deadline: Duration::from_secs(10),
            write_timeout: WriteTimeout::Default,
            lame_duck_duration: Duration::from_secs(120),
            lame_duck_grace_period: Duration::from_secs(10),
            logging: Logging::default(),
            monitoring: Monitoring::default(),
            pid_file: None,
            ports_file_dir: None,
            prof_port: None,
            prof_block_rate: 0,
            tls: None,
            allow_non_tls: false,
            ocsp: None,
            ocsp_cache: None,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            cluster: Cluster::default(),
            authorization: Authorization::default(),
            accounts: Vec::new(),
            accounts_defined: false,
            mappings: Vec::new(),
            system_account: None,
            no_system_account: false,
            no_auth_user: None,
            trust: Trust::default(),
            disable_sublist_cache: false,
            no_header_support: false,
            no_fast_producer_stall: false,
            max_closed_clients: 10_000,
            connect_error_reports: 3600,
            reconnect_error_reports: 1,
            server_tags: Vec::new(),
            server_metadata: BTreeMap::new(),
            feature_flags: BTreeMap::new(),
            store_dir: None,
            default_js_domain: BTreeMap::new(),
            starling: Starling::default(),
        }
    }
}

/// Name of the account of clients that belong to no other.
pub const GLOBAL_ACCOUNT: &str = "$G";
/// Name of the system account unless another is set.
pub const SYSTEM_ACCOUNT: &str = "$SYS";

/// How long a client may take for its credentials: 2 s, with TLS a second more than the handshake.
pub(crate) fn auth_timeout(set: Option<Duration>, tls: Option<&Tls>) -> Duration {
    match (set, tls) {
        (Some(timeout), _) => timeout,
        (None, Some(tls)) => tls.timeout + Duration::from_secs(1),
        (None, None) => Duration::from_secs(2),
    }
}

impl Settings {
    /// How long a client may take for its credentials.
    pub fn auth_timeout(&self) -> Duration {
        auth_timeout(self.authorization.timeout, self.tls.as_ref())
    }

    /// Name or address that monitoring listens on.
    pub fn http_host(&self) -> &str {
        self.monitoring.host.as_deref().unwrap_or(&self.host)
    }

    /// Path that monitoring's endpoints are under: begins with `/`, and ends with none unless it is `/`.
    pub fn http_base_path(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for part in self.monitoring.base_path.as_deref().unwrap_or("").split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    /// Name of the system account, `None` if there is none.
    pub fn system_account_name(&self) -> Option<&str> {
        match &self.system_account {
            Some(name) => Some(name),
            None if self.no_system_account => None,
            None => Some(SYSTEM_ACCOUNT),
        }
    }

    /// Accounts that have a route of their own: those written and the system account, which in operator mode has
    /// the name that the operator's token says. Empty if routes are not pooled.
    pub fn pinned_accounts<'a>(&'a self, system_account: Option<&'a str>) -> Vec<&'a str> {
        if self.cluster.pool_size == 0 {
            return Vec::new();
        }
        let mut names: Vec<&str> = self.cluster.accounts.iter().map(String::as_str).collect();
        if let Some(system) = system_account.filter(|name| !names.contains(name)) {
            names.push(system);
        }
        names
    }

    /// All users with the account they belong to; those of `authorization` belong to `$G`.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        let global = self.authorization.users.iter().map(|user| (GLOBAL_ACCOUNT, user));
        let of_accounts = self
            .accounts
            .iter()
            .flat_map(|account| account.users.iter().map(|user| (account.name.as_str(), user)));
        global.chain(of_accounts)
    }
}
