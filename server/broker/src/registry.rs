//! The broker as a whole: its accounts, its links and its workers' mailboxes.
//!
//! Owns the lists; never the things in them.

use crate::account::{Account, Dirty};
use crate::link::{About, Link, LinkKind, LinkParts, Transport};
use crate::mailbox::{Command, Mailbox};
use crate::responses::{Tracked, token};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};

/// Name of the account of everybody who was given no other.
pub const GLOBAL_ACCOUNT: &str = "$G";
/// Name of the system account unless the configuration names another.
pub const SYSTEM_ACCOUNT: &str = "$SYS";

/// Where servers tell one another what they measured of services, behind it the server it is for.
pub(crate) const MEASUREMENTS: &str = "$SYS.LATENCY.M2.";

/// Everything that workers share.
pub struct Broker {
    mailboxes: Vec<Arc<Mailbox>>,
    links: RwLock<Links>,
    accounts: RwLock<Accounts>,
    routes: RwLock<Vec<(Arc<Link>, RouteRules)>>,
    /// Accounts that ever waited for an answer of another one's service.
    responders: RwLock<Vec<Arc<Account>>>,
    names: RwLock<Arc<ServerNames>>,
    /// Where other servers send what they measure, once a service here is measured.
    measurements: OnceLock<Box<str>>,
    pub(crate) tracked: Tracked,
    next_id: AtomicU64,
    seed: u64,
    /// Messages that this server sent about itself, for the number on each.
    pub sent: Arc<AtomicU64>,
    /// Bytes that may wait on one link before it is cut off as a slow consumer.
    pub pending_bytes_max: AtomicUsize,
    /// Publishers wait for slow readers, a moment (not with `no_fast_producer_stall`).
    pub stalls_publishers: AtomicBool,
    /// Links cut off as slow consumers: clients, routes ([`Broker::count_slow_consumer`]).
    pub slow_consumers: [AtomicU64; 2],
}

/// What services in other accounts are told of this server.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    /// Name of the server.
    pub server: String,
    /// Name of its cluster, empty without one.
    pub cluster: String,
    /// Name of the system account: its services are told the server.
    pub system_account: String,
    /// How messages of this server begin that say who sent them: the fields of a JSON object up to the number of
    /// the message, with the comma behind them.
    pub stamp: String,
}

/// What is told over a route connection.
#[derive(Clone)]
pub struct RouteRules {
    /// Whether it carries an account (nats-server's route pooling decides).
    pub carries: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Whether interest in a filter may be told (route permissions); `None` for all.
    pub may_tell: Option<MayTell>,
}

/// Whether interest in a filter may be told.
pub type MayTell = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

#[derive(Default)]
struct Links {
    slots: Vec<Option<Arc<Link>>>,
    free: Vec<u32>,
    live: usize,
}

#[derive(Default)]
struct Accounts {
    list: Vec<Arc<Account>>,
    by_name: HashMap<Box<str>, u32>,
}

impl Broker {
    /// A link was cut off as a slow consumer.
    pub fn count_slow_consumer(&self, kind: LinkKind) {
        self.slow_consumers[usize::from(kind == LinkKind::Route)].fetch_add(1, Relaxed);
    }

    /// A broker whose workers are reached through `mailboxes`. `seed` makes hashes unpredictable to clients.
    pub fn new(mailboxes: Vec<Arc<Mailbox>>, seed: u64) -> Arc<Broker> {
        Arc::new(Broker {
            mailboxes,
            seed,
            links: RwLock::default(),
            accounts: RwLock::default(),
            routes: RwLock::default(),
            responders: RwLock::default(),
            names: RwLock::default(),
            measurements: OnceLock::new(),
            tracked: Tracked::default(),
            next_id: AtomicU64::new(1),
            sent: Arc::default(),
            pending_bytes_max: AtomicUsize::new(64 << 20),
            stalls_publishers: AtomicBool::new(true),
            slow_consumers: Default::default(),
        })
    }

    /// What services in other accounts are told of this server.
    pub fn names(&self) -> Arc<ServerNames> {
        self.names.read().clone()
    }

    /// Sets what services in other accounts are told of this server.
    pub fn set_names(&self, names: ServerNames) {
        *self.names.write() = Arc::new(names);
    }

    /// From now on other servers can tell what they measured of services for requests from here.
    pub(crate) fn take_measurements(&self, dirty: &mut Dirty) {
        let system = self.names().system_account.clone();
        if system.is_empty() || self.measurements.get().is_some() {
            return;
        }
        let token = token(subject::hash(self.seed, b"latency"), 8);
        let filter = format!("{MEASUREMENTS}{token}");
        if self.measurements.set(filter.as_str().into()).is_ok() {
            self.account(&system).subscribe_server(filter.as_bytes(), dirty);
        }
    }

    /// By which other servers name this one in measurements, once it takes any.
    pub(crate) fn measurement_token(&self) -> Option<&str> {
        self.measurements.get().and_then(|filter| filter.strip_prefix(MEASUREMENTS))
    }

    /// Whether a subject is where measurements for this server come.
    pub(crate) fn is_measurement(&self, subject: &[u8]) -> bool {
        self.measurements.get().is_some_and(|filter| filter.as_bytes() == subject)
    }

    /// From now on answers that `account` waits for are looked at by every [`crate::Router::sweep`].
    pub(crate) fn add_responder(&self, account: &Arc<Account>) {
        self.responders.write().push(account.clone());
    }

    /// Accounts that may wait for answers.
    pub(crate) fn responders(&self) -> Vec<Arc<Account>> {
        self.responders.read().clone()
    }

    /// The workers' mailboxes.
    pub fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }

    /// The next connection number.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// Registers a connection owned by worker `worker` under its slot `token`.
    pub fn open(
        &self,
        kind: LinkKind,
        worker: usize,
        token: u32,
        id: u64,
        transport: Box<dyn Transport>,
        about: About,
    ) -> Arc<Link> {
        let mut links = self.links.write();
        let index = links.free.pop().unwrap_or_else(|| {
            links.slots.push(None);
            links.slots.len() as u32 - 1
        });
        let owner = self.mailboxes[worker].clone();
        let link = Arc::new(Link::new(LinkParts { id, index, kind, token, owner, transport, about }));
        links.slots[index as usize] = Some(link.clone());
        links.live += 1;
        link
    }

    /// Forgets a connection. Its subscriptions are gone before.
    pub fn forget(&self, link: &Link) {
        let mut links = self.links.write();
        if let Some(slot) = links.slots.get_mut(link.index as usize)
            && slot.as_ref().is_some_and(|l| l.id == link.id)
        {
            *slot = None;
            links.free.push(link.index);
            links.live -= 1;
        }
    }

    /// The connection at a place of the registry.
    pub fn link(&self, index: u32) -> Option<Arc<Link>> {
        self.links.read().slots.get(index as usize).cloned().flatten()
    }

    /// All open connections.
    pub fn links(&self) -> Vec<Arc<Link>> {
        // one that is closed stays registered until its subscriptions are gone
        let is_open = |link: &&Arc<Link>| link.close_reason().is_none();
        self.links.read().slots.iter().flatten().filter(is_open).cloned().collect()
    }

    /// Runs `read` with a look-up of links, under one lock.
    pub(crate) fn with_links<R>(&self, read: impl FnOnce(&dyn Fn(u32) -> Option<Arc<Link>>) -> R) -> R {
        let links = self.links.read();
        read(&|index| links.slots.get(index as usize).cloned().flatten())
    }

    /// The account of that name, made when it is not there yet.
    pub fn account(&self, name: &str) -> Arc<Account> {
        if let Some(account) = self.find_account(name) {
            return account;
        }
        let mut dirty = Vec::new();
        let account = {
            let mut accounts = self.accounts.write();
            if let Some(index) = accounts.by_name.get(name) {
                return accounts.list[*index as usize].clone();
            }
            let index = accounts.list.len() as u32;
            let account = Arc::new(Account::new(index, name, self.seed));
            accounts.list.push(account.clone());
            accounts.by_name.insert(name.into(), index);
            account
        };
        for (route, rules) in self.routes.read().iter() {
            if (rules.carries)(name) {
                account.add_route(route, rules.may_tell.clone(), &mut dirty);
            }
        }
        account
    }

    /// The account of that name, if it is known.
    pub fn find_account(&self, name: &str) -> Option<Arc<Account>> {
        let accounts = self.accounts.read();
        accounts.by_name.get(name).map(|index| accounts.list[*index as usize].clone())
    }

    /// All accounts.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.read().list.clone()
    }

    /// Whether [`tidy`](Self::tidy) has something to do.
    pub fn is_sparse(&self) -> bool {
        self.accounts.read().list.iter().any(|account| account.is_sparse())
    }

    /// Gives back the memory of interest that is gone, once it has stopped going. To be called about once a second, from
    /// a thread that may wait.
    pub fn tidy(&self) {
        for account in self.accounts() {
            account.tidy();
        }
    }

    /// A route finished its handshake: it hears of the interest of the accounts that it carries.
    pub fn add_route(&self, link: &Arc<Link>, rules: RouteRules, dirty: &mut Dirty) {
        self.routes.write().push((link.clone(), rules.clone()));
        for account in self.accounts() {
            if (rules.carries)(&account.name) {
                account.add_route(link, rules.may_tell.clone(), dirty);
            }
        }
    }

    /// A route is gone.
    pub fn remove_route(&self, link: &Link, dirty: &mut Dirty) {
        self.routes.write().retain(|(route, _)| route.id != link.id);
        for account in self.accounts() {
            account.remove_route(link, dirty);
        }
    }

    /// Open routes that finished their handshake.
    pub fn routes(&self) -> Vec<Arc<Link>> {
        self.routes.read().iter().map(|(link, _)| link.clone()).collect()
    }

    /// Leaves a command with every worker.
    pub fn broadcast(&self, mut command: impl FnMut() -> Command) {
        for mailbox in &self.mailboxes {
            mailbox.post(command());
        }
    }
}

impl Drop for Broker {
    /// Accounts that import from one another hold one another.
    fn drop(&mut self) {
        for account in &self.accounts.get_mut().list {
            account.unshare();
        }
    }
}
