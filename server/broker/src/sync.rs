//! The locks and atomics of what workers share, under one name: `tests/concurrency.rs` compiles the same sources
//! against loom's, which tries every order of steps.
//!
//! Never holds anything else: what only one worker touches needs no model.

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

/// Stands between two `SeqCst` accesses whose order all threads must agree on. The accesses see to that by
/// themselves; loom, which takes `SeqCst` for `AcqRel`, puts a fence here.
#[inline(always)]
pub(crate) fn sequential() {}
