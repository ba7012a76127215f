//! What a client with many subscriptions costs the others of its worker when it goes.

use broker::{Broker, CloseReason, Mailbox, Transport, Wake};
use engine::{Accepted, Progress, Settings, Worker};
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::sync::Arc;

const NOW_NANOS: u64 = 1_000_000_000;

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl Transport for Wire {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut bytes = self.0.lock();
        let before = bytes.len();
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        Ok(bytes.len() - before)
    }

    fn rearm(&self) {}

    fn shutdown(&self) {}
}

struct Silent;

impl Wake for Silent {
    fn wake(&self) {}
}

fn connect(broker: &Broker, worker: &mut Worker) -> (u32, Wire) {
    let wire = Wire::default();
    let accepted = Accepted::client(
        broker.next_id(),
        Box::new(wire.clone()),
        Default::default(),
        b"INFO {}\r\n".to_vec(),
    );
    let token = worker.next_token();
    assert!(worker.accept(accepted, NOW_NANOS).is_some());
    send(worker, token, "CONNECT {\"verbose\":false}\r\n");
    (token, wire)
}

fn send(worker: &mut Worker, token: u32, text: &str) {
    for part in text.as_bytes().chunks(16 << 10) {
        worker.room(token).unwrap()[..part.len()].copy_from_slice(part);
        assert_eq!(worker.received(token, part.len(), false, false, NOW_NANOS), Progress::Open);
    }
    worker.flush(true);
}

#[test]
fn who_goes_with_many_subscriptions_holds_up_nobody_and_leaves_nothing() {
    let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(Silent)))], 7);
    let mut worker = Worker::new(0, broker.clone(), Arc::new(Settings::default()), 7);
    let account = broker.account(broker::registry::GLOBAL_ACCOUNT);
    let (holder, _) = connect(&broker, &mut worker);
    let (other, wire) = connect(&broker, &mut worker);
    let subscribe: String = (0..10_000).map(|n| format!("SUB unit.{n} {n}\r\n")).collect();
    send(&mut worker, holder, &subscribe);
    send(&mut worker, other, "SUB unit.9999 1\r\n");
    assert_eq!(account.read(|interest| interest.len()), 10_001);

    worker.close(holder, CloseReason::ClientClosed);
    assert_eq!(broker.links().len(), 1, "it is gone for whoever looks");
    assert!(account.read(|interest| interest.len()) > 5_000, "its subscriptions go a part at a time");
    wire.0.lock().clear();
    send(&mut worker, other, "PUB unit.9999 2\r\nhi\r\n");
    assert_eq!(*wire.0.lock(), b"MSG unit.9999 1 2\r\nhi\r\n", "between the parts others are served");

    // what the driver does each round
    let mut rounds = 0;
    while worker.flush_waiting(0) {
        rounds += 1;
        assert!(rounds < 100, "it goes on for ever");
    }
    assert!(rounds > 3);
    assert_eq!(account.read(|interest| interest.len()), 1);
    // a newcomer takes its place in the registry, and gets nothing that was for it
    let (newcomer, wire) = connect(&broker, &mut worker);
    wire.0.lock().clear();
    send(&mut worker, newcomer, "PUB unit.5 2\r\nhi\r\n");
    assert!(wire.0.lock().is_empty());
}
