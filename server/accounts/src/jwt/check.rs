//! What makes claims invalid although their signature holds (nats-io/jwt `Validate`).
//!
//! Owns rules about one token by itself. Never asks whether the issuer is trusted.

use super::claims::{
    AccountClaims, ActivationClaims, Claims, ExchangeKind, Export, Import, PermissionPart, PermissionsPart,
    SigningKey, Template, UserClaims, WeightedMapping,
};
use super::token;
use crate::secret::{is_account_key, key_kind};
use nkeys::KeyPairType;
use std::collections::BTreeMap;
use std::net::IpAddr;
use subject::{is_literal, tokens};

/// The first thing wrong, or nothing.
pub(crate) type Check = Result<(), String>;

/// Whether the token is valid at `now`, in seconds since 1970.
pub(crate) fn times<N>(claims: &Claims<N>, now_seconds: i64) -> Check {
    if claims.expires > 0 && now_seconds > claims.expires {
        return Err("claim is expired".into());
    }
    if claims.not_before > now_seconds {
        return Err("claim is not yet valid".into());
    }
    Ok(())
}

pub(crate) fn user(claims: &UserClaims, now_seconds: i64) -> Check {
    times(claims, now_seconds)?;
    template(&claims.nats.template)?;
    let issuer = &claims.nats.issuer_account;
    if !issuer.is_empty() && !is_account_key(issuer) {
        return Err("account_id is not an account public key".into());
    }
    Ok(())
}

fn template(template: &Template) -> Check {
    permissions(&template.permissions)?;
    for network in &template.src {
        if Network::parse(network).is_none() {
            return Err(format!("invalid cidr {network:?} in user src limits"));
        }
    }
    for range in &template.times {
        for time in [&range.start, &range.end] {
            if time_of_day(time).is_none() {
                return Err(format!("time in time range is invalid {time:?}"));
            }
        }
    }
    if !template.times_location.is_empty() && jiff::tz::TimeZone::get(&template.times_location).is_err() {
        return Err(format!("could not parse iana time zone by name: {}", template.times_location));
    }
    Ok(())
}

/// Seconds since midnight of `15:04:05`.
pub(crate) fn time_of_day(text: &str) -> Option<u32> {
    let mut parts = text.split(':').map(|part| {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    });
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let valid = parts.next().is_none() && hour < 24 && minute < 60 && second < 60;
    valid.then_some(hour * 3600 + minute * 60 + second)
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = digits.then(|| bits.parse::<u8>().ok()).flatten().filter(|bits| *bits <= max)?;
        Some(Network { address, bits })
    }

    /// Whether `address` is in it. IPv4 addresses written as IPv6 count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u8| match width - self.bits {
            0 => a == b,
            shift => a.checked_shr(shift.into()) == b.checked_shr(shift.into()),
        };
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) if self.bits <= 32 => {
                same(a.to_bits().into(), b.to_bits().into(), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

fn permissions(permissions: &PermissionsPart) -> Check {
    permission(&permissions.subscribe, true)?;
    permission(&permissions.publish, false)
}

fn permission(part: &PermissionPart, queues: bool) -> Check {
    for text in part.allow.iter().chain(&part.deny) {
        match text.split(' ').collect::<Vec<_>>()[..] {
            [subject] => subject_text(subject)?,
            [subject, queue] if queues => {
                subject_text(subject)?;
                subject_text(queue)?;
            }
            [_, _] => return Err(format!("Permission Subject {text:?} is not allowed to contain queue")),
            _ => return Err(format!("Permission Subject {text:?} contains too many spaces")),
        }
    }
    Ok(())
}

fn subject_text(subject: &str) -> Check {
    if subject.is_empty() {
        return Err("subject cannot be empty".into());
    }
    if subject.contains(' ') {
        return Err(format!("subject {subject:?} cannot have spaces"));
    }
    if subject.split('.').any(str::is_empty) {
        return Err(format!(
            "subject {subject:?} cannot start or end with a `.` or contain consecutive ones"
        ));
    }
    Ok(())
}

/// Everything but times.
pub(crate) fn account(claims: &AccountClaims) -> Check {
    let part = &claims.nats;
    imports(&part.imports, &claims.subject)?;
    exports(&part.exports)?;
    permissions(&part.default_permissions)?;
    mappings(&part.mappings)?;
    let limits = &part.limits;
    if limits.imports >= 0 && part.imports.len() as i64 > limits.imports {
        return Err("the account contains more imports than allowed by the operator".into());
    }
    if limits.exports != -1 {
        if part.exports.len() as i64 > limits.exports {
            return Err("the account contains more exports than allowed by the operator".into());
        }
        if !limits.wildcards && part.exports.iter().any(|export| !is_literal(export.subject.as_bytes())) {
            return Err("the account contains wildcard exports that are not allowed by the operator".into());
        }
    }
    for key in &part.signing_keys {
        if !is_account_key(key.key()) {
            return Err(format!("{:?} is not a valid account signing key", key.key()));
        }
        if let SigningKey::Scoped(scope) = key {
            template(&scope.template)?;
        }
    }
    authorization(claims)
}

fn authorization(claims: &AccountClaims) -> Check {
    if let Some(trace) = &claims.nats.trace {
        subject_text(&trace.dest)?;
        if !is_literal(trace.dest.as_bytes()) {
            return Err(format!(
                "the account Trace.Destination {:?} is not a valid publish subject",
                trace.dest
            ));
        }
        if !(0..=100).contains(&trace.sampling) {
            return Err(format!("the account Trace.Sampling {} is not within 1 to 100", trace.sampling));
        }
    }
    let authorization = &claims.nats.authorization;
    if !authorization.allowed_accounts.is_empty() && authorization.auth_users.is_empty() {
        return Err("External authorization cannot have accounts without users specified".into());
    }
    for user in &authorization.auth_users {
        if key_kind(user) != Some(KeyPairType::User) {
            return Err(format!("AuthUser {user:?} is not a valid user public key"));
        }
    }
    for account in &authorization.allowed_accounts {
        let any = account == "*" && authorization.allowed_accounts.len() == 1;
        if !any && !is_account_key(account) {
            return Err(format!("Account {account:?} is not a valid account public key"));
        }
    }
    Ok(())
}

fn mappings(mappings: &BTreeMap<String, Vec<WeightedMapping>>) -> Check {
    for (source, destinations) in mappings {
        subject_text(source)?;
        let mut totals: BTreeMap<&str, u32> = BTreeMap::new();
        for destination in destinations {
            subject_text(&destination.subject)?;
            let total = totals.entry(&destination.cluster).or_default();
            *total += u32::from(weight(destination));
            if *total > 100 {
                return Err(format!(
                    "Mapping {source:?} exceeds 100% among all of it's weighted to mappings"
                ));
            }
        }
    }
    Ok(())
}

/// A weight left out is the whole.
pub(crate) fn weight(destination: &WeightedMapping) -> u8 {
    if destination.weight == 0 { 100 } else { destination.weight }
}

fn exports(exports: &[Export]) -> Check {
    for (index, one) in exports.iter().enumerate() {
        export(one)?;
        for other in &exports[index + 1..] {
            let overlap =
                is_contained(&one.subject, &other.subject) || is_contained(&other.subject, &one.subject);
            if one.kind == other.kind && overlap {
                return Err(format!("export subject {:?} already exports {:?}", one.subject, other.subject));
            }
        }
    }
    Ok(())
}

fn export(export: &Export) -> Check {
    match export.kind {
        ExchangeKind::Unknown => return Err("invalid export type".into()),
        ExchangeKind::Service
            if !matches!(&*export.response_type, "" | "Singleton" | "Stream" | "Chunked") =>
        {
            return Err(format!("invalid response type for service: {:?}", export.response_type));
        }
        ExchangeKind::Stream if !export.response_type.is_empty() => {
            return Err(format!("invalid response type for stream: {:?}", export.response_type));
        }
        ExchangeKind::Stream if export.allow_trace => {
            return Err("AllowTrace only valid for service export".into());
        }
        ExchangeKind::Stream if export.service_latency.is_some() => {
            return Err("latency tracking only permitted for services".into());
        }
        ExchangeKind::Stream if export.response_threshold > 0 => {
            return Err("response threshold only valid for services".into());
        }
        ExchangeKind::Service | ExchangeKind::Stream => {}
    }
    if let Some(latency) = &export.service_latency {
        if !(0..=100).contains(&latency.sampling) {
            return Err("sampling percentage needs to be between 1-100".into());
        }
        subject_text(&latency.results)?;
        if !is_literal(latency.results.as_bytes()) {
            return Err("results subject can not contain wildcards".into());
        }
    }
    if export.response_threshold < 0 {
        return Err("negative response threshold is invalid".into());
    }
    subject_text(&export.subject)?;
    if let Some(index) = export.account_token_position.checked_sub(1)
        && tokens(export.subject.as_bytes()).nth(index) != Some(b"*")
    {
        let position = export.account_token_position;
        return Err(format!("Account Token Position {position} must match a * in: {}", export.subject));
    }
    Ok(())
}

fn imports(imports: &[Import], account: &str) -> Check {
    let mut seen: Vec<(&str, String)> = Vec::new();
    for one in imports {
        if one.kind == ExchangeKind::Service {
            let local = [&one.to, &one.local_subject, &one.subject].into_iter().find(|text| !text.is_empty());
            let local = local.map(|text| subject::transform::untokenize(text)).unwrap_or_default();
            for (exporter, other) in &seen {
                if *exporter == one.account && (is_contained(&local, other) || is_contained(other, &local)) {
                    return Err(format!("overlapping subject namespace for {local:?} and {other:?}"));
                }
            }
            seen.push((&one.account, local));
        }
        import(one, account)?;
    }
    Ok(())
}

fn import(import: &Import, account: &str) -> Check {
    if import.kind == ExchangeKind::Unknown {
        return Err("invalid import type".into());
    }
    if import.kind == ExchangeKind::Service && import.allow_trace {
        return Err("AllowTrace only valid for stream import".into());
    }
    if import.kind == ExchangeKind::Stream && import.share {
        return Err("sharing information (for latency tracking) is only valid for services".into());
    }
    if import.account.is_empty() {
        return Err("account to import from is not specified".into());
    }
    subject_text(&import.subject)?;
    if !import.local_subject.is_empty() {
        renaming(&import.local_subject, &import.subject)?;
        if !import.to.is_empty() {
            return Err("Local Subject replaces To".into());
        }
    }
    if import.token.is_empty() {
        return Ok(());
    }
    let activation = token::activation(&import.token).map_err(|error| {
        format!("import {:?} contains an invalid activation token: {error}", import.subject)
    })?;
    activates(import, &activation, account)
}

/// Whether an activation is for this import, into `account`. Says nothing about times.
fn activates(import: &Import, activation: &ActivationClaims, account: &str) -> Check {
    let part = &activation.nats;
    if activation.issuer != import.account && part.issuer_account != import.account {
        return Err(format!("activation token doesn't match account for import {:?}", import.subject));
    }
    if activation.subject != account {
        let text = "activation token doesn't match account it is being included in";
        return Err(format!("{text}, {:?}", import.subject));
    }
    if part.kind != import.kind {
        return Err(format!("mismatch between token import type and type of import {:?}", import.subject));
    }
    subject_text(&part.subject)?;
    if !part.issuer_account.is_empty() && !is_account_key(&part.issuer_account) {
        return Err("account_id is not an account public key".into());
    }
    let remote = match import.kind == ExchangeKind::Service && !import.to.is_empty() {
        true => &import.to,
        false => &import.subject,
    };
    if !is_contained(remote, &part.subject) {
        return Err(format!(
            "activation token import subject {:?} doesn't match import {remote:?}",
            part.subject
        ));
    }
    Ok(())
}

/// A local subject must use every wildcard of the remote one, by `*` or `$n`.
fn renaming(local: &str, remote: &str) -> Check {
    subject_text(local)?;
    let open = |text: &str| text == ">" || text.ends_with(".>");
    if open(local) != open(remote) {
        return Err("both, renaming subject and subject, need to end or not end in >".into());
    }
    let wildcards = remote.split('.').filter(|token| *token == "*").count();
    let mut used = 0;
    for token in local.split('.') {
        match token.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()) {
            Some(number) if number > wildcards => {
                return Err(format!(
                    "Reference ${number} in {local:?} reference * in {remote:?} that do not exist"
                ));
            }
            Some(_) => used += 1,
            None => used += usize::from(token == "*"),
        }
    }
    if used == wildcards {
        Ok(())
    } else {
        Err("subject does not contain enough * or reference wildcards $[0-9]".into())
    }
}

/// Whether `wider` covers `subject`; wildcards of `subject` are covered by themselves and wider ones.
fn is_contained(subject: &str, wider: &str) -> bool {
    subject::is_subset(subject.as_bytes(), wider.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.1.2.3") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && contains("::/0", "::1") && !contains("::/0", "1.2.3.4"));
        assert!(contains("192.168.1.7/32", "192.168.1.7") && !contains("192.168.1.7/32", "192.168.1.6"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1") && !contains("2001:db8::/32", "2001:db9::1"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "10.0.0.0/+8", "/8", "::/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_of_day() {
        assert_eq!(time_of_day("15:04:05"), Some(15 * 3600 + 4 * 60 + 5));
        for bad in ["", "15:04", "24:00:00", "12:60:00", "12:00:61", "a:b:c", "1:2:3:4", "+1:02:03"] {
            assert_eq!(time_of_day(bad), None, "{bad}");
        }
    }
}
