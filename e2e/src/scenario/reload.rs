//! Changes of the configuration: loaded by running servers where they can, one server first; taken back
//! where one refuses; a roll where it must be.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::Event;
use serde_json::Value;

use super::Context;
use super::certificates::{authorities, connect};
use super::nats_cluster::{NatsCluster, READY_TIMEOUT, Server};
use crate::clients::{Traffic, Watched};
use crate::kubernetes::{condition, expect_condition, shown};

const NAME: &str = "reload";
/// Kubelets may take a minute and more for each changed Secret.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(240);
/// A certificate of routes that no pod has.
const NO_SUCH_FILE: &str = "/etc/nats-tls/none.crt";

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("reload: a cluster of 3, open to everybody", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        cluster.apply("{replicas: 3}")?;
        cluster.wait_ready(3)?;
        Ok(String::new())
    })?;
    context
        .step("maxPayload under traffic: loaded by running servers, one first, nobody disconnected", limit)?;
    context
        .step("what a running server refuses: one was asked, the rest never, and it is taken back", refuse)?;
    context.step("maxPending, which servers take at their start: a roll", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        let before = cluster.servers()?;
        cluster.apply("{replicas: 3, config: {maxPayload: 2Mi, maxPending: 32Mi}}")?;
        let start = Instant::now();
        applied(context, |varz| varz["max_pending"] == 32 << 20)?;
        let after = cluster.wait_ready(3)?;
        ensure!(after.iter().all(|server| before.iter().all(|old| old.uid != server.uid)), "not all are new");
        Ok(shown(start))
    })?;
    context.step("TLS towards clients, and a reload through it", with_tls)?;
    context
        .step("reload: kubectl delete", |context| NatsCluster::new(&context.kubernetes, NAME).delete(&before))
}

/// Waits until all servers run what the spec asks for, and say so.
fn applied(context: &Context, test: impl Fn(&Value) -> bool) -> Result<()> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    context.kubernetes.wait_for("every server has loaded it", RELOAD_TIMEOUT, || {
        let object = cluster.object()?;
        ensure!(object["status"]["observedGeneration"] == object["metadata"]["generation"], "not seen yet");
        expect_condition(&object, "ConfigApplied", "True")?;
        expect_condition(&object, "Ready", "True")?;
        let digest = &object["status"]["configDigest"];
        let rows = object["status"]["servers"].as_array().context("no servers")?;
        ensure!(rows.iter().all(|row| row["configDigest"] == *digest), "digests: {rows:?}");
        for server in cluster.servers()? {
            ensure!(test(&server.monitor("/varz")?), "{} runs something else", server.name);
        }
        Ok(())
    })
}

/// Traffic between two servers while something happens; nobody may lose a connection or a message.
fn undisturbed<T>(
    context: &Context,
    servers: &[Server],
    happens: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let [first, second, ..] = servers else { bail!("no two servers") };
    let (publisher, subscriber, traffic) = context.runtime.block_on(async {
        let publisher = Watched::connect(&first.url()).await?;
        let subscriber = Watched::connect(&second.url()).await?;
        let traffic = Traffic::start(&publisher.client, &subscriber.client, "numbered").await?;
        anyhow::Ok((publisher, subscriber, traffic))
    })?;
    let happened = happens();
    let count = context.runtime.block_on(traffic.finish())?;
    let happened = happened?;
    for client in [&publisher, &subscriber] {
        ensure!(client.count(&Event::Disconnected) == 0, "a client lost its connection");
    }
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    ensure!(cluster.servers()? == servers, "a server was restarted");
    Ok((happened, count))
}

fn limit(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let servers = cluster.servers()?;
    let before = cluster.object()?["status"]["configDigest"].clone();
    let (took, count) = undisturbed(context, &servers, || {
        let start = Instant::now();
        cluster.apply("{replicas: 3, config: {maxPayload: 2Mi}}")?;
        applied(context, |varz| varz["max_payload"] == 2 << 20)?;
        Ok(shown(start))
    })?;
    ensure!(cluster.object()?["status"]["configDigest"] != before, "the digest is the same as before");
    let events = cluster.events()?;
    let told = events.iter().filter(|event| event.starts_with("Normal: ConfigReloaded")).count();
    ensure!(told == 3, "events: {events:?}");
    Ok(format!("loaded by all after {took}; {count} numbered messages once each and in order"))
}

fn refuse(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let servers = cluster.servers()?;
    let digest = cluster.object()?["status"]["configDigest"].clone();
    let good = "{replicas: 3, config: {maxPayload: 2Mi}}";
    let bad = format!(
        "{{replicas: 3, config: {{maxPayload: 2Mi, merge: {{cluster: {{tls: {{ca_file: {NO_SUCH_FILE}}}}}}}}}}}"
    );
    let (told, count) = undisturbed(context, &servers, || {
        cluster.apply(&bad)?;
        let told = context.kubernetes.wait_for("Stalled", RELOAD_TIMEOUT, || {
            match condition(&cluster.object()?, "Stalled") {
                Some(("True", "ReloadRefused", message)) => Ok(message.to_owned()),
                other => bail!("Stalled is {other:?}"),
            }
        })?;
        // Long enough for another server to be asked after all.
        std::thread::sleep(Duration::from_secs(5));
        for server in &servers {
            let found = &server.monitor("/varz")?["config_digest"];
            ensure!(*found == digest, "{} runs {found}, not {digest}", server.name);
        }
        Ok(told)
    })?;
    ensure!(told.contains("none.crt"), "it is not said what is wrong: {told}");
    let secret = context.kubernetes.get(&["secret", &format!("{NAME}-config")])?;
    let written = &secret["metadata"]["annotations"]["starling.dev/config-digest"];
    ensure!(*written == digest, "the Secret still holds what was refused: {written}");
    let events = cluster.events()?;
    let asked = events.iter().filter(|event| event.starts_with("Normal: ConfigReloaded")).count();
    ensure!(asked <= 4, "more than one server was asked: {events:?}");
    ensure!(events.iter().any(|event| event.starts_with("Warning: ReloadRefused")), "events: {events:?}");
    cluster.apply(good)?;
    context.kubernetes.wait_for("all is well again", READY_TIMEOUT, || cluster.expect_ready(3))?;
    ensure!(cluster.servers()? == servers, "a server was restarted");
    Ok(format!("{told}; {count} numbered messages meanwhile"))
}

fn with_tls(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let spec = |payload: &str| {
        format!(
            "{{replicas: 3, config: {{maxPayload: {payload}}}, \
             listeners: [{{name: client, port: 4222, tls: {{mode: Required, clientAuth: Required}}}}]}}"
        )
    };
    cluster.apply(&spec("2Mi"))?;
    applied(context, |varz| varz["tls_required"] == true && varz["tls_verify"] == true)?;
    let servers = cluster.wait_ready(3)?;
    let start = Instant::now();
    cluster.apply(&spec("3Mi"))?;
    applied(context, |varz| varz["max_payload"] == 3 << 20)?;
    ensure!(cluster.servers()? == servers, "a server was restarted");
    let folder = tempfile::tempdir()?;
    let trusted = folder.path().join("ca.crt");
    authorities(context, NAME, &trusted)?;
    let first = servers.first().context("no server")?;
    let refused = context.runtime.block_on(async { connect(first, &trusted).await.is_err() });
    ensure!(refused, "a client without a certificate gets in");
    Ok(format!("loaded by all after {}", shown(start)))
}
