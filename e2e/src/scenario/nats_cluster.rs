//! One `NatsCluster` as a user sees it, by kubectl and by the monitoring ports.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::kubernetes::{Kubernetes, expect_condition, shown};

/// How long a cluster has to become as its spec says.
pub const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// One server: its pod's name, uid and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub uid: String,
    pub address: String,
}

impl Server {
    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://{}:4222", self.address)
    }

    /// A document of the monitoring port.
    pub fn monitor(&self, path: &str) -> Result<Value> {
        crate::http::json(&format!("http://{}:8222{path}", self.address))
    }

    /// Names of the servers that this one has routes to.
    pub fn routed_to(&self) -> Result<BTreeSet<String>> {
        let routes = self.monitor("/routez")?;
        let routes = routes["routes"].as_array().cloned().unwrap_or_default();
        let names = routes.iter().filter_map(|route| route["remote_name"].as_str());
        Ok(names.map(Into::into).collect())
    }
}

/// One `NatsCluster`.
pub struct NatsCluster<'a> {
    pub kubernetes: &'a Kubernetes,
    pub name: String,
}

impl<'a> NatsCluster<'a> {
    /// The cluster of a name.
    pub fn new(kubernetes: &'a Kubernetes, name: &str) -> Self {
        Self { kubernetes, name: name.to_owned() }
    }

    /// The object itself.
    pub fn object(&self) -> Result<Value> {
        self.kubernetes.get(&["natscluster", &self.name])
    }

    /// A manifest with a spec given as YAML flow text, for example `{replicas: 1}`.
    pub fn manifest(&self, spec: &str) -> String {
        format!(
            "apiVersion: starling.dev/v1alpha1\nkind: NatsCluster\nmetadata: {{name: {}}}\nspec: {spec}\n",
            self.name
        )
    }

    /// Applies a manifest with a spec.
    pub fn apply(&self, spec: &str) -> Result<()> {
        self.kubernetes.with_manifest(&["apply"], &self.manifest(spec)).map(|_| ())
    }

    /// `kubectl scale`.
    pub fn scale(&self, replicas: usize) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.kubernetes.kubectl(&["scale", "natscluster", &self.name, &replicas]).map(|_| ())
    }

    /// Whether the status says that all is as the spec asks, with so many servers, and whether it
    /// is true: pods ready and the mesh closed.
    pub fn expect_ready(&self, replicas: usize) -> Result<Vec<Server>> {
        let object = self.object()?;
        let generation = &object["metadata"]["generation"];
        ensure!(
            object["status"]["observedGeneration"] == *generation,
            "status.observedGeneration is {}, not {generation}",
            object["status"]["observedGeneration"]
        );
        expect_condition(&object, "Ready", "True")?;
        for field in ["replicas", "readyReplicas"] {
            let found = &object["status"][field];
            ensure!(*found == replicas, "status.{field} is {found}, not {replicas}");
        }
        let servers = self.servers()?;
        ensure!(servers.len() == replicas, "{} pods, not {replicas}", servers.len());
        Ok(servers)
    }

    /// Waits for `expect_ready`, then checks that every server has a route to every other: a status
    /// that says Ready before they do says it too early.
    pub fn wait_ready(&self, replicas: usize) -> Result<Vec<Server>> {
        let servers = self.kubernetes.wait_for(
            &format!("{} is ready with {replicas} servers", self.name),
            READY_TIMEOUT,
            || self.expect_ready(replicas),
        )?;
        for server in &servers {
            let found = server.routed_to()?;
            let others: BTreeSet<_> =
                servers.iter().map(|s| s.name.clone()).filter(|name| *name != server.name).collect();
            ensure!(
                others.is_subset(&found),
                "{} is Ready, but {} has routes only to {found:?}",
                self.name,
                server.name
            );
        }
        Ok(servers)
    }

    /// The cluster's pods that have an address and are ready, by ordinal.
    pub fn servers(&self) -> Result<Vec<Server>> {
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let list = self.kubernetes.get(&["pods", "-l", &selector])?;
        let mut servers = Vec::new();
        for pod in list["items"].as_array().context("no list of pods")? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = text(&pod["metadata"]["name"]);
            let ready = expect_condition(pod, "Ready", "True").is_ok();
            if !ready || !pod["metadata"]["deletionTimestamp"].is_null() {
                bail!("pod {name} is not ready, or leaves");
            }
            let (uid, address) = (text(&pod["metadata"]["uid"]), text(&pod["status"]["podIP"]));
            servers.push(Server { name, uid, address });
        }
        servers.sort_by_key(|server| {
            server.name.rsplit('-').next().and_then(|ordinal| ordinal.parse::<usize>().ok())
        });
        Ok(servers)
    }

    /// Deletes the cluster and waits until only what was there before is left.
    pub fn delete(&self, before: &BTreeSet<String>) -> Result<String> {
        let start = Instant::now();
        self.kubernetes.kubectl(&["delete", "natscluster", &self.name, "--timeout=60s"])?;
        self.kubernetes.wait_for("nothing of the cluster is left", READY_TIMEOUT, || {
            let now = self.kubernetes.inventory()?;
            let left: Vec<_> = now.difference(before).collect();
            ensure!(left.is_empty(), "left: {left:?}");
            Ok(())
        })?;
        Ok(format!("gone after {}", shown(start)))
    }

    /// Messages of the Events about this cluster, with their type: `Warning: …`.
    pub fn events(&self) -> Result<Vec<String>> {
        let selector = format!("involvedObject.name={},involvedObject.kind=NatsCluster", self.name);
        let list = self.kubernetes.get(&["events", "--field-selector", &selector])?;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lines = events.iter().map(|event| {
            format!("{}: {} {}", text(&event["type"]), text(&event["reason"]), text(&event["message"]))
        });
        Ok(lines.collect())
    }
}
