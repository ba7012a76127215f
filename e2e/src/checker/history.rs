//! The events of a run, ordered by what a question needs: connections by client, messages by
//! stream.
//!
//! Owns who was connected when, and which paths were cut. Never judges.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Rules;
use super::event::{Event, Micros, What};

/// How long before the end of everything a client's last line may be for it to have lived to the end.
const QUIET_MICROS: Micros = 5_000_000;

/// One stretch of a client's connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub from: Micros,
    /// `None`: to the end.
    pub to: Option<Micros>,
    pub server: String,
}

/// One client's life.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    pub connections: Vec<Connection>,
    /// When it noticed a loss of its connection.
    pub losses: Vec<Micros>,
    pub closed: Option<Micros>,
    pub last: Micros,
}

/// Messages of one publisher to one subject: publish times by number.
pub(super) type Stream = (String, String);

/// A subscription's messages from one stream, in the order in which they came.
pub(super) type Arrivals = Vec<(Micros, u64)>;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub time: Micros,
    pub subject: String,
    /// Number of answers, and what else came of it.
    pub answers: u32,
    pub end: Option<(Micros, RequestEnd)>,
}

/// How a request ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestEnd {
    Unanswered,
    Refused,
}

/// A time during which some names could not be reached from the others.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub from: Micros,
    pub to: Micros,
    pub names: BTreeSet<String>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct History {
    pub end: Micros,
    pub lives: BTreeMap<String, Life>,
    pub published: BTreeMap<Stream, Vec<Option<Micros>>>,
    /// `(client, filter, queue)` with the time of confirmation; a client that subscribes anew after a restart keeps the first.
    pub subscriptions: BTreeMap<(String, String, Option<String>), Micros>,
    /// By client and filter, then stream.
    pub received: HashMap<(String, String), BTreeMap<Stream, Arrivals>>,
    pub responders: BTreeMap<String, BTreeSet<String>>,
    pub requests: BTreeMap<(String, u64), Request>,
    pub lists: BTreeMap<String, Vec<(Micros, BTreeSet<String>)>>,
    /// From when to when they were seen to be the same.
    pub truths: Vec<(Micros, Micros, Option<BTreeSet<String>>)>,
    pub cuts: Vec<Cut>,
    /// Events that are missing.
    pub unwritten: u64,
}

impl History {
    pub(super) fn new(mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| event.time);
        let mut history = Self { end: events.last().map_or(0, |event| event.time), ..Self::default() };
        for event in events {
            history.add(event);
        }
        let end = history.end;
        for cut in &mut history.cuts {
            cut.to = cut.to.min(end);
        }
        history
    }

    fn add(&mut self, event: Event) {
        let time = event.time;
        match event.what {
            What::Connected { client, server } => {
                let life = self.life(client, time);
                if let Some(open) = life.connections.last_mut().filter(|open| open.to.is_none()) {
                    if open.server == server {
                        return; // a library may tell the same twice
                    }
                    open.to = Some(time);
                }
                life.connections.push(Connection { from: time, to: None, server });
            }
            What::Disconnected { client } => {
                let life = self.life(client, time);
                life.losses.push(time);
                if let Some(open) = life.connections.last_mut().filter(|open| open.to.is_none()) {
                    open.to = Some(time);
                }
            }
            What::Closed { client } => self.life(client, time).closed = Some(time),
            What::Subscribed { client, filter, queue } => {
                self.life(client.clone(), time);
                self.subscriptions.entry((client, filter, queue)).or_insert(time);
            }
            What::Published { client, subject, number } => {
                self.life(client.clone(), time);
                let times = self.published.entry((client, subject)).or_default();
                let index = usize::try_from(number).unwrap_or(usize::MAX);
                // Numbers are counted up by one; a hole of millions is a damaged line, not a message.
                if index < times.len() + 1_000_000 {
                    times.resize(times.len().max(index + 1), None);
                    times[index] = Some(time);
                }
            }
            What::Received { client, filter, subject, publisher, number } => {
                self.life(client.clone(), time);
                let streams = self.received.entry((client, filter)).or_default();
                streams.entry((publisher, subject)).or_default().push((time, number));
            }
            What::Serves { client, subject } => {
                self.life(client.clone(), time);
                self.responders.entry(subject).or_default().insert(client);
            }
            What::Requested { client, subject, number } => {
                self.life(client.clone(), time);
                self.requests.insert((client, number), Request { time, subject, answers: 0, end: None });
            }
            What::Answered { client, number } => {
                self.life(client.clone(), time);
                if let Some(request) = self.requests.get_mut(&(client, number)) {
                    request.answers += 1;
                }
            }
            What::Unanswered { client, number } => self.ended(client, number, time, RequestEnd::Unanswered),
            What::Refused { client, number } => self.ended(client, number, time, RequestEnd::Refused),
            What::Servers { client, servers } => {
                self.life(client.clone(), time);
                self.lists.entry(client).or_default().push((time, servers));
            }
            What::Truth { servers } => match self.truths.last_mut() {
                Some((_, last, same)) if *same == servers => *last = time,
                _ => self.truths.push((time, time, servers)),
            },
            What::Cut { names } => self.cuts.push(Cut { from: time, to: Micros::MAX, names }),
            What::Healed => {
                for cut in self.cuts.iter_mut().filter(|cut| cut.to == Micros::MAX) {
                    cut.to = time;
                }
            }
            What::Unwritten { lines } => self.unwritten += lines,
        }
    }

    fn ended(&mut self, client: String, number: u64, time: Micros, end: RequestEnd) {
        self.life(client.clone(), time);
        if let Some(request) = self.requests.get_mut(&(client, number)) {
            request.end = Some((time, end));
        }
    }

    fn life(&mut self, client: String, time: Micros) -> &mut Life {
        let life = self.lives.entry(client).or_default();
        life.last = time;
        life
    }

    /// When a client that was killed noted its last event. One that comes back after that has another name.
    pub(super) fn died(&self, client: &str) -> Option<Micros> {
        let life = self.lives.get(client)?;
        (life.closed.is_none() && life.last + QUIET_MICROS < self.end).then_some(life.last)
    }

    /// Whether one connection of the client held all the time between two moments.
    pub(super) fn steady(&self, client: &str, from: Micros, to: Micros) -> bool {
        let Some(life) = self.lives.get(client) else { return false };
        let died = self.died(client);
        let end = died.unwrap_or(self.end);
        let to = if died.is_none() { to.min(self.end) } else { to };
        let at = life.connections.partition_point(|connection| connection.from <= from);
        let Some(connection) = at.checked_sub(1).and_then(|at| life.connections.get(at)) else {
            return false;
        };
        connection.to.unwrap_or(end) >= to
    }

    /// The server of a client's connection at a moment, or of the last one before it.
    fn server(&self, client: &str, time: Micros) -> Option<&str> {
        let connections = &self.lives.get(client)?.connections;
        let at = connections.partition_point(|connection| connection.from <= time);
        Some(&connections.get(at.checked_sub(1)?)?.server)
    }

    /// Whether the way between two clients crossed a cut around a moment.
    pub(super) fn was_cut(&self, rules: &Rules, from: &str, to: &str, time: Micros) -> bool {
        self.cuts.iter().any(|cut| {
            let during =
                cut.from.saturating_sub(rules.settle) <= time && time <= cut.to.saturating_add(rules.rejoin);
            let within = |name: Option<&str>| name.is_some_and(|name| cut.names.contains(name));
            let sides = [
                within(Some(from)),
                within(self.server(from, time)),
                within(self.server(to, time)),
                within(Some(to)),
            ];
            during && sides.iter().any(|side| *side != sides[0])
        })
    }

    /// Whether servers may have taken a client for one behind a cut around a moment: it was there when the cut began, and
    /// wherever it went since, its former server cannot tell them.
    pub(super) fn haunts(&self, rules: &Rules, client: &str, time: Micros) -> bool {
        self.cuts.iter().any(|cut| {
            let during =
                cut.from.saturating_sub(rules.settle) <= time && time <= cut.to.saturating_add(rules.rejoin);
            during && self.server(client, cut.from).is_some_and(|server| cut.names.contains(server))
        })
    }

    /// Whether a client itself was behind a cut in a stretch of time.
    pub(super) fn was_cut_off(&self, rules: &Rules, client: &str, from: Micros, to: Micros) -> bool {
        self.cuts.iter().any(|cut| {
            cut.names.contains(client) && cut.from <= to && from <= cut.to.saturating_add(rules.rejoin)
        })
    }
}
