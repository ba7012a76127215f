//! The other servers as the system account shows them: who is there, and how many connections of each account.

use super::System;
use crate::shared::Shared;
use crate::surplus;
use engine::Received;
use monitor::events::{PeerAccountConnections, PeerStatistics, ServerInfo};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A server that has not told its numbers for so long is gone (nats-server: five broadcasts).
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// Servers that are remembered.
const PEERS_MAX: usize = 4096;

/// What is known of the other servers, by id.
#[derive(Default)]
pub(super) struct Peers(Mutex<HashMap<String, Peer>>);

#[derive(Default)]
struct Peer {
    sequence: u64,
    heard_nanos: u64,
    /// Connections by account.
    connections: HashMap<String, u32>,
}

impl Peers {
    /// Notes that a server was heard; `true` when it is new.
    fn hear(&self, server: &ServerInfo, now_nanos: u64) -> bool {
        let mut peers = self.0.lock();
        let is_new = !peers.contains_key(&server.id);
        if is_new && peers.len() >= PEERS_MAX {
            return false;
        }
        let peer = peers.entry(server.id.clone()).or_default();
        (peer.sequence, peer.heard_nanos) = (peer.sequence.max(server.seq), now_nanos);
        is_new
    }

    /// Notes connections of an account; the sum over all servers.
    fn count(&self, server: &str, account: &str, connections: u32) -> u32 {
        let mut peers = self.0.lock();
        if let Some(peer) = peers.get_mut(server) {
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

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl System {
    /// Servers that are known besides this one.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn listen_to_peers(self: &Arc<Self>) {
        self.listen("$SYS.SERVER.*.STATSZ", false, |system, received| system.hear(received));
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

    fn hear(&self, received: &Received<'_>) {
        let Ok(statistics) = serde_json::from_slice::<PeerStatistics>(received.payload) else { return };
        let server = statistics.server;
        // an answer without a server says nothing, and the server's own name is not news
        if server.id.is_empty() || server.id == self.server_id {
            return;
        }
        let is_new = self.peers.hear(&server, received.now_nanos);
        for id in self.peers.silent(received.now_nanos) {
            self.forget(&id);
        }
        if is_new && let Some(shared) = self.shared.upgrade() {
            // so that it knows of this one too
            self.broadcast_statistics(&shared, received.now_nanos);
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
        self.peers.hear(&told.server, received.now_nanos);
        let connections = (told.client_connections + told.leafnode_connections).min(u32::MAX as usize) as u32;
        let remote = self.peers.count(&told.server.id, &told.account, connections);
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

    fn server(id: &str) -> ServerInfo {
        ServerInfo { id: id.into(), ..ServerInfo::default() }
    }

    #[test]
    fn connections_of_an_account_are_summed_over_servers_until_they_leave() {
        let peers = Peers::default();
        assert!(peers.hear(&server("B"), 1));
        assert!(peers.hear(&server("C"), 1));
        assert!(!peers.hear(&server("B"), 2));
        assert_eq!(peers.count("B", "A", 3), 3);
        assert_eq!(peers.count("C", "A", 4), 7);
        assert_eq!(peers.count("B", "A", 1), 5);
        assert_eq!(peers.count("unknown", "A", 9), 5);
        assert_eq!(peers.forget("C"), [("A".to_owned(), 1)]);
        assert_eq!(peers.count("B", "A", 0), 0);
        assert_eq!(peers.forget("B"), []);
    }

    #[test]
    fn a_server_that_keeps_silent_is_gone_after_fifty_seconds() {
        let peers = Peers::default();
        peers.hear(&server("B"), 1);
        assert!(peers.silent(SILENCE_MAX.as_nanos() as u64).is_empty());
        assert_eq!(peers.silent(SILENCE_MAX.as_nanos() as u64 + 2), ["B"]);
    }
}
