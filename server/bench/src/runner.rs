//! Owns the order of things: each scenario on each server in turn, round by round, and what becomes
//! of failures. Never knows what a scenario does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::Error;
use crate::load::Timing;
use crate::report::{FORMAT, Machine, Report, RunResult, ScenarioResult, ServerInfo};
use crate::scenario::{Bench, Metric, Scenario, Target};

/// A server under test and its name in the report.
#[derive(Debug, Clone)]
pub struct Contestant {
    /// Its name.
    pub name: String,
    /// What it is.
    pub target: Target,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Times that each scenario runs on each server.
    pub rounds: usize,
    /// Of each run.
    pub timing: Timing,
}

/// An empty report of this machine and these servers.
#[must_use]
pub fn begin(contestants: &[Contestant], plan: Plan) -> Report {
    Report {
        format: FORMAT,
        machine: machine(),
        servers: contestants
            .iter()
            .map(|contestant| ServerInfo {
                name: contestant.name.clone(),
                version: version(&contestant.target),
            })
            .collect(),
        seconds: plan.timing.measured.as_secs_f64(),
        rounds: plan.rounds,
        scenarios: Vec::new(),
    }
}

/// Runs one scenario: A B A B. `progress` is told each run's outcome in a line.
pub fn run(
    scenario: &Scenario,
    contestants: &[Contestant],
    plan: Plan,
    progress: &mut dyn FnMut(&str),
) -> ScenarioResult {
    let mut result = ScenarioResult {
        name: scenario.name.to_owned(),
        title: scenario.title.to_owned(),
        unit: scenario.unit.to_owned(),
        goals: scenario.goals.clone(),
        runs: Vec::new(),
        skipped: None,
    };
    let carried = RefCell::new(BTreeMap::new());
    let bench = |contestant: usize| {
        contestants.get(contestant).map(|contestant| Bench {
            target: &contestant.target,
            timing: plan.timing,
            carried: &carried,
            notes: RefCell::new(Vec::new()),
        })
    };
    if let Some(prepare) = &scenario.prepare {
        for index in 0..contestants.len() {
            let Some(bench) = bench(index) else { continue };
            if let Err(error) = prepare(&bench) {
                progress(&format!("{}: preparing failed: {error}", scenario.name));
            }
        }
    }
    for round in 0..plan.rounds {
        for (index, contestant) in contestants.iter().enumerate() {
            let Some(bench) = bench(index) else { continue };
            let outcome = (scenario.run)(&bench);
            if let Err(Error::Unsupported(why)) = outcome {
                result.skipped = Some(format!("{}: {why}", contestant.name));
                progress(&format!("{}: skipped, {why}", scenario.name));
                return result;
            }
            let line = match &outcome {
                Ok(metrics) => metrics
                    .iter()
                    .filter(|(metric, _)| **metric != Metric::ResidentAfterBytes)
                    .map(|(metric, value)| format!("{} {value:.4}", metric.label()))
                    .collect::<Vec<_>>()
                    .join(", "),
                Err(error) => format!("FAILED: {error}"),
            };
            progress(&format!("{} {} round {}: {line}", scenario.name, contestant.name, round + 1));
            let failure = outcome.as_ref().err().map(ToString::to_string);
            result.runs.push(RunResult {
                server: index,
                round,
                metrics: outcome.unwrap_or_default(),
                notes: bench.notes.into_inner(),
                failure,
            });
        }
    }
    result
}

/// What the server says of itself.
fn version(target: &Target) -> String {
    match target {
        Target::Running(endpoint) => format!("running at {}", endpoint.address),
        Target::Binary(path) => Command::new(path)
            .arg("--version")
            .output()
            .ok()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "says no version".to_owned()),
    }
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim_start_matches([':', '\t', ' ']).to_owned())
            .unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kilobytes = memory.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kilobytes.unwrap_or(0) * 1_024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}
