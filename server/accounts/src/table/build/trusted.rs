//! Whom to trust: operators, their keys, and tokens of accounts.
//!
//! Owns the checks of operator mode's configuration and of one account's token against it.

use crate::Error;
use crate::jwt::user::Trust;
use crate::jwt::{AccountClaims, OperatorClaims, check, token};
use crate::secret::{is_account_key, is_operator_key};
use crate::source::AccountsSource;
use jiff::tz::TimeZone;

/// Version of nats-server whose rules are kept here, for operators that ask for one.
const SERVER_VERSION: (u64, u64, u64) = (2, 15, 2);

fn refuse<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Operator(reason.into()))
}

/// What operator mode trusts; nothing outside it.
pub(super) fn trust(source: &AccountsSource, now_seconds: i64) -> Result<Option<Trust>, Error> {
    let written = &source.operators;
    if !written.is_used() {
        return match written.default_sentinel {
            Some(_) => refuse("default sentinel requires operators and accounts"),
            None => Ok(None),
        };
    }
    if !source.accounts.is_empty() {
        return refuse("operators do not allow Accounts to be configured directly");
    }
    if !source.authorization.users.is_empty() {
        return refuse("operators do not allow users to be configured directly");
    }
    if !written.operators.is_empty() && !written.trusted_keys.is_empty() {
        return refuse("conflicting options for 'TrustedKeys' and 'TrustedOperators'");
    }
    let mut trust = Trust {
        keys: written.trusted_keys.clone(),
        strict_keys: Vec::new(),
        pinned: pinned(source)?,
        default_sentinel: sentinel(source)?,
        time_zone: time_zone(source)?,
    };
    let claims = operators(source)?;
    for operator in &claims {
        check_operator(operator, now_seconds)?;
        let part = &operator.nats;
        if part.strict_signing_key_usage {
            trust.strict_keys.push(operator.subject.clone());
            trust.strict_keys.extend(part.signing_keys.iter().cloned());
        } else {
            trust.keys.push(operator.subject.clone());
        }
        trust.keys.extend(part.signing_keys.iter().cloned());
    }
    if let Some(key) = trust.keys.iter().find(|key| !is_operator_key(key)) {
        return refuse(format!("trusted Keys {key:?} are required to be a valid public operator nkey"));
    }
    check_system_account(source, &claims)?;
    Ok(Some(trust))
}

fn operators(source: &AccountsSource) -> Result<Vec<OperatorClaims>, Error> {
    let decoded = |text: &String| token::operator(text).map_err(|error| Error::Operator(error.to_string()));
    source.operators.operators.iter().map(decoded).collect()
}

/// The system account that the first operator to name one names.
pub(super) fn system_account(source: &AccountsSource) -> Option<String> {
    let mut claims = source.operators.operators.iter().filter_map(|text| token::operator(text).ok());
    claims.find_map(|claims| Some(claims.nats.system_account).filter(|name| !name.is_empty()))
}

fn check_operator(claims: &OperatorClaims, now_seconds: i64) -> Result<(), Error> {
    check::times(claims, now_seconds)
        .map_err(|reason| Error::Operator(format!("{}: {reason}", claims.subject)))?;
    for key in &claims.nats.signing_keys {
        if !is_operator_key(key) {
            return refuse(format!("{key} is not an operator public key"));
        }
    }
    let system = &claims.nats.system_account;
    if !system.is_empty() && !is_account_key(system) {
        return refuse(format!("{system} is not an account public key"));
    }
    let asserted = &claims.nats.assert_server_version;
    if asserted.is_empty() {
        return Ok(());
    }
    let numbers: Option<Vec<u64>> = asserted.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([major, minor, update]) if (*major, *minor, *update) <= SERVER_VERSION => Ok(()),
        Some([_, _, _]) => refuse(format!(
            "operator {} expects version {asserted}, newer than this server's",
            claims.subject
        )),
        _ => refuse("asserted server version must be of the form <major>.<minor>.<update>"),
    }
}

fn check_system_account(source: &AccountsSource, claims: &[OperatorClaims]) -> Result<(), Error> {
    let Some(name) = &source.system_account else { return Ok(()) };
    let named: Vec<&String> =
        claims.iter().map(|claims| &claims.nats.system_account).filter(|name| !name.is_empty()).collect();
    if named.is_empty() || named.contains(&name) {
        return Ok(());
    }
    refuse("system_account in config and operator JWT must be identical")
}

fn pinned(source: &AccountsSource) -> Result<Vec<String>, Error> {
    let mut pinned = source.operators.pinned_accounts.clone();
    if let Some(key) = pinned.iter().find(|key| !is_account_key(key)) {
        return refuse(format!("pinned account key {key:?} is not a valid public account nkey"));
    }
    // The system account can always connect.
    let system = source.system_account.clone().or_else(|| system_account(source));
    if !pinned.is_empty() {
        pinned.extend(system);
    }
    Ok(pinned)
}

/// A sentinel lets anybody in who sends nothing, so it must be a bearer token, or by its looks one of a scope.
fn sentinel(source: &AccountsSource) -> Result<Option<String>, Error> {
    let Some(text) = &source.operators.default_sentinel else { return Ok(None) };
    let Ok(claims) = token::user(text) else { return refuse("default sentinel JWT not valid") };
    let scoped = !claims.nats.issuer_account.is_empty() && claims.nats.template == Default::default();
    if claims.nats.template.bearer_token || scoped {
        return Ok(Some(text.clone()));
    }
    refuse("default sentinel must be a bearer token")
}

fn time_zone(source: &AccountsSource) -> Result<TimeZone, Error> {
    match &source.time_zone {
        None => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|error| Error::Operator(error.to_string())),
    }
}

/// Claims of an account that is to be trusted.
pub(super) fn account(trust: &Trust, text: &str, now_seconds: i64) -> Result<AccountClaims, Error> {
    let refuse = |account: &str, reason: String| Error::Claims { account: account.into(), reason };
    let claims = token::account(text).map_err(|error| {
        let start: String = text.chars().take(16).collect();
        refuse(&start, error.to_string())
    })?;
    if !trust.keys.contains(&claims.issuer) {
        return Err(refuse(&claims.subject, "not signed by a trusted operator".into()));
    }
    if !is_account_key(&claims.subject) {
        return Err(refuse(&claims.subject, "subject is not an account public key".into()));
    }
    let checked = check::times(&claims, now_seconds).and_then(|()| check::account(&claims));
    checked.map_err(|reason| refuse(&claims.subject, reason))?;
    Ok(claims)
}
