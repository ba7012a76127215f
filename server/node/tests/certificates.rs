//! TLS as operators of servers use it: certificates that change under a running server, pinned keys, who speaks first.

mod support;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{PATIENCE, eventually, start};

/// An authority that signs certificates of servers and clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// PEM of certificate and key.
    fn sign(&self, name: &str, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

/// A folder as the kubelet mounts a Secret: files are links to `..data/file`, and `..data` links to a folder with a
/// date in its name.
struct Mounted(PathBuf);

impl Mounted {
    fn new(name: &str) -> Mounted {
        let path = std::env::temp_dir().join(format!("starling-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Mounted(path)
    }

    fn put(&self, files: &[(&str, &str)]) {
        let version = format!("..{:?}", Instant::now()).replace([' ', ':', '{', '}'], "");
        std::fs::create_dir(self.0.join(&version)).unwrap();
        for (name, text) in files {
            std::fs::write(self.0.join(&version).join(name), text).unwrap();
            let link = self.0.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        std::os::unix::fs::symlink(&version, self.0.join("..new")).unwrap();
        std::fs::rename(self.0.join("..new"), self.0.join("..data")).unwrap();
    }

    fn tls(&self, more: &str) -> String {
        let file = |name: &str| self.0.join(name).display().to_string();
        let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
        format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}\n {more} }}")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Stream = rustls::StreamOwned<ClientConnection, TcpStream>;

fn dial(server: &node::Server) -> TcpStream {
    let url = server.client_url();
    let stream = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn secured(stream: TcpStream, roots: RootCertStore, client: Option<&(String, String)>) -> Stream {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    rustls::StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

fn line(stream: &mut impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn ping(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    loop {
        match line(stream)?.as_str() {
            "PONG\r\n" => return Ok(()),
            // the server's own, which comes after two seconds
            "PING\r\n" => stream.write_all(b"PONG\r\n")?,
            other => return Err(io::Error::other(other.to_owned())),
        }
    }
}

/// INFO in the clear, then TLS, then PING.
fn enter(
    server: &node::Server,
    roots: RootCertStore,
    client: Option<&(String, String)>,
) -> io::Result<Stream> {
    let mut stream = dial(server);
    line(&mut stream)?;
    let mut stream = secured(stream, roots, client);
    ping(&mut stream)?;
    Ok(stream)
}

#[test]
fn a_swapped_secret_is_what_new_connections_see_and_open_ones_go_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mounted = Mounted::new("swap");
    let (cert, key) = old.sign("localhost", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &old.pem())]);
    let server = start(&mounted.tls("verify: true"));
    let of_old = old.sign("client", 2040);
    let mut open = enter(&server, old.roots(), Some(&of_old)).unwrap();
    let not_after = || server.monitor().varz().tls_cert_not_after.unwrap().to_string();
    assert_eq!(not_after(), "2040-01-01T00:00:00Z");
    // the watch has seen the first state
    std::thread::sleep(Duration::from_millis(500));
    let (cert, key) = new.sign("localhost", 2041);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &new.pem())]);
    eventually("the new certificate is in force", || not_after() == "2041-01-01T00:00:00Z");
    let of_new = new.sign("client", 2040);
    enter(&server, new.roots(), Some(&of_new)).unwrap();
    assert!(enter(&server, old.roots(), Some(&of_new)).is_err(), "the old certificate is gone");
    assert!(enter(&server, new.roots(), Some(&of_old)).is_err(), "the old authority is gone");
    ping(&mut open).unwrap();
    // half of a change, or rubbish, changes nothing
    mounted.put(&[("tls.crt", &cert), ("tls.key", "rubbish"), ("ca.crt", &new.pem())]);
    std::thread::sleep(Duration::from_millis(2500));
    enter(&server, new.roots(), Some(&of_new)).unwrap();
}

#[test]
fn only_pinned_keys_are_let_in() {
    let authority = Authority::new("authority");
    let mounted = Mounted::new("pinned");
    let (cert, key) = authority.sign("localhost", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem())]);
    let (pinned, other) = (authority.sign("a", 2040), authority.sign("b", 2040));
    let der = CertificateDer::from_pem_slice(pinned.0.as_bytes()).unwrap();
    let pin = accounts::CertificateFacts::from_der(&der).unwrap().key_sha256;
    let server = start(&mounted.tls(&format!("verify: true, pinned_certs: [{pin:?}]")));
    enter(&server, authority.roots(), Some(&pinned)).unwrap();
    assert!(enter(&server, authority.roots(), Some(&other)).is_err());
    assert!(enter(&server, authority.roots(), None).is_err());
}

/// `/connz?auth=1` names who is behind a connection, and only there.
#[test]
fn a_clients_certificate_is_shown_to_who_asks_for_identities() {
    let authority = Authority::new("authority");
    let mounted = Mounted::new("shown");
    let (cert, key) = authority.sign("localhost", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem())]);
    let server = start(&mounted.tls("verify: true"));
    let client = authority.sign("client", 2040);
    let der = CertificateDer::from_pem_slice(client.0.as_bytes()).unwrap();
    let facts = accounts::CertificateFacts::from_der(&der).unwrap();
    let _open = enter(&server, authority.roots(), Some(&client)).unwrap();
    let connz = |query: &str| {
        let answer = monitor::respond(server.monitor().as_ref(), "", "/connz", query);
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        value["connections"][0].clone()
    };
    let expected = serde_json::json!([{
        "subject": facts.subject,
        "spki_sha256": facts.key_sha256,
        "cert_sha256": facts.certificate_sha256,
    }]);
    assert_eq!(connz("auth=1")["tls_peer_certs"], expected);
    assert_eq!(connz("")["tls_version"], "1.3");
    assert!(connz("").get("tls_peer_certs").is_none());
}

#[test]
fn with_auto_a_client_may_begin_with_tls_or_wait_for_info() {
    let authority = Authority::new("authority");
    let mounted = Mounted::new("first");
    let (cert, key) = authority.sign("localhost", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem())]);
    let server = start(&mounted.tls("handshake_first: \"200ms\""));
    let begun = Instant::now();
    enter(&server, authority.roots(), None).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(190), "INFO in the clear comes late");
    let mut first = secured(dial(&server), authority.roots(), None);
    first.flush().unwrap();
    assert!(line(&mut first).unwrap().starts_with("INFO {"));
    ping(&mut first).unwrap();
}

#[test]
fn routes_show_certificates_with_a_name_of_a_known_route_or_of_the_user() {
    let authority = Authority::new("authority");
    let mounted = Mounted::new("routes");
    let (cert, key) = authority.sign("localhost", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem())]);
    let with = |more: &str, routes: &str| {
        let tls = mounted.tls(more);
        start(&format!(
            "cluster {{ name: c, listen: \"127.0.0.1:-1\", no_advertise: true, {tls}, routes: [{routes}] }}"
        ))
    };
    let routes = |server: &node::Server| server.monitor().varz().routes;
    let joins = |more: &str, others: &str| {
        let known = with(more, others);
        let port = known.monitor().varz().cluster.cluster_port;
        let joining = with("", &format!("\"nats-route://localhost:{port}\""));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if routes(&joining) > 0 && routes(&known) > 0 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    };
    assert!(joins("", ""));
    assert!(joins("verify_cert_and_check_known_urls: true", "\"nats-route://localhost:1\""));
    assert!(!joins("verify_cert_and_check_known_urls: true", "\"nats-route://127.0.0.2:1\""));
    assert!(!joins("verify_and_map: true", "\"nats-route://127.0.0.2:1\""));
}

/// Of two names that nobody chose the greater one stays, whichever server it belongs to: so several times.
/// A client that may choose takes its time to begin, and then has as long for its handshake as all others.
#[test]
fn who_chooses_tls_late_is_known_and_timed_as_others() {
    let authority = Authority::new("authority");
    let mounted = Mounted::new("late");
    let (cert, key) = authority.sign("localhost", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem())]);
    let server = start(&format!("allow_non_tls: true\n{}", mounted.tls("timeout: 1.5")));
    let begin_late = || {
        let mut stream = dial(&server);
        line(&mut stream).unwrap();
        // the server has looked at its handshakes meanwhile
        std::thread::sleep(Duration::from_millis(400));
        stream
    };
    let mut open = secured(begin_late(), authority.roots(), None);
    ping(&mut open).unwrap();
    let connz = monitor::respond(server.monitor().as_ref(), "", "/connz", "");
    let connz: serde_json::Value = serde_json::from_slice(&connz.body).unwrap();
    assert_eq!(connz["connections"][0]["tls_version"], "1.3");
    let mut stalled = begin_late();
    stalled.write_all(&[0x16, 3, 1]).unwrap();
    let begun = Instant::now();
    // up to the end: TLS says goodbye first
    let _ = stalled.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < PATIENCE / 2, "cut off in time");
    ping(&mut open).unwrap();
}

#[test]
fn servers_without_a_cluster_name_agree_on_one_over_tls() {
    let authority = Authority::new("authority");
    let mounted = Mounted::new("unnamed");
    let (cert, key) = authority.sign("127.0.0.1", 2040);
    mounted.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem())]);
    let text =
        |routes: &str| format!("cluster {{ listen: \"127.0.0.1:-1\", {routes}\n{} }}", mounted.tls(""));
    for _ in 0..6 {
        let first = start(&text(""));
        let port = first.monitor().varz().cluster.cluster_port;
        let second = start(&text(&format!("routes: [\"nats://127.0.0.1:{port}\"]")));
        let names = || [&first, &second].map(|server| server.monitor().varz().cluster.name);
        let are_one = || second.monitor().varz().routes > 0 && names()[0] == names()[1];
        eventually("one cluster", are_one);
    }
}
