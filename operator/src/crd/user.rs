//! `NatsUser`: somebody who may log in to an account, and the Secret with which it does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::account::LocalReference;
use super::cluster::DURATION_PATTERN;

/// A user of an account.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "starling.dev",
    version = "v1alpha1",
    kind = "NatsUser",
    plural = "natsusers",
    shortname = "natsu",
    category = "nats",
    namespaced,
    cel,
    status = "NatsUserStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A user of a NatsAccount. The operator makes up its credentials and keeps them in a Secret, which is all that a client needs.",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name",
        description = "The NatsCluster"
    ),
    printcolumn(
        name = "Account",
        type_ = "string",
        json_path = ".spec.accountRef.name",
        description = "The NatsAccount"
    ),
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".status.secretName",
        description = "Secret with the credentials"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the servers let it in"
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
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 50")
        .message("metadata.name must be a DNS label of at most 50 characters that begins with a letter: user and Secret are named after it"),
)]
#[serde(rename_all = "camelCase")]
pub struct NatsUserSpec {
    /// The NatsCluster in the same namespace. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.clusterRef cannot be changed; make a new object"))]
    pub cluster_ref: LocalReference,

    /// The NatsAccount in the same namespace. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.accountRef cannot be changed; make a new object"))]
    pub account_ref: LocalReference,

    /// What the user may publish and subscribe to. Default: what the account's defaultPermissions say, or
    /// everything in the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,

    /// How the user proves to be itself.
    #[serde(default)]
    pub credentials: Credentials,
}

/// What a user may publish and subscribe to.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Permissions {
    /// Subjects to publish to. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<SubjectPermission>,
    /// Subjects to subscribe to; with a queue group as a second word if wanted. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubjectPermission>,
    /// Allows answers to the reply subjects of messages received. Without publish.allow nothing but such
    /// answers may be published then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_responses: Option<ResponsePermission>,
}

/// Subjects allowed and denied. Denied wins.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SubjectPermission {
    /// Subjects allowed; empty: all that are not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub allow: Vec<String>,
    /// Subjects denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub deny: Vec<String>,
}

/// Bounds on answering.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResponsePermission {
    /// Answers to one message.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub max_messages: i32,
    /// How long answers are allowed after a message was received.
    #[serde(default = "two_minutes")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub expires: String,
}

impl Default for ResponsePermission {
    fn default() -> Self {
        Self { max_messages: one(), expires: two_minutes() }
    }
}

/// How a user proves to be itself.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.rotateAfter) || duration(self.overlap) < duration(self.rotateAfter)")
    .message("spec.credentials.overlap must be shorter than spec.credentials.rotateAfter"))]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Password: user name and password. NKey: a key pair of which the servers know the public half only.
    #[serde(rename = "type", default)]
    pub type_: CredentialType,

    /// Name of the Secret that the operator makes: url, user, and password or nkey (the seed); ca.crt where
    /// servers have certificates. Default: the user's name with `-nats`. Cannot be changed.
    #[serde(default)]
    #[schemars(length(max = 253), pattern(r"^[-.a-z0-9]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.credentials.secretName cannot be changed"))]
    pub secret_name: String,

    /// Age at which credentials are replaced by new ones (e.g. 720h), at least 1m. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION_PATTERN))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')")
        .message("spec.credentials.rotateAfter must be at least 1m"))]
    pub rotate_after: Option<String>,

    /// How long the former credentials are still let in after the Secret holds new ones: the time for clients
    /// to take them up. When it is over, connections that still use the former ones are closed.
    #[serde(default = "one_hour")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub overlap: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            type_: CredentialType::default(),
            secret_name: String::new(),
            rotate_after: None,
            overlap: one_hour(),
        }
    }
}

/// Kinds of credentials.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum CredentialType {
    /// User name and password; the servers' configuration holds only a hash.
    #[default]
    Password,
    /// An Ed25519 key pair; the servers' configuration holds only the public key.
    NKey,
}

/// What became of the user.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NatsUserStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Secret with the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Name by which the servers know the user now: a user name or a public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Until when the former credentials are let in, during a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_until: Option<Time>,
    /// When the credentials will be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<Time>,
    /// Ready: the servers let the user in. Synced: every server has it as the spec says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

fn one() -> i32 {
    1
}
fn two_minutes() -> String {
    "2m".to_owned()
}
fn one_hour() -> String {
    "1h".to_owned()
}
