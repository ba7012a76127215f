//! Durations as Go writes them: `1h30m`, `1.5s`, `250ms`. Owns that text form only.

use std::time::Duration;

/// Units by their names and lengths in nanoseconds, longest first.
const UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
];

/// Reads a duration as Go's `time.ParseDuration` does, into nanoseconds: it may be negative.
///
/// # Errors
/// Go's words for what is wrong.
pub fn parse_nanoseconds(text: &str) -> Result<i64, String> {
    let invalid =
        || format!("time: invalid duration {text:?}; write a number with a unit, as in \"10s\" or \"1m30s\"");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}; add one, as in \"{number}s\""));
        }
        let Some((_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "time: unknown unit {unit:?} in duration {text:?}; use h, m, s, ms, us or ns"
            ));
        };
        let length = i128::from(*length);
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(length).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        let mut scale = length;
        for digit in fraction.bytes() {
            // Beyond a nanosecond's tenth nothing counts.
            scale *= 10;
            let place = length * i128::from(digit - b'0') * length;
            if scale > length * 1_000_000_000_000_000 {
                break;
            }
            total += place / scale;
        }
        rest = after;
    }
    let total = if negative { -total } else { total };
    i64::try_from(total).map_err(|_| invalid())
}

/// Reads a duration that cannot be negative.
///
/// # Errors
/// As [`parse_nanoseconds`], and for a negative duration.
pub fn parse(text: &str) -> Result<Duration, String> {
    let nanoseconds = parse_nanoseconds(text)?;
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| format!("duration {text:?} must not be negative"))
}

/// Writes a duration as Go's `Duration.String` does: `2m0s`, `1.5s`, `250ms`, `0s`.
pub fn render(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds < 1_000_000_000 {
        return match nanoseconds {
            0 => "0s".into(),
            1..1_000 => format!("{nanoseconds}ns"),
            1_000..1_000_000 => format!("{}µs", decimal(nanoseconds, 1_000)),
            _ => format!("{}ms", decimal(nanoseconds, 1_000_000)),
        };
    }
    let seconds = nanoseconds / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let last = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{last}s"),
        (0, _) => format!("{minutes}m{last}s"),
        _ => format!("{hours}h{minutes}m{last}s"),
    }
}

/// A quotient with all its digits, none of them in vain.
fn decimal(nanoseconds: u128, unit: u128) -> String {
    let (whole, part) = (nanoseconds / unit, nanoseconds % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let text = format!("{whole}.{part:0width$}");
    text.trim_end_matches('0').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("-1.5h", -5_400_000_000_000),
            (".5s", 500_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("1.000000001s", 1_000_000_001),
            ("0.123456789123s", 123_456_789),
            ("2m", 120_000_000_000),
        ] {
            assert_eq!(parse_nanoseconds(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (text, words) in [
            ("foo", "time: invalid duration \"foo\""),
            ("", "time: invalid duration \"\""),
            ("10", "time: missing unit in duration \"10\""),
            ("10x", "time: unknown unit \"x\" in duration \"10x\""),
            ("1..2s", "time: invalid duration"),
            ("99999999999h", "time: invalid duration"),
            ("99999999999999999999999999999999999999999999h", "time: invalid duration"),
        ] {
            let error = parse_nanoseconds(text).unwrap_err();
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (120_000_000_000, "2m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (1_000_000_001, "1.000000001s"),
        ] {
            assert_eq!(render(Duration::from_nanos(nanoseconds)), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_written_duration_reads_back(nanoseconds in 0..i64::MAX as u64) {
            let duration = Duration::from_nanos(nanoseconds);
            proptest::prop_assert_eq!(parse(&render(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
