//! Plan misses: which scope a publisher belongs to, and the plan of a subject that has none yet.
//!
//! Owns the stamping and keeping of plans; never delivers.

use super::{INTERNED_MAX, Router, Scope, ScopeId};
use crate::account::Account;
use crate::cache::Key;
use crate::link::{Link, LinkKind};
use crate::plan::Plan;
use accounts::Permissions;
use hashbrown::HashMap;
use std::rc::Rc;
use std::sync::Arc;

impl Router {
    /// The scope of links of kind `from` in `account` that may do what `permissions` say.
    pub fn scope(
        &mut self,
        account: &Arc<Account>,
        from: LinkKind,
        permissions: Option<&Arc<Permissions>>,
    ) -> ScopeId {
        let from = if from == LinkKind::Internal { LinkKind::Client } else { from };
        let same = |scope: &Scope| {
            let permissions = match (&scope.permissions, permissions) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            scope.from == from && permissions && Arc::ptr_eq(&scope.account, account)
        };
        let place = self.scopes.iter().position(same).unwrap_or_else(|| {
            let fresh = Scope {
                account: account.clone(),
                from,
                permissions: permissions.cloned(),
                interned: HashMap::new(),
                epoch: 0,
            };
            // permissions that nobody else holds any more belong to users who are gone: their place serves again
            let gone = |s: &Scope| s.permissions.as_ref().is_some_and(|p| Arc::strong_count(p) == 1);
            match self.scopes.iter().position(gone) {
                Some(place) => {
                    self.scopes[place] = fresh;
                    self.cache.clear();
                    place
                }
                None => {
                    self.scopes.push(fresh);
                    self.scopes.len() - 1
                }
            }
        });
        ScopeId(place as u32)
    }

    #[inline(never)]
    pub(super) fn plan_anew(&mut self, scope_id: ScopeId, subject: &[u8], hash: u64) -> Rc<Plan> {
        let scope = &mut self.scopes[scope_id.0 as usize];
        let account = scope.account.clone();
        let stamp = account.stamp_of(subject);
        // both before matching: a change meanwhile makes the plan stale, never wrong for good
        let (generation, epoch) = (account.generation(stamp), account.epoch());
        if scope.epoch != epoch || scope.interned.len() > INTERNED_MAX {
            scope.interned.clear();
            scope.epoch = epoch;
        }
        let (filters, numbers) = (&mut self.filters, &mut self.numbers);
        numbers.clear();
        let broker = &self.broker;
        let denied = scope.permissions.as_ref().is_some_and(|permissions| !permissions.can_publish(subject));
        if denied || (scope.from == LinkKind::Client && is_reserved(subject)) {
            return Rc::new(Plan { denied: true, ..Plan::default() });
        }
        let plan = account.read(|interest| {
            interest.matches(subject, hash, filters, numbers);
            match scope.interned.get(&numbers[..]) {
                Some(plan) => plan.clone(),
                None => {
                    let build = |link_of: &dyn Fn(u32) -> Option<Arc<Link>>| {
                        Plan::build(&account.name, interest, numbers, subject, scope.from, link_of)
                    };
                    let plan = Rc::new(broker.with_links(build));
                    if !plan.is_for_one_subject {
                        scope.interned.insert(numbers[..].into(), plan.clone());
                    }
                    plan
                }
            }
        });
        let scopes = &self.scopes;
        let live = |scope: u32, stamp: u16| scopes[scope as usize].account.generation(stamp);
        self.cache.insert(Key { scope: scope_id.0, subject, hash }, (stamp, generation), &plan, live);
        plan
    }
}

/// Gateway replies and Raft groups: no client may publish there (nats-server refuses these prefixes).
fn is_reserved(subject: &[u8]) -> bool {
    subject.starts_with(b"_GR_.") || subject.starts_with(b"$GR.") || subject.starts_with(b"$NRG.")
}
