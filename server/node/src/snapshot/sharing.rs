//! What an account exports, imports and rewrites, as /accountz shows it, and a user as it is told itself.

use crate::shared::Shared;
use accounts::exchange::{Latency, ResponseType};
use monitor::accountz::{AccountInfo, Export, Import, LatencySampling, MappingDestination, ShareKind};
use monitor::request::{Permissions, ResponsePermission};
use monitor::routez::SubjectPermission;
use std::collections::BTreeMap;

impl Shared {
    /// The part of an account's document that its rules tell.
    pub(super) fn account_rules(&self, name: &str) -> AccountInfo {
        let table = self.table.read().clone();
        let Some(account) = table.find(name).and_then(|id| table.account(id)) else {
            return AccountInfo::default();
        };
        let exporter = |id| table.account(id).map_or_else(String::new, |account| account.name.to_string());
        let streams = account.exports.streams.iter().map(|export| Export {
            subject: export.subject.to_string(),
            kind: ShareKind::Stream,
            token_required: export.is_token_required(),
            approved_accounts: export.approved().map(str::to_owned).collect(),
            ..no_export()
        });
        let services = account.exports.services.iter().map(|export| Export {
            subject: export.subject.to_string(),
            kind: ShareKind::Service,
            token_required: export.is_token_required(),
            response_type: response_type(export.response_type).into(),
            latency: export.latency.as_ref().map(sampling),
            approved_accounts: export.approved().map(str::to_owned).collect(),
            ..no_export()
        });
        let imported_streams = account.imports.streams.iter().map(|import| Import {
            subject: import.from.to_string(),
            account: exporter(import.account),
            local_subject: import.to.to_string(),
            kind: ShareKind::Stream,
            ..no_import()
        });
        let imported_services = account.imports.services.iter().map(|import| Import {
            subject: import.to.to_string(),
            account: exporter(import.account),
            to: import.from.to_string(),
            local_subject: import.from.to_string(),
            kind: ShareKind::Service,
            share: import.share,
            tracking: import.latency.is_some(),
            latency: import.latency.as_ref().map(sampling),
            ..no_import()
        });
        AccountInfo {
            exports: services.chain(streams).collect(),
            imports: imported_streams.chain(imported_services).collect(),
            mappings: self.mappings_of(name),
            jwt: table.account_token(name).unwrap_or_default().to_owned(),
            ..AccountInfo::default()
        }
    }

    fn mappings_of(&self, name: &str) -> BTreeMap<String, Vec<MappingDestination>> {
        let settings = self.settings();
        let written = match settings.accounts.iter().find(|account| account.name == name) {
            Some(account) => &account.mappings,
            None if name == broker::registry::GLOBAL_ACCOUNT => &settings.mappings,
            None => return BTreeMap::new(),
        };
        let mapping = |mapping: &config::accounts::Mapping| {
            let destinations = mapping.destinations.iter().map(|to| MappingDestination {
                subject: to.subject.clone(),
                weight: to.weight,
                cluster: to.cluster.clone().unwrap_or_default(),
            });
            (mapping.subject.clone(), destinations.collect())
        };
        written.iter().map(mapping).collect()
    }
}

/// A user's permissions as it is told them.
pub fn permissions(permissions: &accounts::Permissions) -> Permissions {
    let source = permissions.source();
    let lists = |lists: &Option<accounts::SubjectsSource>| {
        let lists = lists.clone().unwrap_or_default();
        // there even when empty, as nats-server writes it
        Some(SubjectPermission { allow: lists.allow.unwrap_or_default(), deny: lists.deny })
    };
    Permissions {
        publish: lists(&source.publish),
        subscribe: lists(&source.subscribe),
        responses: permissions.responses().map(|responses| ResponsePermission {
            max: bound(responses.messages_max),
            ttl: bound(responses.expires_nanos),
        }),
    }
}

/// nats-server writes no bound as -1.
fn bound(bound: Option<u64>) -> i64 {
    bound.map_or(-1, |bound| i64::try_from(bound).unwrap_or(i64::MAX))
}

fn response_type(kind: ResponseType) -> &'static str {
    match kind {
        ResponseType::Singleton => "Singleton",
        ResponseType::Stream => "Streamed",
        ResponseType::Chunked => "Chunked",
    }
}

fn sampling(latency: &Latency) -> LatencySampling {
    LatencySampling { sampling: latency.sampling_percent, results: latency.results.clone() }
}

fn no_export() -> Export {
    Export {
        subject: String::new(),
        kind: ShareKind::Stream,
        token_required: false,
        response_type: String::new(),
        latency: None,
        approved_accounts: Vec::new(),
        revoked_activations: BTreeMap::new(),
    }
}

fn no_import() -> Import {
    Import {
        subject: String::new(),
        account: String::new(),
        to: String::new(),
        local_subject: String::new(),
        kind: ShareKind::Stream,
        invalid: false,
        share: false,
        tracking: false,
        latency: None,
    }
}
