//! What the checker found, for a whole run or for a stretch of it.

use super::event::Micros;

/// Texts kept of each kind; the rest is only counted.
const EXAMPLES_MAX: usize = 20;
/// Gaps that are kept; shorter ones are no news.
const GAP_MICROS_MIN: Micros = 50_000;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A message never came.
    Lost,
    /// A message came twice to one subscription, or to two members of a queue group.
    Duplicated,
    /// A message came after one that its publisher sent later to the same subject.
    Reordered,
    /// A message that nobody published.
    Unknown,
    /// A request without an answer.
    Unanswered,
    /// A request that "nobody serves", though somebody does.
    Refused,
    /// A client without a connection for too long.
    SlowReconnect,
    /// An INFO that names other servers than there are.
    WrongList,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When the message was published, or the other thing happened.
    pub time: Micros,
    /// What.
    pub kind: Kind,
    /// At most once allows it: a connection on the way was lost, or the network was cut.
    pub allowed: bool,
    /// In words; empty for what is allowed and for all but the first of a kind.
    pub text: String,
}

/// A time in which a subscriber got nothing from a publisher that sends all the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The last message before.
    pub from: Micros,
    /// The first one after.
    pub to: Micros,
    /// Who sent.
    pub publisher: String,
    /// Who got nothing.
    pub subscriber: String,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Report {
    /// By time.
    pub findings: Vec<Finding>,
    /// Times of all published messages, rising.
    pub published: Vec<Micros>,
    /// How many messages came to subscriptions.
    pub received: u64,
    /// How many requests were made.
    pub requests: u64,
    /// Lost connections: when, and how long until the next, in microseconds.
    pub reconnects: Vec<(Micros, Micros)>,
    /// Gaps of 50 ms and more.
    pub gaps: Vec<Gap>,
    /// Events that clients could not note: with any, nothing else here counts.
    pub unwritten: u64,
    texts: std::collections::BTreeMap<Kind, usize>,
}

/// Numbers of one stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages published.
    pub published: u64,
    /// Lost, though every connection on the way held.
    pub lost: u64,
    /// Lost with a connection.
    pub lost_allowed: u64,
    /// Came twice.
    pub duplicated: u64,
    /// Came in another order.
    pub reordered: u64,
    /// Came in another order after the publisher had moved to another server.
    pub reordered_allowed: u64,
    /// Requests without answer, or refused, though every connection held.
    pub requests_failed: u64,
    /// The same with a connection lost.
    pub requests_allowed: u64,
    /// Lists of servers that were wrong for too long.
    pub lists_wrong: u64,
    /// Clients that were without a connection for too long.
    pub reconnects_slow: u64,
    /// Messages that nobody sent.
    pub unknown: u64,
    /// Lost connections.
    pub reconnects: u64,
    /// The longest time without a connection, in microseconds.
    pub reconnect_worst: Micros,
}

impl Tally {
    /// How much there is that no rule allows.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.reordered
            + self.requests_failed
            + self.lists_wrong
            + self.reconnects_slow
            + self.unknown
    }
}

impl Report {
    pub(super) fn flag(&mut self, time: Micros, kind: Kind, text: impl FnOnce() -> String) {
        self.add(time, kind, false, text);
    }

    pub(super) fn add(&mut self, time: Micros, kind: Kind, allowed: bool, text: impl FnOnce() -> String) {
        let mut words = String::new();
        if !allowed {
            let shown = self.texts.entry(kind).or_default();
            *shown += 1;
            if *shown <= EXAMPLES_MAX {
                words = text();
            }
        }
        self.findings.push(Finding { time, kind, allowed, text: words });
    }

    pub(super) fn gap(&mut self, from: Micros, to: Micros, publisher: &str, subscriber: &str) {
        if to.saturating_sub(from) >= GAP_MICROS_MIN {
            self.gaps.push(Gap { from, to, publisher: publisher.into(), subscriber: subscriber.into() });
        }
    }

    /// What no rule allows.
    pub fn violations(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.allowed)
    }

    /// The numbers between two moments; `to` itself is outside.
    #[must_use]
    pub fn tally(&self, from: Micros, to: Micros) -> Tally {
        let within = |time: Micros| from <= time && time < to;
        let before = |moment| self.published.partition_point(|time| *time < moment);
        let mut tally =
            Tally { published: before(to).saturating_sub(before(from)) as u64, ..Tally::default() };
        for finding in self.findings.iter().filter(|finding| within(finding.time)) {
            let count = match (finding.kind, finding.allowed) {
                (Kind::Lost, false) => &mut tally.lost,
                (Kind::Lost, true) => &mut tally.lost_allowed,
                (Kind::Duplicated, _) => &mut tally.duplicated,
                (Kind::Reordered, false) => &mut tally.reordered,
                (Kind::Reordered, true) => &mut tally.reordered_allowed,
                (Kind::Unanswered | Kind::Refused, false) => &mut tally.requests_failed,
                (Kind::Unanswered | Kind::Refused, true) => &mut tally.requests_allowed,
                (Kind::WrongList, false) => &mut tally.lists_wrong,
                (Kind::SlowReconnect, false) => &mut tally.reconnects_slow,
                (Kind::Unknown, _) => &mut tally.unknown,
                (Kind::WrongList | Kind::SlowReconnect, true) => continue,
            };
            *count += 1;
        }
        for (_, took) in self.reconnects.iter().filter(|(time, _)| within(*time)) {
            tally.reconnects += 1;
            tally.reconnect_worst = tally.reconnect_worst.max(*took);
        }
        tally
    }

    /// The longest gap that overlaps a stretch of time, among publishers and subscribers that
    /// `counts` accepts, in microseconds.
    #[must_use]
    pub fn worst_gap(&self, from: Micros, to: Micros, counts: impl Fn(&str) -> bool) -> Micros {
        let overlapping = self.gaps.iter().filter(|gap| gap.from < to && from < gap.to);
        let counted = overlapping.filter(|gap| counts(&gap.publisher) && counts(&gap.subscriber));
        counted.map(|gap| gap.to - gap.from).max().unwrap_or(0)
    }
}
