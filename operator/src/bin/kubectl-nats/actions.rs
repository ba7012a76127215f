//! What the commands do to a cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper::Request;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use operator::build::labels;
use operator::crd::{NatsAccount, NatsCluster, NatsUser, condition};
use operator::{status, tenancy};
use serde_json::{Value, json};

use crate::view;

/// Field manager of everything set here.
const FIELD_MANAGER: &str = "kubectl-nats";
/// Pause between two looks while waiting.
const PAUSE: Duration = Duration::from_secs(1);

/// A cluster by its name.
pub struct Cluster {
    /// To the API server.
    pub client: Client,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Cluster {
    /// Knows where to look; looks at nothing.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Objects of a kind in the cluster's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The object.
    pub async fn object(&self) -> Result<NatsCluster> {
        let found = self.api::<NatsCluster>().get_opt(&self.name).await?;
        found.with_context(|| format!("no NatsCluster {} in namespace {}", self.name, self.namespace))
    }

    /// The cluster's pods, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let selector = format!("{}={},{}={}", labels::NAME, labels::SERVER, labels::INSTANCE, self.name);
        let mut pods = self.api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// A document of a server's monitoring port, through the API server.
    pub async fn monitor(&self, pod: &str, port: i32, path: &str) -> Result<String> {
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy{path}", self.namespace);
        let request = Request::get(uri).body(Vec::new())?;
        self.client.request_text(request).await.with_context(|| format!("{pod} does not answer {path}"))
    }

    /// `status NAME`.
    pub async fn status(&self) -> Result<()> {
        let object = self.object().await?;
        let accounts = listed::<NatsAccount>(&self.api()).await?;
        let users = listed::<NatsUser>(&self.api()).await?;
        let accounts: Vec<_> =
            accounts.into_iter().filter(|account| account.spec.cluster_ref.name == self.name).collect();
        let users: Vec<_> =
            users.into_iter().filter(|user| user.spec.cluster_ref.name == self.name).collect();
        print!("{}", view::cluster(&object, &accounts, &users));
        Ok(())
    }

    /// Sets a switch of the spec.
    pub async fn set(&self, field: &str, value: bool) -> Result<()> {
        self.patch(&json!({"spec": {field: value}})).await?;
        println!("{}: spec.{field} is {value}", self.name);
        Ok(())
    }

    async fn patch(&self, patch: &Value) -> Result<NatsCluster> {
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.api::<NatsCluster>();
        let patched = api.patch(&self.name, &parameters, &Patch::Merge(patch)).await;
        patched.with_context(|| format!("cannot change NatsCluster {}", self.name))
    }

    /// Has the operator replace all servers.
    pub async fn restart(&self, time_max: Option<Duration>) -> Result<()> {
        let before = self.object().await?;
        if before.spec.paused {
            bail!("{} is paused: nothing would happen; `kubectl nats resume {}` first", self.name, self.name);
        }
        let pods = self.pods().await?;
        let old: Vec<String> = pods.iter().filter_map(ResourceExt::uid).collect();
        let now = Timestamp::now().to_string();
        self.patch(&json!({"metadata": {"annotations": {labels::RESTARTED_AT: now}}})).await?;
        println!("{}: {} servers will be replaced, one at a time", self.name, old.len());
        self.wait(time_max, "all servers are replaced", async || {
            let pods = self.pods().await?;
            let left = pods.iter().filter(|pod| pod.uid().is_some_and(|uid| old.contains(&uid))).count();
            if left > 0 {
                return Ok(Some(format!("{left} servers are left to replace")));
            }
            self.not_ready().await
        })
        .await
    }

    /// Evicts a server's pod.
    pub async fn drain(&self, server: &str, time_max: Option<Duration>) -> Result<()> {
        let pods = self.pods().await?;
        let Some(pod) = pods.iter().find(|pod| pod.name_any() == server) else {
            let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
            bail!("{} has no server {server}; it has {}", self.name, names.join(", "));
        };
        let old = pod.uid();
        // An eviction, not a deletion: it keeps to the PodDisruptionBudget.
        let evicted = self.api::<Pod>().evict(server, &EvictParams::default()).await;
        evicted.with_context(|| format!("{server} may not be taken down now"))?;
        println!("{server}: its clients are sent to the other servers, then it is replaced");
        self.wait(time_max, &format!("{server} is back"), async || {
            let pods = self.pods().await?;
            match pods.iter().find(|pod| pod.name_any() == server) {
                Some(pod) if pod.uid() == old => Ok(Some(format!("{server} leaves"))),
                None => Ok(Some(format!("{server} is gone, and not yet back"))),
                Some(_) => self.not_ready().await,
            }
        })
        .await
    }

    /// What keeps the cluster from being Ready.
    async fn not_ready(&self) -> Result<Option<String>> {
        let object = self.object().await?;
        let Some(status) = &object.status else { return Ok(Some("no status yet".to_owned())) };
        if status.observed_generation != object.metadata.generation {
            return Ok(Some("the operator has not seen the change".to_owned()));
        }
        if let Some(stalled) = status::find(status, condition::STALLED).filter(|found| found.status == "True")
        {
            bail!("{}: {}: {}", self.name, stalled.reason, stalled.message);
        }
        let ready = status::find(status, condition::READY);
        Ok(match ready {
            Some(ready) if ready.status == "True" => None,
            Some(ready) => Some(format!("{}: {}", ready.reason, ready.message)),
            None => Some("not ready".to_owned()),
        })
    }

    async fn wait(
        &self,
        time_max: Option<Duration>,
        what: &str,
        look: impl AsyncFnMut() -> Result<Option<String>>,
    ) -> Result<()> {
        wait(time_max, what, look).await
    }
}

/// Waits until `look` finds nothing more to wait for; says what it waits for when that changes.
async fn wait(
    time_max: Option<Duration>,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<String>>,
) -> Result<()> {
    let Some(time_max) = time_max else { return Ok(()) };
    let (start, mut said) = (Instant::now(), String::new());
    loop {
        let Some(waiting_for) = look().await? else { break };
        if start.elapsed() > time_max {
            bail!("not within {} s: {waiting_for}", time_max.as_secs());
        }
        if waiting_for != said {
            println!("  {waiting_for}");
            said = waiting_for;
        }
        tokio::time::sleep(PAUSE).await;
    }
    println!("{what} ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

async fn listed<K>(api: &Api<K>) -> Result<Vec<K>>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        // Installed without these definitions.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// `status` without a name.
pub async fn all(client: &Client, namespace: &str) -> Result<()> {
    let api: Api<NatsCluster> = Api::namespaced(client.clone(), namespace);
    print!("{}", view::clusters(&api.list(&ListParams::default()).await?.items, namespace));
    Ok(())
}

async fn user(client: &Client, namespace: &str, name: &str) -> Result<NatsUser> {
    let api: Api<NatsUser> = Api::namespaced(client.clone(), namespace);
    api.get_opt(name).await?.with_context(|| format!("no NatsUser {name} in namespace {namespace}"))
}

/// `creds USER`.
pub async fn credentials(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let user = user(client, namespace, name).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret_name = tenancy::secret_name(&user);
    let secret = secrets.get_opt(&secret_name).await?.with_context(|| {
        format!("Secret {secret_name} does not exist yet; `kubectl describe natsuser {name}` says why")
    })?;
    let data = secret.data.unwrap_or_default();
    let data = data.into_iter().filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
    print!("{}", view::environment(&data.collect()));
    Ok(())
}

/// `creds USER --rotate`.
pub async fn rotate(client: &Client, namespace: &str, name: &str, time_max: Option<Duration>) -> Result<()> {
    let before = user(client, namespace, name).await?.status.unwrap_or_default();
    if let Some(until) = &before.former_until {
        bail!("{name}: the last rotation is not over: the former credentials are let in until {}", until.0);
    }
    let api: Api<NatsUser> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = json!({"metadata": {"annotations": {tenancy::ROTATE: Timestamp::now().to_string()}}});
    api.patch(name, &parameters, &Patch::Merge(patch)).await?;
    println!("{name}: new credentials are made; the Secret holds them as soon as every server knows them");
    wait(time_max, "the Secret holds new credentials", async || {
        let status = user(client, namespace, name).await?.status.unwrap_or_default();
        Ok((status.user == before.user).then(|| "servers learn the new credentials".to_owned()))
    })
    .await
}
