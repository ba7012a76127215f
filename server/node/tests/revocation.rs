//! What OCSP promises, with a responder in this process: loopback only.

#[path = "../../ocsp/src/tests/answer.rs"]
mod answer;

use answer::{Answer, must_staple, with_responder};
use config::{Config, Settings};
use node::Server;
use ocsp::{Certificate, Response, Status, request};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

const PATIENCE: Duration = Duration::from_secs(20);

fn now_millis() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An authority and the certificates that it issued.
struct World {
    authority: Arc<CertifiedIssuer<'static, KeyPair>>,
    folder: PathBuf,
}

/// A certificate, its key, and the responder that it names.
struct Identity {
    certificate: Certificate,
    key: KeyPair,
    cert_file: PathBuf,
    key_file: PathBuf,
    responder: Responder,
}

/// Answers about one certificate.
struct Responder {
    url: String,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

struct Says {
    certificate: Option<Certificate>,
    status: Status,
    lives: Duration,
    waits: Duration,
}

impl Responder {
    fn new(authority: Arc<CertifiedIssuer<'static, KeyPair>>) -> Responder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let says = Says {
            certificate: None,
            status: Status::Good,
            lives: Duration::from_secs(3600),
            waits: Duration::ZERO,
        };
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (says.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Relaxed);
                let _ = respond(stream, &authority, &shared);
            }
        });
        Responder { url, says, asked }
    }
}

fn respond(
    mut stream: TcpStream,
    authority: &CertifiedIssuer<'static, KeyPair>,
    says: &Mutex<Says>,
) -> io::Result<()> {
    let mut request = vec![0; 4096];
    let _ = stream.read(&mut request)?;
    let waits = says.lock().waits;
    std::thread::sleep(waits);
    let says = says.lock();
    let issuer = Certificate::from_der(authority.der()).unwrap();
    let now = now_millis();
    let answer = Answer {
        certificate: says.certificate.as_ref().unwrap(),
        issuer: &issuer,
        signer: authority.key(),
        delegate: None,
        status: says.status,
        this_update: now - 1000,
        next_update: Some(now + says.lives.as_millis() as i64),
        without_status: false,
    };
    let body = answer.der();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

impl World {
    fn new(name: &str) -> World {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = std::env::temp_dir().join(format!("starling-revocation-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
        World { authority: Arc::new(authority), folder }
    }

    fn identity(&self, name: &str, demands: bool) -> Identity {
        let responder = Responder::new(self.authority.clone());
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let mut params = with_responder(params, &responder.url);
        params.distinguished_name.push(DnType::CommonName, name);
        if demands {
            params = must_staple(params);
        }
        let key = KeyPair::generate().unwrap();
        let issued = params.signed_by(&key, &*self.authority).unwrap();
        let files = [("crt", issued.pem()), ("key", key.serialize_pem())].map(|(end, text)| {
            let file = self.folder.join(format!("{name}.{end}"));
            std::fs::write(&file, text).unwrap();
            file
        });
        let [cert_file, key_file] = files;
        let certificate = Certificate::from_der(issued.der()).unwrap();
        responder.says.lock().certificate = Some(certificate.clone());
        Identity { certificate, key, cert_file, key_file, responder }
    }

    fn tls(&self, identity: &Identity, more: &str) -> String {
        let (cert, key, ca) = (&identity.cert_file, &identity.key_file, self.folder.join("ca.crt"));
        format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}\n timeout: 10, {more} }}\n")
    }

    fn cache(&self) -> String {
        format!("ocsp_cache {{ type: local, local_store: {:?}, save_interval: 1 }}\n", self.folder.join("rc"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn settings(text: &str) -> Settings {
    let text = format!("listen: \"127.0.0.1:-1\"\n{text}");
    let checked = Settings::from_config(&Config::parse_text(&text).unwrap()).unwrap();
    checked.settings.validate().unwrap();
    checked.settings
}

/// Believes everybody and remembers the staple.
#[derive(Debug)]
struct Curious(Mutex<Option<Vec<u8>>>);

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock() = (!staple.is_empty()).then(|| staple.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

type Stream = rustls::StreamOwned<ClientConnection, TcpStream>;

/// INFO, TLS, CONNECT, PING: the connection and the staple.
fn enter(server: &Server, client: Option<&Identity>) -> io::Result<(Stream, Option<Vec<u8>>)> {
    let curious = Arc::new(Curious(Mutex::default()));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(curious.clone());
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = vec![CertificateDer::from(client.certificate.der().to_vec())];
            let key = PrivateKeyDer::try_from(client.key.serialize_der()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let url = server.client_url();
    let mut stream = TcpStream::connect(url.strip_prefix("nats://").unwrap())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    until(&mut stream, "\r\n")?;
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    until(&mut stream, "PONG\r\n")?;
    let staple = curious.0.lock().take();
    Ok((stream, staple))
}

fn until(stream: &mut impl Read, end: &str) -> io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_certificate_that_demands_it_is_shown_with_a_response_that_is_renewed() {
    let world = World::new("staple");
    let own = world.identity("server", true);
    own.responder.says.lock().lives = Duration::from_secs(2);
    let store = world.folder.join("store");
    let server = Server::start(settings(&format!("store_dir: {store:?}\n{}", world.tls(&own, "")))).unwrap();
    let issuer = Certificate::from_der(world.authority.der()).unwrap();
    let shown = || {
        let (_, staple) = enter(&server, None).unwrap();
        Response::parse(&staple.expect("a staple"), &own.certificate, &issuer).unwrap()
    };
    let first = shown();
    assert_eq!(first.status, Status::Good);
    assert!(store.join("ocsp").join(own.certificate.file_name()).is_file(), "kept over a restart");
    // without `must` or `always` a revoked certificate is shown as such
    own.responder.says.lock().status = Status::Revoked;
    eventually("the news is shown", || shown().status == Status::Revoked);
    drop(server);

    let plain = world.identity("plain", false);
    let server = Server::start(settings(&world.tls(&plain, ""))).unwrap();
    assert_eq!(enter(&server, None).unwrap().1, None, "nobody asked for a staple");
}

#[test]
fn a_revoked_certificate_ends_a_server_that_must_staple() {
    let world = World::new("ends");
    let own = world.identity("server", false);
    own.responder.says.lock().lives = Duration::from_secs(2);
    let text = format!("ocsp {{ mode: always, url: {:?} }}\n{}", own.responder.url, world.tls(&own, ""));
    let server = Server::start(settings(&text)).unwrap();
    enter(&server, None).unwrap();
    own.responder.says.lock().status = Status::Revoked;
    eventually("the server has ended", || enter(&server, None).is_err());
    drop(server);
    let error = Server::start(settings(&text)).err().expect("it does not start any more").to_string();
    assert!(error.contains("OCSP") && error.contains("revoked"), "{error}");
    let error = Server::start(settings(&text.replace(&own.responder.url, "http://127.0.0.1:1")));
    let error = error.err().expect("it does not start without a response").to_string();
    assert!(error.contains("OCSP") && error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn a_reload_that_gets_no_response_goes_on_without() {
    let world = World::new("reload");
    let (plain, own) = (world.identity("plain", false), world.identity("server", true));
    let server = Server::start(settings(&world.tls(&own, ""))).unwrap();
    assert!(enter(&server, None).unwrap().1.is_some());
    server.reload(settings(&world.tls(&plain, ""))).unwrap();
    assert_eq!(enter(&server, None).unwrap().1, None);
    let unreachable = format!("ocsp {{ url: \"http://127.0.0.1:1\" }}\n{}", world.tls(&own, ""));
    server.reload(settings(&unreachable)).unwrap();
    assert_eq!(enter(&server, None).unwrap().1, None);
    server.reload(settings(&world.tls(&own, ""))).unwrap();
    assert!(enter(&server, None).unwrap().1.is_some());
}

#[test]
fn a_revoked_client_is_turned_away_and_the_answer_is_kept() {
    let world = World::new("peer");
    let own = world.identity("server", false);
    let (good, bad) = (world.identity("good", false), world.identity("bad", false));
    bad.responder.says.lock().status = Status::Revoked;
    let text = format!("{}{}", world.tls(&own, "verify: true, ocsp_peer: true"), world.cache());
    let server = Server::start(settings(&text)).unwrap();
    let cache = || server.monitor().varz().ocsp_peer_cache.expect("a cache");
    enter(&server, Some(&good)).unwrap();
    let alert = enter(&server, Some(&bad)).unwrap_err().to_string();
    assert!(alert.contains("BadCertificate"), "{alert}");
    enter(&server, Some(&good)).unwrap();
    assert!(enter(&server, Some(&bad)).is_err());
    assert_eq!([&good, &bad].map(|client| client.responder.asked.load(Relaxed)), [1, 1], "then by the cache");
    let numbers = cache();
    assert_eq!((numbers.cache_hits, numbers.cache_misses, numbers.cached_responses), (2, 2, 2));
    assert_eq!((numbers.cached_good_responses, numbers.cached_revoked_responses), (1, 1));
    assert!(server.monitor().varz().tls_ocsp_peer_verify);
    drop(server);
    let server = Server::start(settings(&text)).unwrap();
    enter(&server, Some(&good)).unwrap();
    assert_eq!(good.responder.asked.load(Relaxed), 1, "also after a restart");
    server.reload(settings(&world.tls(&own, "verify: true"))).unwrap();
    enter(&server, Some(&bad)).unwrap();
}

#[test]
fn the_system_account_hears_who_was_turned_away() {
    let world = World::new("events");
    let own = world.identity("server", false);
    let (good, bad) = (world.identity("good", false), world.identity("bad", false));
    bad.responder.says.lock().status = Status::Revoked;
    let text = format!(
        "{}ocsp_cache: false\naccounts {{ SYS: {{ users: [{{user: s, password: s}}] }} }}\nsystem_account: SYS\n\
         no_auth_user: s\n",
        world.tls(&own, "verify: true, ocsp_peer: true")
    );
    let server = Server::start(settings(&text)).unwrap();
    let (mut stream, _) = enter(&server, Some(&good)).unwrap();
    stream.write_all(b"SUB $SYS.SERVER.*.OCSP.> 1\r\nPING\r\n").unwrap();
    until(&mut stream, "PONG\r\n").unwrap();
    assert!(enter(&server, Some(&bad)).is_err());
    let events = until(&mut stream, "client not OCSP valid\"}\r\n").unwrap();
    for part in [
        ".OCSP.PEER.LINK.INVALID 1 ",
        "\"type\":\"io.nats.server.advisory.v1.ocsp_peer_link_invalid\"",
        "\"reason\":\"Invalid OCSP response status: revoked\"",
        ".OCSP.PEER.CONN.REJECT 1 ",
        "\"type\":\"io.nats.server.advisory.v1.ocsp_peer_reject\"",
        "\"kind\":\"Client\"",
        "\"subject\":\"CN=bad\"",
        &format!("\"fingerprint\":\"{}\"", bad.certificate.fingerprint()),
    ] {
        assert!(events.contains(part), "{part}: {events}");
    }
}

#[test]
fn while_a_responder_is_waited_for_others_are_served() {
    let world = World::new("waits");
    let own = world.identity("server", false);
    let (slow, quick) = (world.identity("slow", false), world.identity("quick", false));
    slow.responder.says.lock().waits = Duration::from_secs(3);
    let peer = "verify: true, ocsp_peer { verify: true, ca_timeout: 8 }";
    let text = format!("starling {{ worker_threads: 1 }}\n{}ocsp_cache: false\n", world.tls(&own, peer));
    let server = Server::start(settings(&text)).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| enter(&server, Some(&slow)).map(|_| begun.elapsed()));
        eventually("the responder is asked", || slow.responder.asked.load(Relaxed) == 1);
        let (mut stream, _) = enter(&server, Some(&quick)).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        until(&mut stream, "PONG\r\n").unwrap();
        assert!(begun.elapsed() < Duration::from_millis(2900), "served meanwhile: {:?}", begun.elapsed());
        assert!(waits.join().unwrap().unwrap() >= Duration::from_secs(3));
    });
}

#[test]
fn a_server_with_a_revoked_certificate_gets_no_routes() {
    let world = World::new("routes");
    let (seed, other) = (world.identity("seed", true), world.identity("other", true));
    let cluster = |own: &Identity, routes: &str| {
        format!(
            "cluster {{ name: C, listen: \"127.0.0.1:-1\", pool_size: -1, {routes}\n{} }}",
            world.tls(own, "")
        )
    };
    let first = Server::start(settings(&cluster(&seed, ""))).unwrap();
    let port = first.monitor().varz().cluster.cluster_port;
    let routes = format!("routes: [\"nats://127.0.0.1:{port}\"]");
    let second = Server::start(settings(&cluster(&other, &routes))).unwrap();
    let count = |server: &Server| server.monitor().varz().routes;
    eventually("a route", || count(&first) == 1 && count(&second) == 1);
    drop(second);
    eventually("no route", || count(&first) == 0);
    // whoever accepts asks
    other.responder.says.lock().status = Status::Revoked;
    let second = Server::start(settings(&cluster(&other, &routes))).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((count(&first), count(&second)), (0, 0));
    drop((first, second));
    // whoever dials reads the staple
    other.responder.says.lock().status = Status::Good;
    seed.responder.says.lock().status = Status::Revoked;
    let first = Server::start(settings(&cluster(&seed, ""))).unwrap();
    let port = first.monitor().varz().cluster.cluster_port;
    let routes = format!("routes: [\"nats://127.0.0.1:{port}\"]");
    let second = Server::start(settings(&cluster(&other, &routes))).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((count(&first), count(&second)), (0, 0));
}
