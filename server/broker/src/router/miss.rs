//! Plan misses: which scope a publisher belongs to, and the plan of a subject that has none yet.
//!
//! Owns the stamping and keeping of plans, and the order of what is asked: mapping, permission, interest, imported
//! services. Never delivers.

use super::{INTERNED_MAX, Router, Scope, ScopeId};
use crate::account::Account;
use crate::cache::Key;
use crate::link::{Link, LinkKind};
use crate::plan::{Plan, Renamed, Text, Unusual};
use crate::responses::{PREFIX, is_reserved_by_gateways, is_tracked};
use crate::sharing::Sharing;
use accounts::Permissions;
use hashbrown::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// What was done to the messages of a scope before their subject is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// The account's mappings were applied.
    pub mapped: bool,
    /// It is a request to an imported service, or the response to one.
    pub imported: bool,
}

impl Router {
    /// The scope of links of kind `from` in `account` that may do what `permissions` say.
    pub fn scope(
        &mut self,
        account: &Arc<Account>,
        from: LinkKind,
        permissions: Option<&Arc<Permissions>>,
    ) -> ScopeId {
        self.scope_on(account, from, permissions, Way::default())
    }

    /// The same permissions as somebody else's in `account`, if somebody has them: who logs in by token gets
    /// permissions compiled anew, and a scope, with plans of its own, for each user would be wasted where they are
    /// all alike.
    pub fn shared_permissions(
        &self,
        account: &Arc<Account>,
        permissions: Arc<Permissions>,
    ) -> Arc<Permissions> {
        let scopes = self.scopes.iter().filter(|scope| Arc::ptr_eq(&scope.account, account));
        let known = scopes.filter_map(|scope| scope.permissions.as_ref());
        known.into_iter().find(|known| known.source() == permissions.source()).cloned().unwrap_or(permissions)
    }

    /// The scope of requests and responses that come to `account` from another one.
    pub(super) fn imported_scope(&mut self, account: &Arc<Account>) -> ScopeId {
        if let Some(scope) = self.imported.get(&account.index) {
            return *scope;
        }
        let way = Way { imported: true, ..Way::default() };
        let scope = self.scope_on(account, LinkKind::Client, None, way);
        self.imported.insert(account.index, scope);
        scope
    }

    fn scope_on(
        &mut self,
        account: &Arc<Account>,
        from: LinkKind,
        permissions: Option<&Arc<Permissions>>,
        way: Way,
    ) -> ScopeId {
        let from = if from == LinkKind::Internal { LinkKind::Client } else { from };
        let same = |scope: &Scope| {
            let permissions = match (&scope.permissions, permissions) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            scope.from == from && scope.way == way && permissions && Arc::ptr_eq(&scope.account, account)
        };
        let place = self.scopes.iter().position(same).unwrap_or_else(|| {
            let fresh = Scope {
                account: account.clone(),
                from,
                way,
                mapped: None,
                permissions: permissions.cloned(),
                interned: HashMap::new(),
                epoch: 0,
            };
            // permissions that nobody else holds any more belong to users who are gone: their place serves again
            let gone = |s: &Scope| {
                let own = 1 + usize::from(s.mapped.is_some());
                s.permissions.as_ref().is_some_and(|p| Arc::strong_count(p) == own)
            };
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

    /// The scope of messages that the account's mappings gave another subject.
    fn mapped_scope(&mut self, scope_id: ScopeId) -> ScopeId {
        let scope = &self.scopes[scope_id.0 as usize];
        if let Some(mapped) = scope.mapped {
            return mapped;
        }
        let (account, permissions) = (scope.account.clone(), scope.permissions.clone());
        let way = Way { mapped: true, ..scope.way };
        let mapped = self.scope_on(&account, scope.from, permissions.as_ref(), way);
        self.scopes[scope_id.0 as usize].mapped = Some(mapped);
        mapped
    }

    #[inline(never)]
    pub(super) fn plan_anew(&mut self, scope_id: ScopeId, subject: &[u8], hash: u64) -> Rc<Plan> {
        let scope = &mut self.scopes[scope_id.0 as usize];
        let (account, from, way) = (scope.account.clone(), scope.from, scope.way);
        let stamp = account.stamp_of(subject);
        // both before matching: a change meanwhile makes the plan stale, never wrong for good
        let (generation, epoch) = (account.generation(stamp), account.epoch());
        if scope.epoch != epoch || scope.interned.len() > INTERNED_MAX {
            scope.interned.clear();
            scope.epoch = epoch;
        }
        let sharing = if from == LinkKind::Client { account.sharing() } else { None };
        if let Some(sharing) = &sharing
            && !way.mapped
            && let Some(plan) = self.plan_mapped(scope_id, (subject, hash), (stamp, generation), sharing)
        {
            return plan;
        }
        let scope = &mut self.scopes[scope_id.0 as usize];
        let denied = scope.permissions.as_ref().is_some_and(|permissions| !permissions.can_publish(subject));
        if denied || (from == LinkKind::Client && !way.imported && is_reserved(subject)) {
            let subject = way.mapped.then(|| Text::new(subject.to_vec()));
            return Rc::new(Plan { unusual: Unusual::Denied, subject, ..Plan::default() });
        }
        let (filters, numbers) = (&mut self.filters, &mut self.numbers);
        numbers.clear();
        let broker = &self.broker;
        let response = subject.starts_with(PREFIX)
            && account.responses.prefix().is_some_and(|prefix| subject.starts_with(&prefix));
        let measured = match from {
            LinkKind::Client if !response && is_tracked(subject) => Unusual::Tracked,
            LinkKind::Route if broker.is_measurement(subject) => Unusual::Measurement,
            _ => Unusual::None,
        };
        let services = sharing.filter(|sharing| !response && sharing.services(subject).next().is_some());
        let special = response || services.is_some() || way.mapped || measured != Unusual::None;
        let plan = account.read(|interest| {
            interest.matches(subject, hash, filters, numbers);
            match scope.interned.get(&numbers[..]) {
                Some(plan) if !special => plan.clone(),
                _ => {
                    let build = |link_of: &dyn Fn(u32) -> Option<Arc<Link>>| {
                        let origin = (from, way.imported);
                        Plan::build(&account.name, interest, numbers, subject, origin, link_of)
                    };
                    let mut plan = broker.with_links(build);
                    if special {
                        plan.is_for_one_subject = true;
                    }
                    let plan = Rc::new(plan);
                    if !plan.is_for_one_subject {
                        scope.interned.insert(numbers[..].into(), plan.clone());
                    }
                    plan
                }
            }
        });
        let unusual = if response { Unusual::Response } else { measured };
        let plan =
            if special { self.special(plan, subject, way, services.as_deref(), unusual) } else { plan };
        // answers come on subjects that are used once
        if !matches!(plan.unusual, Unusual::Response | Unusual::Tracked) {
            self.keep(Key { scope: scope_id.0, subject, hash }, (stamp, generation), &plan);
        }
        plan
    }

    fn keep(&mut self, key: Key<'_>, stamp: (u16, u32), plan: &Rc<Plan>) {
        let scopes = &self.scopes;
        let live = |scope: u32, stamp: u16| scopes[scope as usize].account.generation(stamp);
        self.cache.insert(key, stamp, plan, live);
    }

    /// Adds to a fresh plan what only its subject has.
    #[cold]
    fn special(
        &mut self,
        plan: Rc<Plan>,
        subject: &[u8],
        way: Way,
        services: Option<&Sharing>,
        unusual: Unusual,
    ) -> Rc<Plan> {
        let Ok(mut plan) = Rc::try_unwrap(plan) else { return Rc::default() };
        if way.mapped {
            plan.subject = Some(Text::new(subject.to_vec()));
            if plan.renamed == Renamed::Nobody {
                plan.renamed = Renamed::Alike;
            }
            if plan.is_empty() {
                plan.unusual = Unusual::Mapped;
            }
        }
        if let Some(sharing) = services {
            let imports: Vec<usize> = sharing.services(subject).map(|(import, _)| import).collect();
            let route = |import| sharing.route(import, |account| self.imported_scope(account));
            plan.services = imports.into_iter().filter_map(route).collect();
            plan.unusual = Unusual::Services;
        }
        if unusual != Unusual::None {
            plan.unusual = unusual;
        }
        Rc::new(plan)
    }

    /// The plan of a subject that a mapping applies to.
    fn plan_mapped(
        &mut self,
        scope_id: ScopeId,
        (subject, hash): (&[u8], u64),
        stamp: (u16, u32),
        sharing: &Arc<Sharing>,
    ) -> Option<Rc<Plan>> {
        let mapping = sharing.mappings().find(subject)?;
        let mapped_scope = self.mapped_scope(scope_id);
        let key = Key { scope: scope_id.0, subject, hash };
        let is_random = mapping.destinations().any(|(transform, _)| transform.is_random());
        if is_random || mapping.is_choice() {
            let choice = Some((sharing.clone(), mapped_scope));
            let plan = Rc::new(Plan { unusual: Unusual::Choice, choice, ..Plan::default() });
            self.keep(key, stamp, &plan);
            return Some(plan);
        }
        let mut mapped = Vec::new();
        mapping.choose(0)?.apply(subject, &mut || 0, &mut mapped);
        let account = self.scopes[scope_id.0 as usize].account.clone();
        let stamp = account.stamp_of(&mapped);
        let generation = account.generation(stamp);
        let plan = self.plan(mapped_scope, &mapped);
        if !matches!(plan.unusual, Unusual::Denied | Unusual::Response | Unusual::Tracked) {
            self.keep(key, (stamp, generation), &plan);
        }
        Some(plan)
    }
}

/// Gateway replies and Raft groups: no client may publish there (nats-server refuses these prefixes).
fn is_reserved(subject: &[u8]) -> bool {
    is_reserved_by_gateways(subject) || subject.starts_with(b"$NRG.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broker, Mailbox, Wake};
    use accounts::{PermissionsSource, SubjectsSource};

    struct NoBell;

    impl Wake for NoBell {
        fn wake(&self) {}
    }

    #[test]
    fn users_who_may_do_the_same_share_their_scope() {
        let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(NoBell)))], 7);
        let (account, other) = (broker.account("A"), broker.account("B"));
        let mut router = Router::new(broker, 7);
        let compiled = |subject: &str| {
            let deny = SubjectsSource { allow: None, deny: vec![subject.into()] };
            let source = PermissionsSource { publish: Some(deny), ..Default::default() };
            Arc::new(Permissions::new(&source, "somebody").unwrap())
        };
        let first = compiled("x");
        router.scope(&account, LinkKind::Client, Some(&first));
        assert!(Arc::ptr_eq(&router.shared_permissions(&account, compiled("x")), &first));
        assert!(!Arc::ptr_eq(&router.shared_permissions(&account, compiled("y")), &first));
        assert!(!Arc::ptr_eq(&router.shared_permissions(&other, compiled("x")), &first));
    }
}
