//! Servers that die come back and find their cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Context;
use super::nats_cluster::NatsCluster;
use crate::clients::{Watched, exchange};
use crate::kubernetes::shown;

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("recovery: a cluster of 3", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, "recovery");
        cluster.apply("{replicas: 3}")?;
        cluster.wait_ready(3)?;
        Ok(String::new())
    })?;
    context.step("a killed pod comes back and rejoins; its client moves", kill_pod)?;
    context.step("the operator is killed: servers and clients notice nothing", kill_operator)?;
    context.step("recovery: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, "recovery").delete(&before)
    })
}

fn kill_pod(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, "recovery");
    let servers = cluster.servers()?;
    let victim = servers.get(1).context("no second server")?.clone();
    let watched = context.runtime.block_on(Watched::connect(&victim.url()))?;
    watched.expect_known(3)?;
    let start = Instant::now();
    context.kubernetes.kubectl(&["delete", "pod", &victim.name, "--grace-period=0", "--force"])?;
    let servers = context.kubernetes.wait_for("the pod is back", Duration::from_secs(90), || {
        let servers = cluster.expect_ready(3)?;
        let back = servers.iter().any(|server| server.name == victim.name && server.uid != victim.uid);
        ensure!(back, "{} is still the old one", victim.name);
        Ok(servers)
    })?;
    cluster.wait_ready(3)?;
    let took = shown(start);
    context.runtime.block_on(async {
        let back = servers.iter().find(|server| server.name == victim.name).context("not back")?;
        let new = Watched::connect(&back.url()).await?;
        exchange(&watched.client, &new.client, "after.kill", 100).await?;
        exchange(&new.client, &watched.client, "after.kill.back", 100).await
    })?;
    Ok(format!("back and routed after {took}; its client is at {}", watched.server_name()))
}

fn kill_operator(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, "recovery");
    let before = cluster.servers()?;
    let operator = ["-n", super::OPERATOR_NAMESPACE];
    let delete = [&operator[..], &["delete", "pods", "--all", "--grace-period=0", "--force"]].concat();
    context.kubernetes.kubectl(&delete)?;
    let deployment = "deployment/starling-operator";
    let rollout = [&operator[..], &["rollout", "status", deployment, "--timeout=60s"]].concat();
    context
        .kubernetes
        .wait_for("the operator is back", Duration::from_secs(60), || context.kubernetes.kubectl(&rollout))?;
    // The new one works: it takes the cluster from 3 to 4, and leaves the others alone.
    cluster.scale(4)?;
    let after = cluster.wait_ready(4)?;
    ensure!(before.iter().all(|server| after.contains(server)), "a server was restarted");
    Ok("the next one went on where it stood".into())
}
