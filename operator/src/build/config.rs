//! The servers' configuration file.
//!
//! Owns which of the server's settings comes from which field, for pods and local processes alike.
//! Writes, reads, checks and compares files by the server's own crate, so nothing is handed to a server
//! that it would refuse. Decides no range and no default of the server.

use std::time::Duration;

use config::grammar::{Entry, Map, Node, Value};
use config::tls::{CertificatePair, HandshakeFirst, Tls};
use config::{Config, Port, ServerUrl, Settings};
use serde::{Deserialize, Serialize};

use crate::crd::LogLevel;
use crate::validate::{CONFIG_SIZE_BYTES_MAX, Cluster, RESERVED_KEYS};

/// File name of the configuration, in the Secret and on disk.
pub const CONFIG_FILE: &str = "nats.conf";

/// Where a pod finds its certificate.
pub const TLS_FOLDER: &str = "/etc/nats-tls";

/// User under which servers greet each other.
pub const ROUTE_USER: &str = "route";

/// How often servers probe each other, and how many probes may stay unanswered. nats-server's 30 s and 2 let a
/// server that froze, or whose node lost power, swallow messages for over a minute; on the network of one
/// Kubernetes cluster a server that is silent for six seconds is gone. `config.merge` may say otherwise.
const ROUTE_PING_INTERVAL: Duration = Duration::from_secs(2);
/// See [`ROUTE_PING_INTERVAL`].
const ROUTE_PING_MAX: u32 = 2;

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
    /// Folder of `tls.crt`, `tls.key` and `ca.crt`.
    pub tls_folder: String,
    /// Public key of the system account's user that the operator is; `None`: it needs none.
    pub operator_key: Option<String>,
}

impl Placement {
    /// Pods: equal ports, all interfaces, and one name that resolves to every pod of the cluster.
    pub fn in_pod(cluster: &Cluster) -> Self {
        Self {
            server_name: None,
            // Both IP versions, on Linux.
            host: if cluster.ip_family_policy.is_some() { "::" } else { "0.0.0.0" }.to_owned(),
            client_port: cluster.listener.port,
            route_port: cluster.route_port,
            monitor_port: cluster.monitor_port,
            routes: vec![(
                format!("{}.{}.svc", headless_name(cluster), cluster.namespace),
                cluster.route_port,
            )],
            tls_folder: TLS_FOLDER.to_owned(),
            operator_key: None,
        }
    }
}

/// Name of the Service whose DNS name resolves to every pod.
pub fn headless_name(cluster: &Cluster) -> String {
    format!("{}-headless", cluster.name)
}

/// A configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The file.
    pub text: String,
    /// What it says.
    pub settings: Settings,
    /// What the server would warn of.
    pub warnings: Vec<String>,
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

/// A configuration that a running server refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its digest.
    pub digest: String,
    /// Hash of the pod template that the server was made from: another one may do better.
    pub template: String,
    /// What to tell the user.
    pub problem: String,
}

/// A configuration and the last one before it that needed a restart. Kept as one (in the Secret's
/// annotations), so that an operator killed between two writes forgets no restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The newest configuration.
    pub rendered: Rendered,
    /// Part of every server's template: when it changes, servers are replaced.
    pub restart_digest: String,
    /// The newest file that every server had loaded: what a refused one is taken back to.
    pub proven: Option<String>,
    /// The file that was taken back.
    pub refused: Option<Refused>,
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
        let proven = previous.and_then(|previous| previous.proven.clone());
        Self { rendered, restart_digest, proven, refused: None }
    }

    /// Remembers this file if every server has loaded it. Both must fit into one Secret.
    pub fn prove(&mut self, everybody_has_it: bool) {
        if everybody_has_it {
            self.proven = Some(self.rendered.text.clone());
        }
        let both = self.rendered.text.len() + self.proven.as_ref().map_or(0, String::len);
        self.proven = self.proven.take().filter(|_| both <= CONFIG_SIZE_BYTES_MAX);
    }

    /// What is written after a server refused this file: the last one that all had, if it is known.
    pub fn taken_back(&self, refused: Refused) -> Self {
        let proven = self.proven.as_deref().and_then(read_back);
        let rendered = proven.unwrap_or_else(|| self.rendered.clone());
        Self { rendered, refused: Some(refused), ..self.clone() }
    }

    /// Whether servers that run this let the operator in, and whom it may ask to load something new.
    pub fn knows(&self, operator_key: &str) -> bool {
        let system = self.rendered.settings.system_account_name();
        let users = self.rendered.settings.users();
        let mut ours =
            users.filter(|(account, user)| Some(*account) == system && user.name() == operator_key);
        ours.next().is_some()
    }
}

/// Whether the operator can have servers that run `previous` load `next`. A change between TLS and none
/// towards clients is not one to make while talking to them over the same port.
pub fn reload_by_request(previous: Option<&Generation>, next: &Rendered, operator_key: &str) -> Reload {
    let possible = previous.is_some_and(|previous| {
        let had_tls = previous.rendered.settings.tls.is_some();
        previous.knows(operator_key) && had_tls == next.settings.tls.is_some()
    });
    if possible { Reload::Possible } else { Reload::Impossible }
}

/// Whether the server's own rules let it take the change while it runs.
fn is_reloadable(old: &Rendered, new: &Rendered) -> bool {
    !config::diff(&old.settings, &new.settings).needs_restart()
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

/// Keys by which a file says who may connect.
const ACCESS_KEYS: &[&str] = &[
    "accounts",
    "authorization",
    "system_account",
    "system",
    "no_system_account",
    "no_system",
    "no_sys_acc",
    "no_auth_user",
    "operator",
    "operators",
    "trusted",
    "trusted_keys",
    "resolver",
];

/// First line of every file.
const HEADER: &str = "# Written by the Starling operator, which overwrites changes made here.\n";

/// Renders the file of one server.
///
/// # Errors
/// When the file, with what the user merged into it, is none that a server would take.
pub fn render(
    cluster: &Cluster,
    placement: &Placement,
    route_password: &str,
    fragments: &[Fragment],
) -> Result<Rendered, ConfigError> {
    // Where a key came from, to blame the right field for it.
    let mut sources: Vec<(String, Map)> = Vec::new();
    if !cluster.config.merge.is_empty() {
        let text = without_nulls(&serde_json::Value::Object(cluster.config.merge.clone()))?;
        sources.push(("spec.config.merge".to_owned(), parse("spec.config.merge", &text)?));
    }
    for fragment in fragments {
        let source = format!("spec.config.mergeFrom (Secret {}, key {})", fragment.secret, fragment.key);
        let map = parse(&source, &fragment.text)?;
        if let Some(key) = RESERVED_KEYS.iter().find(|key| has(&map, key)) {
            let problem = format!("{key} belongs to the operator; leave it out");
            return Err(ConfigError::Refused { source_of: source, problem });
        }
        sources.push((source, map));
    }
    let mut settings = base(cluster, placement, route_password);
    // Who brings accounts of their own decides alone who gets in; our user might change what that means.
    let own_access = sources.iter().any(|(_, map)| ACCESS_KEYS.iter().any(|key| has(map, key)));
    if let Some(key) = placement.operator_key.as_ref().filter(|_| !own_access) {
        settings.accounts_defined = true;
        settings.accounts.push(crate::tenancy::of_one_key(config::settings::SYSTEM_ACCOUNT, key.clone()));
    }
    let mut tree = config::to_config(&settings);
    for (_, map) in &sources {
        merge(&mut tree.root, map);
    }
    let checked =
        Settings::from_config(&tree).and_then(|checked| checked.settings.validate().map(|()| checked));
    let checked = checked.map_err(|error| blame(&error, &sources))?;
    let text = format!("{HEADER}{}", tree.render());
    if text.len() > CONFIG_SIZE_BYTES_MAX {
        return Err(ConfigError::TooLong { bytes: text.len() });
    }
    let warnings = checked.warnings.iter().map(|problem| problem.message.clone()).collect();
    Ok(Rendered { text, settings: checked.settings, warnings, digest: tree.digest() })
}

/// Reads back a file that [`render`] wrote, e.g. from the Secret.
pub fn read_back(text: &str) -> Option<Rendered> {
    let tree = Config::parse_text(text).ok()?;
    let settings = Settings::from_config(&tree).ok()?.settings;
    Some(Rendered { text: text.to_owned(), settings, warnings: Vec::new(), digest: tree.digest() })
}

/// The settings that typed fields of the spec and the server's place give.
fn base(cluster: &Cluster, placement: &Placement, route_password: &str) -> Settings {
    let spec = &cluster.config;
    let mut settings = Settings {
        server_name: placement.server_name.clone(),
        host: placement.host.clone(),
        port: Port::Fixed(placement.client_port),
        lame_duck_duration: spec.lame_duck_duration,
        lame_duck_grace_period: spec.lame_duck_grace_period,
        server_tags: spec.server_tags.clone(),
        ..Settings::default()
    };
    settings.monitoring.host = Some(placement.host.clone());
    settings.monitoring.http_port = Some(Port::Fixed(placement.monitor_port));
    settings.logging.debug = spec.log_level != LogLevel::Info;
    settings.logging.trace = spec.log_level == LogLevel::Trace;
    // Beyond what the field holds is beyond what the server takes; validation has said so.
    let limits = &mut settings.limits;
    limits.max_payload = spec.max_payload_bytes.map_or(limits.max_payload, saturate);
    limits.max_connections = spec.max_connections.unwrap_or(limits.max_connections);
    limits.max_pending = spec.max_pending_bytes.unwrap_or(limits.max_pending);
    settings.write_deadline = spec.write_deadline.unwrap_or(settings.write_deadline);
    settings.ping_interval = spec.ping_interval.unwrap_or(settings.ping_interval);
    settings.ping_max = spec.ping_max.unwrap_or(settings.ping_max);
    if cluster.auth == crate::crd::AuthMode::Static {
        settings.accounts_defined = true;
        settings.accounts = crate::tenancy::with_closed_door(&cluster.accounts, route_password);
    }
    let routing = &mut settings.cluster;
    routing.name = Some(cluster.cluster_name.clone());
    routing.host = placement.host.clone();
    routing.port = Some(Port::Fixed(placement.route_port));
    routing.ping_interval = Some(ROUTE_PING_INTERVAL);
    routing.ping_max = Some(ROUTE_PING_MAX);
    routing.pool_size = u32::from(cluster.pool_size);
    routing.no_advertise = !cluster.listener.advertise;
    routing.username = Some(ROUTE_USER.to_owned());
    routing.password = Some(route_password.to_owned());
    let url = |(host, port): &(String, u16)| {
        let text = format!("nats-route://{ROUTE_USER}:{route_password}@{host}:{port}");
        ServerUrl::parse(&text, "route").ok()
    };
    routing.routes = placement.routes.iter().filter_map(url).collect();
    if let Some(tls) = &cluster.tls {
        settings.cluster.tls = tls.routes.then(|| certificate(placement, true));
        if let Some(clients) = tls.clients {
            let handshake_first =
                if clients.handshake_first { HandshakeFirst::On } else { HandshakeFirst::Off };
            settings.tls = Some(Tls { handshake_first, ..certificate(placement, clients.verify) });
            settings.allow_non_tls = clients.optional;
        }
    }
    settings
}

/// The one certificate of a server; `verify`: the other side shows one of the same authority.
fn certificate(placement: &Placement, verify: bool) -> Tls {
    let file = |name: &str| format!("{}/{name}", placement.tls_folder);
    Tls {
        certificates: vec![CertificatePair { cert_file: file("tls.crt"), key_file: file("tls.key") }],
        ca_file: Some(file("ca.crt")),
        verify,
        ..Tls::default()
    }
}

fn saturate(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// JSON is nats.conf, but for null.
fn without_nulls(value: &serde_json::Value) -> Result<String, ConfigError> {
    fn has_null(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Null => true,
            serde_json::Value::Array(items) => items.iter().any(has_null),
            serde_json::Value::Object(map) => map.values().any(has_null),
            _ => false,
        }
    }
    if has_null(value) {
        return Err(ConfigError::Refused {
            source_of: "spec.config.merge".to_owned(),
            problem: "null has no meaning in a configuration file; leave the key out".to_owned(),
        });
    }
    Ok(value.to_string())
}

fn parse(source: &str, text: &str) -> Result<Map, ConfigError> {
    let refused =
        |error: config::Error| ConfigError::Refused { source_of: source.to_owned(), problem: words(&error) };
    // A top level in braces is a map, as the server reads it.
    Ok(Config::parse_text(text).map_err(refused)?.root)
}

/// The server's complaint, without the place in a file that nobody wrote.
pub(crate) fn words(error: &config::Error) -> String {
    match error {
        config::Error::Invalid { problems, .. } => {
            problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

/// Finds who wrote what the server complains of: each source is tried alone.
fn blame(error: &config::Error, sources: &[(String, Map)]) -> ConfigError {
    let alone = |map: &Map| Settings::from_config(&Config { root: map.clone(), warnings: Vec::new() });
    let guilty = sources
        .iter()
        .find_map(|(source, map)| alone(map).err().map(|error| (source.clone(), words(&error))));
    let (source_of, problem) = guilty.unwrap_or_else(|| {
        let several: Vec<&str> = sources.iter().map(|(source, _)| source.as_str()).collect();
        (if several.is_empty() { "spec.config".to_owned() } else { several.join(" with ") }, words(error))
    });
    ConfigError::Refused { source_of, problem }
}

/// Merges maps key by key, whatever the case of a key; anything else is replaced.
fn merge(into: &mut Map, from: &Map) {
    for Entry { key, node } in from {
        let known =
            into.iter().map(|entry| &entry.key).find(|known| known.eq_ignore_ascii_case(key)).cloned();
        let key = known.unwrap_or_else(|| key.clone());
        let merged = match (into.find(&key).map(|node| &node.value), &node.value) {
            (Some(Value::Map(inner)), Value::Map(from)) => {
                let mut inner = inner.clone();
                merge(&mut inner, from);
                Node { value: Value::Map(inner), ..node.clone() }
            }
            _ => node.clone(),
        };
        into.insert(key, merged);
    }
}

/// Whether a dotted path exists, whatever the case of its keys.
fn has(map: &Map, path: &str) -> bool {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    map.iter().filter(|entry| entry.key.eq_ignore_ascii_case(head)).any(|entry| {
        match (&entry.node.value, rest) {
            (_, None) => true,
            (Value::Map(inner), Some(rest)) => has(inner, rest),
            _ => false,
        }
    })
}
