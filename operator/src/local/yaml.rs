//! YAML that remembers where everything stands.
//!
//! Owns positions, so that every complaint about a file names line and column. Knows nothing of
//! Kubernetes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// Line and column, both from 1; zero if unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Of a map.
    Field(String),
    /// Of a list.
    Index(usize),
}

/// A value with the positions of everything in it.
#[derive(Clone, Debug)]
pub struct Node {
    position: Position,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Position, Node)>),
}

/// Reads all documents of a text; empty ones are left out.
///
/// # Errors
/// The parser's message, which names line and column.
pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let documents: Vec<Spanned<Raw>> =
        serde_saphyr::from_multiple(text).map_err(|error| error.without_snippet().to_string())?;
    Ok(documents.into_iter().map(Node::from).filter(|node| !node.is_null()).collect())
}

impl Node {
    /// The value without positions.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Node::value).collect()),
            Content::Map(entries) => {
                Value::Object(entries.iter().map(|(key, _, node)| (key.clone(), node.value())).collect())
            }
        }
    }

    /// Where a path stands: the key for a field, the item for an index; the deepest part of the path that
    /// exists, if not all of it does.
    pub fn position(&self, path: &[Key]) -> Position {
        let mut node = self;
        let mut position = self.position;
        for key in path {
            let next = match (&node.content, key) {
                (Content::Map(entries), Key::Field(name)) => entries
                    .iter()
                    .find(|(key, _, _)| key == name)
                    .map(|(_, position, node)| (*position, node)),
                (Content::List(items), Key::Index(index)) => {
                    items.get(*index).map(|node| (node.position, node))
                }
                _ => None,
            };
            let Some((at, inner)) = next else { break };
            (position, node) = (at, inner);
        }
        position
    }

    /// Position of the value itself, if all of the path exists.
    pub fn value_position(&self, path: &[&str]) -> Option<Position> {
        let mut node = self;
        for name in path {
            let Content::Map(entries) = &node.content else { return None };
            node = entries.iter().find(|(key, _, _)| key == name).map(|(_, _, node)| node)?;
        }
        Some(node.position)
    }

    fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }
}

/// A node as the parser hands it over.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn position<T>(spanned: &Spanned<T>) -> Position {
    Position { line: spanned.referenced.line(), column: spanned.referenced.column() }
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Self {
        let position = position(&raw);
        let content = match raw.value {
            Raw::Scalar(value) => Content::Scalar(value),
            Raw::List(items) => Content::List(items.into_iter().map(Node::from).collect()),
            Raw::Map(entries) => Content::Map(
                entries
                    .into_iter()
                    .map(|(key, node)| (key.value.clone(), self::position(&key), Node::from(node)))
                    .collect(),
            ),
        };
        Self { position, content }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# comment\nmetadata: {name: a}\nspec:\n  replicas: 3 # three\n  list:\n  - x: 1\n---\n";

    #[test]
    fn keys_and_values_know_where_they_stand() {
        let nodes = parse(TEXT).expect("parses");
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].value()["spec"]["replicas"], 3);
        let key = |name: &str| Key::Field(name.to_owned());
        assert_eq!(nodes[0].position(&[key("spec"), key("replicas")]), Position { line: 4, column: 3 });
        let deep = [key("spec"), key("list"), Key::Index(0), key("x"), key("missing")];
        assert_eq!(nodes[0].position(&deep), Position { line: 6, column: 5 });
        let value = nodes[0].value_position(&["spec", "replicas"]).expect("exists");
        assert_eq!(value, Position { line: 4, column: 13 });
    }

    #[test]
    fn a_broken_text_is_refused_with_line_and_column() {
        let error = parse("spec:\n  replicas: [3\n").expect_err("broken");
        assert!(error.contains("line") && error.contains("column"), "{error}");
    }
}
