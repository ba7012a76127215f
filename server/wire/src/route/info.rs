//! The documents of a route's handshake: `INFO` and `CONNECT`.
//!
//! Field names and order follow nats-server's `Info` and `connectInfo`; a field with Go's `omitempty` is left out
//! here too when it says nothing. Go reads `null` as "nothing" everywhere, so these documents do as well.

use serde::{Deserialize, Deserializer, Serialize};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Allowed and denied subject filters of a route's import or export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectPermission {
    /// Filters that are allowed; empty allows all that is not denied.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub allow: Vec<String>,
    /// Filters that are denied.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub deny: Vec<String>,
}

/// The `INFO` document of a route. The same document introduces a server, announces another server (gossip),
/// says that one is about to leave (`ldm`) and updates route permissions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Random id of this run of the server.
    #[serde(deserialize_with = "null_is_default")]
    pub server_id: String,
    /// Name of the server.
    #[serde(deserialize_with = "null_is_default")]
    pub server_name: String,
    /// nats-server version that peers may count on.
    #[serde(deserialize_with = "null_is_default")]
    pub version: String,
    /// Server-to-server protocol level; 3 understands message tracing.
    pub proto: i32,
    /// Source revision.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub git_commit: String,
    /// nats-server puts its Go version here.
    #[serde(deserialize_with = "null_is_default")]
    pub go: String,
    /// Host of the route listener as configured, or as advertised.
    #[serde(deserialize_with = "null_is_default")]
    pub host: String,
    /// Port of the route listener, or as advertised.
    pub port: i32,
    /// Headers are understood.
    pub headers: bool,
    /// The route listener asks for user and password.
    #[serde(skip_serializing_if = "is_default")]
    pub auth_required: bool,
    /// Routes use TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_required: bool,
    /// Route certificates are verified.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_verify: bool,
    /// TLS is possible.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_available: bool,
    /// Largest payload of a client, in bytes.
    pub max_payload: i64,
    /// JetStream is on.
    #[serde(skip_serializing_if = "is_default")]
    pub jetstream: bool,
    /// `nats-route://host:port/` under which others reach the server that this document introduces.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub ip: String,
    /// Random text; routes do not sign it, but servers since 2.0 send it.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub nonce: String,
    /// Cluster name.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub cluster: String,
    /// The cluster name was chosen at random and gives way to any other.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster_dynamic: bool,
    /// JetStream domain.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub domain: String,
    /// `host:port` under which clients reach that server; absent with `no_advertise`.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub connect_urls: Vec<String>,
    /// The same for WebSocket clients.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub ws_connect_urls: Vec<String>,
    /// The server is about to leave.
    #[serde(rename = "ldm", skip_serializing_if = "is_default")]
    pub lame_duck_mode: bool,
    /// Compression mode (`off`, `accept`, `s2_fast`, …); absent means that the server knows none.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub compression: String,
    /// What the server takes from peers.
    #[serde(skip_serializing_if = "is_default")]
    pub import: Option<SubjectPermission>,
    /// What the server gives to peers.
    #[serde(skip_serializing_if = "is_default")]
    pub export: Option<SubjectPermission>,
    /// `LS+` with an origin cluster is understood.
    #[serde(skip_serializing_if = "is_default")]
    pub lnoc: bool,
    /// `LS-` with an origin cluster is understood.
    #[serde(skip_serializing_if = "is_default")]
    pub lnocu: bool,
    /// Leaf interest without an origin cluster is understood; implies `lnoc` and `lnocu`.
    #[serde(skip_serializing_if = "is_default")]
    pub ln: bool,
    /// Only leaf nodes and gateways use it.
    #[serde(skip_serializing_if = "is_default")]
    pub info_on_connect: bool,
    /// Connections that the server wants per peer; absent without pooling.
    #[serde(skip_serializing_if = "is_default")]
    pub route_pool_size: i32,
    /// Place in the pool that the soliciting side chose for this connection.
    #[serde(skip_serializing_if = "is_default")]
    pub route_pool_idx: i32,
    /// Account that this connection is pinned to.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub route_account: String,
    /// An account gets its own connections while the cluster runs: the request's number.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub route_acc_add_reqid: String,
    /// 0: pass the introduction on; 1: do not; 2: do, whatever the receiver thinks.
    #[serde(skip_serializing_if = "is_default")]
    pub gossip_mode: u8,
    /// Gateway name: the document is about gateways.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub gateway: String,
    /// URL of the server's gateway listener.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub gateway_url: String,
    /// URL of the server's leaf listener (one at most on a route).
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub leafnode_urls: Vec<String>,
    /// Public curve key.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub xkey: String,
    /// Version of Starling. nats-server ignores it; two Starlings know by it that both resolve crossing
    /// connections by the same rule.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub starling: String,
}

impl Info {
    /// Reads the argument of `INFO`.
    ///
    /// # Errors
    /// It is not a JSON object of this form.
    pub fn decode(json: &[u8]) -> Result<Info, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// The `CONNECT` document, which the soliciting side sends first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connect {
    /// Always true between servers.
    pub echo: bool,
    /// Answer with `+OK`; false between servers.
    pub verbose: bool,
    /// False between servers.
    pub pedantic: bool,
    /// Route user.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub user: String,
    /// Route password.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub pass: String,
    /// TLS is used.
    pub tls_required: bool,
    /// Headers are understood.
    pub headers: bool,
    /// The server's id.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Cluster name.
    #[serde(deserialize_with = "null_is_default")]
    pub cluster: String,
    /// The cluster name gives way.
    #[serde(rename = "cluster_dynamic", skip_serializing_if = "is_default")]
    pub dynamic: bool,
    /// As in [`Info::lnoc`].
    #[serde(skip_serializing_if = "is_default")]
    pub lnoc: bool,
    /// As in [`Info::lnocu`].
    #[serde(skip_serializing_if = "is_default")]
    pub lnocu: bool,
    /// As in [`Info::ln`].
    #[serde(skip_serializing_if = "is_default")]
    pub ln: bool,
    /// Set by a gateway that came to the wrong port.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub gateway: String,
    /// Set by a client that came to the wrong port; servers never send it.
    #[serde(skip_serializing, deserialize_with = "null_is_default")]
    pub lang: String,
}

impl Connect {
    /// Reads the argument of `CONNECT`.
    ///
    /// # Errors
    /// It is not a JSON object of this form.
    pub fn decode(json: &[u8]) -> Result<Connect, serde_json::Error> {
        serde_json::from_slice(json)
    }
}
