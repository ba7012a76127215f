//! What the threads of one server share besides the broker: identity, settings, the INFO of the moment, counts.

use crate::callout::Asker;
use crate::certificates::Certificates;
use crate::departed::Departed;
use crate::identity;
use crate::internal_thread::{Bell, Ringer};
use crate::ocsp::Peers;
use crate::resolver::{Logins, Resolver};
use crate::server::engine_settings;
use crate::snapshot::Numbers;
use crate::socket::{Handshake, Security};
use crate::system::System;
use crate::worker_thread::{Incoming, Inform, Reconfigure, now_nanos};
use broker::link::About;
use broker::mailbox::Command;
use broker::{Broker, CloseReason, Link, LinkKind};
use config::Settings;
use config::tls::HandshakeFirst;
use engine::{Hub, Internal, Recheck};
use monitor::RequestCounters;
use parking_lot::{Mutex, RwLock};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use wire::info::Info;

/// What a client hears whose handshake would be one too many in this second.
const THROTTLED: &[u8] = b"-ERR 'Connection throttling is active. Please try again later.'\r\n";

/// Ports that listeners really have.
#[derive(Clone, Copy, Debug, Default)]
pub struct BoundPorts {
    /// For clients.
    pub client: u16,
    /// For other servers, if there is a cluster.
    pub cluster: Option<u16>,
    /// For the monitor, if there is one.
    pub monitor: Option<u16>,
}

/// Reads the configuration again and puts it in force: what changed, or why nothing did.
pub type Reload = Arc<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>;

/// State of a running server.
pub struct Shared {
    /// The data path.
    pub broker: Arc<Broker>,
    /// Clients inside the process.
    pub internal: Arc<Internal>,
    /// Services and events of the system account, if there is one.
    system: RwLock<Option<Arc<System>>>,
    /// Has the program read its configuration again.
    reloader: RwLock<Option<Reload>>,
    /// Wakes or ends the thread of the internal clients.
    pub bell: Arc<Bell>,
    /// Id of this run.
    pub server_id: String,
    /// Name of the server.
    pub server_name: String,
    /// Start, in nanoseconds since the Unix epoch.
    pub start_nanos: u64,
    settings: RwLock<Arc<Settings>>,
    /// Digest of the configuration file, empty without one.
    pub config_digest: RwLock<String>,
    /// When the configuration was loaded, in nanoseconds since the Unix epoch.
    pub config_load_nanos: AtomicU64,
    info: RwLock<Arc<Info>>,
    /// Who may connect and do what.
    pub table: RwLock<Arc<accounts::Table>>,
    /// TLS, replaced when certificates change.
    pub certificates: RwLock<Certificates>,
    /// Who asks about peers' certificates.
    pub peers: Arc<Peers>,
    /// The cluster side, if this server is one of a cluster.
    pub hub: OnceLock<Arc<Hub>>,
    /// TLS handshakes with clients begun in which second.
    handshakes: Mutex<(u64, u32)>,
    /// Client connections that are open.
    pub clients: AtomicUsize,
    /// Client connections there ever were.
    pub clients_total: AtomicU64,
    /// Stale connections that were closed.
    pub stale_connections: AtomicU64,
    /// What connections that are gone had received and sent: messages in, bytes in, messages out, bytes out.
    pub gone_traffic: [AtomicU64; 4],
    /// The same for clients alone.
    pub gone_client_traffic: [AtomicU64; 4],
    ports: RwLock<BoundPorts>,
    loads: Vec<AtomicUsize>,
    turn: AtomicUsize,
    departed: Mutex<Departed>,
    /// Requests to the monitor by endpoint.
    pub requests: RequestCounters,
    lame_duck: AtomicBool,
    /// Where questions go that take long.
    pub logins: Logins,
    /// What callout services are asked with.
    pub asker: Asker,
    /// Where account tokens come from, in operator mode.
    pub resolver: OnceLock<Resolver>,
    /// All listeners are open.
    pub is_ready: AtomicBool,
    /// Notified when the control thread ends.
    pub stopped: Arc<Notify>,
}

impl Shared {
    /// State before the first connection.
    pub fn new(broker: Arc<Broker>, settings: Arc<Settings>, peers: Arc<Peers>, seed: u64) -> Shared {
        let asker = Asker::new();
        let server_id = asker.server_id();
        let bell = Arc::new(Bell::default());
        let inbox = format!("$SYS._INBOX.{server_id}");
        let internal = Internal::new(broker.clone(), Box::new(Ringer(bell.clone())), inbox, seed);
        let server_name = settings.server_name.clone().unwrap_or_else(|| server_id.clone());
        let workers = broker.mailboxes().len();
        Shared {
            broker,
            internal,
            system: RwLock::default(),
            reloader: RwLock::default(),
            bell,
            server_id,
            server_name,
            start_nanos: now_nanos(),
            settings: RwLock::new(settings),
            config_digest: RwLock::default(),
            config_load_nanos: AtomicU64::new(now_nanos()),
            info: RwLock::default(),
            table: RwLock::default(),
            certificates: RwLock::default(),
            peers,
            hub: OnceLock::new(),
            handshakes: Mutex::default(),
            clients: AtomicUsize::new(0),
            clients_total: AtomicU64::new(0),
            stale_connections: AtomicU64::new(0),
            gone_traffic: Default::default(),
            gone_client_traffic: Default::default(),
            ports: RwLock::default(),
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            turn: AtomicUsize::new(0),
            departed: Mutex::default(),
            requests: RequestCounters::default(),
            lame_duck: AtomicBool::new(false),
            logins: Logins::new(),
            asker,
            resolver: OnceLock::new(),
            is_ready: AtomicBool::new(false),
            stopped: Arc::default(),
        }
    }

    /// The system account's services and events.
    pub fn system(&self) -> Option<Arc<System>> {
        self.system.read().clone()
    }

    /// Moves services and events to the system account of that name; none for an empty one.
    pub fn set_system(self: &Arc<Self>, account: &str, seed: u64) {
        let mut system = self.system.write();
        if system.as_ref().is_some_and(|system| system.account() == account) {
            return;
        }
        if let Some(old) = system.take() {
            old.stop();
        }
        if !account.is_empty() {
            *system = Some(System::start(self, account, seed));
        }
    }

    /// The server ends: nothing is answered or told any more.
    pub fn end_system(&self) {
        *self.system.write() = None;
        *self.reloader.write() = None;
    }

    /// Who reads the configuration again.
    pub fn set_reloader(&self, reload: Reload) {
        *self.reloader.write() = Some(reload);
    }

    /// Has the configuration read again: what changed.
    ///
    /// # Errors
    /// Why nothing did.
    pub fn reload_program(&self) -> Result<Vec<String>, String> {
        match self.reloader.read().clone() {
            Some(reload) => reload(),
            None => Err("this server cannot be asked to reload: it runs inside another program".into()),
        }
    }

    /// A client was let in.
    pub fn logged_in(&self, link: &Arc<Link>) {
        if let Some(system) = self.system.read().as_ref() {
            system.handle_login(link);
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Puts other settings in force.
    pub fn set_settings(&self, settings: Arc<Settings>) {
        *self.settings.write() = settings;
        self.config_load_nanos.store(now_nanos(), Relaxed);
    }

    /// The INFO that clients get now.
    pub fn info(&self) -> Arc<Info> {
        self.info.read().clone()
    }

    /// Changes the INFO; if it differs, every client that understands it is told.
    pub fn update_info(&self, change: impl FnOnce(&mut Info)) {
        let updated = {
            let mut info = self.info.write();
            let mut updated = Info::clone(&info);
            change(&mut updated);
            if updated == **info {
                return;
            }
            *info = Arc::new(updated);
            info.clone()
        };
        self.name_server(self.broker.names().system_account.clone());
        self.broker.broadcast(|| Command::Other(Box::new(Inform(updated.clone()))));
    }

    /// The ports of the listeners.
    pub fn ports(&self) -> BoundPorts {
        *self.ports.read()
    }

    /// Says which ports the listeners got.
    pub fn set_ports(&self, ports: BoundPorts) {
        *self.ports.write() = ports;
    }

    /// Port of the route listener.
    pub fn cluster_port(&self) -> Option<u16> {
        self.ports().cluster
    }

    /// Port of the monitor.
    pub fn monitor_port(&self) -> Option<u16> {
        self.ports().monitor
    }

    /// Enters lame duck mode; `false` when it was in it already.
    pub fn enter_lame_duck(&self) -> bool {
        !self.lame_duck.swap(true, AcqRel)
    }

    /// Takes an accepted client in, or turns it away. Its stream does not block, and inherits `TCP_NODELAY` from the
    /// listener.
    /// `begins_handshake`: it began TLS by itself, see [`handshake_first_wait`](Self::handshake_first_wait).
    pub fn admit_client(&self, stream: TcpStream, peer: SocketAddr, begins_handshake: bool) {
        if let Err(error) = self.try_admit_client(stream, peer, begins_handshake) {
            tracing::debug!(%error, "client connection lost before it was served");
        }
    }

    /// How long a client may take to begin TLS before it is sent INFO in the clear; `None` when it need not be
    /// waited for.
    pub fn handshake_first_wait(&self) -> Option<Duration> {
        match self.settings().tls.as_ref()?.handshake_first {
            HandshakeFirst::Fallback(wait) => Some(wait),
            HandshakeFirst::On | HandshakeFirst::Off => None,
        }
    }

    fn try_admit_client(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        begins_handshake: bool,
    ) -> io::Result<()> {
        let settings = self.settings();
        if self.clients.load(Relaxed) >= settings.limits.max_connections as usize {
            // the socket's buffer is empty: this is taken whole or the peer is gone
            return stream.write_all(b"-ERR 'maximum connections exceeded'\r\n");
        }
        let id = self.broker.next_id();
        let mut info = Info::clone(&self.info());
        info.client_id = id;
        if self.table.read().nonce_required() {
            info.nonce = identity::nonce();
        }
        let nonce = info.nonce.clone();
        info.client_ip = peer.ip().to_canonical().to_string();
        let mut greeting = Vec::new();
        info.encode(&mut greeting);
        let mut security = Security::Plain;
        let (tls, asks) = {
            let certificates = self.certificates.read();
            (certificates.client.clone(), certificates.asks_about_clients)
        };
        if let Some(tls) = tls {
            let limit = settings.tls.as_ref().map_or(0, |tls| tls.connection_rate_limit);
            let always = settings.tls.as_ref().is_some_and(|tls| tls.handshake_first == HandshakeFirst::On);
            let first = always || begins_handshake;
            if limit > 0 && !self.may_handshake(limit) {
                if !first {
                    greeting.extend_from_slice(THROTTLED);
                    stream.write_all(&greeting)?;
                }
                return Ok(());
            }
            if !first {
                stream.write_all(&greeting)?;
                greeting.clear();
            }
            let connection = rustls::ServerConnection::new(tls).map_err(io::Error::other)?;
            let handshake = Handshake { connection: Box::new(rustls::Connection::Server(connection)), asks };
            security = match settings.allow_non_tls {
                true => Security::Either(handshake),
                false => Security::Tls(handshake),
            };
        }
        self.clients.fetch_add(1, Relaxed);
        self.clients_total.fetch_add(1, Relaxed);
        let about = self.about(peer);
        self.hand_over(Incoming {
            stream,
            security,
            kind: LinkKind::Client,
            id,
            about,
            greeting,
            nonce,
            route: None,
        });
        Ok(())
    }

    /// Whether another handshake may begin in this second (`connection_rate_limit`).
    fn may_handshake(&self, limit: u32) -> bool {
        let second = now_nanos() / 1_000_000_000;
        let mut handshakes = self.handshakes.lock();
        if handshakes.0 != second {
            *handshakes = (second, 0);
        }
        handshakes.1 += 1;
        handshakes.1 <= limit
    }

    /// Says once a second how many connections the rate limit turned away.
    pub fn report_rate_limiting(&self) {
        let limit = self.settings().tls.as_ref().map_or(0, |tls| tls.connection_rate_limit);
        let mut handshakes = self.handshakes.lock();
        if limit > 0 && handshakes.1 > limit && handshakes.0 != now_nanos() / 1_000_000_000 {
            tracing::warn!("Rejected {} connections due to TLS rate limiting", handshakes.1 - limit);
            handshakes.1 = 0;
        }
    }

    /// What is known of a connection at its start.
    pub fn about(&self, peer: SocketAddr) -> About {
        let ip = peer.ip().to_canonical().to_string();
        About { ip, port: peer.port(), start_nanos: now_nanos(), ..About::default() }
    }

    /// Gives a connection to the worker with the fewest.
    pub fn hand_over(&self, incoming: Incoming) {
        let turn = self.turn.fetch_add(1, Relaxed);
        let count = self.loads.len();
        let least = (0..count).map(|i| (turn + i) % count).min_by_key(|i| self.loads[*i].load(Relaxed));
        let worker = least.unwrap_or(0);
        self.loads[worker].fetch_add(1, Relaxed);
        self.broker.mailboxes()[worker].post(Command::Other(Box::new(incoming)));
    }

    /// A connection of worker `worker` ended.
    pub fn connection_closed(&self, worker: usize, link: Arc<Link>, reason: CloseReason) {
        self.loads[worker].fetch_sub(1, Relaxed);
        let (messages, bytes) = link.output.counters();
        let received = &link.received;
        let gone = [received.messages.load(Relaxed), received.bytes.load(Relaxed), messages, bytes];
        for (i, count) in gone.into_iter().enumerate() {
            self.gone_traffic[i].fetch_add(count, Relaxed);
            if link.kind == LinkKind::Client {
                self.gone_client_traffic[i].fetch_add(count, Relaxed);
            }
        }
        if reason == CloseReason::StaleConnection {
            self.stale_connections.fetch_add(1, Relaxed);
        }
        match link.kind {
            LinkKind::Route => {
                tracing::info!("{} - Router connection closed: {}", link.describe(), reason.text())
            }
            _ => tracing::debug!("{} - Client connection closed: {}", link.describe(), reason.text()),
        }
        if link.kind != LinkKind::Client {
            return;
        }
        self.clients.fetch_sub(1, Relaxed);
        let account = link.about.lock().account.clone();
        if let Some(account) = self.broker.find_account(&account) {
            account.traffic[2].fetch_add(messages, Relaxed);
            account.traffic[3].fetch_add(bytes, Relaxed);
        }
        if let Some(system) = self.system.read().as_ref() {
            system.handle_closed(&link, reason);
        }
        let keep = self.settings().max_closed_clients as usize;
        let tag = self.account_tag(&account);
        let about = link.about.lock().clone();
        self.departed.lock().push(Numbers::of(&link), about, &tag, (now_nanos(), reason), keep);
    }

    /// A connection that was handed over could not be watched.
    pub fn never_opened(&self, worker: usize, kind: LinkKind) {
        self.loads[worker].fetch_sub(1, Relaxed);
        if kind == LinkKind::Client {
            self.clients.fetch_sub(1, Relaxed);
        }
    }

    /// Time for a TLS handshake.
    pub fn handshake_nanos(&self, kind: LinkKind) -> u64 {
        let settings = self.settings();
        let tls = if kind == LinkKind::Route { &settings.cluster.tls } else { &settings.tls };
        tls.as_ref().map_or(2_000_000_000, |tls| tls.timeout.as_nanos() as u64)
    }

    /// Puts another table in force, made from the one that is, and has the clients concerned checked again. `change`
    /// returns `None` to leave things as they are.
    pub fn change_table(&self, change: impl FnOnce(&accounts::Table) -> Option<(accounts::Table, Recheck)>) {
        let mut table = self.table.write();
        let Some((changed, recheck)) = change(&table) else { return };
        *table = Arc::new(changed);
        self.share(&table);
        if let Some(resolver) = self.resolver.get() {
            resolver.watch_activations(self, &table);
        }
        let settings = Arc::new(engine_settings(&self.settings(), &table));
        // under the lock: workers must hear of two tables in their order
        self.broker.broadcast(|| Command::Other(Box::new(Reconfigure(settings.clone(), recheck.clone()))));
    }

    /// Puts the mappings, exports and imports of a table in force.
    pub fn share(&self, table: &accounts::Table) {
        let system = table.system_account().and_then(|id| table.account(id));
        self.name_server(system.map_or_else(String::new, |account| account.name.to_string()));
        let mut dirty = Vec::new();
        self.broker.share(table, &mut dirty);
        for link in dirty {
            link.output.flush(&*link.transport);
        }
    }

    /// Says anew who this server is.
    fn name_server(&self, system_account: String) {
        let identity = monitor::Source::identity(self);
        let (server, cluster) = (identity.name.clone(), identity.cluster.clone());
        let now = monitor::Source::now(self);
        let text = serde_json::to_string(&monitor::events::ServerInfo::new(identity, 0, now));
        let text = text.unwrap_or_default();
        let fields = text.strip_prefix('{').and_then(|text| text.rsplit_once("\"seq\":"));
        let stamp = fields.map_or_else(String::new, |(fields, _)| fields.to_owned());
        self.broker.set_names(broker::registry::ServerNames { server, cluster, system_account, stamp });
    }

    /// Looks at the connections that ended, oldest first.
    pub fn with_departed<R>(&self, look: impl FnOnce(&Departed) -> R) -> R {
        look(&self.departed.lock())
    }
}
