//! The running server as its monitor sees it.
//!
//! Owns nothing: every answer is a copy made from the links, the accounts and the settings of the moment.

use crate::identity::{COMPATIBLE_VERSION, STARLING_VERSION};
use crate::process;
use crate::shared::Shared;
use crate::sharing;
use crate::worker_thread::now_nanos;
use broker::interest::{NONE, SERVER};
use broker::link::About;
use broker::{Account, Link, LinkKind};
use monitor::accountz::{AccountInfo, AccountStatistics, Flow};
use monitor::events::ServerIdentity;
use monitor::healthz::Readiness;
use monitor::routez::{Route, RoutesSnapshot};
use monitor::source::{
    ClosedConnection, Connection, Kind, MessagesBytes, PeerCertificate, Selection, Subscription, TlsState,
};
use monitor::statsz::{RouteStatistics, ServerStatistics};
use monitor::subsz::IndexStatistics;
use monitor::varz::{ByKind, ClusterVarz, OcspPeerCache, Traffic, Varz};
use monitor::{Endpoint, Source, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub(crate) fn timestamp(nanos: u64) -> Timestamp {
    Timestamp::from_unix_nanos(nanos as i64)
}

/// What is counted of a connection, at one moment.
#[derive(Clone, Copy, Default)]
pub struct Numbers {
    /// Number of the connection on this server.
    pub cid: u64,
    active_nanos: u64,
    rtt_nanos: u64,
    pending_bytes: usize,
    received: MessagesBytes,
    sent: MessagesBytes,
    subscription_count: u32,
}

impl Numbers {
    /// Those of now.
    pub fn of(link: &Link) -> Numbers {
        Numbers {
            cid: link.id,
            active_nanos: link.active_nanos.load(Relaxed),
            rtt_nanos: link.rtt_nanos.load(Relaxed),
            pending_bytes: link.output.pending_bytes(),
            received: received(link),
            sent: sent(link),
            subscription_count: link.subscriptions.load(Relaxed),
        }
    }

    /// The connection whose numbers these are.
    pub fn connection(self, about: About) -> Connection {
        let tls = (!about.tls.0.is_empty()).then(|| TlsState {
            version: about.tls.0,
            cipher_suite: about.tls.1,
            ..TlsState::default()
        });
        let token = about.identity.as_ref().and_then(|identity| identity.token.as_deref());
        Connection {
            cid: self.cid,
            kind: Kind::Client,
            ip: about.ip,
            port: about.port,
            start: timestamp(about.start_nanos),
            last_activity: timestamp(self.active_nanos),
            rtt: Duration::from_nanos(self.rtt_nanos),
            pending_bytes: self.pending_bytes,
            received: self.received,
            sent: self.sent,
            subscription_count: self.subscription_count,
            name: about.name,
            lang: about.lang,
            version: about.version,
            tls,
            user: about.user,
            account: about.account,
            jwt: token.filter(|token| !token.is_bearer).map(|token| token.jwt.clone()).unwrap_or_default(),
            issuer_key: token.map(|token| token.signing_key.clone()).unwrap_or_default(),
            tags: token.map(|token| token.tags.clone()).unwrap_or_default(),
            ..Connection::default()
        }
    }
}

/// An open connection.
pub fn connection(link: &Link) -> Connection {
    let about = link.about.lock().clone();
    let mut connection = Numbers::of(link).connection(about);
    if let Some(tls) = &mut connection.tls {
        let chain = link.transport.peer_certificates();
        tls.peer_certificates = chain.iter().map(|der| peer_certificate(der)).collect();
    }
    connection
}

fn peer_certificate(der: &[u8]) -> PeerCertificate {
    accounts::CertificateFacts::from_der(der).map_or_else(
        |_| PeerCertificate::default(),
        |facts| PeerCertificate {
            subject: facts.subject,
            public_key_sha256: facts.key_sha256,
            certificate_sha256: facts.certificate_sha256,
        },
    )
}

fn received(link: &Link) -> MessagesBytes {
    MessagesBytes { messages: link.received.messages.load(Relaxed), bytes: link.received.bytes.load(Relaxed) }
}

fn sent(link: &Link) -> MessagesBytes {
    let (messages, bytes) = link.output.counters();
    MessagesBytes { messages, bytes }
}

/// Subscriptions of an account by the place of their link; `shadows`: with those that stand for one of an importing
/// account.
fn subscriptions_by_link(account: &Account, shadows: bool, out: &mut HashMap<u32, Vec<Subscription>>) {
    account.read(|interest| {
        interest.each(|number, record| {
            if !shadows && interest.is_shadow(number) {
                return;
            }
            let mut subject = Vec::new();
            interest.text(record.filter, &mut subject);
            let queue = if record.queue == NONE { &[] } else { interest.queue_name(record.queue) };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (delivered, delivered_max) = interest.progress_of(number);
            out.entry(record.link).or_default().push(Subscription {
                account: account.name.to_string(),
                subject: text(&subject),
                queue: text(queue),
                sid: text(interest.sid(number)),
                delivered,
                delivered_max,
                ..Subscription::default()
            });
        });
    });
}

impl Shared {
    fn selected_accounts(&self, account: Option<&str>) -> Vec<Arc<Account>> {
        match account {
            Some(name) => self.broker.find_account(name).into_iter().collect(),
            None => self.broker.accounts(),
        }
    }

    /// Whether an account was there once and is not any more.
    fn is_removed(&self, account: &str) -> bool {
        let table = self.table.read();
        table.find(account).and_then(|id| table.account(id)).is_some_and(|account| account.is_removed)
    }

    fn traffic(&self) -> Traffic {
        let [in_msgs, in_bytes, out_msgs, out_bytes] =
            [0, 1, 2, 3].map(|i| self.gone_traffic[i].load(Relaxed));
        let [c_in_msgs, c_in_bytes, c_out_msgs, c_out_bytes] =
            [0, 1, 2, 3].map(|i| self.gone_client_traffic[i].load(Relaxed));
        let mut traffic = Traffic {
            in_msgs,
            in_bytes,
            out_msgs,
            out_bytes,
            in_client_msgs: c_in_msgs,
            in_client_bytes: c_in_bytes,
            out_client_msgs: c_out_msgs,
            out_client_bytes: c_out_bytes,
        };
        for link in self.broker.links().iter().filter(|link| link.kind != LinkKind::Internal) {
            let (received, sent) = (received(link), sent(link));
            traffic.in_msgs += received.messages;
            traffic.in_bytes += received.bytes;
            traffic.out_msgs += sent.messages;
            traffic.out_bytes += sent.bytes;
            if link.kind == LinkKind::Client {
                traffic.in_client_msgs += received.messages;
                traffic.in_client_bytes += received.bytes;
                traffic.out_client_msgs += sent.messages;
                traffic.out_client_bytes += sent.bytes;
            }
        }
        traffic
    }

    /// An account's name for people: its own outside operator mode.
    pub fn account_tag(&self, name: &str) -> String {
        let table = self.table.read();
        let account = table.find(name).and_then(|id| table.account(id));
        let tag = account.and_then(|account| account.claims().map(|claims| claims.name.clone()));
        tag.filter(|tag| !tag.is_empty()).unwrap_or_else(|| name.to_owned())
    }

    /// What the open connections of each account were sent.
    fn sent_by_account(&self) -> HashMap<String, MessagesBytes> {
        let mut by_account = HashMap::<String, MessagesBytes>::new();
        for link in self.broker.links().iter().filter(|link| link.kind == LinkKind::Client) {
            let sent = sent(link);
            let total = by_account.entry(link.about.lock().account.clone()).or_default();
            (total.messages, total.bytes) = (total.messages + sent.messages, total.bytes + sent.bytes);
        }
        by_account
    }

    /// The numbers of one account.
    pub fn account_statistics_of(&self, name: &str) -> Option<AccountStatistics> {
        let tag = self.account_tag(name);
        let sent = self.sent_by_account().remove(name).unwrap_or_default();
        self.broker.find_account(name).map(|account| account_statistics(&account, tag, sent))
    }

    fn subscription_count(&self) -> u64 {
        self.broker.accounts().iter().map(|account| account.read(|i| i.len() as u64)).sum()
    }

    fn slow_consumers(&self) -> ByKind {
        let [clients, routes] = &self.broker.slow_consumers;
        ByKind { clients: clients.load(Relaxed), routes: routes.load(Relaxed), ..ByKind::default() }
    }

    fn routes_open(&self) -> Vec<Arc<Link>> {
        self.broker.routes()
    }

    /// Other servers of the cluster that a route leads to.
    pub(crate) fn remotes(&self) -> usize {
        let mut ids: Vec<String> =
            self.routes_open().iter().map(|r| r.about.lock().remote_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids.len()
    }

    fn cluster_varz(&self) -> ClusterVarz {
        let settings = self.settings();
        let cluster = &settings.cluster;
        let Some(port) = self.cluster_port() else { return ClusterVarz::default() };
        ClusterVarz {
            name: self.info().cluster.clone(),
            addr: cluster.host.clone(),
            cluster_port: port,
            auth_timeout: cluster.auth_timeout().as_secs_f64(),
            urls: cluster.routes.iter().map(|url| url.address()).collect(),
            tls_timeout: cluster.tls.as_ref().map_or(2.0, |tls| tls.timeout.as_secs_f64()),
            tls_required: cluster.tls.is_some(),
            // routes always check each other
            tls_verify: cluster.tls.is_some(),
            tls_cert_not_after: self.certificates.read().route_not_after_seconds.map(of_seconds),
            pool_size: i64::from(cluster.pool_size),
            write_deadline: cluster.write_deadline.unwrap_or(settings.write_deadline),
            ..ClusterVarz::default()
        }
    }
}

fn ocsp_peer_cache(numbers: ocsp::Statistics) -> OcspPeerCache {
    OcspPeerCache {
        cache_type: "local",
        cache_hits: numbers.hits,
        cache_misses: numbers.misses,
        cached_responses: numbers.responses,
        cached_revoked_responses: numbers.revokes,
        cached_good_responses: numbers.goods,
        cached_unknown_responses: numbers.unknowns,
    }
}

fn of_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_unix_nanos(seconds.saturating_mul(1_000_000_000))
}

impl Source for Shared {
    fn now(&self) -> Timestamp {
        timestamp(now_nanos())
    }

    fn identity(&self) -> ServerIdentity {
        let settings = self.settings();
        let info = self.info();
        ServerIdentity {
            name: self.server_name.clone(),
            host: info.host.clone(),
            id: self.server_id.clone(),
            cluster: info.cluster.clone(),
            version: COMPATIBLE_VERSION.into(),
            tags: settings.server_tags.clone(),
            metadata: settings.server_metadata.clone(),
            ..ServerIdentity::default()
        }
    }

    fn varz(&self) -> Varz {
        let settings = self.settings();
        let info = self.info();
        let tls = settings.tls.as_ref();
        let usage = process::usage();
        // not in the expression below: what is locked there stays so to its end, and a lock that is taken twice while a
        // reload waits for it is never given back
        let table = self.table.read().clone();
        let certificates = self.certificates.read().clone();
        Varz {
            server_id: self.server_id.clone(),
            server_name: self.server_name.clone(),
            version: COMPATIBLE_VERSION.into(),
            proto: info.proto,
            go: info.go.clone(),
            host: info.host.clone(),
            port: info.port,
            auth_required: table.auth_required(),
            tls_required: info.tls_required,
            tls_verify: info.tls_verify,
            tls_ocsp_peer_verify: info.tls_required && certificates.asks_about_clients,
            ocsp_peer_cache: self.peers.statistics().map(ocsp_peer_cache),
            connect_urls: info.connect_urls.clone(),
            max_connections: i64::from(settings.limits.max_connections),
            max_subscriptions: settings.limits.max_subscriptions.map_or(0, i64::from),
            ping_interval: settings.ping_interval,
            ping_max: i64::from(settings.ping_max),
            http_host: settings.http_host().into(),
            http_port: self.monitor_port().map_or(0, i32::from),
            http_base_path: settings.monitoring.base_path.clone().unwrap_or_default(),
            auth_timeout: settings.auth_timeout().as_secs_f64(),
            max_control_line: settings.limits.max_control_line as i32,
            max_payload: i64::from(settings.limits.max_payload),
            max_pending: settings.limits.max_pending as i64,
            cluster: self.cluster_varz(),
            tls_timeout: tls.map_or(2.0, |tls| tls.timeout.as_secs_f64()),
            write_deadline: settings.write_deadline,
            start: timestamp(self.start_nanos),
            mem: usage.memory_bytes,
            cores: usage.cores,
            gomaxprocs: self.broker.mailboxes().len(),
            cpu: usage.cpu_percent,
            connections: self.clients.load(Relaxed),
            total_connections: self.clients_total.load(Relaxed),
            routes: self.routes_open().len(),
            remotes: self.remotes(),
            traffic: self.traffic(),
            slow_consumers: self.slow_consumers().sum(),
            stale_connections: self.stale_connections.load(Relaxed),
            subscriptions: self.subscription_count(),
            http_req_stats: self.requests.by_path(),
            config_load_time: timestamp(self.config_load_nanos.load(Relaxed)),
            config_digest: self.config_digest.read().clone(),
            tags: settings.server_tags.clone(),
            metadata: settings.server_metadata.clone(),
            system_account: self.system_account(),
            slow_consumer_stats: self.slow_consumers(),
            tls_cert_not_after: certificates.client_not_after_seconds.map(of_seconds),
            trusted_operators_jwt: table.operators().to_vec(),
            trusted_operators_claim: table.operator_claims(),
            starling_version: STARLING_VERSION.into(),
            ..Varz::default()
        }
    }

    fn statistics(&self) -> ServerStatistics {
        let usage = process::usage();
        let routes = self.routes_open();
        ServerStatistics {
            start: timestamp(self.start_nanos),
            memory_bytes: usage.memory_bytes,
            cores: usage.cores,
            cpu_percent: usage.cpu_percent,
            connections: self.clients.load(Relaxed),
            connections_total: self.clients_total.load(Relaxed),
            active_accounts: self.broker.accounts().len(),
            subscriptions: self.subscription_count(),
            traffic: self.traffic(),
            slow_consumers: self.slow_consumers(),
            stale_connections: ByKind { clients: self.stale_connections.load(Relaxed), ..ByKind::default() },
            routes: routes
                .iter()
                .map(|link| RouteStatistics {
                    rid: link.id,
                    name: link.about.lock().name.clone(),
                    sent: sent(link),
                    received: received(link),
                    pending_bytes: link.output.pending_bytes(),
                })
                .collect(),
            active_servers: self.hub.get().map_or(0, |hub| hub.with_quietly(|mesh| mesh.peers().count())) + 1,
            threads: self.broker.mailboxes().len(),
            ..ServerStatistics::default()
        }
    }

    fn connections(&self, selection: &Selection<'_>) -> Option<Vec<Connection>> {
        if let Some(name) = selection.account {
            self.broker.find_account(name)?;
        }
        let mut subscriptions = HashMap::new();
        if selection.subscriptions {
            for account in self.selected_accounts(selection.account) {
                subscriptions_by_link(&account, false, &mut subscriptions);
            }
        }
        let clients = self.broker.links().into_iter().filter(|link| link.kind == LinkKind::Client);
        let connections = clients.map(|link| {
            let mut connection = connection(&link);
            connection.account_tag = self.account_tag(&connection.account);
            connection.subscriptions = subscriptions.remove(&link.index).unwrap_or_default();
            for subscription in &mut connection.subscriptions {
                subscription.cid = link.id;
            }
            connection
        });
        let wanted = |c: &Connection| selection.account.is_none_or(|name| c.account == name);
        Some(connections.filter(wanted).collect())
    }

    fn closed_connections(&self, selection: &Selection<'_>) -> Vec<ClosedConnection> {
        self.with_departed(|departed| departed.select(selection.account))
    }

    fn routes(&self, subscriptions: bool) -> RoutesSnapshot {
        let mut by_link = HashMap::new();
        if subscriptions {
            for account in self.broker.accounts() {
                subscriptions_by_link(&account, false, &mut by_link);
            }
        }
        let known: HashMap<u64, (bool, &str)> = self.hub.get().map_or_else(HashMap::new, |hub| {
            hub.with_quietly(|mesh| {
                mesh.connections().map(|c| (c.connection.0, (c.is_configured, c.compression))).collect()
            })
        });
        let routes = self.routes_open().into_iter().map(|link| {
            let about = link.about.lock().clone();
            let (is_configured, compression) = known.get(&link.id).copied().unwrap_or((false, "off"));
            Route {
                rid: link.id,
                remote_id: about.remote_id,
                remote_name: about.name,
                did_solicit: about.solicited,
                is_configured,
                ip: about.ip,
                port: about.port,
                start: timestamp(about.start_nanos),
                last_activity: timestamp(link.active_nanos.load(Relaxed)),
                rtt: Duration::from_nanos(link.rtt_nanos.load(Relaxed)),
                pending_bytes: link.output.pending_bytes(),
                received: received(&link),
                sent: sent(&link),
                subscription_count: link.subscriptions.load(Relaxed),
                subscriptions: by_link.remove(&link.index).unwrap_or_default(),
                account: about.account,
                compression: compression.into(),
                ..Route::default()
            }
        });
        RoutesSnapshot { routes: routes.collect(), ..RoutesSnapshot::default() }
    }

    fn index_statistics(&self, account: Option<&str>) -> Vec<IndexStatistics> {
        self.selected_accounts(account).iter().map(|account| index_statistics(account)).collect()
    }

    fn subscriptions(&self, account: Option<&str>) -> Vec<Subscription> {
        let mut by_link = HashMap::new();
        for account in self.selected_accounts(account) {
            subscriptions_by_link(&account, true, &mut by_link);
        }
        let mut all = Vec::new();
        for (index, mut subscriptions) in by_link {
            let link = self.broker.link(index).filter(|link| link.kind != LinkKind::Route);
            if link.is_none() && index != SERVER {
                continue;
            }
            for subscription in &mut subscriptions {
                subscription.cid = link.as_ref().map_or(0, |link| link.id);
                subscription.account_tag = self.account_tag(&subscription.account);
            }
            all.append(&mut subscriptions);
        }
        all
    }

    fn account_names(&self) -> Vec<String> {
        let accounts = self.broker.accounts();
        let names = accounts.iter().map(|account| account.name.to_string());
        names.filter(|name| !self.is_removed(name)).collect()
    }

    fn system_account(&self) -> String {
        let table = self.table.read();
        let system = table.system_account().and_then(|id| table.account(id));
        system.map_or_else(String::new, |account| account.name.to_string())
    }

    fn account(&self, name: &str) -> Option<AccountInfo> {
        let account = self.broker.find_account(name).filter(|_| !self.is_removed(name))?;
        let table = self.table.read().clone();
        let rules = table.find(name).and_then(|id| table.account(id));
        let claims = rules.and_then(|account| account.claims());
        let jwt = table.account_token(name).unwrap_or_default();
        Some(AccountInfo {
            expired: claims.is_some_and(|claims| {
                claims.expires > 0 && claims.expires <= (now_nanos() / 1_000_000_000) as i64
            }),
            jwt: jwt.to_owned(),
            issuer_key: claims.map_or_else(String::new, |claims| claims.issuer.clone()),
            tags: claims.map_or_else(Vec::new, |claims| claims.nats.tags.clone()),
            decoded_jwt: accounts::jwt::payload(jwt),
            revoked_user: claims.map_or_else(BTreeMap::new, |claims| {
                claims.nats.revocations.iter().map(|(key, at)| (key.clone(), of_seconds(*at))).collect()
            }),
            mappings: rules.map(|rules| sharing::mappings(rules)).unwrap_or_default(),
            exports: rules.map(|rules| sharing::exports(rules)).unwrap_or_default(),
            imports: rules.map(|rules| sharing::imports(rules, &table)).unwrap_or_default(),
            account_name: account.name.to_string(),
            name_tag: self.account_tag(name),
            update_time: timestamp(self.config_load_nanos.load(Relaxed)),
            is_system: self.system_account() == name,
            complete: true,
            client_connections: account.connections.load(Relaxed) as usize,
            subscriptions: account.read(|interest| interest.len() as u64),
            index: index_statistics(&account),
            ..AccountInfo::default()
        })
    }

    fn account_statistics(&self) -> Vec<AccountStatistics> {
        let accounts = self.broker.accounts();
        let mut sent = self.sent_by_account();
        let statistics = accounts.iter().map(|account| {
            let sent = sent.remove(&*account.name).unwrap_or_default();
            account_statistics(account, self.account_tag(&account.name), sent)
        });
        statistics.collect()
    }

    fn readiness(&self) -> Readiness {
        if self.is_ready.load(Relaxed) {
            Readiness::Ready
        } else {
            Readiness::NotReady("server is not listening yet".into())
        }
    }

    fn count_request(&self, endpoint: Endpoint) {
        self.requests.count(endpoint);
    }
}

/// `open`: what connections that are open were sent.
fn account_statistics(account: &Account, name_tag: String, open: MessagesBytes) -> AccountStatistics {
    let [messages, bytes, gone_messages, gone_bytes] = [0, 1, 2, 3].map(|i| account.traffic[i].load(Relaxed));
    let total = MessagesBytes { messages: gone_messages + open.messages, bytes: gone_bytes + open.bytes };
    AccountStatistics {
        account: account.name.to_string(),
        name_tag,
        client_connections: account.connections.load(Relaxed) as usize,
        subscriptions: account.read(|interest| interest.len() as u64),
        sent: Flow { total, ..Flow::default() },
        received: Flow { total: MessagesBytes { messages, bytes }, ..Flow::default() },
        ..AccountStatistics::default()
    }
}

fn index_statistics(account: &Account) -> IndexStatistics {
    let (subscriptions, inserts, removes) = account.read(|interest| {
        let (inserts, removes) = interest.changes();
        (interest.len() as u64, inserts, removes)
    });
    IndexStatistics { subscriptions, inserts, removes, ..IndexStatistics::default() }
}
