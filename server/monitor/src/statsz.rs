//! STATSZ: the numbers that a server broadcasts every ten seconds in the system account.
//!
//! Owns the snapshot, the document (`ServerStats` in events.go) and the schedule of the broadcast. Never sends.

use std::time::Duration;

use serde::Serialize;

use crate::json::field::is_default;
use crate::source::MessagesBytes;
use crate::time::Timestamp;
use crate::varz::{ByKind, Traffic};

/// The numbers of STATSZ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerStatistics {
    /// When the server started.
    pub start: Timestamp,
    /// Resident memory in bytes.
    pub memory_bytes: i64,
    /// Processors of the machine.
    pub cores: usize,
    /// Processor use in percent of one processor.
    pub cpu_percent: f64,
    /// Open client connections.
    pub connections: usize,
    /// Client connections since start.
    pub connections_total: u64,
    /// Accounts with a connection.
    pub active_accounts: usize,
    /// Subscriptions of all accounts.
    pub subscriptions: u64,
    /// Traffic since start.
    pub traffic: Traffic,
    /// Connections closed for being too slow.
    pub slow_consumers: ByKind,
    /// Connections closed for not answering PINGs.
    pub stale_connections: ByKind,
    /// Times that a publisher was made to wait.
    pub stalled_clients: u64,
    /// Open routes.
    pub routes: Vec<RouteStatistics>,
    /// Servers known in the system account, this one included.
    pub active_servers: usize,
    /// Memory limit in bytes, 0 for none.
    pub memory_limit_bytes: i64,
    /// Threads that run at a time.
    pub threads: usize,
}

/// The numbers of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteStatistics {
    /// Number of the connection on this server.
    pub rid: u64,
    /// Name of the server at the other end.
    pub name: String,
    /// Sent.
    pub sent: MessagesBytes,
    /// Received.
    pub received: MessagesBytes,
    /// Bytes waiting to be written.
    pub pending_bytes: usize,
}

/// The `statsz` member of the message (`ServerStats` in events.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields are those of ServerStatistics")]
pub struct ServerStats {
    pub start: Timestamp,
    pub mem: i64,
    pub cores: usize,
    pub cpu: f64,
    pub connections: usize,
    pub total_connections: u64,
    pub active_accounts: usize,
    pub subscriptions: u64,
    pub sent: MessagesBytes,
    pub sent_to_clients: MessagesBytes,
    pub received: MessagesBytes,
    pub received_from_clients: MessagesBytes,
    pub slow_consumers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_consumer_stats: Option<ByKind>,
    #[serde(skip_serializing_if = "is_default")]
    pub stale_connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_connection_stats: Option<ByKind>,
    #[serde(skip_serializing_if = "is_default")]
    pub stalled_clients: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteStat>,
    #[serde(skip_serializing_if = "is_default")]
    pub active_servers: usize,
    #[serde(skip_serializing_if = "is_default")]
    pub gomemlimit: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub gomaxprocs: usize,
}

/// One route in STATSZ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "fields are those of RouteStatistics")]
pub struct RouteStat {
    pub rid: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub sent: MessagesBytes,
    pub received: MessagesBytes,
    pub pending: usize,
}

impl From<ServerStatistics> for ServerStats {
    fn from(from: ServerStatistics) -> Self {
        let pair = |messages, bytes| MessagesBytes { messages, bytes };
        let traffic = from.traffic;
        let route = |route: RouteStatistics| RouteStat {
            rid: route.rid,
            name: route.name,
            sent: route.sent,
            received: route.received,
            pending: route.pending_bytes,
        };
        Self {
            start: from.start,
            mem: from.memory_bytes,
            cores: from.cores,
            cpu: from.cpu_percent,
            connections: from.connections,
            total_connections: from.connections_total,
            active_accounts: from.active_accounts,
            subscriptions: from.subscriptions,
            sent: pair(traffic.out_msgs, traffic.out_bytes),
            sent_to_clients: pair(traffic.out_client_msgs, traffic.out_client_bytes),
            received: pair(traffic.in_msgs, traffic.in_bytes),
            received_from_clients: pair(traffic.in_client_msgs, traffic.in_client_bytes),
            slow_consumers: from.slow_consumers.sum(),
            slow_consumer_stats: from.slow_consumers.unless_zero(),
            stale_connections: from.stale_connections.sum(),
            stale_connection_stats: from.stale_connections.unless_zero(),
            stalled_clients: from.stalled_clients,
            routes: from.routes.into_iter().map(route).collect(),
            active_servers: from.active_servers,
            gomemlimit: from.memory_limit_bytes,
            gomaxprocs: from.threads,
        }
    }
}

/// When the next broadcast is due: a quarter of a second after the start, then ever later up to ten seconds
/// (`startStatszTimer` and `heartbeatStatsz` in events.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
}

impl Schedule {
    /// Wait between broadcasts once the server has been up for a while.
    pub const INTERVAL_MAX: Duration = Duration::from_secs(10);

    /// Shortest wait between two broadcasts, also when requests without reply subject ask for more.
    pub const INTERVAL_MIN: Duration = Duration::from_secs(1);

    /// The schedule of a server that has just started.
    pub fn new() -> Self {
        Self { interval: Duration::from_millis(250) }
    }

    /// Wait before the first broadcast.
    pub fn first(&self) -> Duration {
        self.interval
    }

    /// Wait before the next broadcast; twice the last one.
    pub fn advance(&mut self) -> Duration {
        self.interval = (self.interval * 2).min(Self::INTERVAL_MAX);
        self.interval
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_slow_down_to_every_ten_seconds() {
        let mut schedule = Schedule::new();
        let mut waits = vec![schedule.first().as_millis()];
        waits.extend((0..7).map(|_| schedule.advance().as_millis()));
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    }

    #[test]
    fn zero_counts_are_left_out() {
        let stats = ServerStats::from(ServerStatistics::default());
        let text = String::from_utf8(crate::json::compact(&stats)).unwrap();
        for absent in
            ["slow_consumer_stats", "stale", "stalled", "routes", "active_servers", "gomem", "gomax"]
        {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
        let stats = ServerStats::from(ServerStatistics {
            slow_consumers: ByKind { routes: 2, clients: 1, ..ByKind::default() },
            ..ServerStatistics::default()
        });
        let value: serde_json::Value = serde_json::from_slice(&crate::json::compact(&stats)).unwrap();
        assert_eq!(value["slow_consumers"], 3);
        assert_eq!(value["slow_consumer_stats"]["routes"], 2);
    }
}
