//! What accounts share, as `/accountz` shows it.
//!
//! Owns the translation of compiled rules into monitoring's documents; looks at nothing else.

use accounts::exchange::{Latency, ResponseType};
use accounts::{Account, Table};
use monitor::accountz::{Export, Import, LatencySampling, MappingDestination, ShareKind};
use std::collections::BTreeMap;

/// Mappings of an account by source, with the weight of each destination in percent.
pub fn mappings(account: &Account) -> BTreeMap<String, Vec<MappingDestination>> {
    let mut shown: BTreeMap<String, Vec<MappingDestination>> = BTreeMap::new();
    for mapping in account.mappings.rules() {
        let mut before = 0;
        for (transform, below) in mapping.destinations() {
            let weight = below - std::mem::replace(&mut before, below);
            let subject = transform.destination().to_owned();
            let destinations = shown.entry(transform.source().to_owned()).or_default();
            destinations.push(MappingDestination { subject, weight, cluster: String::new() });
        }
    }
    shown
}

/// What an account exports.
pub fn exports(account: &Account) -> Vec<Export> {
    let services = account.exports.services.iter().map(|export| Export {
        subject: export.subject.to_string(),
        kind: ShareKind::Service,
        token_required: export.is_token_required(),
        response_type: match export.response_type {
            ResponseType::Singleton => "Singleton",
            ResponseType::Stream => "Stream",
            ResponseType::Chunked => "Chunked",
        }
        .into(),
        latency: export.latency.as_ref().map(latency),
        approved_accounts: export.approved_accounts().map(str::to_owned).collect(),
        revoked_activations: BTreeMap::new(),
    });
    let streams = account.exports.streams.iter().map(|export| Export {
        subject: export.subject.to_string(),
        kind: ShareKind::Stream,
        token_required: export.is_token_required(),
        response_type: String::new(),
        latency: None,
        approved_accounts: export.approved_accounts().map(str::to_owned).collect(),
        revoked_activations: BTreeMap::new(),
    });
    services.chain(streams).collect()
}

/// What an account imports.
pub fn imports(account: &Account, table: &Table) -> Vec<Import> {
    let name = |id| table.account(id).map_or_else(String::new, |exporter| exporter.name.to_string());
    let streams = account.imports.streams.iter().map(|import| Import {
        subject: import.from.to_string(),
        account: name(import.account),
        to: String::new(),
        local_subject: import.to.to_string(),
        kind: ShareKind::Stream,
        invalid: false,
        share: false,
        tracking: false,
        latency: None,
    });
    let services = account.imports.services.iter().map(|import| Import {
        subject: import.to.to_string(),
        account: name(import.account),
        to: import.from.to_string(),
        local_subject: import.from.to_string(),
        kind: ShareKind::Service,
        invalid: false,
        share: import.share,
        tracking: false,
        latency: import.latency.as_ref().map(latency),
    });
    streams.chain(services).collect()
}

fn latency(latency: &Latency) -> LatencySampling {
    LatencySampling { sampling: latency.sampling_percent, results: latency.results.clone() }
}
