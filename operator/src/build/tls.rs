//! Objects that hold or ask for certificates.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::objects::{bytes, metadata};
use crate::certificates::{State, Stored, names_in_pods};
use crate::crd;
use crate::validate::{CertificateSource, Cluster};

/// Name of the Secret with the operator's own authority, which no pod mounts.
pub fn authority_secret_name(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Name of the Secret that cert-manager makes.
pub fn cert_manager_secret_name(cluster: &str) -> String {
    format!("{cluster}-cert-manager")
}

/// Name of the Secret with the servers' certificate. One of cert-manager has its own name: a Secret that
/// two writers take for theirs belongs to neither.
pub fn tls_secret_name(cluster: &Cluster) -> String {
    match cluster.tls.as_ref().map(|tls| &tls.source) {
        Some(CertificateSource::Secret(name)) => name.clone(),
        Some(CertificateSource::CertManager(_)) => cert_manager_secret_name(&cluster.name),
        Some(CertificateSource::SelfSigned(_)) | None => format!("{}-tls", cluster.name),
    }
}

/// The Secret with the operator's own authority.
pub fn authority_secret(cluster: &Cluster, state: &State) -> Secret {
    secret(cluster, &authority_secret_name(&cluster.name), "Opaque", &state.authority)
}

/// The Secret that servers mount.
pub fn server_secret(cluster: &Cluster, state: &State) -> Secret {
    secret(cluster, &tls_secret_name(cluster), "kubernetes.io/tls", &state.server)
}

fn secret(cluster: &Cluster, name: &str, kind: &str, stored: &Stored) -> Secret {
    let mut metadata = metadata(cluster, name);
    // Only our own notes: other annotations are other people's.
    let notes =
        stored.notes.iter().filter(|(key, _)| key.starts_with(crd::GROUP) && *key != super::APPLIED_HASH);
    metadata.annotations = Some(notes.map(|(key, value)| (key.clone(), value.clone())).collect());
    let data: BTreeMap<_, _> = stored.data.iter().map(|(key, text)| (key.clone(), bytes(text))).collect();
    Secret { metadata, data: Some(data), type_: Some(kind.to_owned()), ..Secret::default() }
}

/// The Certificate that cert-manager is to fulfil; `None` if it is not asked. Untyped: cert-manager may not
/// be installed.
pub fn certificate(cluster: &Cluster) -> Option<Value> {
    let CertificateSource::CertManager(asked) = &cluster.tls.as_ref()?.source else { return None };
    let (addresses, names): (Vec<String>, Vec<String>) =
        names_in_pods(cluster).into_iter().partition(|name| name.parse::<core::net::IpAddr>().is_ok());
    Some(json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": metadata(cluster, &cluster.name),
        "spec": {
            "secretName": tls_secret_name(cluster),
            "commonName": names.first().filter(|name| name.len() <= 64),
            "dnsNames": names,
            "ipAddresses": addresses,
            // Servers are each other's clients.
            "usages": ["digital signature", "server auth", "client auth"],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "duration": asked.duration,
            "renewBefore": asked.renew_before,
            "issuerRef": {
                "name": asked.issuer_ref.name,
                "kind": asked.issuer_ref.kind,
                "group": asked.issuer_ref.group,
            },
        },
    }))
}
