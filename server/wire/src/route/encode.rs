//! The way back: operations appended to a buffer, byte for byte as nats-server writes them.

use super::{Interest, QUEUE_WEIGHT_MAX};
use crate::route::{Connect, Info};

/// Everything of an `RMSG`, `HMSG` or `LMSG` but its body.
#[derive(Clone, Copy, Debug)]
pub struct MessageHead<'a> {
    /// Origin cluster: makes it an `LMSG`, which always names a header size.
    pub origin: Option<&'a [u8]>,
    /// Account; `None` on a pinned connection.
    pub account: Option<&'a [u8]>,
    /// Subject.
    pub subject: &'a [u8],
    /// Reply subject.
    pub reply: Option<&'a [u8]>,
    /// Queue groups that the peer is to choose a member of.
    pub queues: &'a [&'a [u8]],
    /// Bytes of the header block, 0 for none.
    pub header_len: usize,
    /// Bytes of header block and payload together.
    pub size: usize,
}

/// Appends the control line of a message. The caller appends the body and `\r\n`.
pub fn message_head(out: &mut Vec<u8>, head: &MessageHead<'_>) {
    match (head.origin, head.header_len) {
        (Some(origin), _) => words(out, &[b"LMSG", origin]),
        (None, 0) => words(out, &[b"RMSG"]),
        (None, _) => words(out, &[b"HMSG"]),
    }
    if let Some(account) = head.account {
        words(out, &[account]);
    }
    words(out, &[head.subject]);
    match (head.reply, head.queues) {
        (None, []) => {}
        (Some(reply), []) => words(out, &[reply]),
        (None, queues) => {
            words(out, &[b"|"]);
            words(out, queues);
        }
        (Some(reply), queues) => {
            words(out, &[b"+", reply]);
            words(out, queues);
        }
    }
    if head.origin.is_some() || head.header_len > 0 {
        number(out, head.header_len);
        out.push(b' ');
    }
    number(out, head.size);
    out.extend_from_slice(b"\r\n");
}

/// Appends `RS+`, `RS-`, `LS+` or `LS-`. `origin` and `account` are left out when they are `None`: the caller
/// knows the connection's [`Shape`](super::Shape). The weight is sent only when interest is added to a queue
/// group, and never above [`QUEUE_WEIGHT_MAX`].
pub fn interest(out: &mut Vec<u8>, adds: bool, interest: &Interest<'_>) {
    words(
        out,
        match (interest.leaf, adds) {
            (false, true) => &[b"RS+"],
            (false, false) => &[b"RS-"],
            (true, true) => &[b"LS+"],
            (true, false) => &[b"LS-"],
        },
    );
    for word in [interest.origin, interest.account].into_iter().flatten() {
        words(out, &[word]);
    }
    out.extend_from_slice(interest.subject);
    if let Some(queue) = interest.queue {
        out.push(b' ');
        out.extend_from_slice(queue);
        if adds {
            out.push(b' ');
            number(out, interest.weight.clamp(1, QUEUE_WEIGHT_MAX) as usize);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `A+ account` or `A- account`.
pub fn account_interest(out: &mut Vec<u8>, adds: bool, account: &[u8]) {
    out.extend_from_slice(if adds { b"A+ " } else { b"A- " });
    out.extend_from_slice(account);
    out.extend_from_slice(b"\r\n");
}

/// Appends `PING`.
pub fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// Appends `PONG`.
pub fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

/// Appends `-ERR 'text'`. Line ends in the text would begin a new operation and are replaced by blanks.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"-ERR '");
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"'\r\n");
}

/// Appends `INFO {json} \r\n`, with the blank that nats-server puts before the line end.
pub fn info_line(out: &mut Vec<u8>, info: &Info) {
    out.extend_from_slice(b"INFO ");
    json(out, info);
    out.extend_from_slice(b" \r\n");
}

impl Info {
    /// Appends `INFO {json}`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        info_line(out, self);
    }
}

impl Connect {
    /// Appends `CONNECT {json}`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"CONNECT ");
        json(out, self);
        out.extend_from_slice(b"\r\n");
    }
}

fn json(out: &mut Vec<u8>, document: &impl serde::Serialize) {
    // a plain struct with string keys cannot fail to serialize into memory
    let _ = serde_json::to_writer(&mut *out, document);
}

fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    for word in words {
        out.extend_from_slice(word);
        out.push(b' ');
    }
}

fn number(out: &mut Vec<u8>, mut value: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
