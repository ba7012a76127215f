//! NATS wire formats: bytes in, borrowed operations out, and the encoders back.
//!
//! Owns the framing of the client protocol ([`client`]), of the route protocol ([`route`]) and the JSON
//! documents that travel in `INFO` and `CONNECT` ([`info`]). Beside them the streams that routes are compressed with
//! ([`s2`]).
//!
//! Never does: I/O, interest, permissions, or any decision about what an operation means. A parser reads a
//! slice and says either "this operation, so many bytes", "more bytes are needed", or why the bytes are wrong.

pub mod client;
mod close_reason;
pub mod delivery;
pub mod info;
pub mod lines;
pub mod route;
pub mod s2;

pub use close_reason::CloseReason;
