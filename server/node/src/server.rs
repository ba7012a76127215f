//! A running server: started with settings, stopped by its handle.
//!
//! Owns the threads: one per worker, one for the internal clients, and one for control (listeners, monitor,
//! routes' dialling, timers).

use crate::access;
use crate::certificates::{self, Certificates};
use crate::control::{self, Order};
use crate::files::{OwnFile, Ports};
use crate::identity::{API_LEVEL, COMPATIBLE_VERSION};
use crate::internal_thread;
use crate::ocsp::Peers;
use crate::resolver::{self, Resolver};
use crate::routes;
use crate::shared::{BoundPorts, Shared};
use crate::surplus;
use crate::tls;
use crate::worker_thread::{Stop, WorkerThread, now_nanos, prepare, wall_nanos};
use broker::Broker;
use broker::mailbox::Command;
use client::Policy;
use config::Settings;
use config::address::Port;
use engine::{Recheck, Worker};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// Connections that may wait to be accepted: enough for a storm of reconnecting clients.
const BACKLOG: i32 = 4096;
/// Between the random sequences of two workers.
const SEED_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be listened on.
    #[error("cannot listen for {what} on {address}: {error}")]
    Listen {
        /// Clients, routes or monitoring.
        what: &'static str,
        /// Host and port as configured.
        address: String,
        /// The system's reason.
        error: io::Error,
    },
    /// The system refuses threads, polls or files.
    #[error("{0}")]
    System(#[from] io::Error),
    /// TLS cannot be offered.
    #[error("{0}")]
    Tls(#[from] tls::Error),
    /// The cluster's settings cannot be used.
    #[error("{0}")]
    Cluster(#[from] cluster::Error),
    /// The accounts cannot be built, or use what is not there yet.
    #[error("{0}")]
    Access(#[from] access::Error),
    /// Account tokens cannot be had.
    #[error("{0}")]
    Resolver(#[from] resolver::Error),
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    orders: UnboundedSender<Order>,
    control: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    internal: Option<JoinHandle<()>>,
    files: Vec<OwnFile>,
}

/// Puts other settings in force in a running server.
#[derive(Clone)]
pub struct Reloader {
    shared: Weak<Shared>,
    orders: UnboundedSender<Order>,
}

impl Reloader {
    /// Remembers the digest that `/varz` shows for the configuration file.
    pub fn set_config_digest(&self, digest: &str) {
        if let Some(shared) = self.shared.upgrade() {
            *shared.config_digest.write() = digest.into();
        }
    }

    /// [`Server::reload`]. Nothing happens when the server has ended.
    ///
    /// # Errors
    /// A certificate cannot be read or the accounts cannot be built: nothing changed.
    pub fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let resolver = Resolver::open(&settings)?;
        let previous = shared.table.read().clone();
        let table = access::table(&settings, Some(&previous), resolver.as_ref(), wall_nanos())?;
        let certificates = Certificates::reread(&settings, &shared.peers)?;
        warn_of_insecure_routes(&settings);
        let settings = Arc::new(settings);
        *shared.certificates.write() = certificates;
        shared.peers.configure(&settings);
        shared.broker.pending_bytes_max.store(settings.limits.max_pending as usize, Relaxed);
        shared.broker.stalls_publishers.store(!settings.no_fast_producer_stall, Relaxed);
        for account in &settings.accounts {
            shared.broker.account(&account.name);
        }
        if let (Some(resolver), Some(current)) = (resolver, shared.resolver.get()) {
            current.reopen(resolver);
        }
        shared.set_settings(settings.clone());
        shared.change_table(|_| Some((table, Recheck::All)));
        set_info(&shared, &settings);
        certificates::close_unpinned(&shared);
        surplus::close(&shared);
        shared.set_system(&monitor::Source::system_account(&*shared), seed());
        let _ = self.orders.send(Order::Reconfigured);
        Ok(())
    }
}

/// The listeners, bound before any thread starts, so that a taken port is an error of the start.
pub(crate) struct Listeners {
    pub client: TcpListener,
    pub cluster: Option<TcpListener>,
    pub monitor: Option<TcpListener>,
}

impl Server {
    /// Starts listening and serving. Log lines go to the process's `tracing` subscriber.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(settings: Settings) -> Result<Server, StartError> {
        let peers = Arc::new(Peers::default());
        let certificates = Certificates::read(&settings, &peers)?;
        warn_of_insecure_routes(&settings);
        let resolver = Resolver::open(&settings)?;
        let table = access::table(&settings, None, resolver.as_ref(), wall_nanos())?;
        let table = Arc::new(table);
        let settings = Arc::new(settings);
        let count = settings.starling.worker_threads.map(usize::from);
        let count = count.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let listeners = bind(&settings)?;
        let mut polls = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..count {
            let (poll, mailbox) = prepare()?;
            polls.push(poll);
            mailboxes.push(mailbox);
        }
        let seed = seed();
        let broker = Broker::new(mailboxes, seed);
        broker.pending_bytes_max.store(settings.limits.max_pending as usize, Relaxed);
        broker.stalls_publishers.store(!settings.no_fast_producer_stall, Relaxed);
        broker.account(broker::registry::GLOBAL_ACCOUNT);
        if let Some(account) = table.system_account().and_then(|id| table.account(id)) {
            broker.account(&account.name);
        }
        for account in &settings.accounts {
            broker.account(&account.name);
        }
        let shared = Arc::new(Shared::new(broker, settings.clone(), peers, seed));
        shared.peers.tell_through(Arc::downgrade(&shared));
        shared.peers.configure(&settings);
        *shared.certificates.write() = certificates;
        *shared.table.write() = table.clone();
        if let Some(resolver) = resolver {
            let _ = shared.resolver.set(resolver);
        }
        resolver::spawn(&shared)?;
        shared.share(&table);
        shared.set_ports(ports_of(&listeners));
        set_info(&shared, &settings);
        let edge = match listeners.cluster {
            Some(_) => Some(routes::Edge::new(&shared, &settings)?),
            None => None,
        };
        let mut workers = Vec::new();
        for (number, poll) in polls.into_iter().enumerate() {
            let shared = shared.clone();
            let engine_settings = Arc::new(engine_settings(&settings, &table));
            let name = format!("worker-{number}");
            let hub = edge.as_ref().map(|edge| edge.hub.clone());
            workers.push(std::thread::Builder::new().name(name).spawn(move || {
                let seed = seed.wrapping_add((number as u64 + 1).wrapping_mul(SEED_STEP));
                let mut worker = Worker::new(number, shared.broker.clone(), engine_settings, seed);
                worker.inform(shared.info());
                if let Some(hub) = hub {
                    worker.join(hub);
                }
                if let Err(error) = WorkerThread::new(poll, number, shared, worker).run() {
                    tracing::error!("worker {number} cannot go on: {error}");
                    std::process::abort();
                }
            })?);
        }
        let mut files = Vec::new();
        if let Some(path) = &settings.pid_file {
            files.push(OwnFile::pid(path)?);
        }
        if let Some(directory) = &settings.ports_file_dir {
            files.push(OwnFile::ports(directory, &urls(&shared))?);
        }
        shared.set_system(&monitor::Source::system_account(&*shared), seed);
        let internal = Some(internal_thread::spawn(shared.internal.clone(), shared.bell.clone())?);
        let (orders, control) = control::spawn(shared.clone(), listeners, edge)?;
        Ok(Server { shared, orders, control: Some(control), workers, internal, files })
    }

    /// Whether a server could start with these accounts: what contradicts itself or is not supported is an error.
    /// Opens nothing. In operator mode accounts come by token and are judged when they do.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn check(settings: &Settings) -> Result<(), StartError> {
        let trust = &settings.trust;
        if trust.operators.is_empty() && trust.trusted_keys.is_empty() {
            access::table(settings, None, None, now_nanos())?;
        }
        Ok(())
    }

    /// What monitoring sees.
    pub fn monitor(&self) -> Arc<dyn monitor::Source> {
        self.shared.clone()
    }

    /// `nats://host:port` for clients on this machine.
    pub fn client_url(&self) -> String {
        let host = self.shared.settings().host.clone();
        format!("nats://{}:{}", reachable(&host), self.shared.ports().client)
    }

    /// `http://host:port` of the monitor, if there is one.
    pub fn monitor_url(&self) -> Option<String> {
        let host = self.shared.settings().http_host().to_owned();
        self.shared.ports().monitor.map(|port| format!("http://{}:{port}", reachable(&host)))
    }

    /// Remembers the digest that `/varz` shows for the configuration file.
    pub fn set_config_digest(&self, digest: &str) {
        *self.shared.config_digest.write() = digest.into();
    }

    /// Puts other settings in force. The caller checked that they may change (`config::diff`).
    ///
    /// # Errors
    /// A certificate cannot be read or the accounts cannot be built: nothing changed.
    pub fn reload(&self, settings: Settings) -> Result<(), StartError> {
        self.reloader().reload(settings)
    }

    /// What puts other settings in force, for a place that does not have the server.
    pub fn reloader(&self) -> Reloader {
        Reloader { shared: Arc::downgrade(&self.shared), orders: self.orders.clone() }
    }

    /// Who reads the configuration again when a request in the system account asks for it
    /// (`$SYS.REQ.SERVER.<id>.RELOAD`): returns a line for each change, or why nothing changed. Called from a thread
    /// of the server's. It must not hold the server itself, but may hold a [`Reloader`].
    pub fn on_reload_request(
        &self,
        reload: impl Fn() -> Result<Vec<String>, String> + Send + Sync + 'static,
    ) {
        self.shared.set_reloader(Arc::new(reload));
    }

    /// Enters lame duck mode: clients are told, new ones refused, the rest closed over the configured time;
    /// then the server stops by itself.
    pub fn lame_duck(&self) {
        let _ = self.orders.send(Order::LameDuck);
    }

    /// Asks the server to stop. [`wait`](Self::wait) returns when it did.
    pub fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    /// Notified once when the server stops by itself, at the end of lame duck mode.
    pub fn stopped(&self) -> Arc<Notify> {
        self.shared.stopped.clone()
    }

    /// Waits until the server stopped.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(control) = self.control.take() {
            let _ = control.join();
            self.shared.broker.broadcast(|| Command::Other(Box::new(Stop)));
            for worker in self.workers.drain(..) {
                let _ = worker.join();
            }
            self.shared.end_system();
            self.shared.bell.stop();
            if let Some(internal) = self.internal.take() {
                let _ = internal.join();
            }
            self.files.clear();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

fn warn_of_insecure_routes(settings: &Settings) {
    if settings.cluster.tls.as_ref().is_some_and(|tls| tls.insecure) {
        tracing::warn!(
            "TLS certificate chain and hostname of solicited routes will not be verified. DO NOT USE IN PRODUCTION!"
        );
    }
}

/// Unpredictable to clients, for hashes and choices.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() ^ now_nanos()
}

/// An address that a client on this machine can use for a listener on `host`.
fn reachable(host: &str) -> String {
    match host {
        "" | "0.0.0.0" | "::" => "127.0.0.1".into(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.into(),
    }
}

fn bind(settings: &Settings) -> Result<Listeners, StartError> {
    let client = listen("clients", &settings.host, settings.port)?;
    let cluster = match settings.cluster.port {
        Some(port) => Some(listen("routes", &settings.cluster.host, port)?),
        None => None,
    };
    let monitoring = &settings.monitoring;
    let monitor = match monitoring.https_port.or(monitoring.http_port) {
        Some(port) => Some(listen("monitoring", settings.http_host(), port)?),
        None => None,
    };
    Ok(Listeners { client, cluster, monitor })
}

fn listen(what: &'static str, host: &str, port: Port) -> Result<TcpListener, StartError> {
    let address = config::address::join_host_port(host, port.written());
    let fail = |error| StartError::Listen { what, address: address.clone(), error };
    listen_on(host, port.to_bind()).map_err(fail)
}

fn listen_on(host: &str, port: u16) -> io::Result<TcpListener> {
    use std::net::ToSocketAddrs;
    // as Go does, all interfaces of both families for the wildcard, if the machine has IPv6
    let wildcard = matches!(host, "" | "0.0.0.0" | "::");
    if wildcard
        && let Ok(listener) =
            listen_at("[::]:0".parse().map(|a| with_port(a, port)).map_err(io::Error::other)?)
    {
        return Ok(listener);
    }
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match listen_at(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // what is accepted inherits it: a system call less for each connection
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn ports_of(listeners: &Listeners) -> BoundPorts {
    let port = |listener: &TcpListener| listener.local_addr().map_or(0, |address| address.port());
    BoundPorts {
        client: port(&listeners.client),
        cluster: listeners.cluster.as_ref().map(port),
        monitor: listeners.monitor.as_ref().map(port),
    }
}

/// URLs of the listeners for the ports file: every address of the machine for a wildcard host.
fn urls(shared: &Shared) -> Ports {
    let settings = shared.settings();
    let ports = shared.ports();
    let list = |scheme: &str, host: &str, port: Option<u16>| -> Vec<String> {
        port.into_iter().map(|port| format!("{scheme}://{}:{port}", reachable(host))).collect()
    };
    let scheme = if settings.monitoring.https_port.is_some() { "https" } else { "http" };
    Ports {
        nats: list("nats", &settings.host, Some(ports.client)),
        monitoring: list(scheme, settings.http_host(), ports.monitor),
        cluster: list("nats", &settings.cluster.host, ports.cluster),
    }
}

/// What the workers need of the settings.
pub(crate) fn engine_settings(settings: &Settings, table: &Arc<accounts::Table>) -> engine::Settings {
    let limits = &settings.limits;
    let system = table.system_account().and_then(|id| table.account(id));
    engine::Settings {
        client: Policy {
            limits: wire::client::Limits {
                control_line_bytes_max: limits.max_control_line as usize,
                payload_bytes_max: Some(limits.max_payload as usize),
            },
            subscriptions_max: limits.max_subscriptions.unwrap_or(0) as usize,
            subject_tokens_max: usize::from(limits.max_sub_tokens.unwrap_or(0)),
            headers: !settings.no_header_support,
            ping_interval_nanos: settings.ping_interval.as_nanos() as u64,
            pings_out_max: settings.ping_max,
            auth_timeout_nanos: settings.auth_timeout().as_nanos() as u64,
            table: table.clone(),
            system_account: system.map_or_else(String::new, |account| account.name.to_string()),
            write_deadline_nanos: settings.write_deadline.as_nanos() as u64,
            lines: (settings.logging.trace || settings.logging.trace_verbose).then_some(wire::lines::Lines {
                payload_bytes_max: settings.logging.max_traced_msg_len as usize,
                headers_only: settings.logging.trace_headers,
            }),
        },
    }
}

/// Everything of INFO that the settings say; cluster and addresses are the mesh's.
fn set_info(shared: &Shared, settings: &Settings) {
    let (host, port) = advertised(settings, shared.ports().client);
    let tls = settings.tls.as_ref();
    shared.update_info(|info| {
        info.server_id = shared.server_id.clone();
        info.server_name = shared.server_name.clone();
        info.version = COMPATIBLE_VERSION.into();
        info.proto = 1;
        info.go = format!("rust-starling-{}", env!("CARGO_PKG_VERSION"));
        (info.host, info.port) = (host, port);
        info.headers = !settings.no_header_support;
        info.auth_required = shared.table.read().auth_required_in_info();
        info.max_payload = i64::from(settings.limits.max_payload);
        info.tls_required = tls.is_some() && !settings.allow_non_tls;
        info.tls_available = tls.is_some() && settings.allow_non_tls;
        info.tls_verify = tls.is_some_and(|tls| tls.verify);
        info.api_lvl = API_LEVEL;
        info.xkey = shared.asker.xkey();
        if shared.ports().cluster.is_none() {
            info.cluster = settings.cluster.name.clone().unwrap_or_default();
        }
    });
}

/// Host and port that INFO states: `client_advertise`, else the listener's.
pub(crate) fn advertised(settings: &Settings, port: u16) -> (String, u16) {
    let advertise = settings.client_advertise.as_deref();
    // what cannot be read was refused when the settings were checked
    advertise
        .and_then(|text| config::address::parse_advertise(text, port).ok())
        .unwrap_or_else(|| (settings.host.clone(), port))
}
