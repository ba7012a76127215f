//! A cluster's life: applied, used, grown, shrunk under traffic, deleted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, Event};
use futures::StreamExt;

use super::Context;
use super::nats_cluster::{NatsCluster, READY_TIMEOUT, Server};
use crate::clients::{Traffic, Watched, exchange, request, share, wait_for_interest};
use crate::info_watcher::InfoWatcher;
use crate::kubernetes::shown;
use crate::process::project_root;

/// How long a client may take to learn of servers that are already up.
const LEARN_TIMEOUT: Duration = Duration::from_secs(90);

/// Plays the scenario with the example that the README names.
pub fn play(context: &mut Context) -> Result<()> {
    let path = project_root().join("manifests/examples/cluster.yaml");
    let path = path.display().to_string();
    let before = context.kubernetes.inventory()?;
    let mut name = String::new();
    context.step("kubectl apply of the example: 3 servers, Ready", |context| {
        let start = Instant::now();
        name = context.kubernetes.kubectl(&["apply", "-o", "jsonpath={.metadata.name}", "-f", &path])?;
        NatsCluster::new(&context.kubernetes, &name).wait_ready(3)?;
        Ok(format!("Ready {} after kubectl apply", shown(start)))
    })?;
    context.step("kubectl get natscluster tells how it stands", |context| {
        let table = context.kubernetes.kubectl(&["get", "natscluster", &name])?;
        let mut lines = table.lines();
        let (header, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        for column in ["NAME", "DESIRED", "READY", "STATUS", "AGE"] {
            ensure!(header.contains(column), "no column {column} in {header:?}");
        }
        Ok(row.split_whitespace().collect::<Vec<_>>().join(" "))
    })?;
    context.step("messages, requests and queue groups across all pods", |context| {
        let servers = NatsCluster::new(&context.kubernetes, &name).servers()?;
        context.runtime.block_on(use_all(&servers))
    })?;
    if !context.short {
        context
            .step("3 to 5: a connected client learns of 5 servers by INFO", |context| grow(context, &name))?;
        context
            .step("5 to 2 under traffic: nothing lost, clients moved", |context| shrink(context, &name))?;
    }
    context.step("kubectl delete leaves nothing behind", |context| {
        NatsCluster::new(&context.kubernetes, &name).delete(&before)
    })
}

async fn use_all(servers: &[Server]) -> Result<String> {
    let mut clients: Vec<Client> = Vec::new();
    for server in servers {
        let watched = Watched::connect(&server.url()).await?;
        ensure!(
            watched.server_name() == server.name,
            "{} calls itself {}",
            server.name,
            watched.server_name()
        );
        clients.push(watched.client);
    }
    let mut pairs = 0;
    for (i, from) in clients.iter().enumerate() {
        for (j, to) in clients.iter().enumerate().filter(|(j, _)| *j != i) {
            exchange(from, to, &format!("exchange.{i}.{j}"), 1000).await?;
            request(from, to, &format!("service.{i}.{j}")).await?;
            pairs += 1;
        }
    }
    let first = clients.first().context("no server")?;
    share(first, &clients, "shared", 1000).await?;
    Ok(format!("{pairs} pairs of pods, 1000 messages each"))
}

fn grow(context: &Context, name: &str) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, name);
    let first = cluster.servers()?.into_iter().next().context("no server")?;
    let watched = context.runtime.block_on(Watched::connect(&first.url()))?;
    watched.expect_known(3)?;
    let watcher = InfoWatcher::connect(&first.url())?;
    watcher.learn(3, Duration::from_secs(10))?;
    let start = Instant::now();
    cluster.scale(5)?;
    let learned = watcher.learn(5, LEARN_TIMEOUT)?;
    let after_scale = shown(start);
    let servers = cluster.wait_ready(5)?;
    let ready = shown(start);
    ensure!(watched.count(&Event::Disconnected) == 0, "the client was disconnected");
    ensure!(!watcher.is_closed(), "the client that listens for INFO was disconnected");
    let mut started = Vec::new();
    for server in servers.iter().skip(3) {
        let variables = server.monitor("/varz")?;
        let text = variables["start"].as_str().context("/varz without start")?.to_owned();
        started.push(text.parse::<jiff::Timestamp>()?);
    }
    let last = started.into_iter().max().context("no new server")?;
    let latency = learned.duration_since(last).as_millis();
    context.runtime.block_on(use_all(&servers))?;
    Ok(format!(
        "learned {after_scale} after kubectl scale, {latency} ms after the last server's start; \
         Ready after {ready}; no reconnect"
    ))
}

/// A client of a server that will leave, with a subscription that it takes along.
struct Leaving {
    watched: Watched,
    subject: String,
    messages: async_nats::Subscriber,
    server: String,
}

fn shrink(context: &Context, name: &str) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, name);
    let servers = cluster.servers()?;
    let [first, second, leaving @ ..] = &servers[..] else { anyhow::bail!("no five servers") };
    let (publisher, subscriber, traffic, mut moving) = context.runtime.block_on(async {
        let publisher = Watched::connect(&first.url()).await?;
        let subscriber = Watched::connect(&second.url()).await?;
        let traffic = Traffic::start(&publisher.client, &subscriber.client, "numbered").await?;
        let mut moving = Vec::new();
        for server in leaving {
            let watched = Watched::connect(&server.url()).await?;
            let subject = format!("moving.{}", server.name);
            let messages = watched.client.subscribe(subject.clone()).await?;
            watched.client.flush().await?;
            moving.push(Leaving { watched, subject, messages, server: server.name.clone() });
        }
        anyhow::Ok((publisher, subscriber, traffic, moving))
    })?;
    let watcher = InfoWatcher::connect(&first.url())?;
    watcher.learn(5, Duration::from_secs(10))?;
    let start = Instant::now();
    cluster.scale(2)?;
    let ready = context.kubernetes.wait_for("2 servers, Ready", READY_TIMEOUT, || cluster.expect_ready(2));
    let took = shown(start);
    context.runtime.block_on(async {
        let count = traffic.finish().await?;
        let survivors = ready?;
        watcher.learn(2, Duration::from_secs(10))?;
        for client in [&publisher, &subscriber] {
            ensure!(
                client.count(&Event::Disconnected) == 0,
                "a client of a surviving server was disconnected"
            );
        }
        for client in &mut moving {
            check_moved(client, &publisher.client, &survivors).await?;
        }
        Ok(format!(
            "{count} numbered messages once each and in order; {} clients moved; Ready after {took}",
            moving.len()
        ))
    })
}

/// The client is on a surviving server, was told before, and its subscription works there.
async fn check_moved(client: &mut Leaving, from: &Client, survivors: &[Server]) -> Result<()> {
    let moved = async {
        loop {
            let name = client.watched.server_name();
            let connected =
                client.watched.client.connection_state() == async_nats::connection::State::Connected;
            if connected && survivors.iter().any(|server| server.name == name) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let moved = tokio::time::timeout(Duration::from_secs(20), moved).await;
    moved.with_context(|| {
        format!("the client of {} is still at {}", client.server, client.watched.server_name())
    })?;
    ensure!(
        client.watched.count(&Event::LameDuckMode) >= 1,
        "the client of {} was not told that its server leaves",
        client.server
    );
    wait_for_interest(from, &client.subject, &mut client.messages).await?;
    from.publish(client.subject.clone(), "after the move".into()).await?;
    let message = tokio::time::timeout(Duration::from_secs(10), client.messages.next()).await;
    let message = message.context("nothing comes after the move")?.context("subscription ended")?;
    ensure!(message.payload == "after the move", "a wrong message: {:?}", message.payload);
    Ok(())
}
