//! The way back of requests that went to another account.
//!
//! Owns, for an exporting account, the reply subjects that it handed out (`_R_.…`) and whom an answer on each of
//! them is for; for a requesting account, which of them end when nobody waits for the answer any more. Bounded in
//! number and by the time that a service may take. Never publishes: whoever does is told what came to an end.

use crate::account::Account;
use crate::link::Link;
use crate::router::latency::Report;
use accounts::exchange::ResponseType;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

/// Reply subjects of servers begin with it.
pub(crate) const PREFIX: &[u8] = b"_R_.";
/// Requests of other servers whose measurement is waited for; beyond that the old ones are forgotten.
const TRACKED_MAX: usize = 1 << 16;
/// Forgotten then, if older.
const TRACKED_NANOS: u64 = 120_000_000_000;
/// Random characters of an account's prefix, and of a reply subject behind it.
const RANDOM_LEN: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Answers that one account may owe at a time; the oldest is forgotten for a newer one.
const PENDING_MAX: usize = 1 << 17;
/// Least time between two looks for what took too long.
const LOOK_NANOS: u64 = 50_000_000;
/// The same for each answer that is waited for: looking costs time, too.
const LOOK_NANOS_EACH: u64 = 10_000;

/// An answer that is waited for.
pub(crate) struct Pending {
    /// The reply subject that stands for it.
    pub subject: Box<[u8]>,
    /// Where the answer goes.
    pub account: Arc<Account>,
    /// The requestor's reply subject there.
    pub to: Box<[u8]>,
    /// How many answers there are.
    pub kind: ResponseType,
    /// How long the service may take for (the next of) them.
    pub threshold_nanos: u64,
    /// Subject of the export, for the chain of imports.
    pub export: Arc<str>,
    /// The requestor is told in full.
    pub share: bool,
    /// When it was asked for, or last answered.
    pub since_nanos: AtomicU64,
    /// What is measured, if it is.
    pub measured: Option<Measured>,
    /// An answer came.
    pub answered: AtomicBool,
}

/// What a report on a service's latency needs to know of the request.
pub(crate) struct Measured {
    /// Subject of the report, in the exporting account.
    pub results: Box<str>,
    pub requestor: Arc<Link>,
    /// JSON of the headers that asked for it, empty when it was drawn.
    pub header: String,
    /// What two servers found out, until it is put together.
    pub merge: Mutex<Merge>,
}

/// The two halves of a measurement when requestor and service are on different servers.
#[derive(Default)]
pub(crate) struct Merge {
    /// Of the requestor's server.
    pub first: Option<Report>,
    /// Of the service's server.
    pub second: Option<Second>,
}

/// What the service's server measured.
pub(crate) struct Second {
    /// JSON.
    pub responder: String,
    pub round_trip_nanos: u64,
    pub service_nanos: u64,
}

/// Whether a reply subject of a server asks whoever serves the request for a measurement: `_R_.….TOKEN.T`.
#[inline]
pub(crate) fn is_tracked(subject: &[u8]) -> bool {
    subject.ends_with(b".T") && subject.starts_with(PREFIX)
}

/// Replies across gateways: nobody publishes there by his own will.
pub(crate) fn is_reserved_by_gateways(subject: &[u8]) -> bool {
    subject.starts_with(b"_GR_.") || subject.starts_with(b"$GR.")
}

/// Requests of other servers that came over routes and are measured here.
#[derive(Default)]
pub(crate) struct Tracked {
    begun_nanos: Mutex<HashMap<Box<[u8]>, u64>>,
}

impl Tracked {
    /// A request with such a reply subject came.
    #[cold]
    pub fn note(&self, reply: &[u8], now_nanos: u64) {
        let mut begun = self.begun_nanos.lock();
        if begun.len() >= TRACKED_MAX {
            begun.retain(|_, at| now_nanos.saturating_sub(*at) < TRACKED_NANOS);
            if begun.len() >= TRACKED_MAX {
                begun.clear();
            }
        }
        begun.insert(reply.into(), now_nanos);
    }

    /// Its first answer came: when the request did.
    pub fn take(&self, reply: &[u8]) -> Option<u64> {
        self.begun_nanos.lock().remove(reply)
    }
}

/// Random characters from a number, as in reply subjects.
pub(crate) fn token(mut number: u64, len: usize) -> String {
    let mut digits = String::new();
    for _ in 0..len {
        digits.push(DIGITS[(number % 62) as usize] as char);
        number /= 62;
    }
    digits
}

/// Why an answer is not waited for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The requestor does not listen any more.
    InterestLost,
    /// Nobody took the request.
    NoResponders,
    /// The service took too long.
    Timeout,
}

/// One account's share of all that. Locked by itself, never together with another lock.
#[derive(Default)]
pub(crate) struct Responses {
    state: Mutex<State>,
    awaited: AtomicUsize,
}

#[derive(Default)]
struct State {
    prefix: Option<Arc<[u8]>>,
    handed_out: u64,
    pending: HashMap<Box<[u8]>, Arc<Pending>>,
    /// Their reply subjects by age; some are gone.
    order: VecDeque<Box<[u8]>>,
    looked_nanos: u64,
    measuring_nanos: u64,
    /// Nothing takes too long before.
    next_nanos: u64,
    /// Answered requests whose measurement by another server is still to come.
    measuring: HashMap<Box<[u8]>, Arc<Pending>>,
    /// Measured requests that ended without an answer and nobody was told of yet.
    ended: Vec<(Arc<Pending>, End)>,
    /// As a requesting account: by subject of the answer, the reply subjects that stand for it and who owes it.
    awaited: HashMap<Box<[u8]>, Owed>,
}

/// Reply subjects, and the accounts that handed them out.
type Owed = HashMap<Box<[u8]>, Arc<Account>>;

/// Characters that cannot be guessed, as far as `random` cannot.
fn append_random(random: &mut dyn FnMut() -> u64, out: &mut Vec<u8>) {
    let mut number = random();
    for _ in 0..RANDOM_LEN {
        out.push(DIGITS[(number % 62) as usize]);
        number /= 62;
    }
}

impl Responses {
    /// Beginning of the reply subjects that this account hands out, once it has handed out any.
    pub fn prefix(&self) -> Option<Arc<[u8]>> {
        self.state.lock().prefix.clone()
    }

    /// The same, chosen when there is none yet: `true` then.
    pub fn prefix_or_new(&self, random: &mut dyn FnMut() -> u64) -> (Arc<[u8]>, bool) {
        let mut state = self.state.lock();
        if let Some(prefix) = &state.prefix {
            return (prefix.clone(), false);
        }
        let mut prefix = PREFIX.to_vec();
        append_random(random, &mut prefix);
        prefix.push(b'.');
        let prefix: Arc<[u8]> = prefix.into();
        state.prefix = Some(prefix.clone());
        (prefix, true)
    }

    /// A reply subject under `prefix` that is not in use. Workers may draw the same numbers: a count tells them apart.
    pub fn subject(&self, prefix: &[u8], random: &mut dyn FnMut() -> u64) -> Box<[u8]> {
        let mut state = self.state.lock();
        loop {
            state.handed_out = state.handed_out.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let count = state.handed_out;
            let mut subject = prefix.to_vec();
            append_random(&mut || random().wrapping_add(count), &mut subject);
            if !state.pending.contains_key(&subject[..]) {
                return subject.into();
            }
        }
    }

    /// From now on `owner`, whose this is, waits for an answer.
    pub fn add(&self, owner: &Arc<Account>, pending: Pending) -> Arc<Pending> {
        let pending = Arc::new(pending);
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            let due = pending.since_nanos.load(Relaxed) + pending.threshold_nanos;
            state.next_nanos = if state.pending.is_empty() { due } else { state.next_nanos.min(due) };
            while state.pending.len() >= PENDING_MAX {
                let Some(oldest) = state.order.pop_front() else { break };
                dropped.extend(state.pending.remove(&oldest));
            }
            if state.order.len() > 2 * state.pending.len() + 1024 {
                let State { order, pending, .. } = &mut *state;
                order.retain(|subject| pending.contains_key(subject));
            }
            state.order.push_back(pending.subject.clone());
            state.pending.insert(pending.subject.clone(), pending.clone());
        }
        for old in dropped {
            old.account.responses.forget(&old.to, &old.subject);
        }
        let requesting = &pending.account.responses;
        let mut state = requesting.state.lock();
        let owed = state.awaited.entry(pending.to.clone()).or_default();
        owed.insert(pending.subject.clone(), owner.clone());
        requesting.awaited.store(state.awaited.len(), Relaxed);
        drop(state);
        pending
    }

    /// Whom an answer is for.
    pub fn find(&self, subject: &[u8]) -> Option<Arc<Pending>> {
        self.state.lock().pending.get(subject).cloned()
    }

    /// The answer came, the measurement of the service's server did not yet.
    pub fn await_measurement(&self, pending: &Arc<Pending>) {
        let mut state = self.state.lock();
        if state.measuring.len() < TRACKED_MAX {
            state.measuring.insert(pending.subject.clone(), pending.clone());
        }
    }

    /// The request that a measurement of another server is about.
    pub fn measured(&self, subject: &[u8]) -> Option<Arc<Pending>> {
        let mut state = self.state.lock();
        let answered = state.measuring.remove(subject);
        answered.or_else(|| state.pending.get(subject).cloned())
    }

    /// An answer is not waited for any more. `end`: why, when none came.
    pub fn remove(&self, pending: &Arc<Pending>, end: Option<End>) {
        {
            let mut state = self.state.lock();
            if state.pending.remove(&pending.subject).is_none() {
                return;
            }
            if let Some(end) = end {
                state.note(pending, end);
            }
        }
        pending.account.responses.forget(&pending.to, &pending.subject);
    }

    fn forget(&self, to: &[u8], subject: &[u8]) {
        let mut state = self.state.lock();
        if let Some(list) = state.awaited.get_mut(to) {
            list.remove(subject);
            if list.is_empty() {
                state.awaited.remove(to);
            }
        }
        self.awaited.store(state.awaited.len(), Relaxed);
    }

    /// Whether this account waits for an answer of another one.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed) > 0
    }

    /// Subscriptions of `account`, whose this is, to `filters` ended: answers that nobody listens for any more
    /// are not waited for.
    pub fn interest_ended(&self, account: &Account, filters: &[Box<[u8]>]) {
        let mut subjects: Vec<Box<[u8]>> = Vec::new();
        {
            let state = self.state.lock();
            for filter in filters {
                if subject::is_literal(filter) {
                    subjects.extend(state.awaited.contains_key(filter).then(|| filter.clone()));
                } else {
                    subjects.extend(state.awaited.keys().filter(|to| subject::matches(filter, to)).cloned());
                }
            }
        }
        let mut matching = (Vec::new(), Vec::new());
        subjects.retain(|subject| {
            matching.1.clear();
            account.read(|interest| {
                interest.matches(subject, interest.hash(subject), &mut matching.0, &mut matching.1);
            });
            matching.1.is_empty()
        });
        for subject in subjects {
            let list = self.state.lock().awaited.get(&subject).cloned().unwrap_or_default();
            for (reply, owner) in list {
                if let Some(pending) = owner.responses.find(&reply) {
                    owner.responses.remove(&pending, Some(End::InterestLost));
                }
            }
        }
    }

    /// Ends what took too long, and returns the measured requests that ended without an answer.
    pub fn expire(&self, now_nanos: u64) -> Vec<(Arc<Pending>, End)> {
        let mut late = Vec::new();
        let ended = {
            let mut state = self.state.lock();
            let gap = LOOK_NANOS + LOOK_NANOS_EACH * state.pending.len() as u64;
            let due = !state.pending.is_empty() && now_nanos >= state.next_nanos;
            if due && now_nanos >= state.looked_nanos + gap {
                state.looked_nanos = now_nanos;
                let mut next = u64::MAX;
                state.pending.retain(|_, pending| {
                    let end = pending.since_nanos.load(Relaxed) + pending.threshold_nanos;
                    if now_nanos >= end {
                        late.push(pending.clone());
                        return false;
                    }
                    next = next.min(end);
                    true
                });
                state.next_nanos = next;
                for pending in &late {
                    state.note(pending, End::Timeout);
                }
            }
            if !state.measuring.is_empty() && now_nanos >= state.measuring_nanos + TRACKED_NANOS / 4 {
                state.measuring_nanos = now_nanos;
                state.measuring.retain(|_, pending| {
                    now_nanos.saturating_sub(pending.since_nanos.load(Relaxed)) < TRACKED_NANOS
                });
            }
            std::mem::take(&mut state.ended)
        };
        for pending in late {
            pending.account.responses.forget(&pending.to, &pending.subject);
        }
        ended
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let state = std::mem::take(&mut *self.state.lock());
        drop(state);
        self.awaited.store(0, Relaxed);
    }

    /// Answers that are waited for now.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.state.lock().pending.len()
    }
}

impl State {
    fn note(&mut self, pending: &Arc<Pending>, end: End) {
        if pending.measured.is_some() && !pending.answered.load(Relaxed) && self.ended.len() < PENDING_MAX {
            self.ended.push((pending.clone(), end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(account: &Arc<Account>, number: usize, since_nanos: u64) -> Pending {
        Pending {
            subject: format!("_R_.x.{number}").into_bytes().into(),
            account: account.clone(),
            to: b"inbox".as_slice().into(),
            kind: ResponseType::Singleton,
            threshold_nanos: 1_000_000_000,
            export: "svc".into(),
            share: false,
            since_nanos: AtomicU64::new(since_nanos),
            measured: None,
            answered: AtomicBool::new(false),
        }
    }

    #[test]
    fn answers_are_forgotten_when_they_are_late_or_too_many() {
        let (owner, asking) = (Arc::new(Account::new(0, "A", 1)), Arc::new(Account::new(1, "B", 1)));
        for number in 0..PENDING_MAX + 10 {
            owner.responses.add(&owner, pending(&asking, number, 0));
        }
        assert_eq!(owner.responses.len(), PENDING_MAX);
        assert!(owner.responses.find(b"_R_.x.0").is_none(), "the oldest goes first");
        assert!(owner.responses.find(format!("_R_.x.{}", PENDING_MAX + 9).as_bytes()).is_some());
        assert!(asking.responses.is_awaited());
        owner.responses.expire(999_999_999);
        assert_eq!(owner.responses.len(), PENDING_MAX);
        owner.responses.expire(60_000_000_000);
        assert_eq!(owner.responses.len(), 0);
        assert!(!asking.responses.is_awaited());
    }

    #[test]
    fn an_answer_is_not_waited_for_when_nobody_listens() {
        let (owner, asking) = (Arc::new(Account::new(0, "A", 1)), Arc::new(Account::new(1, "B", 1)));
        owner.responses.add(&owner, pending(&asking, 1, 0));
        asking.responses.interest_ended(&asking, &[b"other".as_slice().into()]);
        assert_eq!(owner.responses.len(), 1);
        asking.subscribe_server(b"inbox", &mut Vec::new());
        asking.responses.interest_ended(&asking, &[b"*".as_slice().into()]);
        assert_eq!(owner.responses.len(), 1, "somebody else listens");
        let (owner, asking) = (Arc::new(Account::new(0, "A", 1)), Arc::new(Account::new(1, "B", 1)));
        owner.responses.add(&owner, pending(&asking, 1, 0));
        asking.responses.interest_ended(&asking, &[b"*".as_slice().into()]);
        assert_eq!(owner.responses.len(), 0);
    }
}
