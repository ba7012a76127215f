//! What must be refused, by whom, and that nothing running is touched by it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Context;
use super::nats_cluster::{NatsCluster, READY_TIMEOUT};
use crate::kubernetes::{condition, shown};

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("bad input: the API server says what and where", refused_by_schema)?;
    context.step("bad input: a cluster of 1", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, "bad-input");
        cluster.apply("{replicas: 1}")?;
        cluster.wait_ready(1)?;
        Ok(String::new())
    })?;
    context.step("an unknown key in config.merge: condition, Event, nothing touched", |context| {
        refused_by_operator(context, "{replicas: 1, config: {merge: {no_such_key: 7}}}", "no_such_key")
    })?;
    context.step("a missing Secret in config.mergeFrom: the same", |context| {
        refused_by_operator(
            context,
            "{replicas: 1, config: {mergeFrom: [{secretKeyRef: {name: not-there, key: k}}]}}",
            "not-there",
        )
    })?;
    context.step("a version too far away: the same, with the one to go to first", |context| {
        refused_by_operator(context, "{replicas: 1, version: 0.3.0}", "go to 0.2 first")
    })?;
    context.step("bad input: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, "bad-input").delete(&before)
    })
}

/// A bad spec and what the refusal must name.
const REFUSED: [(&str, &[&str]); 6] = [
    ("{replicas: 0}", &["spec.replicas", "at least 1"]),
    ("{replicas: 100}", &["spec.replicas", "99"]),
    ("{replicas: three}", &["spec.replicas", "integer"]),
    ("{replica: 3}", &["unknown field", "spec.replica"]),
    ("{config: {maxPayload: much}}", &["spec.config.maxPayload"]),
    ("{cluster: {port: 70000}}", &["spec.cluster.port"]),
];

fn refused_by_schema(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, "refused");
    for (spec, wanted) in REFUSED {
        let Err(error) = cluster.apply(spec) else {
            bail!("spec {spec} was accepted");
        };
        let message = format!("{error:#}");
        for part in wanted {
            ensure!(message.contains(part), "spec {spec}: {part:?} is not in {message:?}");
        }
    }
    ensure!(cluster.object().is_err(), "a refused cluster exists");
    Ok(format!("{} specs refused", REFUSED.len()))
}

/// What must stay as it is: the pods, the StatefulSet and the configuration.
fn running(cluster: &NatsCluster<'_>) -> Result<Vec<(String, Value, Value)>> {
    let selector = format!("app.kubernetes.io/instance={}", cluster.name);
    let list = cluster.kubernetes.get(&["pods,statefulsets,secrets", "-l", &selector])?;
    let items = list["items"].as_array().context("no list")?;
    let mut found: Vec<_> = items
        .iter()
        .map(|item| {
            let name = format!("{}/{}", item["kind"], item["metadata"]["name"]);
            let content = if item["kind"] == "Secret" { &item["data"] } else { &item["spec"] };
            (name, item["metadata"]["uid"].clone(), content.clone())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    ensure!(found.len() >= 3, "only {} objects carry the label {selector}", found.len());
    Ok(found)
}

fn refused_by_operator(context: &Context, spec: &str, named: &str) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, "bad-input");
    let before = running(&cluster)?;
    let start = Instant::now();
    cluster.apply(spec)?;
    let told = context.kubernetes.wait_for("a condition tells", Duration::from_secs(30), || {
        let object = cluster.object()?;
        ensure!(
            condition(&object, "Ready").is_some_and(|(status, ..)| status == "False"),
            "Ready is not False"
        );
        match condition(&object, "Stalled") {
            Some(("True", reason, message)) if message.contains(named) => Ok(format!("{reason}: {message}")),
            other => bail!("Stalled is {other:?}"),
        }
    })?;
    let after = shown(start);
    context.kubernetes.wait_for("an Event tells", Duration::from_secs(30), || {
        let events = cluster.events()?;
        let told = events.iter().any(|event| event.starts_with("Warning") && event.contains(named));
        ensure!(told, "events: {events:?}");
        Ok(())
    })?;
    // Long enough for a reconcile that would touch something after all.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(running(&cluster)? == before, "something that runs was changed");
    cluster.apply("{replicas: 1}")?;
    context.kubernetes.wait_for("Ready again", READY_TIMEOUT, || cluster.expect_ready(1))?;
    ensure!(running(&cluster)? == before, "taking the mistake back changed something");
    Ok(format!("after {after}: {told}"))
}
