//! JSON as nats-server writes it.
//!
//! Owns the byte form only: two spaces of indentation over HTTP and none in `$SYS` messages, `<`, `>` and `&`
//! escaped as Go's `encoding/json` does it, and floats without a fraction written as integers. Tools parse all
//! spellings alike; scripts that compare or grep the text do not.
//!
//! Never decides which fields a document has.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// Renders a document as the HTTP endpoints do: indented by two spaces, no newline at the end.
pub fn pretty<T: Serialize + ?Sized>(document: &T) -> Vec<u8> {
    write(document, GoStyle(PrettyFormatter::with_indent(b"  ")))
}

/// Renders a document on one line, as `/healthz` and all `$SYS` messages do.
pub fn compact<T: Serialize + ?Sized>(document: &T) -> Vec<u8> {
    write(document, GoStyle(CompactFormatter))
}

fn write<T: Serialize + ?Sized, F: Formatter>(document: &T, formatter: F) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    document.serialize(&mut serializer).expect("documents have text keys and a Vec takes every byte");
    bytes
}

struct GoStyle<F>(F);

/// Hands the structural callbacks to the inner formatter, which keeps the indentation.
macro_rules! delegate {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $kind)*) -> io::Result<()> {
            self.0.$name(writer $(, $argument)*)
        })*
    };
}

impl<F: Formatter> Formatter for GoStyle<F> {
    delegate! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Rust's `{}` is the shortest exact text without exponent, which is Go's choice in this range.
        let magnitude = value.abs();
        if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
            write!(writer, "{value}")
        } else {
            write!(writer, "{value:e}")
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut start = 0;
        for (at, found) in fragment.match_indices(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&fragment.as_bytes()[start..at])?;
            for character in found.chars() {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
            start = at + found.len();
        }
        writer.write_all(&fragment.as_bytes()[start..])
    }
}

/// Helpers for `#[serde(skip_serializing_if)]` and `#[serde(serialize_with)]`.
pub(crate) mod field {
    use std::time::Duration;

    use serde::Serializer;

    /// Go's `omitempty`: the zero of the type.
    pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
        *value == T::default()
    }

    /// A Go `time.Duration` on the wire: whole nanoseconds.
    pub(crate) fn nanoseconds<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Sample {
        whole: f64,
        part: f64,
        tiny: f64,
        text: &'static str,
        empty: Vec<u8>,
        list: Vec<u8>,
    }

    const SAMPLE: Sample = Sample {
        whole: 2.0,
        part: 0.125,
        tiny: 0.0,
        text: "svc.> \"<&",
        empty: Vec::new(),
        list: Vec::new(),
    };

    #[test]
    fn compact_text_is_what_go_writes() {
        assert_eq!(
            String::from_utf8(compact(&SAMPLE)).unwrap(),
            r#"{"whole":2,"part":0.125,"tiny":0,"text":"svc.\u003e \"\u003c\u0026","empty":[],"list":[]}"#
        );
    }

    #[test]
    fn pretty_text_is_indented_by_two_spaces() {
        let sample = Sample { list: vec![1, 2], ..SAMPLE };
        assert!(
            String::from_utf8(pretty(&sample))
                .unwrap()
                .ends_with("\"empty\": [],\n  \"list\": [\n    1,\n    2\n  ]\n}")
        );
    }

    #[test]
    fn text_survives_the_escapes() {
        let bytes = compact(&SAMPLE);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["text"], SAMPLE.text);
    }
}
