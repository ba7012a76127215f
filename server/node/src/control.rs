//! The control thread: the listeners but for the clients', the monitor, the mesh's outside, lame duck mode and the end.
//!
//! Owns a single-threaded tokio runtime. Nothing here is on the path of a message.

use crate::certificates;
use crate::http;
use crate::listener::Accepting;
use crate::memory;
use crate::ocsp::{peers, staples};
use crate::routes;
use crate::server::Listeners;
use crate::shared::Shared;
use crate::worker_thread::CloseClients;
use broker::CloseReason;
use broker::mailbox::Command;
use engine::Hub;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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
    let own = orders.clone();
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        if let Err(error) = runtime.block_on(run(shared, listeners, edge, own, received)) {
            tracing::error!("the server cannot go on: {error}");
        }
    })?;
    Ok((orders, thread))
}

async fn run(
    shared: Arc<Shared>,
    listeners: Listeners,
    edge: Option<routes::Edge>,
    own: UnboundedSender<Order>,
    mut orders: UnboundedReceiver<Order>,
) -> io::Result<()> {
    tracing::info!(
        "Listening for client connections on {}",
        listening(&shared.settings().host, shared.ports().client)
    );
    let runtime = tokio::runtime::Handle::current();
    let mut accepting = Accepting::spawn(shared.clone(), listeners.client, runtime)?;
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
    tokio::spawn(memory::look_after(shared.broker.clone()));
    tokio::spawn(staples::renew(Arc::downgrade(&shared), own));
    tokio::spawn(peers::save(Arc::downgrade(&shared)));
    shared.is_ready.store(true, Release);
    tracing::info!("Server is ready");
    while let Some(order) = orders.recv().await {
        match order {
            Order::Reconfigured => {
                if let Some(hub) = &hub {
                    routes::reconfigure(hub, &shared);
                }
            }
            Order::LameDuck => {
                if shared.enter_lame_duck() {
                    leave_slowly(&shared, hub.as_deref(), &mut accepting, &mut orders).await;
                    break;
                }
            }
            Order::Stop => break,
        }
    }
    shared.is_ready.store(false, Release);
    accepting.end();
    if let Some(system) = shared.system() {
        system.tell_shutdown();
        tokio::time::sleep(EVENT_TIME).await;
    }
    if let Some(hub) = &hub {
        hub.with(|mesh| mesh.stop());
    }
    close_clients(&shared, usize::MAX);
    tokio::time::sleep(LAST_WORDS).await;
    shared.peers.save(true);
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

fn close_clients(shared: &Shared, count: usize) {
    let each = count.div_ceil(shared.broker.mailboxes().len());
    shared.broker.broadcast(|| Command::Other(Box::new(CloseClients(each, CloseReason::ServerShutdown))));
}

/// Lame duck mode: no new clients, the others are told and then closed one by one over the configured time, so
/// that they do not fall upon the rest of the cluster together.
async fn leave_slowly(
    shared: &Arc<Shared>,
    hub: Option<&Hub>,
    accepting: &mut Accepting,
    orders: &mut UnboundedReceiver<Order>,
) {
    let settings = shared.settings();
    let grace = settings.lame_duck_grace_period;
    tracing::info!("Entering lame duck mode, stop accepting new clients");
    accepting.end();
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
