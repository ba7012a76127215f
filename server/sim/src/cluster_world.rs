//! Whole servers in one cluster: engine, hub and mesh of each, joined by connections in memory, with clients.
//!
//! Owns the network (latency, cuts, silent losses), the servers' lives and what clients may and must receive. A
//! message reaches no subscriber twice, whatever happens; when all have settled it reaches each exactly once, and a
//! queue group once over all servers; when the clients are gone no server believes in any interest.

use crate::driver::{Bell, Driver, Ring};
use crate::pipe::Pipe;
use broker::{Broker, Mailbox};
use cluster::{DialId, Effect, Identity, Mesh, RouteUrl};
use engine::{Hub, Outside, RouteOpening};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Simulated time between two looks at everything.
const ROUND: Duration = Duration::from_millis(20);
/// After this the servers of a run without faults must have settled: twice the longest pause between dials, and
/// the time to notice a silent peer.
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// Buffers of a connection, in bytes.
const LIMITS: (usize, usize) = (1 << 16, 1 << 16);
/// Connections between two servers: a pool of 3, and one for the system account.
const CONNECTIONS_PER_PEER: usize = 4;
const SUBJECTS: [&str; 3] = ["a", "b", "c"];

#[derive(Default)]
struct Effects(Arc<Mutex<Vec<Effect>>>);

impl Outside for Effects {
    fn effect(&self, effect: Effect) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(effect);
    }
    fn used(&self) {}
}

struct Client {
    pipe: Arc<Pipe>,
    incoming: Vec<u8>,
    parsed: usize,
    /// Subject and queue group by sid.
    subscriptions: BTreeMap<u32, (&'static str, Option<&'static str>)>,
    next_sid: u32,
    /// How often each message came to each subscription.
    received: BTreeMap<(u64, u32), u32>,
}

struct Server {
    address: SocketAddr,
    hub: Arc<Hub>,
    broker: Arc<Broker>,
    driver: Driver,
    effects: Arc<Mutex<Vec<Effect>>>,
    clients: Vec<Client>,
    dials: Vec<(Duration, DialId, SocketAddr)>,
}

/// One connection between two servers.
struct Cable {
    servers: [usize; 2],
    pipes: [Arc<Pipe>; 2],
    /// What is on its way to each end; `None` is the end of the stream.
    under_way: [VecDeque<(Duration, Option<Vec<u8>>)>; 2],
    /// Nothing arrives at this end any more, and nobody is told.
    swallowed: [bool; 2],
    ended: [bool; 2],
}

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Messages published.
    pub messages: u64,
    /// Deliveries that were checked.
    pub deliveries: u64,
    /// Servers killed and cables cut.
    pub faults: u64,
    /// The longest time until all servers agreed again, in milliseconds.
    pub settle_millis_max: u64,
}

struct World {
    random: Rng,
    now: Duration,
    servers: Vec<Option<Server>>,
    cables: Vec<Cable>,
    /// From where to where nothing passes.
    cuts: BTreeSet<(usize, usize)>,
    next_message: u64,
    runs: u64,
    sum: Sum,
}

/// Runs one simulation.
///
/// # Errors
/// The promise that was broken. The same seed breaks it again.
pub fn run(seed: u64) -> Result<Sum, String> {
    let mut random = Rng::with_seed(seed);
    let servers = random.usize(2..=5);
    let mut world = World {
        random,
        now: Duration::from_secs(1000),
        servers: (0..servers).map(|_| None).collect(),
        cables: Vec::new(),
        cuts: BTreeSet::new(),
        next_message: 0,
        runs: 0,
        sum: Sum::default(),
    };
    for index in 0..servers {
        world.join(index);
    }
    for _ in 0..world.random.usize(1..4) {
        world.chaos()?;
        world.heal();
        world.settle()?;
        world.check_delivery()?;
    }
    world.check_emptiness()?;
    Ok(world.sum)
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::new([10, 0, 0, index as u8 + 1].into(), 6222)
}

impl World {
    fn join(&mut self, index: usize) {
        self.runs += 1;
        let seed = self.random.u64(..);
        let bell: Arc<Bell> = Arc::default();
        let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(Ring(bell.clone()))))], seed);
        let identity = Identity {
            server_id: format!("N{:03}{:04}{index}", self.random.u32(..1000), self.runs),
            server_name: format!("n{index}"),
            starling_version: "sim".into(),
            headers: true,
            host: "0.0.0.0".into(),
            port: 6222,
            connect_urls: vec![format!("10.0.0.{}:4222", index + 1)],
            own_addresses: vec![address(index)],
            ..Identity::default()
        };
        let routes = (0..2).filter_map(|seed| RouteUrl::parse(&format!("nats://{}", address(seed))).ok());
        let settings = cluster::Settings {
            cluster_name: Some("sim".into()),
            routes: routes.collect(),
            ping_interval: Duration::from_secs(1),
            ..cluster::Settings::default()
        };
        let effects = Effects::default();
        let queue = effects.0.clone();
        let mesh = Mesh::new(settings, identity, seed);
        let Ok(hub) = Hub::new(broker.clone(), mesh, Box::new(effects)) else { return };
        let hub = Arc::new(hub);
        let mut driver = Driver::new(0, &broker, bell, Arc::default(), seed);
        driver.worker.join(hub.clone());
        let now = self.now;
        hub.with(|mesh| mesh.start(now));
        let mut server = Server {
            address: address(index),
            hub,
            broker,
            driver,
            effects: queue,
            clients: Vec::new(),
            dials: Vec::new(),
        };
        for _ in 0..2 {
            server.connect(now);
        }
        self.servers[index] = Some(server);
    }

    fn kill(&mut self, index: usize) {
        self.servers[index] = None;
        let silent = self.random.bool();
        for cable in self.cables.iter_mut() {
            if let Some(end) = cable.servers.iter().position(|server| *server == index) {
                if !silent && !cable.swallowed[1 - end] {
                    cable.pipes[1 - end].break_off();
                }
                (cable.swallowed, cable.ended[end]) = ([true; 2], true);
            }
        }
        self.sum.faults += 1;
    }

    /// Clients change their minds and publish while servers die, come back and lose each other.
    fn chaos(&mut self) -> Result<(), String> {
        for _ in 0..self.random.usize(20..150) {
            match self.random.u32(..100) {
                0..2 => {
                    let index = self.random.usize(..self.servers.len());
                    match self.servers[index].is_some() {
                        true => self.kill(index),
                        false => self.join(index),
                    }
                }
                2..5 => self.cut(),
                5..7 => self.cuts.clear(),
                7..60 => self.act(),
                _ => {}
            }
            self.round()?;
        }
        Ok(())
    }

    /// Cuts what one server sends another, sometimes both directions; sometimes the ends are told.
    fn cut(&mut self) {
        let (from, to) = (self.random.usize(..self.servers.len()), self.random.usize(..self.servers.len()));
        let (both, told) = (self.random.bool(), self.random.bool());
        self.cuts.insert((from, to));
        if both {
            self.cuts.insert((to, from));
        }
        for cable in &mut self.cables {
            for end in 0..2 {
                let direction = (cable.servers[1 - end], cable.servers[end]);
                if self.cuts.contains(&direction) {
                    cable.swallowed[end] = true;
                    if told {
                        cable.pipes[end].break_off();
                    }
                }
            }
        }
        self.sum.faults += 1;
    }

    fn heal(&mut self) {
        self.cuts.clear();
        for index in 0..self.servers.len() {
            if self.servers[index].is_none() {
                self.join(index);
            }
        }
    }

    /// A client of some server does something.
    fn act(&mut self) {
        let index = self.random.usize(..self.servers.len());
        let Some(server) = &mut self.servers[index] else { return };
        let place = self.random.usize(..server.clients.len());
        let client = &mut server.clients[place];
        match self.random.u32(..10) {
            0..3 => {
                let subject = SUBJECTS[self.random.usize(..SUBJECTS.len())];
                client.subscribe(subject, self.random.bool().then_some("q"));
            }
            3..5 => client.unsubscribe(&mut self.random),
            _ => {
                let subject = SUBJECTS[self.random.usize(..SUBJECTS.len())];
                self.next_message += 1;
                client.publish(subject, self.next_message);
                self.sum.messages += 1;
            }
        }
    }

    /// Everybody goes on for a moment.
    fn round(&mut self) -> Result<(), String> {
        self.now += ROUND;
        for index in 0..self.servers.len() {
            self.serve(index)?;
        }
        self.move_bytes();
        Ok(())
    }

    fn serve(&mut self, index: usize) -> Result<(), String> {
        let now = self.now;
        let Some(server) = &mut self.servers[index] else { return Ok(()) };
        if server.hub.with_quietly(Mesh::next_timeout).is_some_and(|at| at <= now) {
            server.hub.with(|mesh| mesh.handle_timeout(now));
        }
        server.driver.round(now.as_nanos() as u64);
        server.driver.closed.clear();
        for client in &mut server.clients {
            self.sum.deliveries += client.receive()?;
        }
        let effects = std::mem::take(&mut *server.effects.lock().unwrap_or_else(PoisonError::into_inner));
        for effect in effects {
            if std::env::var_os("STARLING_SIM_LOG").is_some() {
                eprintln!("{now:?} n{index} {effect:?}");
            }
            if let Effect::Dial { dial, address, .. } = effect {
                let wait = Duration::from_millis(self.random.u64(1..60));
                server.dials.push((now + wait, dial, address));
            }
        }
        let (due, later) = server.dials.drain(..).partition(|(at, ..)| *at <= now);
        server.dials = later;
        let due: Vec<(Duration, DialId, SocketAddr)> = due;
        for (_, dial, to) in due {
            self.dialed(index, dial, to);
        }
        Ok(())
    }

    fn dialed(&mut self, from: usize, dial: DialId, to: SocketAddr) {
        let (now, nanos) = (self.now, self.now.as_nanos() as u64);
        let listens = |server: &Option<Server>| server.as_ref().is_some_and(|server| server.address == to);
        let target = self.servers.iter().position(listens);
        let target =
            target.filter(|to| !self.cuts.contains(&(from, *to)) && !self.cuts.contains(&(*to, from)));
        let Some(target) = target else {
            if let Some(server) = &self.servers[from] {
                server.hub.with(|mesh| mesh.handle_dial_failed(dial, "connection refused", now));
            }
            return;
        };
        let remote = SocketAddr::new(address(from).ip(), 40_000);
        let far = self.servers[target].as_mut().and_then(|server| {
            let id = server.broker.next_id();
            server.driver.open_route(id, LIMITS, RouteOpening::Accepted { remote }, nanos)
        });
        let near = self.servers[from].as_mut().and_then(|server| {
            let id = server.broker.next_id();
            server.driver.open_route(id, LIMITS, RouteOpening::Dialed { dial }, nanos)
        });
        match (near, far) {
            (Some(near), Some(far)) => self.cables.push(Cable {
                servers: [from, target],
                pipes: [near, far],
                under_way: Default::default(),
                swallowed: [false; 2],
                ended: [false; 2],
            }),
            (near, far) => near.iter().chain(&far).for_each(|pipe| pipe.end()),
        }
    }

    fn move_bytes(&mut self) {
        let now = self.now;
        for cable in &mut self.cables {
            for end in 0..2 {
                let other = 1 - end;
                let mut bytes = Vec::new();
                let at = now + Duration::from_millis(self.random.u64(0..40));
                let at = cable.under_way[other].back().map_or(at, |(last, _)| at.max(*last));
                match cable.pipes[end].receive(usize::MAX, &mut bytes) {
                    Some(0) => {}
                    Some(_) => cable.under_way[other].push_back((at, Some(bytes))),
                    None if !cable.ended[end] => {
                        cable.ended[end] = true;
                        cable.under_way[other].push_back((at, None));
                    }
                    None => {}
                }
            }
            for end in 0..2 {
                while let Some((at, what)) = cable.under_way[end].pop_front() {
                    if cable.swallowed[end] {
                        continue;
                    }
                    if at > now {
                        cable.under_way[end].push_front((at, what));
                        break;
                    }
                    match what {
                        None => cable.pipes[end].end(),
                        Some(mut bytes) => {
                            let taken = cable.pipes[end].send(&bytes);
                            if taken < bytes.len() {
                                bytes.drain(..taken);
                                cable.under_way[end].push_front((at, Some(bytes)));
                                break;
                            }
                        }
                    }
                }
            }
        }
        self.cables
            .retain(|cable| cable.ended != [true; 2] || cable.under_way.iter().any(|way| !way.is_empty()));
    }

    /// Runs until every server has every connection to every other, and nothing is under way.
    fn settle(&mut self) -> Result<(), String> {
        let start = self.now;
        let mut calm = 0;
        // no message crosses now: a new one may still be lost with a connection that nobody knows is dead
        while calm < 50 {
            self.round()?;
            calm = if self.is_settled() { calm + 1 } else { 0 };
            if self.now - start > SETTLE_MAX {
                return Err(format!(
                    "servers do not agree {:?} after the last fault: {}",
                    SETTLE_MAX,
                    self.members()
                ));
            }
        }
        let took = (self.now - start).as_millis() as u64;
        self.sum.settle_millis_max = self.sum.settle_millis_max.max(took);
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let others = self.servers.len() - 1;
        let members = self.servers.iter().flatten().all(|server| {
            server.hub.with_quietly(|mesh| {
                mesh.peers().count() == others && mesh.connections().count() == others * CONNECTIONS_PER_PEER
            })
        });
        // a connection that one side has lost and the other has not would still count above
        members
            && self.cables.len() == self.servers.len() * others / 2 * CONNECTIONS_PER_PEER
            && self.cables.iter().all(|cable| cable.swallowed == [false; 2])
    }

    fn members(&self) -> String {
        let view = |server: &Server| {
            server.hub.with_quietly(|mesh| format!("{}+{}", mesh.peers().count(), mesh.connections().count()))
        };
        let views: Vec<String> = self.servers.iter().flatten().map(view).collect();
        format!("members+connections {views:?}, {} cables", self.cables.len())
    }

    /// A message from each server on each subject reaches every subscriber once, and one of each group.
    fn check_delivery(&mut self) -> Result<(), String> {
        let mut sent = Vec::new();
        for index in 0..self.servers.len() {
            for subject in SUBJECTS {
                self.next_message += 1;
                let Some(server) = &mut self.servers[index] else { continue };
                server.clients[0].publish(subject, self.next_message);
                sent.push((self.next_message, subject, index));
                self.sum.messages += 1;
            }
        }
        for _ in 0..20 {
            self.round()?;
        }
        for (message, subject, from) in sent {
            let mut group = 0;
            let mut has_group = false;
            for (index, server) in self.servers.iter().enumerate() {
                for client in server.iter().flat_map(|server| &server.clients) {
                    for (sid, (filter, queue)) in &client.subscriptions {
                        let came = client.received.get(&(message, *sid)).copied().unwrap_or(0);
                        let wanted = *filter == subject;
                        match queue {
                            Some(_) if wanted => (has_group, group) = (true, group + came),
                            None if wanted && came != 1 => {
                                return Err(format!(
                                    "{subject} from server {from} came {came} times to a subscriber of server {index}"
                                ));
                            }
                            _ if !wanted && came > 0 => {
                                return Err(format!("{subject} came to one of {filter}"));
                            }
                            _ => {}
                        }
                    }
                }
            }
            if has_group && group != 1 {
                return Err(format!("{subject} from server {from} came {group} times to its queue group"));
            }
        }
        Ok(())
    }

    /// All clients go: no server may believe in any interest.
    fn check_emptiness(&mut self) -> Result<(), String> {
        for server in self.servers.iter_mut().flatten() {
            server.clients.drain(..).for_each(|client| client.pipe.end());
        }
        for _ in 0..20 {
            self.round()?;
        }
        for (index, server) in self.servers.iter().enumerate() {
            let Some(server) = server else { continue };
            if !server.broker.account("$G").read(|interest| interest.is_empty()) {
                return Err(format!("server {index} believes in interest of clients that are gone"));
            }
        }
        Ok(())
    }
}

impl Server {
    fn connect(&mut self, now: Duration) {
        let id = self.broker.next_id();
        let (_, pipe) = self.driver.accept(id, LIMITS, now.as_nanos() as u64);
        pipe.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n");
        self.clients.push(Client {
            pipe,
            incoming: Vec::new(),
            parsed: 0,
            subscriptions: BTreeMap::new(),
            next_sid: 1,
            received: BTreeMap::new(),
        });
    }
}

impl Client {
    fn say(&self, text: &str) {
        self.pipe.send(text.as_bytes());
    }

    fn subscribe(&mut self, subject: &'static str, queue: Option<&'static str>) {
        let sid = self.next_sid;
        self.next_sid += 1;
        self.subscriptions.insert(sid, (subject, queue));
        self.say(&format!("SUB {subject} {} {sid}\r\n", queue.unwrap_or_default()));
    }

    fn unsubscribe(&mut self, random: &mut Rng) {
        let sids: Vec<u32> = self.subscriptions.keys().copied().collect();
        if let Some(sid) = random.choice(sids) {
            self.subscriptions.remove(&sid);
            self.say(&format!("UNSUB {sid}\r\n"));
        }
    }

    fn publish(&self, subject: &str, message: u64) {
        let payload = message.to_string();
        self.say(&format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()));
    }

    /// Reads what came; how many messages that were.
    fn receive(&mut self) -> Result<u64, String> {
        self.pipe.receive(usize::MAX, &mut self.incoming);
        let mut messages = 0;
        while let Some(end) = self.incoming[self.parsed..].windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8_lossy(&self.incoming[self.parsed..self.parsed + end]).into_owned();
            let words: Vec<&str> = line.split(' ').collect();
            let mut used = end + 2;
            match words[..] {
                ["MSG", _, sid, size] => {
                    let (sid, size): (u32, usize) = match (sid.parse(), size.parse()) {
                        (Ok(sid), Ok(size)) => (sid, size),
                        _ => return Err(format!("cannot read {line:?}")),
                    };
                    let body = self.parsed + used..self.parsed + used + size;
                    if self.incoming.len() < body.end + 2 {
                        break;
                    }
                    let message = String::from_utf8_lossy(&self.incoming[body]).parse::<u64>();
                    let message = message.map_err(|_| "a payload that nobody sent".to_owned())?;
                    let count = self.received.entry((message, sid)).or_default();
                    *count += 1;
                    if *count > 1 {
                        return Err(format!("message {message} came {count} times to subscription {sid}"));
                    }
                    messages += 1;
                    used += size + 2;
                }
                ["PING"] => self.say("PONG\r\n"),
                ["PONG"] | ["INFO", ..] => {}
                _ => return Err(format!("a client was told {line:?}")),
            }
            self.parsed += used;
        }
        Ok(messages)
    }
}
