//! From tree to text that reads back to the same tree.

use super::scalar;
use super::value::{Map, Node, Value};

pub(super) fn render(root: &Map) -> String {
    let mut text = String::new();
    for entry in root {
        write_entry(&entry.key, &entry.node.value, 0, &mut text);
    }
    text
}

fn indent(level: usize, text: &mut String) {
    for _ in 0..level {
        text.push_str("  ");
    }
}

fn write_entry(key: &str, value: &Value, level: usize, text: &mut String) {
    indent(level, text);
    write_key(key, text);
    match value {
        Value::Map(_) => text.push(' '),
        _ => text.push_str(": "),
    }
    write_value(value, level, text);
    text.push('\n');
}

fn write_value(value: &Value, level: usize, text: &mut String) {
    match value {
        Value::String(string) => write_string(string, text),
        Value::Date(date) => text.push_str(date),
        Value::Integer(number) => text.push_str(&number.to_string()),
        // Always with a fraction: otherwise it would read back as an integer.
        Value::Float(number) if number.fract() == 0.0 => text.push_str(&format!("{number:.1}")),
        Value::Float(number) => text.push_str(&format!("{number}")),
        Value::Boolean(boolean) => text.push_str(if *boolean { "true" } else { "false" }),
        Value::Array(nodes) => write_array(nodes, level, text),
        Value::Map(map) => {
            text.push('{');
            if !map.is_empty() {
                text.push('\n');
                for entry in map {
                    write_entry(&entry.key, &entry.node.value, level + 1, text);
                }
                indent(level, text);
            }
            text.push('}');
        }
    }
}

fn write_array(nodes: &[Node], level: usize, text: &mut String) {
    text.push('[');
    let nested = nodes.iter().any(|n| matches!(n.value, Value::Map(_) | Value::Array(_)));
    for (at, node) in nodes.iter().enumerate() {
        if nested {
            text.push('\n');
            indent(level + 1, text);
        } else if at > 0 {
            text.push_str(", ");
        }
        write_value(&node.value, level + 1, text);
        if nested {
            text.push(',');
        }
    }
    if nested {
        text.push('\n');
        indent(level, text);
    }
    text.push(']');
}

/// Keys know no escapes: the quote is chosen so that the key does not hold it. A key that holds both can
/// only have been written without.
fn write_key(key: &str, text: &mut String) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let word = !key.is_empty() && key.chars().all(plain) && !key.eq_ignore_ascii_case("include");
    if word || (key.contains('"') && key.contains('\'')) {
        text.push_str(key);
    } else {
        let quote = if key.contains('"') { '\'' } else { '"' };
        text.push(quote);
        text.push_str(key);
        text.push(quote);
    }
}

/// Strings are quoted unless they are plainly a word.
fn write_string(string: &str, text: &mut String) {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let word = string.starts_with(starts) && string.chars().all(plain);
    if word && scalar::boolean(string).is_none() {
        text.push_str(string);
        return;
    }
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if (c as u32) < 0x20 => text.push_str(&format!("\\x{:02x}", c as u32)),
            c => text.push(c),
        }
    }
    text.push('"');
}
