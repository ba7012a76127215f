//! A run: workers, peers and a seeded scheduler that lets one of them go on at a time.
//!
//! Owns time and chance. When the chaos is over, everybody goes on until nothing moves, and the model says
//! whether all promises were kept.

use crate::driver::{Bell, Driver, Ring};
use crate::model::{Model, Pattern};
use crate::peer::{Habits, Peer};
use broker::{Account, Broker, CloseReason, Mailbox};
use engine::Settings;
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Rounds without chaos after which a run that still moves counts as hanging. One lasts a millisecond.
const QUIET_ROUNDS_MAX: u32 = 20_000;
const MILLISECOND_NANOS: u64 = 1_000_000;

/// The outline of a run.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Worker threads.
    pub workers: usize,
    /// Connections at the start.
    pub peers: usize,
    /// Scheduler steps of chaos.
    pub steps: u64,
    /// What clients do.
    pub habits: Habits,
    /// Smallest and largest buffer of a connection's direction, in bytes.
    pub buffer_bytes: (usize, usize),
    /// Chance per step that a client leaves or comes, in permille.
    pub churn_permille: u32,
    /// Bytes that may wait for one link before it is cut off; `None` for the broker's default.
    pub pending_bytes_max: Option<usize>,
}

impl Shape {
    /// Many small messages, interest that changes all the time, buffers that cut everywhere.
    pub fn small(random: &mut Rng) -> Shape {
        Shape {
            workers: random.usize(1..=3),
            peers: random.usize(1..=6),
            steps: random.u64(50..600),
            habits: Habits {
                payload_bytes_max: 2_000,
                large_percent: 10,
                tokens: random.usize(1..=3),
                interest_percent: 30,
                stall_permille: 10,
                stall_steps_max: 200,
            },
            buffer_bytes: (1, *random.choice(&[40, 300, 4_000, 70_000]).unwrap_or(&300)),
            churn_permille: random.u32(0..8),
            pending_bytes_max: None,
        }
    }

    /// Subscriptions that come, end and reach their maximum faster than anything else happens, on few subjects.
    pub fn restless(random: &mut Rng) -> Shape {
        let small = Shape::small(random);
        let habits = Habits { tokens: 1, interest_percent: 60, stall_permille: 0, ..small.habits };
        Shape { habits, workers: 2, buffer_bytes: (500, 70_000), churn_permille: 0, ..small }
    }

    /// Payloads up to 300 KB, beside small ones.
    pub fn large(random: &mut Rng) -> Shape {
        let small = Shape::small(random);
        let habits = Habits { payload_bytes_max: 300_000, large_percent: 15, ..small.habits };
        Shape { habits, buffer_bytes: (2_000, 200_000), steps: small.steps.min(300), ..small }
    }

    /// Publishers faster than their readers, until they are paused.
    pub fn flood(random: &mut Rng) -> Shape {
        let small = Shape::small(random);
        let habits = Habits {
            payload_bytes_max: 300_000,
            large_percent: 80,
            tokens: 1,
            interest_percent: 10,
            stall_permille: 30,
            stall_steps_max: 2_000,
        };
        Shape { habits, buffer_bytes: (200_000, 400_000), peers: 5, steps: 3_000, churn_permille: 1, ..small }
    }

    /// Readers that are cut off because too much waits for them.
    pub fn cut_off(random: &mut Rng) -> Shape {
        Shape { pending_bytes_max: Some(random.usize(1_000..200_000)), ..Shape::large(random) }
    }
}

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub messages: usize,
    /// Messages received.
    pub deliveries: usize,
    /// Subscriptions made.
    pub subscriptions: usize,
    /// Times that a publisher was paused.
    pub pauses: u64,
    /// Connections that were cut off as slow consumers.
    pub cut_off: usize,
}

struct World {
    random: Rng,
    shape: Shape,
    broker: Arc<Broker>,
    account: Arc<Account>,
    drivers: Vec<Driver>,
    peers: Vec<Peer>,
    model: Model,
    pattern: Pattern,
    step: u64,
    now_nanos: u64,
    cut_off: usize,
}

/// Runs one simulation.
///
/// # Errors
/// The promise that was broken. The same seed and shape break it again.
pub fn run(seed: u64, shape: &Shape) -> Result<Report, String> {
    let mut world = World::new(seed, shape);
    for _ in 0..world.shape.peers {
        world.join();
    }
    for _ in 0..world.shape.steps {
        world.step()?;
    }
    world.come_to_rest()?;
    let facts: Vec<_> = world.peers.iter().map(|peer| peer.facts).collect();
    world.model.check_losses(&facts)?;
    let report = world.report();
    world.part()?;
    Ok(report)
}

impl World {
    fn new(seed: u64, shape: &Shape) -> World {
        let bells: Vec<Arc<Bell>> = (0..shape.workers).map(|_| Arc::default()).collect();
        let mailbox = |bell: &Arc<Bell>| Arc::new(Mailbox::new(Box::new(Ring(bell.clone()))));
        let broker = Broker::new(bells.iter().map(mailbox).collect(), seed);
        if let Some(max) = shape.pending_bytes_max {
            broker.pending_bytes_max.store(max, Relaxed);
        }
        let settings = Arc::new(Settings::default());
        let driver = |(number, bell): (usize, &Arc<Bell>)| {
            Driver::new(number, &broker, bell.clone(), settings.clone(), seed ^ (number as u64) << 32)
        };
        let drivers = bells.iter().enumerate().map(driver).collect();
        World {
            random: Rng::with_seed(seed),
            shape: shape.clone(),
            account: broker.account("$G"),
            broker,
            drivers,
            peers: Vec::new(),
            model: Model::default(),
            pattern: Pattern::new(shape.habits.payload_bytes_max.max(256)),
            step: 0,
            now_nanos: 1_000 * MILLISECOND_NANOS,
            cut_off: 0,
        }
    }

    fn join(&mut self) {
        let (least, most) = self.shape.buffer_bytes;
        let limits = (self.random.usize(least..=most), self.random.usize(least..=most));
        let worker = self.random.usize(..self.drivers.len());
        let id = self.broker.next_id();
        let (_, pipe) = self.drivers[worker].accept(id, limits, self.now_nanos);
        let number = self.peers.len();
        let peer = Peer::new(number, id, pipe, &mut self.random);
        self.peers.push(peer);
    }

    fn step(&mut self) -> Result<(), String> {
        self.step += 1;
        self.now_nanos += match self.random.u32(..200) {
            0 => self.random.u64(0..150 * MILLISECOND_NANOS),
            _ => self.random.u64(0..MILLISECOND_NANOS / 4),
        };
        if self.random.u32(..1000) < self.shape.churn_permille {
            self.churn();
        }
        let chunk = match self.random.u32(..3) {
            0 => self.random.usize(1..50),
            _ => usize::MAX,
        };
        let choice = self.random.u32(..100);
        if choice < 40 {
            let worker = self.random.usize(..self.drivers.len());
            self.drivers[worker].step(self.now_nanos, chunk);
            return self.note_closed();
        }
        if self.peers.is_empty() {
            return Ok(());
        }
        let peer = self.random.usize(..self.peers.len());
        let peer = &mut self.peers[peer];
        if peer.facts.gone {
            return Ok(());
        }
        match choice {
            40..60 => peer.send(chunk),
            60..80 if peer.stalled_until > self.step => {}
            60..80 => peer.receive(chunk, self.step, &mut self.model, &self.pattern)?,
            _ if peer.outgoing_bytes() < 1_000 => {
                peer.act(&mut self.random, &self.shape.habits, self.step, &mut self.model, &self.pattern);
            }
            _ => {}
        }
        Ok(())
    }

    fn churn(&mut self) {
        if self.random.bool() || self.peers.is_empty() {
            return self.join();
        }
        let place = self.random.usize(..self.peers.len());
        let break_off = self.random.bool();
        if !self.peers[place].facts.gone {
            self.peers[place].leave(break_off);
        }
    }

    /// Every end of a connection must have a cause.
    fn note_closed(&mut self) -> Result<(), String> {
        for driver in &mut self.drivers {
            for (id, reason) in driver.closed.drain(..) {
                let peer =
                    self.peers.iter_mut().find(|peer| peer.id == id).ok_or("a connection nobody opened")?;
                let slow = reason == CloseReason::SlowConsumerPendingBytes;
                if slow && self.shape.pending_bytes_max.is_some() {
                    self.cut_off += 1;
                } else if !peer.facts.gone {
                    return Err(format!("peer {} was closed: {reason:?}", peer.number));
                }
                peer.facts.gone = true;
            }
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.drivers.iter().all(|driver| driver.is_asleep() && driver.paused() == 0)
            && self.peers.iter().all(|peer| peer.is_answered() && (peer.facts.gone || peer.pipe.is_quiet()))
            && self.broker.links().iter().all(|link| link.output.pending_bytes() == 0)
    }

    fn round(&mut self) -> Result<(), String> {
        self.step += 1;
        self.now_nanos += MILLISECOND_NANOS;
        for driver in &mut self.drivers {
            driver.round(self.now_nanos);
        }
        self.note_closed()?;
        for peer in self.peers.iter_mut().filter(|peer| !peer.facts.gone) {
            peer.send(usize::MAX);
            peer.receive(usize::MAX, self.step, &mut self.model, &self.pattern)?;
        }
        Ok(())
    }

    /// No more chaos: everybody reads, and nothing new is said but one last PING.
    fn come_to_rest(&mut self) -> Result<(), String> {
        for peer in self.peers.iter_mut().filter(|peer| !peer.facts.gone) {
            peer.ping();
        }
        for _ in 0..QUIET_ROUNDS_MAX {
            self.round()?;
            if self.is_at_rest() {
                return Ok(());
            }
        }
        let paused: usize = self.drivers.iter().map(Driver::paused).sum();
        let pending: Vec<_> =
            self.broker.links().iter().map(|link| (link.id, link.output.pending_bytes())).collect();
        let waiting: Vec<_> =
            self.peers.iter().filter(|peer| !peer.is_answered()).map(|peer| peer.number).collect();
        Err(format!("hangs: {paused} paused, waiting peers {waiting:?}, pending bytes by link {pending:?}"))
    }

    /// All go, and nothing may stay behind.
    fn part(mut self) -> Result<(), String> {
        for peer in &mut self.peers {
            let break_off = self.random.bool();
            if !peer.facts.gone {
                peer.leave(break_off);
            }
        }
        for _ in 0..QUIET_ROUNDS_MAX {
            self.round()?;
            if self.drivers.iter().all(|driver| driver.worker.is_empty() && driver.is_asleep()) {
                break;
            }
        }
        let left = self.account.read(|interest| interest.len());
        let links = self.broker.links().len();
        let connections = self.account.connections.load(Relaxed);
        if left > 0 || links > 0 || connections > 0 {
            let peers: Vec<_> =
                self.peers.iter().map(|peer| (peer.id, peer.facts.gone, peer.pipe.is_quiet())).collect();
            let open: Vec<_> =
                self.broker.links().iter().map(|link| (link.id, link.close_reason())).collect();
            return Err(format!(
                "left behind: {left} subscriptions, {links} links, {connections} connections; {open:?} of {peers:?}"
            ));
        }
        // ticks come ten times a second in `node`; here one a round
        for _ in 0..30 {
            self.round()?;
        }
        let held: Vec<_> = self.peers.iter().filter(|peer| Arc::strong_count(&peer.pipe) > 1).collect();
        match held.first() {
            Some(peer) => {
                Err(format!("{} closed connections are still held, first peer {}", held.len(), peer.number))
            }
            None => Ok(()),
        }
    }

    fn report(&self) -> Report {
        Report {
            messages: self.model.messages.len(),
            deliveries: self.model.subscriptions.iter().map(|s| s.received.len()).sum(),
            subscriptions: self.model.subscriptions.len(),
            pauses: self.drivers.iter().map(|driver| driver.pauses).sum(),
            cut_off: self.cut_off,
        }
    }
}
