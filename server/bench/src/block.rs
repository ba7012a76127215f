//! Owns the prebuilt bytes that publishers send again and again.
//! Never touches a socket: building is done before the clock starts, so sending costs a copy only.

use std::fmt::Write as _;
use std::sync::Arc;

/// A run of whole protocol messages, all of the same length, sent round and round.
///
/// Equal length is what makes counting cheap and exact: the messages sent are the bytes sent over
/// `message_bytes`.
#[derive(Debug, Clone)]
pub struct Block {
    bytes: Arc<[u8]>,
    message_bytes: usize,
}

/// Aim for blocks of one subject: large enough that one write fills a socket buffer's worth.
const BLOCK_BYTES: usize = 256 * 1024;

impl Block {
    /// A block of messages built by `render(index, out)`, `count` of them.
    ///
    /// # Panics
    /// If the messages differ in length or `count` is 0: the caller builds both.
    #[must_use]
    pub fn of(count: usize, mut render: impl FnMut(usize, &mut Vec<u8>)) -> Self {
        let mut bytes = Vec::new();
        render(0, &mut bytes);
        let message_bytes = bytes.len();
        bytes.reserve_exact(message_bytes * count.saturating_sub(1));
        for index in 1..count {
            let before = bytes.len();
            render(index, &mut bytes);
            assert_eq!(bytes.len() - before, message_bytes, "messages differ");
        }
        assert!(count > 0 && message_bytes > 0, "an empty block");
        Self { bytes: bytes.into(), message_bytes }
    }

    /// Messages to one subject, enough of them to fill a socket.
    #[must_use]
    pub fn one_subject(subject: &str, payload_bytes: usize) -> Self {
        let one = subject.len() + payload_bytes + 20;
        Self::of((BLOCK_BYTES / one).max(1), |_, out| {
            publish(out, subject, payload_bytes);
        })
    }

    /// Messages to one subject with a header block of one field, `payload_bytes` of body.
    #[must_use]
    pub fn with_header(subject: &str, payload_bytes: usize) -> Self {
        const HEADER: &str = "NATS/1.0\r\nTrace-Id: 00000000000000000001\r\n\r\n";
        let total = HEADER.len() + payload_bytes;
        let mut one = format!("HPUB {subject} {} {total}\r\n{HEADER}", HEADER.len()).into_bytes();
        payload(&mut one, payload_bytes);
        Self::of((BLOCK_BYTES / one.len()).max(1), |_, out| {
            out.extend_from_slice(&one);
        })
    }

    /// Messages to `count` subjects in turn, `subject(index, out)` writing the subject (always of the
    /// same length). Few subjects are repeated until a socket is full. The order is shuffled in a fixed
    /// way, so that no cache of a server profits from neighbours.
    #[must_use]
    pub fn many_subjects(count: usize, payload_bytes: usize, subject: impl Fn(usize, &mut String)) -> Self {
        let stride = stride(count);
        let mut name = String::new();
        subject(0, &mut name);
        let rounds = (BLOCK_BYTES / (name.len() + payload_bytes + 20) / count).max(1);
        Self::of(count * rounds, |index, out| {
            name.clear();
            subject(((index as u64 * stride) % count as u64) as usize, &mut name);
            publish(out, &name, payload_bytes);
        })
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of one message, command line and payload with their line ends.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Messages in the block.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.bytes.len() / self.message_bytes
    }
}

/// Appends one PUB.
pub fn publish(out: &mut Vec<u8>, subject: &str, payload_bytes: usize) {
    let mut size = String::new();
    let _ = write!(size, "{payload_bytes}");
    out.extend_from_slice(b"PUB ");
    out.extend_from_slice(subject.as_bytes());
    out.push(b' ');
    out.extend_from_slice(size.as_bytes());
    out.extend_from_slice(b"\r\n");
    payload(out, payload_bytes);
}

/// Appends a payload and its line end.
pub fn payload(out: &mut Vec<u8>, payload_bytes: usize) {
    out.resize(out.len() + payload_bytes, b'x');
    out.extend_from_slice(b"\r\n");
}

/// A step that visits every index of `count` once and never a neighbour (for larger counts): prime
/// and far from any divisor of it.
fn stride(count: usize) -> u64 {
    let count = count as u64;
    [1_000_003_u64, 7_919, 101, 7]
        .into_iter()
        .find(|prime| *prime < count && !count.is_multiple_of(*prime))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_whole_messages_of_one_length() {
        let block = Block::one_subject("a", 16);
        assert!(block.bytes().starts_with(b"PUB a 16\r\nxxxxxxxxxxxxxxxx\r\nPUB"));
        assert_eq!(block.message_bytes(), 28);
        assert_eq!(block.bytes().len(), block.messages() * 28);
        assert!(block.bytes().len() <= BLOCK_BYTES);
    }

    #[test]
    fn a_message_larger_than_a_block_stands_alone() {
        let block = Block::one_subject("a", 1 << 20);
        assert_eq!(block.messages(), 1);
    }

    #[test]
    fn every_subject_appears_equally_often() {
        for count in [1, 6, 7, 1_000, 50_000] {
            let block = Block::many_subjects(count, 1, |index, out| {
                let _ = write!(out, "s.{index:07}");
            });
            let subjects: std::collections::HashSet<&[u8]> =
                block.bytes().chunks(block.message_bytes()).collect();
            assert_eq!(subjects.len(), count);
            assert_eq!(block.messages() % count, 0);
            assert!(block.bytes().len() > BLOCK_BYTES / 2, "one write fills a socket");
        }
    }

    #[test]
    fn a_header_is_counted_in_both_sizes() {
        let block = Block::with_header("h", 2);
        let text = std::str::from_utf8(&block.bytes()[..block.message_bytes()]).unwrap();
        assert_eq!(text, "HPUB h 44 46\r\nNATS/1.0\r\nTrace-Id: 00000000000000000001\r\n\r\nxx\r\n");
        assert_eq!("NATS/1.0\r\nTrace-Id: 00000000000000000001\r\n\r\n".len(), 44);
    }
}
