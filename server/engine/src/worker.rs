//! One thread's share of the broker.

use crate::hub::Hub;
use crate::input::{Input, Unfinished};
use crate::route::{Route, RouteOpening};
use broker::link::{About, FLAG_ASYNC_INFO};
use broker::mailbox::Command;
use broker::{Account, Broker, CloseReason, Link, LinkKind, Router, Transport};
use client::{Answer, Client, Context, Failure, Leaving, Policy, Question};
use std::collections::VecDeque;
use std::sync::Arc;
use wire::client::Step;

/// What the configuration says to a worker; replaced as a whole on reload.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// For client connections.
    pub client: Policy,
}

/// Which clients are asked again who they are when the configuration changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// All.
    All,
    /// Those of these accounts: their tokens changed.
    Accounts(Vec<String>),
    /// Nobody: accounts came, and none changed.
    Nobody,
}

/// A connection that the driver accepted or opened.
pub struct Accepted {
    /// Kind of peer.
    pub kind: LinkKind,
    /// Its number on this server.
    pub id: u64,
    /// Where its bytes go.
    pub transport: Box<dyn Transport>,
    /// What is known of it.
    pub about: About,
    /// The server's first bytes, `INFO …`.
    pub greeting: Vec<u8>,
    /// The challenge in them, empty without one.
    pub nonce: String,
    /// How it came to be, when it is a route.
    pub route: Option<RouteOpening>,
}

impl Accepted {
    /// A client, without a challenge in its greeting.
    pub fn client(id: u64, transport: Box<dyn Transport>, about: About, greeting: Vec<u8>) -> Accepted {
        Accepted { kind: LinkKind::Client, id, transport, about, greeting, nonce: String::new(), route: None }
    }
}

/// What a link is to the worker after bytes were handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Go on reading.
    Open,
    /// A receiver is congested: do not read until a `Resume` comes or time ran out.
    Paused,
    /// It is over: take it out of the event loop and drop it.
    Closed(CloseReason),
}

/// The protocol of a connection.
enum Session {
    Client(Box<Client>),
    Route(Box<Route>),
}

struct Entry {
    link: Arc<Link>,
    session: Session,
    unfinished: Unfinished,
    /// Its last read took all the room there was.
    filled: bool,
    /// When it was paused; 0 while it is not.
    paused_nanos: u64,
    /// When its output was first seen stuck; 0 while it is not.
    stuck_nanos: u64,
    /// What its output had drained then.
    drained_bytes: u64,
}

/// The connections of one thread.
pub struct Worker {
    number: usize,
    router: Router,
    input: Input,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    live: usize,
    paused: Vec<u32>,
    /// Clients who are gone, with subscriptions that are not.
    leaving: VecDeque<Leaving>,
    settings: Arc<Settings>,
    /// The account of clients that do not authenticate.
    account: Arc<Account>,
    hub: Option<Arc<Hub>>,
    info: Arc<wire::info::Info>,
    questions: Vec<Question>,
    logins: Vec<Arc<Link>>,
    reply: Vec<u8>,
    now_nanos: u64,
    /// Where the slow walk over all links stands.
    cursor: usize,
}

impl Worker {
    /// Worker number `number` of `broker`.
    pub fn new(number: usize, broker: Arc<Broker>, settings: Arc<Settings>, seed: u64) -> Worker {
        let mut router = Router::new(broker.clone(), seed);
        router.set_lines(settings.client.lines);
        Worker {
            account: broker.account(broker::registry::GLOBAL_ACCOUNT),
            hub: None,
            info: Arc::default(),
            questions: Vec::new(),
            logins: Vec::new(),
            number,
            router,
            input: Input::new(),
            entries: Vec::new(),
            free: Vec::new(),
            live: 0,
            paused: Vec::new(),
            leaving: VecDeque::new(),
            settings,
            reply: Vec::new(),
            now_nanos: 0,
            cursor: 0,
        }
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The slot that the next connection will get: the driver registers its socket under it.
    pub fn next_token(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.entries.len() as u32)
    }

    /// Takes a connection in under [`next_token`](Self::next_token) and greets it. `None`: a route that is not
    /// wanted any more.
    pub fn accept(&mut self, accepted: Accepted, now_nanos: u64) -> Option<Arc<Link>> {
        let token = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32 - 1
        });
        let broker = self.router.broker().clone();
        let link =
            broker.open(accepted.kind, self.number, token, accepted.id, accepted.transport, accepted.about);
        let session = match accepted.route {
            None => {
                let (account, policy) = (self.account.clone(), &self.settings.client);
                let client =
                    Client::new(link.clone(), account, accepted.nonce, &mut self.router, policy, now_nanos);
                Some(Session::Client(Box::new(client)))
            }
            Some(opening) => {
                let route =
                    self.hub.clone().and_then(|hub| Route::open(link.clone(), hub, opening, now_nanos));
                route.map(|route| Session::Route(Box::new(route)))
            }
        };
        let Some(session) = session else {
            link.close(CloseReason::DuplicateRoute);
            broker.forget(&link);
            self.free.push(token);
            return None;
        };
        self.router.deliver_protocol(&link, &accepted.greeting);
        self.entries[token as usize] = Some(Entry {
            link: link.clone(),
            session,
            unfinished: Unfinished::default(),
            filled: false,
            paused_nanos: 0,
            stuck_nanos: 0,
            drained_bytes: 0,
        });
        self.live += 1;
        Some(link)
    }

    /// Makes this worker one of a cluster.
    pub fn join(&mut self, hub: Arc<Hub>) {
        self.hub = Some(hub);
    }

    fn entry(&mut self, token: u32) -> Option<&mut Entry> {
        self.entries.get_mut(token as usize).and_then(Option::as_mut)
    }

    /// The connection in a slot.
    pub fn link(&self, token: u32) -> Option<&Arc<Link>> {
        self.entries.get(token as usize).and_then(Option::as_ref).map(|entry| &entry.link)
    }

    /// Room for the next read of a connection; `None` when the slot is empty.
    pub fn room(&mut self, token: u32) -> Option<&mut [u8]> {
        let entry = self.entries.get_mut(token as usize)?.as_mut()?;
        Some(self.input.room(&mut entry.unfinished))
    }

    /// Handles `read` new bytes in the [`room`](Self::room). `filled`: they took all of it. `busy`: other
    /// connections wait in this round.
    pub fn received(
        &mut self,
        token: u32,
        read: usize,
        filled: bool,
        busy: bool,
        now_nanos: u64,
    ) -> Progress {
        let Some(entry) = self.entries.get_mut(token as usize).and_then(Option::as_mut) else {
            return Progress::Closed(CloseReason::ClientClosed);
        };
        let (buffer, end) = self.input.take(&mut entry.unfinished, read);
        self.now_nanos = now_nanos;
        // a bulk publisher: its next bytes are there, or were until just now
        let bulk = filled || entry.filled;
        entry.filled = filled;
        self.router.begin(now_nanos, bulk, busy);
        let (used, need, result) = match &mut entry.session {
            Session::Client(client) => {
                let mut context = Context {
                    router: &mut self.router,
                    policy: &self.settings.client,
                    info: &self.info,
                    questions: &mut self.questions,
                    logins: &mut self.logins,
                    now_nanos,
                    reply: &mut self.reply,
                };
                let outcome = run(client, &buffer, end, &mut context);
                client.settle(&buffer, &mut context);
                client.publish_counters(now_nanos);
                outcome
            }
            Session::Route(route) => {
                let outcome = route.run(&buffer, end, &mut self.router, now_nanos);
                self.router.finish(&entry.link, &buffer);
                route.publish_counters(now_nanos);
                outcome
            }
        };
        self.input.keep(&mut entry.unfinished, buffer, used, end, need);
        let link = entry.link.clone();
        self.router.deliver_protocol(&link, &self.reply);
        self.reply.clear();
        if let Err(Failure(reason)) = result {
            self.router.flush_link(&link);
            return self.close(token, reason);
        }
        if let Some(reason) = link.close_reason() {
            return self.close(token, reason);
        }
        if matches!(&entry_of(&mut self.entries, token).session, Session::Client(client) if client.is_waiting())
        {
            return Progress::Paused;
        }
        if link.is_paused() {
            entry_of(&mut self.entries, token).paused_nanos = now_nanos;
            self.paused.push(token);
            return Progress::Paused;
        }
        Progress::Open
    }

    /// Questions to be answered in another thread; the answers come back by [`answered`](Self::answered).
    pub fn questions(&mut self) -> &mut Vec<Question> {
        &mut self.questions
    }

    /// Clients that were let in since they were last taken from here, for whoever tells of them.
    pub fn logins(&mut self) -> &mut Vec<Arc<Link>> {
        &mut self.logins
    }

    /// Somebody is let in, or turned away. Returns the slot of a connection that the driver must read again or
    /// drop.
    pub fn answered(&mut self, answer: Answer, now_nanos: u64) -> Option<(u32, Progress)> {
        let link = answer.link.clone();
        let token = link.token;
        let entry = self.entries.get_mut(token as usize)?.as_mut()?;
        if entry.link.id != link.id {
            return None;
        }
        let Session::Client(client) = &mut entry.session else { return None };
        let mut context = Context {
            router: &mut self.router,
            policy: &self.settings.client,
            info: &self.info,
            questions: &mut self.questions,
            logins: &mut self.logins,
            now_nanos,
            reply: &mut self.reply,
        };
        let asked_at_login = client.is_waiting();
        let result = match asked_at_login {
            true => client.admit(answer, &mut context),
            false => client.recheck(answer, &mut context),
        };
        self.router.deliver_protocol(&link, &self.reply);
        self.reply.clear();
        if let Err(Failure(reason)) = result {
            self.router.flush_link(&link);
            return Some((token, self.close(token, reason)));
        }
        if !asked_at_login {
            return None;
        }
        // what came behind CONNECT was kept
        self.room(token);
        Some((token, self.received(token, 0, false, false, now_nanos)))
    }

    /// The transport of a connection can take bytes again.
    pub fn writable(&mut self, token: u32) {
        if let Some(link) = self.link(token).cloned() {
            self.router.writable(&link);
        }
    }

    /// Writes what was put off. `all`: also what waits for its turn, as [`flush_waiting`](Self::flush_waiting) gives
    /// it; one or the other always before the driver sleeps.
    pub fn flush(&mut self, all: bool) {
        self.router.flush(all);
    }

    /// Writes what waits for its turn, behind so many reads since the last call, and removes a part of what clients
    /// who are gone had subscribed to. Returns whether more waits: then the driver looks for something to read and
    /// calls again.
    pub fn flush_waiting(&mut self, reads: usize) -> bool {
        if let Some(leaving) = self.leaving.front_mut() {
            if leaving.go_on(&mut self.router) {
                self.router.broker().forget(leaving.link());
                self.leaving.pop_front();
                if self.leaving.is_empty() {
                    self.leaving = VecDeque::new();
                }
            }
            // other servers hear of it
            self.router.flush(false);
        }
        self.router.flush_waiting(reads) || !self.leaving.is_empty()
    }

    /// Ends a connection: its subscriptions go, its slot is free. The driver drops its socket.
    pub fn close(&mut self, token: u32, reason: CloseReason) -> Progress {
        let Some(mut entry) = self.entries.get_mut(token as usize).and_then(Option::take) else {
            return Progress::Closed(reason);
        };
        entry.link.close(reason);
        match &mut entry.session {
            Session::Client(client) => {
                let mut leaving = client.close();
                match leaving.go_on(&mut self.router) {
                    true => self.router.broker().forget(&entry.link),
                    false => self.leaving.push_back(leaving),
                }
            }
            Session::Route(route) => {
                route.close(&mut self.router, self.now_nanos);
                self.router.broker().forget(&entry.link);
            }
        }
        self.free.push(token);
        self.live -= 1;
        Progress::Closed(entry.link.close_reason().unwrap_or(reason))
    }

    /// Does what a command says. Returns the slot of a connection that the driver must read again or drop.
    pub fn command(&mut self, command: Command) -> Option<(u32, Progress)> {
        match command {
            Command::Resume(link) => {
                let entry = self.entry(link.token).filter(|entry| entry.link.id == link.id)?;
                entry.paused_nanos = 0;
                Some((link.token, Progress::Open))
            }
            Command::Ended { link, subscription } => {
                let entry = self.entries.get_mut(link.token as usize)?.as_mut();
                let entry = entry.filter(|entry| entry.link.id == link.id)?;
                if let Session::Client(client) = &mut entry.session {
                    client.end_spent(subscription, &mut self.router);
                }
                None
            }
            Command::Writable(token) => {
                self.writable(token);
                None
            }
            Command::Other(_) => None,
        }
    }

    /// Connections that were paused for long enough and may go on although their receivers are still congested.
    pub fn overdue(&mut self, now_nanos: u64, out: &mut Vec<u32>) {
        let entries = &mut self.entries;
        self.paused.retain(|token| {
            let Some(entry) = entries[*token as usize].as_mut().filter(|entry| entry.paused_nanos > 0) else {
                return false;
            };
            if now_nanos.saturating_sub(entry.paused_nanos) < broker::output::STALL_NANOS_MAX {
                return true;
            }
            entry.paused_nanos = 0;
            entry.link.resume();
            out.push(*token);
            false
        });
    }

    /// How long a client may be silent before it is sent a PING, in nanoseconds.
    pub fn ping_interval_nanos(&self) -> u64 {
        self.settings.client.ping_interval_nanos
    }

    /// Whether any connection is paused: time must then be looked at often.
    pub fn has_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Looks at up to `count` connections for what time asks of them; call it so that all are seen about once a
    /// second. Slots to be dropped are appended to `closed`.
    pub fn tick(&mut self, now_nanos: u64, count: usize, closed: &mut Vec<(u32, CloseReason)>) {
        self.now_nanos = now_nanos;
        self.router.begin(now_nanos, false, false);
        self.router.sweep();
        if self.live == 0 {
            // a worker without connections keeps no buffers
            self.input = Input::new();
            self.router.release_scratch();
        }
        for _ in 0..count.min(self.entries.len()) {
            if self.cursor >= self.entries.len() {
                self.cursor = 0;
            }
            let token = self.cursor as u32;
            self.cursor += 1;
            if let Some(reason) = self.look_at(token, now_nanos) {
                closed.push((token, reason));
                self.close(token, reason);
            }
        }
    }

    fn look_at(&mut self, token: u32, now_nanos: u64) -> Option<CloseReason> {
        let entry = self.entries.get_mut(token as usize)?.as_mut()?;
        if let Some(reason) = entry.link.close_reason() {
            return Some(reason);
        }
        let output = &entry.link.output;
        let drained_bytes = output.drained_bytes();
        if output.pending_bytes() == 0 || !output.is_blocked() {
            entry.stuck_nanos = 0;
        } else if entry.stuck_nanos == 0 || entry.drained_bytes != drained_bytes {
            // a reader that is slower than its publishers is blocked at every look, and not stuck
            (entry.stuck_nanos, entry.drained_bytes) = (now_nanos, drained_bytes);
        } else if now_nanos - entry.stuck_nanos > self.settings.client.write_deadline_nanos {
            self.router.broker().count_slow_consumer(entry.link.kind);
            return Some(CloseReason::SlowConsumerWriteDeadline);
        }
        let result = match &mut entry.session {
            Session::Route(route) => route.tick(now_nanos),
            Session::Client(client) => {
                let mut context = Context {
                    router: &mut self.router,
                    policy: &self.settings.client,
                    info: &self.info,
                    questions: &mut self.questions,
                    logins: &mut self.logins,
                    now_nanos,
                    reply: &mut self.reply,
                };
                client.tick(&mut context)
            }
        };
        let link = entry.link.clone();
        if !self.reply.is_empty() {
            self.router.deliver_protocol(&link, &self.reply);
            self.reply.clear();
        }
        result.err().map(|Failure(reason)| reason)
    }

    /// Tells every client that understands it what changed: addresses of the cluster, lame duck mode.
    pub fn inform(&mut self, info: Arc<wire::info::Info>) {
        let mut line = Vec::new();
        for entry in self.entries.iter().flatten() {
            if entry.link.has(FLAG_ASYNC_INFO) {
                line.clear();
                client_info(&info, &entry.link).encode(&mut line);
                self.router.push_protocol(&entry.link, &line);
            }
        }
        self.info = info;
    }

    /// Tells one client an INFO of its own.
    pub fn inform_one(&mut self, link: &Arc<Link>, info: &wire::info::Info) {
        let mut line = Vec::new();
        client_info(info, link).encode(&mut line);
        self.router.push_protocol(link, &line);
    }

    /// Tells one client why it must go and ends its connection; `None` when it is gone already.
    pub fn dismiss(&mut self, link: &Arc<Link>, text: &str, reason: CloseReason) -> Option<Progress> {
        self.entry(link.token).filter(|entry| entry.link.id == link.id)?;
        self.router.deliver_protocol(link, format!("-ERR '{text}'\r\n").as_bytes());
        Some(self.close(link.token, reason))
    }

    /// Slots of all connections of a kind.
    pub fn tokens(&self, kind: LinkKind) -> Vec<u32> {
        let of_kind = self.entries.iter().flatten().filter(|entry| entry.link.kind == kind);
        of_kind.map(|entry| entry.link.token).collect()
    }

    /// The configuration changed.
    ///
    /// Clients that would not be let in any more are closed: their slots are returned.
    pub fn reconfigure(
        &mut self,
        settings: Arc<Settings>,
        recheck: &Recheck,
        now_nanos: u64,
    ) -> Vec<(u32, CloseReason)> {
        self.router.set_lines(settings.client.lines);
        self.settings = settings;
        let mut closed = Vec::new();
        for token in 0..self.entries.len() as u32 {
            let Some(Some(entry)) = self.entries.get_mut(token as usize) else { continue };
            let Session::Client(client) = &mut entry.session else { continue };
            let concerned = match recheck {
                Recheck::All => true,
                Recheck::Accounts(names) => names.iter().any(|name| **name == *client.account().name),
                Recheck::Nobody => false,
            };
            if !concerned {
                continue;
            }
            let mut context = Context {
                router: &mut self.router,
                policy: &self.settings.client,
                info: &self.info,
                questions: &mut self.questions,
                logins: &mut self.logins,
                now_nanos,
                reply: &mut self.reply,
            };
            let result = client.reauthenticate(*recheck == Recheck::All, &mut context);
            let link = entry.link.clone();
            self.router.deliver_protocol(&link, &self.reply);
            self.reply.clear();
            if let Err(Failure(reason)) = result {
                self.router.flush_link(&link);
                self.close(token, reason);
                closed.push((token, reason));
            }
        }
        closed
    }
}

/// `info` as one client is told it.
fn client_info(info: &wire::info::Info, link: &Link) -> wire::info::Info {
    let client_ip = link.about.lock().ip.clone();
    wire::info::Info { client_id: link.id, client_ip, ..info.clone() }
}

fn entry_of(entries: &mut [Option<Entry>], token: u32) -> &mut Entry {
    entries[token as usize].as_mut().expect("the entry was just used")
}

/// Parses and handles all whole operations: bytes used, bytes that the next one needs, and how it ended.
fn run(
    session: &mut Client,
    buffer: &[u8],
    end: usize,
    context: &mut Context<'_>,
) -> (usize, usize, Result<(), Failure>) {
    let data = &buffer[..end];
    let limits = context.policy.limits;
    let mut at = 0;
    loop {
        at = session.publish_run(buffer, at, end, context);
        if at >= end {
            break;
        }
        match wire::client::parse(data, at, &limits) {
            Ok(Step::Op(op, used)) => {
                context.router.log_received(session.link(), &data[at..at + used]);
                if let Err(failure) = session.handle(op, buffer, context) {
                    return (end, 0, Err(failure));
                }
                at += used;
                if session.is_waiting() {
                    return (at, 0, Ok(()));
                }
            }
            Ok(Step::More(need)) => return (at, need, Ok(())),
            Err(error) => {
                session.settle(buffer, context);
                return (end, 0, Err(session.refuse(error, data.get(at), context.reply)));
            }
        }
    }
    (at, 0, Ok(()))
}
