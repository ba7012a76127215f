//! Where account tokens come from in operator mode, and the thread that fetches them for logins.
//!
//! Owns the store of tokens and which of them the table is told of: an account comes into the table when somebody
//! logs in to it, with the accounts that it imports from. Never judges a token: that is the `accounts` room's.

use crate::shared::Shared;
use crate::worker_thread::now_nanos;
use accounts::jwt;
use accounts::{AuthError, Table};
use broker::mailbox::Command;
use client::Question;
use config::Settings;
use config::trust::Resolver as Kind;
use engine::Recheck;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Why a resolver cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the configuration that does not fit.
    #[error("{0}")]
    Configuration(String),
}

/// Tokens by account key.
enum Store {
    /// `resolver: MEMORY`.
    Memory(HashMap<String, Arc<str>>),
}

/// The resolver of a server.
pub struct Resolver {
    store: Mutex<Store>,
    /// Accounts that are being fetched: who wants one waits for the first who did.
    fetching: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
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
        let store = match &trust.resolver {
            Some(Kind::Memory) => Store::Memory(preloaded(&trust.resolver_preload)?),
            None if trust.operators.is_empty() => Store::Memory(HashMap::new()),
            None => {
                return Err(Error::Configuration(
                    "operators require an account resolver to be configured".into(),
                ));
            }
            Some(_) => {
                let what = "a resolver other than MEMORY is not supported yet: take it out of the configuration to start this server";
                return Err(Error::Configuration(what.into()));
            }
        };
        Ok(Some(Resolver { store: Mutex::new(store), fetching: Mutex::default() }))
    }

    /// Takes over what another configuration says.
    pub fn reopen(&self, other: Resolver) {
        *self.store.lock() = other.store.into_inner();
    }

    /// A token that is here already.
    pub fn stored(&self, account: &str) -> Option<Arc<str>> {
        match &*self.store.lock() {
            Store::Memory(tokens) => tokens.get(account).cloned(),
        }
    }

    /// A token, wherever it has to be fetched from.
    async fn fetch(&self, account: &str) -> Option<Arc<str>> {
        self.stored(account)
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
            let Some(text) = self.fetch(&name).await else {
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
        // those that others import from come first
        tokens.reverse();
        shared.change_table(|table| with_tokens(table, &tokens).map(|table| (table, Recheck::Nobody)));
    }
}

/// `table` with these tokens, as far as they are valid; `None` when none is.
pub fn with_tokens(table: &Table, tokens: &[Arc<str>]) -> Option<Table> {
    let mut changed = None;
    for text in tokens {
        match changed.as_ref().unwrap_or(table).with_account(text, now_nanos()) {
            Ok(table) => changed = Some(table),
            Err(error) => tracing::error!("{error}"),
        }
    }
    for note in changed.iter().flat_map(|table| table.notes()) {
        tracing::warn!("{note}");
    }
    changed
}

fn preloaded(preload: &BTreeMap<String, String>) -> Result<HashMap<String, Arc<str>>, Error> {
    let decoded = preload.iter().map(|(key, text)| match jwt::account(text) {
        Ok(_) => Ok((key.clone(), Arc::from(text.as_str()))),
        Err(error) => Err(Error::Configuration(format!("preload account error for {key:?}: {error}"))),
    });
    decoded.collect()
}

/// The way to the threads for logins.
pub struct Logins {
    hashes: std::sync::mpsc::Sender<Question>,
    accounts: UnboundedSender<Question>,
    received: Mutex<Option<UnboundedReceiver<Question>>>,
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
                    Err(AuthError::AccountNeeded(_)) => drop(onward.send(question)),
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
            let _ = self.accounts.send(question);
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
    let shared = Arc::downgrade(shared);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("accounts".into());
    thread.spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve(shared, questions)))?;
    Ok(())
}

async fn serve(shared: Weak<Shared>, mut questions: UnboundedReceiver<Question>) {
    while let Some(question) = questions.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        tokio::task::spawn_local(async move { decide(&shared, question).await });
    }
}

/// Asks until nothing more can be fetched.
async fn decide(shared: &Shared, mut question: Question) {
    let mut tried = HashSet::new();
    loop {
        if question.link.close_reason().is_some() {
            return;
        }
        question.table = shared.table.read().clone();
        match (question.verdict(), shared.resolver.get()) {
            (Err(AuthError::AccountNeeded(account)), Some(resolver)) if tried.insert(account.clone()) => {
                resolver.add(shared, &account).await;
            }
            (verdict, _) => return answer(question, verdict),
        }
    }
}

fn answer(question: Question, verdict: Result<accounts::Identity, AuthError>) {
    let owner = question.link.owner.clone();
    owner.post(Command::Other(Box::new(question.with_verdict(verdict))));
}
