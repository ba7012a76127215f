//! Values that hold no others: strings, numbers with units, booleans, dates, addresses.
//!
//! What starts with a digit is told apart as nats-server's lexer does: `4222` is a number, `10s` a string,
//! `1m` a million, `127.0.0.1:4222` a string, `1.5` a fraction.

use super::cursor::{Cursor, is_blank, is_newline};
use super::value::Value;
use crate::error::{Error, Problem};

/// A scalar, or a reference to a variable yet to be looked up.
pub(super) enum Scalar {
    Value(Value),
    Variable(String),
}

pub(super) fn scalar(cursor: &mut Cursor<'_>) -> Result<Scalar, Error> {
    let value = match cursor.peek() {
        Some('\'') => single_quoted(cursor)?,
        Some('"') => double_quoted(cursor)?,
        Some('(') => block_string(cursor)?,
        Some('-') => number(cursor)?,
        Some(c) if c.is_ascii_digit() => number(cursor)?,
        Some('.') => {
            return Err(cursor.error("a number must start with a digit; quote the value if it is text"));
        }
        _ => {
            let start = cursor.offset();
            return bare(cursor, start);
        }
    };
    Ok(Scalar::Value(value))
}

fn single_quoted(cursor: &mut Cursor<'_>) -> Result<Value, Error> {
    let unclosed = unclosed(cursor, "a string", '\'');
    cursor.next();
    let text = cursor.take_while(|c| c != '\'').to_string();
    if cursor.take('\'') { Ok(Value::String(text)) } else { Err(unclosed) }
}

fn unclosed(cursor: &Cursor<'_>, what: &str, close: char) -> Error {
    cursor.error(format!("{what} opened here is never closed: add {}", close.escape_debug()))
}

fn double_quoted(cursor: &mut Cursor<'_>) -> Result<Value, Error> {
    let unclosed = unclosed(cursor, "a string", '"');
    cursor.next();
    let mut text = Vec::new();
    loop {
        let run = cursor.take_while(|c| c != '"' && c != '\\');
        text.extend_from_slice(run.as_bytes());
        match cursor.peek() {
            Some('"') => {
                cursor.next();
                return Ok(Value::String(String::from_utf8_lossy(&text).into_owned()));
            }
            Some(_) => text.push(escape(cursor)?),
            None => return Err(unclosed),
        }
    }
}

/// An escape: `\t \n \r \" \\` or `\xXX`, which may be part of a character's UTF-8.
fn escape(cursor: &mut Cursor<'_>) -> Result<u8, Error> {
    let position = cursor.position();
    cursor.next();
    match cursor.next() {
        Some('t') => Ok(b'\t'),
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('"') => Ok(b'"'),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: Option<u32> = (0..2).try_fold(0, |value, _| {
                let digit = cursor.peek()?.to_digit(16)?;
                cursor.next();
                Some(value * 16 + digit)
            });
            digits.and_then(|byte| u8::try_from(byte).ok()).ok_or_else(|| {
                Error::Syntax(Problem::at(&position, "expected two hexadecimal digits after '\\x'"))
            })
        }
        _ => {
            let message = "invalid escape: only \\xXX, \\t, \\n, \\r, \\\" and \\\\ are allowed; use single \
                           quotes for text with backslashes";
            Err(Error::Syntax(Problem::at(&position, message)))
        }
    }
}

/// Text between `(` and a `)` alone on its line, line ends included.
fn block_string(cursor: &mut Cursor<'_>) -> Result<Value, Error> {
    let unclosed = cursor.error("a block opened here is never closed: put ')' alone on a line of its own");
    cursor.next();
    let start = cursor.offset();
    let mut previous = None;
    loop {
        match cursor.peek() {
            None => return Err(unclosed),
            Some(')') if previous == Some('\n') => {
                let after = &cursor.rest()[1..];
                if after.is_empty() || after.starts_with('\n') || after.starts_with("\r\n") {
                    let text = cursor.since(start).to_string();
                    cursor.next();
                    return Ok(Value::String(text));
                }
                previous = cursor.next();
            }
            Some(_) => previous = cursor.next(),
        }
    }
}

/// Unquoted text, whose first characters may already have been read from `start` on.
fn bare(cursor: &mut Cursor<'_>, start: usize) -> Result<Scalar, Error> {
    let mut text = cursor.since(start).as_bytes().to_vec();
    let mut escaped = false;
    loop {
        let ends = |c: char| is_newline(c) || is_blank(c) || matches!(c, ';' | ',' | ']' | '}' | '\'');
        let run = cursor.take_while(|c| !ends(c) && c != '\\' && c != '\0');
        text.extend_from_slice(run.as_bytes());
        match cursor.peek() {
            Some('\\') => {
                text.push(escape(cursor)?);
                escaped = true;
            }
            Some('\0') => return Err(cursor.error("a NUL byte in the text; remove it")),
            Some('\'') => {
                cursor.next();
                return Ok(Scalar::Value(Value::String(String::from_utf8_lossy(&text).into_owned())));
            }
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if escaped {
        return Ok(Scalar::Value(Value::String(text)));
    }
    if let Some(boolean) = boolean(&text) {
        return Ok(Scalar::Value(Value::Boolean(boolean)));
    }
    if let Some(name) = text.strip_prefix('$') {
        return Ok(Scalar::Variable(name.to_string()));
    }
    Ok(Scalar::Value(Value::String(text)))
}

/// The booleans, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" => Some(true),
        "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

/// True where a number may end.
fn ends_number(next: Option<char>) -> bool {
    match next {
        None => true,
        Some(c) => is_newline(c) || is_blank(c) || matches!(c, '}' | ';' | ',' | ']'),
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<Value, Error> {
    let start = cursor.offset();
    let negative = cursor.take('-');
    if !cursor.peek().is_some_and(|c| c.is_ascii_digit()) {
        let found = cursor.shown();
        return Err(
            cursor.error(format!("expected a digit after '-', found {found}; quote the value if it is text"))
        );
    }
    let digits = cursor.take_while(|c| c.is_ascii_digit());
    match cursor.peek() {
        Some('.') => fraction(cursor, start),
        Some('-') if !negative => date(cursor, start, digits.len()),
        Some(c) if "kKmMgGtTpPeE".contains(c) => {
            let unit_start = cursor.offset();
            cursor.next();
            cursor.take_while(|c| matches!(c, 'b' | 'B' | 'i' | 'I'));
            if !ends_number(cursor.peek()) {
                return text(cursor, start);
            }
            let unit = cursor.since(unit_start);
            integer(cursor, start, digits, negative, unit)
        }
        next if ends_number(next) || negative => integer(cursor, start, digits, negative, ""),
        Some(_) => {
            // nats-server takes this one character as it is, be it a quote or a backslash.
            cursor.next();
            text(cursor, start)
        }
        None => integer(cursor, start, digits, negative, ""),
    }
}

/// What began like a number turned out to be text.
fn text(cursor: &mut Cursor<'_>, start: usize) -> Result<Value, Error> {
    match bare(cursor, start)? {
        Scalar::Value(value) => Ok(value),
        Scalar::Variable(name) => Ok(Value::String(name)),
    }
}

fn integer(
    cursor: &Cursor<'_>,
    start: usize,
    digits: &str,
    negative: bool,
    unit: &str,
) -> Result<Value, Error> {
    let written = cursor.since(start);
    let Some(factor) = unit_factor(unit) else {
        return Err(cursor.error(format!(
            "'{written}' has no unit that is known: use k, m, g, t, p or e (powers of 1000), or kb, mb… or \
             kib, mib… (powers of 1024)"
        )));
    };
    let magnitude = digits.parse::<i128>().ok().and_then(|n| n.checked_mul(factor));
    let value = magnitude.map(|n| if negative { -n } else { n }).and_then(|n| i64::try_from(n).ok());
    value.map(Value::Integer).ok_or_else(|| cursor.error(format!("integer '{written}' is out of the range")))
}

/// What a unit multiplies by: a bare letter counts in thousands, with `b`, `i` or `ib` in 1024s.
fn unit_factor(unit: &str) -> Option<i128> {
    let unit = unit.to_ascii_lowercase();
    let Some(letter) = unit.chars().next() else {
        return Some(1);
    };
    let power = "kmgtpe".find(letter)? as u32 + 1;
    match &unit[1..] {
        "" => Some(1000_i128.pow(power)),
        "b" | "i" | "ib" => Some(1024_i128.pow(power)),
        _ => None,
    }
}

/// A fraction, or an address if a second dot follows.
fn fraction(cursor: &mut Cursor<'_>, start: usize) -> Result<Value, Error> {
    cursor.next();
    let digits = cursor.take_while(|c| c.is_ascii_digit());
    if digits.is_empty() {
        let found = cursor.shown();
        return Err(
            cursor.error(format!("expected a digit after '.', found {found}; quote the value if it is text"))
        );
    }
    if cursor.peek() == Some('.') {
        cursor.take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':' | '-'));
        return Ok(Value::String(cursor.since(start).to_string()));
    }
    let written = cursor.since(start);
    match written.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Value::Float(value)),
        _ => Err(cursor.error(format!("float '{written}' is out of the range"))),
    }
}

/// A date in full: `YYYY-MM-DDThh:mm:ssZ`, the year already read.
fn date(cursor: &mut Cursor<'_>, start: usize, year_digits: usize) -> Result<Value, Error> {
    let wrong = "a date must be written in full, as in 2026-01-31T12:00:00Z; quote the value if it is text";
    if year_digits != 4 {
        return Err(cursor.error(wrong));
    }
    for wanted in "-00-00T00:00:00Z".chars() {
        let matches = match cursor.peek() {
            Some(c) if wanted == '0' => c.is_ascii_digit(),
            next => next == Some(wanted),
        };
        if !matches {
            return Err(cursor.error(wrong));
        }
        cursor.next();
    }
    let written = cursor.since(start);
    if !is_on_calendar(written) {
        return Err(cursor.error(format!("there is no such moment as {written}")));
    }
    Ok(Value::Date(written.to_string()))
}

fn is_on_calendar(date: &str) -> bool {
    let field = |from: usize, to: usize| date.get(from..to).and_then(|d| d.parse::<u32>().ok());
    let fields = [(0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19)].map(|(from, to)| field(from, to));
    let [Some(year), Some(month), Some(day), Some(hour), Some(minute), Some(second)] = fields else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60
}
