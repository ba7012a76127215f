//! One client's session.

use crate::Policy;
use broker::link::{FLAG_ASYNC_INFO, FLAG_HEADERS, FLAG_NO_ECHO};
use broker::{Account, CloseReason, Link, LinkKind, Router, ScopeId, Verdict};
use hashbrown::HashTable;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use wire::client::{Error, Op, Publish};
use wire::info::{Connect, Info};

/// First PING after a connection opened: early, so that the round trip is known soon.
const FIRST_PING_NANOS: u64 = 2_000_000_000;

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
    /// The INFO that answers CONNECT was considered.
    introduced: bool,
    protocol: i32,
    verbose: bool,
    pedantic: bool,
    no_responders: bool,
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
        router: &mut Router,
        policy: &Policy,
        now_nanos: u64,
    ) -> Client {
        let scope = router.scope(&account, LinkKind::Client);
        account.connections.fetch_add(1, Relaxed);
        link.about.lock().account = account.name.to_string();
        Client {
            link,
            account,
            scope,
            subscriptions: HashTable::new(),
            connected: false,
            introduced: false,
            protocol: 0,
            verbose: true,
            pedantic: true,
            no_responders: false,
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
            Op::Err(_) => Ok(()),
        }
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
        if publish.header_len > 0 && !self.link.has(FLAG_HEADERS) {
            return Err(Failure(CloseReason::ProtocolViolation));
        }
        if self.verbose || self.pedantic {
            self.ok(context);
            if self.pedantic && !subject::is_valid_publish(&read[publish.subject_range()]) {
                error(context.reply, "Invalid Publish Subject");
            }
        }
        if publish.reply_len > 0 && is_reserved_reply(&read[publish.reply_range()]) {
            let reply = String::from_utf8_lossy(&read[publish.reply_range()]);
            error(context.reply, &format!("Permissions Violation for Publish with Reply of \"{reply}\""));
            return Ok(());
        }
        match context.router.publish(self.scope, read, publish) {
            Verdict::Delivered => {}
            Verdict::NoInterest => {
                if self.no_responders && publish.reply_len > 0 {
                    self.no_responders(publish, read, context);
                }
            }
            Verdict::Denied => {
                let subject = String::from_utf8_lossy(&read[publish.subject_range()]);
                error(context.reply, &format!("Permissions Violation for Publish to \"{subject}\""));
            }
        }
        Ok(())
    }

    /// Nobody listens: the requestor is told at once, on the subscription that waits for the reply (ADR-22).
    fn no_responders(&mut self, publish: &Publish, read: &[u8], context: &mut Context<'_>) {
        let (reply, subject) = (&read[publish.reply_range()], &read[publish.subject_range()]);
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
        if policy.subject_tokens_max > 0 && subject::tokens(subject).count() > policy.subject_tokens_max {
            error(context.reply, "subject has exceeded number of tokens limit");
            return;
        }
        if policy.subscriptions_max > 0 && self.subscriptions.len() >= policy.subscriptions_max {
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

    fn connect(&mut self, json: &[u8], context: &mut Context<'_>) -> Result<(), Failure> {
        let connect = match Connect::decode(json) {
            Ok(connect) => connect,
            Err(_) => return Err(Failure(CloseReason::ProtocolViolation)),
        };
        if !(0..=1).contains(&connect.protocol) {
            error(context.reply, "invalid client protocol");
            return Err(Failure(CloseReason::BadClientProtocolVersion));
        }
        let headers = connect.headers && context.policy.headers;
        if connect.no_responders && !headers {
            error(context.reply, "no responders requires headers support");
            return Err(Failure(CloseReason::ProtocolViolation));
        }
        self.link.set(FLAG_NO_ECHO, !connect.echo);
        self.link.set(FLAG_HEADERS, headers);
        self.protocol = connect.protocol;
        (self.verbose, self.pedantic, self.no_responders) =
            (connect.verbose, connect.pedantic, connect.no_responders);
        self.connected = true;
        let mut about = self.link.about.lock();
        (about.name, about.lang, about.version) = (connect.name, connect.lang, connect.version);
        drop(about);
        self.ok(context);
        Ok(())
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
        if context.now_nanos < self.next_ping_nanos {
            return Ok(());
        }
        let interval = context.policy.ping_interval_nanos;
        // traffic since the last look says as much as a PONG would
        let active = self.link.active_nanos.load(Relaxed);
        if self.ping_sent_nanos > 0 && active + interval > context.now_nanos && active > self.ping_sent_nanos
        {
            self.next_ping_nanos = active + interval;
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

    /// Tells the client why its bytes cannot be read, as far as it is told.
    pub fn refuse(error_found: Error, reply: &mut Vec<u8>) -> Failure {
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
    pub fn close(&mut self, router: &mut Router) {
        let numbers = std::mem::take(&mut self.subscriptions);
        self.account.unsubscribe(&self.link, numbers.into_iter(), router.dirty());
        self.account.connections.fetch_sub(1, Relaxed);
        self.publish_counters(self.link.active_nanos.load(Relaxed));
    }
}

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
