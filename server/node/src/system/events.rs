//! What the server tells by itself: clients that come, go or are refused, its numbers, its end.

use super::{System, account_of, later};
use crate::shared::Shared;
use crate::snapshot;
use crate::worker_thread::now_nanos;
use broker::registry::GLOBAL_ACCOUNT;
use broker::{CloseReason, Link};
use engine::Received;
use monitor::Source;
use monitor::accountz::AccountStatistics;
use monitor::events::{
    ACCOUNT_CONNECTIONS_INTERVAL, AccountConnections, AccountConnectionsRequest, CertificateInfo, Connect,
    Disconnect, OcspLinkInvalid, OcspPeerRejected, Statistics, subjects,
};
use monitor::source::Connection;
use ocsp::Certificate;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl System {
    /// A client has logged in. Any thread.
    pub fn handle_login(self: &Arc<Self>, link: &Arc<Link>) {
        let (system, link) = (self.clone(), link.clone());
        let account = account_of(&link);
        let tell = self.has_listeners(&subjects::connect(&account));
        if !tell && !self.counts(&account) {
            return;
        }
        self.client.internal().at(0, move |_| {
            let Some(shared) = system.shared.upgrade() else { return };
            system.track(&shared, &account);
            system.tell_connections(&shared, &account);
            if tell {
                let (server, id) = (system.stamp(&shared), system.next_id());
                let mut connection = connection(&link);
                connection.account_tag = shared.account_tag(&account);
                let event = Connect::new(server, id, shared.now(), &connection);
                system.tell(&subjects::connect(&account), &event);
            }
        });
    }

    /// A client has gone. Any thread.
    pub fn handle_closed(self: &Arc<Self>, link: &Arc<Link>, reason: CloseReason) {
        let account = account_of(link);
        let gone = subjects::disconnect(&account);
        let refused = subjects::auth_error(&self.server_id);
        let tell_gone = self.has_listeners(&gone);
        let tell_refused = reason == CloseReason::AuthenticationViolation && self.has_listeners(&refused);
        if !tell_gone && !tell_refused && !self.counts(&account) {
            return;
        }
        let system = self.clone();
        let mut connection = connection(link);
        self.client.internal().at(0, move |_| {
            let Some(shared) = system.shared.upgrade() else { return };
            connection.account_tag = shared.account_tag(&account);
            let event = |subject: &str| {
                let (server, id) = (system.stamp(&shared), system.next_id());
                let event = Disconnect::new(server, id, shared.now(), &connection, reason);
                system.tell(subject, &event);
            };
            system.tell_connections(&shared, &account);
            if tell_refused {
                event(&refused);
            }
            if tell_gone {
                event(&gone);
            }
        });
    }

    /// Whether connections of the account are told to other servers. Those of the global account never are.
    fn counts(&self, account: &str) -> bool {
        account != GLOBAL_ACCOUNT
            && subjects::account_connections(account).iter().any(|subject| self.has_listeners(subject))
    }

    /// From the first connection of an account here on: asks the other servers for theirs.
    pub(super) fn track(self: &Arc<Self>, shared: &Shared, account: &str) {
        if account == GLOBAL_ACCOUNT || !self.tracked.lock().insert(account.to_owned()) {
            return;
        }
        let request = AccountConnectionsRequest { server: self.stamp(shared), account: account.to_owned() };
        if let Ok(payload) = serde_json::to_vec(&request) {
            let reply = format!("$SYS._INBOX_.{}", self.server_id);
            self.client.publish(&format!("$SYS.REQ.ACCOUNT.{account}.CONNS"), &reply, &[], &payload);
        }
        self.begin_heartbeat(account.to_owned());
    }

    /// Repeats the numbers of an account while it has connections here.
    fn begin_heartbeat(self: &Arc<Self>, account: String) {
        let system = self.clone();
        self.client.internal().at(later(ACCOUNT_CONNECTIONS_INTERVAL), move |_| {
            let Some(shared) = system.shared.upgrade() else { return };
            let here = shared.broker.find_account(&account);
            if here.is_none_or(|here| here.connections.load(Relaxed) == 0) {
                system.tracked.lock().remove(&account);
                return;
            }
            system.tell_connections(&shared, &account);
            system.begin_heartbeat(account);
        });
    }

    pub(super) fn tell_connections(&self, shared: &Shared, account: &str) {
        if !self.counts(account) {
            return;
        }
        let subjects = subjects::account_connections(account);
        for subject in &subjects {
            if self.has_listeners(subject) {
                self.tell_connections_to(shared, account, subject);
            }
        }
    }

    fn tell_connections_to(&self, shared: &Shared, account: &str, subject: &str) {
        let statistics = shared.account_statistics_of(account).unwrap_or_else(|| AccountStatistics {
            account: account.to_owned(),
            ..AccountStatistics::default()
        });
        let (server, id) = (self.stamp(shared), self.next_id());
        self.tell(subject, &AccountConnections::new(server, id, shared.now(), &statistics));
    }

    /// Another server asks how many connections an account has here.
    pub(super) fn answer_connections(&self, shared: &Shared, account: &str, received: &Received<'_>) {
        let asked = match received.payload {
            [] => account.to_owned(),
            payload => match serde_json::from_slice::<AccountConnectionsRequest>(payload) {
                Ok(request) => request.account,
                Err(_) => return,
            },
        };
        let here = shared.broker.find_account(account);
        let has_connections = here.is_some_and(|here| here.connections.load(Relaxed) > 0);
        if asked == account && has_connections && !received.reply.is_empty() {
            self.tell_connections_to(shared, account, received.reply);
        }
    }

    /// Numbers are told soon after the start and then ever more seldom.
    pub(super) fn begin_broadcasts(self: &Arc<Self>) {
        let first = self.pace.lock().schedule.first();
        self.broadcast_in(first);
    }

    fn broadcast_in(self: &Arc<Self>, wait: Duration) {
        let system = self.clone();
        self.client.internal().at(later(wait), move |now_nanos| {
            let Some(shared) = system.shared.upgrade() else { return };
            system.forget_silent_peers(now_nanos);
            system.broadcast_statistics(&shared, now_nanos);
            let next = system.pace.lock().schedule.advance();
            system.broadcast_in(next);
        });
    }

    /// Tells the numbers of the server, unless they were told a moment ago.
    pub(super) fn broadcast_statistics(&self, shared: &Shared, now_nanos: u64) {
        let subject = subjects::statistics(&self.server_id);
        {
            let mut pace = self.pace.lock();
            let least = pace.schedule.first().min(monitor::statsz::Schedule::INTERVAL_MIN);
            let too_soon = now_nanos.saturating_sub(pace.last_nanos) < least.as_nanos() as u64;
            if too_soon || !self.has_listeners(&subject) {
                return;
            }
            pace.last_nanos = now_nanos;
        }
        let event = Statistics::new(self.stamp(shared), shared.statistics());
        self.tell(&subject, &event);
    }

    /// The server begins to send its clients away.
    pub fn tell_lame_duck(&self) {
        if let Some(shared) = self.shared.upgrade() {
            self.tell(&subjects::lame_duck(&self.server_id), &self.stamp(&shared));
        }
    }

    /// A peer was turned away for what OCSP says of its chain. Any thread.
    pub fn tell_ocsp_rejected(self: &Arc<Self>, kind: &'static str, peer: &Certificate, reason: &str) {
        let subject = subjects::ocsp_peer_rejected(&self.server_id);
        if !self.has_listeners(&subject) {
            return;
        }
        let (system, peer, reason) = (self.clone(), certificate_info(peer), reason.to_owned());
        self.client.internal().at(0, move |_| {
            let Some(shared) = system.shared.upgrade() else { return };
            let (server, id) = (system.stamp(&shared), system.next_id());
            system.tell(&subject, &OcspPeerRejected::new(server, id, shared.now(), kind, peer, reason));
        });
    }

    /// A certificate of a peer's chain is not good. Any thread.
    pub fn tell_ocsp_link_invalid(self: &Arc<Self>, link: &Certificate, peer: &Certificate, reason: &str) {
        let subject = subjects::ocsp_link_invalid(&self.server_id);
        if !self.has_listeners(&subject) {
            return;
        }
        let (system, link, peer) = (self.clone(), certificate_info(link), certificate_info(peer));
        let reason = reason.to_owned();
        self.client.internal().at(0, move |_| {
            let Some(shared) = system.shared.upgrade() else { return };
            let (server, id) = (system.stamp(&shared), system.next_id());
            system.tell(&subject, &OcspLinkInvalid::new(server, id, shared.now(), link, peer, reason));
        });
    }

    /// The server stops.
    pub fn tell_shutdown(&self) {
        if let Some(shared) = self.shared.upgrade() {
            self.tell(&subjects::shutdown(&self.server_id), &self.stamp(&shared));
        }
    }

    pub(super) fn tell(&self, subject: &str, event: &impl Serialize) {
        match serde_json::to_vec(event) {
            Ok(payload) => {
                self.client.publish(subject, "", &[], &payload);
            }
            Err(error) => tracing::error!("cannot write the event {subject}: {error}"),
        }
    }

    /// An id for an event: 22 letters and digits, as nats-server's.
    fn next_id(&self) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let number = self.events.fetch_add(1, Relaxed);
        let seeds = [self.seed, self.seed.rotate_left(32) ^ now_nanos()];
        let mut words = seeds.map(|seed| subject::hash(seed, &number.to_le_bytes()));
        let digit = |place: usize| {
            let word = &mut words[place % 2];
            let digit = DIGITS[(*word % 62) as usize];
            *word /= 62;
            char::from(digit)
        };
        (0..22).map(digit).collect()
    }
}

fn certificate_info(certificate: &Certificate) -> CertificateInfo {
    CertificateInfo {
        subject: certificate.subject_name.clone(),
        issuer: certificate.issuer_name.clone(),
        fingerprint: certificate.fingerprint(),
        raw: data_encoding::BASE64.encode(certificate.der()),
    }
}

fn connection(link: &Link) -> Connection {
    let mut connection = Connection { account: account_of(link), ..snapshot::connection(link) };
    if connection.rtt.is_zero() {
        // what never answered a PING took at least no longer than it was there (nats-server's guess)
        connection.rtt = Duration::from_nanos(now_nanos().saturating_sub(link.about.lock().start_nanos));
    }
    connection
}
