//! A message's trace (ADR-41): what its headers ask for, what was noted on its way, and the event in nats-server's JSON.
//!
//! Owns the rules of the headers and the texts; never delivers: that is `router/tracing.rs`.

use crate::account::Account;
use crate::link::{Link, LinkKind};
use crate::requester::{quote, rfc3339};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Names the subject that the event goes to, or says that there is to be none.
pub(crate) const DESTINATION: &[u8] = b"Nats-Trace-Dest";
/// The value of [`DESTINATION`] with which a server keeps others from tracing; no valid subject.
pub(crate) const DISABLED: &[u8] = b"trace disabled";
/// Which server of the message's way this is: `1`, `2`, behind the second `2.1`.
pub(crate) const HOP: &[u8] = b"Nats-Trace-Hop";
/// The message is not to be delivered, only traced.
const ONLY: &[u8] = b"Nats-Trace-Only";
/// A header of early drafts, with which messages are not traced.
const ORIGIN_ACCOUNT: &[u8] = b"Nats-Trace-Origin-Account";
/// Asks for the trace, if sampled, that the account's `msg_trace` names (W3C Trace Context).
const PARENT: &[u8] = b"traceparent";
const FIRST_LINE: &[u8] = b"NATS/1.0\r\n";

/// Why somebody did not get a message, in nats-server's words.
pub(crate) mod refusal {
    pub const NO_ECHO: &str = "Not delivered because of no echo";
    pub const DENIED: &str = "Not delivered because subscription denies this subject";
    pub const CLOSED: &str = "Not delivered because client is closed";
    pub const ONLY_UNKNOWN: &str = "Not delivered because remote does not support message tracing";
    pub const UNKNOWN: &str = "Message delivered but remote does not support message tracing so no trace event generated from there";
}

/// Whether a block of headers may ask for a trace: for each message with headers, so nearly none is looked at twice.
#[inline]
pub(crate) fn may_ask(header: &[u8]) -> bool {
    has_race(header) && has_name(header)
}

/// Both names have `race` in them, in whatever case, and behind it `-D` or `pa`: sought in eight places at once,
/// wherever it would leave room for the rest of a line. Names like `Trace-Id` are common, so they are told apart here.
#[inline(never)]
fn has_race(header: &[u8]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut at = FIRST_LINE.len() + 1;
    let mut found = 0;
    while let Some(block) = header.get(at..).and_then(|rest| rest.first_chunk::<LINE_LEN_AFTER_RACE>()) {
        // zero in the bytes of places where that letter is, with these bits of it set
        let differs = |offset: usize, letter: u8, bits: u8| {
            let word = block[offset..].first_chunk().map_or(u64::MAX, |word| u64::from_le_bytes(*word));
            (word | (EACH * u64::from(bits))) ^ (EACH * u64::from(letter))
        };
        // `a`, `d` and few others are `e` with the bits in which they differ
        let all =
            differs(0, b'r', 0x20) | differs(2, b'c', 0x20) | differs(3, b'e', 0x20) | differs(5, b'e', 0x25);
        found |= all.wrapping_sub(EACH) & !all & (EACH << 7);
        at += size_of::<u64>();
    }
    found != 0
}

/// What the shortest line that asks for a trace has from `race` on: `race-Dest:x\r\n`.
const LINE_LEN_AFTER_RACE: usize = 13;

#[cold]
fn has_name(header: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', header).any(|end| match header.get(end + 1) {
        Some(b'N') => header[end + 1..].starts_with(DESTINATION),
        Some(b't' | b'T') => {
            header.get(end + 1..end + 1 + PARENT.len()).is_some_and(|name| name.eq_ignore_ascii_case(PARENT))
        }
        _ => false,
    })
}

/// The headers of a message that asks for a trace.
pub(crate) struct Asked<'a> {
    /// Each name with its values, in the order of the names.
    fields: BTreeMap<&'a [u8], Vec<&'a [u8]>>,
    /// Only another tracing system asks: the account says where the event goes.
    pub is_external: bool,
}

impl<'a> Asked<'a> {
    /// What the headers ask for; `None` when they ask for no trace.
    pub fn parse(header: &'a [u8]) -> Option<Asked<'a>> {
        let mut rest = header.strip_prefix(FIRST_LINE)?;
        let mut fields: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        let (mut has_destination, mut is_sampled) = (false, false);
        while let Some(colon) = memchr::memchr(b':', rest) {
            let (name, value) = (&rest[..colon], &rest[colon + 1..]);
            let Some(end) = memchr::memmem::find(value, b"\r\n") else { break };
            rest = &value[end + 2..];
            let value = trim(&value[..end]);
            if name.is_empty() || value.is_empty() {
                continue;
            }
            if name == DESTINATION {
                if !has_destination && value == DISABLED {
                    return None;
                }
                has_destination = true;
            } else if name.eq_ignore_ascii_case(PARENT) {
                is_sampled |= is_sampled_parent(value);
            }
            fields.entry(name).or_default().push(value);
        }
        (has_destination || is_sampled).then_some(Asked { fields, is_external: !has_destination })
    }

    fn first(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.fields.get(name)?.first().copied()
    }

    /// The subject that the message itself names.
    pub fn destination(&self) -> &'a [u8] {
        self.first(DESTINATION).unwrap_or_default()
    }

    /// Nobody is to get the message.
    pub fn is_only(&self) -> bool {
        let says = |word: &[u8]| self.first(ONLY).is_some_and(|value| value.eq_ignore_ascii_case(word));
        !self.is_external && (says(b"1") || says(b"true") || says(b"on"))
    }

    /// It bears the header with which nobody traces.
    pub fn is_outdated(&self) -> bool {
        self.fields.contains_key(ORIGIN_ACCOUNT)
    }

    /// Which hop the message made to come here; empty when a client sent it.
    fn hop(&self) -> String {
        self.first(HOP).map_or_else(String::new, |hop| String::from_utf8_lossy(hop).into_owned())
    }

    fn encoding(&self) -> Encoding {
        let Some(accepted) = self.first(b"Accept-Encoding") else { return Encoding::None };
        let accepted = accepted.to_ascii_lowercase();
        let has = |name: &[u8]| memchr::memmem::find(&accepted, name).is_some();
        match () {
            () if has(b"snappy") || has(b"s2") => Encoding::Snappy,
            () if has(b"gzip") => Encoding::Gzip,
            () => Encoding::Identity,
        }
    }

    fn json(&self, message_len: usize) -> String {
        let mut out = String::from("{\"header\":{");
        for (place, (name, values)) in self.fields.iter().enumerate() {
            out.push_str(if place > 0 { "," } else { "" });
            quote(&String::from_utf8_lossy(name), &mut out);
            out.push(':');
            for (place, value) in values.iter().enumerate() {
                out.push(if place > 0 { ',' } else { '[' });
                quote(&String::from_utf8_lossy(value), &mut out);
            }
            out.push(']');
        }
        out.push('}');
        if message_len > 0 {
            let _ = write!(out, ",\"msgsize\":{message_len}");
        }
        out.push('}');
        out
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// `version-trace-parent-flags`, with the bit "sampled".
fn is_sampled_parent(value: &[u8]) -> bool {
    let parts: Vec<&[u8]> = value.split(|byte| *byte == b'-').collect();
    let [_, _, _, flags] = parts[..] else { return false };
    let number = std::str::from_utf8(flags).ok().and_then(|flags| i8::from_str_radix(flags, 16).ok());
    flags.len() == 2 && number.is_some_and(|flags| flags & 1 == 1)
}

/// How the event is packed (`Accept-Encoding` of the message).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    None,
    Snappy,
    Gzip,
    /// Something was asked for that nobody here writes.
    Identity,
}

/// What was noted of one message on this server.
pub(crate) struct Trace {
    /// The account that the message was published in: the event goes there.
    pub account: Arc<Account>,
    /// The subject of the event. In other accounts one on which it finds its way back.
    pub destination: Vec<u8>,
    /// Nobody is to get the message.
    pub is_only: bool,
    /// Servers that it went to.
    pub hops: u32,
    hop: String,
    encoding: Encoding,
    request: String,
    ingress: String,
    events: Vec<String>,
    /// The last request to another account: its place and its text before the subject, which a mapping may change.
    service: Option<(usize, String)>,
    /// The subject that the last mapping gave it, in the account where it is.
    mapped: Vec<u8>,
}

impl Trace {
    /// A message of `from` begins its way.
    pub fn new(
        asked: &Asked<'_>,
        (account, from): (&Arc<Account>, &Link),
        destination: Vec<u8>,
        (subject, message_len): (&[u8], usize),
        now_nanos: u64,
    ) -> Trace {
        let hop = if from.kind == LinkKind::Client { String::new() } else { asked.hop() };
        let mut ingress = begin("in", now_nanos);
        connection(from, &mut ingress);
        text(&mut ingress, "acc", &account.name);
        text(&mut ingress, "subj", &String::from_utf8_lossy(subject));
        Trace {
            account: account.clone(),
            destination,
            is_only: asked.is_only(),
            hops: 0,
            hop,
            encoding: asked.encoding(),
            request: asked.json(message_len),
            ingress,
            events: Vec::new(),
            service: None,
            mapped: Vec::new(),
        }
    }

    /// A mapping gave the message another subject. It may be said more than once.
    pub fn mapped(&mut self, to: &[u8], now_nanos: u64) {
        if self.mapped == to {
            return;
        }
        self.mapped = to.to_vec();
        let to = String::from_utf8_lossy(to);
        // one of an exporting account is part of the way there
        let event = match self.service.take() {
            Some((place, head)) => {
                self.events.truncate(place);
                head
            }
            None => begin("sm", now_nanos),
        };
        self.push(event, &[("to", &to)]);
    }

    /// A subscription of another account imports the message.
    pub fn exported(&mut self, account: &str, to: &[u8], now_nanos: u64) {
        self.push(begin("se", now_nanos), &[("acc", account), ("to", &String::from_utf8_lossy(to))]);
    }

    /// The message goes on in another account.
    pub fn requested(&mut self, account: &str, from: &[u8], to: &[u8], now_nanos: u64) {
        let mut event = begin("si", now_nanos);
        text(&mut event, "acc", account);
        text(&mut event, "from", &String::from_utf8_lossy(from));
        self.service = Some((self.events.len(), event.clone()));
        self.mapped.clear();
        self.push(event, &[("to", &String::from_utf8_lossy(to))]);
    }

    /// A subscription of a client matched; `error`: why it got nothing, empty when it did.
    pub fn delivered(&mut self, to: &Link, filter: &[u8], queue: &[u8], error: &str, now_nanos: u64) {
        let account = to.about.lock().account.clone();
        let account = if account == *self.account.name { String::new() } else { account };
        let mut event = begin("eg", now_nanos);
        connection(to, &mut event);
        let (filter, queue) = (String::from_utf8_lossy(filter), String::from_utf8_lossy(queue));
        self.push_some(event, &[("acc", &account), ("sub", &filter), ("queue", &queue), ("error", error)]);
    }

    /// The message goes to another server. Returns what its [`HOP`] is to say.
    pub fn next_hop(&mut self) -> String {
        self.hops += 1;
        match self.hop.is_empty() {
            true => self.hops.to_string(),
            false => format!("{}.{}", self.hop, self.hops),
        }
    }

    /// It went there, or not.
    pub fn routed(&mut self, to: &Link, hop: &str, error: &str, now_nanos: u64) {
        let mut event = begin("eg", now_nanos);
        connection(to, &mut event);
        self.push_some(event, &[("hop", hop), ("error", error)]);
    }

    fn push(&mut self, mut event: String, fields: &[(&str, &str)]) {
        for (name, value) in fields {
            text(&mut event, name, value);
        }
        event.push('}');
        self.events.push(event);
    }

    fn push_some(&mut self, event: String, fields: &[(&str, &str)]) {
        self.service = None;
        let some: Vec<_> = fields.iter().filter(|(_, value)| !value.is_empty()).copied().collect();
        self.push(event, &some);
    }

    /// The event: its headers and its payload. `stamp`: what it says of this server, with the comma behind it.
    pub fn event(&self, stamp: &str, error: &str) -> (Vec<u8>, Vec<u8>) {
        let mut out = format!("{{\"server\":{{{stamp}}},\"request\":{}", self.request);
        if self.hops > 0 {
            let _ = write!(out, ",\"hops\":{}", self.hops);
        }
        let _ = write!(out, ",\"events\":[{}", self.ingress);
        if !error.is_empty() {
            text(&mut out, "error", error);
        }
        out.push('}');
        for event in &self.events {
            out.push(',');
            out.push_str(event);
        }
        out.push_str("]}");
        let (name, payload) = match self.encoding {
            Encoding::None => return (Vec::new(), out.into_bytes()),
            Encoding::Identity => ("identity", out.into_bytes()),
            Encoding::Snappy => ("snappy", wire::s2::snappy(out.as_bytes())),
            Encoding::Gzip => ("gzip", gzip(out.as_bytes())),
        };
        (format!("NATS/1.0\r\nContent-Encoding: {name}\r\n\r\n").into_bytes(), payload)
    }
}

fn begin(kind: &str, now_nanos: u64) -> String {
    format!("{{\"type\":\"{kind}\",\"ts\":\"{}\"", rfc3339(now_nanos))
}

fn text(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, ",\"{name}\":");
    quote(value, out);
}

/// Kind (nats-server's number), number and name of a connection.
fn connection(link: &Link, out: &mut String) {
    let kind = match link.kind {
        LinkKind::Client => 0,
        LinkKind::Route => 1,
        LinkKind::Internal => 6,
    };
    let _ = write!(out, ",\"kind\":{kind},\"cid\":{}", link.id);
    let about = link.about.lock();
    if !about.name.is_empty() {
        text(out, "name", &about.name);
    }
}

/// A gzip file (RFC 1952) whose data is stored: events are small, and who asks for gzip gets what it can read.
fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut blocks = plain.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let len = block.len() as u16;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    let checksum = plain.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    });
    out.extend_from_slice(&(!checksum).to_le_bytes());
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &str) -> Option<(String, bool, bool)> {
        let header = format!("NATS/1.0\r\n{lines}\r\n\r\n");
        let asked = Asked::parse(header.as_bytes());
        assert!(may_ask(header.as_bytes()) || asked.is_none(), "{lines}");
        let asked = asked?;
        let destination = String::from_utf8(asked.destination().to_vec()).unwrap();
        Some((destination, asked.is_external, asked.is_only()))
    }

    #[test]
    fn headers_ask_for_a_trace_as_with_nats_server() {
        assert_eq!(asked("A: b"), None);
        assert_eq!(asked("Nats-Trace-Only: 1"), None);
        assert_eq!(asked("A: b\r\nNats-Trace-Dest: x"), Some(("x".into(), false, false)));
        assert_eq!(asked("Nats-Trace-Dest: x\r\nNats-Trace-Only: TRUE"), Some(("x".into(), false, true)));
        assert_eq!(asked("Nats-Trace-Dest: trace disabled\r\ntraceparent: 00-a-b-01"), None);
        assert_eq!(asked("TraceParent: 00-a-b-01"), Some((String::new(), true, false)));
        assert_eq!(asked("traceparent: 00-a-b-00"), None);
        assert_eq!(asked("traceparent: 00-a-b-1"), None);
        assert_eq!(asked("nats-trace-dest: x"), None);
    }

    #[test]
    fn headers_that_ask_are_found_wherever_they_stand_and_others_are_not() {
        for asking in ["Nats-Trace-Dest:x", "traceparent:---01", "TRACEPARENT:---01"] {
            for (before, after) in (0..40).flat_map(|before| (0..40).map(move |after| (before, after))) {
                let (before, after) = ("b".repeat(before), "b".repeat(after));
                let header = format!("NATS/1.0\r\nA:{before}\r\n{asking}\r\nC:{after}\r\n\r\n");
                assert!(may_ask(header.as_bytes()), "{header}");
                let other = header.replace(asking, "Nats-Msg-Id: trace\r\nTrace-Id: 1");
                assert!(!may_ask(other.as_bytes()) && !has_race(other.as_bytes()), "{other}");
            }
            let shortest = format!("NATS/1.0\r\n{asking}\r\n");
            assert!(
                Asked::parse(shortest.as_bytes()).is_some() && may_ask(shortest.as_bytes()),
                "{shortest}"
            );
        }
        for len in 0..40 {
            assert!(!may_ask(&b"NATS/1.0\r\nA: 0123456789012345678901234567890123456789"[..len]));
        }
    }

    #[test]
    fn what_the_headers_say_is_repeated_in_the_order_of_their_names() {
        let header = b"NATS/1.0\r\nB: 1\r\nNats-Trace-Dest: x\r\nA:2 \r\nB: 3\r\n\r\n";
        let json = Asked::parse(header).unwrap().json(7);
        assert_eq!(json, r#"{"header":{"A":["2"],"B":["1","3"],"Nats-Trace-Dest":["x"]},"msgsize":7}"#);
    }

    #[test]
    fn a_stored_gzip_file_has_the_checksum_of_its_bytes() {
        let file = gzip(b"123456789");
        assert_eq!(file[10..15], [1, 9, 0, 0xf6, 0xff]);
        assert_eq!(file[24..28], 0xcbf4_3926_u32.to_le_bytes(), "the check value of CRC-32");
        assert_eq!(file[28..], 9_u32.to_le_bytes());
    }
}
