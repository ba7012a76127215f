//! One worker's way of delivering: look up the plan, stage what each receiver gets, and hand each receiver its
//! part of the batch once.
//!
//! Owns the plan cache, the scratch buffer and the list of links to be flushed. Not shared; the worker calls
//! [`publish`](Router::publish) for each message of a read, [`finish`](Router::finish) at the read's end and
//! [`flush`](Router::flush) before it sleeps.

use crate::account::{Account, Dirty};
use crate::cache::{Key, PlanCache, SWEEP_PARTS};
use crate::link::{
    CloseReason, FLAG_ACCOUNT_IMPLIED, FLAG_HEADERS, FLAG_NO_ECHO, FLAG_REPLIES, Link, LinkKind,
};
use crate::mailbox::Command;
use crate::output::{BY_REFERENCE_BYTES, Delivered, Rendering, Segment};
use crate::plan::{Group, Plan, Target};
use crate::registry::Broker;
use crate::render::Scratch;
use accounts::Permissions;
use bytes::Bytes;
use hashbrown::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use subject::FilterId;
use wire::client::Publish;

pub use crate::render::READ_PADDING;

/// Output up to this size may wait for the other links of the round; more is written at once.
const DEFER_BYTES_MAX: usize = 16 << 10;
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
}

struct Scope {
    account: Arc<Account>,
    from: LinkKind,
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
    scratch: Scratch,
    filters: Vec<FilterId>,
    numbers: Vec<u32>,
    random: u64,
    now_nanos: u64,
    pending_bytes_max: usize,
    busy: bool,
    filled: bool,
    dirty: Dirty,
    lazy: Dirty,
    /// Where the next sweep of `stage` begins.
    swept: usize,
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
            scratch: Scratch::new(),
            filters: Vec::new(),
            numbers: Vec::new(),
            random: seed | 1,
            now_nanos: 0,
            busy: false,
            filled: false,
            dirty: Vec::new(),
            lazy: Vec::new(),
            swept: 0,
        }
    }

    /// What all workers share.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The scope of links of kind `from` in `account` that may do what `permissions` say.
    pub fn scope(
        &mut self,
        account: &Arc<Account>,
        from: LinkKind,
        permissions: Option<&Arc<Permissions>>,
    ) -> ScopeId {
        let from = if from == LinkKind::Internal { LinkKind::Client } else { from };
        let same = |scope: &Scope| {
            let permissions = match (&scope.permissions, permissions) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            scope.from == from && permissions && Arc::ptr_eq(&scope.account, account)
        };
        let place = self.scopes.iter().position(same).unwrap_or_else(|| {
            let fresh = Scope {
                account: account.clone(),
                from,
                permissions: permissions.cloned(),
                interned: HashMap::new(),
                epoch: 0,
            };
            // permissions that nobody else holds any more belong to users who are gone: their place serves again
            let gone = |s: &Scope| s.permissions.as_ref().is_some_and(|p| Arc::strong_count(p) == 1);
            match self.scopes.iter().position(gone) {
                Some(place) => {
                    self.scopes[place] = fresh;
                    self.cache.clear();
                    place
                }
                None => {
                    self.scopes.push(fresh);
                    self.scopes.len() - 1
                }
            }
        });
        ScopeId(place as u32)
    }

    /// Begins a read. `filled`: it took all the room there was, so more will follow at once. `busy`: other links
    /// wait to be served in this round. Both let small output wait for company.
    pub fn begin(&mut self, now_nanos: u64, filled: bool, busy: bool) {
        (self.now_nanos, self.filled, self.busy) = (now_nanos, filled, busy);
        self.pending_bytes_max = self.broker.pending_bytes_max.load(Relaxed);
    }

    /// Stages a client's message.
    #[inline]
    pub fn publish(&mut self, scope: ScopeId, read: &[u8], publish: &Publish) -> Verdict {
        let plan = self.plan(scope, &read[publish.subject_range()]);
        if plan.denied {
            return Verdict::Denied;
        }
        if plan.is_empty() {
            return Verdict::NoInterest;
        }
        self.push(publish, plan, None);
        Verdict::Delivered
    }

    /// Stages a message that came over a route. `queues` are the places in `read` of the groups to serve.
    pub fn publish_routed(
        &mut self,
        scope: ScopeId,
        read: &[u8],
        publish: &Publish,
        queues: impl Iterator<Item = Range<usize>>,
    ) {
        let plan = self.plan(scope, &read[publish.subject_range()]);
        if plan.is_empty() {
            return;
        }
        let start = self.named.len() as u32;
        self.named.extend(queues.map(|q| (q.start as u32, q.end as u32)));
        let end = self.named.len() as u32;
        self.push(publish, plan, Some((start, end)));
    }

    #[inline]
    fn push(&mut self, publish: &Publish, plan: Rc<Plan>, queues: Option<(u32, u32)>) {
        let same = self.plans.last().is_some_and(|last| Rc::ptr_eq(last, &plan));
        if !same {
            self.plans.push(plan);
        }
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

    #[inline(never)]
    fn plan_anew(&mut self, scope_id: ScopeId, subject: &[u8], hash: u64) -> Rc<Plan> {
        let scope = &mut self.scopes[scope_id.0 as usize];
        let account = scope.account.clone();
        let stamp = account.stamp_of(subject);
        // both before matching: a change meanwhile makes the plan stale, never wrong for good
        let (generation, epoch) = (account.generation(stamp), account.epoch());
        if scope.epoch != epoch || scope.interned.len() > INTERNED_MAX {
            scope.interned.clear();
            scope.epoch = epoch;
        }
        let (filters, numbers) = (&mut self.filters, &mut self.numbers);
        numbers.clear();
        let broker = &self.broker;
        let denied = scope.permissions.as_ref().is_some_and(|permissions| !permissions.can_publish(subject));
        if denied || (scope.from == LinkKind::Client && is_reserved(subject)) {
            return Rc::new(Plan { denied: true, ..Plan::default() });
        }
        let plan = account.read(|interest| {
            interest.matches(subject, hash, filters, numbers);
            match scope.interned.get(&numbers[..]) {
                Some(plan) => plan.clone(),
                None => {
                    let build = |link_of: &dyn Fn(u32) -> Option<Arc<Link>>| {
                        Plan::build(&account.name, interest, numbers, subject, scope.from, link_of)
                    };
                    let plan = Rc::new(broker.with_links(build));
                    if !plan.is_for_one_subject {
                        scope.interned.insert(numbers[..].into(), plan.clone());
                    }
                    plan
                }
            }
        });
        let scopes = &self.scopes;
        let live = |scope: u32, stamp: u16| scopes[scope as usize].account.generation(stamp);
        self.cache.insert(Key { scope: scope_id.0, subject, hash }, (stamp, generation), &plan, live);
        plan
    }

    /// Whether messages wait for [`finish`](Self::finish).
    pub fn has_staged(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Hands every receiver its part of the batch. `read` must be the buffer that the messages were parsed
    /// from, with [`READ_PADDING`] bytes behind the last one.
    #[inline]
    pub fn finish(&mut self, from: &Arc<Link>, read: &[u8]) {
        if self.messages.is_empty() {
            return;
        }
        if self.has_large {
            self.bodies.resize(self.messages.len(), None);
        }
        let plain = self.plans.len() == 1
            && (self.plans[0].is_plain() || self.messages.iter().all(|m| m.queues == Some((0, 0))));
        if plain {
            self.finish_plain(from, read);
        } else {
            self.stage_all(from, read);
            self.finish_staged(from, read);
        }
        self.messages.clear();
        self.plans.clear();
        self.named.clear();
        self.names.clear();
        self.bodies.clear();
        self.has_large = false;
        self.scratch.trim();
    }

    /// All messages go to the same plain subscribers: rendered once for all targets that share a sid.
    fn finish_plain(&mut self, from: &Arc<Link>, read: &[u8]) {
        let plan = self.plans[0].clone();
        let mut rendered: Option<(&[u8], bool, u64)> = None;
        for group in plan.targets[..plan.plain].chunk_by(|a, b| Arc::ptr_eq(&a.link, &b.link)) {
            let link = &group[0].link;
            if Arc::ptr_eq(link, from) && from.has(FLAG_NO_ECHO) {
                continue;
            }
            let headers = link.has(FLAG_HEADERS);
            let messages = if let [target] = group {
                let granted = grant_many(target, self.messages.len() as u64);
                let key = (target.sid(), headers, granted);
                if granted > 0 && rendered != Some(key) {
                    self.scratch.begin();
                    for (number, message) in self.messages.iter().take(granted as usize).enumerate() {
                        self.scratch.message(read, number as u32, &message.publish, key.0, headers);
                    }
                    self.scratch.end();
                    rendered = Some(key);
                }
                granted
            } else {
                rendered = None;
                self.render_group(group, read, headers)
            };
            if messages == 0 {
                continue;
            }
            if link.has(FLAG_REPLIES) {
                for message in &self.messages {
                    self.note_reply(link, read, &message.publish);
                }
            }
            self.send(link, read, messages, from);
        }
    }

    /// Several subscriptions of one link: each message once for each of them, in one write.
    fn render_group(&mut self, group: &[Target], read: &[u8], headers: bool) -> u64 {
        let wanted = self.messages.len() as u64;
        let granted: Vec<u64> = group.iter().map(|target| grant_many(target, wanted)).collect();
        self.scratch.begin();
        for (number, message) in self.messages.iter().enumerate() {
            for (target, granted) in group.iter().zip(&granted) {
                if (number as u64) < *granted {
                    self.scratch.message(read, number as u32, &message.publish, target.sid(), headers);
                }
            }
        }
        self.scratch.end();
        granted.iter().sum()
    }

    /// Sorts the batch by receiver, drawing the members of queue groups.
    fn stage_all(&mut self, from: &Arc<Link>, read: &[u8]) {
        for number in 0..self.messages.len() {
            let message = self.messages[number];
            let plan = self.plans[message.plan as usize].clone();
            for target in 0..plan.plain {
                self.stage_target(&plan, number as u32, message.plan, target as u32, from);
            }
            let mut drawn: Vec<(u32, usize)> = Vec::new();
            match message.queues {
                None => {
                    for place in 0..plan.groups.len() {
                        match self.draw(&plan, place, from) {
                            Some(Draw::Local(target)) => {
                                self.stage_granted(&plan, number as u32, message.plan, target);
                            }
                            Some(Draw::Route(route)) => drawn.push((route, place)),
                            None => {}
                        }
                    }
                }
                Some((start, end)) => {
                    for named in start..end {
                        let (from_byte, to_byte) = self.named[named as usize];
                        let name = &read[from_byte as usize..to_byte as usize];
                        let Some(place) = plan.groups.iter().position(|g| *g.name == *name) else { continue };
                        match self.draw(&plan, place, from) {
                            Some(Draw::Local(target)) => {
                                self.stage_granted(&plan, number as u32, message.plan, target);
                            }
                            Some(Draw::Route(route)) => drawn.push((route, place)),
                            None => {}
                        }
                    }
                }
            }
            self.stage_routes(&plan, number as u32, message.plan, &drawn);
        }
    }

    fn stage_routes(&mut self, plan: &Plan, message: u32, plan_place: u32, drawn: &[(u32, usize)]) {
        for (place, route) in plan.routes.iter().enumerate() {
            let start = self.names.len() as u32;
            for (_, group) in drawn.iter().filter(|(r, _)| *r == place as u32) {
                self.names.extend_from_slice(&plan.groups[*group].name);
                self.names.push(b' ');
            }
            let end = self.names.len() as u32;
            if route.plain || end > start {
                let op = Op { message, target: place as u32, names: (start, end) };
                self.stage(route.link.index, op, plan_place, true);
            }
        }
    }

    fn stage_target(&mut self, plan: &Plan, message: u32, plan_place: u32, target: u32, from: &Arc<Link>) {
        let to = &plan.targets[target as usize];
        if !(Arc::ptr_eq(&to.link, from) && from.has(FLAG_NO_ECHO)) && grant(to) {
            self.stage_granted(plan, message, plan_place, target);
        }
    }

    fn stage_granted(&mut self, plan: &Plan, message: u32, plan_place: u32, target: u32) {
        let index = plan.targets[target as usize].link.index;
        self.stage(index, Op { message, target, names: (0, 0) }, plan_place, false);
    }

    #[inline]
    fn stage(&mut self, index: u32, op: Op, plan: u32, route: bool) {
        if self.stage.len() <= index as usize {
            self.stage.resize_with(index as usize + 1, Vec::new);
        }
        let ops = &mut self.stage[index as usize];
        if ops.is_empty() {
            self.touched.push(Touched { index, plan, target: op.target, route });
        }
        ops.push(op);
    }

    /// A member of a queue group, each as likely as any other: those behind a route count by their number
    /// (nats-server's queue weight). A message that came over a route stays here if any member here can take
    /// it; if all have left since it was sent, it goes on to another server's.
    fn draw(&mut self, plan: &Plan, group: usize, from: &Arc<Link>) -> Option<Draw> {
        let group = &plan.groups[group];
        let local = group.local.len() as u64;
        let routed = from.kind == LinkKind::Route;
        let remote = if routed { 0 } else { u64::from(group.remote_weight) };
        let ticket = self.below(local + remote);
        if ticket >= local
            && remote > 0
            && let Some(route) = drawn_route(plan, group, (ticket - local) as u32, from)
        {
            return Some(Draw::Route(route));
        }
        for step in 0..local {
            let target = group.local[((ticket + step) % local) as usize];
            let to = &plan.targets[target as usize];
            let own = Arc::ptr_eq(&to.link, from) && from.has(FLAG_NO_ECHO);
            // a member at its maximum leaves the message to the others
            if !own && to.link.close_reason().is_none() && grant(to) {
                return Some(Draw::Local(target));
            }
        }
        drawn_route(plan, group, 0, from).map(Draw::Route)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32) * bound) >> 32
    }

    fn finish_staged(&mut self, from: &Arc<Link>, read: &[u8]) {
        for i in 0..self.touched.len() {
            let touched = self.touched[i];
            let mut ops = std::mem::take(&mut self.stage[touched.index as usize]);
            let plan = self.plans[touched.plan as usize].clone();
            self.scratch.begin();
            let link = if touched.route {
                let link = &plan.routes[touched.target as usize].link;
                self.render_routed(link, read, &ops);
                link
            } else {
                let link = &plan.targets[touched.target as usize].link;
                self.render_messages(link, read, &ops);
                link
            };
            self.scratch.end();
            self.send(link, read, ops.len() as u64, from);
            ops.clear();
            self.stage[touched.index as usize] = ops;
        }
        self.touched.clear();
    }

    fn render_messages(&mut self, link: &Link, read: &[u8], ops: &[Op]) {
        let headers = link.has(FLAG_HEADERS);
        for op in ops {
            let message = &self.messages[op.message as usize];
            let target = &self.plans[message.plan as usize].targets[op.target as usize];
            self.scratch.message(read, op.message, &message.publish, target.sid(), headers);
            if link.has(FLAG_REPLIES) {
                self.note_reply(link, read, &message.publish);
            }
        }
    }

    #[cold]
    fn note_reply(&self, link: &Link, read: &[u8], publish: &Publish) {
        if publish.reply_len > 0 {
            link.reply_delivered(&read[publish.reply_range()], self.now_nanos);
        }
    }

    fn render_routed(&mut self, link: &Link, read: &[u8], ops: &[Op]) {
        let implied = link.has(FLAG_ACCOUNT_IMPLIED);
        let headers = link.has(FLAG_HEADERS);
        for op in ops {
            let message = &self.messages[op.message as usize];
            let names = &self.names[op.names.0 as usize..op.names.1 as usize];
            let account: &[u8] = if implied { &[] } else { &self.plans[message.plan as usize].account };
            self.scratch.routed(read, op.message, &message.publish, account, names, headers);
        }
    }

    fn send(&mut self, link: &Arc<Link>, read: &[u8], messages: u64, from: &Arc<Link>) {
        let mut rendering = Rendering {
            scratch: self.scratch.bytes(),
            read,
            segments: &self.scratch.segments,
            total: self.scratch.total,
            messages,
            message_bytes: self.scratch.message_bytes,
            bodies: &mut self.bodies,
        };
        let max = self.pending_bytes_max;
        let delivered = if (self.busy || self.filled) && rendering.total < DEFER_BYTES_MAX {
            let (delivered, flush) = link.output.defer(&mut rendering, max);
            if flush {
                if self.filled { &mut self.lazy } else { &mut self.dirty }.push(link.clone());
            }
            delivered
        } else {
            link.output.deliver(&*link.transport, &mut rendering, max)
        };
        self.settle(link, delivered);
        link.pause_if_congested(from, self.now_nanos, self.pending_bytes_max);
    }

    fn settle(&self, link: &Arc<Link>, delivered: Delivered) {
        match delivered {
            Delivered::Yes => link.release_if_drained(),
            Delivered::Closed => {}
            Delivered::Broken => link.close(CloseReason::WriteError),
            Delivered::Overflow => {
                self.broker.slow_consumers[0].fetch_add(1, Relaxed);
                link.close(CloseReason::SlowConsumerPendingBytes);
            }
        }
    }

    /// Queues protocol bytes (not messages) for a link, behind everything staged for it so far.
    pub fn push_protocol(&mut self, link: &Arc<Link>, bytes: &[u8]) {
        if link.output.push(bytes) {
            self.dirty.push(link.clone());
        }
    }

    /// Writes protocol bytes (not messages) to a link now, behind what waits for it.
    pub fn deliver_protocol(&mut self, link: &Arc<Link>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
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

    /// Writes what was put off in this round; `all`: also what waits for a publisher that is still sending.
    pub fn flush(&mut self, all: bool) {
        let mut links = std::mem::take(&mut self.dirty);
        for link in links.drain(..) {
            let delivered = link.output.flush(&*link.transport);
            self.settle(&link, delivered);
        }
        self.dirty = links;
        if all {
            let mut links = std::mem::take(&mut self.lazy);
            for link in links.drain(..) {
                let delivered = link.output.flush(&*link.transport);
                self.settle(&link, delivered);
            }
            self.lazy = links;
        }
    }

    /// The owner of `link` saw a writable edge.
    pub fn writable(&mut self, link: &Arc<Link>) {
        let delivered = link.output.writable(&*link.transport);
        self.settle(link, delivered);
    }

    /// Gives up what belongs to interest that is gone, a part a call: a stale plan would keep the links of its
    /// receivers, and with them their sockets, until another plan takes its slot. Call it about ten times a
    /// second: all is looked at within two seconds.
    pub fn sweep(&mut self) {
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

/// Gateway replies and Raft groups: no client may publish there (nats-server refuses these prefixes).
fn is_reserved(subject: &[u8]) -> bool {
    subject.starts_with(b"_GR_.") || subject.starts_with(b"$GR.") || subject.starts_with(b"$NRG.")
}

/// The route whose members hold the ticket; never the one that the message came over.
fn drawn_route(plan: &Plan, group: &Group, mut ticket: u32, from: &Link) -> Option<u32> {
    let others = || group.remote.iter().filter(|(route, _)| plan.routes[*route as usize].link.id != from.id);
    for (route, weight) in others() {
        if ticket < *weight {
            return Some(*route);
        }
        ticket -= weight;
    }
    others().next().map(|(route, _)| *route)
}

enum Draw {
    Local(u32),
    Route(u32),
}

/// Takes one delivery of a subscription, unless it is at its maximum. Its owner hears of the last one.
fn grant(to: &Target) -> bool {
    grant_many(to, 1) > 0
}

/// Up to so many deliveries to a target; fewer where it reaches its maximum, and then its owner ends it.
fn grant_many(to: &Target, wanted: u64) -> u64 {
    let (granted, last) = to.progress.take(wanted);
    if last {
        to.link.owner.post(ended(&to.link, to.subscription));
    }
    granted
}

fn ended(link: &Arc<Link>, subscription: u32) -> Command {
    Command::Ended { link: link.clone(), subscription }
}
