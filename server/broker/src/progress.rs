//! How many messages a subscription got, and after how many it ends.
//!
//! Owns the race between a worker that delivers and the subscriber's own, which sets the maximum meanwhile.

use crate::sync::{AtomicU64, sequential};
use std::sync::atomic::Ordering::*;

/// Deliveries of one subscription, and when it ends. Made when the first plan needs it.
#[derive(Debug, Default)]
pub struct Progress {
    delivered: AtomicU64,
    /// 0 for never.
    max: AtomicU64,
}

impl Progress {
    /// Takes up to `wanted` deliveries. Returns how many are granted and whether the last one was among them.
    pub fn take(&self, wanted: u64) -> (u64, bool) {
        // counted first, then limited; `limit` does it the other way round: one of the two sees the end
        let before = self.delivered.fetch_add(wanted, SeqCst);
        sequential();
        match self.max.load(SeqCst) {
            0 => (wanted, false),
            max => {
                let granted = max.saturating_sub(before).min(wanted);
                (granted, granted > 0 && before + granted == max)
            }
        }
    }

    /// Sets when the subscription ends; `true` when that many messages were delivered already.
    pub fn limit(&self, max: u64) -> bool {
        if self.delivered.load(SeqCst) >= max {
            return true;
        }
        self.max.store(max, SeqCst);
        sequential();
        self.delivered.load(SeqCst) >= max
    }

    /// Messages delivered so far, and after how many the subscription ends (0 for never).
    pub fn counts(&self) -> (u64, u64) {
        (self.delivered.load(SeqCst), self.max.load(SeqCst))
    }

    /// Whether it has a maximum by now.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.max.load(Relaxed) > 0
    }

    /// Whether the maximum was reached: no message comes any more.
    pub fn is_spent(&self) -> bool {
        let max = self.max.load(SeqCst);
        max > 0 && self.delivered.load(SeqCst) >= max
    }
}
