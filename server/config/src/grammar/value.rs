//! The tree that the grammar yields. Owns its shape; never its meaning.

use std::collections::BTreeMap;

use crate::error::Position;

/// A value and its place. Two nodes are equal if their values are: places do not count.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it is: for a map's entry its key, for an array's element the element.
    pub position: Position,
    /// True if a `$VARIABLE` referred to this entry. Such an entry may have any name: it is a definition,
    /// not a setting.
    pub is_variable: bool,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, quoted or not.
    String(String),
    /// A whole number, its unit (`k`, `kb`, `MiB`…) multiplied in.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `true`, `yes`, `on` or their opposites.
    Boolean(bool),
    /// A moment in UTC, `YYYY-MM-DDThh:mm:ssZ`, checked against the calendar.
    Date(String),
    /// A list.
    Array(Vec<Node>),
    /// A block.
    Map(Map),
}

impl Value {
    /// What to call this kind of value in a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "a boolean",
            Value::Date(_) => "a date",
            Value::Array(_) => "an array",
            Value::Map(_) => "a map",
        }
    }
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key as written; options compare it without regard to case.
    pub key: String,
    /// Its value.
    pub node: Node,
}

/// A block: keys in the order written. A key written twice keeps its last value, as in nats-server.
#[derive(Clone, Debug, Default)]
pub struct Map {
    entries: Vec<Entry>,
    index: BTreeMap<String, usize>,
}

impl PartialEq for Map {
    /// Equal if the same keys have the same values, in whatever order.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.sorted().zip(other.sorted()).all(|(a, b)| a == b)
    }
}

impl Map {
    /// Sets a key, replacing an earlier value in its place.
    pub fn insert(&mut self, key: String, node: Node) {
        match self.index.get(&key) {
            Some(&at) => self.entries[at].node = node,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push(Entry { key, node });
            }
        }
    }

    /// The value of a key, compared exactly.
    pub fn find(&self, key: &str) -> Option<&Node> {
        self.index.get(key).map(|&at| &self.entries[at].node)
    }

    pub(super) fn find_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.index.get(key).map(|&at| &mut self.entries[at].node)
    }

    /// The entries in the order written.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// The entries sorted by key.
    pub fn sorted(&self) -> impl Iterator<Item = &Entry> {
        self.index.values().map(|&at| &self.entries[at])
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
