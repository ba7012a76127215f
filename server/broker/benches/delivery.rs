//! Time to deliver a message once it is parsed: plan cache hit and miss, rendering, queue draw.
//!
//! `cargo bench -p starling-broker`

use broker::router::READ_PADDING;
use broker::{Account, Broker, Link, LinkKind, Mailbox, Router, Transport, Wake};
use divan::Bencher;
use divan::counter::ItemsCount;
use std::io::{self, IoSlice};
use std::sync::Arc;
use wire::client::{Limits, Op, Publish, Step, parse};

fn main() {
    divan::main();
}

const MESSAGES: usize = 500;

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

struct Scene {
    broker: Arc<Broker>,
    account: Arc<Account>,
    router: Router,
    publisher: Arc<Link>,
}

impl Scene {
    fn new() -> Scene {
        let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(NoBell)))], 7);
        let (account, router) = (broker.account("$G"), Router::new(broker.clone(), 7));
        let publisher = broker.open(LinkKind::Client, 0, 0, 1, Box::new(Sink), Default::default());
        Scene { broker, account, router, publisher }
    }

    fn subscribe(&mut self, filter: &str, queue: Option<&[u8]>, sid: usize) {
        let link =
            self.broker.open(LinkKind::Client, 0, 0, sid as u64 + 2, Box::new(Sink), Default::default());
        let sid = sid.to_string();
        self.account.subscribe(&link, filter.as_bytes(), queue, sid.as_bytes(), &mut Vec::new());
    }

    /// Delivers a batch of messages, parsed beforehand, over and over.
    fn deliver(mut self, bencher: Bencher<'_, '_>, subject: impl Fn(usize) -> String, payload_bytes: usize) {
        let payload = "x".repeat(payload_bytes);
        let mut read = Vec::new();
        for number in 0..MESSAGES {
            read.extend(format!("PUB {} {payload_bytes}\r\n{payload}\r\n", subject(number)).as_bytes());
        }
        let publishes = parsed(&read);
        read.resize(read.len() + READ_PADDING, 0);
        let scope = self.router.scope(&self.account, LinkKind::Client, None);
        self.router.begin(1, false, false);
        bencher.counter(ItemsCount::new(MESSAGES)).bench_local(move || {
            for publish in &publishes {
                divan::black_box(self.router.publish(scope, &read, publish));
            }
            self.router.finish(&self.publisher, &read);
            self.router.flush(true);
        });
    }
}

fn parsed(read: &[u8]) -> Vec<Publish> {
    let (mut publishes, mut at) = (Vec::new(), 0);
    while let Ok(Step::Op(Op::Publish(publish), used)) = parse(read, at, &Limits::default()) {
        publishes.push(publish);
        at += used;
    }
    assert_eq!(publishes.len(), MESSAGES);
    publishes
}

#[divan::bench]
fn plan_cache_hit_without_receiver(bencher: Bencher<'_, '_>) {
    Scene::new().deliver(bencher, |_| "bulk.data".into(), 16);
}

/// Subjects too long to be cached: each message matches anew, and finds the plan of its set of receivers.
#[divan::bench]
fn plan_cache_miss(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new();
    scene.subscribe("_INBOX.>", None, 1);
    scene.deliver(bencher, |number| format!("_INBOX.{number:010}.a-subject-over-thirty-six-bytes"), 16);
}

#[divan::bench(args = [16, 128, 1024, 16_384])]
fn render_for_one(bencher: Bencher<'_, '_>, payload_bytes: usize) {
    let mut scene = Scene::new();
    scene.subscribe("bulk.data", None, 1);
    scene.deliver(bencher, |_| "bulk.data".into(), payload_bytes);
}

#[divan::bench]
fn render_for_ten(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new();
    for sid in 0..10 {
        scene.subscribe("bulk.data", None, sid);
    }
    scene.deliver(bencher, |_| "bulk.data".into(), 128);
}

#[divan::bench]
fn draw_from_a_group_of_eight(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new();
    for sid in 0..8 {
        scene.subscribe("bulk.data", Some(b"workers"), sid);
    }
    scene.deliver(bencher, |_| "bulk.data".into(), 128);
}
