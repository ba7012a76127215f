//! No bytes of a client make a worker panic, reach another client malformed, or leave interest behind.
#![no_main]

use broker::{Broker, CloseReason, Mailbox, Transport, Wake};
use engine::{Accepted, Progress, Settings, Worker};
use libfuzzer_sys::fuzz_target;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Transport for Written {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        slices.iter().for_each(|slice| written.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn rearm(&self) {}

    fn shutdown(&self) {}
}

struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

fn connect(worker: &mut Worker, broker: &Broker) -> (u32, Written) {
    let (token, written) = (worker.next_token(), Written::default());
    worker
        .accept(Accepted::client(broker.next_id(), Box::new(written.clone()), Default::default(), vec![]), 1);
    (token, written)
}

fn feed(worker: &mut Worker, token: u32, bytes: &[u8], chunk: usize) -> Progress {
    let mut progress = Progress::Open;
    for mut piece in bytes.chunks(chunk) {
        while !piece.is_empty() {
            let Some(room) = worker.room(token) else { return progress };
            let (size, read) = (room.len(), room.len().min(piece.len()));
            room[..read].copy_from_slice(&piece[..read]);
            piece = &piece[read..];
            progress = worker.received(token, read, read == size, false, 1);
        }
    }
    progress
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
    check(&heard.0.lock().unwrap());
    worker.close(speaker, CloseReason::ClientClosed);
    worker.close(listener, CloseReason::ClientClosed);
    assert!(broker.account("$G").read(|interest| interest.is_empty()));
});

/// What the listener got is a row of whole operations.
fn check(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line ends");
        let words: Vec<&[u8]> = bytes[..end].split(|byte| *byte == b' ').collect();
        bytes = &bytes[end + 2..];
        let size = |word: &[u8]| std::str::from_utf8(word).unwrap().parse::<usize>().unwrap();
        match (words[0], words.len()) {
            (b"MSG", 4 | 5) | (b"HMSG", 5 | 6) => {
                assert_eq!(words[2], b"1");
                let total = size(words[words.len() - 1]);
                assert_eq!(&bytes[total..total + 2], b"\r\n");
                bytes = &bytes[total + 2..];
            }
            (b"INFO" | b"PONG" | b"PING", _) => {}
            other => panic!("{other:?}"),
        }
    }
}
