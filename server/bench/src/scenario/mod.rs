//! Owns the list of scenarios, their goals, and what a scenario sees of the server under test.
//! Never compares servers: a scenario measures one server once.

mod connections;
mod features;
mod isolation;
mod latency;
mod streams;
mod subscriptions;

pub(crate) use streams::pairs;
pub(crate) use subscriptions::crowded;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::link::Endpoint;
use crate::load::Load;
use crate::process::{Launch, Process, Spent, Usage, usage_of_all};
use crate::report::{bytes, count, nanoseconds, short};
use crate::traffic::{Flow, Timed, Timing, Traffic};

/// A figure that a scenario yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Units (messages, requests, connections…) per second.
    Rate,
    /// Server processor time per unit, nanoseconds.
    CpuNanoseconds,
    /// Median latency, microseconds.
    P50Microseconds,
    /// 99th percentile of latency, microseconds.
    P99Microseconds,
    /// 99.9th percentile of latency, microseconds.
    P999Microseconds,
    /// Resident memory at the end of the measured time, bytes.
    ResidentBytes,
    /// Highest resident memory, bytes.
    ResidentPeakBytes,
    /// Resident memory after the load has gone, bytes.
    ResidentAfterBytes,
    /// Resident memory for each connection or subscription, pages of files not counted, bytes.
    BytesEach,
    /// Resident memory that 50,000 connections would take, by the bytes each, bytes.
    Extrapolated,
    /// Rate relative to the same server undisturbed.
    Share,
    /// Processor time per message beyond the same server without the feature, nanoseconds.
    AddedNanoseconds,
    /// Slow readers that the server cut off.
    CutOff,
    /// Processor cores that the load itself took; 1 means that the load is the limit.
    LoadCores,
    /// Processor cores that other processes took meanwhile: rates and latencies suffer from it.
    OtherCores,
    /// What setting up cost: connections or subscriptions per second.
    SetupRate,
}

impl Metric {
    /// Whether more of it is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Rate | Self::Share | Self::SetupRate)
    }

    /// The figure with its unit.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Rate | Self::SetupRate => count(value) + "/s",
            Self::CpuNanoseconds => nanoseconds(value),
            Self::P50Microseconds | Self::P99Microseconds | Self::P999Microseconds => {
                nanoseconds(value * 1_000.0)
            }
            Self::ResidentBytes
            | Self::ResidentPeakBytes
            | Self::ResidentAfterBytes
            | Self::Extrapolated
            | Self::BytesEach => bytes(value),
            Self::Share | Self::AddedNanoseconds | Self::CutOff | Self::LoadCores | Self::OtherCores => {
                short(value)
            }
        }
    }

    /// A short name for tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::CpuNanoseconds => "CPU",
            Self::P50Microseconds => "p50",
            Self::P99Microseconds => "p99",
            Self::P999Microseconds => "p99.9",
            Self::ResidentBytes => "memory",
            Self::ResidentPeakBytes => "peak memory",
            Self::ResidentAfterBytes => "memory after",
            Self::BytesEach => "bytes each",
            Self::Extrapolated => "50,000 would take",
            Self::Share => "share of undisturbed",
            Self::AddedNanoseconds => "added CPU ns",
            Self::CutOff => "cut off",
            Self::LoadCores => "load cores",
            Self::OtherCores => "other cores",
            Self::SetupRate => "setup rate",
        }
    }
}

/// Figures of one run.
pub type Metrics = BTreeMap<Metric, f64>;

/// How a goal is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Candidate over baseline is at least this.
    RatioAtLeast,
    /// Candidate over baseline is at most this.
    RatioAtMost,
    /// The candidate's own figure is at least this.
    AtLeast,
    /// The candidate's own figure is at most this.
    AtMost,
}

/// What the candidate is to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Of which figure.
    pub metric: Metric,
    /// In which sense.
    pub bound: Bound,
    /// The limit itself.
    pub limit: f64,
}

impl Goal {
    fn new(metric: Metric, bound: Bound, limit: f64) -> Self {
        Self { metric, bound, limit }
    }
}

/// The usual pair of goals: so many times the throughput at such a part of the processor time.
fn faster(rate: f64, cpu: f64) -> Vec<Goal> {
    vec![
        Goal::new(Metric::Rate, Bound::RatioAtLeast, rate),
        Goal::new(Metric::CpuNanoseconds, Bound::RatioAtMost, cpu),
    ]
}

/// The bar for scenarios without a figure of their own: ahead of the baseline.
fn ahead() -> Vec<Goal> {
    faster(1.0, 1.0)
}

/// What is measured.
#[derive(Debug, Clone)]
pub enum Target {
    /// A binary, started anew for each run.
    Binary(PathBuf),
    /// A server that runs already; it is neither configured nor inspected.
    Running(Endpoint),
}

impl Target {
    /// A running server by `nats://[user:password@|token@]host[:port]`.
    ///
    /// # Errors
    /// When the URL is of another kind or the name does not resolve.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let rest = url
            .strip_prefix("nats://")
            .ok_or(Error::Unsupported("only nats://[user:password@]host[:port] can be measured by URL"))?;
        let rest = rest.trim_end_matches('/');
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(name, port)| !name.ends_with(':') && port.parse::<u16>().is_ok());
        let host = if has_port { host.to_owned() } else { format!("{host}:4222") };
        let address: SocketAddr = host
            .to_socket_addrs()
            .map_err(|source| Error::io(format!("resolving {host}"), source))?
            .next()
            .ok_or(Error::Unsupported("the URL's host has no address"))?;
        let mut endpoint = Endpoint::plain(address);
        match login.map(|login| login.split_once(':')) {
            Some(Some((user, password))) => {
                endpoint.user = Some((user.to_owned(), password.to_owned()));
            }
            Some(None) => endpoint.token = login.map(str::to_owned),
            None => {}
        }
        Ok(Self::Running(endpoint))
    }
}

/// The server or servers under test, up and ready.
pub struct Servers {
    /// Where to connect; the first is where publishers go.
    pub endpoints: Vec<Endpoint>,
    /// The processes, when they are ours.
    pub processes: Vec<Process>,
}

impl Servers {
    /// The first endpoint.
    ///
    /// # Errors
    /// When there is none.
    pub fn first(&self) -> Result<&Endpoint, Error> {
        self.endpoints.first().ok_or(Error::Unsupported("no server is running"))
    }

    /// What all processes cost; zero for servers that are not ours.
    #[must_use]
    pub fn usage(&self) -> Usage {
        usage_of_all(&self.processes)
    }

    /// Whether processor time and memory can be seen.
    #[must_use]
    pub fn inspected(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Runs a streaming load.
    ///
    /// # Errors
    /// When it fails or its messages were not all delivered.
    pub fn stream(&self, traffic: &Traffic, timing: Timing) -> Result<Flow, Error> {
        Load::open(&self.endpoints, traffic)?.run(timing, &|| self.usage())
    }
}

/// What a scenario is given.
pub struct Bench<'a> {
    /// What to measure.
    pub target: &'a Target,
    /// How long to measure.
    pub timing: Timing,
    /// Figures carried over from preparing to measuring, for all servers of a scenario.
    pub carried: &'a RefCell<BTreeMap<String, f64>>,
    /// Where servers leave their output, if anywhere.
    pub logs: Option<&'a Path>,
    /// Remarks on this run.
    pub notes: RefCell<Vec<String>>,
}

impl Bench<'_> {
    /// Starts one plain server, or uses the running one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn server(&self) -> Result<Servers, Error> {
        match self.target {
            Target::Running(endpoint) => {
                Ok(Servers { endpoints: vec![endpoint.clone()], processes: Vec::new() })
            }
            Target::Binary(_) => self.configured(&Launch::default()),
        }
    }

    /// Starts one server with a configuration.
    ///
    /// # Errors
    /// When it does not start, or is not ours to configure.
    pub fn configured(&self, launch: &Launch) -> Result<Servers, Error> {
        let Target::Binary(path) = self.target else {
            return Err(Error::Unsupported(NEEDS_BINARY));
        };
        let process = self.start(path, launch)?;
        Ok(Servers { endpoints: vec![Endpoint::plain(process.address)], processes: vec![process] })
    }

    /// Starts one process of the binary.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self, path: &Path, launch: &Launch) -> Result<Process, Error> {
        let logs = self.logs.map(Path::to_owned);
        Process::start(path, &Launch { logs, ..launch.clone() })
    }

    /// Adds a remark to this run.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(text.into());
    }

    /// The measured time of one of `parts` runs that share the scenario's time.
    #[must_use]
    pub fn part(&self, parts: u32) -> Timing {
        Timing { measured: (self.timing.measured / parts).max(Duration::from_millis(500)), ..self.timing }
    }
}

/// Why some scenarios skip servers given by URL.
pub const NEEDS_BINARY: &str = "needs --server NAME=PATH: the server must be configured or inspected";

type Run = Box<dyn Fn(&Bench<'_>) -> Result<Metrics, Error>>;

/// One thing to measure.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, for tables.
    pub title: &'static str,
    /// What its rate counts: `msg`, `req`, `conn`.
    pub unit: &'static str,
    /// What a candidate is to reach against the baseline.
    pub goals: Vec<Goal>,
    /// Run once for each server before the rounds.
    pub prepare: Option<Run>,
    /// Measures once.
    pub run: Run,
}

impl Scenario {
    fn new(
        name: &'static str,
        title: &'static str,
        unit: &'static str,
        goals: Vec<Goal>,
        run: impl Fn(&Bench<'_>) -> Result<Metrics, Error> + 'static,
    ) -> Self {
        Self { name, title, unit, goals, prepare: None, run: Box::new(run) }
    }
}

/// All scenarios in the order of the report.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = streams::scenarios();
    all.extend(latency::scenarios());
    all.extend(features::scenarios());
    all.extend(connections::scenarios());
    all.extend(subscriptions::scenarios());
    all.extend(isolation::scenarios());
    all
}

/// The figures of a stretch of time.
fn figures(servers: &Servers, spent: &Spent) -> Metrics {
    let mut metrics = Metrics::from([(Metric::Rate, spent.rate()), (Metric::LoadCores, spent.load_cores())]);
    if servers.inspected() {
        metrics.insert(Metric::CpuNanoseconds, spent.cpu_nanoseconds());
        memory(&mut metrics, &spent.usage);
    }
    metrics
}

/// The same with latencies.
fn timed_figures(servers: &Servers, timed: &Timed) -> Metrics {
    let mut metrics = figures(servers, &timed.spent);
    percentiles(&mut metrics, &timed.latencies);
    metrics
}

fn memory(metrics: &mut Metrics, usage: &Usage) {
    metrics.insert(Metric::ResidentBytes, usage.resident_bytes as f64);
    metrics.insert(Metric::ResidentPeakBytes, usage.resident_peak_bytes as f64);
}

/// Resident memory when the load has been gone long enough for a server to see that the burst is over.
fn memory_given_back(servers: &Servers) -> f64 {
    std::thread::sleep(Duration::from_secs(12));
    servers.usage().resident_bytes as f64
}

fn percentiles(metrics: &mut Metrics, latencies: &crate::statistics::Latencies) {
    for (metric, percent) in
        [(Metric::P50Microseconds, 50.0), (Metric::P99Microseconds, 99.0), (Metric::P999Microseconds, 99.9)]
    {
        metrics.insert(metric, latencies.microseconds_at(percent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_command_line() {
        let names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
    }

    #[test]
    fn a_url_names_a_running_server() {
        let parsed = |url| match Target::from_url(url).unwrap() {
            Target::Running(endpoint) => endpoint,
            Target::Binary(_) => panic!("not running"),
        };
        let endpoint = parsed("nats://127.0.0.1");
        assert_eq!(endpoint.address, "127.0.0.1:4222".parse().unwrap());
        let endpoint = parsed("nats://me:secret@127.0.0.1:5000/");
        assert_eq!(endpoint.address.port(), 5000);
        assert_eq!(endpoint.user, Some(("me".to_owned(), "secret".to_owned())));
        assert_eq!(parsed("nats://t0k@[::1]:9").token.as_deref(), Some("t0k"));
        assert!(Target::from_url("tls://127.0.0.1").is_err());
    }
}
