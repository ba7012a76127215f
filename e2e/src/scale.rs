//! `scale`: many `NatsCluster`s against a real API server.
//!
//! API server, etcd and controller manager are real (`kubernetes/envtest.sh`); there is no node, so pods run
//! nowhere: this program writes their status as a kubelet would, and one HTTP server answers for all brokers.
//! What is measured is the operator and its traffic with the API server, not brokers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::images::target_folder;
use crate::process::{Running, free_ports, output, project_root};
use crate::provider::program;

/// Arguments of `scale`.
#[derive(Debug, clap::Args)]
pub struct ScaleArguments {
    /// Number of NatsClusters
    #[arg(long, default_value_t = 200)]
    clusters: usize,
    /// Servers of each
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Length of each measured rest, in seconds
    #[arg(long, default_value_t = 60)]
    rest_seconds: u64,
    /// The operator; default: target/release/starling-operator
    #[arg(long)]
    operator: Option<PathBuf>,
    /// Write the page of the figures into this folder, as scale.md
    #[arg(long)]
    docs: Option<PathBuf>,
}

/// What the page says before and after the table.
const PAGE: (&str, &str) = (
    "# How the operator scales\n\n\
     <!-- Written by `starling-e2e scale --docs operator/docs`. -->\n\n\
     API server, etcd and controller manager are real, with their defaults; pods run nowhere, their status is \
     written as a kubelet would, and one HTTP server answers for all brokers, so there is no TLS. This is about the operator and its \
     traffic with the API server.\n\n",
    "\nRequests are without watches, which stay open. A reconcile reads everything that concerns a cluster and compares \
     it with what should be; it writes only what differs, so most requests are reads. At rest nothing is read: watches \
     wake the operator, and every half hour it looks by itself. What fails for ever is looked at once a minute, and one \
     that waits for its pods every 10 s. How long many clusters take to become Ready also depends on the \
     StatefulSet controller, which by default makes 20 requests a second.\n",
);

/// Namespace of all clusters.
const NAMESPACE: &str = "scale";
/// How long all clusters may take to become Ready.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(900);

impl ScaleArguments {
    /// Brings everything up, measures, prints the table.
    pub fn run(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let api = ApiServer::start(folder.path())?;
        let monitor = answer_for_brokers(self.replicas)?;
        api.kubectl(&["apply", "--server-side", "-f", &project_root().join("crds").display().to_string()])?;
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])?;
        api.kubectl(&["create", "namespace", NAMESPACE])?;
        let mut table = Table::default();

        let operator = self.start_operator(&api)?;
        let start = Instant::now();
        api.create(&self.manifests(monitor))?;
        table.row(
            &format!("{} NatsClusters created", self.clusters),
            format!("{:.1} s", start.elapsed().as_secs_f64()),
        );
        self.converge(&api)?;
        let converged = start.elapsed();
        let numbers = operator.numbers()?;
        table.row("all Ready after", format!("{:.1} s", converged.as_secs_f64()));
        let per_cluster = numbers.requests() / self.clusters as f64;
        table.row(
            "API requests a cluster until Ready",
            format!("{per_cluster:.0}, {:.0} of them writes", numbers.writes() / self.clusters as f64),
        );
        table.row(
            "reconciles a cluster until Ready",
            format!("{:.1}", numbers.reconciles() / self.clusters as f64),
        );
        table.row("API requests a reconcile", format!("{:.1}", numbers.requests() / numbers.reconciles()));
        table.row("mean time of a reconcile", format!("{:.0} ms", numbers.mean_ms()));
        table.row("memory of the operator", format!("{:.0} MiB", operator.memory_mib()?));

        // What was changed last comes back as watch events for a moment.
        std::thread::sleep(Duration::from_secs(20));
        let (requests, reconciles) = self.rest(&operator)?;
        table.row(
            "at rest: API requests a minute",
            format!("{requests:.1} for all {} clusters", self.clusters),
        );
        table.row("at rest: reconciles a minute", format!("{reconciles:.1}"));
        table.row(
            "at rest: processor time",
            format!("{:.2} %", operator.processor_percent(Duration::from_secs(10))?),
        );

        // One that no server would take, and one whose Secret's name is somebody else's.
        let taken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken-config"}});
        let broken = |name: &str, spec: Value| json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster", "metadata": {"name": name}, "spec": spec});
        let broken = [
            taken,
            broken("rejected", json!({"config": {"merge": {"no_such_key": 1}}})),
            broken("taken", json!({})),
        ];
        api.create(&json!({"apiVersion": "v1", "kind": "List", "items": broken}))?;
        std::thread::sleep(Duration::from_secs(10));
        let (requests, reconciles) = self.rest(&operator)?;
        table.row("with two that fail for ever: API requests a minute", format!("{requests:.1}"));
        table.row("with two that fail for ever: reconciles a minute", format!("{reconciles:.1}"));

        drop(operator);
        let start = Instant::now();
        let operator = self.start_operator(&api)?;
        operator.wait_reconciles(self.clusters as f64)?;
        std::thread::sleep(Duration::from_secs(5));
        let numbers = operator.numbers()?;
        table.row(
            "restart: every cluster looked at after",
            format!("{:.1} s", start.elapsed().as_secs_f64() - 5.0),
        );
        table.row("restart: writes (patches, posts, deletes)", format!("{:.0}", numbers.writes()));
        println!("\n{}", table.text());
        if let Some(folder) = &self.docs {
            let path = folder.join("scale.md");
            std::fs::write(&path, format!("{}{}{}", PAGE.0, table.markdown(), PAGE.1))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn start_operator(&self, api: &ApiServer) -> Result<Operator> {
        let program =
            self.operator.clone().unwrap_or_else(|| target_folder().join("release/starling-operator"));
        let port = *free_ports(1)?.first().context("no port")?;
        let mut command = Command::new(&program);
        command.args(["run", "--no-leader-election", "--http", &format!("127.0.0.1:{port}")]);
        command.env("KUBECONFIG", &api.kubeconfig).env("RUST_LOG", "warn");
        command.stdout(Stdio::null());
        let child = command.spawn().with_context(|| program.display().to_string())?;
        let operator = Operator { child, metrics: format!("http://127.0.0.1:{port}/metrics") };
        crate::process::eventually("the operator answers", Duration::from_secs(30), || {
            operator.numbers().map(|_| ())
        })?;
        Ok(operator)
    }

    fn manifests(&self, monitor: u16) -> Value {
        let items: Vec<Value> = (0..self.clusters)
            .map(|number| {
                json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
                    "metadata": {"name": format!("c{number}")},
                    // One answers for all brokers, and can show only one certificate.
                    "spec": {"replicas": self.replicas, "monitoring": {"port": monitor}, "tls": {"mode": "Disabled"}}})
            })
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    /// Does the kubelet's part until every cluster is Ready.
    fn converge(&self, api: &ApiServer) -> Result<()> {
        let start = Instant::now();
        let mut said = Instant::now();
        loop {
            for pod in api.list("/api/v1", "pods")? {
                if pod["status"]["podIP"].is_null() {
                    api.run_pod(pod["metadata"]["name"].as_str().unwrap_or_default())?;
                }
            }
            let ready = |cluster: &Value| {
                let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            };
            let clusters = api.list("/apis/starling.dev/v1alpha1", "natsclusters")?;
            let count = clusters.iter().filter(|cluster| ready(cluster)).count();
            if count == self.clusters {
                return Ok(());
            }
            if said.elapsed() > Duration::from_secs(10) {
                println!("{count} of {} Ready after {:.0} s", self.clusters, start.elapsed().as_secs_f64());
                said = Instant::now();
            }
            ensure!(start.elapsed() < CONVERGE_TIMEOUT, "only {count} of {} are Ready", self.clusters);
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// API requests (watches apart) and reconciles a minute while nothing changes.
    fn rest(&self, operator: &Operator) -> Result<(f64, f64)> {
        let before = operator.numbers()?;
        std::thread::sleep(Duration::from_secs(self.rest_seconds));
        let after = operator.numbers()?;
        let minutes = self.rest_seconds as f64 / 60.0;
        Ok((
            (after.requests() - before.requests()) / minutes,
            (after.reconciles() - before.reconciles()) / minutes,
        ))
    }
}

/// API server, etcd and controllers on loopback, and a proxy that needs no certificates.
struct ApiServer {
    kubeconfig: String,
    url: String,
    agent: ureq::Agent,
    _proxy: Running,
    _processes: Envtest,
}

/// The first of four free ports in a row, outside of the range that connections take theirs from.
fn four_ports() -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = u16::try_from(std::process::id() % 2500)? * 4;
    let mut candidates = (0..2500_u16).map(|step| 20_000 + (start + step * 4) % 10_000);
    candidates.find(|first| (0..4).all(|more| free(first + more))).context("no four free ports in a row")
}

/// Ends when its input is closed.
struct Envtest(Child);

impl Drop for Envtest {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

impl ApiServer {
    fn start(folder: &std::path::Path) -> Result<Self> {
        let first = four_ports()?;
        let script = project_root().join("e2e/kubernetes/envtest.sh");
        let mut child = Command::new(script)
            .arg(folder)
            .arg(first.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("envtest.sh")?;
        let stdout = child.stdout.take().context("no output")?;
        let processes = Envtest(child);
        let mut kubeconfig = String::new();
        BufReader::new(stdout).read_line(&mut kubeconfig)?;
        let kubeconfig = kubeconfig.trim().to_owned();
        ensure!(!kubeconfig.is_empty(), "envtest.sh did not come up; its logs were in {}", folder.display());
        let port = *free_ports(1)?.first().context("no port")?;
        let mut proxy = Command::new(program("kubectl")?);
        proxy.args(["--kubeconfig", &kubeconfig, "proxy", "--port", &port.to_string()]).stdout(Stdio::null());
        let proxy = Running::start(&mut proxy)?;
        let agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().new_agent();
        let api = Self {
            kubeconfig,
            url: format!("http://127.0.0.1:{port}"),
            agent,
            _proxy: proxy,
            _processes: processes,
        };
        crate::process::eventually("the proxy answers", Duration::from_secs(20), || {
            api.get("/readyz").map(|_| ())
        })?;
        Ok(api)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new(program("kubectl")?).args(["--kubeconfig", &self.kubeconfig]).args(arguments))
    }

    fn create(&self, list: &Value) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), list.to_string())?;
        self.kubectl(&["-n", NAMESPACE, "create", "-f", &file.path().display().to_string()]).map(drop)
    }

    fn get(&self, path: &str) -> Result<String> {
        Ok(self
            .agent
            .get(format!("{}{path}", self.url))
            .call()?
            .body_mut()
            .with_config()
            .limit(256 << 20)
            .read_to_string()?)
    }

    fn list(&self, group: &str, kind: &str) -> Result<Vec<Value>> {
        let text = self.get(&format!("{group}/namespaces/{NAMESPACE}/{kind}"))?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Writes what a kubelet writes about a pod that works.
    fn run_pod(&self, name: &str) -> Result<()> {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let kinds = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
        let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": kinds.map(condition)}});
        let url = format!("{}/api/v1/namespaces/{NAMESPACE}/pods/{name}/status", self.url);
        self.agent
            .patch(url)
            .header("Content-Type", "application/merge-patch+json")
            .send(status.to_string())
            .with_context(|| format!("status of {name}"))?;
        Ok(())
    }
}

struct Operator {
    child: Child,
    metrics: String,
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Its `/metrics` by line.
struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    fn sum(&self, name: &str, test: impl Fn(&str) -> bool) -> f64 {
        let of_name = |line: &&String| line.split('{').next() == Some(name) && test(line);
        // The sum of nothing is -0.
        self.0.iter().filter(|(line, _)| of_name(line)).map(|(_, value)| value).sum::<f64>() + 0.0
    }

    /// Without watches: these stay open.
    fn requests(&self) -> f64 {
        self.sum("starling_operator_api_requests_total", |line| !line.contains("\"watch\""))
    }

    fn writes(&self) -> f64 {
        self.sum("starling_operator_api_requests_total", |line| {
            !line.contains("\"watch\"") && !line.contains("\"get\"")
        })
    }

    fn reconciles(&self) -> f64 {
        self.sum("starling_operator_reconciles_total", |_| true)
    }

    fn mean_ms(&self) -> f64 {
        let all =
            |part: &str| self.sum(&format!("starling_operator_reconcile_duration_seconds_{part}"), |_| true);
        1000.0 * all("sum") / all("count")
    }
}

impl Operator {
    fn numbers(&self) -> Result<Numbers> {
        let (status, text) = crate::http::get(&self.metrics)?;
        ensure!(status == 200, "/metrics: {status}");
        let number = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(Numbers(text.lines().filter(|line| !line.starts_with('#')).filter_map(number).collect()))
    }

    fn wait_reconciles(&self, count: f64) -> Result<()> {
        crate::process::eventually("every cluster is looked at", CONVERGE_TIMEOUT, || {
            let found = self.numbers()?.reconciles();
            ensure!(found >= count, "{found} reconciles");
            Ok(())
        })
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    fn memory_mib(&self) -> Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Of one processor, over a while.
    fn processor_percent(&self, time: Duration) -> Result<f64> {
        let ticks = || -> Result<f64> {
            let stat = self.proc("stat")?;
            let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let at = |index: usize| {
                fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("no ticks")
            };
            Ok(at(11)? + at(12)?)
        };
        let before = ticks()?;
        std::thread::sleep(time);
        // Ticks are hundredths of a second on Linux.
        Ok((ticks()? - before) / time.as_secs_f64())
    }
}

/// One HTTP server in place of all brokers: healthy, and connected to all others.
fn answer_for_brokers(replicas: usize) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let routes: Vec<Value> = (1..replicas).map(|number| json!({"remote_id": number.to_string()})).collect();
    let (routez, varz) =
        (json!({"routes": routes}).to_string(), json!({"starling_version": "0.0.0"}).to_string());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let (routez, varz) = (routez.clone(), varz.clone());
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut buffer = [0_u8; 4096];
                loop {
                    let read = stream.read(&mut buffer)?;
                    if read == 0 {
                        return Ok(());
                    }
                    let request =
                        String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned();
                    let body = match request.split(' ').nth(1) {
                        Some("/varz") => varz.as_str(),
                        Some("/routez") => routez.as_str(),
                        _ => r#"{"status":"ok"}"#,
                    };
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
                }
            });
        }
    });
    Ok(port)
}

#[derive(Default)]
struct Table(Vec<(String, String)>);

impl Table {
    fn row(&mut self, name: &str, value: String) {
        println!("{name}: {value}");
        self.0.push((name.to_owned(), value));
    }

    fn markdown(&self) -> String {
        let mut text = String::from("| What | Measured |\n| --- | --- |\n");
        for (name, value) in &self.0 {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = writeln!(text, "{name:<width$}  {value}");
        }
        text
    }
}
