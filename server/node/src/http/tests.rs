//! What a peer of the monitor port is promised, and what it cannot do.

use std::collections::BTreeMap;
use std::sync::mpsc;

use monitor::accountz::{AccountInfo, AccountStatistics};
use monitor::events::ServerIdentity;
use monitor::healthz::Readiness;
use monitor::ipqueuesz::QueueDepth;
use monitor::routez::RoutesSnapshot;
use monitor::source::{ClosedConnection, Connection, Selection, Subscription};
use monitor::statsz::ServerStatistics;
use monitor::subsz::IndexStatistics;
use monitor::varz::Varz;
use monitor::{Endpoint, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A server without connections, whose list of them may take as long as a test wants.
struct Fake {
    release: Option<parking_lot::Mutex<mpsc::Receiver<()>>>,
}

impl Source for Fake {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn identity(&self) -> ServerIdentity {
        ServerIdentity::default()
    }

    fn varz(&self) -> Varz {
        Varz::default()
    }

    fn statistics(&self) -> ServerStatistics {
        ServerStatistics::default()
    }

    fn connections(&self, _: &Selection<'_>) -> Option<Vec<Connection>> {
        if let Some(release) = &self.release {
            let _ = release.lock().recv();
        }
        Some(Vec::new())
    }

    fn closed_connections(&self, _: &Selection<'_>) -> Vec<ClosedConnection> {
        Vec::new()
    }

    fn routes(&self, _: bool) -> RoutesSnapshot {
        RoutesSnapshot::default()
    }

    fn index_statistics(&self, _: Option<&str>) -> Vec<IndexStatistics> {
        Vec::new()
    }

    fn subscriptions(&self, _: Option<&str>) -> Vec<Subscription> {
        Vec::new()
    }

    fn account_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn system_account(&self) -> String {
        String::new()
    }

    fn account(&self, _: &str) -> Option<AccountInfo> {
        None
    }

    fn account_statistics(&self) -> Vec<AccountStatistics> {
        Vec::new()
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn queues(&self) -> BTreeMap<String, QueueDepth> {
        BTreeMap::new()
    }

    fn count_request(&self, _: Endpoint) {}
}

/// Starts the port; it ends with the runtime of the test.
async fn start(base_path: &str, fake: Fake) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, base_path.to_owned(), Arc::new(fake), Box::new(|| None)));
    address
}

fn quick() -> Fake {
    Fake { release: None }
}

/// Sends bytes and returns all that comes back until the port closes the connection.
async fn exchange_bytes(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The port may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    exchange_bytes(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await
}

#[tokio::test]
async fn documents_come_with_the_headers_of_nats_server() {
    let address = start("/nats", quick()).await;
    let answer = get(address, "/nats/connz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"));
    assert!(answer.contains("access-control-allow-origin: *\r\n"));
    assert!(answer.ends_with("\"connections\": []\n}"));

    let refusal = get(address, "/nats/connz?limit=x").await;
    assert!(refusal.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    assert!(refusal.ends_with("Error decoding int for 'limit': strconv.Atoi: parsing \"x\": invalid syntax"));
    assert!(get(address, "/connz").await.starts_with("HTTP/1.1 404 Not Found\r\n"));
    assert!(get(address, "//nats/connz?a=b").await.contains("location: /nats/connz?a=b\r\n"));
}

#[tokio::test]
async fn a_connection_serves_several_requests() {
    let address = start("", quick()).await;
    let twice =
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /varz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = exchange_bytes(address, twice).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
}

#[tokio::test]
async fn head_gives_the_length_without_the_document() {
    let address = start("", quick()).await;
    let answer =
        exchange_bytes(address, b"HEAD /varz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert!(length.parse::<usize>().unwrap() > 100);
}

#[tokio::test]
async fn other_methods_are_refused_and_their_bodies_not_read() {
    let address = start("", quick()).await;
    let mut request = b"POST /varz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
    request.resize(1 << 20, b'x');
    let answer = exchange_bytes(address, &request).await;
    // The rest of the body may turn the end of the connection into a reset that swallows the answer.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
    let answer =
        exchange_bytes(address, b"DELETE /varz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"));
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused() {
    let address = start("", quick()).await;
    let long = format!("GET /varz?{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
    let answer = exchange_bytes(address, long.as_bytes()).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let many = format!("GET /varz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1));
    let answer = exchange_bytes(address, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"), "others are served on");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_sent_away() {
    let address = start("", quick()).await;
    let begun = tokio::time::Instant::now();
    exchange_bytes(address, b"GET /varz HT").await;
    assert!(begun.elapsed() >= HEAD_TIME_MAX && begun.elapsed() < 2 * HEAD_TIME_MAX, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn probes_are_answered_while_a_large_document_is_made() {
    let (release, waiting) = mpsc::channel();
    let address = start("", Fake { release: Some(parking_lot::Mutex::new(waiting)) }).await;
    let large: Vec<_> = (0..2 * DOCUMENTS_MAX).map(|_| tokio::spawn(get(address, "/connz"))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for probe in ["/healthz", "/livez", "/readyz"] {
        let answer =
            timeout(Duration::from_secs(5), get(address, probe)).await.expect("a probe waits for nothing");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(large.iter().all(|each| !each.is_finished()));
    drop(release);
    for each in large {
        assert!(each.await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_others_to_end() {
    let address = start("", quick()).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let further = tokio::spawn(get(address, "/livez"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!further.is_finished());
    idle.pop();
    let answer = timeout(Duration::from_secs(5), further).await.expect("there is room now").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
}

/// A configuration with a certificate of its own for `localhost`, and the certificate.
fn tls() -> (Arc<ServerConfig>, rustls::pki_types::CertificateDer<'static>) {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = identity.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    (Arc::new(config), certificate)
}

#[tokio::test]
async fn the_port_speaks_https_and_nothing_else_with_a_certificate() {
    let (config, certificate) = tls();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, String::new(), Arc::new(quick()), Box::new(move || Some(config.clone()))));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "no document without TLS");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, String::new(), Arc::new(quick()), Box::new(|| Some(tls().0))));
    let begun = tokio::time::Instant::now();
    assert_eq!(exchange_bytes(address, b"\x16").await, "");
    assert!(begun.elapsed() < 2 * HANDSHAKE_TIME_MAX, "{:?}", begun.elapsed());
}
