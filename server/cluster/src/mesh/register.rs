//! What becomes of a connection whose peer introduced itself: nats-server's `processRouteInfo` and `addRoute`.
//!
//! Owns the choice of a place, the resolution of double connections and the refusals. Never decides whom to
//! dial.
//!
//! Two servers that dial each other at the same time both have a connection that wants the same place. Each
//! nats-server then closes the other's, and both try again after a random pause. Between two Starlings the
//! connection that the server with the smaller id opened wins on both sides at once; against a nats-server,
//! which will certainly close ours, its connection wins.

use super::{Connection, Gossip, InfoOutcome, Mesh, Place};
use crate::effect::{Carries, CloseReason, ConnectionId, Effect, LogLevel};
use crate::settings::{Permissions, RouteUrl};
use std::time::Duration;
use wire::route::{Info, NO_ORIGIN, Shape};

/// How long a peer that refused a pinned account's connection is not asked again.
pub(super) const REFUSED_ACCOUNT_PAUSE: Duration = Duration::from_secs(60);

/// Protocol level from which on a peer understands message traces (nats-server 2.11).
const PROTOCOL_WITH_TRACES: i32 = 3;

/// Largest pool that a peer may announce; each place costs a slot here.
const POOL_SIZE_MAX: usize = 1024;

impl Mesh {
    /// Takes an `INFO` from a peer: its introduction, or news.
    pub(crate) fn receive_info(
        &mut self,
        connection: ConnectionId,
        info: Info,
        now: Duration,
    ) -> InfoOutcome {
        let Some(state) = self.connections.get_mut(&connection) else { return InfoOutcome::Updated };
        if info.server_id == self.identity.server_id {
            if let Some(target) = state.target {
                self.dialing.is_self(target);
            }
            return refused(
                CloseReason::DuplicateRoute,
                false,
                LogLevel::Debug,
                "Detected route to self".into(),
            );
        }
        if info.cluster == NO_ORIGIN {
            let text = format!("Rejecting connection, cluster name {NO_ORIGIN:?} is reserved");
            return refused(CloseReason::ClusterNameConflict, false, LogLevel::Error, text);
        }
        let registered = state.place.is_some();
        if !info.cluster.is_empty()
            && let Err(ours) =
                self.agree_on_cluster_name(&info.cluster, info.cluster_dynamic, &info.server_id, now)
        {
            let text = format!("Remote cluster name {:?} does not match {ours:?}", info.cluster);
            return refused(CloseReason::ClusterNameConflict, false, LogLevel::Error, text);
        }
        if registered {
            self.receive_news(connection, info, now);
            return InfoOutcome::Updated;
        }
        let outcome = self.receive_introduction(connection, info, now);
        self.plan(now);
        outcome
    }

    fn receive_introduction(
        &mut self,
        connection: ConnectionId,
        mut info: Info,
        now: Duration,
    ) -> InfoOutcome {
        // nats-server leaves this to the accepting side; the log of the soliciting side would not say what is wrong
        if info.server_name == self.identity.server_name {
            let text = format!("Remote server has a duplicate name: {:?}", info.server_name);
            return refused(CloseReason::DuplicateServerName, false, LogLevel::Error, text);
        }
        if info.server_id.is_empty() {
            let text = "INFO without a server id".to_owned();
            return refused(CloseReason::ProtocolViolation, true, LogLevel::Error, text);
        }
        match self.agree_on_compression(connection, &info.compression, now) {
            Ok(true) => return InfoOutcome::Compressed,
            Ok(false) => {}
            Err(text) => return refused(CloseReason::ProtocolViolation, true, LogLevel::Error, text),
        }
        let Some(mut state) = self.connections.get(&connection).cloned() else { return InfoOutcome::Updated };
        let solicited = state.target.is_some();
        if info.ip.is_empty() {
            // others will reach the peer under the address that it is seen from here
            let port = u16::try_from(info.port).unwrap_or_default();
            let host = state.remote.ip().to_string();
            info.ip = RouteUrl { host, port, user: None }.to_string();
        }
        if let (true, Some(account)) = (solicited, &state.account) {
            info.route_account = account.clone();
        } else if !info.route_account.is_empty() {
            state.account = Some(info.route_account.clone());
        }
        state.server_id = info.server_id.clone();
        state.server_name = info.server_name.clone();
        state.permissions = Permissions { import: info.import.clone(), export: info.export.clone() };
        self.connections.insert(connection, state.clone());
        if let Some(target) = state.target {
            self.dialing.reached(target, &info.server_id);
        }
        let (place, loser) = match self.choose_place(connection, &state, &info) {
            Ok(choice) => choice,
            Err(refusal) => return refusal,
        };
        let outcome = self.register(connection, place, info, now);
        if let Some(loser) = loser {
            // only now, so that the peer never seems to have left
            self.log(
                Some(loser),
                LogLevel::Debug,
                "Detected duplicate remote route: the peer's own wins".into(),
            );
            self.close(loser, CloseReason::DuplicateRoute, now);
        }
        outcome
    }

    /// The place of a connection, and the connection there that has to give way.
    fn choose_place(
        &mut self,
        connection: ConnectionId,
        state: &Connection,
        info: &Info,
    ) -> Result<(Place, Option<ConnectionId>), InfoOutcome> {
        let solicited = state.target.is_some();
        let violation = |text| Err(refused(CloseReason::ProtocolViolation, true, LogLevel::Error, text));
        let remote_size = usize::try_from(info.route_pool_size).unwrap_or(0).min(POOL_SIZE_MAX);
        let no_pool = remote_size == 0 || self.settings.pool_size == 0;
        let size = if no_pool { 1 } else { remote_size.max(self.settings.pool_size) };
        if let Some(account) = &state.account {
            if no_pool {
                return violation(format!(
                    "Not possible to have a dedicated route for account {account:?} between those servers"
                ));
            }
            if !self.settings.pinned_accounts.contains(account) {
                return violation(format!("No route for account {account:?}"));
            }
            let rival = self.peers.get(&info.server_id).and_then(|peer| peer.accounts.get(account)).copied();
            return Ok((Place::Account, self.settle(rival, connection, info)?));
        }
        let index = usize::try_from(info.route_pool_idx);
        if !no_pool && solicited && info.route_pool_idx != 0 {
            let index = info.route_pool_idx;
            return violation(format!("Route pool index should not be set but is set to {index}"));
        }
        let index = match index {
            _ if no_pool => 0,
            Ok(index) if index < size => index,
            _ => {
                let (index, size) = (info.route_pool_idx, info.route_pool_size);
                return violation(format!("Invalid route pool index: {index} - pool size is {size}"));
            }
        };
        let slots = self.peers.get(&info.server_id).map(|peer| peer.slots.as_slice()).unwrap_or_default();
        let rival_at = |index: usize| slots.get(index).copied().flatten();
        if solicited && !no_pool {
            return match (0..size).find(|index| rival_at(*index).is_none()) {
                Some(index) => Ok((Place::Pool(index), None)),
                None => {
                    self.double(connection, &info.server_id);
                    Err(duplicate(&info.server_id))
                }
            };
        }
        let rival = rival_at(index);
        Ok((Place::Pool(index), self.settle(rival, connection, info)?))
    }

    /// Of two connections for one place one goes: the rival, which is returned, or the newcomer, which is
    /// refused.
    fn settle(
        &mut self,
        rival: Option<ConnectionId>,
        newcomer: ConnectionId,
        info: &Info,
    ) -> Result<Option<ConnectionId>, InfoOutcome> {
        let Some(rival_id) = rival else { return Ok(None) };
        let (Some(rival), Some(state)) = (self.connections.get(&rival_id), self.connections.get(&newcomer))
        else {
            return Ok(None);
        };
        let crossing = rival.target.is_some() && !rival.confirmed && state.target.is_none();
        let theirs_wins = info.starling.is_empty() || info.server_id < self.identity.server_id;
        if crossing && theirs_wins {
            return Ok(Some(rival_id));
        }
        self.double(newcomer, &info.server_id);
        Err(duplicate(&info.server_id))
    }

    /// A connection that is not needed still tells that this server wants the peer.
    fn double(&mut self, connection: ConnectionId, server_id: &str) {
        let Some(state) = self.connections.get(&connection) else { return };
        let (solicited, explicit) = (state.target.is_some(), state.explicit);
        if let Some(peer) = self.peers.get_mut(server_id) {
            peer.solicited |= solicited;
            peer.explicit |= explicit;
        }
    }

    fn register(&mut self, connection: ConnectionId, place: Place, info: Info, now: Duration) -> InfoOutcome {
        let Some(state) = self.connections.get_mut(&connection) else { return InfoOutcome::Updated };
        state.place = Some(place);
        let state = state.clone();
        let (server_id, server_name) = (info.server_id.clone(), info.server_name.clone());
        let configured = state.target.is_none() && self.dialing.claim(&mut *self.random, &state, &info, now);
        let first = self.peers.get(&server_id).is_none_or(|peer| peer.first_pooled().is_none());
        let remote_size = usize::try_from(info.route_pool_size).unwrap_or(0).min(POOL_SIZE_MAX);
        let no_pool = remote_size == 0 || self.settings.pool_size == 0;
        let size = if no_pool { 1 } else { remote_size.max(self.settings.pool_size) };
        let peer = self.peers.entry(server_id.clone()).or_default();
        peer.name = server_name.clone();
        peer.starling = !info.starling.is_empty();
        peer.no_pool = no_pool;
        peer.pool_size = remote_size;
        peer.solicited |= state.target.is_some();
        peer.explicit |= state.explicit || configured;
        peer.changed_at = now;
        while peer.slots.len() > size && peer.slots.last() == Some(&None) {
            // both sides came down to a smaller pool
            peer.slots.pop();
        }
        if peer.slots.len() < size {
            peer.slots.resize(size, None);
        }
        match (place, &state.account) {
            (Place::Account, Some(account)) => {
                peer.accounts.insert(account.clone(), connection);
            }
            (Place::Pool(index), _) => {
                if let Some(slot) = peer.slots.get_mut(index) {
                    *slot = Some(connection);
                }
                // a peer that opens its pool anew may have other pinned accounts by now
                peer.refused.clear();
            }
            (Place::Account, None) => {}
        }
        let joins = first && matches!(place, Place::Pool(_));
        if joins {
            peer.connect_urls = info.connect_urls.clone();
            peer.ws_connect_urls = info.ws_connect_urls.clone();
            peer.lame_duck = false;
        }
        self.greet(connection, place, &state, &info, no_pool, joins);
        InfoOutcome::Registered {
            shape: Shape {
                account_implied: state.account.is_some(),
                unsubscribe_origin: info.lnocu || info.ln,
            },
            headers: self.identity.headers && info.headers,
        }
    }

    /// Everything that is said when a connection becomes a route, in nats-server's order.
    fn greet(
        &mut self,
        connection: ConnectionId,
        place: Place,
        state: &Connection,
        info: &Info,
        no_pool: bool,
        joins: bool,
    ) {
        let server_id = &info.server_id;
        let text = match &state.account {
            Some(account) => format!("Registering remote route {server_id:?} for account {account:?}"),
            None => format!("Registering remote route {server_id:?}"),
        };
        self.log(Some(connection), LogLevel::Debug, text);
        if state.target.is_some() && !self.introduces_at_once(state.account.as_deref()) {
            let index = if let Place::Pool(index) = place { index } else { 0 };
            let own = self.introduction(state.account.as_deref(), index, state.gossip, state.compression);
            self.send_info(connection, &own);
        }
        if joins || place == Place::Account {
            self.forward_introduction(info, state);
        }
        if state.target.is_none() && matches!(place, Place::Pool(_)) {
            self.join(server_id);
        }
        let carries = match (place, &state.account) {
            (Place::Account, Some(account)) => Carries::Account(account.clone()),
            _ if no_pool => Carries::Everything,
            (Place::Pool(index), _) => Carries::Pool {
                index,
                pool_size: self.settings.pool_size.max(1),
                pinned: self.settings.pinned_accounts.clone(),
            },
            (Place::Account, None) => Carries::Everything,
        };
        self.push(Effect::PeerReady {
            connection,
            server_id: server_id.clone(),
            server_name: info.server_name.clone(),
            carries,
            headers: self.identity.headers && info.headers,
            traces: info.proto >= PROTOCOL_WITH_TRACES,
            permissions: state.permissions.clone(),
        });
        if state.target.is_some() {
            // its answer proves that the peer has registered the connection as well
            self.push(Effect::Send { connection, bytes: b"PING\r\n".to_vec() });
        }
    }

    /// `INFO` on a registered connection: gossip, lame duck mode, changed permissions.
    fn receive_news(&mut self, connection: ConnectionId, mut info: Info, now: Duration) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if !info.route_acc_add_reqid.is_empty() {
            if !info.route_account.is_empty() {
                if let Some(peer) = self.peers.get_mut(&state.server_id) {
                    peer.refused.remove(&info.route_account);
                }
                // an account moves to connections of its own: the peer waits for this answer before it closes
                info.route_account.clear();
                self.send_info(connection, &info);
            }
            return;
        }
        if !info.gateway.is_empty() {
            return;
        }
        if info.server_id != state.server_id {
            self.receive_gossip(&info, Gossip::from(info.gossip_mode), now);
            return;
        }
        let server_id = info.server_id.clone();
        if info.lame_duck_mode {
            if let Some(peer) = self.peers.get_mut(&server_id) {
                peer.lame_duck = true;
            }
            self.announce_urls(false);
            return;
        }
        let permissions = Permissions { import: info.import, export: info.export };
        if state.permissions != permissions {
            state.permissions = permissions.clone();
            self.push(Effect::PeerPermissions { connection, permissions });
        }
    }
}

fn refused(reason: CloseReason, answer: bool, level: LogLevel, text: String) -> InfoOutcome {
    InfoOutcome::Refused { reason, answer, level, text }
}

fn duplicate(server_id: &str) -> InfoOutcome {
    let text = format!("Detected duplicate remote route {server_id:?}");
    refused(CloseReason::DuplicateRoute, false, LogLevel::Debug, text)
}
