//! Owns latency under load that does not wait for the server: an open loop at a fixed rate, and one
//! light client beside whatever else is going on.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::Error;
use crate::link::Endpoint;
use crate::process::{Stopwatch, Usage};
use crate::statistics::Latencies;
use crate::talker::Talker;
use crate::traffic::{Timed, Timing};

/// Messages are due in bursts this far apart: finer would measure system calls, coarser queueing.
const TICK: Duration = Duration::from_micros(50);
/// A publisher that is so far behind shows that the rate is beyond the server.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
const PAYLOAD_BYTES: usize = 128;

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
) -> Result<Timed, Error> {
    let mut open = OpenLoop::connect(endpoint, pairs, rate)?;
    let warm_until = open.base + timing.warm;
    while Instant::now() < warm_until {
        open.turn(true)?;
    }
    open.latencies.clear();
    open.delivered = 0;
    let watch = Stopwatch::start(usage);
    while watch.elapsed() < timing.measured {
        open.turn(true)?;
    }
    let timed =
        Timed { spent: watch.stop(open.delivered, usage), latencies: std::mem::take(&mut open.latencies) };
    let drain_until = Instant::now() + timing.patience;
    while open.received != open.sent {
        if Instant::now() > drain_until {
            return Err(Error::NotDelivered {
                what: "the open loop's subscribers".to_owned(),
                received: open.received.iter().sum(),
                expected: open.sent.iter().sum(),
            });
        }
        open.turn(false)?;
    }
    Ok(timed)
}

struct OpenLoop {
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    /// Subscribers, then publishers, pair by pair.
    talkers: Vec<Talker>,
    received: Vec<u64>,
    sent: Vec<u64>,
    latencies: Latencies,
    delivered: u64,
    base: Instant,
    rate: f64,
    tick: u32,
    total: u64,
}

impl OpenLoop {
    fn connect(endpoint: &Endpoint, pairs: usize, rate: f64) -> Result<Self, Error> {
        let poll = Poll::new().map_err(|source| Error::io("opening epoll", source))?;
        let mut talkers = Vec::with_capacity(pairs * 2);
        for index in 0..pairs * 2 {
            let mut connection = endpoint.connect(None)?;
            if index < pairs {
                connection.subscribe(format!("SUB open.{index} 1\r\n").as_bytes())?;
            }
            let name = format!("client {index} of the open loop");
            talkers.push(Talker::new(connection, name, poll.registry(), index)?);
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(256),
            scratch: vec![0; 256 * 1024],
            talkers,
            received: vec![0; pairs],
            sent: vec![0; pairs],
            latencies: Latencies::new(),
            delivered: 0,
            base: Instant::now(),
            rate,
            tick: 0,
            total: 0,
        })
    }

    /// Sends what is due, reads what is there. Never sleeps: a wake-up would cost more than a tick.
    fn turn(&mut self, sending: bool) -> Result<(), Error> {
        while sending && TICK * self.tick <= self.base.elapsed() {
            self.send(TICK * self.tick);
            self.tick += 1;
        }
        for publisher in self.talkers.iter_mut().skip(self.sent.len()) {
            if publisher.backlog_bytes() > 0 {
                publisher.flush()?;
            }
            if publisher.backlog_bytes() > BACKLOG_BYTES_MAX {
                return Err(Error::Stalled {
                    what: format!("publishing {:.0} messages/s: too high a rate", self.rate),
                    seconds: self.base.elapsed().as_secs(),
                });
            }
        }
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Error::io("waiting for events", error));
            }
            _ => {}
        }
        for event in &self.events {
            let index = event.token().0;
            let Some(talker) = self.talkers.get_mut(index) else {
                continue;
            };
            let received = self.received.get_mut(index);
            let mut none = 0;
            let received = received.unwrap_or(&mut none);
            let (latencies, delivered, base) = (&mut self.latencies, &mut self.delivered, self.base);
            talker.receive(&mut self.scratch, |message, _| {
                let due = due_of(message.payload, *received)?;
                *received += 1;
                *delivered += 1;
                let now = base.elapsed().as_nanos() as u64;
                latencies.record(now.saturating_sub(due));
                Ok(())
            })?;
            talker.flush()?;
        }
        Ok(())
    }

    /// Puts the messages due until `due` into the publishers' outboxes, evenly.
    fn send(&mut self, due: Duration) {
        let pairs = self.sent.len();
        let until = (self.rate * due.as_secs_f64()) as u64;
        for number in self.total..until {
            let pair = (number % pairs as u64) as usize;
            let (Some(talker), Some(sent)) = (self.talkers.get_mut(pairs + pair), self.sent.get_mut(pair))
            else {
                continue;
            };
            let out = &mut talker.outbox;
            out.extend_from_slice(b"PUB open.");
            out.extend_from_slice(pair.to_string().as_bytes());
            out.extend_from_slice(b" 128\r\n");
            out.extend_from_slice(&payload_of(due.as_nanos() as u64, *sent));
            out.extend_from_slice(b"\r\n");
            *sent += 1;
        }
        self.total = self.total.max(until);
    }
}

/// A payload that carries when it was due (nanoseconds) and its number within the pair.
fn payload_of(due: u64, sequence: u64) -> [u8; PAYLOAD_BYTES] {
    let mut payload = [b'x'; PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&due.to_le_bytes());
    payload[8..16].copy_from_slice(&sequence.to_le_bytes());
    payload
}

/// When a message was due, provided that it is the one expected.
fn due_of(payload: &[u8], expected: u64) -> Result<u64, Error> {
    let (Some((due, rest)), PAYLOAD_BYTES) = (payload.split_first_chunk::<8>(), payload.len()) else {
        return Err(Error::protocol("a message of another size", payload));
    };
    let sequence = rest.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    if sequence != Some(expected) {
        return Err(Error::NotDelivered {
            what: "a subscriber's next message, by number".to_owned(),
            received: sequence.unwrap_or(0),
            expected,
        });
    }
    Ok(u64::from_le_bytes(*due))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_doubled_or_cut_message_is_an_error() {
        let payload = payload_of(77, 5);
        assert_eq!(due_of(&payload, 5).unwrap(), 77);
        assert!(due_of(&payload, 4).is_err());
        assert!(due_of(&payload, 6).is_err());
        assert!(due_of(&payload[..127], 5).is_err());
    }
}
