//! What is broken: a `NatsCluster` of the operator, and nats-server in a StatefulSet shaped as the
//! official chart's. Both have the same verbs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::kubernetes::{Kubernetes, expect_condition};

/// Namespace of servers and clients.
pub const NAMESPACE: &str = "chaos";

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// Ours, under the operator.
    Starling,
    /// nats-server, under a StatefulSet.
    NatsServer,
}

/// A server's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub uid: String,
    pub address: String,
    pub node: String,
    pub restarts: u64,
}

impl Server {
    /// As INFO names it in `connect_urls`.
    pub fn client_address(&self) -> String {
        format!("{}:4222", self.address)
    }
}

/// A cluster of one of the brokers.
#[derive(Debug, Clone)]
pub struct Target {
    pub broker: Broker,
    pub kubernetes: Kubernetes,
}

impl Broker {
    /// Name of its cluster and of that one's client Service.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starling => "starling",
            Self::NatsServer => "nats",
        }
    }

    /// The program in its pods.
    pub fn program(self) -> &'static str {
        match self {
            Self::Starling => "starling-server",
            Self::NatsServer => "nats-server",
        }
    }
}

impl Target {
    /// Name of the cluster and of its client Service.
    pub fn name(&self) -> &'static str {
        self.broker.name()
    }

    /// The program in its pods.
    pub fn program(&self) -> &'static str {
        self.broker.program()
    }

    /// Name of the object that users write.
    pub fn object(&self) -> String {
        match self.broker {
            Broker::Starling => format!("natscluster/{}", self.name()),
            Broker::NatsServer => format!("statefulset/{}", self.name()),
        }
    }

    /// Creates the cluster.
    pub fn create(&self) -> Result<()> {
        let manifest = match self.broker {
            Broker::Starling => {
                "apiVersion: starling.dev/v1alpha1\nkind: NatsCluster\nmetadata: {name: starling}\n\
                 spec: {replicas: 3}\n"
                    .to_owned()
            }
            Broker::NatsServer => include_str!("nats-server.yaml").to_owned(),
        };
        self.kubernetes.with_manifest(&["apply", "--server-side"], &manifest).map(|_| ())
    }

    /// `kubectl scale`.
    pub fn scale(&self, replicas: usize) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.kubernetes.kubectl(&["scale", &self.object(), &replicas]).map(|_| ())
    }

    /// `kubectl patch --type=merge`.
    pub fn patch(&self, patch: &str) -> Result<()> {
        self.kubernetes.kubectl(&["patch", &self.object(), "--type=merge", "-p", patch]).map(|_| ())
    }

    /// Replaces all servers, one after the other, by a change that means nothing.
    pub fn roll(&self, mark: u64) -> Result<()> {
        match self.broker {
            Broker::Starling => self.patch(&format!(
                "{{\"spec\":{{\"podTemplate\":{{\"annotations\":{{\"roll\":\"{mark}\"}}}}}}}}"
            )),
            Broker::NatsServer => self.patch(&format!(
                "{{\"spec\":{{\"template\":{{\"metadata\":{{\"annotations\":{{\"roll\":\"{mark}\"}}}}}}}}}}"
            )),
        }
    }

    /// Asks for an image that does not exist, or for the sound one again.
    pub fn image(&self, broken: bool) -> Result<()> {
        match (self.broker, broken) {
            (Broker::Starling, true) => self.patch("{\"spec\":{\"image\":\"localhost/not-there:1\"}}"),
            (Broker::Starling, false) => self.patch("{\"spec\":{\"image\":null}}"),
            (Broker::NatsServer, broken) => {
                let image = if broken { "localhost/not-there:1" } else { "localhost/chaos-nats:test" };
                self.kubernetes
                    .kubectl(&["set", "image", &self.object(), &format!("nats={image}")])
                    .map(|_| ())
            }
        }
    }

    /// All its pods, ready or not.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let selector = format!("app.kubernetes.io/instance={}", self.name());
        let list = self.kubernetes.get(&["pods", "-l", &selector])?;
        Ok(list["items"].as_array().context("no list of pods")?.clone())
    }

    /// Its servers; fails unless all pods are ready and none leaves.
    pub fn servers(&self) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for pod in self.pods()? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = text(&pod["metadata"]["name"]);
            if expect_condition(&pod, "Ready", "True").is_err()
                || !pod["metadata"]["deletionTimestamp"].is_null()
            {
                bail!("pod {name} is not ready, or leaves");
            }
            servers.push(Server {
                name,
                uid: text(&pod["metadata"]["uid"]),
                address: text(&pod["status"]["podIP"]),
                node: text(&pod["spec"]["nodeName"]),
                restarts: pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0),
            });
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(servers)
    }

    /// Its servers, if there are so many, ready, with routes between all of them, and if whoever
    /// looks after them says so too.
    pub fn whole(&self, replicas: usize) -> Result<Vec<Server>> {
        let servers = self.servers()?;
        ensure!(servers.len() == replicas, "{} servers, not {replicas}", servers.len());
        if self.broker == Broker::Starling {
            let object = self.kubernetes.get(&[&self.object()])?;
            ensure!(
                object["status"]["observedGeneration"] == object["metadata"]["generation"],
                "the operator has not seen the last change"
            );
            expect_condition(&object, "Ready", "True")?;
        } else {
            let object = self.kubernetes.get(&[&self.object()])?;
            let (updated, current) =
                (&object["status"]["updateRevision"], &object["status"]["currentRevision"]);
            ensure!(updated == current, "still rolling");
        }
        for server in &servers {
            let routes = crate::http::json(&format!("http://{}:8222/routez", server.address))?;
            let routes = routes["routes"].as_array().cloned().unwrap_or_default();
            let found: BTreeSet<_> =
                routes.iter().filter_map(|route| route["remote_name"].as_str()).collect();
            for other in servers.iter().filter(|other| other.name != server.name) {
                ensure!(
                    found.contains(other.name.as_str()),
                    "{} has no route to {}",
                    server.name,
                    other.name
                );
            }
        }
        Ok(servers)
    }

    /// Waits for `whole`.
    pub fn wait_whole(&self, replicas: usize, patience: Duration) -> Result<Vec<Server>> {
        let what = format!("{} is whole with {replicas} servers", self.name());
        self.kubernetes.wait_for(&what, patience, || self.whole(replicas))
    }
}
