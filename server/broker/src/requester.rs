//! Who asks, as a service is told (`Nats-Request-Info`) and as reports on its latency say it, in nats-server's JSON.
//!
//! Owns the texts; never decides who is told what.

use crate::link::Link;
use crate::registry::ServerNames;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// Header with who asks.
pub(crate) const HEADER: &[u8] = b"Nats-Request-Info";

/// How much of a client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    /// Everything, not only account and round trip.
    pub full: bool,
    /// Server and cluster also when not everything is told: to services of the system account.
    pub server: bool,
}

/// Appends a client as JSON. `service`: the account through which the request came to the one it is for.
pub(crate) fn write_client(
    link: &Link,
    detail: Detail,
    service: Option<&str>,
    names: &ServerNames,
    out: &mut String,
) {
    let about = link.about.lock();
    let mut fields = Fields { out, first: true };
    fields.out.push('{');
    if detail.full {
        fields.raw("start", &format!("\"{}\"", rfc3339(about.start_nanos)));
        fields.text("host", &about.ip);
        fields.raw("id", &link.id.to_string());
    }
    fields.text("acc", &about.account);
    fields.text("svc", service.unwrap_or_default());
    if detail.full {
        fields.text("user", &about.user);
        fields.text("name", &about.name);
        fields.text("lang", &about.lang);
        fields.text("ver", &about.version);
    }
    let rtt_nanos = link.rtt_nanos.load(Relaxed);
    if rtt_nanos > 0 {
        fields.raw("rtt", &rtt_nanos.to_string());
    }
    if detail.full || detail.server {
        fields.text("server", &names.server);
        fields.text("cluster", &names.cluster);
    }
    if detail.full {
        fields.text("kind", "Client");
        fields.text("client_type", "nats");
    }
    fields.out.push('}');
}

/// Fields of a JSON object; empty ones are left out.
struct Fields<'a> {
    out: &'a mut String,
    first: bool,
}

impl Fields<'_> {
    fn raw(&mut self, name: &str, value: &str) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(',');
        }
        let _ = write!(self.out, "\"{name}\":{value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            let mut quoted = String::new();
            quote(value, &mut quoted);
            self.raw(name, &quoted);
        }
    }
}

/// Appends a JSON string.
pub(crate) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // as Go writes them
            '<' | '>' | '&' | '\0'..'\x20' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A time in UTC, with as many digits behind the second as it needs.
pub(crate) fn rfc3339(unix_nanos: u64) -> String {
    let (seconds, nanos) = (unix_nanos / 1_000_000_000, unix_nanos % 1_000_000_000);
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // days since the first of March of a year that is a multiple of 400
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos > 0 {
        let digits = format!("{nanos:09}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// `header`, a block that ends in an empty line or nothing, with `name` set to `value`: earlier ones are taken out.
pub(crate) fn with_header(header: &[u8], name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let mut lines = header.split_inclusive(|byte| *byte == b'\n');
    out.extend_from_slice(lines.next().unwrap_or(b"NATS/1.0\r\n"));
    for line in lines {
        let key = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !line.iter().all(u8::is_ascii_whitespace) && key != name {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000_000_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_763_730_001_120_000_000), "2025-11-21T13:00:01.12Z");
    }

    #[test]
    fn a_header_is_set_once() {
        let mut out = Vec::new();
        with_header(b"", HEADER, b"{}", &mut out);
        assert_eq!(out, b"NATS/1.0\r\nNats-Request-Info: {}\r\n\r\n");
        let before = b"NATS/1.0\r\nA: b\r\nNats-Request-Info: forged\r\nC: d\r\n\r\n";
        out.clear();
        with_header(before, HEADER, b"{}", &mut out);
        assert_eq!(out, b"NATS/1.0\r\nA: b\r\nC: d\r\nNats-Request-Info: {}\r\n\r\n");
    }

    #[test]
    fn texts_of_clients_cannot_leave_their_string() {
        let mut out = String::new();
        quote("a\"b\\c\r\n<\u{1}", &mut out);
        assert_eq!(out, r#""a\"b\\c\r\n\u003c\u0001""#);
    }
}
