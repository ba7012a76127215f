//! A connection in memory, with the manners of a non-blocking socket under an edge-triggered poll.
//!
//! Owns the bytes under way in both directions and the edges that a kernel would raise: readable when bytes or
//! the end arrive, writable when room appears after a write came up short. Short writes happen because the
//! capacity is small, never at random: a lost byte is then always the broker's fault.

use broker::mailbox::Command;
use broker::{Mailbox, Transport};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

/// Both directions of one connection.
pub struct Pipe {
    state: Mutex<State>,
    owner: Arc<Mailbox>,
    token: u32,
}

#[derive(Default)]
struct State {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    to_server_max: usize,
    to_client_max: usize,
    /// The client sends no more.
    client_ended: bool,
    /// The connection broke: nothing passes in either direction.
    broken: bool,
    /// The server called `shutdown`.
    shut_down: bool,
    /// The last write was short: room raises an edge.
    short: bool,
    readable: bool,
    writable: bool,
}

/// What a poll says of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Edges {
    /// Bytes or the end arrived.
    pub readable: bool,
    /// The end stands behind the bytes, if there are any.
    pub ended: bool,
    /// There is room again.
    pub writable: bool,
}

impl Pipe {
    /// A connection whose server side `owner` knows under `token`. The limits are the kernel's buffers, in bytes.
    pub fn new(owner: Arc<Mailbox>, token: u32, to_server_max: usize, to_client_max: usize) -> Arc<Pipe> {
        let state = State { to_server_max, to_client_max, ..State::default() };
        Arc::new(Pipe { state: Mutex::new(state), owner, token })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The client sends: takes what fits off the front of `bytes` and returns how much that was.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        if state.broken || state.shut_down {
            return bytes.len();
        }
        let taken = bytes.len().min(state.to_server_max - state.to_server.len());
        state.to_server.extend(&bytes[..taken]);
        state.readable |= taken > 0;
        taken
    }

    /// The client reads up to `bytes_max`; `None` at the end.
    pub fn receive(&self, bytes_max: usize, into: &mut Vec<u8>) -> Option<usize> {
        let mut state = self.lock();
        if state.broken || (state.to_client.is_empty() && state.shut_down) {
            return None;
        }
        let taken = bytes_max.min(state.to_client.len());
        into.extend(state.to_client.drain(..taken));
        if taken > 0 && state.short {
            (state.short, state.writable) = (false, true);
        }
        Some(taken)
    }

    /// The client closes its side after what it sent.
    pub fn end(&self) {
        let mut state = self.lock();
        (state.client_ended, state.readable) = (true, true);
    }

    /// The connection breaks: what is under way is lost.
    pub fn break_off(&self) {
        let mut state = self.lock();
        (state.broken, state.readable) = (true, true);
        state.to_server.clear();
        state.to_client.clear();
    }

    /// The server reads: `Ok(None)` when nothing is there, `Ok(Some(0))` at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.to_server.is_empty() {
            return Ok((state.client_ended || state.shut_down).then_some(0));
        }
        let taken = room.len().min(state.to_server.len());
        let (front, back) = state.to_server.as_slices();
        let in_front = taken.min(front.len());
        room[..in_front].copy_from_slice(&front[..in_front]);
        room[in_front..taken].copy_from_slice(&back[..taken - in_front]);
        state.to_server.drain(..taken);
        Ok(Some(taken))
    }

    /// Takes the edges raised since the last look.
    pub fn take_edges(&self) -> Edges {
        let mut state = self.lock();
        let readable = std::mem::take(&mut state.readable);
        let ended = readable && (state.client_ended || state.broken || state.shut_down);
        Edges { readable, ended, writable: std::mem::take(&mut state.writable) }
    }

    /// Whether the server read all that the client sent.
    pub fn is_drained(&self) -> bool {
        self.lock().to_server.is_empty()
    }

    /// Whether nothing is under way and no edge waits.
    pub fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.to_server.is_empty() && state.to_client.is_empty() && !state.readable && !state.writable
    }
}

/// What the link holds.
pub struct PipeTransport(pub Arc<Pipe>);

impl Transport for PipeTransport {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        for slice in slices {
            let taken = slice.len().min(state.to_client_max - state.to_client.len());
            state.to_client.extend(&slice[..taken]);
            written += taken;
            if taken < slice.len() {
                state.short = true;
                break;
            }
        }
        Ok(written)
    }

    fn rearm(&self) {
        self.0.owner.post(Command::Writable(self.0.token));
    }

    fn shutdown(&self) {
        let mut state = self.0.lock();
        (state.shut_down, state.readable) = (true, true);
    }
}
