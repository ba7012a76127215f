//! `main-job`: the README's first command, with real clients through it for a moment.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::clients::{Watched, exchange, request};
use crate::images::target_folder;
use crate::info_watcher::InfoWatcher;
use crate::process::{eventually, project_root};

/// Arguments of `main-job`.
#[derive(Debug, clap::Args)]
pub struct MainJobArguments {
    /// A shell command line to run as it stands, at the project's root, in place of the built
    /// operator on a copy of the example; the file is then not changed
    #[arg(long)]
    command: Option<String>,
    /// How long the command may take until the servers are there, in seconds: it may build first
    #[arg(long, default_value_t = 1800)]
    patience: u64,
    /// The operator; default: target/release/starling-operator
    #[arg(long)]
    operator: Option<PathBuf>,
    /// The broker that the operator starts; default: its own choice
    #[arg(long)]
    server: Option<PathBuf>,
    /// The NatsCluster; default: manifests/examples/cluster.yaml
    file: Option<PathBuf>,
}

impl MainJobArguments {
    /// Starts the cluster, uses it, grows and shrinks it, and stops it by Ctrl-C.
    pub fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        let patience = Duration::from_secs(self.patience);
        if let Some(command) = &self.command {
            let start = Instant::now();
            let job = Job::start(Command::new("bash").args(["-c", command]))?;
            let urls = job.servers(3, patience)?;
            println!("3 servers {:.1} s after `{command}`", start.elapsed().as_secs_f64());
            runtime.block_on(use_all(&urls))?;
            return job.interrupt(&urls);
        }
        let folder = tempfile::tempdir()?;
        let example = project_root().join("manifests/examples/cluster.yaml");
        let source = self.file.clone().unwrap_or(example);
        let text = std::fs::read_to_string(&source).with_context(|| source.display().to_string())?;
        ensure!(text.contains("replicas: 3"), "{}: no line `replicas: 3`", source.display());
        let file = folder.path().join("cluster.yaml");
        std::fs::write(&file, &text)?;
        let operator = self.operator.clone();
        let operator = operator.unwrap_or_else(|| target_folder().join("release/starling-operator"));
        let mut command = Command::new(operator);
        command.arg("up").arg(&file);
        if let Some(server) = &self.server {
            command.arg("--server").arg(server);
        }
        let start = Instant::now();
        let job = Job::start(&mut command)?;
        let used = follow(&job, &runtime, &file, &text, start);
        let urls = used.with_context(|| format!("it printed:\n{}", job.lines().join("\n")))?;
        job.interrupt(&urls)
    }
}

/// The cluster is used, follows its file up and down, and ignores a file that is broken.
fn follow(
    job: &Job,
    runtime: &tokio::runtime::Runtime,
    file: &Path,
    text: &str,
    start: Instant,
) -> Result<Vec<String>> {
    let urls = job.servers(3, Duration::from_secs(60))?;
    println!("3 servers {:.1} s after `up`", start.elapsed().as_secs_f64());
    runtime.block_on(use_all(&urls))?;
    let first = urls.first().context("no URL")?;
    let watcher = InfoWatcher::connect(first)?;
    for replicas in [5, 2] {
        let start = Instant::now();
        std::fs::write(file, text.replace("replicas: 3", &format!("replicas: {replicas}")))?;
        watcher.learn(replicas, Duration::from_secs(60))?;
        println!(
            "a connected client knew of {replicas} servers {:.1} s after the file was changed",
            start.elapsed().as_secs_f64()
        );
    }
    std::fs::write(file, "apiVersion: starling.dev/v1alpha1\nkind: NatsCluster\nspec: {replicas: [\n")?;
    eventually("the broken file is reported with its line", Duration::from_secs(10), || {
        let lines = job.lines();
        let told = lines.iter().any(|line| line.contains("cluster.yaml:") || line.contains("line"));
        ensure!(told, "printed: {lines:?}");
        Ok(())
    })?;
    ensure!(watcher.known() == 2 && !watcher.is_closed(), "a broken file changed the cluster");
    Ok(urls)
}

async fn use_all(urls: &[String]) -> Result<()> {
    let mut clients = Vec::new();
    for url in urls {
        clients.push(connect_when_ready(url, urls.len()).await?.client);
    }
    for (i, from) in clients.iter().enumerate() {
        for (j, to) in clients.iter().enumerate().filter(|(j, _)| *j != i) {
            exchange(from, to, &format!("exchange.{i}.{j}"), 1000).await?;
            request(from, to, &format!("service.{i}.{j}")).await?;
        }
    }
    println!("messages and requests between all {} servers", urls.len());
    Ok(())
}

/// A URL is printed when its server starts, a moment before it listens and knows the others.
async fn connect_when_ready(url: &str, servers: usize) -> Result<Watched> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let connected = match Watched::connect(url).await {
            Ok(watched) => watched.expect_known(servers).map(|()| watched),
            Err(error) => Err(error),
        };
        if connected.is_ok() || Instant::now() > end {
            return connected;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The command with all that it started: a process group, as a terminal has it.
struct Job {
    child: std::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Job {
    fn start(command: &mut Command) -> Result<Self> {
        command.current_dir(project_root()).process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
        for pipe in [stdout, stderr].into_iter().flatten() {
            let lines = Arc::clone(&lines);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if let Ok(mut lines) = lines.lock() {
                        lines.push(line);
                    }
                }
            });
        }
        Ok(Self { child, lines })
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    fn group(&self) -> Result<Pid> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        id.context("a process id that is none")
    }

    /// Waits until the output names so many servers, and returns their URLs as printed.
    fn servers(&self, count: usize, patience: Duration) -> Result<Vec<String>> {
        let found = eventually("the servers' URLs are printed", patience, || {
            let mut urls: Vec<String> = Vec::new();
            for line in self.lines() {
                for start in line.match_indices("nats://127.0.0.1:").map(|(start, _)| start) {
                    let rest = &line[start + "nats://127.0.0.1:".len()..];
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    let url = format!("nats://127.0.0.1:{digits}");
                    if !digits.is_empty() && !urls.contains(&url) {
                        urls.push(url);
                    }
                }
            }
            ensure!(urls.len() >= count, "{urls:?}");
            Ok(urls)
        });
        found.with_context(|| format!("the command printed:\n{}", self.lines().join("\n")))
    }

    /// Ctrl-C, as the terminal sends it to the whole group; then nothing may run any more.
    fn interrupt(mut self, urls: &[String]) -> Result<()> {
        let start = Instant::now();
        let group = self.group()?;
        kill_process_group(group, Signal::INT)?;
        let status = eventually("it ends after Ctrl-C", Duration::from_secs(60), || {
            self.child.try_wait()?.context("still running")
        })?;
        let clean = status.success() || status.code() == Some(130);
        if !clean {
            bail!("{status} after Ctrl-C; it printed:\n{}", self.lines().join("\n"));
        }
        eventually("its servers are gone too", Duration::from_secs(5), || {
            ensure!(test_kill_process_group(group).is_err(), "processes of the group are left");
            for address in urls.iter().filter_map(|url| url.strip_prefix("nats://")) {
                ensure!(std::net::TcpStream::connect(address).is_err(), "{address} still listens");
            }
            Ok(())
        })?;
        println!("ended {:.1} s after Ctrl-C, nothing left", start.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Drop for Job {
    /// After a failure: first as a user would end it, for the servers are not of its group and only
    /// the operator ends them.
    fn drop(&mut self) {
        let Ok(group) = self.group() else { return };
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(group, Signal::INT);
            let _ = eventually("it ends", Duration::from_secs(20), || {
                self.child.try_wait()?.context("still running")
            });
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}
