//! Which connection carries which account, what a peer is told of local interest, and what it told.
//!
//! Owns the rules of nats-server's `updateRouteSubscriptionMap` and `computeRoutePoolIdx`. Never decides who gets
//! a message: that is the broker's.

use crate::effect::Carries;
use crate::settings::{Error, Permissions};
use std::collections::BTreeMap;
use wire::route::{self, Interest, QUEUE_WEIGHT_MAX, SubjectPermission};

/// Place in a pool of `pool_size` connections that carries an account: 32-bit FNV-1a of the name, modulo the
/// size; 0 for a size of 0 or 1. The same on every server (nats-server `computeRoutePoolIdx`).
pub fn pool_index(pool_size: usize, account: &str) -> usize {
    let hash = account
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize % pool_size.max(1)
}

/// Whether a connection carries the interest of `account`.
pub fn carries(carries: &Carries, account: &str) -> bool {
    match carries {
        Carries::Everything => true,
        Carries::Account(name) => name == account,
        Carries::Pool { index, pool_size, pinned } => {
            !pinned.iter().any(|name| name == account) && pool_index(*pool_size, account) == *index
        }
    }
}

/// What the peers must be told after a count changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// `RS+`, with that weight if there is a queue group.
    Add {
        /// Members.
        weight: u32,
    },
    /// `RS-`.
    Remove,
}

/// What follows from a local count that went from `before` to `after`. Plain interest is told when it begins and
/// when it ends; a queue group with every change of its weight, which stops at [`QUEUE_WEIGHT_MAX`].
pub fn announce(queue: bool, before: u64, after: u64) -> Option<Announcement> {
    let weight = |count: u64| count.min(u64::from(QUEUE_WEIGHT_MAX)) as u32;
    match (before, after) {
        (0, 0) => None,
        (_, 0) => Some(Announcement::Remove),
        (0, after) => Some(Announcement::Add { weight: weight(after) }),
        (before, after) if queue && weight(before) != weight(after) => {
            Some(Announcement::Add { weight: weight(after) })
        }
        _ => None,
    }
}

/// Appends the line of an announcement. `account_implied` says that the connection is pinned to the account.
pub fn encode(
    out: &mut Vec<u8>,
    announcement: Announcement,
    account: &[u8],
    account_implied: bool,
    subject: &[u8],
    queue: Option<&[u8]>,
) {
    let account = (!account_implied).then_some(account);
    let weight = match announcement {
        Announcement::Add { weight } => weight,
        Announcement::Remove => 1,
    };
    let interest = Interest { leaf: false, origin: None, account, subject, queue, weight };
    route::interest(out, announcement != Announcement::Remove, &interest);
}

/// Route permissions of this server, compiled. An engine asks before it sends a line of interest and before it
/// takes one; a message only ever follows interest, so nothing more has to be asked.
///
/// When a peer's permissions change ([`Effect::PeerPermissions`](crate::Effect::PeerPermissions)), local interest
/// has to be sent again that passes the peer's `may_take` now and did not before, and our `may_send`.
#[derive(Debug, Default)]
pub struct RoutePermissions {
    compiled: Option<accounts::Permissions>,
}

impl RoutePermissions {
    /// Compiles permissions, this server's or a peer's.
    ///
    /// # Errors
    /// [`Error::Permission`] for an entry that is no subject.
    pub fn new(permissions: &Permissions) -> Result<RoutePermissions, Error> {
        if *permissions == Permissions::default() {
            return Ok(RoutePermissions::default());
        }
        let list = |subjects: &Option<SubjectPermission>| {
            subjects.as_ref().map(|subjects| accounts::SubjectsSource {
                allow: (!subjects.allow.is_empty()).then(|| subjects.allow.clone()),
                deny: subjects.deny.clone(),
            })
        };
        // nats-server maps them the same way: what is imported is what may be published to here
        let source = accounts::PermissionsSource {
            publish: list(&permissions.import),
            subscribe: list(&permissions.export),
            responses: None,
        };
        Ok(RoutePermissions { compiled: Some(accounts::Permissions::new(&source, "cluster")?) })
    }

    /// Whether nothing is restricted.
    pub fn allows_all(&self) -> bool {
        self.compiled.is_none()
    }

    /// Whether local interest in a filter may be sent to a peer (`import`; nats-server `canImport`).
    pub fn may_send(&self, filter: &[u8]) -> bool {
        self.compiled.as_ref().is_none_or(|permissions| permissions.can_publish(filter))
    }

    /// Whether a peer's interest in a filter may be taken (`export`; nats-server `canExport`).
    pub fn may_take(&self, filter: &[u8]) -> bool {
        self.compiled
            .as_ref()
            .is_none_or(|permissions| permissions.can_subscribe(filter, None) != accounts::Subscribe::Denied)
    }
}

type Filter = (Box<[u8]>, Option<Box<[u8]>>);

/// Local interest by account, counted: for an engine whose broker does not keep it, and for tests.
#[derive(Clone, Debug, Default)]
pub struct LocalInterest {
    accounts: BTreeMap<String, BTreeMap<Filter, u64>>,
}

impl LocalInterest {
    /// Adds `delta` members; a count never falls below zero.
    pub fn change(
        &mut self,
        account: &str,
        subject: &[u8],
        queue: Option<&[u8]>,
        delta: i64,
    ) -> Option<Announcement> {
        let filters = self.accounts.entry(account.to_owned()).or_default();
        let filter = (subject.into(), queue.map(Into::into));
        let before = filters.get(&filter).copied().unwrap_or(0);
        let after = before.saturating_add_signed(delta);
        if after == 0 {
            filters.remove(&filter);
            if filters.is_empty() {
                self.accounts.remove(account);
            }
        } else {
            filters.insert(filter, after);
        }
        announce(queue.is_some(), before, after)
    }

    /// Appends all interest that a connection carries.
    pub fn encode(&self, what: &Carries, out: &mut Vec<u8>) {
        let implied = matches!(what, Carries::Account(_));
        for (account, filters) in self.accounts.iter().filter(|(account, _)| carries(what, account)) {
            for ((subject, queue), count) in filters {
                let Some(announcement) = announce(queue.is_some(), 0, *count) else { continue };
                encode(out, announcement, account.as_bytes(), implied, subject, queue.as_deref());
            }
        }
    }
}

/// What one connection's peer is interested in: makes a repeated `RS+` harmless and a lost connection exact.
#[derive(Clone, Debug, Default)]
pub struct RemoteInterest {
    filters: BTreeMap<RemoteKey, u32>,
}

/// What makes interest of a peer one and the same: kind, origin, account, subject, queue group.
type RemoteKey = (bool, Box<[u8]>, Box<[u8]>, Box<[u8]>, Option<Box<[u8]>>);

/// One entry of a peer's interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteEntry<'a> {
    /// Heard with `LS+`.
    pub leaf: bool,
    /// Account; empty on a pinned connection.
    pub account: &'a [u8],
    /// Subject filter.
    pub subject: &'a [u8],
    /// Queue group.
    pub queue: Option<&'a [u8]>,
    /// Members.
    pub weight: u32,
}

impl RemoteInterest {
    fn key(interest: &Interest<'_>) -> RemoteKey {
        (
            interest.leaf,
            interest.origin.unwrap_or_default().into(),
            interest.account.unwrap_or_default().into(),
            interest.subject.into(),
            interest.queue.map(Into::into),
        )
    }

    /// Takes an `RS+` or `LS+`; returns the weight before, 0 if the interest is new.
    pub fn add(&mut self, interest: &Interest<'_>) -> u32 {
        self.filters.insert(Self::key(interest), interest.weight).unwrap_or(0)
    }

    /// Takes an `RS-` or `LS-`; returns the weight before, 0 if there was no such interest.
    pub fn remove(&mut self, interest: &Interest<'_>) -> u32 {
        self.filters.remove(&Self::key(interest)).unwrap_or(0)
    }

    /// Everything the peer is interested in.
    pub fn entries(&self) -> impl Iterator<Item = RemoteEntry<'_>> {
        self.filters.iter().map(|((leaf, _, account, subject, queue), weight)| RemoteEntry {
            leaf: *leaf,
            account,
            subject,
            queue: queue.as_deref(),
            weight: *weight,
        })
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether the peer is interested in nothing.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of nats-server 2.15.2's `computeRoutePoolIdx`.
    #[test]
    fn accounts_hash_to_the_same_place_as_on_nats_server() {
        for (size, account, index) in POOL_INDEXES {
            assert_eq!(pool_index(size, account), index, "{account} in a pool of {size}");
        }
        assert_eq!((pool_index(0, "$G"), pool_index(1, "anything")), (0, 0));
    }

    const POOL_INDEXES: [(usize, &str, usize); 8] = [
        (3, "$G", 2),
        (3, "A", 0),
        (3, "B", 0),
        (3, "$SYS", 0),
        (5, "$G", 3),
        (5, "ACME", 3),
        (10, "HUB", 8),
        (10, "accounting", 0),
    ];

    #[test]
    fn plain_interest_is_told_once_and_queue_weights_with_every_change() {
        let mut local = LocalInterest::default();
        assert_eq!(local.change("A", b"foo", None, 1), Some(Announcement::Add { weight: 1 }));
        assert_eq!(local.change("A", b"foo", None, 1), None);
        assert_eq!(local.change("A", b"foo", None, -1), None);
        assert_eq!(local.change("A", b"foo", None, -1), Some(Announcement::Remove));
        assert_eq!(local.change("A", b"foo", None, -1), None);
        assert_eq!(local.change("A", b"foo", Some(b"q"), 2), Some(Announcement::Add { weight: 2 }));
        assert_eq!(local.change("A", b"foo", Some(b"q"), -1), Some(Announcement::Add { weight: 1 }));
        assert_eq!(local.change("A", b"foo", Some(b"q"), -1), Some(Announcement::Remove));
        assert_eq!(
            announce(true, u64::from(QUEUE_WEIGHT_MAX), u64::MAX),
            None,
            "capped weights do not change"
        );
    }

    #[test]
    fn a_new_route_hears_all_interest_of_its_accounts_and_nothing_else() {
        let mut local = LocalInterest::default();
        local.change("A", b"plain", None, 3);
        local.change("A", b"work", Some(b"q"), 3);
        local.change("PIN", b"own", None, 1);
        let text = |what: &Carries| {
            let mut out = Vec::new();
            local.encode(what, &mut out);
            String::from_utf8(out).unwrap()
        };
        let pinned = vec!["PIN".to_owned()];
        let pool = Carries::Pool { index: pool_index(3, "A"), pool_size: 3, pinned: pinned.clone() };
        assert_eq!(text(&pool), "RS+ A plain\r\nRS+ A work q 3\r\n");
        let other = Carries::Pool { index: (pool_index(3, "A") + 1) % 3, pool_size: 3, pinned };
        assert_eq!(text(&other), "");
        assert_eq!(text(&Carries::Account("PIN".into())), "RS+ own\r\n");
        assert_eq!(text(&Carries::Everything), "RS+ A plain\r\nRS+ A work q 3\r\nRS+ PIN own\r\n");
    }

    #[test]
    fn route_permissions_filter_what_is_sent_and_what_is_taken() {
        let subjects = |allow: &[&str], deny: &[&str]| {
            let list = |list: &[&str]| list.iter().map(ToString::to_string).collect();
            Some(SubjectPermission { allow: list(allow), deny: list(deny) })
        };
        let all = RoutePermissions::new(&Permissions::default()).unwrap();
        assert!(all.may_send(b"x") && all.may_take(b"x"));
        let permissions =
            Permissions { import: subjects(&["in.>"], &["in.secret"]), export: subjects(&["out.*"], &[]) };
        let some = RoutePermissions::new(&permissions).unwrap();
        assert!(some.may_send(b"in.a") && !some.may_send(b"in.secret") && !some.may_send(b"out.a"));
        assert!(some.may_take(b"out.a") && some.may_take(b"out.*") && !some.may_take(b"out.a.b"));
        let only_import = RoutePermissions::new(&Permissions { export: None, ..permissions }).unwrap();
        assert!(only_import.may_take(b"anything"));
        let wrong = Permissions { import: subjects(&["a..b"], &[]), export: None };
        assert!(RoutePermissions::new(&wrong).is_err());
    }

    #[test]
    fn leaf_and_routed_interest_do_not_collide() {
        let mut remote = RemoteInterest::default();
        let queue = Interest {
            leaf: false,
            origin: None,
            account: Some(b"foo"),
            subject: b"bar",
            queue: Some(b"baz"),
            weight: 1,
        };
        let leaf = Interest {
            leaf: true,
            origin: Some(b"foo"),
            account: Some(b"bar"),
            subject: b"baz",
            queue: None,
            weight: 1,
        };
        assert_eq!((remote.add(&queue), remote.add(&leaf)), (0, 0));
        assert_eq!(remote.add(&Interest { weight: 4, ..queue }), 1, "a repeated line changes the weight");
        assert_eq!(remote.len(), 2);
        assert_eq!((remote.remove(&queue), remote.remove(&queue), remote.remove(&leaf)), (4, 0, 1));
        assert!(remote.is_empty());
    }
}
