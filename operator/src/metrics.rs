//! What the operator measures of itself.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::rollout::Step;

/// Counters and histograms, served on `/metrics`.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ResultLabel, Counter>,
    durations: Histogram,
    steps: Family<StepLabel, Counter>,
    leader: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
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
        Arc::new(Self { registry, reconciles, durations, steps, leader })
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

    #[test]
    fn names_begin_with_the_program() {
        let metrics = Metrics::new();
        metrics.reconcile_started().finished(true);
        metrics.step_taken(&Step::Grow { from: 0, to: 3 });
        let text = metrics.render();
        assert!(text.contains("starling_operator_reconciles_total{result=\"success\"} 1"), "{text}");
        assert!(text.contains("starling_operator_steps_total{step=\"grow\"} 1"), "{text}");
        assert!(text.contains("starling_operator_reconcile_duration_seconds_bucket"), "{text}");
    }
}
