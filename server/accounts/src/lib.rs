//! Accounts, users, permissions and credentials, compiled into an immutable [`Table`].
//!
//! Owns who a client is and what it may do: users, tokens, nkeys, certificates and JWTs; permissions;
//! accounts with their limits, mappings, exports and imports. A table never changes: a reload or a new
//! account builds another, and the broker swaps them.
//! Never does I/O, asks a clock or draws a number: all are arguments. Never routes a message.

pub mod callout;
mod certificate;
mod credentials;
mod error;
pub mod exchange;
pub mod jwt;
mod mapping;
mod permissions;
mod replies;
pub mod resolver;
mod secret;
pub mod source;
mod table;

pub use callout::{Callout, CalloutSource};
pub use certificate::{CertificateError, CertificateFacts, CertificateNames};
pub use credentials::{ConnectionType, Credentials, Peer};
pub use error::{AuthError, Error, ExchangeError, MappingError, Reason};
pub use mapping::{Destination, DestinationSource, Mapping, MappingSource, Mappings};
pub use permissions::{
    Permissions, PermissionsSource, Responses, ResponsesSource, SubjectsSource, Subscribe,
};
pub use replies::Replies;
pub use secret::Secret;
pub use source::{
    AccountLimits, AccountSource, AccountsSource, AuthorizationSource, Login, OperatorsSource, TraceSource,
    UserSource,
};
pub use table::{
    Account, AccountId, ConnectionLimits, GLOBAL_ACCOUNT, Identity, SYSTEM_ACCOUNT, Table, UserToken,
};
