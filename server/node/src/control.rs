//! The control thread: listeners, the monitor, the mesh's outside, lame duck mode and the end.
//!
//! Owns a single-threaded tokio runtime. Nothing here is on the path of a message.

use crate::certificates;
use crate::http;
use crate::proxy;
use crate::routes;
use crate::server::Listeners;
use crate::shared::Shared;
use crate::socket;
use crate::worker_thread::CloseClients;
use broker::CloseReason;
use broker::mailbox::Command;
use engine::Hub;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle as Task;

/// Something asked of a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Settings changed.
    Reconfigured,
    /// Leave slowly.
    LameDuck,
    /// Leave now.
    Stop,
}

/// Time for the last bytes to be written before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Time for the event of the server's end to be on its way.
const EVENT_TIME: Duration = Duration::from_millis(10);
/// Connections whose PROXY header is waited for at a time; further ones wait to be accepted.
const PROXY_HEADERS_MAX: usize = 4096;
/// How often lame duck mode looks whether clients are left.
const LOOK_AT_CLIENTS: Duration = Duration::from_millis(50);
/// How long the end of lame duck mode waits for whoever asked for it to order the stop.
const LINGER: Duration = Duration::from_millis(400);
/// Steps in which lame duck mode closes clients, at most.
const LAME_DUCK_STEP: Duration = Duration::from_millis(20);

pub(crate) fn spawn(
    shared: Arc<Shared>,
    listeners: Listeners,
    edge: Option<routes::Edge>,
) -> io::Result<(UnboundedSender<Order>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (orders, received) = unbounded_channel();
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        if let Err(error) = runtime.block_on(run(shared, listeners, edge, received)) {
            tracing::error!("the server cannot go on: {error}");
        }
    })?;
    Ok((orders, thread))
}

async fn run(
    shared: Arc<Shared>,
    listeners: Listeners,
    edge: Option<routes::Edge>,
    mut orders: UnboundedReceiver<Order>,
) -> io::Result<()> {
    let client = TcpListener::from_std(listeners.client)?;
    tracing::info!(
        "Listening for client connections on {}",
        listening(&shared.settings().host, shared.ports().client)
    );
    let accepting = tokio::spawn(accept_clients(shared.clone(), client));
    if let Some(monitor) = listeners.monitor {
        let settings = shared.settings();
        let scheme = if shared.certificates.read().monitor.is_some() { "https" } else { "http" };
        let port = shared.ports().monitor.unwrap_or(0);
        tracing::info!("Starting {scheme} monitor on {}", listening(settings.http_host(), port));
        let listener = TcpListener::from_std(monitor)?;
        tokio::spawn(http::serve(listener, settings.http_base_path(), shared.clone(), monitor_tls(&shared)));
    }
    let hub = edge.as_ref().map(|edge| edge.hub.clone());
    if let (Some(edge), Some(listener)) = (edge, listeners.cluster) {
        let settings = shared.settings();
        let port = shared.ports().cluster.unwrap_or(0);
        tracing::info!("Listening for route connections on {}", listening(&settings.cluster.host, port));
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(routes::accept(shared.clone(), listener));
        tokio::spawn(edge.run(shared.clone()));
    }
    tokio::spawn(certificates::watch(Arc::downgrade(&shared)));
    shared.is_ready.store(true, Release);
    tracing::info!("Server is ready");
    while let Some(order) = orders.recv().await {
        match order {
            Order::Reconfigured => {
                if let Some(hub) = &hub {
                    routes::reconfigure(hub, &shared.settings());
                }
            }
            Order::LameDuck => {
                if shared.enter_lame_duck() {
                    leave_slowly(&shared, hub.as_deref(), &accepting, &mut orders).await;
                    break;
                }
            }
            Order::Stop => break,
        }
    }
    shared.is_ready.store(false, Release);
    accepting.abort();
    if let Some(system) = shared.system() {
        system.tell_shutdown();
        tokio::time::sleep(EVENT_TIME).await;
    }
    if let Some(hub) = &hub {
        hub.with(|mesh| mesh.stop());
    }
    close_clients(&shared, usize::MAX);
    tokio::time::sleep(LAST_WORDS).await;
    shared.stopped.notify_one();
    Ok(())
}

/// The monitor's TLS as it is when a connection comes.
fn monitor_tls(shared: &Arc<Shared>) -> http::Tls {
    let shared = shared.clone();
    Box::new(move || shared.certificates.read().monitor.clone())
}

/// `host:port` as log lines show it.
fn listening(host: &str, port: u16) -> String {
    config::address::join_host_port(host, i64::from(port))
}

/// Reads who is behind a load balancer, then takes the client in.
async fn admit_proxied(shared: &Arc<Shared>, mut stream: TcpStream, proxy: SocketAddr) {
    let peer = match proxy::read(&mut stream).await {
        Ok(client) => client.unwrap_or(proxy),
        Err(error) => {
            return tracing::warn!("Error reading PROXY protocol header from {proxy}: {error}");
        }
    };
    let begins = match shared.handshake_first_wait() {
        None => false,
        Some(wait) => begins_handshake(&stream, wait).await,
    };
    admit(shared, stream, peer, begins);
}

async fn accept_clients(shared: Arc<Shared>, listener: TcpListener) {
    let headers = Arc::new(Semaphore::new(PROXY_HEADERS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if shared.settings().proxy_protocol => {
                let Ok(permit) = headers.clone().acquire_owned().await else { return };
                let shared = shared.clone();
                tokio::spawn(async move {
                    admit_proxied(&shared, stream, peer).await;
                    drop(permit);
                });
            }
            Ok((stream, peer)) => match shared.handshake_first_wait() {
                None => admit(&shared, stream, peer, false),
                Some(wait) => {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let begins = begins_handshake(&stream, wait).await;
                        admit(&shared, stream, peer, begins);
                    });
                }
            },
            Err(error) => {
                // out of file descriptors, most likely: waiting lets some close
                tracing::error!("cannot accept client connections: {error}; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(shared: &Shared, stream: TcpStream, peer: SocketAddr, begins_handshake: bool) {
    match stream.into_std() {
        Ok(stream) => shared.admit_client(stream, peer, begins_handshake),
        Err(error) => tracing::error!("cannot take a client connection over: {error}"),
    }
}

/// `handshake_first: auto`: whether the client begins with TLS within this time, instead of waiting for INFO.
async fn begins_handshake(stream: &TcpStream, wait: Duration) -> bool {
    let mut first = [0];
    let peeked = tokio::time::timeout(wait, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first[0] == socket::TLS_HANDSHAKE_RECORD
}

fn close_clients(shared: &Shared, count: usize) {
    let each = count.div_ceil(shared.broker.mailboxes().len());
    shared.broker.broadcast(|| Command::Other(Box::new(CloseClients(each, CloseReason::ServerShutdown))));
}

/// Lame duck mode: no new clients, the others are told and then closed one by one over the configured time, so
/// that they do not fall upon the rest of the cluster together.
async fn leave_slowly(
    shared: &Arc<Shared>,
    hub: Option<&Hub>,
    accepting: &Task<()>,
    orders: &mut UnboundedReceiver<Order>,
) {
    let settings = shared.settings();
    let grace = settings.lame_duck_grace_period;
    tracing::info!("Entering lame duck mode, stop accepting new clients");
    accepting.abort();
    if let Some(system) = shared.system() {
        system.tell_lame_duck();
    }
    match hub {
        // tells the peers, and the clients through the addresses that change
        Some(hub) => hub.with(|mesh| mesh.begin_lame_duck(routes::now())),
        None => shared.update_info(|info| info.lame_duck_mode = true),
    }
    if stopped_or_empty_within(shared, orders, grace).await {
        return;
    }
    let clients = shared.clients.load(Relaxed);
    if clients > 0 {
        let time = settings.lame_duck_duration.saturating_sub(grace);
        tracing::info!("Closing existing clients over {}s", time.as_secs());
        let steps = (time.as_millis() / LAME_DUCK_STEP.as_millis()).max(1) as usize;
        let pause = time / clients.min(steps) as u32;
        while shared.clients.load(Relaxed) > 0 {
            close_clients(shared, clients.div_ceil(steps));
            if stopped_or_empty_within(shared, orders, pause).await {
                return;
            }
        }
    }
    // `drain --wait` sees that the clients are gone and ends before its container does
    if stopped_within(orders, LINGER).await {
        return;
    }
    tracing::info!("Initiating Shutdown...");
}

/// Waits until the last client is gone, but no longer than `time`; `true` when a stop was ordered meanwhile.
async fn stopped_or_empty_within(
    shared: &Shared,
    orders: &mut UnboundedReceiver<Order>,
    time: Duration,
) -> bool {
    let deadline = tokio::time::Instant::now() + time;
    while shared.clients.load(Relaxed) > 0 && tokio::time::Instant::now() < deadline {
        if stopped_within(orders, LOOK_AT_CLIENTS).await {
            return true;
        }
    }
    false
}

/// Waits; `true` when a stop was ordered meanwhile.
async fn stopped_within(orders: &mut UnboundedReceiver<Order>, time: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + time;
    loop {
        match tokio::time::timeout_at(deadline, orders.recv()).await {
            Err(_) => return false,
            Ok(Some(Order::Stop) | None) => return true,
            Ok(Some(_)) => {}
        }
    }
}
