//! A connection's socket as the broker's transport.
//!
//! Owns the system calls of the data path. Never decides anything: full is 0 bytes, gone is an error.

use broker::{Mailbox, Transport, mailbox::Command};
use mio::net::TcpStream;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

/// A plain TCP connection, shared by its owner (who reads) and whoever writes to it.
pub struct Socket {
    stream: TcpStream,
    owner: Arc<Mailbox>,
    token: u32,
}

impl Socket {
    /// Wraps a non-blocking stream that `owner` knows under `token`.
    pub fn new(stream: TcpStream, owner: Arc<Mailbox>, token: u32) -> Socket {
        Socket { stream, owner, token }
    }

    /// Reads what is there: `Ok(None)` when nothing is, `Ok(Some(0))` at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.stream).read(room) {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Registers the stream for both edges.
    ///
    /// # Errors
    /// The system's limits.
    pub fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, mio::Interest::READABLE | mio::Interest::WRITABLE)
    }
}

/// What the link holds.
pub struct SocketTransport(pub Arc<Socket>);

impl Transport for SocketTransport {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stream = &self.0.stream;
        loop {
            let result = match slices {
                [one] => stream.write(one),
                many => stream.write_vectored(many),
            };
            match result {
                Ok(written) => return Ok(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rearm(&self) {
        self.0.owner.post(Command::Writable(self.0.token));
    }

    fn shutdown(&self) {
        // fails only when the peer is gone already
        let _ = self.0.stream.shutdown(Shutdown::Both);
    }
}
