//! Owns the order of things: each scenario on each server in turn, round by round, and what becomes
//! of failures. Never knows what a scenario does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::{DISTURBED_CORES, MachineClock};
use crate::report::{FORMAT, Machine, Report, RunResult, ScenarioResult, ServerInfo};
use crate::scenario::{Bench, Metric, Metrics, Scenario, Target};
use crate::traffic::Timing;

/// A server under test and its name in the report.
#[derive(Debug, Clone)]
pub struct Contestant {
    /// Its name.
    pub name: String,
    /// What it is.
    pub target: Target,
}

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Times that each scenario runs on each server.
    pub rounds: usize,
    /// Of each run.
    pub timing: Timing,
    /// Times that a run is made, until other processes leave it alone.
    pub attempts: usize,
    /// A folder in which servers leave their output.
    pub logs: Option<PathBuf>,
}

/// An empty report of this machine and these servers.
#[must_use]
pub fn begin(contestants: &[Contestant], plan: &Plan) -> Report {
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
    plan: &Plan,
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
            logs: plan.logs.as_deref(),
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
            let outcome = attempt(scenario, &bench, plan.attempts);
            if let Err(Error::Unsupported(why)) = outcome {
                result.skipped = Some(format!("{}: {why}", contestant.name));
                progress(&format!("{}: skipped, {why}", scenario.name));
                return result;
            }
            let line = match &outcome {
                Ok(metrics) => metrics
                    .iter()
                    .map(|(metric, value)| format!("{} {}", metric.label(), metric.show(*value)))
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

/// Runs until a run was undisturbed, `attempts` times at most, and takes the least disturbed. Chosen by
/// what strangers took, never by the figures; a failure is final, disturbed or not.
fn attempt(scenario: &Scenario, bench: &Bench<'_>, attempts: usize) -> Result<Metrics, Error> {
    let mut best: Option<(f64, Metrics)> = None;
    for number in 0..attempts.max(1) {
        if attempts > 1 {
            wait_for_calm();
        }
        let clock = MachineClock::now();
        let mut metrics = (scenario.run)(bench)?;
        // A server that is not ours counts among the strangers, so nothing is known.
        if matches!(bench.target, Target::Running(_)) {
            return Ok(metrics);
        }
        let strangers = clock.strangers();
        metrics.insert(Metric::OtherCores, strangers);
        if best.as_ref().is_none_or(|(least, _)| strangers < *least) {
            best = Some((strangers, metrics));
        }
        if strangers <= DISTURBED_CORES {
            break;
        }
        if number + 1 < attempts {
            bench.note("repeated, as other processes were busy");
        }
    }
    best.map(|(_, metrics)| metrics).ok_or(Error::Unsupported("no attempt was allowed"))
}

/// Waits ten seconds at most for a moment without strangers.
fn wait_for_calm() {
    for _ in 0..40 {
        let clock = MachineClock::now();
        std::thread::sleep(Duration::from_millis(250));
        if clock.strangers() <= DISTURBED_CORES {
            return;
        }
    }
}

/// What the server says of itself. Binaries that take no notice of `--version` and serve are ended
/// after two seconds.
fn version(target: &Target) -> String {
    let path = match target {
        Target::Running(endpoint) => return format!("running at {}", endpoint.address),
        Target::Binary(path) => path,
    };
    let said = || -> Option<String> {
        let mut child = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let end = Instant::now() + Duration::from_secs(2);
        while child.try_wait().ok()?.is_none() {
            if Instant::now() >= end {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        child.stdout.take()?.read_to_string(&mut text).ok()?;
        Some(text.trim().replace('\n', ", ")).filter(|text| !text.is_empty())
    };
    said().unwrap_or_else(|| "says no version".to_owned())
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
