//! The system account: the services that answer in it, and the events that are told there.
//!
//! Owns the server's own client in that account, the numbering of what it sends, and the acts that requests ask
//! for (reload, kick, lame duck of a client). Documents are the `monitor` room's; nothing here is on the path of a
//! message. Everything runs in the thread of the internal clients.

mod events;
mod peers;
mod subscribers;
mod user;

use crate::shared::Shared;
use crate::worker_thread::{InformOne, now_nanos};
use broker::interest::NONE;
use broker::link::FLAG_ASYNC_INFO;
use broker::mailbox::Command;
use broker::{CloseReason, Link, LinkKind};
use engine::{InternalClient, Received};
use monitor::Source;
use monitor::events::ServerInfo;
use monitor::request::{self, Action, ApiError, Call, ClientRequest, Envelope, ServerFilter};
use monitor::statsz::Schedule;
use parking_lot::Mutex;
use peers::Peers;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// The system account of a running server.
pub struct System {
    shared: Weak<Shared>,
    client: InternalClient,
    server_id: String,
    /// Messages sent, for the stamp on each.
    sequence: Arc<AtomicU64>,
    /// Events told, for their ids.
    events: AtomicU64,
    peers: Peers,
    pace: Mutex<Pace>,
    /// Accounts that had a connection here: their peers were asked, their heartbeat runs.
    tracked: Mutex<HashSet<String>>,
    /// A new member is about to be told of this server.
    greets: AtomicBool,
    seed: u64,
}

/// When numbers are broadcast.
#[derive(Default)]
struct Pace {
    schedule: Schedule,
    last_nanos: u64,
}

impl System {
    /// Begins to answer and to tell in `account`.
    pub fn start(shared: &Arc<Shared>, account: &str, seed: u64) -> Arc<System> {
        let system = Arc::new(System {
            shared: Arc::downgrade(shared),
            client: shared.internal.client(account),
            server_id: shared.server_id.clone(),
            sequence: shared.broker.sent.clone(),
            events: AtomicU64::new(0),
            peers: Peers::default(),
            pace: Mutex::default(),
            tracked: Mutex::default(),
            greets: AtomicBool::new(false),
            seed,
        });
        for subject in request::subjects(&system.server_id) {
            // those two are about the requester's own server: others must not hear of the subscription
            let is_local = subject.ends_with(".USER.*.INFO") || subject == "$SYS.DEBUG.SUBSCRIBERS";
            system.listen(&subject, is_local, |system, received| system.handle_request(received));
        }
        system.listen_to_peers();
        system.begin_broadcasts();
        system
    }

    /// Ends all of it; clients of the account stay.
    pub fn stop(&self) {
        self.client.close();
    }

    /// Name of the account.
    pub fn account(&self) -> &str {
        self.client.account()
    }

    fn listen(
        self: &Arc<Self>,
        filter: &str,
        is_local: bool,
        handle: impl Fn(&Arc<System>, &Received<'_>) + Send + Sync + 'static,
    ) {
        let system = self.clone();
        let handler = Arc::new(move |received: &Received<'_>| handle(&system, received));
        match is_local {
            true => self.client.subscribe_here(filter, handler),
            false => self.client.subscribe(filter, None, handler),
        };
    }

    /// Whether anybody but this server itself wants what is published on `subject`.
    fn has_listeners(&self, subject: &str) -> bool {
        let account = self.client.account_state();
        let (subject, own) = (subject.as_bytes(), self.client.link_index());
        account.read(|interest| {
            let (mut filters, mut numbers) = (Vec::new(), Vec::new());
            interest.matches(subject, account.hash(subject), &mut filters, &mut numbers);
            numbers.iter().any(|number| interest.get(*number).link != own)
        })
    }

    fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed) + 1
    }

    /// The stamp of the next message.
    fn stamp(&self, shared: &Shared) -> ServerInfo {
        ServerInfo::new(shared.identity(), self.next_sequence(), shared.now())
    }

    fn handle_request(self: &Arc<Self>, received: &Received<'_>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(call) = Call::parse(received.subject, &self.server_id) else { return };
        match call {
            Call::Act(action) => self.act(&shared, action, received),
            call if received.reply.is_empty() => {
                if call == Call::Server(request::Service::Statsz) && self.picks(&shared, received.payload) {
                    self.broadcast_statistics(&shared, received.now_nanos);
                }
            }
            call => {
                let sequence = self.sequence.load(Relaxed) + 1;
                if let Some(document) = request::answer(&*shared, call, received.payload, sequence) {
                    self.sequence.store(sequence, Relaxed);
                    received.answer(&document);
                }
            }
        }
    }

    fn picks(&self, shared: &Shared, payload: &[u8]) -> bool {
        request::decode::<ServerFilter>(payload).is_ok_and(|filter| filter.picks(&shared.identity()))
    }

    fn act(self: &Arc<Self>, shared: &Arc<Shared>, action: Action<'_>, received: &Received<'_>) {
        match action {
            Action::Reload => self.answer_act(shared, received, |payload| {
                request::decode::<ServerFilter>(payload)?;
                shared.reload_program().map(Some).map_err(ApiError::failed)
            }),
            Action::Kick => self.act_on_client(shared, received, |link| match link {
                Some(link) => {
                    link.close(CloseReason::Kicked);
                    Ok(None)
                }
                None => Err(ApiError::failed("no such client or leafnode id")),
            }),
            Action::LameDuck => self.act_on_client(shared, received, |link| match link {
                Some(link) if link.has(FLAG_ASYNC_INFO) => {
                    let mut info = wire::info::Info::clone(&shared.info());
                    info.lame_duck_mode = true;
                    let (owner, info) = (link.owner.clone(), Arc::new(info));
                    owner.post(Command::Other(Box::new(InformOne(link, info))));
                    Ok(None)
                }
                Some(_) => Err(ApiError::failed(
                    "client does not support Lame Duck Mode or is not ready to receive the notification",
                )),
                None => Err(ApiError::failed("no such client id")),
            }),
            Action::Connections(account) => self.answer_connections(shared, account, received),
            Action::SubscriptionCount => self.answer_subscription_count(shared, received),
            Action::Subscribers => self.answer_subscribers(shared, received),
            Action::UserInfo(_) => self.answer_user(shared, received),
        }
    }

    /// Does `act` if the request is for this server, and answers with what came of it.
    fn answer_act(
        &self,
        shared: &Shared,
        received: &Received<'_>,
        act: impl FnOnce(&[u8]) -> Result<Option<Vec<String>>, ApiError>,
    ) {
        if !self.picks(shared, received.payload) && request::decode::<ServerFilter>(received.payload).is_ok()
        {
            return;
        }
        let (data, error) = match act(received.payload) {
            Ok(changes) => (changes.map(|changes| Some(Done { changes })), None),
            Err(error) => (None, Some(error)),
        };
        let answer = Envelope { server: self.stamp(shared), data, error };
        if let Ok(answer) = serde_json::to_vec(&answer) {
            received.answer(&answer);
        }
    }

    fn act_on_client(
        &self,
        shared: &Shared,
        received: &Received<'_>,
        act: impl FnOnce(Option<Arc<Link>>) -> Result<Option<Vec<String>>, ApiError>,
    ) {
        // what cannot be read gets no answer, as with nats-server
        let Ok(request) = serde_json::from_slice::<ClientRequest>(received.payload) else { return };
        let clients = shared.broker.links().into_iter().filter(|link| link.kind == LinkKind::Client);
        // one that is told to go is gone, though its worker may not have forgotten it yet
        let link = clients.into_iter().find(|link| link.id == request.cid && link.close_reason().is_none());
        self.answer_act(shared, received, |_| act(link));
    }

    /// Local subscriptions of clients that a subject reaches, or that lie within a filter.
    fn count_subscriptions(shared: &Shared, account: &str, subject: &str, queue: Option<&[u8]>) -> u64 {
        let Some(account) = shared.broker.find_account(account) else { return 0 };
        let subject = subject.as_bytes();
        let is_literal = subject::is_literal(subject);
        let mut links = Vec::new();
        account.read(|interest| {
            let mut text = Vec::new();
            interest.each(|_, record| {
                let name = (record.queue != NONE).then(|| interest.queue_name(record.queue));
                if queue.is_some() && queue != name {
                    return;
                }
                text.clear();
                interest.text(record.filter, &mut text);
                let counts = match is_literal {
                    true => subject::matches(subject, &text),
                    false => subject::is_subset(&text, subject),
                };
                if counts {
                    links.push(record.link);
                }
            });
        });
        let is_client = |index: &u32| shared.broker.link(*index).is_some_and(|l| l.kind == LinkKind::Client);
        links.iter().filter(|index| is_client(index)).count() as u64
    }
}

/// What a reload did, in the answer to RELOAD. nats-server's answer has no data.
#[derive(serde::Serialize)]
struct Done {
    changes: Vec<String>,
}

/// A link's account in events: nats-server has everybody in the global account before login.
fn account_of(link: &Link) -> String {
    let about = link.about.lock();
    match about.account.is_empty() {
        true => broker::registry::GLOBAL_ACCOUNT.into(),
        false => about.account.clone(),
    }
}

/// Nanoseconds from now.
fn later(duration: std::time::Duration) -> u64 {
    now_nanos() + duration.as_nanos() as u64
}
