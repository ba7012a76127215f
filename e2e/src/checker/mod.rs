//! The checker: the events of a run in, what a broker must not have done out.
//!
//! Core NATS delivers at most once. A message may be lost when a connection on its way was lost:
//! the publisher's, the subscriber's, or, while the network between servers is cut, a route's.
//! Nothing else is allowed: what two clients exchange whose connections held must arrive, once,
//! in the order in which one publisher sent it to one subject. Owns these rules. Never touches a
//! network and never reads a clock.

pub mod event;
mod history;
mod report;

pub use report::{Finding, Gap, Kind, Report, Tally};

use std::collections::{BTreeMap, BTreeSet};

use event::{Event, Micros};
use history::{Arrivals, History, RequestEnd, Stream};

/// What is allowed, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// After a connection was made, interest still travels between servers; nobody tells a client when it has.
    pub settle: Micros,
    /// How long a lost connection may go unnoticed: a client sends PING every 2 s and gives up after two.
    pub unnoticed: Micros,
    /// How long after a cut network is whole again routes may still be missing.
    pub rejoin: Micros,
    /// How long a client may take to another server.
    pub reconnect: Micros,
    /// How long after a change a list of servers may still be the old one.
    pub list: Micros,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            settle: 2_000_000,
            unnoticed: 10_000_000,
            rejoin: 10_000_000,
            reconnect: 10_000_000,
            list: 10_000_000,
        }
    }
}

/// Judges a run.
#[must_use]
pub fn check(events: Vec<Event>, rules: &Rules) -> Report {
    let history = History::new(events);
    let mut report = Report::default();
    report.unwritten = history.unwritten;
    for ((client, filter, queue), since) in &history.subscriptions {
        if queue.is_none() {
            subscription(&history, rules, client, filter, *since, &mut report);
        }
    }
    queue_groups(&history, rules, &mut report);
    requests(&history, rules, &mut report);
    reconnects(&history, rules, &mut report);
    lists(&history, rules, &mut report);
    report.findings.sort_by_key(|finding| finding.time);
    for ((_, _), times) in &history.published {
        report.published.extend(times.iter().flatten());
    }
    report.published.sort_unstable();
    report
}

fn matches(filter: &str, subject: &str) -> bool {
    match filter.strip_suffix('>') {
        Some(head) => subject.starts_with(head),
        None => filter == subject,
    }
}

/// One plain subscription: each message once, in order, all of them.
fn subscription(
    history: &History,
    rules: &Rules,
    client: &str,
    filter: &str,
    since: Micros,
    report: &mut Report,
) {
    let nothing = BTreeMap::new();
    let received = history.received.get(&(client.to_owned(), filter.to_owned())).unwrap_or(&nothing);
    // Nothing is owed to a client that is no more.
    let until = history.died(client).map_or(Micros::MAX, |died| died + rules.unnoticed);
    for (stream, times) in history.published.iter().filter(|((_, subject), _)| matches(filter, subject)) {
        let arrivals = received.get(stream).map_or(&[][..], Vec::as_slice);
        // What was under way when its publisher changed its server, or when the way was cut, might also have been lost.
        let may_be_late = |first, last| {
            moved(history, rules, stream, first, last) || history.was_cut(rules, &stream.0, client, first)
        };
        order(client, stream, times, arrivals, may_be_late, report);
        let mut seen = vec![0u32; times.len()];
        for (time, number) in arrivals {
            let Some(count) = usize::try_from(*number).ok().and_then(|number| seen.get_mut(number)) else {
                report.flag(*time, Kind::Unknown, || format!("{client}: {} {number}", stream.1));
                continue;
            };
            *count += 1;
            if *count > 1 {
                report.flag(*time, Kind::Duplicated, || {
                    format!("{client} got {} {number} of {} {count} times", stream.1, stream.0)
                });
            }
        }
        for (number, published) in times.iter().enumerate() {
            let Some(published) = *published else { continue };
            if seen[number] > 0 || published < since + rules.settle || published > until {
                continue;
            }
            let excused = excused(history, rules, &stream.0, client, published);
            report.add(published, Kind::Lost, excused, || {
                format!("{client} never got {} {number} of {}", stream.1, stream.0)
            });
        }
        report.received += arrivals.len() as u64;
        for pair in arrivals.windows(2) {
            let [(before, _), (after, _)] = pair else { continue };
            report.gap(*before, *after, &stream.0, client);
        }
    }
    for (stream, arrivals) in received {
        if !history.published.contains_key(stream) {
            let time = arrivals.first().map_or(0, |(time, _)| *time);
            report.flag(time, Kind::Unknown, || format!("{client}: {} of {}", stream.1, stream.0));
        }
    }
}

/// Whether something on the way between two clients was lost around a moment, so that a message
/// of that moment may be lost too.
fn excused(history: &History, rules: &Rules, from: &str, to: &str, time: Micros) -> bool {
    let (begin, end) = (time.saturating_sub(rules.settle), time + rules.unnoticed);
    !history.steady(from, begin, end)
        || !history.steady(to, begin, end)
        || history.was_cut(rules, from, to, time)
}

/// Whether a stream's publisher changed its server between two moments, or noticed soon after.
fn moved(history: &History, rules: &Rules, stream: &Stream, first: Micros, last: Micros) -> bool {
    !history.steady(&stream.0, first, last + rules.unnoticed)
}

/// Numbers of one stream must rise at each receiver, unless a message published at one moment may come after one of a later
/// moment by what `may_be_late` says of both.
fn order(
    client: &str,
    stream: &Stream,
    times: &[Option<Micros>],
    arrivals: &[(Micros, u64)],
    may_be_late: impl Fn(Micros, Micros) -> bool,
    report: &mut Report,
) {
    let published = |number: u64| {
        usize::try_from(number).ok().and_then(|number| times.get(number).copied().flatten()).unwrap_or(0)
    };
    let mut highest = None;
    for (time, number) in arrivals {
        match highest {
            Some(before) if before > *number => {
                let (first, last) = (published(*number), published(before));
                report.add(*time, Kind::Reordered, may_be_late(first, last), || {
                    format!("{client} got {} {number} of {} after {before}", stream.1, stream.0)
                });
            }
            Some(before) if before == *number => {} // twice: counted as that
            _ => highest = Some(*number),
        }
    }
}

/// Queue groups: each message to exactly one member.
fn queue_groups(history: &History, rules: &Rules, report: &mut Report) {
    let mut groups: BTreeMap<(&str, &str), BTreeMap<&str, Micros>> = BTreeMap::new();
    for ((client, filter, queue), since) in &history.subscriptions {
        if let Some(queue) = queue {
            groups.entry((filter, queue)).or_default().insert(client, *since);
        }
    }
    for ((filter, queue), members) in groups {
        let begin = members.values().min().copied().unwrap_or(0) + rules.settle;
        for (stream, times) in history.published.iter().filter(|((_, subject), _)| matches(filter, subject)) {
            let mut seen = vec![0u32; times.len()];
            // Any member may have been the one that was drawn, also one that servers still took to be behind a cut. Who
            // gets a message after that one could not, gets it late.
            let excused_for_any = |time| {
                let mut members = members.keys();
                members.any(|member| {
                    excused(history, rules, &stream.0, member, time) || history.haunts(rules, member, time)
                })
            };
            for member in members.keys() {
                let key = ((*member).to_owned(), filter.to_owned());
                let arrivals: Option<&Arrivals> =
                    history.received.get(&key).and_then(|streams| streams.get(stream));
                let arrivals = arrivals.map_or(&[][..], Vec::as_slice);
                let may_be_late =
                    |first, last| moved(history, rules, stream, first, last) || excused_for_any(first);
                order(member, stream, times, arrivals, may_be_late, report);
                report.received += arrivals.len() as u64;
                for (time, number) in arrivals {
                    let Some(count) = usize::try_from(*number).ok().and_then(|number| seen.get_mut(number))
                    else {
                        report.flag(*time, Kind::Unknown, || format!("{member}: {} {number}", stream.1));
                        continue;
                    };
                    *count += 1;
                    if *count > 1 {
                        report.flag(*time, Kind::Duplicated, || {
                            format!(
                                "queue group {queue}: {} {number} of {} {count} times",
                                stream.1, stream.0
                            )
                        });
                    }
                }
            }
            for (number, published) in times.iter().enumerate() {
                let Some(published) = *published else { continue };
                if seen[number] > 0 || published < begin {
                    continue;
                }
                report.add(published, Kind::Lost, excused_for_any(published), || {
                    format!("queue group {queue}: nobody got {} {number} of {}", stream.1, stream.0)
                });
            }
        }
    }
}

/// Requests are answered once.
fn requests(history: &History, rules: &Rules, report: &mut Report) {
    let nobody = BTreeSet::new();
    for ((client, number), request) in &history.requests {
        report.requests += 1;
        if request.answers > 1 {
            report.flag(request.time, Kind::Duplicated, || {
                format!("request {number} of {client} was answered {} times", request.answers)
            });
        }
        if request.answers > 0 {
            continue;
        }
        let responders = history.responders.get(&request.subject).unwrap_or(&nobody);
        let excused = |responder: &String| {
            excused(history, rules, client, responder, request.time)
                || history.was_cut(rules, responder, client, request.time)
                || history.haunts(rules, responder, request.time)
        };
        let (begin, end) = (request.time.saturating_sub(rules.settle), request.time + rules.unnoticed);
        let own = !history.steady(client, begin, end);
        match request.end {
            Some((_, RequestEnd::Refused)) => {
                let excused = own || responders.iter().all(excused);
                report.add(request.time, Kind::Refused, excused, || {
                    format!("request {number} of {client} to {}: no responders", request.subject)
                });
            }
            // A client that was killed with a request open is not steady.
            Some((_, RequestEnd::Unanswered)) | None if request.end.is_some() || end < history.end => {
                let excused = own || responders.iter().any(excused);
                report.add(request.time, Kind::Unanswered, excused, || {
                    format!("request {number} of {client} to {}: no answer", request.subject)
                });
            }
            _ => {}
        }
    }
}

/// Who lost its connection has another in time.
fn reconnects(history: &History, rules: &Rules, report: &mut Report) {
    for (client, life) in &history.lives {
        for lost in &life.losses {
            let next = life.connections.iter().find(|connection| connection.from >= *lost);
            let alive_until =
                if life.last + rules.reconnect >= history.end { history.end } else { life.last };
            let (back, took) = match next {
                Some(connection) => (true, connection.from - lost),
                None if life.closed.is_some() => continue,
                None => (false, alive_until.saturating_sub(*lost)),
            };
            if back {
                report.reconnects.push((*lost, took));
            }
            if took > rules.reconnect {
                let excused = history.was_cut_off(rules, client, *lost, lost + took);
                report.add(*lost, Kind::SlowReconnect, excused, || {
                    format!("{client} had no connection for {:.1} s", took as f64 / 1e6)
                });
            }
        }
    }
}

/// What connected clients are told of the servers is true soon after each change.
fn lists(history: &History, rules: &Rules, report: &mut Report) {
    for (changed, until, truth) in &history.truths {
        let Some(truth) = truth else { continue };
        // Later nobody looked, or it was different.
        let until = *until;
        let due = changed + rules.list;
        if due >= until {
            continue;
        }
        for (client, lists) in &history.lists {
            let told = lists.partition_point(|(time, _)| *time <= due);
            let current = told.checked_sub(1).and_then(|at| lists.get(at));
            let later = lists.iter().skip(told).take_while(|(time, _)| *time < until);
            let judged = current.map(|(_, list)| (due, list)).into_iter();
            for (time, list) in judged.chain(later.map(|(time, list)| (*time, list))) {
                if list == truth || !history.steady(client, time, time) {
                    continue;
                }
                let cut = history.was_cut_off(rules, client, *changed, time);
                report.add(time, Kind::WrongList, cut, || {
                    format!(
                        "{client} was told {list:?} {:.1} s after it was {truth:?}",
                        (time - changed) as f64 / 1e6
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
