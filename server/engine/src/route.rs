//! A route's session: the pure conversation of `cluster`, joined to the broker.
//!
//! Owns what one peer said it wants, and the accounts that its lines name. Messages and interest go straight to
//! the broker; everything else is the conversation's, under the hub's lock.

use crate::hub::Hub;
use broker::account::RemoteInterest;
use broker::{Account, CloseReason, Link, LinkKind, Router, ScopeId, Tracing, Verdict};
use client::Failure;
use cluster::{ConnectionId, DialId, Handled, RouteConversation};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use wire::route::{Interest, Limits, Message, Op, Step};

/// How a route connection came to be.
#[derive(Clone, Copy, Debug)]
pub enum RouteOpening {
    /// A peer connected.
    Accepted {
        /// Its address.
        remote: SocketAddr,
    },
    /// This server connected, as the mesh asked.
    Dialed {
        /// The mesh's number for the attempt.
        dial: DialId,
    },
}

/// One route connection.
pub struct Route {
    link: Arc<Link>,
    hub: Arc<Hub>,
    conversation: RouteConversation,
    interest: RemoteInterest,
    /// What it said on behalf of leaf nodes, by their cluster: taken back on its own.
    leaf_interest: HashMap<Box<[u8]>, RemoteInterest>,
    /// Accounts by the name that lines bear; empty on a connection of one account.
    accounts: HashMap<Box<[u8]>, (Arc<Account>, ScopeId)>,
    messages: u64,
    bytes: u64,
}

impl Route {
    /// Begins the conversation; `None` when the mesh does not want the connection any more.
    pub fn open(link: Arc<Link>, hub: Arc<Hub>, opening: RouteOpening, now_nanos: u64) -> Option<Route> {
        let now = Duration::from_nanos(now_nanos);
        let connection = ConnectionId(link.id);
        hub.add(&link);
        let conversation = hub.with(|mesh| match opening {
            RouteOpening::Accepted { remote } => {
                Some(RouteConversation::accepted(mesh, connection, remote, None, now))
            }
            RouteOpening::Dialed { dial } => RouteConversation::dialed(mesh, dial, connection, now),
        });
        let Some(conversation) = conversation else {
            hub.remove(&link, now);
            return None;
        };
        let (interest, leaf_interest, accounts) = (RemoteInterest::new(), HashMap::new(), HashMap::new());
        Some(Route { link, hub, conversation, interest, leaf_interest, accounts, messages: 0, bytes: 0 })
    }

    /// Parses and handles all whole operations: bytes used, bytes that the next one needs, and how it ended.
    pub fn run(
        &mut self,
        buffer: &[u8],
        end: usize,
        router: &mut Router,
        now_nanos: u64,
    ) -> (usize, usize, Result<(), Failure>) {
        let data = &buffer[..end];
        let limits = Limits::default();
        let mut at = 0;
        while at < end {
            let step = match wire::route::parse(data, at, &limits, self.conversation.shape()) {
                Ok(step) => step,
                Err(error) => {
                    let now = Duration::from_nanos(now_nanos);
                    self.hub.with(|mesh| self.conversation.handle_parse_error(error, mesh, now));
                    return (end, 0, Err(self.failure(CloseReason::ParseError)));
                }
            };
            let (op, used) = match step {
                Step::Op(op, used) => (op, used),
                Step::More(need) => return (at, need, Ok(())),
            };
            router.log_received(&self.link, &data[at..at + used]);
            match op {
                Op::Message(message) if self.conversation.is_open() => {
                    self.message(&message, data, buffer, router)
                }
                Op::Subscribe(interest) if self.conversation.is_open() => {
                    router.finish(&self.link, buffer);
                    self.subscribe(&interest, router);
                }
                Op::Unsubscribe(interest) if self.conversation.is_open() => {
                    router.finish(&self.link, buffer);
                    self.unsubscribe(&interest, router);
                }
                other => {
                    router.finish(&self.link, buffer);
                    let now = Duration::from_nanos(now_nanos);
                    let handled = self.hub.with(|mesh| self.conversation.handle(other, mesh, now));
                    debug_assert_eq!(handled, Handled::Done);
                    if self.conversation.is_compressed_from_here() {
                        self.link.transport.unread(data.get(at + used..).unwrap_or_default());
                        return (end, 0, Ok(()));
                    }
                    if let Some(rtt) = self.conversation.round_trip() {
                        self.link.rtt_nanos.store(rtt.as_nanos() as u64, Relaxed);
                    }
                    if let Some(reason) = self.link.close_reason() {
                        return (end, 0, Err(Failure(reason)));
                    }
                }
            }
            at += used;
        }
        (at, 0, Ok(()))
    }

    fn failure(&self, otherwise: CloseReason) -> Failure {
        Failure(self.link.close_reason().unwrap_or(otherwise))
    }

    /// The account that a line names, or that the connection is for.
    fn account(&mut self, name: &[u8], router: &mut Router) -> Option<(Arc<Account>, ScopeId)> {
        if let Some((account, scope)) = self.accounts.get(name) {
            return Some((account.clone(), *scope));
        }
        let text = match name {
            [] => self.link.about.lock().account.clone(),
            name => std::str::from_utf8(name).ok()?.to_owned(),
        };
        if text.is_empty() {
            return None;
        }
        let account = router.broker().clone().account(&text);
        let scope = router.scope(&account, LinkKind::Route, None);
        self.accounts.insert(name.into(), (account.clone(), scope));
        Some((account, scope))
    }

    fn message(&mut self, message: &Message, data: &[u8], buffer: &[u8], router: &mut Router) {
        self.messages += 1;
        self.bytes += message.publish.body_len() as u64;
        let Some(name) = data.get(message.account_range()) else { return };
        if let Some((_, scope)) = self.account(name, router) {
            let link = self.link.clone();
            let publish = &message.publish;
            let mut is_traced = false;
            if publish.header_len > 0 && Router::may_trace(buffer, publish) {
                router.finish(&link, buffer);
                match router.begin_trace(&link, scope, buffer, publish) {
                    Tracing::Begun => is_traced = true,
                    Tracing::No | Tracing::Instead(_) => {}
                    Tracing::Skip | Tracing::Refused(_) => return,
                }
            }
            let verdict = router.publish_routed(scope, buffer, publish, message.queues(data));
            if verdict == Verdict::Detour {
                router.detour(&link, buffer, publish);
            } else if is_traced {
                router.finish_traced(&link, scope, buffer, publish);
            }
            if is_traced {
                router.end_trace("");
            }
        }
    }

    fn subscribe(&mut self, interest: &Interest<'_>, router: &mut Router) {
        if !subject::is_valid(interest.subject) || !self.hub.may_take(interest.subject) {
            return;
        }
        if let Some((account, _)) = self.account(interest.account.unwrap_or_default(), router) {
            let link = self.link.clone();
            let known = self.known(interest);
            account.remote_subscribe(&link, known, interest.subject, interest.queue, interest.weight);
        }
    }

    fn known(&mut self, interest: &Interest<'_>) -> &mut RemoteInterest {
        match (interest.leaf, interest.origin) {
            (false, _) => &mut self.interest,
            (true, origin) => self.leaf_interest.entry(origin.unwrap_or_default().into()).or_default(),
        }
    }

    fn unsubscribe(&mut self, interest: &Interest<'_>, router: &mut Router) {
        if let Some((account, _)) = self.account(interest.account.unwrap_or_default(), router) {
            let link = self.link.clone();
            account.remote_unsubscribe(&link, self.known(interest), interest.subject, interest.queue);
        }
    }

    /// Shows the counters of the last read.
    pub fn publish_counters(&mut self, now_nanos: u64) {
        if self.messages > 0 {
            self.link.received.messages.fetch_add(self.messages, Relaxed);
            self.link.received.bytes.fetch_add(self.bytes, Relaxed);
            self.link.active_nanos.store(now_nanos, Relaxed);
            (self.messages, self.bytes) = (0, 0);
        }
    }

    /// What the passing of time asks for.
    ///
    /// # Errors
    /// [`Failure`]: the peer is silent.
    pub fn tick(&mut self, now_nanos: u64) -> Result<(), Failure> {
        let now = Duration::from_nanos(now_nanos);
        if self.conversation.next_timeout().is_some_and(|at| now >= at) {
            self.hub.with(|mesh| self.conversation.handle_timeout(mesh, now));
        }
        match self.link.close_reason() {
            Some(reason) => Err(Failure(reason)),
            None => Ok(()),
        }
    }

    /// The connection is over: its interest goes, the mesh hears of it.
    pub fn close(&mut self, router: &mut Router, now_nanos: u64) {
        let broker = router.broker().clone();
        broker.remove_route(&self.link, router.dirty());
        self.hub.remove(&self.link, Duration::from_nanos(now_nanos));
    }
}
