//! One worker's way of delivering: look up the plan, stage what each receiver gets, and hand each receiver its
//! part of the batch once.
//!
//! Owns the plan cache, the scratch buffer and the list of links to be flushed. Not shared; the worker calls
//! [`publish`](Router::publish) for each message of a read, [`finish`](Router::finish) at the read's end and
//! [`flush`](Router::flush) before it sleeps.

mod deliver;
mod detour;
pub(crate) mod latency;
mod lines;
mod miss;
mod tracing;

use crate::account::{Account, Dirty};
use crate::cache::{Key, PlanCache, SWEEP_PARTS};
use crate::link::{Link, LinkKind};
use crate::output::{BY_REFERENCE_BYTES, Rendering, Segment};
use crate::plan::{Plan, Renamed, Unusual};
use crate::registry::Broker;
use crate::render::Scratch;
use crate::responses::is_tracked;
use crate::trace::Trace;
use accounts::Permissions;
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use subject::FilterId;
use wire::client::Publish;
use wire::lines::Lines;

pub use crate::cache::LOOK_AHEAD;
pub use crate::render::READ_PADDING;
pub use detour::Parcel;
pub use lines::TARGET as LINES_TARGET;
pub use tracing::Tracing;

/// Output up to this size may wait for the other links of the round; more is written at once.
const DEFER_BYTES_MAX: usize = 16 << 10;
/// Reads for which a link with output of bulk publishers waits at most until it is its turn.
const TURN_READS: usize = 64;
/// Links whose turn comes with each read at least.
const TURN_LINKS_MIN: usize = 16;
/// Links whose turn comes between two looks for something to read.
const TURN_LINKS_IDLE: usize = 64;
/// Places for waiting links that stay allocated.
const WAITING_KEPT: usize = 1 << 10;
/// Plans shared by subjects with the same receivers that are remembered per scope.
const INTERNED_MAX: usize = 1 << 16;

/// Number of a combination of account and origin, whose links share plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeId(u32);

/// What a publish met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody gets it.
    Delivered,
    /// Nobody wants it.
    NoInterest,
    /// The publisher may not.
    Denied,
    /// It goes on in another account: call [`Router::detour`] with it next, which says what it met.
    Detour,
    /// Somebody gets it, under a subject that was drawn for this message alone.
    Drawn,
    /// What was drawn for this message alone is nobody.
    DrawnNobody,
}

struct Scope {
    account: Arc<Account>,
    from: LinkKind,
    way: miss::Way,
    /// The scope of its messages that a mapping gave another subject, once there were any.
    mapped: Option<ScopeId>,
    /// What its publishers may do; `None` for everything.
    permissions: Option<Arc<Permissions>>,
    /// Plans by the subscriptions that matched, valid for one epoch of the account.
    interned: HashMap<Box<[u32]>, Rc<Plan>>,
    epoch: u64,
}

/// A message of the batch.
#[derive(Clone, Copy)]
struct Message {
    publish: Publish,
    /// Place in `plans`.
    plan: u32,
    /// Groups that the sender of a routed message chose, places in `named`; `None` draws from every group.
    queues: Option<(u32, u32)>,
}

/// One message for one link.
#[derive(Clone, Copy)]
struct Op {
    message: u32,
    /// Place in the plan's `targets`, or in its `routes`.
    target: u32,
    /// For a route: the names of the groups it is to serve, in `names`.
    names: (u32, u32),
    /// The delivery was taken from the subscription. Those of queue members without a maximum are taken together
    /// once the batch is staged: two workers that draw the same members would else fight for each message.
    is_granted: bool,
}

/// A worker's delivery state.
pub struct Router {
    broker: Arc<Broker>,
    scopes: Vec<Scope>,
    cache: PlanCache,
    messages: Vec<Message>,
    plans: Vec<Rc<Plan>>,
    /// Bodies that had to be kept, one place a message; empty while no message is large enough.
    bodies: Vec<Option<Bytes>>,
    has_large: bool,
    named: Vec<(u32, u32)>,
    names: Vec<u8>,
    stage: Vec<Vec<Op>>,
    touched: Vec<Touched>,
    /// Some of what is staged is not granted yet.
    has_ungranted: bool,
    scratch: Scratch,
    filters: Vec<FilterId>,
    numbers: Vec<u32>,
    random: u64,
    now_nanos: u64,
    pending_bytes_max: usize,
    busy: bool,
    bulk: bool,
    /// To be flushed at the end of the round.
    dirty: Dirty,
    /// To be flushed in turn, those that waited longest first.
    waiting: VecDeque<Arc<Link>>,
    /// Where the next sweep of `stage` begins.
    swept: usize,
    /// The message that goes on in another account, and the scope of its plan.
    detoured: Option<(ScopeId, Rc<Plan>)>,
    /// The subject that a mapping gave to the last message that met nobody, else empty.
    met: Vec<u8>,
    /// Scopes of what comes from other accounts, by account.
    imported: HashMap<u32, ScopeId>,
    /// In whose name the server itself publishes.
    own_link: Option<Arc<Link>>,
    /// What is noted of the message that is being published, if its headers ask for it.
    trace: Option<Box<Trace>>,
    /// Every operation has its line in the log.
    lines: Option<Lines>,
    #[cfg(feature = "defective")]
    draws: crate::defect::Draws,
}

/// A link that gets something of the batch, and how to find it: through the plan of its first op.
#[derive(Clone, Copy)]
struct Touched {
    index: u32,
    plan: u32,
    target: u32,
    route: bool,
}

impl Router {
    /// A router that draws queue members from `seed`.
    pub fn new(broker: Arc<Broker>, seed: u64) -> Router {
        Router {
            pending_bytes_max: broker.pending_bytes_max.load(Relaxed),
            broker,
            scopes: Vec::new(),
            cache: PlanCache::new(),
            messages: Vec::new(),
            plans: Vec::new(),
            bodies: Vec::new(),
            has_large: false,
            named: Vec::new(),
            names: Vec::new(),
            stage: Vec::new(),
            touched: Vec::new(),
            has_ungranted: false,
            scratch: Scratch::new(),
            filters: Vec::new(),
            numbers: Vec::new(),
            random: seed | 1,
            now_nanos: 0,
            busy: false,
            bulk: false,
            dirty: Vec::new(),
            waiting: VecDeque::new(),
            swept: 0,
            detoured: None,
            met: Vec::new(),
            imported: HashMap::new(),
            own_link: None,
            trace: None,
            lines: None,
            #[cfg(feature = "defective")]
            draws: crate::defect::Draws::new(),
        }
    }

    /// What all workers share.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Begins a read. `bulk`: its publisher sends as fast as it is read. `busy`: other links wait to be served in
    /// this round. Both let small output wait for company.
    pub fn begin(&mut self, now_nanos: u64, bulk: bool, busy: bool) {
        (self.now_nanos, self.bulk, self.busy) = (now_nanos, bulk, busy);
        self.pending_bytes_max = self.broker.pending_bytes_max.load(Relaxed);
    }

    /// Stages a client's message.
    #[inline]
    pub fn publish(&mut self, scope: ScopeId, read: &[u8], publish: &Publish) -> Verdict {
        let hash = self.scopes[scope.0 as usize].account.hash(&read[publish.subject_range()]);
        self.publish_hashed(scope, read, publish, hash)
    }

    /// [`publish`](Self::publish) where the hash of the subject is known.
    #[inline]
    pub fn publish_hashed(&mut self, scope: ScopeId, read: &[u8], publish: &Publish, hash: u64) -> Verdict {
        let account = &self.scopes[scope.0 as usize].account;
        let key = Key { scope: scope.0, subject: &read[publish.subject_range()], hash };
        if let Some(plan) = self.cache.find(key, |stamp| account.generation(stamp)) {
            if plan.unusual != Unusual::None {
                let plan = plan.clone();
                return self.publish_unusual(scope, plan, publish, read);
            }
            if plan.is_empty() {
                self.met.clear();
                return Verdict::NoInterest;
            }
            if !self.plans.last().is_some_and(|last| Rc::ptr_eq(last, plan)) {
                self.plans.push(plan.clone());
            }
            self.push(publish, None);
            return Verdict::Delivered;
        }
        self.publish_anew(scope, read, hash, publish)
    }

    #[inline(never)]
    fn publish_anew(&mut self, scope: ScopeId, read: &[u8], hash: u64, publish: &Publish) -> Verdict {
        let plan = self.plan_anew(scope, &read[publish.subject_range()], hash);
        if plan.unusual != Unusual::None {
            return self.publish_unusual(scope, plan, publish, read);
        }
        if plan.is_empty() {
            self.met.clear();
            return Verdict::NoInterest;
        }
        self.push_planned(publish, plan, None);
        Verdict::Delivered
    }

    /// Whether plans are so many that they come from memory: then [`look_ahead`](Self::look_ahead) pays.
    #[inline]
    pub fn is_spread(&self) -> bool {
        self.cache.is_far()
    }

    /// Lets the plans of messages that are to be published next come from memory, side by side instead of one after
    /// the other. Returns the hashes of their subjects for [`publish_hashed`](Self::publish_hashed), in order.
    pub fn look_ahead(&self, scope: ScopeId, read: &[u8], messages: &[Publish]) -> [u64; LOOK_AHEAD] {
        let account = &self.scopes[scope.0 as usize].account;
        let mut hashes = [0; LOOK_AHEAD];
        for (hash, publish) in hashes.iter_mut().zip(messages) {
            *hash = account.hash(&read[publish.subject_range()]);
        }
        self.cache.look_ahead(&hashes[..messages.len().min(LOOK_AHEAD)], scope.0);
        hashes
    }

    /// So many messages were published: what tells plans in use from those of a burst that is over.
    #[inline]
    pub fn note_published(&mut self, messages: usize) {
        self.cache.note_asked(messages);
    }

    /// Stages a further message on the subject of the one staged last.
    #[inline]
    pub fn publish_again(&mut self, publish: &Publish) {
        self.push(publish, None);
    }

    /// Stages a message that came over a route. `queues` are the places in `read` of the groups to serve.
    pub fn publish_routed(
        &mut self,
        scope: ScopeId,
        read: &[u8],
        publish: &Publish,
        queues: impl Iterator<Item = Range<usize>>,
    ) -> Verdict {
        let plan = self.plan(scope, &read[publish.subject_range()]);
        self.note_published(1);
        let mut verdict = Verdict::Delivered;
        if publish.reply_len > 0 && is_tracked(&read[publish.reply_range()]) {
            self.broker.tracked.note(&read[publish.reply_range()], self.now_nanos);
        }
        if matches!(plan.unusual, Unusual::Response | Unusual::Measurement) {
            self.detoured = Some((scope, plan.clone()));
            verdict = Verdict::Detour;
        }
        if plan.is_empty() {
            return verdict;
        }
        let start = self.named.len() as u32;
        self.named.extend(queues.map(|q| (q.start as u32, q.end as u32)));
        let end = self.named.len() as u32;
        self.push_planned(publish, plan, Some((start, end)));
        verdict
    }

    fn push_planned(&mut self, publish: &Publish, plan: Rc<Plan>, queues: Option<(u32, u32)>) {
        if !self.plans.last().is_some_and(|last| Rc::ptr_eq(last, &plan)) {
            self.plans.push(plan);
        }
        self.push(publish, queues);
    }

    /// Under the plan pushed last.
    #[inline(always)]
    fn push(&mut self, publish: &Publish, queues: Option<(u32, u32)>) {
        self.has_large |= publish.body_len() >= BY_REFERENCE_BYTES;
        self.messages.push(Message { publish: *publish, plan: self.plans.len() as u32 - 1, queues });
    }

    #[inline]
    fn plan(&mut self, scope: ScopeId, subject: &[u8]) -> Rc<Plan> {
        let account = &self.scopes[scope.0 as usize].account;
        let hash = account.hash(subject);
        match self.cache.find(Key { scope: scope.0, subject, hash }, |stamp| account.generation(stamp)) {
            Some(plan) => plan.clone(),
            None => self.plan_anew(scope, subject, hash),
        }
    }

    /// Whether messages wait for [`finish`](Self::finish).
    pub fn has_staged(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Hands every receiver its part of the batch. `read` must be the buffer that the messages were parsed
    /// from, with [`READ_PADDING`] bytes behind the last one.
    #[inline]
    pub fn finish(&mut self, from: &Arc<Link>, read: &[u8]) {
        #[cfg(feature = "defective")]
        self.draws.spoil(&mut self.messages, |a, b| {
            read.get(a.publish.subject_range()) == read.get(b.publish.subject_range())
        });
        if self.messages.is_empty() {
            return;
        }
        if self.has_large {
            self.bodies.resize(self.messages.len(), None);
        }
        let plain = self.plans.len() == 1
            && self.plans[0].renamed != Renamed::Each
            && (self.plans[0].is_plain() || self.messages.iter().all(|m| m.queues == Some((0, 0))));
        if plain {
            self.finish_plain(from, read);
        } else {
            self.stage_all(from, read);
            self.finish_staged(from, read);
        }
        self.clear_batch();
    }

    #[inline(always)]
    fn clear_batch(&mut self) {
        self.messages.clear();
        self.plans.clear();
        self.named.clear();
        self.names.clear();
        self.bodies.clear();
        self.has_large = false;
        self.scratch.trim();
    }

    /// Queues protocol bytes (not messages) for a link, behind everything staged for it so far.
    pub fn push_protocol(&mut self, link: &Arc<Link>, bytes: &[u8]) {
        self.log_protocol(link, bytes);
        if link.output.push(bytes) {
            self.dirty.push(link.clone());
        }
    }

    /// Writes protocol bytes (not messages) to a link now, behind what waits for it.
    pub fn deliver_protocol(&mut self, link: &Arc<Link>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.log_protocol(link, bytes);
        let segments = [Segment::Scratch(0, bytes.len() as u32)];
        let mut rendering = Rendering {
            scratch: bytes,
            read: &[],
            segments: &segments,
            total: bytes.len(),
            messages: 0,
            message_bytes: 0,
            bodies: &mut [],
        };
        let delivered = link.output.deliver(&*link.transport, &mut rendering, self.pending_bytes_max);
        self.settle(link, delivered);
    }

    /// Writes what waits for one link, as far as its transport takes it: its last words before it is closed.
    pub fn flush_link(&mut self, link: &Arc<Link>) {
        let delivered = link.output.flush(&*link.transport);
        self.settle(link, delivered);
    }

    /// Links that somebody else's change left with something to write.
    pub fn dirty(&mut self) -> &mut Dirty {
        &mut self.dirty
    }

    /// Writes what was put off in this round; `all`: also what waits for its turn.
    pub fn flush(&mut self, all: bool) {
        let mut links = std::mem::take(&mut self.dirty);
        for link in links.drain(..) {
            self.flush_link(&link);
        }
        self.dirty = links;
        if all {
            self.flush_in_turn(usize::MAX);
        }
    }

    /// Writes what waits for its turn, behind so many reads since the last call. Returns whether more waits: then
    /// call again, soon and before sleeping.
    ///
    /// A write costs as much as reading, matching and rendering dozens of messages, so what a bulk publisher sends to
    /// many links is collected while it is read: a link waits for [`TURN_READS`] reads at most.
    pub fn flush_waiting(&mut self, reads: usize) -> bool {
        let each = (self.waiting.len() / TURN_READS).max(TURN_LINKS_MIN);
        self.flush_in_turn(if reads == 0 { TURN_LINKS_IDLE } else { reads * each });
        !self.waiting.is_empty()
    }

    fn flush_in_turn(&mut self, links: usize) {
        for _ in 0..links {
            let Some(link) = self.waiting.pop_front() else {
                self.waiting.shrink_to(WAITING_KEPT);
                return;
            };
            self.flush_link(&link);
        }
    }

    /// The owner of `link` saw a writable edge.
    pub fn writable(&mut self, link: &Arc<Link>) {
        let delivered = link.output.writable(&*link.transport);
        self.settle(link, delivered);
    }

    /// Gives the rendering buffer back; the next message makes it anew.
    pub fn release_scratch(&mut self) {
        self.scratch = Scratch::new();
    }

    /// Gives up what belongs to interest that is gone, a part a call: a stale plan would keep the links of its
    /// receivers, and with them their sockets, until another plan takes its slot. Call it about ten times a
    /// second: all is looked at within two seconds.
    pub fn sweep(&mut self) {
        self.expire_responses();
        let scopes = &self.scopes;
        self.cache.sweep(|scope, stamp| scopes[scope as usize].account.generation(stamp));
        for scope in &mut self.scopes {
            let epoch = scope.account.epoch();
            if scope.epoch != epoch {
                (scope.interned, scope.epoch) = (HashMap::new(), epoch);
            }
        }
        let part = self.stage.len() / SWEEP_PARTS + 1;
        self.swept = if self.swept >= self.stage.len() { 0 } else { self.swept };
        for ops in self.stage.iter_mut().skip(self.swept).take(part) {
            *ops = Vec::new();
        }
        self.swept += part;
    }
}
