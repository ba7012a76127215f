//! What the mesh wants to happen outside. Owns the vocabulary only.

use crate::compression::Level;
use crate::settings::Permissions;
use std::net::SocketAddr;

pub use wire::CloseReason;

/// A connection of the route protocol, by the engine's number for it (its `rid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// An attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Somebody has to do something.
    Error,
    /// Worth a look.
    Warning,
    /// A normal event.
    Info,
    /// For the curious.
    Debug,
}

/// Which accounts' interest goes over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// All accounts: the peer has no pool.
    Everything,
    /// The accounts that this server counts to place `index` of its pool of `pool_size`, without the pinned
    /// ones. Ask [`crate::interest::carries`].
    Pool {
        /// Place of the connection; it can be beyond `pool_size` when the peer's pool is larger, and then
        /// carries nothing from here.
        index: usize,
        /// This server's pool size, at least 1.
        pool_size: usize,
        /// This server's pinned accounts.
        pinned: Vec<String>,
    },
    /// One account, left out of every line.
    Account(String),
}

/// Something to be done, in the order of [`Mesh::poll_effect`](crate::Mesh::poll_effect).
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Queue bytes on a connection.
    Send {
        /// To whom.
        connection: ConnectionId,
        /// Whole operations.
        bytes: Vec<u8>,
    },
    /// What was queued on a connection before is its last plain bytes; what follows goes as a stream at this level. So
    /// does what the peer sends behind the operation that this answers. On a connection that is compressed already
    /// only the level of what is sent changes.
    Compress {
        /// Which connection.
        connection: ConnectionId,
        /// The level.
        level: Level,
    },
    /// The handshake is over. From now on every change of local interest that `carries` covers goes to this
    /// connection, beginning with all that there is, queued before any later effect for the connection.
    PeerReady {
        /// Which connection.
        connection: ConnectionId,
        /// Id of the peer's run.
        server_id: String,
        /// Name of the peer.
        server_name: String,
        /// The accounts.
        carries: Carries,
        /// The peer understands headers; otherwise they are cut off before sending.
        headers: bool,
        /// The peer understands message traces: it does not deliver what is only to be traced.
        traces: bool,
        /// What the peer lets in (`import`) and out (`export`). Our own permissions are in the settings.
        permissions: Permissions,
    },
    /// The peer changed its permissions: interest that it newly exports has to be sent.
    PeerPermissions {
        /// Which connection.
        connection: ConnectionId,
        /// What holds now.
        permissions: Permissions,
    },
    /// Flush what is queued, then close. The connection is no longer a route from now on.
    Close {
        /// Which connection.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// Connect, with TLS where the settings say so; give up after one second (nats-server
    /// `DEFAULT_ROUTE_DIAL`).
    Dial {
        /// To be named in the answer.
        dial: DialId,
        /// Where.
        address: SocketAddr,
        /// Name that the peer's certificate must bear; `None` means its address.
        tls_name: Option<String>,
    },
    /// Look up the addresses of a name.
    Resolve {
        /// Host name. The answer names it again.
        name: String,
    },
    /// Clients that understand asynchronous `INFO` have to be told: these URLs, this server's own first, the
    /// others sorted.
    ClientUrls {
        /// `host:port` for clients.
        connect_urls: Vec<String>,
        /// The same for WebSocket.
        ws_connect_urls: Vec<String>,
        /// This server is in lame duck mode; its own URLs are not among them.
        lame_duck: bool,
    },
    /// The cluster took on another's name.
    ClusterName(String),
    /// A server became a member: it introduced itself to us, or answered our introduction.
    PeerJoined {
        /// Id of the peer's run.
        server_id: String,
        /// Name of the peer.
        server_name: String,
    },
    /// The last pooled connection to a server is gone.
    PeerLeft {
        /// Id of the peer's run.
        server_id: String,
        /// Name of the peer.
        server_name: String,
    },
    /// A line for the log. nats-server puts the connection's address and number before it.
    Log {
        /// The connection that it is about.
        connection: Option<ConnectionId>,
        /// How loud.
        level: LogLevel,
        /// The line.
        text: String,
    },
}
