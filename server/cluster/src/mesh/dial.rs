//! Whom to connect to, and when.
//!
//! Owns *sources* (a configured route, or a server known by gossip: a host and a port) and *targets* (the
//! addresses that sources stand for). [`Mesh::plan`] compares what is wanted with what is there and dials the
//! difference, so it does not matter which event brought the difference about.
//!
//! Beyond nats-server, which dials one random address of a name and forgets the rest:
//!
//! * every address of a configured name is a target, the name is looked up again and again while the server
//!   runs, and addresses that left it are forgotten;
//! * dials are bounded in number and rate and spread by jitter;
//! * a server known by gossip that is lost is looked for, ever more slowly, for five minutes after
//!   `connect_retries` are used up: otherwise a healed partition would leave two servers apart for good.

use super::{Connection, Gossip, Mesh};
use crate::effect::{CloseReason, ConnectionId, DialId, Effect, LogLevel};
use crate::settings::{RouteUrl, Settings};
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wire::route::Info;

/// Pause after a failed attempt (nats-server `DEFAULT_ROUTE_CONNECT`).
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause with `connect_backoff` (nats-server `DEFAULT_ROUTE_CONNECT_MAX`).
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Pause before a lost configured route is dialled again (nats-server `DEFAULT_ROUTE_RECONNECT`).
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Random part of that pause: it keeps two servers from dialling each other in step.
const RECONNECT_JITTER: Duration = Duration::from_millis(100);
/// How long the peer that dialled us may take to fill its pool before we help.
const FILL_PATIENCE: Duration = Duration::from_secs(2);
/// A configured address that a peer only claims to have is checked once by a dial, about so much later.
const CLAIM_CHECK: Duration = Duration::from_secs(30);
/// How long a lost server that is not configured is looked for.
const IMPLICIT_MEMORY: Duration = Duration::from_secs(300);
/// Pause between looks at a name while no server of it is connected.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);
/// Dials and handshakes at the same time.
const DIALS_IN_FLIGHT_MAX: usize = 32;
/// Dials a second, after a burst of [`DIALS_IN_FLIGHT_MAX`].
const DIAL_PAUSE: Duration = Duration::from_millis(10);
/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 1024;

type SourceKey = (String, u16);

/// Everything about dialling.
#[derive(Default)]
pub(super) struct Dialing {
    sources: BTreeMap<SourceKey, Source>,
    targets: BTreeMap<SocketAddr, Target>,
    dials: BTreeMap<DialId, Dial>,
    next_dial: u64,
    own: BTreeSet<SocketAddr>,
    tls_name: Option<String>,
    /// The rate limit's virtual clock: the next dial may start when it is not ahead by more than a burst.
    paced_until: Duration,
}

#[derive(Debug)]
struct Source {
    url: RouteUrl,
    explicit: bool,
    gossip: Gossip,
    server_id: Option<String>,
    /// For names: when to look it up next, and how often that failed.
    resolve_at: Option<Duration>,
    resolving: bool,
    failures: u32,
    created_at: Duration,
}

#[derive(Debug)]
struct Target {
    source: SourceKey,
    /// Server last found there.
    server_id: Option<String>,
    /// Found by a dial, not by the peer's word.
    verified: bool,
    is_self: bool,
    /// It was connected once: failures are reported as those of a reconnect.
    was_connected: bool,
    attempts: u32,
    next_at: Duration,
    /// Since when nobody was reached there.
    lost_at: Duration,
    busy: Option<Busy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Dial(DialId),
    Handshake(ConnectionId),
}

/// A dial on its way.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub target: SocketAddr,
    pub explicit: bool,
    pub account: Option<String>,
    pub gossip: Gossip,
    pub user: Option<(String, String)>,
}

impl Dialing {
    /// The peer confirmed a connection: the next one may be opened.
    pub(super) fn done(&mut self, target: SocketAddr, connection: ConnectionId) {
        if let Some(target) = self.targets.get_mut(&target)
            && target.busy == Some(Busy::Handshake(connection))
        {
            target.busy = None;
        }
    }

    /// This server answered itself.
    pub(super) fn is_self(&mut self, target: SocketAddr) {
        self.own.insert(target);
        if let Some(target) = self.targets.get_mut(&target) {
            target.is_self = true;
        }
    }

    /// A dial found a server.
    pub(super) fn reached(&mut self, target: SocketAddr, server_id: &str) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.server_id = Some(server_id.to_owned());
            target.verified = true;
            target.was_connected = true;
            target.attempts = 0;
        }
    }

    /// A peer that dialled us says where it listens: those targets need no dial now. Returns whether one of them
    /// is configured.
    pub(super) fn claim(
        &mut self,
        random: &mut dyn Rng,
        state: &Connection,
        info: &Info,
        now: Duration,
    ) -> bool {
        let Ok(port) = u16::try_from(info.port) else { return false };
        let shown = RouteUrl::parse(&info.ip).ok().and_then(|url| url.address());
        let mut configured = false;
        for address in [Some(SocketAddr::new(state.remote.ip(), port)), shown].into_iter().flatten() {
            let Some(target) = self.targets.get_mut(&address) else { continue };
            configured |= self.sources.get(&target.source).is_some_and(|source| source.explicit);
            if !target.verified || target.server_id.as_deref() != Some(info.server_id.as_str()) {
                target.server_id = Some(info.server_id.clone());
                target.verified = false;
                target.next_at = now + CLAIM_CHECK + random_up_to(random, CLAIM_CHECK);
            }
            target.attempts = 0;
        }
        configured
    }
}

impl Mesh {
    /// A dial failed: `error` says why, for the log.
    pub fn handle_dial_failed(&mut self, dial: DialId, error: &str, now: Duration) {
        let Some(dial) = self.dialing.dials.remove(&dial) else { return };
        self.attempt_failed(dial.target, Some(error), now);
        self.plan(now);
    }

    /// The answer to [`Effect::Resolve`]: all addresses of a name (the port is the route's), or why there are
    /// none.
    pub fn handle_resolved(&mut self, name: &str, result: Result<&[IpAddr], &str>, now: Duration) {
        let keys: Vec<SourceKey> =
            self.dialing.sources.keys().filter(|(host, _)| host == name).cloned().collect();
        for key in keys {
            match result {
                Ok(addresses) if !addresses.is_empty() => self.resolved(&key, addresses, now),
                Ok(_) => self.resolve_failed(&key, "the name has no address", now),
                Err(error) => self.resolve_failed(&key, error, now),
            }
        }
        self.plan(now);
    }

    fn resolved(&mut self, key: &SourceKey, addresses: &[IpAddr], now: Duration) {
        let addresses: BTreeSet<SocketAddr> = addresses
            .iter()
            .take(ADDRESSES_MAX)
            .map(|ip| SocketAddr::new(ip.to_canonical(), key.1))
            .collect();
        self.dialing.targets.retain(|address, target| target.source != *key || addresses.contains(address));
        for address in &addresses {
            self.add_target(*address, key, now, now);
        }
        let connected = addresses.iter().any(|address| self.is_connected(*address));
        let pause = if connected { self.settings.resolve_interval } else { RESOLVE_PAUSE };
        let jitter = self.random_up_to(pause / 5);
        if let Some(source) = self.dialing.sources.get_mut(key) {
            (source.resolving, source.failures) = (false, 0);
            source.resolve_at = Some(now + pause + jitter);
        }
    }

    fn resolve_failed(&mut self, key: &SourceKey, error: &str, now: Duration) {
        let Some(source) = self.dialing.sources.get_mut(key) else { return };
        (source.resolving, source.failures) = (false, source.failures.saturating_add(1));
        source.resolve_at = Some(now + RESOLVE_PAUSE);
        let attempts = source.failures;
        let loud = attempts == 1 || attempts.is_multiple_of(self.settings.connect_error_reports.max(1));
        let level = if loud { LogLevel::Error } else { LogLevel::Debug };
        let text = format!(
            "Error trying to connect to route (attempt {attempts}): lookup for host {:?}: {error}",
            key.0
        );
        self.log(None, level, text);
    }

    /// Whether a member lives at an address.
    fn is_connected(&self, address: SocketAddr) -> bool {
        let target = self.dialing.targets.get(&address);
        target.and_then(|target| target.server_id.as_ref()).is_some_and(|id| self.peers.contains_key(id))
    }

    /// Makes the configured routes the explicit sources.
    pub(super) fn configure_routes(&mut self, routes: &[RouteUrl], now: Duration) {
        if self.dialing.own.is_empty() {
            self.dialing.own = self.identity.own_addresses.iter().copied().collect();
        }
        let named = routes.iter().find(|url| url.address().is_none());
        self.dialing.tls_name = named.map(|url| url.host.clone());
        let wanted: BTreeSet<SourceKey> = routes.iter().map(key_of).collect();
        let dropped: Vec<SourceKey> = (self.dialing.sources.iter())
            .filter(|(key, source)| source.explicit && !wanted.contains(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in dropped {
            self.dialing.sources.remove(&key);
            let gone: Vec<SocketAddr> =
                self.dialing.targets.iter().filter(|(_, t)| t.source == key).map(|(a, _)| *a).collect();
            let routes: Vec<ConnectionId> = self
                .connections
                .iter()
                .filter(|(_, connection)| connection.target.is_some_and(|target| gone.contains(&target)))
                .map(|(id, _)| *id)
                .collect();
            self.dialing.targets.retain(|_, target| target.source != key);
            for connection in routes {
                self.close(connection, CloseReason::RouteRemoved, now);
            }
        }
        for url in routes {
            self.add_source(url.clone(), true, Gossip::Default, None, now, now);
        }
    }

    /// Remembers a server known by gossip.
    pub(super) fn learn(
        &mut self,
        url: RouteUrl,
        gossip: Gossip,
        server_id: &str,
        at: Duration,
        now: Duration,
    ) {
        // sources of a name nobody is found under any more would pile up
        self.dialing.sources.retain(|_, source| {
            source.explicit || source.resolve_at.is_none() || source.created_at + IMPLICIT_MEMORY > now
        });
        self.add_source(url, false, gossip, Some(server_id), at, now);
    }

    fn add_source(
        &mut self,
        url: RouteUrl,
        explicit: bool,
        gossip: Gossip,
        server_id: Option<&str>,
        at: Duration,
        now: Duration,
    ) {
        let key = key_of(&url);
        let address = url.address();
        let source = self.dialing.sources.entry(key.clone()).or_insert_with(|| Source {
            url: url.clone(),
            explicit,
            gossip,
            server_id: None,
            resolve_at: address.is_none().then_some(at),
            resolving: false,
            failures: 0,
            created_at: now,
        });
        if explicit {
            (source.explicit, source.url, source.gossip) = (true, url, Gossip::Default);
        } else if !source.explicit {
            (source.gossip, source.url, source.created_at) = (gossip, url, now);
        }
        source.server_id = server_id.map(str::to_owned).or(source.server_id.take());
        if let Some(address) = address {
            let ip = address.ip().to_canonical();
            self.add_target(SocketAddr::new(ip, address.port()), &key, at, now);
        }
    }

    fn add_target(&mut self, address: SocketAddr, key: &SourceKey, at: Duration, now: Duration) {
        let is_self = self.dialing.own.contains(&address);
        let explicit = self.dialing.sources.get(key).is_some_and(|source| source.explicit);
        let known_to = self.dialing.sources.get(key).and_then(|source| source.server_id.clone());
        let target = self.dialing.targets.entry(address).or_insert_with(|| Target {
            source: key.clone(),
            server_id: known_to.clone(),
            verified: false,
            is_self,
            was_connected: false,
            attempts: 0,
            next_at: at,
            lost_at: now,
            busy: None,
        });
        if explicit {
            target.source = key.clone();
        } else if target.server_id != known_to && target.busy.is_none() {
            // gossip about another server at a known address: the old one has gone
            (target.server_id, target.attempts, target.next_at, target.lost_at) = (known_to, 0, at, now);
        }
    }

    /// All connections to a server are gone.
    pub(super) fn peer_lost(&mut self, server_id: &str, lame_duck: bool, now: Duration) {
        let addresses: Vec<SocketAddr> = (self.dialing.targets.iter())
            .filter(|(_, target)| target.server_id.as_deref() == Some(server_id))
            .map(|(address, _)| *address)
            .collect();
        for address in addresses {
            if lame_duck && !self.is_explicit(address) {
                self.forget(address);
            } else {
                let pause = self.reconnect_pause(address);
                let Some(target) = self.dialing.targets.get_mut(&address) else { continue };
                (target.verified, target.attempts, target.lost_at) = (false, 0, now);
                target.next_at = now + pause;
            }
        }
    }

    /// A connection that this server dialled has ended.
    pub(super) fn dial_ended(
        &mut self,
        address: SocketAddr,
        connection: ConnectionId,
        registered: bool,
        now: Duration,
    ) {
        let pause = self.reconnect_pause(address);
        let Some(target) = self.dialing.targets.get_mut(&address) else { return };
        if registered {
            if target.busy == Some(Busy::Handshake(connection)) {
                target.busy = None;
            }
            target.next_at = target.next_at.max(now + pause);
        } else if target.busy == Some(Busy::Handshake(connection)) {
            self.attempt_failed(address, None, now);
        }
    }

    fn is_explicit(&self, address: SocketAddr) -> bool {
        let target = self.dialing.targets.get(&address);
        target
            .and_then(|target| self.dialing.sources.get(&target.source))
            .is_some_and(|source| source.explicit)
    }

    fn reconnect_pause(&mut self, address: SocketAddr) -> Duration {
        let jitter = self.random_up_to(RECONNECT_JITTER);
        if self.is_explicit(address) { RECONNECT_PAUSE + jitter } else { jitter }
    }

    fn forget(&mut self, address: SocketAddr) {
        if let Some(target) = self.dialing.targets.remove(&address)
            && !self.dialing.targets.values().any(|other| other.source == target.source)
        {
            self.dialing.sources.retain(|key, source| source.explicit || *key != target.source);
        }
    }

    /// An attempt ended without a route.
    fn attempt_failed(&mut self, address: SocketAddr, error: Option<&str>, now: Duration) {
        let explicit = self.is_explicit(address);
        let Some(target) = self.dialing.targets.get_mut(&address) else { return };
        target.busy = None;
        target.attempts = target.attempts.saturating_add(1);
        let (attempts, was_connected, lost_at) = (target.attempts, target.was_connected, target.lost_at);
        let retries = attempts > self.settings.connect_retries;
        let slow = self.settings.connect_backoff
            || (!explicit && retries)
            || (explicit && self.has_siblings(address));
        let doublings = if slow { (attempts - 1).min(5) } else { 0 };
        let pause = (RETRY_PAUSE * (1 << doublings)).min(RETRY_PAUSE_MAX);
        let jitter = self.random_up_to(pause / 5);
        if let Some(target) = self.dialing.targets.get_mut(&address) {
            // earlier rather than later: nats-server tries again after a second at most
            target.next_at = now + pause - jitter;
        }
        if let Some(error) = error {
            let level = if self.is_worth_an_error(attempts, was_connected, address) {
                LogLevel::Error
            } else {
                LogLevel::Debug
            };
            let text = format!("Error trying to connect to route (attempt {attempts}): {error}");
            self.log(None, level, text);
        }
        let hopeless =
            !explicit && now.saturating_sub(lost_at) > IMPLICIT_MEMORY && !self.is_connected(address);
        if hopeless {
            self.forget(address);
        }
    }

    /// Whether another address of the same name is connected: then this one may well be a dead entry.
    fn has_siblings(&self, address: SocketAddr) -> bool {
        let Some(target) = self.dialing.targets.get(&address) else { return false };
        let mut same = self.dialing.targets.iter().filter(|(_, other)| other.source == target.source);
        same.any(|(other, _)| *other != address && self.is_connected(*other))
    }

    fn is_worth_an_error(&self, attempts: u32, was_connected: bool, address: SocketAddr) -> bool {
        let Settings { connect_error_reports, reconnect_error_reports, .. } = &self.settings;
        let every = if was_connected { *reconnect_error_reports } else { *connect_error_reports };
        (attempts == 1 || attempts.is_multiple_of(every.max(1))) && !self.has_siblings(address)
    }

    /// What a target wants: when it may be dialled, and for which account (`None`: a pooled connection).
    fn due(&self, address: SocketAddr, target: &Target) -> Option<(Duration, Option<String>)> {
        if target.busy.is_some() || target.is_self {
            return None;
        }
        let explicit = self.is_explicit(address);
        let check = (explicit && !target.verified).then_some((target.next_at, None));
        let Some(peer) = target.server_id.as_ref().and_then(|id| self.peers.get(id)) else {
            return Some((target.next_at, None));
        };
        if peer.no_pool {
            return check;
        }
        let pooled = peer.slots.iter().any(Option::is_none).then_some((target.next_at, None));
        let pinned = || {
            let missing =
                self.settings.pinned_accounts.iter().filter(|name| !peer.accounts.contains_key(*name));
            let when =
                |name: &String| peer.refused.get(name).copied().unwrap_or_default().max(target.next_at);
            missing.map(|name| (when(name), Some(name.clone()))).min()
        };
        match pooled.or_else(pinned) {
            Some(missing) if peer.solicited => Some(missing),
            Some((at, account)) if explicit => Some((at.max(peer.changed_at + FILL_PATIENCE), account)),
            _ => check,
        }
    }

    /// Servers that a dial or handshake is under way to: pools are filled one by one.
    fn busy_servers(&self) -> BTreeSet<&str> {
        let busy = self.dialing.targets.values().filter(|target| target.busy.is_some());
        busy.filter_map(|target| target.server_id.as_deref()).collect()
    }

    pub(super) fn next_dial_or_resolve(&self) -> Option<Duration> {
        if self.stopped || self.lame_duck {
            return None;
        }
        let resolve = self.dialing.sources.values().filter(|source| !source.resolving);
        let resolve = resolve.filter_map(|source| source.resolve_at).min();
        let busy = self.busy_servers();
        let free = self.dialing.targets.iter().filter(|(_, target)| {
            target.server_id.as_deref().is_none_or(|server_id| !busy.contains(server_id))
        });
        let dial = free.filter_map(|(address, target)| self.due(*address, target)).map(|(at, _)| at).min();
        // with all places in flight taken, the end of one of them is the next event
        let dial = dial.filter(|_| self.in_flight() < DIALS_IN_FLIGHT_MAX);
        let paced = self.dialing.paced_until.saturating_sub(DIAL_PAUSE * DIALS_IN_FLIGHT_MAX as u32);
        [resolve, dial.map(|at| at.max(paced))].into_iter().flatten().min()
    }

    fn in_flight(&self) -> usize {
        self.dialing.targets.values().filter(|target| target.busy.is_some()).count()
    }

    /// Looks up and dials what is due.
    pub(super) fn plan(&mut self, now: Duration) {
        if self.stopped || self.lame_duck {
            return;
        }
        self.resolve_due(now);
        let mut due: Vec<(Duration, SocketAddr, Option<String>)> = (self.dialing.targets.iter())
            .filter_map(|(address, target)| {
                self.due(*address, target).map(|(at, account)| (at, *address, account))
            })
            .filter(|(at, ..)| *at <= now)
            .collect();
        due.sort_unstable();
        for (_, address, account) in due {
            let ahead = self.dialing.paced_until.saturating_sub(now);
            if self.in_flight() >= DIALS_IN_FLIGHT_MAX || ahead > DIAL_PAUSE * DIALS_IN_FLIGHT_MAX as u32 {
                return;
            }
            let taken = self.dialing.targets.get(&address).and_then(|target| target.server_id.as_deref());
            if taken.is_some_and(|server_id| self.busy_servers().contains(server_id)) {
                continue;
            }
            self.dial(address, account, now);
        }
    }

    fn resolve_due(&mut self, now: Duration) {
        let mut names = BTreeSet::new();
        for source in self.dialing.sources.values_mut() {
            if !source.resolving && source.resolve_at.is_some_and(|at| at <= now) {
                source.resolving = true;
                names.insert(source.url.host.clone());
            }
        }
        for name in names {
            self.push(Effect::Resolve { name });
        }
    }

    fn dial(&mut self, address: SocketAddr, account: Option<String>, now: Duration) {
        let Some(target) = self.dialing.targets.get_mut(&address) else { return };
        let Some(source) = self.dialing.sources.get(&target.source) else { return };
        self.dialing.next_dial += 1;
        let dial = DialId(self.dialing.next_dial);
        target.busy = Some(Busy::Dial(dial));
        self.dialing.paced_until = self.dialing.paced_until.max(now) + DIAL_PAUSE;
        let name = source.url.address().is_none().then(|| source.url.host.clone());
        let tls_name = name.or_else(|| self.dialing.tls_name.clone()).filter(|_| self.settings.tls_required);
        let pending = Dial {
            target: address,
            explicit: source.explicit,
            account,
            gossip: source.gossip,
            user: source.url.user.clone(),
        };
        let text =
            format!("Trying to connect to route on {}:{} ({address})", source.url.host, source.url.port);
        self.dialing.dials.insert(dial, pending);
        self.log(None, LogLevel::Debug, text);
        self.push(Effect::Dial { dial, address, tls_name });
    }

    pub(super) fn take_dial(&mut self, dial: DialId, connection: ConnectionId) -> Option<Dial> {
        let pending = self.dialing.dials.remove(&dial)?;
        let target = self.dialing.targets.get_mut(&pending.target)?;
        if target.busy != Some(Busy::Dial(dial)) || self.stopped {
            return None;
        }
        target.busy = Some(Busy::Handshake(connection));
        Some(pending)
    }
}

fn key_of(url: &RouteUrl) -> SourceKey {
    (url.host.clone(), url.port)
}

fn random_up_to(random: &mut dyn Rng, limit: Duration) -> Duration {
    Duration::from_millis(random.random_range(0..=limit.as_millis() as u64))
}
