//! Updates that go wrong, and nodes that are drained.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::Event;

use super::Context;
use super::nats_cluster::{NatsCluster, READY_TIMEOUT};
use crate::clients::{Traffic, Watched};
use crate::kubernetes::{condition, shown};

const NAME: &str = "rollout";
/// Short, so that the test sees soon what a user sees after ten minutes.
const STRATEGY: &str = "updateStrategy: {rollingUpdate: {gateTimeout: 45s}}";

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("rollout: a cluster of 3", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        cluster.apply(&format!("{{replicas: 3, {STRATEGY}}}"))?;
        cluster.wait_ready(3)?;
        Ok(String::new())
    })?;
    context.step(
        "an image that does not exist: one server is lost, the update stalls, and is taken back",
        stall,
    )?;
    context.step("kubectl drain: the server moves, the others' clients notice nothing", drain)?;
    context.step("rollout: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, NAME).delete(&before)
    })
}

fn stall(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let before = cluster.servers()?;
    let start = Instant::now();
    cluster.apply(&format!("{{replicas: 3, image: 'localhost/starling-server:none', {STRATEGY}}}"))?;
    let told = context.kubernetes.wait_for("Stalled", READY_TIMEOUT, || {
        let object = cluster.object()?;
        match condition(&object, "Stalled") {
            Some(("True", reason @ "RolloutGateTimeout", message)) => Ok(format!("{reason}: {message}")),
            other => bail!("Stalled is {other:?}"),
        }
    })?;
    let after = shown(start);
    ensure!(told.starts_with("RolloutGateTimeout") && told.contains("Image"), "{told}");
    let events = cluster.events()?;
    let warned = events.iter().any(|event| event.starts_with("Warning: RolloutGateTimeout"));
    ensure!(warned, "events: {events:?}");
    // Long enough for a second server to be taken down after all.
    std::thread::sleep(Duration::from_secs(5));
    let object = cluster.object()?;
    ensure!(object["status"]["readyReplicas"] == 2, "readyReplicas {}", object["status"]["readyReplicas"]);
    cluster.apply(&format!("{{replicas: 3, {STRATEGY}}}"))?;
    let servers = cluster.wait_ready(3)?;
    let stayed = before.iter().filter(|server| servers.contains(server)).count();
    ensure!(stayed == 2, "{stayed} of the other two servers are the same as before");
    Ok(format!("after {after}: {told}"))
}

/// Node of each pod of the cluster, by name.
fn node_of(context: &Context, pod: &str) -> Result<String> {
    let object = context.kubernetes.get(&["pod", pod])?;
    Ok(object["spec"]["nodeName"].as_str().context("not scheduled")?.to_owned())
}

fn drain(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let servers = cluster.servers()?;
    let victim = servers.last().context("no server")?;
    let node = node_of(context, &victim.name)?;
    let mut elsewhere = Vec::new();
    for server in &servers {
        if node_of(context, &server.name)? != node {
            elsewhere.push(server);
        }
    }
    let [first, second, ..] = &elsewhere[..] else { bail!("servers share nodes") };
    let (publisher, subscriber, traffic, moving) = context.runtime.block_on(async {
        let publisher = Watched::connect(&first.url()).await?;
        let subscriber = Watched::connect(&second.url()).await?;
        let traffic = Traffic::start(&publisher.client, &subscriber.client, "numbered").await?;
        anyhow::Ok((publisher, subscriber, traffic, Watched::connect(&victim.url()).await?))
    })?;
    let start = Instant::now();
    let drained = context.kubernetes.kubectl(&[
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=120s",
    ]);
    let took = shown(start);
    let ready = context.kubernetes.wait_for("3 servers on two nodes", READY_TIMEOUT, || {
        let servers = cluster.expect_ready(3)?;
        ensure!(servers.iter().all(|server| server.uid != victim.uid), "the old server is still there");
        Ok(servers)
    });
    context.kubernetes.kubectl(&["uncordon", &node])?;
    let count = context.runtime.block_on(traffic.finish())?;
    drained?;
    ready?;
    for client in [&publisher, &subscriber] {
        ensure!(client.count(&Event::Disconnected) == 0, "a client of another server lost its connection");
    }
    ensure!(moving.count(&Event::LameDuckMode) >= 1, "the client of {} was not told", victim.name);
    ensure!(moving.server_name() != victim.name || moving.count(&Event::Connected) > 1, "it did not move");
    Ok(format!("{node} drained in {took}; {count} numbered messages once each and in order"))
}
