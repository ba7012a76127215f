//! The client protocol as a server reads it: an incremental parser over a borrowed buffer.
//!
//! Source of the rules: the NATS client protocol page and nats-server's `parser.go`, whose leniencies are kept
//! (verbs in any case, bare `\n`, tabs between arguments) and whose refusals are split in the same two classes:
//! [`Error::Unknown`] is answered with `-ERR 'Unknown Protocol Operation'`, malformed arguments close silently.

use std::ops::Range;

/// Bytes of a control line that are accepted before `\r\n` (nats-server `MAX_CONTROL_LINE_SIZE`).
pub const CONTROL_LINE_BYTES_DEFAULT: usize = 4096;

/// Limits that a parse is held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest control line in bytes, without its line end.
    pub control_line_bytes_max: usize,
    /// Largest payload (headers included) in bytes; `None` is unlimited.
    pub payload_bytes_max: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { control_line_bytes_max: CONTROL_LINE_BYTES_DEFAULT, payload_bytes_max: Some(1 << 20) }
    }
}

/// Why bytes cannot be an operation. Every variant ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No such verb, or a payload not followed by `\r\n`: answered before closing.
    Unknown,
    /// Wrong number or form of arguments: closed without an answer, as nats-server does.
    Arguments,
    /// The control line is longer than the limit.
    ControlLine,
    /// The payload announced is larger than the limit.
    Payload {
        /// Announced size in bytes.
        size: usize,
    },
}

/// A publish, as offsets into the buffer that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Start of the subject.
    pub subject: u32,
    /// Length of the subject in bytes.
    pub subject_len: u32,
    /// Start of the reply subject; its length is 0 when there is none.
    pub reply: u32,
    /// Length of the reply subject in bytes, 0 for none.
    pub reply_len: u32,
    /// Start of the size digits (`HPUB`: header size, then total size).
    pub sizes: u32,
    /// Start of the body: header bytes, then payload.
    pub body: u32,
    /// Size of the header block in bytes, 0 for `PUB`.
    pub header_len: u32,
    /// End of the operation, behind the final `\r\n`. The body ends two bytes before.
    pub end: u32,
    /// One space stands between reply (if any) and sizes and `\r\n` behind the sizes, so that everything from
    /// the reply on can be forwarded byte for byte.
    pub verbatim: bool,
}

impl Publish {
    /// The subject's place in the buffer.
    pub fn subject_range(&self) -> Range<usize> {
        self.subject as usize..(self.subject + self.subject_len) as usize
    }
    /// The reply's place in the buffer; empty when there is none.
    pub fn reply_range(&self) -> Range<usize> {
        self.reply as usize..(self.reply + self.reply_len) as usize
    }
    /// Header and payload without the final `\r\n`.
    pub fn body_range(&self) -> Range<usize> {
        self.body as usize..self.end as usize - 2
    }
    /// Header and payload bytes together.
    pub fn body_len(&self) -> usize {
        self.end as usize - 2 - self.body as usize
    }
}

/// One operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// `PUB` or `HPUB`.
    Publish(Publish),
    /// `SUB subject [queue] sid`.
    Subscribe {
        /// Subject filter.
        subject: &'a [u8],
        /// Queue group.
        queue: Option<&'a [u8]>,
        /// The client's name for the subscription.
        sid: &'a [u8],
    },
    /// `UNSUB sid [max]`.
    Unsubscribe {
        /// The client's name for the subscription.
        sid: &'a [u8],
        /// Messages after which it ends, counted from the start; `None` (also for an unreadable number) is now.
        max: Option<u64>,
    },
    /// `CONNECT {json}`.
    Connect(&'a [u8]),
    /// `INFO {json}`: accepted and ignored from a client.
    Info(&'a [u8]),
    /// `PING`.
    Ping,
    /// `PONG`.
    Pong,
    /// `+OK`.
    Ok,
    /// `-ERR …`.
    Err(&'a [u8]),
}

/// What a parse found at the start of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// An operation and the bytes that it took.
    Op(Op<'a>, usize),
    /// The operation is not complete; it will take at least so many bytes in all.
    More(usize),
}

/// Reads one operation at `buf[at..]`. Offsets in a [`Publish`] are relative to `buf`.
///
/// # Errors
/// [`Error`], each variant of which ends the connection.
#[inline]
pub fn parse<'a>(buf: &'a [u8], at: usize, limits: &Limits) -> Result<Step<'a>, Error> {
    if let Some(publish) = parse_publish(buf, at, buf.len(), limits) {
        return Ok(Step::Op(Op::Publish(publish), publish.end as usize - at));
    }
    if let Some(publish) = parse_header_publish(buf, at, buf.len(), limits) {
        return Ok(Step::Op(Op::Publish(publish), publish.end as usize - at));
    }
    parse_any(buf, at, limits)
}

/// `\r\n` as a little-endian number.
const LINE_END: u16 = u16::from_le_bytes(*b"\r\n");

/// The publish at `buf[at..end]`, if it is whole and has the shape that clients really send,
/// `PUB subject [reply] size\r\n…`. `None` says nothing: [`parse`] then tells what it is. `buf` may go on behind
/// `end`, and is faster to read if it does.
#[inline(always)]
pub fn parse_publish(buf: &[u8], at: usize, end: usize, limits: &Limits) -> Option<Publish> {
    let verb: [u8; 4] = *buf.get(at..)?.first_chunk()?;
    if u32::from_le_bytes(verb) != u32::from_le_bytes(*b"PUB ") {
        return None;
    }
    let subject = at + 4;
    let subject_end = find_blank(buf, subject)?;
    if subject_end == subject || buf.get(subject_end) != Some(&b' ') {
        return None;
    }
    let after = subject_end + 1;
    if let Some((sizes_end, size)) = size_line(buf, after) {
        return whole(buf, at, end, limits, (subject, subject_end), (after, 0), (after, sizes_end), size);
    }
    let reply_end = find_blank(buf, after)?;
    if reply_end == after || buf.get(reply_end) != Some(&b' ') {
        return None;
    }
    let (sizes_end, size) = size_line(buf, reply_end + 1)?;
    let reply = (after, reply_end - after);
    whole(buf, at, end, limits, (subject, subject_end), reply, (reply_end + 1, sizes_end), size)
}

/// The publish at `buf[at..end]` if it is on the subject of `last`, which [`parse_publish`] found in the same buffer,
/// and has no reply: most publishers send many in a row, and then the subject need not be looked at again.
#[inline(always)]
pub fn parse_publish_again(
    buf: &[u8],
    at: usize,
    end: usize,
    last: &Publish,
    limits: &Limits,
) -> Option<Publish> {
    let len = last.subject_len as usize + 1;
    let head = buf.get((last.subject as usize).checked_sub(4)?..last.subject as usize + len)?;
    let sizes = at + 4 + len;
    if !same(head, buf.get(at..sizes)?) {
        return None;
    }
    let (sizes_end, size) = size_line(buf, sizes)?;
    whole(buf, at, end, limits, (at + 4, sizes - 1), (sizes, 0), (sizes, sizes_end), size)
}

/// Whether two pieces of at least four bytes and equal length hold the same.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> bool {
    let (words, others) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    if words.iter().zip(others).any(|(word, other)| word != other) {
        return false;
    }
    match (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        (Some(word), Some(other)) => word == other,
        _ => a.first_chunk::<4>() == b.first_chunk::<4>() && a.last_chunk::<4>() == b.last_chunk::<4>(),
    }
}

/// One to six digits and `\r\n`: where the digits end, and what they say.
#[inline(always)]
fn size_line(buf: &[u8], at: usize) -> Option<(usize, usize)> {
    let (end, size, behind) = number(buf, at)?;
    (behind == LINE_END).then_some((end, size))
}

/// One to seven digits and a blank: where they end, what they say, and what is behind them: two bytes, if there are
/// no more than six digits, else one.
#[inline(always)]
fn number(buf: &[u8], at: usize) -> Option<(usize, usize, u16)> {
    let word = u64::from_le_bytes(*buf.get(at..)?.first_chunk()?);
    let found = word.wrapping_sub(LOW) & !word & TOP;
    // the top bit of the blank's byte
    let bit = found.trailing_zeros();
    if !(15..64).contains(&bit) {
        return None;
    }
    // the digits at the top of the word, zeros below them
    let digits = (word ^ 0x3030_3030_3030_3030) << (71 - bit);
    if (digits | digits.wrapping_add(0x7676_7676_7676_7676)) & TOP != 0 {
        return None;
    }
    // neighbours become pairs, pairs become fours, fours the number
    const PAIRS: u64 = 0x0000_00FF_0000_00FF;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    Some((at + (bit / 8) as usize, (high.wrapping_add(low) >> 32) as usize, (word >> (bit - 7)) as u16))
}

/// The publish of that line, unless it is over a limit or not whole.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // places in a line, inlined
fn whole(
    buf: &[u8],
    at: usize,
    end: usize,
    limits: &Limits,
    (subject, subject_end): (usize, usize),
    (reply, reply_len): (usize, usize),
    (sizes, sizes_end): (usize, usize),
    size: usize,
) -> Option<Publish> {
    let body = sizes_end + 2;
    let over = body + size + 2;
    if over > end
        || sizes_end - at > limits.control_line_bytes_max
        || limits.payload_bytes_max.is_some_and(|max| size > max)
        || u16::from_le_bytes(*buf.get(over - 2..)?.first_chunk()?) != LINE_END
    {
        return None;
    }
    Some(Publish {
        subject: subject as u32,
        subject_len: (subject_end - subject) as u32,
        reply: reply as u32,
        reply_len: reply_len as u32,
        sizes: sizes as u32,
        body: body as u32,
        header_len: 0,
        end: over as u32,
        verbatim: true,
    })
}

/// [`parse_publish`] for `HPUB subject [reply] header-size size\r\n…`.
#[inline(always)]
pub fn parse_header_publish(buf: &[u8], at: usize, end: usize, limits: &Limits) -> Option<Publish> {
    match buf.get(at..)?.first_chunk() == Some(b"HPUB ") {
        true => header_publish(buf, at + 5, at, end, limits),
        false => None,
    }
}

#[inline(never)]
fn header_publish(buf: &[u8], subject: usize, at: usize, end: usize, limits: &Limits) -> Option<Publish> {
    let subject_end = find_blank(buf, subject)?;
    if subject_end == subject || buf.get(subject_end) != Some(&b' ') {
        return None;
    }
    let after = subject_end + 1;
    let mut reply_len = 0;
    let (header_len, (sizes_end, size)) = match two_sizes(buf, after) {
        Some(sizes) => sizes,
        None => {
            let reply_end = find_blank(buf, after)?;
            reply_len = reply_end - after;
            if reply_len == 0 || buf.get(reply_end) != Some(&b' ') {
                return None;
            }
            two_sizes(buf, reply_end + 1)?
        }
    };
    // without a byte of headers it is a message without headers, and not of the usual shape
    if header_len == 0 || header_len > size {
        return None;
    }
    let sizes = if reply_len > 0 { after + reply_len + 1 } else { after };
    let subject = (subject, subject_end);
    let publish = whole(buf, at, end, limits, subject, (after, reply_len), (sizes, sizes_end), size)?;
    Some(Publish { header_len: header_len as u32, ..publish })
}

/// A size, a blank and the [`size_line`] behind it.
#[inline(always)]
fn two_sizes(buf: &[u8], at: usize) -> Option<(usize, (usize, usize))> {
    let (end, size, behind) = number(buf, at)?;
    if behind as u8 != b' ' {
        return None;
    }
    Some((size, size_line(buf, end + 1)?))
}

const LOW: u64 = 0x2121_2121_2121_2121;
const TOP: u64 = 0x8080_8080_8080_8080;

/// First byte at or behind `from` that is a space or a control character. Eight bytes at a time: a byte below
/// 0x21 is found by the borrow that the subtraction takes from its top bit.
#[inline(always)]
fn find_blank(buf: &[u8], from: usize) -> Option<usize> {
    let rest = buf.get(from..)?;
    let (words, _) = rest.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let found = word.wrapping_sub(LOW) & !word & TOP;
        if found != 0 {
            return Some(from + at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    rest[at..].iter().position(|byte| *byte <= b' ').map(|i| from + at + i)
}

/// A size as nats-server reads it: one to nine digits, nothing else.
#[inline]
fn size_of(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    let mut size = 0usize;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        size = size * 10 + digit as usize;
    }
    Some(size)
}

/// Verbs of the protocol.
#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Publish,
    HeaderPublish,
    Subscribe,
    Unsubscribe,
    Connect,
    Info,
    Ping,
    Pong,
    Ok,
    Err,
}

const VERBS: [(&[u8], Verb, bool); 10] = [
    (b"PUB", Verb::Publish, true),
    (b"HPUB", Verb::HeaderPublish, true),
    (b"SUB", Verb::Subscribe, true),
    (b"UNSUB", Verb::Unsubscribe, true),
    (b"CONNECT", Verb::Connect, false),
    (b"INFO", Verb::Info, false),
    (b"PING", Verb::Ping, false),
    (b"PONG", Verb::Pong, false),
    (b"+OK", Verb::Ok, false),
    (b"-ERR", Verb::Err, false),
];

fn parse_any<'a>(buf: &'a [u8], at: usize, limits: &Limits) -> Result<Step<'a>, Error> {
    let input = buf.get(at..).unwrap_or_default();
    let Some(verb) = verb_of(input)? else { return Ok(Step::More(input.len() + 1)) };
    let verb_len = VERBS.iter().find(|v| v.1 == verb).map_or(0, |v| v.0.len());
    let Some(line_feed) = memchr::memchr(b'\n', input) else {
        // a line that is over the limit whatever comes: where a read ended must not matter
        if input.len() > limits.control_line_bytes_max + verb_len + 1 {
            return Err(Error::ControlLine);
        }
        return Ok(Step::More(input.len() + 1));
    };
    let line = input[..line_feed].strip_suffix(b"\r").unwrap_or(&input[..line_feed]);
    let arguments = line.get(verb_len..).unwrap_or_default();
    if arguments.len() > limits.control_line_bytes_max {
        return Err(Error::ControlLine);
    }
    let consumed = line_feed + 1;
    let op = match verb {
        Verb::Publish | Verb::HeaderPublish => {
            return parse_publish_line(
                buf,
                at,
                at + verb_len,
                at + consumed,
                verb == Verb::HeaderPublish,
                limits,
            );
        }
        Verb::Subscribe => parse_subscribe(arguments)?,
        Verb::Unsubscribe => parse_unsubscribe(arguments)?,
        Verb::Connect => Op::Connect(trim(arguments)),
        Verb::Info => Op::Info(trim(arguments)),
        Verb::Ping => Op::Ping,
        Verb::Pong => Op::Pong,
        Verb::Ok => Op::Ok,
        Verb::Err => Op::Err(trim(arguments)),
    };
    Ok(Step::Op(op, consumed))
}

/// The verb at the start, in any case; `None` while it is still incomplete.
fn verb_of(input: &[u8]) -> Result<Option<Verb>, Error> {
    let mut partial = input.is_empty();
    for (name, verb, arguments) in VERBS {
        let have = input.len().min(name.len());
        if !input[..have].eq_ignore_ascii_case(&name[..have]) {
            continue;
        }
        if have < name.len() {
            partial = true;
            continue;
        }
        match input.get(name.len()) {
            None => partial = true,
            Some(b' ' | b'\t') if arguments => return Ok(Some(verb)),
            // nats-server takes whatever follows these up to the line's end, with or without a blank
            Some(_) if !arguments => return Ok(Some(verb)),
            Some(_) => {}
        }
    }
    if partial { Ok(None) } else { Err(Error::Unknown) }
}

/// Splits at blanks as nats-server does, remembering where each argument stands.
fn split<const N: usize>(line: &[u8]) -> Result<([&[u8]; N], usize), Error> {
    let mut arguments: [&[u8]; N] = [&[]; N];
    let mut count = 0;
    for argument in line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).filter(|a| !a.is_empty()) {
        *arguments.get_mut(count).ok_or(Error::Arguments)? = argument;
        count += 1;
    }
    Ok((arguments, count))
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

fn parse_subscribe(line: &[u8]) -> Result<Op<'_>, Error> {
    let ([first, second, third], count) = split::<3>(line)?;
    match count {
        2 => Ok(Op::Subscribe { subject: first, queue: None, sid: second }),
        3 => Ok(Op::Subscribe { subject: first, queue: Some(second), sid: third }),
        _ => Err(Error::Arguments),
    }
}

fn parse_unsubscribe(line: &[u8]) -> Result<Op<'_>, Error> {
    let ([sid, max], count) = split::<2>(line)?;
    match count {
        1 => Ok(Op::Unsubscribe { sid, max: None }),
        2 => Ok(Op::Unsubscribe { sid, max: size_of(max).map(|max| max as u64).filter(|max| *max > 0) }),
        _ => Err(Error::Arguments),
    }
}

/// Any spelling of `PUB`/`HPUB`: `arguments..line_end` is the line in `buf`, with its line end.
fn parse_publish_line<'a>(
    buf: &'a [u8],
    at: usize,
    arguments: usize,
    line_end: usize,
    header: bool,
    limits: &Limits,
) -> Result<Step<'a>, Error> {
    let ([first, second, third, fourth], count) = split::<4>(&buf[arguments..line_end - 1])?;
    let place = |argument: &[u8]| argument.as_ptr() as usize - buf.as_ptr() as usize;
    let (reply, header_size, total) = match (header, count) {
        (false, 2) => (None, None, second),
        (false, 3) => (Some(second), None, third),
        (true, 3) => (None, Some(second), third),
        (true, 4) => (Some(second), Some(third), fourth),
        _ => return Err(Error::Arguments),
    };
    let size = size_of(total).ok_or(Error::Arguments)?;
    let header_len = match header_size {
        Some(digits) => size_of(digits).filter(|len| *len <= size).ok_or(Error::Arguments)?,
        None => 0,
    };
    if limits.payload_bytes_max.is_some_and(|max| size > max) {
        return Err(Error::Payload { size });
    }
    let end = line_end + size + 2;
    if end > buf.len() {
        return Ok(Step::More(end - at));
    }
    if buf.get(end - 2..end) != Some(b"\r\n") {
        return Err(Error::Unknown);
    }
    let sizes = place(header_size.unwrap_or(total));
    // How much of an operation was there when it was looked at must not show in what receivers get.
    let next = |from: &[u8], to: usize| place(from) + from.len() + 1 == to && buf[to - 1] == b' ';
    let verbatim = buf[place(first) + first.len()] == b' '
        && reply.is_none_or(|reply| next(reply, sizes))
        && header_size.is_none_or(|digits| next(digits, place(total)) && header_len > 0)
        && place(total) + total.len() + 2 == line_end
        && buf[line_end - 2] == b'\r';
    let publish = Publish {
        subject: place(first) as u32,
        subject_len: first.len() as u32,
        reply: reply.map_or(sizes, place) as u32,
        reply_len: reply.map_or(0, <[u8]>::len) as u32,
        sizes: sizes as u32,
        body: line_end as u32,
        header_len: header_len as u32,
        end: end as u32,
        verbatim,
    };
    Ok(Step::Op(Op::Publish(publish), end - at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(input: &[u8]) -> Result<Step<'_>, Error> {
        parse(input, 0, &Limits::default())
    }

    fn publish(input: &[u8]) -> (String, String, String, usize) {
        match one(input) {
            Ok(Step::Op(Op::Publish(p), used)) => {
                assert_eq!(used, input.len());
                let text = |r: Range<usize>| String::from_utf8_lossy(&input[r]).into_owned();
                (text(p.subject_range()), text(p.reply_range()), text(p.body_range()), p.header_len as usize)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn publishes_in_every_spelling_mean_the_same() {
        let want = ("a.b".to_string(), String::new(), "hello".to_string(), 0);
        for input in ["PUB a.b 5\r\nhello\r\n", "pub a.b 5\nhello\r\n", "Pub\ta.b   5 \r\nhello\r\n"] {
            assert_eq!(publish(input.as_bytes()), want, "{input:?}");
        }
        let want = ("a.b".to_string(), "in.box".to_string(), "hello".to_string(), 0);
        for input in ["PUB a.b in.box 5\r\nhello\r\n", "PUB  a.b \t in.box  5\r\nhello\r\n"] {
            assert_eq!(publish(input.as_bytes()), want, "{input:?}");
        }
        let want = ("a".to_string(), "r".to_string(), "NATS/1.0\r\n\r\nx".to_string(), 12);
        for input in ["HPUB a r 12 13\r\nNATS/1.0\r\n\r\nx\r\n", "hpub a  r 12 13\nNATS/1.0\r\n\r\nx\r\n"] {
            assert_eq!(publish(input.as_bytes()), want, "{input:?}");
        }
    }

    #[test]
    fn every_prefix_asks_for_more_and_never_for_less_than_it_has() {
        for input in [
            &b"PUB subject.name reply.name 11\r\nhello world\r\n"[..],
            b"HPUB s r 12 13\r\nNATS/1.0\r\n\r\nx\r\n",
            b"SUB foo.* workers 90\r\n",
            b"UNSUB 90 5\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"PING\r\n",
        ] {
            for cut in 0..input.len() {
                match one(&input[..cut]) {
                    Ok(Step::More(need)) => assert!(need > cut && need <= input.len(), "{cut}: {need}"),
                    other => panic!("{cut}: {other:?}"),
                }
            }
            assert!(matches!(one(input), Ok(Step::Op(_, used)) if used == input.len()));
        }
    }

    #[test]
    fn sizes_are_read_as_numbers_of_up_to_nine_digits() {
        for size in (0..1_100).chain([9_999, 10_000, 65_536, 99_999, 100_000, 524_288, 999_999, 1_048_576]) {
            for text in [format!("{size}"), format!("0{size}"), format!("00{size}")] {
                let input = format!("PUB a {text}\r\n{}\r\n", "x".repeat(size));
                assert_eq!(publish(input.as_bytes()).2.len(), size, "{text}");
            }
        }
        for text in ["1/", "1:", ":", "/", "1a", "+1", "1.0", "0000000001", "\u{e9}"] {
            let input = format!("PUB a {text}\r\nx\r\n");
            assert_eq!(one(input.as_bytes()), Err(Error::Arguments), "{text}");
        }
    }

    #[test]
    fn a_publish_with_headers_means_the_same_in_the_usual_shape_and_in_any_other() {
        let (limits, header) =
            (Limits { payload_bytes_max: Some(2_000), ..Limits::default() }, "h".repeat(1_000));
        for arguments in [
            "a 12 13",
            "a 0 13",
            "a 13 12",
            "a 12 012",
            "a 13 13",
            "a 999 1000",
            "a 1000 1000",
            "a 1 2001",
            "a 5 12 13",
            "a r 12 13",
            "a  12 13",
            "a 12  13",
            "a r 12",
            "a 12",
            "a",
            "",
            " a 12 13",
            "a 12 13 ",
            "a 1x 13",
            "a 12 1x",
            "a r s 12 13",
            "a r 0 13",
            "a r 12\t13",
            "a -1 13",
            "a 0000001 2",
            "a 00000001 2",
            "a 1 0000002",
            "a.long.subject.of.many.tokens and.a.long.reply 100 200",
        ] {
            let total = arguments.trim().rsplit([' ', '\t']).next().unwrap_or_default().parse().unwrap_or(3);
            let input = format!("HPUB {arguments}\r\n{}\r\n", &header.repeat(3)[..total]);
            for behind in ["", "PING\r\nPING\r\n"] {
                let buf = [input.as_bytes(), behind.as_bytes()].concat();
                let any = parse_any(&buf, 0, &limits);
                assert_eq!(parse(&buf, 0, &limits), any, "{arguments:?}");
                for end in [input.len() - 1, input.len(), buf.len()] {
                    let usual = parse_header_publish(&buf, 0, end, &limits);
                    let Some(publish) = usual else { continue };
                    assert!(publish.verbatim && end >= input.len(), "{arguments:?}");
                    assert_eq!(any, Ok(Step::Op(Op::Publish(publish), input.len())), "{arguments:?}");
                }
            }
        }
        let usual = |text: &str| parse_header_publish(text.as_bytes(), 0, text.len(), &limits).is_some();
        assert!(usual("HPUB a 1 2\r\nhp\r\n+++") && usual("HPUB a 1 1 2\r\nhp\r\n+++"));
        assert!(!usual("hpub a 1 2\r\nhp\r\n+++") && !usual("HPUB a 1 2\r\nhp"));
    }

    #[test]
    fn a_publish_on_the_subject_of_the_one_before_is_read_as_if_it_stood_alone() {
        let limits = Limits { payload_bytes_max: Some(20), ..Limits::default() };
        for (second, again) in [
            ("PUB orders.eu 2\r\nhi\r\n", true),
            ("PUB orders.eu 0\r\n\r\n", true),
            ("PUB orders.eu 20\r\n01234567890123456789\r\n", true),
            ("PUB orders.eu 21\r\n012345678901234567890\r\n", false),
            ("PUB orders.us 2\r\nhi\r\n", false),
            ("PUB orders.eu.x 2\r\nhi\r\n", false),
            ("PUB orders.eu inbox 2\r\nhi\r\n", false),
            ("PUB orders.eu 2 2\r\nhi\r\n", false),
            ("PUB orders.eu 2\r\nhi!\r\n", false),
            ("PUB orders.eu 2\r\nhi\r", false),
            ("pub orders.eu 2\r\nhi\r\n", false),
            ("PUB orders.eu", false),
            ("", false),
        ] {
            for behind in ["\0\0\0\0\0\0\0\0", "PUB orders.eu 2\r\nhi\r\n"] {
                let first = "PUB orders.eu 5\r\nhello\r\n";
                let input = format!("{first}{second}{behind}");
                let (at, end) = (first.len(), first.len() + second.len());
                let before = parse_publish(input.as_bytes(), 0, end, &limits).expect("a usual one");
                let found = parse_publish_again(input.as_bytes(), at, end, &before, &limits);
                assert_eq!(found.is_some(), again, "{second:?}");
                if let Some(found) = found {
                    assert_eq!(Some(found), parse_publish(input.as_bytes(), at, end, &limits));
                }
            }
        }
    }

    #[test]
    fn wrong_bytes_are_refused_in_the_two_ways_of_nats_server() {
        for (input, error) in [
            (&b"FOO a\r\n"[..], Error::Unknown),
            (b"MSG a 1 1\r\nx\r\n", Error::Unknown),
            (b"GET / HTTP/1.1\r\n", Error::Unknown),
            (b"\r\n", Error::Unknown),
            (b"PUB a 1\r\nxyz\r\n", Error::Unknown),
            (b"PUB a\r\n", Error::Arguments),
            (b"PUB a -1\r\n", Error::Arguments),
            (b"PUB a b c 1\r\nx\r\n", Error::Arguments),
            (b"HPUB a 14 13\r\nNATS/1.0\r\n\r\nx\r\n", Error::Arguments),
            (b"SUB a\r\n", Error::Arguments),
            (b"SUB a b c d\r\n", Error::Arguments),
            (b"PUB a 2000000\r\n", Error::Payload { size: 2_000_000 }),
        ] {
            assert_eq!(one(input), Err(error), "{}", String::from_utf8_lossy(input));
        }
        assert_eq!(one(&[b"SUB ", &vec![b'a'; 5000][..]].concat()), Err(Error::ControlLine));
        assert_eq!(one(&[b"SUB ", &vec![b'a'; 5000][..], b" 1\r\n"].concat()), Err(Error::ControlLine));
    }

    #[test]
    fn unreadable_unsub_max_ends_at_once() {
        for (input, max) in [("UNSUB 1\r\n", None), ("UNSUB 1 x\r\n", None), ("UNSUB 1 7\r\n", Some(7))] {
            assert_eq!(
                one(input.as_bytes()),
                Ok(Step::Op(Op::Unsubscribe { sid: b"1", max }, input.len())),
                "{input}"
            );
        }
    }
}
