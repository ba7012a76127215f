//! Clients inside the process: who subscribes and publishes in an account without a connection.
//!
//! Owns their links, their handlers by subscription, and the one queue that everything for them waits in. What the
//! broker delivers to them is copied into that queue by whoever publishes, and handled by one [`InternalWorker`],
//! which the driver runs in a thread of its own. Interest of such a client is told to routes like any other.
//!
//! Never touches a worker's hot path: a message that no internal client wants meets nothing of this.

use broker::link::{About, FLAG_HEADERS, FLAG_NO_ECHO};
use broker::{Broker, Link, LinkKind, Router, Transport, Verdict, Wake};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wire::client::{Limits, Op, Step};
use wire::delivery::Found;

/// Bytes of deliveries that may wait for the internal worker; what comes then is dropped and counted.
pub const WAITING_BYTES_MAX: usize = 32 << 20;
/// Slot that no worker has: commands for an internal link reach nobody.
const NO_TOKEN: u32 = u32::MAX;
/// An idle internal worker gives its plans up after this time: they keep the links of receivers.
const PLANS_KEPT_NANOS: u64 = 1_000_000_000;
/// Looks at the queue in one run.
const ROUNDS_MAX: usize = 64;

/// A message that reached a subscription of an internal client.
pub struct Received<'a> {
    /// The client whose subscription it is.
    pub client: &'a InternalClient,
    /// Subject that it was published to.
    pub subject: &'a str,
    /// Reply subject, empty without one.
    pub reply: &'a str,
    /// The header block with its version line and its empty line; empty without headers.
    pub headers: &'a [u8],
    /// Payload behind the headers.
    pub payload: &'a [u8],
    /// Now, in nanoseconds since the Unix epoch.
    pub now_nanos: u64,
}

impl Received<'_> {
    /// Publishes to the reply subject; without one nothing happens.
    pub fn answer(&self, payload: &[u8]) {
        if !self.reply.is_empty() {
            self.client.publish(self.reply, "", &[], payload);
        }
    }
}

/// What became of a request.
pub enum Outcome<'a> {
    /// The first answer.
    Answered(&'a Received<'a>),
    /// Nobody listens on the subject.
    NoResponders,
    /// Nobody answered in time.
    TimedOut,
}

/// What runs when a message comes. It runs in the internal worker's thread, one at a time for the whole server: it
/// must not wait. It reaches the client through [`Received::client`] and should hold none of its own.
pub type Handler = Arc<dyn Fn(&Received<'_>) + Send + Sync>;

type OnOutcome = Box<dyn FnOnce(Outcome<'_>) + Send>;
type OnTime = Box<dyn FnOnce(u64) + Send>;

/// The internal clients of one server. Usable from any thread.
pub struct Internal {
    broker: Arc<Broker>,
    queue: Arc<Queue>,
    clients: Mutex<HashMap<u64, Arc<Inner>>>,
    /// Where answers to requests come: `{inbox}.{client}.{token}`.
    inbox: String,
    seed: u64,
    requests: AtomicU64,
}

/// Something for the internal worker to do.
enum Job {
    /// Bytes of one message, for the client of that number.
    Deliver(u64, Vec<u8>),
    /// Bytes of one publish with the padding that the router wants behind them.
    Publish(Arc<Inner>, Vec<u8>),
    Request {
        client: InternalClient,
        publish: Vec<u8>,
        token: String,
        until_nanos: u64,
        then: OnOutcome,
    },
    At(u64, OnTime),
}

struct Queue {
    jobs: Mutex<Jobs>,
    dropped: AtomicU64,
    wake: Box<dyn Wake>,
}

#[derive(Default)]
struct Jobs {
    list: VecDeque<Job>,
    bytes: usize,
    rung: bool,
    closed: bool,
}

impl Queue {
    fn push(&self, job: Job, bytes: usize, bytes_max: usize) -> bool {
        let mut jobs = self.jobs.lock();
        if jobs.closed || jobs.bytes + bytes > bytes_max {
            drop(jobs);
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        jobs.bytes += bytes;
        jobs.list.push_back(job);
        let rung = std::mem::replace(&mut jobs.rung, true);
        drop(jobs);
        if !rung {
            self.wake.wake();
        }
        true
    }

    fn take(&self) -> VecDeque<Job> {
        let mut jobs = self.jobs.lock();
        (jobs.bytes, jobs.rung) = (0, false);
        std::mem::take(&mut jobs.list)
    }
}

/// One subscription.
struct Entry {
    /// Its number in the account's interest, once it has one.
    number: Option<u32>,
    /// No other server heard of it.
    is_local: bool,
    handler: Handler,
}

/// What of a client both its handles and the worker know.
struct Inner {
    id: u64,
    link: Arc<Link>,
    account: Arc<broker::Account>,
    subscriptions: Mutex<Subscriptions>,
}

#[derive(Default)]
struct Subscriptions {
    by_sid: HashMap<u64, Entry>,
    last_sid: u64,
    has_inbox: bool,
}

/// A client inside the process. A handle: clones are the same client, which lives until [`close`](Self::close) or
/// the server's end.
#[derive(Clone)]
pub struct InternalClient {
    internal: Arc<Internal>,
    inner: Arc<Inner>,
}

/// Takes what is delivered to an internal link apart and queues it.
struct Inlet {
    queue: Arc<Queue>,
    client: u64,
    /// The unfinished end of what was written.
    unfinished: Mutex<Vec<u8>>,
}

impl Transport for Inlet {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut unfinished = self.unfinished.lock();
        let mut written = 0;
        for slice in slices {
            unfinished.extend_from_slice(slice);
            written += slice.len();
        }
        let mut at = 0;
        loop {
            match wire::delivery::parse(&unfinished[at..]) {
                Found::Message(_, used) => {
                    let bytes = unfinished[at..at + used].to_vec();
                    self.queue.push(Job::Deliver(self.client, bytes), used, WAITING_BYTES_MAX);
                    at += used;
                }
                Found::Other(used) => at += used,
                Found::More => break,
            }
        }
        unfinished.drain(..at);
        if unfinished.is_empty() {
            *unfinished = Vec::new();
        }
        Ok(written)
    }

    fn rearm(&self) {}

    fn shutdown(&self) {}
}

impl Internal {
    /// The internal clients of `broker`. `wake` ends the sleep of the thread that runs the [`InternalWorker`];
    /// `inbox` is the start of reply subjects, and `seed` makes them unpredictable.
    pub fn new(broker: Arc<Broker>, wake: Box<dyn Wake>, inbox: String, seed: u64) -> Arc<Internal> {
        let queue = Arc::new(Queue { jobs: Mutex::default(), dropped: AtomicU64::new(0), wake });
        let (clients, requests) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Internal { broker, queue, clients, inbox, seed, requests })
    }

    /// A new client in `account`, which is made if it is not there. It understands headers and does not get what it
    /// publishes itself.
    pub fn client(self: &Arc<Internal>, account: &str) -> InternalClient {
        let id = self.broker.next_id();
        let inlet = Inlet { queue: self.queue.clone(), client: id, unfinished: Mutex::default() };
        let about = About { account: account.to_owned(), ..About::default() };
        let link = self.broker.open(LinkKind::Internal, 0, NO_TOKEN, id, Box::new(inlet), about);
        link.set(FLAG_HEADERS | FLAG_NO_ECHO, true);
        let account = self.broker.account(account);
        let inner = Arc::new(Inner { id, link, account, subscriptions: Mutex::default() });
        self.clients.lock().insert(id, inner.clone());
        InternalClient { internal: self.clone(), inner }
    }

    /// Has `then` run in the internal worker's thread at `nanos` (since the Unix epoch) or soon after.
    pub fn at(&self, nanos: u64, then: impl FnOnce(u64) + Send + 'static) {
        self.queue.push(Job::At(nanos, Box::new(then)), 0, usize::MAX);
    }

    /// Messages that were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.load(Relaxed)
    }

    fn flush(dirty: Vec<Arc<Link>>) {
        for link in dirty {
            link.output.flush(&*link.transport);
        }
    }
}

impl InternalClient {
    /// Number of its link, as a connection's on this server.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Name of its account.
    pub fn account(&self) -> &str {
        &self.inner.account.name
    }

    /// Its account on the data path.
    pub fn account_state(&self) -> &Arc<broker::Account> {
        &self.inner.account
    }

    /// Place of its link in the broker's registry: subscriptions in the account's interest name it.
    pub fn link_index(&self) -> u32 {
        self.inner.link.index
    }

    /// The internal clients that it is one of.
    pub fn internal(&self) -> &Arc<Internal> {
        &self.internal
    }

    /// Has `handler` run for each message on `filter`, as a member of `queue` if given. Returns the sid for
    /// [`unsubscribe`](Self::unsubscribe); a filter that is no subject gets nothing.
    pub fn subscribe(&self, filter: &str, queue: Option<&str>, handler: Handler) -> u64 {
        self.begin(filter, queue, false, handler)
    }

    /// The same for what is published on this server only: no other server hears of the subscription.
    pub fn subscribe_here(&self, filter: &str, handler: Handler) -> u64 {
        self.begin(filter, None, true, handler)
    }

    fn begin(&self, filter: &str, queue: Option<&str>, is_local: bool, handler: Handler) -> u64 {
        let sid = {
            let mut subscriptions = self.inner.subscriptions.lock();
            subscriptions.last_sid += 1;
            let sid = subscriptions.last_sid;
            // before the first message can come
            subscriptions.by_sid.insert(sid, Entry { number: None, is_local, handler });
            sid
        };
        if !subject::is_valid(filter.as_bytes()) {
            debug_assert!(false, "{filter:?} is no subject");
            return sid;
        }
        let mut dirty = Vec::new();
        let (queue, name) = (queue.map(str::as_bytes), sid.to_string());
        let Inner { link, account, .. } = &*self.inner;
        let number = match is_local {
            true => account.subscribe_here(link, filter.as_bytes(), name.as_bytes()),
            false => account.subscribe(link, filter.as_bytes(), queue, name.as_bytes(), &mut dirty),
        };
        Internal::flush(dirty);
        let is_over = match self.inner.subscriptions.lock().by_sid.get_mut(&sid) {
            Some(entry) => {
                entry.number = Some(number);
                false
            }
            // its handler ended it already
            None => true,
        };
        if is_over {
            self.end(Some(number), is_local);
        }
        sid
    }

    /// Ends a subscription. What waits for it is not handled any more.
    pub fn unsubscribe(&self, sid: u64) {
        let entry = self.inner.subscriptions.lock().by_sid.remove(&sid);
        if let Some(entry) = entry {
            self.end(entry.number, entry.is_local);
        }
    }

    fn end(&self, number: Option<u32>, is_local: bool) {
        let Some(number) = number else { return };
        let Inner { account, link, .. } = &*self.inner;
        let mut dirty = Vec::new();
        match is_local {
            true => account.unsubscribe_here(link, number),
            false => account.unsubscribe(link, [number], &mut dirty),
        }
        Internal::flush(dirty);
    }

    /// Publishes in its account, soon and in order: `reply` and `headers` (a whole block, `NATS/1.0\r\n…\r\n\r\n`)
    /// may be empty. `false`: it is no subject, or too much waits.
    pub fn publish(&self, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) -> bool {
        let Some(bytes) = publish_bytes(subject, reply, headers, payload) else { return false };
        let len = bytes.len();
        // own messages have room behind those of others
        self.internal.queue.push(Job::Publish(self.inner.clone(), bytes), len, 2 * WAITING_BYTES_MAX)
    }

    /// Publishes with a reply subject of its own and has `then` run once: for the first answer, when nobody listens,
    /// or at `until_nanos` (since the Unix epoch).
    pub fn request(
        &self,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
        until_nanos: u64,
        then: impl FnOnce(Outcome<'_>) + Send + 'static,
    ) {
        let number = self.internal.requests.fetch_add(1, Relaxed);
        let token = format!("{:016x}", subject::hash(self.internal.seed, &number.to_le_bytes()));
        let inbox = format!("{}.{}", self.internal.inbox, self.inner.id);
        if !std::mem::replace(&mut self.inner.subscriptions.lock().has_inbox, true) {
            // the worker looks answers up by their last token
            self.subscribe(&format!("{inbox}.*"), None, Arc::new(|_| {}));
        }
        let Some(publish) = publish_bytes(subject, &format!("{inbox}.{token}"), headers, payload) else {
            return then(Outcome::NoResponders);
        };
        let (client, len, then) = (self.clone(), publish.len(), Box::new(then));
        let job = Job::Request { client, publish, token, until_nanos, then };
        self.internal.queue.push(job, len, 2 * WAITING_BYTES_MAX);
    }

    /// Ends all its subscriptions and the client itself.
    pub fn close(&self) {
        let subscriptions = std::mem::take(&mut self.inner.subscriptions.lock().by_sid);
        for entry in subscriptions.into_values() {
            self.end(entry.number, entry.is_local);
        }
        self.internal.clients.lock().remove(&self.inner.id);
        self.inner.link.output.close();
        self.internal.broker.forget(&self.inner.link);
    }
}

/// A publish as a client would send it, with the router's padding behind it; `None` when a subject is none.
fn publish_bytes(subject: &str, reply: &str, headers: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let is_subject = |text: &str| subject::is_valid_publish(text.as_bytes());
    if !is_subject(subject) || !(reply.is_empty() || is_subject(reply)) {
        return None;
    }
    let room = subject.len() + reply.len() + headers.len() + payload.len() + broker::router::READ_PADDING;
    let mut bytes = Vec::with_capacity(room + 48);
    let blank = if reply.is_empty() { "" } else { " " };
    let verb = if headers.is_empty() { "PUB" } else { "HPUB" };
    bytes.extend_from_slice(format!("{verb} {subject} {reply}{blank}").as_bytes());
    if !headers.is_empty() {
        bytes.extend_from_slice(format!("{} ", headers.len()).as_bytes());
    }
    bytes.extend_from_slice(format!("{}\r\n", headers.len() + payload.len()).as_bytes());
    bytes.extend_from_slice(headers);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes.resize(bytes.len() + broker::router::READ_PADDING, 0);
    Some(bytes)
}

/// Runs the handlers and publishes for the internal clients. Belongs to one thread.
pub struct InternalWorker {
    internal: Arc<Internal>,
    router: Router,
    /// When the router was last used, 0 when it holds no plan.
    used_nanos: u64,
    requests: HashMap<String, (u64, OnOutcome)>,
    timers: BTreeMap<(u64, u64), OnTime>,
    timers_begun: u64,
}

impl InternalWorker {
    /// The worker of these clients; there is one.
    pub fn new(internal: Arc<Internal>) -> InternalWorker {
        let router = Router::new(internal.broker.clone(), internal.seed);
        let (requests, timers) = (HashMap::new(), BTreeMap::new());
        InternalWorker { internal, router, used_nanos: 0, requests, timers, timers_begun: 0 }
    }

    /// Does all that waits and all whose time has come. Returns when to call again at the latest, in nanoseconds
    /// since the Unix epoch; the wake given to [`Internal::new`] may ask for it sooner.
    pub fn run(&mut self, now_nanos: u64) -> Option<u64> {
        self.router.begin(now_nanos, false, false);
        // handlers that answer each other for ever must not keep time from passing: the rest woke us again
        for _ in 0..ROUNDS_MAX {
            let jobs = self.internal.queue.take();
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                self.run_job(job, now_nanos);
            }
        }
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now_nanos) {
            entry.remove()(now_nanos);
        }
        let late: Vec<String> =
            self.requests.iter().filter(|(_, r)| r.0 <= now_nanos).map(|(token, _)| token.clone()).collect();
        for token in late {
            if let Some((_, then)) = self.requests.remove(&token) {
                then(Outcome::TimedOut);
            }
        }
        if self.used_nanos > 0 && now_nanos >= self.used_nanos + PLANS_KEPT_NANOS {
            self.router = Router::new(self.internal.broker.clone(), self.internal.seed);
            self.used_nanos = 0;
        }
        self.next_nanos()
    }

    fn next_nanos(&self) -> Option<u64> {
        let timer = self.timers.first_key_value().map(|(key, _)| key.0);
        let request = self.requests.values().map(|request| request.0).min();
        let plans = (self.used_nanos > 0).then_some(self.used_nanos + PLANS_KEPT_NANOS);
        [timer, request, plans].into_iter().flatten().min()
    }

    fn run_job(&mut self, job: Job, now_nanos: u64) {
        match job {
            Job::Deliver(client, bytes) => {
                let inner = self.internal.clients.lock().get(&client).cloned();
                if let (Some(inner), Found::Message(message, _)) = (inner, wire::delivery::parse(&bytes)) {
                    self.handle(inner, &message, now_nanos);
                }
            }
            Job::Publish(inner, bytes) => {
                self.publish(&inner, &bytes, now_nanos);
            }
            Job::Request { client, publish, token, until_nanos, then } => {
                match self.publish(&client.inner, &publish, now_nanos) {
                    Verdict::Delivered | Verdict::Drawn => {
                        self.requests.insert(token, (until_nanos, then));
                    }
                    _ => then(Outcome::NoResponders),
                }
            }
            Job::At(nanos, then) => {
                self.timers_begun += 1;
                self.timers.insert((nanos, self.timers_begun), then);
            }
        }
    }

    fn publish(&mut self, inner: &Inner, bytes: &[u8], now_nanos: u64) -> Verdict {
        let read = &bytes[..bytes.len() - broker::router::READ_PADDING];
        let limits = Limits { control_line_bytes_max: usize::MAX, payload_bytes_max: None };
        let Ok(Step::Op(Op::Publish(publish), _)) = wire::client::parse(read, 0, &limits) else {
            debug_assert!(false, "an own publish cannot be read");
            return Verdict::NoInterest;
        };
        let scope = self.router.scope(&inner.account, LinkKind::Internal, None);
        let mut verdict = self.router.publish(scope, bytes, &publish);
        if verdict == Verdict::Detour {
            verdict = self.router.detour(&inner.link, bytes, &publish);
        }
        self.router.finish(&inner.link, bytes);
        self.router.flush(true);
        self.used_nanos = now_nanos.max(1);
        verdict
    }

    fn handle(&mut self, inner: Arc<Inner>, message: &wire::delivery::Delivery<'_>, now_nanos: u64) {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let (Some(subject), Some(reply), Some(sid)) =
            (text(message.subject), text(message.reply), text(message.sid))
        else {
            return;
        };
        let Ok(sid) = sid.parse::<u64>() else { return };
        let handler = inner.subscriptions.lock().by_sid.get(&sid).map(|entry| entry.handler.clone());
        let Some(handler) = handler else { return };
        let client = InternalClient { internal: self.internal.clone(), inner };
        let (headers, payload) = (message.headers, message.payload);
        let received = Received { client: &client, subject, reply, headers, payload, now_nanos };
        let token =
            subject.strip_prefix(self.internal.inbox.as_str()).and_then(|rest| rest.rsplit('.').next());
        match token.and_then(|token| self.requests.remove(token)) {
            Some((_, then)) => then(Outcome::Answered(&received)),
            None => handler(&received),
        }
    }
}

impl Drop for InternalWorker {
    fn drop(&mut self) {
        // handlers may hold the server's state: nothing of them stays behind
        let jobs = {
            let mut jobs = self.internal.queue.jobs.lock();
            jobs.closed = true;
            std::mem::take(&mut jobs.list)
        };
        drop(jobs);
        let clients = std::mem::take(&mut *self.internal.clients.lock());
        for inner in clients.into_values() {
            drop(std::mem::take(&mut inner.subscriptions.lock().by_sid));
            self.internal.broker.forget(&inner.link);
        }
    }
}

#[cfg(test)]
mod tests;
