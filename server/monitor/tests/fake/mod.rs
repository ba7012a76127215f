//! A server that never runs: the state of a small cluster with accounts, as plain data.
//! Each test binary uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use monitor::accountz::{
    AccountInfo, AccountStatistics, Export, Import, LatencySampling, MappingDestination, ShareKind,
};
use monitor::endpoint::{Endpoint, RequestCounters};
use monitor::events::ServerIdentity;
use monitor::healthz::Readiness;
use monitor::ipqueuesz::QueueDepth;
use monitor::routez::{Route, RoutesSnapshot, SubjectPermission};
use monitor::source::{
    CloseReason, ClosedConnection, ClosedRing, Connection, MessagesBytes, PeerCertificate, Selection,
    Subscription, TlsState,
};
use monitor::statsz::{RouteStatistics, ServerStatistics};
use monitor::subsz::IndexStatistics;
use monitor::varz::{ByKind, ClusterVarz, Varz};
use monitor::{Source, Timestamp};

pub const SECOND: i64 = 1_000_000_000;
pub const NOW: i64 = 1_795_256_733 * SECOND;

#[derive(Default)]
pub struct Fake {
    pub identity: ServerIdentity,
    pub varz: Varz,
    pub statistics: ServerStatistics,
    pub connections: Vec<Connection>,
    pub closed: ClosedRing,
    pub routes: RoutesSnapshot,
    pub subscriptions: Vec<Subscription>,
    pub indexes: BTreeMap<String, IndexStatistics>,
    pub accounts: Vec<AccountInfo>,
    pub account_statistics: Vec<AccountStatistics>,
    pub readiness: Readiness,
    pub queues: BTreeMap<String, QueueDepth>,
    pub requests: RequestCounters,
}

impl Source for Fake {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_nanos(NOW)
    }

    fn identity(&self) -> ServerIdentity {
        self.identity.clone()
    }

    fn varz(&self) -> Varz {
        Varz { http_req_stats: self.requests.by_path(), ..self.varz.clone() }
    }

    fn statistics(&self) -> ServerStatistics {
        self.statistics.clone()
    }

    fn connections(&self, selection: &Selection<'_>) -> Option<Vec<Connection>> {
        if selection.account.is_some_and(|account| !self.account_names().iter().any(|name| name == account)) {
            return None;
        }
        let wanted =
            |connection: &&Connection| selection.account.is_none_or(|account| account == connection.account);
        Some(self.connections.iter().filter(wanted).cloned().collect())
    }

    fn closed_connections(&self, selection: &Selection<'_>) -> Vec<ClosedConnection> {
        self.closed.select(selection)
    }

    fn routes(&self, subscriptions: bool) -> RoutesSnapshot {
        let mut routes = self.routes.clone();
        if !subscriptions {
            routes.routes.iter_mut().for_each(|route| route.subscriptions.clear());
        }
        routes
    }

    fn index_statistics(&self, account: Option<&str>) -> Vec<IndexStatistics> {
        let wanted = |name: &str| account.is_none_or(|account| account == name);
        self.indexes.iter().filter(|(name, _)| wanted(name)).map(|(_, index)| *index).collect()
    }

    fn subscriptions(&self, account: Option<&str>) -> Vec<Subscription> {
        let wanted = |each: &&Subscription| account.is_none_or(|account| account == each.account);
        self.subscriptions.iter().filter(wanted).cloned().collect()
    }

    fn account_names(&self) -> Vec<String> {
        self.accounts.iter().map(|account| account.account_name.clone()).collect()
    }

    fn system_account(&self) -> String {
        self.varz.system_account.clone()
    }

    fn account(&self, name: &str) -> Option<AccountInfo> {
        self.accounts.iter().find(|account| account.account_name == name).cloned()
    }

    fn account_statistics(&self) -> Vec<AccountStatistics> {
        self.account_statistics.clone()
    }

    fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    fn queues(&self) -> BTreeMap<String, QueueDepth> {
        self.queues.clone()
    }

    fn count_request(&self, endpoint: Endpoint) {
        self.requests.count(endpoint);
    }
}

fn text(from: &str) -> String {
    from.to_owned()
}

pub fn at(seconds_ago: i64) -> Timestamp {
    Timestamp::from_unix_nanos(NOW - seconds_ago * SECOND)
}

pub fn subscription(account: &str, subject: &str, queue: &str, maximum: u64) -> Subscription {
    Subscription {
        account: account.into(),
        account_tag: account.into(),
        subject: subject.into(),
        queue: queue.into(),
        sid: "1".into(),
        delivered: 1,
        delivered_max: maximum,
        cid: 9,
    }
}

fn flags() -> BTreeMap<String, bool> {
    ["js_ack_fc_v2", "js_api_reply_v2", "js_raft_delete_range", "js_snapshot_sources"]
        .map(|name| (name.to_owned(), false))
        .into()
}

/// A server without configuration, as in the shapes named `bare`.
pub fn bare() -> Fake {
    let identity = ServerIdentity { id: text("NBARE"), name: text("NBARE"), ..ServerIdentity::default() };
    let varz = Varz {
        server_id: identity.id.clone(),
        server_name: identity.name.clone(),
        start: at(90_061),
        feature_flags: flags(),
        system_account: text("$SYS"),
        stale_connection_stats: Some(ByKind::default()),
        // Without a cluster nats-server still shows these defaults.
        cluster: ClusterVarz::default(),
        ..Varz::default()
    };
    let accounts =
        ["$SYS", "$G"].map(|name| AccountInfo { account_name: text(name), ..AccountInfo::default() });
    Fake { identity, varz, accounts: accounts.into(), ..Fake::default() }
}

/// One server of a cluster of two, as in the shapes named `cluster`.
pub fn cluster() -> Fake {
    let identity = ServerIdentity {
        name: text("one"),
        host: text("127.0.0.1"),
        id: text("NONE"),
        cluster: text("C"),
        version: text("2.15.2"),
        tags: vec![text("a:b")],
        metadata: [(text("region"), text("x"))].into(),
        feature_flags: flags(),
        ..ServerIdentity::default()
    };
    Fake {
        varz: cluster_varz(&identity),
        identity,
        statistics: ServerStatistics {
            routes: vec![RouteStatistics { name: text("two"), ..RouteStatistics::default() }],
            active_servers: 2,
            threads: 2,
            ..ServerStatistics::default()
        },
        connections: vec![client(9)],
        closed: closed(),
        routes: routes(),
        subscriptions: vec![
            subscription("A", "plain", "", 0),
            subscription("A", "svc.x", "q", 0),
            subscription("A", "foo", "", 10),
            subscription("B", "p.str.x", "", 0),
        ],
        indexes: ["A", "B", "SYS"].map(|name| (text(name), IndexStatistics::default())).into(),
        accounts: accounts(),
        account_statistics: ["A", "B", "SYS"].map(statistics_of).into(),
        queues: ["SendQ", "System recvQ", "System recvQ Pings", "System sendQ", "delayed API responses"]
            .map(|name| (text(name), QueueDepth::default()))
            .into(),
        ..Fake::default()
    }
}

fn cluster_varz(identity: &ServerIdentity) -> Varz {
    Varz {
        server_id: identity.id.clone(),
        server_name: identity.name.clone(),
        auth_required: true,
        connect_urls: vec![text("127.0.0.1:4222")],
        max_subscriptions: 1_000,
        cluster: ClusterVarz {
            name: text("C"),
            addr: text("127.0.0.1"),
            cluster_port: 6222,
            auth_timeout: 3.0,
            urls: vec![text("127.0.0.1:6223")],
            tls_timeout: 2.0,
            tls_required: true,
            tls_verify: true,
            pool_size: 1,
            tls_cert_not_after: Some(at(0)),
            ..ClusterVarz::default()
        },
        tags: identity.tags.clone(),
        metadata: identity.metadata.clone(),
        feature_flags: identity.feature_flags.clone(),
        system_account: text("SYS"),
        stale_connection_stats: Some(ByKind::default()),
        ..Varz::default()
    }
}

pub fn client(cid: u64) -> Connection {
    Connection {
        cid,
        ip: text("127.0.0.1"),
        port: 50508,
        start: at(10),
        last_activity: at(5),
        rtt: Duration::from_micros(250),
        received: MessagesBytes { messages: 1, bytes: 2 },
        subscription_count: 2,
        subscriptions: vec![subscription("A", "svc.x", "q", 0), subscription("A", "foo", "", 10)],
        name: text("first"),
        lang: text("probe"),
        version: text("1.2.3"),
        tls: Some(TlsState {
            version: text("1.3"),
            cipher_suite: text("TLS_AES_128_GCM_SHA256"),
            first: false,
            peer_certificates: vec![PeerCertificate {
                subject: text("CN=cli"),
                public_key_sha256: text("00"),
                certificate_sha256: text("11"),
            }],
        }),
        user: text("a"),
        account: text("A"),
        account_tag: text("A"),
        ..Connection::default()
    }
}

fn closed() -> ClosedRing {
    let mut ring = ClosedRing::default();
    let gone = Connection { subscriptions: vec![subscription("A", "gone", "q", 0)], ..client(11) };
    ring.push(ClosedConnection { connection: gone, stop: at(2), reason: CloseReason::ClientClosed });
    let refused = Connection {
        account: "$G".into(),
        account_tag: "$G".into(),
        subscriptions: Vec::new(),
        ..client(12)
    };
    ring.push(ClosedConnection {
        connection: refused,
        stop: at(1),
        reason: CloseReason::AuthenticationViolation,
    });
    ring
}

fn routes() -> RoutesSnapshot {
    let only = |allow: &[&str], deny: &[&str]| {
        let list = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect();
        Some(SubjectPermission { allow: list(allow), deny: list(deny) })
    };
    let route = Route {
        rid: 7,
        remote_id: text("NTWO"),
        remote_name: text("two"),
        rtt: Duration::from_micros(250),
        subscription_count: 2,
        subscriptions: vec![subscription("A", "svc.x", "q", 0), subscription("A", "foo", "", 0)],
        compression: text("off"),
        ..Route::default()
    };
    let pinned = Route { rid: 8, account: text("SYS"), subscriptions: Vec::new(), ..route.clone() };
    RoutesSnapshot {
        import: only(&[">"], &[]),
        export: only(&["foo", ">"], &["secret"]),
        routes: vec![route, pinned],
    }
}

fn accounts() -> Vec<AccountInfo> {
    let latency = || Some(LatencySampling { sampling: 50, results: text("lat") });
    let export = |subject: &str, kind| Export {
        subject: text(subject),
        kind,
        token_required: false,
        response_type: String::new(),
        latency: None,
        approved_accounts: Vec::new(),
        revoked_activations: BTreeMap::new(),
    };
    let service_export =
        |subject: &str| Export { response_type: text("Singleton"), ..export(subject, ShareKind::Service) };
    let import = |subject: &str, kind, latency| Import {
        subject: text(subject),
        account: text("A"),
        to: if kind == ShareKind::Service { text(subject) } else { String::new() },
        local_subject: text(subject),
        kind,
        invalid: false,
        share: false,
        tracking: false,
        latency,
    };
    let named =
        |name: &str| AccountInfo { account_name: text(name), name_tag: text(name), ..AccountInfo::default() };
    let destination = |subject: &str, cluster: &str| MappingDestination {
        subject: text(subject),
        weight: 50,
        cluster: text(cluster),
    };
    vec![
        AccountInfo {
            mappings: [(text("foo"), vec![destination("bar", ""), destination("baz", "C")])].into(),
            exports: vec![
                Export { latency: latency(), approved_accounts: vec![text("B")], ..service_export("svc.>") },
                export("str.>", ShareKind::Stream),
            ],
            imports: vec![import("$SYS.REQ.USER.INFO", ShareKind::Service, None)],
            ..named("A")
        },
        AccountInfo {
            imports: vec![
                import("str.x", ShareKind::Stream, None),
                import("svc.x", ShareKind::Service, latency()),
            ],
            ..named("B")
        },
        AccountInfo {
            is_system: true,
            exports: vec![service_export("$SYS.DEBUG.SUBSCRIBERS")],
            imports: vec![import("$SYS.REQ.USER.SYS.INFO", ShareKind::Service, None)],
            ..named("SYS")
        },
    ]
}

fn statistics_of(name: &str) -> AccountStatistics {
    AccountStatistics {
        account: name.into(),
        name_tag: name.into(),
        client_connections: usize::from(name == "A"),
        ..AccountStatistics::default()
    }
}
