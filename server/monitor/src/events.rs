//! Events of the system account: what a server tells by itself.
//!
//! Owns the JSON of each event (events.go), its subject, and the stamp of the server on it. Never sends, counts or
//! decides when: the caller gives time, event id and sequence number.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accountz::{AccountStat, AccountStatistics};
use crate::json::field::{is_default, nanoseconds};
use crate::source::{CloseReason, Connection, MessagesBytes};
use crate::statsz::{ServerStatistics, ServerStats};
use crate::time::Timestamp;

/// Subjects of events, without the account or server in them where a function takes it.
pub mod subjects {
    /// A client of `account` has logged in.
    pub fn connect(account: &str) -> String {
        format!("$SYS.ACCOUNT.{account}.CONNECT")
    }

    /// A client of `account` has gone.
    pub fn disconnect(account: &str) -> String {
        format!("$SYS.ACCOUNT.{account}.DISCONNECT")
    }

    /// The connections of `account` on one server have changed, or thirty seconds have passed. Each such event is
    /// published on both subjects; the first is the old one, which other servers listen to.
    pub fn account_connections(account: &str) -> [String; 2] {
        [format!("$SYS.SERVER.ACCOUNT.{account}.CONNS"), format!("$SYS.ACCOUNT.{account}.SERVER.CONNS")]
    }

    /// A client was refused, told to the system account.
    pub fn auth_error(server_id: &str) -> String {
        format!("$SYS.SERVER.{server_id}.CLIENT.AUTH.ERR")
    }

    /// A client was refused, told to the account that it wanted.
    pub const ACCOUNT_AUTH_ERROR: &str = "$SYS.ACCOUNT.CLIENT.AUTH.ERR";

    /// The numbers of a server.
    pub fn statistics(server_id: &str) -> String {
        format!("$SYS.SERVER.{server_id}.STATSZ")
    }

    /// A server stops; the payload is a bare [`ServerInfo`](super::ServerInfo).
    pub fn shutdown(server_id: &str) -> String {
        format!("$SYS.SERVER.{server_id}.SHUTDOWN")
    }

    /// A peer was turned away for what OCSP says of its chain.
    pub fn ocsp_peer_rejected(server_id: &str) -> String {
        format!("$SYS.SERVER.{server_id}.OCSP.PEER.CONN.REJECT")
    }

    /// A certificate of a peer's chain is not good.
    pub fn ocsp_link_invalid(server_id: &str) -> String {
        format!("$SYS.SERVER.{server_id}.OCSP.PEER.LINK.INVALID")
    }

    /// A server begins to send its clients away; the payload is a bare [`ServerInfo`](super::ServerInfo).
    pub fn lame_duck(server_id: &str) -> String {
        format!("$SYS.SERVER.{server_id}.LAMEDUCK")
    }
}

/// Interval at which [`AccountConnections`] is repeated while an account has connections.
pub const ACCOUNT_CONNECTIONS_INTERVAL: Duration = Duration::from_secs(30);

/// What does not change about a server, or only by reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Configured name, or the id.
    pub name: String,
    /// Host of the client listener.
    pub host: String,
    /// Id of this run of the server.
    pub id: String,
    /// Name of the cluster, empty if there is none.
    pub cluster: String,
    /// JetStream domain.
    pub domain: String,
    /// The nats-server version that peers may count on.
    pub version: String,
    /// `server_tags`.
    pub tags: Vec<String>,
    /// `server_metadata`.
    pub metadata: BTreeMap<String, String>,
    /// Feature flags with their values.
    pub feature_flags: BTreeMap<String, bool>,
}

/// The sender of an event or answer (`ServerInfo` in events.go). Servers also read each other's, from which they
/// know who is there: fields that a peer leaves out get their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// Name.
    pub name: String,
    /// Host of the client listener.
    pub host: String,
    /// Id.
    pub id: String,
    /// Name of the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// JetStream domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Version.
    pub ver: String,
    /// Tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Feature flags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_flags: BTreeMap<String, bool>,
    /// JetStream is on.
    pub jetstream: bool,
    /// Bits: 1 JetStream, 2 binary snapshots, 4 Raft traffic in the account of its assets.
    pub flags: u64,
    /// Number of the message among those of the sender; receivers see gaps and restarts by it.
    pub seq: u64,
    /// When it was sent.
    pub time: Timestamp,
}

impl ServerInfo {
    /// The stamp of one message. `sequence` rises by one with each.
    pub fn new(identity: ServerIdentity, sequence: u64, time: Timestamp) -> Self {
        Self {
            name: identity.name,
            host: identity.host,
            id: identity.id,
            cluster: identity.cluster,
            domain: identity.domain,
            ver: identity.version,
            tags: identity.tags,
            metadata: identity.metadata,
            feature_flags: identity.feature_flags,
            jetstream: false,
            flags: 0,
            seq: sequence,
            time,
        }
    }
}

/// Type, id and time at the front of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Name of the schema.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A random id, a NUID in nats-server.
    pub id: String,
    /// When it happened.
    pub timestamp: Timestamp,
}

/// The client that an event is about (`ClientInfo` in events.go).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "fields are those of source::Connection")]
pub struct ClientInfo {
    pub start: Timestamp,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    #[serde(skip_serializing_if = "is_default")]
    pub id: u64,
    pub acc: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lang: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ver: String,
    #[serde(serialize_with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub rtt: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwt: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name_tag: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub client_type: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_id: String,
}

impl ClientInfo {
    /// The account is `N/A` before login.
    fn new(connection: &Connection, stop: Option<Timestamp>) -> Self {
        let account = if connection.account.is_empty() { "N/A" } else { &connection.account };
        Self {
            start: connection.start,
            host: connection.ip.clone(),
            id: connection.cid,
            acc: account.to_owned(),
            user: connection.user.clone(),
            name: connection.name.clone(),
            lang: connection.lang.clone(),
            ver: connection.version.clone(),
            // A connect event comes before any round trip.
            rtt: if stop.is_some() { connection.rtt } else { Duration::ZERO },
            stop,
            jwt: connection.jwt.clone(),
            issuer_key: connection.issuer_key.clone(),
            name_tag: connection.account_tag.clone(),
            tags: connection.tags.clone(),
            kind: connection.kind.kind(),
            client_type: connection.kind.client_type(),
            client_id: connection.mqtt_client.clone(),
        }
    }
}

/// A client has logged in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Connect {
    /// Type, id, time.
    #[serde(flatten)]
    pub header: Header,
    /// The server that it is connected to.
    pub server: ServerInfo,
    /// The client.
    pub client: ClientInfo,
}

impl Connect {
    /// Builds the event; publish it on [`subjects::connect`].
    pub fn new(server: ServerInfo, id: String, time: Timestamp, connection: &Connection) -> Self {
        let kind = "io.nats.server.advisory.v1.client_connect";
        Self {
            header: Header { kind, id, timestamp: time },
            server,
            client: ClientInfo::new(connection, None),
        }
    }
}

/// A client has gone or was refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disconnect {
    /// Type, id, time.
    #[serde(flatten)]
    pub header: Header,
    /// The server that it was connected to.
    pub server: ServerInfo,
    /// The client.
    pub client: ClientInfo,
    /// What the client sent.
    pub sent: MessagesBytes,
    /// What the client received.
    pub received: MessagesBytes,
    /// Text of a [`CloseReason`].
    pub reason: &'static str,
}

impl Disconnect {
    /// Builds the event; publish it on [`subjects::disconnect`], or on [`subjects::auth_error`] and
    /// [`subjects::ACCOUNT_AUTH_ERROR`] for a client that was refused.
    pub fn new(
        server: ServerInfo,
        id: String,
        time: Timestamp,
        connection: &Connection,
        reason: CloseReason,
    ) -> Self {
        let kind = "io.nats.server.advisory.v1.client_disconnect";
        Self {
            header: Header { kind, id, timestamp: time },
            server,
            client: ClientInfo::new(connection, Some(time)),
            sent: connection.received,
            received: connection.sent,
            reason: reason.text(),
        }
    }
}

/// A certificate in an event (`CertInfo` in certidp.go).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CertificateInfo {
    /// The subject in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The issuer in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// SHA-256 of the certificate, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// The certificate in DER, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub raw: String,
}

/// A peer was turned away for what OCSP says of its chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OcspPeerRejected {
    /// Type, id, time.
    #[serde(flatten)]
    pub header: Header,
    /// `Client`.
    pub kind: &'static str,
    /// Its certificate.
    pub peer: CertificateInfo,
    /// The server that it connected to.
    pub server: ServerInfo,
    /// Why.
    pub reason: String,
}

impl OcspPeerRejected {
    /// Builds the event; publish it on [`subjects::ocsp_peer_rejected`].
    pub fn new(
        server: ServerInfo,
        id: String,
        time: Timestamp,
        kind: &'static str,
        peer: CertificateInfo,
        reason: String,
    ) -> Self {
        let schema = "io.nats.server.advisory.v1.ocsp_peer_reject";
        Self { header: Header { kind: schema, id, timestamp: time }, kind, peer, server, reason }
    }
}

/// A certificate of a peer's chain is not good.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OcspLinkInvalid {
    /// Type, id, time.
    #[serde(flatten)]
    pub header: Header,
    /// The certificate that is not good.
    pub link: CertificateInfo,
    /// The certificate of the peer, which may be the same.
    pub peer: CertificateInfo,
    /// The server that it connected to.
    pub server: ServerInfo,
    /// Why.
    pub reason: String,
}

impl OcspLinkInvalid {
    /// Builds the event; publish it on [`subjects::ocsp_link_invalid`].
    pub fn new(
        server: ServerInfo,
        id: String,
        time: Timestamp,
        link: CertificateInfo,
        peer: CertificateInfo,
        reason: String,
    ) -> Self {
        let kind = "io.nats.server.advisory.v1.ocsp_peer_link_invalid";
        Self { header: Header { kind, id, timestamp: time }, link, peer, server, reason }
    }
}

/// How many connections an account has on one server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountConnections {
    /// Type, id, time.
    #[serde(flatten)]
    pub header: Header,
    /// The server.
    pub server: ServerInfo,
    /// The account.
    #[serde(flatten)]
    pub account: AccountStat,
}

impl AccountConnections {
    /// Builds the event; publish it on both [`subjects::account_connections`]. The account `$G` has none.
    pub fn new(server: ServerInfo, id: String, time: Timestamp, account: &AccountStatistics) -> Self {
        let kind = "io.nats.server.advisory.v1.account_connections";
        Self { header: Header { kind, id, timestamp: time }, server, account: account.into() }
    }
}

/// The numbers of a server, also the answer to a STATSZ request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// The server.
    pub server: ServerInfo,
    /// Its numbers.
    pub statsz: ServerStats,
}

impl Statistics {
    /// Builds the event; publish it on [`subjects::statistics`].
    pub fn new(server: ServerInfo, statistics: ServerStatistics) -> Self {
        Self { server, statsz: statistics.into() }
    }
}

/// What a server reads of another's [`AccountConnections`], to hold the limits of an account over the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PeerAccountConnections {
    /// The other server.
    pub server: ServerInfo,
    /// The account.
    #[serde(rename = "acc")]
    pub account: String,
    /// Its clients there.
    #[serde(rename = "conns")]
    pub client_connections: usize,
    /// Its leaf nodes there.
    #[serde(rename = "leafnodes")]
    pub leafnode_connections: usize,
}

/// Asks the other servers for their [`AccountConnections`] of an account that gets its first connection here;
/// published on `$SYS.REQ.ACCOUNT.<account>.CONNS` with the reply subject `$SYS._INBOX_.<server id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountConnectionsRequest {
    /// The server that asks.
    pub server: ServerInfo,
    /// The account.
    #[serde(rename = "acc")]
    pub account: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::compact;

    fn server() -> ServerInfo {
        let identity = ServerIdentity {
            name: "alpha".into(),
            host: "127.0.0.1".into(),
            id: "NID".into(),
            version: "2.15.2".into(),
            ..ServerIdentity::default()
        };
        ServerInfo::new(identity, 7, Timestamp::from_unix_nanos(1))
    }

    fn connection() -> Connection {
        Connection {
            cid: 5,
            ip: "10.0.0.1".into(),
            rtt: Duration::from_micros(3),
            received: MessagesBytes { messages: 1, bytes: 2 },
            sent: MessagesBytes { messages: 3, bytes: 4 },
            ..Connection::default()
        }
    }

    #[test]
    fn a_connect_event_has_neither_stop_nor_round_trip() {
        let event = Connect::new(server(), "ID".into(), Timestamp::default(), &connection());
        assert_eq!(
            String::from_utf8(compact(&event)).unwrap(),
            concat!(
                r#"{"type":"io.nats.server.advisory.v1.client_connect","id":"ID","#,
                r#""timestamp":"1970-01-01T00:00:00Z","#,
                r#""server":{"name":"alpha","host":"127.0.0.1","id":"NID","ver":"2.15.2","jetstream":false,"#,
                r#""flags":0,"seq":7,"time":"1970-01-01T00:00:00.000000001Z"},"#,
                r#""client":{"start":"1970-01-01T00:00:00Z","host":"10.0.0.1","id":5,"acc":"N/A","#,
                r#""kind":"Client","client_type":"nats"}}"#
            )
        );
    }

    #[test]
    fn servers_understand_each_other() {
        let account = AccountStatistics {
            account: "A".into(),
            client_connections: 3,
            leafnode_connections: 1,
            ..AccountStatistics::default()
        };
        let sent = AccountConnections::new(server(), "ID".into(), Timestamp::default(), &account);
        let read: PeerAccountConnections = serde_json::from_slice(&compact(&sent)).unwrap();
        assert_eq!(read.server, sent.server);
        assert_eq!((read.account.as_str(), read.client_connections, read.leafnode_connections), ("A", 3, 1));
    }

    #[test]
    fn a_disconnect_event_counts_from_the_side_of_the_client() {
        let event = Disconnect::new(
            server(),
            "ID".into(),
            Timestamp::from_unix_nanos(9),
            &connection(),
            CloseReason::StaleConnection,
        );
        let value: serde_json::Value = serde_json::from_slice(&compact(&event)).unwrap();
        assert_eq!(value["sent"]["msgs"], 1, "the server received it, so the client sent it");
        assert_eq!(value["received"]["bytes"], 4);
        assert_eq!(value["reason"], "Stale Connection");
        assert_eq!(value["client"]["stop"], value["timestamp"]);
        assert_eq!(value["client"]["rtt"], 3_000);
    }
}
