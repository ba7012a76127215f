//! Log lines about the operations of a connection (`trace`), in nats-server's form.
//!
//! Owns their texts, with every secret taken out; never logs: whoever has the bytes does.

/// What lines show of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Bytes of a payload that are shown; 0 for all.
    pub payload_bytes_max: usize,
    /// Of messages only their headers are shown (`trace_headers`).
    pub headers_only: bool,
}

/// Operations of clients and servers that have lines.
const VERBS: [&str; 14] = [
    "CONNECT", "PUB", "HPUB", "SUB", "UNSUB", "PING", "PONG", "RS+", "RS-", "LS+", "LS-", "RMSG", "HMSG",
    "MSG",
];
/// Those with a payload, whose size is their last word.
const WITH_PAYLOAD: [&str; 5] = ["PUB", "HPUB", "RMSG", "HMSG", "MSG"];

impl Lines {
    /// Calls `each` with the lines about one operation that came in, which `operation` begins with.
    pub fn received(&self, operation: &[u8], each: &mut dyn FnMut(&str)) {
        let (line, rest) = cut_line(operation);
        let (verb, arguments) = split_verb(line);
        let verb = verb.to_ascii_uppercase();
        if !VERBS.contains(&&*verb) {
            return;
        }
        match (&*verb, arguments) {
            (_, b"") => each(&format!("<<- [{verb}]")),
            ("CONNECT", json) => each(&format!("<<- [CONNECT {}]", without_secrets(json))),
            (_, arguments) => each(&format!("<<- [{verb} {}]", String::from_utf8_lossy(arguments))),
        }
        self.payload("<<-", &verb, arguments, rest, each);
    }

    /// Calls `each` with the lines about operations that are sent.
    pub fn sent(&self, mut bytes: &[u8], each: &mut dyn FnMut(&str)) {
        while !bytes.is_empty() {
            let (line, rest) = cut_line(bytes);
            let (verb, arguments) = split_verb(line);
            bytes = rest;
            match &*verb {
                "+OK" => each("->> [OK]"),
                "-ERR" => {
                    let text = String::from_utf8_lossy(arguments);
                    each(&format!("->> [-ERR {}]", text.trim_matches('\'')));
                }
                _ if VERBS.contains(&&*verb) && verb != "CONNECT" => {
                    each(&format!("->> [{}]", String::from_utf8_lossy(line)));
                    let taken = self.payload("->>", &verb, arguments, rest, each);
                    bytes = rest.get(taken..).unwrap_or_default();
                }
                _ => {}
            }
        }
    }

    /// The line about a payload, if there is to be one. Returns the bytes that it takes.
    fn payload(
        &self,
        way: &str,
        verb: &str,
        arguments: &[u8],
        rest: &[u8],
        each: &mut dyn FnMut(&str),
    ) -> usize {
        if !WITH_PAYLOAD.contains(&verb) {
            return 0;
        }
        let words = arguments.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let mut sizes = words.rev().map(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
        let size = sizes.next().flatten().unwrap_or(0);
        let header_len = sizes.next().flatten().filter(|_| verb.starts_with('H')).unwrap_or(0);
        let mut shown = rest.get(..size).unwrap_or(rest);
        if self.headers_only {
            // without the empty line behind the headers
            shown = shown.get(..header_len.saturating_sub(4)).unwrap_or_default();
        }
        let max = self.payload_bytes_max;
        if max > 0 && shown.len() > max {
            let quoted = quoted(&shown[..max]);
            each(&format!("{way} MSG_PAYLOAD: [{}...\"]", &quoted[..quoted.len() - 1]));
        } else if !shown.is_empty() {
            each(&format!("{way} MSG_PAYLOAD: [{}]", quoted(shown)));
        }
        size + 2
    }
}

/// The first line without its end, and what is behind it.
fn cut_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    (line, bytes.get(end + 1..).unwrap_or_default())
}

fn split_verb(line: &[u8]) -> (std::borrow::Cow<'_, str>, &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    (String::from_utf8_lossy(&line[..end]), line[end..].trim_ascii())
}

/// What CONNECT says, without what lets somebody in: passwords, tokens, signatures, keys. Like nats-server's lines it
/// takes out every value whose name begins with `pass` or `auth_token`; other than these, also `jwt`.
pub fn without_secrets(json: &[u8]) -> String {
    let mut out = Vec::with_capacity(json.len());
    let mut at = 0;
    while at < json.len() {
        if let Some(value) = secret(json, at) {
            out.extend_from_slice(&json[at..value.start]);
            out.extend_from_slice(b"[REDACTED]");
            at = value.end;
        } else {
            out.push(json[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The value of a secret whose name begins at `at`.
fn secret(json: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let rest = &json[at..];
    let begins =
        |names: &[&[u8]]| names.iter().find(|name| rest.starts_with(name)).map(|name| at + name.len());
    if let Some(mut end) = begins(&[b"auth_token", b"pass"]) {
        loop {
            if let Some(value) = value_behind(json, end) {
                return Some(value);
            }
            if json.get(end).is_none_or(u8::is_ascii_whitespace) {
                return None;
            }
            end += 1;
        }
    }
    let is_whole = at == 0 || !(json[at - 1].is_ascii_alphanumeric() || json[at - 1] == b'_');
    let end = begins(&[b"proxy_sig", b"nkey", b"sig", b"jwt"]).filter(|_| is_whole)?;
    value_behind(json, end)
}

/// Behind a name: `"`, blanks, `:` or `=`, blanks, `"`, and then the value up to `"`, `,`, `}` or the end of the line.
fn value_behind(json: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let blanks = |mut at: usize| {
        while json.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    let quote = |at: usize| at + usize::from(json.get(at) == Some(&b'"'));
    let sign = blanks(quote(at));
    if !matches!(json.get(sign), Some(b':' | b'=')) {
        return None;
    }
    let start = quote(blanks(sign + 1));
    let len = json[start..].iter().position(|byte| matches!(byte, b'"' | b',' | b'\r' | b'\n' | b'}'));
    Some(start..len.map_or(json.len(), |len| start + len))
}

/// Bytes of a peer as Go's `%q` shows them.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                '\x07' => text.push_str("\\a"),
                '\x08' => text.push_str("\\b"),
                '\x0b' => text.push_str("\\v"),
                '\x0c' => text.push_str("\\f"),
                '\n' | '\r' | '\t' => text.extend(character.escape_default()),
                '\0'..' ' | '\x7f' => text.push_str(&format!("\\x{:02x}", u32::from(character))),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(lines: Lines, operation: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        lines.received(operation, &mut |line| seen.push(line.to_owned()));
        seen
    }

    fn sent(lines: Lines, bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        lines.sent(bytes, &mut |line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn operations_are_shown_as_nats_server_shows_them() {
        let all = Lines::default();
        assert_eq!(received(all, b"PING\r\n"), ["<<- [PING]"]);
        assert_eq!(received(all, b"sub foo  grp 2 \r\nPING\r\n"), ["<<- [SUB foo  grp 2]"]);
        assert_eq!(
            received(all, b"PUB a 5\r\nhe\"lo\r\n"),
            ["<<- [PUB a 5]", "<<- MSG_PAYLOAD: [\"he\\\"lo\"]"]
        );
        assert_eq!(received(all, b"PUB a 0\r\n\r\n"), ["<<- [PUB a 0]"]);
        assert_eq!(received(all, b"INFO {}\r\n"), [""; 0]);
        let two = sent(all, b"MSG a 1 2\r\nhi\r\n+OK\r\nPONG\r\n-ERR 'No'\r\nINFO {}\r\nMSG a 1 1\r\nx\r\n");
        let wanted = ["[MSG a 1 2]", "MSG_PAYLOAD: [\"hi\"]", "[OK]", "[PONG]", "[-ERR No]"];
        assert_eq!(two[..5], wanted.map(|line| format!("->> {line}")));
        assert_eq!(two[5..], ["->> [MSG a 1 1]", "->> MSG_PAYLOAD: [\"x\"]"]);
    }

    #[test]
    fn payloads_are_cut_or_left_out_as_configured() {
        let some = Lines { payload_bytes_max: 3, headers_only: false };
        assert_eq!(received(some, b"PUB a 5\r\nhello\r\n")[1], "<<- MSG_PAYLOAD: [\"hel...\"]");
        let headers = Lines { payload_bytes_max: 0, headers_only: true };
        assert_eq!(received(headers, b"PUB a 5\r\nhello\r\n").len(), 1);
        let message = b"HPUB a 18 19\r\nNATS/1.0\r\nA: b\r\n\r\nx\r\n";
        assert_eq!(received(headers, message)[1], "<<- MSG_PAYLOAD: [\"NATS/1.0\\r\\nA: b\"]");
    }

    #[test]
    fn secrets_never_reach_a_line() {
        let shown = |json: &str| without_secrets(json.as_bytes());
        let connect = r#"{"user":"u","pass":"s3","auth_token": "s3","jwt":"s3","sig":"s3","proxy_sig":"s3","nkey":"s3","name":"signal"}"#;
        let wanted = r#"{"user":"u","pass":"[R]","auth_token": "[R]","jwt":"[R]","sig":"[R]","proxy_sig":"[R]","nkey":"[R]","name":"signal"}"#;
        assert_eq!(shown(connect), wanted.replace("[R]", "[REDACTED]"));
        assert_eq!(shown(r#"{"password":"s3"}"#), r#"{"password":"[REDACTED]"}"#);
        assert_eq!(shown("pass = s3\r\nx"), "pass = [REDACTED]\r\nx");
        assert_eq!(shown(r#"{"sig"#), r#"{"sig"#);
    }
}
