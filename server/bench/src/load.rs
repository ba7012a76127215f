//! Owns streaming load: any number of connections that publish prebuilt blocks and count what they
//! receive, driven by one thread. Verifies that what was published arrived, exactly.
//! Never measures the server itself: the caller passes in how its cost is read.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::Error;
use crate::block::Block;
use crate::frames::FrameCounter;
use crate::link::{Endpoint, Transport};
use crate::process::{Stopwatch, Usage};
use crate::traffic::{Delivery, Flow, Reads, Timing, Traffic};

/// One write takes at most this.
const WRITE_BYTES_MAX: usize = 128 * 1024;
/// One read takes at most this.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Messages under way before publishers wait, whatever the number of readers.
const WINDOW_BYTES: u64 = 16 << 20;
/// The same for each reader: large fan-outs need more.
const WINDOW_BYTES_EACH: u64 = 128 << 10;
/// How long interest may take to cross a route.
const ROUTE_SECONDS_MAX: u64 = 10;

struct Link {
    transport: Transport,
    counter: FrameCounter,
    group: usize,
    reads: Reads,
    subscribed: bool,
    block: Option<Block>,
    /// Bytes of the block sent so far, in all.
    sent_bytes: u64,
    /// PONGs and PINGs to be sent between two messages.
    outbox: Vec<u8>,
    outbox_sent: usize,
    read_queued: bool,
    write_queued: bool,
    /// Bytes read, for readers with a limit.
    read_bytes: u64,
    /// The other side has ended the stream, though bytes may be left to read.
    ending: bool,
    closed: bool,
}

impl Link {
    fn message_bytes(&self) -> u64 {
        self.block.as_ref().map_or(1, |b| b.message_bytes() as u64)
    }

    fn sent(&self) -> u64 {
        self.sent_bytes / self.message_bytes()
    }

    /// Bytes of an unfinished message still to be sent.
    fn unfinished(&self) -> u64 {
        match self.sent_bytes % self.message_bytes() {
            0 => 0,
            part => self.message_bytes() - part,
        }
    }

    fn counted(&self) -> bool {
        self.subscribed && self.reads == Reads::AtOnce
    }

    fn name(&self, index: usize) -> String {
        let kind = match (self.block.is_some(), self.subscribed) {
            (true, true) => "publisher and subscriber",
            (true, false) => "publisher",
            (false, _) => "subscriber",
        };
        format!("{kind} {index}")
    }
}

/// A group's bookkeeping.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    delivery: Delivery,
    members: u64,
    received: u64,
}

/// The load under way.
pub struct Load {
    poll: Poll,
    events: Events,
    links: Vec<Link>,
    groups: Vec<Group>,
    to_read: Vec<usize>,
    to_write: Vec<usize>,
    limited: Vec<usize>,
    scratch: Vec<u8>,
    /// Deliveries owed for what was published.
    expected: u64,
    received: u64,
    published: u64,
    /// Deliveries that may be under way.
    window: u64,
    publishing: bool,
    started: Instant,
    /// Rises with whatever moves.
    progress: u64,
    patience: Duration,
}

impl Load {
    /// Connects and subscribes all parties.
    ///
    /// # Errors
    /// When a connection or a subscription is refused.
    pub fn open(endpoints: &[Endpoint], traffic: &Traffic) -> Result<Self, Error> {
        let poll = Poll::new().map_err(|source| Error::io("opening epoll", source))?;
        let group_count = traffic.parties.iter().map(|p| p.group + 1).max();
        let mut groups = vec![Group::default(); group_count.unwrap_or(0)];
        for (group, delivery) in groups.iter_mut().zip(&traffic.deliveries) {
            group.delivery = *delivery;
        }
        let mut links = Vec::with_capacity(traffic.parties.len());
        // Subscribers first: a publisher's server must know all interest.
        for (index, party) in traffic.parties.iter().enumerate() {
            let Some(endpoint) = endpoints.get(party.endpoint) else {
                return Err(Error::Unsupported("this scenario needs more servers"));
            };
            let mut connection = endpoint.connect(traffic.spread.then_some(index))?;
            if !party.subscribes.is_empty() {
                connection.subscribe(&party.subscribes)?;
            }
            let link = Link {
                transport: connection.into_transport()?,
                counter: FrameCounter::default(),
                group: party.group,
                reads: party.reads,
                subscribed: !party.subscribes.is_empty(),
                block: party.publishes.clone(),
                sent_bytes: 0,
                outbox: Vec::new(),
                outbox_sent: 0,
                read_queued: false,
                write_queued: false,
                read_bytes: 0,
                ending: false,
                closed: false,
            };
            if let (true, Some(group)) = (link.counted(), groups.get_mut(party.group)) {
                group.members += 1;
            }
            links.push(link);
        }
        settle(endpoints)?;
        let mut load = Self {
            poll,
            events: Events::with_capacity(1024),
            limited: Vec::new(),
            to_read: Vec::new(),
            to_write: Vec::new(),
            scratch: vec![0; READ_BYTES_MAX],
            expected: 0,
            received: 0,
            published: 0,
            window: u64::MAX,
            publishing: false,
            progress: 0,
            patience: Duration::MAX,
            started: Instant::now(),
            links,
            groups,
        };
        if !traffic.unbounded {
            load.window = load.window_for();
        }
        load.register()?;
        Ok(load)
    }

    /// Deliveries under way that fill the window.
    fn window_for(&self) -> u64 {
        let readers = self.links.iter().filter(|link| link.counted()).count() as u64;
        let bytes = WINDOW_BYTES.max(readers * WINDOW_BYTES_EACH);
        let blocks = self.links.iter().filter_map(|link| link.block.as_ref());
        let message_bytes = blocks.map(Block::message_bytes).max().unwrap_or(1) as u64;
        (bytes / message_bytes).max(4)
    }

    fn register(&mut self) -> Result<(), Error> {
        for (index, link) in self.links.iter_mut().enumerate() {
            match link.reads {
                Reads::Never => continue,
                Reads::BytesPerSecond(_) => self.limited.push(index),
                Reads::AtOnce => {}
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(link.transport.source(), Token(index), interest)
                .map_err(|source| Error::io("registering with epoll", source))?;
        }
        Ok(())
    }

    /// Publishes for the time given, then finishes and verifies.
    ///
    /// # Errors
    /// When anything was lost, doubled, refused or cut off that should not have been.
    pub fn run(mut self, timing: Timing, usage: &dyn Fn() -> Usage) -> Result<Flow, Error> {
        self.publishing = true;
        self.patience = timing.patience;
        self.started = Instant::now();
        self.queue_publishers();
        self.advance(timing.warm)?;
        let watch = Stopwatch::start(usage);
        let (published, received) = (self.published, self.received);
        self.advance(timing.measured)?;
        let (published, delivered) = (self.published - published, self.received - received);
        let units = if delivered > 0 { delivered } else { published };
        let spent = watch.stop(units, usage);
        self.finish()?;
        self.look_for_cut_off()?;
        if units == 0 {
            return Err(Error::NotDelivered {
                what: "nothing moved while the clock ran".to_owned(),
                received: 0,
                expected: self.expected,
            });
        }
        Ok(Flow {
            published,
            delivered,
            spent,
            published_in_all: self.published,
            cut_off: self.links.iter().filter(|link| link.closed).count(),
        })
    }

    fn advance(&mut self, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        let mut seen = self.progress;
        let mut moved = Instant::now();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            let patience = (end - now).min(Duration::from_millis(5));
            self.step(patience)?;
            if seen != self.progress {
                seen = self.progress;
                moved = now;
            } else if moved.elapsed() >= self.patience {
                return Err(self.stalled("publishing"));
            }
        }
    }

    fn stalled(&self, what: &str) -> Error {
        Error::Stalled {
            what: format!(
                "{what} ({} published, {} received of {} expected)",
                self.published, self.received, self.expected
            ),
            seconds: self.patience.as_secs(),
        }
    }

    /// Completes begun messages, waits for a PONG on every publisher and for every delivery, and
    /// looks for surplus ones.
    fn finish(&mut self) -> Result<(), Error> {
        self.publishing = false;
        let mut awaited = Vec::new();
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.block.is_some() && !link.closed {
                link.outbox.extend_from_slice(b"PING\r\n");
                awaited.push((index, link.counter.pongs));
            }
        }
        self.queue_publishers();
        let mut seen = self.progress;
        let mut moved = Instant::now();
        loop {
            awaited.retain(|(index, pongs)| {
                self.links.get(*index).is_some_and(|link| link.counter.pongs <= *pongs)
            });
            if awaited.is_empty() && self.received >= self.expected {
                break;
            }
            self.step(Duration::from_millis(5))?;
            if seen != self.progress {
                seen = self.progress;
                moved = Instant::now();
            }
            if moved.elapsed() >= self.patience {
                if awaited.is_empty() {
                    break;
                }
                return Err(self.stalled("waiting for the last PONG"));
            }
        }
        let surplus_until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < surplus_until {
            self.step(Duration::from_millis(5))?;
        }
        self.verify()
    }

    fn verify(&self) -> Result<(), Error> {
        let mut published = vec![0_u64; self.groups.len()];
        for link in self.links.iter().filter(|link| link.block.is_some()) {
            if let Some(sum) = published.get_mut(link.group) {
                *sum += link.sent();
            }
        }
        for (index, (group, published)) in self.groups.iter().zip(&published).enumerate() {
            let expected = match group.delivery {
                Delivery::Each => published * group.members,
                Delivery::One | Delivery::Spread if group.members == 0 => 0,
                Delivery::One | Delivery::Spread => *published,
            };
            if group.received != expected {
                return Err(Error::NotDelivered {
                    what: format!("all subscribers of group {index}"),
                    received: group.received,
                    expected,
                });
            }
        }
        for (index, link) in self.links.iter().enumerate() {
            let (Some(group), Some(published)) = (self.groups.get(link.group), published.get(link.group))
            else {
                continue;
            };
            let each = group.delivery == Delivery::Each && link.counted();
            if each && link.counter.messages != *published {
                return Err(Error::NotDelivered {
                    what: link.name(index),
                    received: link.counter.messages,
                    expected: *published,
                });
            }
        }
        Ok(())
    }

    /// Whether the server has cut off a slow reader shows only when what the kernel holds has been
    /// read away. One that was not cut off must have got everything: core NATS drops no message of a
    /// connection that it keeps.
    fn look_for_cut_off(&mut self) -> Result<(), Error> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut published = vec![0_u64; self.groups.len()];
        for link in self.links.iter().filter(|link| link.block.is_some()) {
            if let Some(sum) = published.get_mut(link.group) {
                *sum += link.sent();
            }
        }
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.reads == Reads::AtOnce {
                continue;
            }
            let expected = published.get(link.group).copied().unwrap_or(0);
            let mut quiet = 0;
            while !link.closed && link.counter.messages < expected && quiet < 200 && Instant::now() < end {
                match link.transport.read(&mut self.scratch) {
                    Ok(0) => link.closed = true,
                    Ok(bytes) => {
                        quiet = 0;
                        link.counter.feed(self.scratch.get(..bytes).unwrap_or_default())?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        quiet += 1;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(_) => link.closed = true,
                }
            }
            if !link.closed && link.counter.messages != expected {
                return Err(Error::NotDelivered {
                    what: format!("slow {} (still connected)", link.name(index)),
                    received: link.counter.messages,
                    expected,
                });
            }
        }
        Ok(())
    }

    fn queue_publishers(&mut self) {
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.block.is_some() && !link.write_queued {
                link.write_queued = true;
                self.to_write.push(index);
            }
        }
    }

    /// One turn: events, one write for each publisher that may, reads for each reader that can.
    fn step(&mut self, patience: Duration) -> Result<(), Error> {
        let busy = !self.to_read.is_empty() || self.may_write();
        let patience = if busy { Duration::ZERO } else { patience };
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(Error::io("waiting for events", error));
            }
            _ => {}
        }
        for event in &self.events {
            let index = event.token().0;
            let Some(link) = self.links.get_mut(index) else {
                continue;
            };
            link.ending |= event.is_read_closed() || event.is_error();
            let readable = event.is_readable() || link.ending;
            if readable && !link.read_queued && link.reads == Reads::AtOnce {
                link.read_queued = true;
                self.to_read.push(index);
            }
            if event.is_writable() && !link.write_queued {
                link.write_queued = true;
                self.to_write.push(index);
            }
        }
        self.write_all()?;
        for at in 0..self.limited.len() {
            if let Some(index) = self.limited.get(at).copied() {
                self.read_limited(index)?;
            }
        }
        let queued = std::mem::take(&mut self.to_read);
        for index in &queued {
            if self.read(*index)? {
                self.to_read.push(*index);
            }
        }
        Ok(())
    }

    fn room(&self) -> u64 {
        self.window.saturating_sub(self.expected.saturating_sub(self.received))
    }

    fn may_write(&self) -> bool {
        if self.to_write.is_empty() {
            return false;
        }
        (self.publishing && (self.room() > self.window / 4))
            || self.to_write.iter().any(|index| {
                self.links.get(*index).is_some_and(|link| !link.outbox.is_empty() || link.unfinished() > 0)
            })
    }

    fn write_all(&mut self) -> Result<(), Error> {
        let queued = std::mem::take(&mut self.to_write);
        for index in &queued {
            if self.write(*index)? {
                self.to_write.push(*index);
            } else if let Some(link) = self.links.get_mut(*index) {
                link.write_queued = false;
            }
        }
        Ok(())
    }

    /// Deliveries that one message of `group` brings.
    fn fan(&self, group: usize) -> u64 {
        self.groups.get(group).map_or(0, |group| match group.delivery {
            Delivery::Each => group.members,
            Delivery::One | Delivery::Spread => group.members.min(1),
        })
    }

    /// One write; `true` when the link can take more.
    fn write(&mut self, index: usize) -> Result<bool, Error> {
        let room = self.room();
        let scarce = room <= self.window / 4;
        let Some(group) = self.links.get(index).map(|link| link.group) else {
            return Ok(false);
        };
        let fan = self.fan(group);
        let Some(link) = self.links.get_mut(index) else {
            return Ok(false);
        };
        if link.closed {
            return Ok(false);
        }
        let unfinished = link.unfinished();
        let pending = !link.outbox.is_empty();
        if pending && unfinished == 0 {
            return self.write_outbox(index);
        }
        let mut allowed = unfinished;
        if self.publishing && !pending && !scarce {
            let messages = room.checked_div(fan).unwrap_or(u64::MAX >> 32).max(1);
            allowed = allowed.saturating_add(messages.saturating_mul(link.message_bytes()));
        }
        let Some(block) = link.block.as_ref().filter(|_| allowed > 0) else {
            // Nothing to do now, but the socket has room: publishers stay queued while they may go on.
            let stay = link.block.is_some() && self.publishing;
            if !stay {
                match link.transport.flush() {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return self.closed(index, &error.to_string()).map(|()| false);
                    }
                    _ => {}
                }
            }
            return Ok(stay);
        };
        let bytes = block.bytes();
        let start = (link.sent_bytes % bytes.len() as u64) as usize;
        let most = usize::try_from(allowed).unwrap_or(usize::MAX);
        let end = start.saturating_add(most.min(WRITE_BYTES_MAX.max(block.message_bytes())));
        let part = bytes.get(start..end.min(bytes.len())).unwrap_or_default();
        match link.transport.write(part) {
            Ok(written) => {
                let before = link.sent();
                link.sent_bytes += written as u64;
                self.progress += 1;
                let more = link.sent() - before;
                self.published += more;
                self.expected += more * fan;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => self.closed(index, &error.to_string()).map(|()| false),
        }
    }

    fn write_outbox(&mut self, index: usize) -> Result<bool, Error> {
        let Some(link) = self.links.get_mut(index) else {
            return Ok(false);
        };
        let rest = link.outbox.get(link.outbox_sent..).unwrap_or_default();
        match link.transport.write(rest) {
            Ok(written) => {
                link.outbox_sent += written;
                if link.outbox_sent >= link.outbox.len() {
                    link.outbox.clear();
                    link.outbox_sent = 0;
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => self.closed(index, &error.to_string()).map(|()| false),
        }
    }

    /// Reads up to four buffers; `true` when more may be there.
    fn read(&mut self, index: usize) -> Result<bool, Error> {
        for _ in 0..4 {
            let Some(link) = self.links.get_mut(index) else {
                return Ok(false);
            };
            match link.transport.read(&mut self.scratch) {
                Ok(0) => {
                    link.read_queued = false;
                    return self.closed(index, "end of stream").map(|()| false);
                }
                Ok(bytes) => {
                    let all = bytes < READ_BYTES_MAX && link.transport.short_read_is_all() && !link.ending;
                    link.read_queued = !all;
                    self.count(index, bytes)?;
                    if all {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    link.read_queued = false;
                    return Ok(false);
                }
                Err(error) => {
                    link.read_queued = false;
                    return self.closed(index, &error.to_string()).map(|()| false);
                }
            }
        }
        Ok(true)
    }

    fn read_limited(&mut self, index: usize) -> Result<(), Error> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let Some(link) = self.links.get_mut(index) else {
            return Ok(());
        };
        let Reads::BytesPerSecond(limit) = link.reads else {
            return Ok(());
        };
        let allowed = (limit as f64 * elapsed) as u64;
        let room = allowed.saturating_sub(link.read_bytes);
        if link.closed || room < 16 * 1024 {
            return Ok(());
        }
        let most = (room as usize).min(READ_BYTES_MAX);
        let Some(buffer) = self.scratch.get_mut(..most) else {
            return Ok(());
        };
        match link.transport.read(buffer) {
            Ok(0) => self.closed(index, "end of stream"),
            Ok(bytes) => {
                link.read_bytes += bytes as u64;
                self.count(index, bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => self.closed(index, &error.to_string()),
        }
    }

    /// Counts `bytes` of the scratch buffer for a link.
    fn count(&mut self, index: usize, bytes: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(index) else {
            return Ok(());
        };
        self.progress += 1;
        let (before, pings) = (link.counter.messages, link.counter.pings);
        link.counter.feed(self.scratch.get(..bytes).unwrap_or_default())?;
        if link.counted() {
            let more = link.counter.messages - before;
            self.received += more;
            if let Some(group) = self.groups.get_mut(link.group) {
                group.received += more;
            }
        }
        for _ in pings..link.counter.pings {
            link.outbox.extend_from_slice(b"PONG\r\n");
        }
        if !link.outbox.is_empty() && !link.write_queued {
            link.write_queued = true;
            self.to_write.push(index);
        }
        if let (Some(error), Reads::AtOnce) = (&link.counter.error, link.reads) {
            return Err(Error::Refused { what: link.name(index), error: error.clone() });
        }
        Ok(())
    }

    /// A connection ended: fatal for all but slow readers.
    fn closed(&mut self, index: usize, detail: &str) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(index) else {
            return Ok(());
        };
        link.closed = true;
        if link.reads != Reads::AtOnce {
            return Ok(());
        }
        Err(Error::Closed {
            what: link.name(index),
            detail: link.counter.error.clone().unwrap_or_else(|| detail.to_owned()),
        })
    }
}

/// Waits until interest at the last server is known at the first: one more subscription behind all
/// others, probed until a message comes through.
fn settle(endpoints: &[Endpoint]) -> Result<(), Error> {
    let [first, .., last] = endpoints else {
        return Ok(());
    };
    let mut receiver = last.connect(None)?;
    receiver.subscribe(b"SUB bench.probe 1\r\n")?;
    receiver.set_patience(Duration::from_millis(50))?;
    let mut sender = first.connect(None)?;
    let started = Instant::now();
    while started.elapsed().as_secs() < ROUTE_SECONDS_MAX {
        sender.send(b"PUB bench.probe 1\r\nx\r\n")?;
        if receiver.wait_for_message(b"x").unwrap_or(false) {
            return Ok(());
        }
    }
    Err(Error::Stalled {
        what: "waiting for interest to cross the route".to_owned(),
        seconds: ROUTE_SECONDS_MAX,
    })
}
