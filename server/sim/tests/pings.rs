//! When a server asks its clients whether they are there, and how far away they are.

use broker::{Broker, CloseReason, Mailbox};
use engine::Settings;
use sim::driver::{Bell, Driver, Ring};
use sim::pipe::Pipe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const SECOND_NANOS: u64 = 1_000_000_000;
const INTERVAL_SECONDS: u64 = 120;

/// One client of one server, and a clock that is moved by hand.
struct Scene {
    broker: Arc<Broker>,
    driver: Driver,
    client: Arc<Pipe>,
    now_nanos: u64,
}

impl Scene {
    fn new() -> Scene {
        let bell = Arc::new(Bell::default());
        let mailbox = Arc::new(Mailbox::new(Box::new(Ring(bell.clone()))));
        let broker = Broker::new(vec![mailbox], 1);
        let mut driver = Driver::new(0, &broker, bell, Arc::new(Settings::default()), 1);
        let now_nanos = 1_000 * SECOND_NANOS;
        let (_, client) = driver.accept(broker.next_id(), (1 << 16, 1 << 16), now_nanos);
        let mut scene = Scene { broker, driver, client, now_nanos };
        scene.send("CONNECT {\"verbose\":false}\r\n");
        scene.heard();
        scene
    }

    fn send(&mut self, text: &str) {
        self.client.send(text.as_bytes());
        self.driver.round(self.now_nanos);
    }

    fn heard(&mut self) -> String {
        let mut bytes = Vec::new();
        self.client.receive(1 << 16, &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    /// What the client is told in the next seconds, and the second in which it is told.
    fn next(&mut self, seconds: u64) -> Option<(u64, String)> {
        (1..=seconds).find_map(|second| {
            self.now_nanos += SECOND_NANOS;
            self.driver.round(self.now_nanos);
            let text = self.heard();
            (!text.is_empty()).then_some((second, text))
        })
    }

    fn round_trip_nanos(&self) -> u64 {
        self.broker.links()[0].rtt_nanos.load(Relaxed)
    }
}

#[test]
fn the_first_ping_comes_early_and_its_answer_is_the_round_trip() {
    let mut scene = Scene::new();
    assert_eq!(scene.next(10), Some((2, "PING\r\n".into())));
    scene.now_nanos += 7_000_000;
    scene.send("PONG\r\n");
    assert_eq!(scene.round_trip_nanos(), 7_000_000);
    assert_eq!(
        scene.next(300),
        Some((INTERVAL_SECONDS, "PING\r\n".into())),
        "then after each interval of silence"
    );
}

/// Who sends is there; but how far away it is is measured again each hour, as nats-server does.
#[test]
fn a_busy_client_is_asked_once_an_hour() {
    let mut scene = Scene::new();
    scene.next(10).unwrap();
    scene.send("PONG\r\n");
    let mut minutes = 0;
    let (_, text) = loop {
        minutes += 1;
        assert!(minutes < 120, "never asked again");
        scene.send("PUB nobody 2\r\nhi\r\n");
        if let Some(told) = scene.next(60) {
            break told;
        }
    };
    assert_eq!(text, "PING\r\n");
    assert!((60..=62).contains(&minutes), "{minutes}");
    scene.now_nanos += 9_000_000;
    scene.send("PONG\r\n");
    assert_eq!(scene.round_trip_nanos(), 9_000_000);
}

#[test]
fn who_answers_no_ping_is_stale_at_the_third() {
    let mut scene = Scene::new();
    assert_eq!(scene.next(10), Some((2, "PING\r\n".into())));
    assert_eq!(scene.next(300), Some((INTERVAL_SECONDS, "PING\r\n".into())));
    assert_eq!(scene.next(300), Some((INTERVAL_SECONDS, "-ERR 'Stale Connection'\r\n".into())));
    let reasons: Vec<_> = scene.driver.closed.iter().map(|&(_, reason)| reason).collect();
    assert_eq!(reasons, [CloseReason::StaleConnection]);
}
