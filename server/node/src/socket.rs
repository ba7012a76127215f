//! A connection's socket as the broker's transport, with or without TLS.
//!
//! Owns the system calls of the data path and the TLS records. Never decides anything: full is 0 bytes, gone is
//! an error.
//!
//! TLS state has a lock of its own, taken by the reader and by whoever writes; the lock of the link's output is
//! never held with it across a system call.

use crate::compression::Compression;
use crate::ocsp::verifiers;
use broker::{Mailbox, Transport, mailbox::Command};
use mio::net::TcpStream;
use parking_lot::Mutex;
use rustls::Connection;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU8, Ordering::*};
use std::sync::{Arc, OnceLock};
use wire::s2::Level;

/// First byte of a TLS handshake record; no NATS verb begins with it.
pub const TLS_HANDSHAKE_RECORD: u8 = 0x16;
/// Ciphertext that is taken from the socket at once.
const RECORDS_BYTES: usize = 16 << 10;
/// Plaintext that may wait encrypted: more stays in the link's output, where it is counted.
const ENCRYPTED_BYTES_MAX: usize = 64 << 10;

/// A connection has bytes to be read that no edge tells of.
pub struct ReadAgain(pub u32);

/// How a connection is secured.
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS from the next byte on.
    Tls(Handshake),
    /// TLS if the peer begins with it, else nothing (`allow_non_tls`).
    Either(Handshake),
}

/// A TLS connection at its start.
pub struct Handshake {
    /// The library's state.
    pub connection: Box<Connection>,
    /// Whether the peer's certificate is asked about: that waits for others, so it happens in another thread.
    pub asks: bool,
}

/// No certificate is asked about.
const ASKS_NOTHING: u8 = 0;
/// What came may hold the certificate: it is to be taken to another thread.
const ASKS: u8 = 1;
/// It is there.
const ASKED: u8 = 2;

/// A TCP connection, shared by its owner (who reads) and whoever writes to it.
pub struct Socket {
    stream: TcpStream,
    owner: Arc<Mailbox>,
    token: u32,
    /// Decided at the first read when the peer may choose.
    tls: OnceLock<Option<Mutex<Tls>>>,
    undecided: Mutex<Option<Handshake>>,
    /// Whether the TLS state belongs to another thread for a while.
    asking: AtomicU8,
    /// Of a route whose servers agreed on it.
    compression: OnceLock<Box<Compression>>,
}

struct Tls {
    connection: Box<Connection>,
    /// Ciphertext that was received and not yet fed.
    received: Vec<u8>,
    fed: usize,
    handshaking: bool,
    asks: bool,
    /// The peer's first records were taken; its certificate comes later.
    begun: bool,
    /// What another thread found.
    failed: Option<io::Error>,
}

impl Socket {
    /// Wraps a non-blocking stream that `owner` knows under `token`.
    pub fn new(stream: TcpStream, security: Security, owner: Arc<Mailbox>, token: u32) -> Socket {
        let tls = OnceLock::new();
        let mut undecided = None;
        match security {
            Security::Plain => drop(tls.set(None)),
            Security::Tls(handshake) => drop(tls.set(Some(Mutex::new(Tls::new(handshake))))),
            Security::Either(handshake) => undecided = Some(handshake),
        }
        let compression = OnceLock::new();
        let (undecided, asking) = (Mutex::new(undecided), AtomicU8::new(ASKS_NOTHING));
        Socket { stream, owner, token, tls, undecided, asking, compression }
    }

    /// Registers the stream for both edges.
    ///
    /// # Errors
    /// The system's limits.
    pub fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, mio::Interest::READABLE | mio::Interest::WRITABLE)
    }

    /// Reads what is there: `Ok(None)` when nothing is, `Ok(Some(0))` at the end. Less than the room means that
    /// the socket is empty.
    ///
    /// # Errors
    /// The connection broke, or its TLS records are wrong.
    pub fn read(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        if self.tls.get().is_none() && !self.decide()? {
            return Ok(None);
        }
        match self.compression.get() {
            None => self.read_bytes(room),
            Some(compression) => compression.read(room, |room| self.read_bytes(room)),
        }
    }

    fn read_bytes(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match self.tls.get() {
            Some(Some(_)) if self.is_asking() => Ok(None),
            Some(Some(tls)) => self.read_tls(&mut tls.lock(), room),
            _ => retry(|| (&self.stream).read(room)),
        }
    }

    /// Bytes that were taken, 0 when full.
    fn write_bytes(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(Some(tls)) = self.tls.get() {
            return if self.is_asking() { Ok(0) } else { self.write_tls(&mut tls.lock(), slices) };
        }
        let written = match slices {
            [one] => retry(|| (&self.stream).write(one)),
            many => retry(|| (&self.stream).write_vectored(many)),
        };
        Ok(written?.unwrap_or(0))
    }

    /// Whether a handshake was begun and is not over.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.tls.get(), Some(Some(tls)) if self.is_asking() || tls.lock().handshaking)
    }

    /// Whether the peer may still choose between TLS and none.
    pub fn is_undecided(&self) -> bool {
        self.tls.get().is_none()
    }

    fn is_asking(&self) -> bool {
        self.asking.load(Acquire) != ASKS_NOTHING
    }

    /// Whether [`verify`](Self::verify) is to be called, in a thread that may wait. Says so once.
    pub fn take_verification(&self) -> bool {
        self.asking.load(Relaxed) == ASKS
            && self.asking.compare_exchange(ASKS, ASKED, AcqRel, Relaxed).is_ok()
    }

    /// Goes on with a handshake that asks about the peer's certificate. Waits; then the owner reads on.
    pub fn verify(&self) {
        if let Some(Some(tls)) = self.tls.get() {
            let tls = &mut *tls.lock();
            let processed = tls.connection.process_new_packets();
            let sent = self.send_records(tls);
            let refused = |error| match error == verifiers::REJECTION {
                true => io::Error::other(verifiers::CLIENT_REJECTED),
                false => io::Error::new(io::ErrorKind::InvalidData, error),
            };
            tls.failed = processed.map_err(refused).err().or(sent.err());
            // before anything is posted: the owner is to find the state its own again
            self.asking.store(ASKS_NOTHING, Release);
            self.end_handshake(tls);
        }
        self.owner.post(Command::Other(Box::new(ReadAgain(self.token))));
    }

    fn end_handshake(&self, tls: &mut Tls) {
        if tls.handshaking && !tls.connection.is_handshaking() {
            tls.handshaking = false;
            // output that waited for the handshake has no edge to wait for
            self.owner.post(Command::Writable(self.token));
        }
    }

    /// Runs `look` on the TLS connection, if there is one.
    pub fn with_tls<R>(&self, look: impl FnOnce(&Connection) -> R) -> Option<R> {
        match self.tls.get() {
            Some(Some(tls)) if !self.is_asking() => Some(look(&tls.lock().connection)),
            _ => None,
        }
    }

    /// Sends records that wait. To be called on a writable edge, before the link's output is.
    pub fn writable(&self) {
        if let Some(Some(tls)) = self.tls.get()
            && !self.is_asking()
        {
            // an error shows again at the next read or write
            let _ = self.send_records(&mut tls.lock());
        }
        if let Some(compression) = self.compression.get() {
            let _ = compression.write(&[], |slices| self.write_bytes(slices));
        }
    }

    /// Looks at the first byte of a peer that may choose; `false` while there is none.
    fn decide(&self) -> io::Result<bool> {
        let mut first = [0];
        match retry(|| self.stream.peek(&mut first))? {
            None => return Ok(false),
            Some(n) => {
                let handshake = self.undecided.lock().take();
                let tls = handshake.filter(|_| n == 1 && first[0] == TLS_HANDSHAKE_RECORD);
                let _ = self.tls.set(tls.map(|handshake| Mutex::new(Tls::new(handshake))));
            }
        }
        Ok(true)
    }

    fn read_tls(&self, tls: &mut Tls, room: &mut [u8]) -> io::Result<Option<usize>> {
        if let Some(error) = tls.failed.take() {
            return Err(error);
        }
        let mut filled = 0;
        loop {
            match tls.connection.reader().read(&mut room[filled..]) {
                Ok(0) => return Ok(Some(filled)),
                Ok(read) => {
                    filled += read;
                    if filled == room.len() {
                        return Ok(Some(filled));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // the peer closed without a goodbye: what it sent stays valid, NATS frames its messages
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(filled)),
                Err(error) => return Err(error),
            }
            if tls.fed == tls.received.len() {
                tls.received.resize(RECORDS_BYTES, 0);
                tls.fed = 0;
                let read = retry(|| (&self.stream).read(&mut tls.received));
                tls.received.truncate(read.as_ref().map_or(0, |read| read.unwrap_or(0)));
                match read? {
                    None => {
                        tls.received = Vec::new();
                        return Ok((filled > 0).then_some(filled));
                    }
                    Some(0) => return Ok(Some(filled)),
                    Some(_) => {}
                }
            }
            let mut rest = &tls.received[tls.fed..];
            tls.fed += tls.connection.read_tls(&mut rest)?;
            if tls.asks && tls.handshaking && std::mem::replace(&mut tls.begun, true) {
                self.asking.store(ASKS, Release);
                return Ok(None);
            }
            let processed = tls.connection.process_new_packets();
            self.send_records(tls)?;
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.end_handshake(tls);
        }
    }

    /// Encrypts and sends until the socket is full or everything is taken: to stop short of both would leave
    /// the link waiting for a writable edge that never comes.
    fn write_tls(&self, tls: &mut Tls, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if tls.handshaking {
            return Ok(0);
        }
        let mut pieces = slices.to_vec();
        let mut rest = &mut pieces[..];
        let mut taken = 0;
        while self.send_records(tls)? && !rest.is_empty() {
            let written = tls.connection.writer().write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, written);
            taken += written;
        }
        Ok(taken)
    }

    /// `true` when nothing waits any more.
    fn send_records(&self, tls: &mut Tls) -> io::Result<bool> {
        while tls.connection.wants_write() {
            if retry(|| tls.connection.write_tls(&mut &self.stream))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Tls {
    fn new(handshake: Handshake) -> Tls {
        let Handshake { mut connection, asks } = handshake;
        connection.set_buffer_limit(Some(ENCRYPTED_BYTES_MAX));
        Tls { connection, received: Vec::new(), fed: 0, handshaking: true, asks, begun: false, failed: None }
    }
}

/// `None` instead of "would block"; goes on when interrupted.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the link holds.
pub struct SocketTransport(pub Arc<Socket>);

impl Transport for SocketTransport {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = &*self.0;
        match socket.compression.get() {
            None => socket.write_bytes(slices),
            Some(compression) => compression.write(slices, |slices| socket.write_bytes(slices)),
        }
    }

    fn compress(&self, level: Level, plain_bytes: usize) {
        match self.0.compression.get() {
            Some(compression) => compression.set_level(level),
            None => drop(self.0.compression.set(Box::new(Compression::new(level, plain_bytes)))),
        }
    }

    fn unread(&self, bytes: &[u8]) {
        if let (Some(compression), false) = (self.0.compression.get(), bytes.is_empty()) {
            compression.unread(bytes);
            // no edge tells of them
            self.0.owner.post(Command::Other(Box::new(ReadAgain(self.0.token))));
        }
    }

    fn rearm(&self) {
        self.0.owner.post(Command::Writable(self.0.token));
    }

    fn peer_certificates(&self) -> Vec<Vec<u8>> {
        let chain = |tls: &Connection| {
            let chain = tls.peer_certificates().unwrap_or_default();
            chain.iter().map(|certificate| certificate.to_vec()).collect()
        };
        self.0.with_tls(chain).unwrap_or_default()
    }

    fn shutdown(&self) {
        if let Some(Some(tls)) = self.0.tls.get()
            && let Some(mut tls) = tls.try_lock()
        {
            tls.connection.send_close_notify();
            let _ = self.0.send_records(&mut tls);
        }
        // fails only when the peer is gone already
        let _ = self.0.stream.shutdown(Shutdown::Both);
    }
}
