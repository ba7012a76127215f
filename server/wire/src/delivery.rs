//! What a server sends to a client, as the receiver reads it: `MSG` and `HMSG`.
//!
//! Read by the clients inside the process, whose bytes come from this server's own encoder. Never copies.

/// One message, borrowed from the bytes that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Subject that it was published to.
    pub subject: &'a [u8],
    /// The receiver's name for its subscription.
    pub sid: &'a [u8],
    /// Reply subject, empty without one.
    pub reply: &'a [u8],
    /// The header block with its version line and its empty line; empty without headers.
    pub headers: &'a [u8],
    /// Payload behind the headers.
    pub payload: &'a [u8],
}

/// What stands at the start of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A message and the bytes that it took.
    Message(Delivery<'a>, usize),
    /// A line that is no message, and the bytes that it took.
    Other(usize),
    /// The message or line is not complete.
    More,
}

/// Reads what stands at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Found<'_> {
    let Some(line_len) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Found::More };
    let mut words = bytes[..line_len].split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let verb = words.next().unwrap_or_default();
    let has_headers = verb == b"HMSG";
    let other = Found::Other(line_len + 2);
    if !has_headers && verb != b"MSG" {
        return other;
    }
    let (Some(subject), Some(sid)) = (words.next(), words.next()) else { return other };
    let mut rest = [&b""[..]; 3];
    let mut count = 0;
    for word in words {
        let Some(place) = rest.get_mut(count) else { return other };
        *place = word;
        count += 1;
    }
    let numbers = if has_headers { 2 } else { 1 };
    let Some(first) = count.checked_sub(numbers).filter(|first| *first <= 1) else { return other };
    let reply = if first == 1 { rest[0] } else { &b""[..] };
    let (Some(headers_len), Some(total)) = (number(rest[first]), number(rest[count - 1])) else {
        return other;
    };
    let headers_len = if has_headers { headers_len } else { 0 };
    let start = line_len + 2;
    let Some(end) = start.checked_add(total).filter(|_| headers_len <= total) else { return other };
    if bytes.len() < end + 2 {
        return Found::More;
    }
    let (headers, payload) = bytes[start..end].split_at(headers_len);
    Found::Message(Delivery { subject, sid, reply, headers, payload }, end + 2)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        let bytes = b"HMSG a.b 7 re.ply 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG a 8 0\r\n\r\n";
        let Found::Message(first, used) = parse(bytes) else { panic!("no message") };
        let expected = Delivery {
            subject: b"a.b",
            sid: b"7",
            reply: b"re.ply",
            headers: b"NATS/1.0\r\n\r\n",
            payload: b"hi",
        };
        assert_eq!(first, expected);
        let Found::Message(second, rest) = parse(&bytes[used..]) else { panic!("no message") };
        assert_eq!((second.sid, second.reply, second.payload), (&b"8"[..], &b""[..], &b""[..]));
        assert_eq!(used + rest, bytes.len());
        for end in 0..used {
            assert_eq!(parse(&bytes[..end]), Found::More, "{end}");
        }
    }

    #[test]
    fn lines_that_are_no_messages_are_stepped_over() {
        for line in ["PING\r\n", "MSG a 1\r\n", "MSG a 1 x\r\n", "HMSG a 1 9 4\r\n", "MSG a 1 b c 4\r\n"] {
            assert_eq!(parse(line.as_bytes()), Found::Other(line.len()), "{line}");
        }
    }
}
