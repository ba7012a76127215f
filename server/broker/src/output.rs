//! What waits to be written to one link: a queue with a combining writer.
//!
//! Whoever delivers writes straight to the transport when nothing waits and nobody writes; else it appends and
//! goes, and the one that writes takes the new bytes along. No system call happens under the lock. What the
//! transport does not take is left to the link's owner, who is told by a writable edge.
//!
//! Two traps are closed here: an edge that comes while somebody writes is remembered (`edge`), so that it is
//! not lost between the writer's short write and its return; and one thread never drains for ever on behalf of
//! others (`DRAIN_BYTES_MAX`).

use crate::link::Transport;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::*;

/// Bytes behind which a link counts as congested: publishers to it are paused.
pub const HIGH_BYTES: usize = 2 << 20;
/// Bytes under which a congested link lets its publishers go on.
pub const LOW_BYTES: usize = 512 << 10;
/// Payloads from this size on are written from where they were read, and kept by reference when they wait.
pub const BY_REFERENCE_BYTES: usize = 8 << 10;
/// How long a congested link may hold publishers up before it counts as slow, in nanoseconds.
pub const STALL_NANOS_MAX: u64 = 100_000_000;

const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_BYTES_MIN: usize = 512;
const SLICES_MAX: usize = 64;
const DRAIN_BYTES_MAX: usize = 4 << 20;

/// A piece of rendered output, by place.
#[derive(Clone, Copy, Debug)]
pub enum Segment {
    /// `start..end` of the scratch buffer.
    Scratch(u32, u32),
    /// `start..end` of the read buffer: the tail of message number `0`.
    Body(u32, u32, u32),
}

/// Rendered output that still lies in the worker's buffers.
pub struct Rendering<'a> {
    /// Heads and small payloads.
    pub scratch: &'a [u8],
    /// The buffer that the messages were read into.
    pub read: &'a [u8],
    /// The pieces in order.
    pub segments: &'a [Segment],
    /// Total bytes of the pieces.
    pub total: usize,
    /// Messages in it, for the counters.
    pub messages: u64,
    /// Bytes of their headers and payloads, for the counters.
    pub message_bytes: u64,
    /// Large bodies that had to be kept, one place a message: shared by all targets that keep them.
    pub bodies: &'a mut [Option<Bytes>],
}

impl Rendering<'_> {
    fn slice(&self, segment: Segment) -> &[u8] {
        match segment {
            Segment::Scratch(start, end) => &self.scratch[start as usize..end as usize],
            Segment::Body(_, start, end) => &self.read[start as usize..end as usize],
        }
    }
}

enum Chunk {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Chunk {
    fn as_slice(&self) -> &[u8] {
        match self {
            Chunk::Own(bytes) => bytes,
            Chunk::Shared(bytes) => bytes,
        }
    }
}

/// What a delivery led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Written or queued.
    Yes,
    /// The link was closed before.
    Closed,
    /// The transport failed: the link must be closed.
    Broken,
    /// More than the link's `pending_bytes_max` waits: it is a slow consumer.
    Overflow,
}

/// When a flush was promised for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Not at all.
    #[default]
    None,
    /// When it is its turn among many: what bulk publishers send may wait for company.
    InTurn,
    /// At the end of the round.
    Soon,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Chunk>,
    /// Bytes of the first chunk that were written.
    offset: usize,
    writing: bool,
    /// The transport was full: a writable edge will come.
    blocked: bool,
    /// A writable edge came while somebody was writing.
    edge: bool,
    /// Somebody promised to flush.
    promised: Promise,
    closed: bool,
    messages: u64,
    bytes: u64,
}

/// The output of one link. Its lock is a leaf: nothing else is locked under it.
#[derive(Default)]
pub struct Output {
    state: Mutex<State>,
    pending: AtomicUsize,
    /// Bytes that waited and were written since.
    drained: AtomicU64,
}

impl Output {
    /// Bytes that wait.
    pub fn pending_bytes(&self) -> usize {
        self.pending.load(SeqCst)
    }

    /// Bytes that waited and were written since: how far a slow reader has come.
    pub fn drained_bytes(&self) -> u64 {
        self.drained.load(Relaxed)
    }

    /// Messages and bytes handed to this output so far.
    pub fn counters(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.messages, state.bytes)
    }

    /// Whether the transport was full at the last write and bytes still wait.
    pub fn is_blocked(&self) -> bool {
        let state = self.state.lock();
        state.blocked && !state.queue.is_empty()
    }

    /// Writes now when nothing waits and nobody writes, else queues. Any thread.
    pub fn deliver(
        &self,
        transport: &dyn Transport,
        rendering: &mut Rendering<'_>,
        pending_max: usize,
    ) -> Delivered {
        let mut state = self.state.lock();
        if state.closed {
            return Delivered::Closed;
        }
        state.messages += rendering.messages;
        state.bytes += rendering.message_bytes;
        if state.writing || !state.queue.is_empty() {
            append(&mut state.queue, rendering, 0);
            let delivered = self.grown(rendering.total, pending_max);
            // what waits for its turn only need not wait any more
            let is_free = !state.writing && !state.blocked && delivered == Delivered::Yes;
            return if is_free { self.drain(state, transport) } else { delivered };
        }
        state.writing = true;
        state.edge = false;
        drop(state);
        let written = write_rendering(transport, rendering);
        let mut state = self.state.lock();
        state.writing = false;
        if state.closed {
            return Delivered::Closed;
        }
        let Ok(written) = written else { return Delivered::Broken };
        if written == rendering.total && state.queue.is_empty() {
            return Delivered::Yes;
        }
        let left = rendering.total - written;
        if left > 0 {
            let mut rest = VecDeque::new();
            append(&mut rest, rendering, written);
            rest.append(&mut state.queue);
            state.queue = rest;
            state.offset = 0;
            let pending = self.pending.fetch_add(left, Relaxed) + left;
            if !state.edge {
                state.blocked = true;
                return if pending > pending_max { Delivered::Overflow } else { Delivered::Yes };
            }
        }
        self.drain(state, transport)
    }

    /// Queues only. `true`: the caller must call [`flush`](Self::flush) as it is to be promised, and always before it
    /// sleeps.
    pub fn defer(
        &self,
        rendering: &mut Rendering<'_>,
        pending_max: usize,
        promised: Promise,
    ) -> (Delivered, bool) {
        let mut state = self.state.lock();
        if state.closed {
            return (Delivered::Closed, false);
        }
        state.messages += rendering.messages;
        state.bytes += rendering.message_bytes;
        append(&mut state.queue, rendering, 0);
        let delivered = self.grown(rendering.total, pending_max);
        (delivered, promise(&mut state, promised))
    }

    /// Queues plain protocol bytes, not counted as messages. `true`: the caller must flush.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut state = self.state.lock();
        if state.closed || bytes.is_empty() {
            return false;
        }
        append_bytes(&mut state.queue, bytes);
        self.pending.fetch_add(bytes.len(), Relaxed);
        promise(&mut state, Promise::Soon)
    }

    /// Writes what waits, unless the transport is known to be full.
    pub fn flush(&self, transport: &dyn Transport) -> Delivered {
        let mut state = self.state.lock();
        state.promised = Promise::None;
        if state.blocked || state.writing { Delivered::Yes } else { self.drain(state, transport) }
    }

    /// The owner saw a writable edge.
    pub fn writable(&self, transport: &dyn Transport) -> Delivered {
        let mut state = self.state.lock();
        if state.writing {
            state.edge = true;
            return Delivered::Yes;
        }
        self.drain(state, transport)
    }

    /// Drops what waits and refuses what comes. Returns the bytes that were lost.
    pub fn close(&self) -> usize {
        let mut state = self.state.lock();
        state.closed = true;
        state.queue = VecDeque::new();
        self.pending.swap(0, Relaxed)
    }

    fn grown(&self, bytes: usize, pending_max: usize) -> Delivered {
        let pending = self.pending.fetch_add(bytes, Relaxed) + bytes;
        if pending > pending_max { Delivered::Overflow } else { Delivered::Yes }
    }

    fn drain<'a>(&'a self, mut state: MutexGuard<'a, State>, transport: &dyn Transport) -> Delivered {
        let mut drained = 0;
        while !state.writing && !state.queue.is_empty() && !state.closed {
            if drained > DRAIN_BYTES_MAX {
                transport.rearm();
                state.blocked = true;
                break;
            }
            let mut queue = std::mem::take(&mut state.queue);
            let offset = state.offset;
            (state.writing, state.edge, state.blocked) = (true, false, false);
            drop(state);
            let result = write_chunks(transport, &queue, offset);
            state = self.state.lock();
            state.writing = false;
            if state.closed {
                return Delivered::Closed;
            }
            let Ok((written, offered)) = result else { return Delivered::Broken };
            self.pending.fetch_sub(written, SeqCst);
            self.drained.fetch_add(written as u64, Relaxed);
            drained += written;
            state.offset = pop_written(&mut queue, offset + written);
            queue.append(&mut state.queue);
            state.queue = queue;
            if written < offered && !state.edge {
                state.blocked = true;
                break;
            }
        }
        if state.queue.is_empty() {
            // an idle link owns no buffer
            state.queue = VecDeque::new();
            state.offset = 0;
            state.blocked = false;
        }
        Delivered::Yes
    }
}

fn promise(state: &mut State, promised: Promise) -> bool {
    if state.promised >= promised || state.blocked || state.writing {
        return false;
    }
    state.promised = promised;
    true
}

fn write_rendering(transport: &dyn Transport, rendering: &Rendering<'_>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut total = 0;
    for group in rendering.segments.chunks(SLICES_MAX) {
        let mut offered = 0;
        for (slice, segment) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(rendering.slice(*segment));
            offered += slice.len();
        }
        let written = transport.write(&slices[..group.len()])?;
        total += written;
        if written < offered {
            break;
        }
    }
    Ok(total)
}

fn write_chunks(
    transport: &dyn Transport,
    queue: &VecDeque<Chunk>,
    offset: usize,
) -> io::Result<(usize, usize)> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut offered = 0;
    let count = queue.len().min(SLICES_MAX);
    for (i, (slice, chunk)) in slices.iter_mut().zip(queue).enumerate() {
        let skip = if i == 0 { offset } else { 0 };
        *slice = IoSlice::new(chunk.as_slice().get(skip..).unwrap_or_default());
        offered += slice.len();
    }
    let written = transport.write(&slices[..count])?;
    Ok((written, offered))
}

/// Drops chunks that are written whole; returns the written bytes of the first one left.
fn pop_written(queue: &mut VecDeque<Chunk>, mut written: usize) -> usize {
    while let Some(chunk) = queue.front() {
        let len = chunk.as_slice().len();
        if written < len {
            break;
        }
        written -= len;
        queue.pop_front();
    }
    written
}

fn append(queue: &mut VecDeque<Chunk>, rendering: &mut Rendering<'_>, mut skip: usize) {
    for i in 0..rendering.segments.len() {
        let segment = rendering.segments[i];
        let len = rendering.slice(segment).len();
        if skip >= len {
            skip -= len;
            continue;
        }
        match segment {
            Segment::Body(message, ..) if len - skip >= BY_REFERENCE_BYTES => {
                // a receiver without headers gets a shorter body of the same message
                let kept = rendering.bodies.get(message as usize).and_then(Option::as_ref);
                let whole = match kept.filter(|body| body.len() == len) {
                    Some(body) => body.clone(),
                    None => {
                        let body = Bytes::copy_from_slice(rendering.slice(segment));
                        if let Some(place) = rendering.bodies.get_mut(message as usize) {
                            *place = Some(body.clone());
                        }
                        body
                    }
                };
                queue.push_back(Chunk::Shared(whole.slice(skip..)));
            }
            _ => append_bytes(queue, &rendering.slice(segment)[skip..]),
        }
        skip = 0;
    }
}

fn append_bytes(queue: &mut VecDeque<Chunk>, bytes: &[u8]) {
    if let Some(Chunk::Own(last)) = queue.back_mut()
        && last.len() + bytes.len() <= last.capacity()
    {
        last.extend_from_slice(bytes);
        return;
    }
    // small first, each larger than the one before: a thousand links with a few messages each stay small
    let before = queue.back().map_or(bytes.len(), |last| last.as_slice().len());
    let capacity = (before * 4).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES);
    let mut chunk = Vec::with_capacity(capacity.max(bytes.len()));
    chunk.extend_from_slice(bytes);
    queue.push_back(Chunk::Own(chunk));
}
