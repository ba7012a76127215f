//! Messages as their receivers' protocols want them, encoded once into a worker's scratch buffer.
//!
//! The part of a publish behind its subject is forwarded byte for byte behind a new head; payloads from
//! `BY_REFERENCE_BYTES` on are not copied at all but named by place.

use crate::output::{BY_REFERENCE_BYTES, Segment};
use wire::client::Publish;

/// Readable bytes that must lie behind the data in a read buffer: small pieces are copied in whole blocks.
pub const READ_PADDING: usize = 64;

const BLOCK: usize = 16;
const BLOCKWISE_MAX: usize = 128;

/// The buffer that one worker renders into.
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    at: usize,
    segment_start: usize,
    pub segments: Vec<Segment>,
    pub total: usize,
    /// Headers and payloads alone.
    pub message_bytes: u64,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch {
            buffer: vec![0; 16 << 10],
            at: 0,
            segment_start: 0,
            segments: Vec::new(),
            total: 0,
            message_bytes: 0,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub fn begin(&mut self) {
        (self.at, self.segment_start, self.total, self.message_bytes) = (0, 0, 0, 0);
        self.segments.clear();
    }

    pub fn end(&mut self) {
        self.cut();
    }

    /// Gives the memory of an unusually large batch back.
    pub fn trim(&mut self) {
        if self.buffer.len() > 4 << 20 {
            self.buffer = vec![0; 16 << 10];
        }
    }

    fn cut(&mut self) {
        if self.at > self.segment_start {
            self.segments.push(Segment::Scratch(self.segment_start as u32, self.at as u32));
            self.total += self.at - self.segment_start;
            self.segment_start = self.at;
        }
    }

    #[inline]
    fn reserve(&mut self, more: usize) {
        if self.at + more + READ_PADDING > self.buffer.len() {
            self.buffer.resize((self.at + more + READ_PADDING).next_power_of_two(), 0);
        }
    }

    /// Room must be reserved; `from` must have a block of readable bytes behind the piece.
    #[inline]
    fn piece(&mut self, from: &[u8], start: usize, len: usize) {
        if len > BLOCKWISE_MAX {
            self.buffer[self.at..self.at + len].copy_from_slice(&from[start..start + len]);
        } else {
            let mut done = 0;
            while done < len {
                let (to, of) = (self.at + done, start + done);
                self.buffer[to..to + BLOCK].copy_from_slice(&from[of..of + BLOCK]);
                done += BLOCK;
            }
        }
        self.at += len;
    }

    #[inline]
    fn bytes_of(&mut self, bytes: &[u8]) {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// `MSG subject sid …` or `HMSG …` for a client. `sid` ends with a space.
    #[inline]
    pub fn message(&mut self, read: &[u8], number: u32, publish: &Publish, sid: &[u8], headers: bool) {
        if publish.header_len > 0 && !headers {
            return self.message_without_header(read, number, publish, sid);
        }
        self.message_bytes += publish.body_len() as u64;
        let subject_len = publish.subject_len as usize;
        self.reserve(8 + subject_len + sid.len());
        if publish.header_len > 0 {
            self.bytes_of(b"HMSG ");
        } else {
            self.bytes_of(b"MSG ");
        }
        self.piece(read, publish.subject as usize, subject_len);
        self.bytes_of(b" ");
        match <[u8; BLOCK]>::try_from(sid) {
            Ok(block) => self.bytes_of(&block),
            Err(_) => self.bytes_of(sid),
        }
        self.tail(read, number, publish);
    }

    /// From the reply (if any) to the end.
    #[inline]
    fn tail(&mut self, read: &[u8], number: u32, publish: &Publish) {
        let end = publish.end as usize;
        if !publish.verbatim {
            return self.rebuilt_tail(read, number, publish);
        }
        let start = if publish.reply_len > 0 { publish.reply } else { publish.sizes } as usize;
        if end - start < BY_REFERENCE_BYTES {
            self.reserve(end - start);
            self.piece(read, start, end - start);
        } else {
            let body = publish.body as usize;
            self.reserve(body - start);
            self.piece(read, start, body - start);
            self.body(read, number, body, end);
        }
    }

    /// A tail whose spelling was unusual: tabs, several blanks, a bare line feed, a reply elsewhere.
    fn rebuilt_tail(&mut self, read: &[u8], number: u32, publish: &Publish) {
        let sizes = sizes_text(publish);
        let reply = publish.reply_range();
        self.reserve(reply.len() + 1 + sizes.len());
        if !reply.is_empty() {
            self.bytes_of(&read[reply]);
            self.bytes_of(b" ");
        }
        self.bytes_of(sizes.as_bytes());
        self.body(read, number, publish.body as usize, publish.end as usize);
    }

    fn body(&mut self, read: &[u8], number: u32, start: usize, end: usize) {
        if end - start < BY_REFERENCE_BYTES {
            self.reserve(end - start);
            self.bytes_of(&read[start..end]);
        } else {
            self.cut();
            self.segments.push(Segment::Body(number, start as u32, end as u32));
            self.total += end - start;
        }
    }

    /// For a receiver that does not understand headers: the payload alone.
    fn message_without_header(&mut self, read: &[u8], number: u32, publish: &Publish, sid: &[u8]) {
        let (subject, reply) = (&read[publish.subject_range()], &read[publish.reply_range()]);
        let payload_len = publish.body_len() - publish.header_len as usize;
        self.message_bytes += payload_len as u64;
        let size = format!("{payload_len}\r\n");
        self.reserve(8 + subject.len() + sid.len() + reply.len() + size.len());
        self.bytes_of(b"MSG ");
        self.bytes_of(subject);
        self.bytes_of(b" ");
        self.bytes_of(sid);
        if !reply.is_empty() {
            self.bytes_of(reply);
            self.bytes_of(b" ");
        }
        self.bytes_of(size.as_bytes());
        self.body(read, number, (publish.body + publish.header_len) as usize, publish.end as usize);
    }

    /// `RMSG account subject …` (`HMSG` with headers) for another server. `account` is empty when the route
    /// carries one account only; `queues` are the groups that the server is to choose a member of; without
    /// `headers` the header block is cut off.
    pub fn routed(
        &mut self,
        read: &[u8],
        number: u32,
        publish: &Publish,
        account: &[u8],
        queues: &[u8],
        headers: bool,
    ) {
        let subject = publish.subject_range();
        let reply = publish.reply_range();
        let stripped =
            Publish { body: publish.body + publish.header_len, header_len: 0, verbatim: false, ..*publish };
        let publish = if headers || publish.header_len == 0 { publish } else { &stripped };
        self.message_bytes += publish.body_len() as u64;
        self.reserve(16 + account.len() + subject.len() + queues.len() + reply.len() + 32);
        self.bytes_of(if publish.header_len > 0 { b"HMSG " } else { b"RMSG " });
        if !account.is_empty() {
            self.bytes_of(account);
            self.bytes_of(b" ");
        }
        self.piece(read, subject.start, subject.len());
        self.bytes_of(b" ");
        if queues.is_empty() {
            return self.tail(read, number, publish);
        }
        if reply.is_empty() {
            self.bytes_of(b"| ");
        } else {
            self.bytes_of(b"+ ");
            self.bytes_of(&read[reply]);
            self.bytes_of(b" ");
        }
        self.bytes_of(queues);
        let sizes = sizes_text(publish);
        self.bytes_of(sizes.as_bytes());
        self.body(read, number, publish.body as usize, publish.end as usize);
    }
}

/// The size arguments and the line end.
fn sizes_text(publish: &Publish) -> String {
    let total = publish.body_len();
    if publish.header_len > 0 {
        format!("{} {total}\r\n", publish.header_len)
    } else {
        format!("{total}\r\n")
    }
}
