//! `permissions { … }` blocks of users and routes. Owns their two spellings and the check of subjects;
//! decides about no message.

use std::time::Duration;

use crate::duration;
use crate::grammar::{Node, Value};
use crate::reader::{Field, Reader};
use crate::tree::Tree;

/// What a user may publish and subscribe to.
///
/// A user without permissions may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Publishing; `None`: everything. For routes: import.
    pub publish: Option<SubjectPermission>,
    /// Subscribing; `None`: everything. Filters may name a queue: `subject queue`. For routes: export.
    pub subscribe: Option<SubjectPermission>,
    /// Publishing to the reply subjects of messages received. If set, `publish.allow` is, too.
    pub allow_responses: Option<ResponsePermission>,
}

/// Subjects allowed and denied. Denied wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectPermission {
    /// Filters allowed; `None`: everything that is not denied. An empty list allows nothing, and arises
    /// only beside `allow_responses`: written in a file it means `None`, as in nats-server.
    pub allow: Option<Vec<String>>,
    /// Filters denied.
    pub deny: Vec<String>,
}

/// Bounds on answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponsePermission {
    /// Answers to one message; `None`: no bound (written negative).
    pub max_msgs: Option<u32>,
    /// How long answers are allowed; `None`: for ever (written negative).
    pub expires: Option<Duration>,
}

impl Default for ResponsePermission {
    fn default() -> Self {
        ResponsePermission { max_msgs: Some(1), expires: Some(Duration::from_secs(120)) }
    }
}

pub(crate) const KEYS: &[&str] =
    &["pub", "publish", "import", "sub", "subscribe", "export", "publish_allow_responses", "allow_responses"];

/// Reads a block; `None` if it could not be read at all.
pub(crate) fn read(block: &Field<'_>, reader: &mut Reader) -> Option<Permissions> {
    let map = block.map(reader)?;
    let mut permissions = Permissions::default();
    for field in reader.fields(map) {
        match field.key.as_str() {
            "pub" | "publish" | "import" => permissions.publish = subject_permission(&field, false, reader),
            "sub" | "subscribe" | "export" => {
                permissions.subscribe = subject_permission(&field, true, reader)
            }
            "publish_allow_responses" | "allow_responses" => {
                permissions.allow_responses = response_permission(&field, reader);
            }
            _ => unknown(&field, "permissions", KEYS, reader),
        }
    }
    if permissions.allow_responses.is_some() {
        permissions.publish.get_or_insert_default().allow.get_or_insert_default();
    }
    Some(permissions)
}

fn unknown(field: &Field<'_>, what: &str, known: &[&str], reader: &mut Reader) {
    if !field.node.is_variable {
        let near = crate::reader::nearest(&field.key, known);
        let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        field.problem(reader, format!("Unknown field {:?} parsing {what}{hint}", field.written));
    }
}

fn subject_permission(field: &Field<'_>, queues: bool, reader: &mut Reader) -> Option<SubjectPermission> {
    let Value::Map(map) = &field.node.value else {
        // The old spelling: what is allowed, without `allow`.
        let allow = subjects(field.node, queues, reader)?;
        return Some(SubjectPermission { allow: some_if_any(allow), deny: Vec::new() });
    };
    if map.is_empty() {
        return None;
    }
    let mut permission = SubjectPermission::default();
    for part in reader.fields(map) {
        match part.key.as_str() {
            "allow" => permission.allow = subjects(part.node, queues, reader).and_then(some_if_any),
            "deny" => permission.deny = subjects(part.node, queues, reader).unwrap_or_default(),
            _ if part.node.is_variable => {}
            _ => part.problem(
                reader,
                format!(
                    "Unknown field name {:?} parsing subject permissions, only 'allow' or 'deny' are permitted",
                    part.written
                ),
            ),
        }
    }
    Some(permission)
}

fn some_if_any(subjects: Vec<String>) -> Option<Vec<String>> {
    Some(subjects).filter(|subjects| !subjects.is_empty())
}

/// A subject or several, each checked.
fn subjects(node: &Node, queues: bool, reader: &mut Reader) -> Option<Vec<String>> {
    let nodes = match &node.value {
        Value::String(_) => std::slice::from_ref(node),
        Value::Array(nodes) => nodes,
        other => {
            let message = format!(
                "Expected subject permissions to be a subject, or array of subjects, found {}",
                other.kind()
            );
            reader.problem(&node.position, message);
            return None;
        }
    };
    let mut subjects = Vec::new();
    for node in nodes {
        let Value::String(subject) = &node.value else {
            let message = format!(
                "Subject in permissions array must be a string, found {}; quote it",
                node.value.kind()
            );
            reader.problem(&node.position, message);
            continue;
        };
        if let Err(reason) = check_subject(subject, queues) {
            reader.problem(&node.position, reason);
        }
        subjects.push(subject.clone());
    }
    Some(subjects)
}

/// A subject filter, or with `queues` also `filter queue`.
pub(crate) fn check_subject(text: &str, queues: bool) -> Result<(), String> {
    if subject::is_valid(text.as_bytes()) {
        return Ok(());
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    match parts.as_slice() {
        [filter, queue] if queues => {
            if !subject::is_valid(filter.as_bytes()) {
                Err(format!("subject {filter:?} is not a valid subject"))
            } else if !subject::is_valid(queue.as_bytes()) {
                Err(format!("queue {queue:?} is not a valid queue"))
            } else {
                Ok(())
            }
        }
        _ => Err(format!("subject {text:?} is not a valid subject")),
    }
}

fn response_permission(field: &Field<'_>, reader: &mut Reader) -> Option<ResponsePermission> {
    let map = match &field.node.value {
        Value::Boolean(on) => return on.then(ResponsePermission::default),
        Value::Map(map) => map,
        _ => {
            field.problem(reader, "error parsing response permissions, expected a boolean or a map");
            return None;
        }
    };
    let mut permission = ResponsePermission::default();
    for part in reader.fields(map) {
        match part.key.as_str() {
            "max" | "max_msgs" | "max_messages" | "max_responses" => match part.integer(reader) {
                Some(0) | None => {}
                Some(number) if number < 0 => permission.max_msgs = None,
                Some(_) => permission.max_msgs = part.within(reader, 1, i64::from(i32::MAX)),
            },
            "expires" | "expiration" | "ttl" => {
                let Value::String(text) = &part.node.value else {
                    part.problem(reader, "error parsing expires, not a duration string");
                    continue;
                };
                match duration::parse_nanoseconds(text) {
                    Ok(0) => {}
                    Ok(nanoseconds) => {
                        permission.expires = u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
                    }
                    Err(reason) => part.problem(reader, format!("error parsing expires: {reason}")),
                }
            }
            _ => unknown(&part, "permissions", &["max_msgs", "expires"], reader),
        }
    }
    Some(permission)
}

impl Permissions {
    /// The block, with the keys of users or of routes.
    pub(crate) fn tree(&self, publish_key: &str, subscribe_key: &str) -> Tree {
        let mut tree = Tree::default();
        if let Some(publish) = &self.publish {
            publish.put(publish_key, &mut tree);
        }
        if let Some(subscribe) = &self.subscribe {
            subscribe.put(subscribe_key, &mut tree);
        }
        match &self.allow_responses {
            None => {}
            Some(bounds) => {
                let mut inner = Tree::default();
                inner.integer("max_msgs", bounds.max_msgs.map_or(-1, i64::from), 0);
                match bounds.expires {
                    Some(expires) => inner.string("expires", &duration::render(expires)),
                    None => inner.string("expires", "-1s"),
                }
                tree.tree("allow_responses", inner);
            }
        }
        tree
    }
}

impl SubjectPermission {
    /// Nothing allowed and nothing denied has no spelling but the old one with no subjects.
    fn put(&self, key: &str, tree: &mut Tree) {
        let mut inner = Tree::default();
        inner.strings("allow", self.allow.iter().flatten());
        inner.strings("deny", &self.deny);
        let map = inner.into_map();
        if map.is_empty() {
            tree.put(key, Value::Array(Vec::new()));
        } else {
            tree.put(key, Value::Map(map));
        }
    }
}
