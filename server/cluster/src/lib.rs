//! Servers that form one cluster: the route handshake, membership, gossip and what is told to whom.
//!
//! Owns two state machines. A [`RouteConversation`] belongs to one connection and knows what may be said on it
//! now. The [`Mesh`] belongs to the server: who is a member, which connection serves which place of a pool, whom
//! to dial when, which client URLs to show. Beside them [`interest`] says which connection carries which account
//! and keeps what a route was told.
//!
//! Never does: sockets, names, clocks or randomness. Time is an argument (a [`Duration`](std::time::Duration)
//! since any fixed moment, never going back), randomness comes from the seed that [`Mesh::new`] is given, and
//! everything that has to happen outside is an [`Effect`].
//!
//! # How an engine drives it
//!
//! One `Mesh` a server, behind one lock; it is touched by handshakes and timers, never by messages.
//!
//! * Start: `Mesh::new`, then `mesh.start(now)`.
//! * A socket is accepted on the route port (TLS, if any, is done): [`RouteConversation::accepted`].
//! * [`Effect::Dial`] asks for a socket: answer with [`RouteConversation::dialed`] or
//!   [`Mesh::handle_dial_failed`]. [`Effect::Resolve`] asks for addresses: answer with [`Mesh::handle_resolved`].
//! * Bytes arrive: loop over `wire::route::parse(buf, at, limits, conversation.shape())`. While
//!   [`RouteConversation::is_open`], messages and interest go straight to the broker; every other operation,
//!   and everything before, goes to [`RouteConversation::handle`]. Parse errors go to
//!   [`RouteConversation::handle_parse_error`]. Read `shape()` anew after each operation handed over: the
//!   handshake changes it.
//! * A socket is gone: [`Mesh::handle_closed`].
//! * Timers: [`RouteConversation::next_timeout`] and [`Mesh::next_timeout`] say when to call their
//!   `handle_timeout`.
//! * After each of these calls, still under the lock, take [`Mesh::poll_effect`] until it is `None` and do what
//!   it says, in that order: the order of `Send`, `PeerReady` and `Send` on one connection is part of the
//!   protocol (`INFO`, then interest, then `PING`).

mod compression;
mod effect;
pub mod interest;
mod mesh;
mod route;
mod settings;

pub use compression::{Compression, Level};
pub use effect::{Carries, CloseReason, ConnectionId, DialId, Effect, LogLevel};
pub use mesh::{ConnectionView, Mesh, PeerView};
pub use route::{Handled, RouteConversation};
pub use settings::{Authorization, Error, Identity, Permissions, RouteUrl, Settings};
