//! Building a tree to render: only what differs from its default is put in, so that a rendered
//! configuration shows decisions. The counterpart of `reader`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::address::Port;
use crate::duration;
use crate::error::Position;
use crate::grammar::{Map, Node, Value};

/// A block being built.
#[derive(Default)]
pub(crate) struct Tree {
    map: Map,
}

pub(crate) fn node(value: Value) -> Node {
    Node { value, position: Position { file: "<built>".into(), line: 1, column: 1 }, is_variable: false }
}

impl Tree {
    pub fn put(&mut self, key: &str, value: Value) {
        self.map.insert(key.to_string(), node(value));
    }

    pub fn string(&mut self, key: &str, text: &str) {
        self.put(key, Value::String(text.to_string()));
    }

    pub fn optional(&mut self, key: &str, text: &Option<String>) {
        if let Some(text) = text {
            self.string(key, text);
        }
    }

    pub fn boolean(&mut self, key: &str, value: bool, default: bool) {
        if value != default {
            self.put(key, Value::Boolean(value));
        }
    }

    pub fn integer(&mut self, key: &str, value: impl TryInto<i64>, default: impl TryInto<i64>) {
        let (value, default) = (value.try_into().unwrap_or(i64::MAX), default.try_into().unwrap_or(i64::MAX));
        if value != default {
            self.put(key, Value::Integer(value));
        }
    }

    pub fn duration(&mut self, key: &str, value: Duration, default: Duration) {
        if value != default {
            self.string(key, &duration::render(value));
        }
    }

    pub fn optional_duration(&mut self, key: &str, value: Option<Duration>) {
        if let Some(value) = value {
            self.string(key, &duration::render(value));
        }
    }

    pub fn port(&mut self, key: &str, port: Option<Port>) {
        if let Some(port) = port {
            self.put(key, Value::Integer(port.written()));
        }
    }

    pub fn strings<'a>(&mut self, key: &str, texts: impl IntoIterator<Item = &'a String>) {
        let nodes: Vec<Node> = texts.into_iter().map(|text| node(Value::String(text.clone()))).collect();
        if !nodes.is_empty() {
            self.put(key, Value::Array(nodes));
        }
    }

    pub fn string_map(&mut self, key: &str, texts: &BTreeMap<String, String>) {
        let mut inner = Tree::default();
        for (name, text) in texts {
            inner.string(name, text);
        }
        self.tree(key, inner);
    }

    /// A block, unless it is empty.
    pub fn tree(&mut self, key: &str, inner: Tree) {
        if !inner.map.is_empty() {
            self.put(key, Value::Map(inner.map));
        }
    }

    /// A block, even if it is empty.
    pub fn tree_even_empty(&mut self, key: &str, inner: Tree) {
        self.put(key, Value::Map(inner.map));
    }

    /// An array of blocks, unless it is empty.
    pub fn trees(&mut self, key: &str, inner: Vec<Tree>) {
        if !inner.is_empty() {
            let nodes = inner.into_iter().map(|tree| node(Value::Map(tree.map))).collect();
            self.put(key, Value::Array(nodes));
        }
    }

    pub fn into_map(self) -> Map {
        self.map
    }
}
