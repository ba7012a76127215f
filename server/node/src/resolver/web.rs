//! Account tokens from a web server (`resolver: URL(…)`): `GET URL/ACCOUNT` answers with the token.
//!
//! Owns the requests, bounded in time and size. Never judges or keeps a token.

use super::Error;
use crate::tls;
use config::tls::Tls;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes of the longest token that is taken.
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// Where systems keep the authorities that they trust, as Go looks for them.
const AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A web server that has tokens.
pub struct Web {
    host: String,
    port: u16,
    /// Of every request, before the account.
    path: String,
    /// `Basic …`, if the URL names a user.
    authorization: Option<String>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Web {
    /// The server of a URL, reached by what `resolver_tls` says.
    ///
    /// # Errors
    /// The URL or the certificates cannot be used.
    pub fn new(url: &str, tls: Option<&Tls>, timeout: Duration) -> Result<Web, Error> {
        let fail = |what: &str| Error::Configuration(format!("resolver: URL(…): {what}"));
        let uri: Uri = url.parse().map_err(|_| fail("this is no URL"))?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(fail("only http:// and https:// are possible")),
        };
        let authority = uri.authority().ok_or_else(|| fail("it names no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| user.to_owned());
        let tls = match is_https {
            true => Some((connector(tls).map_err(|error| fail(&error))?, host.clone())),
            false => None,
        };
        let named = |(connector, host): (TlsConnector, String)| {
            ServerName::try_from(host).ok().map(|name| (connector, name))
        };
        Ok(Web {
            port: authority.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            path: format!("{}/", uri.path().trim_end_matches('/')),
            authorization: user
                .map(|user| format!("Basic {}", data_encoding::BASE64.encode(user.as_bytes()))),
            tls: match tls {
                Some(tls) => Some(named(tls).ok_or_else(|| fail("TLS cannot verify this host"))?),
                None => None,
            },
            host,
            timeout,
        })
    }

    /// The token of an account; of none, whatever the server says then.
    ///
    /// # Errors
    /// Why there is no answer, or what it is instead of a token. Names no secret.
    pub async fn fetch(&self, account: &str) -> Result<String, String> {
        let fetched = tokio::time::timeout(self.timeout, self.fetch_now(account)).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".into()));
        fetched.map_err(|error| {
            format!("could not fetch <{}:{}{}{account}>: {error}", self.host, self.port, self.path)
        })
    }

    async fn fetch_now(&self, account: &str) -> Result<String, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(|error| text(&error))?;
        match &self.tls {
            None => self.talk(stream, account).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(|error| text(&error))?;
                self.talk(stream, account).await
            }
        }
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        account: &str,
    ) -> Result<String, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
        let exchange = async move {
            let mut request = Request::get(format!("{}{account}", self.path)).header(HOST, &self.host);
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let request = request.body(Empty::<Bytes>::new()).map_err(|error| text(&error))?;
            let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
            if answer.status() != StatusCode::OK {
                return Err(answer.status().to_string());
            }
            let body = Limited::new(answer.into_body(), TOKEN_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            String::from_utf8(body.into()).map_err(|error| text(&error))
        };
        // the connection ends when the exchange gives up its half
        let (fetched, _) = tokio::join!(exchange, connection);
        fetched
    }

    /// Waits for tokens; not to be called where others wait for this thread. The first error ends it.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
    pub fn fetch_waiting(self: &Arc<Self>, accounts: Vec<String>) -> Result<Vec<String>, Error> {
        let web = self.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let mut tokens = Vec::new();
                for account in accounts {
                    tokens.push(web.fetch(&account).await?);
                }
                Ok(tokens)
            })
        });
        let fetched = thread.join().unwrap_or_else(|_| Err("the thread that fetches broke".into()));
        fetched.map_err(Error::Configuration)
    }
}

/// TLS as `resolver_tls` says; without authorities there, those that the system trusts.
fn connector(tls: Option<&Tls>) -> Result<TlsConnector, String> {
    let mut tls = tls.cloned().unwrap_or_default();
    if tls.ca_file.is_none() {
        let found = AUTHORITIES.into_iter().find(|file| Path::new(file).exists());
        tls.ca_file = std::env::var("SSL_CERT_FILE").ok().or(found.map(str::to_owned));
    }
    let config = tls::client_config(&tls, &tls::Demands::default(), false);
    config.map(TlsConnector::from).map_err(|error| error.to_string())
}
