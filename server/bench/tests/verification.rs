//! What the bench promises: no figure rests on messages that were lost, doubled or refused. Proven
//! against a small relay that can be told to misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::Error;
use bench::block::Block;
use bench::exchange::request_reply;
use bench::link::Endpoint;
use bench::load::Load;
use bench::paced::{light_client, open_loop};
use bench::process::Usage;
use bench::storm::storm;
use bench::traffic::{Delivery, Flow, Party, Reads, Timing, Traffic};

/// How the relay treats every hundredth delivery (or, for the last, every subscription).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    Loses,
    Doubles,
    HangsUp,
    Garbles,
    Refuses,
}

struct Subscription {
    pattern: String,
    queue: bool,
    sid: String,
    stream: Arc<Mutex<TcpStream>>,
}

struct Relay {
    manner: Manner,
    subscriptions: Mutex<Vec<Subscription>>,
    delivered: AtomicU64,
}

/// Starts a relay; its threads end with the test process.
fn relay(manner: Manner) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let relay = Arc::new(Relay { manner, subscriptions: Mutex::default(), delivered: AtomicU64::new(0) });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let relay = Arc::clone(&relay);
            std::thread::spawn(move || relay.serve(stream));
        }
    });
    Endpoint::plain(address)
}

impl Relay {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let writer = Arc::new(Mutex::new(stream));
        writer.lock().ok()?.write_all(b"INFO {}\r\n").ok()?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["PING"] => writer.lock().ok()?.write_all(b"PONG\r\n").ok()?,
                ["SUB", ..] if self.manner == Manner::Refuses => {
                    writer.lock().ok()?.write_all(b"-ERR 'Permissions Violation'\r\n").ok()?
                }
                ["SUB", pattern, rest @ .., sid] => {
                    self.subscriptions.lock().ok()?.push(Subscription {
                        pattern: (*pattern).to_owned(),
                        queue: !rest.is_empty(),
                        sid: (*sid).to_owned(),
                        stream: Arc::clone(&writer),
                    });
                }
                ["PUB", subject, reply @ .., size] => {
                    let mut payload = vec![0; size.parse::<usize>().ok()? + 2];
                    reader.read_exact(&mut payload).ok()?;
                    self.deliver(subject, reply.first().copied(), &payload)?;
                }
                _ => {}
            }
        }
    }

    fn deliver(&self, subject: &str, reply: Option<&str>, payload: &[u8]) -> Option<()> {
        let subscriptions = self.subscriptions.lock().ok()?;
        for subscription in subscriptions.iter() {
            let matches = subscription
                .pattern
                .strip_suffix('*')
                .map_or(subject == subscription.pattern, |start| subject.starts_with(start));
            if !matches {
                continue;
            }
            let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
            let mut message =
                format!("MSG {subject} {} {reply}{}\r\n", subscription.sid, payload.len() - 2).into_bytes();
            message.extend_from_slice(payload);
            let number = self.delivered.fetch_add(1, Ordering::Relaxed);
            let mut stream = subscription.stream.lock().ok()?;
            if number % 100 == 99 {
                match self.manner {
                    Manner::Loses => continue,
                    Manner::Doubles => stream.write_all(&message).ok()?,
                    Manner::HangsUp => stream.shutdown(std::net::Shutdown::Both).ok()?,
                    Manner::Garbles => message.insert(4, b'\n'),
                    Manner::Honest | Manner::Refuses => {}
                }
            }
            // A reader that went away is its own loss.
            let _ = stream.write_all(&message);
            if subscription.queue {
                break;
            }
        }
        Some(())
    }
}

const TIMING: Timing = Timing {
    warm: Duration::from_millis(30),
    measured: Duration::from_millis(150),
    patience: Duration::from_secs(2),
};

fn no_usage() -> Usage {
    Usage::default()
}

fn stream(manner: Manner, traffic: &Traffic) -> Result<Flow, Error> {
    Load::open(&[relay(manner)], traffic)?.run(TIMING, &no_usage)
}

fn fan_out(readers: usize) -> Traffic {
    let mut parties: Vec<Party> = (0..readers).map(|index| Party::subscriber(0, "fan", index + 1)).collect();
    parties.push(Party::publisher(0, Block::one_subject("fan", 16)));
    Traffic { parties, ..Traffic::default() }
}

#[test]
fn an_honest_server_is_measured() {
    let flow = stream(Manner::Honest, &fan_out(3)).unwrap();
    assert!(flow.delivered > 100, "{flow:?}");
    assert!(flow.published_in_all >= flow.published);
    assert!(flow.spent.rate() > 0.0 && flow.spent.seconds >= 0.15);
}

#[test]
fn a_lost_message_fails_the_run() {
    // Waits as long as a slow server might take, then says how many are missing.
    let error = stream(Manner::Loses, &fan_out(2)).unwrap_err();
    let Error::NotDelivered { received, expected, .. } = error else {
        panic!("{error}");
    };
    assert!(received < expected);
}

#[test]
fn a_doubled_message_fails_the_run() {
    let error = stream(Manner::Doubles, &fan_out(2)).unwrap_err();
    let Error::NotDelivered { received, expected, .. } = error else {
        panic!("{error}");
    };
    assert!(received > expected);
}

#[test]
fn a_reader_cut_off_fails_the_run() {
    let error = stream(Manner::HangsUp, &fan_out(2)).unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[test]
fn bytes_out_of_step_fail_the_run() {
    let error = stream(Manner::Garbles, &fan_out(2)).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[test]
fn a_refused_subscription_fails_before_the_clock_starts() {
    let error = stream(Manner::Refuses, &fan_out(1)).unwrap_err();
    assert!(error.to_string().contains("Permissions Violation"), "{error}");
}

#[test]
fn a_queue_group_counts_each_message_once() {
    let mut parties: Vec<Party> = (1..=3).map(|sid| Party::subscriber(0, "q workers", sid)).collect();
    parties.push(Party::publisher(0, Block::one_subject("q", 16)));
    let traffic = Traffic { parties, deliveries: vec![Delivery::One], ..Traffic::default() };
    assert!(stream(Manner::Honest, &traffic).unwrap().delivered > 0);
    assert!(stream(Manner::Doubles, &traffic).is_err());
}

#[test]
fn a_slow_reader_is_not_counted_but_must_get_everything_or_be_cut_off() {
    let mut traffic = fan_out(1);
    let mut slow = Party::subscriber(0, "fan", 7);
    slow.reads = Reads::BytesPerSecond(1 << 20);
    traffic.parties.push(slow);
    let flow = stream(Manner::Honest, &traffic).unwrap();
    assert_eq!(flow.cut_off, 0);
    assert!(stream(Manner::Loses, &traffic).is_err());
}

#[test]
fn publishers_without_readers_are_counted_by_what_the_server_took() {
    let traffic =
        Traffic { parties: vec![Party::publisher(0, Block::one_subject("p", 16))], ..Traffic::default() };
    // No warm-up: the relay is slow, and the sockets' buffers may already be full after one.
    let timing = Timing { warm: Duration::ZERO, ..TIMING };
    let flow = Load::open(&[relay(Manner::Honest)], &traffic).unwrap().run(timing, &no_usage).unwrap();
    assert!(flow.delivered == 0 && flow.published > 0);
    assert_eq!(flow.spent.units, flow.published);
}

#[test]
fn every_request_is_answered_by_its_own_answer() {
    let endpoint = relay(Manner::Honest);
    let done = request_reply(&endpoint, 3, TIMING, &no_usage).unwrap();
    assert!(done.spent.units > 10);
    assert_eq!(done.latencies.count(), done.spent.units);
    assert!(request_reply(&relay(Manner::Doubles), 3, TIMING, &no_usage).is_err());
    assert!(request_reply(&relay(Manner::Loses), 1, TIMING, &no_usage).is_err());
}

#[test]
fn an_open_loop_keeps_its_rate_and_notices_loss() {
    let paced = open_loop(&relay(Manner::Honest), 2, 2_000.0, TIMING, &no_usage).unwrap();
    assert!((1.0..4_000.0).contains(&paced.spent.rate()), "{}", paced.spent.rate());
    assert!(paced.latencies.microseconds_at(50.0) > 0.0);
    assert!(open_loop(&relay(Manner::Loses), 2, 2_000.0, TIMING, &no_usage).is_err());
}

#[test]
fn a_light_client_and_a_storm_see_latencies() {
    let endpoint = relay(Manner::Honest);
    let light = light_client(&endpoint, Duration::from_millis(50), Duration::from_millis(1));
    assert!(light.unwrap().count() > 3);
    let storm = storm(&endpoint, TIMING, &no_usage).unwrap();
    assert!(storm.spent.units > 10, "{}", storm.spent.units);
}
