//! Plans by subject, for one worker: a table of 64-byte slots that grows when it is too small and shrinks when it is
//! not used any more.
//!
//! A subject has two places of two slots each: subjects that are published in turn and share their slots evict each
//! other every time. With one place of two slots that was a sixth of 100,000 subjects in 262,144 slots, with two
//! places it is none of them. A slot is valid while its generation is its account's; a stale one stays until it is
//! replaced or swept.

use crate::plan::Plan;
use std::rc::Rc;

/// Subjects that are looked for at once.
pub const LOOK_AHEAD: usize = 16;
/// Longest subject that is cached, in bytes. Longer ones are mostly inboxes, used once.
const SUBJECT_BYTES_MAX: usize = 36;
/// Sweeps after which every slot was looked at.
pub(crate) const SWEEP_PARTS: usize = 16;
const SLOTS_MIN: usize = 256;
/// A megabyte of slots.
const FAR_SLOTS: usize = 1 << 14;
/// 32 MB.
const SLOTS_MAX: usize = 1 << 19;
/// A table of more than [`FAR_SLOTS`] that is asked for less than a plan for so many slots during so many sweeps of
/// all of it in a row is given up: the burst that it grew for is over.
const IDLE_SLOTS: usize = 64;
const IDLE_SWEEPS: usize = 4;

#[repr(align(64))]
struct Slot {
    hash: u64,
    plan: Option<Rc<Plan>>,
    generation: u32,
    scope: u32,
    stamp: u16,
    len: u16,
    subject: [u8; SUBJECT_BYTES_MAX],
}

impl Default for Slot {
    fn default() -> Self {
        Slot {
            hash: 0,
            plan: None,
            generation: 0,
            scope: 0,
            stamp: 0,
            len: 0,
            subject: [0; SUBJECT_BYTES_MAX],
        }
    }
}

/// What a plan is looked up by.
#[derive(Clone, Copy)]
pub(crate) struct Key<'a> {
    pub scope: u32,
    pub subject: &'a [u8],
    /// Of the subject.
    pub hash: u64,
}

/// One subject has places of its own in each scope: clients and routes publish to the same ones.
#[inline]
fn mixed(hash: u64, scope: u32) -> u64 {
    hash ^ u64::from(scope).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The slots of a subject's first place.
#[inline]
fn first_place(mixed: u64, mask: usize) -> [usize; 2] {
    let place = mixed as usize & mask;
    [place, place ^ 1]
}

/// The slots of its second place.
#[inline]
fn second_place(mixed: u64, mask: usize) -> [usize; 2] {
    first_place(mixed.rotate_right(32), mask)
}

fn choices(mixed: u64, mask: usize) -> [usize; 4] {
    let ([a, b], [c, d]) = (first_place(mixed, mask), second_place(mixed, mask));
    [a, b, c, d]
}

pub(crate) struct PlanCache {
    slots: Vec<Slot>,
    /// Live slots that gave way since the table last grew.
    evicted: usize,
    /// Where the next sweep begins.
    swept: usize,
    /// Plans asked for since the last whole sweep, as far as was told.
    asked: usize,
    /// Whole sweeps in a row in which hardly any were.
    idle_sweeps: usize,
}

fn slots(count: usize) -> Vec<Slot> {
    std::iter::repeat_with(Slot::default).take(count).collect()
}

impl PlanCache {
    pub fn new() -> PlanCache {
        PlanCache { slots: slots(SLOTS_MIN), evicted: 0, swept: 0, asked: 0, idle_sweeps: 0 }
    }

    /// The plan of a subject if it is cached and `generation` of its stamp is what it was.
    #[inline]
    pub fn find(&self, key: Key<'_>, generation: impl Fn(u16) -> u32) -> Option<&Rc<Plan>> {
        let (mixed, mask) = (mixed(key.hash, key.scope), self.slots.len() - 1);
        let [place, beside] = first_place(mixed, mask);
        let mut slot = &self.slots[place];
        if slot.hash != key.hash {
            slot = &self.slots[beside];
            if slot.hash != key.hash {
                slot = self.second(key.hash, mixed);
            }
        }
        if slot.hash == key.hash
            && slot.scope == key.scope
            && slot.len as usize == key.subject.len()
            && slot.generation == generation(slot.stamp)
            && slot
                .subject
                .get(..key.subject.len())
                .is_some_and(|subject| subject::same(subject, key.subject))
        {
            slot.plan.as_ref()
        } else {
            None
        }
    }

    #[inline]
    fn second(&self, hash: u64, mixed: u64) -> &Slot {
        let [place, beside] = second_place(mixed, self.slots.len() - 1);
        let slot = &self.slots[place];
        if slot.hash == hash { slot } else { &self.slots[beside] }
    }

    /// Whether the table is too large for the processor's caches: then [`look_ahead`](Self::look_ahead) pays.
    #[inline]
    pub fn is_far(&self) -> bool {
        self.slots.len() >= FAR_SLOTS
    }

    /// Touches what looking for these subjects will need. Loads that do not depend on each other are under way at the
    /// same time, and the loops are so short that the processor sees all of them at once; one load after the other,
    /// each behind the handling of a message, would cost the way to memory every time.
    pub fn look_ahead(&self, hashes: &[u64], scope: u32) {
        let mask = self.slots.len() - 1;
        let mut seen = 0;
        for hash in hashes {
            seen ^= self.slots[first_place(mixed(*hash, scope), mask)[0]].hash;
        }
        std::hint::black_box(seen);
        let mut plans: [Option<&Plan>; LOOK_AHEAD] = [None; LOOK_AHEAD];
        for (plan, hash) in plans.iter_mut().zip(hashes) {
            let mixed = mixed(*hash, scope);
            let [place, beside] = first_place(mixed, mask);
            let slot = match &self.slots[place] {
                slot if slot.hash == *hash => slot,
                _ => match &self.slots[beside] {
                    slot if slot.hash == *hash => slot,
                    _ => self.second(*hash, mixed),
                },
            };
            *plan = slot.plan.as_deref();
        }
        let mut seen = 0;
        for plan in plans.into_iter().flatten() {
            seen ^= u64::from(plan.targets.first().is_some_and(|target| target.progress.is_limited()));
        }
        std::hint::black_box(seen);
    }

    /// Keeps a plan that was made when the stamp had that generation, if the subject is short enough.
    pub fn insert(
        &mut self,
        key: Key<'_>,
        (stamp, generation): (u16, u32),
        plan: &Rc<Plan>,
        is_live: impl Fn(u32, u16) -> u32,
    ) {
        let len = key.subject.len();
        if len > SUBJECT_BYTES_MAX {
            return;
        }
        let choices = choices(mixed(key.hash, key.scope), self.slots.len() - 1);
        let is_free = |slot: &Slot| slot.plan.is_none() || slot.generation != is_live(slot.scope, slot.stamp);
        // a stale plan of the same subject would be found first: it gives way before any other
        let (same, free) = (
            choices.iter().find(|place| self.slots[**place].hash == key.hash),
            choices.iter().find(|place| is_free(&self.slots[**place])),
        );
        let place = same.or(free).copied().unwrap_or_else(|| {
            self.evicted += 1;
            choices[self.evicted % choices.len()]
        });
        let slot = &mut self.slots[place];
        slot.hash = key.hash;
        slot.plan = Some(plan.clone());
        (slot.generation, slot.scope, slot.stamp, slot.len) = (generation, key.scope, stamp, len as u16);
        slot.subject[..len].copy_from_slice(key.subject);
        if self.evicted > self.slots.len() / 4 && self.slots.len() < SLOTS_MAX {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let count = (self.slots.len() * 4).min(SLOTS_MAX);
        self.evicted = 0;
        for slot in std::mem::replace(&mut self.slots, slots(count)) {
            let choices = choices(mixed(slot.hash, slot.scope), count - 1);
            let free = choices.iter().find(|place| self.slots[**place].plan.is_none());
            if let (Some(place), true) = (free, slot.plan.is_some()) {
                self.slots[*place] = slot;
            }
        }
    }

    /// So many plans were asked for: what tells a table in use from one whose burst is over.
    #[inline]
    pub fn note_asked(&mut self, plans: usize) {
        self.asked += plans;
    }

    /// Forgets the stale plans in the next part of the table.
    pub fn sweep(&mut self, is_live: impl Fn(u32, u16) -> u32) {
        let part = self.slots.len() / SWEEP_PARTS;
        if self.swept >= self.slots.len() {
            self.swept = 0;
            let is_idle = self.is_far() && self.asked < self.slots.len() / IDLE_SLOTS;
            self.idle_sweeps = if is_idle { self.idle_sweeps + 1 } else { 0 };
            self.asked = 0;
            if self.idle_sweeps >= IDLE_SWEEPS {
                return self.clear();
            }
        }
        for slot in self.slots.iter_mut().skip(self.swept).take(part) {
            if slot.plan.is_some() && slot.generation != is_live(slot.scope, slot.stamp) {
                slot.plan = None;
            }
        }
        self.swept += part;
    }

    /// Forgets everything, and gives the memory back.
    pub fn clear(&mut self) {
        *self = PlanCache::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(subject: &[u8]) -> Key<'_> {
        Key { scope: 0, subject, hash: subject::hash(7, subject) }
    }

    /// Publishes on `subjects` subjects in turn and returns how many plans were missing in the last turn.
    fn missing_after(cache: &mut PlanCache, subjects: usize, turns: usize) -> usize {
        let plan = Rc::new(Plan::default());
        let mut missing = 0;
        for _ in 0..turns {
            missing = 0;
            for number in 0..subjects {
                let subject = format!("orders.{number:06}");
                if cache.find(key(subject.as_bytes()), |_| 1).is_none() {
                    missing += 1;
                    cache.insert(key(subject.as_bytes()), (0, 1), &plan, |_, _| 1);
                }
            }
            cache.note_asked(subjects);
        }
        missing
    }

    #[test]
    fn subjects_in_turn_keep_their_plans_while_there_is_room() {
        let mut cache = PlanCache::new();
        assert_eq!(
            missing_after(&mut cache, 100_000, 5) / 1_000,
            0,
            "of 100,000 hardly any evict each other"
        );
        assert!(missing_after(&mut cache, 200_000, 5) < 10_000);
    }

    #[test]
    fn a_table_in_use_stays_and_one_whose_burst_is_over_is_given_back() {
        let mut cache = PlanCache::new();
        missing_after(&mut cache, 50_000, 3);
        assert!(cache.is_far());
        for _ in 0..10 * SWEEP_PARTS {
            cache.note_asked(1_000);
            cache.sweep(|_, _| 1);
        }
        assert!(cache.is_far());
        for _ in 0..(IDLE_SWEEPS + 2) * (SWEEP_PARTS + 1) {
            cache.sweep(|_, _| 1);
        }
        assert_eq!(cache.slots.len(), SLOTS_MIN);
    }

    #[test]
    fn a_stale_plan_is_not_found_and_gives_way_to_the_new_one() {
        let mut cache = PlanCache::new();
        let (old, new) = (Rc::new(Plan::default()), Rc::new(Plan::default()));
        cache.insert(key(b"orders"), (3, 1), &old, |_, _| 1);
        assert!(cache.find(key(b"orders"), |_| 2).is_none());
        cache.insert(key(b"orders"), (3, 2), &new, |_, _| 2);
        assert!(cache.find(key(b"orders"), |_| 2).is_some_and(|plan| Rc::ptr_eq(plan, &new)));
    }
}
