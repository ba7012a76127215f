//! Auth callout (ADR-26): a service decides who a client is.
//!
//! Owns which clients the service is asked about, and what of its answer is believed. Never sends anything, and knows
//! no encryption: the caller does both.

use crate::jwt::user::Trust;
use crate::jwt::{UserClaims, check, token, user};
use crate::permissions::{PermissionsSource, SubjectsSource};
use crate::secret::key_kind;
use crate::table::{Account, GLOBAL_ACCOUNT, Identity, Table};
use crate::{AuthError, ConnectionType, Credentials, Peer, Permissions, Reason};
use nkeys::KeyPairType;
use std::sync::Arc;

/// Where requests are published. Users of the service's account may not publish there themselves.
pub const SUBJECT: &str = "$SYS.REQ.USER.AUTH";

/// `authorization.auth_callout`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalloutSource {
    /// Public account key that signs the service's answers.
    pub issuer: String,
    /// Account that the service listens in.
    pub account: String,
    /// Users that are not asked about, by name or key.
    pub auth_users: Vec<String>,
    /// Public curve key that requests are encrypted for.
    pub xkey: Option<String>,
    /// Accounts whose configured users are asked about; empty for all.
    pub allowed_accounts: Vec<String>,
}

/// Whom to ask about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callout {
    /// Account to publish the request in.
    pub account: Arc<str>,
    /// Public curve key that the request is encrypted for; empty for none.
    pub xkey: String,
    /// Subject of the request's token.
    pub subject: String,
    /// The client's own token, or the one for those who bring none.
    pub jwt: String,
    /// It must come through a trusted proxy, and does not.
    pub lacks_proxy: bool,
}

/// A request that was answered.
pub struct Answered<'a> {
    /// What [`Table::authenticate`] said.
    pub callout: &'a Callout,
    /// Public user key that the request was made for. It is used once, which keeps answers from being replayed.
    pub user_key: &'a str,
    /// Id of this server.
    pub server_id: &'a str,
    /// The token that came back, decrypted.
    pub token: &'a str,
    /// It came encrypted, which proves who sent it.
    pub was_encrypted: bool,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, AuthError> {
    Err(Reason::Callout(reason.into()).into())
}

/// Configured users: the service is asked unless `result` is for one that it is not asked about.
pub(crate) fn configured(
    table: &Table,
    source: &CalloutSource,
    result: Result<Identity, AuthError>,
    user_id: Option<&str>,
    lacks_proxy: bool,
) -> Result<Identity, AuthError> {
    if lacks_proxy {
        return result;
    }
    let account = result.as_ref().map_or(GLOBAL_ACCOUNT, |identity| &identity.account_name);
    let is_delegated =
        source.allowed_accounts.is_empty() || source.allowed_accounts.iter().any(|name| name == account);
    if account != GLOBAL_ACCOUNT && !is_delegated {
        return result;
    }
    if user_id.is_some_and(|id| source.auth_users.iter().any(|user| user == id)) {
        return result.and_then(|identity| without_requests(identity, &source.account));
    }
    let Some(account) = table.find(&source.account).and_then(|id| table.account(id)) else {
        return refuse(format!("No valid account {:?} for auth callout request", source.account));
    };
    Err(AuthError::Callout(Box::new(Callout {
        account: account.name.clone(),
        xkey: source.xkey.clone().unwrap_or_default(),
        subject: source.issuer.clone(),
        jwt: String::new(),
        lacks_proxy: false,
    })))
}

/// Users by JWT: the service of their account is asked if it has one.
pub(crate) fn by_token(table: &Table, identity: Identity) -> Result<Identity, AuthError> {
    let claims = table.account(identity.account).and_then(|account| account.claims());
    let Some(external) = claims.map(|claims| &claims.nats.authorization).filter(|e| !e.auth_users.is_empty())
    else {
        return Ok(identity);
    };
    let key = identity.token.as_ref().map_or("", |token| &token.public_key);
    if external.auth_users.iter().any(|user| user == key) {
        let account = identity.account_name.clone();
        return without_requests(identity, &account);
    }
    Err(AuthError::Callout(Box::new(Callout {
        account: identity.account_name.clone(),
        xkey: external.xkey.clone(),
        subject: identity.account_name.to_string(),
        jwt: identity.token.map_or_else(String::new, |token| token.jwt),
        lacks_proxy: false,
    })))
}

/// The service's users may not ask as if they were the server.
fn without_requests(mut identity: Identity, account: &str) -> Result<Identity, AuthError> {
    if *identity.account_name != *account {
        return Ok(identity);
    }
    let mut source =
        identity.permissions.as_ref().map_or_else(PermissionsSource::default, |p| p.source().clone());
    let publish = source.publish.get_or_insert_with(SubjectsSource::default);
    publish.deny.push(SUBJECT.into());
    match Permissions::new(&source, &identity.user) {
        Ok(permissions) => identity.permissions = Some(Arc::new(permissions)),
        Err(error) => return refuse(error.to_string()),
    }
    Ok(identity)
}

impl Table {
    /// Who a client is by the service's answer.
    ///
    /// # Errors
    /// The answer is a refusal, or not to be believed: [`AuthError::Refused`]. [`AuthError::AccountNeeded`]: the
    /// account it names is to be fetched first.
    pub fn authenticate_answered(
        &self,
        answered: &Answered<'_>,
        credentials: &Credentials<'_>,
        peer: &Peer<'_>,
        now_unix_nanos: u64,
    ) -> Result<Identity, AuthError> {
        let now_seconds = (now_unix_nanos / 1_000_000_000) as i64;
        let callout = answered.callout;
        let asked = self.find(&callout.account).and_then(|id| self.account(id));
        let Some(asked) = asked else { return refuse("the callout's account is gone") };
        let text = self.believed(answered, asked, now_seconds)?;
        let claims = token::user(&text).or_else(|error| refuse(error.to_string()))?;
        if claims.nats.template.proxy_required && callout.lacks_proxy {
            return Err(Reason::ProxyRequired.into());
        }
        check::user(&claims, now_seconds)
            .or_else(|error| refuse(format!("Error validating user JWT: {error}")))?;
        if claims.subject != answered.user_key {
            let (expected, got) = (answered.user_key, &claims.subject);
            let name = &asked.name;
            return refuse(format!(
                "Expected authorized user of {expected:?} but got {got:?} on account {name:?}"
            ));
        }
        let (account, template) = match self.trust() {
            Some(trust) => self.target_by_token(trust, asked, &claims, now_seconds)?,
            None => (self.target_configured(asked, &claims)?, claims.nats.template.clone()),
        };
        let types = &template.allowed_connection_types;
        if !types.is_empty() && !types.iter().any(|name| ConnectionType::parse(name) == Some(peer.connection))
        {
            return Err(Reason::ConnectionType.into());
        }
        let times_end = user::check_times(&template, &self.time_zone(), now_unix_nanos)?;
        let name = claims.name.clone();
        let identity = user::identity(account, claims, &template, &text, credentials, times_end)?;
        let sent = [credentials.nkey, credentials.user].into_iter().find(|text| !text.is_empty());
        let hidden = if credentials.token.is_empty() { "" } else { "[REDACTED]" };
        let user = if name.is_empty() { sent.unwrap_or(hidden).to_owned() } else { name };
        without_requests(Identity { user, by_callout: true, ..identity }, &callout.account)
    }

    /// The user's token in an answer that was really given to this request by who may give it.
    fn believed(
        &self,
        answered: &Answered<'_>,
        asked: &Account,
        now_seconds: i64,
    ) -> Result<String, AuthError> {
        let claims =
            token::authorization_response(answered.token).or_else(|error| refuse(error.to_string()))?;
        let part = &claims.nats;
        check::times(&claims, now_seconds)
            .or_else(|error| refuse(format!("authorization response had validation errors: {error}")))?;
        if key_kind(&claims.subject) != Some(KeyPairType::User) || claims.subject != answered.user_key {
            return refuse("auth callout violation: auth callout response is not for expected user");
        }
        if claims.audience != answered.server_id {
            return refuse("auth callout violation: auth callout response is not for server");
        }
        if part.jwt.is_empty() == part.error.is_empty() {
            return refuse("authorization response had validation errors: one of error and jwt is required");
        }
        if !answered.was_encrypted {
            let issuer_account = &part.issuer_account;
            if self.trust().is_some() && !issuer_account.is_empty() && **issuer_account != *asked.name {
                return refuse(format!(
                    "auth callout response issuer account {issuer_account:?} is not the callout account"
                ));
            }
            let is_known = match (self.trust(), self.callout_source()) {
                (Some(trust), _) => {
                    asked.claims().is_some_and(|account| signs(trust, account, &claims.issuer))
                }
                (None, Some(source)) => claims.issuer == source.issuer,
                (None, None) => false,
            };
            if !is_known {
                return refuse("auth callout signing key is unknown");
            }
        }
        match part.error.is_empty() {
            true => Ok(claims.nats.jwt),
            false => refuse(format!("auth callout service returned an error: {}", part.error)),
        }
    }

    /// Without operators the configured issuer signs users, and their audience names the account.
    fn target_configured(&self, asked: &Account, claims: &UserClaims) -> Result<&Arc<Account>, AuthError> {
        let name = &asked.name;
        if !claims.nats.issuer_account.is_empty() {
            return refuse(format!(
                "error non operator mode account {name:?}: attempted to use issuer_account"
            ));
        }
        let issuer = self.callout_source().map_or("", |source| &source.issuer);
        if claims.issuer != issuer {
            let got = &claims.issuer;
            return refuse(format!(
                "wrong issuer for auth callout response on account {name:?}, expected {issuer:?} got {got:?}"
            ));
        }
        let target = self.find(&claims.audience).and_then(|id| self.account(id));
        target.filter(|account| !account.is_removed).ok_or_else(|| {
            let wanted = &claims.audience;
            let reason = format!("no valid account {wanted:?} for auth callout response on account {name:?}");
            Reason::Callout(reason).into()
        })
    }

    /// With operators an account signs its users, and the service may put them into accounts that its own allows.
    fn target_by_token(
        &self,
        trust: &Trust,
        asked: &Account,
        claims: &UserClaims,
        now_seconds: i64,
    ) -> Result<(&Arc<Account>, crate::jwt::claims::Template), AuthError> {
        let issuer_account = &claims.nats.issuer_account;
        let issuer = if issuer_account.is_empty() { &claims.issuer } else { issuer_account };
        if **issuer != *asked.name {
            let external = asked.claims().map(|claims| &claims.nats.authorization.allowed_accounts);
            let allowed =
                external.is_some_and(|list| list.iter().any(|name| name == issuer) || **list == ["*"]);
            if !allowed {
                let name = &asked.name;
                return refuse(format!(
                    "account {issuer:?} not permitted as valid account option for auth callout for account {name:?}"
                ));
            }
        }
        let target =
            self.find(issuer).and_then(|id| self.account(id)).filter(|account| account.claims().is_some());
        let target = target.ok_or_else(|| AuthError::AccountNeeded(issuer.clone()))?;
        let template = user::granted(trust, target, claims, now_seconds)?;
        Ok((target, template))
    }
}

/// Whether a key is the account's own, where that may sign, or one of its signing keys.
fn signs(trust: &Trust, account: &crate::jwt::AccountClaims, key: &str) -> bool {
    (key == account.subject && !trust.strict_keys.contains(&account.issuer))
        || account.nats.signing_key(key).is_some()
}
