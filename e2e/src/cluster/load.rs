//! Load that goes on while a story happens, and its verdict.
//!
//! Publishers and subscribers are [`Follower`]s. Some subscribers and all publishers overlap when they move: they
//! connect elsewhere before they give the old server up, and must not miss a single message. The others let go first
//! and connect again then, as a plain client does; they must not miss a message while connected.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use e2e::ledger;

use super::follower::{Arrived, Follower};

/// How long interest may take to reach every server before the old connection is given up.
const OVERLAP: Duration = Duration::from_millis(500);
/// Messages between two PINGs of a publisher.
const BATCH: u64 = 20;

struct Published {
    taken: BTreeSet<u64>,
    moves: usize,
}

struct Subscribed {
    arrived: Vec<Arrived>,
    moves: usize,
    overlapping: bool,
}

/// Publishers and subscribers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<Result<Published>>>,
    subscribers: Vec<JoinHandle<Result<Subscribed>>>,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Messages that servers had taken from publishers.
    pub published: u64,
    /// Deliveries that were checked.
    pub delivered: u64,
    /// How often a client moved to another server.
    pub moves: usize,
    /// Messages that plain subscribers did not get between two connections.
    pub between: usize,
}

impl Load {
    /// A publisher, an overlapping and a plain subscriber on each of these servers (`host:port`), about `rate`
    /// messages a second each.
    pub fn start(servers: &[String], rate: u64) -> Result<Load> {
        let (stop, stop_reading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut subscribers = Vec::new();
        for server in servers {
            for overlapping in [true, false] {
                let mut follower = Follower::connect(server)?;
                follower.subscribe("load.*")?;
                let stop = Arc::clone(&stop_reading);
                subscribers.push(std::thread::spawn(move || subscribe(follower, overlapping, &stop)));
            }
        }
        // core NATS keeps nothing: interest has to be everywhere before the first message
        std::thread::sleep(OVERLAP);
        let mut publishers = Vec::new();
        for (number, server) in servers.iter().enumerate() {
            let follower = Follower::connect(server)?;
            let stop = Arc::clone(&stop);
            publishers.push(std::thread::spawn(move || publish(follower, number, rate, &stop)));
        }
        Ok(Load { stop, stop_reading, publishers, subscribers })
    }

    /// Stops and judges.
    pub fn finish(self) -> Result<Verdict> {
        self.stop.store(true, Ordering::Relaxed);
        let mut published = Vec::new();
        for publisher in self.publishers {
            published.push(publisher.join().map_err(|_| anyhow!("a publisher panicked"))??);
        }
        std::thread::sleep(Duration::from_secs(1));
        self.stop_reading.store(true, Ordering::Relaxed);
        let mut verdict = Verdict::default();
        for subscriber in self.subscribers {
            let subscribed = subscriber.join().map_err(|_| anyhow!("a subscriber panicked"))??;
            verdict.moves += subscribed.moves;
            for (number, publisher) in published.iter().enumerate() {
                judge(number, publisher, &subscribed, &mut verdict)?;
            }
        }
        for publisher in &published {
            verdict.published += publisher.taken.len() as u64;
            verdict.moves += publisher.moves;
        }
        Ok(verdict)
    }
}

fn judge(number: usize, publisher: &Published, subscriber: &Subscribed, verdict: &mut Verdict) -> Result<()> {
    let subject = format!("load.{number}");
    let own = subscriber.arrived.iter().filter(|message| message.subject == subject);
    let arrived: Vec<(usize, u64)> =
        own.map(|message| Ok((message.session, message.payload.parse()?))).collect::<Result<_>>()?;
    let lost = ledger::lost(&publisher.taken, &arrived);
    let doubled = ledger::doubled(&arrived);
    ensure!(doubled.is_empty(), "{} messages came twice over one connection", doubled.len());
    if subscriber.overlapping {
        let shown = &lost[..lost.len().min(5)];
        ensure!(
            lost.is_empty(),
            "{} of {} messages of publisher {number} were lost, first {shown:?}",
            lost.len(),
            publisher.taken.len()
        );
    } else {
        let gaps = ledger::gaps(&publisher.taken, &arrived);
        ensure!(
            gaps.is_empty(),
            "{} messages were lost within a connection, first {:?}",
            gaps.len(),
            gaps[0]
        );
        verdict.between += lost.len();
    }
    verdict.delivered += arrived.len() as u64;
    Ok(())
}

fn publish(mut follower: Follower, number: usize, rate: u64, stop: &AtomicBool) -> Result<Published> {
    let subject = format!("load.{number}");
    let mut published = Published { taken: BTreeSet::new(), moves: 0 };
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        if follower.must_move() {
            follower.relocate(Duration::ZERO)?;
            published.moves += 1;
        }
        let batch: Vec<u64> = (next..next + BATCH).collect();
        next += BATCH;
        let said = batch.iter().try_for_each(|number| follower.publish(&subject, &number.to_string()));
        // what no PONG followed may be lost with its server, and is nobody's to miss
        if said.and_then(|()| follower.confirm(Duration::from_secs(10))).is_ok() {
            published.taken.extend(batch);
        }
        std::thread::sleep(Duration::from_micros(1_000_000 * BATCH / rate));
    }
    Ok(published)
}

fn subscribe(mut follower: Follower, overlapping: bool, stop: &AtomicBool) -> Result<Subscribed> {
    let mut moves = 0;
    while !stop.load(Ordering::Relaxed) {
        if follower.must_move() {
            if !overlapping {
                follower.let_go();
            }
            follower.relocate(if overlapping { OVERLAP } else { Duration::ZERO })?;
            moves += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Subscribed { arrived: follower.arrived(), moves, overlapping })
}
