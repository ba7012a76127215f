//! What a user is promised of a running server, seen through real sockets: one process, loopback only.

use config::{Config, Settings};
use node::Server;
use rustls::pki_types::ServerName;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(text: &str) -> Settings {
    let text = format!("listen: \"127.0.0.1:-1\"\n{text}");
    let checked = Settings::from_config(&Config::parse_text(&text).unwrap()).unwrap();
    checked.settings.validate().unwrap();
    checked.settings
}

fn start(text: &str) -> Server {
    Server::start(settings(text)).unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let url = server.client_url();
    let stream = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A peer that speaks raw protocol.
struct Peer<S> {
    stream: S,
    read: Vec<u8>,
}

impl<S: Read + Write> Peer<S> {
    fn new(stream: S) -> Peer<S> {
        Peer { stream, read: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads up to and with `end`.
    fn until(&mut self, end: &str) -> String {
        let mut chunk = vec![0; 1 << 16];
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
            }
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the server hung up; read so far: {}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&chunk[..count]);
        }
    }

    /// Reads until the server hangs up.
    fn until_closed(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        self.read.append(&mut rest);
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

fn client(server: &Server) -> Peer<TcpStream> {
    let mut peer = Peer::new(connect(server));
    peer.until("\r\n");
    peer.send(
        "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1}\r\nPING\r\n",
    );
    peer.until("PONG\r\n");
    peer.until("\r\n");
    peer
}

fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_person_with_telnet_can_publish_and_subscribe() {
    let server = start("");
    let mut peer = Peer::new(connect(&server));
    assert!(peer.until("\r\n").starts_with("INFO {"));
    peer.send("SUB greetings.* 1\r\n");
    assert_eq!(peer.until("\r\n"), "+OK\r\n");
    peer.send("pub greetings.all 5\r\nhello\r\n");
    assert_eq!(peer.until("hello\r\n"), "+OK\r\nMSG greetings.all 1 5\r\nhello\r\n");
    peer.send("nonsense\r\n");
    assert_eq!(peer.until_closed(), "-ERR 'Unknown Protocol Operation'\r\n");
}

#[test]
fn what_comes_behind_a_hashed_password_waits_for_the_verdict_and_keeps_its_order() {
    // the hash of "secret"
    let hash = bcrypt::hash("secret", 6).unwrap();
    let server = start(&format!("authorization {{ user: ann, password: {hash:?} }}"));
    let mut right = Peer::new(connect(&server));
    right.until("\r\n");
    let connect_line =
        |password: &str| format!("CONNECT {{\"verbose\":false,\"user\":\"ann\",\"pass\":{password:?}}}\r\n");
    right.send(connect_line("secret") + "SUB a 1\r\nPUB a 1\r\nx\r\nPUB a 1\r\ny\r\nPING\r\n");
    assert_eq!(right.until("PONG\r\n"), "MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\nPONG\r\n");
    let mut wrong = Peer::new(connect(&server));
    wrong.until("\r\n");
    wrong.send(connect_line("guess") + "SUB a 1\r\nPING\r\n");
    assert_eq!(wrong.until_closed(), "-ERR 'Authorization Violation'\r\n");
    let mut silent = Peer::new(connect(&server));
    silent.until("\r\n");
    silent.send("PING\r\n");
    assert_eq!(silent.until_closed(), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn a_reload_lets_go_whoever_is_no_longer_a_user_and_nobody_else() {
    let server = start("authorization { users: [{user: a, password: a}, {user: b, password: b}] }");
    let mut peers = ["a", "b"].map(|user| {
        let mut peer = Peer::new(connect(&server));
        peer.until("\r\n");
        peer.send(format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{user}\"}}\r\nPING\r\n"
        ));
        peer.until("PONG\r\n");
        peer
    });
    server.reload(settings("authorization { users: [{user: a, password: a}] }")).unwrap();
    assert!(peers[1].until_closed().contains("-ERR 'Authorization Violation'"));
    peers[0].send("PING\r\n");
    assert!(peers[0].until("PONG\r\n").ends_with("PONG\r\n"));
}

#[test]
fn permissions_hold_for_publishing_subscribing_and_what_a_wildcard_covers() {
    let server = start(
        "authorization { users: [{user: u, password: p, permissions: {
            publish: {allow: [\"ok.>\"]}, subscribe: {allow: [\"ok.>\"], deny: [\"ok.secret\"]} }}] }",
    );
    let mut peer = Peer::new(connect(&server));
    peer.until("\r\n");
    peer.send("CONNECT {\"verbose\":false,\"user\":\"u\",\"pass\":\"p\"}\r\nSUB ok.* 1\r\nSUB no 2\r\n");
    peer.send("PUB no 1\r\nx\r\nPUB ok.secret 1\r\ns\r\nPUB ok.fine 1\r\nf\r\nPING\r\n");
    let seen = peer.until("PONG\r\n");
    assert_eq!(
        seen,
        "-ERR 'Permissions Violation for Subscription to \"no\"'\r\n\
         -ERR 'Permissions Violation for Publish to \"no\"'\r\nMSG ok.fine 1 1\r\nf\r\nPONG\r\n"
    );
}

#[test]
fn a_cluster_closes_its_mesh_from_one_seed_and_tells_clients_of_every_change() {
    let member = |name: &str, seed: Option<&Server>| {
        let routes = seed.map_or_else(String::new, |seed| {
            let port = seed.monitor().varz().cluster.cluster_port;
            format!("routes: [\"nats://127.0.0.1:{port}\"]")
        });
        start(&format!(
            "server_name: {name}, cluster {{ name: c, listen: \"127.0.0.1:-1\", {routes} }}\n\
             lame_duck_duration: \"30s\", lame_duck_grace_period: \"29s\""
        ))
    };
    let one = member("one", None);
    let two = member("two", Some(&one));
    let mut watcher = client(&one);
    let three = member("three", Some(&two));
    for server in [&one, &two, &three] {
        eventually("the mesh closes", || server.monitor().varz().remotes == 2);
    }
    let port = |server: &Server| server.client_url().rsplit_once(':').unwrap().1.to_owned();
    while !watcher.until("\r\n").contains(&port(&three)) {}
    // of the global account alone, and beyond the services of the system account that it imports from the start
    let interest = || one.monitor().index_statistics(Some("$G"))[0].subscriptions;
    let imported = interest();
    // plain interest once, a queue group's member anywhere exactly once
    let (mut far, mut near) = (client(&three), client(&two));
    far.send("SUB news 1\r\nSUB work workers 2\r\nPING\r\n");
    far.until("PONG\r\n");
    near.send("SUB news 1\r\nSUB work workers 2\r\nPING\r\n");
    near.until("PONG\r\n");
    eventually("interest arrives", || interest() >= imported + 4);
    let mut publisher = client(&one);
    for _ in 0..50 {
        publisher.send("PUB work 1\r\nw\r\n");
    }
    publisher.send("PUB news 1\r\nn\r\nPUB end 1\r\ne\r\nPING\r\n");
    publisher.until("PONG\r\n");
    let (from_far, from_near) = (far.until("MSG news 1 1\r\nn\r\n"), near.until("MSG news 1 1\r\nn\r\n"));
    let jobs = |text: &str| text.matches("MSG work 2 1").count();
    assert_eq!(jobs(&from_far) + jobs(&from_near), 50);
    // a server that leaves says so to its own clients, and the others' clients lose its address
    three.lame_duck();
    while !far.until("\r\n").contains("\"ldm\":true") {}
    drop(far);
    loop {
        let line = watcher.until("\r\n");
        if line.starts_with("INFO") && !line.contains(&port(&three)) && line.contains(&port(&two)) {
            break;
        }
    }
    drop(three);
    eventually("the rest forgets it", || one.monitor().varz().remotes == 1);
}

fn certificate(directory: &std::path::Path) -> (String, rustls::RootCertStore) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert_file, key_file) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert_file, key.cert.pem()).unwrap();
    std::fs::write(&key_file, key.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    (format!("tls {{ cert_file: {cert_file:?}, key_file: {key_file:?} }}"), roots)
}

#[test]
fn tls_carries_more_than_its_buffers_hold_in_both_directions() {
    let directory = std::env::temp_dir().join(format!("starling-serving-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (tls, roots) = certificate(&directory);
    let server = start(&tls);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut stream = connect(&server);
    let mut first = [0; 4096];
    let count = stream.read(&mut first).unwrap();
    assert!(String::from_utf8_lossy(&first[..count]).contains("\"tls_required\":true"));
    let name = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut peer = Peer::new(rustls::StreamOwned::new(connection, stream));
    peer.send("CONNECT {\"verbose\":false}\r\nSUB big 1\r\nPING\r\n");
    peer.until("PONG\r\n");
    let payload = vec![b'x'; 900_000];
    peer.send([b"PUB big 900000\r\n", &payload[..], b"\r\nPING\r\n"].concat());
    assert_eq!(peer.until("PONG\r\n").len(), "MSG big 1 900000\r\n".len() + 900_000 + 2 + 6);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_reload_and_whoever_looks_at_varz_do_not_wait_for_each_other() {
    let server = start("");
    let monitor = server.monitor();
    let (done, is_done) = std::sync::mpsc::channel();
    let looks = std::thread::spawn(move || {
        while is_done.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            assert!(!monitor.varz().server_id.is_empty());
        }
    });
    let (reloaded, is_reloaded) = std::sync::mpsc::channel();
    let reloader = server.reloader();
    std::thread::spawn(move || {
        for _ in 0..300 {
            reloader.reload(settings("")).unwrap();
        }
        reloaded.send(()).unwrap();
    });
    is_reloaded.recv_timeout(Duration::from_secs(30)).expect("300 reloads");
    done.send(()).unwrap();
    looks.join().unwrap();
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let error = Server::start(settings("prof_port: 6060")).err().expect("refused").to_string();
    assert!(error.contains("prof_port") && error.contains("not supported yet"), "{error}");
}

#[test]
fn a_client_behind_a_load_balancer_is_known_by_its_own_address() {
    let server = start("proxy_protocol: true");
    let mut peer = Peer::new(connect(&server));
    peer.send("PROXY TCP4 192.0.2.7 10.0.0.1 50001 4222\r\n");
    assert!(peer.until("\r\n").contains(r#""client_ip":"192.0.2.7""#));
    peer.send("CONNECT {\"verbose\":false}\r\nPING\r\n");
    peer.until("PONG\r\n");
    let mut wrong = Peer::new(connect(&server));
    wrong.send("PROXY TCP4 nowhere\r\n");
    assert_eq!(wrong.until_closed(), "");
    let mut direct = Peer::new(connect(&server));
    assert!(direct.until("\r\n").contains(r#""client_ip":"127.0.0.1""#), "without a header it is who it is");
}
