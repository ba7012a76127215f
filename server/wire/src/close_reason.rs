//! Why a connection ended: one list for sessions, routes, monitoring and events.

macro_rules! close_reasons {
    ($first:ident = $first_text:literal, $($name:ident = $text:literal,)*) => {
        /// Why a connection ended, in nats-server's order and words (`ClosedState` in client.go).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each name is its text")]
        pub enum CloseReason {
            #[default]
            $first,
            $($name,)*
        }

        impl CloseReason {
            /// All of them, in order.
            pub const ALL: &[CloseReason] = &[CloseReason::$first, $(CloseReason::$name,)*];

            /// The text in `/connz?state=closed`, in disconnect events and in log lines.
            pub fn text(self) -> &'static str {
                match self {
                    CloseReason::$first => $first_text,
                    $(CloseReason::$name => $text,)*
                }
            }
        }
    };
}

close_reasons! {
    ClientClosed = "Client Closed",
    AuthenticationTimeout = "Authentication Timeout",
    AuthenticationViolation = "Authentication Failure",
    TlsHandshakeError = "TLS Handshake Failure",
    SlowConsumerPendingBytes = "Slow Consumer (Pending Bytes)",
    SlowConsumerWriteDeadline = "Slow Consumer (Write Deadline)",
    WriteError = "Write Error",
    ReadError = "Read Error",
    ParseError = "Parse Error",
    StaleConnection = "Stale Connection",
    ProtocolViolation = "Protocol Violation",
    BadClientProtocolVersion = "Bad Client Protocol Version",
    WrongPort = "Incorrect Port",
    MaxConnectionsExceeded = "Maximum Connections Exceeded",
    MaxAccountConnectionsExceeded = "Maximum Account Connections Exceeded",
    MaxPayloadExceeded = "Maximum Message Payload Exceeded",
    MaxControlLineExceeded = "Maximum Control Line Exceeded",
    MaxSubscriptionsExceeded = "Maximum Subscriptions Exceeded",
    DuplicateRoute = "Duplicate Route",
    RouteRemoved = "Route Removed",
    ServerShutdown = "Server Shutdown",
    AuthenticationExpired = "Authentication Expired",
    WrongGateway = "Wrong Gateway",
    MissingAccount = "Missing Account",
    Revocation = "Credentials Revoked",
    InternalClient = "Internal Client",
    MessageHeaderViolation = "Message Header Violation",
    NoRespondersRequiresHeaders = "No Responders Requires Headers",
    ClusterNameConflict = "Cluster Name Conflict",
    DuplicateRemoteLeafnodeConnection = "Duplicate Remote LeafNode Connection",
    DuplicateClientId = "Duplicate Client ID",
    DuplicateServerName = "Duplicate Server Name",
    MinimumVersionRequired = "Minimum Version Required",
    ClusterNamesIdentical = "Cluster Names Identical",
    Kicked = "Kicked",
    ProxyNotTrusted = "Proxy Not Trusted",
    ProxyRequired = "Proxy Required",
}

impl CloseReason {
    /// A number that is never 0, for an atomic in which 0 means open.
    pub fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The reason of a [`code`](Self::code); `None` for 0.
    pub fn from_code(code: u8) -> Option<CloseReason> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_back_and_texts_differ() {
        let mut texts: Vec<&str> = CloseReason::ALL.iter().map(|reason| reason.text()).collect();
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!((CloseReason::from_code(0), CloseReason::from_code(255)), (None, None));
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), CloseReason::ALL.len());
    }
}
