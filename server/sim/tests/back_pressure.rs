//! What a slow reader costs: publishers are slowed to its pace while it reads, and let go when it does not.

use broker::{Broker, Mailbox};
use client::Policy;
use engine::Settings;
use sim::driver::{Bell, Driver, Ring};
use sim::pipe::Pipe;
use std::sync::Arc;

const MILLISECOND_NANOS: u64 = 1_000_000;
const MESSAGE_BYTES: usize = 1 << 10;
const SOCKET_BYTES: usize = 256 << 10;

/// One publisher that always has more to say, on its own worker, and readers on another.
struct Scene {
    broker: Arc<Broker>,
    drivers: [Driver; 2],
    publishers: Vec<Arc<Pipe>>,
    block: Vec<u8>,
    now_nanos: u64,
}

impl Scene {
    fn new(publishers: usize) -> Scene {
        Scene::with_deadline(publishers, Policy::default().write_deadline_nanos)
    }

    fn with_deadline(publishers: usize, write_deadline_nanos: u64) -> Scene {
        let bells: [Arc<Bell>; 2] = Default::default();
        let mailbox = |bell: &Arc<Bell>| Arc::new(Mailbox::new(Box::new(Ring(bell.clone()))));
        let broker = Broker::new(bells.iter().map(mailbox).collect(), 1);
        let settings = Arc::new(Settings { client: Policy { write_deadline_nanos, ..Policy::default() } });
        let driver = |n: usize| Driver::new(n, &broker, bells[n].clone(), settings.clone(), n as u64 + 1);
        let message = format!("PUB bulk {MESSAGE_BYTES}\r\n{}\r\n", "x".repeat(MESSAGE_BYTES));
        let mut scene = Scene {
            drivers: [driver(0), driver(1)],
            broker,
            publishers: Vec::new(),
            block: message.repeat(SOCKET_BYTES / message.len()).into_bytes(),
            now_nanos: MILLISECOND_NANOS,
        };
        for _ in 0..publishers {
            let pipe = scene.connect(0, "");
            scene.publishers.push(pipe);
        }
        scene
    }

    fn connect(&mut self, worker: usize, more: &str) -> Arc<Pipe> {
        let id = self.broker.next_id();
        let (_, pipe) = self.drivers[worker].accept(id, (SOCKET_BYTES, SOCKET_BYTES), self.now_nanos);
        pipe.send(format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\n{more}").as_bytes());
        self.drivers[worker].round(self.now_nanos);
        pipe
    }

    /// A millisecond in which every publisher fills its socket as often as it is read.
    fn millisecond(&mut self) {
        self.now_nanos += MILLISECOND_NANOS;
        for _ in 0..8 {
            for pipe in &self.publishers {
                // a whole number of messages: the rest of a socket's room stays empty
                if pipe.is_drained() {
                    pipe.send(&self.block);
                }
            }
            self.drivers[0].round(self.now_nanos);
        }
        self.drivers[1].round(self.now_nanos);
    }

    fn pending_bytes(&self) -> usize {
        self.broker.links().iter().map(|link| link.output.pending_bytes()).max().unwrap_or(0)
    }

    fn closed(&mut self) -> Vec<(u64, broker::CloseReason)> {
        self.drivers.iter_mut().flat_map(|driver| driver.closed.drain(..)).collect()
    }
}

fn read(pipe: &Pipe, bytes: usize) -> usize {
    let mut sink = Vec::new();
    pipe.receive(bytes, &mut sink).unwrap_or(0)
}

/// A reader of a steady pace against publishers without an end: it is never cut off, and memory stays flat
/// for those that take what lies between the two marks of congestion (1.5 MB) within the time for which
/// publishers may be held up (100 ms).
fn steady(publishers: usize, bytes_per_millisecond: usize, milliseconds: usize) -> (usize, usize) {
    let mut scene = Scene::new(publishers);
    let reader = scene.connect(1, "SUB bulk 1\r\n");
    let (mut received, mut pending_bytes_max) = (0, 0);
    for millisecond in 0..milliseconds {
        scene.millisecond();
        received += read(&reader, bytes_per_millisecond);
        pending_bytes_max = pending_bytes_max.max(scene.pending_bytes());
        let closed = scene.closed();
        assert!(closed.is_empty(), "after {millisecond} ms, {pending_bytes_max} bytes pending: {closed:?}");
    }
    (received, pending_bytes_max)
}

#[test]
fn a_reader_of_30_mb_a_second_slows_its_publisher_and_is_never_cut_off() {
    let (received, pending_bytes_max) = steady(1, 30_000, 1_500);
    assert!(received > 40_000_000, "{received}");
    assert!(pending_bytes_max < 8 << 20, "{pending_bytes_max}");
}

/// Slower than that: publishers are let go first, and held up again before too much waits.
#[test]
fn a_reader_of_10_mb_a_second_is_not_cut_off_either() {
    for publishers in [1, 20] {
        let (received, pending_bytes_max) = steady(publishers, 10_000, 2_000);
        assert!(received > 18_000_000, "{received}");
        assert!(pending_bytes_max < 64 << 20, "{pending_bytes_max}");
    }
}

#[test]
fn twenty_publishers_are_slowed_as_one_is() {
    let (received, pending_bytes_max) = steady(20, 30_000, 1_000);
    assert!(received > 25_000_000, "{received}");
    assert!(pending_bytes_max < 16 << 20, "{pending_bytes_max}");
}

/// The write deadline is for those who take nothing, not for those who always have more to take.
#[test]
fn a_reader_that_is_never_done_is_not_stuck() {
    let mut scene = Scene::with_deadline(1, 200 * MILLISECOND_NANOS);
    let reader = scene.connect(1, "SUB bulk 1\r\n");
    for millisecond in 0..1_000 {
        scene.millisecond();
        read(&reader, 30_000);
        assert_eq!(scene.closed(), [], "after {millisecond} ms");
    }
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_by_the_write_deadline() {
    let mut scene = Scene::with_deadline(1, 200 * MILLISECOND_NANOS);
    let _stopped = scene.connect(1, "SUB bulk 1\r\n");
    // more than its socket holds, less than may wait for it
    let few = [scene.publishers.remove(0)];
    for _ in 0..8 {
        few[0].send(&scene.block);
        scene.millisecond();
    }
    for _ in 0..2_000 {
        scene.millisecond();
        if let [(_, reason)] = scene.closed()[..] {
            return assert_eq!(reason, broker::CloseReason::SlowConsumerWriteDeadline);
        }
    }
    panic!("never cut off");
}

#[test]
fn a_reader_that_stopped_holds_publishers_up_for_a_moment_only_and_is_cut_off() {
    let mut scene = Scene::new(1);
    let _stopped = scene.connect(1, "SUB bulk 1\r\n");
    let reader = scene.connect(1, "SUB bulk 1\r\n");
    let (mut received, mut closed) = (0, Vec::new());
    let (mut longest_gap, mut silent) = ((0, 0), 0);
    for millisecond in 0..1_500 {
        scene.millisecond();
        let now = read(&reader, SOCKET_BYTES);
        received += now;
        silent += usize::from(now == 0);
        longest_gap = if now > 0 {
            (0, longest_gap.1)
        } else {
            (longest_gap.0 + 1, longest_gap.1.max(longest_gap.0 + 1))
        };
        closed.extend(scene.closed().into_iter().map(|(_, reason)| (millisecond, reason)));
    }
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!(closed[0].1, broker::CloseReason::SlowConsumerPendingBytes);
    assert!(longest_gap.1 <= 150, "the other reader got nothing for {} ms", longest_gap.1);
    assert!(silent <= 350, "the other reader got nothing for {silent} ms in all");
    assert!(received > 100_000_000, "{received}");
}

/// `no_fast_producer_stall`.
#[test]
fn publishers_that_may_not_be_stalled_go_on_and_the_slow_reader_is_cut_off() {
    let mut scene = Scene::new(1);
    scene.broker.stalls_publishers.store(false, std::sync::atomic::Ordering::Relaxed);
    let reader = scene.connect(1, "SUB bulk 1\r\n");
    for _ in 0..1_500 {
        scene.millisecond();
        read(&reader, 10_000);
        if let [(_, reason)] = scene.closed()[..] {
            return assert_eq!(reason, broker::CloseReason::SlowConsumerPendingBytes);
        }
    }
    panic!("never cut off");
}
