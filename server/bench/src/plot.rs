//! Owns the pictures: ratios to the baseline as bars, cost curves as lines, both as SVG text on
//! logarithmic axes. Never decides what is plotted.

use std::fmt::Write as _;

use crate::report::{Report, count};
use crate::scenario::Metric;
use crate::statistics::Ratio;

const FONT: &str = "font-family='system-ui, sans-serif' font-size='12'";
/// Distinguishable without colour sight (Okabe and Ito).
const COLORS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// One line of a curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Points by rising x; both above 0.
    pub points: Vec<(f64, f64)>,
}

/// A logarithmic axis from data to pixels.
struct Axis {
    lowest: f64,
    highest: f64,
    start: f64,
    end: f64,
}

impl Axis {
    /// Covers all values, rounded outwards to powers of ten (or of two when they are close).
    fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut lowest, mut highest) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            lowest = lowest.min(value);
            highest = highest.max(value);
        }
        if lowest > highest {
            (lowest, highest) = (1.0, 10.0);
        }
        let base: f64 = if highest / lowest > 30.0 { 10.0 } else { 2.0 };
        let floor = base.powf((lowest.ln() / base.ln() + 1e-9).floor());
        let mut ceiling = base.powf((highest.ln() / base.ln() - 1e-9).ceil());
        if ceiling <= floor {
            ceiling = floor * base;
        }
        Self { lowest: floor, highest: ceiling, start, end }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(self.lowest * 1e-3) / self.lowest).ln() / (self.highest / self.lowest).ln();
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }

    fn marks(&self) -> Vec<f64> {
        let base = if self.highest / self.lowest > 30.0 { 10.0 } else { 2.0 };
        let mut mark = self.lowest;
        let mut marks = Vec::new();
        while mark <= self.highest * 1.001 && marks.len() < 40 {
            marks.push(mark);
            mark *= base;
        }
        marks
    }
}

/// Bars of each candidate's throughput and processor time relative to the baseline, with the spread
/// over the rounds as whiskers and goals as ticks.
#[must_use]
pub fn ratios(report: &Report) -> String {
    let rows = ratio_rows(report);
    let (left, width, step) = (300.0, 900.0, 18.0);
    let height = 80.0 + step * rows.len() as f64;
    let ends = rows.iter().flat_map(|row| [row.ratio.lowest, row.ratio.highest, row.goal.unwrap_or(1.0)]);
    let axis = Axis::over(ends.chain([0.5, 2.0]), left, width - 60.0);
    let mut svg = open(width, height);
    let baseline = report.servers.first().map_or("", |s| s.name.as_str());
    text(
        &mut svg,
        left,
        20.0,
        "start",
        &format!(
            "relative to {baseline} (log scale). Blue: more is better; orange: less is better; red tick: goal; line: spread"
        ),
    );
    for mark in axis.marks() {
        let x = axis.at(mark);
        let colour = if (mark - 1.0).abs() < 1e-9 { "#333" } else { "#ddd" };
        rule(&mut svg, (x, 40.0), (x, height - 20.0), colour);
        text(&mut svg, x, 36.0, "middle", &format!("{}x", trim(mark)));
    }
    let one = axis.at(1.0);
    for (index, row) in rows.iter().enumerate() {
        let y = 50.0 + step * index as f64;
        text(&mut svg, left - 8.0, y + 11.0, "end", &row.name);
        let x = axis.at(row.ratio.middle);
        let _ = writeln!(
            svg,
            "<rect x='{:.1}' y='{y:.1}' width='{:.1}' height='{:.1}' fill='{}'/>",
            one.min(x),
            (x - one).abs().max(0.5),
            step - 5.0,
            if row.rate { COLORS[0] } else { COLORS[1] }
        );
        let middle = y + (step - 5.0) / 2.0;
        let (from, to) = (axis.at(row.ratio.lowest), axis.at(row.ratio.highest));
        rule(&mut svg, (from, middle), (to, middle), "#333");
        if let Some(goal) = row.goal {
            let x = axis.at(goal);
            rule(&mut svg, (x, y - 2.0), (x, y + step - 3.0), "#d55e00");
        }
        let label = format!("{}x", trim(row.ratio.middle));
        text(&mut svg, x.max(to).max(one) + 6.0, y + 11.0, "start", &label);
    }
    svg.push_str("</svg>\n");
    svg
}

struct RatioRow {
    name: String,
    ratio: Ratio,
    rate: bool,
    goal: Option<f64>,
}

fn ratio_rows(report: &Report) -> Vec<RatioRow> {
    let mut rows = Vec::new();
    for scenario in &report.scenarios {
        for (server, info) in report.servers.iter().enumerate().skip(1) {
            for metric in [Metric::Rate, Metric::CpuNanoseconds, Metric::P99Microseconds, Metric::BytesEach] {
                let Some(ratio) = scenario.ratio(server, metric) else {
                    continue;
                };
                let candidate =
                    if report.servers.len() > 2 { format!(" {}", info.name) } else { String::new() };
                let goal = scenario
                    .verdicts(server)
                    .into_iter()
                    .find(|verdict| verdict.goal.metric == metric && verdict.measured == ratio)
                    .map(|verdict| verdict.goal.limit);
                rows.push(RatioRow {
                    name: format!("{} {}{candidate}", scenario.name, metric.label()),
                    ratio,
                    rate: metric == Metric::Rate,
                    goal,
                });
            }
        }
    }
    rows
}

/// Lines over a logarithmic x; y is logarithmic too.
#[must_use]
pub fn curve(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    let (width, height) = (860.0, 480.0);
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let x_axis = Axis::over(points().map(|point| point.0), 80.0, width - 160.0);
    let y_axis = Axis::over(points().map(|point| point.1), height - 50.0, 50.0);
    let mut svg = open(width, height);
    text(&mut svg, 80.0, 24.0, "start", title);
    for mark in x_axis.marks() {
        let x = x_axis.at(mark);
        rule(&mut svg, (x, y_axis.start), (x, y_axis.end), "#ddd");
        text(&mut svg, x, y_axis.start + 18.0, "middle", &trim_count(mark));
    }
    for mark in y_axis.marks() {
        let y = y_axis.at(mark);
        rule(&mut svg, (x_axis.start, y), (x_axis.end, y), "#ddd");
        text(&mut svg, x_axis.start - 6.0, y + 4.0, "end", &trim_count(mark));
    }
    text(&mut svg, f64::midpoint(x_axis.start, x_axis.end), height - 12.0, "middle", x_name);
    text(&mut svg, 80.0, 42.0, "start", y_name);
    for (index, line) in lines.iter().enumerate() {
        let colour = COLORS[index % COLORS.len()];
        let mut path = String::new();
        for (x, y) in &line.points {
            let _ = write!(path, "{:.1},{:.1} ", x_axis.at(*x), y_axis.at(*y));
        }
        let _ = writeln!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>",
            path.trim_end()
        );
        for (x, y) in &line.points {
            let _ = writeln!(
                svg,
                "<circle cx='{:.1}' cy='{:.1}' r='3' fill='{colour}'/>",
                x_axis.at(*x),
                y_axis.at(*y)
            );
        }
        let y = 60.0 + 20.0 * index as f64;
        let x = width - 140.0;
        let _ = writeln!(svg, "<rect x='{x}' y='{:.1}' width='12' height='12' fill='{colour}'/>", y - 10.0);
        text(&mut svg, x + 18.0, y, "start", &line.name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' {FONT}>\n\
         <rect width='100%' height='100%' fill='white'/>\n"
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{words}</text>");
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1='{:.1}' y1='{:.1}' x2='{:.1}' y2='{:.1}' stroke='{colour}'/>",
        from.0, from.1, to.0, to.1
    );
}

/// A ratio with as many digits as tell something.
fn trim(value: f64) -> String {
    let text = if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

fn trim_count(value: f64) -> String {
    count(value).replace(".00", "").replace(".0", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{RunResult, ScenarioResult, ServerInfo};
    use crate::scenario::{Bound, Goal, Metrics};

    #[test]
    fn an_axis_covers_its_values() {
        let axis = Axis::over([3.0, 400.0].into_iter(), 0.0, 100.0);
        assert_eq!((axis.lowest, axis.highest.round()), (1.0, 1_000.0));
        assert_eq!(axis.at(1.0), 0.0);
        assert!((axis.at(1_000.0) - 100.0).abs() < 1e-6);
        assert!(axis.at(10.0) < axis.at(100.0));
        assert_eq!(axis.at(0.0), 0.0);
    }

    #[test]
    fn an_axis_of_nothing_is_still_an_axis() {
        let axis = Axis::over(std::iter::empty(), 0.0, 1.0);
        assert!(axis.at(5.0).is_finite());
        let axis = Axis::over([4.0].into_iter(), 0.0, 1.0);
        assert!(axis.highest > axis.lowest);
    }

    #[test]
    fn every_scenario_with_a_ratio_has_a_bar_and_names_are_escaped() {
        let run = |server, rate| RunResult {
            server,
            round: 0,
            metrics: Metrics::from([(Metric::Rate, rate)]),
            notes: Vec::new(),
            failure: None,
        };
        let server = |name: &str| ServerInfo { name: name.to_owned(), version: String::new() };
        let report = Report {
            servers: vec![server("a<b"), server("c")],
            scenarios: vec![ScenarioResult {
                name: "p1s1".to_owned(),
                title: String::new(),
                unit: "msg".to_owned(),
                goals: vec![Goal { metric: Metric::Rate, bound: Bound::RatioAtLeast, limit: 2.0 }],
                runs: vec![run(0, 1.0), run(1, 4.0)],
                skipped: None,
            }],
            ..Report::default()
        };
        let svg = ratios(&report);
        assert!(svg.contains(">p1s1 rate</text>") && svg.contains(">4x</text>"));
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("#d55e00"), "the goal's tick");
    }

    #[test]
    fn a_curve_has_a_line_for_each_server() {
        let line = |name: &str, factor: f64| Line {
            name: name.to_owned(),
            points: vec![(1.0, factor), (10.0, factor * 2.0), (100.0, factor)],
        };
        let svg = curve("t", "x", "y", &[line("a", 1e6), line("b", 3e6)]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 6);
    }
}
