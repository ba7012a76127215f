//! From what a user wrote to what it means.
//!
//! Owns every check that the API server's schema cannot make, and the types behind which no raw spec is
//! seen again. Never reads anything: Secrets that the spec names arrive as an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;

use crate::build;
use crate::crd::{self, NatsCluster};

/// Keys of the configuration file that belong to the operator, as dotted paths with nats-server's aliases.
pub const RESERVED_KEYS: &[&str] = &[
    "server_name",
    "listen",
    "host",
    "net",
    "port",
    "http",
    "http_port",
    "https",
    "https_port",
    "monitor_port",
    "http_base_path",
    "pid_file",
    "pidfile",
    "ports_file_dir",
    "lame_duck_duration",
    "lame_duck_grace_period",
    "cluster.name",
    "cluster.listen",
    "cluster.host",
    "cluster.port",
    "cluster.routes",
    "cluster.authorization",
];

/// Most bytes of the rendered configuration: a Secret holds 1 MiB, with room for its metadata.
pub const CONFIG_SIZE_BYTES_MAX: usize = 900 * 1024;

/// A `NatsCluster` whose every value has its meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// `metadata.name`; prefix of every object and server.
    pub name: String,
    /// `metadata.namespace`; empty for local clusters.
    pub namespace: String,
    /// `metadata.uid`; empty for local clusters.
    pub uid: String,
    /// `metadata.generation`; counts the file's changes for local clusters.
    pub generation: i64,
    /// Servers that the user asked for; does not know of hibernation, see [`Cluster::servers_wanted`].
    pub replicas: u32,
    /// Change nothing.
    pub paused: bool,
    /// Run nothing.
    pub hibernated: bool,
    /// Image reference of the broker.
    pub image: String,
    /// What `status.version.target` shows.
    pub version_target: String,
    /// Names of pull Secrets.
    pub image_pull_secrets: Vec<String>,
    /// Behaviour of the servers.
    pub config: Config,
    /// Name of the cluster on the wire.
    pub cluster_name: String,
    /// Route port.
    pub route_port: u16,
    /// Connections between each two servers.
    pub pool_size: u16,
    /// Who may connect.
    pub auth: crd::AuthMode,
    /// Accounts of [`crd::AuthMode::Static`], which the driver has from [`crate::tenancy`]; none before.
    pub accounts: Vec<::config::accounts::Account>,
    /// The one client listener.
    pub listener: Listener,
    /// The servers' certificate; `None`: no TLS anywhere.
    pub tls: Option<Tls>,
    /// Monitoring port.
    pub monitor_port: u16,
    /// IP versions of the Services, if asked for.
    pub ip_family_policy: Option<crd::IpFamilyPolicy>,
    /// Who may connect; `None`: no policy.
    pub network_policy: Option<crd::NetworkPolicySpec>,
    /// CPU and memory of the container.
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,
    /// Spread over zones and nodes.
    pub topology: crd::Topology,
    /// Labels added to pods.
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations added to pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// PodSpec merged over the operator's.
    pub pod_spec: Option<PodSpec>,
    /// Whether to keep a PodDisruptionBudget.
    pub disruption_budget: bool,
    /// Pace of updates.
    pub updates: Updates,
}

impl Cluster {
    /// Servers that are to run now.
    pub fn servers_wanted(&self) -> u32 {
        if self.hibernated { 0 } else { self.replicas }
    }

    /// Name of the server, and pod, with this ordinal.
    pub fn server_name(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Ordinal in a server's name, if it is one of this cluster's.
    pub fn ordinal(&self, server_name: &str) -> Option<u32> {
        server_name.strip_prefix(&self.name)?.strip_prefix('-')?.parse().ok()
    }
}

/// Behaviour of the servers; `None` keeps nats-server's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Bytes of payload.
    pub max_payload_bytes: Option<u64>,
    /// Client connections.
    pub max_connections: Option<u32>,
    /// Bytes waiting for one client.
    pub max_pending_bytes: Option<u64>,
    /// Longest blocked write.
    pub write_deadline: Option<Duration>,
    /// Pause between probes of idle connections.
    pub ping_interval: Option<Duration>,
    /// Probes that may stay unanswered.
    pub ping_max: Option<u32>,
    /// Time over which clients of a leaving server are sent away.
    pub lame_duck_duration: Duration,
    /// Time before the first of them is.
    pub lame_duck_grace_period: Duration,
    /// Tags.
    pub server_tags: Vec<String>,
    /// Log level.
    pub log_level: crd::LogLevel,
    /// Further keys.
    pub merge: serde_json::Map<String, serde_json::Value>,
    /// Further keys from Secrets: (Secret, key).
    pub merge_from: Vec<(String, String)>,
}

/// The client listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Name of the port.
    pub name: String,
    /// Port.
    pub port: u16,
    /// Type of the client Service.
    pub expose: crd::ExposeType,
    /// Whether clients are told of the other servers.
    pub advertise: bool,
    /// Host and port that clients are told, with placeholders; `None`: what a server sees of itself.
    pub advertise_template: Option<String>,
    /// Whether each server has a Service of its own.
    pub per_server: bool,
    /// Node port of server 0's Service.
    pub node_port: Option<u16>,
    /// Annotations of the client Service.
    pub service_annotations: BTreeMap<String, String>,
    /// Implementation of the load balancer.
    pub load_balancer_class: Option<String>,
    /// Which servers traffic from outside reaches.
    pub external_traffic_policy: Option<crd::TrafficPolicy>,
}

/// The servers' certificate, and who is to see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Where it comes from.
    pub source: CertificateSource,
    /// Used between servers, both ways.
    pub routes: bool,
    /// Used towards clients, if at all.
    pub clients: Option<ClientTls>,
    /// DNS names and IP addresses beside those that follow from the cluster's name.
    pub extra_names: Vec<String>,
}

/// TLS towards clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Clients may do without.
    pub optional: bool,
    /// The handshake comes before INFO.
    pub handshake_first: bool,
    /// Clients must show a certificate.
    pub verify: bool,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// The operator's own authority for this cluster.
    SelfSigned(SelfSigned),
    /// cert-manager.
    CertManager(crd::CertManager),
    /// This Secret.
    Secret(String),
}

/// How long certificates of the operator's own last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// A server certificate.
    pub validity: Duration,
    /// How long before its end it is replaced.
    pub renew_before: Duration,
    /// The authority.
    pub authority_validity: Duration,
    /// How long two authorities are trusted side by side, before and after the change-over.
    pub overlap: Duration,
}

/// Pace of updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Updates {
    /// Whether the operator replaces outdated servers.
    pub automatic: bool,
    /// How long a server is healthy before the next is touched.
    pub ready_min: Duration,
    /// How long a server may take to become healthy.
    pub gate_timeout: Duration,
}

/// Why a spec that the API server took cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field, e.g. `spec.config.merge.cluster.routes`.
    pub field: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Invalid {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// What the operator brings where the spec is silent.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Image of the broker without its tag.
    pub image_repository: String,
    /// Tag for clusters that name neither version nor image.
    pub version: String,
    /// Images of versions, best by digest. If there are any, no other version can be asked for.
    pub catalog: BTreeMap<String, String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            image_repository: "starling/starling-server".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            catalog: BTreeMap::new(),
        }
    }
}

/// Whether a spec names a Secret of somebody else, whose content it depends on.
pub fn names_secret(object: &NatsCluster, name: &str) -> bool {
    let spec = &object.spec;
    let own = object.metadata.name.as_deref().unwrap_or_default();
    spec.config.merge_from.iter().any(|source| source.secret_key_ref.name == name)
        || spec.tls.secret.as_ref().is_some_and(|secret| secret.name == name)
        || (spec.tls.cert_manager.is_some() && name == build::cert_manager_secret_name(own))
}

/// Gives a spec its meaning.
///
/// # Errors
/// Every problem found, not only the first.
pub fn validate(object: &NatsCluster, defaults: &Defaults) -> Result<Cluster, Vec<Invalid>> {
    let spec = &object.spec;
    let mut problems = Vec::new();
    let name = object.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        problems.push(Invalid::new("metadata.name", "missing; give the cluster a name"));
    }
    let config = validate_config(&spec.config, &mut problems);
    let pod_spec = validate_pod_spec(&spec.pod_template, &mut problems);
    let gate_timeout = duration(
        "spec.updateStrategy.rollingUpdate.gateTimeout",
        &spec.update_strategy.rolling_update.gate_timeout,
        &mut problems,
    );
    let (image, version_target) = match (&spec.image, &spec.version) {
        (Some(image), _) => (image.clone(), image.clone()),
        (None, version) => {
            let version = version.as_ref().unwrap_or(&defaults.version);
            (image_of(version, defaults, &mut problems), version.clone())
        }
    };
    let cluster = Cluster {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        replicas: number("spec.replicas", spec.replicas, &mut problems),
        paused: spec.paused,
        hibernated: spec.hibernated,
        image,
        version_target,
        image_pull_secrets: spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        config,
        cluster_name: if spec.cluster.name.is_empty() { name.clone() } else { spec.cluster.name.clone() },
        route_port: number("spec.cluster.port", spec.cluster.port, &mut problems),
        pool_size: number("spec.cluster.poolSize", spec.cluster.pool_size, &mut problems),
        auth: spec.auth.mode,
        accounts: Vec::new(),
        listener: validate_listener(&spec.listeners, &mut problems),
        monitor_port: number("spec.monitoring.port", spec.monitoring.port, &mut problems),
        tls: validate_tls(spec, &mut problems),
        ip_family_policy: spec.ip_family_policy,
        network_policy: Some(spec.network_policy.clone())
            .filter(|policy| policy.mode == crd::NetworkPolicyMode::Enabled),
        resources: spec.resources.clone(),
        topology: spec.topology.clone(),
        pod_labels: spec.pod_template.labels.clone(),
        pod_annotations: spec.pod_template.annotations.clone(),
        pod_spec,
        disruption_budget: spec.disruption_budget.mode == crd::BudgetMode::Enabled,
        updates: Updates {
            automatic: spec.update_strategy.type_ == crd::UpdateStrategyType::RollingUpdate,
            ready_min: Duration::from_secs(u64::from(number::<u32>(
                "spec.updateStrategy.rollingUpdate.minReadySeconds",
                spec.update_strategy.rolling_update.min_ready_seconds,
                &mut problems,
            ))),
            gate_timeout,
        },
        name,
    };
    if problems.is_empty() { Ok(cluster) } else { Err(problems) }
}

/// Image of a version: the catalog's, or the default repository's where there is no catalog.
fn image_of(version: &str, defaults: &Defaults, problems: &mut Vec<Invalid>) -> String {
    if defaults.catalog.is_empty() {
        return format!("{}:{version}", defaults.image_repository);
    }
    defaults.catalog.get(version).cloned().unwrap_or_else(|| {
        let known: Vec<&str> = defaults.catalog.keys().map(String::as_str).collect();
        let problem = format!("{version} is not in the operator's catalog, which has {}", known.join(", "));
        problems.push(Invalid::new("spec.version", problem));
        String::new()
    })
}

/// Why servers of two versions do not belong into one cluster, if they do not: for the time of an update they
/// would be. Versions that are none, e.g. of somebody's own image, are not judged.
pub fn version_skew(running: &str, asked: &str) -> Option<String> {
    let read = |text: &str| {
        let mut parts = text.split(['-', '+']).next()?.split('.').map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??, parts.next()??))
    };
    let ((from_major, from_minor, _), (to_major, to_minor, _)) = (read(running)?, read(asked)?);
    if from_major == to_major && from_minor.abs_diff(to_minor) <= 1 {
        return None;
    }
    let next = if (to_major, to_minor) > (from_major, from_minor) {
        from_minor.saturating_add(1)
    } else {
        from_minor.saturating_sub(1)
    };
    let way = match from_major == to_major {
        true => format!("go to {from_major}.{next} first"),
        false => "hibernate the cluster, change the version, and wake it".to_owned(),
    };
    Some(format!(
        "spec.version: servers run {running} and {asked} is more than one minor version away; {way}"
    ))
}

fn validate_config(config: &crd::ServerConfig, problems: &mut Vec<Invalid>) -> Config {
    for key in RESERVED_KEYS {
        if lookup(&config.merge, key) {
            problems.push(Invalid::new(
                format!("spec.config.merge.{key}"),
                "belongs to the operator; use the field of the spec that sets it, or leave it out",
            ));
        }
    }
    let optional_bytes = |field: &str, text: &Option<String>, problems: &mut Vec<Invalid>| {
        text.as_ref().and_then(|text| bytes(&format!("spec.config.{field}"), text, problems))
    };
    let optional_duration = |field: &str, text: &Option<String>, problems: &mut Vec<Invalid>| {
        text.as_ref().map(|text| duration(&format!("spec.config.{field}"), text, problems))
    };
    let lame_duck_duration = duration("spec.config.lameDuckDuration", &config.lame_duck_duration, problems);
    let lame_duck_grace_period =
        duration("spec.config.lameDuckGracePeriod", &config.lame_duck_grace_period, problems);
    if lame_duck_grace_period >= lame_duck_duration {
        problems
            .push(Invalid::new("spec.config.lameDuckGracePeriod", "must be shorter than lameDuckDuration"));
    }
    Config {
        max_payload_bytes: optional_bytes("maxPayload", &config.max_payload, problems),
        max_connections: config.max_connections.map(|n| number("spec.config.maxConnections", n, problems)),
        max_pending_bytes: optional_bytes("maxPending", &config.max_pending, problems),
        write_deadline: optional_duration("writeDeadline", &config.write_deadline, problems),
        ping_interval: optional_duration("pingInterval", &config.ping_interval, problems),
        ping_max: config.ping_max.map(|n| number("spec.config.pingMax", n, problems)),
        lame_duck_duration,
        lame_duck_grace_period,
        server_tags: config.server_tags.clone(),
        log_level: config.logging.level,
        merge: config.merge.clone(),
        merge_from: config
            .merge_from
            .iter()
            .map(|source| (source.secret_key_ref.name.clone(), source.secret_key_ref.key.clone()))
            .collect(),
    }
}

/// Whether a dotted path exists in a tree; nats-server's keys do not differ by case.
fn lookup(tree: &serde_json::Map<String, serde_json::Value>, path: &str) -> bool {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    tree.iter().filter(|(key, _)| key.eq_ignore_ascii_case(head)).any(|(_, value)| match rest {
        None => true,
        Some(rest) => value.as_object().is_some_and(|inner| lookup(inner, rest)),
    })
}

fn validate_listener(listeners: &[crd::Listener], problems: &mut Vec<Invalid>) -> Listener {
    let [listener] = listeners else {
        problems.push(Invalid::new("spec.listeners", "must name exactly one listener in this version"));
        return Listener {
            name: String::new(),
            port: 0,
            expose: crd::ExposeType::ClusterIP,
            advertise: true,
            advertise_template: None,
            per_server: false,
            node_port: None,
            service_annotations: BTreeMap::new(),
            load_balancer_class: None,
            external_traffic_policy: None,
        };
    };
    Listener {
        name: listener.name.clone(),
        port: number("spec.listeners[0].port", listener.port, problems),
        expose: listener.expose.type_,
        advertise: listener.expose.advertise != crd::Advertise::Disabled,
        advertise_template: listener.expose.advertise_template.clone(),
        per_server: listener.expose.per_server == crd::PerServer::Enabled,
        node_port: listener
            .expose
            .node_port
            .map(|port| number("spec.listeners[0].expose.nodePort", port, problems)),
        service_annotations: listener.expose.annotations.clone(),
        load_balancer_class: listener.expose.load_balancer_class.clone(),
        external_traffic_policy: listener.expose.external_traffic_policy,
    }
}

fn validate_tls(spec: &crd::NatsClusterSpec, problems: &mut Vec<Invalid>) -> Option<Tls> {
    let listener = spec.listeners.first().map(|listener| &listener.tls);
    let clients = listener.filter(|tls| tls.mode != crd::ListenerTlsMode::Disabled).map(|tls| ClientTls {
        optional: tls.mode == crd::ListenerTlsMode::Optional,
        handshake_first: tls.mode == crd::ListenerTlsMode::HandshakeFirst,
        verify: tls.client_auth == crd::ClientAuth::Required,
    });
    let own = &spec.tls.self_signed;
    let source = match spec.tls.mode {
        crd::TlsMode::Disabled if clients.is_some() => {
            problems.push(Invalid::new("spec.listeners[0].tls", "needs a spec.tls.mode other than Disabled"));
            return None;
        }
        crd::TlsMode::Disabled => return None,
        crd::TlsMode::SelfSigned => CertificateSource::SelfSigned(SelfSigned {
            validity: duration("spec.tls.selfSigned.validity", &own.validity, problems),
            renew_before: duration("spec.tls.selfSigned.renewBefore", &own.renew_before, problems),
            authority_validity: duration(
                "spec.tls.selfSigned.authorityValidity",
                &own.authority_validity,
                problems,
            ),
            overlap: duration("spec.tls.selfSigned.overlap", &own.overlap, problems),
        }),
        crd::TlsMode::CertManager => match &spec.tls.cert_manager {
            Some(certificate) => CertificateSource::CertManager(certificate.clone()),
            None => {
                problems.push(Invalid::new("spec.tls.certManager", "missing; name the issuer"));
                return None;
            }
        },
        crd::TlsMode::Secret => match &spec.tls.secret {
            Some(secret) => CertificateSource::Secret(secret.name.clone()),
            None => {
                problems.push(Invalid::new("spec.tls.secret", "missing; name the Secret"));
                return None;
            }
        },
    };
    let routes = spec.cluster.tls.mode == crd::RouteTlsMode::Inherit;
    Some(Tls { source, routes, clients, extra_names: spec.tls.extra_names.clone() })
}

/// Reads the free-form pod spec. `containers` is required in a PodSpec but not in an overlay of one.
fn validate_pod_spec(template: &crd::PodTemplate, problems: &mut Vec<Invalid>) -> Option<PodSpec> {
    if template.spec.is_empty() {
        return None;
    }
    let mut overlay = template.spec.clone();
    overlay.entry("containers").or_insert_with(|| serde_json::Value::Array(Vec::new()));
    match serde_json::from_value(serde_json::Value::Object(overlay)) {
        Ok(spec) => Some(spec),
        Err(error) => {
            problems.push(Invalid::new("spec.podTemplate.spec", format!("is not a PodSpec: {error}")));
            None
        }
    }
}

pub(crate) fn number<T: TryFrom<i32> + Default>(field: &str, value: i32, problems: &mut Vec<Invalid>) -> T {
    T::try_from(value).unwrap_or_else(|_| {
        problems.push(Invalid::new(field, format!("{value} is out of range")));
        T::default()
    })
}

pub(crate) fn duration(field: &str, text: &str, problems: &mut Vec<Invalid>) -> Duration {
    match text.parse::<kube::core::Duration>() {
        Ok(parsed) if !parsed.is_negative() => parsed.into(),
        _ => {
            problems.push(Invalid::new(field, format!("{text:?} is not a duration such as 30s or 1m30s")));
            Duration::ZERO
        }
    }
}

pub(crate) fn bytes(field: &str, text: &str, problems: &mut Vec<Invalid>) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: Option<u64> = match &text[digits.len()..] {
        "" => Some(1),
        "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let bytes = factor.zip(digits.parse::<u64>().ok()).and_then(|(factor, n)| n.checked_mul(factor));
    if bytes.is_none() {
        problems.push(Invalid::new(field, format!("{text:?} is not a number of bytes such as 64Mi")));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(spec: serde_json::Value) -> NatsCluster {
        serde_json::from_value(json!({
            "apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
            "metadata": {"name": "orders", "namespace": "shop"}, "spec": spec,
        }))
        .expect("a NatsCluster")
    }

    fn problems(spec: serde_json::Value) -> String {
        let problems = validate(&object(spec), &Defaults::default()).expect_err("should be refused");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_empty_spec_means_three_servers_of_the_operators_version() {
        let cluster = validate(&object(json!({})), &Defaults::default()).expect("valid");
        assert_eq!(cluster.servers_wanted(), 3);
        assert_eq!(cluster.cluster_name, "orders");
        assert_eq!(cluster.listener.port, 4222);
        assert!(cluster.image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))));
        assert_eq!(cluster.config.lame_duck_duration, Duration::from_secs(30));
    }

    #[test]
    fn with_a_catalog_only_its_versions_can_be_asked_for() {
        let pinned = "registry.example/starling-server@sha256:0123".to_owned();
        let catalog = BTreeMap::from([("2.0.0".to_owned(), pinned.clone())]);
        let defaults = Defaults { version: "2.0.0".to_owned(), catalog, ..Defaults::default() };
        let cluster = validate(&object(json!({})), &defaults).expect("valid");
        assert_eq!((cluster.image, cluster.version_target.as_str()), (pinned, "2.0.0"));
        let refused = validate(&object(json!({"version": "1.0.0"})), &defaults).expect_err("not in it");
        assert_eq!(
            refused[0].to_string(),
            "spec.version: 1.0.0 is not in the operator's catalog, which has 2.0.0"
        );
        assert!(validate(&object(json!({"image": "mine:1"})), &defaults).is_ok());
    }

    #[test]
    fn servers_of_one_cluster_are_at_most_a_minor_version_apart() {
        for (running, asked) in
            [("0.1.0", "0.2.7"), ("0.2.0", "0.1.9"), ("1.4.2", "1.4.0"), ("0.1.0", "test"), ("dev", "9.0.0")]
        {
            assert_eq!(version_skew(running, asked), None, "{running} to {asked}");
        }
        assert_eq!(
            version_skew("0.1.0", "0.3.0").as_deref(),
            Some(
                "spec.version: servers run 0.1.0 and 0.3.0 is more than one minor version away; go to 0.2 first"
            )
        );
        assert!(version_skew("0.4.1", "0.1.0-rc.1").is_some_and(|text| text.ends_with("go to 0.3 first")));
        assert!(version_skew("0.9.0", "1.0.0").is_some_and(|text| text.contains("hibernate")));
    }

    #[test]
    fn quantities_and_durations_get_their_meaning() {
        let spec = json!({"config": {"maxPayload": "2Mi", "maxPending": "1G", "writeDeadline": "1m30s"}});
        let config = validate(&object(spec), &Defaults::default()).expect("valid").config;
        assert_eq!(config.max_payload_bytes, Some(2 << 20));
        assert_eq!(config.max_pending_bytes, Some(1_000_000_000));
        assert_eq!(config.write_deadline, Some(Duration::from_secs(90)));
    }

    #[test]
    fn hibernation_wants_no_server_and_remembers_the_number() {
        let cluster = validate(&object(json!({"replicas": 5, "hibernated": true})), &Defaults::default());
        let cluster = cluster.expect("valid");
        assert_eq!((cluster.servers_wanted(), cluster.replicas), (0, 5));
    }

    #[test]
    fn keys_of_the_operator_are_refused_whatever_their_case() {
        let text = problems(json!({"config": {"merge": {"Server_Name": "x", "cluster": {"routes": []}}}}));
        assert!(text.contains("spec.config.merge.server_name: belongs to the operator"), "{text}");
        assert!(text.contains("spec.config.merge.cluster.routes"), "{text}");
    }

    #[test]
    fn a_pod_spec_that_is_none_is_refused_with_its_field() {
        let text = problems(json!({"podTemplate": {"spec": {"containers": "none"}}}));
        assert!(text.starts_with("spec.podTemplate.spec: is not a PodSpec"), "{text}");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = problems(json!({
            "config": {"maxPayload": "99999999999999999999Gi", "lameDuckDuration": "5x"},
        }));
        assert!(text.contains("maxPayload") && text.contains("lameDuckDuration"), "{text}");
    }
}
