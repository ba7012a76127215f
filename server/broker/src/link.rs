//! One connection as the rest of the broker sees it.
//!
//! Owns what other workers may touch of a connection: its output, its flags, its counters and its reason to
//! close. Never holds protocol state: that is the session's, in the worker that owns the link.

use crate::mailbox::{Command, Mailbox};
use crate::output::{HIGH_BYTES, LOW_BYTES, Output, STALL_NANOS_MAX};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, sequential};
use accounts::{Permissions, Replies, Responses};
use parking_lot::RwLock;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, OnceLock};

pub use wire::CloseReason;

/// Where a link's bytes go. The one seam between deciding and sending: called once a batch, not once a message.
pub trait Transport: Send + Sync {
    /// Writes without waiting and says how many bytes were taken, 0 when full. Any thread; never two at once.
    ///
    /// # Errors
    /// The connection is gone.
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Makes a writable edge come again although the transport may not be full. Any thread.
    fn rearm(&self);
    /// Ends the connection; its owner sees the end as an event. Any thread.
    fn shutdown(&self);
    /// What was queued so far, `plain_bytes` that still wait, is the last that goes as it is; what follows is
    /// compressed, and so is what is read from now on. On a transport that compresses already only the level changes.
    fn compress(&self, _level: wire::s2::Level, _plain_bytes: usize) {}
    /// Takes bytes back that were read before it was clear that they are compressed.
    fn unread(&self, _bytes: &[u8]) {}
    /// The certificates (DER) that the peer showed in TLS, its own first; that one is verified.
    fn peer_certificates(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
    /// The peer's verified certificate (DER), if TLS brought one.
    fn peer_certificate(&self) -> Option<Vec<u8>> {
        self.peer_certificates().into_iter().next()
    }
}

/// Kind of peer, for `may_forward`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A NATS client.
    Client,
    /// Another server of the cluster.
    Route,
    /// A subscriber inside this process.
    Internal,
}

/// Whether a message that came from a link of kind `from` may go to one of kind `to`. A message crosses one
/// route only (one-hop rule of the full mesh).
pub fn may_forward(from: LinkKind, to: LinkKind) -> bool {
    match (from, to) {
        (LinkKind::Route, LinkKind::Route) => false,
        (LinkKind::Client | LinkKind::Internal | LinkKind::Route, _) => true,
    }
}

/// The client asked not to get its own messages.
pub const FLAG_NO_ECHO: u8 = 1;
/// The client understands headers.
pub const FLAG_HEADERS: u8 = 2;
/// The client understands asynchronous INFO.
pub const FLAG_ASYNC_INFO: u8 = 4;
/// The route carries one account, which its verbs do not name.
pub const FLAG_ACCOUNT_IMPLIED: u8 = 8;

/// The route's server does not know message traces: it would deliver what is only to be traced.
pub const FLAG_NO_TRACES: u8 = 32;
/// Reply subjects of messages for this link are remembered.
pub const FLAG_REPLIES: u8 = 16;

/// A reader that took nothing for so long has stalled: publishers at full speed fill half of what may wait for it in
/// less, and stood still for the rest of a second when it was one.
const READING_NANOS: u64 = 2 * STALL_NANOS_MAX;

/// Facts for monitoring; written by the session, read by whoever renders a document.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Address of the peer.
    pub ip: String,
    /// Port of the peer.
    pub port: u16,
    /// Start in nanoseconds since the Unix epoch.
    pub start_nanos: u64,
    /// Name given in CONNECT; on a route the peer's server name.
    pub name: String,
    /// Client language.
    pub lang: String,
    /// Client version.
    pub version: String,
    /// User as /connz?auth=1 shows it.
    pub user: String,
    /// Account.
    pub account: String,
    /// Id of the server at the other end of a route.
    pub remote_id: String,
    /// This server opened the connection.
    pub solicited: bool,
    /// The client said CONNECT and was let in.
    pub connected: bool,
    /// Transport security as /connz shows it, empty without TLS: version and cipher suite.
    pub tls: (String, String),
    /// Who the user is, where that says more than its name: permissions, a token, an end.
    pub identity: Option<Arc<accounts::Identity>>,
}

impl About {
    /// The user with its kind, as log lines show it.
    fn user_label(&self) -> String {
        let is_key = self.user.len() == 56 && self.user.starts_with('U');
        let has_token = self.identity.as_ref().is_some_and(|identity| identity.token.is_some());
        match &*self.user {
            "" => String::new(),
            "[REDACTED]" => "token".into(),
            user if has_token => format!("jwt:{user}"),
            user if is_key => format!("nkey:{user}"),
            user => format!("user:{user}"),
        }
    }
}

/// Counters of what came in; written by the owner only.
#[derive(Default)]
pub struct Received {
    /// Messages.
    pub messages: AtomicU64,
    /// Payload bytes with headers.
    pub bytes: AtomicU64,
}

/// What a link is made of.
pub struct LinkParts {
    /// Number of the connection on this server, never used again.
    pub id: u64,
    /// Place in the broker's registry, used again.
    pub index: u32,
    /// Kind of peer.
    pub kind: LinkKind,
    /// Its owner's slot for it.
    pub token: u32,
    /// Its owner.
    pub owner: Arc<Mailbox>,
    /// Where its bytes go.
    pub transport: Box<dyn Transport>,
    /// Monitoring facts known at the start.
    pub about: About,
}

/// One connection; shared by all workers.
pub struct Link {
    /// Number of the connection on this server, never used again.
    pub id: u64,
    /// Place in the broker's registry, used again.
    pub index: u32,
    /// Kind of peer.
    pub kind: LinkKind,
    /// Its owner's slot for it.
    pub token: u32,
    /// Its owner.
    pub owner: Arc<Mailbox>,
    /// What waits to be written.
    pub output: Output,
    /// Where bytes go.
    pub transport: Box<dyn Transport>,
    /// What came in.
    pub received: Received,
    /// Open subscriptions.
    pub subscriptions: AtomicU32,
    /// Round trip of the last PING in nanoseconds.
    pub rtt_nanos: AtomicU64,
    /// Last message or subscription, nanoseconds since the Unix epoch.
    pub active_nanos: AtomicU64,
    /// Monitoring facts.
    pub about: Mutex<About>,
    /// What its user may do, when a subscription of it covers more than that.
    deny_filter: RwLock<Option<Arc<Permissions>>>,
    /// Reply subjects that its user may answer (`allow_responses`).
    replies: OnceLock<Mutex<Replies>>,
    flags: AtomicU8,
    reason: AtomicU8,
    paused: AtomicBool,
    /// Publishers may wait: checked after each write, so that the lock is taken only then.
    congested: AtomicBool,
    congestion: Mutex<Congestion>,
}

#[derive(Default)]
struct Congestion {
    /// When the output passed the high mark, 0 while it has not.
    since_nanos: u64,
    /// What the reader had taken when it was last seen to take something, and when that was.
    drained: (u64, u64),
    waiters: Vec<Arc<Link>>,
}

impl Congestion {
    /// Whether the reader took anything within the last second.
    fn is_reading(&mut self, drained_bytes: u64, now_nanos: u64) -> bool {
        if self.drained.0 != drained_bytes {
            self.drained = (drained_bytes, now_nanos);
        }
        now_nanos.saturating_sub(self.drained.1) < READING_NANOS
    }
}

impl Link {
    /// A new open link.
    pub fn new(parts: LinkParts) -> Link {
        Link {
            id: parts.id,
            index: parts.index,
            kind: parts.kind,
            token: parts.token,
            owner: parts.owner,
            output: Output::default(),
            transport: parts.transport,
            received: Received::default(),
            subscriptions: AtomicU32::new(0),
            rtt_nanos: AtomicU64::new(0),
            active_nanos: AtomicU64::new(parts.about.start_nanos),
            about: Mutex::new(parts.about),
            deny_filter: RwLock::new(None),
            replies: OnceLock::new(),
            flags: AtomicU8::new(0),
            reason: AtomicU8::new(0),
            paused: AtomicBool::new(false),
            congested: AtomicBool::new(false),
            congestion: Mutex::new(Congestion::default()),
        }
    }

    /// What deliveries to this link are held to, if anything.
    #[inline]
    pub fn deny_filter(&self) -> Option<Arc<Permissions>> {
        self.deny_filter.read().clone()
    }

    /// Messages for this link are checked against `permissions` from now on; `None`: they need not be.
    pub fn set_deny_filter(&self, permissions: Option<&Arc<Permissions>>) {
        *self.deny_filter.write() = permissions.cloned();
    }

    /// From now on the reply subjects of delivered messages are remembered.
    pub fn track_replies(&self, responses: Responses) {
        let _ = self.replies.set(Mutex::new(Replies::new(responses)));
        self.set(FLAG_REPLIES, true);
    }

    /// A message with this reply subject goes to this link.
    pub fn reply_delivered(&self, reply: &[u8], now_nanos: u64) {
        if let Some(replies) = self.replies.get() {
            replies.lock().handle_delivered(reply, now_nanos);
        }
    }

    /// Whether the link may answer on `subject`, using up one of its answers.
    pub fn take_reply(&self, subject: &[u8], now_nanos: u64) -> bool {
        self.replies.get().is_some_and(|replies| replies.lock().take(subject, now_nanos))
    }

    /// How log lines name it: `127.0.0.1:50312 - cid:7`, and behind CONNECT `- "v1.2:go:name" - "ACCOUNT/user:name"`.
    pub fn describe(&self) -> String {
        let about = self.about.lock();
        let kind = if self.kind == LinkKind::Route { "rid" } else { "cid" };
        let open = if about.ip.contains(':') { ("[", "]") } else { ("", "") };
        let mut text = format!("{}{}{}:{} - {kind}:{}", open.0, about.ip, open.1, about.port, self.id);
        if self.kind == LinkKind::Client && about.connected {
            let version =
                if about.version.is_empty() { String::new() } else { format!("v{}", about.version) };
            let parts = [&version, &about.lang, &about.name].into_iter().filter(|part| !part.is_empty());
            let client = parts.cloned().collect::<Vec<_>>().join(":");
            for part in [client, format!("{}/{}", about.account, about.user_label())] {
                if !part.is_empty() {
                    text.push_str(" - ");
                    text.push_str(&wire::lines::quoted(part.as_bytes()));
                }
            }
        }
        text
    }

    /// Whether a flag is set.
    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    /// Sets or clears a flag.
    pub fn set(&self, flag: u8, on: bool) {
        if on {
            self.flags.fetch_or(flag, Relaxed);
        } else {
            self.flags.fetch_and(!flag, Relaxed);
        }
    }

    /// Ends the link from any thread; the first reason stays. Its owner cleans up when it sees the end.
    pub fn close(&self, reason: CloseReason) {
        if self.reason.compare_exchange(0, reason.code(), AcqRel, Acquire).is_ok() {
            self.output.close();
            self.release();
            self.transport.shutdown();
        }
    }

    /// Why the link was closed, if it was.
    pub fn close_reason(&self) -> Option<CloseReason> {
        CloseReason::from_code(self.reason.load(Acquire))
    }

    /// Whether the link must not be read now.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Acquire)
    }

    /// Lets a paused link read again; `true` when it was paused.
    pub fn resume(&self) -> bool {
        self.paused.swap(false, AcqRel)
    }

    /// Pauses `publisher` when this link is congested. A reader that stays congested for longer than
    /// [`STALL_NANOS_MAX`] holds nobody up any more, until half of `pending_bytes_max` waits for it: then, if it
    /// reads at all, publishers are paused again, so that they are slowed down before it is cut off. Nobody is paused
    /// while `stalls` is false.
    #[inline]
    pub fn pause_if_congested(
        &self,
        publisher: &Arc<Link>,
        now_nanos: u64,
        pending_bytes_max: usize,
        stalls: &std::sync::atomic::AtomicBool,
    ) {
        if self.output.pending_bytes() >= HIGH_BYTES {
            self.pause(publisher, now_nanos, pending_bytes_max, stalls);
        }
    }

    #[cold]
    fn pause(
        &self,
        publisher: &Arc<Link>,
        now_nanos: u64,
        pending_bytes_max: usize,
        stalls: &std::sync::atomic::AtomicBool,
    ) {
        if std::ptr::eq(self, &**publisher) || publisher.kind == LinkKind::Route || !stalls.load(Relaxed) {
            return;
        }
        let mut congestion = self.congestion.lock();
        // the flag first, then the mark again: a writer that drains meanwhile sees one or we see the other
        self.congested.store(true, SeqCst);
        sequential();
        let pending = self.output.pending_bytes();
        if pending < HIGH_BYTES || self.close_reason().is_some() {
            return;
        }
        let is_reading = congestion.is_reading(self.output.drained_bytes(), now_nanos);
        if congestion.since_nanos == 0 {
            congestion.since_nanos = now_nanos;
        } else if now_nanos.saturating_sub(congestion.since_nanos) > STALL_NANOS_MAX
            && !(is_reading && pending >= pending_bytes_max / 2)
        {
            return;
        }
        publisher.paused.store(true, Release);
        if !congestion.waiters.iter().any(|waiter| Arc::ptr_eq(waiter, publisher)) {
            congestion.waiters.push(publisher.clone());
        }
    }

    /// Lets the publishers go on once the output went below the low mark. Called after every write that may
    /// have drained it.
    #[inline]
    pub fn release_if_drained(&self) {
        sequential();
        if self.congested.load(SeqCst) && self.output.pending_bytes() < LOW_BYTES {
            self.release();
        }
    }

    fn release(&self) {
        let waiters = {
            let mut congestion = self.congestion.lock();
            congestion.since_nanos = 0;
            self.congested.store(false, SeqCst);
            std::mem::take(&mut congestion.waiters)
        };
        for publisher in waiters {
            if publisher.resume() {
                publisher.owner.post(Command::Resume(publisher.clone()));
            }
        }
    }
}
