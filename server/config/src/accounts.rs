//! `accounts { … }` and `mappings { … }`. Owns their keys and that what they name exists; compiles no table
//! and resolves no cycle.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::auth::{self, Place, User};
use crate::grammar::{Map, Node, Value};
use crate::nkey::{KeyKind, public_key_kind};
use crate::permissions::{self, Permissions};
use crate::reader::{Field, Reader, assign};
use crate::settings::GLOBAL_ACCOUNT;
use crate::tree::Tree;
use crate::{duration, sharing, unsupported};

pub use crate::sharing::{Export, ExportKind, Import, ImportKind, Latency, ResponseType};

/// An account: a subject space of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Its name. `$G` cannot be written.
    pub name: String,
    /// Its public key (`A…`).
    pub nkey: Option<String>,
    /// Its users, in the order written.
    pub users: Vec<User>,
    /// Permissions of users that have none of their own.
    pub default_permissions: Option<Permissions>,
    /// What it takes from other accounts.
    pub imports: Vec<Import>,
    /// What it offers to other accounts.
    pub exports: Vec<Export>,
    /// Its subject mappings.
    pub mappings: Vec<Mapping>,
    /// Bounds on it.
    pub limits: AccountLimits,
    /// Where copies of traced messages' traces go.
    pub trace: Option<MessageTrace>,
    /// Where it was written, for messages.
    pub position: Place,
}

impl Account {
    /// What a user of this account may do; `None`: everything.
    pub fn permissions_of<'a>(&'a self, user: &'a User) -> Option<&'a Permissions> {
        user.permissions.as_ref().or(self.default_permissions.as_ref())
    }
}

/// Bounds on one account; `None`: no bound (written -1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// Clients.
    pub max_connections: Option<u32>,
    /// Subscriptions of one client.
    pub max_subscriptions: Option<u32>,
    /// Bytes of a message.
    pub max_payload: Option<u32>,
    /// Leaf nodes.
    pub max_leafnodes: Option<u32>,
}

/// Where traces of messages go that carry a `traceparent` header (ADR-41).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageTrace {
    /// Subject.
    pub destination: String,
    /// Percent of the messages traced, 1 to 100.
    pub sampling: u8,
}

/// Subjects that become others when published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Subjects mapped.
    pub subject: String,
    /// What they become, one of these by weight. What is left to 100 % stays as it is.
    pub destinations: Vec<Destination>,
}

/// One thing that a subject may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The new subject, a transform's destination.
    pub subject: String,
    /// Percent, 0 to 100.
    pub weight: u8,
    /// Only on servers of this cluster.
    pub cluster: Option<String>,
}

pub(crate) const KEYS: &[&str] = &[
    "nkey",
    "imports",
    "exports",
    "jetstream",
    "users",
    "default_permissions",
    "mappings",
    "maps",
    "limits",
    "msg_trace",
    "trace_dest",
];

/// Reads the block: names alone, or names with their accounts.
pub(crate) fn read(block: &Field<'_>, reader: &mut Reader) -> Option<Vec<Account>> {
    let mut accounts: Vec<Account> = Vec::new();
    match &block.node.value {
        Value::Array(nodes) => {
            let mut seen = BTreeSet::new();
            for node in nodes {
                let Value::String(name) = &node.value else {
                    reader.problem(
                        &node.position,
                        format!("expected an account's name, found {}", node.value.kind()),
                    );
                    continue;
                };
                if !seen.insert(name) {
                    reader.problem(&node.position, format!("Duplicate Account Entry: {name}"));
                    continue;
                }
                check_name(name, node, reader);
                let position = Place(Some(node.position.clone()));
                accounts.push(Account { name: name.clone(), position, ..Account::default() });
            }
        }
        Value::Map(map) => {
            for entry in map {
                if entry.node.is_variable {
                    continue;
                }
                let Value::Map(inner) = &entry.node.value else {
                    reader.problem(
                        &entry.node.position,
                        format!("Expected map entries for accounts, found {}", entry.node.value.kind()),
                    );
                    continue;
                };
                check_name(&entry.key, &entry.node, reader);
                accounts.push(account(&entry.key, &entry.node, inner, reader));
            }
        }
        other => {
            block.problem(
                reader,
                format!("expected accounts to be an array of names or a map, found {}", other.kind()),
            );
            return None;
        }
    }
    sharing::check(&accounts, reader);
    Some(accounts)
}

fn check_name(name: &str, node: &Node, reader: &mut Reader) {
    if name == GLOBAL_ACCOUNT {
        reader.problem(&node.position, format!("{name:?} is a Reserved Account"));
    }
}

fn account(name: &str, node: &Node, map: &Map, reader: &mut Reader) -> Account {
    let position = Place(Some(node.position.clone()));
    let mut account = Account { name: name.to_string(), position, ..Account::default() };
    for field in reader.fields(map) {
        match field.key.as_str() {
            "nkey" => {
                account.nkey = field.optional(reader).flatten();
                if account.nkey.as_deref().and_then(public_key_kind) != Some(KeyKind::Account) {
                    let shown = account.nkey.as_deref().unwrap_or("");
                    field.problem(
                        reader,
                        format!("Not a valid public nkey for an account: {shown:?}; it starts with A"),
                    );
                }
            }
            "imports" => assign(&mut account.imports, sharing::imports(&field, reader)),
            "exports" => assign(&mut account.exports, sharing::exports(&field, reader)),
            "jetstream" => unsupported::block(&field, unsupported::Feature::JetStream, reader),
            "users" => assign(&mut account.users, auth::users(&field, reader)),
            "default_permissions" => account.default_permissions = permissions::read(&field, reader),
            "mappings" | "maps" => assign(&mut account.mappings, mappings(&field, reader)),
            "limits" => assign(&mut account.limits, limits(&field, reader)),
            "msg_trace" | "trace_dest" => account.trace = message_trace(&field, reader),
            _ => reader.unknown(&field, KEYS),
        }
    }
    account
}

fn limits(block: &Field<'_>, reader: &mut Reader) -> Option<AccountLimits> {
    let map = block.map(reader)?;
    let mut limits = AccountLimits::default();
    for field in reader.fields(map) {
        let target = match field.key.as_str() {
            "max_connections" | "max_conn" => &mut limits.max_connections,
            "max_subscriptions" | "max_subs" => &mut limits.max_subscriptions,
            "max_payload" | "max_pay" => &mut limits.max_payload,
            "max_leafnodes" | "max_leafs" => &mut limits.max_leafnodes,
            _ if field.node.is_variable => continue,
            _ => {
                let known = ["max_connections", "max_subscriptions", "max_payload", "max_leafnodes"];
                let near = crate::reader::nearest(&field.key, &known);
                let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                field.problem(
                    reader,
                    format!("Unknown field {:?} parsing account limits{hint}", field.written),
                );
                continue;
            }
        };
        match field.integer(reader) {
            Some(-1) => *target = None,
            _ => *target = field.within(reader, -1, i64::from(i32::MAX)),
        }
    }
    Some(limits)
}

fn message_trace(field: &Field<'_>, reader: &mut Reader) -> Option<MessageTrace> {
    let (mut destination, mut sampling) = (None, None);
    match &field.node.value {
        Value::String(subject) => destination = Some(subject.clone()),
        Value::Map(map) => {
            for part in reader.fields(map) {
                match part.key.as_str() {
                    "dest" => destination = part.string(reader),
                    "sampling" => sampling = percent(&part, 1, "Trace destination sampling", reader),
                    _ if part.node.is_variable => {}
                    _ => part.problem(
                        reader,
                        format!(
                            "Unknown field {:?} parsing account message trace map/struct {:?}",
                            part.written, field.written
                        ),
                    ),
                }
            }
        }
        other => {
            let kind = other.kind();
            field.problem(
                reader,
                format!(
                    "Expected account message trace {:?} to be a string or a map/struct, found {kind}",
                    field.written
                ),
            );
        }
    }
    let Some(destination) = destination.filter(|d| !d.is_empty()) else {
        if sampling.is_some() {
            reader.warn(field.position(), "Trace destination sampling ignored since no destination was set");
        }
        return None;
    };
    if !subject::is_valid_publish(destination.as_bytes()) {
        field.problem(reader, format!("Trace destination {destination:?} is not valid"));
    }
    Some(MessageTrace { destination, sampling: sampling.unwrap_or(100) })
}

/// A percentage: 50, "50" or "50%".
pub(crate) fn percent(field: &Field<'_>, least: i64, what: &str, reader: &mut Reader) -> Option<u8> {
    let number = match &field.node.value {
        Value::Integer(number) => Some(*number),
        Value::String(text) => text.strip_suffix('%').unwrap_or(text).parse().ok(),
        _ => None,
    };
    let value = number.filter(|n| (least..=100).contains(n)).and_then(|n| u8::try_from(n).ok());
    if value.is_none() {
        field.problem(reader, format!("{what}: write a percentage from {least} to 100, as in 50 or \"50%\""));
    }
    value
}

/// Reads a block of mappings.
pub(crate) fn mappings(block: &Field<'_>, reader: &mut Reader) -> Option<Vec<Mapping>> {
    let map = block.map(reader)?;
    let mut mappings = Vec::new();
    for entry in map {
        let position = &entry.node.position;
        if entry.node.is_variable && !subject::is_valid(entry.key.as_bytes()) {
            continue;
        }
        if !subject::is_valid(entry.key.as_bytes()) {
            reader.problem(position, format!("Subject {:?} is not a valid subject", entry.key));
            continue;
        }
        let nodes = match &entry.node.value {
            Value::Array(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(&entry.node),
        };
        let mut destinations = Vec::new();
        for node in nodes {
            match &node.value {
                // Only a mapping to one subject may leave out the weight.
                Value::String(subject)
                    if nodes.len() == 1 && !matches!(entry.node.value, Value::Array(_)) =>
                {
                    destinations.push(Destination { subject: subject.clone(), weight: 100, cluster: None });
                }
                Value::Map(map) => destinations.extend(destination(map, node, reader)),
                other => reader.problem(
                    &node.position,
                    format!("Expected an entry for the mapping destination, found {}", other.kind()),
                ),
            }
        }
        if let Err(reason) = check_mapping(&entry.key, &destinations) {
            reader.problem(position, format!("Error adding mapping for {:?} : {reason}", entry.key));
        }
        mappings.push(Mapping { subject: entry.key.clone(), destinations });
    }
    Some(mappings)
}

fn destination(map: &Map, node: &Node, reader: &mut Reader) -> Option<Destination> {
    let (mut subject, mut weight, mut cluster) = (String::new(), None, None);
    let mut failed = false;
    for field in reader.fields(map) {
        match field.key.as_str() {
            "dest" | "destination" => assign(&mut subject, field.string(reader)),
            "weight" => {
                weight = percent(&field, 0, "Invalid weight for mapping destination", reader);
                failed |= weight.is_none();
            }
            "cluster" => cluster = field.optional(reader).flatten(),
            _ => {
                field.problem(reader, format!("Unknown field {:?} for mapping destination", field.written));
                failed = true;
            }
        }
    }
    if weight.is_none() && !failed {
        reader.problem(&node.position, format!("Missing weight for mapping destination {subject:?}"));
    }
    Some(Destination { subject, weight: weight?, cluster })
}

/// A mapping's transforms must make sense and its weights may not exceed 100 % in any cluster.
fn check_mapping(source: &str, destinations: &[Destination]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut totals: std::collections::BTreeMap<&Option<String>, u32> = std::collections::BTreeMap::new();
    for destination in destinations {
        if !seen.insert((&destination.subject, &destination.cluster)) {
            return Err(format!("duplicate entry for {:?}", destination.subject));
        }
        let total = totals.entry(&destination.cluster).or_default();
        *total += u32::from(destination.weight);
        if *total > 100 {
            return Err("total weight needs to be <= 100".into());
        }
        subject::Transform::new_mapping(source, &destination.subject).map_err(|error| error.to_string())?;
    }
    Ok(())
}

pub(crate) fn mappings_tree(mappings: &[Mapping]) -> Tree {
    let mut tree = Tree::default();
    for mapping in mappings {
        match mapping.destinations.as_slice() {
            [Destination { subject, weight: 100, cluster: None }] => tree.string(&mapping.subject, subject),
            [] => tree.put(&mapping.subject, Value::Array(Vec::new())),
            destinations => {
                let trees = destinations.iter().map(|destination| {
                    let mut inner = Tree::default();
                    inner.string("destination", &destination.subject);
                    inner.put("weight", Value::Integer(i64::from(destination.weight)));
                    inner.optional("cluster", &destination.cluster);
                    inner
                });
                tree.trees(&mapping.subject, trees.collect());
            }
        }
    }
    tree
}

impl Account {
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        tree.optional("nkey", &self.nkey);
        tree.trees("users", self.users.iter().map(User::tree).collect());
        if let Some(permissions) = &self.default_permissions {
            tree.tree_even_empty("default_permissions", permissions.tree("publish", "subscribe"));
        }
        tree.trees("imports", self.imports.iter().map(Import::tree).collect());
        tree.trees("exports", self.exports.iter().map(Export::tree).collect());
        tree.tree("mappings", mappings_tree(&self.mappings));
        let mut limits = Tree::default();
        for (key, limit) in [
            ("max_connections", self.limits.max_connections),
            ("max_subscriptions", self.limits.max_subscriptions),
            ("max_payload", self.limits.max_payload),
            ("max_leafnodes", self.limits.max_leafnodes),
        ] {
            limits.integer(key, limit.map_or(-1, i64::from), -1);
        }
        tree.tree("limits", limits);
        if let Some(trace) = &self.trace {
            let mut inner = Tree::default();
            inner.string("dest", &trace.destination);
            inner.integer("sampling", trace.sampling, 100);
            tree.tree("msg_trace", inner);
        }
        tree
    }
}

/// A duration for exports, where no number stands for seconds.
pub(crate) fn threshold(field: &Field<'_>, reader: &mut Reader) -> Option<Duration> {
    let text = match &field.node.value {
        Value::String(text) => text,
        other => {
            let kind = other.kind();
            field.problem(
                reader,
                format!("Expected response threshold to be a parseable time duration, found {kind}"),
            );
            return None;
        }
    };
    let parsed = duration::parse(text);
    if parsed.is_err() {
        field.problem(
            reader,
            format!("Expected response threshold to be a parseable time duration, got {text:?}"),
        );
    }
    parsed.ok().filter(|t| !t.is_zero())
}
