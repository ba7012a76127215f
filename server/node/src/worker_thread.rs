//! The event loop of one worker: readiness in, reads, writes, sleep.
//!
//! Owns the poll and the sockets of its connections. Each ready connection is read once a round, so that a bulk
//! publisher cannot keep a light one waiting for more than one read of each of its neighbours.

use crate::socket::{Socket, SocketTransport};
use broker::link::About;
use broker::mailbox::Command;
use broker::{Account, CloseReason, LinkKind, Mailbox, Wake};
use engine::{Accepted, Progress, Worker};
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WAKE: Token = Token(usize::MAX);
/// Reads of one round after which what was put off is written at the latest.
const READS_BEFORE_FLUSH: usize = 16;
const TICK: Duration = Duration::from_millis(100);
const TICK_PAUSED: Duration = Duration::from_millis(10);
/// Each tick looks at this part of the connections, so that all are seen about once a second.
const TICKS_PER_WALK: usize = 10;

/// A connection for a worker to take in.
pub struct Incoming {
    /// The accepted or opened stream, non-blocking.
    pub stream: std::net::TcpStream,
    /// Kind of peer.
    pub kind: LinkKind,
    /// Its number.
    pub id: u64,
    /// What is known of it.
    pub about: About,
    /// The server's first bytes.
    pub greeting: Vec<u8>,
    /// The account of those who do not authenticate.
    pub account: Arc<Account>,
}

/// Wakes a poll.
struct PollWaker(Waker);

impl Wake for PollWaker {
    fn wake(&self) {
        // the poll is gone only when its thread is: nothing to wake
        let _ = self.0.wake();
    }
}

/// Nanoseconds since the Unix epoch.
pub fn now_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// A worker's poll and the mailbox that wakes it, made before its thread.
///
/// # Errors
/// The system's limits.
pub fn prepare() -> io::Result<(Poll, Arc<Mailbox>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, Arc::new(Mailbox::new(Box::new(PollWaker(waker))))))
}

/// What a worker's thread runs.
pub struct WorkerThread {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    worker: Worker,
    sockets: Vec<Option<Slot>>,
    ready: Vec<u32>,
    overdue: Vec<u32>,
    last_tick_nanos: u64,
}

struct Slot {
    socket: Arc<Socket>,
    queued: bool,
    paused: bool,
}

impl WorkerThread {
    /// To be called in the thread that [`run`](Self::run)s it: a worker is not sent between threads.
    pub fn new(poll: Poll, mailbox: Arc<Mailbox>, worker: Worker) -> WorkerThread {
        WorkerThread {
            poll,
            mailbox,
            worker,
            sockets: Vec::new(),
            ready: Vec::new(),
            overdue: Vec::new(),
            last_tick_nanos: now_nanos(),
        }
    }

    /// Serves until [`Stop`] comes.
    ///
    /// # Errors
    /// The poll failed: nothing can be served any more.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = if !self.ready.is_empty() {
                Duration::ZERO
            } else if self.worker.has_paused() {
                TICK_PAUSED
            } else {
                TICK
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let mut mail = false;
            for event in &events {
                if event.token() == WAKE {
                    mail = true;
                    continue;
                }
                let token = event.token().0 as u32;
                if event.is_writable() {
                    self.worker.writable(token);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.queue(token);
                }
            }
            if mail && self.open_mail() {
                return Ok(());
            }
            let now = now_nanos();
            self.serve(now);
            self.tick(now);
            self.worker.flush(self.ready.is_empty());
        }
    }

    fn queue(&mut self, token: u32) {
        if let Some(Some(slot)) = self.sockets.get_mut(token as usize)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push(token);
        }
    }

    /// Reads each ready connection once.
    fn serve(&mut self, now: u64) {
        let mut reads = 0;
        let mut place = 0;
        let busy = self.ready.len() > 1;
        while place < self.ready.len() {
            let token = self.ready[place];
            if self.read(token, busy, now) {
                place += 1;
            } else {
                self.ready.swap_remove(place);
                if let Some(Some(slot)) = self.sockets.get_mut(token as usize) {
                    slot.queued = false;
                }
            }
            reads += 1;
            if reads % READS_BEFORE_FLUSH == 0 {
                self.worker.flush(true);
            }
        }
    }

    /// One read; `true` when there may be more.
    fn read(&mut self, token: u32, busy: bool, now: u64) -> bool {
        let Some(Some(slot)) = self.sockets.get_mut(token as usize) else { return false };
        if slot.paused {
            return false;
        }
        let Some(room) = self.worker.room(token) else { return false };
        let size = room.len();
        let progress = match slot.socket.read(room) {
            Ok(None) => return false,
            Ok(Some(0)) => self.worker.close(token, CloseReason::ClientClosed),
            Ok(Some(read)) => {
                let filled = read == size;
                match self.worker.received(token, read, filled, busy, now) {
                    Progress::Open => return filled,
                    other => other,
                }
            }
            Err(_) => self.worker.close(token, CloseReason::ReadError),
        };
        self.apply(token, progress);
        false
    }

    fn apply(&mut self, token: u32, progress: Progress) {
        match progress {
            Progress::Open => {
                if let Some(Some(slot)) = self.sockets.get_mut(token as usize) {
                    slot.paused = false;
                }
                // what arrived meanwhile raised its edge already
                self.queue(token);
            }
            Progress::Paused => {
                if let Some(Some(slot)) = self.sockets.get_mut(token as usize) {
                    slot.paused = true;
                }
            }
            Progress::Closed(reason) => {
                tracing::debug!(token, reason = reason.text(), "connection closed");
                if let Some(slot) = self.sockets.get_mut(token as usize) {
                    *slot = None;
                }
            }
        }
    }

    /// Does what others asked for; `true` to stop.
    fn open_mail(&mut self) -> bool {
        for command in self.mailbox.take() {
            match command {
                Command::Other(what) => match what.downcast::<Incoming>() {
                    Ok(incoming) => self.take_in(*incoming),
                    Err(what) if what.is::<Stop>() => return true,
                    Err(_) => {}
                },
                command => {
                    if let Some((token, progress)) = self.worker.command(command) {
                        self.apply(token, progress);
                    }
                }
            }
        }
        false
    }

    fn take_in(&mut self, incoming: Incoming) {
        let token = self.worker.next_token();
        let stream = mio::net::TcpStream::from_std(incoming.stream);
        let mut socket = Socket::new(stream, self.mailbox.clone(), token);
        if let Err(error) = socket.register(self.poll.registry(), Token(token as usize)) {
            tracing::error!(%error, "cannot watch a connection: closed");
            return;
        }
        let socket = Arc::new(socket);
        if self.sockets.len() <= token as usize {
            self.sockets.resize_with(token as usize + 1, || None);
        }
        self.sockets[token as usize] = Some(Slot { socket: socket.clone(), queued: false, paused: false });
        let accepted = Accepted {
            kind: incoming.kind,
            id: incoming.id,
            transport: Box::new(SocketTransport(socket)),
            about: incoming.about,
            greeting: incoming.greeting,
            account: incoming.account,
        };
        self.worker.accept(accepted, now_nanos());
        // bytes may have come before it was watched
        self.queue(token);
    }

    fn tick(&mut self, now: u64) {
        let mut overdue = std::mem::take(&mut self.overdue);
        self.worker.overdue(now, &mut overdue);
        for token in overdue.drain(..) {
            self.apply(token, Progress::Open);
        }
        self.overdue = overdue;
        if now.saturating_sub(self.last_tick_nanos) < TICK.as_nanos() as u64 {
            return;
        }
        self.last_tick_nanos = now;
        let mut closed = Vec::new();
        self.worker.tick(now, self.sockets.len() / TICKS_PER_WALK + 1, &mut closed);
        for (token, reason) in closed {
            self.apply(token, Progress::Closed(reason));
        }
    }
}

/// Ends a worker's thread.
pub struct Stop;
