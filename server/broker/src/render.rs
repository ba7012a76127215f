//! Messages as their receivers' protocols want them, encoded once into a worker's scratch buffer.
//!
//! The part of a publish behind its subject is forwarded byte for byte behind a new head; payloads from
//! `BY_REFERENCE_BYTES` on are not copied at all but named by place.

use crate::output::{BY_REFERENCE_BYTES, Segment};
use crate::plan::Text;
use wire::client::Publish;

/// Readable bytes that must lie behind the data in a read buffer: small pieces are copied in whole blocks.
pub const READ_PADDING: usize = 64;

const BUFFER_BYTES_MIN: usize = 16 << 10;
const BLOCK: usize = 32;
const BLOCKWISE_MAX: usize = 256;
/// A sid of up to 15 bytes and its blank, with the room behind them.
const SID: usize = 16;

/// The buffer that one worker renders into.
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    at: usize,
    segment_start: usize,
    pub segments: Vec<Segment>,
    pub total: usize,
    /// Headers and payloads alone.
    pub message_bytes: u64,
    /// Nothing but short messages was rendered: another sid of the same length can be put in their place.
    is_patchable: bool,
    /// Where the sids of what was rendered are, once that was asked for.
    sids: Vec<u32>,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch {
            buffer: Vec::new(),
            at: 0,
            segment_start: 0,
            segments: Vec::new(),
            total: 0,
            message_bytes: 0,
            is_patchable: true,
            sids: Vec::new(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub fn begin(&mut self) {
        (self.at, self.segment_start, self.total, self.message_bytes) = (0, 0, 0, 0);
        self.segments.clear();
        self.sids.clear();
        self.is_patchable = true;
    }

    pub fn end(&mut self) {
        self.cut();
    }

    /// Gives the memory of an unusually large batch back.
    pub fn trim(&mut self) {
        if self.buffer.len() > 4 << 20 {
            self.buffer = Vec::new();
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
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        self.buffer.resize((self.at + more + READ_PADDING).next_power_of_two().max(BUFFER_BYTES_MIN), 0);
    }

    /// Room must be reserved; `from` must have a block of readable bytes behind the piece.
    #[inline]
    fn piece(&mut self, from: &[u8], start: usize, len: usize) {
        blockwise(&mut self.buffer, self.at, from, start, len);
        self.at += len;
    }

    #[inline]
    fn bytes_of(&mut self, bytes: &[u8]) {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// `MSG subject sid …` or `HMSG …` for a client. `sid` is [`Sid`]'s, with the blank behind it.
    #[inline]
    pub fn message(&mut self, read: &[u8], number: u32, publish: &Publish, sid: Sid<'_>, headers: bool) {
        self.message_under(read, read, number, publish, (sid, headers));
    }

    /// [`message`](Self::message) under another subject than the publisher wrote.
    #[inline]
    pub fn renamed_message(
        &mut self,
        subject: &Text,
        read: &[u8],
        number: u32,
        publish: &Publish,
        to: (Sid<'_>, bool),
    ) {
        let publish = Publish { subject: 0, subject_len: subject.len, ..*publish };
        self.message_under(subject.padded(), read, number, &publish, to);
    }

    /// The subject lies in `subjects`, with a blank behind it.
    #[inline(always)]
    fn message_under(
        &mut self,
        subjects: &[u8],
        read: &[u8],
        number: u32,
        publish: &Publish,
        (sid, headers): (Sid<'_>, bool),
    ) {
        let short = (publish.end - tail_start(publish)) < BY_REFERENCE_BYTES as u32;
        match (sid, publish.verbatim && short, publish.header_len > 0) {
            (Sid::Short(sid, sid_len), true, false) => {
                self.short_message(b"MSG ", (subjects, read), publish, (sid, sid_len));
            }
            (Sid::Short(sid, sid_len), true, true) if headers => {
                self.short_message_with_header((subjects, read), publish, (sid, sid_len));
            }
            _ => self.any_message((subjects, read), number, publish, sid, headers),
        }
    }

    #[inline(never)]
    fn short_message_with_header(
        &mut self,
        from: (&[u8], &[u8]),
        publish: &Publish,
        sid: (&[u8; SID], usize),
    ) {
        self.short_message(b"HMSG ", from, publish, sid);
    }

    /// A message in the spelling that clients really use, of a size to be copied.
    #[inline(always)]
    fn short_message<const VERB: usize>(
        &mut self,
        verb: &[u8; VERB],
        (subjects, read): (&[u8], &[u8]),
        publish: &Publish,
        (sid, sid_len): (&[u8; SID], usize),
    ) {
        let (end, subject_len) = (publish.end as usize, publish.subject_len as usize);
        let start = tail_start(publish) as usize;
        self.message_bytes += publish.body_len() as u64;
        self.reserve(VERB + subject_len + SID + end - start);
        let (buffer, mut at) = (&mut self.buffer[..], self.at);
        buffer[at..at + VERB].copy_from_slice(verb);
        // the blank behind the subject comes along
        blockwise(buffer, at + VERB, subjects, publish.subject as usize, subject_len + 1);
        at += VERB + 1 + subject_len;
        buffer[at..at + SID].copy_from_slice(sid);
        at += sid_len;
        blockwise(buffer, at, read, start, end - start);
        self.at = at + end - start;
    }

    /// Puts `sid` in the place of the one that `messages` were rendered for since [`begin`](Self::begin), if both
    /// are short and equally long: many subscribers of one subject differ in nothing else.
    pub fn replace_sid<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a Publish>,
        before: Sid<'_>,
        sid: Sid<'_>,
    ) -> bool {
        let (Sid::Short(_, before_len), Sid::Short(block, len)) = (before, sid) else { return false };
        if !self.is_patchable || before_len != len {
            return false;
        }
        if self.sids.is_empty() {
            self.find_sids(messages, len);
        }
        replace_sids(&mut self.buffer, &self.sids, (block, len))
    }

    #[inline(never)]
    fn find_sids<'a>(&mut self, messages: impl Iterator<Item = &'a Publish>, sid_len: usize) {
        let mut at = 0;
        self.sids.extend(messages.map(|message| {
            at += if message.header_len > 0 { 6 } else { 5 } + message.subject_len;
            let sid = at;
            at += sid_len as u32 + message.end - tail_start(message);
            sid
        }));
    }

    /// Headers, large payloads, unusual spellings, long sids, and what mappings and imports rename: the subject is
    /// looked up in `subjects`, everything else in `read`.
    pub fn any_message(
        &mut self,
        (subjects, read): (&[u8], &[u8]),
        number: u32,
        publish: &Publish,
        sid: Sid<'_>,
        headers: bool,
    ) {
        let sid = sid.bytes();
        self.is_patchable = false;
        if publish.header_len > 0 && !headers {
            return self.message_without_header((subjects, read), number, publish, sid);
        }
        self.message_bytes += publish.body_len() as u64;
        let subject_len = publish.subject_len as usize;
        self.reserve(8 + subject_len + sid.len());
        self.bytes_of(if publish.header_len > 0 { b"HMSG " } else { b"MSG " });
        self.piece(subjects, publish.subject as usize, subject_len);
        self.bytes_of(b" ");
        self.bytes_of(sid);
        self.tail(read, number, publish);
    }

    /// From the reply (if any) to the end.
    #[inline]
    fn tail(&mut self, read: &[u8], number: u32, publish: &Publish) {
        let end = publish.end as usize;
        if !publish.verbatim {
            return self.rebuilt_tail(read, number, publish);
        }
        let start = tail_start(publish) as usize;
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
    fn message_without_header(
        &mut self,
        (subjects, read): (&[u8], &[u8]),
        number: u32,
        publish: &Publish,
        sid: &[u8],
    ) {
        let (subject, reply) = (&subjects[publish.subject_range()], &read[publish.reply_range()]);
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
        (subjects, read): (&[u8], &[u8]),
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
        self.piece(subjects, subject.start, subject.len());
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

/// A client's name for a subscription and the blank behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sid<'a> {
    /// In a block that is copied whole, and how much of it counts.
    Short(&'a [u8; SID], usize),
    Long(&'a [u8]),
}

impl<'a> Sid<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Sid::Short(block, len) => &block[..len],
            Sid::Long(bytes) => bytes,
        }
    }
}

/// Puts a sid over the one at each place.
#[inline(never)]
fn replace_sids(buffer: &mut [u8], places: &[u32], (block, len): (&[u8; SID], usize)) -> bool {
    let behind = u128::MAX.checked_shl(8 * len as u32).unwrap_or(0);
    let sid = u128::from_le_bytes(*block) & !behind;
    if len <= size_of::<u64>() {
        return replace_words(buffer, places, [behind as u64], [sid as u64]);
    }
    replace_words(buffer, places, [behind as u64, (behind >> 64) as u64], [sid as u64, (sid >> 64) as u64])
}

/// Keeps what `kept` says of the words at each place and puts `words` over the rest: the innermost loop of a fan-out.
#[inline(always)]
fn replace_words<const WORDS: usize>(
    buffer: &mut [u8],
    places: &[u32],
    kept: [u64; WORDS],
    words: [u64; WORDS],
) -> bool {
    for at in places {
        let at = *at as usize;
        let Some(place) = buffer.get_mut(at..at + 8 * WORDS) else { return false };
        for (place, (kept, word)) in place.as_chunks_mut::<8>().0.iter_mut().zip(kept.iter().zip(words)) {
            *place = (u64::from_le_bytes(*place) & kept | word).to_le_bytes();
        }
    }
    true
}

/// Where what is forwarded byte for byte begins: the reply, or the sizes without one.
#[inline(always)]
fn tail_start(publish: &Publish) -> u32 {
    if publish.reply_len > 0 { publish.reply } else { publish.sizes }
}

/// Copies a piece in whole blocks, a few instructions each, where a call would cost more than the copying: both
/// sides must go on for a block behind it.
#[inline(always)]
fn blockwise(to: &mut [u8], at: usize, from: &[u8], start: usize, len: usize) {
    if len > BLOCKWISE_MAX {
        to[at..at + len].copy_from_slice(&from[start..start + len]);
        return;
    }
    let mut done = 0;
    loop {
        to[at + done..at + done + BLOCK].copy_from_slice(&from[start + done..start + done + BLOCK]);
        done += BLOCK;
        if done >= len {
            break;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use wire::client::{Limits, parse_header_publish, parse_publish};

    const HEADER: &str = "NATS/1.0\r\nA: b\r\n\r\n";

    /// What a subscriber with that sid gets.
    fn rendered(scratch: &mut Scratch, read: &[u8], messages: &[Publish], sid: Sid<'_>) -> String {
        scratch.begin();
        for (number, message) in messages.iter().enumerate() {
            scratch.message(read, number as u32, message, sid, true);
        }
        scratch.end();
        String::from_utf8_lossy(&scratch.bytes()[..scratch.total]).into_owned()
    }

    fn block(sid: &str) -> [u8; SID] {
        let mut block = [b' '; SID];
        block[..sid.len()].copy_from_slice(sid.as_bytes());
        block
    }

    #[test]
    fn a_sid_in_the_place_of_another_gives_the_bytes_of_a_rendering_of_its_own() {
        let mut read = Vec::new();
        for size in [0, 1, 30, 31, 32, 33, 64, 200, 255, 256, 257, 300, 5_000] {
            let reply = if size % 2 == 0 { "" } else { "_INBOX.x " };
            let head = if size % 3 == 0 { String::new() } else { format!("{} ", HEADER.len()) };
            let header = if head.is_empty() { "" } else { HEADER };
            let (verb, size_all) = (if head.is_empty() { "PUB" } else { "HPUB" }, size + header.len());
            read.extend_from_slice(
                format!("{verb} orders.{size} {reply}{head}{size_all}\r\n{header}").as_bytes(),
            );
            read.extend((0..size).map(|i| b'a' + (i % 26) as u8));
            read.extend_from_slice(b"\r\n");
        }
        let (mut messages, mut at) = (Vec::new(), 0);
        let end = read.len();
        read.resize(end + READ_PADDING, 0);
        let limits = Limits::default();
        while let Some(message) =
            parse_publish(&read, at, end, &limits).or_else(|| parse_header_publish(&read, at, end, &limits))
        {
            messages.push(message);
            at = message.end as usize;
        }
        assert_eq!(at, end);
        let mut scratch = Scratch::new();
        for (before, after) in
            [("1", "2"), ("12", "99"), ("1234567", "7654321"), ("123456789012345", "543210987654321")]
        {
            let (first, second) = (block(before), block(after));
            let (first, second) =
                (Sid::Short(&first, before.len() + 1), Sid::Short(&second, after.len() + 1));
            let text = rendered(&mut scratch, &read, &messages, first);
            assert!(text.starts_with(&format!(
                "MSG orders.0 {before} 0\r\n\r\nHMSG orders.1 {before} _INBOX.x 18 19\r\n{HEADER}a\r\n"
            )));
            let wanted = rendered(&mut scratch, &read, &messages, second);
            assert_eq!(rendered(&mut scratch, &read, &messages, first), text);
            assert!(scratch.replace_sid(messages.iter(), first, second));
            assert_eq!(String::from_utf8_lossy(&scratch.bytes()[..scratch.total]), wanted);
            assert!(
                !scratch.replace_sid(messages.iter(), second, Sid::Short(&block("1"), 9)),
                "another length"
            );
        }
    }
}
