//! The servers' configuration file.
//!
//! Owns which key of `nats.conf` comes from which field, for pods and local processes alike. Never
//! decides whether a change needs a restart: the server's own crate does.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::crd::LogLevel;
use crate::validate::{CONFIG_SIZE_BYTES_MAX, Cluster};

/// File name of the configuration, in the Secret and on disk.
pub const CONFIG_FILE: &str = "nats.conf";

/// User under which servers greet each other.
pub const ROUTE_USER: &str = "route";

/// Where a server listens and whom it looks for: all that differs between pods and processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Name, if the command line does not give it.
    pub server_name: Option<String>,
    /// Address to bind all ports to.
    pub host: String,
    /// Client port.
    pub client_port: u16,
    /// Route port.
    pub route_port: u16,
    /// Monitoring port.
    pub monitor_port: u16,
    /// Host and port of servers to connect to.
    pub routes: Vec<(String, u16)>,
}

impl Placement {
    /// Pods: equal ports, all interfaces, and one name that resolves to every pod of the cluster.
    pub fn in_pod(cluster: &Cluster) -> Self {
        Self {
            server_name: None,
            host: "0.0.0.0".to_owned(),
            client_port: cluster.listener.port,
            route_port: cluster.route_port,
            monitor_port: cluster.monitor_port,
            routes: vec![(
                format!("{}.{}.svc", headless_name(cluster), cluster.namespace),
                cluster.route_port,
            )],
        }
    }
}

/// Name of the Service whose DNS name resolves to every pod.
pub fn headless_name(cluster: &Cluster) -> String {
    format!("{}-headless", cluster.name)
}

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The file.
    pub text: String,
    /// What a server that has loaded the file reports as `config_digest` in `/varz`.
    pub digest: String,
}

/// A fragment of configuration from a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Name of the Secret.
    pub secret: String,
    /// Key in it.
    pub key: String,
    /// The fragment.
    pub text: String,
}

/// Whether a driver can have a running server load a changed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It can.
    Possible,
    /// It cannot: every change needs a restart.
    Impossible,
}

/// A configuration and the last one before it that needed a restart. Kept as one (in the Secret's
/// annotations), so that an operator killed between two writes forgets no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The newest configuration.
    pub rendered: Rendered,
    /// Part of every server's template: when it changes, servers are replaced.
    pub restart_digest: String,
}

impl Generation {
    /// What follows on `previous`.
    pub fn after(previous: Option<&Generation>, rendered: Rendered, reload: Reload) -> Self {
        let restart_digest = match previous {
            Some(previous) if previous.rendered.text == rendered.text => previous.restart_digest.clone(),
            Some(previous) if reload == Reload::Possible && is_reloadable(&previous.rendered, &rendered) => {
                previous.restart_digest.clone()
            }
            _ => rendered.digest.clone(),
        };
        Self { rendered, restart_digest }
    }
}

fn is_reloadable(_old: &Rendered, _new: &Rendered) -> bool {
    false
}

/// A password for routes: 128 bits as hexadecimal digits, so it needs no escaping anywhere.
pub fn new_password(random: &mut impl rand::Rng) -> String {
    let mut bytes = [0_u8; 16];
    random.fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a configuration cannot be rendered; nothing that runs is touched then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The server would refuse the file.
    #[error("{source_of}: {problem}")]
    Refused {
        /// Where the fault was written: a field of the spec, or a Secret and key.
        source_of: String,
        /// The server's message.
        problem: String,
    },
    /// The file does not fit into a Secret.
    #[error(
        "the configuration is {bytes} bytes long, more than {CONFIG_SIZE_BYTES_MAX}; shorten spec.config.merge"
    )]
    TooLong {
        /// Length of the file.
        bytes: usize,
    },
}

/// Renders the file of one server.
///
/// # Errors
/// When the file, with what the user merged into it, is none that a server would take.
pub fn render(
    cluster: &Cluster,
    placement: &Placement,
    route_password: &str,
    _fragments: &[Fragment],
) -> Result<Rendered, ConfigError> {
    let mut tree = base(cluster, placement, route_password);
    merge(&mut tree, &cluster.config.merge);
    let mut text = "# Written by the Starling operator, which overwrites changes made here.\n".to_owned();
    write_map(&mut text, &tree, 0)?;
    if text.len() > CONFIG_SIZE_BYTES_MAX {
        return Err(ConfigError::TooLong { bytes: text.len() });
    }
    let digest = digest(&tree);
    Ok(Rendered { text, digest })
}

fn base(cluster: &Cluster, placement: &Placement, route_password: &str) -> Map<String, Value> {
    let config = &cluster.config;
    let mut tree = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            tree.insert(key.to_owned(), value);
        }
    };
    set("server_name", placement.server_name.as_ref().map(|name| json!(name)));
    set("host", Some(json!(placement.host)));
    set("port", Some(json!(placement.client_port)));
    set("http", Some(json!(format!("{}:{}", placement.host, placement.monitor_port))));
    set("max_payload", config.max_payload_bytes.map(|n| json!(n)));
    set("max_connections", config.max_connections.map(|n| json!(n)));
    set("max_pending", config.max_pending_bytes.map(|n| json!(n)));
    set("write_deadline", config.write_deadline.map(duration));
    set("ping_interval", config.ping_interval.map(duration));
    set("ping_max", config.ping_max.map(|n| json!(n)));
    set("lame_duck_duration", Some(duration(config.lame_duck_duration)));
    set("lame_duck_grace_period", Some(duration(config.lame_duck_grace_period)));
    set("server_tags", (!config.server_tags.is_empty()).then(|| json!(config.server_tags)));
    set("debug", (config.log_level != LogLevel::Info).then(|| json!(true)));
    set("trace", (config.log_level == LogLevel::Trace).then(|| json!(true)));
    let routes: Vec<String> = placement
        .routes
        .iter()
        .map(|(host, port)| format!("nats-route://{ROUTE_USER}:{route_password}@{host}:{port}"))
        .collect();
    let mut routing = json!({
        "name": cluster.cluster_name,
        "host": placement.host,
        "port": placement.route_port,
        "pool_size": cluster.pool_size,
        "authorization": {"user": ROUTE_USER, "password": route_password},
        "routes": routes,
    });
    if !cluster.listener.advertise {
        routing["no_advertise"] = json!(true);
    }
    set("cluster", Some(routing));
    tree
}

/// A duration as Go reads it.
fn duration(duration: Duration) -> Value {
    match duration.subsec_millis() {
        0 => json!(format!("{}s", duration.as_secs())),
        _ => json!(format!("{}ms", duration.as_millis())),
    }
}

/// Merges maps key by key; anything else is replaced.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(from)) => merge(inner, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

fn write_map(text: &mut String, map: &Map<String, Value>, depth: usize) -> Result<(), ConfigError> {
    let indent = "  ".repeat(depth);
    for (key, value) in map {
        text.push_str(&indent);
        text.push_str(&quote(key));
        match value {
            Value::Object(inner) => {
                text.push_str(" {\n");
                write_map(text, inner, depth + 1)?;
                text.push_str(&indent);
                text.push('}');
            }
            _ => {
                text.push_str(": ");
                write_value(text, value)?;
            }
        }
        text.push('\n');
    }
    Ok(())
}

fn write_value(text: &mut String, value: &Value) -> Result<(), ConfigError> {
    match value {
        Value::Null => {
            return Err(ConfigError::Refused {
                source_of: "spec.config.merge".to_owned(),
                problem: "null has no meaning in a configuration file; leave the key out".to_owned(),
            });
        }
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => text.push_str(&quote(string)),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write_value(text, item)?;
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push_str("{\n");
            write_map(text, map, 1)?;
            text.push('}');
        }
    }
    Ok(())
}

/// A word bare, anything else quoted with the escapes that the grammar knows.
fn quote(string: &str) -> String {
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    if !string.is_empty()
        && string.chars().all(word)
        && !["true", "false", "yes", "no", "on", "off"].contains(&string)
    {
        return string.to_owned();
    }
    let mut quoted = String::with_capacity(string.len() + 2);
    quoted.push('"');
    for c in string.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Digest of a configuration, as nats-server computes it (conf/parse.go: SHA-256 of the parsed tree's JSON
/// with sorted keys, as Go's encoder writes it, which ends with a line feed).
fn digest(tree: &Map<String, Value>) -> String {
    let mut json = serde_json::to_string(tree).unwrap_or_default();
    for (plain, escaped) in [("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")] {
        json = json.replace(plain, escaped);
    }
    json.push('\n');
    let hash = Sha256::digest(json.as_bytes());
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
