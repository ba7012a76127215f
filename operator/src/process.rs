//! The operator as a process on Kubernetes: lease, health endpoint, signals.
//!
//! Owns what surrounds [`crate::controller`]. Knows nothing of clusters.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::controller::{self, Context};
use crate::crd::NatsCluster;
use crate::metrics::Metrics;
use crate::validate::Defaults;

/// Name of the lease.
const LEASE: &str = "starling-operator";
/// A lease not renewed for this long is free.
const LEASE_SECONDS: u64 = 15;
/// It is renewed so long before.
const LEASE_GRACE_SECONDS: u64 = 5;
/// Longest a scraper may take for its request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// What the command line and environment asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to look after; empty: all.
    pub namespaces: Vec<String>,
    /// Namespace of the lease.
    pub lease_namespace: String,
    /// Our name among the holders of the lease.
    pub identity: String,
    /// Whether to take a lease at all; without it there must be only one operator.
    pub leader_election: bool,
    /// Address of `/livez`, `/readyz` and `/metrics`.
    pub http: SocketAddr,
    /// Image of the broker.
    pub defaults: Defaults,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No way to the API server.
    #[error("cannot reach the API server: {0}")]
    Client(#[from] kube::Error),
    /// The address of the health endpoint is taken.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The lease cannot be kept.
    #[error("leader election: {0}")]
    Lease(#[from] kube_lease_manager::LeaseManagerError),
    /// Another operator took over; a restart makes us wait for our turn.
    #[error("the lease was lost to another operator")]
    LeaseLost,
    /// The system refused a signal handler.
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
}

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// See [`ProcessError`].
pub async fn run(config: Config, options: Options) -> Result<(), ProcessError> {
    let metrics = Metrics::new();
    let counted = metrics.clone();
    let count = tower::util::MapRequestLayer::new(move |request: Request<kube::client::Body>| {
        counted.api_request(request.method().as_str(), request.uri().query());
        request
    });
    let client = ClientBuilder::try_from(config)?.with_layer(&count).build();
    let (ready, is_ready) = watch::channel(false);
    let listener = listen(options.http).await?;
    tokio::spawn(serve(listener, metrics.clone(), is_ready));
    let stop = stop_signal()?.shared();
    wait_for_crd(&client, &ready, stop.clone()).await;
    if !options.leader_election {
        let (_always, leader) = watch::channel(true);
        metrics.set_leader(true);
        lead(client, &options, metrics, leader, stop).await;
        return Ok(());
    }
    let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(&options.lease_namespace)
        .with_identity(&options.identity)
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_GRACE_SECONDS)
        .with_field_manager("starling-operator")
        .build()
        .await?;
    let (mut leader, task) = manager.watch().await;
    tracing::info!(lease = LEASE, identity = options.identity, "waiting for the lease");
    tokio::select! {
        _ = leader.wait_for(|leads| *leads) => {}
        () = stop.clone() => {}
    }
    let mut outcome = Ok(());
    if *leader.borrow() {
        tracing::info!(lease = LEASE, "holds the lease");
        metrics.set_leader(true);
        let mut lost = leader.clone();
        tokio::select! {
            () = lead(client, &options, metrics, leader.clone(), stop.clone()) => {}
            _ = lost.wait_for(|leads| !*leads) => outcome = Err(ProcessError::LeaseLost),
        }
    }
    // The task gives the lease back once nobody listens.
    drop(leader);
    if let Ok(Err(error)) = task.await {
        tracing::warn!(%error, "cannot give the lease back");
    }
    outcome
}

/// Nodes without IPv6 refuse `[::]`, which elsewhere stands for both families.
async fn listen(address: SocketAddr) -> Result<TcpListener, ProcessError> {
    let refused = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        let any: SocketAddr = (std::net::Ipv4Addr::UNSPECIFIED, address.port()).into();
        return TcpListener::bind(any).await.map_err(|error| ProcessError::Listen(any, error));
    }
    Err(ProcessError::Listen(address, refused))
}

async fn lead(
    client: Client,
    options: &Options,
    metrics: Arc<Metrics>,
    leader: watch::Receiver<bool>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let context = Arc::new(Context::new(client, options.defaults.clone(), metrics, leader));
    if options.namespaces.is_empty() {
        return controller::run(context, None, stop).await;
    }
    let each = options
        .namespaces
        .iter()
        .map(|namespace| controller::run(context.clone(), Some(namespace), stop.clone()));
    futures::future::join_all(each).await;
}

/// Waits until the CRD is served, so that a chart may install both in any order.
async fn wait_for_crd(client: &Client, ready: &watch::Sender<bool>, stop: impl Future<Output = ()>) {
    let wait = async {
        let clusters: Api<NatsCluster> = Api::all(client.clone());
        loop {
            // Least rights: a list of our own kind says the same as the definition.
            match clusters.list(&kube::api::ListParams::default().limit(1)).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    // Namespaced operators may not list everywhere; the watches will tell.
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "waiting for the CustomResourceDefinition of NatsCluster");
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        }
    };
    tokio::select! {
        () = wait => { ready.send_replace(true); }
        () = stop => {}
    }
}

fn stop_signal() -> Result<impl Future<Output = ()> + Send + Sync + 'static, ProcessError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProcessError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProcessError::Signals)?;
    let (told, mut is_told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        told.send_replace(true);
        // Kept until the process ends, or waiters would see it closed.
        std::future::pending::<()>().await;
    });
    Ok(async move {
        let _told = is_told.wait_for(|told| *told).await;
    })
}

async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: watch::Receiver<bool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: not for long.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (metrics, ready) = (metrics.clone(), ready.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &metrics, *ready.borrow());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off is its own affair.
            let _ended = connection.await;
        });
    }
}

/// `/livez` does not depend on anything, or a missing CRD would restart us for ever; `/readyz` does.
fn answer(request: &Request<Incoming>, metrics: &Metrics, ready: bool) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if ready => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => {
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for the CustomResourceDefinition\n".to_owned())
        }
        "/metrics" => (StatusCode::OK, metrics.render()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if request.uri().path() == "/metrics" {
        let kind = hyper::header::HeaderValue::from_static(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        );
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    }
    response
}
