//! What a client brings: the fields of CONNECT and what the connection itself shows.
//!
//! Owns these inputs and their names. Never judges them.

use crate::CertificateNames;
use std::net::IpAddr;

/// Credentials from CONNECT; empty where the client sent none.
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)] // the fields of CONNECT
pub struct Credentials<'a> {
    pub user: &'a str,
    pub password: &'a str,
    /// `auth_token`.
    pub token: &'a str,
    pub nkey: &'a str,
    /// `sig`.
    pub signature: &'a str,
    pub jwt: &'a str,
    /// `proxy_sig`.
    pub proxy_signature: &'a str,
}

impl Credentials<'_> {
    /// The user as /connz and events show it: the first of nkey, name, the JWT's public key and
    /// `[REDACTED]` for a token that was sent.
    pub(crate) fn display(&self, public_key: &str) -> String {
        let sent = [self.nkey, self.user, public_key].into_iter().find(|text| !text.is_empty());
        let token = if self.token.is_empty() { "" } else { "[REDACTED]" };
        sent.unwrap_or(token).to_owned()
    }
}

/// What the server knows of a connection by itself.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The nonce of this connection's INFO. A signature counts for it alone, so a replayed one does not.
    pub nonce: &'a [u8],
    /// How the client connects.
    pub connection: ConnectionType,
    /// Names in the client's certificate, if TLS verified one.
    pub certificate: Option<&'a CertificateNames>,
    /// The client's address, for users bound to networks.
    pub address: Option<IpAddr>,
}

/// Ways to connect, as in `allowed_connection_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum ConnectionType {
    Standard,
    Websocket,
    LeafNode,
    LeafNodeWebsocket,
    Mqtt,
    MqttWebsocket,
    InProcess,
}

impl ConnectionType {
    /// Reads a name, in any case.
    pub fn parse(name: &str) -> Option<ConnectionType> {
        Some(match name.to_ascii_uppercase().as_str() {
            "STANDARD" => ConnectionType::Standard,
            "WEBSOCKET" => ConnectionType::Websocket,
            "LEAFNODE" => ConnectionType::LeafNode,
            "LEAFNODE_WS" => ConnectionType::LeafNodeWebsocket,
            "MQTT" => ConnectionType::Mqtt,
            "MQTT_WS" => ConnectionType::MqttWebsocket,
            "IN_PROCESS" => ConnectionType::InProcess,
            _ => return None,
        })
    }
}
