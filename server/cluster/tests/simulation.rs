//! Many meshes over a simulated network: whatever joins, leaves, cuts and heals happened, in the end every live
//! server has every other as a member, shows its clients all servers, and knows the interest of each exactly
//! once.
//!
//! A run is decided by its seed alone. `STARLING_SIMULATION_RUNS` sets the number of runs, `STARLING_SIMULATION_SEED`
//! runs one seed.

use cluster::interest::{self, LocalInterest, RemoteInterest};
use cluster::{
    Carries, Compression, ConnectionId, Effect, Handled, Identity, Level, Mesh, RouteConversation, RouteUrl,
    Settings,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use wire::route::{Limits, Op, Step, parse};

const ACCOUNTS: [&str; 5] = ["$G", "A", "B", "SHOP", "$SYS"];

struct End {
    node: usize,
    peer: u64,
    /// Bytes disappear: the network lost the connection and told nobody.
    black_hole: bool,
    arrives_at: Duration,
    inbound: Vec<u8>,
    conversation: Option<RouteConversation>,
    carries: Option<Carries>,
    remote: RemoteInterest,
    server_id: String,
}

struct Node {
    id: String,
    address: SocketAddr,
    mesh: Mesh,
    local: LocalInterest,
    filters: BTreeMap<(usize, u32, bool), i64>,
    urls: Vec<String>,
    timer: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Deliver(u64, Vec<u8>),
    Closed(u64),
    Dialed { node: usize, run: u64, dial: u64, address: SocketAddr },
    Resolved { node: usize, run: u64, name: String },
    Timer { node: usize, run: u64 },
}

type Event = std::cmp::Reverse<(Duration, u64, What)>;

/// What a broken server would do: each must be found by the same checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// Nothing: the real one.
    None,
    /// Does not tell a new peer what it wants already.
    ForgetsInterest,
    /// Does not say when it wants something no longer.
    KeepsInterest,
    /// Tells nobody about others.
    KeepsNews,
    /// Never asks for a sign of life.
    NeverPings,
}

struct World {
    mutant: Mutant,
    now: Duration,
    sequence: u64,
    random: SmallRng,
    events: BinaryHeap<Event>,
    nodes: Vec<Option<Node>>,
    runs: Vec<u64>,
    ends: BTreeMap<u64, End>,
    /// The ends of each node.
    owned: Vec<BTreeSet<u64>>,
    next: u64,
    cuts: BTreeSet<(usize, usize)>,
    dns: Vec<IpAddr>,
    sent_bytes: u64,
    /// Dials to where nobody listens.
    refused: u64,
    seeds: usize,
    by_name: bool,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 0, (node / 250) as u8, (node % 250) as u8 + 1]), 6222)
}

impl World {
    fn new(seed: u64, seeds: usize, by_name: bool) -> World {
        World {
            mutant: Mutant::None,
            now: Duration::ZERO,
            sequence: 0,
            random: SmallRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            nodes: Vec::new(),
            runs: Vec::new(),
            ends: BTreeMap::new(),
            owned: Vec::new(),
            next: 0,
            cuts: BTreeSet::new(),
            dns: Vec::new(),
            sent_bytes: 0,
            refused: 0,
            seeds,
            by_name,
        }
    }

    fn after(&mut self, delay: Duration, what: What) {
        self.sequence += 1;
        self.events.push(std::cmp::Reverse((self.now + delay, self.sequence, what)));
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(self.random.random_range(50..5000))
    }

    fn join(&mut self, index: usize) {
        while self.nodes.len() <= index {
            self.nodes.push(None);
            self.owned.push(BTreeSet::new());
            self.runs.push(0);
        }
        assert!(self.nodes[index].is_none());
        self.runs[index] += 1;
        let id = format!("N{:06}{index:03}", self.random.random_range(0..1_000_000));
        let own = address(index);
        let routes = if self.by_name {
            vec![RouteUrl::parse("nats://cluster.local:6222").unwrap()]
        } else {
            (0..self.seeds)
                .map(|seed| RouteUrl::parse(&format!("nats://{}", address(seed))).unwrap())
                .collect()
        };
        let identity = Identity {
            server_id: id.clone(),
            server_name: format!("n{index}"),
            starling_version: "test".into(),
            headers: true,
            host: "0.0.0.0".into(),
            port: own.port(),
            connect_urls: vec![format!("{}:4222", own.ip())],
            own_addresses: vec![own],
            ..Identity::default()
        };
        let compression = match self.random.random_range(0..4) {
            0 => Compression::NotSupported,
            1 => Compression::Off,
            2 => Compression::Accept,
            _ => Compression::At(Level::Fast),
        };
        let settings =
            Settings { cluster_name: Some("sim".into()), routes, compression, ..Settings::default() };
        let mesh = Mesh::new(settings, identity, self.random.random());
        let urls = mesh.client_urls().0;
        let (local, filters) = (LocalInterest::default(), BTreeMap::new());
        self.nodes[index] = Some(Node { id, address: own, mesh, local, filters, urls, timer: None });
        self.dns = self.live().map(|node| node.address.ip()).collect();
        let now = self.now;
        self.with(index, |node| node.mesh.start(now));
    }

    fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    fn kill(&mut self, index: usize) {
        self.nodes[index] = None;
        self.runs[index] += 1;
        self.dns = self.live().map(|node| node.address.ip()).collect();
        let ends: Vec<u64> =
            self.ends.iter().filter(|(_, end)| end.node == index).map(|(id, _)| *id).collect();
        for end in ends {
            self.hang_up(end);
        }
    }

    /// Closes one end; the other hears of it unless the network swallows it.
    fn hang_up(&mut self, id: u64) {
        let Some(end) = self.ends.remove(&id) else { return };
        self.owned[end.node].remove(&id);
        let delay = self.latency();
        if let Some(peer) = self.ends.get_mut(&end.peer) {
            if end.black_hole {
                return;
            }
            peer.arrives_at = peer.arrives_at.max(self.now + delay);
            let wait = peer.arrives_at - self.now;
            self.after(wait, What::Closed(end.peer));
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.cuts.insert((a.min(b), a.max(b)));
        let between: Vec<u64> = (self.ends.iter())
            .filter(|(_, end)| end.node == a && self.ends.get(&end.peer).is_some_and(|peer| peer.node == b))
            .map(|(id, _)| *id)
            .collect();
        let silent = self.random.random_bool(0.5);
        for id in between {
            let peer = self.ends[&id].peer;
            if silent {
                for end in [id, peer] {
                    self.ends.get_mut(&end).unwrap().black_hole = true;
                }
            } else {
                // a firewall resets both ends
                self.after(Duration::from_millis(1), What::Closed(id));
                self.after(Duration::from_millis(2), What::Closed(peer));
            }
        }
    }

    fn with<R>(&mut self, index: usize, act: impl FnOnce(&mut Node) -> R) -> Option<R> {
        let result = act(self.nodes[index].as_mut()?);
        self.settle(index);
        Some(result)
    }

    /// Does what a mesh asked for, and sets its timer.
    fn settle(&mut self, index: usize) {
        while let Some(effect) = self.nodes[index].as_mut().and_then(|node| node.mesh.poll_effect()) {
            self.perform(index, effect);
        }
        let run = self.runs[index];
        let ends = self.owned[index].iter().filter_map(|id| self.ends.get(id));
        let next = ends.filter_map(|end| end.conversation.as_ref()?.next_timeout()).min();
        let Some(node) = self.nodes[index].as_mut() else { return };
        let next = [next, node.mesh.next_timeout()].into_iter().flatten().min();
        if let Some(next) = next
            && node.timer.is_none_or(|set| next < set || set <= self.now)
        {
            node.timer = Some(next);
            let delay = next.saturating_sub(self.now).max(Duration::from_micros(10));
            self.after(delay, What::Timer { node: index, run });
        }
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        let run = self.runs[index];
        match effect {
            Effect::Send { connection, bytes } if self.is_withheld(index, connection.0, &bytes) => {}
            Effect::Send { connection, bytes } => self.send(connection.0, bytes),
            Effect::Close { connection, .. } => self.hang_up(connection.0),
            Effect::PeerReady { connection, server_id, carries, .. } => {
                let mut bytes = Vec::new();
                if self.mutant != Mutant::ForgetsInterest {
                    self.nodes[index].as_ref().unwrap().local.encode(&carries, &mut bytes);
                }
                let end = self.ends.get_mut(&connection.0).expect("a ready connection exists");
                assert!(end.carries.replace(carries).is_none(), "a connection becomes ready once");
                end.server_id = server_id;
                self.send(connection.0, bytes);
            }
            Effect::Dial { dial, address, .. } => {
                let delay = self.latency();
                self.after(delay, What::Dialed { node: index, run, dial: dial.0, address });
            }
            Effect::Resolve { name } => {
                let delay = self.latency();
                self.after(delay, What::Resolved { node: index, run, name });
            }
            Effect::ClientUrls { connect_urls, .. } => {
                self.nodes[index].as_mut().unwrap().urls = connect_urls;
            }
            Effect::Log { connection, text, .. } => {
                if std::env::var("STARLING_SIMULATION_LOG").is_ok() {
                    let who = self.nodes[index].as_ref().map(|node| node.id.clone()).unwrap_or_default();
                    eprintln!("{:>12?} {who} {connection:?} {text}", self.now);
                }
            }
            Effect::PeerJoined { .. }
            | Effect::PeerLeft { .. }
            | Effect::PeerPermissions { .. }
            // bytes stay as they are here; what is agreed on goes through the same handshake
            | Effect::Compress { .. }
            | Effect::ClusterName(_) => {}
        }
    }

    /// Whether a broken server would not say this.
    fn is_withheld(&self, index: usize, connection: u64, bytes: &[u8]) -> bool {
        match self.mutant {
            Mutant::NeverPings => bytes == b"PING\r\n",
            Mutant::KeepsNews => {
                let is_registered = self.ends.get(&connection).is_some_and(|end| end.carries.is_some());
                let own = self.nodes[index].as_ref().map(|node| format!("\"server_id\":\"{}\"", node.id));
                is_registered
                    && bytes.starts_with(b"INFO")
                    && !String::from_utf8_lossy(bytes).contains(&own.unwrap_or_default())
            }
            _ => false,
        }
    }

    fn send(&mut self, from: u64, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.sent_bytes += bytes.len() as u64;
        let delay = self.latency();
        let Some(end) = self.ends.get(&from).filter(|end| !end.black_hole) else { return };
        let to = end.peer;
        let Some(peer) = self.ends.get_mut(&to) else { return };
        peer.arrives_at = peer.arrives_at.max(self.now + delay);
        let wait = peer.arrives_at - self.now;
        self.after(wait, What::Deliver(to, bytes));
    }

    fn run_until(&mut self, until: Duration) {
        while let Some(std::cmp::Reverse((at, _, _))) = self.events.peek() {
            if *at > until {
                break;
            }
            let std::cmp::Reverse((at, _, what)) = self.events.pop().unwrap();
            self.now = at;
            self.happen(what);
        }
        self.now = until;
    }

    fn happen(&mut self, what: What) {
        let now = self.now;
        match what {
            What::Deliver(id, bytes) => self.deliver(id, bytes),
            What::Closed(id) => {
                if let Some(end) = self.ends.get(&id) {
                    let node = end.node;
                    self.hang_up(id);
                    self.with(node, |node| node.mesh.handle_closed(ConnectionId(id), now));
                }
            }
            What::Dialed { node, run, dial, address } if run == self.runs[node] => {
                self.dialed(node, dial, address)
            }
            What::Resolved { node, run, name } if run == self.runs[node] => {
                let addresses = self.dns.clone();
                self.with(node, |node| node.mesh.handle_resolved(&name, Ok(&addresses), now));
            }
            What::Timer { node, run } if run == self.runs[node] => self.timer(node),
            What::Dialed { .. } | What::Resolved { .. } | What::Timer { .. } => {}
        }
    }

    fn timer(&mut self, index: usize) {
        let now = self.now;
        let Some(node) = self.nodes[index].as_mut() else { return };
        if node.timer.is_some_and(|timer| timer > now) {
            return;
        }
        node.timer = None;
        node.mesh.handle_timeout(now);
        for id in &self.owned[index] {
            if let Some(end) = self.ends.get_mut(id)
                && let Some(conversation) = &mut end.conversation
                && conversation.next_timeout().is_some_and(|at| at <= now)
            {
                conversation.handle_timeout(&mut node.mesh, now);
            }
        }
        self.settle(index);
        let next = self.nodes[index].as_ref().and_then(|node| node.mesh.next_timeout());
        assert!(next.is_none_or(|next| next > now), "a timer that is never done would keep a worker busy");
    }

    fn dialed(&mut self, index: usize, dial: u64, to: SocketAddr) {
        let now = self.now;
        let listener =
            self.nodes.iter().position(|node| node.as_ref().is_some_and(|node| node.address == to));
        let dial = cluster::DialId(dial);
        let Some(other) = listener.filter(|other| !self.is_cut(index, *other)) else {
            self.refused += 1;
            self.with(index, |node| node.mesh.handle_dial_failed(dial, "connection refused", now));
            return;
        };
        let (near, far) = (self.next, self.next + 1);
        self.next += 2;
        for (id, node, peer) in [(near, index, far), (far, other, near)] {
            let end = End {
                node,
                peer,
                black_hole: false,
                arrives_at: now,
                inbound: Vec::new(),
                conversation: None,
                carries: None,
                remote: RemoteInterest::default(),
                server_id: String::new(),
            };
            self.ends.insert(id, end);
            self.owned[node].insert(id);
        }
        let source = SocketAddr::new(self.nodes[index].as_ref().unwrap().address.ip(), 40000);
        let accepted = {
            let mesh = &mut self.nodes[other].as_mut().unwrap().mesh;
            RouteConversation::accepted(mesh, ConnectionId(far), source, None, now)
        };
        self.ends.get_mut(&far).unwrap().conversation = Some(accepted);
        self.settle(other);
        let dialed = {
            let mesh = &mut self.nodes[index].as_mut().unwrap().mesh;
            RouteConversation::dialed(mesh, dial, ConnectionId(near), now)
        };
        match dialed {
            Some(conversation) => self.ends.get_mut(&near).unwrap().conversation = Some(conversation),
            None => self.hang_up(near),
        }
        self.settle(index);
    }

    fn deliver(&mut self, id: u64, bytes: Vec<u8>) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(&id).filter(|end| !end.black_hole) else { return };
        let index = end.node;
        end.inbound.extend_from_slice(&bytes);
        let mut inbound = std::mem::take(&mut end.inbound);
        let mut at = 0;
        while let Some(end) = self.ends.get_mut(&id) {
            let (Some(conversation), Some(node)) = (&mut end.conversation, self.nodes[index].as_mut()) else {
                return;
            };
            let step = parse(&inbound, at, &Limits::default(), conversation.shape());
            let Step::Op(op, consumed) = step.expect("servers understand each other") else { break };
            at += consumed;
            if conversation.handle(op, &mut node.mesh, now) == Handled::ForBroker {
                match op {
                    Op::Subscribe(interest) => _ = end.remote.add(&interest),
                    Op::Unsubscribe(interest) => _ = end.remote.remove(&interest),
                    _ => {}
                }
            }
            self.settle(index);
        }
        inbound.drain(..at);
        if let Some(end) = self.ends.get_mut(&id) {
            end.inbound = inbound;
        }
    }

    /// Changes local interest at random and tells the routes.
    fn churn(&mut self, index: usize) {
        let account = self.random.random_range(0..ACCOUNTS.len());
        let subject = self.random.random_range(0..20u32);
        let queue = self.random.random_bool(0.3);
        let Some(node) = self.nodes[index].as_mut() else { return };
        let count = node.filters.entry((account, subject, queue)).or_default();
        let delta = if *count > 0 && self.random.random_bool(0.5) { -1 } else { 1 };
        *count += delta;
        let text = format!("s.{subject}");
        let queue: Option<&[u8]> = queue.then_some(b"workers");
        let Some(news) = node.local.change(ACCOUNTS[account], text.as_bytes(), queue, delta) else { return };
        if self.mutant == Mutant::KeepsInterest && news == interest::Announcement::Remove {
            return;
        }
        let told: Vec<(u64, bool)> = (self.ends.iter())
            .filter(|(_, end)| end.node == index)
            .filter_map(|(id, end)| {
                let carries = end.carries.as_ref()?;
                interest::carries(carries, ACCOUNTS[account])
                    .then_some((*id, matches!(carries, Carries::Account(_))))
            })
            .collect();
        for (id, implied) in told {
            let mut bytes = Vec::new();
            interest::encode(&mut bytes, news, ACCOUNTS[account].as_bytes(), implied, text.as_bytes(), queue);
            self.send(id, bytes);
        }
    }

    /// Says what is not as it should be.
    fn disagreement(&self) -> Option<String> {
        if self.ends.values().any(|end| end.black_hole) {
            return Some("a dead connection has not been noticed yet".to_owned());
        }
        for node in self.live() {
            let members: BTreeSet<&str> = node.mesh.peers().map(|peer| peer.server_id).collect();
            let others: BTreeSet<&str> =
                self.live().filter(|other| other.id != node.id).map(|other| other.id.as_str()).collect();
            if members != others {
                return Some(format!("{} has {members:?}, not {others:?}", node.id));
            }
            if let Some(peer) = node.mesh.peers().find(|peer| (peer.pooled, peer.pinned) != (3, 1)) {
                return Some(format!("{} has an incomplete pool: {peer:?}", node.id));
            }
            let mut urls = node.urls.clone();
            urls.sort();
            let mut all: Vec<String> =
                self.live().map(|node| format!("{}:4222", node.address.ip())).collect();
            all.sort();
            if urls != all {
                return Some(format!("{} shows {urls:?}, not {all:?}", node.id));
            }
            for other in self.live().filter(|other| other.id != node.id) {
                if let Some(text) = self.interest_differs(node, other) {
                    return Some(text);
                }
            }
        }
        None
    }

    /// What `node` holds of `other`'s interest against what `other` has.
    fn interest_differs(&self, node: &Node, other: &Node) -> Option<String> {
        let mut held: BTreeMap<(String, String, bool), u32> = BTreeMap::new();
        let ends =
            self.ends.values().filter(|end| self.nodes[end.node].as_ref().is_some_and(|n| n.id == node.id));
        for end in ends.filter(|end| end.server_id == other.id) {
            let pinned = match &end.carries {
                Some(Carries::Account(account)) => Some(account.clone()),
                _ => None,
            };
            for entry in end.remote.entries() {
                let account =
                    pinned.clone().unwrap_or_else(|| String::from_utf8_lossy(entry.account).into_owned());
                let key =
                    (account, String::from_utf8_lossy(entry.subject).into_owned(), entry.queue.is_some());
                if held.insert(key.clone(), entry.weight).is_some() {
                    return Some(format!("{} holds {key:?} of {} twice", node.id, other.id));
                }
            }
        }
        let wanted: BTreeMap<(String, String, bool), u32> = (other.filters.iter())
            .filter(|(_, count)| **count > 0)
            .map(|((account, subject, queue), count)| {
                let weight = if *queue { *count as u32 } else { 1 };
                ((ACCOUNTS[*account].to_owned(), format!("s.{subject}"), *queue), weight)
            })
            .collect();
        (held != wanted).then(|| format!("{} holds {held:?} of {}, not {wanted:?}", node.id, other.id))
    }

    fn settles_within(&mut self, limit: Duration) -> Result<Duration, String> {
        let start = self.now;
        let mut last = String::new();
        while self.now - start < limit {
            let step = self.now + Duration::from_millis(250);
            self.run_until(step);
            match self.disagreement() {
                None => return Ok(self.now - start),
                Some(text) => last = text,
            }
        }
        Err(last)
    }
}

/// One seeded life of a cluster: how it went wrong, if it did.
fn live_through(seed: u64, mutant: Mutant) -> Result<(), String> {
    let mut script = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let by_name = script.random_bool(0.5);
    let size = script.random_range(3..7usize);
    let mut world = World::new(seed, script.random_range(1..3), by_name);
    world.mutant = mutant;
    for index in 0..size {
        world.join(index);
        let pause = Duration::from_millis(script.random_range(0..300));
        world.run_until(world.now + pause);
    }
    for _ in 0..40 {
        let index = script.random_range(0..size + 2);
        let other = script.random_range(0..size + 2);
        let alive = |world: &World, index: usize| world.nodes.get(index).is_some_and(Option::is_some);
        match script.random_range(0..10) {
            0 if alive(&world, index) && index >= world.seeds => world.kill(index),
            1 | 2 if !alive(&world, index) => world.join(index),
            3 if index != other => world.cut(index, other),
            4 => world.cuts.clear(),
            _ => {
                for _ in 0..5 {
                    if alive(&world, index) {
                        world.churn(index);
                    }
                }
            }
        }
        let pause = Duration::from_millis(script.random_range(0..5000));
        world.run_until(world.now + pause);
    }
    world.cuts.clear();
    // connections that died in silence are noticed by unanswered pings, at the latest after 90 s
    world.settles_within(Duration::from_secs(240))?;
    // and it stays so, without connections coming and going
    let before = world.next;
    world.run_until(world.now + Duration::from_secs(120));
    if let Some(text) = world.disagreement() {
        return Err(text);
    }
    let opened = world.next - before;
    let pairs = (world.live().count() * world.live().count()) as u64;
    match opened <= 2 * pairs {
        true => Ok(()),
        false => Err(format!("{opened} connection ends opened in a settled cluster")),
    }
}

fn must_live_through(seed: u64) {
    if let Err(text) = live_through(seed, Mutant::None) {
        panic!("seed {seed}: {text}");
    }
}

#[test]
fn after_any_history_all_live_servers_agree_on_members_and_interest() {
    if let Ok(seed) = std::env::var("STARLING_SIMULATION_SEED") {
        return must_live_through(seed.parse().expect("a number"));
    }
    let runs =
        std::env::var("STARLING_SIMULATION_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(2000);
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= runs {
                return;
            }
            must_live_through(seed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| _ = scope.spawn(work));
    });
}

#[test]
fn a_server_that_breaks_the_protocol_is_found_out() {
    for mutant in [Mutant::ForgetsInterest, Mutant::KeepsInterest, Mutant::KeepsNews, Mutant::NeverPings] {
        let found = (0..100).find(|seed| live_through(*seed, mutant).is_err());
        assert!(found.is_some(), "{mutant:?} lived a hundred lives");
    }
}

#[test]
fn a_cluster_of_one_seed_and_many_joiners_forms_a_full_mesh_in_seconds() {
    let mut world = World::new(7, 1, false);
    for index in 0..24 {
        world.join(index);
    }
    let took = world.settles_within(Duration::from_secs(60)).unwrap();
    assert!(took <= Duration::from_secs(15), "{took:?}");
}

#[test]
fn a_name_that_gains_and_loses_addresses_is_followed_without_gossip_from_a_seed() {
    let mut world = World::new(11, 0, true);
    for index in 0..3 {
        world.join(index);
    }
    world.settles_within(Duration::from_secs(30)).unwrap();
    // all of the first generation are replaced at new addresses
    for index in 3..6 {
        world.join(index);
    }
    world.settles_within(Duration::from_secs(30)).unwrap();
    for index in 0..3 {
        world.kill(index);
    }
    world.settles_within(Duration::from_secs(30)).unwrap();
    // the old addresses are tried until the next look at the name, and within a minute each server checks once
    // whether a peer really lives where it says; after that nothing moves
    world.run_until(world.now + Duration::from_secs(90));
    let (opened, refused) = (world.next, world.refused);
    world.run_until(world.now + Duration::from_secs(300));
    assert_eq!((world.next, world.refused), (opened, refused), "nobody dials addresses that left the name");
}

#[test]
fn servers_that_know_each_other_by_gossip_only_find_each_other_after_a_cut() {
    for seed in 0..5 {
        let mut world = World::new(seed, 1, false);
        (0..4).for_each(|index| world.join(index));
        world.settles_within(Duration::from_secs(30)).unwrap();
        world.cut(1, 2);
        world.churn(1);
        world.run_until(world.now + Duration::from_secs(150));
        assert!(world.disagreement().is_some(), "the cut took effect");
        world.cuts.clear();
        world.settles_within(Duration::from_secs(40)).unwrap();
    }
}

#[test]
fn the_same_seed_gives_the_same_life() {
    let trace = |seed| {
        let mut world = World::new(seed, 1, false);
        (0..5).for_each(|index| world.join(index));
        world.run_until(Duration::from_secs(20));
        (world.sent_bytes, world.sequence)
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}
