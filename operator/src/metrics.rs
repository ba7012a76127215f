//! What the operator measures of itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::crd::{NatsClusterStatus, condition};
use crate::rollout::Step;
use crate::status;

/// Counters and histograms, served on `/metrics`.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ResultLabel, Counter>,
    durations: Histogram,
    steps: Family<StepLabel, Counter>,
    leader: Gauge,
    requests: Family<VerbLabel, Counter>,
    servers: Family<ClusterLabel, Gauge>,
    ready_servers: Family<ClusterLabel, Gauge>,
    ready: Family<ClusterLabel, Gauge>,
    stalled: Family<StalledLabel, Gauge>,
    /// The reason under which each stalled cluster is shown.
    stalled_reasons: Mutex<HashMap<ClusterLabel, String>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClusterLabel {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StalledLabel {
    namespace: String,
    name: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerbLabel {
    verb: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

/// A reconcile under way.
pub struct Timer<'a> {
    metrics: &'a Metrics,
    started: Instant,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("starling_operator");
        let reconciles = Family::default();
        let durations = Histogram::new(exponential_buckets(0.005, 2.0, 12));
        let steps = Family::default();
        let leader = Gauge::default();
        registry.register("reconciles", "Reconciles of NatsClusters, by result", reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time of a reconcile",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("steps", "Steps taken on clusters", steps.clone());
        registry.register("leader", "1 while this operator holds the lease", leader.clone());
        let requests = Family::default();
        registry.register("api_requests", "Requests to the API server, by verb", requests.clone());
        let (servers, ready_servers, ready, stalled) =
            (Family::default(), Family::default(), Family::default(), Family::default());
        registry.register("cluster_servers", "Servers that a NatsCluster asks for", servers.clone());
        registry.register("cluster_ready_servers", "Servers that take clients", ready_servers.clone());
        registry.register("cluster_ready", "1 while the condition Ready is True", ready.clone());
        registry.register("cluster_stalled", "1 while a NatsCluster needs somebody's help", stalled.clone());
        Arc::new(Self {
            registry,
            reconciles,
            durations,
            steps,
            leader,
            requests,
            servers,
            ready_servers,
            ready,
            stalled,
            stalled_reasons: Mutex::default(),
        })
    }

    /// Notes how a cluster stands.
    pub fn cluster_seen(&self, namespace: &str, name: &str, servers: i32, status: &NatsClusterStatus) {
        let label = ClusterLabel { namespace: namespace.to_owned(), name: name.to_owned() };
        let is = |kind| status::find(status, kind).filter(|condition| condition.status == "True");
        self.servers.get_or_create(&label).set(i64::from(servers));
        self.ready_servers.get_or_create(&label).set(i64::from(status.ready_replicas));
        self.ready.get_or_create(&label).set(i64::from(is(condition::READY).is_some()));
        self.show_stalled(label, is(condition::STALLED).map(|condition| condition.reason.clone()));
    }

    /// Forgets a cluster that is gone.
    pub fn cluster_gone(&self, namespace: &str, name: &str) {
        let label = ClusterLabel { namespace: namespace.to_owned(), name: name.to_owned() };
        for family in [&self.servers, &self.ready_servers, &self.ready] {
            family.remove(&label);
        }
        self.show_stalled(label, None);
    }

    fn show_stalled(&self, cluster: ClusterLabel, reason: Option<String>) {
        let Ok(mut shown) = self.stalled_reasons.lock() else { return };
        let label = |reason: &String| StalledLabel {
            namespace: cluster.namespace.clone(),
            name: cluster.name.clone(),
            reason: reason.clone(),
        };
        if let Some(before) = shown.get(&cluster).filter(|before| Some(*before) != reason.as_ref()) {
            self.stalled.remove(&label(before));
        }
        match reason {
            Some(reason) => {
                self.stalled.get_or_create(&label(&reason)).set(1);
                shown.insert(cluster, reason);
            }
            None => drop(shown.remove(&cluster)),
        }
    }

    /// Starts the clock of a reconcile.
    pub fn reconcile_started(&self) -> Timer<'_> {
        Timer { metrics: self, started: Instant::now() }
    }

    /// Counts a step.
    pub fn step_taken(&self, step: &Step) {
        let step = match step {
            Step::Done | Step::Wait(_) => return,
            Step::Grow { .. } => "grow",
            Step::Shrink { .. } => "shrink",
            Step::Stop => "stop",
            Step::Reload { .. } => "reload",
            Step::Replace { .. } => "replace",
        };
        self.steps.get_or_create(&StepLabel { step }).inc();
    }

    /// Counts a request to the API server, by its method and query.
    pub fn api_request(&self, method: &str, query: Option<&str>) {
        let watches = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
        let verb = match method {
            "GET" if watches => "watch",
            "GET" => "get",
            "POST" => "post",
            "PUT" => "put",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "other",
        };
        self.requests.get_or_create(&VerbLabel { verb }).inc();
    }

    /// Notes whether we lead.
    pub fn set_leader(&self, leader: bool) {
        self.leader.set(i64::from(leader));
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _complete = encode(&mut text, &self.registry);
        text
    }
}

impl Timer<'_> {
    /// Stops the clock.
    pub fn finished(self, success: bool) {
        let result = if success { "success" } else { "error" };
        self.metrics.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.metrics.durations.observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that the operator can show, with one of each.
    fn shown() -> String {
        let metrics = Metrics::new();
        metrics.reconcile_started().finished(true);
        metrics.step_taken(&Step::Grow { from: 0, to: 3 });
        metrics.api_request("GET", Some("labelSelector=a&watch=true"));
        metrics.cluster_seen("shop", "orders", 3, &stalled("GateTimeout"));
        metrics.render()
    }

    fn stalled(reason: &str) -> NatsClusterStatus {
        serde_json::from_value(serde_json::json!({"readyReplicas": 2, "conditions": [{
            "type": "Stalled", "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
        .expect("a status")
    }

    #[test]
    fn names_begin_with_the_program() {
        let text = shown();
        for line in [
            "starling_operator_reconciles_total{result=\"success\"} 1",
            "starling_operator_steps_total{step=\"grow\"} 1",
            "starling_operator_reconcile_duration_seconds_bucket",
            "starling_operator_api_requests_total{verb=\"watch\"} 1",
            "starling_operator_cluster_servers{namespace=\"shop\",name=\"orders\"} 3",
            "starling_operator_cluster_ready_servers{namespace=\"shop\",name=\"orders\"} 2",
            "starling_operator_cluster_stalled{namespace=\"shop\",name=\"orders\",reason=\"GateTimeout\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_cluster_is_shown_once_and_forgotten_when_it_is_gone() {
        let metrics = Metrics::new();
        metrics.cluster_seen("shop", "orders", 3, &stalled("GateTimeout"));
        metrics.cluster_seen("shop", "orders", 3, &stalled("InvalidSpec"));
        let text = metrics.render();
        assert!(text.contains("InvalidSpec") && !text.contains("GateTimeout"), "{text}");
        metrics.cluster_gone("shop", "orders");
        assert!(!metrics.render().contains("orders"), "{}", metrics.render());
    }

    /// Alerts and dashboard ask for nothing that the operator does not show. The brokers' part is checked
    /// against a running broker, by `starling-e2e`.
    #[test]
    fn alerts_and_dashboard_use_metrics_that_exist() {
        let text = shown();
        let used = concat!(
            include_str!("../../charts/starling-operator/files/alerts.yaml"),
            include_str!("../../charts/starling-operator/files/dashboard.json")
        );
        let name = regex::Regex::new("starling_operator_[a-z_]+").expect("a pattern");
        let names: std::collections::BTreeSet<_> = name.find_iter(used).map(|found| found.as_str()).collect();
        assert!(names.len() >= 5, "{names:?}");
        for name in names {
            let served = text.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
            assert!(served, "{name} is not in\n{text}");
        }
    }
}
