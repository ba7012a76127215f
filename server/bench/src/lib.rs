//! The load generator behind `starling-bench`: drives NATS servers at the level of raw protocol
//! bytes, prebuilt, from one thread where it can, so that the load costs little beside the server.
//!
//! Owns scenarios, their goals, measuring and rendering. Knows nothing of Starling's own crates: any
//! server that speaks the NATS client protocol is measured the same way.

pub mod block;
pub mod curve;
pub mod document;
pub mod exchange;
pub mod frames;
pub mod link;
pub mod load;
pub mod paced;
pub mod plot;
pub mod process;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod statistics;
pub mod storm;
pub mod talker;
pub mod traffic;

use std::io;
use std::path::{Path, PathBuf};

/// Why a measurement could not be taken or must not be believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and to what.
        what: String,
        /// The system's word.
        source: io::Error,
    },
    /// The server process did not come up.
    #[error(
        "{path} did not accept connections on port {port}: {why}; its last words: {log}",
        path = path.display()
    )]
    Start {
        /// The binary.
        path: PathBuf,
        /// Where it should have listened.
        port: u16,
        /// Exited, or silent until the time was over.
        why: String,
        /// The end of its output.
        log: String,
    },
    /// The server sent bytes that are no NATS protocol.
    #[error("the server sent {what}: {shown:?}")]
    Protocol {
        /// What is wrong.
        what: &'static str,
        /// The bytes' start.
        shown: String,
    },
    /// The server answered `-ERR`.
    #[error("the server refused {what}: {error}")]
    Refused {
        /// What was being done.
        what: String,
        /// Its `-ERR` line.
        error: String,
    },
    /// A connection ended that should not have.
    #[error("the server closed the connection of {what} ({detail})")]
    Closed {
        /// Whose connection.
        what: String,
        /// End of stream, reset, or the last `-ERR`.
        detail: String,
    },
    /// Messages are missing or surplus: the figures would be worthless.
    #[error("not delivered as published: {what}: {received} received of {expected} expected")]
    NotDelivered {
        /// Which receivers.
        what: String,
        /// Messages that arrived.
        received: u64,
        /// Messages that had to arrive.
        expected: u64,
    },
    /// Nothing moved for the given time.
    #[error("no progress in {seconds} s while {what}")]
    Stalled {
        /// What was waited for.
        what: String,
        /// How long, seconds.
        seconds: u64,
    },
    /// The target cannot be measured this way.
    #[error("{0}")]
    Unsupported(&'static str),
    /// TLS could not be set up or spoken.
    #[error("TLS: {0}")]
    Tls(String),
    /// A report could not be read.
    #[error("{path} is not a report of starling-bench: {why}", path = path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Adds what was being done to a failed system call.
    #[must_use]
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    pub(crate) fn protocol(what: &'static str, bytes: &[u8]) -> Self {
        let shown = bytes.get(..80).unwrap_or(bytes);
        Self::Protocol { what, shown: String::from_utf8_lossy(shown).into_owned() }
    }

    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::io(path.display().to_string(), source)
    }
}
