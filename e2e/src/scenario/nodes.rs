//! Nodes: what their zone is, a server that stands still, and nodes that die and come back, or do not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::nats_cluster::NatsCluster;
use super::{Context, OPERATOR_NAMESPACE};
use crate::clients::{Watched, exchange};
use crate::kubernetes::{Kubernetes, condition, expect_condition, shown};

const NAME: &str = "nodes";
/// A node is unreachable after 20 s, its pods are evicted 5 s later, have 60 s to leave, and the gate's timeout is 10 s.
const STALLED_TIMEOUT: Duration = Duration::from_secs(180);
/// A booted node needs its images, its network and its pods; a deleted one's pods are collected after a minute.
const BACK_TIMEOUT: Duration = Duration::from_secs(240);
/// Two unanswered probes, two seconds apart, and what a busy machine takes.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(12);
/// How long nothing may happen.
const QUIET: Duration = Duration::from_secs(10);

/// Evicted soon; and told soon.
const SPEC: &str = "{replicas: 3, updateStrategy: {rollingUpdate: {gateTimeout: 10s}}, podTemplate: {spec: {tolerations: [\
    {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5},\
    {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]}}}";

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("a cluster of 3: each server is in a zone of its own, and says so", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        cluster.apply(SPEC)?;
        cluster.wait_ready(3)?;
        zones(context)
    })?;
    context.step("a server stands still: the others let go of it within seconds", freeze)?;
    context.step(
        "a node loses power: the others go on, nothing is forced, the condition says what to do",
        |context| lose_node(context).map(|(node, note)| format!("{node}: {note}")),
    )?;
    context.step(
        "the node returns: so does its server, and what was asked meanwhile is done",
        |context| {
            let node = lost_node(context)?;
            let start = Instant::now();
            context.provider.node("start", &node)?;
            back(context, start)
        },
    )?;
    context.step("a node is gone for good, its Node is deleted: the server starts elsewhere", |context| {
        let (node, note) = lose_node(context)?;
        let start = Instant::now();
        context.kubernetes.kubectl(&["delete", "node", &node])?;
        let back = back(context, start)?;
        context.provider.node("start", &node)?;
        context.kubernetes.wait_for("the node is one again", BACK_TIMEOUT, || {
            expect_condition(&context.kubernetes.get(&["node", &node])?, "Ready", "True")
        })?;
        Ok(format!("{node}: {note}; without the Node: {back}"))
    })?;
    context
        .step("nodes: kubectl delete", |context| NatsCluster::new(&context.kubernetes, NAME).delete(&before))
}

/// Pods of the cluster: node and uid by name.
fn pods(kubernetes: &Kubernetes) -> Result<BTreeMap<String, (String, String)>> {
    let list = kubernetes.get(&["pods", "-l", &format!("app.kubernetes.io/instance={NAME}")])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().context("no list of pods")?;
    let pod = |pod: &Value| {
        (text(&pod["metadata"]["name"]), (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["uid"])))
    };
    Ok(items.iter().map(pod).collect())
}

/// What servers and status say of zones, against the nodes' labels.
fn zones(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let pods = pods(kubernetes)?;
    let mut told = Vec::new();
    for server in cluster.servers()? {
        let (node, _) = pods.get(&server.name).context("a server without a pod")?;
        let object = kubernetes.get(&["node", node])?;
        let zone = object["metadata"]["labels"]["topology.kubernetes.io/zone"].as_str().context("no zone")?;
        let tags = server.monitor("/varz")?["tags"].clone();
        let tag = format!("az:{zone}");
        ensure!(
            tags.as_array().is_some_and(|tags| tags.iter().any(|found| *found == tag.as_str())),
            "{} has the tags {tags}, not {tag}",
            server.name
        );
        let object = cluster.object()?;
        let rows = object["status"]["servers"].as_array().context("no rows")?;
        ensure!(
            rows.iter().any(|row| row["name"] == server.name.as_str() && row["zone"] == zone),
            "status does not tell zone {zone} of {}: {rows:?}",
            server.name
        );
        told.push(tag);
    }
    told.sort();
    told.dedup();
    ensure!(told.len() == 3, "not a zone each: {told:?}");
    Ok(told.join(", "))
}

/// The broker's process in a pod.
fn process(uid: &str) -> Result<Pid> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("comm").trim() == "starling-server" && read("cgroup").contains(uid) {
            return Pid::from_raw(id).context("a process without an id");
        }
    }
    bail!("no broker runs in pod {uid}")
}

fn freeze(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let servers = cluster.servers()?;
    let [first, second, frozen] = &servers[..] else { bail!("not three servers") };
    let process = process(&frozen.uid)?;
    kill_process(process, Signal::STOP)?;
    let start = Instant::now();
    let noticed = context.kubernetes.wait_for("the others let go", NOTICED_TIMEOUT, || {
        for other in [first, second] {
            let routes = other.routed_to()?;
            ensure!(!routes.contains(&frozen.name), "{} has routes to {routes:?}", other.name);
        }
        Ok(shown(start))
    });
    kill_process(process, Signal::CONT)?;
    let noticed = noticed?;
    let awake = Instant::now();
    cluster.wait_ready(3)?;
    let now = cluster.servers()?;
    ensure!(now == servers, "a server was restarted");
    Ok(format!("after {noticed}; whole again {} after it goes on", shown(awake)))
}

/// Ends a node that runs a server and not the operator, and sees to it that all goes as it should. The node, and
/// how it went.
fn lose_node(context: &Context) -> Result<(String, String)> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let before = pods(kubernetes)?;
    let operators = kubernetes.get(&["-n", OPERATOR_NAMESPACE, "pods"])?;
    let of_operator = |node: &str| {
        operators["items"].as_array().into_iter().flatten().any(|pod| pod["spec"]["nodeName"] == node)
    };
    let (victim, (node, uid)) = before
        .iter()
        .find(|(_, (node, _))| {
            !of_operator(node) && before.values().filter(|(of, _)| of == node).count() == 1
        })
        .context("no node has one server and not the operator")?;
    let others: Vec<_> = cluster.servers()?.into_iter().filter(|server| server.name != *victim).collect();
    let [first, second] = &others[..] else { bail!("not two others") };
    context.provider.node("crash", node)?;
    let start = Instant::now();
    let told = kubernetes.wait_for("the cluster is Stalled", STALLED_TIMEOUT, || {
        let object = cluster.object()?;
        match condition(&object, "Stalled") {
            Some(("True", "ServerNotLeaving", message)) if message.contains(victim.as_str()) => {
                Ok(format!("ServerNotLeaving after {}: {message}", shown(start)))
            }
            other => bail!("Stalled is {other:?}"),
        }
    })?;
    let events = cluster.events()?;
    ensure!(
        events.iter().any(|event| event.starts_with("Warning: ServerNotLeaving")),
        "no Event among {events:?}"
    );
    expect_condition(&cluster.object()?, "Available", "True")?;
    context.runtime.block_on(async {
        let (one, other) = (Watched::connect(&first.url()).await?, Watched::connect(&second.url()).await?);
        exchange(&one.client, &other.client, "after.loss", 100).await
    })?;
    // A roll would take a second server down.
    kubernetes.kubectl(&[
        "annotate",
        "--overwrite",
        "natscluster",
        NAME,
        &format!("starling.dev/restarted-at={node}"),
    ])?;
    let end = Instant::now() + QUIET;
    while Instant::now() < end {
        let now = pods(kubernetes)?;
        ensure!(now == before, "something was done: {now:?}, {before:?} before");
        let object = kubernetes.get(&["pod", victim])?;
        ensure!(
            object["metadata"]["uid"] == uid.as_str() && !object["metadata"]["deletionTimestamp"].is_null(),
            "{victim} is not the pod that was lost"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok((node.clone(), told))
}

/// The node that is not ready.
fn lost_node(context: &Context) -> Result<String> {
    let nodes = context.kubernetes.get(&["nodes"])?;
    let lost = nodes["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|node| condition(node, "Ready").is_none_or(|(status, ..)| status != "True"));
    Ok(lost.and_then(|node| node["metadata"]["name"].as_str()).context("all nodes are ready")?.to_owned())
}

/// Waits until all three servers are there and of the newest template.
fn back(context: &Context, start: Instant) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    context.kubernetes.wait_for("all servers are there", BACK_TIMEOUT, || {
        let servers = cluster.expect_ready(3)?;
        let object = cluster.object()?;
        ensure!(object["status"]["updatedReplicas"] == 3, "not all servers are of the newest template");
        expect_condition(&object, "Stalled", "False")?;
        Ok(servers)
    })?;
    cluster.wait_ready(3)?;
    Ok(format!("whole and rolled after {}", shown(start)))
}
