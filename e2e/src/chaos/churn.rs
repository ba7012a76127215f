//! `churn`: connections, subscriptions and servers come and go for an hour; memory and file
//! descriptors of the operator and of the servers must stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use e2e::plot::{Series, flat, svg};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::images::target_folder;
use crate::process::eventually;

/// How often processes are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Growth that counts as none: a tenth, or so many megabytes.
const TOLERANCE: f64 = 0.1;
/// Memory that an allocator may keep at another moment than before, in megabytes.
const SLACK_MEGABYTES: f64 = 1.5;
/// Descriptors that a moment more of clients takes.
const SLACK_DESCRIPTORS: f64 = 8.0;
/// More than a server remembers, by some: the first ones leave room that is used again.
const CLOSED_CONNECTIONS: usize = 18_000;
/// Servers, one after the other.
const SIZES: [usize; 4] = [3, 5, 4, 3];

/// Arguments of `churn`.
#[derive(Debug, clap::Args)]
pub struct ChurnArguments {
    /// How long
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// The operator; default: target/release/starling-operator
    #[arg(long)]
    operator: Option<PathBuf>,
    /// The broker; default: target/release/starling-server
    #[arg(long)]
    server: Option<PathBuf>,
    /// Folder for the plots and the samples; default: churn under the build's target folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Clients that come and go at the same time
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Time between two changes of the number of servers, in seconds
    #[arg(long, default_value_t = 60)]
    scale_every: u64,
}

/// Memory in megabytes and descriptors of one process, by minute.
#[derive(Debug, Default)]
struct Samples {
    memory: Vec<(f64, f64)>,
    descriptors: Vec<(f64, f64)>,
}

impl ChurnArguments {
    /// Runs, writes plots and table, and fails unless all is flat.
    pub fn run(&self) -> Result<()> {
        let release = |given: &Option<PathBuf>, name: &str| {
            given.clone().unwrap_or_else(|| target_folder().join("release").join(name))
        };
        let out = self.out.clone().unwrap_or_else(|| target_folder().join("churn"));
        std::fs::create_dir_all(&out)?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("cluster.yaml");
        write_cluster(&file, 3)?;
        let log = std::fs::File::create(out.join("operator.log"))?;
        let operator = Command::new(release(&self.operator, "starling-operator"))
            .arg("up")
            .arg(&file)
            .arg("--server")
            .arg(release(&self.server, "starling-server"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut operator = Operator(operator);
        let state = folder.path().join(".starling/churn");
        let servers = eventually("three servers listen", Duration::from_secs(60), || {
            let printed = std::fs::read_to_string(out.join("operator.log"))?;
            let mut servers = BTreeSet::new();
            for rest in printed.split("nats://").skip(1) {
                let address: String =
                    rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
                TcpStream::connect(&address)?;
                servers.insert(format!("nats://{address}"));
            }
            ensure!(servers.len() == 3, "{servers:?}");
            Ok(Vec::from_iter(servers))
        })?;
        for url in &servers {
            fill_closed_list(url)?;
        }
        let runtime = tokio::runtime::Runtime::new()?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        for number in 0..self.clients {
            let (servers, stop, rounds) = (servers.clone(), Arc::clone(&stop), Arc::clone(&rounds));
            runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let Some(url) = servers.get(fastrand::usize(0..servers.len())) else { return };
                    match one_life(url, number).await {
                        Ok(()) => rounds.fetch_add(1, Ordering::Relaxed),
                        Err(_) => 0,
                    };
                }
            });
        }
        let samples = self.watch(&mut operator, &state, &file)?;
        stop.store(true, Ordering::Relaxed);
        let lives = rounds.load(Ordering::Relaxed);
        drop(operator);
        conclude(&samples, &out, self.minutes, lives)
    }

    fn watch(&self, operator: &mut Operator, state: &Path, file: &Path) -> Result<BTreeMap<String, Samples>> {
        let start = Instant::now();
        let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
        let mut changes = 0;
        while start.elapsed().as_secs_f64() < self.minutes * 60.0 {
            std::thread::sleep(SAMPLE_EVERY);
            ensure!(operator.0.try_wait()?.is_none(), "the operator ended");
            let minute = start.elapsed().as_secs_f64() / 60.0;
            let wanted = usize::try_from(start.elapsed().as_secs() / self.scale_every)?;
            if wanted > changes {
                changes = wanted;
                write_cluster(file, SIZES[changes % SIZES.len()])?;
            }
            let mut processes = vec![("operator".to_owned(), operator.0.id())];
            // Servers 0 to 2 stay all the time; the others would start anew with each growth.
            for ordinal in 0..3 {
                let path = state.join(format!("churn-{ordinal}/pid"));
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                processes.push((format!("server {ordinal}"), text.trim().parse()?));
            }
            for (name, id) in processes {
                let samples = samples.entry(name).or_default();
                samples.memory.push((minute, resident_megabytes(id)?));
                let descriptors = std::fs::read_dir(format!("/proc/{id}/fd"))?.count();
                samples.descriptors.push((minute, descriptors as f64));
            }
        }
        Ok(samples)
    }
}

/// Servers remember their last 10 000 closed connections for `/connz?state=closed`, as nats-server does. Until there
/// are so many, memory grows with each; here they come and go in seconds, before anything is measured.
fn fill_closed_list(url: &str) -> Result<()> {
    let address = url.trim_start_matches("nats://");
    for number in 0..CLOSED_CONNECTIONS {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "CONNECT {{\"verbose\":false,\"lang\":\"rust\",\"version\":\"1\",\"name\":\"warm-up\"}}\r\nSUB warm.{number} \
             1\r\nPING\r\n"
        )?;
        let mut lines = BufReader::new(stream).lines();
        ensure!(lines.any(|line| line.is_ok_and(|line| line == "PONG")), "{url}: no PONG");
    }
    Ok(())
}

/// A client from its connect to its end: subscriptions, messages to itself, requests, and gone.
async fn one_life(url: &str, number: usize) -> Result<()> {
    let client = ConnectOptions::new().connection_timeout(Duration::from_secs(2)).connect(url).await?;
    let mut subscriptions = Vec::new();
    for count in 0..50 {
        let subject = format!("churn.{number}.{count}.{}", fastrand::u32(..));
        subscriptions.push((subject.clone(), client.subscribe(subject).await?));
    }
    client.flush().await?;
    for (subject, subscription) in &mut subscriptions {
        client.publish(subject.clone(), vec![b'x'; fastrand::usize(0..2000)].into()).await?;
        let _ = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await;
    }
    let _ = client.request(format!("churn.{number}.nobody"), "x".into()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

fn write_cluster(file: &Path, replicas: usize) -> Result<()> {
    let text = format!(
        "apiVersion: starling.dev/v1alpha1\nkind: NatsCluster\nmetadata: {{name: churn}}\nspec:\n  replicas: \
         {replicas}\n"
    );
    Ok(std::fs::write(file, text)?)
}

fn resident_megabytes(id: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1000.0)
}

fn conclude(samples: &BTreeMap<String, Samples>, out: &Path, minutes: f64, lives: u64) -> Result<()> {
    let series = |of: fn(&Samples) -> &Vec<(f64, f64)>| -> Vec<Series> {
        let lines = samples.iter().map(|(name, one)| Series { name: name.clone(), points: of(one).clone() });
        lines.collect()
    };
    let (memory, descriptors) = (series(|one| &one.memory), series(|one| &one.descriptors));
    let title =
        |what: &str| format!("{what} in {minutes:.0} minutes of churn ({lives} clients came and went)");
    std::fs::write(out.join("memory.svg"), svg(&title("Resident memory"), "MB", &memory))?;
    std::fs::write(out.join("descriptors.svg"), svg(&title("File descriptors"), "", &descriptors))?;
    let mut all_flat = true;
    let mut table = String::new();
    for (lines, unit, slack) in
        [(&memory, "MB", SLACK_MEGABYTES), (&descriptors, "descriptors", SLACK_DESCRIPTORS)]
    {
        for line in lines {
            let (is_flat, early, late) = flat(&line.points, TOLERANCE, slack).context("too short")?;
            all_flat &= is_flat;
            let verdict = if is_flat { "flat" } else { "GROWS" };
            let _ = writeln!(table, "{verdict:6} {:10} {early:8.1} → {late:8.1} {unit}", line.name);
        }
    }
    print!("{table}");
    println!("{lives} clients came and went in {minutes:.0} minutes; plots in {}", out.display());
    std::fs::write(out.join("table.txt"), &table)?;
    ensure!(all_flat, "memory or descriptors grow");
    Ok(())
}

/// Ended as a user would: it ends its servers.
struct Operator(std::process::Child);

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(id) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::INT);
        }
        let ended =
            eventually("it ends", Duration::from_secs(60), || self.0.try_wait()?.context("still running"));
        if ended.is_err() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}
