//! Owns reading what a server sends: counting messages exactly at a nanosecond or two each, and
//! taking single messages apart where a scenario needs their subjects.
//! Never opens a socket and trusts no length it has not seen the end of.

use crate::Error;

/// Longest command line accepted from a server. INFO of a large cluster is the longest there is.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Counts what arrives on one connection.
///
/// Every frame's first bytes, its `sid size\r\n` and its final `\r\n` are compared; frames shaped
/// like the one before them take the short way, all others are parsed. A stream cut into pieces
/// anywhere counts the same.
#[derive(Debug, Default)]
pub struct FrameCounter {
    /// Messages received whole.
    pub messages: u64,
    /// PONGs received.
    pub pongs: u64,
    /// PINGs received; each is owed a PONG.
    pub pings: u64,
    /// The first `-ERR` line, without its line end.
    pub error: Option<String>,
    /// Bytes of the current message still to come, its line end included.
    due: usize,
    /// A command line whose end has not come yet.
    line: Vec<u8>,
    shape: Shape,
}

/// What one message frame looked like, to recognise the next without parsing.
#[derive(Debug, Default, Clone, Copy)]
struct Shape {
    /// `MSG ` or `HMSG`.
    start: [u8; 4],
    frame_bytes: usize,
    /// Where the sixteen compared bytes start.
    window_start: usize,
    window: u128,
    mask: u128,
}

impl Shape {
    /// Remembers `line` (`MSG … size`, with its line end) as the head of a frame.
    fn of(line: &[u8], tail_bytes: usize) -> Self {
        let none = Self::default();
        // Compared: from the blank behind the subject to the line end.
        let subject_start = if line.starts_with(b"H") { 5 } else { 4 };
        let (Some(start), Some(subject_end)) = (
            line.first_chunk::<4>(),
            line.get(subject_start..)
                .and_then(|rest| memchr::memchr(b' ', rest))
                .map(|at| at + subject_start),
        ) else {
            return none;
        };
        let compared = line.len() - subject_end;
        if compared > 16 || line.len() + tail_bytes < 16 {
            return none;
        }
        let window_start = line.len().saturating_sub(16);
        let mut window = [0_u8; 16];
        let mut mask = [0_u8; 16];
        for at in subject_end..line.len() {
            if let (Some(byte), Some(bits), Some(from)) =
                (window.get_mut(at - window_start), mask.get_mut(at - window_start), line.get(at))
            {
                *byte = *from;
                *bits = 0xff;
            }
        }
        Self {
            start: *start,
            frame_bytes: line.len() + tail_bytes,
            window_start,
            window: u128::from_ne_bytes(window),
            mask: u128::from_ne_bytes(mask),
        }
    }

    /// Whether `bytes` starts with a whole frame of this shape.
    #[inline]
    fn fits(&self, bytes: &[u8]) -> bool {
        let Some(frame) = bytes.get(..self.frame_bytes) else {
            return false;
        };
        let window = frame.get(self.window_start..).and_then(<[u8]>::first_chunk::<16>);
        let (Some(start), Some(window), Some(end)) =
            (frame.first_chunk::<4>(), window, frame.last_chunk::<2>())
        else {
            return false;
        };
        *start == self.start
            && (u128::from_ne_bytes(*window) ^ self.window) & self.mask == 0
            && end == b"\r\n"
    }
}

impl FrameCounter {
    /// Counts the next bytes of the stream.
    ///
    /// # Errors
    /// [`Error::Protocol`] on bytes that no NATS server sends.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        loop {
            if self.due > 0 {
                bytes = self.skip(bytes)?;
                if self.due > 0 {
                    return Ok(());
                }
            }
            if self.line.is_empty() && self.shape.frame_bytes > 0 {
                let shape = self.shape;
                while shape.fits(bytes) {
                    bytes = bytes.get(shape.frame_bytes..).unwrap_or_default();
                    self.messages += 1;
                }
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                return self.check_line_length();
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.take_line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.take_line(&whole)?;
                whole.clear();
                self.line = whole;
            }
        }
    }

    fn check_line_length(&self) -> Result<(), Error> {
        if self.line.len() > LINE_BYTES_MAX {
            return Err(Error::protocol("a command line without end", &self.line));
        }
        Ok(())
    }

    /// Passes over the message in progress; returns what follows it.
    fn skip<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let part = self.due.min(bytes.len());
        let (tail, rest) = bytes.split_at(part);
        self.due -= part;
        if self.due == 0 && part > 0 {
            if tail.last() != Some(&b'\n') {
                return Err(Error::protocol("a payload without line end", tail));
            }
            self.messages += 1;
        }
        Ok(rest)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Error> {
        match line {
            [b'M', b'S', b'G', ..] | [b'H', b'M', b'S', b'G', ..] => {
                let tail = payload_bytes_of(line)? + 2;
                self.due = tail;
                self.shape = Shape::of(line, tail);
            }
            [b'P', b'O', b'N', b'G', ..] => self.pongs += 1,
            [b'P', b'I', b'N', b'G', ..] => self.pings += 1,
            [b'I', b'N', b'F', b'O', ..] | [b'+', b'O', b'K', ..] => {}
            [b'-', b'E', b'R', b'R', ..] => {
                let text = String::from_utf8_lossy(line).trim_end().to_owned();
                self.error.get_or_insert(text);
            }
            _ => return Err(Error::protocol("an unknown command", line)),
        }
        Ok(())
    }
}

/// The payload's size (headers included): the last word of a MSG or HMSG line.
fn payload_bytes_of(line: &[u8]) -> Result<usize, Error> {
    let line = line.trim_ascii_end();
    let start = memchr::memrchr(b' ', line).map_or(0, |at| at + 1);
    line.get(start..)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse::<u32>().ok())
        .map(|size| size as usize)
        .ok_or_else(|| Error::protocol("a message without size", line))
}

/// One message taken apart; all parts borrow from the bytes received.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The subject it was published on.
    pub subject: &'a [u8],
    /// The subscription it is for.
    pub sid: &'a [u8],
    /// Where to answer, if anywhere.
    pub reply: Option<&'a [u8]>,
    /// The payload, without line end.
    pub payload: &'a [u8],
}

/// What [`next_frame`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A MSG.
    Message(Message<'a>),
    /// A PING, owed a PONG.
    Ping,
    /// A PONG.
    Pong,
    /// `-ERR` and its text.
    Error(&'a [u8]),
    /// INFO, +OK and whatever else needs no action.
    Other,
}

/// The first whole frame in `bytes` and the bytes it took, or `None` when its end has not come yet.
///
/// # Errors
/// [`Error::Protocol`] on bytes that no NATS server sends; HMSG is not expected here.
pub fn next_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Error> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return Ok(None);
    };
    let (line, rest) = bytes.split_at(end + 1);
    let head_bytes = line.len();
    let line = line.trim_ascii_end();
    let frame = match line {
        [b'M', b'S', b'G', b' ', words @ ..] => {
            let payload_bytes = payload_bytes_of(line)?;
            let Some(tail) = rest.get(..payload_bytes + 2) else {
                return Ok(None);
            };
            let Some((payload, b"\r\n")) = tail.split_last_chunk::<2>() else {
                return Err(Error::protocol("a payload without line end", tail));
            };
            let mut words = words.split(|byte| *byte == b' ');
            let words = [(); 5].map(|()| words.next());
            let message = match words {
                [Some(subject), Some(sid), Some(_), None, _] => {
                    Message { subject, sid, reply: None, payload }
                }
                [Some(subject), Some(sid), reply, Some(_), None] => Message { subject, sid, reply, payload },
                _ => return Err(Error::protocol("a message of other words", line)),
            };
            return Ok(Some((Frame::Message(message), head_bytes + payload_bytes + 2)));
        }
        b"PING" => Frame::Ping,
        b"PONG" => Frame::Pong,
        [b'-', b'E', b'R', b'R', text @ ..] => Frame::Error(text.trim_ascii()),
        [b'I', b'N', b'F', b'O', ..] | [b'+', b'O', b'K', ..] => Frame::Other,
        _ => return Err(Error::protocol("an unknown command", line)),
    };
    Ok(Some((frame, head_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(pieces: &[&[u8]]) -> FrameCounter {
        let mut counter = FrameCounter::default();
        for piece in pieces {
            counter.feed(piece).unwrap();
        }
        counter
    }

    const STREAM: &[u8] = b"INFO {}\r\nPONG\r\nMSG a 1 1\r\nx\r\nMSG a 1 1\r\nx\r\nPING\r\n\
        MSG a.long.subject.of.many.tokens 12345 _INBOX.reply 3\r\nMSG\r\nMSG a.00001 7 16\r\n0123456789abcdef\r\n\
        MSG a.00002 7 16\r\nxxxxxxxxxxxxxxxx\r\nMSG a.00003 8 16\r\nxxxxxxxxxxxxxxxx\r\n\
        HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG a 1 0\r\n\r\n-ERR 'Slow Consumer'\r\n+OK\r\n";

    #[test]
    fn every_kind_of_frame_is_counted() {
        let counter = counted(&[STREAM]);
        assert_eq!(counter.messages, 8);
        assert_eq!((counter.pings, counter.pongs), (1, 1));
        assert_eq!(counter.error.as_deref(), Some("-ERR 'Slow Consumer'"));
    }

    #[test]
    fn a_stream_cut_anywhere_counts_the_same() {
        for cut in 0..STREAM.len() {
            let (left, right) = STREAM.split_at(cut);
            let counter = counted(&[left, right]);
            assert_eq!((counter.messages, counter.pings), (8, 1), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(counted(&bytes).messages, 8);
    }

    #[test]
    fn the_short_way_counts_like_the_long_one() {
        let mut stream = Vec::new();
        for index in 0..10_000 {
            stream.extend_from_slice(format!("MSG cold.{index:05} 1 4\r\nabcd\r\n").as_bytes());
        }
        for piece in [1, 7, 4096, 100_000_000] {
            let pieces: Vec<&[u8]> = stream.chunks(piece).collect();
            assert_eq!(counted(&pieces).messages, 10_000, "pieces of {piece}");
        }
    }

    #[test]
    fn an_unfinished_message_is_not_counted() {
        assert_eq!(counted(&[b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\nx\r"]).messages, 1);
        assert_eq!(counted(&[b"MSG a 1 1\r\nx\r\nMSG a 1 1"]).messages, 1);
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b"HELLO\r\n"[..], b"MSG a 1 x\r\n", b"MSG a 1 1\r\nxyz", b"MSG a 1 99999999999\r\n"] {
            assert!(FrameCounter::default().feed(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let endless = vec![b'I'; LINE_BYTES_MAX + 1];
        assert!(FrameCounter::default().feed(&endless).is_err());
    }

    #[test]
    fn a_frame_like_the_last_but_shifted_is_refused() {
        let mut counter = FrameCounter::default();
        counter.feed(b"MSG a.1 1 4\r\nabcd\r\n").unwrap();
        assert!(counter.feed(b"MSG a.1 1 4\r\nabcdef\r\n").is_err());
    }

    #[test]
    fn a_message_is_taken_apart() {
        let bytes = b"MSG svc 1 _INBOX.7 2\r\nhi\r\nPING\r\n";
        let (frame, taken) = next_frame(bytes).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame::Message(Message { subject: b"svc", sid: b"1", reply: Some(b"_INBOX.7"), payload: b"hi" })
        );
        assert_eq!(next_frame(&bytes[taken..]).unwrap(), Some((Frame::Ping, 6)));
        for cut in 0..taken {
            assert_eq!(next_frame(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
    }
}
