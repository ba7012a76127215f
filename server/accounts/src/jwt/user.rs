//! Letting a user in by JWT.
//!
//! Owns every rule between a user's token and an identity, in nats-server's order. The account's token is
//! in the table already, and was checked when it was put there.

use super::claims::{PermissionPart, PermissionsPart, Template, UserClaims};
use super::{check, template, token};
use crate::secret::is_signed;
use crate::source::AccountLimits;
use crate::table::{Account, ConnectionLimits, Identity, Table, UserToken};
use crate::{
    AuthError, ConnectionType, Credentials, Peer, Permissions, PermissionsSource, Reason, ResponsesSource,
    SubjectsSource,
};
use jiff::{Timestamp, tz::TimeZone};
use std::sync::Arc;

const NANOS: u64 = 1_000_000_000;

/// What operator mode adds to a table.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Keys that may sign accounts.
    pub keys: Vec<String>,
    /// Keys of operators under whom an account's own key may not sign users, only its signing keys.
    pub strict_keys: Vec<String>,
    /// Accounts accepted; empty for all.
    pub pinned: Vec<String>,
    pub default_sentinel: Option<String>,
    pub time_zone: TimeZone,
}

pub(crate) fn authenticate(
    table: &Table,
    trust: &Trust,
    credentials: &Credentials<'_>,
    peer: &Peer<'_>,
    through_proxy: bool,
    now_unix_nanos: u64,
) -> Result<Identity, AuthError> {
    let now_seconds = (now_unix_nanos / NANOS) as i64;
    let (text, claims) = sent_token(trust, credentials)?;
    let need_proxy = |required: bool| match required && !through_proxy {
        true => Err(Reason::ProxyRequired),
        false => Ok(()),
    };
    need_proxy(claims.nats.template.proxy_required)?;
    check::user(&claims, now_seconds).map_err(Reason::JwtExpired)?;
    let issuer_account = &claims.nats.issuer_account;
    let issuer = if issuer_account.is_empty() { &claims.issuer } else { issuer_account };
    if !trust.pinned.is_empty() && !trust.pinned.contains(issuer) {
        return Err(Reason::NotPinned(issuer.clone()).into());
    }
    let account = table
        .find(issuer)
        .and_then(|id| table.account(id))
        .filter(|account| account.claims().is_some())
        .ok_or_else(|| AuthError::AccountNeeded(issuer.clone()))?;
    let template = granted(trust, account, &claims, now_seconds)?;
    need_proxy(template.proxy_required)?;
    check_connection(&template, credentials, peer, &claims)?;
    let Some(account_claims) = account.claims() else { return Err(Reason::AccountNotTrusted.into()) };
    if template.bearer_token && account_claims.nats.limits.disallow_bearer {
        return Err(Reason::Bearer.into());
    }
    if account_claims.nats.is_revoked(&claims.subject, claims.issued_at) {
        return Err(Reason::Revoked.into());
    }
    check_source(&template, peer)?;
    let times_end = check_times(&template, &trust.time_zone, now_unix_nanos)?;
    Ok(identity(account, claims, &template, text, credentials, times_end)?)
}

/// The token the client sent, or the one for clients that send none.
fn sent_token<'a>(
    trust: &'a Trust,
    credentials: &Credentials<'a>,
) -> Result<(&'a str, UserClaims), AuthError> {
    let sent = token::user(credentials.jwt);
    match (sent, trust.default_sentinel.as_deref()) {
        (Ok(claims), _) => Ok((credentials.jwt, claims)),
        (Err(_), Some(sentinel)) => {
            let claims = token::user(sentinel).map_err(|error| Reason::Jwt(error.to_string()))?;
            Ok((sentinel, claims))
        }
        (Err(_), None) if credentials.jwt.is_empty() => Err(Reason::JwtRequired.into()),
        (Err(error), None) => Err(Reason::Jwt(error.to_string()).into()),
    }
}

/// What the user may do: by its own claims, or by the scope of the key that signed them.
pub(crate) fn granted(
    trust: &Trust,
    account: &Account,
    claims: &UserClaims,
    now_seconds: i64,
) -> Result<Template, AuthError> {
    let Some(account_claims) = account.claims() else { return Err(Reason::AccountNotTrusted.into()) };
    if !trust.keys.contains(&account_claims.issuer) {
        return Err(Reason::AccountNotTrusted.into());
    }
    let own_key =
        claims.issuer == account_claims.subject && !trust.strict_keys.contains(&account_claims.issuer);
    let scope = match account_claims.nats.signing_key(&claims.issuer) {
        Some(scope) => scope,
        None if own_key => None,
        None => return Err(Reason::UnknownIssuer.into()),
    };
    if account_claims.expires > 0 && account_claims.expires <= now_seconds {
        return Err(Reason::AccountExpired.into());
    }
    let Some(scope) = scope else { return Ok(claims.nats.template.clone()) };
    if claims.nats.template != Template::default() {
        return Err(Reason::ScopedPermissions.into());
    }
    let names = template::Names {
        user: claims,
        account_name: &account_claims.name,
        account_tags: &account_claims.nats.tags,
    };
    Ok(template::expand(&scope.template, &names).map_err(Reason::Template)?)
}

/// Unknown types are passed over as long as a known one is there: they may be known to newer servers.
fn check_connection(
    template: &Template,
    credentials: &Credentials<'_>,
    peer: &Peer<'_>,
    claims: &UserClaims,
) -> Result<(), Reason> {
    let types = &template.allowed_connection_types;
    if !types.is_empty() && !types.iter().any(|name| ConnectionType::parse(name) == Some(peer.connection)) {
        return Err(Reason::ConnectionType);
    }
    if !template.bearer_token && !is_signed(&claims.subject, peer.nonce, credentials.signature) {
        return Err(Reason::Signature);
    }
    Ok(())
}

fn check_source(template: &Template, peer: &Peer<'_>) -> Result<(), Reason> {
    let inside = |address| {
        let networks = template.src.iter().filter_map(|network| check::Network::parse(network));
        networks.into_iter().any(|network| network.contains(address))
    };
    if template.src.is_empty() || peer.address.is_some_and(inside) { Ok(()) } else { Err(Reason::Source) }
}

/// When the last of the ranges that now is in ends, in nanoseconds since 1970; nothing without ranges.
pub(crate) fn check_times(
    template: &Template,
    zone: &TimeZone,
    now_unix_nanos: u64,
) -> Result<Option<u64>, Reason> {
    if template.times.is_empty() {
        return Ok(None);
    }
    let zone = match template.times_location.as_str() {
        "" => zone.clone(),
        name => TimeZone::get(name).map_err(|_| Reason::Times)?,
    };
    let now = Timestamp::from_nanosecond(now_unix_nanos.into()).map_err(|_| Reason::Times)?.to_zoned(zone);
    let nanos_of_day = |seconds: u32| u64::from(seconds) * NANOS;
    let clock = now.time();
    let at = nanos_of_day(clock.hour() as u32 * 3600 + clock.minute() as u32 * 60 + clock.second() as u32)
        + clock.subsec_nanosecond() as u64;
    let ends = template.times.iter().filter_map(|range| {
        let start = nanos_of_day(check::time_of_day(&range.start)?);
        let end = nanos_of_day(check::time_of_day(&range.end)?);
        match (start < at && at < end, start > end) {
            (true, _) => Some(end - at),
            (false, true) if at < end => Some(end - at),
            (false, true) if start < at => Some(end + nanos_of_day(86_400) - at),
            _ => None,
        }
    });
    ends.max().map(|left| Some(now_unix_nanos + left)).ok_or(Reason::Times)
}

pub(crate) fn identity(
    account: &Account,
    claims: UserClaims,
    template: &Template,
    text: &str,
    credentials: &Credentials<'_>,
    times_end: Option<u64>,
) -> Result<Identity, Reason> {
    let own = permissions(&template.permissions);
    let has_default_permissions = own.is_none();
    let permissions = match own {
        Some(source) => {
            let compiled = Permissions::new(&source, &claims.subject);
            Some(Arc::new(compiled.map_err(|error| Reason::Jwt(error.to_string()))?))
        }
        None => account.default_permissions().cloned(),
    };
    let nanos =
        |seconds: i64| u64::try_from(seconds).ok().filter(|s| *s > 0).map(|s| s.saturating_mul(NANOS));
    let expires = nanos(claims.expires);
    let limits = AccountLimits {
        subscriptions_max: bound(template.subs),
        payload_bytes_max: bound(template.payload),
        ..AccountLimits::default()
    };
    Ok(Identity {
        account: account.id,
        account_name: account.name.clone(),
        user: credentials.display(&claims.subject),
        permissions,
        limits: ConnectionLimits::of(&limits).within(&account.limits),
        expires_unix_nanos: [expires, times_end].into_iter().flatten().min(),
        account_expires_unix_nanos: account.expires_seconds().and_then(nanos),
        has_default_permissions,
        by_callout: false,
        token: Some(Box::new(UserToken {
            jwt: text.into(),
            is_bearer: template.bearer_token,
            public_key: claims.subject,
            signing_key: claims.issuer,
            name: claims.name,
            tags: claims.nats.tags,
            issued_at_seconds: claims.issued_at,
        })),
        proxy_key: None,
    })
}

/// -1 and everything below is no bound.
pub(crate) fn bound(number: i64) -> Option<u32> {
    (number >= 0).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}

/// Permissions as claims write them; nothing if they write none.
pub(crate) fn permissions(part: &PermissionsPart) -> Option<PermissionsSource> {
    let lists = |part: &PermissionPart| {
        let written = !part.allow.is_empty() || !part.deny.is_empty();
        let allow = (!part.allow.is_empty()).then(|| part.allow.clone());
        written.then(|| SubjectsSource { allow, deny: part.deny.clone() })
    };
    let source = PermissionsSource {
        publish: lists(&part.publish),
        subscribe: lists(&part.subscribe),
        responses: part.resp.map(|resp| ResponsesSource { messages_max: resp.max, expires_nanos: resp.ttl }),
    };
    (source != PermissionsSource::default()).then_some(source)
}
