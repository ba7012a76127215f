//! `NatsCluster`: the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Types of conditions, in the order in which status lists them.
pub mod condition {
    /// Serving, as asked for, nothing under way.
    pub const READY: &str = "Ready";
    /// The operator is bringing the cluster to what was asked for.
    pub const RECONCILING: &str = "Reconciling";
    /// The operator cannot go on without help.
    pub const STALLED: &str = "Stalled";
    /// At least one server takes clients.
    pub const AVAILABLE: &str = "Available";
    /// Every server runs the configuration that was asked for.
    pub const CONFIG_APPLIED: &str = "ConfigApplied";
    /// Every server shows the newest certificate, which is not about to end.
    pub const CERTIFICATES_READY: &str = "CertificatesReady";
}

/// What the operator saw when it last looked.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NatsClusterStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Servers that exist, leaving ones included.
    #[serde(default)]
    pub replicas: i32,
    /// Servers that take clients.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Servers that run the newest template and configuration.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Label selector of the servers' pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Versions of the broker.
    #[serde(default)]
    pub version: VersionStatus,
    /// Digest that every server is to report for its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub endpoints: Vec<Endpoint>,
    /// One row a server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub servers: Vec<ServerStatus>,
    /// The rolling update under way, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// The change of size under way, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// The servers' certificate; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificateStatus>,
    /// Ready, Reconciling, Stalled, Available, ConfigApplied, CertificatesReady.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Versions of the broker.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// What every server reports; absent while they differ or do not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// What was asked for: a version, or an image reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The newest certificate.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Secret with tls.crt, tls.key and ca.crt; clients need its ca.crt.
    pub secret_name: String,
    /// End of the servers' certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// How far a change of the operator's own authority is; absent while none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
}

/// A place where clients connect.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Name of the listener.
    pub name: String,
    /// URL that a client takes.
    pub url: String,
}

/// One server.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// Name of the server and of its pod.
    pub name: String,
    /// Takes clients.
    #[serde(default)]
    pub ready: bool,
    /// On its way out: in lame duck mode or being deleted.
    #[serde(default)]
    pub leaving: bool,
    /// Runs the newest template and configuration.
    #[serde(default)]
    pub updated: bool,
    /// Version that the server reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Digest that the server reports for its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// Other servers that it is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<i32>,
    /// End of the certificate that the server shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_not_after: Option<Time>,
    /// Zone that the server says it is in, by its tag `az:`; absent if its node has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A rolling update under way.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Servers done.
    pub updated: i32,
    /// Servers in all.
    pub total: i32,
    /// Server being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// What the next step waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// When the update began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// A change of size under way.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Servers now.
    pub from: i32,
    /// Servers asked for.
    pub to: i32,
    /// Server that is leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What the next step waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}
