//! `/varz`: what the server is, how it is configured and what it counted.
//!
//! Owns the document [`Varz`]. The engine fills it; [`document`] adds the time. Blocks of features that this server
//! does not have (gateways, leaf nodes, MQTT, WebSocket, JetStream) are empty objects, as nats-server shows them
//! when they are not configured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::json::field::{is_default, nanoseconds};
use crate::source::Source;
use crate::time::{Timestamp, uptime};

/// Answers `/varz`.
pub fn document(source: &dyn Source) -> Varz {
    let now = source.now();
    let mut varz = source.varz();
    varz.uptime = uptime(now.since(varz.start));
    varz.now = now;
    // nats-server shows the split even at zero; a source that does not split has clients only.
    let stale = varz.stale_connections;
    varz.stale_connection_stats.get_or_insert(ByKind { clients: stale, ..ByKind::default() });
    varz
}

/// The document of `/varz` (`Varz` in monitor.go), fields in its order.
///
/// Spans are whole nanoseconds on the wire, timeouts named `_timeout` are seconds. `now` and `uptime` are set by
/// [`document`]; everything else by the [`Source`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Varz {
    /// Id of this run of the server.
    pub server_id: String,
    /// Configured name, or the id.
    pub server_name: String,
    /// The nats-server version that tools may count on.
    pub version: String,
    /// Protocol level of INFO.
    pub proto: i32,
    /// Source revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_commit: String,
    /// nats-server puts its Go version here.
    pub go: String,
    /// Host of the client listener.
    pub host: String,
    /// Port of the client listener.
    pub port: u16,
    /// Clients need credentials.
    #[serde(skip_serializing_if = "is_default")]
    pub auth_required: bool,
    /// Clients must use TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_required: bool,
    /// Clients must show a certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_verify: bool,
    /// OCSP is asked about client certificates.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_ocsp_peer_verify: bool,
    /// Advertised IP address, if set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Addresses that clients are told, `host:port`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connect_urls: Vec<String>,
    /// The same for WebSocket clients.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ws_connect_urls: Vec<String>,
    /// Most client connections at a time.
    pub max_connections: i64,
    /// Most subscriptions a connection, 0 without limit.
    #[serde(skip_serializing_if = "is_default")]
    pub max_subscriptions: i64,
    /// Silence after which a PING is sent.
    #[serde(serialize_with = "nanoseconds")]
    pub ping_interval: Duration,
    /// Unanswered PINGs that close a connection.
    pub ping_max: i64,
    /// Host of the monitor as configured.
    pub http_host: String,
    /// Port of the monitor as configured; -1 means any.
    pub http_port: i32,
    /// Path before all endpoints as configured.
    pub http_base_path: String,
    /// TLS port of the monitor as configured.
    pub https_port: i32,
    /// Seconds until a client must have sent CONNECT.
    pub auth_timeout: f64,
    /// Longest protocol line in bytes.
    pub max_control_line: i32,
    /// Largest payload in bytes.
    pub max_payload: i64,
    /// Most bytes that may wait for one client.
    pub max_pending: i64,
    /// The cluster block.
    pub cluster: ClusterVarz,
    /// The gateway block, empty.
    pub gateway: Absent,
    /// The leaf node block, empty.
    pub leaf: Absent,
    /// The MQTT block, empty.
    pub mqtt: Absent,
    /// The WebSocket block, empty.
    pub websocket: Absent,
    /// The JetStream block, empty.
    pub jetstream: Absent,
    /// Seconds that a TLS handshake may take.
    pub tls_timeout: f64,
    /// Longest time that a write may stall.
    #[serde(serialize_with = "nanoseconds")]
    pub write_deadline: Duration,
    /// What happens after `write_deadline`: empty, `close` or `retry`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub write_timeout: String,
    /// When the server started.
    pub start: Timestamp,
    /// When the document was made.
    pub now: Timestamp,
    /// `now - start` as text.
    pub uptime: String,
    /// Resident memory in bytes.
    pub mem: i64,
    /// Processors of the machine.
    pub cores: usize,
    /// Threads that run at a time; workers here.
    pub gomaxprocs: usize,
    /// Memory limit in bytes, if one is set.
    #[serde(skip_serializing_if = "is_default")]
    pub gomemlimit: i64,
    /// Processor use in percent of one processor.
    pub cpu: f64,
    /// Open client connections.
    pub connections: usize,
    /// Client connections since start.
    pub total_connections: u64,
    /// Open route connections, each of a pool counted.
    pub routes: usize,
    /// Servers that routes lead to.
    pub remotes: usize,
    /// Open leaf node connections.
    pub leafnodes: usize,
    /// Traffic since start.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Connections closed for being too slow.
    pub slow_consumers: u64,
    /// Connections closed for not answering PINGs.
    pub stale_connections: u64,
    /// Times that a publisher was made to wait for a slow consumer.
    pub stalled_clients: u64,
    /// Subscriptions of all accounts.
    pub subscriptions: u64,
    /// Requests by endpoint.
    pub http_req_stats: BTreeMap<String, u64>,
    /// When the configuration was last read.
    pub config_load_time: Timestamp,
    /// Digest of the configuration, empty without a file.
    pub config_digest: String,
    /// `server_tags`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `server_metadata`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Feature flags with their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_flags: BTreeMap<String, bool>,
    /// JWTs of trusted operators.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_operators_jwt: Vec<String>,
    /// The claims in them, decoded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_operators_claim: Vec<serde_json::Value>,
    /// Name of the system account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_account: String,
    /// Logins refused because their issuer is not pinned.
    #[serde(skip_serializing_if = "is_default")]
    pub pinned_account_fails: u64,
    /// `slow_consumers` by kind of connection.
    pub slow_consumer_stats: ByKind,
    /// `stale_connections` by kind of connection; all are taken for clients if this is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_connection_stats: Option<ByKind>,
    /// Waits for the disk; all zero without JetStream.
    pub disk_io_wait_stats: DiskWaits,
    /// Trusted proxies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<Proxies>,
    /// End of the client listener's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_not_after: Option<Timestamp>,
    /// The cache of responses about peers' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp_peer_cache: Option<OcspPeerCache>,
    /// Version of this server; `version` says what it is compatible with. Not a field of nats-server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub starling_version: String,
}

/// The cache of responses about peers' certificates (`OCSPResponseCacheVarz`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OcspPeerCache {
    /// `local`.
    pub cache_type: &'static str,
    /// Questions that it could answer.
    #[serde(skip_serializing_if = "is_default")]
    pub cache_hits: u64,
    /// Questions that it could not.
    #[serde(skip_serializing_if = "is_default")]
    pub cache_misses: u64,
    /// Responses in it.
    #[serde(skip_serializing_if = "is_default")]
    pub cached_responses: u64,
    /// Responses that say revoked.
    #[serde(skip_serializing_if = "is_default")]
    pub cached_revoked_responses: u64,
    /// Responses that say good.
    #[serde(skip_serializing_if = "is_default")]
    pub cached_good_responses: u64,
    /// Responses that say unknown.
    #[serde(skip_serializing_if = "is_default")]
    pub cached_unknown_responses: u64,
}

/// Messages and payload bytes since start. The first four count all connections, routes too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Messages received.
    pub in_msgs: u64,
    /// Bytes received.
    pub in_bytes: u64,
    /// Messages received from clients.
    pub in_client_msgs: u64,
    /// Bytes received from clients.
    pub in_client_bytes: u64,
    /// Messages sent.
    pub out_msgs: u64,
    /// Bytes sent.
    pub out_bytes: u64,
    /// Messages sent to clients.
    pub out_client_msgs: u64,
    /// Bytes sent to clients.
    pub out_client_bytes: u64,
}

/// The `cluster` block; all of it may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClusterVarz {
    /// Name of the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Host of the route listener.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// Port of the route listener.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster_port: u16,
    /// Seconds until a route must have sent CONNECT.
    #[serde(skip_serializing_if = "is_default")]
    pub auth_timeout: f64,
    /// Configured routes, `host:port`, credentials left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Seconds that a TLS handshake may take.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_timeout: f64,
    /// Routes must use TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_required: bool,
    /// Routes must show a certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_verify: bool,
    /// Connections to each server.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_size: i64,
    /// Longest time that a write may stall, if set for routes.
    #[serde(serialize_with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub write_deadline: Duration,
    /// What happens after `write_deadline`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub write_timeout: String,
    /// End of the route listener's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_not_after: Option<Timestamp>,
}

/// The block of a feature that is not there: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Absent {}

/// A count by kind of connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByKind {
    /// Clients.
    pub clients: u64,
    /// Routes.
    pub routes: u64,
    /// Gateways.
    pub gateways: u64,
    /// Leaf nodes.
    pub leafs: u64,
}

impl ByKind {
    /// All kinds together.
    pub fn sum(self) -> u64 {
        self.clients + self.routes + self.gateways + self.leafs
    }

    /// The count, or nothing if all kinds are at zero.
    pub fn unless_zero(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// `disk_io_wait_stats`; times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskWaits {
    /// Waiting now.
    pub waiters: i64,
    /// Waits so far.
    pub waits: u64,
    /// Their sum.
    pub wait_time: u64,
    /// The longest.
    pub max_wait_time: u64,
}

/// Trusted proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proxies {
    /// Public keys of trusted proxies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted: Vec<Proxy>,
}

/// One proxy, in `/varz` and on a connection that came through it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// Public key.
    pub key: String,
}
