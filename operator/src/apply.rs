//! Everything that is written to the API server.
//!
//! Owns all writing: server-side apply of what we own, deletion of pods, status, Events. Never decides and
//! never touches what is not ours: an object with our name and another owner is an error.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions,
};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::build::config::Generation;
use crate::build::labels::{CONFIG_RELOAD, FIELD_MANAGER, SERVER_OF_SERVICE};
use crate::build::{
    APPLIED_HASH, Resources, SystemSecret, authority_secret, config_secret, server_secret, system_secret,
};
use crate::certificates::State;
use crate::observe::kubernetes::owner_uid;
use crate::status::Note;
use crate::validate::Cluster;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused.
    #[error("cannot write {kind} {name}: {source}")]
    Refused {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The spec asks for cert-manager.
    #[error(
        "spec.tls.mode is CertManager, and the API server knows no Certificate of cert-manager.io/v1: install cert-manager, or choose another mode"
    )]
    NoCertManager,
    /// The name is taken by somebody else's object.
    #[error(
        "{kind} {name} exists and does not belong to this cluster; delete or rename it, or rename the NatsCluster"
    )]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// Objects that this reconcile has read already: one that is as it should be is not read again. What differs, or is
/// not here, is read anew before it is written.
#[derive(Clone, Debug, Default)]
pub struct Known(BTreeMap<(String, String), Value>);

impl Known {
    /// Adds an object, if there is one.
    pub fn add<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: Option<&K>) {
        if let Some((object, value)) =
            object.and_then(|object| Some((object, serde_json::to_value(object).ok()?)))
        {
            self.0.insert((K::kind(&()).into_owned(), object.name_any()), value);
        }
    }

    /// Whether it is `owner`'s and as it should be.
    fn covers(&self, kind: &str, owner: &str, desired: &Value) -> bool {
        let name = desired["metadata"]["name"].as_str().unwrap_or_default();
        self.0.get(&(kind.to_owned(), name.to_owned())).is_some_and(|known| {
            let owners = known["metadata"]["ownerReferences"].as_array();
            let ours = owners.is_some_and(|owners| {
                owners.iter().any(|found| found["controller"] == true && found["uid"] == owner)
            });
            ours && covers(known, desired)
        })
    }
}

/// Creates or repairs the Secret with generated credentials.
///
/// # Errors
/// See [`ApplyError`].
pub async fn system(
    client: &Client,
    cluster: &Cluster,
    system: &SystemSecret,
    known: &Known,
) -> Result<(), ApplyError> {
    ensure::<Secret>(client, cluster, &system_secret(cluster, system), known).await
}

/// Creates or repairs the Secrets with the operator's own authority and the servers' certificate. The
/// authority first: a certificate that it does not know of would be made anew.
///
/// # Errors
/// See [`ApplyError`].
pub async fn certificates(
    client: &Client,
    cluster: &Cluster,
    state: &State,
    known: &Known,
) -> Result<(), ApplyError> {
    ensure::<Secret>(client, cluster, &authority_secret(cluster, state), known).await?;
    ensure::<Secret>(client, cluster, &server_secret(cluster, state), known).await
}

/// Asks cert-manager for the servers' certificate.
///
/// # Errors
/// See [`ApplyError`]; [`ApplyError::NoCertManager`] if there is none.
pub async fn certificate_request(
    client: &Client,
    cluster: &Cluster,
    desired: &Value,
) -> Result<(), ApplyError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &cluster.namespace, &certificate_kind());
    match ensure_by(&api, "Certificate", &cluster.uid, desired.clone(), &Known::default()).await {
        Err(ApplyError::Refused { source: kube::Error::Api(status), .. }) if status.code == 404 => {
            Err(ApplyError::NoCertManager)
        }
        result => result,
    }
}

/// Takes back what cert-manager was asked for. The Secret that it made is its own.
///
/// # Errors
/// See [`ApplyError`].
pub async fn withdraw_certificate_request(client: &Client, cluster: &Cluster) -> Result<(), ApplyError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &cluster.namespace, &certificate_kind());
    remove_by(&api, "Certificate", &cluster.uid, &cluster.name).await
}

fn certificate_kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"))
}

/// Creates or repairs everything that a cluster owns, with what pods need first.
///
/// # Errors
/// See [`ApplyError`]; what was written before stays.
pub async fn resources(
    client: &Client,
    cluster: &Cluster,
    resources: &Resources,
    known: &Known,
) -> Result<(), ApplyError> {
    ensure::<ServiceAccount>(client, cluster, &resources.service_account, known).await?;
    ensure::<Secret>(client, cluster, &resources.config, known).await?;
    ensure::<Service>(client, cluster, &resources.headless, known).await?;
    ensure::<Service>(client, cluster, &resources.client, known).await?;
    for service in &resources.per_server {
        ensure::<Service>(client, cluster, service, known).await?;
    }
    match &resources.disruption_budget {
        Some(budget) => ensure::<PodDisruptionBudget>(client, cluster, budget, known).await?,
        None => remove::<PodDisruptionBudget>(client, cluster, &cluster.name).await?,
    }
    match &resources.network_policy {
        Some(policy) => ensure::<NetworkPolicy>(client, cluster, policy, known).await?,
        None => remove::<NetworkPolicy>(client, cluster, &cluster.name).await?,
    }
    ensure::<StatefulSet>(client, cluster, &resources.stateful_set, known).await
}

/// Takes away Services of servers that are gone, or are to have none.
///
/// # Errors
/// See [`ApplyError`].
pub async fn surplus_services(
    client: &Client,
    cluster: &Cluster,
    resources: &Resources,
    services: &[Service],
) -> Result<(), ApplyError> {
    let of_one = services.iter().filter(|service| service.labels().contains_key(SERVER_OF_SERVICE));
    let wanted = |name: &str| resources.per_server.iter().any(|service| service.name_any() == name);
    for service in of_one.filter(|service| !wanted(&service.name_any())) {
        remove::<Service>(client, cluster, &service.name_any()).await?;
    }
    Ok(())
}

/// Deletes the pod of a server, if it is still the one that was observed.
///
/// # Errors
/// See [`ApplyError`]. A pod that is gone or replaced already is no error.
pub async fn delete_pod(client: &Client, pod: &Pod) -> Result<(), ApplyError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: pod.uid(), resource_version: pod.resource_version() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match pods.delete(&pod.name_any(), &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(refused::<Pod>(&pod.name_any(), source)),
    }
}

/// Notes on a pod what its server was told to load ([`CONFIG_RELOAD`]). A pod that is gone is no error.
///
/// # Errors
/// See [`ApplyError`].
pub async fn told_to_reload(client: &Client, pod: &Pod, told: &str) -> Result<(), ApplyError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    // Not applied: the pod is the StatefulSet's. The uid makes sure that it is the one that was seen.
    let patch = serde_json::json!({"metadata": {"uid": pod.uid(), "annotations": {CONFIG_RELOAD: told}}});
    match pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(refused::<Pod>(&pod.name_any(), source)),
    }
}

/// Creates or repairs the Secret with the configuration alone.
///
/// # Errors
/// See [`ApplyError`].
pub async fn configuration(
    client: &Client,
    cluster: &Cluster,
    generation: &Generation,
) -> Result<(), ApplyError> {
    ensure::<Secret>(client, cluster, &config_secret(cluster, generation), &Known::default()).await
}

/// Publishes an Event. Events are news, not state: one that is lost stops nothing.
///
/// A recorder of its own for each: a shared one folds Events of one reason into the first of them, and with
/// that loses every later message. Only transitions come here, so there is no flood to hold back.
pub async fn event(client: &Client, reporter: &Reporter, about: &ObjectReference, note: &Note) {
    let recorder = Recorder::new(client.clone(), reporter.clone());
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason.as_str().to_owned(),
        note: Some(note.message.clone()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, about).await {
        tracing::warn!(%error, reason = %note.reason, "cannot publish an Event");
    }
}

/// Applies an object whose controller is `owner`, unless it already is as it should be.
///
/// # Errors
/// See [`ApplyError`].
pub async fn owned_by<O, K>(client: &Client, owner: &O, desired: &K) -> Result<(), ApplyError>
where
    O: Resource<DynamicType = ()>,
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let (namespace, uid) = (owner.namespace().unwrap_or_default(), owner.uid().unwrap_or_default());
    ensure_owned(client, &namespace, &uid, desired, &Known::default()).await
}

/// Writes the status of an object, all of it.
///
/// # Errors
/// See [`ApplyError`].
pub async fn status<K>(client: &Client, object: &K, status: &impl Serialize) -> Result<(), ApplyError>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let name = object.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &parameters, &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(refused::<K>(&name, source)),
    }
}

/// Applies an object of a cluster unless it already is as it should be.
async fn ensure<K>(client: &Client, cluster: &Cluster, desired: &K, known: &Known) -> Result<(), ApplyError>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    ensure_owned(client, &cluster.namespace, &cluster.uid, desired, known).await
}

async fn ensure_owned<K>(
    client: &Client,
    namespace: &str,
    uid: &String,
    desired: &K,
    known: &Known,
) -> Result<(), ApplyError>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let kind = K::kind(&());
    let value = serde_json::to_value(desired)
        .map_err(|error| refused::<K>(&desired.name_any(), kube::Error::SerdeError(error)))?;
    ensure_by(&api, &kind, uid, value, known).await
}

async fn ensure_by<K>(
    api: &Api<K>,
    kind: &str,
    owner: &String,
    mut desired: Value,
    known: &Known,
) -> Result<(), ApplyError>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = desired["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let refuse = |source| ApplyError::Refused { kind: kind.to_owned(), name: name.clone(), source };
    let hash = hash(&desired);
    desired["metadata"]["annotations"][APPLIED_HASH] = Value::String(hash);
    if known.covers(kind, owner, &desired) {
        return Ok(());
    }
    let existing = api.get_opt(&name).await.map_err(refuse)?;
    let exists = existing.is_some();
    if let Some(existing) = existing {
        if owner_uid(existing.meta()) != Some(owner) {
            return Err(ApplyError::Foreign { kind: kind.to_owned(), name });
        }
        let existing =
            serde_json::to_value(&existing).map_err(|error| refuse(kube::Error::SerdeError(error)))?;
        if covers(&existing, &desired) {
            return Ok(());
        }
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name, &parameters, &Patch::Apply(&desired)).await;
    // An entry that somebody put into a list of ours is theirs by its key: apply leaves it there, or is refused where it
    // may not stand beside ours, as two ports of one name in a Service. So lists are put back as a whole.
    let in_the_way = match &applied {
        Ok(found) => has_more(&serde_json::to_value(found).unwrap_or_default(), &desired),
        Err(kube::Error::Api(status)) => status.code == 422,
        Err(_) => false,
    };
    if !(exists && in_the_way) {
        return applied.map(drop).map_err(refuse);
    }
    let whole = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&name, &whole, &Patch::Merge(&desired)).await.map_err(refuse)?;
    api.patch(&name, &parameters, &Patch::Apply(&desired)).await.map(drop).map_err(refuse)
}

async fn remove<K>(client: &Client, cluster: &Cluster, name: &str) -> Result<(), ApplyError>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &cluster.namespace);
    remove_by(&api, &K::kind(&()), &cluster.uid, name).await
}

async fn remove_by<K>(api: &Api<K>, kind: &str, owner: &String, name: &str) -> Result<(), ApplyError>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let refuse = |source| ApplyError::Refused { kind: kind.to_owned(), name: name.to_owned(), source };
    let Some(existing) = api.get_opt(name).await.map_err(refuse)? else {
        return Ok(());
    };
    // Somebody else's object is not in our way.
    if owner_uid(existing.meta()) != Some(owner) {
        return Ok(());
    }
    let preconditions = Preconditions { uid: existing.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(refuse(source)),
    }
}

fn refused<K: Resource<DynamicType = ()>>(name: &str, source: kube::Error) -> ApplyError {
    ApplyError::Refused { kind: K::kind(&()).into_owned(), name: name.to_owned(), source }
}

fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a list that we want has entries that we do not want.
fn has_more(existing: &Value, desired: &Value) -> bool {
    match (existing, desired) {
        (Value::Object(existing), Value::Object(desired)) => {
            desired.iter().any(|(key, value)| existing.get(key).is_some_and(|found| has_more(found, value)))
        }
        (Value::Array(existing), Value::Array(desired)) => {
            existing.len() > desired.len() || existing.iter().zip(desired).any(|(e, d)| has_more(e, d))
        }
        _ => false,
    }
}

/// Whether everything that we want is there, and in our lists nothing else. Other fields are others'.
fn covers(existing: &Value, desired: &Value) -> bool {
    match (existing, desired) {
        (Value::Object(existing), Value::Object(desired)) => desired.iter().all(|(key, value)| {
            value.is_null() || existing.get(key).is_some_and(|found| covers(found, value))
        }),
        (Value::Array(existing), Value::Array(desired)) => {
            existing.len() == desired.len() && existing.iter().zip(desired).all(|(e, d)| covers(e, d))
        }
        (existing, desired) => existing == desired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_api_server_are_no_drift_and_foreign_edits_are() {
        let desired = json!({"spec": {"replicas": 3, "ports": [{"name": "a", "port": 1}]}});
        let defaulted = json!({"spec": {"replicas": 3, "ports": [{"name": "a", "port": 1, "protocol": "TCP"}]},
                               "status": {}});
        assert!(covers(&defaulted, &desired));
        for edited in [
            json!({"spec": {"replicas": 2, "ports": [{"name": "a", "port": 1}]}}),
            json!({"spec": {"replicas": 3, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}}),
            json!({"spec": {"replicas": 3}}),
        ] {
            assert!(!covers(&edited, &desired), "{edited}");
        }
    }
}
