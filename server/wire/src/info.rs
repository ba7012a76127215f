//! The JSON documents of the client protocol: `INFO` and `CONNECT`.
//!
//! Field names and order follow nats-server's `Info` and `ClientOpts` (ADR-40).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

fn is_false(value: &bool) -> bool {
    !*value
}

/// The `INFO` document that a client receives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Random id of this run of the server: an NKey-like text of 56 characters.
    pub server_id: String,
    /// Name of the server, by default its id.
    pub server_name: String,
    /// The nats-server version that clients may count on (suites and clients choose features by it).
    pub version: String,
    /// Protocol level: 1 understands asynchronous `INFO`.
    pub proto: i32,
    /// Source revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_commit: String,
    /// nats-server puts its Go version here; clients only print it.
    pub go: String,
    /// Host of the listener as configured or advertised.
    pub host: String,
    /// Port of the listener as configured or advertised.
    pub port: u16,
    /// Headers are understood.
    pub headers: bool,
    /// Credentials are required.
    #[serde(skip_serializing_if = "is_false")]
    pub auth_required: bool,
    /// TLS is required.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_required: bool,
    /// A client certificate is asked for.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_verify: bool,
    /// TLS is possible but not required.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_available: bool,
    /// Largest payload in bytes, headers included.
    pub max_payload: i64,
    /// JetStream is offered.
    #[serde(skip_serializing_if = "is_false")]
    pub jetstream: bool,
    /// The client's own address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_ip: String,
    /// Number of the connection on this server.
    #[serde(skip_serializing_if = "is_zero")]
    pub client_id: u64,
    /// Challenge to be signed by NKey and JWT users.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    /// Name of the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// The cluster chose its name by itself.
    #[serde(skip_serializing_if = "is_false")]
    pub cluster_dynamic: bool,
    /// JetStream domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// `host:port` of every server of the cluster that clients may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connect_urls: Vec<String>,
    /// The same for WebSocket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ws_connect_urls: Vec<String>,
    /// The server is about to leave (lame duck mode).
    #[serde(rename = "ldm", skip_serializing_if = "is_false")]
    pub lame_duck_mode: bool,
    /// Public curve key for auth callout.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub xkey: String,
    /// JetStream API level.
    #[serde(skip_serializing_if = "is_zero_i32")]
    pub api_lvl: i32,
    /// This `INFO` answers a CONNECT.
    #[serde(skip_serializing_if = "is_false")]
    pub connect_info: bool,
    /// Account of the client, in the `INFO` that answers its CONNECT.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_account: String,
    /// The client's account is the system account.
    #[serde(skip_serializing_if = "is_false")]
    pub acc_is_sys: bool,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
fn is_zero_i32(value: &i32) -> bool {
    *value == 0
}

impl Info {
    /// Appends `INFO {json} \r\n` (nats-server ends it with a space before the line end; clients trim).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"INFO ");
        // serialising a plain struct into memory cannot fail
        let _ = serde_json::to_writer(&mut *out, self);
        out.extend_from_slice(b" \r\n");
    }
}

fn yes() -> bool {
    true
}

fn true_if_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(true))
}

fn default_if_null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The `CONNECT` document of a client. What is absent or `null` has nats-server's default: clients send `null`
/// for what they do not have.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Connect {
    /// Answer each operation with `+OK`; on when absent.
    #[serde(default = "yes", deserialize_with = "true_if_null")]
    pub verbose: bool,
    /// Check publish subjects; on when absent.
    #[serde(default = "yes", deserialize_with = "true_if_null")]
    pub pedantic: bool,
    /// The client asks for TLS.
    #[serde(default, deserialize_with = "default_if_null")]
    pub tls_required: bool,
    /// Deliver the client's own messages to itself; on when absent.
    #[serde(default = "yes", deserialize_with = "true_if_null")]
    pub echo: bool,
    /// The client understands headers.
    #[serde(default, deserialize_with = "default_if_null")]
    pub headers: bool,
    /// The client wants a 503 when nobody listens; needs `headers`.
    #[serde(default, deserialize_with = "default_if_null")]
    pub no_responders: bool,
    /// Protocol level: 0 original, 1 understands asynchronous `INFO`.
    #[serde(default, deserialize_with = "default_if_null")]
    pub protocol: i32,
    /// Connection name.
    #[serde(default, deserialize_with = "default_if_null")]
    pub name: String,
    /// Client language.
    #[serde(default, deserialize_with = "default_if_null")]
    pub lang: String,
    /// Client version.
    #[serde(default, deserialize_with = "default_if_null")]
    pub version: String,
    /// User name.
    #[serde(default, deserialize_with = "default_if_null")]
    pub user: String,
    /// Password.
    #[serde(default, deserialize_with = "default_if_null")]
    pub pass: String,
    /// Token.
    #[serde(default, deserialize_with = "default_if_null")]
    pub auth_token: String,
    /// Public NKey.
    #[serde(default, deserialize_with = "default_if_null")]
    pub nkey: String,
    /// Signature of the nonce, base64.
    #[serde(default, deserialize_with = "default_if_null")]
    pub sig: String,
    /// User JWT.
    #[serde(default, deserialize_with = "default_if_null")]
    pub jwt: String,
    /// Signature of the nonce by a trusted proxy.
    #[serde(default, deserialize_with = "default_if_null")]
    pub proxy_sig: String,
    /// An account of the client's own choice, which nobody has.
    #[serde(default, deserialize_with = "default_if_null")]
    pub account: String,
    /// The same, to be made.
    #[serde(default, deserialize_with = "default_if_null")]
    pub new_account: bool,
}

impl Default for Connect {
    /// What holds before a CONNECT arrives: nats-server starts verbose, pedantic and with echo.
    fn default() -> Self {
        Connect {
            verbose: true,
            pedantic: true,
            tls_required: false,
            echo: true,
            headers: false,
            no_responders: false,
            protocol: 0,
            name: String::new(),
            lang: String::new(),
            version: String::new(),
            user: String::new(),
            pass: String::new(),
            auth_token: String::new(),
            nkey: String::new(),
            sig: String::new(),
            jwt: String::new(),
            proxy_sig: String::new(),
            account: String::new(),
            new_account: false,
        }
    }
}

impl Connect {
    /// Reads the argument of CONNECT, as Go's decoder would: fields may come twice (the last one counts) and in other
    /// letters, text need not be UTF-8, and `null` says nothing.
    ///
    /// # Errors
    /// The JSON error; it holds no value of the document, so it is safe to log.
    pub fn decode(json: &[u8]) -> Result<Connect, serde_json::Error> {
        // no client writes any of that, so that it is looked for only where there may be some
        let is_usual = json.first() == Some(&b'{')
            && !json.windows(2).any(|pair| pair[0] == b'"' && pair[1].is_ascii_uppercase());
        if is_usual && let Ok(connect) = serde_json::from_slice(json) {
            return Ok(connect);
        }
        let fields: Option<Map<String, Value>> = serde_json::from_str(&String::from_utf8_lossy(json))?;
        let fields = fields.unwrap_or_default().into_iter();
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value));
        serde_json::from_value(Value::Object(fields.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_connect_fields_have_the_defaults_of_nats_server() {
        let connect = Connect::decode(b"{}").unwrap();
        assert!(connect.verbose && connect.pedantic && connect.echo && !connect.headers);
    }

    #[test]
    fn connect_is_read_as_go_reads_it() {
        let verbose = |json: &[u8]| Connect::decode(json).map(|connect| connect.verbose).ok();
        assert_eq!(verbose(br#"{"verbose":true,"verbose":false}"#), Some(false));
        assert_eq!(verbose(br#"{"VERBOSE":false}"#), Some(false));
        assert_eq!(verbose(br#"{"name":"Somebody","verbose":false}"#), Some(false));
        assert_eq!(verbose(b"{\"verbose\":false,\"name\":\"\xff\"}"), Some(false));
        assert_eq!(verbose(b"null"), Some(true));
        assert_eq!(verbose(b" {\"verbose\":false} "), Some(false));
        for broken in [&b"[]"[..], b"", b"{", b"1", b"{}{}", br#"{"verbose":1}"#] {
            assert_eq!(verbose(broken), None);
        }
    }

    #[test]
    fn null_means_absent_as_clients_that_have_no_credentials_send_it() {
        let json = br#"{"verbose":false,"pedantic":null,"jwt":null,"nkey":null,"name":null,"echo":null,"protocol":null}"#;
        let connect = Connect::decode(json).unwrap();
        assert!(!connect.verbose && connect.pedantic && connect.echo);
        assert!(connect.jwt.is_empty() && connect.name.is_empty() && connect.protocol == 0);
    }

    #[test]
    fn info_leaves_out_what_is_not_set() {
        let mut out = vec![];
        Info { server_id: "S".into(), max_payload: 5, ..Info::default() }.encode(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("INFO {\"server_id\":\"S\"") && text.ends_with("} \r\n"), "{text}");
        assert!(!text.contains("ldm") && !text.contains("connect_urls"), "{text}");
    }
}
