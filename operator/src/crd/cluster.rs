//! `NatsCluster`: the spec.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::NatsClusterStatus;
use super::tls::{ListenerTls, RouteTls, TlsSpec};

/// Go-style duration: one or more numbers with unit, as Kubernetes writes them.
pub(super) const DURATION_PATTERN: &str = r"^([0-9]+(ms|s|m|h))+$";
/// Whole number of bytes with an optional binary or decimal suffix (a Kubernetes quantity).
pub(super) const BYTES_PATTERN: &str = r"^[0-9]+(k|M|G|Ki|Mi|Gi)?$";

/// A NATS cluster: servers that know each other, and the Services that lead clients to them.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "starling.dev",
    version = "v1alpha1",
    kind = "NatsCluster",
    plural = "natsclusters",
    shortname = "natsc",
    category = "nats",
    category = "all",
    namespaced,
    cel,
    status = "NatsClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A cluster of NATS servers, run and looked after by the Starling operator.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Servers asked for"
    ),
    printcolumn(
        name = "Ready",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Servers that take clients"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version.current",
        description = "Version that every server runs; empty while they differ"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why the cluster is, or is not, Ready"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "URL",
        type_ = "string",
        json_path = ".status.endpoints[0].url",
        description = "Where clients inside the cluster connect",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What the operator waits for",
        priority = 1
    ),
    // 52 = 63 (a label value, a DNS label) less the longest suffix that we and the StatefulSet controller add.
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 50")
        .message("metadata.name must be a DNS label of at most 50 characters that begins with a letter: servers and Services are named after it"),
)]
#[x_kube(validation = Rule::new("!(has(self.version) && has(self.image))")
    .message("at most one of spec.version and spec.image may be set"))]
#[x_kube(validation = Rule::new("self.cluster.port != self.monitoring.port && self.listeners.all(l, l.port != self.cluster.port && l.port != self.monitoring.port)")
    .message("the ports of spec.listeners, spec.cluster and spec.monitoring must differ"))]
#[x_kube(validation = Rule::new("self.tls.mode != 'Disabled' || self.listeners.all(l, l.tls.mode == 'Disabled')")
    .message("spec.listeners[].tls needs a certificate: spec.tls.mode must not be Disabled"))]
#[x_kube(validation = Rule::new("(self.hibernated && oldSelf.hibernated) || (self.tls.mode == oldSelf.tls.mode && self.cluster.tls.mode == oldSelf.cluster.tls.mode)")
    .message("spec.tls.mode and spec.cluster.tls.mode can only be changed while spec.hibernated is true"))]
#[serde(rename_all = "camelCase")]
pub struct NatsClusterSpec {
    /// Number of servers. May be changed at any time, also by `kubectl scale` or an autoscaler: new
    /// servers join while the others work; leaving servers first send their clients to the others,
    /// one server at a time.
    #[serde(default = "default_replicas")]
    #[schemars(range(max = 99))]
    #[x_kube(validation = Rule::new("self >= 1")
        .message("spec.replicas must be at least 1; to stop all servers and keep the cluster set spec.hibernated: true"))]
    pub replicas: i32,

    /// Version of the broker, as in its image's tag. Default: the version that the operator was released
    /// with. At most one of version and image may be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"))]
    pub version: Option<String>,

    /// Full image reference of the broker, in place of version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub image: Option<String>,

    /// Secrets with which the kubelet pulls the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<ImagePullSecret>,

    /// While true the operator watches and reports, but changes nothing.
    #[serde(default)]
    pub paused: bool,

    /// While true no server runs; everything else stays. Turning it off starts spec.replicas servers.
    #[serde(default)]
    pub hibernated: bool,

    /// How the servers behave.
    #[serde(default)]
    pub config: ServerConfig,

    /// How the servers reach each other.
    #[serde(default)]
    pub cluster: ClusterSpec,

    /// Who may connect.
    #[serde(default)]
    pub auth: Auth,

    /// Ports that clients connect to. This version knows one listener, of protocol Nats.
    #[serde(default = "default_listeners")]
    #[schemars(length(min = 1, max = 1), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub listeners: Vec<Listener>,

    /// Certificates.
    #[serde(default)]
    pub tls: TlsSpec,

    /// CPU and memory of each server's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,

    /// IP versions of the Services; default: Kubernetes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,

    /// How servers are spread over zones and nodes.
    #[serde(default)]
    pub topology: Topology,

    /// Additions to the servers' pods, merged over what the operator builds. The container of the broker
    /// is named `nats`.
    #[serde(default)]
    pub pod_template: PodTemplate,

    /// Whether node drains may take away more than one server at a time.
    #[serde(default)]
    pub disruption_budget: DisruptionBudget,

    /// Who may connect to which port.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// How changed servers are replaced.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,

    /// The monitoring port, which also serves the probes.
    #[serde(default)]
    pub monitoring: Monitoring,
}

/// Names a Secret in the cluster's namespace.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImagePullSecret {
    /// Name of the Secret.
    pub name: String,
}

/// Behaviour of the servers. Every key left out keeps nats-server's default.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("duration(self.lameDuckGracePeriod) < duration(self.lameDuckDuration)")
    .message("spec.config.lameDuckGracePeriod must be shorter than spec.config.lameDuckDuration"))]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    /// Largest message payload (bytes as a quantity, e.g. 1Mi). Server's default 1Mi, at most 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(BYTES_PATTERN))]
    pub max_payload: Option<String>,

    /// Most client connections of one server. Server's default 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<i32>,

    /// Most bytes that may wait for one client before it is cut off as a slow consumer (e.g. 64Mi).
    /// Server's default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(BYTES_PATTERN))]
    pub max_pending: Option<String>,

    /// How long a write to a client may block before the client is cut off. Server's default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub write_deadline: Option<String>,

    /// How often an idle connection is probed. Server's default 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub ping_interval: Option<String>,

    /// Unanswered probes after which a connection is closed as stale. Server's default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub ping_max: Option<i32>,

    /// Time over which a leaving server sends its clients away; at least 30s, as nats-server demands.
    #[serde(default = "default_lame_duck_duration")]
    #[schemars(pattern(DURATION_PATTERN))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('30s')")
        .message("spec.config.lameDuckDuration must be at least 30s"))]
    pub lame_duck_duration: String,

    /// Time that clients of a leaving server get to go by themselves before it sends them away. Must be
    /// shorter than lameDuckDuration.
    #[serde(default = "default_lame_duck_grace_period")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub lame_duck_grace_period: String,

    /// Tags of every server, as in nats-server's server_tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub server_tags: Vec<String>,

    /// What the servers log.
    #[serde(default)]
    pub logging: Logging,

    /// Further keys of the server's configuration file, merged over everything above. Keys that the
    /// operator must own (server_name, the ports, cluster.routes, …) are refused. Put secrets into
    /// mergeFrom instead.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "free_object")]
    pub merge: serde_json::Map<String, serde_json::Value>,

    /// Fragments of configuration files kept in Secrets, merged after merge, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub merge_from: Vec<MergeSource>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_payload: None,
            max_connections: None,
            max_pending: None,
            write_deadline: None,
            ping_interval: None,
            ping_max: None,
            lame_duck_duration: default_lame_duck_duration(),
            lame_duck_grace_period: default_lame_duck_grace_period(),
            server_tags: Vec::new(),
            logging: Logging::default(),
            merge: serde_json::Map::new(),
            merge_from: Vec::new(),
        }
    }
}

/// Where a fragment of configuration comes from.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MergeSource {
    /// Key of a Secret in the cluster's namespace.
    pub secret_key_ref: SecretKeyReference,
}

/// One key of a Secret in the cluster's namespace.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1))]
    pub key: String,
}

/// What the servers log.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// Info, Debug, or Trace (every protocol line; slow, and it shows payloads' subjects).
    #[serde(default)]
    pub level: LogLevel,
}

/// How much a server logs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum LogLevel {
    /// Starts, stops, errors.
    #[default]
    Info,
    /// Also connections and routes.
    Debug,
    /// Also every protocol line.
    Trace,
}

/// How the servers reach each other.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Name of the cluster on the wire. Default: metadata.name. Cannot be changed.
    #[serde(default)]
    #[schemars(length(max = 253), pattern(r"^[^\s]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.cluster.name cannot be changed"))]
    pub name: String,

    /// Port on which servers accept each other.
    #[serde(default = "default_route_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Connections between each two servers, beside those of pinned accounts.
    #[serde(default = "default_pool_size")]
    #[schemars(range(min = 1, max = 64))]
    pub pool_size: i32,

    /// TLS between servers.
    #[serde(default)]
    pub tls: RouteTls,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            port: default_route_port(),
            pool_size: default_pool_size(),
            tls: RouteTls::default(),
        }
    }
}

/// Who may connect.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// None: anybody, unless spec.config.merge or mergeFrom say otherwise. Static: the NatsUsers of this
    /// cluster's NatsAccounts, and nobody else.
    #[serde(default)]
    pub mode: AuthMode,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum AuthMode {
    /// Anybody, or whom the merged configuration names.
    #[default]
    None,
    /// NatsUsers.
    Static,
}

/// A port that clients connect to.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Name of the listener and of its port in the Service.
    #[schemars(pattern(r"^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$"))]
    pub name: String,

    /// Protocol spoken on the port.
    #[serde(default)]
    pub protocol: ListenerProtocol,

    /// Port number.
    #[serde(default = "default_client_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// TLS towards clients.
    #[serde(default)]
    pub tls: ListenerTls,

    /// How the port is reached.
    #[serde(default)]
    pub expose: Expose,
}

/// Protocol of a listener.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ListenerProtocol {
    /// The NATS client protocol.
    #[default]
    Nats,
}

/// How a listener is reached.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("self.type == 'LoadBalancer' || !has(self.loadBalancerClass)")
    .message("spec.listeners[].expose.loadBalancerClass belongs to type LoadBalancer"))]
#[x_kube(validation = Rule::new("self.type != 'ClusterIP' || !has(self.externalTrafficPolicy)")
    .message("spec.listeners[].expose.externalTrafficPolicy belongs to types NodePort and LoadBalancer"))]
#[x_kube(validation = Rule::new("self.type != 'ClusterIP' || self.perServer == 'Disabled'")
    .message("spec.listeners[].expose.perServer needs type NodePort or LoadBalancer"))]
#[x_kube(validation = Rule::new("!has(self.nodePort) || (self.type == 'NodePort' && self.perServer == 'Enabled')")
    .message("spec.listeners[].expose.nodePort belongs to type NodePort with perServer Enabled"))]
#[x_kube(validation = Rule::new("(self.advertise == 'Template') == has(self.advertiseTemplate)")
    .message("spec.listeners[].expose.advertiseTemplate belongs to advertise Template, which needs it"))]
#[serde(rename_all = "camelCase")]
pub struct Expose {
    /// Type of the client Service.
    #[serde(rename = "type", default)]
    pub type_: ExposeType,

    /// Enabled: one more Service of this type for each server, named after it, so that clients outside reach
    /// every server by an address of its own.
    #[serde(default)]
    pub per_server: PerServer,

    /// For type NodePort with perServer: the node port of server 0; server 1 has the next one, and so on.
    /// Default: Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65400))]
    pub node_port: Option<i32>,

    /// Which addresses servers tell clients, of themselves and of the other servers. Auto: pod addresses.
    /// Template: advertiseTemplate. Disabled: none; for clients outside of the pod network that could not
    /// use them.
    #[serde(default)]
    pub advertise: Advertise,

    /// Host and port by which clients reach a server, e.g. {pod}.nats.example.com:4222 or {node}:3040{ordinal}.
    /// {pod} is the server's name, {ordinal} its number, {node} the address of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(r"^([-a-zA-Z0-9.:\[\]]|\{pod\}|\{ordinal\}|\{node\})+$"))]
    pub advertise_template: Option<String>,

    /// Annotations of the Services, e.g. for a load balancer or for names in DNS. {pod} and {ordinal} in a
    /// value are a server's name and number in the Services of perServer; such an annotation is left out of
    /// the client Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,

    /// For type LoadBalancer: the implementation to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub load_balancer_class: Option<String>,

    /// For types NodePort and LoadBalancer: Local keeps clients' addresses and reaches only servers on the
    /// node that was asked; Cluster reaches all. Default: Kubernetes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
}

/// Which servers traffic from outside reaches.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum TrafficPolicy {
    /// All of them.
    Cluster,
    /// Those on the node that was asked.
    Local,
}

/// IP versions of the Services. Servers listen on both versions where this is set.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Both where the Kubernetes cluster has both.
    PreferDualStack,
    /// Both, or the Services are refused.
    RequireDualStack,
}

/// Who may connect to which port.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Enabled: a NetworkPolicy lets only the cluster's own servers connect to the route port, and the
    /// peers below to the others. It takes a network plugin that enforces policies. Disabled: no policy.
    #[serde(default)]
    pub mode: NetworkPolicyMode,
    /// Who may connect to client ports, beside the operator; empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub client_peers: Vec<k8s_openapi::api::networking::v1::NetworkPolicyPeer>,
    /// Who may connect to the monitoring port, beside the kubelet and the operator; empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub monitoring_peers: Vec<k8s_openapi::api::networking::v1::NetworkPolicyPeer>,
}

/// Whether there is a NetworkPolicy.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum NetworkPolicyMode {
    /// There is one.
    #[default]
    Enabled,
    /// There is none.
    Disabled,
}

/// Type of the client Service.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ExposeType {
    /// Reached from inside the cluster.
    #[default]
    ClusterIP,
    /// Also on a port of every node.
    NodePort,
    /// Also through a load balancer.
    LoadBalancer,
}

/// Whether each server has a Service of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum PerServer {
    /// Only one Service for all.
    #[default]
    Disabled,
    /// One for each server too.
    Enabled,
}

/// Whether servers tell clients about each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum Advertise {
    /// Tell clients the addresses of all servers' pods.
    #[default]
    Auto,
    /// Tell clients the addresses of all servers by the template.
    Template,
    /// Tell clients nothing.
    Disabled,
}

/// How servers are spread.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Over zones (label topology.kubernetes.io/zone). Unless Disabled, servers also carry the zone as the tag
    /// az:ZONE, beside serverTags; it takes Kubernetes 1.35 or later, which copies the label from node to pod.
    #[serde(default = "preferred")]
    pub zone: Spread,
    /// Over nodes (label kubernetes.io/hostname).
    #[serde(default = "preferred")]
    pub host: Spread,
}

impl Default for Topology {
    fn default() -> Self {
        Self { zone: Spread::Preferred, host: Spread::Preferred }
    }
}

/// How strictly servers are spread over one kind of place.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum Spread {
    /// A server that would break the spread stays Pending.
    Required,
    /// Spread if possible.
    #[default]
    Preferred,
    /// Do not care.
    Disabled,
}

/// Additions to the servers' pods.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels added to the pods; those of the operator cannot be replaced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// A PodSpec, merged over the operator's by Kubernetes' rules (lists of named things by name). The
    /// container `nats` may be changed, not removed.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "free_object")]
    pub spec: serde_json::Map<String, serde_json::Value>,
}

/// Protection from node drains.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// Enabled: a PodDisruptionBudget lets drains take one server at a time.
    #[serde(default)]
    pub mode: BudgetMode,
}

/// Whether there is a PodDisruptionBudget.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum BudgetMode {
    /// One server at a time.
    #[default]
    Enabled,
    /// No budget.
    Disabled,
}

/// How changed servers are replaced.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// RollingUpdate: the operator replaces outdated servers one at a time. OnDelete: it only shows which
    /// are outdated, and whoever deletes a pod gets the new version of it.
    #[serde(rename = "type", default)]
    pub type_: UpdateStrategyType,
    /// Pace of a rolling update.
    #[serde(default)]
    pub rolling_update: RollingUpdate,
}

/// Who replaces outdated servers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum UpdateStrategyType {
    /// The operator, one at a time.
    #[default]
    RollingUpdate,
    /// The user.
    OnDelete,
}

/// Pace of a rolling update.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// How long a server must have been healthy before the next one is touched.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub min_ready_seconds: i32,
    /// How long a server may take to become healthy before the cluster is reported Stalled. The update
    /// goes on by itself when the server gets healthy or the spec changes again.
    #[serde(default = "default_gate_timeout")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub gate_timeout: String,
}

impl Default for RollingUpdate {
    fn default() -> Self {
        Self { min_ready_seconds: 0, gate_timeout: default_gate_timeout() }
    }
}

/// The monitoring port.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Port of /varz, /connz, /healthz, /livez, /readyz.
    #[serde(default = "default_monitor_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { port: default_monitor_port() }
    }
}

fn default_replicas() -> i32 {
    3
}
fn default_client_port() -> i32 {
    4222
}
fn default_route_port() -> i32 {
    6222
}
fn default_monitor_port() -> i32 {
    8222
}
fn default_pool_size() -> i32 {
    3
}
fn default_lame_duck_duration() -> String {
    "30s".to_owned()
}
fn default_lame_duck_grace_period() -> String {
    "10s".to_owned()
}
fn default_gate_timeout() -> String {
    "10m".to_owned()
}
fn preferred() -> Spread {
    Spread::Preferred
}
fn default_listeners() -> Vec<Listener> {
    vec![Listener {
        name: "client".to_owned(),
        protocol: ListenerProtocol::Nats,
        port: default_client_port(),
        tls: ListenerTls::default(),
        expose: Expose::default(),
    }]
}

/// An object whose keys the API server keeps without knowing them.
fn free_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
