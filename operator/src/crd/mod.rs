//! The Kubernetes API of Starling: what a user writes and what the operator answers.
//!
//! Owns the Rust types from which `crds/` is generated: schema, defaults, CEL rules, printer columns,
//! subresources. Never interprets them: meaning (bytes, durations, contradictions) is
//! [`crate::validate`]'s work, and no other module reads a raw spec.
//!
//! Conventions are those of Kubernetes: everything optional has a default, quantities and durations
//! are strings, choices are CamelCase enums, lists of named things are list-maps, `spec` is never
//! written by the operator.

mod account;
mod cluster;
mod generate;
mod reference;
mod status;
mod tls;
mod user;

pub use account::{
    AccountExport, AccountImport, AccountLimits, LocalReference, MappingDestination, NatsAccount,
    NatsAccountSpec, NatsAccountStatus, ResponseType, ShareType, SubjectMapping,
};
pub use cluster::{
    Advertise, Auth, AuthMode, BudgetMode, ClusterSpec, DisruptionBudget, Expose, ExposeType,
    ImagePullSecret, IpFamilyPolicy, Listener, ListenerProtocol, LogLevel, Logging, MergeSource, Monitoring,
    NatsCluster, NatsClusterSpec, NetworkPolicyMode, NetworkPolicySpec, PerServer, PodTemplate,
    RollingUpdate, SecretKeyReference, ServerConfig, Spread, Topology, TrafficPolicy, UpdateStrategy,
    UpdateStrategyType,
};
pub use generate::{crd_documents, crd_schema, schema_of};
pub use reference::reference;
pub use status::{
    CertificateStatus, Endpoint, NatsClusterStatus, RolloutStatus, ScalingStatus, ServerStatus,
    VersionStatus, condition,
};

pub use tls::{
    CertManager, ClientAuth, IssuerReference, ListenerTls, ListenerTlsMode, RouteTls, RouteTlsMode,
    SelfSigned, TlsMode, TlsSecret, TlsSpec,
};

pub use user::{
    CredentialType, Credentials, NatsUser, NatsUserSpec, NatsUserStatus, Permissions, ResponsePermission,
    SubjectPermission,
};

/// API group of every kind of ours.
pub const GROUP: &str = "starling.dev";
/// API version of every kind of ours.
pub const VERSION: &str = "v1alpha1";
