//! What may be said on one route connection now: handshake order, authentication, pings, refusals.
//!
//! Owns the phase of one connection and its timers. Never decides about membership: documents that passed the
//! checks of this file go to the [`Mesh`].
//!
//! ```text
//! solicitor                          acceptor
//!                     <- INFO        at once
//! CONNECT ->                         at once
//! INFO ->                            after the acceptor's INFO: only then is the place in the pool known
//!                                    (at once where this server has no pool)
//! interest ->         <- interest
//! PING ->             <- PONG        the answer lets the solicitor open the next connection of the pool
//! ```

use crate::effect::{CloseReason, ConnectionId, DialId, Effect, LogLevel};
use crate::mesh::{InfoOutcome, Mesh};
use std::net::SocketAddr;
use std::time::Duration;
use wire::route::{self, Connect, Info, NO_ORIGIN, Op, Shape};

/// The longest time between pings of a route (nats-server `defaultRouteMaxPingInterval`): round trips are
/// measured by them.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// The first ping comes after this time (nats-server `firstPingInterval`).
const FIRST_PING: Duration = Duration::from_secs(1);

/// Whose an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// The conversation has dealt with it.
    Done,
    /// A message or interest on an open connection: the broker's.
    ForBroker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted; CONNECT must come before anything else.
    AwaitConnect,
    /// The peer has not introduced itself. Interest and messages are taken already.
    AwaitInfo,
    /// The mesh registered the connection.
    Member,
    /// Closed by us.
    Closed,
}

/// The state of one route connection.
#[derive(Debug)]
pub struct RouteConversation {
    connection: ConnectionId,
    phase: Phase,
    shape: Shape,
    headers: bool,
    ping_at: Duration,
    pings_out: u32,
    ping_sent_at: Option<Duration>,
    round_trip: Option<Duration>,
    /// What follows the last operation is compressed.
    compressed_from_here: bool,
    /// When the handshake must have got further.
    deadline: Option<(Duration, CloseReason)>,
}

impl RouteConversation {
    /// A connection came in on the route port. `certificate` is the verdict on the peer's TLS certificate where
    /// `verify_and_map` or `verify_cert_and_check_known_urls` decide instead of user and password.
    pub fn accepted(
        mesh: &mut Mesh,
        connection: ConnectionId,
        remote: SocketAddr,
        certificate: Option<bool>,
        now: Duration,
    ) -> RouteConversation {
        mesh.open_accepted(connection, remote, certificate, now);
        let mut conversation = RouteConversation::new(mesh, connection, Phase::AwaitConnect, now);
        if mesh.settings().authorization.is_some() {
            let limit = now + mesh.settings().auth_timeout;
            conversation.deadline = Some((limit, CloseReason::AuthenticationTimeout));
        }
        conversation
    }

    /// A dial succeeded. `None` when it is no longer wanted: close the socket.
    pub fn dialed(
        mesh: &mut Mesh,
        dial: DialId,
        connection: ConnectionId,
        now: Duration,
    ) -> Option<RouteConversation> {
        let account_implied = mesh.open_dialed(dial, connection, now)?;
        let mut conversation = RouteConversation::new(mesh, connection, Phase::AwaitInfo, now);
        conversation.shape.account_implied = account_implied;
        Some(conversation)
    }

    fn new(mesh: &mut Mesh, connection: ConnectionId, phase: Phase, now: Duration) -> RouteConversation {
        let interval = ping_interval(mesh);
        // a handshake that does not end is given up like a peer that does not answer
        let patience = interval * (mesh.settings().pings_out_max + 1);
        let first = interval.min(FIRST_PING);
        RouteConversation {
            connection,
            phase,
            shape: Shape::default(),
            headers: false,
            ping_at: now + first + mesh.random_up_to(first / 5),
            pings_out: 0,
            ping_sent_at: None,
            round_trip: None,
            compressed_from_here: false,
            deadline: Some((now + patience, CloseReason::StaleConnection)),
        }
    }

    /// The connection that this is about.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// The form of the peer's lines, for the next parse.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether messages and interest of the peer may go to the broker. nats-server takes them after CONNECT,
    /// before the peer's INFO.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::AwaitInfo | Phase::Member)
    }

    /// Whether the connection is a registered route.
    pub fn is_member(&self) -> bool {
        self.phase == Phase::Member
    }

    /// Whether the peer understands headers, as far as it has said.
    pub fn headers(&self) -> bool {
        self.headers
    }

    /// The last round trip that a ping measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Whether the peer's bytes behind the operation handled last are compressed; asked after each operation, says
    /// so once.
    pub fn is_compressed_from_here(&mut self) -> bool {
        std::mem::take(&mut self.compressed_from_here)
    }

    /// Takes one operation of the peer.
    pub fn handle(&mut self, op: Op<'_>, mesh: &mut Mesh, now: Duration) -> Handled {
        if self.phase == Phase::Closed || !mesh.knows(self.connection) {
            return Handled::Done;
        }
        if self.phase == Phase::AwaitConnect && !matches!(op, Op::Connect(_)) {
            self.refuse_authorization(mesh, now, "a route has to begin with CONNECT");
            return Handled::Done;
        }
        match op {
            Op::Message(_) | Op::Subscribe(_) | Op::Unsubscribe(_) => return Handled::ForBroker,
            Op::Connect(json) => self.handle_connect(json, mesh, now),
            Op::Info(json) => self.handle_info(json, mesh, now),
            Op::Ping => self.send(mesh, b"PONG\r\n"),
            Op::Pong => {
                self.pings_out = 0;
                self.round_trip =
                    self.ping_sent_at.take().map(|sent| now.saturating_sub(sent)).or(self.round_trip);
                mesh.confirm(self.connection, now);
                if let Some(round_trip) = self.round_trip {
                    mesh.measured(self.connection, round_trip);
                }
            }
            Op::Err(text) => {
                let text = format!("Route Error {}", String::from_utf8_lossy(text));
                mesh.heard_error(self.connection, &text, now);
                self.close(mesh, CloseReason::ParseError, LogLevel::Error, text, now);
            }
            // `+OK` says nothing; `A+` and `A-` are for gateways
            Op::Ok | Op::AccountSubscribe(_) | Op::AccountUnsubscribe(_) => {}
        }
        Handled::Done
    }

    /// The peer's bytes are no operation: says so where nats-server does, and closes.
    pub fn handle_parse_error(&mut self, error: route::Error, mesh: &mut Mesh, now: Duration) {
        if self.phase == Phase::Closed || !mesh.knows(self.connection) {
            return;
        }
        if self.phase == Phase::AwaitConnect && error == route::Error::Unknown {
            let what = "its first bytes are no CONNECT: a client, a browser or TLS came to the route port?";
            return self.refuse_authorization(mesh, now, what);
        }
        let reason = match error {
            route::Error::ControlLine => CloseReason::MaxControlLineExceeded,
            _ => CloseReason::ProtocolViolation,
        };
        let log = format!("Route sent what cannot be read: {error}");
        if matches!(error, route::Error::Unknown | route::Error::ControlLine) {
            self.send_error(mesh, &error.to_string());
        }
        self.close(mesh, reason, LogLevel::Error, log, now);
    }

    /// When [`RouteConversation::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Closed => None,
            // a peer that has not introduced itself is not pinged, but not waited for without end either
            Phase::AwaitConnect | Phase::AwaitInfo if self.deadline.is_some() => {
                self.deadline.map(|(at, _)| at)
            }
            Phase::AwaitConnect | Phase::AwaitInfo | Phase::Member => Some(self.ping_at),
        }
    }

    /// Pings, and gives up on a peer that is silent.
    pub fn handle_timeout(&mut self, mesh: &mut Mesh, now: Duration) {
        if self.phase == Phase::Closed || !mesh.knows(self.connection) {
            return;
        }
        if let Some((at, reason)) = self.deadline
            && now >= at
        {
            let text = match reason {
                CloseReason::AuthenticationTimeout => "Authentication Timeout",
                _ => "Stale Connection",
            };
            self.send_error(mesh, text);
            return self.close(mesh, reason, LogLevel::Debug, text.to_owned(), now);
        }
        if self.deadline.is_some() || now < self.ping_at {
            return;
        }
        if self.pings_out >= mesh.settings().pings_out_max {
            self.send_error(mesh, "Stale Connection");
            let text = "Stale Client Connection - Closing".to_owned();
            return self.close(mesh, CloseReason::StaleConnection, LogLevel::Debug, text, now);
        }
        self.pings_out += 1;
        self.ping_sent_at = Some(now);
        self.ping_at = now + ping_interval(mesh);
        self.send(mesh, b"PING\r\n");
    }

    fn handle_connect(&mut self, json: &[u8], mesh: &mut Mesh, now: Duration) {
        let Ok(connect) = Connect::decode(json) else {
            let text = "Route sent a CONNECT that cannot be read".to_owned();
            return self.close(mesh, CloseReason::ProtocolViolation, LogLevel::Error, text, now);
        };
        if !mesh.is_authorized(self.connection, &connect) {
            let who = if connect.user.is_empty() { "no user" } else { connect.user.as_str() };
            return self.refuse_authorization(mesh, now, who);
        }
        if !connect.lang.is_empty() {
            let text = "attempted to connect to route port";
            self.send_error(mesh, text);
            return self.close(mesh, CloseReason::WrongPort, LogLevel::Error, text.to_owned(), now);
        }
        let refusal = if !connect.gateway.is_empty() {
            let text = format!("Rejecting connection from gateway {:?} on the Route port", connect.gateway);
            Some((CloseReason::WrongGateway, text))
        } else if connect.cluster == NO_ORIGIN {
            let text = format!("Rejecting connection, cluster name {:?} is reserved", connect.cluster);
            Some((CloseReason::ClusterNameConflict, text))
        } else {
            mesh.agree_on_cluster_name(&connect.cluster, connect.dynamic, &connect.name, now).err().map(
                |ours| {
                    let theirs = &connect.cluster;
                    let text =
                        format!("Rejecting connection, cluster name {theirs:?} does not match {ours:?}");
                    (CloseReason::ClusterNameConflict, text)
                },
            )
        };
        if let Some((reason, text)) = refusal {
            self.send_error(mesh, &text);
            return self.close(mesh, reason, LogLevel::Error, text, now);
        }
        mesh.introduced(self.connection, &connect.name);
        self.headers = connect.headers;
        self.shape.unsubscribe_origin = connect.lnocu || connect.ln;
        if self.phase == Phase::AwaitConnect {
            self.phase = Phase::AwaitInfo;
            // a peer that never says INFO is only pinged from here on, as by nats-server
            self.deadline = None;
        }
    }

    fn handle_info(&mut self, json: &[u8], mesh: &mut Mesh, now: Duration) {
        let Ok(info) = Info::decode(json) else {
            let text = "Route sent an INFO that cannot be read".to_owned();
            return self.close(mesh, CloseReason::ParseError, LogLevel::Error, text, now);
        };
        match mesh.receive_info(self.connection, info, now) {
            InfoOutcome::Updated => {}
            InfoOutcome::Compressed => self.compressed_from_here = true,
            InfoOutcome::Registered { shape, headers } => {
                self.phase = Phase::Member;
                self.deadline = None;
                self.shape = shape;
                self.headers = headers;
            }
            InfoOutcome::Refused { reason, answer, level, text } => {
                if answer {
                    self.send_error(mesh, &text);
                }
                self.close(mesh, reason, level, text, now);
            }
        }
    }

    fn refuse_authorization(&mut self, mesh: &mut Mesh, now: Duration, what: &str) {
        self.send_error(mesh, "Authorization Violation");
        let text = format!("authentication error - {what}");
        self.close(mesh, CloseReason::AuthenticationViolation, LogLevel::Error, text, now);
    }

    fn send(&self, mesh: &mut Mesh, bytes: &[u8]) {
        mesh.push(Effect::Send { connection: self.connection, bytes: bytes.to_vec() });
    }

    fn send_error(&self, mesh: &mut Mesh, text: &str) {
        let mut bytes = Vec::new();
        route::error(&mut bytes, text);
        mesh.push(Effect::Send { connection: self.connection, bytes });
    }

    fn close(&mut self, mesh: &mut Mesh, reason: CloseReason, level: LogLevel, text: String, now: Duration) {
        self.phase = Phase::Closed;
        mesh.push(Effect::Log { connection: Some(self.connection), level, text });
        mesh.close(self.connection, reason, now);
    }
}

fn ping_interval(mesh: &Mesh) -> Duration {
    mesh.settings().ping_interval.min(PING_INTERVAL_MAX)
}
