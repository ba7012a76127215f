//! The compression of one route, between the link's output and the socket.
//!
//! Owns what is compressed and not yet sent, and what is received and not yet plain. Never touches the socket: reading
//! and writing are passed in. Reader and writer are two threads at times, so each side has a lock of its own.

use parking_lot::Mutex;
use std::io::{self, IoSlice};
use wire::s2::{BLOCK_BYTES, Compressor, Decompressor, Level};

/// Compressed bytes that are taken from the socket at once.
const RECEIVED_BYTES: usize = 32 << 10;

/// Both directions of a connection.
pub struct Compression {
    reading: Mutex<Decompressor>,
    writing: Mutex<Writing>,
}

struct Writing {
    compressor: Compressor,
    /// Bytes that still go as they are.
    plain_bytes: usize,
    /// What goes to the socket next, up to `sent` gone already. Empty before anything is compressed, so that at most
    /// one block waits here; more stays in the link's output, where it is counted.
    framed: Vec<u8>,
    sent: usize,
}

impl Compression {
    /// From now on, but for the next `plain_bytes` that are written.
    pub fn new(level: Level, plain_bytes: usize) -> Compression {
        let compressor = Compressor::new(level);
        Compression {
            reading: Mutex::default(),
            writing: Mutex::new(Writing { compressor, plain_bytes, framed: Vec::new(), sent: 0 }),
        }
    }

    /// The level of what is written from now on.
    pub fn set_level(&self, level: Level) {
        self.writing.lock().compressor.set_level(level);
    }

    /// Takes compressed bytes that somebody read before it was clear what they are.
    pub fn unread(&self, bytes: &[u8]) {
        self.reading.lock().feed(bytes);
    }

    /// As `Socket::read`, of plain bytes.
    ///
    /// # Errors
    /// The connection broke, or what comes is no stream.
    pub fn read(
        &self,
        room: &mut [u8],
        receive: impl Fn(&mut [u8]) -> io::Result<Option<usize>>,
    ) -> io::Result<Option<usize>> {
        let mut reading = self.reading.lock();
        let mut received = [0; RECEIVED_BYTES];
        let mut filled = 0;
        loop {
            let plain = reading.read(&mut room[filled..]);
            filled += plain.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if filled == room.len() {
                return Ok(Some(filled));
            }
            match receive(&mut received)? {
                None => return Ok((filled > 0).then_some(filled)),
                Some(0) => return Ok(Some(filled)),
                Some(count) => reading.feed(&received[..count]),
            }
        }
    }

    /// As `Transport::write`, of plain bytes. Goes on until everything is taken or the socket is full: to stop short of
    /// both would leave the link waiting for an edge that never comes.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(
        &self,
        slices: &[IoSlice<'_>],
        send: impl Fn(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut writing = self.writing.lock();
        let mut pieces = slices.to_vec();
        let mut rest = &mut pieces[..];
        let mut taken = 0;
        let mut block = Vec::new();
        while writing.send(&send)? && !rest.is_empty() {
            block.clear();
            let most = if writing.plain_bytes > 0 { writing.plain_bytes } else { BLOCK_BYTES };
            for piece in rest.iter() {
                let room = most - block.len();
                block.extend_from_slice(&piece[..piece.len().min(room)]);
                if block.len() == most {
                    break;
                }
            }
            IoSlice::advance_slices(&mut rest, block.len());
            taken += block.len();
            let Writing { compressor, plain_bytes, framed, .. } = &mut *writing;
            if *plain_bytes > 0 {
                *plain_bytes -= block.len();
                framed.extend_from_slice(&block);
            } else {
                compressor.write(&block, framed);
            }
        }
        Ok(taken)
    }
}

impl Writing {
    /// `true` when nothing waits any more.
    fn send(&mut self, send: impl Fn(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<bool> {
        while self.sent < self.framed.len() {
            match send(&[IoSlice::new(&self.framed[self.sent..])])? {
                0 => return Ok(false),
                count => self.sent += count,
            }
        }
        self.sent = 0;
        match self.framed.capacity() > BLOCK_BYTES {
            true => self.framed = Vec::new(),
            false => self.framed.clear(),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn plain_bytes_come_first_and_a_full_socket_loses_none() {
        let compression = Compression::new(Level::Fast, 6);
        let wire = RefCell::new(Vec::new());
        // takes seven bytes, then is full once
        let full = RefCell::new(false);
        let send = |slices: &[IoSlice<'_>]| {
            if std::mem::replace(&mut *full.borrow_mut(), false) {
                return Ok(0);
            }
            *full.borrow_mut() = true;
            let count = slices[0].len().min(7);
            wire.borrow_mut().extend_from_slice(&slices[0][..count]);
            Ok(count)
        };
        let first = b"INFO\r\nPING\r\n".to_vec();
        let second = [b"RMSG $G a 65000\r\n", &[b'x'; 65_000][..], b"\r\n"].concat();
        let whole = [first, second].concat();
        let mut at = 0;
        while at < whole.len() {
            at += compression.write(&[IoSlice::new(&whole[at..])], send).unwrap();
        }
        while !compression.writing.lock().send(send).unwrap() {}
        let wire = wire.into_inner();
        assert_eq!(&wire[..6], b"INFO\r\n");
        assert!(wire.len() < 5000, "{}", wire.len());
        let other = Compression::new(Level::Fast, 0);
        let (head, rest) = wire[6..].split_at(20);
        other.unread(head);
        let rest = RefCell::new(rest);
        let receive = |room: &mut [u8]| {
            let waiting: &[u8] = *rest.borrow();
            let count = waiting.len().min(room.len()).min(50);
            room[..count].copy_from_slice(&waiting[..count]);
            *rest.borrow_mut() = &waiting[count..];
            Ok((count > 0).then_some(count))
        };
        let (mut read, mut room) = (Vec::new(), vec![0; 1000]);
        while let Some(count) = other.read(&mut room, receive).unwrap() {
            read.extend_from_slice(&room[..count]);
        }
        assert_eq!(read, whole[6..]);
    }
}
