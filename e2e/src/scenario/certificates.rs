//! Certificates of the cluster's own authority: names, rotation of both, under traffic and without a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{ConnectOptions, Event};
use serde_json::Value;

use super::Context;
use super::nats_cluster::{NatsCluster, Server};
use crate::clients::{Traffic, Watched};
use crate::kubernetes::{expect_condition, shown};

const NAME: &str = "certificates";
/// Kubelets bring a changed Secret to a pod within a minute or so; a rotation has three such changes.
const ROTATION_TIMEOUT: Duration = Duration::from_secs(420);

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("TLS between servers and to clients, from the cluster's own authority", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        cluster.apply(&spec(&[]))?;
        for server in cluster.wait_ready(3)? {
            let varz = server.monitor("/varz")?;
            ensure!(varz["tls_required"] == true, "{} takes clients without TLS", server.name);
            ensure!(varz["cluster"]["tls_required"] == true, "{} has routes without TLS", server.name);
        }
        context.kubernetes.wait_for("CertificatesReady", Duration::from_secs(60), || {
            expect_condition(&cluster.object()?, "CertificatesReady", "True")
        })
    })?;
    context.step("further names: a new certificate, loaded by running servers", add_names)?;
    context.step("a new authority under traffic: no restart, no connection lost, nothing lost", rotate)?;
    context.step("certificates: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, NAME).delete(&before)
    })
}

fn spec(extra_names: &[String]) -> String {
    format!(
        "{{replicas: 3, tls: {{selfSigned: {{overlap: 2s}}, extraNames: [{}]}}, \
         listeners: [{{name: client, port: 4222, tls: {{mode: Required}}}}]}}",
        extra_names.join(", ")
    )
}

fn add_names(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let servers = cluster.servers()?;
    let addresses: Vec<String> = servers.iter().map(|server| server.address.clone()).collect();
    let before = cluster.object()?["status"]["certificates"]["notAfter"].clone();
    let start = Instant::now();
    cluster.apply(&spec(&addresses))?;
    context.kubernetes.wait_for("every server shows the new certificate", ROTATION_TIMEOUT, || {
        let object = cluster.object()?;
        let now = &object["status"]["certificates"]["notAfter"];
        ensure!(*now != before, "no new certificate yet");
        let rows = object["status"]["servers"].as_array().context("no servers")?;
        ensure!(rows.iter().all(|row| row["certNotAfter"] == *now), "not loaded everywhere: {rows:?}");
        expect_condition(&object, "CertificatesReady", "True")
    })?;
    ensure!(cluster.servers()? == servers, "a server was restarted");
    Ok(format!("shown by all after {}", shown(start)))
}

/// `ca.crt` of a Secret, as a file that a client takes.
pub(super) fn authorities(context: &Context, name: &str, file: &Path) -> Result<String> {
    let template = "go-template={{index .data \"ca.crt\" | base64decode}}";
    let text = context.kubernetes.kubectl(&["get", "secret", &format!("{name}-tls"), "-o", template])?;
    std::fs::write(file, &text)?;
    Ok(text)
}

pub(super) async fn connect(server: &Server, authorities: &Path) -> Result<Watched> {
    let options = ConnectOptions::new().require_tls(true).add_root_certificates(authorities.to_owned());
    Watched::connect_with(&server.url(), options).await
}

fn rotate(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let servers = cluster.servers()?;
    let [first, second, ..] = &servers[..] else { anyhow::bail!("no three servers") };
    let folder = tempfile::tempdir()?;
    let (old, new) = (folder.path().join("old.crt"), folder.path().join("new.crt"));
    let old_text = authorities(context, NAME, &old)?;
    let (publisher, subscriber, traffic) = context.runtime.block_on(async {
        let publisher = connect(first, &old).await?;
        let subscriber = connect(second, &old).await?;
        let traffic = Traffic::start(&publisher.client, &subscriber.client, "numbered").await?;
        anyhow::Ok((publisher, subscriber, traffic))
    })?;
    let start = Instant::now();
    context.kubernetes.kubectl(&["annotate", "natscluster", NAME, "starling.dev/rotate-ca=1"])?;
    let rotated = context.kubernetes.wait_for("the old authority is gone", ROTATION_TIMEOUT, || {
        let text = authorities(context, NAME, &new)?;
        ensure!(text.matches("BEGIN CERTIFICATE").count() == 1, "two authorities are trusted");
        ensure!(text != old_text, "still the old one");
        let object = cluster.object()?;
        ensure!(object["status"]["certificates"]["rotation"] == Value::Null, "still under way");
        expect_condition(&object, "CertificatesReady", "True")
    });
    let took = shown(start);
    let count = context.runtime.block_on(traffic.finish())?;
    rotated?;
    ensure!(cluster.servers()? == servers, "a server was restarted");
    for client in [&publisher, &subscriber] {
        ensure!(client.count(&Event::Disconnected) == 0, "a client lost its connection");
    }
    let mesh: Vec<usize> =
        servers.iter().map(|server| Ok(server.routed_to()?.len())).collect::<Result<_>>()?;
    ensure!(mesh.iter().all(|peers| *peers == 2), "routes are missing: {mesh:?}");
    context.runtime.block_on(async {
        ensure!(connect(first, &old).await.is_err(), "the old authority still vouches for a server");
        connect(first, &new).await.context("with the new authority")
    })?;
    let events = cluster.events()?;
    let steps = events.iter().filter(|event| event.contains("CertificateRotated")).count();
    ensure!(steps >= 3, "events: {events:?}");
    Ok(format!("{took}; {count} numbered messages once each and in order meanwhile; {steps} Events"))
}
