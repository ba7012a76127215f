//! Owns the page of results for a project's documents: every goal with its verdict, the whole table, the cost
//! curves. Never measures; the page is written anew as a whole, so that no figure of an older run stays.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::curve::{Point, Quantity};
use crate::plot::{self, Line};
use crate::report::{Report, bytes, count, nanoseconds};

/// A curve as measured: a list of points for each server, in the report's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// [`Quantity::name`].
    pub quantity: String,
    /// Points by server.
    pub points: Vec<Vec<Point>>,
}

/// Name of the page in its folder.
pub const PAGE: &str = "performance-results.md";
/// Name of the report beside it, for `compare` and `show`.
pub const REPORT: &str = "performance-results.json";
/// Name of the curves' points beside it.
pub const CURVES: &str = "performance-curves.json";

/// Writes page, report, points and plots into `folder`. `command` is how to do it again.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, command: &str, report: &Report, curves: &[Curve]) -> Result<(), Error> {
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|source| Error::file(&path, source))
    };
    std::fs::create_dir_all(folder).map_err(|source| Error::file(folder, source))?;
    report.save(&folder.join(REPORT))?;
    let points = serde_json::to_string_pretty(curves)
        .map_err(|e| Error::Report { path: folder.join(CURVES), why: e.to_string() })?;
    save(CURVES, points + "\n")?;
    save("performance-ratios.svg", plot::ratios(report))?;
    for curve in curves {
        save(&file(curve), drawn(report, curve))?;
    }
    save(PAGE, page(command, report, curves))
}

fn file(curve: &Curve) -> String {
    format!("performance-{}.svg", curve.quantity)
}

fn drawn(report: &Report, curve: &Curve) -> String {
    let lines: Vec<Line> = report
        .servers
        .iter()
        .zip(&curve.points)
        .map(|(server, points)| Line {
            name: server.name.clone(),
            points: points
                .iter()
                .filter(|point| point.failure.is_none())
                .map(|point| (point.value as f64, point.rate))
                .collect(),
        })
        .collect();
    plot::curve(&format!("throughput versus {}", curve.quantity), &curve.quantity, "messages/s", &lines)
}

/// The page as Markdown.
#[must_use]
pub fn page(command: &str, report: &Report, curves: &[Curve]) -> String {
    let mut text = String::from(
        "# Measured\n\nWritten by `starling-bench --docs`; not to be edited. What the figures mean is in the bench's \
         own README; only ratios of one run are to be compared. To repeat it:\n\n",
    );
    let _ = writeln!(text, "```\n{command}\n```\n");
    text.push_str("## Goals\n\n");
    text.push_str(&report.goals());
    text.push_str("\n![ratios to the baseline](performance-ratios.svg)\n\n## All figures\n\n");
    text.push_str(&report.markdown());
    if !curves.is_empty() {
        text.push_str("\n## What it costs as one quantity grows\n");
    }
    for curve in curves {
        let _ = write!(text, "\n### {}\n\n![throughput]({})\n\n", curve.quantity, file(curve));
        let _ = writeln!(text, "| {} | server | messages/s | CPU a message | peak memory |", curve.quantity);
        text.push_str("| --- | --- | --- | --- | --- |\n");
        let longest = curve.points.iter().map(Vec::len).max().unwrap_or(0);
        for place in 0..longest {
            for (server, points) in report.servers.iter().zip(&curve.points) {
                let Some(point) = points.get(place) else { continue };
                let figures = match &point.failure {
                    Some(why) => format!("FAILED: {why} | |"),
                    None => format!(
                        "{} | {} | {} |",
                        count(point.rate),
                        nanoseconds(point.cpu_nanoseconds),
                        bytes(point.resident_peak_bytes as f64)
                    ),
                };
                let _ = writeln!(text, "| {} | {} | {figures}", point.value, server.name);
            }
        }
    }
    text
}

/// All quantities that a page shows.
pub const QUANTITIES: [Quantity; 4] =
    [Quantity::Connections, Quantity::Subjects, Quantity::Subscriptions, Quantity::Payload];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{RunResult, ScenarioResult, ServerInfo};
    use crate::scenario::{Bound, Goal, Metric};

    fn report() -> Report {
        let run = |server, rate| RunResult {
            server,
            round: 0,
            metrics: [(Metric::Rate, rate)].into(),
            notes: Vec::new(),
            failure: None,
        };
        let server = |name: &str| ServerInfo { name: name.into(), version: "1".into() };
        let goal = |limit| Goal { metric: Metric::Rate, bound: Bound::RatioAtLeast, limit };
        Report {
            servers: vec![server("old"), server("new")],
            scenarios: vec![ScenarioResult {
                name: "stream".into(),
                title: "one to one".into(),
                unit: "msg".into(),
                goals: vec![goal(2.0), goal(4.0)],
                runs: vec![run(0, 1e6), run(1, 3e6)],
                skipped: None,
            }],
            format: crate::report::FORMAT,
            ..Report::default()
        }
    }

    #[test]
    fn the_page_says_which_goals_were_reached_and_shows_every_curve() {
        let point = |value, failure: Option<&str>| Point {
            value,
            rate: 1e6,
            cpu_nanoseconds: 100.0,
            resident_peak_bytes: 1 << 20,
            failure: failure.map(str::to_owned),
        };
        let curve = Curve {
            quantity: "subjects".into(),
            points: vec![vec![point(1, None), point(10, Some("it broke"))], vec![point(1, None)]],
        };
        let page = page("bench --docs here", &report(), &[curve]);
        assert!(page.contains("```\nbench --docs here\n```"));
        assert!(page.contains("1 of 2 goals reached"), "{page}");
        assert!(
            page.contains(">= 2.00x") && page.contains("reached") && page.contains("**missed**"),
            "{page}"
        );
        assert!(
            page.contains("| 10 | old | FAILED: it broke | |") && page.contains("performance-subjects.svg")
        );
    }

    #[test]
    fn a_folder_holds_the_page_and_all_it_refers_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let curve = Curve { quantity: "payload".into(), points: vec![vec![], vec![]] };
        write(folder.path(), "bench", &report(), &[curve]).expect("written");
        let text = std::fs::read_to_string(folder.path().join(PAGE)).expect("a page");
        for name in text.split(['(', ')']).filter(|part| part.ends_with(".svg")) {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
        assert_eq!(Report::load(&folder.path().join(REPORT)).ok(), Some(report()));
    }
}
