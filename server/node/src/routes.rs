//! The mesh's outside: sockets to dial, names to resolve, clients and logs to be told.
//!
//! Owns no membership: what to do comes from `cluster::Mesh` through the hub, and answers go back there.

use crate::identity::{COMPATIBLE_VERSION, STARLING_VERSION};
use crate::server::{StartError, advertised};
use crate::shared::Shared;
use crate::socket::{Handshake, Security};
use crate::tls;
use crate::worker_thread::{Incoming, now_nanos};
use broker::LinkKind;
use cluster::{DialId, Effect, Identity, LogLevel, Mesh, RouteUrl};
use config::Settings;
use config::address::join_host_port;
use engine::{Hub, Outside, RouteOpening};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A route that does not answer within this time is tried again later (nats-server `DEFAULT_ROUTE_DIAL`).
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The moment as the mesh counts time.
pub fn now() -> Duration {
    Duration::from_nanos(now_nanos())
}

/// What carries out the mesh's effects.
pub struct Edge {
    /// The mesh.
    pub hub: Arc<Hub>,
    effects: UnboundedReceiver<Effect>,
    used: Arc<Notify>,
}

struct Queue {
    effects: UnboundedSender<Effect>,
    used: Arc<Notify>,
}

impl Outside for Queue {
    fn effect(&self, effect: Effect) {
        // the receiver is gone only when the server stops
        let _ = self.effects.send(effect);
    }
    fn used(&self) {
        self.used.notify_one();
    }
}

impl Edge {
    /// A mesh of one.
    ///
    /// # Errors
    /// The TLS files of the cluster cannot be read, or its permissions hold what is no subject.
    pub fn new(shared: &Arc<Shared>, settings: &Settings) -> Result<Edge, StartError> {
        let (sender, effects) = unbounded_channel();
        let used = Arc::new(Notify::new());
        let random = Box::new(rand::rand_core::UnwrapErr(rand::rngs::SysRng));
        let mesh = Mesh::with_random(mesh_settings(shared, settings), identity(shared, settings), random);
        let name = mesh.cluster_name().to_owned();
        // as nats-server: clients are told of servers once there is another one; from then on always
        shared.update_info(|info| info.cluster = name);
        let outside = Box::new(Queue { effects: sender, used: used.clone() });
        let hub = Hub::new(shared.broker.clone(), mesh, outside)
            .map_err(|error| tls::Error::Refused(error.to_string()))?;
        let hub = Arc::new(hub);
        let _ = shared.hub.set(hub.clone());
        Ok(Edge { hub, effects, used })
    }

    /// Serves the mesh until the server stops.
    pub async fn run(mut self, shared: Arc<Shared>) {
        self.hub.with(|mesh| mesh.start(now()));
        loop {
            let timeout = self.hub.with_quietly(|mesh| mesh.next_timeout());
            let wait = timeout.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now()));
            tokio::select! {
                effect = self.effects.recv() => match effect {
                    Some(effect) => self.perform(effect, &shared),
                    None => return,
                },
                () = self.used.notified() => {}
                () = tokio::time::sleep(wait) => self.hub.with(|mesh| mesh.handle_timeout(now())),
            }
        }
    }

    fn perform(&self, effect: Effect, shared: &Arc<Shared>) {
        match effect {
            Effect::Dial { dial, address, tls_name } => {
                tokio::spawn(connect(shared.clone(), self.hub.clone(), dial, address, tls_name));
            }
            Effect::Resolve { name } => {
                tokio::spawn(resolve(self.hub.clone(), name));
            }
            Effect::ClientUrls { connect_urls, lame_duck, .. } => shared.update_info(|info| {
                info.connect_urls =
                    if shared.settings().cluster.no_advertise { Vec::new() } else { connect_urls };
                info.lame_duck_mode = lame_duck;
            }),
            Effect::ClusterName(name) => {
                tracing::info!("Cluster name updated to {name}");
                shared.update_info(|info| info.cluster = name);
            }
            Effect::PeerJoined { server_name, .. } => {
                tracing::debug!("server {server_name} joined");
                if let Some(system) = shared.system() {
                    system.handle_peer_joined();
                }
            }
            Effect::PeerLeft { server_name, server_id } => {
                tracing::debug!("server {server_name} left");
                if let Some(system) = shared.system() {
                    system.handle_peer_left(server_id);
                }
            }
            Effect::Log { connection, level, text } => {
                let of = connection.map(|c| format!("rid:{} - ", c.0)).unwrap_or_default();
                match level {
                    LogLevel::Error => tracing::error!("{of}{text}"),
                    LogLevel::Warning => tracing::warn!("{of}{text}"),
                    LogLevel::Info => tracing::info!("{of}{text}"),
                    LogLevel::Debug => tracing::debug!("{of}{text}"),
                }
            }
            // the hub did these itself
            Effect::Send { .. }
            | Effect::Compress { .. }
            | Effect::PeerReady { .. }
            | Effect::PeerPermissions { .. }
            | Effect::Close { .. } => {}
        }
    }
}

/// Opens a route.
async fn connect(
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    dial: DialId,
    address: SocketAddr,
    tls_name: Option<String>,
) {
    let connecting = tokio::time::timeout(DIAL_TIMEOUT, tokio::net::TcpStream::connect(address));
    let stream = match connecting.await {
        Ok(Ok(stream)) => stream.into_std().map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within a second".to_owned()),
    };
    let secured = stream.and_then(|stream| {
        let client = shared.certificates.read().route_client.clone();
        let security = match client {
            None => Security::Plain,
            Some(tls) => {
                let name = tls_name.unwrap_or_else(|| address.ip().to_string());
                let name = name.try_into().map_err(|_| "its host is no valid TLS name".to_owned())?;
                let connection =
                    rustls::ClientConnection::new(tls, name).map_err(|error| error.to_string())?;
                let connection = Box::new(rustls::Connection::Client(connection));
                Security::Tls(Handshake { connection, asks: false })
            }
        };
        Ok((stream, security))
    });
    match secured {
        Ok((stream, security)) => {
            hand_over(&shared, stream, address, security, RouteOpening::Dialed { dial })
        }
        Err(error) => hub.with(|mesh| mesh.handle_dial_failed(dial, &error, now())),
    }
}

async fn resolve(hub: Arc<Hub>, name: String) {
    let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0)));
    let result = match lookup.await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect::<Vec<IpAddr>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 5 seconds".to_owned()),
    };
    let result = result.as_deref().map_err(String::as_str);
    hub.with(|mesh| mesh.handle_resolved(&name, result, now()));
}

/// Accepts routes.
pub async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let security = {
                    let certificates = shared.certificates.read();
                    let asks = certificates.asks_about_routes;
                    match certificates.route_server.clone() {
                        None => Ok(Security::Plain),
                        Some(tls) => rustls::ServerConnection::new(tls).map(|connection| {
                            let connection = Box::new(rustls::Connection::Server(connection));
                            Security::Tls(Handshake { connection, asks })
                        }),
                    }
                };
                match (stream.into_std(), security) {
                    (Ok(stream), Ok(security)) => {
                        hand_over(&shared, stream, remote, security, RouteOpening::Accepted { remote });
                    }
                    (Err(error), _) => tracing::error!("cannot take a route connection over: {error}"),
                    (_, Err(error)) => tracing::error!("cannot begin TLS with a route: {error}"),
                }
            }
            Err(error) => {
                tracing::error!("cannot accept route connections: {error}; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn hand_over(
    shared: &Shared,
    stream: TcpStream,
    remote: SocketAddr,
    security: Security,
    opening: RouteOpening,
) {
    let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
    if let Err(error) = ready {
        tracing::error!("cannot take a route connection over: {error}");
        return;
    }
    let id = shared.broker.next_id();
    let mut about = shared.about(remote);
    about.solicited = matches!(opening, RouteOpening::Dialed { .. });
    let (kind, greeting, nonce) = (LinkKind::Route, Vec::new(), String::new());
    shared.hand_over(Incoming { stream, security, kind, id, about, greeting, nonce, route: Some(opening) });
}

/// Takes over what may change of the cluster's settings while it runs.
pub fn reconfigure(hub: &Hub, shared: &Shared) {
    let settings = &shared.settings();
    let port = hub.with_quietly(|mesh| mesh.route_port());
    if let Err(error) = hub.reconfigure(mesh_settings(shared, settings), advertise(settings, port), now()) {
        tracing::error!("the changed cluster settings are not taken over: {error}");
    }
}

fn mesh_settings(shared: &Shared, settings: &Settings) -> cluster::Settings {
    let cluster = &settings.cluster;
    let system = Some(monitor::Source::system_account(shared)).filter(|name| !name.is_empty());
    let routes = cluster.routes.iter().filter_map(|url| {
        let user = url.username.clone().map(|user| (user, url.password.clone().unwrap_or_default()));
        Some(RouteUrl { host: url.host.to_ascii_lowercase(), port: url.port?, user })
    });
    // where certificates say who a route is, passwords are not looked at
    let named = |tls: &config::tls::Tls| tls.verify_and_map || tls.verify_cert_and_check_known_urls;
    let by_password = !cluster.tls.as_ref().is_some_and(named);
    let user = cluster.username.clone().filter(|_| by_password);
    let authorization = user.map(|user| cluster::Authorization {
        user,
        password: cluster.password.clone().unwrap_or_default(),
        verify: |configured, shown| accounts::Secret::new(configured).matches(shown),
    });
    cluster::Settings {
        cluster_name: cluster.name.clone(),
        routes: routes.collect(),
        pool_size: cluster.pool_size as usize,
        pinned_accounts: settings.pinned_accounts(system.as_deref()).into_iter().map(str::to_owned).collect(),
        authorization,
        auth_timeout: cluster.auth_timeout(),
        permissions: permissions(cluster.permissions.as_ref()),
        no_advertise: cluster.no_advertise,
        connect_retries: cluster.connect_retries,
        connect_backoff: cluster.connect_backoff,
        ping_interval: cluster.ping_interval.unwrap_or(settings.ping_interval),
        pings_out_max: cluster.ping_max.unwrap_or(settings.ping_max),
        connect_error_reports: settings.connect_error_reports,
        reconnect_error_reports: settings.reconnect_error_reports,
        tls_required: cluster.tls.is_some(),
        compression: compression(&cluster.compression),
        ..cluster::Settings::default()
    }
}

fn compression(configured: &config::cluster::Compression) -> cluster::Compression {
    use cluster::Level;
    use config::cluster::Compression as Configured;
    match configured {
        Configured::NotSupported => cluster::Compression::NotSupported,
        Configured::Off => cluster::Compression::Off,
        Configured::Accept => cluster::Compression::Accept,
        Configured::S2Auto(thresholds) => cluster::Compression::Auto(thresholds.clone()),
        Configured::S2Fast => cluster::Compression::At(Level::Fast),
        Configured::S2Better => cluster::Compression::At(Level::Better),
        Configured::S2Best => cluster::Compression::At(Level::Best),
    }
}

/// `import` is what peers are told of our interest, `export` what is taken of theirs.
fn permissions(written: Option<&config::permissions::Permissions>) -> cluster::Permissions {
    let list = |lists: &Option<config::permissions::SubjectPermission>| {
        lists.as_ref().map(|lists| wire::route::SubjectPermission {
            allow: lists.allow.clone().unwrap_or_default(),
            deny: lists.deny.clone(),
        })
    };
    written.map_or_else(cluster::Permissions::default, |written| cluster::Permissions {
        import: list(&written.publish),
        export: list(&written.subscribe),
    })
}

fn identity(shared: &Shared, settings: &Settings) -> Identity {
    let ports = shared.ports();
    let port = ports.cluster.unwrap_or(0);
    let info = shared.info();
    Identity {
        server_id: shared.server_id.clone(),
        server_name: shared.server_name.clone(),
        version: COMPATIBLE_VERSION.into(),
        starling_version: STARLING_VERSION.into(),
        git_commit: String::new(),
        go: info.go.clone(),
        headers: info.headers,
        max_payload: info.max_payload,
        jetstream: false,
        domain: String::new(),
        host: settings.cluster.host.clone(),
        port,
        advertise: advertise(settings, port),
        connect_urls: connect_urls(settings, ports.client),
        ws_connect_urls: Vec::new(),
        own_addresses: interfaces().into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
    }
}

/// `cluster { advertise }`: where other servers are told to find this one.
fn advertise(settings: &Settings, port: u16) -> Option<(String, u16)> {
    let text = settings.cluster.advertise.as_deref()?;
    config::address::parse_advertise(text, port).ok()
}

/// `host:port` that clients can use for this server: the advertised one, the configured host, or every address
/// of the machine but loopback ones (nats-server `getClientConnectURLs`).
fn connect_urls(settings: &Settings, port: u16) -> Vec<String> {
    let (host, port) = advertised(settings, port);
    if !matches!(host.as_str(), "" | "0.0.0.0" | "::") {
        return vec![join_host_port(&host, i64::from(port))];
    }
    let outside = interfaces().into_iter().filter(|ip| !ip.is_loopback() && !is_link_local(ip));
    outside.map(|ip| join_host_port(&ip.to_string(), i64::from(port))).collect()
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn interfaces() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.into_iter().map(|interface| interface.ip()).collect(),
        Err(error) => {
            tracing::warn!("cannot list the machine's addresses, clients will not be told any: {error}");
            Vec::new()
        }
    }
}
