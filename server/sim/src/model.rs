//! What clients were promised, kept as plain lists and checked one by one.
//!
//! Owns the record of all subscriptions, messages and deliveries of a run. Time is the scheduler's step number.
//! The broker works while bytes are under way, so most facts are intervals: a subscription certainly exists
//! between the PONG behind its SUB and the sending of its UNSUB, and certainly does not before the SUB was sent
//! or behind the PONG of the UNSUB. What falls between binds nobody.

use std::collections::HashMap;

/// Bytes that payloads are cut from: long enough for the largest, different at every offset in a short window.
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// A pattern for payloads of up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Pattern {
        Pattern((0..bytes_max + 256).map(|i| ((i * 31) ^ (i >> 8)) as u8).collect())
    }

    /// The payload of a message, behind its [`prefix`](Message::prefix).
    pub fn payload(&self, message: &Message) -> &[u8] {
        let start = (message.sequence as usize * 7 + message.publisher) % 256;
        &self.0[start..start + message.payload_bytes]
    }
}

/// One message, as its publisher sent it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Number of the publishing peer.
    pub publisher: usize,
    /// Place among the messages of that peer.
    pub sequence: u64,
    /// Subject.
    pub subject: String,
    /// It carries a reply subject that names it; else its payload begins with that name.
    pub reply: bool,
    /// The header block, empty without one.
    pub header: String,
    /// Payload size without header and name, in bytes.
    pub payload_bytes: usize,
    /// When it was sent.
    pub sent_at: u64,
    /// When the publisher knew that it had been handled.
    pub handled_at: Option<u64>,
}

/// One subscription, from its SUB on.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Number of the subscribing peer.
    pub peer: usize,
    /// The client's name for it.
    pub sid: String,
    /// Subject filter.
    pub filter: String,
    /// Queue group.
    pub queue: Option<String>,
    /// When SUB was sent.
    pub sent_at: u64,
    /// When SUB was known to be handled.
    pub active_at: Option<u64>,
    /// When an UNSUB without a maximum was sent.
    pub end_sent_at: Option<u64>,
    /// That UNSUB was known to be handled.
    pub ended: bool,
    /// When an UNSUB with a maximum was sent first.
    pub limit_sent_at: Option<u64>,
    /// The most that may ever arrive, once an UNSUB with a maximum was known to be handled.
    pub limit: Option<u64>,
    /// Places in `Model::messages` of what arrived, in order.
    pub received: Vec<usize>,
}

impl Message {
    /// What tells it from all others.
    pub fn name(&self) -> String {
        format!("r.{}.{}", self.publisher, self.sequence)
    }

    /// What stands in front of the payload's pattern.
    pub fn prefix(&self) -> String {
        if self.reply { String::new() } else { self.name() + ";" }
    }
}

impl Subscription {
    /// Whether it wants what is published on `subject`.
    pub fn wants(&self, subject: &str) -> bool {
        matches(&self.filter, subject)
    }

    fn certainly_during(&self, message: &Message) -> bool {
        self.active_at.is_some_and(|at| at <= message.sent_at)
            && message.handled_at.is_some_and(|at| self.end_sent_at.is_none_or(|end| at <= end))
    }

    fn certainly_not_during(&self, message: &Message) -> bool {
        message.handled_at.is_some_and(|at| at < self.sent_at)
    }
}

/// The definition of matching: token by token.
pub fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// What the checker must know of a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerFacts {
    /// It wants its own messages.
    pub echo: bool,
    /// It lost its connection or gave it up: nothing is promised to it.
    pub gone: bool,
}

/// Everything that happened in a run.
#[derive(Default)]
pub struct Model {
    /// All messages.
    pub messages: Vec<Message>,
    /// All subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Places in `messages` by publisher and sequence.
    pub by_sequence: HashMap<(usize, u64), usize>,
}

impl Model {
    /// Records a message about to be sent.
    pub fn publish(&mut self, message: Message) {
        self.by_sequence.insert((message.publisher, message.sequence), self.messages.len());
        self.messages.push(message);
    }

    /// Records a delivery and checks what can be said of it at once.
    ///
    /// # Errors
    /// What was broken.
    pub fn deliver(&mut self, subscription: usize, message: usize, facts: PeerFacts) -> Result<(), String> {
        let (to, what) = (&mut self.subscriptions[subscription], &self.messages[message]);
        let fail = |text: &str| Err(format!("{text}: {what:?} for {to:?}"));
        if to.ended {
            return fail("message behind the PONG of its UNSUB");
        }
        if !matches(&to.filter, &what.subject) {
            return fail("message on a subject that was not subscribed to");
        }
        if to.received.contains(&message) {
            return fail("message delivered twice");
        }
        if !facts.echo && what.publisher == to.peer {
            return fail("own message although echo is off");
        }
        if to.certainly_not_during(what) {
            return fail("message from before the subscription");
        }
        if to.limit.is_some_and(|limit| to.received.len() as u64 >= limit) {
            return fail("message over the maximum");
        }
        let last =
            to.received.iter().rev().map(|m| &self.messages[*m]).find(|m| m.publisher == what.publisher);
        if last.is_some_and(|last| last.sequence > what.sequence) {
            return fail("messages of one publisher out of order");
        }
        to.received.push(message);
        Ok(())
    }

    /// Checks that nothing was lost, once all is quiet.
    ///
    /// # Errors
    /// What was broken.
    pub fn check_losses(&self, facts: &[PeerFacts]) -> Result<(), String> {
        for subscription in self.subscriptions.iter().filter(|s| s.queue.is_none() && !facts[s.peer].gone) {
            self.check_plain(subscription, facts)?;
        }
        for message in 0..self.messages.len() {
            self.check_groups(message, facts)?;
        }
        Ok(())
    }

    fn check_plain(&self, subscription: &Subscription, facts: &[PeerFacts]) -> Result<(), String> {
        let promised = |message: &Message| {
            subscription.wants(&message.subject)
                && subscription.certainly_during(message)
                && (facts[subscription.peer].echo || message.publisher != subscription.peer)
        };
        let wanted = self.messages.iter().enumerate().filter(|(_, message)| promised(message));
        if subscription.limit_sent_at.is_some() {
            // which messages fall under the maximum is not known, but how many must have come
            let promised = wanted.count() as u64;
            let received = subscription.received.len() as u64;
            let least = subscription.limit.unwrap_or(0).min(promised);
            if received < least {
                return Err(format!("{received} of at least {least} messages arrived: {subscription:?}"));
            }
            return Ok(());
        }
        for (place, message) in wanted {
            if !subscription.received.contains(&place) {
                return Err(format!("lost: {message:?} for {subscription:?}"));
            }
        }
        Ok(())
    }

    /// Each queue group that wants a message gets it once.
    fn check_groups(&self, place: usize, facts: &[PeerFacts]) -> Result<(), String> {
        let message = &self.messages[place];
        let mut groups: HashMap<&str, Vec<&Subscription>> = HashMap::new();
        for subscription in &self.subscriptions {
            if let Some(queue) = &subscription.queue
                && subscription.wants(&message.subject)
                && !subscription.certainly_not_during(message)
            {
                groups.entry(queue).or_default().push(subscription);
            }
        }
        for (queue, members) in groups {
            let got = members.iter().filter(|member| member.received.contains(&place)).count();
            if got > 1 {
                return Err(format!("{got} members of group {queue} got {message:?}: {members:?}"));
            }
            let able = |member: &&&Subscription| {
                member.certainly_during(message)
                    && member.limit_sent_at.is_none()
                    && (facts[member.peer].echo || message.publisher != member.peer)
            };
            // a member whose connection broke takes messages with it that nobody can ask back
            if got == 0 && members.iter().any(|m| able(&m)) && !members.iter().any(|m| facts[m.peer].gone) {
                return Err(format!("group {queue} did not get {message:?}: {members:?}"));
            }
        }
        Ok(())
    }
}
