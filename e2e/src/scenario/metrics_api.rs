//! A metrics API for autoscalers: what an adapter serves in production, here from the brokers' own `/varz`.
//!
//! Owns the aggregated API `custom.metrics.k8s.io/v1beta2` with one metric of pods, `nats_connections`. It is this
//! process that serves it, beside the API server, which reaches it as any aggregated API: APIService, Service,
//! EndpointSlice, TLS. Its caller's certificate is not looked at.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::kubernetes::Kubernetes;

/// The metric: client connections of a pod's server.
pub const METRIC: &str = "nats_connections";
/// Group and version.
const API: &str = "custom.metrics.k8s.io/v1beta2";
/// Name of the Service.
const NAME: &str = "metrics-api";
/// A request's head is read up to this many bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A metrics API that is served until this value goes.
pub struct MetricsApi {
    kubernetes: Kubernetes,
    task: tokio::task::JoinHandle<()>,
    selector: Arc<Mutex<String>>,
}

impl MetricsApi {
    /// Serves it, and has the API server know it.
    pub async fn start(kubernetes: &Kubernetes) -> Result<Self> {
        let host = api_server_address(kubernetes)?;
        let listener = TcpListener::bind((host.as_str(), 0)).await.context("beside the API server")?;
        let port = listener.local_addr()?.port();
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let selector = Arc::new(Mutex::new(String::new()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(accept(listener, acceptor, kubernetes.clone(), Arc::clone(&selector)));
        let started = Self { kubernetes: kubernetes.clone(), task, selector };
        kubernetes.with_manifest(&["apply"], &manifest(&kubernetes.namespace, &host, port))?;
        Ok(started)
    }

    /// The label selector that an autoscaler asked with last.
    pub fn selector(&self) -> String {
        self.selector.lock().map(|selector| selector.clone()).unwrap_or_default()
    }

    /// Takes it from the API server.
    pub fn stop(self) -> Result<()> {
        let service = format!("apiservice/{}", api_service());
        self.kubernetes.kubectl(&[
            "delete",
            &service,
            &format!("service/{NAME}"),
            &format!("endpointslice/{NAME}"),
        ])?;
        Ok(())
    }
}

impl Drop for MetricsApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Address of the API server on the nodes' network: ours too, in the control plane's namespace.
fn api_server_address(kubernetes: &Kubernetes) -> Result<String> {
    let slices = kubernetes.get(&["-n", "default", "endpointslice", "kubernetes"])?;
    let address = slices["endpoints"][0]["addresses"][0].as_str();
    Ok(address.context("the API server tells no address")?.to_owned())
}

fn api_service() -> String {
    let (group, version) = API.split_once('/').unwrap_or_default();
    format!("{version}.{group}")
}

fn manifest(namespace: &str, host: &str, port: u16) -> String {
    let (group, version) = API.split_once('/').unwrap_or_default();
    let objects = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": namespace},
               "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
               "metadata": {"name": NAME, "namespace": namespace, "labels": {"kubernetes.io/service-name": NAME}},
               "endpoints": [{"addresses": [host], "conditions": {"ready": true}}],
               "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": api_service()},
               "spec": {"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                        "insecureSkipTLSVerify": true, "service": {"name": NAME, "namespace": namespace}}}),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    kubernetes: Kubernetes,
    selector: Arc<Mutex<String>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, kubernetes, selector) = (acceptor.clone(), kubernetes.clone(), Arc::clone(&selector));
        tokio::spawn(async move {
            if let Err(error) = serve(stream, acceptor, kubernetes, selector).await {
                println!("metrics API: {error:#}");
            }
        });
    }
}

/// Answers the requests of one connection.
async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    kubernetes: Kubernetes,
    selector: Arc<Mutex<String>>,
) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < HEAD_BYTES_MAX, "a request without an end");
            // By bytes, so that nothing of the next request is taken; there are few.
            let Ok(byte) = stream.read_u8().await else { return Ok(()) };
            head.push(byte);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        head.clear();
        let target = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let (kubernetes, selector) = (kubernetes.clone(), Arc::clone(&selector));
        let answer = tokio::task::spawn_blocking(move || answer(&target, &kubernetes, &selector)).await?;
        let (status, body) = match answer {
            Ok(Some(body)) => ("200 OK", body),
            Ok(None) => (
                "404 Not Found",
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}),
            ),
            Err(error) => (
                "503 Service Unavailable",
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "message": format!("{error:#}")}),
            ),
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        stream.flush().await?;
    }
}

/// The document at an address; `None`: there is none.
fn answer(target: &str, kubernetes: &Kubernetes, selector: &Mutex<String>) -> Result<Option<Value>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let root = format!("/apis/{API}");
    if path == root {
        return Ok(Some(
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API, "resources": [
            {"name": format!("pods/{METRIC}"), "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]}]}),
        ));
    }
    let namespace = path.strip_prefix(&format!("{root}/namespaces/")).and_then(|rest| rest.split('/').next());
    let Some(namespace) = namespace.filter(|_| path.ends_with(&format!("/{METRIC}"))) else {
        return Ok(None);
    };
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
    let asked = asked.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
    if let Ok(mut selector) = selector.lock() {
        selector.clone_from(&asked);
    }
    let pods = kubernetes.get(&["-n", namespace, "pods", "-l", &asked])?;
    let items = pods["items"].as_array().into_iter().flatten().filter_map(|pod| {
        let (name, address) = (pod["metadata"]["name"].as_str()?, pod["status"]["podIP"].as_str()?);
        let connections = crate::http::json(&format!("http://{address}:8222/varz")).ok()?["connections"].as_u64()?;
        Some(json!({"describedObject": {"kind": "Pod", "apiVersion": "/v1", "namespace": namespace, "name": name},
                    "metric": {"name": METRIC}, "timestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    "value": connections.to_string()}))
    });
    Ok(Some(
        json!({"kind": "MetricValueList", "apiVersion": API, "metadata": {}, "items": items.collect::<Vec<_>>()}),
    ))
}
