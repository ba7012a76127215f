//! `NatsAccount`: a subject space of its own on a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::cluster::{BYTES_PATTERN, DURATION_PATTERN};
use super::user::Permissions;

/// Subjects as a user writes them: tokens without blanks.
const SUBJECT_PATTERN: &str = r"^[^\s.]+(\.[^\s.]+)*$";

/// An account: subjects of its own, which nobody in another account sees unless it is exported.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "starling.dev",
    version = "v1alpha1",
    kind = "NatsAccount",
    plural = "natsaccounts",
    shortname = "natsacc",
    category = "nats",
    namespaced,
    cel,
    status = "NatsAccountStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "An account of a NatsCluster whose spec.auth.mode is Static: a subject space of its own, with its limits, and with what it shares with other accounts.",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name",
        description = "The NatsCluster"
    ),
    printcolumn(
        name = "Users",
        type_ = "integer",
        json_path = ".status.users",
        description = "NatsUsers of the account"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the servers know the account"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Synced\")].reason",
        description = "Whether every server has it as the spec says, or why not"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Synced\")].message",
        description = "The same in a sentence",
        priority = 1
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 63")
        .message("metadata.name must be a DNS label that begins with a letter: it is the account's name on the servers"),
)]
#[serde(rename_all = "camelCase")]
pub struct NatsAccountSpec {
    /// The NatsCluster in the same namespace. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.clusterRef cannot be changed; make a new object"))]
    pub cluster_ref: LocalReference,

    /// Bounds on the account; what is left out is not bounded.
    #[serde(default)]
    pub limits: AccountLimits,

    /// What users may do that have no spec.permissions of their own. Default: everything in the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_permissions: Option<Permissions>,

    /// What other accounts may import.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub exports: Vec<AccountExport>,

    /// What is taken from other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub imports: Vec<AccountImport>,

    /// Subjects that become others when published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub mappings: Vec<SubjectMapping>,
}

/// Names an object in the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Bounds on an account, on each server.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountLimits {
    /// Most connections of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_connections: Option<i32>,
    /// Most subscriptions of one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_subscriptions: Option<i32>,
    /// Largest payload (a quantity, e.g. 64Ki).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(BYTES_PATTERN))]
    pub max_payload: Option<String>,
}

/// Messages or requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ShareType {
    /// Messages flow from the exporting to the importing account.
    #[default]
    Stream,
    /// Requests flow to the exporting account, answers flow back.
    Service,
}

/// Something offered to other accounts.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("self.type == 'Service' || !(has(self.responseType) || has(self.responseThreshold))")
    .message("responseType and responseThreshold are for exports of type Service"))]
#[serde(rename_all = "camelCase")]
pub struct AccountExport {
    /// Stream or Service.
    #[serde(rename = "type", default)]
    pub type_: ShareType,
    /// Subject, with wildcards if wanted.
    #[schemars(length(min = 1, max = 1024), pattern(SUBJECT_PATTERN))]
    pub subject: String,
    /// Names of the NatsAccounts that may import it; empty: all of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub accounts: Vec<String>,
    /// How many answers a request of a Service has. Default: Singleton.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<ResponseType>,
    /// How long answers of a Service may take. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub response_threshold: Option<String>,
}

/// How many answers a request has.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ResponseType {
    /// One.
    #[default]
    Singleton,
    /// Many, each a message of its own.
    Stream,
    /// Many, one answer in pieces.
    Chunked,
}

/// Something taken from another account.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountImport {
    /// Stream or Service.
    #[serde(rename = "type", default)]
    pub type_: ShareType,
    /// Name of the exporting NatsAccount, of the same cluster.
    #[schemars(length(min = 1, max = 63))]
    pub account: String,
    /// Subject in the exporting account, within one of its exports.
    #[schemars(length(min = 1, max = 1024), pattern(SUBJECT_PATTERN))]
    pub subject: String,
    /// Subject in this account. Default: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(SUBJECT_PATTERN))]
    pub to: Option<String>,
}

/// Subjects that become others.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SubjectMapping {
    /// Subjects mapped; wildcards are taken up by {{wildcard(1)}} or $1 in destinations.
    #[schemars(length(min = 1, max = 1024), pattern(SUBJECT_PATTERN))]
    pub subject: String,
    /// What they become, one of these by weight.
    #[schemars(length(min = 1, max = 64))]
    pub destinations: Vec<MappingDestination>,
}

/// One thing that a subject may become.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MappingDestination {
    /// The new subject.
    #[schemars(length(min = 1, max = 1024), pattern(SUBJECT_PATTERN))]
    pub subject: String,
    /// Percent of the messages; what is left to 100 keeps its subject.
    #[serde(default = "everything")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: i32,
    /// Only on servers of the cluster with this name (spec.cluster.name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

fn everything() -> i32 {
    100
}

/// What became of the account.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NatsAccountStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// NatsUsers of the account.
    #[serde(default)]
    pub users: i32,
    /// Ready: the servers know the account. Synced: every server has it as the spec says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
