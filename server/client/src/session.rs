//! One client's session.

mod entrance;
mod recheck;
mod traced;

use crate::Policy;
use crate::login::Question;
use accounts::{AuthError, ConnectionLimits, Permissions, Reason, Subscribe};
use broker::link::{FLAG_ASYNC_INFO, FLAG_HEADERS, FLAG_REPLIES};
use broker::router::LOOK_AHEAD;
use broker::{Account, CloseReason, Link, LinkKind, Router, ScopeId, Verdict};
use hashbrown::HashTable;
use recheck::refused;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use wire::client::{Error, Limits, Op, Publish, parse_header_publish, parse_publish, parse_publish_again};
use wire::info::{Connect, Info};
use wire::lines::quoted;

/// First PING after a connection opened: early, so that the round trip is known soon.
const FIRST_PING_NANOS: u64 = 2_000_000_000;

/// Subscriptions of a client that has gone that are removed before others are served: half a millisecond's work.
const LEAVING_AT_ONCE: usize = 1_000;

/// Time after which the round trip is measured again, also of clients that are never silent.
const ROUND_TRIP_NANOS: u64 = 3_600_000_000_000;

/// What a session may use while it handles bytes.
pub struct Context<'a> {
    /// The worker's deliveries.
    pub router: &'a mut Router,
    /// The configuration's say.
    pub policy: &'a Policy,
    /// What clients are told of this server now.
    pub info: &'a Info,
    /// Nanoseconds since the Unix epoch.
    pub now_nanos: u64,
    /// Questions that take too long for the thread that moves messages.
    pub questions: &'a mut Vec<Question>,
    /// Clients that were let in.
    pub logins: &'a mut Vec<Arc<Link>>,
    /// Bytes for the client itself, written behind the messages staged so far.
    pub reply: &'a mut Vec<u8>,
}

/// Why a session ends; whatever the client is to be told was put into the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(pub CloseReason);

/// The state of one client connection.
pub struct Client {
    link: Arc<Link>,
    account: Arc<Account>,
    scope: ScopeId,
    /// Subscription numbers by sid.
    subscriptions: HashTable<u32>,
    connected: bool,
    /// CONNECT came, and who the client is is being found out elsewhere.
    waiting: bool,
    /// The INFO that answers CONNECT was considered.
    introduced: bool,
    protocol: i32,
    verbose: bool,
    pedantic: bool,
    no_responders: bool,
    /// The challenge of this connection's INFO, empty without one.
    nonce: String,
    permissions: Option<Arc<Permissions>>,
    /// Largest payload and open subscriptions, where the user or account has bounds of its own.
    limits: ConnectionLimits,
    /// When the connection must have authenticated; 0 when it has, or need not.
    connect_until_nanos: u64,
    /// When the user expires; 0 for never.
    expires_nanos: u64,
    /// When the account expires; 0 for never.
    account_expires_nanos: u64,
    /// Key and time of issue (seconds since 1970) of the token with which a callout service let the client in.
    by_callout: Option<(String, i64)>,
    /// What CONNECT said, kept to ask again when accounts change.
    credentials: Option<Box<Connect>>,
    pings_out: u32,
    ping_sent_nanos: u64,
    next_ping_nanos: u64,
    messages: u64,
    bytes: u64,
}

impl Client {
    /// A session for a fresh connection, in the account of those who do not authenticate.
    pub fn new(
        link: Arc<Link>,
        account: Arc<Account>,
        nonce: String,
        router: &mut Router,
        policy: &Policy,
        now_nanos: u64,
    ) -> Client {
        let scope = router.scope(&account, LinkKind::Client, None);
        let connect_until_nanos =
            if policy.table.auth_required() { now_nanos + policy.auth_timeout_nanos } else { 0 };
        account.connections.fetch_add(1, Relaxed);
        link.about.lock().account = account.name.to_string();
        Client {
            link,
            account,
            scope,
            subscriptions: HashTable::new(),
            connected: false,
            waiting: false,
            introduced: false,
            protocol: 0,
            verbose: true,
            pedantic: true,
            no_responders: false,
            nonce,
            permissions: None,
            limits: ConnectionLimits::default(),
            connect_until_nanos,
            expires_nanos: 0,
            account_expires_nanos: 0,
            by_callout: None,
            credentials: None,
            pings_out: 0,
            ping_sent_nanos: 0,
            next_ping_nanos: now_nanos + FIRST_PING_NANOS.min(policy.ping_interval_nanos),
            messages: 0,
            bytes: 0,
        }
    }

    /// The connection.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The account that the client is in.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether CONNECT came.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Does what one operation asks for. `read` is the buffer that `op` points into.
    ///
    /// # Errors
    /// [`Failure`]: the connection ends after the reply was written.
    #[inline]
    pub fn handle(&mut self, op: Op<'_>, read: &[u8], context: &mut Context<'_>) -> Result<(), Failure> {
        if self.connect_until_nanos > 0 && !matches!(op, Op::Connect(_)) {
            self.enter_as_guest(context)?;
        }
        match op {
            Op::Publish(publish) => self.publish(&publish, read, context),
            Op::Subscribe { subject, queue, sid } => {
                self.settle(read, context);
                self.subscribe(subject, queue, sid, context);
                Ok(())
            }
            Op::Unsubscribe { sid, max } => {
                self.settle(read, context);
                self.unsubscribe(sid, max, context);
                Ok(())
            }
            Op::Ping => {
                // messages published before the PING are handed over before its PONG
                self.settle(read, context);
                context.reply.extend_from_slice(b"PONG\r\n");
                self.link.active_nanos.store(context.now_nanos, Relaxed);
                if self.connected && !self.introduced {
                    self.introduce(context);
                }
                Ok(())
            }
            Op::Pong => {
                self.pong(context.now_nanos);
                Ok(())
            }
            Op::Connect(json) => {
                self.settle(read, context);
                self.connect(json, context)
            }
            Op::Info(_) | Op::Ok => Ok(()),
            Op::Err(_) => Err(Failure(CloseReason::ParseError)),
        }
    }

    /// Publishes the messages that begin at `read[at]`, as long as they are whole and of the usual shape; the bytes
    /// end at `end`. Returns where it stopped: the operation there is for [`handle`](Self::handle). Most of what a
    /// broker does is this loop.
    pub fn publish_run(
        &mut self,
        read: &[u8],
        mut at: usize,
        end: usize,
        context: &mut Context<'_>,
    ) -> usize {
        if self.connect_until_nanos > 0 || self.verbose || self.pedantic || context.policy.lines.is_some() {
            return at;
        }
        let mut limits = context.policy.limits;
        if let Some(max) = self.limits.payload_bytes_max {
            limits.payload_bytes_max =
                Some(limits.payload_bytes_max.map_or(max as usize, |m| m.min(max as usize)));
        }
        let (scope, mut bytes, mut messages) = (self.scope, 0, 0);
        // the last subject and what became of it; it cannot change within a read
        let mut last: Option<(Publish, Verdict)> = None;
        while at < end {
            if let Some((before, verdict)) = last {
                // a loop of its own, so that the few things it needs stay in registers
                while at < end
                    && let Some(publish) = parse_publish_again(read, at, end, &before, &limits)
                {
                    if verdict == Verdict::Delivered {
                        context.router.publish_again(&publish);
                    }
                    (at, messages, bytes) = (publish.end as usize, messages + 1, bytes + publish.body_len());
                }
                if at >= end {
                    break;
                }
            }
            let publish = match parse_publish(read, at, end, &limits) {
                Some(publish) => publish,
                None => match parse_header_publish(read, at, end, &limits) {
                    Some(publish) if self.may_publish_headers(read, &publish) => {
                        if let Some((before, verdict)) = last
                            && publish.reply_len == 0
                            && read[publish.subject_range()] == read[before.subject_range()]
                        {
                            if verdict == Verdict::Delivered {
                                context.router.publish_again(&publish);
                            }
                            (at, messages) = (publish.end as usize, messages + 1);
                            bytes += publish.body_len();
                            continue;
                        }
                        publish
                    }
                    _ => break,
                },
            };
            if publish.reply_len > 0 && is_reserved_reply(&read[publish.reply_range()]) {
                break;
            }
            if context.router.is_spread() {
                let group = self.publish_group(read, publish, end, limits, context);
                (at, messages, bytes) = (group.end, messages + group.messages, bytes + group.bytes);
                last = None;
                continue;
            }
            let verdict = context.router.publish(scope, read, &publish);
            match verdict {
                Verdict::Delivered => {}
                Verdict::NoInterest if publish.reply_len == 0 || !self.no_responders => {}
                _ => {
                    self.not_delivered(verdict, &publish, read, context);
                }
            }
            (at, messages, bytes) = (publish.end as usize, messages + 1, bytes + publish.body_len());
            let may_repeat = matches!(verdict, Verdict::Delivered | Verdict::NoInterest);
            last = may_repeat.then_some((publish, verdict));
        }
        context.router.note_published(messages as usize);
        self.messages += messages;
        self.bytes += bytes as u64;
        at
    }

    /// Whether headers are nothing special here.
    fn may_publish_headers(&self, read: &[u8], publish: &Publish) -> bool {
        self.link.has(FLAG_HEADERS) && !Router::may_trace(read, publish)
    }

    /// Publishes `first` and the messages behind it, a few at once: where plans are so many that they come from
    /// memory, those of a group come side by side. A subject that comes again ends the group.
    #[inline(never)]
    fn publish_group(
        &mut self,
        read: &[u8],
        first: Publish,
        end: usize,
        limits: Limits,
        context: &mut Context<'_>,
    ) -> Group {
        let mut group = [first; LOOK_AHEAD];
        let mut count = 1;
        while count < LOOK_AHEAD {
            let (before, at) = (&group[count - 1], group[count - 1].end as usize);
            if at >= end || parse_publish_again(read, at, end, before, &limits).is_some() {
                break;
            }
            let Some(publish) = parse_publish(read, at, end, &limits) else { break };
            if publish.reply_len > 0 && is_reserved_reply(&read[publish.reply_range()]) {
                break;
            }
            group[count] = publish;
            count += 1;
        }
        let group = &group[..count];
        let hashes = context.router.look_ahead(self.scope, read, group);
        let mut done = Group { end: first.end as usize, messages: 0, bytes: 0 };
        for (publish, hash) in group.iter().zip(hashes) {
            let verdict = context.router.publish_hashed(self.scope, read, publish, hash);
            match verdict {
                Verdict::Delivered => {}
                Verdict::NoInterest if publish.reply_len == 0 || !self.no_responders => {}
                _ => self.not_delivered(verdict, publish, read, context),
            }
            done.end = publish.end as usize;
            done.messages += 1;
            done.bytes += publish.body_len();
        }
        done
    }

    /// The first PING behind CONNECT is followed by an INFO that says which account the client is in, if it
    /// understands that. Only from then on it is told of changes.
    fn introduce(&mut self, context: &mut Context<'_>) {
        self.introduced = true;
        if self.protocol < 1 {
            return;
        }
        self.link.set(FLAG_ASYNC_INFO, true);
        let info = Info {
            client_id: self.link.id,
            client_ip: self.link.about.lock().ip.clone(),
            connect_info: true,
            remote_account: self.account.name.to_string(),
            acc_is_sys: *self.account.name == *context.policy.system_account,
            max_payload: self.limits.payload_bytes_max.map_or(context.info.max_payload, i64::from),
            ..context.info.clone()
        };
        info.encode(context.reply);
    }

    /// Hands over what is staged, behind the replies given so far.
    pub fn settle(&mut self, read: &[u8], context: &mut Context<'_>) {
        if !context.router.has_staged() {
            return;
        }
        if !context.reply.is_empty() {
            context.router.push_protocol(&self.link, context.reply);
            context.reply.clear();
        }
        // whoever gets a message may ask at once how many there were
        self.publish_counters(context.now_nanos);
        context.router.finish(&self.link, read);
    }

    /// Counters are kept here and shown once a read: an atomic a message would cost more than the plan.
    pub fn publish_counters(&mut self, now_nanos: u64) {
        if self.messages > 0 {
            self.link.received.messages.fetch_add(self.messages, Relaxed);
            self.link.received.bytes.fetch_add(self.bytes, Relaxed);
            self.account.traffic[0].fetch_add(self.messages, Relaxed);
            self.account.traffic[1].fetch_add(self.bytes, Relaxed);
            self.link.active_nanos.store(now_nanos, Relaxed);
            (self.messages, self.bytes) = (0, 0);
        }
    }

    #[inline]
    fn publish(&mut self, publish: &Publish, read: &[u8], context: &mut Context<'_>) -> Result<(), Failure> {
        self.messages += 1;
        self.bytes += publish.body_len() as u64;
        if self.limits.payload_bytes_max.is_some_and(|max| publish.body_len() > max as usize) {
            error(context.reply, "Maximum Payload Violation");
            return Err(Failure(CloseReason::MaxPayloadExceeded));
        }
        if publish.header_len > 0 && !self.link.has(FLAG_HEADERS) {
            return Err(Failure(CloseReason::ProtocolViolation));
        }
        if self.pedantic && !subject::is_valid_publish(&read[publish.subject_range()]) {
            self.settle(read, context);
            error(context.reply, "Invalid Publish Subject");
        }
        if publish.header_len > 0 && Router::may_trace(read, publish) {
            self.publish_traced(publish, read, context);
            return Ok(());
        }
        if publish.reply_len > 0 && is_reserved_reply(&read[publish.reply_range()]) {
            self.settle(read, context);
            let reply = quoted(&read[publish.reply_range()]);
            error(context.reply, &format!("Permissions Violation for Publish with Reply of {reply}"));
            return Ok(());
        }
        match context.router.publish(self.scope, read, publish) {
            Verdict::Delivered => self.ok(context),
            verdict => self.not_delivered(verdict, publish, read, context),
        }
        Ok(())
    }

    #[cold]
    fn not_delivered(&mut self, verdict: Verdict, publish: &Publish, read: &[u8], context: &mut Context<'_>) {
        match verdict {
            Verdict::Delivered | Verdict::Drawn => self.ok(context),
            Verdict::NoInterest | Verdict::DrawnNobody => self.met_nobody(publish, read, context),
            Verdict::Denied if self.may_answer(publish, read, context) => self.ok(context),
            Verdict::Denied => {
                let subject = context.router.mapped_subject().unwrap_or(&read[publish.subject_range()]);
                let subject = quoted(subject);
                self.settle(read, context);
                error(context.reply, &format!("Permissions Violation for Publish to {subject}"));
            }
            Verdict::Detour => match self.detour(publish, read, context) {
                Verdict::NoInterest => self.met_nobody(publish, read, context),
                _ => self.ok(context),
            },
        }
    }

    /// The message goes on in another account, behind the replies given so far.
    #[cold]
    fn detour(&mut self, publish: &Publish, read: &[u8], context: &mut Context<'_>) -> Verdict {
        if !context.reply.is_empty() {
            context.router.push_protocol(&self.link, context.reply);
            context.reply.clear();
        }
        context.router.detour(&self.link, read, publish)
    }

    fn met_nobody(&mut self, publish: &Publish, read: &[u8], context: &mut Context<'_>) {
        self.ok(context);
        if self.no_responders && publish.reply_len > 0 {
            let subject = context.router.mapped_subject().unwrap_or(&read[publish.subject_range()]).to_vec();
            self.no_responders(publish, &subject, read, context);
        }
    }

    /// `allow_responses`: a subject that is not allowed may be a reply that is.
    fn may_answer(&mut self, publish: &Publish, read: &[u8], context: &mut Context<'_>) -> bool {
        if !self.link.has(FLAG_REPLIES)
            || !self.link.take_reply(&read[publish.subject_range()], context.now_nanos)
        {
            return false;
        }
        let unbound = context.router.scope(&self.account, LinkKind::Client, None);
        if context.router.publish(unbound, read, publish) == Verdict::Detour {
            self.detour(publish, read, context);
        }
        true
    }

    /// Nobody listens: the requestor is told at once, on the subscription that waits for the reply (ADR-22).
    fn no_responders(&mut self, publish: &Publish, subject: &[u8], read: &[u8], context: &mut Context<'_>) {
        let reply = &read[publish.reply_range()];
        let (mut filters, mut numbers) = (Vec::new(), Vec::new());
        let link = self.link.index;
        let sid = self.account.read(|interest| {
            interest.matches(reply, interest.hash(reply), &mut filters, &mut numbers);
            numbers.iter().find(|n| interest.is_of(**n, link)).map(|n| interest.sid(*n).to_vec())
        });
        let Some(sid) = sid else { return };
        self.settle(read, context);
        let header = [b"NATS/1.0 503\r\nNats-Subject: ", subject, b"\r\n\r\n"].concat();
        let size = header.len().to_string();
        let line: [&[u8]; 10] =
            [b"HMSG ", reply, b" ", &sid, b" ", size.as_bytes(), b" ", size.as_bytes(), b"\r\n", &header];
        for piece in line {
            context.reply.extend_from_slice(piece);
        }
        context.reply.extend_from_slice(b"\r\n");
    }

    fn subscribe(&mut self, subject: &[u8], queue: Option<&[u8]>, sid: &[u8], context: &mut Context<'_>) {
        let policy = context.policy;
        if !subject::is_valid(subject) || queue.is_some_and(|q| !is_queue_name(q)) {
            error(context.reply, "Invalid Subject");
            return;
        }
        let refused = match &self.permissions {
            None => false,
            Some(permissions) => match permissions.can_subscribe(subject, queue) {
                Subscribe::Allowed => false,
                Subscribe::AllowedWithDenyFilter => {
                    self.link.set_deny_filter(Some(permissions));
                    false
                }
                Subscribe::Denied => true,
            },
        };
        if refused || queue == Some(SERVERS_GROUP) {
            let group = queue.map(|queue| format!(" using queue {}", quoted(queue))).unwrap_or_default();
            let subject = quoted(subject);
            error(context.reply, &format!("Permissions Violation for Subscription to {subject}{group}"));
            return;
        }
        if policy.subject_tokens_max > 0 && subject::tokens(subject).count() > policy.subject_tokens_max {
            let subject = quoted(subject);
            error(
                context.reply,
                &format!("Permissions Violation for Subscription to {subject}, too many tokens"),
            );
            return;
        }
        let bound = self.limits.subscriptions_max.map_or(policy.subscriptions_max, |max| max as usize);
        if bound > 0 && self.subscriptions.len() >= bound {
            error(context.reply, "maximum subscriptions exceeded");
            return;
        }
        // one that reached its maximum is over, though its last command may still be under way
        if let Some(number) = self.find(sid) {
            self.end_spent(number, context.router);
        }
        if self.find(sid).is_none() {
            let number = self.account.subscribe(&self.link, subject, queue, sid, context.router.dirty());
            let account = &self.account;
            self.subscriptions.insert_unique(account.hash(sid), number, |n| {
                account.read(|interest| interest.hash(interest.sid(*n)))
            });
            self.link.active_nanos.store(context.now_nanos, Relaxed);
        }
        self.ok(context);
    }

    fn find(&self, sid: &[u8]) -> Option<u32> {
        let link = self.link.index;
        self.account.read(|interest| {
            let same = |number: &u32| interest.is_of(*number, link) && interest.sid(*number) == sid;
            self.subscriptions.find(interest.hash(sid), same).copied()
        })
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>, context: &mut Context<'_>) {
        if let Some(number) = self.find(sid) {
            let over = match max {
                None => true,
                Some(max) => self.account.limit(&self.link, number, max),
            };
            if over {
                self.end(number, context.router);
            }
            self.link.active_nanos.store(context.now_nanos, Relaxed);
        }
        self.ok(context);
    }

    /// Another worker delivered the last message of a subscription. Its number may mean another one by now.
    pub fn end_spent(&mut self, number: u32, router: &mut Router) {
        let link = self.link.index;
        if self.account.read(|interest| interest.is_of(number, link) && interest.is_spent(number)) {
            self.end(number, router);
        }
    }

    /// Ends a subscription by number.
    fn end(&mut self, number: u32, router: &mut Router) {
        let link = self.link.index;
        let hash = self
            .account
            .read(|interest| interest.is_of(number, link).then(|| interest.hash(interest.sid(number))));
        if let Some(hash) = hash
            && let Ok(entry) = self.subscriptions.find_entry(hash, |n| *n == number)
        {
            entry.remove();
            self.account.unsubscribe(&self.link, [number], router.dirty());
            if self.subscriptions.is_empty() {
                self.subscriptions = HashTable::new();
            }
        }
    }

    fn ok(&self, context: &mut Context<'_>) {
        if self.verbose {
            context.reply.extend_from_slice(b"+OK\r\n");
        }
    }

    fn pong(&mut self, now_nanos: u64) {
        if self.pings_out > 0 {
            let rtt = now_nanos.saturating_sub(self.ping_sent_nanos);
            self.link.rtt_nanos.store(rtt, Relaxed);
        }
        self.pings_out = 0;
    }

    /// What the passing of time asks for: a PING after silence, the end of a stale connection.
    ///
    /// # Errors
    /// [`Failure`]: the connection is stale.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        if self.connect_until_nanos > 0 && !self.waiting && context.now_nanos > self.connect_until_nanos {
            error(context.reply, "Authentication Timeout");
            return Err(Failure(CloseReason::AuthenticationTimeout));
        }
        if self.expires_nanos > 0 && context.now_nanos > self.expires_nanos {
            error(context.reply, "User Authentication Expired");
            return Err(Failure(CloseReason::AuthenticationExpired));
        }
        if self.account_expires_nanos > 0 && context.now_nanos > self.account_expires_nanos {
            return Err(refused(context.reply, &AuthError::Refused(Reason::AccountExpired)));
        }
        if context.now_nanos < self.next_ping_nanos || self.connect_until_nanos > 0 {
            return Ok(());
        }
        let interval = context.policy.ping_interval_nanos;
        // traffic since the last look says as much as a PONG would
        let active = self.link.active_nanos.load(Relaxed);
        let is_measured = context.now_nanos < self.ping_sent_nanos + ROUND_TRIP_NANOS;
        if self.ping_sent_nanos > 0
            && is_measured
            && active + interval > context.now_nanos
            && active > self.ping_sent_nanos
        {
            self.next_ping_nanos = context.now_nanos + interval;
            self.pings_out = 0;
            return Ok(());
        }
        if self.pings_out >= context.policy.pings_out_max {
            error(context.reply, "Stale Connection");
            return Err(Failure(CloseReason::StaleConnection));
        }
        self.pings_out += 1;
        self.ping_sent_nanos = context.now_nanos;
        self.next_ping_nanos = context.now_nanos + interval;
        context.reply.extend_from_slice(b"PING\r\n");
        Ok(())
    }

    /// Tells the client why its bytes cannot be read, as far as it is told. `first` is the first of them.
    pub fn refuse(&self, error_found: Error, first: Option<&u8>, reply: &mut Vec<u8>) -> Failure {
        if self.connect_until_nanos > 0 && !matches!(first, Some(b'C' | b'c')) {
            error(reply, "Authorization Violation");
            return Failure(CloseReason::AuthenticationViolation);
        }
        match error_found {
            Error::Unknown => {
                error(reply, "Unknown Protocol Operation");
                Failure(CloseReason::ProtocolViolation)
            }
            Error::Arguments => Failure(CloseReason::ProtocolViolation),
            Error::ControlLine => {
                error(reply, "maximum control line exceeded");
                Failure(CloseReason::MaxControlLineExceeded)
            }
            Error::Payload { .. } => {
                error(reply, "Maximum Payload Violation");
                Failure(CloseReason::MaxPayloadExceeded)
            }
        }
    }

    /// Gives up all subscriptions. The connection is over.
    pub fn close(&mut self) -> Leaving {
        self.account.connections.fetch_sub(1, Relaxed);
        self.publish_counters(self.link.active_nanos.load(Relaxed));
        let numbers = std::mem::take(&mut self.subscriptions).into_iter();
        Leaving { link: self.link.clone(), account: self.account.clone(), numbers }
    }
}

/// Subscriptions of a client that is gone. They go a part at a time, so that the others of its worker are served
/// between; until all have, its link must not be forgotten.
pub struct Leaving {
    link: Arc<Link>,
    account: Arc<Account>,
    numbers: hashbrown::hash_table::IntoIter<u32>,
}

impl Leaving {
    /// The client's connection.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Removes the next [`LEAVING_AT_ONCE`]; `true` when none are left.
    pub fn go_on(&mut self, router: &mut Router) -> bool {
        let part = self.numbers.by_ref().take(LEAVING_AT_ONCE);
        self.account.unsubscribe(&self.link, part, router.dirty());
        self.numbers.len() == 0
    }
}

/// What became of a few messages in a row.
struct Group {
    /// Where they end.
    end: usize,
    messages: u64,
    bytes: usize,
}

/// The queue group in which servers ask each other.
const SERVERS_GROUP: &[u8] = b"_sys_";

fn is_queue_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(u8::is_ascii_whitespace)
}

/// Replies that servers make: of service imports, of stream consumers, of gateways.
fn is_reserved_reply(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'_' | b'$'))
        && [&b"_R_."[..], b"$JS.ACK.", b"_GR_.", b"$GR."].iter().any(|prefix| reply.starts_with(prefix))
}

/// Appends `-ERR 'text'`.
fn error(reply: &mut Vec<u8>, text: &str) {
    reply.extend_from_slice(b"-ERR '");
    reply.extend_from_slice(text.as_bytes());
    reply.extend_from_slice(b"'\r\n");
}
