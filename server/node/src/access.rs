//! Users, permissions and accounts of the configuration, handed to the `accounts` room in its own terms.
//!
//! Owns the translation and the list of what is read but not built yet: that is refused by name, never ignored.

use crate::resolver::{Resolver, with_tokens};
use accounts::exchange::{
    AccessSource, Latency, ResponseType, ServiceExportSource, ServiceImportSource, StreamExportSource,
    StreamImportSource,
};
use accounts::{
    AccountLimits, AccountSource, AccountsSource, AuthorizationSource, CalloutSource, DestinationSource,
    Login, MappingSource, OperatorsSource, PermissionsSource, ResponsesSource, SubjectsSource, Table,
    TraceSource, UserSource,
};
use config::Settings;
use config::accounts::{self as written, Account, Export, ExportKind, Import, ImportKind, Mapping};
use config::auth::{Credential, User};
use config::permissions::{Permissions, SubjectPermission};
use std::sync::Arc;

/// Why nobody could be let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The accounts contradict each other.
    #[error("{0}")]
    Accounts(#[from] accounts::Error),
    /// An operator's token cannot be read.
    #[error("operator {file:?}: {error}; name the file of an operator's JWT, or put the JWT itself")]
    Operator {
        /// As written.
        file: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// Something that nats-server has and this server does not have yet.
    #[error("{what} is not supported yet: take it out of the configuration to start this server")]
    NotYet {
        /// The block or key.
        what: String,
    },
}

/// Compiles who may connect and do what.
///
/// # Errors
/// [`Error`]
pub fn table(
    settings: &Settings,
    previous: Option<&Table>,
    resolver: Option<&Resolver>,
    now_nanos: u64,
) -> Result<Table, Error> {
    refuse_unbuilt(settings)?;
    let mut source = source(settings);
    source.operators = operators(settings)?;
    let table = match previous {
        Some(previous) => previous.with_source(source, now_nanos)?,
        None => Table::new(source, now_nanos)?,
    };
    for note in table.notes() {
        tracing::warn!("{note}");
    }
    match resolver {
        Some(resolver) => with_resolver(table, resolver, now_nanos),
        None => Ok(table),
    }
}

/// The system account is there from the start, others when somebody logs in. What was in the table keeps the token
/// that it has, unless the resolver has another, or has it no more.
fn with_resolver(mut table: Table, resolver: &Resolver, now_nanos: u64) -> Result<Table, Error> {
    let system = table.system_account();
    let is_system = |account: &accounts::Account| Some(account.id) == system;
    let present: Vec<_> =
        table.accounts().iter().filter(|a| a.claims().is_some() || is_system(a)).cloned().collect();
    for account in present.iter().filter(|account| !is_system(account) && resolver.lacks(&account.name)) {
        table = table.without_account(&account.name, now_nanos)?;
    }
    let stored = present.iter().filter_map(|account| Some((account, resolver.stored(&account.name)?)));
    let newer = stored.filter(|(account, text)| table.account_token(&account.name) != Some(&**text));
    let newer: Vec<Arc<str>> = newer.map(|(_, text)| text).collect();
    Ok(with_tokens(&table, &newer).unwrap_or(table))
}

/// Whom to trust. Operators are read from their files.
pub(crate) fn operators(settings: &Settings) -> Result<OperatorsSource, Error> {
    let trust = &settings.trust;
    let operators: Result<Vec<String>, Error> = trust.operators.iter().map(|text| operator(text)).collect();
    Ok(OperatorsSource {
        operators: operators?,
        trusted_keys: trust.trusted_keys.clone(),
        accounts: Vec::new(),
        pinned_accounts: trust.resolver_pinned_accounts.iter().cloned().collect(),
        default_sentinel: trust.default_sentinel.clone(),
    })
}

/// An operator's token: the text itself, or the file that holds it, plain or between dashed lines.
fn operator(written: &str) -> Result<String, Error> {
    let text = match std::fs::read_to_string(written) {
        Ok(text) => text,
        Err(_) if written.starts_with("eyJ") => return Ok(written.into()),
        Err(error) => return Err(Error::Operator { file: written.into(), error }),
    };
    // the token is the line behind the first one between dashes
    let mut lines = text.lines().map(str::trim);
    let is_frame = |line: &&str| line.starts_with("---") && line.ends_with("---");
    let framed = lines.find(is_frame).and_then(|_| lines.next());
    Ok(framed.unwrap_or_else(|| text.trim()).into())
}

fn refuse_unbuilt(settings: &Settings) -> Result<(), Error> {
    match settings.prof_port {
        Some(_) => Err(Error::NotYet { what: "prof_port".into() }),
        None => Ok(()),
    }
}

fn source(settings: &Settings) -> AccountsSource {
    let written = &settings.authorization;
    let authorization = AuthorizationSource {
        is_written: written.defined,
        user: written.username.clone().map(|user| (user, written.password.clone().unwrap_or_default())),
        token: written.token.clone(),
        users: written.users.iter().map(user).collect(),
        default_permissions: written.default_permissions.as_ref().map(permissions),
        no_auth_user: settings.no_auth_user.clone(),
        verify_and_map: settings.tls.as_ref().is_some_and(|tls| tls.verify_and_map),
        trusted_proxies: settings.trusted_proxies.clone(),
        callout: written.auth_callout.as_ref().map(|callout| CalloutSource {
            issuer: callout.issuer.clone(),
            account: callout.account.clone(),
            auth_users: callout.auth_users.clone(),
            xkey: callout.xkey.clone(),
            allowed_accounts: callout.allowed_accounts.clone(),
        }),
        proxy_required: written.proxy_required,
    };
    AccountsSource {
        cluster: settings.cluster.name.clone().unwrap_or_default(),
        authorization,
        accounts: settings.accounts.iter().map(account).collect(),
        mappings: settings.mappings.iter().map(mapping).collect(),
        system_account: settings.system_account.clone(),
        no_system_account: settings.no_system_account,
        // as Go's local time, for tokens that bound times without naming a zone
        time_zone: std::env::var("TZ")
            .ok()
            .map(|zone| zone.trim_start_matches(':').to_owned())
            .filter(|zone| zone.contains('/')),
        ..AccountsSource::default()
    }
}

fn account(account: &Account) -> AccountSource {
    let limits = &account.limits;
    AccountSource {
        name: account.name.clone(),
        users: account.users.iter().map(user).collect(),
        default_permissions: account.default_permissions.as_ref().map(permissions),
        limits: AccountLimits {
            connections_max: limits.max_connections,
            leaf_nodes_max: limits.max_leafnodes,
            subscriptions_max: limits.max_subscriptions,
            payload_bytes_max: limits.max_payload,
        },
        mappings: account.mappings.iter().map(mapping).collect(),
        stream_exports: account.exports.iter().filter_map(stream_export).collect(),
        service_exports: account.exports.iter().filter_map(service_export).collect(),
        stream_imports: account.imports.iter().filter_map(stream_import).collect(),
        service_imports: account.imports.iter().filter_map(service_import).collect(),
        trace: account.trace.as_ref().map(|trace| TraceSource {
            destination: trace.destination.clone(),
            sampling_percent: trace.sampling,
        }),
    }
}

fn access(export: &Export) -> AccessSource {
    AccessSource {
        accounts: export.accounts.clone(),
        account_token_position: export.account_token_position as usize,
        ..AccessSource::default()
    }
}

fn stream_export(export: &Export) -> Option<StreamExportSource> {
    let stream = || StreamExportSource { subject: export.subject.clone(), access: access(export) };
    matches!(export.kind, ExportKind::Stream).then(stream)
}

fn service_export(export: &Export) -> Option<ServiceExportSource> {
    let ExportKind::Service { response_type, response_threshold, latency, allow_trace } = &export.kind else {
        return None;
    };
    Some(ServiceExportSource {
        subject: export.subject.clone(),
        access: access(export),
        response_type: match response_type {
            written::ResponseType::Singleton => ResponseType::Singleton,
            written::ResponseType::Stream => ResponseType::Stream,
            written::ResponseType::Chunked => ResponseType::Chunked,
        },
        response_threshold_nanos: response_threshold.map_or(0, |threshold| threshold.as_nanos() as u64),
        latency: latency
            .as_ref()
            .map(|l| Latency { sampling_percent: l.sampling, results: l.subject.clone() }),
        allow_trace: *allow_trace,
    })
}

fn stream_import(import: &Import) -> Option<StreamImportSource> {
    let ImportKind::Stream { prefix, to, allow_trace } = &import.kind else { return None };
    Some(StreamImportSource {
        account: import.account.clone(),
        subject: import.subject.clone(),
        prefix: prefix.clone().unwrap_or_default(),
        to: to.clone().unwrap_or_default(),
        token: None,
        allow_trace: *allow_trace,
    })
}

fn service_import(import: &Import) -> Option<ServiceImportSource> {
    let ImportKind::Service { to, share } = &import.kind else { return None };
    Some(ServiceImportSource {
        account: import.account.clone(),
        subject: import.subject.clone(),
        to: to.clone().unwrap_or_default(),
        share: *share,
        token: None,
    })
}

fn user(user: &User) -> UserSource {
    UserSource {
        login: match &user.credential {
            Credential::Password { username, password } => {
                Login::Password { user: username.clone(), password: password.clone() }
            }
            Credential::Nkey(key) => Login::Nkey(key.clone()),
        },
        permissions: user.permissions.as_ref().map(permissions),
        connection_types: user.allowed_connection_types.iter().map(|kind| kind.name().to_owned()).collect(),
        proxy_required: user.proxy_required,
    }
}

fn permissions(written: &Permissions) -> PermissionsSource {
    let subjects =
        |lists: &SubjectPermission| SubjectsSource { allow: lists.allow.clone(), deny: lists.deny.clone() };
    PermissionsSource {
        publish: written.publish.as_ref().map(subjects),
        subscribe: written.subscribe.as_ref().map(subjects),
        responses: written.allow_responses.as_ref().map(|responses| ResponsesSource {
            // a bound that was taken away is written as a negative number
            messages_max: responses.max_msgs.map_or(-1, i64::from),
            expires_nanos: responses.expires.map_or(-1, |expires| expires.as_nanos() as i64),
        }),
    }
}

fn mapping(mapping: &Mapping) -> MappingSource {
    let destinations = mapping.destinations.iter().map(|to| DestinationSource {
        subject: to.subject.clone(),
        weight_percent: to.weight,
        cluster: to.cluster.clone(),
    });
    MappingSource { source: mapping.subject.clone(), destinations: destinations.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Config;

    /// The same keys as in `config`'s test of docs/configuration.md.
    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let settings = Settings::from_config(&Config::parse_text("prof_port: 1").unwrap()).unwrap().settings;
        let refusal = refuse_unbuilt(&settings).unwrap_err().to_string();
        assert!(refusal.contains("prof_port") && refusal.contains("not supported yet"), "{refusal}");
    }
}
