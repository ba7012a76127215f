//! Who is in the cluster: the one place that knows all route connections of this server.
//!
//! Owns members, their connections, the cluster's name and the client URLs; in `register` what becomes of a
//! connection that introduced itself, in `gossip` who is told about whom, in `dial` whom to connect to when.
//! Never parses bytes and never knows interest.

mod dial;
mod gossip;
mod register;

use crate::compression::{Agreement, Compression, Level};
use crate::effect::{CloseReason, ConnectionId, DialId, Effect, LogLevel};
use crate::settings::{Identity, Permissions, RouteUrl, Settings};
use dial::Dialing;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use wire::route::{Connect, Info, Shape};

/// Letters of nonces and of cluster names chosen at random.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Membership of one server. See the crate's documentation for how to drive it.
pub struct Mesh {
    settings: Settings,
    identity: Identity,
    cluster_name: String,
    cluster_name_dynamic: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    peers: BTreeMap<String, Peer>,
    dialing: Dialing,
    announced_urls: (Vec<String>, Vec<String>),
    lame_duck: bool,
    stopped: bool,
    random: Box<dyn Rng + Send>,
    effects: VecDeque<Effect>,
}

/// One connection, as far as membership is concerned.
#[derive(Clone, Debug)]
struct Connection {
    /// Target that this server dialled; `None` for an accepted connection.
    target: Option<SocketAddr>,
    /// The target was configured.
    explicit: bool,
    remote: SocketAddr,
    certificate: Option<bool>,
    account: Option<String>,
    compression: Agreement,
    gossip: Gossip,
    server_id: String,
    server_name: String,
    place: Option<Place>,
    /// The peer has answered a PING since it was introduced: it registered the connection too.
    confirmed: bool,
    permissions: Permissions,
    since: Duration,
}

/// Where a registered connection stands with its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pool(usize),
    Account,
}

/// Whether the introduction of a peer is passed on; the numbers travel in `INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gossip {
    #[default]
    Default = 0,
    Disabled = 1,
    Override = 2,
}

impl From<u8> for Gossip {
    fn from(mode: u8) -> Self {
        match mode {
            1 => Gossip::Disabled,
            2 => Gossip::Override,
            _ => Gossip::Default,
        }
    }
}

/// A server with at least one registered connection.
#[derive(Clone, Debug, Default)]
struct Peer {
    name: String,
    starling: bool,
    /// The peer knows no pools: one connection, for all accounts.
    no_pool: bool,
    /// Pool size that it announced.
    pool_size: usize,
    slots: Vec<Option<ConnectionId>>,
    accounts: BTreeMap<String, ConnectionId>,
    /// This server opened a connection to it, so this server fills the pool.
    solicited: bool,
    /// It is configured here.
    explicit: bool,
    /// Accounts for which it has no connection to offer, and when to ask again.
    refused: BTreeMap<String, Duration>,
    connect_urls: Vec<String>,
    ws_connect_urls: Vec<String>,
    lame_duck: bool,
    changed_at: Duration,
    /// It counts as a member: it came to us, or it has answered since we introduced ourselves. A server that is
    /// about to refuse us is not shown to clients.
    joined: bool,
}

impl Peer {
    fn first_pooled(&self) -> Option<ConnectionId> {
        self.slots.iter().flatten().next().copied()
    }

    fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.first_pooled().is_none()
    }
}

/// What the mesh made of an `INFO`.
pub(crate) enum InfoOutcome {
    /// News about a registered connection or about another server.
    Updated,
    /// What follows is compressed, and begins with another introduction.
    Compressed,
    /// The connection is a route now.
    Registered { shape: Shape, headers: bool },
    /// The connection has to be closed; `answer` says whether the peer is told why.
    Refused { reason: CloseReason, answer: bool, level: LogLevel, text: String },
}

/// A route connection for the monitoring pages.
#[derive(Clone, Debug)]
pub struct ConnectionView<'a> {
    /// Its number.
    pub connection: ConnectionId,
    /// Id of the peer's run.
    pub server_id: &'a str,
    /// Name of the peer.
    pub server_name: &'a str,
    /// This server dialled it.
    pub did_solicit: bool,
    /// The peer is configured here.
    pub is_configured: bool,
    /// The other end.
    pub remote: SocketAddr,
    /// Pinned account.
    pub account: Option<&'a str>,
    /// Place in the pool; `None` for a pinned account.
    pub pool_index: Option<usize>,
    /// How it is compressed, as nats-server names it.
    pub compression: &'static str,
    /// When it was opened.
    pub since: Duration,
    /// The peer's permissions.
    pub permissions: &'a Permissions,
}

/// A member for the monitoring pages.
#[derive(Clone, Debug)]
pub struct PeerView<'a> {
    /// Id of its run.
    pub server_id: &'a str,
    /// Its name.
    pub server_name: &'a str,
    /// Pooled connections.
    pub pooled: usize,
    /// Connections of pinned accounts.
    pub pinned: usize,
    /// It said that it is about to leave.
    pub lame_duck: bool,
}

impl Mesh {
    /// A mesh of one whose randomness follows from a seed: for simulations.
    pub fn new(settings: Settings, identity: Identity, seed: u64) -> Mesh {
        Mesh::with_random(settings, identity, Box::new(SmallRng::seed_from_u64(seed)))
    }

    /// A mesh of one. `random` gives nonces, jitter and, without a configured name, the cluster's name: what peers must
    /// not foresee comes from the system's randomness.
    pub fn with_random(settings: Settings, identity: Identity, mut random: Box<dyn Rng + Send>) -> Mesh {
        let cluster_name_dynamic = settings.cluster_name.is_none();
        let cluster_name = settings.cluster_name.clone().unwrap_or_else(|| letters(&mut random, 22));
        let announced_urls = (identity.connect_urls.clone(), identity.ws_connect_urls.clone());
        Mesh {
            dialing: Dialing::default(),
            connections: BTreeMap::new(),
            peers: BTreeMap::new(),
            effects: VecDeque::new(),
            lame_duck: false,
            stopped: false,
            settings,
            identity,
            cluster_name,
            cluster_name_dynamic,
            announced_urls,
            random,
        }
    }

    /// Begins: the first names are looked up, the first peers dialled.
    pub fn start(&mut self, now: Duration) {
        self.log(None, LogLevel::Info, format!("Cluster name is {}", self.cluster_name));
        if self.cluster_name_dynamic {
            let text = "Cluster name was dynamically generated, consider setting one";
            self.log(None, LogLevel::Warning, text.to_owned());
        }
        let routes = self.settings.routes.clone();
        self.configure_routes(&routes, now);
        self.plan(now);
    }

    /// Takes over changed settings, and under which address to be shown. Connections that were made under what no
    /// longer holds are closed, and both sides make them anew: those to routes that are no longer configured; with
    /// another pool size all of the pool; with other pinned accounts those that carry an account concerned; with other
    /// permissions all; and where compression has to be negotiated again.
    pub fn reconfigure(&mut self, settings: Settings, advertise: Option<(String, u16)>, now: Duration) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.identity.advertise = advertise;
        if let Some(name) = self.settings.cluster_name.clone().filter(|name| *name != self.cluster_name) {
            (self.cluster_name, self.cluster_name_dynamic) = (name.clone(), false);
            self.push(Effect::ClusterName(name));
        }
        let routes = self.settings.routes.clone();
        self.configure_routes(&routes, now);
        for connection in self.outdated(&before) {
            self.close(connection, CloseReason::RouteRemoved, now);
        }
        if self.settings.compression != before.compression {
            self.renew_compression(now);
        }
        if self.settings.no_advertise != before.no_advertise {
            self.announce_urls(true);
        }
        self.plan(now);
    }

    /// Registered connections that stand under settings that no longer hold.
    fn outdated(&self, before: &Settings) -> Vec<ConnectionId> {
        let (old, new) = (&before.pinned_accounts, &self.settings.pinned_accounts);
        let moved: Vec<&String> = (old.iter().filter(|account| !new.contains(account)))
            .chain(new.iter().filter(|account| !old.contains(account)))
            .collect();
        let resized = self.settings.pool_size != before.pool_size;
        let is_outdated = |connection: &Connection| match (connection.place, &connection.account) {
            (None, _) => false,
            _ if self.settings.permissions != before.permissions => true,
            (Some(Place::Pool(index)), _) => {
                let size = before.pool_size.max(1);
                resized || moved.iter().any(|account| crate::interest::pool_index(size, account) == index)
            }
            (Some(Place::Account), account) => {
                account.as_ref().is_some_and(|account| moved.contains(&account))
            }
        };
        self.connections.iter().filter(|(_, state)| is_outdated(state)).map(|(id, _)| *id).collect()
    }

    /// Another mode was configured: the level changes where there is one, else both sides begin anew.
    fn renew_compression(&mut self, now: Duration) {
        let mut closed = Vec::new();
        let mut levels = Vec::new();
        for (id, state) in &self.connections {
            match (state.compression, &self.settings.compression) {
                (Agreement::Open | Agreement::NotSupported, _) => {}
                // the next answer to a ping says which
                (Agreement::At(_), Compression::Auto(_)) => {}
                (Agreement::At(_), Compression::At(level)) => levels.push((*id, *level)),
                _ => closed.push(*id),
            }
        }
        for (connection, level) in levels {
            if let Some(state) = self.connections.get_mut(&connection) {
                state.compression = Agreement::At(level);
                self.push(Effect::Compress { connection, level });
            }
        }
        for connection in closed {
            self.close(connection, CloseReason::RouteRemoved, now);
        }
    }

    /// The next thing to do, oldest first.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Mesh::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.next_dial_or_resolve()
    }

    /// Looks up and dials what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.plan(now);
    }

    /// A connection is gone. Harmless for one that the mesh closed itself.
    pub fn handle_closed(&mut self, connection: ConnectionId, now: Duration) {
        self.detach(connection, now);
        self.plan(now);
    }

    /// This server is about to leave: tells peers, takes its URLs from those shown to clients, and dials no
    /// more.
    pub fn begin_lame_duck(&mut self, now: Duration) {
        if std::mem::replace(&mut self.lame_duck, true) {
            return;
        }
        let mut info = self.own_info();
        info.lame_duck_mode = true;
        let mut bytes = Vec::new();
        info.encode(&mut bytes);
        let to: Vec<ConnectionId> = self.peers.values().filter_map(Peer::first_pooled).collect();
        for connection in to {
            self.push(Effect::Send { connection, bytes: bytes.clone() });
        }
        self.announce_urls(true);
        self.plan(now);
    }

    /// No dialling and no looking up from now on. The engine closes the connections.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// The settings, as given and changed.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Port of the route listener.
    pub fn route_port(&self) -> u16 {
        self.identity.port
    }

    /// Name of the cluster now.
    pub fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    /// Whether the cluster's name was chosen at random and gives way.
    pub fn is_cluster_name_dynamic(&self) -> bool {
        self.cluster_name_dynamic
    }

    /// Members, ordered by id.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.peers.iter().filter(|(_, peer)| peer.joined).map(|(server_id, peer)| PeerView {
            server_id,
            server_name: &peer.name,
            pooled: peer.slots.iter().flatten().count(),
            pinned: peer.accounts.len(),
            lame_duck: peer.lame_duck,
        })
    }

    /// Registered connections, ordered by number.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView<'_>> {
        self.connections.iter().filter_map(|(id, connection)| {
            let place = connection.place?;
            let peer = self.peers.get(&connection.server_id);
            Some(ConnectionView {
                connection: *id,
                server_id: &connection.server_id,
                server_name: &connection.server_name,
                did_solicit: connection.target.is_some(),
                is_configured: connection.explicit || peer.is_some_and(|peer| peer.explicit),
                remote: connection.remote,
                account: connection.account.as_deref(),
                pool_index: match place {
                    Place::Pool(index) => Some(index),
                    Place::Account => None,
                },
                compression: connection.compression.name(),
                since: connection.since,
                permissions: &connection.permissions,
            })
        })
    }

    /// Client URLs to show: this server's own first (none in lame duck mode), then the peers', sorted. With
    /// `no_advertise` only its own.
    pub fn client_urls(&self) -> (Vec<String>, Vec<String>) {
        let list = |own: &[String], of: fn(&Peer) -> &Vec<String>| {
            let mut others: Vec<String> = Vec::new();
            if !self.settings.no_advertise {
                let live = self.peers.values().filter(|peer| !peer.lame_duck && peer.joined);
                others.extend(live.flat_map(of).filter(|url| !own.contains(url)).cloned());
                others.sort_unstable();
                others.dedup();
            }
            let mut urls = if self.lame_duck { Vec::new() } else { own.to_vec() };
            urls.append(&mut others);
            urls
        };
        (
            list(&self.identity.connect_urls, |peer| &peer.connect_urls),
            list(&self.identity.ws_connect_urls, |peer| &peer.ws_connect_urls),
        )
    }

    pub(crate) fn open_accepted(
        &mut self,
        connection: ConnectionId,
        remote: SocketAddr,
        certificate: Option<bool>,
        now: Duration,
    ) {
        let state = Connection { certificate, ..Connection::new(remote, now) };
        self.connections.insert(connection, state);
        self.log(Some(connection), LogLevel::Info, "Route connection created".to_owned());
        let info = self.introduction(None, 0, Gossip::Default, Agreement::Open);
        self.send_info(connection, &info);
    }

    /// Whether the connection is pinned to an account; `None` if nobody waits for the dial any more.
    pub(crate) fn open_dialed(
        &mut self,
        dial: DialId,
        connection: ConnectionId,
        now: Duration,
    ) -> Option<bool> {
        let dial = self.take_dial(dial, connection)?;
        let state = Connection {
            target: Some(dial.target),
            explicit: dial.explicit,
            account: dial.account.clone(),
            gossip: dial.gossip,
            ..Connection::new(dial.target, now)
        };
        self.connections.insert(connection, state);
        let (user, pass) = dial.user.unwrap_or_default();
        let connect = Connect {
            echo: true,
            user,
            pass,
            tls_required: self.settings.tls_required,
            headers: self.identity.headers,
            name: self.identity.server_id.clone(),
            cluster: self.cluster_name.clone(),
            dynamic: self.cluster_name_dynamic,
            lnoc: true,
            ln: true,
            ..Connect::default()
        };
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        self.log(Some(connection), LogLevel::Info, "Route connection created".to_owned());
        self.push(Effect::Send { connection, bytes });
        if self.introduces_at_once(dial.account.as_deref()) {
            let info = self.introduction(dial.account.as_deref(), 0, dial.gossip, Agreement::Open);
            self.send_info(connection, &info);
        }
        Some(dial.account.is_some())
    }

    /// Whether `INFO` follows CONNECT on a dialled connection without waiting for the peer's: where no place in
    /// a pool has to be agreed on (nats-server `routeShouldDelayInfo`), and no compression.
    pub(crate) fn introduces_at_once(&self, account: Option<&str>) -> bool {
        !self.settings.compression.is_negotiated() && (account.is_some() || self.settings.pool_size == 0)
    }

    /// Settles with a peer that introduces itself whether the connection is compressed, and says so; `true`: it is, and
    /// the peer has to introduce itself once more.
    ///
    /// # Errors
    /// The peer names a mode that nobody knows.
    pub(crate) fn agree_on_compression(
        &mut self,
        connection: ConnectionId,
        theirs: &str,
        now: Duration,
    ) -> Result<bool, String> {
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(false) };
        if state.compression != Agreement::Open {
            return Ok(false);
        }
        // no ping was answered yet: the handshake so far is as good a measure
        let agreed = self.settings.compression.agree(theirs, now.saturating_sub(state.since))?;
        state.compression = agreed;
        let (solicited, account) = (state.target.is_some(), state.account.clone());
        let Agreement::At(level) = agreed else { return Ok(false) };
        let info = self.introduction(account.as_deref(), 0, Gossip::Default, agreed);
        if solicited {
            self.send_info(connection, &info);
        }
        self.push(Effect::Compress { connection, level });
        if !solicited {
            self.send_info(connection, &info);
        }
        Ok(true)
    }

    /// A ping was answered: the level may follow.
    pub(crate) fn measured(&mut self, connection: ConnectionId, round_trip: Duration) {
        let Compression::Auto(thresholds) = &self.settings.compression else { return };
        let level = Level::for_round_trip(round_trip, thresholds);
        if let Some(state) = self.connections.get_mut(&connection)
            && matches!(state.compression, Agreement::At(before) if before != level)
        {
            state.compression = Agreement::At(level);
            self.push(Effect::Compress { connection, level });
        }
    }

    pub(crate) fn knows(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn random_up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.random_range(0..=nanos))
    }

    pub(crate) fn is_authorized(&self, connection: ConnectionId, connect: &Connect) -> bool {
        let certificate = self.connections.get(&connection).and_then(|connection| connection.certificate);
        match (certificate, &self.settings.authorization) {
            (Some(verdict), _) => verdict,
            (None, None) => true,
            (None, Some(wanted)) => {
                wanted.user == connect.user && (wanted.verify)(&wanted.password, &connect.pass)
            }
        }
    }

    /// CONNECT passed: the peer's id is known.
    pub(crate) fn introduced(&mut self, connection: ConnectionId, server_id: &str) {
        if let Some(connection) = self.connections.get_mut(&connection)
            && connection.place.is_none()
        {
            connection.server_id = server_id.to_owned();
        }
    }

    /// The peer answered a ping: what it was sent before, it has read.
    pub(crate) fn confirm(&mut self, connection: ConnectionId, now: Duration) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if state.place.is_none() || state.confirmed {
            return;
        }
        state.confirmed = true;
        let (server_id, place) = (state.server_id.clone(), state.place);
        if let Some(target) = state.target {
            self.dialing.done(target, connection);
            self.plan(now);
        }
        if matches!(place, Some(Place::Pool(_))) {
            self.join(&server_id);
        }
    }

    /// A server with a pooled connection becomes a member.
    fn join(&mut self, server_id: &str) {
        let Some(peer) = self.peers.get_mut(server_id) else { return };
        if !std::mem::replace(&mut peer.joined, true) {
            let (server_id, server_name) = (server_id.to_owned(), peer.name.clone());
            self.push(Effect::PeerJoined { server_id, server_name });
            self.announce_urls(false);
        }
    }

    /// The peer said `-ERR`, which ends the connection. A refused pinned account is not asked for at once again.
    pub(crate) fn heard_error(&mut self, connection: ConnectionId, text: &str, now: Duration) {
        let Some(state) = self.connections.get(&connection) else { return };
        if let (Some(account), true) = (&state.account, text.contains("route for account"))
            && let Some(peer) = self.peers.get_mut(&state.server_id)
        {
            peer.refused.insert(account.clone(), now + register::REFUSED_ACCOUNT_PAUSE);
        }
    }

    /// Settles the cluster's name with a peer's.
    ///
    /// # Errors
    /// This server's name, if it stays and differs.
    pub(crate) fn agree_on_cluster_name(
        &mut self,
        theirs: &str,
        dynamic: bool,
        server_id: &str,
        now: Duration,
    ) -> Result<(), String> {
        if theirs == self.cluster_name {
            return Ok(());
        }
        // a configured name wins over one chosen at random; of two such the greater
        if !self.cluster_name_dynamic || (dynamic && *self.cluster_name >= *theirs) {
            return Err(self.cluster_name.clone());
        }
        self.cluster_name = theirs.to_owned();
        self.cluster_name_dynamic = dynamic;
        self.push(Effect::ClusterName(theirs.to_owned()));
        let others: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.place.is_some() && connection.server_id != server_id)
            .map(|(id, _)| *id)
            .collect();
        for connection in others {
            self.close(connection, CloseReason::ClusterNameConflict, now);
        }
        Ok(())
    }

    pub(crate) fn close(&mut self, connection: ConnectionId, reason: CloseReason, now: Duration) {
        if self.knows(connection) {
            self.push(Effect::Close { connection, reason });
            self.detach(connection, now);
            self.plan(now);
        }
    }

    /// Forgets a connection and what hung on it.
    fn detach(&mut self, connection: ConnectionId, now: Duration) {
        let Some(state) = self.connections.remove(&connection) else { return };
        if let Some(target) = state.target {
            self.dial_ended(target, connection, state.place.is_some(), now);
        }
        let (Some(place), Some(peer)) = (state.place, self.peers.get_mut(&state.server_id)) else { return };
        peer.changed_at = now;
        match place {
            Place::Pool(index) => {
                if let Some(slot) = peer.slots.get_mut(index).filter(|slot| **slot == Some(connection)) {
                    *slot = None;
                }
            }
            Place::Account => {
                if let Some(account) = &state.account
                    && peer.accounts.get(account) == Some(&connection)
                {
                    peer.accounts.remove(account);
                }
            }
        }
        let left = peer.first_pooled().is_none() && std::mem::take(&mut peer.joined);
        let lame_duck = peer.lame_duck;
        if peer.is_empty() {
            self.peers.remove(&state.server_id);
            self.peer_lost(&state.server_id, lame_duck, now);
        }
        if left {
            let (server_id, server_name) = (state.server_id, state.server_name);
            self.push(Effect::PeerLeft { server_id, server_name });
            self.announce_urls(false);
        }
    }

    fn log(&mut self, connection: Option<ConnectionId>, level: LogLevel, text: String) {
        self.push(Effect::Log { connection, level, text });
    }

    /// Tells clients about their servers, if there is news (or in any case).
    fn announce_urls(&mut self, always: bool) {
        let urls = self.client_urls();
        if !always && (self.settings.no_advertise || urls == self.announced_urls) {
            return;
        }
        self.announced_urls = urls.clone();
        let (connect_urls, ws_connect_urls) = urls;
        self.push(Effect::ClientUrls { connect_urls, ws_connect_urls, lame_duck: self.lame_duck });
    }

    /// `INFO` about this server, without what belongs to one connection.
    fn own_info(&self) -> Info {
        let identity = &self.identity;
        let (host, port, ip) = match &identity.advertise {
            Some((host, port)) => {
                let url = RouteUrl { host: host.clone(), port: *port, user: None };
                (host.clone(), *port, url.to_string())
            }
            None => (identity.host.clone(), identity.port, String::new()),
        };
        let urls = |urls: &[String]| {
            if self.settings.no_advertise || self.lame_duck { Vec::new() } else { urls.to_vec() }
        };
        Info {
            server_id: identity.server_id.clone(),
            server_name: identity.server_name.clone(),
            version: identity.version.clone(),
            proto: PROTOCOL,
            git_commit: identity.git_commit.clone(),
            go: identity.go.clone(),
            host,
            port: i32::from(port),
            ip,
            headers: identity.headers,
            auth_required: self.settings.authorization.is_some(),
            tls_required: self.settings.tls_required,
            tls_verify: self.settings.tls_required,
            max_payload: identity.max_payload,
            jetstream: identity.jetstream,
            domain: identity.domain.clone(),
            cluster: self.cluster_name.clone(),
            cluster_dynamic: self.cluster_name_dynamic,
            connect_urls: urls(&identity.connect_urls),
            ws_connect_urls: urls(&identity.ws_connect_urls),
            import: self.settings.permissions.import.clone(),
            export: self.settings.permissions.export.clone(),
            lnoc: true,
            lnocu: true,
            ln: true,
            route_pool_size: i32::try_from(self.settings.pool_size).unwrap_or(i32::MAX),
            starling: identity.starling_version.clone(),
            ..Info::default()
        }
    }

    /// `INFO` that introduces this server on a new connection.
    fn introduction(
        &mut self,
        account: Option<&str>,
        pool_index: usize,
        gossip: Gossip,
        agreed: Agreement,
    ) -> Info {
        Info {
            nonce: letters(&mut self.random, 15),
            compression: self.settings.compression.name_with(agreed).to_owned(),
            route_account: account.unwrap_or_default().to_owned(),
            route_pool_idx: i32::try_from(pool_index).unwrap_or(i32::MAX),
            gossip_mode: gossip as u8,
            ..self.own_info()
        }
    }

    fn send_info(&mut self, connection: ConnectionId, info: &Info) {
        let mut bytes = Vec::new();
        info.encode(&mut bytes);
        self.push(Effect::Send { connection, bytes });
    }
}

/// Server-to-server protocol level of nats-server 2.15: pools, accounts, message tracing.
const PROTOCOL: i32 = 3;

impl Connection {
    fn new(remote: SocketAddr, since: Duration) -> Connection {
        Connection {
            target: None,
            explicit: false,
            remote,
            certificate: None,
            account: None,
            compression: Agreement::Open,
            gossip: Gossip::Default,
            server_id: String::new(),
            server_name: String::new(),
            place: None,
            confirmed: false,
            permissions: Permissions::default(),
            since,
        }
    }
}

fn letters(random: &mut dyn Rng, count: usize) -> String {
    (0..count).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}
