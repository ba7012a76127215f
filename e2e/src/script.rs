//! Protocol scripts: what is said to a server, line by line, and what it answered.
//!
//! Owns the grammar of `differential/*.txt` (described in `differential/README.md`) and
//! of the transcripts that are compared. Never opens a connection.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// A script that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}: {problem}")]
pub struct ScriptError {
    /// Name of the script.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// One script: a configuration and the cases that run against a server with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Configuration text, without listeners: the runner adds those.
    pub config: String,
    /// Further configurations, by name, for [`Step::Reload`].
    pub further: BTreeMap<String, String>,
    /// Whether the server also listens for routes (`listen cluster`).
    pub cluster: bool,
    /// The cases in order; each opens connections of its own.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What the case shows; unique in its script.
    pub name: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// One thing that a case does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sends bytes on a connection, which is opened at its first use.
    Send(String, Vec<u8>),
    /// Sends PING and reads up to its PONG, or the end of the connection.
    Sync(String),
    /// Reads until the server closes, for this long at most.
    Closed(String, Duration),
    /// Does nothing on the connection for this long.
    Wait(Duration),
    /// Puts the server's INFO into the transcript, its changing values masked.
    Info(String),
    /// Closes the connection.
    Disconnect(String),
    /// Asks the monitoring port for a path, and notes status and shape of the answer.
    Http(String),
    /// Publishes a request (subject, payload) and notes the shape of the JSON that answers it.
    Request(String, String, String),
    /// Puts the configuration of this name in force, the first one if it is empty, and notes whether it was taken.
    Reload(String),
}

impl Script {
    /// Reads a script; `file` names it in errors.
    ///
    /// # Errors
    /// With the line that is no statement.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScriptError> {
        let mut script =
            Self { config: String::new(), further: BTreeMap::new(), cluster: false, cases: Vec::new() };
        let mut in_config = false;
        let mut further: Option<String> = None;
        for (index, raw) in text.lines().enumerate() {
            let fail = |problem: String| ScriptError { file: file.to_owned(), line: index + 1, problem };
            let line = raw.trim();
            if in_config {
                in_config = line != "end";
                if in_config {
                    let config = match &further {
                        Some(name) => script.further.entry(name.clone()).or_default(),
                        None => &mut script.config,
                    };
                    config.push_str(raw);
                    config.push('\n');
                }
            } else if line.is_empty() || line.starts_with('#') {
            } else if line == "config" && script.cases.is_empty() {
                in_config = true;
            } else if let Some(name) = line.strip_prefix("config ")
                && script.cases.is_empty()
            {
                in_config = true;
                further = Some(name.trim().to_owned());
            } else if line == "listen cluster" && script.cases.is_empty() {
                script.cluster = true;
            } else if let Some(name) = line.strip_prefix("case ") {
                let name = name.trim().to_owned();
                if script.cases.iter().any(|case| case.name == name) {
                    return Err(fail(format!("a second case named {name:?}; names are unique")));
                }
                script.cases.push(Case { name, steps: Vec::new() });
            } else {
                let step = parse_step(raw.trim_start()).map_err(&fail)?;
                let case = script.cases.last_mut();
                case.ok_or_else(|| fail("a step before the first `case NAME`".into()))?.steps.push(step);
            }
        }
        if in_config {
            return Err(ScriptError {
                file: file.to_owned(),
                line: text.lines().count(),
                problem: "`config` without `end`".into(),
            });
        }
        Ok(script)
    }
}

fn parse_step(line: &str) -> Result<Step, String> {
    if let Some(path) = line.strip_prefix("http ") {
        return Ok(Step::Http(path.trim().to_owned()));
    }
    if line == "reload" || line.starts_with("reload ") {
        return Ok(Step::Reload(line["reload".len()..].trim().to_owned()));
    }
    if let Some(milliseconds) = line.strip_prefix("wait ") {
        return Ok(Step::Wait(parse_milliseconds(milliseconds)?));
    }
    let (connection, statement) = match line.find(|c: char| !c.is_ascii_alphanumeric()) {
        Some(end) if end > 0 => line.split_at(end),
        _ => return Err(unknown(line)),
    };
    let connection = connection.to_owned();
    if let Some(text) = statement.strip_prefix(">> ") {
        return Ok(Step::Send(connection, unescape(text)?));
    }
    if let Some(text) = statement.strip_prefix("> ").or_else(|| statement.strip_prefix(">")) {
        let mut bytes = unescape(text)?;
        bytes.extend_from_slice(b"\r\n");
        return Ok(Step::Send(connection, bytes));
    }
    if let Some(request) = statement.strip_prefix(" request ") {
        let (subject, payload) = request.trim().split_once(' ').unwrap_or((request.trim(), ""));
        return Ok(Step::Request(connection, subject.to_owned(), payload.to_owned()));
    }
    match statement.split_whitespace().collect::<Vec<_>>()[..] {
        ["sync"] => Ok(Step::Sync(connection)),
        ["info"] => Ok(Step::Info(connection)),
        ["disconnect"] => Ok(Step::Disconnect(connection)),
        ["closed", milliseconds] => Ok(Step::Closed(connection, parse_milliseconds(milliseconds)?)),
        _ => Err(unknown(line)),
    }
}

fn unknown(line: &str) -> String {
    format!(
        "{line:?} is no step; steps are `A> line`, `A>> bytes`, `A sync`, `A closed MS`, \
         `A info`, `A disconnect`, `A request SUBJECT [JSON]`, `wait MS`, `reload [NAME]` and `http /path`"
    )
}

fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let parsed = text.trim().parse().map(Duration::from_millis);
    parsed.map_err(|_| format!("{text:?} is no number of milliseconds"))
}

/// `\r`, `\n`, `\t`, `\0`, `\\`, `\xHH`, and `\<COUNT*TEXT>` for TEXT repeated.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let mut characters = after.chars();
        match characters.next() {
            Some('r') => bytes.push(b'\r'),
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('0') => bytes.push(0),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits = after.get(1..3).unwrap_or("");
                let byte = u8::from_str_radix(digits, 16);
                bytes.push(byte.map_err(|_| format!("\\x{digits}: two hexadecimal digits follow \\x"))?);
                rest = &after[3..];
                continue;
            }
            Some('<') => {
                let (count, text, end) = after[1..]
                    .split_once('>')
                    .and_then(|(inside, end)| {
                        let (count, text) = inside.split_once('*')?;
                        Some((count.parse::<usize>().ok()?, text, end))
                    })
                    .ok_or("a repetition is \\<COUNT*TEXT>")?;
                bytes.extend_from_slice(text.repeat(count).as_bytes());
                rest = end;
                continue;
            }
            other => return Err(format!("\\{} is no escape", other.unwrap_or(' '))),
        }
        rest = characters.as_str();
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Received bytes as transcript lines: split after LF, what is not printable escaped.
#[must_use]
pub fn printable_lines(bytes: &[u8]) -> Vec<String> {
    let ends_whole = bytes.ends_with(b"\n");
    let mut parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if ends_whole || bytes.is_empty() {
        parts.pop();
    }
    let count = parts.len();
    let lines = parts.into_iter().enumerate().map(|(index, part)| {
        let whole = ends_whole || index + 1 < count;
        // The ends that the protocol wants are not shown; any other end is.
        let (part, end) = match (part.strip_suffix(b"\r"), whole) {
            (Some(part), true) => (part, ""),
            (None, true) => (part, "\\n"),
            (_, false) => (part, " (no line end)"),
        };
        let mut line = String::new();
        for character in String::from_utf8_lossy(part).chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\t' => line.push_str("\\t"),
                '\r' => line.push_str("\\r"),
                c if c.is_control() => {
                    let _ = write!(line, "\\x{:02x}", u32::from(c));
                }
                c => line.push(c),
            }
        }
        line + end
    });
    lines.collect()
}

/// Values of INFO that differ from one run of the same server to the next.
const INFO_MASKED: &[&str] = &[
    "server_id",
    "server_name",
    "version",
    "go",
    "git_commit",
    "host",
    "port",
    "client_id",
    "client_ip",
    "xkey",
    "nonce",
    "ip",
    "connect_urls",
    "ws_connect_urls",
    "cluster",
];

/// An INFO line with sorted keys and the values masked that differ from run to run.
#[must_use]
pub fn masked_info(line: &str) -> String {
    let json = line.strip_prefix("INFO ").map(str::trim);
    let Some(Ok(serde_json::Value::Object(mut info))) = json.map(serde_json::from_str) else {
        return line.to_owned();
    };
    for (key, value) in &mut info {
        if INFO_MASKED.contains(&key.as_str()) {
            *value = "…".into();
        }
    }
    info.sort_keys();
    format!("INFO {}", serde_json::Value::Object(info))
}

/// Values that differ from run to run in what a service is told of a requestor, and in reports on its latency.
const CLIENT_MASKED: &[&str] = &["start", "id", "timestamp", "service", "system", "total"];

/// Received lines with the values masked that differ from run to run: reply subjects that a server made, who asks
/// for a service, reports on its latency; with them the sizes of the messages that hold them.
#[must_use]
pub fn masked_messages(lines: Vec<String>) -> Vec<String> {
    let mut masked: Vec<String> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let words: Vec<&str> =
            words.into_iter().map(|word| if word.starts_with("_R_.") { "_R_.…" } else { word }).collect();
        let mut line = without_server_ids(&words.join(" "));
        if line.starts_with("{\"type\":\"io.nats.server.advisory")
            && let Ok(event) = serde_json::from_str(&line)
        {
            hide_sizes(&mut masked);
            masked.extend(json_shape(&event).into_iter().map(|field| format!("event: {field}")));
            continue;
        }
        if is_trace(&line)
            // printed lines have each backslash twice
            && let Ok(event) = serde_json::from_str(&line.replace("\\\\", "\\"))
        {
            hide_sizes(&mut masked);
            masked.push(masked_trace(event));
            continue;
        }
        let json = match line.strip_prefix("Nats-Request-Info: ") {
            Some(json) => Some(("Nats-Request-Info: ", json)),
            None => line.starts_with("{\"type\":\"io.nats.server.metric").then_some(("", &*line)),
        };
        if let Some((before, json)) = json
            && let Ok(mut value) = serde_json::from_str(json)
        {
            mask_client(&mut value);
            line = format!("{before}{value}");
            hide_sizes(&mut masked);
        }
        masked.push(line);
    }
    masked
}

/// What stands before the trace of a message (ADR-41) in a transcript.
const TRACE: &str = "trace: ";

fn is_trace(line: &str) -> bool {
    line.starts_with("{\"server\":{") && line.contains("\"events\":[{\"type\":\"in\"")
}

/// A trace with the names of the server's fields instead of their values, without times and connection numbers, and
/// with the events behind the first one in the order of their texts: who is served first is chance.
fn masked_trace(mut event: serde_json::Value) -> String {
    fn mask(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.remove("ts");
                for (name, field) in fields.iter_mut() {
                    match name.as_str() {
                        "cid" | "Nats-Request-Info" => *field = "…".into(),
                        _ => mask(field),
                    }
                }
                fields.sort_keys();
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(mask),
            serde_json::Value::String(text) if text.starts_with("_R_.") => *text = "_R_.…".into(),
            _ => {}
        }
    }
    if let Some(server) = event["server"].as_object() {
        let names: Vec<String> = server.keys().filter(|name| *name != "feature_flags").cloned().collect();
        event["server"] = names.into();
    }
    mask(&mut event);
    if event["request"]["header"].get("Nats-Request-Info").is_some() {
        event["request"]["msgsize"] = "…".into();
    }
    if let Some(events) = event["events"].as_array_mut() {
        events[1..].sort_by_key(ToString::to_string);
    }
    format!("{TRACE}{event}")
}

/// Messages that report on a service's latency or trace a message, behind all other lines: servers send them from a queue of their own, so
/// their place among the answers to the same connection is chance.
#[must_use]
pub fn reports_last(lines: Vec<String>) -> Vec<String> {
    let is_metric = |line: &str| line.starts_with('{') && line.contains("\"io.nats.server.metric");
    let is_report = |line: &String| is_metric(line) || line.starts_with(TRACE);
    let (mut others, mut reports) = (Vec::new(), Vec::new());
    for line in lines {
        if is_report(&line) {
            reports.extend(others.pop());
            reports.push(line);
        } else {
            others.push(line);
        }
    }
    others.append(&mut reports);
    others
}

/// Takes the sizes out of the last message's head: what it carries is not compared by its value.
fn hide_sizes(lines: &mut [String]) {
    let is_head = |line: &&mut String| line.starts_with("MSG ") || line.starts_with("HMSG ");
    if let Some(head) = lines.iter_mut().rev().find(is_head) {
        let sizes = if head.starts_with("HMSG ") { 2 } else { 1 };
        let words: Vec<&str> = head.split_whitespace().collect();
        *head = format!("{} …", words[..words.len().saturating_sub(sizes)].join(" "));
    }
}

/// Tokens of subjects that are a server's id.
fn without_server_ids(line: &str) -> String {
    let is_id = |token: &&str| token.len() == 56 && token.starts_with('N');
    let Some(id) = line.split(['.', ' ']).find(is_id) else { return line.to_owned() };
    line.replace(id, "N…")
}

fn mask_client(value: &mut serde_json::Value) {
    let serde_json::Value::Object(fields) = value else { return };
    // a server may know the round trip already, or not yet
    fields.remove("rtt");
    for (name, field) in fields.iter_mut() {
        if CLIENT_MASKED.contains(&name.as_str()) {
            *field = "…".into();
        }
        mask_client(field);
    }
    fields.sort_keys();
}

/// The last reply subject of a server (`_R_.…`) in received bytes.
#[must_use]
pub fn last_reply(received: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(received).into_owned();
    text.split_whitespace().rfind(|word| word.starts_with("_R_.")).map(str::to_owned)
}

/// The shape of a JSON answer: a line a field, `path: type`, sorted; of an array,
/// the shape of its first element. `feature_flags` are JetStream's and left out.
#[must_use]
pub fn json_shape(value: &serde_json::Value) -> Vec<String> {
    fn walk(path: &str, value: &serde_json::Value, lines: &mut Vec<String>) {
        let kind = match value {
            serde_json::Value::Null => "null",
            serde_json::Value::Bool(_) => "bool",
            serde_json::Value::Number(_) => "number",
            serde_json::Value::String(_) => "string",
            serde_json::Value::Array(elements) => {
                if let Some(first) = elements.first() {
                    walk(&format!("{path}[]"), first, lines);
                }
                "array"
            }
            serde_json::Value::Object(fields) => {
                for (name, field) in fields.iter().filter(|(name, _)| *name != "feature_flags") {
                    walk(&format!("{path}.{name}"), field, lines);
                }
                "object"
            }
        };
        lines.push(format!("{path}: {kind}"));
    }
    let mut lines = Vec::new();
    walk("", value, &mut lines);
    lines.sort();
    lines
}

/// Transcripts by case name, from what was recorded: `case NAME`, then its lines.
#[must_use]
pub fn parse_transcripts(text: &str) -> BTreeMap<String, String> {
    let mut transcripts = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("case ") {
            Some(next) => {
                next.clone_into(&mut name);
                transcripts.insert(name.clone(), String::new());
            }
            None => {
                if let Some(transcript) = transcripts.get_mut(&name) {
                    transcript.push_str(line);
                    transcript.push('\n');
                }
            }
        }
    }
    transcripts
}

/// Differences that are known: a line each, `SCRIPT: CASE = reason`; `#` begins a remark.
#[must_use]
pub fn parse_known(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let entries = lines.filter_map(|line| line.split_once(" = "));
    entries.map(|(case, reason)| (case.trim().to_owned(), reason.trim().to_owned())).collect()
}

/// What differs between two transcripts, for people: lines that only one of them has.
#[must_use]
pub fn differences(want: &str, got: &str) -> Option<String> {
    if want == got {
        return None;
    }
    let (want, got): (Vec<_>, Vec<_>) = (want.lines().collect(), got.lines().collect());
    let mut text = String::new();
    for line in want.iter().filter(|line| !got.contains(line)) {
        let _ = writeln!(text, "  - {line}");
    }
    for line in got.iter().filter(|line| !want.contains(line)) {
        let _ = writeln!(text, "  + {line}");
    }
    if text.is_empty() {
        let _ = writeln!(text, "  the same lines, in another order or number\n  - {want:?}\n  + {got:?}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_behind_all_answers_with_their_heads() {
        let report = r#"{"status":200,"type":"io.nats.server.metric.v1.service_latency"}"#;
        let lines = ["PONG", "MSG report 2 …", report, "PONG"].map(str::to_owned).to_vec();
        assert_eq!(reports_last(lines), ["PONG", "PONG", "MSG report 2 …", report]);
    }

    #[test]
    fn a_script_is_read_into_config_cases_and_steps() {
        let text = "# about\nconfig\nmax_payload: 10\nend\nconfig less\nmax_payload: 5\nend\nlisten cluster\n\ncase first one\n\
                    a> PUB a 3\\t\nb>> \\<3*ab>\\x00\nwait 20\na sync\na closed 50\nhttp /varz\n\
                    reload less\nreload\na request $SYS.x {\"a\": 1}\n";
        let script = Script::parse("t", text).unwrap();
        assert_eq!(script.further["less"], "max_payload: 5\n");
        assert_eq!((script.config.as_str(), script.cluster), ("max_payload: 10\n", true));
        assert_eq!(script.cases[0].name, "first one");
        let a = || "a".to_owned();
        let expected = vec![
            Step::Send(a(), b"PUB a 3\t\r\n".to_vec()),
            Step::Send("b".into(), b"ababab\0".to_vec()),
            Step::Wait(Duration::from_millis(20)),
            Step::Sync(a()),
            Step::Closed(a(), Duration::from_millis(50)),
            Step::Http("/varz".into()),
            Step::Reload("less".into()),
            Step::Reload(String::new()),
            Step::Request(a(), "$SYS.x".into(), "{\"a\": 1}".into()),
        ];
        assert_eq!(script.cases[0].steps, expected);
    }

    #[test]
    fn a_broken_script_is_an_error_with_its_line() {
        for (text, line) in [
            ("case x\nfrobnicate\n", 2),
            ("a> PING\n", 1),
            ("case x\n\ncase x\n", 3),
            ("case x\na> \\q\n", 2),
            ("case x\na> \\<x*y>\n", 2),
            ("case x\na> \\xg\n", 2),
            ("config\nport: 1\n", 2),
            ("case x\nwait long\n", 2),
        ] {
            assert_eq!(Script::parse("t", text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn bytes_that_the_protocol_would_not_send_are_seen() {
        let lines = printable_lines(b"PONG\r\n-ERR 'x'\n\x01\xff\r\nMSG");
        assert_eq!(lines, ["PONG", "-ERR 'x'\\n", "\\x01\u{fffd}", "MSG (no line end)"]);
        assert!(printable_lines(b"").is_empty());
    }

    #[test]
    fn info_is_compared_by_keys_and_by_the_values_that_do_not_change() {
        let masked = masked_info("INFO {\"port\":4222,\"max_payload\":5,\"headers\":true} ");
        assert_eq!(masked, "INFO {\"headers\":true,\"max_payload\":5,\"port\":\"…\"}");
        assert_eq!(masked_info("PONG"), "PONG");
    }

    #[test]
    fn a_shape_lists_every_field_with_its_type() {
        let value = serde_json::json!({"a": [{"b": 1}], "c": "x"});
        assert_eq!(
            json_shape(&value),
            [".a: array", ".a[].b: number", ".a[]: object", ".c: string", ": object"]
        );
    }

    #[test]
    fn recorded_answers_are_found_by_the_name_of_their_case() {
        let text = "case lowercase ops\na< +OK\na< (open)\n\ncase empty\n";
        let transcripts = parse_transcripts(text);
        assert_eq!(transcripts["lowercase ops"], "a< +OK\na< (open)\n");
        assert_eq!(transcripts["empty"], "");
    }

    #[test]
    fn a_known_difference_is_listed_with_its_reason() {
        let known = parse_known("# why\nprotocol: info = no key for sealed answers yet\n\n");
        assert_eq!(known["protocol: info"], "no key for sealed answers yet");
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn a_difference_is_seen_also_when_only_the_order_differs() {
        assert_eq!(differences("a\nb\n", "a\nb\n"), None);
        assert_eq!(differences("a\nb\n", "a\nc\n").unwrap(), "  - b\n  + c\n");
        assert!(differences("a\nb\n", "b\na\n").unwrap().contains("another order"));
        assert!(differences("a\n", "a\na\n").is_some());
    }
}
