//! A broker that is broken on purpose: in each so many messages it drops one, delivers one twice, or delivers one
//! behind the next of its subject; which one is drawn from a seed.
//!
//! Only builds with the feature `defective` have it. They exist to be found out: `starling-e2e defects` shows that the
//! checker of the chaos runs does. Never part of what is shipped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static CHOSEN: OnceLock<(Defect, u64, u64)> = OnceLock::new();
/// Routers that began to count, so that each draws from a seed of its own.
static ROUTERS: AtomicU64 = AtomicU64::new(0);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A message is not delivered.
    Drop,
    /// A message is delivered twice.
    Duplicate,
    /// Two neighbours of one publisher and subject are delivered in the other order.
    Reorder,
}

/// Breaks all routers that begin from now on: `drop`, `duplicate` or `reorder`, then how many messages one goes wrong
/// among, then the seed, separated by `:`. `false`: not understood, and nothing is broken.
pub fn choose(text: &str) -> bool {
    let mut words = text.split(':');
    let defect = match words.next() {
        Some("drop") => Defect::Drop,
        Some("duplicate") => Defect::Duplicate,
        Some("reorder") => Defect::Reorder,
        _ => return false,
    };
    match (words.next().map(str::parse), words.next().map(str::parse), words.next()) {
        (Some(Ok(one_in @ 1..)), Some(Ok(seed)), None) => CHOSEN.set((defect, one_in, seed)).is_ok(),
        _ => false,
    }
}

/// The draws of one router.
pub(crate) struct Draws {
    chosen: Option<(Defect, u64)>,
    random: u64,
    /// Messages until the drawn one, and from there to the next draw.
    left: u64,
    behind: u64,
    /// Reordering was drawn, and no neighbours came since.
    is_due: bool,
}

impl Draws {
    pub fn new() -> Draws {
        let number = ROUTERS.fetch_add(1, Ordering::Relaxed);
        let (chosen, seed) = match CHOSEN.get() {
            Some((defect, one_in, seed)) => (Some((*defect, *one_in)), *seed),
            None => (None, 0),
        };
        let random = seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draws = Draws { chosen, random, left: 0, behind: 0, is_due: false };
        draws.draw();
        draws
    }

    /// One message of the next `one_in`.
    fn draw(&mut self) {
        let Some((_, one_in)) = self.chosen else { return };
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let at = (mixed ^ mixed >> 31) % one_in;
        (self.left, self.behind) = (self.behind + at, one_in - 1 - at);
    }

    /// Spoils a batch of one publisher's messages.
    pub fn spoil<M: Copy>(&mut self, batch: &mut Vec<M>, is_same_subject: impl Fn(&M, &M) -> bool) {
        let Some((defect, _)) = self.chosen else { return };
        let mut at = 0;
        while at < batch.len() {
            if self.left > 0 {
                (self.left, at) = (self.left - 1, at + 1);
                continue;
            }
            self.draw();
            match defect {
                Defect::Drop => drop(batch.remove(at)),
                Defect::Duplicate => {
                    batch.insert(at, batch[at]);
                    at += 2;
                }
                Defect::Reorder => (self.is_due, at) = (true, at + 1),
            }
        }
        if self.is_due
            && let Some(at) = batch.windows(2).position(|pair| is_same_subject(&pair[0], &pair[1]))
        {
            batch.swap(at, at + 1);
            self.is_due = false;
        }
    }
}
