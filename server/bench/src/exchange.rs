//! Owns request-reply load: each requestor has one request under way, one responder answers all.
//! Every answer is checked to be for the request it was sent for.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::Error;
use crate::block::publish;
use crate::link::Endpoint;
use crate::process::{Stopwatch, Usage};
use crate::statistics::Latencies;
use crate::talker::Talker;
use crate::traffic::{Timed, Timing};

struct Requestor {
    talker: Talker,
    request: Vec<u8>,
    asked: Instant,
    /// Sequence number of the request under way; answers carry it.
    sequence: u64,
}

impl Requestor {
    fn ask(&mut self) {
        self.sequence += 1;
        let digits = format!("{:016}", self.sequence);
        // The payload is the sixteen bytes before the line end.
        let start = self.request.len().saturating_sub(18);
        if let Some(place) = self.request.get_mut(start..start + 16) {
            place.copy_from_slice(digits.as_bytes());
        }
        self.talker.outbox.extend_from_slice(&self.request);
        self.asked = Instant::now();
    }

    /// Reads; `true` when the answer to the request under way is there.
    fn take_answer(&mut self, scratch: &mut [u8]) -> Result<bool, Error> {
        let expected = self.sequence;
        let mut answers = 0;
        self.talker.receive(scratch, |message, _| {
            answers += 1;
            check(message.payload, expected)
        })?;
        if answers > 1 {
            return Err(Error::NotDelivered {
                what: "answers to one request".to_owned(),
                received: answers,
                expected: 1,
            });
        }
        Ok(answers == 1)
    }
}

/// Runs `count` requestors against one responder. Latency is from sending a request to reading its
/// answer.
///
/// # Errors
/// When an answer is missing, wrong or doubled, or a connection breaks.
pub fn request_reply(
    endpoint: &Endpoint,
    count: usize,
    timing: Timing,
    usage: &dyn Fn() -> Usage,
) -> Result<Timed, Error> {
    let mut exchange = Exchange::open(endpoint, count, timing.patience)?;
    let mut phase = Phase::Warm;
    let mut watch = Stopwatch::start(usage);
    while exchange.under_way > 0 {
        let elapsed = watch.elapsed();
        if phase == Phase::Warm && elapsed >= timing.warm {
            phase = Phase::Measured;
            exchange.latencies.clear();
            exchange.requests = 0;
            watch = Stopwatch::start(usage);
        } else if phase == Phase::Measured && elapsed >= timing.measured {
            phase = Phase::Over;
            exchange.done = Some(Timed {
                spent: watch.stop(exchange.requests, usage),
                latencies: std::mem::take(&mut exchange.latencies),
            });
        }
        exchange.turn(phase)?;
    }
    exchange.done.ok_or(Error::Unsupported("no requestors"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warm,
    Measured,
    /// Answered requests are not followed by others.
    Over,
}

struct Exchange {
    poll: Poll,
    events: Events,
    responder: Talker,
    requestors: Vec<Requestor>,
    scratch: Vec<u8>,
    requests: u64,
    latencies: Latencies,
    /// Requests not answered yet.
    under_way: usize,
    last_event: Instant,
    patience: Duration,
    done: Option<Timed>,
}

impl Exchange {
    /// Connects all and sends the first requests.
    fn open(endpoint: &Endpoint, count: usize, patience: Duration) -> Result<Self, Error> {
        let poll = Poll::new().map_err(|source| Error::io("opening epoll", source))?;
        let mut service = endpoint.connect(None)?;
        service.subscribe(b"SUB bench.service 1\r\n")?;
        let responder = Talker::new(service, "the responder", poll.registry(), count)?;
        let mut requestors = Vec::with_capacity(count);
        for index in 0..count {
            requestors.push(requestor(endpoint, index, &poll)?);
        }
        for requestor in &mut requestors {
            requestor.ask();
            requestor.talker.flush()?;
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            responder,
            requestors,
            scratch: vec![0; 64 * 1024],
            requests: 0,
            latencies: Latencies::new(),
            under_way: count,
            last_event: Instant::now(),
            patience,
            done: None,
        })
    }

    /// Handles what has arrived.
    fn turn(&mut self, phase: Phase) -> Result<(), Error> {
        match self.poll.poll(&mut self.events, Some(Duration::from_millis(5))) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Error::io("waiting for events", error));
            }
            _ => {}
        }
        if !self.events.is_empty() {
            self.last_event = Instant::now();
        } else if self.last_event.elapsed() >= self.patience {
            return Err(Error::NotDelivered {
                what: "answers to the requests under way".to_owned(),
                received: 0,
                expected: self.under_way as u64,
            });
        }
        for event in &self.events {
            let Some(requestor) = self.requestors.get_mut(event.token().0) else {
                self.responder.receive(&mut self.scratch, answer)?;
                self.responder.flush()?;
                continue;
            };
            if requestor.take_answer(&mut self.scratch)? {
                self.requests += 1;
                self.latencies.record(requestor.asked.elapsed().as_nanos() as u64);
                if phase == Phase::Over {
                    self.under_way -= 1;
                } else {
                    requestor.ask();
                }
            }
            requestor.talker.flush()?;
        }
        Ok(())
    }
}

fn requestor(endpoint: &Endpoint, index: usize, poll: &Poll) -> Result<Requestor, Error> {
    let inbox = format!("_INBOX.bench{index:06}");
    let mut connection = endpoint.connect(None)?;
    connection.subscribe(format!("SUB {inbox}.* 1\r\n").as_bytes())?;
    let mut request = Vec::new();
    publish(&mut request, &format!("bench.service {inbox}.reply"), 16);
    Ok(Requestor {
        talker: Talker::new(connection, format!("requestor {index}"), poll.registry(), index)?,
        request,
        asked: Instant::now(),
        sequence: 0,
    })
}

/// Sends the payload back to where the request asks for it.
fn answer(message: &crate::frames::Message<'_>, outbox: &mut Vec<u8>) -> Result<(), Error> {
    let Some(reply) = message.reply else {
        return Err(Error::protocol("a request without reply subject", message.subject));
    };
    outbox.extend_from_slice(b"PUB ");
    outbox.extend_from_slice(reply);
    outbox.extend_from_slice(b" 16\r\n");
    outbox.extend_from_slice(message.payload);
    outbox.extend_from_slice(b"\r\n");
    Ok(())
}

fn check(payload: &[u8], expected: u64) -> Result<(), Error> {
    let sequence = std::str::from_utf8(payload).ok().and_then(|digits| digits.parse::<u64>().ok());
    if sequence == Some(expected) {
        Ok(())
    } else {
        Err(Error::protocol("an answer to another request", payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Message;

    #[test]
    fn an_answer_goes_where_the_request_asks() {
        let mut message = Message {
            subject: b"bench.service",
            sid: b"1",
            reply: Some(b"_INBOX.1"),
            payload: b"0000000000000001",
        };
        let mut outbox = Vec::new();
        answer(&message, &mut outbox).unwrap();
        assert_eq!(outbox, b"PUB _INBOX.1 16\r\n0000000000000001\r\n");
        message.reply = None;
        assert!(answer(&message, &mut outbox).is_err());
    }

    #[test]
    fn an_answer_to_another_request_is_an_error() {
        assert!(check(b"0000000000000007", 7).is_ok());
        assert!(check(b"0000000000000006", 7).is_err());
        assert!(check(b"x", 7).is_err());
    }
}
