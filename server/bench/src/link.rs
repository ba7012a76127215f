//! Owns connections to a server: opening them, the handshake, TLS, reading and writing without
//! blocking. Never decides what is sent or counts what it means.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::frames::{Frame, FrameCounter, next_frame};

/// Longest wait for an answer while setting up.
const ANSWER_SECONDS_MAX: u64 = 30;

/// Plaintext taken by a TLS connection before it must be written out.
const TLS_BUFFER_BYTES: usize = 128 * 1024;

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The server's client port.
    pub address: SocketAddr,
    /// Set when the server demands TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Token.
    pub token: Option<String>,
}

impl Endpoint {
    /// A server without TLS and login.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, user: None, token: None }
    }

    /// The CONNECT line and a PING behind it.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let mut connect = serde_json::json!({
            "verbose": false, "pedantic": false, "tls_required": self.tls.is_some(),
            "name": "starling-bench", "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
            "protocol": 1, "headers": true, "no_responders": true, "echo": true,
        });
        if let (Some((user, password)), Some(map)) = (&self.user, connect.as_object_mut()) {
            map.insert("user".to_owned(), user.as_str().into());
            map.insert("pass".to_owned(), password.as_str().into());
        }
        if let (Some(token), Some(map)) = (&self.token, connect.as_object_mut()) {
            map.insert("auth_token".to_owned(), token.as_str().into());
        }
        format!("CONNECT {connect}\r\nPING\r\n").into_bytes()
    }

    /// A socket not yet connected, bound to the loopback address that stands for client `spread` when
    /// the server is on loopback: so no source address runs out of ports.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn socket(&self, spread: Option<usize>) -> Result<Socket, Error> {
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
            .map_err(|source| Error::io("opening a socket", source))?;
        socket.set_tcp_nodelay(true).map_err(|source| Error::io("setting TCP_NODELAY", source))?;
        if let (Some(client), true) = (spread, self.address.ip().is_loopback())
            && self.address.is_ipv4()
        {
            let source = SocketAddr::from((spread_address(client), 0));
            socket.bind(&source.into()).map_err(|error| Error::io(format!("binding to {source}"), error))?;
        }
        Ok(socket)
    }

    /// Connects and waits for the answer to the first PING.
    ///
    /// # Errors
    /// When the server is away, refuses, or speaks something else.
    pub fn connect(&self, spread: Option<usize>) -> Result<Connection, Error> {
        let what = || format!("connecting to {}", self.address);
        let socket = self.socket(spread)?;
        socket.connect(&self.address.into()).map_err(|source| Error::io(what(), source))?;
        let mut stream = TcpStream::from(socket);
        let limit = Some(Duration::from_secs(ANSWER_SECONDS_MAX));
        stream
            .set_read_timeout(limit)
            .and_then(|()| stream.set_write_timeout(limit))
            .map_err(|source| Error::io(what(), source))?;
        read_info(&mut stream)?;
        let mut tls = None;
        if let Some(config) = &self.tls {
            let name = ServerName::try_from("localhost").map_err(tls_error)?;
            let mut session = ClientConnection::new(Arc::clone(config), name).map_err(tls_error)?;
            session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            while session.is_handshaking() {
                session.complete_io(&mut stream).map_err(tls_error)?;
            }
            tls = Some(Box::new(session));
        }
        let mut connection = Connection { stream, tls, pending: Vec::new() };
        connection.send(&self.hello())?;
        connection.wait_for_pong("CONNECT")?;
        Ok(connection)
    }
}

/// 127.A.B.1 with A and B from the client's number: 40,000 addresses, none of them 127.0.0.1.
fn spread_address(client: usize) -> Ipv4Addr {
    let part = |value: usize| (value % 200) as u8 + 1;
    Ipv4Addr::new(127, part(client / 200), part(client), 1)
}

fn tls_error(error: impl std::fmt::Display) -> Error {
    Error::Tls(error.to_string())
}

/// Takes the INFO line and nothing behind it: with TLS the bytes that follow are not ours to read.
fn read_info(stream: &mut TcpStream) -> Result<(), Error> {
    let waiting = |source| Error::io("waiting for INFO", source);
    let mut buffer = vec![0_u8; 32 * 1024];
    let started = Instant::now();
    loop {
        let seen = stream.peek(&mut buffer).map_err(waiting)?;
        let bytes = buffer.get(..seen).unwrap_or_default();
        if let Some(end) = memchr::memchr(b'\n', bytes) {
            let mut line = vec![0_u8; end + 1];
            stream.read_exact(&mut line).map_err(waiting)?;
            return if line.starts_with(b"INFO ") { Ok(()) } else { Err(Error::protocol("no INFO", &line)) };
        }
        if seen == 0 || seen == buffer.len() || started.elapsed().as_secs() >= ANSWER_SECONDS_MAX {
            return Err(Error::protocol("no INFO", bytes));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A connection on which calls block: for setting up and for single clients.
pub struct Connection {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Received, not yet understood.
    pending: Vec<u8>,
}

impl Connection {
    /// Sends all bytes.
    ///
    /// # Errors
    /// When the connection breaks or nothing moves for 30 s.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(session) => {
                let mut stream = rustls::Stream::new(session.as_mut(), &mut self.stream);
                stream.write_all(bytes).and_then(|()| stream.flush())
            }
        };
        sent.map_err(|source| Error::io("sending", source))
    }

    /// Subscribes by `lines` (whole SUB lines) and waits until the server has taken them all.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn subscribe(&mut self, lines: &[u8]) -> Result<(), Error> {
        self.send(lines)?;
        self.send(b"PING\r\n")?;
        self.wait_for_pong("SUB")
    }

    fn wait_for_pong(&mut self, what: &str) -> Result<(), Error> {
        let mut counter = FrameCounter::default();
        loop {
            counter.feed(&self.pending)?;
            self.pending.clear();
            if let Some(error) = counter.error {
                return Err(Error::Refused { what: what.to_owned(), error });
            }
            if counter.pongs > 0 {
                return Ok(());
            }
            self.receive(what)?;
        }
    }

    /// Waits for one message; `true` when its payload starts with `payload`.
    ///
    /// # Errors
    /// When the server refuses, closes, or is silent for 30 s.
    pub fn wait_for_message(&mut self, payload: &[u8]) -> Result<bool, Error> {
        loop {
            while let Some((frame, taken)) = next_frame(&self.pending)? {
                let found = match &frame {
                    Frame::Message(message) => Some(message.payload.starts_with(payload)),
                    Frame::Error(text) => {
                        return Err(Error::Refused {
                            what: "a message".to_owned(),
                            error: String::from_utf8_lossy(text).into_owned(),
                        });
                    }
                    _ => None,
                };
                let ping = frame == Frame::Ping;
                self.pending.drain(..taken);
                if ping {
                    self.send(b"PONG\r\n")?;
                }
                if let Some(same) = found {
                    return Ok(same);
                }
            }
            self.receive("a message")?;
        }
    }

    /// How long a wait may last from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_patience(&mut self, limit: Duration) -> Result<(), Error> {
        self.stream.set_read_timeout(Some(limit)).map_err(|source| Error::io("setting a time limit", source))
    }

    fn receive(&mut self, what: &str) -> Result<(), Error> {
        let mut buffer = [0_u8; 16 * 1024];
        let read = match &mut self.tls {
            None => self.stream.read(&mut buffer),
            Some(session) => rustls::Stream::new(session.as_mut(), &mut self.stream).read(&mut buffer),
        };
        match read {
            Ok(0) => Err(Error::Closed { what: what.to_owned(), detail: "end of stream".to_owned() }),
            Ok(bytes) => {
                self.pending.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
                Ok(())
            }
            Err(source) => Err(Error::io(format!("waiting for the answer to {what}"), source)),
        }
    }

    /// The same connection with calls that do not block.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn into_transport(self) -> Result<Transport, Error> {
        self.stream.set_nonblocking(true).map_err(|source| Error::io("setting O_NONBLOCK", source))?;
        Ok(Transport { stream: mio::net::TcpStream::from_std(self.stream), tls: self.tls })
    }
}

/// A connection on which reads and writes return at once.
pub struct Transport {
    stream: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// A bare connection that has not been greeted yet.
    #[must_use]
    pub fn of(stream: mio::net::TcpStream) -> Self {
        Self { stream, tls: None }
    }

    /// What to register for events. Events are edges: read and write until `WouldBlock`.
    pub fn source(&mut self) -> &mut mio::net::TcpStream {
        &mut self.stream
    }

    /// Whether a read shorter than its buffer means that nothing is left (so of plain sockets).
    #[must_use]
    pub fn short_read_is_all(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads what is there, at most a buffer full; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; others as the system says.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.tls else {
            return self.stream.read(buffer);
        };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if session.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Writes a part of `bytes`; with TLS the part may still wait inside, see [`Self::flush`].
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; others as the system says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let Some(session) = &mut self.tls else {
            return self.stream.write(bytes);
        };
        let taken = session.writer().write(bytes)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what TLS holds back.
    ///
    /// # Errors
    /// `WouldBlock` when not all fits.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.tls {
            while session.wants_write() {
                session.write_tls(&mut self.stream)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_loopback() {
        assert_eq!(spread_address(0), Ipv4Addr::new(127, 1, 1, 1));
        assert_eq!(spread_address(201), Ipv4Addr::new(127, 2, 2, 1));
        let all: std::collections::HashSet<_> = (0..40_000).map(spread_address).collect();
        assert_eq!(all.len(), 40_000);
    }

    #[test]
    fn the_login_is_in_the_hello() {
        let mut endpoint = Endpoint::plain("127.0.0.1:4222".parse().unwrap());
        endpoint.user = Some(("u".to_owned(), "p".to_owned()));
        let hello = String::from_utf8(endpoint.hello()).unwrap();
        assert!(hello.starts_with("CONNECT {") && hello.ends_with("}\r\nPING\r\n"));
        assert!(hello.contains("\"user\":\"u\"") && hello.contains("\"pass\":\"p\""));
    }
}
