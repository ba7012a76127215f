//! Where bytes lie between a read and its parse.
//!
//! One buffer a worker serves all links; a link keeps only the unfinished end of what it sent, so an idle link
//! owns no buffer. A message much larger than the buffer is collected in the link's own, grown as it comes.

use broker::router::READ_PADDING;

/// Bytes that one read takes at most.
pub const READ_BYTES: usize = 64 << 10;
/// Messages from this size on are collected in a buffer of their own.
const ASSEMBLY_BYTES_MIN: usize = 256 << 10;

/// The unfinished input of one link.
#[derive(Default)]
pub struct Unfinished {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that are filled, when it is an assembly with room behind them.
    filled: usize,
    /// Bytes that the operation will have in all, as far as is known.
    need: usize,
}

impl Unfinished {
    fn is_assembly(&self) -> bool {
        self.need >= ASSEMBLY_BYTES_MIN
    }
}

/// The read buffer of one worker.
pub struct Input {
    buffer: Vec<u8>,
}

impl Input {
    /// An empty buffer; the first read makes it.
    pub fn new() -> Input {
        Input { buffer: Vec::new() }
    }

    /// Room for the next read of a link.
    pub fn room<'a>(&'a mut self, unfinished: &'a mut Unfinished) -> &'a mut [u8] {
        if unfinished.is_assembly() {
            let filled = unfinished.filled;
            let end = unfinished.need.min((filled * 2).max(READ_BYTES));
            if unfinished.bytes.len() < end + READ_PADDING {
                unfinished.bytes.resize(end + READ_PADDING, 0);
            }
            return &mut unfinished.bytes[filled..end];
        }
        let kept = unfinished.bytes.len();
        let end = if kept > READ_BYTES / 2 { kept + READ_BYTES } else { READ_BYTES };
        if self.buffer.len() < end + READ_PADDING {
            self.buffer.resize(end + READ_PADDING, 0);
        }
        self.buffer[..kept].copy_from_slice(&unfinished.bytes);
        &mut self.buffer[kept..end]
    }

    /// Takes out the bytes to be parsed, `read` of them new: the buffer and how much of it is filled. To be put
    /// back with [`keep`](Self::keep).
    pub fn take(&mut self, unfinished: &mut Unfinished, read: usize) -> (Vec<u8>, usize) {
        if unfinished.is_assembly() {
            let filled = unfinished.filled + read;
            (std::mem::take(&mut unfinished.bytes), filled)
        } else {
            let filled = unfinished.bytes.len() + read;
            (std::mem::take(&mut self.buffer), filled)
        }
    }

    /// Puts the buffer back and keeps what was not parsed: `buffer[used..filled]`, the start of an operation
    /// that will take `need` bytes.
    pub fn keep(
        &mut self,
        unfinished: &mut Unfinished,
        mut buffer: Vec<u8>,
        used: usize,
        filled: usize,
        need: usize,
    ) {
        let assembled = unfinished.is_assembly();
        let rest = filled - used;
        if assembled && used == 0 && need >= ASSEMBLY_BYTES_MIN {
            (unfinished.bytes, unfinished.filled, unfinished.need) = (buffer, filled, need);
            return;
        }
        if rest == 0 {
            *unfinished = Unfinished::default();
        } else if need >= ASSEMBLY_BYTES_MIN {
            let mut bytes = Vec::with_capacity((rest * 2).max(READ_BYTES) + READ_PADDING);
            bytes.extend_from_slice(&buffer[used..filled]);
            *unfinished = Unfinished { bytes, filled: rest, need };
        } else {
            // the allocation of the last time serves again, unless it is much too large
            unfinished.bytes.clear();
            if unfinished.bytes.capacity() > 4 * rest.max(1024) {
                unfinished.bytes = Vec::new();
            }
            unfinished.bytes.extend_from_slice(&buffer[used..filled]);
            (unfinished.filled, unfinished.need) = (0, 0);
        }
        if !assembled {
            if buffer.len() > 4 * READ_BYTES {
                buffer.truncate(READ_BYTES + READ_PADDING);
                buffer.shrink_to_fit();
            }
            self.buffer = buffer;
        }
    }
}

impl Default for Input {
    fn default() -> Self {
        Input::new()
    }
}
