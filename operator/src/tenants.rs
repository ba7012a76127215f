//! Accounts and users on Kubernetes.
//!
//! Reads `NatsAccount`s, `NatsUser`s and their Secrets, has [`crate::tenancy`] decide, and writes Secrets,
//! status and Events. Part of a cluster's reconcile, so that servers, Secrets and status tell one story.
//! Decides nothing and holds nothing.

use std::collections::BTreeMap;

use config::accounts::Account;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::runtime::events::Reporter;
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::apply::{self, ApplyError};
use crate::build::{self, config::Generation, labels};
use crate::crd::{self, AuthMode, NatsAccount, NatsClusterStatus, NatsUser};
use crate::observe::kubernetes::owner_uid;
use crate::rollout;
use crate::status::Note;
use crate::tenancy::credentials::{Credentials, STATE};
use crate::tenancy::{self, Held, Observed, Outcome, Served};
use crate::validate::Cluster;

/// Label of a user's Secret: the cluster that its credentials are for.
pub const CLUSTER: &str = "starling.dev/cluster";

/// What exists for a cluster.
#[derive(Debug, Default)]
pub struct Tenants {
    accounts: Vec<NatsAccount>,
    users: Vec<NatsUser>,
    held: BTreeMap<String, Held>,
}

/// Reads everything that concerns a cluster.
///
/// # Errors
/// The API server's.
pub async fn observe(client: &Client, cluster: &Cluster) -> Result<Tenants, kube::Error> {
    let parameters = match cluster.auth {
        // Only to be told that nothing is done for them: what the API server has at hand will do.
        AuthMode::None => ListParams::default().match_any(),
        AuthMode::Static => ListParams::default(),
    };
    let (accounts, users) = read(client, &cluster.namespace, &cluster.name, &parameters).await?;
    let mut held = BTreeMap::new();
    if cluster.auth == AuthMode::Static && !users.is_empty() {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
        let ours = ListParams::default().labels(&format!("{CLUSTER}={}", cluster.name));
        let secrets = secrets.list(&ours).await?.items;
        held = users.iter().map(|user| (user.name_any(), found(user, &secrets))).collect();
    }
    Ok(Tenants { accounts, users, held })
}

async fn read(
    client: &Client,
    namespace: &str,
    cluster: &str,
    parameters: &ListParams,
) -> Result<(Vec<NatsAccount>, Vec<NatsUser>), kube::Error> {
    let mut accounts: Vec<NatsAccount> = list(client, namespace, parameters).await?;
    let mut users: Vec<NatsUser> = list(client, namespace, parameters).await?;
    accounts.retain(|account| account.spec.cluster_ref.name == cluster);
    users.retain(|user| user.spec.cluster_ref.name == cluster);
    Ok((accounts, users))
}

/// All objects of a kind but those that are being deleted, or were written for another version of the CRD.
async fn list<K>(client: &Client, namespace: &str, parameters: &ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::namespaced(client.clone(), namespace);
    let listed = match api.list(parameters).await {
        Ok(listed) => listed,
        // Installed without these definitions, e.g. by an older chart: then there are none.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut objects = Vec::new();
    for guard in listed.items {
        match guard.0 {
            Ok(object) if object.meta().deletion_timestamp.is_none() => objects.push(object),
            Ok(_) => {}
            Err(invalid) => {
                let (kind, name) = (K::kind(&()), invalid.metadata.name.unwrap_or_default());
                tracing::warn!(%kind, namespace, name, error = %invalid.error, "cannot be read by this version of the operator");
            }
        }
    }
    Ok(objects)
}

fn found(user: &NatsUser, secrets: &[Secret]) -> Held {
    let name = tenancy::secret_name(user);
    let secret = secrets.iter().find(|secret| {
        secret.name_any() == name && owner_uid(&secret.metadata) == user.metadata.uid.as_ref()
    });
    let state = secret.and_then(|secret| secret.data.as_ref()?.get(STATE));
    let state = state.and_then(|bytes| Credentials::read(std::str::from_utf8(&bytes.0).ok()?));
    state.map_or(Held::Nothing, Held::Ours)
}

/// Decides, and writes the Secrets. `authorities` is what clients check servers by, with TLS. A Secret whose name is taken harms only its user.
///
/// # Errors
/// See [`ApplyError`].
pub async fn settle(
    client: &Client,
    cluster: &Cluster,
    tenants: &mut Tenants,
    before: Option<&Generation>,
    status: Option<&NatsClusterStatus>,
    authorities: Option<&str>,
    now: &Time,
) -> Result<Outcome, ApplyError> {
    loop {
        let observed = Observed {
            auth: cluster.auth,
            accounts: &tenants.accounts,
            users: &tenants.users,
            held: &tenants.held,
            before: before.map(|before| before.rendered.settings.accounts.as_slice()).unwrap_or_default(),
            before_is_live: before.is_some_and(|before| is_live(before, status)),
            now: now.0.as_second(),
        };
        let outcome = tenancy::decide(&observed, rand::random);
        let mut taken = None;
        for user in &tenants.users {
            let Some(credentials) = outcome.credentials.get(&user.name_any()) else { continue };
            match apply::owned_by(client, user, &secret(cluster, user, credentials, authorities)).await {
                Ok(()) => {}
                Err(ApplyError::Foreign { .. }) => taken = Some(user.name_any()),
                Err(error) => return Err(error),
            }
        }
        let Some(user) = taken else { return Ok(outcome) };
        tenants.held.insert(user, Held::Foreign);
    }
}

/// Whether every server that runs has a configuration.
pub fn is_live(generation: &Generation, status: Option<&NatsClusterStatus>) -> bool {
    let digest = Some(&generation.rendered.digest);
    status.is_some_and(|status| {
        let mut staying = status.servers.iter().filter(|server| !server.leaving);
        status.config_digest.as_ref() == digest
            && staying.all(|server| server.config_digest.as_ref() == digest)
    })
}

fn secret(
    cluster: &Cluster,
    user: &NatsUser,
    credentials: &Credentials,
    authorities: Option<&str>,
) -> Secret {
    let data = credentials.data(&build::client_service_url(cluster), authorities);
    let labels = [
        (labels::MANAGED_BY, labels::OPERATOR),
        (labels::NAME, "nats-user"),
        (labels::INSTANCE, &user.name_any()),
        (CLUSTER, &cluster.name),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(tenancy::secret_name(user)),
            namespace: Some(cluster.namespace.clone()),
            labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", crd::GROUP, crd::VERSION),
                kind: "NatsUser".to_owned(),
                name: user.name_any(),
                uid: user.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Tells users what became of their objects.
///
/// # Errors
/// See [`ApplyError`].
pub async fn tell(
    client: &Client,
    reporter: &Reporter,
    tenants: &Tenants,
    outcome: &Outcome,
    served: Served<'_>,
    now: &Time,
) -> Result<(), ApplyError> {
    for account in &tenants.accounts {
        let current = tenancy::account_status(account, outcome, served, now);
        if account.status.as_ref() == Some(&current) {
            continue;
        }
        let before = account.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        publish(client, reporter, account, tenancy::status_notes(before, &current.conditions, None)).await;
        apply::status(client, account, &current).await?;
    }
    for user in &tenants.users {
        let current = tenancy::user_status(user, outcome, served, now);
        if user.status.as_ref() == Some(&current) {
            continue;
        }
        let before = user.status.as_ref();
        let conditions = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let names = (before.and_then(|status| status.user.as_ref()), current.user.as_ref());
        publish(client, reporter, user, tenancy::status_notes(conditions, &current.conditions, Some(names)))
            .await;
        apply::status(client, user, &current).await?;
    }
    Ok(())
}

async fn publish<K>(client: &Client, reporter: &Reporter, object: &K, notes: Vec<Note>)
where
    K: Resource<DynamicType = ()>,
{
    let (kind, name) =
        (K::kind(&()), format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()));
    for note in notes {
        if note.warning {
            tracing::warn!(%kind, name, reason = %note.reason, "{}", note.message);
        } else {
            tracing::info!(%kind, name, reason = %note.reason, "{}", note.message);
        }
        apply::event(client, reporter, &object.object_ref(&()), &note).await;
    }
}

/// Tells accounts and users of a cluster that does not exist, or not any more.
///
/// # Errors
/// See [`ApplyError`]; what cannot be read is left for the next change.
pub async fn orphans(
    client: &Client,
    reporter: &Reporter,
    namespace: &str,
    cluster: &str,
    now: &Time,
) -> Result<(), ApplyError> {
    let parameters = ListParams::default().match_any();
    let Ok((accounts, users)) = read(client, namespace, cluster, &parameters).await else { return Ok(()) };
    let refusal = || tenancy::no_cluster(cluster, namespace);
    let outcome = Outcome {
        refused_accounts: accounts.iter().map(|account| (account.name_any(), refusal())).collect(),
        refused_users: users.iter().map(|user| (user.name_any(), refusal())).collect(),
        ..Outcome::default()
    };
    let tenants = Tenants { accounts, users, held: BTreeMap::new() };
    let served = Served { accounts: &[], is_complete: false, servers: 0 };
    tell(client, reporter, &tenants, &outcome, served, now).await
}

/// The accounts that every running server has: each runs the configuration written now, or the one before.
pub fn served_accounts(
    observed: &rollout::Observed,
    now: &Generation,
    before: Option<&Generation>,
) -> (Vec<Account>, bool) {
    let staying = || observed.servers.iter().filter(|server| !server.leaving);
    let has = |generation: &Generation| {
        let digest = generation.rendered.digest.clone();
        move |server: &&rollout::Server| server.config.as_ref() == Some(&digest)
    };
    let accounts = now.rendered.settings.accounts.clone();
    if staying().all(|server| has(now)(&server)) {
        return (accounts, true);
    }
    let Some(before) = before else { return (Vec::new(), false) };
    if !staying().all(|server| has(now)(&server) || has(before)(&server)) {
        return (Vec::new(), false);
    }
    // What is in both: mixed servers during a change.
    let mut both = accounts;
    both.retain_mut(|account| {
        let former = before.rendered.settings.accounts.iter().find(|former| former.name == account.name);
        let Some(former) = former else { return false };
        account.users.retain(|user| former.users.iter().any(|known| known.credential == user.credential));
        true
    });
    (both, false)
}
