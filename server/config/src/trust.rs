//! Operators, the account resolver and preloaded JWTs. Owns the keys and their forms; opens no file and
//! decodes no JWT: both belong to whoever builds the accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::grammar::Value;
use crate::nkey::{KeyKind, public_key_kind};
use crate::reader::{Field, Reader, assign};
use crate::tls::Tls;
use crate::tree::Tree;

/// Who vouches for accounts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// Operator JWTs: each a file's path or the JWT itself (`eyJ…`).
    pub operators: Vec<String>,
    /// Public operator keys. Not beside operators.
    pub trusted_keys: Vec<String>,
    /// Where account JWTs come from; `None`: what the operator's JWT says.
    pub resolver: Option<Resolver>,
    /// TLS for a resolver behind a URL.
    pub resolver_tls: Option<Tls>,
    /// Account JWTs by account key.
    pub resolver_preload: BTreeMap<String, String>,
    /// Accounts, by key, that no other server is asked about.
    pub resolver_pinned_accounts: BTreeSet<String>,
    /// JWT of clients that bring none.
    pub default_sentinel: Option<String>,
}

/// Where account JWTs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// From `resolver_preload`.
    Memory,
    /// From a web server: `<url>/<account key>`.
    Url(String),
    /// From a directory that holds them all and is kept the same on all servers.
    Full {
        /// The directory.
        dir: String,
        /// JWTs at most; 0: no bound.
        limit: u64,
        /// How often servers compare; `None`: every minute.
        interval: Option<Duration>,
        /// How long to wait for another server's answer; `None`: 1.9 s.
        timeout: Option<Duration>,
        /// Accounts can be deleted.
        allow_delete: bool,
        /// Deleted accounts are not kept under another name. Only beside `allow_delete`.
        hard_delete: bool,
    },
    /// From a directory that holds those lately used.
    Cache {
        /// The directory.
        dir: String,
        /// JWTs at most; 0: no bound.
        limit: u64,
        /// How long one is kept; `None`: two minutes.
        ttl: Option<Duration>,
        /// How long to wait for another server's answer; `None`: 1.9 s.
        timeout: Option<Duration>,
    },
}

pub(crate) fn read_trusted_keys(field: &Field<'_>, trust: &mut Trust, reader: &mut Reader) {
    assign(&mut trust.trusted_keys, field.strings(reader));
    for key in &trust.trusted_keys {
        if public_key_kind(key) != Some(KeyKind::Operator) {
            field.problem(
                reader,
                format!("trust key {key:?} required to be a valid public operator nkey; it starts with O"),
            );
        }
    }
}

pub(crate) fn read_preload(field: &Field<'_>, trust: &mut Trust, reader: &mut Reader) {
    let Some(preload) = field.string_map(reader) else { return };
    for (key, jwt) in &preload {
        if public_key_kind(key) != Some(KeyKind::Account) {
            field.problem(
                reader,
                format!("resolver_preload: {key:?} is not a public account nkey; it starts with A"),
            );
        }
        if jwt.split('.').count() != 3 {
            field.problem(reader, format!("resolver_preload: invalid account JWT for {key}"));
        }
    }
    trust.resolver_preload = preload;
}

/// `MEMORY`, `URL(…)` or a block.
pub(crate) fn read_resolver(field: &Field<'_>, reader: &mut Reader) -> Option<Resolver> {
    match &field.node.value {
        Value::String(text) => resolver_word(field, text, reader),
        Value::Map(_) => resolver_block(field, reader),
        other => {
            field.problem(reader, format!("error parsing operator resolver, wrong type: {}", other.kind()));
            None
        }
    }
}

fn no_resolver(field: &Field<'_>, reader: &mut Reader) -> Option<Resolver> {
    field.problem(
        reader,
        "error parsing account resolver, should be MEM or URL(\"url\") or a map containing dir and type=[FULL|CACHE]",
    );
    None
}

fn resolver_word(field: &Field<'_>, text: &str, reader: &mut Reader) -> Option<Resolver> {
    let upper = text.trim().to_uppercase();
    if upper == "MEM" || upper == "MEMORY" {
        return Some(Resolver::Memory);
    }
    let trimmed = text.trim();
    let inner = trimmed
        .get(..3)
        .filter(|start| start.eq_ignore_ascii_case("url"))
        .and_then(|_| trimmed.get(3..))
        .and_then(|rest| rest.trim_start().strip_prefix('('))
        .and_then(|rest| rest.trim_end().strip_suffix(')'))
        .map(|url| url.trim().trim_matches('"').to_string());
    match inner {
        Some(url) if url.contains("://") => Some(Resolver::Url(url)),
        Some(url) => {
            field.problem(reader, format!("error parsing account resolver url [{url:?}]"));
            None
        }
        None => no_resolver(field, reader),
    }
}

const RESOLVER_KEYS: &[&str] =
    &["dir", "type", "allow_delete", "hard_delete", "limit", "ttl", "interval", "timeout"];

fn resolver_block(block: &Field<'_>, reader: &mut Reader) -> Option<Resolver> {
    let map = block.map(reader)?;
    let (mut dir, mut kind, mut limit) = (String::new(), String::new(), 0);
    let (mut ttl, mut interval, mut timeout) = (None, None, None);
    let (mut allow_delete, mut hard_delete) = (false, None);
    let some = |d: Option<Duration>| d.filter(|d| !d.is_zero());
    for field in reader.fields(map) {
        match field.key.as_str() {
            "dir" => assign(&mut dir, field.string(reader)),
            "type" => assign(&mut kind, field.string(reader)),
            "allow_delete" => assign(&mut allow_delete, field.boolean(reader)),
            "hard_delete" => hard_delete = field.boolean(reader),
            "limit" => assign(&mut limit, field.within(reader, 0, i64::MAX)),
            "ttl" => ttl = some(field.duration_text(reader)),
            "interval" => interval = some(field.duration_text(reader)),
            "timeout" => timeout = some(field.duration_text(reader)),
            _ => reader.unknown(&field, RESOLVER_KEYS),
        }
    }
    let kind = kind.to_uppercase();
    if (kind == "FULL" || kind == "CACHE") && dir.is_empty() {
        block.problem(reader, "dir has no value and needs to point to a directory");
    }
    match kind.as_str() {
        "MEM" | "MEMORY" => Some(Resolver::Memory),
        "FULL" => {
            if ttl.is_some() {
                block.problem(reader, "FULL does not accept ttl");
            }
            if hard_delete.is_some() && !allow_delete {
                block.problem(reader, "hard_delete has no effect without delete: set allow_delete");
            }
            let hard_delete = hard_delete.unwrap_or(false);
            Some(Resolver::Full { dir, limit, interval, timeout, allow_delete, hard_delete })
        }
        "CACHE" => {
            if interval.is_some() {
                block.problem(reader, "CACHE does not accept interval");
            }
            if allow_delete {
                block.problem(reader, "CACHE does not accept allow_delete");
            }
            if hard_delete.is_some() {
                block.problem(reader, "CACHE does not accept hard_delete");
            }
            Some(Resolver::Cache { dir, limit, ttl, timeout })
        }
        _ => no_resolver(block, reader),
    }
}

impl Trust {
    /// Puts the keys into the top level.
    pub(crate) fn put(&self, tree: &mut Tree) {
        tree.strings("operator", &self.operators);
        tree.strings("trusted_keys", &self.trusted_keys);
        match &self.resolver {
            None => {}
            Some(Resolver::Memory) => tree.string("resolver", "MEMORY"),
            Some(Resolver::Url(url)) => tree.string("resolver", &format!("URL({url})")),
            Some(Resolver::Full { dir, limit, interval, timeout, allow_delete, hard_delete }) => {
                let mut inner = Tree::default();
                inner.string("type", "full");
                inner.string("dir", dir);
                inner.integer("limit", *limit, 0);
                inner.optional_duration("interval", *interval);
                inner.optional_duration("timeout", *timeout);
                inner.boolean("allow_delete", *allow_delete, false);
                inner.boolean("hard_delete", *hard_delete, false);
                tree.tree("resolver", inner);
            }
            Some(Resolver::Cache { dir, limit, ttl, timeout }) => {
                let mut inner = Tree::default();
                inner.string("type", "cache");
                inner.string("dir", dir);
                inner.integer("limit", *limit, 0);
                inner.optional_duration("ttl", *ttl);
                inner.optional_duration("timeout", *timeout);
                tree.tree("resolver", inner);
            }
        }
        if let Some(tls) = &self.resolver_tls {
            tree.tree_even_empty("resolver_tls", tls.tree());
        }
        tree.string_map("resolver_preload", &self.resolver_preload);
        tree.strings("resolver_pinned_accounts", &self.resolver_pinned_accounts);
        tree.optional("default_sentinel", &self.default_sentinel);
    }
}
