//! What a broker says of itself on its monitoring port.

use std::collections::HashSet;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::build::ZONE_TAG;
use crate::rollout::Health;

/// Longest answer that is read; `/routez` of a full mesh of 99 servers stays far below.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a broker told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its own verdict.
    pub health: Health,
    /// Digest of the configuration that it has loaded.
    pub config_digest: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Other servers that it is connected to.
    pub routes: Option<u32>,
    /// Client connections.
    pub connections: u64,
    /// Messages in since its start.
    pub messages_in: u64,
    /// End of the certificate that it shows; the earlier one where it shows two.
    pub certificate_not_after: Option<Timestamp>,
    /// Zone, by its tag [`ZONE_TAG`].
    pub zone: Option<String>,
}

/// Fields of `/varz` that we read.
#[derive(Deserialize)]
struct Varz {
    /// The nats-server version that the broker is compatible with.
    #[serde(default)]
    version: Option<String>,
    /// Its own.
    #[serde(default)]
    starling_version: Option<String>,
    #[serde(default)]
    config_digest: String,
    #[serde(default)]
    connections: u64,
    #[serde(default)]
    in_msgs: u64,
    #[serde(default)]
    tls_cert_not_after: Option<Timestamp>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    cluster: VarzCluster,
}

/// Fields of `/varz`'s `cluster` that we read.
#[derive(Default, Deserialize)]
struct VarzCluster {
    #[serde(default)]
    tls_cert_not_after: Option<Timestamp>,
}

/// Fields of `/routez` that we read.
#[derive(Deserialize)]
struct Routez {
    #[serde(default)]
    routes: Option<Vec<Route>>,
}

#[derive(Deserialize)]
struct Route {
    #[serde(default)]
    remote_id: String,
}

/// Asks brokers.
#[derive(Clone, Debug)]
pub struct Prober {
    client: Client<HttpConnector, Empty<Bytes>>,
    time_max: Duration,
}

impl Prober {
    /// A prober that waits at most this long for each broker.
    pub fn new(time_max: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build_http();
        Self { client, time_max }
    }

    /// Asks the broker whose monitoring port is at `authority` (`host:port`). `None` if it does not answer
    /// in time.
    pub async fn ask(&self, authority: &str) -> Option<Report> {
        tokio::time::timeout(self.time_max, self.ask_all(authority)).await.ok().flatten()
    }

    async fn ask_all(&self, authority: &str) -> Option<Report> {
        let (healthz, varz, routez) = futures::join!(
            self.read(authority, "/healthz"),
            self.read(authority, "/varz"),
            self.read(authority, "/routez"),
        );
        let (healthy, _) = healthz?;
        let varz: Option<Varz> = varz.and_then(|(_, body)| serde_json::from_slice(&body).ok());
        let routez: Option<Routez> = routez.and_then(|(_, body)| serde_json::from_slice(&body).ok());
        // A pool of connections to one server is one neighbour.
        let peers = |routez: Routez| -> HashSet<String> {
            routez
                .routes
                .into_iter()
                .flatten()
                .map(|route| route.remote_id)
                .filter(|id| !id.is_empty())
                .collect()
        };
        Some(Report {
            health: if healthy { Health::Ready } else { Health::Unready },
            config_digest: varz
                .as_ref()
                .map(|varz| varz.config_digest.clone())
                .filter(|digest| !digest.is_empty()),
            version: varz.as_ref().and_then(|varz| varz.starling_version.clone().or(varz.version.clone())),
            routes: routez.map(peers).map(|peers| u32::try_from(peers.len()).unwrap_or(u32::MAX)),
            connections: varz.as_ref().map_or(0, |varz| varz.connections),
            messages_in: varz.as_ref().map_or(0, |varz| varz.in_msgs),
            certificate_not_after: varz.as_ref().and_then(|varz| {
                [varz.tls_cert_not_after, varz.cluster.tls_cert_not_after].into_iter().flatten().min()
            }),
            zone: varz.as_ref().and_then(|varz| {
                varz.tags.iter().find_map(|tag| tag.strip_prefix(ZONE_TAG)).map(str::to_owned)
            }),
        })
    }

    /// Whether the answer was a success, and its body.
    async fn read(&self, authority: &str, path: &str) -> Option<(bool, Bytes)> {
        let uri = format!("http://{authority}{path}").parse().ok()?;
        let response = self.client.get(uri).await.ok()?;
        let success = response.status().is_success();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes();
        Some((success, body))
    }
}
