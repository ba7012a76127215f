//! The driver on Kubernetes.
//!
//! Owns the order observe → validate → build → plan → apply → status, and when to look again. Holds no
//! state between reconciles: a killed operator goes on where it was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::Reporter;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::{Client, Resource as _, ResourceExt as _};
use tokio::sync::watch;

use crate::apply::{self, ApplyError};
use crate::build::config::{self, Generation, Placement, Refused, Reload, reload_by_request};
use crate::build::{self, SystemSecret, labels};
use crate::certificates::{self, Asked, issue};
use crate::crd::{Endpoint, NatsAccount, NatsCluster, NatsClusterStatus, NatsUser};
use crate::metrics::Metrics;
use crate::observe::broker::Prober;
use crate::observe::kubernetes::{self, Seen};
use crate::reason::Reason;
use crate::reload::{self, Login, ReloadError, Trust};
use crate::rollout::{self, Observed, Plan, Step, Target, Wait};
use crate::status::{self, Certificate, Note, View};
use crate::tenancy::{self, Served};
use crate::tenants;
use crate::validate::{self, CertificateSource, Cluster, Defaults};

/// Pause between looks while something is under way. Watches report most changes earlier.
const PAUSE_BUSY: Duration = Duration::from_secs(2);
/// Pause while something is waited for that watches report: only a net under them. With many clusters that start
/// at once, a shorter one would keep the operator busy with looking.
const PAUSE_WATCHED: Duration = Duration::from_secs(10);
/// Pause while only somebody's help ends a wait.
const PAUSE_STALLED: Duration = Duration::from_secs(15);
/// Pause while nothing is to be done: only a net under the watches.
const PAUSE_IDLE: Duration = Duration::from_secs(1800);
/// Pause after something was refused that only somebody else can mend.
const PAUSE_REFUSED: Duration = Duration::from_secs(60);
/// First and longest pause after an error.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Longest wait for one broker's answers.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// Time in which a server that is to reload has done so, or never will. Kubelets bring a changed Secret to a
/// pod within seconds when the pod changes too, and within two minutes otherwise.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(150);
/// Clusters looked at side by side.
const CONCURRENCY: u16 = 8;
/// Pause after an error of any watch.
const WATCH_PAUSE: Duration = Duration::from_millis(250);

/// Why a reconcile failed; it is tried again, with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Something could not be read.
    #[error("cannot read from the API server: {0}")]
    Read(#[from] kube::Error),
    /// Something could not be written.
    #[error(transparent)]
    Write(#[from] ApplyError),
    /// Another operator has taken over.
    #[error("the lease is lost")]
    LeaseLost,
}

/// What every reconcile works with.
pub struct Context {
    client: Client,
    reporter: Reporter,
    prober: Prober,
    defaults: Defaults,
    metrics: Arc<Metrics>,
    /// Whether we may write.
    leader: watch::Receiver<bool>,
    /// Failures in a row of each cluster.
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    /// A context for [`run`]. `leader` says whether this operator holds the lease.
    pub fn new(
        client: Client,
        defaults: Defaults,
        metrics: Arc<Metrics>,
        leader: watch::Receiver<bool>,
    ) -> Self {
        let reporter =
            Reporter { controller: "starling-operator".to_owned(), instance: std::env::var("POD_NAME").ok() };
        Self {
            reporter,
            client,
            prober: Prober::new(ASK_TIME_MAX),
            defaults,
            metrics,
            leader,
            failures: Mutex::new(HashMap::new()),
        }
    }

    /// Re-checked before everything that disturbs anybody: a lease may be lost in the middle of a reconcile.
    fn must_lead(&self) -> Result<(), ReconcileError> {
        if *self.leader.borrow() { Ok(()) } else { Err(ReconcileError::LeaseLost) }
    }
}

/// The same pause after every error. All watches share it and stand still meanwhile: with kube's own, which grows to a
/// minute, a restart of the API server, of which each of the twelve tells by an error or two, left us blind for minutes.
struct WatchPause;

impl Iterator for WatchPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WATCH_PAUSE)
    }
}

impl Backoff for WatchPause {
    fn reset(&mut self) {}
}

/// Looks after all `NatsCluster`s of a namespace, or of all namespaces, until told to stop.
pub async fn run(
    context: Arc<Context>,
    namespace: Option<&str>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = &context.client;
    let owned = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::OPERATOR));
    let servers = watcher::Config::default().labels(&format!("{}={}", labels::NAME, labels::SERVER));
    let clusters = api::<DeserializeGuard<NatsCluster>>(client, namespace);
    let controller = Controller::new(clusters, watcher::Config::default());
    let known = controller.store();
    // Releases of helm are large, many, and named by nobody.
    let not_helms = watcher::Config::default().fields("type!=helm.sh/release.v1");
    let controller = controller
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(Duration::from_millis(100)))
        .trigger_backoff(WatchPause)
        .owns(api::<StatefulSet>(client, namespace), owned.clone())
        .owns(api::<Service>(client, namespace), owned.clone())
        .owns(api::<Secret>(client, namespace), owned.clone())
        .owns(api::<ServiceAccount>(client, namespace), owned.clone())
        .owns(api::<PodDisruptionBudget>(client, namespace), owned.clone())
        .owns(api::<NetworkPolicy>(client, namespace), owned)
        // Secrets that the spec names are other people's, and carry no label of ours.
        .watches(api::<PartialObjectMeta<Secret>>(client, namespace), not_helms, move |secret| {
            naming(&known, &secret)
        })
        .watches(api::<Pod>(client, namespace), servers, |pod| {
            let cluster = pod.labels().get(labels::INSTANCE)?;
            Some(ObjectRef::new(cluster).within(&pod.namespace()?))
        })
        .watches(api::<NatsAccount>(client, namespace), watcher::Config::default(), |account| {
            Some(ObjectRef::new(&account.spec.cluster_ref.name).within(&account.namespace()?))
        })
        .watches(api::<NatsUser>(client, namespace), watcher::Config::default(), |user| {
            Some(ObjectRef::new(&user.spec.cluster_ref.name).within(&user.namespace()?))
        })
        .watches(
            api::<Secret>(client, namespace),
            watcher::Config::default().labels(tenants::CLUSTER),
            |secret| {
                Some(ObjectRef::new(secret.labels().get(tenants::CLUSTER)?).within(&secret.namespace()?))
            },
        )
        .graceful_shutdown_on(stop);
    controller
        .run(reconcile, on_error, context.clone())
        .for_each(|result| {
            let context = &context;
            async move {
                match result {
                    // Accounts and users whose cluster does not exist.
                    Err(kube::runtime::controller::Error::ObjectNotFound(missing)) => {
                        forgotten(context, &missing).await;
                    }
                    // Failed reconciles have been logged where they failed; this is about watches.
                    Err(error) => tracing::debug!(%error, "controller"),
                    Ok(_) => {}
                }
            }
        })
        .await;
}

/// Clusters whose spec names a Secret.
fn naming(
    known: &Store<DeserializeGuard<NatsCluster>>,
    secret: &PartialObjectMeta<Secret>,
) -> Vec<ObjectRef<DeserializeGuard<NatsCluster>>> {
    let (name, namespace) = (secret.name_any(), secret.namespace());
    let concerned = known.state().into_iter().filter(|cluster| {
        cluster.namespace() == namespace
            && cluster.0.as_ref().is_ok_and(|cluster| validate::names_secret(cluster, &name))
    });
    concerned.map(|cluster| ObjectRef::from_obj(&*cluster)).collect()
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn forgotten<K: kube::runtime::reflector::Lookup>(context: &Context, missing: &ObjectRef<K>)
where
    K::DynamicType: Clone,
{
    let namespace = missing.namespace.clone().unwrap_or_default();
    context.metrics.cluster_gone(&namespace, &missing.name);
    if context.must_lead().is_ok()
        && let Err(error) = tenants::orphans(
            &context.client,
            &context.reporter,
            &namespace,
            &missing.name,
            &kubernetes::now(),
        )
        .await
    {
        tracing::warn!(%namespace, cluster = missing.name, %error, "cannot tell accounts that their cluster is missing");
    }
}

fn on_error(
    object: Arc<DeserializeGuard<NatsCluster>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
    let failures = context.failures.lock().map_or(1, |mut failures| {
        let count = failures.entry(name(&*object)).or_insert(0);
        *count = count.saturating_add(1);
        *count
    });
    let pause = BACKOFF.0.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(BACKOFF.1);
    tracing::warn!(cluster = %name(&*object), %error, failures, retry_seconds = pause.as_secs(), "reconcile failed");
    Action::requeue(pause)
}

/// `namespace/name`, as logs name a cluster.
fn name(object: &impl kube::Resource) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

async fn reconcile(
    object: Arc<DeserializeGuard<NatsCluster>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => object,
        // Written for another version of the CRD. One such object must not blind us to all others.
        Err(invalid) => {
            let note = status::unreadable(&invalid.error);
            tracing::warn!(cluster = %name(&*object), reason = %note.reason, "{}", note.message);
            apply::event(&context.client, &context.reporter, &object.object_ref(&()), &note).await;
            return Ok(Action::await_change());
        }
    };
    // Everything that we own has an owner reference: the garbage collector does the rest.
    if object.metadata.deletion_timestamp.is_some() {
        context.metrics.cluster_gone(&object.namespace().unwrap_or_default(), &object.name_any());
        return Ok(Action::await_change());
    }
    let timer = context.metrics.reconcile_started();
    let result = reconcile_once(object, &context).await;
    timer.finished(result.is_ok());
    if result.is_ok()
        && let Ok(mut failures) = context.failures.lock()
    {
        failures.remove(&name(object));
    }
    result
}

async fn reconcile_once(object: &NatsCluster, context: &Context) -> Result<Action, ReconcileError> {
    context.must_lead()?;
    let client = &context.client;
    let mut cluster = match validate::validate(object, &context.defaults) {
        Ok(cluster) => cluster,
        Err(problems) => {
            let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return refuse(object, context, Reason::InvalidSpec, &message).await;
        }
    };
    if let Some(message) = skew(object, &cluster) {
        return refuse(object, context, Reason::VersionSkew, &message).await;
    }
    let seen = kubernetes::cluster(client, &cluster).await?;
    let now = kubernetes::now();
    let mut tenants = tenants::observe(client, &cluster).await?;
    let outcome = settle_tenants(context, &mut cluster, &mut tenants, &seen, object, &now).await?;
    let Prepared { mut generation, reload, login } = match prepare(context, &cluster, &seen).await? {
        Ok(prepared) => prepared,
        Err((reason, message)) => return refuse(object, context, reason, &message).await,
    };
    let restarted_at = object.annotations().get(labels::RESTARTED_AT).map(String::as_str);
    let mut resources = build::resources(&cluster, &generation, restarted_at, 0);
    let reports = kubernetes::reports(&seen, &cluster, &context.prober).await;
    let (digest, template) = (generation.rendered.digest.clone(), resources.template_hash.clone());
    let observed = kubernetes::observed(&seen, &cluster, &template, &digest, &reports, &now);
    let refused = seen.generation.as_ref().and_then(|before| before.refused.as_ref());
    if let Some(refused) = refused.filter(|refused| refused.digest == digest && refused.template == template)
    {
        return refuse(object, context, Reason::ReloadRefused, &refused.problem).await;
    }
    generation.prove(observed.everybody_runs(&digest));
    resources.config = build::config_secret(&cluster, &generation);
    let (certificate, look_again) = match certify(object, context, &cluster, &seen, &observed).await? {
        Ok(certified) => certified,
        Err((reason, message)) => return refuse(object, context, reason, &message).await,
    };
    let target = Target::new(&cluster, template.clone(), digest.clone(), reload, RELOAD_TIME_MAX);
    let plan = rollout::plan(&target, &observed);
    let services = services(client, &cluster, object).await?;
    if !cluster.paused {
        context.must_lead()?;
        resources.set_servers(&cluster, plan.workload_servers);
        match apply::resources(client, &cluster, &resources, &seen.known).await {
            Err(error @ ApplyError::Foreign { .. }) => {
                return refuse(object, context, Reason::NameTaken, &error.to_string()).await;
            }
            result => result?,
        }
        apply::surplus_services(client, &cluster, &resources, &services).await?;
        if let Some(problem) =
            carry_out(context, &cluster, &seen, &plan.step, &digest, login.as_ref()).await?
        {
            let refused = Refused { digest, template, problem: status::taken_back(&problem) };
            apply::configuration(client, &cluster, &generation.taken_back(refused.clone())).await?;
            return refuse(object, context, Reason::ReloadRefused, &refused.problem).await;
        }
    }
    let certificate = certificate.as_ref();
    if !cluster.paused && asked_cert_manager_before(object, &cluster) {
        context.must_lead()?;
        apply::withdraw_certificate_request(client, &cluster).await?;
    }
    let view = View { cluster: &cluster, target: &target, observed: &observed, plan: &plan, certificate };
    let inside = Endpoint { name: cluster.listener.name.clone(), url: build::client_service_url(&cluster) };
    let endpoints = std::iter::once(inside).chain(build::outside_endpoints(&cluster, &services)).collect();
    let selector = Some(labels::selector_text(&cluster));
    let current = status::status(view, endpoints, selector, object.status.as_ref(), &now);
    let notes = status::notes(&cluster, &plan.step, object.status.as_ref(), &current);
    tell(object, context, current, notes).await?;
    context.metrics.step_taken(&plan.step);
    let pause = next_look(&plan, look_again);
    let Some(outcome) = outcome else { return Ok(Action::requeue(pause)) };
    let (accounts, is_complete) = tenants::served_accounts(&observed, &generation, seen.generation.as_ref());
    let served = Served { accounts: &accounts, is_complete, servers: observed.servers.len() };
    tenants::tell(client, &context.reporter, &tenants, &outcome, served, &now).await?;
    let wake = outcome
        .wake_at
        .map(|at| Duration::from_secs(u64::try_from(at - now.0.as_second()).unwrap_or_default()));
    Ok(Action::requeue(wake.map_or(pause, |wake| pause.min(wake.max(PAUSE_BUSY)))))
}

/// Credentials and accounts. `None`, and what the servers have, while nothing is to be changed.
async fn settle_tenants(
    context: &Context,
    cluster: &mut Cluster,
    tenants: &mut tenants::Tenants,
    seen: &Seen,
    object: &NatsCluster,
    now: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
) -> Result<Option<tenancy::Outcome>, ReconcileError> {
    let before = seen.generation.as_ref();
    if cluster.paused {
        let known = before.map(|before| before.rendered.settings.accounts.as_slice()).unwrap_or_default();
        cluster.accounts = tenancy::without_door(known);
        return Ok(None);
    }
    context.must_lead()?;
    let status = object.status.as_ref();
    let authorities = kubernetes::client_authorities(seen, cluster);
    let outcome =
        tenants::settle(&context.client, cluster, tenants, before, status, authorities.as_deref(), now)
            .await?;
    cluster.accounts.clone_from(&outcome.accounts);
    Ok(Some(outcome))
}

/// The servers' certificate: made, asked for, or checked, before any server is to load it.
async fn certify(
    object: &NatsCluster,
    context: &Context,
    cluster: &Cluster,
    seen: &Seen,
    observed: &Observed,
) -> Result<Result<(Option<Certificate>, Duration), (Reason, String)>, ReconcileError> {
    let Some(tls) = &cluster.tls else { return Ok(Ok((None, PAUSE_IDLE))) };
    let secret_name = build::tls_secret_name(cluster);
    let Some(asked) = Asked::of(cluster, certificates::names_in_pods(cluster), object.annotations()) else {
        let found = seen.foreign_certificate.as_ref();
        if let Some(request) = build::certificate(cluster).filter(|_| !cluster.paused) {
            context.must_lead()?;
            match apply::certificate_request(&context.client, cluster, &request).await {
                Err(error @ ApplyError::NoCertManager) => {
                    return Ok(Err((Reason::CertManagerMissing, error.to_string())));
                }
                result => result?,
            }
        }
        let files = match (found, &tls.source) {
            (Some(secret), _) => kubernetes::public_files(secret),
            // Pods wait for it by themselves.
            (None, CertificateSource::CertManager(_)) => {
                let missing = Certificate::of(cluster, secret_name, None, None);
                return Ok(Ok((Some(missing), PAUSE_BUSY)));
            }
            (None, _) => {
                let message = status::secret_missing(&secret_name, "spec.tls.secret");
                return Ok(Err((Reason::SecretMissing, message)));
            }
        };
        let name =
            tls.routes.then(|| format!("{}.{}.svc", config::headless_name(cluster), cluster.namespace));
        if let Err(problem) = certificates::check(&files, &format!("Secret {secret_name}"), name.as_deref()) {
            return Ok(Err((Reason::CertificateInvalid, problem)));
        }
        let file = files.data.get(certificates::key::TLS_CRT).map_or("", String::as_str);
        let certificate = Certificate::of(cluster, secret_name, certificates::not_after(file), None);
        let look_again = certificates::look_again_at_foreign(file, observed, kubernetes::now().0);
        return Ok(Ok((Some(certificate), look_again.unwrap_or(PAUSE_IDLE))));
    };
    let mut state = seen.certificates.clone();
    if !cluster.paused {
        let renewed = match issue::renew(&asked, &state, observed, kubernetes::now().0) {
            Ok(renewed) => renewed,
            Err(error) => return Ok(Err((Reason::CertificateInvalid, error.to_string()))),
        };
        context.must_lead()?;
        match apply::certificates(&context.client, cluster, &renewed.state, &seen.known).await {
            Err(error @ ApplyError::Foreign { .. }) => {
                return Ok(Err((Reason::NameTaken, error.to_string())));
            }
            result => result?,
        }
        if let Some(note) = status::certificate_note(&secret_name, renewed.step, renewed.issued) {
            tell_one(object, context, &note).await;
        }
        state = renewed.state;
    }
    let not_after =
        state.server.data.get(certificates::key::TLS_CRT).and_then(|pem| certificates::not_after(pem));
    let look_again = certificates::look_again(&asked, &state, observed, kubernetes::now().0);
    let certificate = Certificate::of(cluster, secret_name, not_after, certificates::rotation(&state));
    Ok(Ok((Some(certificate), look_again)))
}

/// The Services, where any is or was more than an address inside of the Kubernetes cluster.
async fn services(
    client: &Client,
    cluster: &Cluster,
    object: &NatsCluster,
) -> Result<Vec<Service>, kube::Error> {
    let was = object.metadata.generation != object.status.as_ref().and_then(|s| s.observed_generation);
    if cluster.listener.expose == crate::crd::ExposeType::ClusterIP && !was {
        return Ok(Vec::new());
    }
    kubernetes::services(client, cluster).await
}

/// Why no server of the version asked for may join those that run.
fn skew(object: &NatsCluster, cluster: &Cluster) -> Option<String> {
    // An image is its owner's affair.
    let asked = cluster.version_target.as_str();
    let servers = object.status.iter().flat_map(|status| &status.servers);
    let mut running = servers.filter(|server| !server.leaving).filter_map(|server| server.version.as_deref());
    running.find_map(|running| validate::version_skew(running, asked)).filter(|_| object.spec.image.is_none())
}

/// Whether the status remembers another `spec.tls.mode`, which asked cert-manager.
fn asked_cert_manager_before(object: &NatsCluster, cluster: &Cluster) -> bool {
    let before = object.status.as_ref().and_then(|status| status.certificates.as_ref());
    let now = matches!(&cluster.tls, Some(tls) if matches!(tls.source, CertificateSource::CertManager(_)));
    !now && before.is_some_and(|before| before.secret_name == build::cert_manager_secret_name(&cluster.name))
}

/// What servers are to load, and how they are told.
struct Prepared {
    generation: Generation,
    reload: Reload,
    /// How we get in to have them load it; `None`: we do not.
    login: Option<Login>,
}

/// Credentials and configuration; the inner error is the user's to mend.
async fn prepare(
    context: &Context,
    cluster: &Cluster,
    seen: &Seen,
) -> Result<Result<Prepared, (Reason, String)>, ReconcileError> {
    let system = SystemSecret::complete(seen.system.as_ref(), &mut rand::rng());
    let login = login(cluster, seen, &system);
    let operator_key = login.as_ref().map(|login| login.key.public_key());
    let fragments = match &seen.fragments {
        Ok(fragments) => fragments,
        Err(message) => return Ok(Err((Reason::SecretMissing, message.clone()))),
    };
    let placement = Placement { operator_key: operator_key.clone(), ..Placement::in_pod(cluster) };
    let rendered = match config::render(cluster, &placement, &system.route_password, fragments) {
        Ok(rendered) => rendered,
        Err(error) => return Ok(Err((Reason::ConfigRejected, error.to_string()))),
    };
    if !cluster.paused {
        context.must_lead()?;
        match apply::system(&context.client, cluster, &system, &seen.known).await {
            Err(error @ ApplyError::Foreign { .. }) => {
                return Ok(Err((Reason::NameTaken, error.to_string())));
            }
            result => result?,
        }
    }
    let before = seen.generation.as_ref();
    let reload = operator_key.map_or(Reload::Impossible, |key| reload_by_request(before, &rendered, &key));
    Ok(Ok(Prepared { generation: Generation::after(before, rendered, reload), reload, login }))
}

/// How we get in to servers. `None` where they want a certificate of clients and it is not ours to read.
fn login(cluster: &Cluster, seen: &Seen, system: &SystemSecret) -> Option<Login> {
    let key = system.operator_key()?;
    let Some(clients) = cluster.tls.as_ref().and_then(|tls| tls.clients) else {
        return Some(Login { key, tls: None });
    };
    let of_others = seen.foreign_certificate.as_ref().map(kubernetes::public_files);
    if clients.verify && of_others.is_some() {
        return None;
    }
    let files = of_others.as_ref().unwrap_or(&seen.certificates.server);
    let file = |name: &str| files.data.get(name).cloned();
    let trust = file(certificates::key::CA_CRT).zip(file(certificates::key::TLS_CRT));
    let tls = trust.and_then(|(authorities, certificate)| {
        let server_name = certificates::first_name(&certificate)?;
        let shown = file(certificates::key::TLS_KEY).filter(|_| clients.verify);
        Some(Trust { authorities, server_name, certificate: shown.map(|key| (certificate, key)) })
    });
    Some(Login { key, tls })
}

/// Steps that change the number of servers were taken by applying the StatefulSet; its controller starts and
/// stops pods, and each pod's preStop hook puts its server into lame duck mode. Answers with why a server
/// refused its configuration, if one did.
async fn carry_out(
    context: &Context,
    cluster: &Cluster,
    seen: &Seen,
    step: &Step,
    digest: &str,
    login: Option<&Login>,
) -> Result<Option<String>, ReconcileError> {
    let (Step::Replace { ordinal, .. }
    | Step::Reload { ordinal }
    | Step::Wait(Wait::Reloading { ordinal, .. })) = step
    else {
        return Ok(None);
    };
    context.must_lead()?;
    let name = cluster.server_name(*ordinal);
    let Some(pod) = seen.pods.iter().find(|pod| pod.name_any() == name) else { return Ok(None) };
    match step {
        Step::Replace { .. } => apply::delete_pod(&context.client, pod).await?,
        // The file takes its time to the pod, so it is asked for from the next look on.
        Step::Reload { .. } => {
            let told = format!("{digest} {}", kubernetes::now().0);
            apply::told_to_reload(&context.client, pod, &told).await?;
        }
        _ => {
            let address = kubernetes::address(pod, cluster.listener.port);
            let Some((address, login)) = address.zip(login) else { return Ok(None) };
            match reload::ask(&address, login, ASK_TIME_MAX).await {
                Ok(()) => {}
                Err(ReloadError::Refused(problem)) => return Ok(Some(format!("{name}: {problem}"))),
                Err(error) => {
                    tracing::info!(cluster = %format!("{}/{}", cluster.namespace, cluster.name), server = name, "{error}");
                }
            }
        }
    }
    Ok(None)
}

/// Says why nothing is done, and touches nothing that runs.
async fn refuse(
    object: &NatsCluster,
    context: &Context,
    reason: Reason,
    message: &str,
) -> Result<Action, ReconcileError> {
    let generation = object.metadata.generation.unwrap_or_default();
    let current = status::invalid(generation, reason, message, object.status.as_ref(), &kubernetes::now());
    let notes = status::transition_notes(object.status.as_ref(), &current);
    tell(object, context, current, notes).await?;
    // A changed spec wakes us by itself, and so does a Secret that appears. An object whose name is taken
    // may be gone meanwhile.
    Ok(Action::requeue(PAUSE_REFUSED))
}

async fn tell(
    object: &NatsCluster,
    context: &Context,
    current: NatsClusterStatus,
    notes: Vec<Note>,
) -> Result<(), ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    context.metrics.cluster_seen(&namespace, &object.name_any(), object.spec.replicas, &current);
    for note in &notes {
        tell_one(object, context, note).await;
    }
    if object.status.as_ref() != Some(&current) {
        apply::status(&context.client, object, &current).await?;
    }
    Ok(())
}

/// A line in the log, and an Event.
async fn tell_one(object: &NatsCluster, context: &Context, note: &Note) {
    if note.warning {
        tracing::warn!(cluster = %name(object), reason = %note.reason, "{}", note.message);
    } else {
        tracing::info!(cluster = %name(object), reason = %note.reason, "{}", note.message);
    }
    apply::event(&context.client, &context.reporter, &object.object_ref(&()), note).await;
}

fn next_look(plan: &Plan, certificates: Duration) -> Duration {
    let pause = match &plan.step {
        Step::Done | Step::Wait(Wait::Paused | Wait::OnDelete { .. }) => PAUSE_IDLE,
        Step::Wait(Wait::Settling { left, .. }) => PAUSE_BUSY.max(*left),
        Step::Wait(wait) if wait.overdue() => PAUSE_STALLED,
        Step::Wait(Wait::Missing { .. } | Wait::Workload | Wait::Unready { .. } | Wait::Leaving { .. }) => {
            PAUSE_WATCHED
        }
        _ => PAUSE_BUSY,
    };
    pause.min(certificates)
}
