//! The other servers as the system account shows them: how many connections of each account they have.
//!
//! Who is a member is the mesh's knowledge. nats-server learns it from what each server tells of itself every ten
//! seconds (`$SYS.SERVER.ID.STATSZ`, which names all routes): asked for by each server, idle traffic would grow with the
//! cube of their number. So it is told to those who ask for it, and servers of ours do not.

use super::{System, later};
use crate::shared::Shared;
use crate::surplus;
use engine::Received;
use monitor::events::{ACCOUNT_CONNECTIONS_INTERVAL, PeerAccountConnections};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A server that has not repeated its connections for so long has none: it is gone, and was no member (behind a
/// gateway of another server), or what it told came after its end.
const SILENCE_MAX: Duration = ACCOUNT_CONNECTIONS_INTERVAL.saturating_mul(3);
/// From a new member until it is told of this server: many may join at once, and its interest has to come first.
const GREETING_DELAY: Duration = Duration::from_secs(1);
/// Servers whose connections are remembered.
const PEERS_MAX: usize = 4096;

/// What is known of the other servers, by id.
#[derive(Default)]
pub(super) struct Peers(Mutex<HashMap<String, Peer>>);

#[derive(Default)]
struct Peer {
    heard_nanos: u64,
    /// Connections by account.
    connections: HashMap<String, u32>,
}

impl Peers {
    /// Notes connections of an account; the sum over all servers.
    fn count(&self, server: &str, account: &str, connections: u32, now_nanos: u64) -> u32 {
        let mut peers = self.0.lock();
        if peers.len() < PEERS_MAX || peers.contains_key(server) {
            let peer = peers.entry(server.to_owned()).or_default();
            peer.heard_nanos = now_nanos;
            match connections {
                0 => peer.connections.remove(account),
                connections => peer.connections.insert(account.to_owned(), connections),
            };
        }
        peers.values().filter_map(|peer| peer.connections.get(account)).sum()
    }

    /// Forgets a server: the accounts that it had connections of, with what the others have.
    fn forget(&self, server: &str) -> Vec<(String, u32)> {
        let mut peers = self.0.lock();
        let gone = peers.remove(server).unwrap_or_default();
        let accounts = gone.connections.into_keys();
        let sum = |account: &String| peers.values().filter_map(|peer| peer.connections.get(account)).sum();
        accounts.map(|account| (account.clone(), sum(&account))).collect()
    }

    fn silent(&self, now_nanos: u64) -> Vec<String> {
        let since = now_nanos.saturating_sub(SILENCE_MAX.as_nanos() as u64);
        let peers = self.0.lock();
        peers.iter().filter(|(_, peer)| peer.heard_nanos < since).map(|(id, _)| id.clone()).collect()
    }
}

impl System {
    pub(super) fn listen_to_peers(self: &Arc<Self>) {
        for subject in ["$SYS.SERVER.*.SHUTDOWN", "$SYS.SERVER.*.LAMEDUCK"] {
            self.listen(subject, false, |system, received| {
                if let Some(id) = received.subject.split('.').nth(2) {
                    system.forget(id);
                }
            });
        }
        let answers = format!("$SYS._INBOX_.{}", self.server_id);
        for subject in ["$SYS.SERVER.ACCOUNT.*.CONNS", &answers] {
            self.listen(subject, false, |system, received| system.count(received));
        }
    }

    /// A server became a member: it is told of this one and of its connections, if it wants to hear. Any thread.
    pub fn handle_peer_joined(self: &Arc<Self>) {
        if self.greets.swap(true, Relaxed) {
            return;
        }
        let system = self.clone();
        self.client.internal().at(later(GREETING_DELAY), move |now_nanos| {
            system.greets.store(false, Relaxed);
            let Some(shared) = system.shared.upgrade() else { return };
            system.broadcast_statistics(&shared, now_nanos);
            // also of accounts that nobody asked about when their clients came
            let accounts = shared.broker.accounts();
            for account in accounts.iter().filter(|account| account.connections.load(Relaxed) > 0) {
                system.track(&shared, &account.name);
                system.tell_connections(&shared, &account.name);
            }
        });
    }

    /// A server is no member any more. Any thread.
    pub fn handle_peer_left(self: &Arc<Self>, id: String) {
        let system = self.clone();
        // behind what it told before
        self.client.internal().at(0, move |_| system.forget(&id));
    }

    pub(super) fn forget_silent_peers(&self, now_nanos: u64) {
        for id in self.peers.silent(now_nanos) {
            self.forget(&id);
        }
    }

    fn forget(&self, id: &str) {
        let Some(shared) = self.shared.upgrade() else { return };
        for (account, connections) in self.peers.forget(id) {
            set_remote(&shared, &account, connections);
        }
    }

    fn count(&self, received: &Received<'_>) {
        let Ok(told) = serde_json::from_slice::<PeerAccountConnections>(received.payload) else { return };
        let Some(shared) = self.shared.upgrade() else { return };
        if told.server.id.is_empty() || told.server.id == self.server_id {
            return;
        }
        let connections = (told.client_connections + told.leafnode_connections).min(u32::MAX as usize) as u32;
        let remote = self.peers.count(&told.server.id, &told.account, connections, received.now_nanos);
        set_remote(&shared, &told.account, remote);
    }
}

/// Notes how many connections an account has on other servers, and closes the newest here if that is too many.
fn set_remote(shared: &Shared, name: &str, connections: u32) {
    let Some(account) = shared.broker.find_account(name) else { return };
    account.remote_connections.store(connections, Relaxed);
    surplus::close_of_account(shared, name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_an_account_are_summed_over_servers_until_they_leave() {
        let peers = Peers::default();
        assert_eq!(peers.count("B", "A", 3, 1), 3);
        assert_eq!(peers.count("C", "A", 4, 1), 7);
        assert_eq!(peers.count("B", "A", 1, 2), 5);
        assert_eq!(peers.forget("unknown"), []);
        assert_eq!(peers.forget("C"), [("A".to_owned(), 1)]);
        assert_eq!(peers.count("B", "A", 0, 3), 0);
        assert_eq!(peers.forget("B"), []);
    }

    #[test]
    fn a_server_that_keeps_silent_is_gone_after_three_heartbeats() {
        let peers = Peers::default();
        peers.count("B", "A", 3, 1);
        assert!(peers.silent(SILENCE_MAX.as_nanos() as u64).is_empty());
        assert_eq!(peers.silent(SILENCE_MAX.as_nanos() as u64 + 2), ["B"]);
    }
}
