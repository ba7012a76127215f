//! Query strings of the HTTP endpoints and the errors that answer bad requests.
//!
//! Owns the parsing of parameters with nats-server's rules and texts (`decodeBool` and siblings in monitor.go, whose
//! messages quote Go's `strconv`). Never knows which endpoint takes which parameter.

use std::borrow::Cow;

/// Why a request for a document is refused. The text is the whole body of the answer: status 400 over HTTP, code
/// 500 in a `$SYS` envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A parameter is no boolean (`1 t T TRUE true True 0 f F FALSE false False`).
    #[error("Error decoding boolean for '{parameter}': strconv.ParseBool: parsing {}: invalid syntax", quote(.value))]
    Boolean {
        /// Name of the parameter.
        parameter: &'static str,
        /// What the request said.
        value: String,
    },
    /// A parameter is no decimal integer of 64 bits.
    #[error("Error decoding {kind} for '{parameter}': strconv.{function}: parsing {}: {reason}", quote(.value))]
    Integer {
        /// `int` or `uint64`.
        kind: &'static str,
        /// Go's name for the parser, which the text contains.
        function: &'static str,
        /// Name of the parameter.
        parameter: &'static str,
        /// What the request said.
        value: String,
        /// `invalid syntax` or `value out of range`.
        reason: &'static str,
    },
    /// `state` is not `open`, `closed`, `any` or `all`.
    #[error("Error decoding state for {0}")]
    State(String),
    /// `sort` names no order.
    #[error("invalid sorting option: {0}")]
    Sort(String),
    /// Open connections have no stop time.
    #[error("sort by stop only valid on closed connections")]
    SortByStop,
    /// Open connections have no reason for their end.
    #[error("sort by reason only valid on closed connections")]
    SortByReason,
    /// Subjects of different accounts are unrelated.
    #[error("filter by subject only valid with account filtering")]
    FilterWithoutAccount,
    /// `test` is not a subject that one can publish to.
    #[error("invalid test subject, must be valid publish subject: {0}")]
    TestSubject(String),
    /// No account of that name.
    #[error("Account {0} does not exist")]
    Account(String),
    /// `/jsz?leader-only=1` asked of a server that leads nothing. In `$SYS` requests such an answer is not sent.
    #[error("filtered response: not leader")]
    NotLeader,
    /// The account has no JetStream, because this server has none.
    #[error("jetstream not enabled")]
    NoJetStream,
}

/// Text between quotation marks as Go's `strconv.Quote` writes it, for the characters that a URL can carry.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            control if u32::from(control) < 0x80 && control.is_control() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The parameters of one request. The first of several equal names counts.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Takes what follows the `?`, still percent-encoded; empty when there is none.
    pub fn new(encoded: &'a str) -> Self {
        Self(encoded)
    }

    /// The decoded value, empty when the parameter is absent.
    pub fn text(&self, parameter: &str) -> Cow<'a, str> {
        form_urlencoded::parse(self.0.as_bytes())
            .find(|(name, _)| name == parameter)
            .map_or(Cow::Borrowed(""), |(_, value)| value)
    }

    /// A boolean as Go's `strconv.ParseBool` reads it; absent or empty means no.
    pub fn boolean(&self, parameter: &'static str) -> Result<bool, Error> {
        match &*self.text(parameter) {
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            other => Err(Error::Boolean { parameter, value: other.to_owned() }),
        }
    }

    /// A signed integer; absent or empty means zero.
    pub fn integer(&self, parameter: &'static str) -> Result<i64, Error> {
        let value = self.text(parameter);
        if value.is_empty() {
            return Ok(0);
        }
        value.parse().map_err(|error| integer_error("int", "Atoi", parameter, &value, error))
    }

    /// An unsigned integer without sign; absent or empty means zero.
    pub fn unsigned(&self, parameter: &'static str) -> Result<u64, Error> {
        let value = self.text(parameter);
        if value.is_empty() {
            return Ok(0);
        }
        // Rust takes a leading plus sign, Go does not.
        let digits = if value.starts_with('+') { "+" } else { &value };
        digits.parse().map_err(|error| integer_error("uint64", "ParseUint", parameter, &value, error))
    }

    /// `subs`: `detail` in any case, or a boolean.
    pub fn subscriptions(&self) -> Result<SubscriptionsShown, Error> {
        if self.text("subs").eq_ignore_ascii_case("detail") {
            Ok(SubscriptionsShown::Detail)
        } else if self.boolean("subs")? {
            Ok(SubscriptionsShown::Subjects)
        } else {
            Ok(SubscriptionsShown::None)
        }
    }
}

fn integer_error(
    kind: &'static str,
    function: &'static str,
    parameter: &'static str,
    value: &str,
    error: std::num::ParseIntError,
) -> Error {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let reason = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    Error::Integer { kind, function, parameter, value: value.to_owned(), reason }
}

/// What a document tells about each connection's subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubscriptionsShown {
    /// Only their number.
    #[default]
    None,
    /// A list of subjects.
    Subjects,
    /// Subject, queue group, sid and counters of each.
    Detail,
}

impl SubscriptionsShown {
    /// From the two booleans of a `$SYS` request; the detailed form wins.
    pub fn from_flags(subjects: bool, detail: bool) -> Self {
        match (subjects, detail) {
            (_, true) => Self::Detail,
            (true, false) => Self::Subjects,
            (false, false) => Self::None,
        }
    }

    /// True when the subscriptions must be part of the snapshot.
    pub fn any(self) -> bool {
        self != Self::None
    }
}

/// Start and length of a page: a negative offset counts as zero, a limit of zero or less as `default_limit`.
pub(crate) fn page(offset: i64, limit: i64, default_limit: usize) -> (usize, usize) {
    let limit = match usize::try_from(limit) {
        Ok(0) | Err(_) => default_limit,
        Ok(limit) => limit,
    };
    (usize::try_from(offset).unwrap_or(0), limit)
}

/// Cuts `all` down to a page.
pub(crate) fn cut<T>(all: Vec<T>, offset: usize, limit: usize) -> Vec<T> {
    all.into_iter().skip(offset).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_go_booleans() {
        assert_eq!(Query::new("auth=true").boolean("auth"), Ok(true));
        assert_eq!(Query::new("auth=T&auth=x").boolean("auth"), Ok(true), "the first counts");
        assert_eq!(Query::new("auth=").boolean("auth"), Ok(false));
        assert_eq!(Query::new("").boolean("auth"), Ok(false));
        assert_eq!(
            Query::new("auth=yes").boolean("auth").unwrap_err().to_string(),
            "Error decoding boolean for 'auth': strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
    }

    #[test]
    fn integers_are_go_integers() {
        assert_eq!(Query::new("limit=-5").integer("limit"), Ok(-5));
        assert_eq!(Query::new("limit=%2B5").integer("limit"), Ok(5));
        assert_eq!(
            Query::new("limit=x%22y").integer("limit").unwrap_err().to_string(),
            "Error decoding int for 'limit': strconv.Atoi: parsing \"x\\\"y\": invalid syntax"
        );
        assert_eq!(
            Query::new("limit=99999999999999999999").integer("limit").unwrap_err().to_string(),
            "Error decoding int for 'limit': strconv.Atoi: parsing \"99999999999999999999\": value out of range"
        );
        assert_eq!(Query::new("cid=18446744073709551615").unsigned("cid"), Ok(u64::MAX));
        for bad in ["%2B5", "-1"] {
            let shown = bad.replace("%2B", "+");
            assert_eq!(
                Query::new(&format!("cid={bad}")).unsigned("cid").unwrap_err().to_string(),
                format!(
                    "Error decoding uint64 for 'cid': strconv.ParseUint: parsing \"{shown}\": invalid syntax"
                )
            );
        }
    }

    #[test]
    fn names_and_values_are_percent_decoded() {
        assert_eq!(Query::new("user=a%20b+c&%61cc=X").text("user"), "a b c");
        assert_eq!(Query::new("user=a%20b+c&%61cc=X").text("acc"), "X");
    }

    #[test]
    fn subs_is_detail_or_a_boolean() {
        assert_eq!(Query::new("subs=DeTail").subscriptions(), Ok(SubscriptionsShown::Detail));
        assert_eq!(Query::new("subs=1").subscriptions(), Ok(SubscriptionsShown::Subjects));
        assert_eq!(Query::new("").subscriptions(), Ok(SubscriptionsShown::None));
        assert!(Query::new("subs=details").subscriptions().is_err());
    }

    #[test]
    fn pages_stay_within_the_list() {
        assert_eq!(page(-3, 0, 1024), (0, 1024));
        assert_eq!(page(2, -1, 7), (2, 7));
        assert_eq!(cut(vec![1, 2, 3, 4], 1, 2), [2, 3]);
        assert_eq!(cut(vec![1, 2, 3, 4], 9, 2), Vec::<i32>::new());
        assert_eq!(cut(vec![1, 2, 3, 4], 3, usize::MAX), [4]);
    }
}
