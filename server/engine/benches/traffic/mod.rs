//! Fixed traffic for measuring: a worker whose connections lead nowhere, and bytes made beforehand.
//!
//! Owns the scenarios, so that wall time (`benches/worker.rs`) and instruction counts (`examples/instructions.rs`)
//! speak of the same work. Never measures anything.

use broker::{Broker, Mailbox, Transport, Wake};
use engine::{Accepted, Progress, Settings, Worker};
use std::io::{self, IoSlice};
use std::sync::Arc;

const NOW_NANOS: u64 = 1_000_000_000;
/// Bytes that a publisher sends at once: what one read takes.
const BATCH_BYTES: usize = 64 << 10;

/// Takes everything at once, as a socket with room does.
struct Sink;

impl Transport for Sink {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn rearm(&self) {}

    fn shutdown(&self) {}
}

struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

/// The names of all scenarios.
pub const NAMES: [&str; 13] = [
    "to-nobody-16B",
    "1-to-1-16B",
    "1-to-1-16B-in-small-reads",
    "1-to-1-1KB",
    "1-to-1-64KB",
    "1-to-1-headers",
    "1-to-1-message-id",
    "1-to-100-128B",
    "queue-of-8-128B",
    "1000-subjects-128B",
    "unique-subjects-16B",
    "subscribe-unsubscribe",
    "connect-close",
];

/// A worker and what it is fed with, again and again.
pub struct Traffic {
    broker: Arc<Broker>,
    worker: Worker,
    publisher: u32,
    batch: Vec<u8>,
    read_bytes: usize,
    /// Operations in one batch.
    pub operations: u64,
    kind: Kind,
    round: u64,
}

enum Kind {
    Batch,
    /// Each batch names subjects that were never seen.
    Unique,
    /// Connections that come and go.
    Connect,
}

impl Traffic {
    /// The scenario of that name, one of [`NAMES`].
    pub fn new(name: &str) -> Option<Traffic> {
        let mut traffic = Traffic::empty();
        match name {
            "to-nobody-16B" => traffic.batch(|_| message("bulk.data", 16)),
            "1-to-1-16B" => {
                traffic.subscriber("SUB bulk.data 1\r\n");
                traffic.batch(|_| message("bulk.data", 16));
            }
            "1-to-1-16B-in-small-reads" => {
                traffic.subscriber("SUB bulk.data 1\r\n");
                traffic.batch(|_| message("bulk.data", 16));
                traffic.read_bytes = 1_000;
            }
            "1-to-1-1KB" => {
                traffic.subscriber("SUB bulk.data 1\r\n");
                traffic.batch(|_| message("bulk.data", 1 << 10));
            }
            "1-to-1-64KB" => {
                traffic.subscriber("SUB bulk.data 1\r\n");
                traffic.batch(|_| message("bulk.data", 64 << 10));
            }
            "1-to-1-headers" => {
                traffic.subscriber("SUB bulk.data 1\r\n");
                traffic.batch(|_| {
                    "HPUB bulk.data 22 38\r\nNATS/1.0\r\nKey: abc\r\n\r\n0123456789abcdef\r\n".into()
                });
            }
            "1-to-1-message-id" => {
                traffic.subscriber("SUB bulk.data 1\r\n");
                traffic.batch(|number| {
                    let id = format!("NATS/1.0\r\nNats-Msg-Id: 0f1e2d3c-4b5a-6978-8796-{number:012}\r\n\r\n");
                    format!("HPUB bulk.data {} {}\r\n{id}0123456789abcdef\r\n", id.len(), id.len() + 16)
                });
            }
            "1-to-100-128B" => {
                for sid in 0..100 {
                    traffic.subscriber(&format!("SUB bulk.data {sid}\r\n"));
                }
                traffic.batch(|_| message("bulk.data", 128));
            }
            "queue-of-8-128B" => {
                for sid in 0..8 {
                    traffic.subscriber(&format!("SUB bulk.data workers {sid}\r\n"));
                }
                traffic.batch(|_| message("bulk.data", 128));
            }
            "1000-subjects-128B" => {
                for subject in 0..1000 {
                    traffic.subscriber(&format!("SUB bulk.data.{subject} 1\r\n"));
                }
                traffic.batch(|number| message(&format!("bulk.data.{}", number * 7 % 1000), 128));
            }
            "unique-subjects-16B" => {
                traffic.subscriber("SUB _INBOX.* 1\r\n");
                traffic.batch(|number| message(&format!("_INBOX.{:08}-{number:08}", 0), 16));
                traffic.kind = Kind::Unique;
            }
            "subscribe-unsubscribe" => {
                for number in 0..1000 {
                    traffic.subscriber(&format!("SUB other.{number} 1\r\n"));
                }
                traffic.batch(|number| format!("SUB bulk.{number}.* {number}\r\nUNSUB {number}\r\n"));
            }
            "connect-close" => {
                traffic.kind = Kind::Connect;
                traffic.operations = 100;
            }
            _ => return None,
        }
        Some(traffic)
    }

    fn empty() -> Traffic {
        let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(NoBell)))], 7);
        let worker = Worker::new(0, broker.clone(), Arc::new(Settings::default()), 7);
        let mut traffic = Traffic {
            broker,
            worker,
            publisher: 0,
            batch: Vec::new(),
            read_bytes: BATCH_BYTES,
            operations: 0,
            kind: Kind::Batch,
            round: 0,
        };
        traffic.publisher = traffic.connect();
        traffic
    }

    fn connect(&mut self) -> u32 {
        let token = self.worker.next_token();
        let id = self.broker.next_id();
        let accepted = Accepted::client(id, Box::new(Sink), Default::default(), b"INFO {}\r\n".to_vec());
        self.worker.accept(accepted, NOW_NANOS);
        let connect =
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"protocol\":1}\r\nPING\r\n";
        self.feed(token, connect);
        token
    }

    fn subscriber(&mut self, subscribe: &str) {
        let token = self.connect();
        self.feed(token, subscribe.as_bytes());
    }

    fn batch(&mut self, mut operation: impl FnMut(u64) -> String) {
        while self.batch.len() < BATCH_BYTES {
            self.batch.extend(operation(self.operations).as_bytes());
            self.operations += 1;
        }
    }

    fn feed(&mut self, token: u32, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.worker.room(token).expect("the connection is open");
            let size = room.len();
            let read = bytes.len().min(size).min(self.read_bytes);
            // in pieces: a long copy is one instruction to the processor and one a byte to valgrind
            for (to, from) in room[..read].chunks_mut(512).zip(bytes.chunks(512)) {
                to.copy_from_slice(&from[..to.len()]);
            }
            bytes = &bytes[read..];
            let progress = self.worker.received(token, read, read == size, false, NOW_NANOS);
            assert_eq!(progress, Progress::Open);
        }
        self.worker.flush(true);
    }

    /// Does the work of one batch, of [`operations`](Self::operations).
    pub fn run(&mut self) {
        self.round += 1;
        match self.kind {
            Kind::Batch => {}
            Kind::Unique => {
                // written over in place: making text anew would cost more than what is measured
                let round = format!("{:08}", self.round);
                let size = self.batch.len() / self.operations as usize;
                for message in self.batch.chunks_exact_mut(size) {
                    message["PUB _INBOX.".len()..][..8].copy_from_slice(round.as_bytes());
                }
            }
            Kind::Connect => {
                for _ in 0..self.operations {
                    let token = self.connect();
                    self.worker.close(token, broker::CloseReason::ClientClosed);
                }
                return;
            }
        }
        let batch = std::mem::take(&mut self.batch);
        self.feed(self.publisher, &batch);
        self.batch = batch;
    }
}

fn message(subject: &str, payload_bytes: usize) -> String {
    format!("PUB {subject} {payload_bytes}\r\n{}\r\n", "x".repeat(payload_bytes))
}
