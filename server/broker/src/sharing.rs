//! What accounts let one another see, as the data path needs it: imported streams as shadow subscriptions in the
//! exporting account, imported services as roads that requests take.
//!
//! Owns the joining of the rules that `accounts` compiled with the broker's accounts, and the shadows of live
//! subscriptions. Never decides who may import what: that was decided when the rules were compiled.

use crate::account::{Account, Dirty};
use crate::interest::{NONE, SERVER};
use crate::link::Link;
use crate::registry::Broker;
use crate::router::ScopeId;
use accounts::exchange::{ResponseType, ServiceImport, StreamImport};
use hashbrown::HashMap;
use std::sync::Arc;

/// One account's mappings and imports, joined with the accounts that they lead to.
pub(crate) struct Sharing {
    rules: Arc<accounts::Account>,
    /// By number in the table.
    exporters: HashMap<usize, Exporter>,
}

struct Exporter {
    account: Arc<Account>,
    rules: Arc<accounts::Account>,
}

/// A subscription in an exporting account that stands for one of an importing account.
pub(crate) struct Shadow {
    rules: Arc<accounts::Account>,
    import: usize,
    /// Number of the subscription that it stands for, in the importing account.
    pub of: u32,
}

/// Where a subscription's shadows are: accounts, and numbers there.
pub(crate) type Shadows = Vec<(Arc<Account>, u32)>;

/// A road from a subject to an imported service.
#[derive(Clone)]
pub(crate) struct ServiceRoute {
    /// The importing account's rules.
    rules: Arc<accounts::Account>,
    import: usize,
    /// The account that exports it.
    pub exporter: Arc<Account>,
    /// The export's subject.
    pub export: Arc<str>,
    /// Scope of requests in the exporting account.
    pub scope: ScopeId,
}

impl ServiceRoute {
    pub fn import(&self) -> &ServiceImport {
        &self.rules.imports.services[self.import]
    }
}

impl Shadow {
    /// The subject under which the importing account gets a message.
    pub fn local_subject(&self, subject: &[u8]) -> Vec<u8> {
        let mut local = Vec::new();
        if let Some(import) = self.rules.imports.streams.get(self.import) {
            import.local(subject, &mut local);
        }
        local
    }

    /// Whether traces of messages go on into the importing account.
    pub fn allows_trace(&self) -> bool {
        self.rules.imports.streams.get(self.import).is_some_and(|import| import.allow_trace)
    }
}

impl Sharing {
    pub fn mappings(&self) -> &accounts::Mappings {
        &self.rules.mappings
    }

    /// Where traces of messages go that somebody else's tracing asks for.
    pub fn trace(&self) -> Option<&accounts::TraceSource> {
        self.rules.trace.as_ref()
    }

    fn streams(&self) -> &[StreamImport] {
        &self.rules.imports.streams
    }

    /// The imported services that a request to `subject` goes to.
    pub fn services(&self, subject: &[u8]) -> impl Iterator<Item = (usize, &ServiceImport)> {
        let imports = self.rules.imports.services.iter().enumerate();
        imports.filter(move |(_, import)| subject::is_subset(subject, import.from.as_bytes()))
    }

    /// The road to the imported service at a place of the rules; `scope` is of requests in its account.
    pub fn route(&self, import: usize, scope: impl FnOnce(&Arc<Account>) -> ScopeId) -> Option<ServiceRoute> {
        let service = self.rules.imports.services.get(import)?;
        let exporter = self.exporters.get(&service.account.index())?;
        let export =
            exporter.rules.exports.service(&service.to).map_or(&service.to, |export| &export.subject);
        Some(ServiceRoute {
            rules: self.rules.clone(),
            import,
            exporter: exporter.account.clone(),
            export: (&**export).into(),
            scope: scope(&exporter.account),
        })
    }

    /// Whether the same streams are imported, so that shadows may stay.
    fn has_streams_of(&self, other: &Sharing) -> bool {
        let mut pairs = self.streams().iter().zip(other.streams());
        let account = |sharing: &Sharing, import: &StreamImport| {
            sharing.exporters.get(&import.account.index()).map(|exporter| exporter.account.index)
        };
        self.streams().len() == other.streams().len()
            && pairs
                .all(|(a, b)| (&a.from, &a.to) == (&b.from, &b.to) && account(self, a) == account(other, b))
    }
}

/// How many answers a request has, as far as the way back is concerned.
pub(crate) fn is_over(kind: ResponseType, payload_len: usize) -> bool {
    kind == ResponseType::Singleton || payload_len == 0
}

fn same_streams(old: Option<&Sharing>, new: Option<&Sharing>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.has_streams_of(new),
        (Some(one), None) | (None, Some(one)) => one.streams().is_empty(),
        (None, None) => true,
    }
}

impl Account {
    /// Puts the shadows of a new subscription into the accounts that it imports from.
    pub(crate) fn cast(
        &self,
        link: &Link,
        number: u32,
        (filter, queue, sid): (&[u8], Option<&[u8]>, &[u8]),
        dirty: &mut Dirty,
    ) {
        loop {
            let Some(sharing) = self.sharing().filter(|sharing| !sharing.streams().is_empty()) else {
                return;
            };
            let progress = self.read(|interest| interest.progress(number));
            let mut shadows = Shadows::new();
            for (import, stream) in sharing.streams().iter().enumerate() {
                let Some(remote) = stream.remote_filter(filter) else { continue };
                let Some(exporter) = sharing.exporters.get(&stream.account.index()) else { continue };
                let shadow = Shadow { rules: sharing.rules.clone(), import, of: number };
                let exporter = exporter.account.clone();
                let place =
                    exporter.add_shadow(link, (&remote, queue, sid), (shadow, progress.clone()), dirty);
                shadows.push((exporter, place));
            }
            // rules that changed meanwhile: once more, with the new ones
            let kept = {
                let mut shared = self.shared.write();
                let same = shared.sharing.as_ref().is_some_and(|now| Arc::ptr_eq(now, &sharing));
                let alive = shared.interest.is_of(number, link.index);
                if same && alive && !shadows.is_empty() {
                    shared.shadows.insert(number, std::mem::take(&mut shadows));
                }
                same || !alive
            };
            lift(link.index, shadows, dirty);
            if kept {
                return;
            }
        }
    }

    /// Whether these rules, and those of the accounts that they lead to, are in force already.
    fn has_rules_of(&self, table: &accounts::Table, rules: &Arc<accounts::Account>) -> bool {
        self.sharing().is_some_and(|sharing| {
            let mut exporters = sharing.exporters.iter();
            Arc::ptr_eq(&sharing.rules, rules)
                && exporters.all(|(index, exporter)| {
                    let now = table.account(accounts::AccountId::from_index(*index));
                    now.is_some_and(|now| Arc::ptr_eq(&exporter.rules, now))
                })
        })
    }

    /// Other rules: shadows of live subscriptions are cast anew where the imported streams changed.
    pub(crate) fn set_sharing(&self, sharing: Option<Arc<Sharing>>, broker: &Broker, dirty: &mut Dirty) {
        let mut lifted = Vec::new();
        let mut local = Vec::new();
        {
            let mut shared = self.shared.write();
            if shared.sharing.is_none() && sharing.is_none() {
                return;
            }
            let same = same_streams(shared.sharing.as_deref(), sharing.as_deref());
            for number in std::mem::take(&mut shared.services) {
                shared.interest.remove(number, false);
            }
            for import in sharing.iter().flat_map(|sharing| &sharing.rules.imports.services) {
                let (number, _) = shared.interest.insert(import.from.as_bytes(), None, b"", SERVER, false);
                shared.services.push(number);
            }
            shared.sharing = sharing;
            if !same {
                lifted.extend(std::mem::take(&mut shared.shadows));
                let interest = &shared.interest;
                interest.each(|number, record| {
                    if !interest.is_shadow(number) && record.link != SERVER {
                        let mut filter = Vec::new();
                        interest.text(record.filter, &mut filter);
                        let queue =
                            (record.queue != NONE).then(|| interest.queue_name(record.queue).to_vec());
                        local.push((number, record.link, filter, queue, interest.sid(number).to_vec()));
                    }
                });
            }
        }
        self.expire_plans();
        let owners: HashMap<u32, u32> = local.iter().map(|(number, link, ..)| (*number, *link)).collect();
        for (number, shadows) in lifted {
            if let Some(link) = owners.get(&number) {
                lift(*link, shadows, dirty);
            }
        }
        for (number, link, filter, queue, sid) in local {
            if let Some(link) = broker.link(link)
                && link.kind != crate::LinkKind::Route
            {
                self.cast(&link, number, (&filter, queue.as_deref(), &sid), dirty);
            }
        }
    }

    /// Lets go of other accounts.
    pub(crate) fn unshare(&self) {
        let mut shared = self.shared.write();
        shared.sharing = None;
        shared.shadows = HashMap::new();
        self.responses.clear();
    }
}

/// Takes shadows away.
pub(crate) fn lift(link: u32, shadows: Shadows, dirty: &mut Dirty) {
    for (exporter, number) in shadows {
        exporter.remove_shadow(link, number, dirty);
    }
}

impl Broker {
    /// Puts the mappings, exports and imports of a table in force, also for live subscriptions. `dirty`: links to
    /// be flushed.
    pub fn share(&self, table: &accounts::Table, dirty: &mut Dirty) {
        for rules in table.accounts() {
            if !shares(rules) || self.account(&rules.name).has_rules_of(table, rules) {
                continue;
            }
            let imported = rules.imports.streams.iter().map(|import| import.account);
            let imported = imported.chain(rules.imports.services.iter().map(|import| import.account));
            let mut exporters = HashMap::new();
            for id in imported {
                if let Some(rules) = table.account(id) {
                    let exporter = || Exporter { account: self.account(&rules.name), rules: rules.clone() };
                    exporters.entry(id.index()).or_insert_with(exporter);
                }
            }
            let sharing = Arc::new(Sharing { rules: rules.clone(), exporters });
            self.account(&rules.name).set_sharing(Some(sharing), self, dirty);
        }
        let measures = |rules: &Arc<accounts::Account>| {
            rules.imports.services.iter().any(|import| import.latency.is_some())
        };
        if table.accounts().iter().any(measures) {
            self.take_measurements(dirty);
        }
        for account in self.accounts() {
            let rules = table.find(&account.name).and_then(|id| table.account(id));
            if !rules.is_some_and(|rules| shares(rules)) {
                account.set_sharing(None, self, dirty);
            }
        }
    }
}

/// Whether an account has anything for [`Sharing`] to hold.
fn shares(rules: &accounts::Account) -> bool {
    let imports = &rules.imports;
    let has_imports = !(imports.streams.is_empty() && imports.services.is_empty());
    has_imports || !rules.mappings.is_empty() || rules.trace.is_some()
}
