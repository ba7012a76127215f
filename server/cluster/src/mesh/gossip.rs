//! Who is told about whom: nats-server's `forwardNewRouteInfoToKnownServers` and `processImplicitRoute`.
//!
//! Owns the rules of gossip. A server that gets a new peer passes its introduction on to the peers that it has,
//! and these dial the newcomer; the newcomer itself is told nothing.

use super::{Connection, Gossip, Mesh};
use crate::effect::{ConnectionId, Effect};
use crate::settings::RouteUrl;
use std::time::Duration;
use wire::route::Info;

/// The longest random pause before a server known by gossip is dialled.
const GOSSIP_JITTER_MAX: Duration = Duration::from_secs(2);
/// What each member adds to that pause: a newcomer is dialled by all members at once.
const GOSSIP_JITTER_PER_PEER: Duration = Duration::from_millis(10);

impl Mesh {
    /// Passes a new peer's introduction on.
    pub(super) fn forward_introduction(&mut self, info: &Info, state: &Connection) {
        let solicited = state.target.is_some();
        let from_gossip = solicited && !state.explicit;
        if (from_gossip && state.gossip != Gossip::Override)
            || Gossip::from(info.gossip_mode) == Gossip::Disabled
        {
            return;
        }
        let account = (!info.route_account.is_empty()).then_some(info.route_account.as_str());
        let receivers: Vec<(ConnectionId, Gossip)> = self
            .peers
            .iter()
            .filter(|(server_id, peer)| **server_id != info.server_id && (account.is_none() || !peer.no_pool))
            .filter_map(|(_, peer)| {
                let pinned = account.and_then(|account| peer.accounts.get(account)).copied();
                let connection = pinned.or_else(|| peer.first_pooled())?;
                // whoever was configured on either side of us may be the only link between two halves, so the
                // receiver must pass the news on; all others are told by us
                let mode = if (!solicited && peer.explicit) || (solicited && state.explicit) {
                    Gossip::Override
                } else if !solicited {
                    Gossip::Disabled
                } else {
                    Gossip::Default
                };
                Some((connection, mode))
            })
            .collect();
        for (connection, mode) in receivers {
            // the nonce was for this connection only
            let forwarded = Info { gossip_mode: mode as u8, nonce: String::new(), ..info.clone() };
            let mut bytes = Vec::new();
            forwarded.encode(&mut bytes);
            self.push(Effect::Send { connection, bytes });
        }
    }

    /// A peer tells about another server.
    pub(super) fn receive_gossip(&mut self, info: &Info, gossip: Gossip, now: Duration) {
        if info.server_id == self.identity.server_id || self.lame_duck {
            return;
        }
        let pinned = !info.route_account.is_empty();
        if pinned && self.settings.pool_size == 0 {
            return;
        }
        let Ok(mut url) = RouteUrl::parse(&info.ip) else {
            let text = format!("Error parsing URL from INFO: {:?}", info.ip);
            return self.log(None, crate::effect::LogLevel::Error, text);
        };
        if self.peers.get(&info.server_id).is_some_and(|peer| {
            if pinned {
                peer.accounts.contains_key(&info.route_account)
            } else {
                peer.first_pooled().is_some()
            }
        }) {
            return;
        }
        if info.auth_required {
            url.user =
                self.settings.authorization.as_ref().map(|own| (own.user.clone(), own.password.clone()));
        }
        let jitter = (GOSSIP_JITTER_PER_PEER * self.peers.len() as u32).min(GOSSIP_JITTER_MAX);
        let at = now + self.random_up_to(jitter);
        self.learn(url, gossip, &info.server_id, at, now);
        self.plan(now);
    }
}
