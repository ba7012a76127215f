//! Who wants what in one account.
//!
//! Owns the subscriptions of an account, by filter, and the counts of local interest that routes are told.
//! Kept small: a subscription is one 40-byte record in a vector, linked to the others of its filter; filters
//! are dense numbers of `subject::Trie`. Everything that empties is freed.
//!
//! Never decides who gets a message: that is the plan's.

use hashbrown::{HashMap, HashTable};
use parking_lot::RwLock;
use std::sync::Arc;
use subject::{FilterId, Trie};

pub use crate::progress::Progress;
use crate::sharing::Shadow;

/// Marks "none" in the indices of this module.
pub const NONE: u32 = u32::MAX;
/// In place of a link: interest of this server itself, which no connection hears of.
pub const SERVER: u32 = u32::MAX - 1;

const SID_INLINE: usize = 15;

/// One subscription.
#[derive(Clone, Copy, Debug)]
pub struct Subscription {
    /// The filter it hangs at.
    pub filter: FilterId,
    /// The link that owns it: its place in the broker's registry.
    pub link: u32,
    /// Its queue group, [`NONE`] without one.
    pub queue: u32,
    next: u32,
    previous: u32,
    /// On a route: how many members the queue group has behind it. Else unused.
    pub weight: u32,
    sid_len: u8,
    sid: [u8; SID_INLINE],
}

/// What a filter collects.
#[derive(Clone, Copy, Debug)]
struct Filter {
    first: u32,
    /// Local subscriptions without a queue group.
    local_plain: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Filter { first: NONE, local_plain: 0 }
    }
}

/// A change of local interest that other servers must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The filter.
    pub filter: FilterId,
    /// The queue group, [`NONE`] for plain interest.
    pub queue: u32,
    /// Members now: 0 means that the interest is gone.
    pub members: u32,
}

/// The subscriptions of one account. Shared behind a read-write lock; read on plan misses only.
pub struct Interest {
    seed: u64,
    trie: Trie,
    filters: Vec<Filter>,
    subscriptions: Vec<Subscription>,
    free: Vec<u32>,
    queues: QueueNames,
    /// Local members of (filter, queue).
    queue_members: HashMap<(u32, u32), u32>,
    long_sids: HashMap<u32, Box<[u8]>>,
    progress: RwLock<HashMap<u32, Arc<Progress>>>,
    /// Subscriptions here that stand for one of an importing account.
    shadows: HashMap<u32, Shadow>,
    live: usize,
    added: u64,
    /// Live records from [`Interest::upper_start`] on.
    upper_used: usize,
}

struct QueueNames {
    seed: u64,
    names: Vec<Option<(Box<[u8]>, u32)>>,
    free: Vec<u32>,
    index: HashTable<u32>,
}

impl QueueNames {
    fn acquire(&mut self, name: &[u8]) -> u32 {
        let seed = self.seed;
        let hash = subject::hash(seed, name);
        let names = &mut self.names;
        if let Some(&i) =
            self.index.find(hash, |i| matches!(&names[*i as usize], Some((n, _)) if **n == *name))
        {
            if let Some((_, uses)) = &mut names[i as usize] {
                *uses += 1;
            }
            return i;
        }
        let entry = Some((name.into(), 1));
        let i = match self.free.pop() {
            Some(i) => {
                self.names[i as usize] = entry;
                i
            }
            None => {
                self.names.push(entry);
                self.names.len() as u32 - 1
            }
        };
        let names = &self.names;
        self.index.insert_unique(hash, i, |i| {
            names[*i as usize].as_ref().map_or(0, |(n, _)| subject::hash(seed, n))
        });
        i
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = subject::hash(self.seed, name);
        self.index.find(hash, |i| matches!(&self.names[*i as usize], Some((n, _)) if **n == *name)).copied()
    }

    fn name(&self, i: u32) -> &[u8] {
        self.names.get(i as usize).and_then(Option::as_ref).map_or(&[], |(name, _)| name)
    }

    fn release(&mut self, i: u32) {
        let Some(Some((name, uses))) = self.names.get_mut(i as usize) else { return };
        *uses -= 1;
        if *uses == 0 {
            let hash = subject::hash(self.seed, name);
            if let Ok(entry) = self.index.find_entry(hash, |j| *j == i) {
                entry.remove();
            }
            self.names[i as usize] = None;
            self.free.push(i);
        }
    }
}

impl Interest {
    /// No interest. `seed` makes hashes unpredictable to clients.
    pub fn new(seed: u64) -> Interest {
        Interest {
            seed,
            trie: Trie::new(seed),
            filters: Vec::new(),
            subscriptions: Vec::new(),
            free: Vec::new(),
            queues: QueueNames { seed, names: Vec::new(), free: Vec::new(), index: HashTable::new() },
            queue_members: HashMap::new(),
            long_sids: HashMap::new(),
            progress: RwLock::default(),
            shadows: HashMap::new(),
            live: 0,
            added: 0,
            upper_used: 0,
        }
    }

    /// Hash of a subject or name as this interest uses it.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        subject::hash(self.seed, bytes)
    }

    /// Adds a subscription of `link`. `local` interest (clients, internal) is counted for the routes.
    pub fn insert(
        &mut self,
        filter: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        link: u32,
        local: bool,
    ) -> (u32, Option<Change>) {
        let (id, _) = self.trie.insert(filter);
        let place = id.index();
        if self.filters.len() <= place {
            self.filters.resize(place + 1, Filter::default());
        }
        let queue = queue.map_or(NONE, |name| self.queues.acquire(name));
        let mut short = [b' '; SID_INLINE];
        let sid_len = sid.len().min(SID_INLINE + 1) as u8;
        if sid.len() <= SID_INLINE {
            short[..sid.len()].copy_from_slice(sid);
        }
        let head = self.filters[place].first;
        let record = Subscription {
            filter: id,
            link,
            queue,
            next: head,
            previous: NONE,
            weight: 1,
            sid_len,
            sid: short,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.subscriptions[number as usize] = record;
                number
            }
            None => {
                if self.subscriptions.len().is_power_of_two() {
                    self.upper_used = 0; // the upper half begins anew, with this record
                }
                self.subscriptions.push(record);
                self.subscriptions.len() as u32 - 1
            }
        };
        self.upper_used += usize::from(number as usize >= self.upper_start());
        if sid.len() > SID_INLINE {
            self.long_sids.insert(number, sid.into());
        }
        if head != NONE {
            self.subscriptions[head as usize].previous = number;
        }
        self.filters[place].first = number;
        self.live += 1;
        self.added += 1;
        let change = local.then(|| self.count(id, queue, true)).flatten();
        (number, change)
    }

    /// Removes a subscription. The caller knows that `number` is live.
    pub fn remove(&mut self, number: u32, local: bool) -> Option<Removed> {
        let record = *self.subscriptions.get(number as usize)?;
        if record.link == NONE {
            return None;
        }
        let place = record.filter.index();
        match record.previous {
            NONE => self.filters[place].first = record.next,
            previous => self.subscriptions[previous as usize].next = record.next,
        }
        if record.next != NONE {
            self.subscriptions[record.next as usize].previous = record.previous;
        }
        let mut removed = Removed { change: None, text: Vec::new(), queue: Vec::new() };
        if local && let Some(change) = self.count(record.filter, record.queue, false) {
            self.trie.text(record.filter, &mut removed.text);
            removed.queue.extend_from_slice(self.queues.name(record.queue));
            removed.change = Some(change);
        }
        if record.sid_len as usize > SID_INLINE {
            self.long_sids.remove(&number);
        }
        self.progress.get_mut().remove(&number);
        if !self.shadows.is_empty() {
            self.shadows.remove(&number);
        }
        if record.queue != NONE {
            self.queues.release(record.queue);
        }
        if self.filters[place].first == NONE {
            self.trie.remove(record.filter);
            self.filters[place] = Filter::default();
        }
        self.subscriptions[number as usize].link = NONE;
        self.free.push(number);
        self.upper_used -= usize::from(number as usize >= self.upper_start());
        self.live -= 1;
        self.shrink();
        Some(removed)
    }

    /// Gives memory back after a burst of subscriptions is gone.
    fn shrink(&mut self) {
        if self.live == 0 && self.subscriptions.capacity() > 1024 {
            self.subscriptions = Vec::new();
            self.free = Vec::new();
            self.filters = Vec::new();
            self.trie = Trie::new(self.seed);
            self.upper_used = 0;
            self.shrink_tables();
        } else if self.subscriptions.len() > 4096
            && self.upper_used == 0
            && self.live * 4 < self.subscriptions.len()
        {
            self.trim();
        }
    }

    /// The first number of the upper half: the greatest power of two below the number of records.
    fn upper_start(&self) -> usize {
        self.subscriptions.len().next_power_of_two() / 2
    }

    /// Drops the free records at the end of the vector, at least half of it: records keep their numbers.
    fn trim(&mut self) {
        #[cfg(test)]
        tests::TRIMS.with(|trims| trims.set(trims.get() + 1));
        let end = self.subscriptions.iter().rposition(|s| s.link != NONE).map_or(0, |i| i + 1);
        self.subscriptions.truncate(end);
        self.subscriptions.shrink_to_fit();
        self.free.retain(|number| (*number as usize) < end);
        self.free.shrink_to_fit();
        let upper = &self.subscriptions[self.upper_start()..];
        self.upper_used = upper.iter().filter(|record| record.link != NONE).count();
    }

    /// Whether the index of filters is mostly unused memory: then [`replace_index`](Self::replace_index) is due.
    pub fn is_sparse(&self) -> bool {
        self.trie.is_sparse()
    }

    /// The index in tables of the right size. Work in proportion to the filters left; reading may go on meanwhile.
    pub fn rebuilt_index(&self) -> Trie {
        self.trie.rebuilt()
    }

    /// Puts the index that [`rebuilt_index`](Self::rebuilt_index) made in the place of the one there is, if nothing
    /// was added or removed between. Returns that one: whoever drops it should hold no lock.
    pub fn replace_index(&mut self, rebuilt: Trie) -> Trie {
        let old = std::mem::replace(&mut self.trie, rebuilt);
        self.filters.truncate(self.trie.ids_end());
        self.filters.shrink_to_fit();
        self.shrink_tables();
        old
    }

    fn shrink_tables(&mut self) {
        self.progress.get_mut().shrink_to_fit();
        self.long_sids.shrink_to_fit();
        self.queue_members.shrink_to_fit();
        self.shadows.shrink_to_fit();
    }

    /// Counts local interest up or down; `Some` when other servers must be told.
    fn count(&mut self, filter: FilterId, queue: u32, up: bool) -> Option<Change> {
        if queue == NONE {
            let count = &mut self.filters[filter.index()].local_plain;
            *count = if up { *count + 1 } else { count.saturating_sub(1) };
            let told = if up { *count == 1 } else { *count == 0 };
            return told.then_some(Change { filter, queue, members: *count });
        }
        let key = (filter.value(), queue);
        let count = self.queue_members.entry(key).or_insert(0);
        *count = if up { *count + 1 } else { count.saturating_sub(1) };
        let members = *count;
        if members == 0 {
            self.queue_members.remove(&key);
        }
        Some(Change { filter, queue, members })
    }

    /// Calls `each` with every change that a server needs which knows nothing yet.
    pub fn local(&self, mut each: impl FnMut(&[u8], Option<&[u8]>, u32)) {
        let mut text = Vec::new();
        for id in self.trie.iter() {
            if self.filters.get(id.index()).is_some_and(|f| f.local_plain > 0) {
                text.clear();
                self.trie.text(id, &mut text);
                each(&text, None, 1);
            }
        }
        for (&(filter, queue), &members) in &self.queue_members {
            text.clear();
            self.trie.text(FilterId::from_value(filter), &mut text);
            each(&text, Some(self.queues.name(queue)), members);
        }
    }

    /// Appends the numbers of all subscriptions that match a literal subject.
    pub fn matches(&self, subject: &[u8], hash: u64, filters: &mut Vec<FilterId>, out: &mut Vec<u32>) {
        filters.clear();
        self.trie.matches(subject, hash, filters);
        for id in filters.iter() {
            let mut number = self.filters[id.index()].first;
            while number != NONE {
                out.push(number);
                number = self.subscriptions[number as usize].next;
            }
        }
    }

    /// A live record.
    pub fn get(&self, number: u32) -> &Subscription {
        &self.subscriptions[number as usize]
    }

    /// Sets how many queue members a route subscription stands for.
    pub fn set_weight(&mut self, number: u32, weight: u32) {
        if let Some(record) = self.subscriptions.get_mut(number as usize) {
            record.weight = weight;
        }
    }

    /// The client's name for a subscription.
    pub fn sid(&self, number: u32) -> &[u8] {
        let record = self.get(number);
        if record.sid_len as usize > SID_INLINE {
            self.long_sids.get(&number).map_or(&[], |sid| sid)
        } else {
            &record.sid[..record.sid_len as usize]
        }
    }

    /// Whether `number` is a live subscription of `link`.
    pub fn is_of(&self, number: u32, link: u32) -> bool {
        self.subscriptions.get(number as usize).is_some_and(|s| s.link == link)
    }

    /// Text of a filter.
    pub fn text(&self, filter: FilterId, out: &mut Vec<u8>) {
        self.trie.text(filter, out);
    }

    /// The filter of that text, if anybody subscribed to it.
    pub fn find(&self, filter: &[u8]) -> Option<FilterId> {
        self.trie.find(filter)
    }

    /// Name of a queue group; empty for [`NONE`].
    pub fn queue_name(&self, queue: u32) -> &[u8] {
        self.queues.name(queue)
    }

    /// Number of a queue group by name.
    pub fn queue_number(&self, name: &[u8]) -> Option<u32> {
        self.queues.find(name)
    }

    /// The delivery count of a subscription, made when first asked for. A read lock on the interest is enough.
    pub fn progress(&self, number: u32) -> Arc<Progress> {
        if let Some(progress) = self.progress.read().get(&number) {
            return progress.clone();
        }
        self.progress.write().entry(number).or_default().clone()
    }

    /// Makes a subscription stand for one of an importing account, whose deliveries count with its own.
    pub(crate) fn set_shadow(&mut self, number: u32, shadow: Shadow, progress: Arc<Progress>) {
        self.progress.get_mut().insert(number, progress);
        self.shadows.insert(number, shadow);
    }

    /// What a subscription stands for, if it stands for one of another account.
    pub(crate) fn shadow(&self, number: u32) -> Option<&Shadow> {
        if self.shadows.is_empty() { None } else { self.shadows.get(&number) }
    }

    /// Whether a subscription stands for one of another account.
    pub fn is_shadow(&self, number: u32) -> bool {
        self.shadow(number).is_some()
    }

    /// Messages delivered to a subscription so far, and after how many it ends (0 for never).
    pub fn progress_of(&self, number: u32) -> (u64, u64) {
        self.progress.read().get(&number).map_or((0, 0), |p| p.counts())
    }

    /// Subscriptions ever added and ever removed.
    pub fn changes(&self) -> (u64, u64) {
        (self.added, self.added - self.live as u64)
    }

    /// Whether a subscription reached its maximum and only waits for its owner to end it.
    pub fn is_spent(&self, number: u32) -> bool {
        self.progress.read().get(&number).is_some_and(|progress| progress.is_spent())
    }

    /// Live subscriptions.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether nobody subscribes to anything.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Calls `each` with the number of every live subscription.
    pub fn each(&self, mut each: impl FnMut(u32, &Subscription)) {
        for (number, record) in self.subscriptions.iter().enumerate() {
            if record.link != NONE {
                each(number as u32, record);
            }
        }
    }
}

/// What a removal leaves to be told.
#[derive(Debug)]
pub struct Removed {
    /// The change of local interest, if other servers must hear of it.
    pub change: Option<Change>,
    /// Text of the filter; filled when there is a change.
    pub text: Vec<u8>,
    /// Name of the queue group; filled when there is a change.
    pub queue: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        /// How often the free records at the end were gone through.
        pub(super) static TRIMS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[test]
    fn a_mass_removal_looks_for_memory_to_give_back_a_few_times_only() {
        const SUBSCRIPTIONS: usize = 20_000;
        let mut interest = Interest::new(1);
        let mut numbers: Vec<u32> = (0..SUBSCRIPTIONS)
            .map(|n| interest.insert(format!("unit.{n}").as_bytes(), None, b"1", 0, true).0)
            .collect();
        // What stays longest lies beyond the half, with free records on both sides.
        let middle = numbers.drain(SUBSCRIPTIONS / 8 * 5..SUBSCRIPTIONS / 8 * 6).collect::<Vec<_>>();
        for number in numbers.into_iter().chain(middle) {
            assert!(interest.remove(number, true).is_some());
        }
        let trims = TRIMS.with(std::cell::Cell::get);
        assert!((1..20).contains(&trims), "{trims} looks at the free records");
        let kept = [interest.subscriptions.capacity(), interest.free.capacity()];
        assert!(kept.iter().all(|capacity| *capacity <= 4096), "{kept:?}");
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back_in_whatever_order_it_goes() {
        let mut random = 1u64;
        for stay in [0, 1, 7, 100] {
            let mut interest = Interest::new(1);
            for n in 0..stay {
                interest.insert(format!("stays.{n}").as_bytes(), None, b"1", 0, true);
            }
            let mut numbers: Vec<u32> = (0..20_000)
                .map(|n| interest.insert(format!("unit.{n}").as_bytes(), None, b"1", 0, true).0)
                .collect();
            while !numbers.is_empty() {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let number = numbers.swap_remove((random >> 33) as usize % numbers.len());
                assert!(interest.remove(number, true).is_some());
            }
            assert_eq!(interest.len(), stay);
            assert!(interest.subscriptions.capacity() <= 4096, "{stay} stay");
            assert!(interest.free.capacity() <= 4096, "{stay} stay");
        }
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back_though_one_subscription_stays() {
        let mut interest = Interest::new(1);
        interest.insert(b"stays", None, b"1", 0, true);
        let numbers: Vec<u32> = (0..20_000)
            .map(|n| interest.insert(format!("unit.{n}").as_bytes(), None, b"1", 0, true).0)
            .collect();
        // Ten clients in turn, whose subscriptions lie side by side.
        for client in 0..10 {
            for number in numbers.iter().skip(client).step_by(10) {
                assert!(interest.remove(*number, true).is_some());
                if interest.is_sparse() {
                    let rebuilt = interest.rebuilt_index();
                    interest.replace_index(rebuilt);
                }
            }
        }
        let kept = [interest.subscriptions.capacity(), interest.free.capacity(), interest.filters.capacity()];
        assert!(kept.iter().all(|capacity| *capacity <= 4096), "{kept:?}");
        assert_eq!(interest.insert(b"unit.1", None, b"1", 0, true).1.map(|change| change.members), Some(1));
    }
}
