//! Owns connection load: storms of short connections, and crowds that stay and do nothing.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::Error;
use crate::link::{Connection, Endpoint, Transport};
use crate::process::{Stopwatch, Usage};
use crate::statistics::Latencies;
use crate::traffic::{Timed, Timing};

/// Connections being made at a time.
const UNDER_WAY: usize = 128;

struct Guest {
    transport: Transport,
    started: Instant,
    received: Vec<u8>,
    greeted: bool,
}

/// Connects, waits for INFO, greets, waits for PONG, closes; 128 of these at a time. Latency is from the
/// first packet to the PONG.
///
/// # Errors
/// When a connection is refused or not answered.
pub fn storm(endpoint: &Endpoint, timing: Timing, usage: &dyn Fn() -> Usage) -> Result<Timed, Error> {
    let mut poll = Poll::new().map_err(|source| Error::io("opening epoll", source))?;
    let mut events = Events::with_capacity(UNDER_WAY * 2);
    let hello = endpoint.hello();
    let mut number = 0;
    let mut guests = Vec::with_capacity(UNDER_WAY);
    for slot in 0..UNDER_WAY {
        guests.push(arrive(endpoint, number, slot, &poll)?);
        number += 1;
    }
    let mut latencies = Latencies::new();
    let (mut done, mut measuring) = (0, false);
    let mut watch = Stopwatch::start(usage);
    let mut last = Instant::now();
    loop {
        if !measuring && watch.elapsed() >= timing.warm {
            measuring = true;
            done = 0;
            latencies.clear();
            watch = Stopwatch::start(usage);
        } else if measuring && watch.elapsed() >= timing.measured {
            break;
        }
        match poll.poll(&mut events, Some(Duration::from_millis(5))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(Error::io("waiting for events", error));
            }
            _ => {}
        }
        for event in &events {
            let slot = event.token().0;
            let Some(guest) = guests.get_mut(slot) else {
                continue;
            };
            if !guest.talk(&hello)? {
                continue;
            }
            latencies.record(guest.started.elapsed().as_nanos() as u64);
            done += 1;
            last = Instant::now();
            // Replacing closes the old connection; a stale event finds the new one and does no harm.
            *guest = arrive(endpoint, number, slot, &poll)?;
            number += 1;
        }
        if last.elapsed() >= timing.patience {
            return Err(Error::Stalled {
                what: format!("connecting ({done} done)"),
                seconds: timing.patience.as_secs(),
            });
        }
    }
    Ok(Timed { spent: watch.stop(done, usage), latencies })
}

fn arrive(endpoint: &Endpoint, number: usize, slot: usize, poll: &Poll) -> Result<Guest, Error> {
    let socket = endpoint.socket(Some(number))?;
    socket.set_nonblocking(true).map_err(|source| Error::io("setting O_NONBLOCK", source))?;
    // EINPROGRESS (115 on Linux) is how a connect that does not block begins.
    match socket.connect(&endpoint.address.into()) {
        Err(error) if error.raw_os_error() != Some(115) && error.kind() != io::ErrorKind::WouldBlock => {
            return Err(Error::io(format!("connecting to {}", endpoint.address), error));
        }
        _ => {}
    }
    let stream = mio::net::TcpStream::from_std(std::net::TcpStream::from(socket));
    let mut guest = Guest {
        transport: Transport::of(stream),
        started: Instant::now(),
        received: Vec::new(),
        greeted: false,
    };
    poll.registry()
        .register(guest.transport.source(), Token(slot), Interest::READABLE)
        .map_err(|source| Error::io("registering with epoll", source))?;
    Ok(guest)
}

impl Guest {
    /// Goes on as far as it can; `true` when the PONG is there.
    fn talk(&mut self, hello: &[u8]) -> Result<bool, Error> {
        let mut buffer = [0_u8; 4096];
        loop {
            match self.transport.read(&mut buffer) {
                Ok(0) => {
                    return Err(Error::Closed {
                        what: "a newcomer".to_owned(),
                        detail: String::from_utf8_lossy(&self.received).into_owned(),
                    });
                }
                Ok(read) => self.received.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) => return Err(Error::io("connecting a newcomer", error)),
            }
        }
        if !self.greeted && self.received.ends_with(b"\n") {
            self.greeted = true;
            let sent = self.transport.write(hello).map_err(|source| Error::io("greeting", source))?;
            if sent < hello.len() {
                return Err(Error::Unsupported("the system took only half a CONNECT"));
            }
            self.received.clear();
        }
        if self.received.starts_with(b"-ERR") {
            return Err(Error::Refused {
                what: "a newcomer".to_owned(),
                error: String::from_utf8_lossy(&self.received).trim().to_owned(),
            });
        }
        Ok(self.received.windows(6).any(|bytes| bytes == b"PONG\r\n"))
    }
}

/// Connects `count` clients that stay and do nothing, from addresses spread over loopback.
///
/// # Errors
/// When one of them is refused.
pub fn crowd(endpoint: &Endpoint, count: usize) -> Result<Vec<Connection>, Error> {
    (0..count).map(|number| endpoint.connect(Some(number))).collect()
}
