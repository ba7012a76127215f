//! Where account tokens come from in operator mode, and the thread that fetches them for logins.
//!
//! Owns the store of tokens and which of them the table is told of: an account comes into the table when somebody
//! logs in to it, with the accounts that it imports from. Never judges a token: that is the `accounts` room's.

mod activations;
mod files;
mod services;
mod web;

use crate::access;
use crate::callout;
use crate::shared::Shared;
use crate::worker_thread::wall_nanos;
use accounts::jwt;
use accounts::resolver::DirectorySettings;
use accounts::{AuthError, Reason, Table};
use activations::Activations;
use broker::mailbox::Command;
use client::Question;
use config::Settings;
use config::trust::Resolver as Kind;
use engine::Recheck;
use files::{Files, FilesSettings};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use web::Web;

/// How long other servers may take to answer (nats-server `DEFAULT_ACCOUNT_FETCH_TIMEOUT`).
const FETCH_TIME_MAX: Duration = Duration::from_millis(1900);
/// How often folders are compared.
const SYNC_PERIOD: Duration = Duration::from_secs(60);
/// Tokens that a cache holds unless the configuration says so.
const CACHE_TOKENS_MAX: usize = 1000;

/// Why a resolver cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the configuration that does not fit.
    #[error("{0}")]
    Configuration(String),
    /// The folder of tokens cannot be used.
    #[error("account resolver: {path:?}: {error}")]
    Directory {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The operator's token cannot be read.
    #[error("{0}")]
    Access(#[from] access::Error),
}

/// Tokens by account key.
enum Store {
    /// `resolver: MEMORY`.
    Memory(HashMap<String, Arc<str>>),
    /// A folder with all of them, or with those used lately.
    Files(Files),
    /// A web server, and what it said about the system account.
    Web(Arc<Web>, HashMap<String, Arc<str>>),
}

/// The resolver of a server.
pub struct Resolver {
    store: Mutex<Store>,
    /// How long other servers may take to answer.
    timeout: Duration,
    /// How often a full folder is compared with another server's.
    sync_period: Duration,
    /// Answers sent, for the stamp on each.
    sent: AtomicU64,
    /// Accounts that are being fetched: who wants one waits for the first who did.
    fetching: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
    /// Tokens that were fetched and are not in the table yet.
    fetched: Mutex<Vec<Arc<str>>>,
    /// Ends imports whose activation expires.
    activations: Activations,
}

impl Resolver {
    /// Opens what the configuration names; `None` outside operator mode.
    ///
    /// # Errors
    /// [`Error`]
    pub fn open(settings: &Settings) -> Result<Option<Resolver>, Error> {
        let trust = &settings.trust;
        if trust.operators.is_empty() && trust.trusted_keys.is_empty() {
            return Ok(None);
        }
        let mut timeout = FETCH_TIME_MAX;
        let mut sync_period = SYNC_PERIOD;
        let mut store = match &trust.resolver {
            Some(Kind::Memory) => Store::Memory(HashMap::new()),
            Some(Kind::Full { dir, limit, interval, timeout: wait, allow_delete, hard_delete }) => {
                timeout = wait.unwrap_or(timeout);
                sync_period = interval.unwrap_or(sync_period);
                let directory = DirectorySettings {
                    allow_delete: *allow_delete,
                    tokens_max: usize::try_from(*limit).unwrap_or(usize::MAX),
                    ..directory_settings(settings)?
                };
                let (path, hard_delete) = (dir.into(), *hard_delete);
                Store::Files(Files::open(FilesSettings { directory, path, hard_delete, cache: None })?)
            }
            Some(Kind::Cache { dir, limit, ttl, timeout: wait }) => {
                timeout = wait.unwrap_or(timeout);
                let directory = DirectorySettings { allow_delete: true, ..directory_settings(settings)? };
                let limit =
                    usize::try_from(*limit).ok().filter(|limit| *limit > 0).unwrap_or(CACHE_TOKENS_MAX);
                let cache = Some((limit, ttl.map(|ttl| ttl.as_nanos() as u64)));
                let (path, hard_delete) = (dir.into(), true);
                Store::Files(Files::open(FilesSettings { directory, path, hard_delete, cache })?)
            }
            None if trust.operators.is_empty() => Store::Memory(HashMap::new()),
            None => {
                return Err(Error::Configuration(
                    "operators require an account resolver to be configured".into(),
                ));
            }
            Some(Kind::Url(url)) => open_web(url, settings)?,
        };
        for (key, text) in &trust.resolver_preload {
            if let Err(error) = jwt::account(text) {
                return Err(Error::Configuration(format!("preload account error for {key:?}: {error}")));
            }
            match &mut store {
                Store::Memory(tokens) | Store::Web(_, tokens) => {
                    drop(tokens.insert(key.clone(), text.as_str().into()));
                }
                Store::Files(files) => files.store(key, text),
            }
        }
        let store = Mutex::new(store);
        Ok(Some(Resolver {
            store,
            timeout,
            sync_period,
            fetching: Mutex::default(),
            fetched: Mutex::default(),
            activations: Activations::default(),
            sent: AtomicU64::new(0),
        }))
    }

    /// Takes over what another configuration says.
    pub fn reopen(&self, other: Resolver) {
        *self.store.lock() = other.store.into_inner();
    }

    /// A token that is here already.
    pub fn stored(&self, account: &str) -> Option<Arc<str>> {
        match &mut *self.store.lock() {
            Store::Memory(tokens) | Store::Web(_, tokens) => tokens.get(account).cloned(),
            Store::Files(files) => files.token(account),
        }
    }

    /// Whether there is no such account: not here, where all are.
    pub fn lacks(&self, account: &str) -> bool {
        let holds_all = match &*self.store.lock() {
            Store::Memory(_) => true,
            Store::Files(files) => !files.is_cache(),
            Store::Web(..) => false,
        };
        holds_all && self.stored(account).is_none()
    }

    /// A token, wherever it has to be fetched from.
    async fn fetch(&self, shared: &Shared, account: &str) -> Option<Arc<str>> {
        if let Some(token) = self.stored(account).filter(|text| !is_expired(text)) {
            return Some(token);
        }
        let web = match &*self.store.lock() {
            Store::Memory(_) => return None,
            Store::Files(_) => None,
            Store::Web(web, _) => Some(web.clone()),
        };
        if let Some(web) = web {
            let fetched = web.fetch(account).await;
            return fetched.inspect_err(|error| tracing::error!("{error}")).ok().map(Arc::from);
        }
        let token = services::ask_others(shared, account, self.timeout).await?;
        if let Store::Files(files) = &mut *self.store.lock() {
            files.store(account, &token);
        }
        self.stored(account).filter(|text| !is_expired(text))
    }

    /// Puts an account into the table, with those that it imports from. Whether that worked is seen by asking the
    /// table.
    async fn add(&self, shared: &Shared, account: &str) {
        let cell = self.fetching.lock().entry(account.to_owned()).or_default().clone();
        cell.get_or_init(|| self.add_now(shared, account)).await;
        self.fetching.lock().remove(account);
    }

    async fn add_now(&self, shared: &Shared, account: &str) {
        let (mut due, mut seen, mut tokens) = (vec![account.to_owned()], HashSet::new(), Vec::new());
        while let Some(name) = due.pop() {
            if !seen.insert(name.clone())
                || (name != account && shared.table.read().account_token(&name).is_some())
            {
                continue;
            }
            let Some(text) = self.fetch(shared, &name).await else {
                tracing::debug!("Account [{name}] fetch failed: no such account");
                continue;
            };
            match jwt::account(&text) {
                Ok(claims) if claims.subject == name => {
                    due.extend(claims.nats.imports.into_iter().map(|import| import.account));
                    tokens.push(text);
                }
                Ok(claims) => tracing::error!("Account [{name}]: its token is one of {}", claims.subject),
                Err(error) => tracing::error!("Account [{name}]: its token is not valid: {error}"),
            }
        }
        // a table takes time that grows with the accounts: those who log in at the same time share one
        self.fetched.lock().append(&mut tokens);
        tokio::task::yield_now().await;
        let tokens = std::mem::take(&mut *self.fetched.lock());
        if !tokens.is_empty() {
            shared.change_table(|table| with_tokens(table, &tokens).map(|table| (table, Recheck::Nobody)));
        }
    }
}

/// Whether a token that is kept says that it has expired; its signature is looked at by others. One that cannot be
/// read has not.
fn is_expired(text: &str) -> bool {
    let expires = || {
        let body = data_encoding::BASE64URL_NOPAD.decode(text.split('.').nth(1)?.as_bytes()).ok()?;
        serde_json::from_slice::<serde_json::Value>(&body).ok()?["exp"].as_i64()
    };
    let now_seconds = (wall_nanos() / 1_000_000_000) as i64;
    expires().is_some_and(|expires| expires > 0 && expires <= now_seconds)
}

/// `table` with these tokens, as far as they are valid; `None` when none is.
pub fn with_tokens(table: &Table, tokens: &[Arc<str>]) -> Option<Table> {
    let changed = match table.with_accounts(tokens, wall_nanos()) {
        Ok((changed, errors)) => {
            errors.iter().for_each(|error| tracing::error!("{error}"));
            changed
        }
        Err(error) => {
            tracing::error!("{error}");
            None
        }
    };
    for note in changed.iter().flat_map(|table| table.notes()) {
        tracing::warn!("{note}");
    }
    changed
}

/// A web server must answer when this server starts, and know the system account.
fn open_web(url: &str, settings: &Settings) -> Result<Store, Error> {
    let web = Arc::new(Web::new(url, settings.trust.resolver_tls.as_ref(), FETCH_TIME_MAX)?);
    // without an account it is only asked whether anyone is there, as nats-server does
    let mut accounts = vec![String::new()];
    accounts.extend(system_account(settings, &access::operators(settings)?.operators));
    let fetched = web.fetch_waiting(accounts.clone())?;
    let known = accounts.into_iter().zip(fetched).skip(1);
    Ok(Store::Web(web, known.map(|(account, token)| (account, Arc::from(token))).collect()))
}

/// The system account of the configuration, or of an operator.
fn system_account(settings: &Settings, operators: &[String]) -> Option<String> {
    let named = || operators.iter().find_map(|text| Some(jwt::operator(text).ok()?.nats.system_account));
    settings.system_account.clone().or_else(named).filter(|name| !name.is_empty())
}

/// Who may change a folder of tokens.
fn directory_settings(settings: &Settings) -> Result<DirectorySettings, Error> {
    let operators = access::operators(settings)?.operators;
    let system_account = system_account(settings, &operators);
    if system_account.is_none() {
        let what = "using nats based account resolver - the system account needs to be specified in configuration or the operator jwt";
        return Err(Error::Configuration(what.into()));
    }
    let operator = operators.into_iter().next();
    let operator = operator.ok_or_else(|| Error::Configuration("no operator key found".into()))?;
    Ok(DirectorySettings { operator, system_account, ..DirectorySettings::default() })
}

type Verdict = Result<accounts::Identity, AuthError>;
/// A question, and what the first look at it said.
type Asked = (Question, Option<Verdict>);

/// The way to the threads for logins.
pub struct Logins {
    hashes: std::sync::mpsc::Sender<Question>,
    accounts: UnboundedSender<Asked>,
    received: Mutex<Option<UnboundedReceiver<Asked>>>,
}

impl Logins {
    /// Starts the thread that checks password hashes: one, so that logins cannot take every core from the workers.
    pub fn new() -> Logins {
        let (hashes, questions) = std::sync::mpsc::channel::<Question>();
        let (accounts, received) = unbounded_channel();
        let onward = accounts.clone();
        let spawned = std::thread::Builder::new().name("login".into()).spawn(move || {
            for question in questions {
                // whoever hung up meanwhile needs no answer
                if question.link.close_reason().is_some() {
                    continue;
                }
                match question.verdict() {
                    // the receiver is gone only when the server is
                    verdict @ Err(AuthError::AccountNeeded(_) | AuthError::Callout(_)) => {
                        drop(onward.send((question, Some(verdict))));
                    }
                    verdict => answer(question, verdict),
                }
            }
        });
        if let Err(error) = spawned {
            tracing::error!(
                "cannot start the thread for logins, hashed passwords will not be checked: {error}"
            );
        }
        Logins { hashes, accounts, received: Mutex::new(Some(received)) }
    }

    /// Has a question answered; the answer goes to the worker that owns the connection.
    pub fn ask(&self, question: Question) {
        // the threads end with the server only
        if question.is_slow() {
            let _ = self.hashes.send(question);
        } else {
            let _ = self.accounts.send((question, None));
        }
    }
}

impl Default for Logins {
    fn default() -> Self {
        Logins::new()
    }
}

/// Starts the thread that asks others about logins. It ends when the server's state is dropped.
///
/// # Errors
/// The system refuses threads or polls.
pub fn spawn(shared: &Arc<Shared>) -> std::io::Result<()> {
    let Some(questions) = shared.logins.received.lock().take() else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("accounts".into());
    services::start(shared);
    if let Some(resolver) = shared.resolver.get() {
        resolver.activations.start(shared);
    }
    let shared = Arc::downgrade(shared);
    thread.spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve(shared, questions)))?;
    Ok(())
}

async fn serve(shared: Weak<Shared>, mut questions: UnboundedReceiver<Asked>) {
    while let Some(asked) = questions.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        tokio::task::spawn_local(async move { decide(&shared, asked).await });
    }
}

/// Asks until nothing more can be fetched.
async fn decide(shared: &Shared, (mut question, mut known): Asked) {
    let mut tried = HashSet::new();
    let mut answered = None;
    loop {
        if question.link.close_reason().is_some() {
            return;
        }
        question.table = shared.table.read().clone();
        let verdict = match known.take().unwrap_or_else(|| question.verdict()) {
            Err(AuthError::Callout(callout)) => {
                callout::ask(shared, &question, &callout, &mut answered).await
            }
            verdict => verdict,
        };
        match (wanted(&verdict, &question), shared.resolver.get()) {
            (Some(account), Some(resolver)) if tried.insert(account.clone()) => {
                resolver.add(shared, &account).await;
            }
            _ => return answer(question, verdict),
        }
    }
}

/// The account of which a token, or a newer one, might change the verdict.
fn wanted(verdict: &Verdict, question: &Question) -> Option<String> {
    match verdict {
        Err(AuthError::AccountNeeded(account)) => Some(account.clone()),
        Err(AuthError::Refused(Reason::AccountExpired)) => {
            let claims = jwt::user(&question.connect.jwt).ok()?;
            let issuer_account = claims.nats.issuer_account;
            Some(if issuer_account.is_empty() { claims.issuer } else { issuer_account })
        }
        _ => None,
    }
}

fn answer(question: Question, verdict: Verdict) {
    let owner = question.link.owner.clone();
    owner.post(Command::Other(Box::new(question.with_verdict(verdict))));
}
