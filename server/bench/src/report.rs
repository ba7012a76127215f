//! Owns what a measurement leaves behind: the report as data (JSON), as a table, and the comparison
//! of two of them. Never measures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::process::DISTURBED_CORES;
use crate::scenario::{Bound, Goal, Metric, Metrics};
use crate::statistics::{Ratio, median, ratio};

/// Version of the JSON form; raised when its meaning changes.
pub const FORMAT: u32 = 1;

/// Where it was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Kernel's release.
    pub kernel: String,
}

/// One server under test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// As named on the command line.
    pub name: String,
    /// What it says of itself.
    pub version: String,
}

/// One run of one scenario on one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Index into the report's servers.
    pub server: usize,
    /// Round, from 0.
    pub round: usize,
    /// Figures; empty when it failed.
    pub metrics: Metrics,
    /// Remarks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// All runs of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// Its name.
    pub name: String,
    /// What it is.
    pub title: String,
    /// What its rate counts.
    pub unit: String,
    /// What a candidate is to reach.
    pub goals: Vec<Goal>,
    /// In the order they ran.
    pub runs: Vec<RunResult>,
    /// Why it was left out, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A whole measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Where.
    pub machine: Machine,
    /// What; the first is the baseline.
    pub servers: Vec<ServerInfo>,
    /// Seconds measured in each run.
    pub seconds: f64,
    /// Rounds.
    pub rounds: usize,
    /// Scenario by scenario.
    pub scenarios: Vec<ScenarioResult>,
}

/// Whether a goal was reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The goal.
    pub goal: Goal,
    /// What was measured: a ratio with spread, or for absolute goals the figure three times.
    pub measured: Ratio,
    /// Whether the middle is within the goal.
    pub reached: bool,
}

impl ScenarioResult {
    /// A server's figures of one kind, round by round.
    #[must_use]
    pub fn values(&self, server: usize, metric: Metric) -> Vec<f64> {
        self.runs
            .iter()
            .filter(|run| run.server == server)
            .filter_map(|run| run.metrics.get(&metric).copied())
            .collect()
    }

    /// A server's ratio to the baseline. Rounds are paired by their number, so that a failed run does
    /// not shift the pairs.
    #[must_use]
    pub fn ratio(&self, server: usize, metric: Metric) -> Option<Ratio> {
        let figure = |server: usize, round: usize| {
            self.runs
                .iter()
                .find(|run| run.server == server && run.round == round)
                .and_then(|run| run.metrics.get(&metric).copied())
        };
        let rounds = self.runs.iter().map(|run| run.round + 1).max()?;
        let (candidate, baseline): (Vec<f64>, Vec<f64>) =
            (0..rounds).filter_map(|round| figure(server, round).zip(figure(0, round))).unzip();
        ratio(&candidate, &baseline)
    }

    /// How a server stands to the goals; goals that cannot be judged are left out, such as the
    /// baseline's ratio to itself.
    #[must_use]
    pub fn verdicts(&self, server: usize) -> Vec<Verdict> {
        let judge = |goal: &Goal| {
            let measured = match goal.bound {
                Bound::RatioAtLeast | Bound::RatioAtMost if server == 0 => return None,
                Bound::RatioAtLeast | Bound::RatioAtMost => self.ratio(server, goal.metric)?,
                Bound::AtLeast | Bound::AtMost => {
                    let values = self.values(server, goal.metric);
                    Ratio {
                        middle: median(&values)?,
                        lowest: values.iter().copied().fold(f64::INFINITY, f64::min),
                        highest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    }
                }
            };
            let reached = match goal.bound {
                Bound::RatioAtLeast | Bound::AtLeast => measured.middle >= goal.limit,
                Bound::RatioAtMost | Bound::AtMost => measured.middle <= goal.limit,
            };
            Some(Verdict { goal: *goal, measured, reached })
        };
        self.goals.iter().filter_map(judge).collect()
    }

    /// Whether other processes were busy in any run.
    #[must_use]
    pub fn disturbed(&self) -> bool {
        let strangers = |run: &RunResult| run.metrics.get(&Metric::OtherCores).copied();
        self.runs.iter().filter_map(strangers).any(|cores| cores > DISTURBED_CORES)
    }

    /// The first failure of a server.
    #[must_use]
    pub fn failure(&self, server: usize) -> Option<&str> {
        self.runs.iter().filter(|run| run.server == server).find_map(|run| run.failure.as_deref())
    }
}

impl Report {
    /// Whether any run failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        let mut runs = self.scenarios.iter().flat_map(|scenario| &scenario.runs);
        runs.any(|run| run.failure.is_some())
    }

    /// Reads a report.
    ///
    /// # Errors
    /// When the file is away or of another form.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::file(path, source))?;
        let error = |why: String| Error::Report { path: path.to_owned(), why };
        let report: Self = serde_json::from_str(&text).map_err(|e| error(e.to_string()))?;
        if report.format != FORMAT {
            return Err(error(format!("its format is {}, this program reads {FORMAT}", report.format)));
        }
        Ok(report)
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Report { path: path.to_owned(), why: e.to_string() })?;
        fs::write(path, text + "\n").map_err(|source| Error::file(path, source))
    }

    /// The whole table as text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} cores of {}, {}, Linux {}; {} rounds of {} s, servers in turn\n",
            self.machine.cores,
            self.machine.processor,
            bytes(self.machine.memory_bytes as f64),
            self.machine.kernel,
            self.rounds,
            self.seconds
        );
        for (index, server) in self.servers.iter().enumerate() {
            let part = if index == 0 && self.servers.len() > 1 { " (baseline)" } else { "" };
            let _ = writeln!(text, "{}: {}{part}", server.name, server.version);
        }
        text.push('\n');
        let mut rows = vec![header()];
        let mut after = vec![Vec::new()];
        for scenario in &self.scenarios {
            for (cells, lines) in self.rows(scenario) {
                rows.push(cells);
                after.push(lines);
            }
        }
        for (line, notes) in align(&rows).into_iter().zip(after) {
            text.push_str(&line);
            text.push('\n');
            for note in notes {
                let _ = writeln!(text, "    {note}");
            }
        }
        text.push_str(&self.summary());
        text
    }

    /// The table for documents: one row for each scenario and candidate, baseline and candidate side by
    /// side, ratios with their spread, and the goals.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} cores of {}, {}, Linux {}; {} rounds of {} s, servers in turn, medians.\n\n",
            self.machine.cores,
            self.machine.processor,
            bytes(self.machine.memory_bytes as f64),
            self.machine.kernel,
            self.rounds,
            self.seconds
        );
        for server in &self.servers {
            let _ = writeln!(text, "- {}: {}", server.name, server.version);
        }
        text.push_str("\n| scenario | figure | baseline | candidate | ratio (spread) | goal | |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        for scenario in &self.scenarios {
            for server in 1..self.servers.len() {
                self.markdown_rows(&mut text, scenario, server);
            }
        }
        text
    }

    /// Every goal with its verdict, as Markdown: the missed ones first.
    #[must_use]
    pub fn goals(&self) -> String {
        let mut text = String::new();
        for (index, server) in self.servers.iter().enumerate().skip(1) {
            let judged =
                self.scenarios.iter().flat_map(|s| s.verdicts(index).into_iter().map(move |v| (s, v)));
            let (reached, missed): (Vec<_>, Vec<_>) = judged.partition(|(_, verdict)| verdict.reached);
            let all = reached.len() + missed.len();
            let _ = writeln!(text, "{}: {} of {all} goals reached.\n", server.name, reached.len());
            text.push_str(
                "| scenario | figure | goal | measured (spread) | |\n| --- | --- | --- | --- | --- |\n",
            );
            for (scenario, verdict) in missed.iter().chain(&reached) {
                let times = times(&verdict.goal);
                let show = |value: f64| match times {
                    "" => verdict.goal.metric.show(value),
                    _ => short(value) + times,
                };
                let [middle, lowest, highest] =
                    [verdict.measured.middle, verdict.measured.lowest, verdict.measured.highest].map(show);
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {middle} ({lowest}..{highest}) | {}{} |",
                    scenario.title,
                    verdict.goal.metric.label(),
                    goal_text(&verdict.goal),
                    if verdict.reached { "reached" } else { "**missed**" },
                    if scenario.disturbed() { ", disturbed" } else { "" }
                );
            }
        }
        text
    }

    fn markdown_rows(&self, text: &mut String, scenario: &ScenarioResult, server: usize) {
        if let Some(why) = scenario.skipped.as_deref().or(scenario.failure(server)) {
            let _ = writeln!(text, "| {} | | | {why} | | | FAILED |", scenario.title);
        }
        let verdicts = scenario.verdicts(server);
        let mut title = scenario.title.as_str();
        for metric in [
            Metric::Rate,
            Metric::CpuNanoseconds,
            Metric::P50Microseconds,
            Metric::P99Microseconds,
            Metric::P999Microseconds,
            Metric::ResidentBytes,
            Metric::ResidentPeakBytes,
            Metric::ResidentAfterBytes,
            Metric::BytesEach,
            Metric::Share,
            Metric::AddedNanoseconds,
            Metric::CutOff,
        ] {
            let value = |server| median(&scenario.values(server, metric)).map(|v| metric.show(v));
            let Some(own) = value(server) else { continue };
            let verdict = verdicts.iter().find(|verdict| verdict.goal.metric == metric);
            let ratio = scenario.ratio(server, metric).map(|ratio| {
                let [middle, lowest, highest] = [ratio.middle, ratio.lowest, ratio.highest].map(short);
                format!("{middle}x ({lowest}..{highest})")
            });
            let _ = writeln!(
                text,
                "| {title} | {} | {} | {own} | {} | {} | {} |",
                metric.label(),
                value(0).unwrap_or_default(),
                ratio.unwrap_or_default(),
                verdict.map(|verdict| goal_text(&verdict.goal)).unwrap_or_default(),
                verdict.map_or("", |verdict| if verdict.reached { "reached" } else { "missed" })
            );
            title = "";
        }
    }

    /// The rows of one scenario, each with the lines that go below it.
    fn rows(&self, scenario: &ScenarioResult) -> Vec<(Vec<String>, Vec<String>)> {
        if let Some(why) = &scenario.skipped {
            let mut cells = vec![scenario.name.clone()];
            cells.push(format!("skipped: {why}"));
            return vec![(cells, Vec::new())];
        }
        let mut rows = Vec::new();
        for (index, server) in self.servers.iter().enumerate() {
            let name = if index == 0 { &scenario.name } else { "" };
            let cells = row(scenario, index, name, &server.name);
            let mut below = Vec::new();
            if let Some(failure) = scenario.failure(index) {
                below.push(format!("FAILED: {failure}"));
            }
            let mut notes: Vec<&String> =
                scenario.runs.iter().filter(|run| run.server == index).flat_map(|run| &run.notes).collect();
            notes.dedup();
            below.extend(notes.into_iter().map(|note| format!("note: {note}")));
            below.extend(beside(scenario, index));
            below.extend(disturbed(scenario, index));
            if index > 0 || self.servers.len() == 1 {
                below.extend(scenario.verdicts(index).iter().map(verdict_line));
            }
            rows.push((cells, below));
        }
        rows
    }

    /// How many goals each candidate reached.
    fn summary(&self) -> String {
        let mut text = String::new();
        for (index, server) in self.servers.iter().enumerate().skip(1) {
            let verdicts: Vec<Verdict> =
                self.scenarios.iter().flat_map(|scenario| scenario.verdicts(index)).collect();
            let reached = verdicts.iter().filter(|verdict| verdict.reached).count();
            let failed = self.scenarios.iter().filter(|scenario| scenario.failure(index).is_some()).count();
            let _ = writeln!(
                text,
                "\n{}: {reached} of {} goals reached, {failed} scenarios failed",
                server.name,
                verdicts.len()
            );
        }
        text
    }
}

/// The load's processor cores from which on it may be the limit.
const LOAD_BOUND_CORES: f64 = 0.9;

/// Figures that have no column, unless a goal shows them anyway.
fn beside(scenario: &ScenarioResult, server: usize) -> Option<String> {
    let judged = |metric| scenario.goals.iter().any(|goal| goal.metric == metric);
    let figures: Vec<String> = [
        Metric::SetupRate,
        Metric::Share,
        Metric::CutOff,
        Metric::AddedNanoseconds,
        Metric::ResidentAfterBytes,
        Metric::Extrapolated,
    ]
    .into_iter()
    .filter(|metric| server == 0 || !judged(*metric))
    .filter_map(|metric| {
        let value = median(&scenario.values(server, metric))?;
        Some(format!("{} {}", metric.label(), metric.show(value)))
    })
    .collect();
    (!figures.is_empty()).then(|| figures.join(", "))
}

/// Warnings about what else kept the machine busy, or that the load was the limit.
fn disturbed(scenario: &ScenarioResult, server: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let most = |metric| scenario.values(server, metric).into_iter().fold(0.0_f64, f64::max);
    let strangers = most(Metric::OtherCores);
    if strangers > DISTURBED_CORES {
        warnings.push(format!("DISTURBED: other processes took up to {strangers:.1} cores"));
    }
    let load = most(Metric::LoadCores);
    if load > LOAD_BOUND_CORES {
        warnings.push(format!("note: the load took {load:.2} cores and may be the limit"));
    }
    warnings
}

fn header() -> Vec<String> {
    ["scenario", "server", "rate", "CPU/unit", "p50", "p99", "p99.9", "memory", "peak", "each", "load"]
        .map(str::to_owned)
        .to_vec()
}

fn row(scenario: &ScenarioResult, server: usize, name: &str, server_name: &str) -> Vec<String> {
    let cell = |metric: Metric, show: &dyn Fn(f64) -> String| {
        median(&scenario.values(server, metric)).map_or_else(|| "-".to_owned(), show)
    };
    let latency = |value: f64| nanoseconds(value * 1_000.0);
    vec![
        name.to_owned(),
        server_name.to_owned(),
        cell(Metric::Rate, &|v| format!("{} {}/s", count(v), scenario.unit)),
        cell(Metric::CpuNanoseconds, &nanoseconds),
        cell(Metric::P50Microseconds, &latency),
        cell(Metric::P99Microseconds, &latency),
        cell(Metric::P999Microseconds, &latency),
        cell(Metric::ResidentBytes, &bytes),
        cell(Metric::ResidentPeakBytes, &bytes),
        cell(Metric::BytesEach, &bytes),
        cell(Metric::LoadCores, &|v| format!("{v:.2}")),
    ]
}

fn verdict_line(verdict: &Verdict) -> String {
    let goal = verdict.goal;
    let times = times(&goal);
    let show = |value: f64| match times {
        "" => goal.metric.show(value),
        _ => short(value) + times,
    };
    format!(
        "{} {} ({}..{}), goal {}: {}",
        goal.metric.label(),
        show(verdict.measured.middle),
        show(verdict.measured.lowest),
        show(verdict.measured.highest),
        goal_text(&goal),
        if verdict.reached { "reached" } else { "MISSED" }
    )
}

/// What follows a figure of the goal's kind: `x` for ratios.
fn times(goal: &Goal) -> &'static str {
    match goal.bound {
        Bound::RatioAtLeast | Bound::RatioAtMost => "x",
        Bound::AtLeast | Bound::AtMost => "",
    }
}

fn goal_text(goal: &Goal) -> String {
    let sign = match goal.bound {
        Bound::RatioAtLeast | Bound::AtLeast => ">=",
        Bound::RatioAtMost | Bound::AtMost => "<=",
    };
    match times(goal) {
        "" => format!("{sign} {}", goal.metric.show(goal.limit)),
        times => format!("{sign} {}{times}", short(goal.limit)),
    }
}

/// Pads columns to the width of their widest cell; the first two to the left, figures to the right.
fn align(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter(|row| row.len() == columns)
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut text = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column < 2 {
                let _ = write!(text, "{cell:<width$}  ");
            } else {
                let _ = write!(text, "{cell:>width$}  ");
            }
        }
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Three digits and a letter for thousands.
#[must_use]
pub fn count(value: f64) -> String {
    scaled(value, &[(1e9, "G"), (1e6, "M"), (1e3, "k")])
}

/// Bytes in powers of 1,024.
#[must_use]
pub fn bytes(value: f64) -> String {
    const K: f64 = 1_024.0;
    scaled(value, &[(K * K * K, " GB"), (K * K, " MB"), (K, " KB")]) + if value.abs() < K { " B" } else { "" }
}

/// Nanoseconds in the unit that fits.
#[must_use]
pub fn nanoseconds(value: f64) -> String {
    scaled(value, &[(1e9, " s"), (1e6, " ms"), (1e3, " us")]) + if value.abs() < 1e3 { " ns" } else { "" }
}

fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    for (size, unit) in units {
        if value.abs() >= *size {
            return short(value / size) + unit;
        }
    }
    short(value)
}

/// About three digits.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        v if v < 0.1 => format!("{value:.3}"),
        _ => format!("{value:.2}"),
    }
}

/// Compares two reports of the same scenarios. Where both have a baseline, the candidates' ratios to
/// it are compared, which takes the machine's mood out; otherwise the figures themselves.
#[must_use]
pub fn compare(old: &Report, new: &Report) -> String {
    let mut rows = vec![["scenario", "figure", "old", "new", "change", ""].map(str::to_owned).to_vec()];
    for scenario in &new.scenarios {
        let Some(before) = old.scenarios.iter().find(|s| s.name == scenario.name) else {
            continue;
        };
        for metric in [
            Metric::Rate,
            Metric::CpuNanoseconds,
            Metric::P50Microseconds,
            Metric::P99Microseconds,
            Metric::ResidentPeakBytes,
            Metric::BytesEach,
        ] {
            rows.extend(compared(old, before, new, scenario, metric));
        }
    }
    align(&rows).join("\n") + "\n"
}

fn compared(
    old: &Report,
    before: &ScenarioResult,
    new: &Report,
    now: &ScenarioResult,
    metric: Metric,
) -> Option<Vec<String>> {
    let relative = old.servers.len() > 1 && new.servers.len() > 1;
    let figure = |report: &Report, scenario: &ScenarioResult| -> Option<Ratio> {
        let last = report.servers.len().checked_sub(1)?;
        if relative {
            return scenario.ratio(last, metric);
        }
        let values = scenario.values(last, metric);
        Some(Ratio {
            middle: median(&values)?,
            lowest: values.iter().copied().fold(f64::INFINITY, f64::min),
            highest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    };
    let (from, to) = (figure(old, before)?, figure(new, now)?);
    if from.middle == 0.0 {
        return None;
    }
    let change = to.middle / from.middle - 1.0;
    let better = (change > 0.0) == metric.more_is_better();
    // Within each other's spread nothing can be said.
    let apart = to.lowest > from.highest || to.highest < from.lowest;
    let word = if !apart || change.abs() <= 0.02 {
        ""
    } else if old.rounds.min(new.rounds) < 2 {
        "unknown: one round"
    } else if before.disturbed() || now.disturbed() {
        "unknown: disturbed"
    } else if better {
        "better"
    } else {
        "WORSE"
    };
    let show = |value: f64| match relative {
        true => format!("{}x", short(value)),
        false => metric.show(value),
    };
    Some(vec![
        now.name.clone(),
        metric.label().to_owned(),
        show(from.middle),
        show(to.middle),
        format!("{:+.1}%", change * 100.0),
        word.to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(server: usize, round: usize, rate: f64) -> RunResult {
        RunResult {
            server,
            round,
            metrics: Metrics::from([(Metric::Rate, rate), (Metric::CpuNanoseconds, 1e9 / rate)]),
            notes: Vec::new(),
            failure: None,
        }
    }

    fn report(candidate: [f64; 3]) -> Report {
        let mut runs = Vec::new();
        for (round, rate) in candidate.into_iter().enumerate() {
            runs.push(run(0, round, 1_000_000.0));
            runs.push(run(1, round, rate));
        }
        let goal = |metric, bound, limit| Goal { metric, bound, limit };
        let server = |name: &str| ServerInfo { name: name.to_owned(), version: "1".to_owned() };
        Report {
            format: FORMAT,
            machine: Machine::default(),
            servers: vec![server("nats"), server("starling")],
            seconds: 1.0,
            rounds: 3,
            scenarios: vec![ScenarioResult {
                name: "p1s1-16".to_owned(),
                title: "1 to 1".to_owned(),
                unit: "msg".to_owned(),
                goals: vec![
                    goal(Metric::Rate, Bound::RatioAtLeast, 7.0),
                    goal(Metric::CpuNanoseconds, Bound::RatioAtMost, 0.12),
                ],
                runs,
                skipped: None,
            }],
        }
    }

    #[test]
    fn a_goal_is_judged_by_the_median_ratio() {
        let report = report([7.5e6, 8e6, 9e6]);
        let verdicts = report.scenarios[0].verdicts(1);
        assert_eq!(verdicts.len(), 2);
        assert!(verdicts[0].reached && (verdicts[0].measured.middle - 8.0).abs() < 1e-9);
        assert!(!verdicts[1].reached, "{} > 0.12", verdicts[1].measured.middle);
    }

    #[test]
    fn a_failed_round_does_not_shift_the_others() {
        let mut report = report([8e6, 8e6, 8e6]);
        report.scenarios[0].runs[0].metrics.clear();
        report.scenarios[0].runs[0].failure = Some("lost".to_owned());
        let ratio = report.scenarios[0].ratio(1, Metric::Rate).unwrap();
        assert_eq!((ratio.middle, ratio.lowest, ratio.highest), (8.0, 8.0, 8.0));
        assert!(report.failed());
        assert!(report.table().contains("FAILED: lost"));
    }

    #[test]
    fn the_table_shows_figures_goals_and_verdicts() {
        let table = report([8e6, 8e6, 8.5e6]).table();
        assert!(table.contains("8.00M msg/s"), "{table}");
        assert!(table.contains("rate 8.00x (8.00x..8.50x), goal >= 7.00x: reached"), "{table}");
        assert!(table.contains("goal <= 0.12x: MISSED"), "{table}");
        assert!(table.contains("starling: 1 of 2 goals reached"), "{table}");
    }

    #[test]
    fn the_markdown_sets_both_servers_side_by_side() {
        let text = report([8e6, 8e6, 8.5e6]).markdown();
        let row = "| 1 to 1 | rate | 1.00M/s | 8.00M/s | 8.00x (8.00..8.50) | >= 7.00x | reached |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| <= 0.12x | missed |"), "{text}");
    }

    #[test]
    fn a_report_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let saved = report([1e6, 2e6, 3e6]);
        saved.save(&path).unwrap();
        assert_eq!(Report::load(&path).unwrap(), saved);
        fs::write(&path, "{}").unwrap();
        assert!(matches!(Report::load(&path), Err(Error::Report { .. })));
    }

    #[test]
    fn a_comparison_names_what_got_worse_beyond_the_noise() {
        let old = report([8e6, 8.1e6, 8.2e6]);
        let text = compare(&old, &report([6e6, 6.1e6, 6.2e6]));
        assert!(text.contains("WORSE"), "{text}");
        let text = compare(&old, &report([8.05e6, 8.1e6, 8.3e6]));
        assert!(!text.contains("WORSE") && !text.contains("better"), "{text}");
    }

    #[test]
    fn a_comparison_says_nothing_from_one_round_or_a_busy_machine() {
        let (old, mut new) = (report([8e6, 8.1e6, 8.2e6]), report([6e6, 6.1e6, 6.2e6]));
        new.scenarios[0].runs[1].metrics.insert(Metric::OtherCores, 1.5);
        let text = compare(&old, &new);
        assert!(text.contains("unknown: disturbed") && !text.contains("WORSE"), "{text}");
        assert!(new.table().contains("DISTURBED: other processes took up to 1.5 cores"));
        new.rounds = 1;
        assert!(compare(&old, &new).contains("unknown: one round"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(count(3_456_789.0), "3.46M");
        assert_eq!(count(999.0), "999");
        assert_eq!(bytes(2_048.0), "2.00 KB");
        assert_eq!(bytes(81.0), "81.0 B");
        assert_eq!(nanoseconds(1_580.0), "1.58 us");
        assert_eq!(nanoseconds(30.0), "30.0 ns");
    }
}
