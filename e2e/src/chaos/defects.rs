//! `defects`: a checker is worth what it finds. Brokers built to drop, repeat or reorder one message in ten thousand,
//! drawn from a seed, must fail it, and the same build without a defect must pass.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::checker::{self, Kind, Report, Rules};

use super::log::{Log, read_folder};
use super::workload::{Plan, Stage, run};
use crate::images::target_folder;
use crate::process::{Running, eventually, free_ports, project_root, run as run_program};

/// Among so many messages one goes wrong.
const ONE_IN: u64 = 10_000;
/// Notes of some 30 000 messages that are published and 60 000 that are received.
const NOTES_BYTES_MIN: u64 = 6_000_000;
/// How long that may take, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(90);

/// Arguments of `defects`.
#[derive(Debug, clap::Args)]
pub struct DefectsArguments {
    /// A starling-server with the feature `defective`; default: built
    #[arg(long)]
    broker: Option<PathBuf>,
    /// Which messages go wrong is drawn from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl DefectsArguments {
    /// Runs the four brokers side by side.
    pub fn run(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let program = match &self.broker {
            Some(program) => program.clone(),
            None => build(folder.path())?,
        };
        let judges = [
            (None, None),
            (Some("drop"), Some(Kind::Lost)),
            (Some("duplicate"), Some(Kind::Duplicated)),
            (Some("reorder"), Some(Kind::Reordered)),
        ];
        let ports = free_ports(judges.len())?;
        let mut brokers = Vec::new();
        for ((defect, _), port) in judges.iter().zip(&ports) {
            let mut command = Command::new(&program);
            command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).env_remove("STARLING_DEFECT");
            if let Some(defect) = defect {
                command.env("STARLING_DEFECT", format!("{defect}:{ONE_IN}:{}", self.seed));
            }
            brokers.push(Running::start(command.stderr(std::process::Stdio::null()))?);
            eventually("it listens", Duration::from_secs(20), || {
                Ok(std::net::TcpStream::connect(("127.0.0.1", *port))?)
            })?;
        }
        let threads: Vec<_> = ports
            .iter()
            .map(|port| {
                let url = format!("nats://127.0.0.1:{port}");
                std::thread::spawn(move || judge(async move || Ok(url)))
            })
            .collect();
        let mut failed = Vec::new();
        for ((defect, expected), thread) in judges.into_iter().zip(threads) {
            let report = thread.join().ok().context("the judge panicked")??;
            let name = defect.unwrap_or("none");
            match verdict(&report, expected) {
                Ok(text) => println!("defect {name}: {text}"),
                Err(error) => failed.push(format!("defect {name}: {error}")),
            }
        }
        drop(brokers);
        if !failed.is_empty() {
            bail!("seed {}: {}", self.seed, failed.join("; "));
        }
        Ok(())
    }
}

/// Builds the broker that can be broken. Without STARLING_DEFECT it is a sound one.
fn build(folder: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(project_root());
    cargo.args(["build", "-q", "--locked", "-p", "starling-server", "--features", "defective"]);
    run_program(&mut cargo)?;
    let program = folder.join("starling-server");
    std::fs::copy(target_folder().join("debug/starling-server"), &program)?;
    Ok(program)
}

/// What the checker has found, if that is what it had to find; nothing, when nothing was `expected`.
pub(super) fn verdict(report: &Report, expected: Option<Kind>) -> Result<String> {
    let mut kinds: Vec<_> = report.violations().map(|finding| finding.kind).collect();
    let count = kinds.len();
    kinds.sort();
    kinds.dedup();
    let first = report.violations().next().map_or("", |finding| finding.text.as_str());
    match expected {
        None => ensure!(kinds.is_empty(), "{count} findings in a sound broker: {kinds:?}, {first}"),
        Some(kind) => {
            ensure!(kinds.contains(&kind), "{kind:?} was not found among {count} findings: {kinds:?}")
        }
    }
    let messages = report.published.len();
    Ok(match expected {
        None => format!("{messages} messages, nothing found"),
        Some(_) => format!("{messages} messages, {count} findings {kinds:?}: {first}"),
    })
}

/// Three clients through the broker at a URL, until enough went through for the seed to have drawn some messages.
pub(super) fn judge(url: impl AsyncFnOnce() -> Result<String>) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let notes = folder.path().join("all.log");
    let log = Log::open(&notes)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let url = url().await?;
        let stage = Stage::default();
        let clients: Vec<_> = (0..3)
            .map(|number| {
                let plan = Plan {
                    name: format!("c{number}"),
                    servers: vec![url.clone()],
                    publish_every: Duration::from_millis(4),
                    // neighbours, so that there is something to be reordered
                    burst: 4,
                    request_every: Duration::from_millis(50),
                    serves: true,
                    follows: false,
                };
                tokio::spawn(run(plan, stage.clone(), log.clone()))
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.publish();
        let written = || std::fs::metadata(&notes).map_or(0, |notes| notes.len());
        let end = Instant::now() + PATIENCE;
        while written() < NOTES_BYTES_MIN && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stage.drain();
        loop {
            let before = written();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if written() == before {
                break;
            }
        }
        stage.close();
        for client in clients {
            client.await??;
        }
        log.written()
    })?;
    // Connections stand from the first moment here, and nothing lies between servers.
    let rules = Rules { settle: 1_000_000, ..Rules::default() };
    let report = checker::check(read_folder(folder.path())?, &rules);
    ensure!(report.received > 2 * ONE_IN, "only {} messages", report.received);
    ensure!(report.unwritten == 0, "{} notes are missing", report.unwritten);
    Ok(report)
}
