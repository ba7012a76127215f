//! The event loop of one worker: readiness in, reads, writes, sleep.
//!
//! Owns the poll and the sockets of its connections. Each ready connection is read once a round, so that a bulk
//! publisher cannot keep a light one waiting for more than one read of each of its neighbours.

use crate::shared::Shared;
use crate::socket::{ReadAgain, Security, Socket, SocketTransport};
use crate::verification;
use broker::link::About;
use broker::mailbox::Command;
use broker::{CloseReason, Link, LinkKind, Mailbox, Wake};
use client::Answer;
use engine::{Accepted, Progress, Recheck, RouteOpening, Settings, Worker};
use mio::{Events, Poll, Token, Waker};
use std::any::Any;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::info::Info;

const WAKE: Token = Token(usize::MAX);
/// Reads after which what was put off in this round is written at the latest.
const READS_BEFORE_FLUSH: usize = 16;
const TICK: Duration = Duration::from_millis(100);
const TICK_PAUSED: Duration = Duration::from_millis(10);
/// Each tick looks at this part of the connections, so that all are seen about once a second.
const TICKS_PER_WALK: usize = 10;

/// How often time is looked at, and after how many looks all connections were seen: oftener than usual where PINGs
/// come more often than every ten seconds.
fn pace(ping_interval_nanos: u64) -> (Duration, usize) {
    let precision = Duration::from_nanos(ping_interval_nanos / 10);
    let tick = precision.clamp(TICK_PAUSED, TICK);
    let looks = precision.as_nanos() / tick.as_nanos();
    (tick, looks.clamp(1, TICKS_PER_WALK as u128) as usize)
}

/// A connection for a worker to take in.
pub struct Incoming {
    /// The accepted or opened stream, non-blocking.
    pub stream: std::net::TcpStream,
    /// How it is secured.
    pub security: Security,
    /// Kind of peer.
    pub kind: LinkKind,
    /// Its number.
    pub id: u64,
    /// What is known of it.
    pub about: About,
    /// The server's first bytes.
    pub greeting: Vec<u8>,
    /// The challenge in them, empty without one.
    pub nonce: String,
    /// Its end of the route protocol, when it is a route.
    pub route: Option<RouteOpening>,
}

/// Clients are to be told a changed INFO.
pub struct Inform(pub Arc<Info>);

/// One client is to be told an INFO of its own.
pub struct InformOne(pub Arc<Link>, pub Arc<Info>);

/// The configuration changed.
pub struct Reconfigure(pub Arc<Settings>, pub Recheck);

/// One client is to be told why it must go (`-ERR 'text'`), and closed.
pub struct CloseOne(pub Arc<Link>, pub &'static str, pub CloseReason);

/// Clients are to be closed, up to so many: lame duck mode and shutdown.
pub struct CloseClients(pub usize, pub CloseReason);

/// Wakes a poll.
struct PollWaker(Waker);

impl Wake for PollWaker {
    fn wake(&self) {
        // the poll is gone only when its thread is: nothing to wake
        let _ = self.0.wake();
    }
}

/// Nanoseconds since the Unix epoch by a clock that never jumps: the wall clock's time when the process first
/// asked, and what has passed since. All timers, deadlines and ages are counted by it, so that whoever sets the
/// machine's clock ends no connection and delays no dial. For calendars there is [`wall_nanos`].
pub fn now_nanos() -> u64 {
    static ORIGIN: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), wall_nanos()));
    let (origin, nanos) = *ORIGIN;
    nanos + origin.elapsed().as_nanos() as u64
}

/// Nanoseconds since the Unix epoch by the machine's clock, which may be set forward and back.
pub fn wall_nanos() -> u64 {
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
    number: usize,
    shared: Arc<Shared>,
    worker: Worker,
    sockets: Vec<Option<Slot>>,
    ready: Vec<u32>,
    overdue: Vec<u32>,
    last_tick_nanos: u64,
    pace: (Duration, usize),
    /// Reads since the last flush. Over rounds: one publisher that never pauses must not keep back what others wait
    /// for.
    reads_unflushed: usize,
    /// Output of bulk publishers waits for its turn.
    has_waiting: bool,
}

struct Slot {
    socket: Arc<Socket>,
    link: Arc<Link>,
    /// When its TLS handshake must be over; 0 when it is.
    handshake_until_nanos: u64,
    queued: bool,
    paused: bool,
    /// The peer's end was announced. It is read to even after a short read: bytes and end often come as one
    /// edge, and no other tells of the end.
    ending: bool,
}

impl Slot {
    fn end_handshake(&mut self) {
        self.handshake_until_nanos = 0;
        self.link.about.lock().tls = self.socket.with_tls(describe).unwrap_or_default();
    }
}

impl WorkerThread {
    /// To be called in the thread that [`run`](Self::run)s it: a worker is not sent between threads.
    pub fn new(poll: Poll, number: usize, shared: Arc<Shared>, worker: Worker) -> WorkerThread {
        WorkerThread {
            poll,
            mailbox: shared.broker.mailboxes()[number].clone(),
            number,
            shared,
            sockets: Vec::new(),
            ready: Vec::new(),
            overdue: Vec::new(),
            last_tick_nanos: now_nanos(),
            pace: pace(worker.ping_interval_nanos()),
            worker,
            reads_unflushed: 0,
            has_waiting: false,
        }
    }

    /// Serves until [`Stop`] comes.
    ///
    /// # Errors
    /// The poll failed: nothing can be served any more.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = if !self.ready.is_empty() || self.has_waiting {
                Duration::ZERO
            } else if self.worker.has_paused() {
                TICK_PAUSED
            } else {
                self.pace.0
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
                    if let Some(Some(slot)) = self.sockets.get(event.token().0) {
                        slot.socket.writable();
                    }
                    self.worker.writable(token);
                }
                if (event.is_read_closed() || event.is_error())
                    && let Some(Some(slot)) = self.sockets.get_mut(event.token().0)
                {
                    slot.ending = true;
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
            for question in self.worker.questions().drain(..) {
                self.shared.logins.ask(question);
            }
            self.tell_logins();
            self.flush();
        }
    }

    fn tell_logins(&mut self) {
        for link in self.worker.logins().drain(..) {
            self.shared.logged_in(&link);
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
            self.reads_unflushed += 1;
            if self.reads_unflushed >= READS_BEFORE_FLUSH {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        self.worker.flush(false);
        self.has_waiting = self.worker.flush_waiting(self.reads_unflushed);
        self.reads_unflushed = 0;
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
            Ok(None) => {
                if slot.handshake_until_nanos != 0 && slot.socket.take_verification() {
                    verification::spawn(slot.socket.clone());
                }
                return false;
            }
            Ok(Some(0)) => self.worker.close(token, CloseReason::ClientClosed),
            Ok(Some(read)) => {
                let (filled, ending) = (read == size, slot.ending);
                if slot.handshake_until_nanos != 0 {
                    // whoever is asked about this client is told of its TLS
                    slot.end_handshake();
                    // what waited for the handshake goes out first: what came may end the connection
                    self.worker.writable(token);
                }
                match self.worker.received(token, read, filled, busy, now) {
                    Progress::Open => return filled || ending,
                    other => other,
                }
            }
            Err(error) => {
                let reason = if slot.socket.is_handshaking() {
                    tracing::error!("{} - TLS handshake error: {error}", slot.link.describe());
                    CloseReason::TlsHandshakeError
                } else {
                    CloseReason::ReadError
                };
                self.worker.close(token, reason)
            }
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
                // who came and went in one round is told in that order
                self.tell_logins();
                if let Some(slot) = self.sockets.get_mut(token as usize).and_then(Option::take) {
                    self.shared.connection_closed(self.number, slot.link, reason);
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
                    Err(what) if what.is::<Stop>() => {
                        self.worker.flush(true);
                        return true;
                    }
                    Err(what) => self.obey(what),
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

    /// Commands of this driver.
    fn obey(&mut self, what: Box<dyn Any + Send>) {
        let what = match what.downcast::<Answer>() {
            Ok(answer) => {
                if let Some((token, progress)) = self.worker.answered(*answer, now_nanos()) {
                    self.apply(token, progress);
                }
                return;
            }
            Err(what) => what,
        };
        if let Some(Inform(info)) = what.downcast_ref() {
            self.worker.inform(info.clone());
        } else if let Some(InformOne(link, info)) = what.downcast_ref() {
            self.worker.inform_one(link, info);
        } else if let Some(Reconfigure(settings, recheck)) = what.downcast_ref() {
            for (token, reason) in self.worker.reconfigure(settings.clone(), recheck, now_nanos()) {
                self.apply(token, Progress::Closed(reason));
            }
            self.pace = pace(self.worker.ping_interval_nanos());
        } else if let Some(CloseOne(link, text, reason)) = what.downcast_ref() {
            if let Some(progress) = self.worker.dismiss(link, text, *reason) {
                self.apply(link.token, progress);
            }
        } else if let Some(ReadAgain(token)) = what.downcast_ref() {
            self.queue(*token);
        } else if let Some(CloseClients(count, reason)) = what.downcast_ref() {
            // what was sent to them reaches them
            self.worker.flush(true);
            for token in self.worker.tokens(LinkKind::Client).into_iter().take(*count) {
                let progress = self.worker.close(token, *reason);
                self.apply(token, progress);
            }
        }
    }

    fn take_in(&mut self, incoming: Incoming) {
        let token = self.worker.next_token();
        let stream = mio::net::TcpStream::from_std(incoming.stream);
        let secured = !matches!(incoming.security, Security::Plain);
        let mut socket = Socket::new(stream, incoming.security, self.mailbox.clone(), token);
        if let Err(error) = socket.register(self.poll.registry(), Token(token as usize)) {
            tracing::error!("cannot watch a connection, it is closed: {error}");
            self.shared.never_opened(self.number, incoming.kind);
            return;
        }
        let now = now_nanos();
        let socket = Arc::new(socket);
        let accepted = Accepted {
            kind: incoming.kind,
            id: incoming.id,
            transport: Box::new(SocketTransport(socket.clone())),
            about: incoming.about,
            greeting: incoming.greeting,
            nonce: incoming.nonce,
            route: incoming.route,
        };
        let Some(link) = self.worker.accept(accepted, now) else {
            self.shared.never_opened(self.number, LinkKind::Route);
            return;
        };
        if self.sockets.len() <= token as usize {
            self.sockets.resize_with(token as usize + 1, || None);
        }
        let handshake_until_nanos = if secured { now + self.shared.handshake_nanos(link.kind) } else { 0 };
        self.sockets[token as usize] =
            Some(Slot { socket, link, handshake_until_nanos, queued: false, paused: false, ending: false });
        // bytes that came before it was watched raise an edge as well
    }

    /// Ends handshakes that take too long.
    fn check_handshakes(&mut self, now: u64) {
        for token in 0..self.sockets.len() as u32 {
            let Some(Some(slot)) = self.sockets.get_mut(token as usize) else { continue };
            // who may choose and said nothing yet has begun none
            if slot.handshake_until_nanos == 0 || slot.socket.is_undecided() {
                continue;
            }
            if !slot.socket.is_handshaking() {
                slot.end_handshake();
            } else if now > slot.handshake_until_nanos {
                tracing::error!("{} - TLS handshake error: timeout", slot.link.describe());
                let progress = self.worker.close(token, CloseReason::TlsHandshakeError);
                self.apply(token, progress);
            }
        }
    }

    fn tick(&mut self, now: u64) {
        let mut overdue = std::mem::take(&mut self.overdue);
        self.worker.overdue(now, &mut overdue);
        for token in overdue.drain(..) {
            self.apply(token, Progress::Open);
        }
        self.overdue = overdue;
        if now.saturating_sub(self.last_tick_nanos) < self.pace.0.as_nanos() as u64 {
            return;
        }
        self.last_tick_nanos = now;
        self.check_handshakes(now);
        if self.number == 0 {
            self.shared.report_rate_limiting();
        }
        let mut closed = Vec::new();
        self.worker.tick(now, self.sockets.len() / self.pace.1 + 1, &mut closed);
        for (token, reason) in closed {
            self.apply(token, Progress::Closed(reason));
        }
    }
}

/// Version and cipher suite as /connz shows them.
fn describe(connection: &rustls::Connection) -> (String, String) {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
        _ => "",
    };
    let suite = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    (version.into(), suite.unwrap_or_default().replace("TLS13_", "TLS_"))
}

/// Ends a worker's thread.
pub struct Stop;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_at_most_a_tenth_of_their_interval_late() {
        for (interval_millis, tick_millis, looks) in [
            (120_000, 100, 10),
            (10_000, 100, 10),
            (2_000, 100, 2),
            (1_000, 100, 1),
            (100, 10, 1),
            (1, 10, 1),
        ] {
            let expected = (Duration::from_millis(tick_millis), looks);
            assert_eq!(pace(interval_millis * 1_000_000), expected, "{interval_millis} ms");
        }
    }
}
