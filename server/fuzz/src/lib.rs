//! What the targets that drive a worker share: a transport that keeps what is written, and what every listener may
//! expect. Never drives anything by itself.

use broker::{Transport, Wake};
use engine::{Progress, Worker};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

/// Takes everything and keeps it.
#[derive(Clone, Default)]
pub struct Written(pub Arc<Mutex<Vec<u8>>>);

impl Transport for Written {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        slices.iter().for_each(|slice| written.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn rearm(&self) {}

    fn shutdown(&self) {}
}

/// Wakes nobody: a target looks into the mailbox itself.
pub struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

/// Lets a connection receive `bytes`, at most `chunk` of them at a time, until it takes no more.
pub fn feed(worker: &mut Worker, token: u32, bytes: &[u8], chunk: usize) -> Progress {
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

/// What a listener got is a row of whole operations, and its messages are for the subscriptions `sids`.
pub fn check(mut bytes: &[u8], sids: &[&[u8]]) {
    while !bytes.is_empty() {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line ends");
        let words: Vec<&[u8]> = bytes[..end].split(|byte| *byte == b' ').collect();
        bytes = &bytes[end + 2..];
        let size = |word: &[u8]| std::str::from_utf8(word).unwrap().parse::<usize>().unwrap();
        match (words[0], words.len()) {
            (b"MSG", 4 | 5) | (b"HMSG", 5 | 6) => {
                assert!(sids.contains(&words[2]), "{words:?}");
                let total = size(words[words.len() - 1]);
                assert_eq!(&bytes[total..total + 2], b"\r\n");
                bytes = &bytes[total + 2..];
            }
            (b"INFO" | b"PONG" | b"PING", _) => {}
            other => panic!("{other:?}"),
        }
    }
}
