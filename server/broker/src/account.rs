//! An account as the data path sees it: its interest, the generations that stamp plans, and the routes that
//! must hear of changes.
//!
//! Never authenticates and holds no permissions: those are compiled by the `accounts` room.

use crate::interest::{Change, Interest, NONE, Progress, SERVER};
use crate::link::{FLAG_ACCOUNT_IMPLIED, Link};
use crate::registry::MayTell;
use crate::responses::Responses;
use crate::sharing::{Shadow, Shadows, Sharing, lift};
use hashbrown::HashMap;
use parking_lot::{RwLock, RwLockUpgradableReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

/// Plans are stamped per first token of the subject, so that a subscription to `a.b` costs nobody who publishes
/// to `c.d` its cached plans. Number of stamps; tokens share them by hash.
const STAMPS: usize = 256;

/// One account. Shared by all workers.
pub struct Account {
    /// Place in the registry.
    pub index: u32,
    /// Name, `$G` for the global one.
    pub name: Box<str>,
    seed: u64,
    pub(crate) shared: RwLock<Shared>,
    /// Answers of its services that are still under way to other accounts.
    pub(crate) responses: Responses,
    epoch: AtomicU64,
    global: AtomicU32,
    stamps: Box<[AtomicU32]>,
    /// Filters that are gone left memory to be given back: see [`Account::tidy`].
    is_sparse: AtomicBool,
    /// Interest as it was when that was last looked at, and how often it was.
    looked_at: AtomicU64,
    looks: AtomicU32,
    /// Open client connections.
    pub connections: AtomicU32,
    /// Connections on other servers, as far as they told.
    pub remote_connections: AtomicU32,
    /// Messages and bytes from clients, messages and bytes to clients.
    pub traffic: [AtomicU64; 4],
}

pub(crate) struct Shared {
    pub interest: Interest,
    routes: Vec<RouteEnd>,
    /// Mappings and imports; `None` for most accounts.
    pub sharing: Option<Arc<Sharing>>,
    /// By subscription: what stands for it in accounts that it imports from.
    pub shadows: HashMap<u32, Shadows>,
    /// Entries of the interest for imported services: monitoring shows them, plans do without.
    pub services: Vec<u32>,
}

/// A route that hears of this account's interest.
struct RouteEnd {
    link: Arc<Link>,
    may_tell: Option<MayTell>,
}

impl RouteEnd {
    fn may_tell(&self, filter: &[u8]) -> bool {
        self.may_tell.as_ref().is_none_or(|may_tell| may_tell(filter))
    }
}

/// Looks after which memory is given back though filters still go.
const LOOKS_MAX: u32 = 10;
/// Subscriptions that are removed under one lock.
const REMOVED_AT_ONCE: usize = 1_000;

/// Subscriptions that were removed.
#[derive(Default)]
struct Gone {
    count: u32,
    /// What stood for them in other accounts.
    shadows: Shadows,
    /// Their filters, if somebody may wait for an answer on one of them.
    filters: Vec<Box<[u8]>>,
}

/// What one route said: numbers of its subscriptions by account, filter and queue group. A number lives as long
/// as the filter and the group that it names.
pub type RemoteInterest = HashMap<(u32, u32, u32), u32>;

/// Links whose output grew and must be flushed by the caller.
pub type Dirty = Vec<Arc<Link>>;

impl Account {
    /// An account without interest.
    pub fn new(index: u32, name: &str, seed: u64) -> Account {
        Account {
            index,
            name: name.into(),
            seed,
            shared: RwLock::new(Shared {
                interest: Interest::new(seed),
                routes: Vec::new(),
                sharing: None,
                shadows: HashMap::new(),
                services: Vec::new(),
            }),
            responses: Responses::default(),
            epoch: AtomicU64::new(0),
            global: AtomicU32::new(1),
            stamps: (0..STAMPS).map(|_| AtomicU32::new(0)).collect(),
            is_sparse: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
            looks: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            remote_connections: AtomicU32::new(0),
            traffic: Default::default(),
        }
    }

    /// The stamp's place for a subject.
    #[inline]
    pub fn stamp_of(&self, subject: &[u8]) -> u16 {
        let token = subject.iter().position(|b| *b == b'.').map_or(subject, |dot| &subject[..dot]);
        (subject::hash(self.seed, token) >> 20) as u16 % STAMPS as u16
    }

    /// Hash of a subject or name as this account's interest uses it.
    #[inline]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        subject::hash(self.seed, bytes)
    }

    /// The current generation at a stamp's place. Read it before matching.
    #[inline]
    pub fn generation(&self, stamp: u16) -> u32 {
        let stamp = &self.stamps[stamp as usize % STAMPS];
        self.global.load(Acquire).wrapping_add(stamp.load(Acquire))
    }

    /// A number that changes with every change of interest.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Lets every plan of the account expire.
    pub fn expire_plans(&self) {
        self.epoch.fetch_add(1, Release);
        self.global.fetch_add(1, Release);
    }

    fn bump(&self, filter: &[u8]) {
        match filter.first() {
            Some(b'*' | b'>') => self.expire_plans(),
            _ => {
                self.epoch.fetch_add(1, Release);
                self.stamps[self.stamp_of(filter) as usize].fetch_add(1, Release);
            }
        }
    }

    /// Reads the interest.
    pub fn read<R>(&self, read: impl FnOnce(&Interest) -> R) -> R {
        read(&self.shared.read().interest)
    }

    /// Adds a local subscription and tells the routes.
    pub fn subscribe(
        &self,
        link: &Link,
        filter: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        dirty: &mut Dirty,
    ) -> u32 {
        let mut shared = self.shared.write();
        let (number, change) = shared.interest.insert(filter, queue, sid, link.index, true);
        // routes hear it under the lock: two changes of one filter must reach them in the order of the table
        if let Some(change) = change {
            self.tell(&shared.routes, change, filter, queue, dirty);
        }
        let imports = shared.sharing.is_some();
        drop(shared);
        self.bump(filter);
        link.subscriptions.fetch_add(1, Relaxed);
        if imports {
            self.cast(link, number, (filter, queue, sid), dirty);
        }
        number
    }

    /// Mappings and imports, if the account has any.
    pub(crate) fn sharing(&self) -> Option<Arc<Sharing>> {
        self.shared.read().sharing.clone()
    }

    /// Interest of this server itself: other servers hear of it, no connection does.
    pub(crate) fn subscribe_server(&self, filter: &[u8], dirty: &mut Dirty) {
        let mut shared = self.shared.write();
        if let (_, Some(change)) = shared.interest.insert(filter, None, b"", SERVER, true) {
            self.tell(&shared.routes, change, filter, None, dirty);
        }
        drop(shared);
        self.bump(filter);
    }

    /// Adds what stands here for a subscription of an importing account.
    pub(crate) fn add_shadow(
        &self,
        link: &Link,
        (filter, queue, sid): (&[u8], Option<&[u8]>, &[u8]),
        (shadow, progress): (Shadow, Arc<Progress>),
        dirty: &mut Dirty,
    ) -> u32 {
        let mut shared = self.shared.write();
        let (number, change) = shared.interest.insert(filter, queue, sid, link.index, true);
        shared.interest.set_shadow(number, shadow, progress);
        if let Some(change) = change {
            self.tell(&shared.routes, change, filter, queue, dirty);
        }
        drop(shared);
        self.bump(filter);
        number
    }

    /// Removes what stood here for a subscription of `link` in an importing account.
    pub(crate) fn remove_shadow(&self, link: u32, number: u32, dirty: &mut Dirty) {
        let mut shared = self.shared.write();
        if shared.interest.is_shadow(number) {
            self.remove(&mut shared, link, [number], true, dirty);
        }
    }

    /// Client connections here and on other servers.
    pub fn connections_everywhere(&self) -> u32 {
        self.connections.load(Relaxed) + self.remote_connections.load(Relaxed)
    }

    /// Adds a subscription that no other server hears of.
    pub fn subscribe_here(&self, link: &Link, filter: &[u8], sid: &[u8]) -> u32 {
        let (number, _) = self.shared.write().interest.insert(filter, None, sid, link.index, false);
        self.bump(filter);
        link.subscriptions.fetch_add(1, Relaxed);
        number
    }

    /// Removes a subscription made by [`subscribe_here`](Self::subscribe_here).
    pub fn unsubscribe_here(&self, link: &Link, number: u32) {
        let gone = self.remove(&mut self.shared.write(), link.index, [number], false, &mut Vec::new());
        link.subscriptions.fetch_sub(gone.count, Relaxed);
    }

    /// Removes local subscriptions of `link` and tells the routes. Numbers that are not its own are skipped.
    pub fn unsubscribe(&self, link: &Link, numbers: impl IntoIterator<Item = u32>, dirty: &mut Dirty) {
        let mut numbers = numbers.into_iter().peekable();
        while numbers.peek().is_some() {
            // in parts: whoever publishes or subscribes meanwhile waits for one part, not for all of a client's
            let part = numbers.by_ref().take(REMOVED_AT_ONCE);
            let gone = self.remove(&mut self.shared.write(), link.index, part, true, dirty);
            link.subscriptions.fetch_sub(gone.count, Relaxed);
            lift(link.index, gone.shadows, dirty);
            if self.responses.is_awaited() {
                self.responses.interest_ended(self, &gone.filters);
            }
        }
    }

    fn remove(
        &self,
        shared: &mut RwLockWriteGuard<'_, Shared>,
        link: u32,
        numbers: impl IntoIterator<Item = u32>,
        local: bool,
        dirty: &mut Dirty,
    ) -> Gone {
        let (mut text, mut gone, mut wild) = (Vec::new(), Gone::default(), false);
        let awaited = self.responses.is_awaited();
        for number in numbers {
            if !shared.interest.is_of(number, link) {
                continue;
            }
            text.clear();
            let filter = shared.interest.get(number).filter;
            shared.interest.text(filter, &mut text);
            let removed = shared.interest.remove(number, local);
            if let Some(removed) = removed
                && let Some(change) = removed.change
            {
                let queue = (change.queue != NONE).then_some(&removed.queue[..]);
                self.tell(&shared.routes, change, &removed.text, queue, dirty);
            }
            wild |= matches!(text.first(), Some(b'*' | b'>'));
            if gone.count < 16 && !wild {
                self.bump(&text);
            }
            gone.count += 1;
            if !shared.shadows.is_empty()
                && let Some(shadows) = shared.shadows.remove(&number)
            {
                gone.shadows.extend(shadows);
            }
            if awaited {
                gone.filters.push(text.as_slice().into());
            }
        }
        if wild || gone.count >= 16 {
            self.expire_plans();
        }
        if shared.interest.is_sparse() && !self.is_sparse.load(Relaxed) {
            self.is_sparse.store(true, Relaxed);
        }
        gone
    }

    /// Gives back the memory of filters that are gone, once they have stopped going: to be called about once a second
    /// from a thread that may wait. With many left that takes a tenth of a second, in which whoever publishes goes on
    /// matching; only who subscribes meanwhile waits.
    pub(crate) fn tidy(&self) {
        if !self.is_sparse.load(Relaxed) {
            return;
        }
        let epoch = self.epoch();
        let looks = self.looks.fetch_add(1, Relaxed);
        if self.looked_at.swap(epoch, Relaxed) != epoch && looks < LOOKS_MAX {
            return;
        }
        self.looks.store(0, Relaxed);
        let shared = self.shared.upgradable_read();
        self.is_sparse.store(false, Relaxed);
        if !shared.interest.is_sparse() {
            return;
        }
        let rebuilt = shared.interest.rebuilt_index();
        let mut shared = RwLockUpgradableReadGuard::upgrade(shared);
        let old = shared.interest.replace_index(rebuilt);
        drop(shared);
        drop(old);
    }

    /// Whether [`tidy`](Self::tidy) has something to do.
    pub(crate) fn is_sparse(&self) -> bool {
        self.is_sparse.load(Relaxed)
    }

    fn tell(
        &self,
        routes: &[RouteEnd],
        change: Change,
        filter: &[u8],
        queue: Option<&[u8]>,
        dirty: &mut Dirty,
    ) {
        let mut line = Vec::new();
        for route in routes.iter().filter(|route| route.may_tell(filter)) {
            line.clear();
            self.interest_line(&route.link, filter, queue, change.members, &mut line);
            if route.link.output.push(&line) {
                dirty.push(route.link.clone());
            }
        }
    }

    /// `RS+ account subject [queue weight]` or `RS- account subject [queue]`.
    fn interest_line(
        &self,
        route: &Link,
        filter: &[u8],
        queue: Option<&[u8]>,
        members: u32,
        line: &mut Vec<u8>,
    ) {
        line.extend_from_slice(if members > 0 { b"RS+ " } else { b"RS- " });
        if !route.has(FLAG_ACCOUNT_IMPLIED) {
            line.extend_from_slice(self.name.as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(filter);
        if let Some(queue) = queue {
            line.push(b' ');
            line.extend_from_slice(queue);
            if members > 0 {
                line.extend_from_slice(format!(" {members}").as_bytes());
            }
        }
        line.extend_from_slice(b"\r\n");
    }

    /// From now on `route` hears of this account's interest, beginning with all there is.
    pub fn add_route(&self, route: &Arc<Link>, may_tell: Option<MayTell>, dirty: &mut Dirty) {
        let mut shared = self.shared.write();
        if shared.routes.iter().any(|r| r.link.index == route.index) {
            return;
        }
        let end = RouteEnd { link: route.clone(), may_tell };
        let mut lines = Vec::new();
        shared.interest.local(|filter, queue, members| {
            if end.may_tell(filter) {
                self.interest_line(route, filter, queue, members, &mut lines);
            }
        });
        if route.output.push(&lines) {
            dirty.push(route.clone());
        }
        shared.routes.push(end);
    }

    /// `route` is gone: forgets it and the interest that came over it.
    pub fn remove_route(&self, route: &Link, dirty: &mut Dirty) {
        let mut numbers = Vec::new();
        {
            let mut shared = self.shared.write();
            shared.routes.retain(|r| r.link.index != route.index);
            shared.interest.each(|number, subscription| {
                if subscription.link == route.index {
                    numbers.push(number);
                }
            });
        }
        for part in numbers.chunks(REMOVED_AT_ONCE) {
            let numbers = part.iter().copied();
            let gone = self.remove(&mut self.shared.write(), route.index, numbers, false, dirty);
            route.subscriptions.fetch_sub(gone.count, Relaxed);
        }
    }

    /// Interest of another server, heard over `route`; heard again, it only changes the weight. `known` is what
    /// that route said before.
    pub fn remote_subscribe(
        &self,
        route: &Link,
        known: &mut RemoteInterest,
        filter: &[u8],
        queue: Option<&[u8]>,
        weight: u32,
    ) {
        let mut shared = self.shared.write();
        let key = self.remote_key(&shared.interest, filter, queue);
        let number = match key.and_then(|key| known.get(&key)) {
            Some(number) => *number,
            None => {
                route.subscriptions.fetch_add(1, Relaxed);
                let (number, _) = shared.interest.insert(filter, queue, &[], route.index, false);
                let record = shared.interest.get(number);
                known.insert((self.index, record.filter.value(), record.queue), number);
                number
            }
        };
        shared.interest.set_weight(number, weight.max(1));
        drop(shared);
        self.bump(filter);
    }

    /// Interest of another server that ended.
    pub fn remote_unsubscribe(
        &self,
        route: &Link,
        known: &mut RemoteInterest,
        filter: &[u8],
        queue: Option<&[u8]>,
    ) {
        let mut shared = self.shared.write();
        let key = self.remote_key(&shared.interest, filter, queue);
        if let Some(number) = key.and_then(|key| known.remove(&key)) {
            let gone = self.remove(&mut shared, route.index, [number], false, &mut Vec::new());
            route.subscriptions.fetch_sub(gone.count, Relaxed);
        }
    }

    fn remote_key(
        &self,
        interest: &Interest,
        filter: &[u8],
        queue: Option<&[u8]>,
    ) -> Option<(u32, u32, u32)> {
        let filter = interest.find(filter)?;
        let queue = match queue {
            Some(name) => interest.queue_number(name)?,
            None => NONE,
        };
        Some((self.index, filter.value(), queue))
    }

    /// Sets when a subscription ends; `true` when that many messages were delivered already.
    pub fn limit(&self, link: &Link, number: u32, max: u64) -> bool {
        let shared = self.shared.read();
        if !shared.interest.is_of(number, link.index) {
            return false;
        }
        shared.interest.progress(number).limit(max)
    }
}
