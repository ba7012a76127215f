//! Imports end when the activation token expires that let them in (nats-server `activationExpired`).
//!
//! Owns the timer for the first that expires. Which imports are left is decided by the `accounts` room, which also reads
//! a token that was renewed meanwhile.

use super::Resolver;
use crate::shared::Shared;
use crate::worker_thread::{now_nanos, wall_nanos};
use accounts::Table;
use engine::Recheck;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

const NANOS: u64 = 1_000_000_000;
/// No timer is set.
const NEVER: i64 = i64::MAX;

/// The timer.
pub(super) struct Activations {
    shared: OnceLock<Weak<Shared>>,
    /// For when it is set, in seconds since 1970.
    set_seconds: AtomicI64,
}

impl Default for Activations {
    fn default() -> Self {
        Activations { shared: OnceLock::new(), set_seconds: AtomicI64::new(NEVER) }
    }
}

impl Activations {
    /// Begins with the table in force.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
        let table = shared.table.read().clone();
        self.watch(shared, &table);
    }

    /// Sets the timer for the first import of `table` that ends, unless it is set for an earlier time already.
    fn watch(&self, shared: &Shared, table: &Table) {
        let (Some(expires), Some(weak)) = (table.activation_expires_seconds(), self.shared.get()) else {
            return;
        };
        if self.set_seconds.fetch_min(expires, Relaxed) <= expires {
            return;
        }
        let left = (expires as u64).saturating_mul(NANOS).saturating_sub(wall_nanos());
        let weak = weak.clone();
        shared.internal.at(now_nanos().saturating_add(left), move |_| {
            let Some(shared) = weak.upgrade() else { return };
            let Some(resolver) = shared.resolver.get() else { return };
            resolver.activations.set_seconds.store(NEVER, Relaxed);
            end_expired(&shared);
            // the next one; also this one, if the machine's clock was set back
            let table = shared.table.read().clone();
            resolver.activations.watch(&shared, &table);
        });
    }
}

impl Resolver {
    /// Another table is in force.
    pub fn watch_activations(&self, shared: &Shared, table: &Table) {
        self.activations.watch(shared, table);
    }
}

/// Takes away what has expired. Nobody's login depends on that.
fn end_expired(shared: &Shared) {
    shared.change_table(|table| match table.without_expired(wall_nanos()) {
        Ok(changed) => {
            changed.iter().flat_map(Table::notes).for_each(|note| tracing::warn!("{note}"));
            changed.map(|table| (table, Recheck::Nobody))
        }
        Err(error) => {
            tracing::error!("imports whose activation has expired cannot be ended: {error}");
            None
        }
    });
}
