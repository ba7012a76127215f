//! Owns latency under load that does not wait for the server: an open loop at a fixed rate, and one
//! light client beside whatever else is going on.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::Error;
use crate::link::Endpoint;
use crate::load::Timing;
use crate::process::Usage;
use crate::statistics::Latencies;
use crate::talker::Talker;

/// Messages are due in bursts this far apart: finer would measure system calls, coarser queueing.
const TICK: Duration = Duration::from_micros(50);
/// A publisher that is so far behind shows that the rate is beyond the server.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// How long the last messages may take to arrive.
const DRAIN_SECONDS_MAX: u64 = 10;
const PAYLOAD_BYTES: usize = 128;

/// What an open loop saw.
pub struct Paced {
    /// Messages received in the measured time per second.
    pub rate: f64,
    /// Server processor time per message, nanoseconds.
    pub cpu_nanoseconds: f64,
    /// From when a message was due to when it was read.
    pub latencies: Latencies,
    /// Memory of the server at the end.
    pub usage: Usage,
}

/// Publishes on `pairs` pairs of connections at `rate` messages a second in all, whatever the server
/// does. Latency counts from the moment a message was due, so a server that falls behind is not
/// spared (no coordinated omission).
///
/// # Errors
/// When messages are lost, doubled or out of order, or the server falls far behind the rate.
pub fn open_loop(
    endpoint: &Endpoint,
    pairs: usize,
    rate: f64,
    timing: Timing,
    usage: &dyn Fn() -> Usage,
) -> Result<Paced, Error> {
    let mut poll = Poll::new().map_err(|source| Error::io("opening epoll", source))?;
    let mut events = Events::with_capacity(256);
    let mut talkers = Vec::new();
    for pair in 0..pairs {
        let mut subscriber = endpoint.connect(None)?;
        subscriber.subscribe(format!("SUB open.{pair} 1\r\n").as_bytes())?;
        let token = talkers.len();
        talkers.push(Talker::new(subscriber, "a subscriber", poll.registry(), token)?);
    }
    for _ in 0..pairs {
        let token = talkers.len();
        let publisher = endpoint.connect(None)?;
        talkers.push(Talker::new(publisher, "a publisher", poll.registry(), token)?);
    }
    let base = Instant::now();
    let mut state = OpenLoop {
        received: vec![0; pairs],
        sent: vec![0; pairs],
        latencies: Latencies::new(),
        delivered: 0,
    };
    let mut scratch = vec![0; 256 * 1024];
    let (mut tick, mut total) = (0_u32, 0_u64);
    let (mut clock, mut before, mut measuring) = (base, usage(), false);
    let mut result = None;
    loop {
        let now = base.elapsed();
        if !measuring && now >= timing.warm {
            measuring = true;
            state.latencies.clear();
            state.delivered = 0;
            (clock, before) = (Instant::now(), usage());
        }
        if measuring && result.is_none() && clock.elapsed() >= timing.measured {
            let after = usage();
            let processor = after.processor_since(&before);
            let latencies = std::mem::take(&mut state.latencies);
            result = Some(Paced {
                rate: state.delivered as f64 / clock.elapsed().as_secs_f64(),
                cpu_nanoseconds: processor.as_nanos() as f64 / state.delivered.max(1) as f64,
                latencies,
                usage: after,
            });
        }
        while result.is_none() && TICK * tick <= now {
            let due = (rate * (TICK * tick).as_secs_f64()) as u64;
            state.send(&mut talkers, pairs, total, due, TICK * tick);
            (total, tick) = (total.max(due), tick + 1);
        }
        for publisher in talkers.iter_mut().skip(pairs) {
            if publisher.backlog_bytes() > 0 {
                publisher.flush()?;
            }
            if publisher.backlog_bytes() > BACKLOG_BYTES_MAX {
                return Err(Error::Stalled {
                    what: format!("publishing {rate:.0} messages/s: the rate is too high"),
                    seconds: base.elapsed().as_secs(),
                });
            }
        }
        match poll.poll(&mut events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Error::io("waiting for events", error));
            }
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            if let Some(talker) = talkers.get_mut(index) {
                talker.receive(&mut scratch, |message, _| state.receive(index, message.payload, base))?;
                talker.flush()?;
            }
        }
        if let Some(done) = result.take() {
            if state.received == state.sent {
                return Ok(done);
            }
            if clock.elapsed() > timing.measured + Duration::from_secs(DRAIN_SECONDS_MAX) {
                return Err(Error::NotDelivered {
                    what: "the open loop's subscribers".to_owned(),
                    received: state.received.iter().sum(),
                    expected: state.sent.iter().sum(),
                });
            }
            result = Some(done);
        }
    }
}

struct OpenLoop {
    received: Vec<u64>,
    sent: Vec<u64>,
    latencies: Latencies,
    delivered: u64,
}

impl OpenLoop {
    /// Puts messages `from..to` into the publishers' outboxes, evenly.
    fn send(&mut self, talkers: &mut [Talker], pairs: usize, from: u64, to: u64, due: Duration) {
        for number in from..to {
            let pair = (number % pairs as u64) as usize;
            if let (Some(talker), Some(sent)) = (talkers.get_mut(pairs + pair), self.sent.get_mut(pair)) {
                let mut payload = [b'x'; PAYLOAD_BYTES];
                payload[..8].copy_from_slice(&(due.as_nanos() as u64).to_le_bytes());
                payload[8..16].copy_from_slice(&sent.to_le_bytes());
                *sent += 1;
                talker.outbox.extend_from_slice(format!("PUB open.{pair} {PAYLOAD_BYTES}\r\n").as_bytes());
                talker.outbox.extend_from_slice(&payload);
                talker.outbox.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Checks the order and takes the time.
    fn receive(&mut self, pair: usize, payload: &[u8], base: Instant) -> Result<(), Error> {
        let (Some((due, rest)), Some(received)) =
            (payload.split_first_chunk::<8>(), self.received.get_mut(pair))
        else {
            return Err(Error::protocol("a message of another size", payload));
        };
        let sequence = rest.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
        if sequence != Some(*received) {
            return Err(Error::NotDelivered {
                what: format!("subscriber {pair}, message out of order"),
                received: sequence.unwrap_or(0),
                expected: *received,
            });
        }
        *received += 1;
        self.delivered += 1;
        let now = base.elapsed().as_nanos() as u64;
        self.latencies.record(now.saturating_sub(u64::from_le_bytes(*due)));
        Ok(())
    }
}

/// A client that sends itself a message every `pause` for `time`: what a light user feels.
///
/// # Errors
/// When a message does not come back.
pub fn light_client(endpoint: &Endpoint, time: Duration, pause: Duration) -> Result<Latencies, Error> {
    let mut connection = endpoint.connect(None)?;
    connection.subscribe(b"SUB light.client 1\r\n")?;
    let mut latencies = Latencies::new();
    let start = Instant::now();
    let mut sequence = 0_u64;
    while start.elapsed() < time {
        let payload = format!("{sequence:016}");
        sequence += 1;
        let asked = Instant::now();
        connection.send(format!("PUB light.client 16\r\n{payload}\r\n").as_bytes())?;
        if !connection.wait_for_message(payload.as_bytes())? {
            return Err(Error::NotDelivered {
                what: "the light client".to_owned(),
                received: 0,
                expected: 1,
            });
        }
        latencies.record(asked.elapsed().as_nanos() as u64);
        std::thread::sleep(pause);
    }
    Ok(latencies)
}
