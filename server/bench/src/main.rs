//! `starling-bench`: measures NATS servers against each other. See `--help`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bench::curve::{Point, Quantity};
use bench::document::Curve;
use bench::plot::Line;
use bench::report::Report;
use bench::runner::{Contestant, Plan};
use bench::scenario::{Bench, Target};
use bench::traffic::Timing;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures NATS servers at the level of raw protocol bytes: throughput, processor time, latency,
/// memory; every message is counted, and a run that lost one fails.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Args)]
struct RunOptions {
    #[command(flatten)]
    servers: ServerOptions,
    /// Scenarios to run, by name or beginning of a name (`fanout`); all when none is given
    scenarios: Vec<String>,
    /// One round
    #[arg(long)]
    quick: bool,
    /// Rounds, servers in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Waits for a calm machine, and makes a disturbed run again up to this many times
    #[arg(long, value_name = "ATTEMPTS", default_value_t = 1, hide_default_value = true)]
    calm: usize,
    /// Writes all figures for `compare`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as Markdown, for documents
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draws the ratios to the first server
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measures the curves too, and writes a page of results with its plots and data into this folder
    #[arg(long, value_name = "FOLDER")]
    docs: Option<PathBuf>,
}

#[derive(Args, Clone)]
struct ServerOptions {
    /// A server to start, as NAME=PATH; the first is the baseline
    #[arg(long = "server", value_name = "NAME=PATH", global = true)]
    servers: Vec<String>,
    /// A running server, as nats://[user:password@]host:port; only throughput and latency are seen
    #[arg(long, value_name = "URL", global = true)]
    url: Vec<String>,
    /// Leaves the servers' output in this folder
    #[arg(long, value_name = "FOLDER", global = true)]
    logs: Option<PathBuf>,
    /// Seconds measured in each run [default: 3, with --quick 1]
    #[arg(long, global = true)]
    seconds: Option<f64>,
}

#[derive(Subcommand)]
enum Task {
    /// Lists the scenarios and their goals
    List,
    /// Shows a report again
    Show {
        /// The report
        report: PathBuf,
        /// Writes the table as Markdown
        #[arg(long, value_name = "FILE")]
        markdown: Option<PathBuf>,
        /// Draws the ratios to the first server
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Compares two reports, such as of two commits
    Compare {
        /// The older report
        old: PathBuf,
        /// The newer report
        new: PathBuf,
    },
    /// Measures throughput while one quantity grows
    Curve {
        /// What grows
        quantity: CurveKind,
        /// Where to stop
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        largest: usize,
        /// Writes the points
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Draws the curve
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum CurveKind {
    Connections,
    Subjects,
    Subscriptions,
    Payload,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let servers = &options.run.servers;
    match &options.command {
        Some(Task::List) => list(),
        Some(Task::Compare { old, new }) => {
            say(&bench::report::compare(&Report::load(old)?, &Report::load(new)?))
        }
        Some(Task::Show { report, markdown, svg }) => {
            let report = Report::load(report)?;
            write_out(&report, markdown.as_ref(), svg.as_ref())?;
            say(&report.table())
        }
        Some(Task::Curve { quantity, largest, json, svg }) => {
            curve(servers, *quantity, *largest, json.as_ref(), svg.as_ref())
        }
        None => measure(&options.run),
    }
}

/// Standard output: reports only.
fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Standard error: progress.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn list() -> anyhow::Result<()> {
    for scenario in bench::scenario::all() {
        say(&format!("{:<16} {}\n", scenario.name, scenario.title))?;
        for goal in &scenario.goals {
            say(&format!("{:<16}   {} {:?} {}\n", "", goal.metric.label(), goal.bound, goal.limit))?;
        }
    }
    Ok(())
}

fn contestants(options: &ServerOptions) -> anyhow::Result<Vec<Contestant>> {
    let mut contestants = Vec::new();
    for server in &options.servers {
        let (name, path) =
            server.split_once('=').with_context(|| format!("--server {server}: expected NAME=PATH"))?;
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("--server {server}: there is no such file");
        }
        contestants.push(Contestant { name: name.to_owned(), target: Target::Binary(path) });
    }
    for url in &options.url {
        contestants.push(Contestant {
            name: url.rsplit('@').next().unwrap_or(url).to_owned(),
            target: Target::from_url(url)?,
        });
    }
    if contestants.is_empty() {
        bail!("name at least one server: --server NAME=PATH or --url nats://host:port");
    }
    if let Some(logs) = &options.logs {
        std::fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
    }
    // 15,000 connections need more files than most shells allow.
    rlimit::increase_nofile_limit(u64::MAX).context("raising the limit of open files")?;
    Ok(contestants)
}

fn timing(seconds: f64) -> Timing {
    Timing {
        warm: Duration::from_secs_f64((seconds / 5.0).clamp(0.2, 1.0)),
        measured: Duration::from_secs_f64(seconds.max(0.1)),
        patience: Duration::from_secs(10),
    }
}

fn measure(options: &RunOptions) -> anyhow::Result<()> {
    let contestants = contestants(&options.servers)?;
    let seconds = options.servers.seconds;
    let plan = Plan {
        rounds: if options.quick { 1 } else { options.rounds.max(1) },
        timing: timing(seconds.unwrap_or(if options.quick { 1.0 } else { 3.0 })),
        attempts: options.calm,
        logs: options.servers.logs.clone(),
    };
    let chosen = |name: &str| {
        options.scenarios.is_empty()
            || options.scenarios.iter().any(|wanted| {
                wanted == name || name.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('-'))
            })
    };
    let scenarios: Vec<_> =
        bench::scenario::all().into_iter().filter(|scenario| chosen(scenario.name)).collect();
    if scenarios.is_empty() {
        bail!("no scenario of that name; `starling-bench list` shows all");
    }
    let mut report = bench::runner::begin(&contestants, &plan);
    for scenario in &scenarios {
        let result = bench::runner::run(scenario, &contestants, &plan, &mut tell);
        report.scenarios.push(result);
        // Saved as it grows: a long measurement cut short has not been for nothing.
        if let Some(path) = &options.json {
            report.save(path)?;
        }
    }
    say(&report.table())?;
    write_out(&report, options.markdown.as_ref(), options.svg.as_ref())?;
    if let Some(folder) = &options.docs {
        let mut curves = Vec::new();
        for quantity in bench::document::QUANTITIES {
            let points = curve_points(&options.servers, &contestants, quantity, usize::MAX)?;
            curves.push(Curve { quantity: quantity.name().to_owned(), points });
            // as it grows, for the same reason
            bench::document::write(folder, &command_line(), &report, &curves)?;
        }
    }
    if report.failed() {
        bail!("some runs failed: their figures are not in the table");
    }
    Ok(())
}

/// How this program was called, without the folders of programs that differ from machine to machine.
fn command_line() -> String {
    let short = |argument: String| match argument.split_once('=') {
        Some((name, path)) if path.starts_with('/') => {
            format!("{name}={}", path.rsplit('/').next().unwrap_or(path))
        }
        _ => argument,
    };
    let arguments: Vec<String> = std::env::args().skip(1).map(short).collect();
    format!("starling-bench {}", arguments.join(" "))
}

fn write_out(report: &Report, markdown: Option<&PathBuf>, svg: Option<&PathBuf>) -> anyhow::Result<()> {
    if let Some(path) = markdown {
        std::fs::write(path, report.markdown()).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = svg {
        let drawn = bench::plot::ratios(report);
        std::fs::write(path, drawn).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The points of each server, told as they come.
fn curve_points(
    options: &ServerOptions,
    contestants: &[Contestant],
    quantity: Quantity,
    largest: usize,
) -> anyhow::Result<Vec<Vec<Point>>> {
    let carried = std::cell::RefCell::default();
    let timing = timing(options.seconds.unwrap_or(1.0));
    let mut points: Vec<Vec<Point>> = vec![Vec::new(); contestants.len()];
    for value in quantity.values(largest) {
        for (contestant, points) in contestants.iter().zip(&mut points) {
            let bench = Bench {
                target: &contestant.target,
                timing,
                logs: options.logs.as_deref(),
                carried: &carried,
                notes: std::cell::RefCell::default(),
            };
            let point = bench::curve::measure(&bench, quantity, value).unwrap_or_else(|error| Point {
                value,
                rate: 0.0,
                cpu_nanoseconds: 0.0,
                resident_peak_bytes: 0,
                failure: Some(error.to_string()),
            });
            say(&(bench::curve::line(&contestant.name, quantity, &point) + "\n"))?;
            points.push(point);
        }
    }
    Ok(points)
}

fn curve(
    options: &ServerOptions,
    kind: CurveKind,
    largest: usize,
    json: Option<&PathBuf>,
    svg: Option<&PathBuf>,
) -> anyhow::Result<()> {
    let quantity = match kind {
        CurveKind::Connections => Quantity::Connections,
        CurveKind::Subjects => Quantity::Subjects,
        CurveKind::Subscriptions => Quantity::Subscriptions,
        CurveKind::Payload => Quantity::Payload,
    };
    let contestants = contestants(options)?;
    let points = curve_points(options, &contestants, quantity, largest)?;
    let failed = points.iter().flatten().any(|point| point.failure.is_some());
    let named = || contestants.iter().map(|c| c.name.as_str()).zip(&points);
    if let Some(path) = json {
        let all: std::collections::BTreeMap<&str, &Vec<Point>> = named().collect();
        std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    if let Some(path) = svg {
        let lines: Vec<Line> = named()
            .map(|(name, points)| Line {
                name: name.to_owned(),
                points: points
                    .iter()
                    .filter(|point| point.failure.is_none())
                    .map(|point| (point.value as f64, point.rate))
                    .collect(),
            })
            .collect();
        let title = format!("throughput versus {}", quantity.name());
        let drawn = bench::plot::curve(&title, quantity.name(), "messages/s", &lines);
        std::fs::write(path, drawn).with_context(|| format!("writing {}", path.display()))?;
    }
    if failed {
        bail!("some points failed");
    }
    Ok(())
}
