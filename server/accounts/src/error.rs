//! Why a table cannot be built and why a client is not let in.

use subject::TransformError;
use thiserror::Error;

/// Why configuration or claims do not make a [`crate::Table`]. Texts follow nats-server's where it has one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// An entry of a permission list is no subject.
    #[error("invalid permissions for {owner}: {reason}")]
    Permission {
        /// Whose list.
        owner: String,
        /// What is wrong with which entry.
        reason: String,
    },
    /// A user appears twice.
    #[error("Duplicate user {0:?} detected")]
    DuplicateUser(String),
    /// An nkey user appears twice.
    #[error("Duplicate nkey {0:?} detected")]
    DuplicateNkey(String),
    /// A user's nkey is no public user key.
    #[error("Not a valid public nkey for a user: {0:?}")]
    BadNkey(String),
    /// Somebody names an account that is not defined.
    #[error("{account:?} account not defined for {used_by}")]
    UnknownAccount {
        /// The missing account.
        account: String,
        /// What names it.
        used_by: String,
    },
    /// A name that the server keeps for itself.
    #[error("{0:?} is a Reserved Account")]
    ReservedAccount(String),
    /// An account appears twice.
    #[error("Duplicate Account Entry: {0}")]
    DuplicateAccount(String),
    /// `allowed_connection_types` holds something else.
    #[error("unknown connection type {0:?}")]
    ConnectionType(String),
    /// `no_auth_user` names nobody, or there is nobody to name.
    #[error("no_auth_user: {name:?} {reason}")]
    NoAuthUser {
        /// The name given.
        name: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// A mapping cannot be used.
    #[error("Error adding mapping for {source_subject:?} in account {account:?} : {reason}")]
    Mapping {
        /// Whose mapping.
        account: String,
        /// Its source.
        source_subject: String,
        /// What is wrong.
        reason: MappingError,
    },
    /// An export or import cannot be used.
    #[error("Error adding {what} {subject:?} to account {account:?}: {reason}")]
    Exchange {
        /// Whose.
        account: String,
        /// `stream export` and so on.
        what: &'static str,
        /// Its subject.
        subject: String,
        /// What is wrong.
        reason: Box<ExchangeError>,
    },
    /// The operators and keys that are to be trusted cannot be.
    #[error("operator: {0}")]
    Operator(String),
    /// An account's claims are refused.
    #[error("account claims of {account}: {reason}")]
    Claims {
        /// The account, or a part of the token when it cannot be read.
        account: String,
        /// What is wrong.
        reason: String,
    },
    /// A trusted proxy's key is no public key.
    #[error("proxies: {0:?} is not a valid public nkey")]
    ProxyKey(String),
}

/// Why a mapping is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MappingError {
    /// The source is no subject.
    #[error("invalid subject")]
    BadSubject,
    /// A destination appears twice.
    #[error("duplicate entry for {0:?}")]
    Duplicate(String),
    /// A weight beyond 100.
    #[error("individual weights need to be <= 100")]
    Weight,
    /// Weights that add up to more than 100.
    #[error("total weight needs to be <= 100")]
    TotalWeight,
    /// The destination does not fit the source.
    #[error(transparent)]
    Transform(#[from] TransformError),
}

/// Why an export or import is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExchangeError {
    /// Not a subject, or an account position that is no `*` of it.
    #[error("invalid subject")]
    InvalidSubject,
    /// No export of the other account covers it and admits this account.
    #[error("stream import not authorized")]
    StreamNotAuthorized,
    /// No export of the other account covers it and admits this account.
    #[error("service import not authorized")]
    ServiceNotAuthorized,
    /// A prefix with wildcards.
    #[error("stream import prefix can not contain wildcard tokens")]
    BadPrefix,
    /// The same stream twice.
    #[error("stream import already exists")]
    DuplicateStream,
    /// The same local subject twice for one account.
    #[error("duplicate service import subject {from:?}, previously used in import for account {account:?}")]
    DuplicateService {
        /// Local subject.
        from: String,
        /// Exporting account.
        account: String,
    },
    /// Messages would come back to where they started.
    #[error("import forms a cycle")]
    Cycle,
    /// Too many accounts in a row to search for a cycle.
    #[error("search cycle depth exhausted")]
    CycleDepth,
    /// Latency sampling outside 0 to 100.
    #[error("bad sampling percentage, should be 1-100")]
    BadSampling,
    /// Latency results cannot go to a wildcard or to the service itself.
    #[error("bad publish subject")]
    BadResults,
    /// Latency is measured for single responses only.
    #[error("bad service response type")]
    BadServiceType,
    /// Local and remote subject do not fit.
    #[error("failed to create mapping transform for import subject from {from:?} to {to:?}: {reason}")]
    Transform {
        /// Source of the transform.
        from: String,
        /// Its destination.
        to: String,
        /// What is wrong.
        reason: TransformError,
    },
}

/// Why a client is not let in. All but one read `Authorization Violation` to the client; the reason is for
/// logs and events.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AuthError {
    /// Refused.
    #[error("{0}")]
    Refused(Reason),
    /// Operator mode: the account's claims are not in the table. Fetch them from the resolver, add them
    /// with [`crate::Table::with_account`], and ask again; refuse if there are none.
    #[error("account {0} is not known yet")]
    AccountNeeded(String),
    /// A service decides: ask it, and then [`crate::Table::authenticate_answered`].
    #[error("auth callout")]
    Callout(Box<crate::Callout>),
}

/// Details of a refusal, as nats-server writes them to its debug log.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)] // the texts say it
pub enum Reason {
    #[error("unknown user, token or key")]
    Unknown,
    #[error("wrong password")]
    WrongPassword,
    #[error("connection type not allowed")]
    ConnectionType,
    #[error("Signature missing or not verified")]
    Signature,
    #[error("user requires a client certificate")]
    Certificate,
    #[error("proxy is not trusted")]
    ProxyNotTrusted,
    #[error("proxy required")]
    ProxyRequired,
    #[error("Authentication requires a user JWT")]
    JwtRequired,
    #[error("User JWT not valid: {0}")]
    Jwt(String),
    #[error("User JWT no longer valid: {0}")]
    JwtExpired(String),
    #[error("Account {0} not listed as operator pinned account")]
    NotPinned(String),
    #[error("Account JWT not signed by trusted operator")]
    AccountNotTrusted,
    #[error("Account JWT has expired")]
    AccountExpired,
    #[error("User JWT issuer is not known")]
    UnknownIssuer,
    #[error("scoped users require no permissions or limits set")]
    ScopedPermissions,
    #[error("User JWT generated invalid permissions: {0}")]
    Template(String),
    #[error("Account does not allow bearer tokens")]
    Bearer,
    #[error("User authentication revoked")]
    Revoked,
    #[error("Bad src Ip")]
    Source,
    #[error("Outside connect times")]
    Times,
    #[error("{0}")]
    Callout(String),
}

impl From<Reason> for AuthError {
    fn from(reason: Reason) -> AuthError {
        AuthError::Refused(reason)
    }
}
