//! Interest, plans, queue choice, delivery and back-pressure: what happens to a message between the bytes of
//! its publisher and the bytes of its receivers.
//!
//! Owns the only two kinds of state that workers share: an account's [`Interest`](interest::Interest) and a
//! link's [`Output`](output::Output). Everything else belongs to one worker's [`Router`](router::Router).
//!
//! Never parses a protocol and never touches a socket, a clock or a thread: bytes leave through the
//! [`Transport`](link::Transport) that a link was made with, other workers are told through their
//! [`Mailbox`](mailbox::Mailbox), time is an argument.

pub mod account;
mod cache;
#[cfg(feature = "defective")]
pub mod defect;
pub mod interest;
pub mod link;
pub mod mailbox;
pub mod output;
mod plan;
mod progress;
pub mod registry;
mod render;
mod requester;
mod responses;
pub mod router;
mod sharing;
mod sync;
mod trace;

pub use account::Account;
pub use link::{CloseReason, Link, LinkKind, Transport};
pub use mailbox::{Mailbox, Wake};
pub use registry::Broker;
pub use router::{Parcel, Router, ScopeId, Tracing, Verdict};
