//! Owns a connection whose single messages matter: what it receives is taken apart, what it sends is
//! gathered and written once a turn. Never counts or times.

use std::io;

use mio::{Interest, Registry, Token};

use crate::Error;
use crate::frames::{Frame, Message, next_frame};
use crate::link::{Connection, Transport};

/// A connection that sends and receives single messages without blocking.
pub struct Talker {
    transport: Transport,
    name: String,
    inbox: Vec<u8>,
    /// Bytes to be sent.
    pub outbox: Vec<u8>,
    sent: usize,
    /// PONGs received.
    pub pongs: u64,
}

impl Talker {
    /// Takes over a connection and registers it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(
        connection: Connection,
        name: impl Into<String>,
        registry: &Registry,
        token: usize,
    ) -> Result<Self, Error> {
        let mut transport = connection.into_transport()?;
        registry
            .register(transport.source(), Token(token), Interest::READABLE | Interest::WRITABLE)
            .map_err(|source| Error::io("registering with epoll", source))?;
        Ok(Self { transport, name: name.into(), inbox: Vec::new(), outbox: Vec::new(), sent: 0, pongs: 0 })
    }

    /// Reads until nothing is left and calls `take` with each message and the outbox for answers.
    ///
    /// # Errors
    /// When the server closes, refuses, or speaks something else.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&Message<'_>, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let read = match self.transport.read(scratch) {
                Ok(0) => return Err(self.closed("end of stream")),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.closed(&error.to_string())),
            };
            let fresh = scratch.get(..read).unwrap_or_default();
            let mut inbox = std::mem::take(&mut self.inbox);
            if inbox.is_empty() {
                let rest = self.take_frames(fresh, &mut take)?;
                inbox.extend_from_slice(rest);
            } else {
                inbox.extend_from_slice(fresh);
                let rest = self.take_frames(&inbox, &mut take)?.len();
                inbox.drain(..inbox.len() - rest);
            }
            self.inbox = inbox;
        }
    }

    fn take_frames<'a>(
        &mut self,
        mut bytes: &'a [u8],
        take: &mut impl FnMut(&Message<'_>, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<&'a [u8], Error> {
        while let Some((frame, taken)) = next_frame(bytes)? {
            match frame {
                Frame::Message(message) => take(&message, &mut self.outbox)?,
                Frame::Ping => self.outbox.extend_from_slice(b"PONG\r\n"),
                Frame::Pong => self.pongs += 1,
                Frame::Error(text) => {
                    return Err(Error::Refused {
                        what: self.name.clone(),
                        error: String::from_utf8_lossy(text).into_owned(),
                    });
                }
                Frame::Other => {}
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(bytes)
    }

    /// Writes what fits of the outbox.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn flush(&mut self) -> Result<(), Error> {
        while self.sent < self.outbox.len() {
            let rest = self.outbox.get(self.sent..).unwrap_or_default();
            match self.transport.write(rest) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.closed(&error.to_string())),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        match self.transport.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(self.closed(&error.to_string())),
            _ => Ok(()),
        }
    }

    /// Bytes that the socket has not taken yet.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.outbox.len() - self.sent
    }

    fn closed(&self, detail: &str) -> Error {
        Error::Closed { what: self.name.clone(), detail: detail.to_owned() }
    }
}
