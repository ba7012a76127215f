//! No bytes of a client make a worker panic, reach another client malformed, or leave interest behind.
#![no_main]

use broker::{Broker, CloseReason, Mailbox};
use engine::{Accepted, Settings, Worker};
use libfuzzer_sys::fuzz_target;
use starling_fuzz::{NoBell, Written, check, feed};
use std::sync::Arc;

fn connect(worker: &mut Worker, broker: &Broker) -> (u32, Written) {
    let (token, written) = (worker.next_token(), Written::default());
    worker
        .accept(Accepted::client(broker.next_id(), Box::new(written.clone()), Default::default(), vec![]), 1);
    (token, written)
}

fuzz_target!(|data: &[u8]| {
    let Some((chunk, data)) = data.split_first() else { return };
    let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(NoBell)))], 3);
    let mut worker = Worker::new(0, broker.clone(), Arc::new(Settings::default()), 3);
    let (listener, heard) = connect(&mut worker, &broker);
    feed(
        &mut worker,
        listener,
        b"CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}\r\nSUB > 1\r\n",
        999,
    );
    let (speaker, _) = connect(&mut worker, &broker);
    feed(&mut worker, speaker, data, *chunk as usize + 1);
    for command in broker.mailboxes()[0].take() {
        worker.command(command);
    }
    worker.flush(true);
    check(&heard.0.lock().unwrap(), &[b"1"]);
    worker.close(speaker, CloseReason::ClientClosed);
    worker.close(listener, CloseReason::ClientClosed);
    assert!(broker.account("$G").read(|interest| interest.is_empty()));
});
