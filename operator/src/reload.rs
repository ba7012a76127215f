//! Asking a running server to load its configuration, as a NATS client.
//!
//! Owns the one request that the operator makes of a server (`$SYS.REQ.SERVER.<id>.RELOAD`, nats-server's own),
//! over a connection to that server's client port as the system account's user of [`Login`]. Never decides
//! who is asked and when ([`crate::rollout`] does), and never tries twice.

use std::sync::Arc;
use std::time::Duration;

use nkeys::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    BufReader,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest line of a server that is read; INFO with the addresses of 99 servers stays far below.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Servers that want the TLS handshake first say nothing; others say INFO at once.
const INFO_TIME_MAX: Duration = Duration::from_millis(500);

/// Why a server has not loaded its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It says so: nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It could not be asked; it may be asked again.
    #[error("cannot ask {address} to load its configuration: {problem}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What went wrong.
        problem: String,
    },
}

/// What a server knows us by, and what we know it by.
pub struct Login {
    /// Key of the system account's user.
    pub key: KeyPair,
    /// With TLS towards clients.
    pub tls: Option<Trust>,
}

/// TLS towards clients, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Authorities that sign servers' certificates.
    pub authorities: String,
    /// A name in the servers' certificate; pods are reached by address.
    pub server_name: String,
    /// Certificate and key to show, where servers ask for one.
    pub certificate: Option<(String, String)>,
}

/// Has the server at `address` (`host:port`) load the configuration that it finds now.
///
/// # Errors
/// See [`ReloadError`].
pub async fn ask(address: &str, login: &Login, time_max: Duration) -> Result<(), ReloadError> {
    let unreachable = |problem| ReloadError::Unreachable { address: address.to_owned(), problem };
    match tokio::time::timeout(time_max, exchange(address, login)).await {
        Ok(Ok(answer)) => verdict(&answer).map_err(unreachable)?.map_err(ReloadError::Refused),
        Ok(Err(problem)) => Err(unreachable(problem)),
        Err(_) => Err(unreachable(format!("no answer within {} s", time_max.as_secs()))),
    }
}

/// Fields of INFO that we read.
#[derive(Deserialize)]
struct Info {
    server_id: String,
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    tls_available: bool,
}

/// The answer to RELOAD.
#[derive(Deserialize)]
struct Answer {
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    description: String,
}

fn verdict(answer: &[u8]) -> Result<Result<(), String>, String> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| format!("its answer: {error}"))?;
    Ok(match answer.error {
        Some(error) => Err(error.description),
        None => Ok(()),
    })
}

/// The answer's bytes, or why there is none.
async fn exchange(address: &str, login: &Login) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(text)?;
    let mut stream = BufReader::new(stream);
    let info = match tokio::time::timeout(INFO_TIME_MAX, read_info(&mut stream)).await {
        Ok(info) => Some(info?),
        Err(_) => None,
    };
    let Some(trust) = &login.tls else {
        let info = info.ok_or("it sends no INFO, as servers do that want TLS at once")?;
        if info.tls_required {
            return Err("it wants TLS, and spec.listeners[].tls asks for none".to_owned());
        }
        return request(stream, &info, login).await;
    };
    if info.as_ref().is_some_and(|info| !info.tls_required && !info.tls_available) {
        return request(stream, info.as_ref().ok_or("no INFO")?, login).await;
    }
    let name = ServerName::try_from(trust.server_name.clone()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(trust.client_config()?));
    let mut stream = BufReader::new(connector.connect(name, stream.into_inner()).await.map_err(text)?);
    let info = match info {
        Some(info) => info,
        None => read_info(&mut stream).await?,
    };
    request(stream, &info, login).await
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<String, String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await.map_err(|error| error.to_string())?;
    match line.ends_with('\n') {
        true => Ok(line.trim_end().to_owned()),
        false if line.is_empty() => Err("it closed the connection".to_owned()),
        false => Err("its line does not end".to_owned()),
    }
}

async fn read_info(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Info, String> {
    let line = read_line(stream).await?;
    let json = line.strip_prefix("INFO ").ok_or("it is no NATS server: its first line is no INFO")?;
    serde_json::from_str(json).map_err(|error| format!("its INFO: {error}"))
}

async fn request<S>(mut stream: BufReader<S>, info: &Info, login: &Login) -> Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let signature = login.key.sign(info.nonce.as_bytes()).map_err(|error| error.to_string())?;
    let connect = serde_json::json!({
        "verbose": false, "pedantic": false, "protocol": 1, "echo": true, "headers": true, "no_responders": true,
        "name": "starling-operator", "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
        "nkey": login.key.public_key(), "sig": data_encoding::BASE64URL_NOPAD.encode(&signature),
    });
    // The id comes from a peer, and goes into a line.
    if info.server_id.is_empty() || !info.server_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!("its server_id is {:?}", info.server_id));
    }
    let inbox = format!("_INBOX.starling.{}", login.key.public_key());
    let subject = format!("$SYS.REQ.SERVER.{}.RELOAD", info.server_id);
    let text = format!("CONNECT {connect}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} 0\r\n\r\n");
    stream.get_mut().write_all(text.as_bytes()).await.map_err(|error| error.to_string())?;
    stream.get_mut().flush().await.map_err(|error| error.to_string())?;
    loop {
        let line = read_line(&mut stream).await?;
        let word = line.split(' ').next().unwrap_or_default();
        match word {
            "PING" => stream.get_mut().write_all(b"PONG\r\n").await.map_err(|error| error.to_string())?,
            "-ERR" => return Err(line),
            "HMSG" => return Err("it answers no requests of the system account".to_owned()),
            "MSG" => {
                let size = line.rsplit(' ').next().and_then(|text| text.parse().ok());
                let size: usize =
                    size.filter(|size| *size <= ANSWER_BYTES_MAX).ok_or("its answer is too long")?;
                let mut answer = vec![0; size];
                stream.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
                return Ok(answer);
            }
            _ => {}
        }
    }
}

impl Trust {
    fn client_config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(self.authorities.as_bytes()) {
            let authority = authority.map_err(|error| format!("ca.crt: {error}"))?;
            roots.add(authority).map_err(|error| format!("ca.crt: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.certificate else { return Ok(builder.with_no_client_auth()) };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("tls.key: {error}"))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const INFO: &str = r#"INFO {"server_id":"NABC","nonce":"abc"}"#;

    /// A server that says `info`, and answers the first request.
    async fn server(info: &str, answer: &str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let (info, answer) = (info.to_owned(), answer.to_owned());
        let task = tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.expect("client").0);
            stream.get_mut().write_all(format!("{info}\r\n").as_bytes()).await.expect("INFO");
            let (mut heard, mut inbox) = (String::new(), String::new());
            while !heard.contains("RELOAD") {
                let Ok(line) = read_line(&mut stream).await else { return heard };
                if let Some(rest) = line.strip_prefix("SUB ") {
                    inbox = rest.trim_end_matches(" 1").to_owned();
                }
                heard.push_str(&line);
                heard.push('\n');
            }
            let text = format!("PING\r\nMSG {inbox} 1 {}\r\n{answer}\r\n", answer.len());
            stream.get_mut().write_all(text.as_bytes()).await.expect("answer");
            heard
        });
        (address, task)
    }

    fn login() -> Login {
        Login { key: KeyPair::new_user(), tls: None }
    }

    const TIME_MAX: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_server_is_asked_by_its_id_as_the_user_of_the_key() {
        let login = login();
        let (address, heard) = server(INFO, r#"{"server":{}}"#).await;
        ask(&address, &login, TIME_MAX).await.expect("loaded");
        let heard = heard.await.expect("server");
        assert!(heard.contains("PUB $SYS.REQ.SERVER.NABC.RELOAD "), "{heard}");
        let sent = heard.lines().find_map(|line| line.strip_prefix("CONNECT ")).expect("CONNECT");
        let sent: serde_json::Value = serde_json::from_str(sent).expect("JSON");
        assert_eq!(sent["nkey"], login.key.public_key());
        let signature = sent["sig"].as_str().expect("signature").as_bytes();
        let signature = data_encoding::BASE64URL_NOPAD.decode(signature).expect("base64");
        login.key.verify(b"abc", &signature).expect("of the nonce");
    }

    #[tokio::test]
    async fn what_a_server_refuses_is_told_in_its_words() {
        let (address, _) = server(INFO, r#"{"error":{"code":500,"description":"no such file"}}"#).await;
        let error = ask(&address, &login(), TIME_MAX).await.expect_err("refused");
        assert!(matches!(&error, ReloadError::Refused(words) if words == "no such file"), "{error}");
    }

    #[tokio::test]
    async fn whoever_is_no_such_server_is_unreachable_not_refused() {
        for info in [
            r#"INFO {"server_id":"N\r\nPUB x 0","nonce":"abc"}"#,
            r#"INFO {"server_id":"NABC","tls_required":true}"#,
            "HTTP/1.1 400",
            "INFO {",
            "-ERR 'maximum connections exceeded'",
        ] {
            let (address, _) = server(info, "{}").await;
            let error = ask(&address, &login(), TIME_MAX).await.expect_err(info);
            assert!(matches!(error, ReloadError::Unreachable { .. }), "{info}: {error}");
        }
        let error = ask("127.0.0.1:1", &login(), TIME_MAX).await.expect_err("nobody there");
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
