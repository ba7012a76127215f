//! `chaos`: faults on a real cluster while every message is counted.
//!
//! Clients in pods (Rust and Go) and outside of the cluster exchange numbered messages with every
//! cluster under test; faults drawn from a seed happen meanwhile; then the checker reads what all
//! clients noted.

mod arena;
#[cfg(test)]
mod broken;
mod churn;
mod defects;
mod entrance;
mod faults;
mod log;
mod table;
mod target;
mod watcher;
mod workload;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::checker::event::{Micros, What};
use e2e::checker::{self, Rules};

use crate::images::{ImagesArguments, PackArguments, target_folder};
use crate::kubernetes::Kubernetes;
use crate::process::{project_root, run as run_program};
use crate::provider::{Provider, ProviderArguments, program};
use arena::Arena;
pub use churn::ChurnArguments;
pub use defects::DefectsArguments;
use entrance::Entrance;
use faults::{Fault, PATIENCE, Scene, Victim};
use log::{Log, now, read_folder};
use table::{Row, markdown};
use target::{Broker, NAMESPACE, Target};
use workload::{Plan, Stage};

/// Size of each node's disk for pods' logs, in megabytes.
const POD_LOGS_MEGABYTES: u32 = 48;
/// Quiet time after a cluster is whole again: lists of servers must be right by then.
const QUIET: Duration = Duration::from_secs(12);
/// Clients that run in this process, by cluster.
const OUTSIDE_CLIENTS: usize = 3;
/// Faults of a short run, in this order.
const SHORT: [Fault; 4] = [Fault::PodKill, Fault::PodDelete, Fault::NetworkCut, Fault::BadConfig];
/// Faults of a long run; each round in another order.
const LONG: [Fault; 18] = [
    Fault::PodDelete,
    Fault::PodKill,
    Fault::NodeFreeze,
    Fault::NodeLoss,
    Fault::NetworkCut,
    Fault::NetworkLoss,
    Fault::NetworkDelay,
    Fault::OperatorKill,
    Fault::ApiRestart,
    Fault::EtcdSlow,
    Fault::BrokenImage,
    Fault::Roll,
    Fault::BadConfig,
    Fault::CertificateRotation,
    Fault::Scale,
    Fault::DiskFull,
    Fault::CpuStarvation,
    Fault::DnsDown,
];

/// Arguments of `chaos`.
#[derive(Debug, clap::Args)]
pub struct ChaosArguments {
    #[command(flatten)]
    provider: ProviderArguments,
    /// What is drawn is drawn from this; printed. Default: the clock
    #[arg(long)]
    seed: Option<u64>,
    /// A few faults, under four minutes
    #[arg(long)]
    short: bool,
    /// Rounds of all faults
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Begin no other fault after so many minutes of faults
    #[arg(long)]
    minutes: Option<u64>,
    /// Do the same to nats-server in a StatefulSet, at the same time
    #[arg(long)]
    compare: bool,
    /// Archive of the broker's image; default: built
    #[arg(long, requires = "operator_image")]
    broker_image: Option<PathBuf>,
    /// Archive of the operator's image; default: built
    #[arg(long, requires = "broker_image")]
    operator_image: Option<PathBuf>,
    /// Folder for the table, the clients' notes and the servers' logs; default: chaos under the build's target folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Judge the run whose folder this is once more, and do nothing else
    #[arg(long)]
    judge: Option<PathBuf>,
    /// Faults, in this order; default: those of a short or a long run
    faults: Vec<Fault>,
}

/// Arguments of `chaos-client`.
#[derive(Debug, clap::Args)]
pub struct ClientArguments {
    name: String,
    url: String,
    folder: PathBuf,
}

impl ClientArguments {
    /// Runs until the folder holds a file `stop`.
    pub fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // A client that was restarted counts from 0 again: it is another one.
        let name = format!("{}-{}", self.name, now() / 1_000_000);
        let log = Log::open(&self.folder.join(format!("{name}.log")))?;
        let stage = Stage::default();
        let (end, folder) = (stage.clone(), self.folder.clone());
        runtime.block_on(async {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                end.publish();
                while !folder.join("stop").exists() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                end.drain();
                tokio::time::sleep(Duration::from_secs(6)).await;
                end.close();
            });
            workload::run(plan(name, vec![self.url.clone()]), stage, log.clone()).await
        })?;
        log.written()
    }
}

/// What every client of a cluster does.
fn plan(name: String, servers: Vec<String>) -> Plan {
    let (publish_every, request_every) = (Duration::from_millis(40), Duration::from_millis(100));
    Plan { name, servers, publish_every, burst: 1, request_every, serves: true, follows: true }
}

/// One fault that happened.
struct Window {
    fault: Fault,
    from: Micros,
    to: Micros,
    /// By cluster.
    recovery: Vec<Duration>,
}

impl Window {
    /// Fault, moments, and the recovery of each cluster in milliseconds.
    fn line(&self) -> String {
        let recovery: Vec<_> = self.recovery.iter().map(|took| took.as_millis().to_string()).collect();
        format!("{} {} {} {}\n", self.fault.name(), self.from, self.to, recovery.join(" "))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let fault = clap::ValueEnum::from_str(words.next()?, false).ok()?;
        let (from, to) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let recovery =
            words.map(|word| word.parse().ok().map(Duration::from_millis)).collect::<Option<_>>()?;
        Some(Self { fault, from, to, recovery })
    }
}

impl ChaosArguments {
    /// Brings a cluster up, breaks it, judges, prints the table.
    pub fn run(&self) -> Result<()> {
        ensure!(
            self.provider.provider == Provider::Local,
            "chaos needs a local cluster: it breaks the nodes"
        );
        if let Some(out) = &self.judge {
            return judge_again(out);
        }
        let seed = self.seed.unwrap_or_else(now);
        println!("seed {seed}");
        let out = self.out.clone().unwrap_or_else(|| target_folder().join("chaos")).join(seed.to_string());
        std::fs::create_dir_all(&out)?;
        let provider = ProviderArguments { pod_logs_mb: Some(POD_LOGS_MEGABYTES), ..self.provider.clone() };
        let images = self.images(&out)?;
        provider.up(&images.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        let result = self.play(&provider, seed, &out);
        if let Err(error) = &result {
            println!("FAILED: {error:#}\nrepeat with --seed {seed}");
        }
        println!("notes of all clients and logs of all servers: {}", out.display());
        let state = provider.state()?;
        let _ = run_program(Command::new("cp").arg("-r").arg(state.join("logs")).arg(out.join("cluster")));
        provider.down(false)?;
        result
    }

    /// Archives of all images: servers, operator, clients.
    fn images(&self, out: &Path) -> Result<Vec<PathBuf>> {
        let (broker, operator) = match (&self.broker_image, &self.operator_image) {
            (Some(broker), Some(operator)) => (broker.clone(), operator.clone()),
            _ => {
                let images = ImagesArguments::built().write()?;
                (images.broker, images.operator)
            }
        };
        let pack = |name: &str, files: Vec<String>, entrypoint: &str| -> Result<PathBuf> {
            let archive = out.with_file_name(format!("{name}.tar"));
            PackArguments::new(&format!("localhost/{name}:test"), archive.clone(), files, entrypoint)
                .write()?;
            Ok(archive)
        };
        let go = out.with_file_name("client-go");
        let mut build = Command::new("go");
        build.current_dir(project_root().join("e2e/client-go")).env("CGO_ENABLED", "0");
        build.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(&go).arg(".");
        run_program(&mut build)?;
        let rust = out.with_file_name("client-rust");
        std::fs::copy(std::env::current_exe()?, &rust)?;
        let _ = run_program(Command::new("strip").arg(&rust)); // only smaller
        let clients = pack(
            "chaos-clients",
            vec![format!("{}=/client-rust", rust.display()), format!("{}=/client-go", go.display())],
            "",
        )?;
        let mut images = vec![broker, operator, clients];
        if self.compare {
            let server = program("nats-server")?;
            images.push(pack(
                "chaos-nats",
                vec![format!("{}=/nats-server", server.display())],
                "/nats-server",
            )?);
        }
        Ok(images)
    }

    fn play(&self, provider: &ProviderArguments, seed: u64, out: &Path) -> Result<()> {
        // Before any thread starts: threads inherit the network of the one that starts them.
        provider.enter_network()?;
        let kubernetes = Kubernetes::new(provider.kubeconfig()?, NAMESPACE);
        let arena = Arena { provider: provider.clone(), kubernetes: kubernetes.clone() };
        let mut brokers = vec![Broker::Starling];
        brokers.extend(self.compare.then_some(Broker::NatsServer));
        crate::scenario::installation::apply_manifests(&kubernetes)?;
        kubernetes.kubectl(&["create", "namespace", NAMESPACE])?;
        kubernetes.kubectl(&["wait", "--for=condition=Established", "crd/natsclusters.starling.dev"])?;
        let shared = provider.state()?.join("hostpath_pv");
        let unclear = Arc::new(AtomicBool::new(false));
        let mut victims = Vec::new();
        for broker in brokers {
            let target = Target { broker, kubernetes: kubernetes.clone() };
            target.create()?;
            let folder = shared.join(target.name());
            std::fs::create_dir_all(&folder)?;
            let log = Log::open(&folder.join("run.log"))?;
            victims.push(Victim { target, log, folder, entrance: None });
        }
        let scene = Scene { arena, victims, random: fastrand::Rng::with_seed(seed), unclear, replicas: 3 };
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = keep_logs(&scene.arena, out.join("servers"), &stop);
        let result = self.play_scene(scene, out, &stop);
        stop.store(true, Ordering::Relaxed);
        let _ = keeper.join();
        if result.is_err() {
            for question in [["get", "pods,natsclusters,events"], ["-n", "starling-system"]] {
                let more: &[&str] = if question[0] == "get" {
                    &["-o", "wide"]
                } else {
                    &["logs", "deployment/starling-operator", "--tail=40"]
                };
                println!("{}", kubernetes.kubectl(&[&question[..], more].concat()).unwrap_or_default());
            }
        }
        for broker in std::fs::read_dir(&shared)?.flatten() {
            let _ = run_program(Command::new("cp").arg("-r").arg(broker.path()).arg(out));
        }
        result
    }

    fn play_scene(&self, mut scene: Scene, out: &Path, stop: &Arc<AtomicBool>) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        let stage = Stage::default();
        let (mut clients, mut threads, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for Victim { target, log, folder, entrance } in &mut scene.victims {
            let servers = target.wait_whole(3, PATIENCE)?;
            println!("{}: 3 servers", target.name());
            start_pods(target)?;
            let open = entrance.insert(runtime.block_on(Entrance::open(target.clone()))?);
            logs.push(log.clone());
            for number in 0..OUTSIDE_CLIENTS {
                let name = format!("outside-{number}");
                let own = Log::open(&folder.join(format!("{name}.log")))?;
                logs.push(own.clone());
                let plan = Plan { follows: false, ..plan(name, vec![open.url.clone()]) };
                clients.push(runtime.spawn(workload::run(plan, stage.clone(), own)));
            }
            for (number, server) in servers.iter().enumerate() {
                let mut first: Vec<String> = servers.iter().map(target::Server::client_address).collect();
                first.retain(|address| *address != server.client_address());
                first.insert(0, server.client_address());
                threads.push(watcher::start(format!("watch-{number}"), first, log.clone(), Arc::clone(stop)));
            }
            threads.push(tell_truth(
                target.clone(),
                log.clone(),
                Arc::clone(&scene.unclear),
                Arc::clone(stop),
            ));
        }
        stage.publish();
        for Victim { target, folder, .. } in &scene.victims {
            crate::process::eventually("all clients publish", Duration::from_secs(60), || {
                for head in ["rust-n1", "go-n2", "outside-0", "outside-1", "outside-2"] {
                    let logs = std::fs::read_dir(folder)?.flatten();
                    let mut own = logs.filter(|log| log.file_name().to_string_lossy().starts_with(head));
                    let text = std::fs::read_to_string(own.next().context("no log")?.path())?;
                    ensure!(text.contains("published"), "{head} of {} does not publish", target.name());
                }
                Ok(())
            })?;
        }
        std::thread::sleep(Duration::from_secs(3));
        let (windows, failures) = self.faults(&mut scene);
        stage.drain();
        for Victim { folder, .. } in &scene.victims {
            std::fs::write(folder.join("stop"), "")?;
        }
        std::thread::sleep(Duration::from_secs(8)); // answers may take 5 s
        stage.close();
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| drop(thread.join()));
        runtime.shutdown_timeout(Duration::from_secs(1));
        std::fs::write(out.join("faults.txt"), windows.iter().map(Window::line).collect::<String>())?;
        let clusters: Vec<_> =
            scene.victims.iter().map(|victim| (victim.target.broker, victim.folder.clone())).collect();
        let judged = logs.iter().try_for_each(Log::written).and_then(|()| judge(&clusters, &windows, out));
        match failures.into_iter().next() {
            Some(error) => Err(error),
            None => judged,
        }
    }

    /// Does one fault after the other; also after one that failed, as long as the clusters are whole again.
    fn faults(&self, scene: &mut Scene) -> (Vec<Window>, Vec<anyhow::Error>) {
        let mut order = Vec::new();
        for _ in 0..self.rounds {
            let mut round = match (self.faults.is_empty(), self.short) {
                (false, _) => self.faults.clone(),
                (true, true) => SHORT.to_vec(),
                (true, false) => LONG.to_vec(),
            };
            if self.faults.is_empty() {
                scene.random.shuffle(&mut round);
            }
            order.extend(round);
        }
        let (mut windows, mut failures) = (Vec::new(), Vec::new());
        let end = self.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        for fault in order {
            if end.is_some_and(|end| Instant::now() > end) {
                println!("time is up after {} faults", windows.len());
                break;
            }
            match one_fault(scene, fault) {
                Ok(window) => windows.push(window),
                Err(error) => {
                    println!("FAILED: {fault:?}: {error:#}");
                    failures.push(error.context(format!("{fault:?}")));
                    let whole =
                        |victim: &Victim| victim.target.wait_whole(scene.replicas, PATIENCE).map(|_| ());
                    if let Err(error) = scene.victims.iter().try_for_each(whole) {
                        println!("no further faults: {error:#}");
                        break;
                    }
                    scene.reachable();
                    scene.unclear.store(false, Ordering::Relaxed);
                }
            }
        }
        (windows, failures)
    }
}

/// Injects a fault, waits until all clusters are whole again, and a quiet time.
fn one_fault(scene: &mut Scene, fault: Fault) -> Result<Window> {
    scene.balance()?;
    let from = now();
    let done = scene.inject(fault)?;
    let mut recovery = vec![None; scene.victims.len()];
    let end = Instant::now() + PATIENCE;
    loop {
        let mut missing = None;
        for (victim, recovery) in scene.victims.iter().zip(&mut recovery) {
            if recovery.is_none() {
                match victim.target.whole(scene.replicas) {
                    Ok(_) => *recovery = Some(done.healed.elapsed()),
                    Err(error) => missing = Some(error),
                }
            }
        }
        match missing {
            None => break,
            Some(error) if Instant::now() > end => return Err(error.context("not whole again in time")),
            Some(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
    scene.unclear.store(false, Ordering::Relaxed);
    let recovery: Vec<Duration> = recovery.into_iter().flatten().collect();
    println!("{fault:?}: {}; whole again after {:.1?}", done.effect, recovery);
    std::thread::sleep(QUIET);
    Ok(Window { fault, from, to: now(), recovery })
}

/// What a run left in its folder, judged by the rules of today.
fn judge_again(out: &Path) -> Result<()> {
    let faults = std::fs::read_to_string(out.join("faults.txt")).context("no faults.txt of a run")?;
    let windows: Option<Vec<_>> = faults.lines().map(Window::parse).collect();
    let clusters = [Broker::Starling, Broker::NatsServer].map(|broker| (broker, out.join(broker.name())));
    let clusters: Vec<_> = clusters.into_iter().filter(|(_, folder)| folder.exists()).collect();
    judge(&clusters, &windows.context("faults.txt is damaged")?, out)
}

/// The table, and an error when anything is in it that no rule allows.
fn judge(clusters: &[(Broker, PathBuf)], windows: &[Window], out: &Path) -> Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    let mut violations = 0;
    for (at, (broker, folder)) in clusters.iter().enumerate() {
        let report = checker::check(read_folder(folder)?, &Rules::default());
        ensure!(
            report.unwritten == 0,
            "{} notes of {}'s clients are missing or damaged (is the disk full?): nothing can be judged",
            report.unwritten,
            broker.name()
        );
        let all = report.tally(0, Micros::MAX);
        println!(
            "{}: {} messages published, {} received, {} requests, {} reconnects",
            broker.name(),
            all.published,
            report.received,
            report.requests,
            all.reconnects
        );
        for finding in report.violations().filter(|finding| !finding.text.is_empty()) {
            println!("  {} {:?}: {}", finding.time, finding.kind, finding.text);
        }
        if *broker == Broker::Starling {
            violations += all.violations();
        }
        let row = |fault: String, times, from, to, recovery, recovery_max| Row {
            fault,
            broker: broker.program().to_owned(),
            times,
            gap: Duration::from_micros(report.worst_gap(from, to, |client| client.starts_with("outside"))),
            tally: report.tally(from, to),
            recovery,
            recovery_max,
        };
        for window in windows.iter().filter(|window| window.fault.concerns(*broker)) {
            let recovery = window.recovery.get(at).copied().unwrap_or_default();
            let bound = window.fault.recovery_max();
            if *broker == Broker::Starling && recovery > bound {
                println!("  {:?}: whole again after {recovery:.1?}, {bound:?} at most", window.fault);
                violations += 1;
            }
            let new = row(window.fault.name(), 1, window.from, window.to, recovery, bound);
            match rows.iter_mut().find(|row| (&row.fault, &row.broker) == (&new.fault, &new.broker)) {
                Some(row) => row.add(&new),
                None => rows.push(new),
            }
        }
        let times = u32::try_from(windows.len())?;
        rows.push(row("all, and between".into(), times, 0, Micros::MAX, Duration::ZERO, Duration::MAX));
    }
    rows.sort_by(|a, b| a.fault.cmp(&b.fault).then(b.broker.cmp(&a.broker)));
    let table = markdown(&rows);
    println!("\n{table}");
    std::fs::write(out.join("table.md"), table)?;
    if violations > 0 {
        bail!("{violations} things happened that at-most-once delivery does not allow");
    }
    Ok(())
}

/// Clients in pods: Rust on the first node, Go on the second; they connect by the Service's name.
fn start_pods(target: &Target) -> Result<()> {
    let name = target.name();
    let url = format!("nats://{name}:4222");
    for (language, node, command) in
        [("rust", "n1", r#""/client-rust", "chaos-client""#), ("go", "n2", r#""/client-go""#)]
    {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-client-{language}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 1\n  restartPolicy: OnFailure\n  containers:\n  - name: client\n    image: localhost/chaos-clients:test\n    \
             imagePullPolicy: Never\n    command: [{command}, {language}-{node}, \"{url}\", /log]\n    \
             volumeMounts: [{{name: log, mountPath: /log}}]\n  volumes:\n  - name: log\n    hostPath: {{path: \
             /tmp/hostpath_pv/{name}}}\n"
        );
        target.kubernetes.with_manifest(&["apply"], &manifest)?;
    }
    Ok(())
}

/// Notes which servers there are, as Kubernetes has them; nothing while pods come, go, or nobody can say.
fn tell_truth(
    target: Target,
    log: Log,
    unclear: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // What the answer says was true when it was asked for, or became true since.
            let asked = now();
            let servers = match target.servers() {
                Ok(servers) if !unclear.load(Ordering::Relaxed) => {
                    Some(servers.iter().map(target::Server::client_address).collect())
                }
                _ => None,
            };
            log.note_at(asked, What::Truth { servers });
            std::thread::sleep(Duration::from_millis(1000));
        }
    })
}

/// Copies what servers log every few seconds: Kubernetes forgets it with the pod.
fn keep_logs(arena: &Arena, to: PathBuf, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let (arena, stop) = (arena.clone(), Arc::clone(stop));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for number in 1..=arena.provider.nodes {
                let node = format!("n{number}");
                let Ok(from) = arena.pod_logs(&node) else { continue };
                let _ = std::fs::create_dir_all(to.join(&node));
                let Ok(pods) = std::fs::read_dir(from) else { continue };
                for pod in pods.flatten().filter(|pod| pod.path().is_dir()) {
                    let mut copy = Command::new("cp");
                    copy.args(["-ru", "--"]).arg(pod.path()).arg(to.join(&node));
                    let _ = crate::process::output(&mut copy);
                }
            }
            std::thread::sleep(Duration::from_secs(5));
        }
    })
}
