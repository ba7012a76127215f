//! `/gatewayz`, `/leafz`, `/jsz` and `/raftz` of a server without gateways, leaf nodes and JetStream.
//!
//! Owns the documents that nats-server gives when these features are not configured, so that tools which ask for
//! them keep working. Never more than that: a feature brings its own module with it.

use serde::{Deserialize, Serialize};

use crate::query::{Error, Query};
use crate::source::Source;
use crate::time::Timestamp;
use crate::varz::Absent;

/// `/gatewayz` without gateways (`Gatewayz` in monitor.go).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gatewayz {
    /// Id of the server.
    pub server_id: String,
    /// When the document was made.
    pub now: Timestamp,
    /// None.
    pub outbound_gateways: Absent,
    /// None.
    pub inbound_gateways: Absent,
}

/// Answers `/gatewayz`.
pub fn gatewayz(source: &dyn Source) -> Gatewayz {
    Gatewayz {
        server_id: source.identity().id,
        now: source.now(),
        outbound_gateways: Absent {},
        inbound_gateways: Absent {},
    }
}

/// Checks the parameters of `/gatewayz`, which are refused if malformed even though they select nothing.
pub fn check_gatewayz(query: &Query<'_>) -> Result<(), Error> {
    query.subscriptions()?;
    query.boolean("accs").map(drop)
}

/// `/leafz` without leaf nodes (`Leafz` in monitor.go).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leafz {
    /// Id of the server.
    pub server_id: String,
    /// When the document was made.
    pub now: Timestamp,
    /// Zero.
    pub leafnodes: usize,
    /// None.
    pub leafs: [Absent; 0],
}

/// Answers `/leafz`.
pub fn leafz(source: &dyn Source) -> Leafz {
    Leafz { server_id: source.identity().id, now: source.now(), leafnodes: 0, leafs: [] }
}

/// What of a request for `/jsz` changes the answer of a server without JetStream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct JszOptions {
    /// Only the leader of the meta group answers.
    pub leader_only: bool,
}

impl JszOptions {
    /// Reads the parameters of the HTTP endpoint; all are checked.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        for parameter in ["accounts", "streams", "consumers", "direct-consumers", "config"] {
            query.boolean(parameter)?;
        }
        query.integer("offset")?;
        query.integer("limit")?;
        let leader_only = query.boolean("leader-only")?;
        query.boolean("raft")?;
        query.boolean("stream-leader-only")?;
        Ok(Self { leader_only })
    }
}

/// `/jsz` without JetStream (`JSInfo` in monitor.go): every number is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "all are zero")]
pub struct Jsz {
    pub memory: u64,
    pub storage: u64,
    pub reserved_memory: u64,
    pub reserved_storage: u64,
    pub accounts: u64,
    pub ha_assets: u64,
    pub api: JszApi,
    pub server_id: String,
    pub now: Timestamp,
    pub disabled: bool,
    pub config: JszConfig,
    pub streams: u64,
    pub consumers: u64,
    pub messages: u64,
    pub bytes: u64,
    pub total: u64,
}

/// Requests to the JetStream API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "all are zero")]
pub struct JszApi {
    pub level: u64,
    pub total: u64,
    pub errors: u64,
}

/// Limits of JetStream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "all are zero")]
pub struct JszConfig {
    pub max_memory: u64,
    pub max_storage: u64,
}

/// Answers `/jsz`.
pub fn jsz(source: &dyn Source, options: JszOptions) -> Result<Jsz, Error> {
    if options.leader_only {
        return Err(Error::NotLeader);
    }
    Ok(Jsz { server_id: source.identity().id, now: source.now(), disabled: true, ..Jsz::default() })
}
