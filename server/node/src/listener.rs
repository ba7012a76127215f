//! Accepting clients, in a thread of its own.
//!
//! Owns the clients' listener. Accepts with a poll of its own rather than through the control thread's runtime, which
//! would watch each new connection and give it up again at once: in a storm of connections system calls are what
//! counts. Who must be listened to before it is taken in (a PROXY header, a TLS record that may come first) is handed
//! to that runtime.

use crate::proxy;
use crate::shared::Shared;
use crate::socket;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

const LISTENER: Token = Token(0);
const END: Token = Token(1);
/// Connections whose PROXY header is waited for at a time; further ones wait to be accepted.
const PROXY_HEADERS_MAX: usize = 4096;
/// Pause while so many are waited for.
const CROWDED_PAUSE: Duration = Duration::from_millis(5);
/// Pause when no connection can be accepted.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The thread that accepts clients; it ends with this.
pub(crate) struct Accepting {
    ended: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Accepting {
    /// Accepts on `listener`, which does not block.
    ///
    /// # Errors
    /// The system's limits.
    pub fn spawn(
        shared: Arc<Shared>,
        listener: std::net::TcpListener,
        runtime: Handle,
    ) -> io::Result<Accepting> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), END)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let ended = Arc::new(AtomicBool::new(false));
        let headers = Arc::new(Semaphore::new(PROXY_HEADERS_MAX));
        let acceptor = Acceptor { shared, listener, runtime, headers, ended: ended.clone() };
        let thread = std::thread::Builder::new().name("listener".into()).spawn(move || acceptor.run(poll))?;
        Ok(Accepting { ended, waker, thread: Some(thread) })
    }

    /// Nobody is accepted any more; the listener is closed when this returns.
    pub fn end(&mut self) {
        self.ended.store(true, Release);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.end();
    }
}

struct Acceptor {
    shared: Arc<Shared>,
    listener: mio::net::TcpListener,
    runtime: Handle,
    headers: Arc<Semaphore>,
    ended: Arc<AtomicBool>,
}

impl Acceptor {
    fn run(self, mut poll: Poll) {
        let mut events = Events::with_capacity(8);
        while !self.ended.load(Acquire) {
            if self.accept_all() {
                match poll.poll(&mut events, None) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                        return tracing::error!("no client connection is accepted any more: {error}");
                    }
                    _ => {}
                }
            } else {
                // out of file descriptors, most likely: waiting lets some close
                std::thread::sleep(REFUSED_PAUSE);
            }
        }
    }

    /// Takes in who waits; `false` when somebody could not be accepted.
    fn accept_all(&self) -> bool {
        while !self.ended.load(Acquire) {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream.into(), peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // a peer that is gone already is no reason to wait
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    tracing::error!("cannot accept client connections: {error}; trying again in 100 ms");
                    return false;
                }
            }
        }
        true
    }

    fn admit(&self, stream: std::net::TcpStream, peer: SocketAddr) {
        let wait = self.shared.handshake_first_wait();
        let is_proxied = self.shared.settings().proxy_protocol;
        if !is_proxied && wait.is_none() {
            return self.shared.admit_client(stream, peer, false);
        }
        let mut permit = None;
        while is_proxied && permit.is_none() {
            if self.ended.load(Acquire) {
                return;
            }
            permit = self.headers.clone().try_acquire_owned().ok();
            if permit.is_none() {
                std::thread::sleep(CROWDED_PAUSE);
            }
        }
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            if let Err(error) = listen_first(&shared, stream, peer, is_proxied).await {
                tracing::error!("cannot take a client connection over: {error}");
            }
            drop(permit);
        });
    }
}

/// Reads who is behind a load balancer and whether the client begins with TLS, then takes the client in.
async fn listen_first(
    shared: &Shared,
    stream: std::net::TcpStream,
    mut peer: SocketAddr,
    is_proxied: bool,
) -> io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    if is_proxied {
        match proxy::read(&mut stream).await {
            Ok(client) => peer = client.unwrap_or(peer),
            Err(error) => {
                tracing::warn!("Error reading PROXY protocol header from {peer}: {error}");
                return Ok(());
            }
        }
    }
    let begins = match shared.handshake_first_wait() {
        None => false,
        Some(wait) => begins_handshake(&stream, wait).await,
    };
    shared.admit_client(stream.into_std()?, peer, begins);
    Ok(())
}

/// `handshake_first: auto`: whether the client begins with TLS within this time, instead of waiting for INFO.
async fn begins_handshake(stream: &TcpStream, wait: Duration) -> bool {
    let mut first = [0];
    let peeked = tokio::time::timeout(wait, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first[0] == socket::TLS_HANDSHAKE_RECORD
}
