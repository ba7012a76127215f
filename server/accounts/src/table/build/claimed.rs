//! An account's claims in the shape configuration has.
//!
//! Owns the translation alone; what it yields is compiled like any other account.

use crate::exchange::{
    AccessSource, Latency, ResponseType, ServiceExportSource, ServiceImportSource, StreamExportSource,
    StreamImportSource,
};
use crate::jwt::AccountClaims;
use crate::jwt::check::weight;
use crate::jwt::claims::{ExchangeKind, Export, Import, TracePart};
use crate::jwt::user::{bound, permissions};
use crate::source::{AccountLimits, AccountSource, TraceSource};
use crate::{DestinationSource, MappingSource};

pub(super) fn account(claims: &AccountClaims, notes: &mut Vec<String>) -> AccountSource {
    let part = &claims.nats;
    let mut source = AccountSource {
        name: claims.subject.clone(),
        default_permissions: permissions(&part.default_permissions),
        limits: AccountLimits {
            connections_max: bound(part.limits.conn),
            leaf_nodes_max: bound(part.limits.leaf),
            subscriptions_max: bound(part.limits.subs),
            payload_bytes_max: bound(part.limits.payload),
        },
        mappings: part.mappings.iter().map(|(source, list)| mapping(source, list)).collect(),
        trace: part.trace.as_ref().and_then(trace),
        ..AccountSource::default()
    };
    for export in &part.exports {
        match export.kind {
            ExchangeKind::Stream => source.stream_exports.push(stream_export(export)),
            ExchangeKind::Service => source.service_exports.push(service_export(export)),
            ExchangeKind::Unknown => notes.push(format!("{}: export of unknown type", claims.subject)),
        }
    }
    for import in &part.imports {
        match import.kind {
            ExchangeKind::Stream => source.stream_imports.push(stream_import(import)),
            ExchangeKind::Service => source.service_imports.push(service_import(import)),
            ExchangeKind::Unknown => notes.push(format!("{}: import of unknown type", claims.subject)),
        }
    }
    source
}

/// A destination that cannot be published to is none, as with nats-server.
fn trace(part: &TracePart) -> Option<TraceSource> {
    let sampling = u8::try_from(part.sampling).ok().filter(|percent| (1..=100).contains(percent));
    subject::is_valid_publish(part.dest.as_bytes())
        .then(|| TraceSource { destination: part.dest.clone(), sampling_percent: sampling.unwrap_or(100) })
}

fn mapping(source: &str, list: &[crate::jwt::claims::WeightedMapping]) -> MappingSource {
    let destination = |mapping: &crate::jwt::claims::WeightedMapping| DestinationSource {
        subject: mapping.subject.clone(),
        weight_percent: weight(mapping),
        cluster: (!mapping.cluster.is_empty()).then(|| mapping.cluster.clone()),
    };
    MappingSource { source: source.into(), destinations: list.iter().map(destination).collect() }
}

fn access(export: &Export) -> AccessSource {
    AccessSource {
        accounts: Vec::new(),
        token_required: export.token_req,
        account_token_position: export.account_token_position,
        revocations: export.revocations.iter().map(|(key, until)| (key.clone(), *until)).collect(),
    }
}

fn stream_export(export: &Export) -> StreamExportSource {
    StreamExportSource { subject: export.subject.clone(), access: access(export) }
}

fn service_export(export: &Export) -> ServiceExportSource {
    let response_type = match export.response_type.as_str() {
        "Stream" => ResponseType::Stream,
        "Chunked" => ResponseType::Chunked,
        _ => ResponseType::Singleton,
    };
    let latency = export.service_latency.as_ref().map(|latency| Latency {
        sampling_percent: u8::try_from(latency.sampling).unwrap_or(u8::MAX),
        results: latency.results.clone(),
    });
    ServiceExportSource {
        subject: export.subject.clone(),
        access: access(export),
        response_type,
        response_threshold_nanos: u64::try_from(export.response_threshold).unwrap_or(0),
        latency,
        allow_trace: export.allow_trace,
    }
}

fn token(import: &Import) -> Option<String> {
    (!import.token.is_empty()).then(|| import.token.clone())
}

/// `to` of a stream import is an old name for a prefix.
fn stream_import(import: &Import) -> StreamImportSource {
    StreamImportSource {
        account: import.account.clone(),
        subject: import.subject.clone(),
        prefix: import.to.clone(),
        to: import.local_subject.clone(),
        token: token(import),
        allow_trace: import.allow_trace,
    }
}

/// `to` of a service import is an old name for the remote subject, with `subject` the local one.
fn service_import(import: &Import) -> ServiceImportSource {
    let (remote, local) = match (import.local_subject.as_str(), import.to.as_str()) {
        ("", "") => (&import.subject, String::new()),
        ("", _) => (&import.to, import.subject.clone()),
        (local, _) => (&import.subject, local.to_owned()),
    };
    ServiceImportSource {
        account: import.account.clone(),
        subject: remote.clone(),
        to: local,
        share: import.share,
        token: token(import),
    }
}
