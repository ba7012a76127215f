//! The operator itself: two replicas and the one that dies, at the worst of times; an autoscaler above it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::metrics_api::{METRIC, MetricsApi};
use super::nats_cluster::{NatsCluster, READY_TIMEOUT};
use super::{Context, OPERATOR_NAMESPACE};
use crate::kubernetes::{Kubernetes, shown};

const NAME: &str = "handover";
/// The lease lasts 15 s, and a leader that was killed cannot give it back.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The autoscaler looks every 15 s.
const AUTOSCALER_TIMEOUT: Duration = Duration::from_secs(180);
/// The API server looks at an API that it is told of within seconds, or half a minute later.
const METRICS_TIMEOUT: Duration = Duration::from_secs(60);

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("two replicas of the operator, and a cluster of 3", |context| {
        two_operators(context)?;
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        cluster.apply("{replicas: 3}")?;
        cluster.wait_ready(3)?;
        Ok(format!("{} leads", leader(&context.kubernetes)?))
    })?;
    context.step("the leader is told to go: the other one takes over", |context| {
        takeover(context, &["--wait=false"])
    })?;
    context.step("the leader is killed in the middle of a roll: every server is replaced once", roll)?;
    context.step("the leader is killed while the cluster shrinks: one server leaves at a time", shrink)?;
    context.step("an autoscaler follows the connections through /scale: 3 to 5 to 3", autoscale)?;
    context.step("handover: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, NAME).delete(&before)
    })
}

fn of_operator(kubernetes: &Kubernetes) -> Kubernetes {
    let mut kubernetes = kubernetes.clone();
    OPERATOR_NAMESPACE.clone_into(&mut kubernetes.namespace);
    kubernetes
}

/// As the chart installs it.
fn two_operators(context: &Context) -> Result<()> {
    let pods =
        of_operator(&context.kubernetes).get(&["pods", "-l", "app.kubernetes.io/name=starling-operator"])?;
    let count = pods["items"].as_array().map_or(0, Vec::len);
    ensure!(count == 2, "{count} replicas of the operator");
    Ok(())
}

/// The pod that holds the lease.
fn leader(kubernetes: &Kubernetes) -> Result<String> {
    let lease = of_operator(kubernetes).get(&["lease", "starling-operator"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().context("nobody holds the lease")?.to_owned())
}

/// Ends the leader's pod, and waits until another one leads.
fn takeover(context: &Context, how: &[&str]) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let former = leader(kubernetes)?;
    let start = Instant::now();
    let delete = [&["delete", "pod", former.as_str()][..], how].concat();
    of_operator(kubernetes).kubectl(&delete)?;
    let next = kubernetes.wait_for("another one leads", TAKEOVER_TIMEOUT, || {
        let now = leader(kubernetes)?;
        ensure!(now != former && !now.is_empty(), "{former} still holds the lease");
        Ok(now)
    })?;
    Ok(format!("{next} after {}", shown(start)))
}

const KILLED: [&str; 2] = ["--grace-period=0", "--force"];

/// What was seen of the cluster's pods while something went on.
#[derive(Default)]
struct Seen {
    /// Pods of each name.
    uids: BTreeMap<String, BTreeSet<String>>,
    /// Most that were on their way out at once.
    leaving: usize,
}

impl Seen {
    fn look(&mut self, kubernetes: &Kubernetes) -> Result<()> {
        let selector = format!("app.kubernetes.io/instance={NAME}");
        let pods = kubernetes.get(&["pods", "-l", &selector])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for pod in &pods {
            let uids = self.uids.entry(text(&pod["metadata"]["name"])).or_default();
            uids.insert(text(&pod["metadata"]["uid"]));
        }
        let leaving = pods.iter().filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null()).count();
        self.leaving = self.leaving.max(leaving);
        Ok(())
    }
}

fn roll(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let mut seen = Seen::default();
    seen.look(kubernetes)?;
    let start = Instant::now();
    kubernetes.kubectl(&["annotate", "natscluster", NAME, "starling.dev/restarted-at=now"])?;
    kubernetes.wait_for("the first server is replaced", READY_TIMEOUT, || {
        seen.look(kubernetes)?;
        ensure!(seen.uids.values().any(|uids| uids.len() == 2), "none yet");
        Ok(())
    })?;
    let former = leader(kubernetes)?;
    of_operator(kubernetes).kubectl(&[&["delete", "pod", &former][..], &KILLED].concat())?;
    let killed = Instant::now();
    let mut taken = None;
    kubernetes.wait_for("every server is replaced", READY_TIMEOUT, || {
        seen.look(kubernetes)?;
        let now = leader(kubernetes).unwrap_or_default();
        if taken.is_none() && now != former && !now.is_empty() {
            taken = Some(shown(killed));
        }
        ensure!(seen.uids.values().all(|uids| uids.len() >= 2), "not yet: {:?}", seen.uids);
        cluster.expect_ready(3)
    })?;
    ensure!(seen.uids.values().all(|uids| uids.len() == 2), "replaced more than once: {:?}", seen.uids);
    ensure!(seen.leaving == 1, "{} servers were leaving at once", seen.leaving);
    Ok(format!("another one leads after {}; rolled in {}", taken.unwrap_or_default(), shown(start)))
}

fn shrink(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    cluster.scale(5)?;
    let former = leader(kubernetes)?;
    of_operator(kubernetes).kubectl(&[&["delete", "pod", &former][..], &KILLED].concat())?;
    let start = Instant::now();
    cluster.wait_ready(5)?;
    let grown = shown(start);
    cluster.scale(2)?;
    let mut seen = Seen::default();
    kubernetes.wait_for("the first server leaves", READY_TIMEOUT, || {
        seen.look(kubernetes)?;
        ensure!(seen.leaving > 0, "none yet");
        Ok(())
    })?;
    let former = leader(kubernetes)?;
    of_operator(kubernetes).kubectl(&[&["delete", "pod", &former][..], &KILLED].concat())?;
    let start = Instant::now();
    kubernetes.wait_for("2 are left", READY_TIMEOUT, || {
        seen.look(kubernetes)?;
        cluster.expect_ready(2)
    })?;
    ensure!(seen.leaving == 1, "{} servers were leaving at once", seen.leaving);
    cluster.scale(3)?;
    cluster.wait_ready(3)?;
    Ok(format!("5 ready {grown} after the first kill, 2 left {} after the second", shown(start)))
}

/// An autoscaler that follows the servers' connections, by a metrics API.
fn autoscale(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let metrics = context.runtime.block_on(MetricsApi::start(kubernetes))?;
    kubernetes.wait_for("the API server has the metrics API", METRICS_TIMEOUT, || {
        kubernetes.kubectl(&["get", "--raw", &format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/pods/*/{METRIC}?labelSelector=app.kubernetes.io%2Finstance%3D{NAME}", kubernetes.namespace)])
    })?;
    kubernetes.with_manifest(
        &["apply"],
        &format!(
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: {NAME}}}\nspec:\n  \
             scaleTargetRef: {{apiVersion: starling.dev/v1alpha1, kind: NatsCluster, name: {NAME}}}\n  \
             minReplicas: 3\n  maxReplicas: 5\n  metrics:\n  - type: Pods\n    pods: {{metric: {{name: {METRIC}}}, \
             target: {{type: AverageValue, averageValue: \"10\"}}}}\n  \
             behavior: {{scaleDown: {{stabilizationWindowSeconds: 0}}}}\n"
        ),
    )?;
    let within = |servers: usize| {
        let start = Instant::now();
        kubernetes.wait_for("the cluster is as the autoscaler wants it", AUTOSCALER_TIMEOUT, || {
            cluster.expect_ready(servers)
        })?;
        anyhow::Ok(shown(start))
    };
    // Fifty at ten a server.
    let mut clients = Vec::new();
    for server in cluster.servers()?.iter().cycle().take(50) {
        clients.push(context.runtime.block_on(async_nats::connect(server.url()))?);
    }
    let grown = within(5)?;
    let selector = cluster.object()?["status"]["selector"].as_str().unwrap_or_default().to_owned();
    ensure!(metrics.selector() == selector, "it asked for {:?}, not {selector:?}", metrics.selector());
    drop(clients);
    let shrunk = within(3)?;
    let found = kubernetes.get(&["hpa", NAME])?;
    let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for kind in ["AbleToScale", "ScalingActive"] {
        let holds = conditions.iter().any(|found| found["type"] == kind && found["status"] == "True");
        ensure!(holds, "{kind} is not True: {conditions:?}");
    }
    kubernetes.kubectl(&["delete", "hpa", NAME])?;
    metrics.stop()?;
    Ok(format!("50 clients: 5 servers after {grown}; none: 3 after {shrunk}"))
}
