//! Owns request-reply load: each requestor has one request under way, one responder answers all.
//! Every answer is checked to be for the request it was sent for.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::Error;
use crate::block::publish;
use crate::link::Endpoint;
use crate::load::Timing;
use crate::process::Usage;
use crate::statistics::Latencies;
use crate::talker::Talker;

/// No answer at all for so long: the run has failed.
const SILENT_SECONDS_MAX: u64 = 10;

/// What went through while the clock ran.
pub struct Exchanged {
    /// Requests answered.
    pub requests: u64,
    /// The measured time, seconds.
    pub seconds: f64,
    /// Processor time of the server.
    pub processor: Duration,
    /// Memory of the server at the end.
    pub usage: Usage,
    /// From sending the request to reading its answer.
    pub latencies: Latencies,
}

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
}

/// Runs `count` requestors against one responder.
///
/// # Errors
/// When an answer is missing, wrong or doubled, or a connection breaks.
pub fn request_reply(
    endpoint: &Endpoint,
    count: usize,
    timing: Timing,
    usage: &dyn Fn() -> Usage,
) -> Result<Exchanged, Error> {
    let mut poll = Poll::new().map_err(|source| Error::io("opening epoll", source))?;
    let mut events = Events::with_capacity(1024);
    let mut service = endpoint.connect(None)?;
    service.subscribe(b"SUB bench.service 1\r\n")?;
    let mut responder = Talker::new(service, "the responder", poll.registry(), count)?;
    let mut requestors = Vec::with_capacity(count);
    for index in 0..count {
        requestors.push(requestor(endpoint, index, &poll)?);
    }
    let mut scratch = vec![0; 64 * 1024];
    let mut exchanged = Exchanged {
        requests: 0,
        seconds: 0.0,
        processor: Duration::ZERO,
        usage: Usage::default(),
        latencies: Latencies::new(),
    };
    for requestor in &mut requestors {
        requestor.ask();
        requestor.talker.flush()?;
    }
    let mut clock = Instant::now();
    let mut last = Instant::now();
    let mut before = usage();
    let mut measuring = false;
    let mut open = count;
    while open > 0 {
        let now = Instant::now();
        if !measuring && now - clock >= timing.warm {
            measuring = true;
            exchanged.latencies.clear();
            exchanged.requests = 0;
            (clock, before) = (Instant::now(), usage());
        }
        let over = measuring && now - clock >= timing.measured;
        if over && exchanged.seconds == 0.0 {
            exchanged.seconds = clock.elapsed().as_secs_f64();
            exchanged.usage = usage();
            exchanged.processor = exchanged.usage.processor_since(&before);
        }
        match poll.poll(&mut events, Some(Duration::from_millis(5))) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Error::io("waiting for events", error));
            }
            _ => {}
        }
        if !events.is_empty() {
            last = now;
        } else if last.elapsed().as_secs() >= SILENT_SECONDS_MAX {
            return Err(Error::NotDelivered {
                what: "answers to the requests under way".to_owned(),
                received: 0,
                expected: open as u64,
            });
        }
        for event in &events {
            let Some(requestor) = requestors.get_mut(event.token().0) else {
                responder.receive(&mut scratch, answer)?;
                responder.flush()?;
                continue;
            };
            let expected = requestor.sequence;
            let mut answers = 0;
            requestor.talker.receive(&mut scratch, |message, _| {
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
            if answers == 1 {
                if exchanged.seconds == 0.0 {
                    let nanoseconds = requestor.asked.elapsed().as_nanos();
                    exchanged.requests += 1;
                    exchanged.latencies.record(nanoseconds as u64);
                }
                if over {
                    open -= 1;
                } else {
                    requestor.ask();
                }
            }
            requestor.talker.flush()?;
        }
    }
    Ok(exchanged)
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
