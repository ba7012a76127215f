//! The route protocol: what servers of one cluster say to each other, read incrementally from a borrowed buffer.
//!
//! Owns the framing of [`Op`]s, their [encoders](mod@encode) and the documents of [`Info`] and [`Connect`].
//! Never looks at what an operation means: whose interest it is, or whether the peer may say it.
//!
//! Source of the rules: nats-server 2.15's `parser.go` and `route.go`. A route's lines depend on two facts of
//! the handshake, which travel in [`Shape`]:
//!
//! * a connection *pinned* to one account leaves the account out of every line;
//! * `LS-` names the leaf's origin cluster only between servers that announced `lnocu`.
//!
//! ```text
//! RS+ [account] subject [queue weight]            RS- [account] subject [queue]
//! LS+ origin [account] subject [queue weight]     LS- [origin] [account] subject [queue]
//! RMSG [account] subject [reply] size             RMSG [account] subject + reply queue… size
//! HMSG [account] subject … header-size size       RMSG [account] subject | queue… size
//! LMSG origin [account] subject … header-size size
//! ```
//!
//! How an engine drives it: call [`parse`] in a loop on what was read, hand [`Op::Message`] (its
//! [`Publish`] has the very form that a client's has) and interest to the broker, everything else to
//! `cluster::RouteConversation`; on [`Step::More`] read on and call again with the same start.

mod encode;
mod info;

pub use encode::{MessageHead, account_interest, error, info_line, interest, message_head, ping, pong};
pub use info::{Connect, Info, SubjectPermission};

use crate::client::Publish;
use std::ops::Range;

/// Bytes of a control line that a route accepts: 16 times what a client may send (nats-server
/// `overMaxControlLineLimit`), because accounts, replies and queue groups stand in it.
pub const CONTROL_LINE_BYTES_DEFAULT: usize = 16 * 4096;

/// Bytes of a message that a route accepts. nats-server sets no limit on routes but the nine digits of a size;
/// a bound keeps a peer from making this server reserve a gigabyte.
pub const MESSAGE_BYTES_DEFAULT: usize = 128 << 20;

/// Highest weight of a queue group that is ever sent (nats-server `maxQueueWeight`): nine digits.
pub const QUEUE_WEIGHT_MAX: u32 = 999_999_999;

/// Origin cluster that stands for "a leaf without a cluster" in `LS+` and `LS-`; no cluster may be called so.
pub const NO_ORIGIN: &str = "_";

/// Limits that a parse is held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest control line in bytes, without verb and line end.
    pub control_line_bytes_max: usize,
    /// Largest body (header block and payload) in bytes.
    pub message_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            control_line_bytes_max: CONTROL_LINE_BYTES_DEFAULT,
            message_bytes_max: MESSAGE_BYTES_DEFAULT,
        }
    }
}

/// What the handshake settled about the form of a connection's lines. Both are false until it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The connection is pinned to one account, so no line names it.
    pub account_implied: bool,
    /// `LS-` begins with the origin cluster (the peer announced `lnocu` or `ln`).
    pub unsubscribe_origin: bool,
}

/// Why bytes cannot be an operation. Every variant ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such verb, or a body not followed by `\r\n`: answered with `-ERR` before closing.
    #[error("Unknown Protocol Operation")]
    Unknown,
    /// Wrong number or form of arguments: closed without an answer, as nats-server does.
    #[error("wrong number or form of arguments")]
    Arguments,
    /// The control line is longer than the limit: answered with `-ERR` before closing.
    #[error("maximum control line exceeded")]
    ControlLine,
    /// The body announced is larger than the limit.
    #[error("message of {size} bytes is larger than a route accepts")]
    Size {
        /// Announced size in bytes.
        size: usize,
    },
}

/// Interest of the peer in one subject filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest<'a> {
    /// `LS`: on behalf of a leaf node.
    pub leaf: bool,
    /// Cluster of that leaf; [`NO_ORIGIN`] when it has none.
    pub origin: Option<&'a [u8]>,
    /// Account; absent on a pinned connection.
    pub account: Option<&'a [u8]>,
    /// Subject filter.
    pub subject: &'a [u8],
    /// Queue group.
    pub queue: Option<&'a [u8]>,
    /// Members of the queue group at the peer, at least 1; 1 without a group and in an unsubscribe.
    pub weight: u32,
}

/// A message, as offsets into the buffer that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Subject, reply, sizes and body. `verbatim` is false whenever queue groups stand between reply and sizes.
    pub publish: Publish,
    account: (u32, u32),
    origin: (u32, u32),
    queues: (u32, u32),
}

impl Message {
    /// Place of the account; empty on a pinned connection.
    pub fn account_range(&self) -> Range<usize> {
        self.account.0 as usize..self.account.1 as usize
    }
    /// Place of the origin cluster of an `LMSG`; empty otherwise.
    pub fn origin_range(&self) -> Range<usize> {
        self.origin.0 as usize..self.origin.1 as usize
    }
    /// Whether the peer chose queue groups that this server is to serve. Without any, only plain
    /// subscriptions get the message.
    pub fn has_queues(&self) -> bool {
        self.queues.0 != self.queues.1
    }
    /// Places of the queue groups to serve, one member each. `buf` is the buffer that was parsed.
    pub fn queues<'a>(&self, buf: &'a [u8]) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let (mut at, end) = (self.queues.0 as usize, self.queues.1 as usize);
        std::iter::from_fn(move || {
            let token = next_token(buf.get(..end)?, at)?;
            at = token.end;
            Some(token)
        })
    }
}

/// One operation of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// `RMSG`, `HMSG` or `LMSG`.
    Message(Message),
    /// `RS+` or `LS+`.
    Subscribe(Interest<'a>),
    /// `RS-` or `LS-`.
    Unsubscribe(Interest<'a>),
    /// `A+ account`: read and without meaning on a route (gateways use it).
    AccountSubscribe(&'a [u8]),
    /// `A- account`: as above.
    AccountUnsubscribe(&'a [u8]),
    /// `INFO {json}`.
    Info(&'a [u8]),
    /// `CONNECT {json}`.
    Connect(&'a [u8]),
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

/// Reads one operation at `buf[at..]`. Offsets in a [`Message`] are relative to `buf`.
///
/// # Errors
/// [`Error`], each variant of which ends the connection.
pub fn parse<'a>(buf: &'a [u8], at: usize, limits: &Limits, shape: Shape) -> Result<Step<'a>, Error> {
    let input = buf.get(at..).unwrap_or_default();
    let Some((verb, verb_len)) = verb_of(input)? else { return Ok(Step::More(input.len() + 1)) };
    let Some(line_feed) = memchr::memchr(b'\n', input) else {
        if input.len() > limits.control_line_bytes_max + verb_len + 2 {
            return Err(Error::ControlLine);
        }
        return Ok(Step::More(input.len() + 1));
    };
    let line = input[..line_feed].strip_suffix(b"\r").unwrap_or(&input[..line_feed]);
    let arguments = line.get(verb_len..).unwrap_or_default();
    if arguments.len() > limits.control_line_bytes_max {
        return Err(Error::ControlLine);
    }
    let op = match verb {
        Verb::Message(form) => {
            let line =
                Line { start: at + verb_len, end: at + verb_len + arguments.len(), next: at + line_feed + 1 };
            return parse_message(buf, at, line, form, limits, shape);
        }
        Verb::Subscribe { leaf } => Op::Subscribe(parse_interest(arguments, leaf, leaf, true, shape)?),
        Verb::Unsubscribe { leaf } => {
            Op::Unsubscribe(parse_interest(arguments, leaf, leaf && shape.unsubscribe_origin, false, shape)?)
        }
        Verb::AccountSubscribe => Op::AccountSubscribe(arguments.trim_ascii()),
        Verb::AccountUnsubscribe => Op::AccountUnsubscribe(arguments.trim_ascii()),
        Verb::Info => Op::Info(arguments.trim_ascii()),
        Verb::Connect => Op::Connect(arguments.trim_ascii()),
        Verb::Ping => Op::Ping,
        Verb::Pong => Op::Pong,
        Verb::Ok => Op::Ok,
        Verb::Err => Op::Err(arguments.trim_ascii()),
    };
    Ok(Step::Op(op, line_feed + 1))
}

/// The three message verbs.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Plain,
    Header,
    Origin,
}

#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Message(Form),
    Subscribe { leaf: bool },
    Unsubscribe { leaf: bool },
    AccountSubscribe,
    AccountUnsubscribe,
    Info,
    Connect,
    Ping,
    Pong,
    Ok,
    Err,
}

/// What must follow a verb, as nats-server's state machine has it.
#[derive(Clone, Copy, PartialEq)]
enum Follows {
    /// A blank.
    Blank,
    /// Anything; it begins the argument (`CONNECT{…}`).
    Argument,
    /// Anything; it is skipped up to the end of the line.
    Skipped,
}

/// Ordered by how often they come.
const VERBS: [(&[u8], Verb, Follows); 15] = [
    (b"RMSG", Verb::Message(Form::Plain), Follows::Blank),
    (b"HMSG", Verb::Message(Form::Header), Follows::Blank),
    (b"RS+", Verb::Subscribe { leaf: false }, Follows::Blank),
    (b"RS-", Verb::Unsubscribe { leaf: false }, Follows::Blank),
    (b"LMSG", Verb::Message(Form::Origin), Follows::Blank),
    (b"LS+", Verb::Subscribe { leaf: true }, Follows::Blank),
    (b"LS-", Verb::Unsubscribe { leaf: true }, Follows::Blank),
    (b"PING", Verb::Ping, Follows::Skipped),
    (b"PONG", Verb::Pong, Follows::Skipped),
    (b"INFO", Verb::Info, Follows::Argument),
    (b"CONNECT", Verb::Connect, Follows::Argument),
    (b"-ERR", Verb::Err, Follows::Blank),
    (b"+OK", Verb::Ok, Follows::Skipped),
    (b"A+", Verb::AccountSubscribe, Follows::Blank),
    (b"A-", Verb::AccountUnsubscribe, Follows::Blank),
];

/// The verb at the start, in any case, and its length; `None` while it is incomplete.
fn verb_of(input: &[u8]) -> Result<Option<(Verb, usize)>, Error> {
    let mut partial = input.is_empty();
    for (name, verb, follows) in VERBS {
        let have = input.len().min(name.len());
        if !input[..have].eq_ignore_ascii_case(&name[..have]) {
            continue;
        }
        match input.get(name.len()) {
            None => partial = true,
            Some(next) if follows != Follows::Blank || matches!(next, b' ' | b'\t') => {
                return Ok(Some((verb, name.len())));
            }
            Some(_) => {}
        }
    }
    if partial { Ok(None) } else { Err(Error::Unknown) }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// The next argument at or behind `from`.
fn next_token(line: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + line.get(from..)?.iter().position(|byte| !is_blank(*byte))?;
    let end =
        line[start..].iter().position(|byte| is_blank(*byte)).map_or(line.len(), |length| start + length);
    Some(start..end)
}

/// The last argument before `until`.
fn last_token(line: &[u8], floor: usize, until: usize) -> Option<Range<usize>> {
    let text = line.get(floor..until)?;
    let end = floor + text.iter().rposition(|byte| !is_blank(*byte))? + 1;
    let start =
        line[floor..end].iter().rposition(|byte| is_blank(*byte)).map_or(floor, |blank| floor + blank + 1);
    Some(start..end)
}

/// A size as nats-server reads it: one to nine digits, nothing else.
fn size_of(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |size, digit| size * 10 + usize::from(digit - b'0')))
}

fn parse_interest(
    line: &[u8],
    leaf: bool,
    has_origin: bool,
    adds: bool,
    shape: Shape,
) -> Result<Interest<'_>, Error> {
    let mut at = 0;
    let mut next = || {
        let token = next_token(line, at)?;
        at = token.end;
        line.get(token)
    };
    let origin = if has_origin { Some(next().ok_or(Error::Arguments)?) } else { None };
    let account = if shape.account_implied { None } else { Some(next().ok_or(Error::Arguments)?) };
    let subject = next().ok_or(Error::Arguments)?;
    let queue = next();
    let mut weight = 1;
    if adds && queue.is_some() {
        // a weight that is no number counts as one member
        weight = size_of(next().ok_or(Error::Arguments)?).map_or(1, |weight| weight.max(1) as u32);
    }
    match next() {
        None => Ok(Interest { leaf, origin, account, subject, queue, weight }),
        Some(_) => Err(Error::Arguments),
    }
}

/// A control line without its verb: `start..end` in the buffer, the body begins at `next`.
#[derive(Clone, Copy)]
struct Line {
    start: usize,
    end: usize,
    next: usize,
}

fn parse_message<'a>(
    buf: &'a [u8],
    at: usize,
    line: Line,
    form: Form,
    limits: &Limits,
    shape: Shape,
) -> Result<Step<'a>, Error> {
    let text = &buf[..line.end];
    let mut front = line.start;
    let mut next = || {
        let token = next_token(text, front).ok_or(Error::Arguments)?;
        front = token.end;
        Ok(token)
    };
    let origin = if form == Form::Origin { next()? } else { 0..0 };
    let account = if shape.account_implied { 0..0 } else { next()? };
    let subject = next()?;
    let total = last_token(text, front, line.end).ok_or(Error::Arguments)?;
    let size = size_of(&buf[total.clone()]).ok_or(Error::Arguments)?;
    let mut sizes = total.clone();
    let mut header_len = 0;
    if form != Form::Plain {
        let header = last_token(text, front, total.start).ok_or(Error::Arguments)?;
        header_len =
            size_of(&buf[header.clone()]).filter(|length| *length <= size).ok_or(Error::Arguments)?;
        sizes = header;
    }
    let (reply, queues) = reply_and_queues(text, front, sizes.start)?;
    if size > limits.message_bytes_max {
        return Err(Error::Size { size });
    }
    let end = line.next + size + 2;
    if end > buf.len() {
        return Ok(Step::More(end - at));
    }
    if buf[end - 2..end] != *b"\r\n" {
        return Err(Error::Unknown);
    }
    // what follows the reply (or the sizes) can be forwarded as it stands if a client could have written it so
    let single = |from: &Range<usize>, to: &Range<usize>| from.end + 1 == to.start && buf[from.end] == b' ';
    let verbatim = buf[subject.end] == b' '
        && line.end + 2 == line.next
        && total.end == line.end
        && (form == Form::Plain || single(&sizes, &total))
        && (reply.is_empty() || single(&reply, &sizes))
        // an LMSG says "0" where there is no header block: no client reads that
        && (form == Form::Plain || header_len > 0);
    let publish = Publish {
        subject: subject.start as u32,
        subject_len: subject.len() as u32,
        reply: reply.start as u32,
        reply_len: reply.len() as u32,
        sizes: sizes.start as u32,
        body: line.next as u32,
        header_len: header_len as u32,
        end: end as u32,
        verbatim,
    };
    let place = |range: Range<usize>| (range.start as u32, range.end as u32);
    let message = Message { publish, account: place(account), origin: place(origin), queues: place(queues) };
    Ok(Step::Op(Op::Message(message), end - at))
}

/// What stands between subject and sizes: nothing, a reply, `+ reply queue…` or `| queue…`.
fn reply_and_queues(text: &[u8], from: usize, until: usize) -> Result<(Range<usize>, Range<usize>), Error> {
    let text = &text[..until];
    let Some(first) = next_token(text, from) else { return Ok((until..until, 0..0)) };
    let Some(second) = next_token(text, first.end) else { return Ok((first, 0..0)) };
    let queues = |from: usize| from..until;
    match &text[first] {
        b"|" => Ok((until..until, queues(second.start))),
        b"+" => match next_token(text, second.end) {
            Some(third) => Ok((second, queues(third.start))),
            None => Ok((second, 0..0)),
        },
        _ => Err(Error::Arguments),
    }
}

#[cfg(test)]
mod tests;
