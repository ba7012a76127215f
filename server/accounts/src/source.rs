//! What a table is built from: accounts and users as configuration writes them.
//!
//! Owns plain data only. The node fills it from the `config` room, which this room does not know.

use crate::exchange::{ServiceExportSource, ServiceImportSource, StreamExportSource, StreamImportSource};
use crate::{CalloutSource, MappingSource, PermissionsSource};

/// Everything a [`crate::Table`] is built from.
#[derive(Clone, Debug, Default)]
pub struct AccountsSource {
    /// Name of the cluster, for mappings that apply in one only; empty for none.
    pub cluster: String,
    /// The `authorization` block and what belongs to it.
    pub authorization: AuthorizationSource,
    /// The `accounts` block. Not allowed together with operators.
    pub accounts: Vec<AccountSource>,
    /// Top-level `mappings`: those of `$G`.
    pub mappings: Vec<MappingSource>,
    /// `system_account`; none for `$SYS`, or what the operator says.
    pub system_account: Option<String>,
    /// `no_system_account`: none unless one is named.
    pub no_system_account: bool,
    /// Operator mode; empty for none.
    pub operators: OperatorsSource,
    /// Time zone, by IANA name, of user JWTs that bound times without naming one; none for UTC.
    pub time_zone: Option<String>,
}

/// Who may connect, apart from what accounts say.
#[derive(Clone, Debug, Default)]
pub struct AuthorizationSource {
    /// Whether there is an `authorization` block at all.
    pub is_written: bool,
    /// The single user, with password.
    pub user: Option<(String, String)>,
    /// The single token.
    pub token: Option<String>,
    /// Users of `$G`.
    pub users: Vec<UserSource>,
    /// For those of these users who have none.
    pub default_permissions: Option<PermissionsSource>,
    /// The user as whom clients without credentials connect.
    pub no_auth_user: Option<String>,
    /// Clients are identified by their certificate (`verify_and_map`).
    pub verify_and_map: bool,
    /// Public keys of trusted proxies.
    pub trusted_proxies: Vec<String>,
    /// A service decides who clients are.
    pub callout: Option<CalloutSource>,
    /// The single user or token must come through a trusted proxy.
    pub proxy_required: bool,
}

/// One user.
#[derive(Clone, Debug)]
pub struct UserSource {
    /// How the user is recognised.
    pub login: Login,
    /// What the user may do; none for the account's default.
    pub permissions: Option<PermissionsSource>,
    /// Names as in `allowed_connection_types`, any case; empty for all.
    pub connection_types: Vec<String>,
    /// The user must come through a trusted proxy.
    pub proxy_required: bool,
}

/// How a user is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// By name and password or its bcrypt hash; the password may be empty with certificates.
    Password {
        /// Name, or what a certificate says.
        user: String,
        /// Password or hash.
        password: String,
    },
    /// By a signature over the nonce with this public user key.
    Nkey(String),
}

/// One account.
#[derive(Clone, Debug, Default)]
pub struct AccountSource {
    /// Name.
    pub name: String,
    /// Its users.
    pub users: Vec<UserSource>,
    /// For those of its users who have none.
    pub default_permissions: Option<PermissionsSource>,
    /// Bounds.
    pub limits: AccountLimits,
    /// Subject mappings.
    pub mappings: Vec<MappingSource>,
    /// Exported streams.
    pub stream_exports: Vec<StreamExportSource>,
    /// Exported services.
    pub service_exports: Vec<ServiceExportSource>,
    /// Imported streams.
    pub stream_imports: Vec<StreamImportSource>,
    /// Imported services.
    pub service_imports: Vec<ServiceImportSource>,
    /// Where traces of messages go that somebody else's tracing asks for.
    pub trace: Option<TraceSource>,
}

/// Where traces of messages go that carry a sampled `traceparent` header (ADR-41).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSource {
    /// Subject, in the account.
    pub destination: String,
    /// Percentage of such messages that is traced, 1 to 100.
    pub sampling_percent: u8,
}

/// Bounds of an account; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// Client connections.
    pub connections_max: Option<u32>,
    /// Leaf node connections.
    pub leaf_nodes_max: Option<u32>,
    /// Subscriptions of one connection.
    pub subscriptions_max: Option<u32>,
    /// Bytes of one message.
    pub payload_bytes_max: Option<u32>,
}

/// Operator mode: whom to trust and what is known so far.
#[derive(Clone, Debug, Default)]
pub struct OperatorsSource {
    /// Operator JWTs, self-signed.
    pub operators: Vec<String>,
    /// Public operator keys. Not allowed together with operator JWTs.
    pub trusted_keys: Vec<String>,
    /// JWTs of the accounts known when starting (`resolver_preload`, directory).
    pub accounts: Vec<String>,
    /// Accept users of these accounts only; empty for all.
    pub pinned_accounts: Vec<String>,
    /// User JWT of clients that send none.
    pub default_sentinel: Option<String>,
}

impl OperatorsSource {
    /// Whether the server is in operator mode.
    pub fn is_used(&self) -> bool {
        !self.operators.is_empty() || !self.trusted_keys.is_empty()
    }
}
