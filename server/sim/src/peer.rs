//! A client at the other end of a connection: sends random operations, in any spelling and cut anywhere, and
//! reads what comes with a parser of its own.
//!
//! Owns the client's side of the protocol. What the answers mean for the promises is kept in the [`Model`].

use crate::model::{Message, Model, Pattern, PeerFacts, Subscription};
use crate::pipe::Pipe;
use fastrand::Rng;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What random clients do, and how much of it.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Largest payload in bytes.
    pub payload_bytes_max: usize,
    /// Payloads of that order, in percent of all.
    pub large_percent: u32,
    /// Tokens that subjects are made of.
    pub tokens: usize,
    /// How many of the actions change interest, in percent.
    pub interest_percent: u32,
    /// Chance that a peer stops reading for a while, per action, in permille.
    pub stall_permille: u32,
    /// Longest such while in scheduler steps.
    pub stall_steps_max: u64,
}

/// A fact that the next PONG establishes.
enum Fact {
    Subscribed(usize),
    Ended(usize),
    Limited(usize, u64),
    Handled(usize),
}

/// One simulated client.
pub struct Peer {
    /// Place among the peers of the run.
    pub number: usize,
    /// Number of its connection on the server.
    pub id: u64,
    /// Its connection.
    pub pipe: Arc<Pipe>,
    /// What the checker must know.
    pub facts: PeerFacts,
    /// Not read before this step.
    pub stalled_until: u64,
    headers: bool,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    parsed: usize,
    sequence: u64,
    next_sid: u64,
    /// Live subscriptions by sid.
    open: HashMap<String, usize>,
    /// What each outstanding PING will establish.
    pings: VecDeque<Vec<Fact>>,
    /// What the next PING will establish.
    unasked: Vec<Fact>,
}

fn pick(random: &mut Rng, percent: u32) -> bool {
    random.u32(..100) < percent
}

impl Peer {
    /// A client that just connected; its CONNECT is the first thing it sends.
    pub fn new(number: usize, id: u64, pipe: Arc<Pipe>, random: &mut Rng) -> Peer {
        let (echo, headers) = (!pick(random, 20), !pick(random, 30));
        let verbose = pick(random, 15);
        let mut peer = Peer {
            number,
            id,
            pipe,
            facts: PeerFacts { echo, gone: false },
            stalled_until: 0,
            headers,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            parsed: 0,
            sequence: 0,
            next_sid: 1,
            open: HashMap::new(),
            pings: VecDeque::new(),
            unasked: Vec::new(),
        };
        peer.say(&format!(
            "CONNECT {{\"verbose\":{verbose},\"pedantic\":false,\"echo\":{echo},\"headers\":{headers},\"protocol\":1}}\r\n"
        ));
        peer
    }

    fn say(&mut self, text: &str) {
        self.outgoing.extend(text.as_bytes());
    }

    /// Bytes that it wants to send and cannot yet.
    pub fn outgoing_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether every PING was answered and everything was sent.
    pub fn is_answered(&self) -> bool {
        self.facts.gone
            || (self.outgoing.is_empty() && self.pings.is_empty() && self.parsed == self.incoming.len())
    }

    /// Does something at random.
    pub fn act(&mut self, random: &mut Rng, habits: &Habits, now: u64, model: &mut Model, pattern: &Pattern) {
        if random.u32(..1000) < habits.stall_permille {
            self.stalled_until = now + random.u64(1..=habits.stall_steps_max);
        }
        if pick(random, habits.interest_percent) {
            match random.u32(..7) {
                0..4 => self.subscribe(random, habits, now, model),
                4..6 => self.unsubscribe(random, now, model),
                _ => self.limit(random, now, model),
            }
            return;
        }
        match random.u32(..7) {
            0 => self.ping(),
            _ => {
                for _ in 0..random.u32(1..6) {
                    self.publish(random, habits, now, model, pattern);
                }
            }
        }
    }

    fn subscribe(&mut self, random: &mut Rng, habits: &Habits, now: u64, model: &mut Model) {
        // mostly fresh names; sometimes one that was given up, sometimes one too long to be kept inline
        let sid = match random.u32(..10) {
            0..4 => random.u64(1..=4).to_string(),
            4 => random.u64(1..=self.next_sid).to_string(),
            5 => format!("sid-of-more-than-fifteen-bytes-{}", random.u32(..3)),
            _ => self.next_sid.to_string(),
        };
        self.next_sid += 1;
        if self.open.contains_key(&sid) {
            return;
        }
        let depth = random.usize(1..=3);
        let mut filter: Vec<String> =
            (0..depth).map(|_| if pick(random, 25) { "*".into() } else { token(random, habits) }).collect();
        if pick(random, 15) {
            filter.push(">".into());
        }
        let (filter, queue) = (filter.join("."), pick(random, 30).then(|| format!("q{}", random.u32(..2))));
        match &queue {
            Some(queue) => self.say(&format!("SUB {filter} {queue} {sid}\r\n")),
            None if pick(random, 20) => self.say(&format!("sub\t{filter}  {sid} \n")),
            None => self.say(&format!("SUB {filter} {sid}\r\n")),
        }
        let place = model.subscriptions.len();
        self.open.insert(sid.clone(), place);
        self.unasked.push(Fact::Subscribed(place));
        model.subscriptions.push(Subscription {
            peer: self.number,
            sid,
            filter,
            queue,
            sent_at: now,
            active_at: None,
            end_sent_at: None,
            ended: false,
            limit_sent_at: None,
            limit: None,
            received: Vec::new(),
        });
    }

    /// One of the open subscriptions, chosen by the seed alone.
    fn any_open(&self, random: &mut Rng, model: &Model) -> Option<usize> {
        let mut open: Vec<usize> =
            self.open.values().copied().filter(|s| model.subscriptions[*s].end_sent_at.is_none()).collect();
        open.sort_unstable();
        random.choice(open)
    }

    fn unsubscribe(&mut self, random: &mut Rng, now: u64, model: &mut Model) {
        let Some(place) = self.any_open(random, model) else { return };
        let subscription = &mut model.subscriptions[place];
        subscription.end_sent_at = Some(now);
        self.outgoing.extend(format!("UNSUB {}\r\n", subscription.sid).as_bytes());
        self.unasked.push(Fact::Ended(place));
        self.ping();
    }

    fn limit(&mut self, random: &mut Rng, now: u64, model: &mut Model) {
        let Some(place) = self.any_open(random, model) else { return };
        let subscription = &mut model.subscriptions[place];
        if subscription.limit_sent_at.is_some() {
            return;
        }
        subscription.limit_sent_at = Some(now);
        let max = subscription.received.len() as u64 + random.u64(0..6);
        self.outgoing.extend(format!("UNSUB {} {}\r\n", subscription.sid, max.max(1)).as_bytes());
        self.unasked.push(Fact::Limited(place, max.max(1)));
        self.ping();
    }

    /// Asks for a PONG, which establishes everything sent so far.
    pub fn ping(&mut self) {
        self.say("PING\r\n");
        let facts = std::mem::take(&mut self.unasked);
        self.pings.push_back(facts);
    }

    fn publish(&mut self, random: &mut Rng, habits: &Habits, now: u64, model: &mut Model, pattern: &Pattern) {
        let depth = random.usize(1..=3);
        let subject = (0..depth).map(|_| token(random, habits)).collect::<Vec<_>>().join(".");
        let payload_bytes = if pick(random, habits.large_percent) {
            random.usize(0..=habits.payload_bytes_max)
        } else {
            random.usize(0..200)
        };
        let header = if self.headers && pick(random, 30) {
            format!("NATS/1.0\r\nFill: {}\r\n\r\n", "x".repeat(random.usize(0..40)))
        } else {
            String::new()
        };
        self.sequence += 1;
        let message = Message {
            publisher: self.number,
            sequence: self.sequence,
            subject,
            reply: !pick(random, 25),
            header,
            payload_bytes,
            sent_at: now,
            handled_at: None,
        };
        let reply = if message.reply { message.name() + " " } else { String::new() };
        let prefix = message.prefix();
        let (subject, total) = (&message.subject, message.header.len() + prefix.len() + payload_bytes);
        let line = match (message.header.len(), random.u32(..10)) {
            (0, 0) => format!("pub {subject}\t{reply} {total}\r\n"),
            (0, 1) => format!("PUB {subject} {reply}{total}\n"),
            (0, _) => format!("PUB {subject} {reply}{total}\r\n"),
            (header, 0) => format!("hpub {subject} {reply}{header}  {total}\r\n"),
            (header, _) => format!("HPUB {subject} {reply}{header} {total}\r\n"),
        };
        self.outgoing.extend(line.as_bytes());
        self.outgoing.extend(message.header.as_bytes());
        self.outgoing.extend(prefix.as_bytes());
        self.outgoing.extend(pattern.payload(&message));
        self.outgoing.extend(b"\r\n");
        self.unasked.push(Fact::Handled(model.messages.len()));
        model.publish(message);
    }

    /// Sends up to `bytes_max` bytes of what it has to say.
    pub fn send(&mut self, bytes_max: usize) {
        let bytes_max = bytes_max.min(self.outgoing.len());
        let front = self.outgoing.as_slices().0;
        let taken = self.pipe.send(&front[..front.len().min(bytes_max)]);
        self.outgoing.drain(..taken);
    }

    /// Gives the connection up: in good order, or by breaking it.
    pub fn leave(&mut self, break_off: bool) {
        self.facts.gone = true;
        self.outgoing.clear();
        if break_off { self.pipe.break_off() } else { self.pipe.end() }
    }

    /// Reads up to `bytes_max` bytes and checks what they say.
    ///
    /// # Errors
    /// A promise was broken.
    pub fn receive(
        &mut self,
        bytes_max: usize,
        now: u64,
        model: &mut Model,
        pattern: &Pattern,
    ) -> Result<(), String> {
        match self.pipe.receive(bytes_max, &mut self.incoming) {
            None => self.facts.gone = true,
            Some(0) => {}
            Some(_) => {
                while let Some(used) = self.parse(now, model, pattern)? {
                    self.parsed += used;
                }
                if self.parsed > self.incoming.len() / 2 {
                    self.incoming.drain(..self.parsed);
                    self.parsed = 0;
                }
            }
        }
        Ok(())
    }

    /// One operation of the server; its length, or `None` when it is not complete.
    fn parse(&mut self, now: u64, model: &mut Model, pattern: &Pattern) -> Result<Option<usize>, String> {
        let bytes = &self.incoming[self.parsed..];
        let Some(line_end) = bytes.windows(2).take(4096).position(|pair| pair == b"\r\n") else {
            return if bytes.len() < 4096 {
                Ok(None)
            } else {
                Err(format!("peer {}: endless line", self.number))
            };
        };
        let line = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let behind = line_end + 2;
        match words[..] {
            ["INFO", ..] | ["+OK"] => Ok(Some(behind)),
            ["PING"] => {
                if !self.facts.gone {
                    self.say("PONG\r\n");
                }
                Ok(Some(behind))
            }
            ["PONG"] => {
                let facts = self.pings.pop_front().ok_or("a PONG that nobody asked for")?;
                self.establish(facts, now, model);
                Ok(Some(behind))
            }
            ["MSG", subject, sid, ref reply @ .., total] if reply.len() < 2 => {
                let total = number(total)?;
                self.message((subject, sid, reply.first().copied()), (0, total), behind, model, pattern)
            }
            ["HMSG", subject, sid, ref reply @ .., header, total] if reply.len() < 2 => {
                let sizes = (number(header)?, number(total)?);
                self.message((subject, sid, reply.first().copied()), sizes, behind, model, pattern)
            }
            _ => Err(format!("peer {} cannot read {line:?}", self.number)),
        }
    }

    fn message(
        &mut self,
        (subject, sid, reply): (&str, &str, Option<&str>),
        (header_len, total): (usize, usize),
        start: usize,
        model: &mut Model,
        pattern: &Pattern,
    ) -> Result<Option<usize>, String> {
        let bytes = &self.incoming[self.parsed + start..];
        if bytes.len() < total + 2 {
            return Ok(None);
        }
        let body = bytes.get(header_len..total).ok_or("a header larger than its message")?;
        let name = match reply {
            Some(reply) => reply.to_string(),
            None => {
                String::from_utf8_lossy(body.split(|b| *b == b';').next().unwrap_or_default()).into_owned()
            }
        };
        let fail =
            |what: &str| format!("peer {}: {what}: {subject} {sid} {reply:?} {total} bytes", self.number);
        let named: Vec<&str> = name.split('.').take(4).collect();
        let ["r", publisher, sequence] = named[..] else {
            return Err(fail("neither reply nor payload names it"));
        };
        let key = (number(publisher)?, number(sequence)? as u64);
        let place = *model.by_sequence.get(&key).ok_or_else(|| fail("a message nobody sent"))?;
        let message = &model.messages[place];
        let header = if self.headers { message.header.as_str() } else { "" };
        let prefix = message.prefix();
        if subject != message.subject || message.reply != reply.is_some() {
            return Err(fail("wrong subject or reply"));
        }
        if bytes[..header_len] != *header.as_bytes() {
            return Err(fail("wrong header"));
        }
        if body.get(..prefix.len()) != Some(prefix.as_bytes())
            || body[prefix.len()..] != *pattern.payload(message)
            || bytes[total..total + 2] != *b"\r\n"
        {
            return Err(fail("wrong payload"));
        }
        let Some(&subscription) = self.open.get(sid) else {
            return Err(format!("peer {}: message for {sid}, which is not open: {message:?}", self.number));
        };
        model.deliver(subscription, place, self.facts)?;
        let subscription = &model.subscriptions[subscription];
        if subscription.limit.is_some_and(|limit| subscription.received.len() as u64 >= limit) {
            // over by its maximum: the name may be used again at once
            self.open.remove(sid);
        }
        Ok(Some(start + total + 2))
    }

    fn establish(&mut self, facts: Vec<Fact>, now: u64, model: &mut Model) {
        for fact in facts {
            match fact {
                Fact::Subscribed(place) => model.subscriptions[place].active_at = Some(now),
                Fact::Handled(place) => model.messages[place].handled_at = Some(now),
                Fact::Ended(place) => {
                    let subscription = &mut model.subscriptions[place];
                    subscription.ended = true;
                    if self.open.get(&subscription.sid) == Some(&place) {
                        self.open.remove(&subscription.sid);
                    }
                }
                Fact::Limited(place, max) => {
                    // what came before the UNSUB was handled counts, even over the maximum
                    let subscription = &mut model.subscriptions[place];
                    let received = subscription.received.len() as u64;
                    subscription.limit = Some(max.max(received));
                    if received >= max && self.open.get(&subscription.sid) == Some(&place) {
                        self.open.remove(&subscription.sid);
                    }
                }
            }
        }
    }
}

fn token(random: &mut Rng, habits: &Habits) -> String {
    char::from(b'a' + random.usize(..habits.tokens) as u8).to_string()
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("not a number: {text:?}"))
}
