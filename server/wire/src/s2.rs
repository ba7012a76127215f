//! S2 streams: what the bytes of a route are wrapped in once both servers agreed to compress.
//!
//! Owns the framing: chunks, checksums and the sizes that a peer is held to. What is inside a compressed chunk is
//! `minlz`'s. Never reads or writes by itself: plain bytes go in and framed bytes come out, or the other way round,
//! in pieces of any size.
//!
//! Source of the rules: the framing format of Snappy, with blocks of up to 4 MB as S2 has them
//! (`klauspost/compress/s2`, which nats-server uses).
//!
//! ```text
//! chunk      = type (1 byte)  length (3 bytes, little endian)  body
//! FF         stream identifier "S2sTwO" or "sNaPpY"; first, and again at any time
//! 00         masked CRC-32C of the plain bytes, then a block of S2
//! 01         masked CRC-32C of the plain bytes, then these
//! 80 to FE   skipped
//! ```

use minlz::s2::{Encoder, decode_into, decode_len};
use std::time::Duration;

/// Plain bytes of one chunk that this side writes: enough for a good ratio, little enough to be held per route.
pub const BLOCK_BYTES: usize = 64 << 10;
/// Plain bytes of one chunk that a peer may send (S2's limit; nats-server writes up to 1 MB).
pub const BLOCK_BYTES_MAX: usize = 4 << 20;
/// The longest chunk of data: a block that could not be made smaller, its length and its checksum.
const CHUNK_BYTES_MAX: usize = BLOCK_BYTES_MAX + 1024;
/// Buffers up to this size are kept for the next chunk.
const KEPT_BYTES_MAX: usize = 2 * BLOCK_BYTES;

const HEADER_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
const IDENTIFIER: &[u8] = b"\xff\x06\x00\x00S2sTwO";
const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const SKIPPABLE_FIRST: u8 = 0x80;
const IDENTIFIER_TYPE: u8 = 0xff;

/// Why bytes are no S2 stream. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stream does not begin with an identifier, or repeats a wrong one.
    #[error("no S2 stream identifier where one has to be")]
    Identifier,
    /// A type of chunk that must not be skipped.
    #[error("unknown chunk type {0:#04x} in an S2 stream")]
    Unsupported(u8),
    /// A chunk is larger than the format allows.
    #[error("a chunk of {0} bytes in an S2 stream, more than 4 MB")]
    Size(usize),
    /// A block cannot be decoded.
    #[error("a corrupt block in an S2 stream")]
    Corrupt,
    /// The plain bytes are not those that the peer had.
    #[error("a wrong checksum in an S2 stream")]
    Checksum,
}

/// How much work goes into making bytes fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// None: framed, with checksums.
    Uncompressed,
    /// Fast.
    Fast,
    /// Denser.
    Better,
    /// Densest. Needs 4.5 MB of tables for each connection.
    Best,
}

impl Level {
    /// Its name in `INFO` and `/routez`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Uncompressed => "s2_uncompressed",
            Level::Fast => "s2_fast",
            Level::Better => "s2_better",
            Level::Best => "s2_best",
        }
    }

    /// The level by its name.
    pub fn from_name(name: &str) -> Option<Level> {
        [Level::Uncompressed, Level::Fast, Level::Better, Level::Best]
            .into_iter()
            .find(|level| level.name() == name)
    }

    /// The level for a round trip: up to the first threshold none, up to the second fast, and so on. Beyond the last
    /// it is the last one's, or the densest where three or more are given. A zero leaves its level out, since no round
    /// trip is that short.
    pub fn for_round_trip(round_trip: Duration, thresholds: &[Duration]) -> Level {
        let last = if thresholds.len() >= 3 { 3 } else { thresholds.len().saturating_sub(1) };
        match thresholds.iter().position(|threshold| round_trip <= *threshold).unwrap_or(last) {
            0 => Level::Uncompressed,
            1 => Level::Fast,
            2 => Level::Better,
            _ => Level::Best,
        }
    }
}

/// Wraps plain bytes.
pub struct Compressor {
    level: Level,
    encoder: Encoder,
    begun: bool,
}

impl Compressor {
    /// A stream that has not begun.
    pub fn new(level: Level) -> Compressor {
        Compressor { level, encoder: Encoder::new(), begun: false }
    }

    /// From the next chunk on.
    pub fn set_level(&mut self, level: Level) {
        if self.level != level {
            // another level has other tables
            (self.level, self.encoder) = (level, Encoder::new());
        }
    }

    /// Appends chunks that carry `plain` to `out`; nothing stays behind.
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(IDENTIFIER);
        }
        for block in plain.chunks(BLOCK_BYTES) {
            let encoded = match self.level {
                Level::Uncompressed => Vec::new(),
                Level::Fast => self.encoder.encode(block),
                Level::Better => self.encoder.encode_better(block),
                Level::Best => self.encoder.encode_best(block),
            };
            // what hardly shrinks is not worth the reader's time
            let is_smaller = !encoded.is_empty() && encoded.len() < block.len() - block.len() / 32;
            let (kind, body) = if is_smaller { (COMPRESSED, &encoded[..]) } else { (UNCOMPRESSED, block) };
            let length = (body.len() + CHECKSUM_BYTES) as u32;
            out.push(kind);
            out.extend_from_slice(&length.to_le_bytes()[..3]);
            out.extend_from_slice(&checksum(block).to_le_bytes());
            out.extend_from_slice(body);
        }
    }
}

/// A whole stream that readers of Snappy's framing format read too; its chunks are not compressed.
pub fn snappy(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Compressor::new(Level::Uncompressed).write(plain, &mut out);
    if let Some(name) = out.get_mut(4..IDENTIFIER.len()) {
        name.copy_from_slice(b"sNaPpY");
    }
    out
}

/// Unwraps what a peer sends.
#[derive(Default)]
pub struct Decompressor {
    input: Vec<u8>,
    /// Bytes of `input` that are done with.
    used: usize,
    /// Bytes that are still to be skipped.
    skip: usize,
    plain: Vec<u8>,
    /// Bytes of `plain` that were read.
    read: usize,
    begun: bool,
}

impl Decompressor {
    /// Takes bytes of the peer. Never more is kept than one chunk and what is fed at once.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// Plain bytes into `room`; fewer than fit when more has to be fed first.
    ///
    /// # Errors
    /// [`Error`]; the stream cannot go on.
    pub fn read(&mut self, room: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < room.len() {
            if self.read == self.plain.len() && !self.next_chunk()? {
                break;
            }
            let count = (room.len() - filled).min(self.plain.len() - self.read);
            room[filled..filled + count].copy_from_slice(&self.plain[self.read..self.read + count]);
            (filled, self.read) = (filled + count, self.read + count);
        }
        if self.read == self.plain.len() && self.plain.capacity() > KEPT_BYTES_MAX {
            (self.plain, self.read) = (Vec::new(), 0);
        }
        Ok(filled)
    }

    /// Decodes the next chunk of data; `false` while there is none.
    fn next_chunk(&mut self) -> Result<bool, Error> {
        loop {
            let skipped = self.skip.min(self.input.len() - self.used);
            (self.used, self.skip) = (self.used + skipped, self.skip - skipped);
            let waiting = &self.input[self.used..];
            let Some((&[kind, a, b, c], rest)) = waiting.split_first_chunk() else {
                if waiting.is_empty() && self.input.capacity() > KEPT_BYTES_MAX {
                    (self.input, self.used) = (Vec::new(), 0);
                }
                return Ok(false);
            };
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            if !self.begun && kind != IDENTIFIER_TYPE {
                return Err(Error::Identifier);
            }
            match kind {
                IDENTIFIER_TYPE if length == 6 => {
                    let Some(name) = rest.get(..6) else { return Ok(false) };
                    if name != b"S2sTwO" && name != b"sNaPpY" {
                        return Err(Error::Identifier);
                    }
                    self.begun = true;
                    self.used += HEADER_BYTES + 6;
                }
                IDENTIFIER_TYPE => return Err(Error::Identifier),
                COMPRESSED | UNCOMPRESSED => {
                    if !(CHECKSUM_BYTES..=CHUNK_BYTES_MAX).contains(&length) {
                        return Err(Error::Size(length));
                    }
                    let Some(chunk) = rest.get(..length) else { return Ok(false) };
                    let (wanted, body) = chunk.split_at(CHECKSUM_BYTES);
                    unwrap(kind, body, &mut self.plain)?;
                    self.read = 0;
                    if checksum(&self.plain).to_le_bytes() != *wanted {
                        return Err(Error::Checksum);
                    }
                    self.used += HEADER_BYTES + length;
                    if !self.plain.is_empty() {
                        return Ok(true);
                    }
                }
                SKIPPABLE_FIRST.. => {
                    self.used += HEADER_BYTES;
                    self.skip = length;
                }
                kind => return Err(Error::Unsupported(kind)),
            }
        }
    }
}

fn unwrap(kind: u8, body: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
    plain.clear();
    if kind == UNCOMPRESSED {
        if body.len() > BLOCK_BYTES_MAX {
            return Err(Error::Size(body.len()));
        }
        plain.extend_from_slice(body);
        return Ok(());
    }
    let (length, _) = decode_len(body).map_err(|_| Error::Corrupt)?;
    if length > BLOCK_BYTES_MAX {
        return Err(Error::Size(length));
    }
    plain.resize(length, 0);
    decode_into(plain, body).map_err(|_| Error::Corrupt)?;
    Ok(())
}

/// CRC-32C, turned and shifted so that a checksum of checksums says something.
fn checksum(plain: &[u8]) -> u32 {
    crc32c::crc32c(plain).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests;
