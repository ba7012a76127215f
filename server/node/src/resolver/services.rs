//! What the resolver says and hears in the system account: tokens that are pushed, looked up, listed, deleted, and
//! compared between servers.
//!
//! Owns the subscriptions and the form of the answers. What is kept is decided by `accounts::resolver`.

use super::{Resolver, Store, with_tokens};
use crate::shared::Shared;
use crate::worker_thread::{now_nanos, wall_nanos};
use accounts::jwt;
use accounts::resolver::{Answer, Change, Reply, Request};
use engine::{InternalClient, Received, Recheck};
use monitor::Source;
use monitor::events::ServerInfo;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc::unbounded_channel;

/// The first comparison comes soon after the start.
const FIRST_SYNC: Duration = Duration::from_secs(2);
/// Subjects by which tokens are pushed; the second is the older one.
const UPDATES: [&str; 2] = ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CLAIMS.UPDATE"];
const PACK: &str = "$SYS.REQ.CLAIMS.PACK";

/// Begins to answer in the system account. Without one nobody can ask.
pub(super) fn start(shared: &Arc<Shared>) {
    let Some(resolver) = shared.resolver.get() else { return };
    let system = {
        let table = shared.table.read();
        table.system_account().and_then(|id| table.account(id)).map(|account| account.name.clone())
    };
    let Some(system) = system else { return };
    let client = shared.internal.client(&system);
    let (is_full, path) = match &*resolver.store.lock() {
        Store::Memory(_) | Store::Web(..) => (false, None),
        Store::Files(files) => (!files.is_cache(), Some(files.path().to_owned())),
    };
    let Some(path) = path else {
        for subject in UPDATES {
            on(&client, subject, None, shared, push_to_memory);
        }
        return;
    };
    sweep(&client, Arc::downgrade(shared), Duration::ZERO);
    for subject in Request::SUBJECTS {
        let between_servers = subject == PACK || subject.ends_with(".LOOKUP");
        if is_full || !between_servers {
            on(&client, subject, (subject == PACK).then_some("responder"), shared, handle);
        }
    }
    if is_full {
        let inbox = format!("$SYS._INBOX.{}.pack", shared.server_id);
        on(&client, &inbox, None, shared, |_, resolver, received| {
            let Store::Files(files) = &mut *resolver.store.lock() else { return Vec::new() };
            files.handle_pack(received.payload)
        });
        schedule(&client, Arc::downgrade(shared), inbox, FIRST_SYNC);
        tracing::info!("Managing all jwt in exclusive directory {}", path.display());
    } else {
        tracing::info!("Managing some jwt in exclusive directory {}", path.display());
    }
}

/// Subscribes with a handler that says what it changed.
fn on(
    client: &InternalClient,
    subject: &str,
    queue: Option<&str>,
    shared: &Arc<Shared>,
    handle: impl Fn(&Shared, &Resolver, &Received<'_>) -> Vec<Change> + Send + Sync + 'static,
) {
    let shared = Arc::downgrade(shared);
    client.subscribe(
        subject,
        queue,
        Arc::new(move |received: &Received<'_>| {
            let Some(shared) = shared.upgrade() else { return };
            let Some(resolver) = shared.resolver.get() else { return };
            let changes = handle(&shared, resolver, received);
            apply(&shared, &changes);
        }),
    );
}

/// Puts what changed into the table, as far as it is there or somebody waits for it.
fn apply(shared: &Shared, changes: &[Change]) {
    if changes.is_empty() {
        return;
    }
    shared.change_table(|table| {
        let mut changed = None;
        let mut names = Vec::new();
        for change in changes {
            let now: &accounts::Table = changed.as_ref().unwrap_or(table);
            let next = match change {
                Change::Stored { key, token } => {
                    let wanted = now.account_token(key).is_some() || now.missing_accounts().contains(key);
                    wanted
                        .then(|| with_tokens(now, std::slice::from_ref(token)))
                        .flatten()
                        .map(|next| (key, next))
                }
                Change::Deleted { key } => {
                    let known = now.account_token(key).is_some();
                    known
                        .then(|| now.without_account(key, wall_nanos()).ok())
                        .flatten()
                        .map(|next| (key, next))
                }
            };
            if let Some((key, next)) = next {
                names.push(key.clone());
                changed = Some(next);
            }
        }
        changed.map(|table| (table, Recheck::Accounts(names)))
    });
}

fn handle(shared: &Shared, resolver: &Resolver, received: &Received<'_>) -> Vec<Change> {
    let Some(request) = Request::parse(received.subject) else { return Vec::new() };
    let silent = matches!(request, Request::Lookup(_) | Request::Pack | Request::List);
    if silent && received.reply.is_empty() {
        return Vec::new();
    }
    let (answer, is_cache) = {
        let Store::Files(files) = &mut *resolver.store.lock() else { return Vec::new() };
        let is_cache = files.is_cache();
        let unused = match (&request, is_cache) {
            (Request::Update(_), true) => unused_account(shared, received.payload),
            _ => None,
        };
        let answer = match unused {
            // a cache keeps what is used here
            Some(key) => skipped(&key, "jwt update skipped"),
            None => files.handle_request(&request, received.payload),
        };
        (answer, is_cache)
    };
    for reply in &answer.replies {
        match reply {
            Reply::Bytes(bytes) => received.answer(bytes),
            Reply::Document(document) => {
                let is_list = request == Request::List;
                let text = document_text(shared, resolver, document, is_list);
                let text = if is_cache { cached_words(&text) } else { text };
                if document.get("error").is_some() {
                    tracing::error!("{}", document["error"]["description"].as_str().unwrap_or_default());
                }
                received.answer(text.as_bytes());
            }
        }
    }
    answer.changes
}

/// The account of a valid token if it is not in the table.
fn unused_account(shared: &Shared, payload: &[u8]) -> Option<String> {
    let claims = jwt::account(std::str::from_utf8(payload).ok()?.trim()).ok()?;
    let table = shared.table.read();
    table.account_token(&claims.subject).is_none().then_some(claims.subject)
}

fn skipped(account: &str, message: &str) -> Answer {
    let document = json!({"data": {"account": account, "code": 200, "message": message}});
    Answer { replies: vec![Reply::Document(document)], changes: Vec::new() }
}

/// A cache words its answers otherwise (nats-server `CacheDirAccResolver`).
fn cached_words(text: &str) -> String {
    let words = [
        ("\"jwt updated\"", "\"jwt updated cache\""),
        ("jwt update resulted", "jwt update cache resulted"),
        ("jwt update skipped", "jwt update cache skipped"),
        ("jwt validation failed", "jwt update cache validation failed"),
    ];
    words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The document with the server's own description; nats-server writes it last in lists and first elsewhere.
fn document_text(shared: &Shared, resolver: &Resolver, document: &Value, is_last: bool) -> String {
    let sequence = resolver.sent.fetch_add(1, Relaxed) + 1;
    let server = ServerInfo::new(shared.identity(), sequence, shared.now());
    let server = serde_json::to_string(&server).unwrap_or_default();
    let text = document.to_string();
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default();
    match is_last {
        true => format!("{{{inner},\"server\":{server}}}"),
        false => format!("{{\"server\":{server},{inner}}}"),
    }
}

/// A token pushed to a server whose resolver does not take part: it counts while the server runs, for an account that
/// is used.
fn push_to_memory(shared: &Shared, resolver: &Resolver, received: &Received<'_>) -> Vec<Change> {
    const FAILED: &str = "jwt update resulted in error";
    let key = received.subject.split('.').find(|token| token.len() == 56).unwrap_or_default();
    let text = std::str::from_utf8(received.payload).unwrap_or_default();
    let fail = |account: &str, what: &str, why: &str| Err((account.to_owned(), format!("{what} - {why}")));
    let result = match jwt::account(text) {
        _ if text.is_empty() => fail(key, "jwt update error", "request body is empty"),
        Err(error) => fail(key, FAILED, &error.to_string()),
        Ok(claims) if claims.subject != key => fail(key, FAILED, "subject does not match jwt content"),
        Ok(_) if shared.table.read().account_token(key).is_none() => Ok("jwt update skipped"),
        Ok(_) => match shared.table.read().with_account(text, received.now_nanos) {
            Err(error) => fail(key, FAILED, &error.to_string()),
            Ok(_) => Ok("jwt updated"),
        },
    };
    let document = match &result {
        Ok(message) => json!({"data": {"account": key, "code": 200, "message": message}}),
        Err((account, error)) => json!({"error": {"account": account, "code": 500, "description": error}}),
    };
    received.answer(document_text(shared, resolver, &document, false).as_bytes());
    match result {
        Ok("jwt updated") => vec![Change::Stored { key: key.to_owned(), token: text.into() }],
        _ => Vec::new(),
    }
}

/// Compares with another server every so often.
fn schedule(client: &InternalClient, shared: Weak<Shared>, inbox: String, wait: Duration) {
    let at = now_nanos() + wait.as_nanos() as u64;
    let (again, internal) = (client.clone(), client.internal().clone());
    internal.at(at, move |_| {
        let Some(server) = shared.upgrade() else { return };
        let Some(resolver) = server.resolver.get() else { return };
        let hash = match &*resolver.store.lock() {
            Store::Files(files) => files.hash(),
            Store::Memory(_) | Store::Web(..) => return,
        };
        again.publish(PACK, &inbox, &[], &hash);
        let period = resolver.sync_period;
        drop(server);
        schedule(&again, shared, inbox, period);
    });
}

/// Removes what is over every so often.
fn sweep(client: &InternalClient, shared: Weak<Shared>, wait: Duration) {
    let again = client.clone();
    client.internal().at(now_nanos() + wait.as_nanos() as u64, move |_| {
        let Some(server) = shared.upgrade() else { return };
        let Some(resolver) = server.resolver.get() else { return };
        let period = match &mut *resolver.store.lock() {
            Store::Files(files) => {
                files.sweep();
                files.sweep_period()
            }
            Store::Memory(_) | Store::Web(..) => return,
        };
        drop(server);
        sweep(&again, shared, period);
    });
}

/// Asks the other servers for a token: the first that has one answers for all.
pub(super) async fn ask_others(shared: &Shared, account: &str, timeout: Duration) -> Option<String> {
    let others = shared.remotes();
    if others == 0 || !account.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let system = {
        let table = shared.table.read();
        table.system_account().and_then(|id| table.account(id)).map(|account| account.name.clone())
    }?;
    let client = shared.internal.client(&system);
    let (answers, mut answered) = unbounded_channel::<Vec<u8>>();
    let inbox = format!("$SYS._INBOX.{}.lookup.{}", shared.server_id, client.id());
    let handler = Arc::new(move |received: &Received<'_>| drop(answers.send(received.payload.to_vec())));
    client.subscribe(&inbox, None, handler);
    client.publish(&format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"), &inbox, &[], &[]);
    let wait = async {
        for _ in 0..others {
            match answered.recv().await {
                Some(answer) if !answer.is_empty() => return String::from_utf8(answer).ok(),
                Some(_) => {}
                None => return None,
            }
        }
        None
    };
    let token = tokio::time::timeout(timeout, wait).await.ok().flatten();
    client.close();
    token
}
