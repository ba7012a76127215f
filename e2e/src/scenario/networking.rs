//! Clients outside: an address for each server, by node ports and by load balancers.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Context;
use super::nats_cluster::{NatsCluster, READY_TIMEOUT};
use crate::clients::Watched;

const NAME: &str = "outside";
/// Of server 0.
const NODE_PORT: u16 = 30400;

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("a node port for each server, which servers tell their clients", node_ports)?;
    context.step(
        "a load balancer for each server, told as URLs; none is left of a server that is gone",
        balancers,
    )?;
    context.step("outside: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, NAME).delete(&before)
    })
}

fn node_ports(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    cluster.apply(&format!(
        "{{replicas: 3, listeners: [{{name: client, port: 4222, expose: {{type: NodePort, perServer: Enabled, \
         nodePort: {NODE_PORT}, advertise: Template, advertiseTemplate: '{{node}}:3040{{ordinal}}'}}}}]}}"
    ))?;
    let servers = cluster.wait_ready(3)?;
    let mut addresses = BTreeSet::new();
    for (ordinal, server) in servers.iter().enumerate() {
        let pod = context.kubernetes.get(&["pod", &server.name])?;
        let node = pod["status"]["hostIP"].as_str().context("no node")?.to_owned();
        addresses.insert(format!("{node}:{}", usize::from(NODE_PORT) + ordinal));
    }
    // A client that came by one of them knows all, and each leads to its own server.
    for (ordinal, server) in servers.iter().enumerate() {
        let port = format!(":{}", usize::from(NODE_PORT) + ordinal);
        let address = addresses.iter().find(|address| address.ends_with(&port)).context("no address")?;
        context.kubernetes.wait_for("all addresses are told", Duration::from_secs(30), || {
            let client = context.runtime.block_on(Watched::connect(&format!("nats://{address}")))?;
            ensure!(client.server_name() == server.name, "{address} leads to {}", client.server_name());
            let told: BTreeSet<String> = client.client.server_info().connect_urls.into_iter().collect();
            ensure!(told == addresses, "told {told:?}, not {addresses:?}");
            Ok(())
        })?;
    }
    Ok(format!("{addresses:?}"))
}

fn balancers(context: &Context) -> Result<String> {
    let cluster = NatsCluster::new(&context.kubernetes, NAME);
    let spec = |replicas: usize| {
        format!(
            "{{replicas: {replicas}, listeners: [{{name: client, port: 4222, expose: {{type: LoadBalancer, \
             perServer: Enabled, annotations: {{'dns.example.com/name': '{{pod}}.example.com'}}}}}}]}}"
        )
    };
    cluster.apply(&spec(3))?;
    cluster.wait_ready(3)?;
    // The part of a cloud: an address for each.
    for (service, ip) in [
        ("outside", "192.0.2.1"),
        ("outside-0", "192.0.2.10"),
        ("outside-1", "192.0.2.11"),
        ("outside-2", "192.0.2.12"),
    ] {
        let patch = format!("{{\"status\":{{\"loadBalancer\":{{\"ingress\":[{{\"ip\":\"{ip}\"}}]}}}}}}");
        let arguments = ["patch", "service", service, "--subresource=status", "--type=merge", "-p", &patch];
        context.kubernetes.kubectl(&arguments)?;
    }
    let told = context.kubernetes.wait_for("status.endpoints", READY_TIMEOUT, || {
        let object = cluster.object()?;
        let endpoints = object["status"]["endpoints"].as_array().cloned().unwrap_or_default();
        ensure!(endpoints.len() == 5, "endpoints: {endpoints:?}");
        let last = endpoints.last().context("none")?;
        ensure!(
            endpoints.iter().any(|one| one["name"] == "outside-1" && one["url"] == "nats://192.0.2.11:4222")
        );
        Ok(last["url"].as_str().unwrap_or_default().to_owned())
    })?;
    let service = context.kubernetes.get(&["service", "outside-2"])?;
    let name = &service["metadata"]["annotations"]["dns.example.com/name"];
    ensure!(*name == "outside-2.example.com", "annotation {name}");
    cluster.apply(&spec(2))?;
    cluster.wait_ready(2)?;
    context.kubernetes.wait_for("the Service of the server that left is gone", READY_TIMEOUT, || {
        let names = context.kubernetes.kubectl(&["get", "services", "-o", "name"])?;
        ensure!(!names.contains("outside-2"), "services: {names}");
        ensure!(names.contains("outside-1"), "services: {names}");
        Ok(())
    })?;
    Ok(format!("of all servers: {told}"))
}
