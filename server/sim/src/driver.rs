//! One worker's event loop, as `node` runs it, cut into steps that a scheduler may interleave with those of
//! other workers and of clients.
//!
//! Owns readiness: which connections to read, which are paused. Never decides anything about messages.

use crate::pipe::{Pipe, PipeTransport};
use broker::link::About;
use broker::{Broker, CloseReason, LinkKind, Mailbox, Wake};
use engine::{Accepted, Progress, RouteOpening, Settings, Worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const READS_BEFORE_FLUSH: usize = 16;

/// A mailbox's waker in a world without threads: a flag that the next poll sees.
#[derive(Default)]
pub struct Bell(AtomicBool);

/// The waker that a mailbox owns.
pub struct Ring(pub Arc<Bell>);

impl Wake for Ring {
    fn wake(&self) {
        self.0.0.store(true, SeqCst);
    }
}

struct Slot {
    id: u64,
    pipe: Arc<Pipe>,
    queued: bool,
    paused: bool,
    /// The end was announced: it is read to, for no further edge will tell of it.
    ending: bool,
}

enum Phase {
    Poll,
    /// Reading `ready[place]` next.
    Serve {
        place: usize,
    },
    Finish,
}

/// A worker and its event loop.
pub struct Driver {
    /// The worker.
    pub worker: Worker,
    mailbox: Arc<Mailbox>,
    bell: Arc<Bell>,
    slots: Vec<Option<Slot>>,
    ready: Vec<u32>,
    phase: Phase,
    reads_unflushed: usize,
    /// Output of bulk publishers waits for its turn.
    has_waiting: bool,
    /// Numbers of the connections that the worker ended, with the reason.
    pub closed: Vec<(u64, CloseReason)>,
    /// Times that a publisher was paused.
    pub pauses: u64,
}

impl Driver {
    /// Worker `number` of `broker`, whose mailbox rings `bell`.
    pub fn new(
        number: usize,
        broker: &Arc<Broker>,
        bell: Arc<Bell>,
        settings: Arc<Settings>,
        seed: u64,
    ) -> Driver {
        Driver {
            worker: Worker::new(number, broker.clone(), settings, seed),
            mailbox: broker.mailboxes()[number].clone(),
            bell,
            slots: Vec::new(),
            ready: Vec::new(),
            phase: Phase::Poll,
            reads_unflushed: 0,
            has_waiting: false,
            closed: Vec::new(),
            pauses: 0,
        }
    }

    /// Takes a connection in. The limits are those of its [`Pipe`].
    pub fn accept(&mut self, id: u64, limits: (usize, usize), now: u64) -> (u32, Arc<Pipe>) {
        let (token, pipe) = self.take_in(id, limits, None, now);
        assert!(self.worker.link(token).is_some(), "a client is always taken in");
        (token, pipe)
    }

    /// Takes one end of a route in; `None` when the mesh does not want the connection any more.
    pub fn open_route(
        &mut self,
        id: u64,
        limits: (usize, usize),
        opening: RouteOpening,
        now: u64,
    ) -> Option<Arc<Pipe>> {
        let (token, pipe) = self.take_in(id, limits, Some(opening), now);
        self.worker.link(token).map(|_| pipe)
    }

    fn take_in(
        &mut self,
        id: u64,
        limits: (usize, usize),
        route: Option<RouteOpening>,
        now: u64,
    ) -> (u32, Arc<Pipe>) {
        let token = self.worker.next_token();
        let pipe = Pipe::new(self.mailbox.clone(), token, limits.0, limits.1);
        if self.slots.len() <= token as usize {
            self.slots.resize_with(token as usize + 1, || None);
        }
        self.slots[token as usize] =
            Some(Slot { id, pipe: pipe.clone(), queued: false, paused: false, ending: false });
        let about = About { start_nanos: now, ..About::default() };
        let transport = Box::new(PipeTransport(pipe.clone()));
        let accepted = match route {
            None => Accepted::client(id, transport, about, b"INFO {}\r\n".to_vec()),
            Some(_) => Accepted {
                kind: LinkKind::Route,
                route,
                ..Accepted::client(id, transport, about, Vec::new())
            },
        };
        match self.worker.accept(accepted, now) {
            Some(link) => assert_eq!(link.token, token, "a connection gets the token that was announced"),
            None => self.slots[token as usize] = None,
        }
        (token, pipe)
    }

    /// Does the next step of the loop. `chunk_max` is the most that one read returns, in bytes.
    pub fn step(&mut self, now: u64, chunk_max: usize) {
        match self.phase {
            Phase::Poll => {
                self.poll();
                self.phase = Phase::Serve { place: 0 };
            }
            Phase::Serve { place } if place >= self.ready.len() => self.phase = Phase::Finish,
            Phase::Serve { mut place } => {
                let token = self.ready[place];
                if self.read(token, chunk_max, now) {
                    place += 1;
                } else {
                    self.ready.swap_remove(place);
                    if let Some(Some(slot)) = self.slots.get_mut(token as usize) {
                        slot.queued = false;
                    }
                }
                self.reads_unflushed += 1;
                if self.reads_unflushed >= READS_BEFORE_FLUSH {
                    self.flush();
                }
                self.phase = Phase::Serve { place };
            }
            Phase::Finish => {
                self.tick(now);
                // nobody here tells of logins
                self.worker.logins().clear();
                self.flush();
                self.phase = Phase::Poll;
            }
        }
    }

    fn flush(&mut self) {
        self.worker.flush(false);
        self.has_waiting = self.worker.flush_waiting(self.reads_unflushed);
        self.reads_unflushed = 0;
    }

    /// One whole round of the loop.
    pub fn round(&mut self, now: u64) {
        loop {
            self.step(now, usize::MAX);
            if matches!(self.phase, Phase::Poll) {
                return;
            }
        }
    }

    /// Whether a poll would sleep until the next tick.
    pub fn is_asleep(&self) -> bool {
        self.ready.is_empty()
            && !self.has_waiting
            && matches!(self.phase, Phase::Poll)
            && !self.bell.0.load(SeqCst)
    }

    /// Connections that are not read because a receiver is congested.
    pub fn paused(&self) -> usize {
        self.slots.iter().flatten().filter(|slot| slot.paused).count()
    }

    fn poll(&mut self) {
        for token in 0..self.slots.len() {
            let Some(slot) = &self.slots[token] else { continue };
            let edges = slot.pipe.take_edges();
            if edges.ended
                && let Some(slot) = &mut self.slots[token]
            {
                slot.ending = true;
            }
            if edges.writable {
                self.worker.writable(token as u32);
            }
            if edges.readable {
                self.queue(token as u32);
            }
        }
        if self.bell.0.swap(false, SeqCst) {
            for command in self.mailbox.take() {
                if let Some((token, progress)) = self.worker.command(command) {
                    self.apply(token, progress);
                }
            }
        }
    }

    fn queue(&mut self, token: u32) {
        if let Some(Some(slot)) = self.slots.get_mut(token as usize)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push(token);
        }
    }

    /// One read; `true` when there may be more.
    fn read(&mut self, token: u32, chunk_max: usize, now: u64) -> bool {
        let busy = self.ready.len() > 1;
        let Some(Some(slot)) = self.slots.get_mut(token as usize) else { return false };
        if slot.paused {
            return false;
        }
        let Some(room) = self.worker.room(token) else { return false };
        let size = room.len();
        let chunk = size.min(chunk_max.max(1));
        let progress = match slot.pipe.read(&mut room[..chunk]) {
            Ok(None) => return false,
            Ok(Some(0)) => self.worker.close(token, CloseReason::ClientClosed),
            Ok(Some(read)) => {
                let (filled, ending) = (read == size, slot.ending);
                match self.worker.received(token, read, filled, busy, now) {
                    // a read that was cut short by the simulation leaves bytes behind without an edge
                    Progress::Open => return filled || ending || read == chunk,
                    other => other,
                }
            }
            Err(_) => self.worker.close(token, CloseReason::ReadError),
        };
        self.apply(token, progress);
        false
    }

    fn apply(&mut self, token: u32, progress: Progress) {
        match progress {
            Progress::Open => {
                if let Some(Some(slot)) = self.slots.get_mut(token as usize) {
                    slot.paused = false;
                }
                self.queue(token);
            }
            Progress::Paused => {
                self.pauses += 1;
                if let Some(Some(slot)) = self.slots.get_mut(token as usize) {
                    slot.paused = true;
                }
            }
            Progress::Closed(reason) => {
                if let Some(slot) = self.slots.get_mut(token as usize).and_then(Option::take) {
                    self.closed.push((slot.id, reason));
                }
            }
        }
    }

    fn tick(&mut self, now: u64) {
        let mut overdue = Vec::new();
        self.worker.overdue(now, &mut overdue);
        for token in overdue {
            self.apply(token, Progress::Open);
        }
        let mut closed = Vec::new();
        self.worker.tick(now, self.slots.len() / 10 + 1, &mut closed);
        for (token, reason) in closed {
            self.apply(token, Progress::Closed(reason));
        }
    }
}
