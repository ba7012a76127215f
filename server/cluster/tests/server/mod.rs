//! One server that a script talks to: no sockets, no clock; what it does is written down.

use cluster::{CloseReason, ConnectionId, DialId, Effect, Handled, Identity};
use cluster::{Mesh, RouteConversation, RouteUrl, Settings};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wire::route::{Info, Limits, Step, parse};

pub const SECOND: Duration = Duration::from_secs(1);
pub const CONNECT: &str =
    "CONNECT {\"name\":\"NPEER\",\"cluster\":\"c\",\"headers\":true,\"lnoc\":true,\"ln\":true}\r\n";

/// One server, its connections by number, and everything that it did.
pub struct Server {
    pub mesh: Mesh,
    pub now: Duration,
    pub routes: BTreeMap<u64, RouteConversation>,
    pub sent: BTreeMap<u64, String>,
    pub closed: BTreeMap<u64, CloseReason>,
    pub dials: Vec<(DialId, SocketAddr)>,
    pub resolves: Vec<String>,
    pub urls: Vec<(Vec<String>, bool)>,
    pub events: Vec<String>,
}

pub fn settings() -> Settings {
    Settings { cluster_name: Some("c".into()), ..Settings::default() }
}

pub fn with_routes(routes: &[&str]) -> Settings {
    let routes = routes.iter().map(|url| RouteUrl::parse(url).unwrap()).collect();
    Settings { routes, ..settings() }
}

pub fn server(settings: Settings) -> Server {
    let identity = Identity {
        server_id: "NOWN".into(),
        server_name: "own".into(),
        version: "2.15.2".into(),
        starling_version: "0.1.0".into(),
        headers: true,
        max_payload: 1 << 20,
        host: "0.0.0.0".into(),
        port: 6222,
        connect_urls: vec!["10.0.0.1:4222".into()],
        own_addresses: vec!["10.0.0.1:6222".parse().unwrap()],
        ..Identity::default()
    };
    let mut server = Server {
        mesh: Mesh::new(settings, identity, 1),
        now: Duration::ZERO,
        routes: BTreeMap::new(),
        sent: BTreeMap::new(),
        closed: BTreeMap::new(),
        dials: Vec::new(),
        resolves: Vec::new(),
        urls: Vec::new(),
        events: Vec::new(),
    };
    server.mesh.start(server.now);
    server.collect();
    server
}

/// `INFO` of a peer as nats-server sends it; `more` is added to the document.
pub fn info(id: &str, more: &str) -> String {
    format!(
        "INFO {{\"server_id\":\"{id}\",\"server_name\":\"{}\",\"proto\":3,\"host\":\"0.0.0.0\",\"port\":6222,\
         \"headers\":true,\"cluster\":\"c\",\"lnoc\":true,\"lnocu\":true,\"ln\":true,\"route_pool_size\":3{more}}}\r\n",
        id.to_lowercase()
    )
}

impl Server {
    pub fn collect(&mut self) {
        while let Some(effect) = self.mesh.poll_effect() {
            match effect {
                Effect::Send { connection, bytes } => {
                    self.sent.entry(connection.0).or_default().push_str(&String::from_utf8(bytes).unwrap());
                }
                Effect::Close { connection, reason } => _ = self.closed.insert(connection.0, reason),
                Effect::Dial { dial, address, .. } => self.dials.push((dial, address)),
                Effect::Resolve { name } => self.resolves.push(name),
                Effect::ClientUrls { connect_urls, lame_duck, .. } => {
                    self.urls.push((connect_urls, lame_duck))
                }
                Effect::PeerReady { connection, carries, headers, .. } => {
                    self.sent.entry(connection.0).or_default().push_str("<interest>\r\n");
                    self.events.push(format!("ready {} {carries:?} headers={headers}", connection.0));
                }
                Effect::PeerJoined { server_id, .. } => self.events.push(format!("joined {server_id}")),
                Effect::PeerLeft { server_id, .. } => self.events.push(format!("left {server_id}")),
                Effect::ClusterName(name) => self.events.push(format!("cluster {name}")),
                Effect::Compress { connection, level } => {
                    let sent = self.sent.entry(connection.0).or_default();
                    sent.push_str(&format!("<{}>\r\n", level.name()));
                }
                Effect::PeerPermissions { .. } => self.events.push("permissions".into()),
                Effect::Log { .. } => {}
            }
        }
    }

    pub fn accept(&mut self, number: u64, from: &str) {
        let remote = from.parse().unwrap();
        let route = RouteConversation::accepted(&mut self.mesh, ConnectionId(number), remote, None, self.now);
        self.routes.insert(number, route);
        self.collect();
    }

    /// The next dial succeeds and becomes connection `number`.
    pub fn dial(&mut self, number: u64) -> SocketAddr {
        let (dial, address) = self.dials.remove(0);
        let route = RouteConversation::dialed(&mut self.mesh, dial, ConnectionId(number), self.now);
        self.routes.insert(number, route.expect("the dial is wanted"));
        self.collect();
        address
    }

    pub fn dial_fails(&mut self) -> SocketAddr {
        let (dial, address) = self.dials.remove(0);
        self.mesh.handle_dial_failed(dial, "connection refused", self.now);
        self.collect();
        address
    }

    /// Seconds from a dial that fails to the next, so many times.
    pub fn pauses(&mut self, times: usize) -> Vec<u64> {
        let pauses = (0..times).map(|_| {
            self.dial_fails();
            let start = self.now;
            while self.dials.is_empty() {
                self.wait(SECOND / 10);
            }
            // up to a fifth earlier, by chance
            (self.now - start).as_secs_f64().round() as u64
        });
        pauses.collect()
    }

    pub fn resolve(&mut self, addresses: &[&str]) {
        let name = self.resolves.remove(0);
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.mesh.handle_resolved(&name, Ok(&addresses), self.now);
        self.collect();
    }

    pub fn says(&mut self, number: u64, text: &str) {
        let mut at = 0;
        while at < text.len() {
            let route = self.routes.get_mut(&number).unwrap();
            match parse(text.as_bytes(), at, &Limits::default(), route.shape()) {
                Ok(Step::Op(op, consumed)) => {
                    if route.handle(op, &mut self.mesh, self.now) == Handled::ForBroker {
                        assert!(route.is_open());
                        self.events.push(text[at..at + consumed].trim_end().to_owned());
                    }
                    at += consumed;
                }
                Ok(Step::More(_)) => panic!("incomplete: {text:?}"),
                Err(error) => {
                    route.handle_parse_error(error, &mut self.mesh, self.now);
                    at = text.len();
                }
            }
            self.collect();
        }
    }

    /// What was sent since the last call; `INFO` and `CONNECT` shortened to what varies.
    pub fn heard(&mut self, number: u64) -> Vec<String> {
        let text = self.sent.remove(&number).unwrap_or_default();
        text.lines().map(short).collect()
    }

    pub fn reload(&mut self, settings: Settings) {
        self.mesh.reconfigure(settings, None, self.now);
        self.collect();
    }

    /// Numbers of the connections closed since the last call.
    pub fn ended(&mut self) -> Vec<u64> {
        let closed = std::mem::take(&mut self.closed);
        assert!(closed.values().all(|reason| *reason == CloseReason::RouteRemoved), "{closed:?}");
        closed.keys().for_each(|number| _ = self.routes.remove(number));
        closed.into_keys().collect()
    }

    pub fn goes(&mut self, number: u64) {
        self.routes.remove(&number);
        self.mesh.handle_closed(ConnectionId(number), self.now);
        self.collect();
    }

    /// Lets time pass, doing at each moment what is due then.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let routes = self.routes.iter().filter(|(number, _)| !self.closed.contains_key(number));
            let route = routes.filter_map(|(_, route)| route.next_timeout()).min();
            let Some(at) =
                [route, self.mesh.next_timeout()].into_iter().flatten().min().filter(|at| *at <= until)
            else {
                break;
            };
            self.now = self.now.max(at);
            self.mesh.handle_timeout(self.now);
            for route in self.routes.values_mut() {
                route.handle_timeout(&mut self.mesh, self.now);
            }
            self.collect();
        }
        self.now = until;
    }

    /// A peer that dialled us with a pool of one connection, introduced under `id`.
    pub fn member(&mut self, number: u64, id: &str, from: &str, more: &str) {
        self.accept(number, from);
        self.says(number, &CONNECT.replace("NPEER", id));
        self.says(number, &info(id, more));
        assert!(self.routes[&number].is_member(), "{:?}", self.closed.get(&number));
        self.heard(number);
    }
}

pub fn short(line: &str) -> String {
    let Some(json) = line.strip_prefix("INFO ") else {
        return line.split(" {").next().unwrap_or_default().to_owned();
    };
    let info = Info::decode(json.trim().as_bytes()).unwrap();
    let mut text = format!("INFO {}", info.server_id);
    let account = (!info.route_account.is_empty()).then(|| format!(" account={}", info.route_account));
    let index = (info.route_pool_idx > 0).then(|| format!(" index={}", info.route_pool_idx));
    let gossip = (info.gossip_mode > 0).then(|| format!(" gossip={}", info.gossip_mode));
    let ip = (!info.ip.is_empty()).then(|| format!(" ip={}", info.ip));
    let ldm = info.lame_duck_mode.then(|| " ldm".to_owned());
    for part in [account, index, gossip, ip, ldm].into_iter().flatten() {
        text.push_str(&part);
    }
    text
}
