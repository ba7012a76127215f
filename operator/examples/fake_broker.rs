//! Stands in for a broker in the tests of the local runner, which must not need another package's binary.
//!
//! Takes `-c FILE` as a broker does, finds the others by its routes, serves `/healthz`, `/varz` and
//! `/routez`, loads its file again on SIGHUP, and ends on SIGUSR2 (after the grace period, here a tenth of
//! a second) and SIGTERM.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use operator::build::config::{Rendered, read_back};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

struct Broker {
    file: String,
    config: Mutex<Rendered>,
    /// Connections by the name of their other end. Counted: a pair may have two, and a cluster of another test, whose
    /// servers have the same names, may have had this port before.
    peers: Mutex<HashMap<String, usize>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(2).ok_or_else(|| anyhow::anyhow!("usage: fake_broker -c FILE"))?;
    let config = load(&file)?;
    let settings = config.settings.clone();
    let name = settings.server_name.clone().unwrap_or_default();
    let _clients = TcpListener::bind((settings.host.as_str(), settings.port.to_bind())).await?;
    let port = |port: Option<config::Port>| port.map_or(0, config::Port::to_bind);
    let routes = TcpListener::bind((settings.host.as_str(), port(settings.cluster.port))).await?;
    let monitor = TcpListener::bind((settings.host.as_str(), port(settings.monitoring.http_port))).await?;
    let broker = Arc::new(Broker { file, config: Mutex::new(config), peers: Mutex::default() });
    tokio::spawn(accept(routes, broker.clone(), name.clone(), greet));
    tokio::spawn(accept(monitor, broker.clone(), name.clone(), answer));
    for url in &settings.cluster.routes {
        let (broker, name, address) = (broker.clone(), name.clone(), url.address());
        tokio::spawn(async move {
            for _ in 0..50 {
                if let Ok(stream) = TcpStream::connect(&address).await {
                    return greet(stream, broker, name).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let mut hangup = signal(SignalKind::hangup())?;
    let mut lame_duck = signal(SignalKind::user_defined2())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                let fresh = load(&broker.file)?;
                if let Ok(mut config) = broker.config.lock() {
                    *config = fresh;
                }
            }
            _ = lame_duck.recv() => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Ok(());
            }
        }
    }
}

fn load(file: &str) -> anyhow::Result<Rendered> {
    read_back(&std::fs::read_to_string(file)?).ok_or_else(|| anyhow::anyhow!("{file} is no configuration"))
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    broker: Arc<Broker>,
    name: String,
    serve: fn(TcpStream, Arc<Broker>, String) -> F,
) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, broker.clone(), name.clone()));
    }
}

/// Both sides say their names; the other is a neighbour for as long as the connection lasts.
async fn greet(mut stream: TcpStream, broker: Arc<Broker>, name: String) {
    let mut buffer = [0_u8; 256];
    if stream.write_all(name.as_bytes()).await.is_err() {
        return;
    }
    let Ok(length) = stream.read(&mut buffer).await else { return };
    let peer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    if let Ok(mut peers) = broker.peers.lock() {
        *peers.entry(peer.clone()).or_default() += 1;
    }
    while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    if let Ok(mut peers) = broker.peers.lock()
        && let Some(connections) = peers.get_mut(&peer)
    {
        *connections -= 1;
        if *connections == 0 {
            peers.remove(&peer);
        }
    }
}

async fn answer(mut stream: TcpStream, broker: Arc<Broker>, _name: String) {
    let mut buffer = [0_u8; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let body = document(&broker, request.split(' ').nth(1).unwrap_or_default()).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn document(broker: &Broker, path: &str) -> serde_json::Value {
    match path {
        "/varz" => {
            let digest = broker.config.lock().map(|config| config.digest.clone()).unwrap_or_default();
            serde_json::json!({"version": "0.0.0-fake", "config_digest": digest, "connections": 1, "in_msgs": 2})
        }
        "/routez" => {
            let peers = broker.peers.lock().map(|peers| peers.clone()).unwrap_or_default();
            let routes: Vec<_> = peers.keys().map(|peer| serde_json::json!({"remote_id": peer})).collect();
            serde_json::json!({"routes": routes})
        }
        _ => serde_json::json!({"status": "ok"}),
    }
}
