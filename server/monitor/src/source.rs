//! What the documents are made from.
//!
//! Owns the trait [`Source`], the seam to the running server, and the plain data of its answers. A document asks
//! only for what it shows, so that a scrape of `/varz` never walks the connections. Never holds state itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::accountz::{AccountInfo, AccountStatistics};
use crate::events::ServerIdentity;
use crate::healthz::Readiness;
use crate::ipqueuesz::QueueDepth;
use crate::routez::RoutesSnapshot;
use crate::statsz::ServerStatistics;
use crate::subsz::IndexStatistics;
use crate::time::Timestamp;
use crate::varz::Varz;

pub use wire::CloseReason;

/// The running server as the monitoring rooms see it.
///
/// Methods are called from the thread that answers HTTP and from whoever answers `$SYS` requests, at any time
/// between start and end of the process. Each returns a copy made at that moment; two calls may disagree.
pub trait Source: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Who this server is, as events and envelopes say it.
    fn identity(&self) -> ServerIdentity;

    /// The numbers of `/varz`; `now` and `uptime` may be left at their defaults.
    fn varz(&self) -> Varz;

    /// The numbers of STATSZ; `start`, traffic and routes included.
    fn statistics(&self) -> ServerStatistics;

    /// Open client and leaf node connections in `selection`, in any order; `None` if it names an unknown account.
    fn connections(&self, selection: &Selection<'_>) -> Option<Vec<Connection>>;

    /// The ring of closed connections, oldest first, restricted to the account in `selection`.
    fn closed_connections(&self, selection: &Selection<'_>) -> Vec<ClosedConnection>;

    /// Open routes with their subscriptions if asked.
    fn routes(&self, subscriptions: bool) -> RoutesSnapshot;

    /// Numbers of the subscription indexes, one of each account, or of that account only.
    fn index_statistics(&self, account: Option<&str>) -> Vec<IndexStatistics>;

    /// Local subscriptions of all accounts, or of that account only.
    fn subscriptions(&self, account: Option<&str>) -> Vec<Subscription>;

    /// Names of all accounts known here.
    fn account_names(&self) -> Vec<String>;

    /// Name of the system account, empty if there is none.
    fn system_account(&self) -> String;

    /// All there is to know about one account.
    fn account(&self, name: &str) -> Option<AccountInfo>;

    /// Connections and traffic of every account, unused ones included.
    fn account_statistics(&self) -> Vec<AccountStatistics>;

    /// Whether all listeners are open.
    fn readiness(&self) -> Readiness;

    /// Depth of internal queues by name. None by default.
    fn queues(&self) -> BTreeMap<String, QueueDepth> {
        BTreeMap::new()
    }

    /// Counts a request for `http_req_stats` ([`RequestCounters`](crate::endpoint::RequestCounters) does it).
    fn count_request(&self, endpoint: crate::endpoint::Endpoint);
}

/// Which connections a document needs and how much of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Only this account's.
    pub account: Option<&'a str>,
    /// Fill [`Connection::subscriptions`].
    pub subscriptions: bool,
}

/// One connection of a client or leaf node. Texts that are unknown are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// Number of the connection on this server.
    pub cid: u64,
    /// Kind of the peer.
    pub kind: Kind,
    /// Remote address.
    pub ip: String,
    /// Remote port.
    pub port: u16,
    /// When the connection was accepted.
    pub start: Timestamp,
    /// When it last published, subscribed or pinged.
    pub last_activity: Timestamp,
    /// Last measured round trip; zero if none was measured.
    pub rtt: Duration,
    /// Bytes waiting to be written.
    pub pending_bytes: usize,
    /// Messages and bytes from the client.
    pub received: MessagesBytes,
    /// Messages and bytes to the client.
    pub sent: MessagesBytes,
    /// Times that this client had to wait for slow consumers.
    pub stalls: u64,
    /// Number of subscriptions.
    pub subscription_count: u32,
    /// Subscriptions, if they were asked for.
    pub subscriptions: Vec<Subscription>,
    /// Name that the client gave itself.
    pub name: String,
    /// Client library.
    pub lang: String,
    /// Its version.
    pub version: String,
    /// TLS state, if the handshake is complete.
    pub tls: Option<TlsState>,
    /// User as `/connz?auth=1` shows it: never a password, a token is `[REDACTED]`.
    pub user: String,
    /// Account; `$G` before login and for clients without one, as in nats-server.
    pub account: String,
    /// Name tag of the account.
    pub account_tag: String,
    /// User JWT; empty for bearer tokens, which are secrets.
    pub jwt: String,
    /// Key that issued the user.
    pub issuer_key: String,
    /// Tags of the user JWT.
    pub tags: Vec<String>,
    /// MQTT client id.
    pub mqtt_client: String,
    /// Public key of the trusted proxy that the client came through.
    pub proxy_key: String,
}

/// A connection that has ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClosedConnection {
    /// State when it ended.
    pub connection: Connection,
    /// When it ended.
    pub stop: Timestamp,
    /// Why.
    pub reason: CloseReason,
}

/// The latest closed connections, which `/connz?state=closed` shows. Takes no memory before it is used.
#[derive(Clone, Debug)]
pub struct ClosedRing {
    connections: std::collections::VecDeque<ClosedConnection>,
    capacity: usize,
}

impl ClosedRing {
    /// Connections kept unless `max_closed_clients` says otherwise.
    pub const DEFAULT_CAPACITY: usize = 10_000;

    /// A ring that forgets the oldest of more than `capacity` connections.
    pub fn new(capacity: usize) -> Self {
        Self { connections: std::collections::VecDeque::new(), capacity }
    }

    /// Adds a connection that has just ended.
    pub fn push(&mut self, connection: ClosedConnection) {
        if self.connections.len() >= self.capacity {
            self.connections.pop_front();
        }
        if self.capacity > 0 {
            self.connections.push_back(connection);
        }
    }

    /// What [`Source::closed_connections`] returns.
    pub fn select(&self, selection: &Selection<'_>) -> Vec<ClosedConnection> {
        let wanted = |closed: &&ClosedConnection| {
            selection.account.is_none_or(|account| account == closed.connection.account)
        };
        self.connections.iter().filter(wanted).cloned().collect()
    }
}

impl Default for ClosedRing {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

/// Kind and transport of a peer, as `kind` and `type` name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client over TCP or TLS.
    #[default]
    Client,
    /// A client over WebSocket.
    WebSocketClient,
    /// An MQTT client.
    MqttClient,
    /// Another server of the cluster.
    Route,
    /// A server of another cluster.
    Gateway,
    /// A leaf node.
    Leaf,
    /// The server's own client in the system account.
    System,
    /// The server's own client in an ordinary account.
    Account,
}

impl Kind {
    /// Text of `kind`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Client | Self::WebSocketClient | Self::MqttClient => "Client",
            Self::Route => "Router",
            Self::Gateway => "Gateway",
            Self::Leaf => "Leafnode",
            Self::System => "System",
            Self::Account => "Account",
        }
    }

    /// Text of `type`; empty for all but clients.
    pub fn client_type(self) -> &'static str {
        match self {
            Self::Client => "nats",
            Self::WebSocketClient => "websocket",
            Self::MqttClient => "mqtt",
            Self::Route | Self::Gateway | Self::Leaf | Self::System | Self::Account => "",
        }
    }
}

/// State of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsState {
    /// `1.2` or `1.3`.
    pub version: String,
    /// Name of the cipher suite in IANA's spelling.
    pub cipher_suite: String,
    /// The handshake came before INFO.
    pub first: bool,
    /// Certificates of the peer, its own first.
    pub peer_certificates: Vec<PeerCertificate>,
}

/// What is shown of a peer's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PeerCertificate {
    /// Distinguished name of the subject (RFC 2253).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// SHA-256 of the public key info, hexadecimal.
    #[serde(rename = "spki_sha256", skip_serializing_if = "String::is_empty")]
    pub public_key_sha256: String,
    /// SHA-256 of the certificate, hexadecimal.
    #[serde(rename = "cert_sha256", skip_serializing_if = "String::is_empty")]
    pub certificate_sha256: String,
}

/// A count of messages and of their payload bytes, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MessagesBytes {
    /// Messages.
    #[serde(rename = "msgs")]
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Account that it belongs to.
    pub account: String,
    /// Name tag of the account.
    pub account_tag: String,
    /// Subject, maybe with wildcards.
    pub subject: String,
    /// Queue group, empty for none.
    pub queue: String,
    /// Id that the client chose.
    pub sid: String,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages after which it ends, 0 for never.
    pub delivered_max: u64,
    /// Connection that made it.
    pub cid: u64,
}
