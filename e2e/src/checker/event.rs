//! What clients and the run itself note, one line an event.
//!
//! Owns the form of the lines: microseconds since 1970, the kind, its words, separated by
//! blanks. Clients in every language write them; all read the same clock, because the
//! clusters' nodes are namespaces of one machine. Never judges.

use std::collections::BTreeSet;
use std::fmt;

/// Microseconds since 1970.
pub type Micros = u64;

/// Something that happened at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds since 1970.
    pub time: Micros,
    /// What.
    pub what: What,
}

/// What can happen. `client` is a client's name in the whole run; a publisher is a client.
#[allow(missing_docs, reason = "the fields are the words of the line, named by each variant's comment")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A connection stands, to the server of that name.
    Connected { client: String, server: String },
    /// The client's library noticed that it is gone.
    Disconnected { client: String },
    /// The client ended as it was meant to.
    Closed { client: String },
    /// A subscription that the server has confirmed. In a queue group each message goes to
    /// one member.
    Subscribed { client: String, filter: String, queue: Option<String> },
    /// The client's `number`th message to a subject, counted from 0.
    Published { client: String, subject: String, number: u64 },
    /// A message came to the client's subscription to `filter`.
    Received { client: String, filter: String, subject: String, publisher: String, number: u64 },
    /// The client answers requests to a subject.
    Serves { client: String, subject: String },
    /// The client's `number`th request.
    Requested { client: String, subject: String, number: u64 },
    /// An answer to it came.
    Answered { client: String, number: u64 },
    /// None came before the client's patience ended.
    Unanswered { client: String, number: u64 },
    /// The server said that nobody serves the subject.
    Refused { client: String, number: u64 },
    /// The servers that an INFO named to a listening connection.
    Servers { client: String, servers: BTreeSet<String> },
    /// The servers there really are; `None`: in a state in which nobody can say.
    Truth { servers: Option<BTreeSet<String>> },
    /// From here on these servers and clients are on one side of a cut network, all others on the other.
    Cut { names: BTreeSet<String> },
    /// No network is cut any more.
    Healed,
    /// So many events are missing here, for want of room: what the checker would say is worth nothing.
    Unwritten { lines: u64 },
}

impl Event {
    /// Reads a line; `None` when it is none of ours, or was cut off.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let time = words.next()?.parse().ok()?;
        let kind = words.next()?;
        let words: Vec<&str> = words.collect();
        let what = match (kind, words.as_slice()) {
            ("connected", [client, server]) => {
                What::Connected { client: (*client).into(), server: (*server).into() }
            }
            ("disconnected", [client]) => What::Disconnected { client: (*client).into() },
            ("closed", [client]) => What::Closed { client: (*client).into() },
            ("subscribed", [client, filter, queue @ ..]) => What::Subscribed {
                client: (*client).into(),
                filter: (*filter).into(),
                queue: queue.first().map(|queue| (*queue).to_owned()),
            },
            ("published", [client, subject, number]) => What::Published {
                client: (*client).into(),
                subject: (*subject).into(),
                number: number.parse().ok()?,
            },
            ("received", [client, filter, subject, publisher, number]) => What::Received {
                client: (*client).into(),
                filter: (*filter).into(),
                subject: (*subject).into(),
                publisher: (*publisher).into(),
                number: number.parse().ok()?,
            },
            ("serves", [client, subject]) => {
                What::Serves { client: (*client).into(), subject: (*subject).into() }
            }
            ("requested", [client, subject, number]) => What::Requested {
                client: (*client).into(),
                subject: (*subject).into(),
                number: number.parse().ok()?,
            },
            ("answered", [client, number]) => {
                What::Answered { client: (*client).into(), number: number.parse().ok()? }
            }
            ("unanswered", [client, number]) => {
                What::Unanswered { client: (*client).into(), number: number.parse().ok()? }
            }
            ("refused", [client, number]) => {
                What::Refused { client: (*client).into(), number: number.parse().ok()? }
            }
            ("servers", [client, servers]) => {
                What::Servers { client: (*client).into(), servers: names(servers) }
            }
            ("truth", ["?"]) => What::Truth { servers: None },
            ("truth", [servers]) => What::Truth { servers: Some(names(servers)) },
            ("cut", [cut]) => What::Cut { names: names(cut) },
            ("healed", []) => What::Healed,
            ("unwritten", [lines]) => What::Unwritten { lines: lines.parse().ok()? },
            _ => return None,
        };
        Some(Self { time, what })
    }
}

/// Names separated by commas; `-` for none.
fn names(word: &str) -> BTreeSet<String> {
    word.split(',').filter(|name| !name.is_empty() && *name != "-").map(Into::into).collect()
}

fn joined(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "-".into();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Event {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} ", self.time)?;
        match &self.what {
            What::Connected { client, server } => write!(to, "connected {client} {server}"),
            What::Disconnected { client } => write!(to, "disconnected {client}"),
            What::Closed { client } => write!(to, "closed {client}"),
            What::Subscribed { client, filter, queue: None } => write!(to, "subscribed {client} {filter}"),
            What::Subscribed { client, filter, queue: Some(queue) } => {
                write!(to, "subscribed {client} {filter} {queue}")
            }
            What::Published { client, subject, number } => {
                write!(to, "published {client} {subject} {number}")
            }
            What::Received { client, filter, subject, publisher, number } => {
                write!(to, "received {client} {filter} {subject} {publisher} {number}")
            }
            What::Serves { client, subject } => write!(to, "serves {client} {subject}"),
            What::Requested { client, subject, number } => {
                write!(to, "requested {client} {subject} {number}")
            }
            What::Answered { client, number } => write!(to, "answered {client} {number}"),
            What::Unanswered { client, number } => write!(to, "unanswered {client} {number}"),
            What::Refused { client, number } => write!(to, "refused {client} {number}"),
            What::Servers { client, servers } => write!(to, "servers {client} {}", joined(servers)),
            What::Truth { servers: None } => write!(to, "truth ?"),
            What::Truth { servers: Some(servers) } => write!(to, "truth {}", joined(servers)),
            What::Cut { names } => write!(to, "cut {}", joined(names)),
            What::Healed => write!(to, "healed"),
            What::Unwritten { lines } => write!(to, "unwritten {lines}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_the_event_that_wrote_it() {
        let lines = [
            "1 connected a s-0",
            "2 disconnected a",
            "3 closed a",
            "4 subscribed a fan.>",
            "5 subscribed a work.> workers",
            "6 published a fan.a 7",
            "7 received b fan.> fan.a a 7",
            "8 serves b serve.echo",
            "9 requested a serve.echo 1",
            "10 answered a 1",
            "11 unanswered a 2",
            "12 refused a 3",
            "13 servers w 10.0.0.1:4222,10.0.0.2:4222",
            "14 truth ?",
            "15 truth 10.0.0.1:4222",
            "16 truth -",
            "17 cut a,s-0",
            "18 healed",
            "19 unwritten 3",
        ];
        for line in lines {
            let event = Event::parse(line).unwrap_or_else(|| panic!("{line} is not read"));
            assert_eq!(event.to_string(), line);
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_no_event() {
        for line in ["", "1", "1 published a fan.a", "1 published a fan.a x", "x healed", "1 nonsense"] {
            assert_eq!(Event::parse(line), None, "{line:?}");
        }
    }
}
