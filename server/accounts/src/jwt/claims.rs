//! The claims in tokens, field by field as nats-io/jwt writes them.
//!
//! Owns shapes and defaults. A limit left out is 0, which bounds; -1 is no limit. Unknown fields are ignored.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// Operator claims.
pub type OperatorClaims = Claims<OperatorPart>;
/// Account claims.
pub type AccountClaims = Claims<AccountPart>;
/// User claims.
pub type UserClaims = Claims<UserPart>;
/// Activation claims.
pub type ActivationClaims = Claims<ActivationPart>;

/// What every token says, around the part `nats` of its kind. Times are in seconds since 1970, 0 for none.
#[derive(Clone, Debug, Default, Deserialize)]
#[allow(missing_docs)] // registered claim names, RFC 7519
pub struct Claims<N> {
    #[serde(rename = "exp", default)]
    pub expires: i64,
    #[serde(rename = "iat", default)]
    pub issued_at: i64,
    #[serde(rename = "nbf", default)]
    pub not_before: i64,
    #[serde(rename = "iss", default)]
    pub issuer: String,
    #[serde(rename = "sub", default)]
    pub subject: String,
    #[serde(rename = "aud", default)]
    pub audience: String,
    #[serde(rename = "jti", default)]
    pub id: String,
    #[serde(default)]
    pub name: String,
    pub nats: N,
}

/// The operator's part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt operator_claims.go
pub struct OperatorPart {
    #[serde(deserialize_with = "or_default")]
    pub signing_keys: Vec<String>,
    pub system_account: String,
    pub assert_server_version: String,
    pub strict_signing_key_usage: bool,
}

/// The account's part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt account_claims.go
pub struct AccountPart {
    #[serde(deserialize_with = "or_default")]
    pub imports: Vec<Import>,
    #[serde(deserialize_with = "or_default")]
    pub exports: Vec<Export>,
    pub limits: Limits,
    #[serde(deserialize_with = "or_default")]
    pub signing_keys: Vec<SigningKey>,
    #[serde(deserialize_with = "or_default")]
    pub revocations: BTreeMap<String, i64>,
    pub default_permissions: PermissionsPart,
    #[serde(deserialize_with = "or_default")]
    pub mappings: BTreeMap<String, Vec<WeightedMapping>>,
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
    pub authorization: ExternalAuthorization,
    pub trace: Option<TracePart>,
}

/// Where traces of messages go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt account_claims.go
pub struct TracePart {
    pub dest: String,
    pub sampling: i64,
}

/// Delegates authentication to a service of the account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt account_claims.go
pub struct ExternalAuthorization {
    #[serde(deserialize_with = "or_default")]
    pub auth_users: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_accounts: Vec<String>,
    pub xkey: String,
}

impl AccountPart {
    /// Puts exports and imports in the order of their subjects, so that tables do not depend on a token's.
    pub(crate) fn sort(&mut self) {
        self.exports.sort_by(|a, b| a.subject.cmp(&b.subject));
        self.imports.sort_by(|a, b| (&a.subject, &a.account).cmp(&(&b.subject, &b.account)));
    }

    /// The scope of a signing key: none if it is not one, `Some(None)` if it signs whole users.
    pub(crate) fn signing_key(&self, key: &str) -> Option<Option<&Scope>> {
        self.signing_keys.iter().find_map(|candidate| match candidate {
            SigningKey::Plain(plain) => (plain == key).then_some(None),
            SigningKey::Scoped(scope) => (scope.key == key).then_some(Some(&**scope)),
        })
    }

    /// Whether a token of `subject` issued at that time, in seconds since 1970, is revoked.
    pub(crate) fn is_revoked(&self, subject: &str, issued_at: i64) -> bool {
        is_revoked(|key| self.revocations.get(key).copied(), subject, issued_at)
    }
}

/// The rule of revocations: by key or for all (`*`), up to and including a time.
pub(crate) fn is_revoked(until: impl Fn(&str) -> Option<i64>, subject: &str, issued_at: i64) -> bool {
    [subject, "*"].into_iter().any(|key| until(key).is_some_and(|until| until >= issued_at))
}

/// An account's bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt account_claims.go
pub struct Limits {
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub imports: i64,
    pub exports: i64,
    pub wildcards: bool,
    pub disallow_bearer: bool,
    pub conn: i64,
    pub leaf: i64,
}

/// A destination in an account's mappings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt account_claims.go
pub struct WeightedMapping {
    pub subject: String,
    pub weight: u8,
    pub cluster: String,
}

/// What an export or import is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// Left out, which is an error.
    #[default]
    Unknown,
    /// Messages.
    Stream,
    /// Requests.
    Service,
}

/// An export.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt exports.go
pub struct Export {
    pub name: String,
    pub subject: String,
    #[serde(rename = "type")]
    pub kind: ExchangeKind,
    pub token_req: bool,
    #[serde(deserialize_with = "or_default")]
    pub revocations: BTreeMap<String, i64>,
    pub response_type: String,
    pub response_threshold: i64,
    pub service_latency: Option<ServiceLatency>,
    pub account_token_position: usize,
    pub allow_trace: bool,
}

/// Measuring of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt exports.go
pub struct ServiceLatency {
    #[serde(deserialize_with = "sampling")]
    pub sampling: i64,
    pub results: String,
}

/// An import.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt imports.go
pub struct Import {
    pub name: String,
    pub subject: String,
    pub account: String,
    pub token: String,
    pub to: String,
    pub local_subject: String,
    #[serde(rename = "type")]
    pub kind: ExchangeKind,
    pub share: bool,
    pub allow_trace: bool,
}

/// A key that may sign an account's users.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum SigningKey {
    /// Users with permissions of their own.
    Plain(String),
    /// Users with the permissions of a template.
    Scoped(Box<Scope>),
}

impl SigningKey {
    /// The public key.
    pub fn key(&self) -> &str {
        match self {
            SigningKey::Plain(key) => key,
            SigningKey::Scoped(scope) => &scope.key,
        }
    }
}

/// A scoped signing key.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // nats-io/jwt signingkeys.go
pub struct Scope {
    pub kind: ScopeKind,
    pub key: String,
    #[serde(default)]
    pub role: String,
    #[serde(default = "Template::unlimited")]
    pub template: Template,
}

/// The kinds of scopes there are; others make the token invalid.
#[derive(Clone, Copy, Debug, Deserialize)]
pub enum ScopeKind {
    /// Of users.
    #[serde(rename = "user_scope")]
    User,
}

/// Permissions and bounds of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt user_claims.go
pub struct Template {
    #[serde(flatten)]
    pub permissions: PermissionsPart,
    #[serde(deserialize_with = "networks")]
    pub src: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub times: Vec<TimeRange>,
    pub times_location: String,
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub bearer_token: bool,
    pub proxy_required: bool,
    #[serde(deserialize_with = "or_default")]
    pub allowed_connection_types: Vec<String>,
}

impl Template {
    fn unlimited() -> Template {
        Template { subs: -1, data: -1, payload: -1, ..Template::default() }
    }
}

/// A part of the day, `15:04:05`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt types.go
pub struct TimeRange {
    pub start: String,
    pub end: String,
}

/// Lists of subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt types.go
pub struct PermissionsPart {
    #[serde(rename = "pub")]
    pub publish: PermissionPart,
    #[serde(rename = "sub")]
    pub subscribe: PermissionPart,
    pub resp: Option<ResponsePart>,
}

/// A pair of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt types.go
pub struct PermissionPart {
    #[serde(deserialize_with = "or_default")]
    pub allow: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub deny: Vec<String>,
}

/// Bounds of responses: how many, and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt types.go
pub struct ResponsePart {
    pub max: i64,
    pub ttl: i64,
}

/// The user's part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt user_claims.go
pub struct UserPart {
    #[serde(flatten)]
    pub template: Template,
    pub issuer_account: String,
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
}

/// The part of a callout service's answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt authorization_claims.go
pub struct AuthorizationResponsePart {
    pub jwt: String,
    pub error: String,
    pub issuer_account: String,
}

/// The part of an activation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // nats-io/jwt activation_claims.go
pub struct ActivationPart {
    pub subject: String,
    pub kind: ExchangeKind,
    pub issuer_account: String,
}

/// `null` means what leaving it out means, as in Go.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}

/// A list, or one text with commas.
fn networks<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Networks {
        List(Vec<String>),
        Text(String),
        Nothing(()),
    }
    Ok(match Networks::deserialize(input)? {
        Networks::List(list) => list,
        Networks::Text(text) => {
            let list = text.split(',').map(|part| part.trim().to_lowercase());
            list.filter(|part| !part.is_empty()).collect()
        }
        Networks::Nothing(()) => Vec::new(),
    })
}

/// A percentage, or `"headers"` for 0.
fn sampling<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(input)?;
    match &value {
        Value::String(text) if text.eq_ignore_ascii_case("headers") => Ok(0),
        other => other.as_i64().ok_or_else(|| serde::de::Error::custom("unknown sampling rate")),
    }
}
