//! The monitor port: HTTP around the documents of the `monitor` room.
//!
//! Owns the accepting of HTTP connections, their TLS, and every limit on what a peer may cost: connections, header
//! bytes and time, time for a whole connection, documents made at a time. Never knows what a document says:
//! [`monitor::respond`] turns a path into an answer. Request bodies are never read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use monitor::Source;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Connections at a time; further ones wait in the listener's backlog until one ends.
const CONNECTIONS_MAX: usize = 256;

/// Bytes that the head of a request may take: line and headers together.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Headers in a request.
const HEADERS_MAX: usize = 64;

/// Time for the head of a request, also the time that a kept-alive connection may be idle. Longer than the scrape
/// interval of most collectors, so that they need not connect anew each time.
const HEAD_TIME_MAX: Duration = Duration::from_secs(65);

/// Time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// After this time a connection finishes the request it is at and ends.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);

/// Time to finish; a peer that does not read its answer loses it then.
const FINISH_TIME_MAX: Duration = Duration::from_secs(30);

/// Documents made at a time. Each may be as large as the server has connections.
const DOCUMENTS_MAX: usize = 2;

/// Wait after a failed accept, mostly for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// TLS for a new connection of the monitor; `None` for plain HTTP.
pub type Tls = Box<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>;

/// Serves the monitor port until the future is dropped, which also ends all its connections.
///
/// `base_path` is `http_base_path` as configured. With `tls` the port speaks HTTPS only; clients are not asked for
/// certificates unless that configuration says so (nats-server never does here). Runs on any tokio runtime with
/// I/O and time enabled; large documents are made on its blocking threads, health probes at once.
pub async fn serve(listener: TcpListener, base_path: String, source: Arc<dyn Source>, tls: Tls) {
    let server = Arc::new(Server { base_path, source, documents: Semaphore::new(DOCUMENTS_MAX) });
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        // Finished connections are let go of while waiting for the next one.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                debug!(%peer, "monitor connection");
                connections.spawn(connection(server.clone(), tls().map(TlsAcceptor::from), stream));
            }
            Err(error) => {
                warn!(%error, "the monitor port cannot accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

struct Server {
    base_path: String,
    source: Arc<dyn Source>,
    documents: Semaphore,
}

async fn connection(server: Arc<Server>, acceptor: Option<TlsAcceptor>, stream: TcpStream) {
    // Answers are written whole: waiting for more bytes to send would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return exchange(server, stream).await };
    match timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => exchange(server, stream).await,
        Ok(Err(error)) => debug!(%error, "monitor TLS handshake"),
        Err(_) => debug!("monitor TLS handshake took too long"),
    }
}

/// Requests and answers on one connection.
async fn exchange(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let service = service_fn(move |request| answer(server.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = match timeout(CONNECTION_TIME_MAX, connection.as_mut()).await {
        Ok(result) => result,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(FINISH_TIME_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        debug!(%error, "monitor connection");
    }
}

async fn answer(
    server: Arc<Server>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = Response::new(Full::from("method not allowed\n"));
        *refusal.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    let uri = request.uri().clone();
    let make = move |server: &Server| {
        monitor::respond(server.source.as_ref(), &server.base_path, uri.path(), uri.query().unwrap_or(""))
    };
    // A probe must not wait behind the list of all connections, or the server is restarted for being asked.
    if is_probe(request.uri().path()) {
        return Ok(encode(make(&server)));
    }
    let Ok(_permit) = server.documents.acquire().await else { return Ok(unavailable()) };
    let blocking = server.clone();
    match tokio::task::spawn_blocking(move || make(&blocking)).await {
        Ok(response) => Ok(encode(response)),
        Err(error) => {
            warn!(%error, path = request.uri().path(), "a monitoring document could not be made");
            Ok(unavailable())
        }
    }
}

fn is_probe(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("healthz" | "livez" | "readyz"))
}

fn unavailable() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("internal error\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn encode(document: monitor::Response) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(document.body));
    *response.status_mut() =
        StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(document.content_type));
    if document.any_origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if let Some(location) = document.location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests;
