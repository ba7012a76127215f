//! Plans by subject, for one worker: a table of 64-byte slots, two to a place, that grows when it is too small.
//!
//! Two to a place, because subjects that are published in turn and share a slot would evict each other every time.
//! A slot is valid while its generation is its account's; a stale one stays until it is replaced or swept.

use crate::plan::Plan;
use std::rc::Rc;

/// Longest subject that is cached, in bytes. Longer ones are mostly inboxes, used once.
const SUBJECT_BYTES_MAX: usize = 36;
/// Sweeps after which every slot was looked at.
pub(crate) const SWEEP_PARTS: usize = 16;
const SLOTS_MIN: usize = 256;
/// A megabyte of slots.
const FAR_SLOTS: usize = 1 << 14;
const SLOTS_MAX: usize = 1 << 18;

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

impl Key<'_> {
    #[inline]
    fn place(&self) -> usize {
        place(self.hash, self.scope)
    }
}

/// One subject has a slot of its own in each scope: clients and routes publish to the same ones.
#[inline]
fn place(hash: u64, scope: u32) -> usize {
    (hash ^ u64::from(scope).wrapping_mul(0x9e37_79b9_7f4a_7c15)) as usize
}

pub(crate) struct PlanCache {
    slots: Vec<Slot>,
    /// Live slots that gave way since the table last grew.
    evicted: usize,
    /// Where the next sweep begins.
    swept: usize,
}

fn slots(count: usize) -> Vec<Slot> {
    std::iter::repeat_with(Slot::default).take(count).collect()
}

impl PlanCache {
    pub fn new() -> PlanCache {
        PlanCache { slots: slots(SLOTS_MIN), evicted: 0, swept: 0 }
    }

    /// The plan of a subject if it is cached and `generation` of its stamp is what it was.
    #[inline]
    pub fn find(&self, key: Key<'_>, generation: impl Fn(u16) -> u32) -> Option<&Rc<Plan>> {
        let place = key.place() & (self.slots.len() - 1);
        let mut slot = &self.slots[place];
        if slot.hash != key.hash {
            slot = &self.slots[place ^ 1];
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

    /// Whether the table is too large for the processor's caches: then [`expect`](Self::expect) pays.
    #[inline]
    pub fn is_far(&self) -> bool {
        self.slots.len() >= FAR_SLOTS
    }

    /// A plan will be looked for soon: its slot is asked for from memory meanwhile. The safe way to prefetch: a load
    /// that nothing waits for.
    #[inline]
    pub fn expect(&self, hash: u64, scope: u32) {
        std::hint::black_box(self.slots[place(hash, scope) & (self.slots.len() - 1)].hash);
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
        let place = key.place() & (self.slots.len() - 1);
        let is_free = |slot: &Slot| slot.plan.is_none() || slot.generation != is_live(slot.scope, slot.stamp);
        let choices = [place, place ^ 1];
        // a stale plan of the same subject would be found first: it gives way before any other
        let (same, free) = (
            choices.iter().find(|place| self.slots[**place].hash == key.hash),
            choices.iter().find(|place| is_free(&self.slots[**place])),
        );
        let place = same.or(free).copied().unwrap_or_else(|| {
            self.evicted += 1;
            choices[self.evicted & 1]
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
        let count = self.slots.len() * 4;
        self.evicted = 0;
        for slot in std::mem::replace(&mut self.slots, slots(count)) {
            let place = place(slot.hash, slot.scope) & (count - 1);
            let place = if self.slots[place].plan.is_none() { place } else { place ^ 1 };
            self.slots[place] = slot;
        }
    }

    /// Forgets the stale plans in the next part of the table.
    pub fn sweep(&mut self, is_live: impl Fn(u32, u16) -> u32) {
        let part = self.slots.len() / SWEEP_PARTS;
        self.swept = if self.swept >= self.slots.len() { 0 } else { self.swept };
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
