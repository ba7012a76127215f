//! The digest of a configuration, byte for byte nats-server's: SHA-256 over what Go's `encoding/json`
//! writes for the values, keys sorted, with its escapes and its way with numbers, and a final line end.

use sha2::{Digest, Sha256};

use super::value::{Map, Value};

pub(super) fn digest(root: &Map) -> String {
    let mut json = String::new();
    map(root, &mut json);
    json.push('\n');
    let hash = Sha256::digest(json.as_bytes());
    let mut text = String::from("sha256:");
    for byte in hash.iter() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn map(map: &Map, json: &mut String) {
    json.push('{');
    for (at, entry) in map.sorted().enumerate() {
        if at > 0 {
            json.push(',');
        }
        string(&entry.key, json);
        json.push(':');
        value(&entry.node.value, json);
    }
    json.push('}');
}

fn value(value_: &Value, json: &mut String) {
    match value_ {
        Value::String(text) | Value::Date(text) => string(text, json),
        Value::Integer(number) => json.push_str(&number.to_string()),
        Value::Float(number) => json.push_str(&float(*number)),
        Value::Boolean(boolean) => json.push_str(if *boolean { "true" } else { "false" }),
        Value::Array(nodes) => {
            json.push('[');
            for (at, node) in nodes.iter().enumerate() {
                if at > 0 {
                    json.push(',');
                }
                value(&node.value, json);
            }
            json.push(']');
        }
        Value::Map(inner) => map(inner, json),
    }
}

/// Go escapes what could end a script tag or a JavaScript line besides what JSON requires.
fn string(text: &str, json: &mut String) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => json.push_str(&format!("\\u{:04x}", c as u32)),
            c if (c as u32) < 0x20 => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
}

/// The shortest digits, with an exponent below 1e-6 and from 1e21 on.
fn float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        // Rust writes 1e-7 and 1e21; Go 1e-7 (its e-07 trimmed) and 1e+21.
        let text = format!("{number:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
            _ => text,
        }
    } else {
        format!("{number}")
    }
}
