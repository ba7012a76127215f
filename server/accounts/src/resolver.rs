//! The full directory resolver: all account tokens, the same on all servers.
//!
//! Owns which token is kept, the answers to `$SYS…CLAIMS…` requests, and the comparing and merging between
//! servers. Never touches a file or a connection: the caller writes what [`Change`] says, sends the replies,
//! and hands changed tokens to [`crate::Table::with_account`].
//!
//! On disk a token is `<directory>/<account key>.jwt`; with `delete` allowed but not hard, a deleted one is
//! renamed to `….jwt.deleted`. Requests and texts are those of nats-server's `accounts.go`, whose tools (nsc)
//! read them.

use crate::jwt::{AccountClaims, check, token};
use crate::secret::is_account_key;
use crate::{DestinationSource, MappingSource, Mappings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a directory is run.
#[derive(Clone, Debug, Default)]
pub struct DirectorySettings {
    /// JWT of the first operator: it and its signing keys may change the directory.
    pub operator: String,
    /// The system account, which is never deleted.
    pub system_account: Option<String>,
    /// `allow_delete`.
    pub allow_delete: bool,
    /// Tokens at most; 0 for no bound.
    pub tokens_max: usize,
}

/// All account tokens of one server.
#[derive(Debug)]
pub struct Directory {
    allow_delete: bool,
    tokens_max: usize,
    system_account: Option<String>,
    /// Keys that may sign accounts and requests.
    keys: Vec<String>,
    operator: String,
    strict: bool,
    tokens: BTreeMap<String, Stored>,
    hash: [u8; 32],
}

#[derive(Debug)]
struct Stored {
    text: Arc<str>,
    hash: [u8; 32],
    id: String,
    issued_at: i64,
    expires: i64,
}

/// What the caller does to disk and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write this token, and put it into the table.
    Stored {
        /// The account's key, safe as a file's name.
        key: String,
        /// Its token.
        token: Arc<str>,
    },
    /// Delete it, and take it out of the table.
    Deleted {
        /// The account's key.
        key: String,
    },
}

/// A request, by its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Store the token in the payload; the key is in the subject where there is one.
    Update(Option<String>),
    /// The token of this account is wanted.
    Lookup(String),
    /// All tokens are wanted unless the hash in the payload is ours. Answered by one server of a queue group,
    /// `responder`.
    Pack,
    /// The keys of all accounts are wanted.
    List,
    /// Delete the accounts that the operator's token in the payload lists.
    Delete,
}

impl Request {
    /// Subjects to subscribe to in the system account.
    pub const SUBJECTS: [&str; 7] = [
        "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
        "$SYS.ACCOUNT.*.CLAIMS.UPDATE",
        "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.CLAIMS.PACK",
        "$SYS.REQ.CLAIMS.LIST",
        "$SYS.REQ.CLAIMS.DELETE",
    ];

    /// Reads a request's subject.
    pub fn parse(subject: &str) -> Option<Request> {
        match subject.split('.').collect::<Vec<_>>()[..] {
            ["$SYS", "REQ", "ACCOUNT", key, "CLAIMS", "UPDATE"]
            | ["$SYS", "ACCOUNT", key, "CLAIMS", "UPDATE"] => Some(Request::Update(Some(key.into()))),
            ["$SYS", "REQ", "ACCOUNT", key, "CLAIMS", "LOOKUP"] => Some(Request::Lookup(key.into())),
            ["$SYS", "REQ", "CLAIMS", "UPDATE"] => Some(Request::Update(None)),
            ["$SYS", "REQ", "CLAIMS", "PACK"] => Some(Request::Pack),
            ["$SYS", "REQ", "CLAIMS", "LIST"] => Some(Request::List),
            ["$SYS", "REQ", "CLAIMS", "DELETE"] => Some(Request::Delete),
            _ => None,
        }
    }
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These bytes; none at all mean "no such account" or the end of a pack.
    Bytes(Vec<u8>),
    /// A JSON object to which the caller adds `server`, its own description.
    Document(Value),
}

/// What comes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// To be sent to the request's reply subject, if it has one, in this order.
    pub replies: Vec<Reply>,
    /// To be done first.
    pub changes: Vec<Change>,
}

impl Directory {
    /// An empty directory.
    ///
    /// # Errors
    /// The operator's token is not valid, or nobody could sign anything.
    pub fn new(settings: &DirectorySettings) -> Result<Directory, crate::Error> {
        let claims =
            token::operator(&settings.operator).map_err(|error| crate::Error::Operator(error.to_string()))?;
        let strict = claims.nats.strict_signing_key_usage;
        let own = (!strict).then(|| claims.subject.clone());
        let keys: Vec<String> = own.into_iter().chain(claims.nats.signing_keys).collect();
        if keys.is_empty() {
            return Err(crate::Error::Operator("no operator key found".into()));
        }
        Ok(Directory {
            allow_delete: settings.allow_delete,
            tokens_max: settings.tokens_max,
            system_account: settings.system_account.clone(),
            keys,
            operator: claims.subject,
            strict,
            tokens: BTreeMap::new(),
            hash: [0; 32],
        })
    }

    /// Takes in a file found when starting: its name without `.jwt`, and its text.
    ///
    /// # Errors
    /// What is wrong with it; it stays out.
    pub fn load(&mut self, key: &str, text: &str) -> Result<(), String> {
        self.store(key, text).map(|_| ())
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// A token by account key.
    pub fn token(&self, key: &str) -> Option<&Arc<str>> {
        self.tokens.get(key).map(|stored| &stored.text)
    }

    /// All tokens by account key.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Arc<str>)> {
        self.tokens.iter().map(|(key, stored)| (key.as_str(), &stored.text))
    }

    /// Takes a token out because room is wanted, not because the account is gone.
    pub fn evict(&mut self, key: &str) -> Option<Change> {
        self.take_out(key).then(|| Change::Deleted { key: key.to_owned() })
    }

    /// Accounts whose tokens have expired, as [`Request::List`] leaves them out.
    pub fn expired(&self, now_seconds: i64) -> Vec<String> {
        let gone = |stored: &Stored| stored.expires > 0 && stored.expires < now_seconds;
        self.tokens.iter().filter(|(_, stored)| gone(stored)).map(|(key, _)| key.clone()).collect()
    }

    /// Hash of all tokens: the payload of the [`Request::Pack`] to be sent every so often.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Answers a request.
    pub fn handle_request(&mut self, request: &Request, payload: &[u8], now_seconds: i64) -> Answer {
        match request {
            Request::Update(key) => self.update(key.as_deref(), payload),
            Request::Lookup(key) => {
                let text = self.tokens.get(key).map_or(Vec::new(), |stored| stored.text.as_bytes().to_vec());
                Answer { replies: vec![Reply::Bytes(text)], changes: vec![] }
            }
            Request::Pack => self.pack(payload, now_seconds),
            Request::List => {
                let keys: Vec<&String> = self.live(now_seconds).map(|(key, _)| key).collect();
                Answer { replies: vec![Reply::Document(json!({ "data": keys }))], changes: vec![] }
            }
            Request::Delete => self.delete(payload),
        }
    }

    /// Takes in one message of another server's pack: lines of `key|token`. Of two tokens of an account the
    /// one issued later stays.
    ///
    /// # Errors
    /// The first line that is wrong; lines before it count.
    pub fn handle_pack(&mut self, message: &[u8]) -> (Vec<Change>, Result<(), String>) {
        let mut changes = Vec::new();
        let Ok(message) = std::str::from_utf8(message) else {
            return (changes, Err("pack is not text".into()));
        };
        for line in message.split('\n').filter(|line| !line.is_empty()) {
            let merged = match line.split('|').collect::<Vec<_>>()[..] {
                [key, text] => self.merge(key, text),
                _ => Err("line in package didn't contain 2 entries".into()),
            };
            match merged {
                Ok(change) => changes.extend(change),
                Err(error) => return (changes, Err(error)),
            }
        }
        (changes, Ok(()))
    }

    fn merge(&mut self, key: &str, text: &str) -> Result<Option<Change>, String> {
        if let Some(stored) = self.tokens.get(key) {
            let claims = token::account(text).map_err(|error| error.to_string())?;
            if stored.id == claims.id || stored.issued_at > claims.issued_at {
                return Ok(None);
            }
        }
        self.store(key, text)
    }

    fn live(&self, now_seconds: i64) -> impl Iterator<Item = (&String, &Stored)> {
        self.tokens.iter().filter(move |(_, stored)| stored.expires <= 0 || stored.expires >= now_seconds)
    }

    fn pack(&self, theirs: &[u8], now_seconds: i64) -> Answer {
        let mut replies = Vec::new();
        if theirs != self.hash {
            let line = |(key, stored): (&String, &Stored)| {
                Reply::Bytes(format!("{key}|{}", stored.text).into_bytes())
            };
            replies.extend(self.live(now_seconds).map(line));
        }
        replies.push(Reply::Bytes(Vec::new()));
        Answer { replies, changes: vec![] }
    }

    fn update(&mut self, key: Option<&str>, payload: &[u8]) -> Answer {
        const FAILED: &str = "jwt update resulted in error";
        let text = match std::str::from_utf8(payload) {
            Ok(text) => text.trim(),
            Err(error) => return failure("n/a", FAILED, &error.to_string()),
        };
        let claims = match token::account(text) {
            Ok(claims) => claims,
            Err(error) => return failure("n/a", FAILED, &error.to_string()),
        };
        let checked = check::account(&claims).map_err(|reason| format!("validation errors: [{reason}]"));
        if let Err(reason) = checked.and_then(|()| check_mappings(&claims)) {
            return failure(&claims.subject, "jwt validation failed", &reason);
        }
        if key.is_some_and(|key| key != claims.subject) {
            return failure(key.unwrap_or_default(), FAILED, "subject does not match jwt content");
        }
        if self.strict && claims.issuer == self.operator {
            return failure(&claims.subject, FAILED, "operator requires issuer to be a signing key");
        }
        match self.store(&claims.subject, text) {
            Ok(change) => Answer {
                replies: vec![success(&claims.subject, "jwt updated")],
                changes: change.into_iter().collect(),
            },
            Err(error) => failure(&claims.subject, FAILED, &error),
        }
    }

    /// Keeps a token; nothing changes if it is kept already.
    fn store(&mut self, key: &str, text: &str) -> Result<Option<Change>, String> {
        // The key becomes a file's name, so it must be a key and nothing else.
        if !is_account_key(key) {
            return Err("key to merge is not a valid public account key".into());
        }
        let claims = token::account(text).map_err(|error| error.to_string())?;
        if claims.subject != key {
            return Err("jwt subject nkey and provided nkey do not match".into());
        }
        // nats-server keeps what anybody signed and refuses it when it is used; here it is not kept.
        if !self.keys.contains(&claims.issuer) {
            return Err("not signed by a trusted operator".into());
        }
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        match self.tokens.get(key) {
            Some(stored) if stored.hash == hash => return Ok(None),
            None if self.tokens_max > 0 && self.tokens.len() >= self.tokens_max => {
                return Err("jwt store is full".into());
            }
            _ => {}
        }
        self.take_out(key);
        self.mix(&hash);
        let (id, issued_at, expires) = (claims.id, claims.issued_at, claims.expires);
        let text: Arc<str> = text.into();
        self.tokens.insert(key.into(), Stored { text: text.clone(), hash, id, issued_at, expires });
        Ok(Some(Change::Stored { key: key.into(), token: text }))
    }

    fn take_out(&mut self, key: &str) -> bool {
        let Some(stored) = self.tokens.remove(key) else { return false };
        self.mix(&stored.hash);
        true
    }

    /// The hash of all is the exclusive or of each: adding and taking out are the same.
    fn mix(&mut self, hash: &[u8; 32]) {
        for (byte, other) in self.hash.iter_mut().zip(hash) {
            *byte ^= other;
        }
    }

    fn delete(&mut self, payload: &[u8]) -> Answer {
        let mut issuer = String::new();
        let keys = match self.to_delete(payload, &mut issuer) {
            Ok(keys) => keys,
            Err(error) => return failure("", &format!("delete accounts request by {issuer} failed"), error),
        };
        let mut answer = Answer::default();
        for key in &keys {
            if self.take_out(key) {
                answer.changes.push(Change::Deleted { key: key.clone() });
            }
        }
        answer.replies.push(success("", &format!("deleted {} accounts", keys.len())));
        answer
    }

    /// Accounts that an operator's own token asks to delete.
    fn to_delete(&self, payload: &[u8], issuer: &mut String) -> Result<Vec<String>, &'static str> {
        let text = std::str::from_utf8(payload).map_err(|_| "malformed request")?;
        let claims = token::generic(text.trim()).map_err(|_| "malformed request")?;
        issuer.clone_from(&claims.subject);
        if !self.allow_delete {
            return Err("delete must be enabled in server config");
        }
        if claims.subject != claims.issuer {
            return Err("not self signed");
        }
        if !self.keys.contains(&claims.issuer) {
            return Err("not trusted");
        }
        let list = claims.nats.get("accounts").and_then(Value::as_array).ok_or("malformed request")?;
        let mut keys = Vec::new();
        for entry in list {
            let key = entry.as_str().filter(|key| is_account_key(key)).ok_or("malformed request")?;
            if self.system_account.as_deref() == Some(key) {
                return Err("not allowed to delete system account");
            }
            keys.push(key.to_owned());
        }
        Ok(keys)
    }
}

/// What would only be noticed, and left out, when the account is built.
fn check_mappings(claims: &AccountClaims) -> Result<(), String> {
    for (source, list) in &claims.nats.mappings {
        let destinations = list.iter().map(|mapping| DestinationSource {
            subject: mapping.subject.clone(),
            weight_percent: check::weight(mapping),
            cluster: (!mapping.cluster.is_empty()).then(|| mapping.cluster.clone()),
        });
        let rule = MappingSource { source: source.clone(), destinations: destinations.collect() };
        Mappings::new(&[rule], "", &claims.subject).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn success(account: &str, message: &str) -> Reply {
    Reply::Document(json!({ "data": status(account, json!({ "code": 200, "message": message })) }))
}

fn failure(account: &str, message: &str, error: &str) -> Answer {
    let document = json!({ "code": 500, "description": format!("{message} - {error}") });
    let replies = vec![Reply::Document(json!({ "error": status(account, document) }))];
    Answer { replies, changes: vec![] }
}

fn status(account: &str, mut document: Value) -> Value {
    if !account.is_empty() {
        document["account"] = account.into();
    }
    document
}
