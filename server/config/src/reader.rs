//! Typed reading of a tree's values. Owns how a wrong type, a wrong range and an unknown key are told;
//! knows no option.

use std::time::Duration;

use crate::duration;
use crate::error::{Position, Problem};
use crate::grammar::{Entry, Map, Node, Value};

/// Collects what is wrong while reading goes on, so that a user sees all of it at once.
#[derive(Default)]
pub(crate) struct Reader {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

/// One key of a block with its value.
pub(crate) struct Field<'a> {
    /// The key in lower case.
    pub key: String,
    /// The key as written.
    pub written: &'a str,
    pub node: &'a Node,
}

/// Sets what was read, leaves the target alone if nothing could be read.
pub(crate) fn assign<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

impl Reader {
    pub fn problem(&mut self, position: &Position, message: impl Into<String>) {
        self.problems.push(Problem::at(position, message));
    }

    pub fn warn(&mut self, position: &Position, message: impl Into<String>) {
        self.warnings.push(Problem::at(position, message));
    }

    /// The fields of a block, in the order written.
    pub fn fields<'a>(&self, map: &'a Map) -> Vec<Field<'a>> {
        map.iter().map(|Entry { key, node }| Field { key: key.to_lowercase(), written: key, node }).collect()
    }

    /// Tells of a key that no option has, unless it is the definition of a variable.
    pub fn unknown(&mut self, field: &Field<'_>, known: &[&str]) {
        if field.node.is_variable {
            return;
        }
        let mut message = format!("unknown field {:?}", field.written);
        if let Some(near) = nearest(&field.key, known) {
            message.push_str(&format!("; did you mean {near:?}?"));
        }
        self.problem(&field.node.position, message);
    }
}

impl<'a> Field<'a> {
    pub fn position(&self) -> &'a Position {
        &self.node.position
    }

    fn wrong_type(&self, reader: &mut Reader, wanted: &str) {
        let message = format!("expected {:?} to be {wanted}, found {}", self.written, self.node.value.kind());
        reader.problem(&self.node.position, message);
    }

    pub fn problem(&self, reader: &mut Reader, message: impl Into<String>) {
        reader.problem(&self.node.position, message);
    }

    pub fn boolean(&self, reader: &mut Reader) -> Option<bool> {
        match self.node.value {
            Value::Boolean(value) => Some(value),
            _ => {
                self.wrong_type(reader, "a boolean: true or false");
                None
            }
        }
    }

    pub fn string(&self, reader: &mut Reader) -> Option<String> {
        match &self.node.value {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.wrong_type(reader, "a string; quote the value if it is text");
                None
            }
        }
    }

    /// A string, where the empty one means that nothing is set.
    pub fn optional(&self, reader: &mut Reader) -> Option<Option<String>> {
        self.string(reader).map(|text| Some(text).filter(|text| !text.is_empty()))
    }

    pub fn integer(&self, reader: &mut Reader) -> Option<i64> {
        match self.node.value {
            Value::Integer(number) => Some(number),
            _ => {
                self.wrong_type(reader, "an integer");
                None
            }
        }
    }

    /// An integer within bounds.
    pub fn within<T: TryFrom<i64>>(&self, reader: &mut Reader, least: i64, most: i64) -> Option<T> {
        let number = self.integer(reader)?;
        let value = T::try_from(number).ok().filter(|_| (least..=most).contains(&number));
        if value.is_none() {
            let side = if number > most { "too big" } else { "too small" };
            self.problem(reader, format!("{} value is {side}: it must be {least} to {most}", self.written));
        }
        value
    }

    /// A count, where 0 means the default.
    pub fn count_or<T: TryFrom<i64>>(&self, reader: &mut Reader, most: i64, default: T) -> Option<T> {
        match self.integer(reader)? {
            0 => Some(default),
            _ => self.within(reader, 0, most),
        }
    }

    /// A duration, in a string. A bare number of seconds is an old form: accepted with a warning.
    pub fn duration(&self, reader: &mut Reader) -> Option<Duration> {
        match &self.node.value {
            Value::String(text) => match duration::parse(text) {
                Ok(value) => Some(value),
                Err(reason) => {
                    self.problem(reader, format!("error parsing {}: {reason}", self.written));
                    None
                }
            },
            Value::Integer(seconds) => {
                let message = format!(
                    "invalid use of field {:?}: {} should be converted to a duration; {seconds} was read as \
                     seconds: write \"{seconds}s\"",
                    self.written, self.written
                );
                reader.warn(&self.node.position, message);
                match u64::try_from(*seconds) {
                    // Go counts durations in nanoseconds of 63 bits.
                    Ok(seconds) if seconds <= i64::MAX as u64 / 1_000_000_000 => {
                        Some(Duration::from_secs(seconds))
                    }
                    _ => {
                        self.problem(reader, format!("{} is out of the range: 0 to 292 years", self.written));
                        None
                    }
                }
            }
            _ => {
                self.wrong_type(reader, "a duration such as \"10s\"");
                None
            }
        }
    }

    /// A duration in a string and nothing else.
    pub fn duration_text(&self, reader: &mut Reader) -> Option<Duration> {
        match &self.node.value {
            Value::String(_) => self.duration(reader),
            _ => {
                self.wrong_type(reader, "a duration in a string, such as \"10s\"");
                None
            }
        }
    }

    /// A timeout: a number of seconds, whole or not, or a duration in a string.
    pub fn timeout(&self, reader: &mut Reader) -> Option<Duration> {
        let seconds = match &self.node.value {
            Value::Integer(seconds) => *seconds as f64,
            Value::Float(seconds) => *seconds,
            Value::String(_) => return self.duration(reader),
            _ => {
                self.wrong_type(reader, "a number of seconds or a duration such as \"2s\"");
                return None;
            }
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(value) if value.as_secs() <= i64::MAX as u64 / 1_000_000_000 => Some(value),
            _ => {
                self.problem(reader, format!("{} of {seconds} seconds is out of the range", self.written));
                None
            }
        }
    }

    pub fn map(&self, reader: &mut Reader) -> Option<&'a Map> {
        match &self.node.value {
            Value::Map(map) => Some(map),
            _ => {
                self.wrong_type(reader, "a map: { … }");
                None
            }
        }
    }

    pub fn array(&self, reader: &mut Reader) -> Option<&'a [Node]> {
        match &self.node.value {
            Value::Array(nodes) => Some(nodes),
            _ => {
                self.wrong_type(reader, "an array: [ … ]");
                None
            }
        }
    }

    /// One string, or an array of them.
    pub fn strings(&self, reader: &mut Reader) -> Option<Vec<String>> {
        match &self.node.value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(nodes) => {
                let mut texts = Vec::new();
                for node in nodes {
                    match &node.value {
                        Value::String(text) => texts.push(text.clone()),
                        other => {
                            let message = format!(
                                "expected {:?} to hold strings, found {}",
                                self.written,
                                other.kind()
                            );
                            reader.problem(&node.position, message);
                        }
                    }
                }
                Some(texts)
            }
            _ => {
                self.wrong_type(reader, "a string or an array of strings");
                None
            }
        }
    }

    /// A map from names to strings.
    pub fn string_map(&self, reader: &mut Reader) -> Option<std::collections::BTreeMap<String, String>> {
        let map = self.map(reader)?;
        let mut texts = std::collections::BTreeMap::new();
        for entry in map {
            match &entry.node.value {
                Value::String(text) => {
                    texts.insert(entry.key.clone(), text.clone());
                }
                other => {
                    let message = format!(
                        "expected {:?} in {:?} to be a string, found {}; quote it",
                        entry.key,
                        self.written,
                        other.kind()
                    );
                    reader.problem(&entry.node.position, message);
                }
            }
        }
        Some(texts)
    }
}

/// The known key that a typing mistake most likely meant.
pub(crate) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = key.len() / 3;
    known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed.min(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters have to change, come or go (Levenshtein). Keys longer than any option are left alone.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row.first().copied().unwrap_or(0);
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            *cell = replaced.min(left + 1).min(diagonal + 1);
            left = *cell;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_mistake_is_told_and_a_strange_word_is_not() {
        let known = ["port", "host", "max_payload", "ping_interval"];
        assert_eq!(nearest("prot", &known), None);
        assert_eq!(nearest("porrt", &known), Some("port"));
        assert_eq!(nearest("max_paylod", &known), Some("max_payload"));
        assert_eq!(nearest("ping_intervall", &known), Some("ping_interval"));
        assert_eq!(nearest("elephants", &known), None);
    }
}
