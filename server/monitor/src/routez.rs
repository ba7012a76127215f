//! `/routez`: connections to the other servers of the cluster.
//!
//! Owns the snapshot and the document. Never decides what a route is: each connection of a pool is one entry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::query::{Error, Query, SubscriptionsShown};
use crate::source::{MessagesBytes, Source, Subscription};
use crate::subsz::SubscriptionDetail;
use crate::time::{Timestamp, round_trip, uptime};

/// What a request for `/routez` asks; the JSON form is the payload of `$SYS.REQ.SERVER.*.ROUTEZ`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RoutezOptions {
    /// List subjects.
    pub subscriptions: bool,
    /// List subscriptions in detail; wins over `subscriptions`.
    pub subscriptions_detail: bool,
}

impl RoutezOptions {
    /// Reads the parameters of the HTTP endpoint.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        let shown = query.subscriptions()?;
        Ok(Self {
            subscriptions: shown == SubscriptionsShown::Subjects,
            subscriptions_detail: shown == SubscriptionsShown::Detail,
        })
    }
}

/// All open routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutesSnapshot {
    /// Configured import permissions of routes.
    pub import: Option<SubjectPermission>,
    /// Configured export permissions of routes.
    pub export: Option<SubjectPermission>,
    /// One entry a connection.
    pub routes: Vec<Route>,
}

/// One route connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Number of the connection on this server.
    pub rid: u64,
    /// Id of the server at the other end.
    pub remote_id: String,
    /// Its name.
    pub remote_name: String,
    /// This server opened the connection.
    pub did_solicit: bool,
    /// The route is in the configuration, not learned by gossip.
    pub is_configured: bool,
    /// Remote address.
    pub ip: String,
    /// Remote port.
    pub port: u16,
    /// When the connection was made.
    pub start: Timestamp,
    /// When something last came in.
    pub last_activity: Timestamp,
    /// Last measured round trip; zero if none was measured.
    pub rtt: Duration,
    /// Import permissions that the other end announced.
    pub import: Option<SubjectPermission>,
    /// Export permissions that the other end announced.
    pub export: Option<SubjectPermission>,
    /// Bytes waiting to be written.
    pub pending_bytes: usize,
    /// Messages and bytes received.
    pub received: MessagesBytes,
    /// Messages and bytes sent.
    pub sent: MessagesBytes,
    /// Number of remote subscriptions.
    pub subscription_count: u32,
    /// Remote subscriptions, if they were asked for.
    pub subscriptions: Vec<Subscription>,
    /// Account that the route is pinned to.
    pub account: String,
    /// Compression: `off`, `s2_fast` and so on.
    pub compression: String,
}

/// Subjects that may or may not pass (`SubjectPermission` in auth.go).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectPermission {
    /// Only these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// The document of `/routez` (`Routez` in monitor.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Routez {
    /// Id of the server.
    pub server_id: String,
    /// Name of the server.
    pub server_name: String,
    /// When the document was made.
    pub now: Timestamp,
    /// Configured import permissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<SubjectPermission>,
    /// Configured export permissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<SubjectPermission>,
    /// Number of route connections.
    pub num_routes: usize,
    /// The connections.
    pub routes: Vec<RouteInfo>,
}

/// Answers `/routez`.
pub fn document(source: &dyn Source, options: RoutezOptions) -> Routez {
    let shown = SubscriptionsShown::from_flags(options.subscriptions, options.subscriptions_detail);
    let identity = source.identity();
    let now = source.now();
    let snapshot = source.routes(shown.any());
    Routez {
        server_id: identity.id,
        server_name: identity.name,
        now,
        import: snapshot.import,
        export: snapshot.export,
        num_routes: snapshot.routes.len(),
        routes: snapshot.routes.into_iter().map(|route| RouteInfo::new(route, now, shown)).collect(),
    }
}

/// One route in `/routez` (`RouteInfo` in monitor.go).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields are those of Route")]
pub struct RouteInfo {
    pub rid: u64,
    pub remote_id: String,
    pub remote_name: String,
    pub did_solicit: bool,
    pub is_configured: bool,
    pub ip: String,
    pub port: u16,
    pub start: Timestamp,
    pub last_activity: Timestamp,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rtt: String,
    pub uptime: String,
    pub idle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<SubjectPermission>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<SubjectPermission>,
    pub pending_size: usize,
    pub in_msgs: u64,
    pub out_msgs: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub subscriptions: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions_list: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions_list_detail: Vec<SubscriptionDetail>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub compression: String,
}

impl RouteInfo {
    fn new(route: Route, now: Timestamp, shown: SubscriptionsShown) -> Self {
        let mut info = Self {
            rid: route.rid,
            remote_id: route.remote_id,
            remote_name: route.remote_name,
            did_solicit: route.did_solicit,
            is_configured: route.is_configured,
            ip: route.ip,
            port: route.port,
            start: route.start,
            last_activity: route.last_activity,
            rtt: round_trip(route.rtt),
            uptime: uptime(now.since(route.start)),
            idle: uptime(now.since(route.last_activity)),
            import: route.import,
            export: route.export,
            pending_size: route.pending_bytes,
            in_msgs: route.received.messages,
            out_msgs: route.sent.messages,
            in_bytes: route.received.bytes,
            out_bytes: route.sent.bytes,
            subscriptions: route.subscription_count,
            account: route.account,
            compression: route.compression,
            ..Self::default()
        };
        match shown {
            SubscriptionsShown::None => {}
            SubscriptionsShown::Subjects => {
                info.subscriptions_list = route.subscriptions.into_iter().map(|each| each.subject).collect();
            }
            SubscriptionsShown::Detail => {
                info.subscriptions_list_detail =
                    route.subscriptions.into_iter().map(SubscriptionDetail::of_connection).collect();
            }
        }
        info
    }
}
