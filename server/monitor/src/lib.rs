//! Monitoring documents rendered from snapshots.
//!
//! Owns the JSON of nats-server's monitoring endpoints (`/varz` and siblings), of its system account (events and
//! answers to `$SYS.REQ.*`) and the text for Prometheus. The running server is seen through one trait,
//! [`source::Source`]; [`endpoint::respond`] answers an HTTP request and [`request::answer`] a `$SYS` request.
//!
//! Never opens a socket, reads a clock, or keeps state of the server. Field names, their order and what is left out
//! when empty follow nats-server 2.15 (`monitor.go`, `events.go`); each document names its Go type.

pub mod accountz;
pub mod connz;
pub mod endpoint;
pub mod events;
pub mod healthz;
mod index;
pub mod ipqueuesz;
pub mod json;
mod metrics;
pub mod query;
pub mod request;
pub mod routez;
pub mod source;
pub mod statsz;
pub mod subsz;
pub mod time;
pub mod unbuilt;
pub mod varz;

pub use endpoint::{Endpoint, RequestCounters, Response, respond};
pub use query::Error;
pub use source::Source;
pub use time::Timestamp;
