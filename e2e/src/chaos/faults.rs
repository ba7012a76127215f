//! The faults. Each injects, shows that it took effect, and heals what it broke.
//!
//! Owns what each fault is. Never judges what clients saw of it.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::checker::event::What;
use rustix::process::{Signal, kill_process};

use super::arena::Arena;
use super::entrance::Entrance;
use super::log::Log;
use super::target::{Broker, Server, Target};
use crate::kubernetes::condition;
use crate::process::eventually;

/// Namespace of the operator.
const OPERATOR_NAMESPACE: &str = "starling-system";
/// How long a cluster may take to be whole again.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// After a client was moved: what the checker excuses for it is over.
const CALM: Duration = Duration::from_secs(13);

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// `kubectl delete pod`
    PodDelete,
    /// kill -9 of a server
    PodKill,
    /// All of a node's pods stand still for a while
    NodeFreeze,
    /// A node without power: no network, then all processes gone, and back
    NodeLoss,
    /// A node's cable is out for a while
    NetworkCut,
    /// A tenth of the packets that reach a node are dropped
    NetworkLoss,
    /// A node's link is so slow that packets wait for it
    NetworkDelay,
    /// The operator is killed at each step of a growth, a shrinking and a roll
    OperatorKill,
    /// The API server is killed and away for a while
    ApiRestart,
    /// etcd stands still nine tenths of the time
    EtcdSlow,
    /// A rolling update to an image that does not exist, and back
    BrokenImage,
    /// A rolling update
    Roll,
    /// A configuration that the broker would refuse
    BadConfig,
    /// The certificate of the routes is replaced while they carry messages, then its authority
    CertificateRotation,
    /// 3 to 7 to 2 to 5, and back to 3
    Scale,
    /// A node's disk for logs is full, and a server is killed meanwhile
    DiskFull,
    /// A server gets 2 % of a processor
    CpuStarvation,
    /// DNS does not answer, and a pod is deleted meanwhile
    DnsDown,
}

impl Fault {
    /// As it is named on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How long our cluster may take to be whole again afterwards; for what changes the cluster itself, all of it.
    pub fn recovery_max(self) -> Duration {
        Duration::from_secs(match self {
            Self::NodeFreeze
            | Self::NetworkCut
            | Self::NetworkLoss
            | Self::NetworkDelay
            | Self::CpuStarvation
            | Self::BadConfig => 30,
            Self::PodDelete | Self::PodKill | Self::EtcdSlow | Self::DiskFull | Self::DnsDown => 60,
            Self::NodeLoss | Self::ApiRestart | Self::BrokenImage | Self::OperatorKill => 120,
            Self::Roll | Self::Scale | Self::CertificateRotation => 180,
        })
    }

    /// Whether it can be done to a broker; what only the operator does cannot be done without it.
    pub fn concerns(self, broker: Broker) -> bool {
        broker == Broker::Starling
            || !matches!(self, Self::OperatorKill | Self::BadConfig | Self::CertificateRotation)
    }
}

/// One cluster under test, with what faults have to tell about it.
pub struct Victim {
    pub target: Target,
    pub log: Log,
    pub folder: std::path::PathBuf,
    /// Where the clients outside come in, once they do.
    pub entrance: Option<Entrance>,
}

/// All that a fault needs.
pub struct Scene {
    pub arena: Arena,
    pub victims: Vec<Victim>,
    pub random: fastrand::Rng,
    /// While true nobody can say which servers there are.
    pub unclear: Arc<AtomicBool>,
    /// Servers of each cluster between faults.
    pub replicas: usize,
}

/// What was done.
pub struct Done {
    /// Since when everything could recover.
    pub healed: Instant,
    /// How it was seen that the fault took effect.
    pub effect: String,
}

impl Done {
    fn now(effect: impl Into<String>) -> Self {
        Self { healed: Instant::now(), effect: effect.into() }
    }
}

impl Scene {
    /// Does one fault to all clusters.
    pub fn inject(&mut self, fault: Fault) -> Result<Done> {
        match fault {
            Fault::PodDelete => self.pod_delete(),
            Fault::PodKill => self.pod_kill(),
            Fault::NodeFreeze => self.node_freeze(),
            Fault::NodeLoss => self.node_loss(),
            Fault::NetworkCut => self.network_cut(),
            Fault::NetworkLoss => self.network_loss(),
            Fault::NetworkDelay => self.network_delay(),
            Fault::OperatorKill => self.operator_kill(),
            Fault::ApiRestart => self.api_restart(),
            Fault::EtcdSlow => self.etcd_slow(),
            Fault::BrokenImage => self.broken_image(),
            Fault::Roll => self.roll(),
            Fault::BadConfig => self.bad_config(),
            Fault::CertificateRotation => self.certificate_rotation(),
            Fault::Scale => self.scale(),
            Fault::DiskFull => self.disk_full(),
            Fault::CpuStarvation => self.cpu_starvation(),
            Fault::DnsDown => self.dns_down(),
        }
    }

    /// Sees to it that no server has two clients from outside more than another: a fault shall hit as many in each
    /// cluster. Ends when none that had to move excuses anything any more.
    pub fn balance(&self) -> Result<()> {
        let entrances = || self.victims.iter().filter_map(|victim| victim.entrance.as_ref());
        for _ in 0..3 {
            let mut moved = 0;
            for entrance in entrances() {
                moved += entrance.balance()?;
            }
            if moved == 0 {
                return Ok(());
            }
            sleep(CALM);
        }
        Ok(())
    }

    fn node(&mut self) -> String {
        format!("n{}", self.random.u8(1..=self.arena.provider.nodes))
    }

    fn seconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_secs(self.random.u64(from..=to))
    }

    /// One server of each cluster, the same of all.
    fn chosen(&mut self) -> Result<Vec<(Target, Server)>> {
        let (at, mut chosen) = (self.random.usize(0..self.replicas), Vec::new());
        for victim in &self.victims {
            let servers = victim.target.servers()?;
            chosen.push((
                victim.target.clone(),
                servers.get(at % servers.len().max(1)).context("no server")?.clone(),
            ));
        }
        Ok(chosen)
    }

    /// From now on, and until all clusters are whole again, nobody can say which servers there are: Kubernetes
    /// itself notices a dead server later than its neighbours do.
    fn nobody_knows(&self) {
        self.unclear.store(true, Ordering::Relaxed);
        self.victims.iter().for_each(|victim| victim.log.note(What::Truth { servers: None }));
    }

    /// Tells the checker that routes to a node may be lost, from now on until `reachable`.
    fn unreachable(&self, node: &str) -> Result<()> {
        self.nobody_knows();
        for victim in &self.victims {
            let servers = victim.target.servers().unwrap_or_default();
            let mut names: BTreeSet<String> =
                servers.into_iter().filter(|server| server.node == node).map(|server| server.name).collect();
            for entry in std::fs::read_dir(&victim.folder)?.flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                if file.contains(&format!("-{node}-")) {
                    names.insert(file.trim_end_matches(".log").to_owned());
                }
            }
            victim.log.note(What::Cut { names });
        }
        Ok(())
    }

    /// All nodes are in reach again.
    pub fn reachable(&self) {
        self.victims.iter().for_each(|victim| victim.log.note(What::Healed));
    }

    fn pod_delete(&mut self) -> Result<Done> {
        let chosen = self.chosen()?;
        self.nobody_knows();
        let start = Instant::now();
        for (target, server) in &chosen {
            target.kubernetes.kubectl(&["delete", "pod", &server.name, "--wait=false"])?;
        }
        for (target, server) in &chosen {
            eventually("the pod is another one", PATIENCE, || {
                let pods = target.pods()?;
                ensure!(pods.iter().all(|pod| pod["metadata"]["uid"] != *server.uid), "still there");
                Ok(())
            })?;
        }
        Ok(Done { healed: start, effect: format!("{} has another uid", chosen[0].1.name) })
    }

    fn kill_servers(&self, chosen: &[(Target, Server)]) -> Result<()> {
        for (target, server) in chosen {
            kill_process(self.arena.process_of(&server.uid, target.program())?, Signal::KILL)?;
        }
        Ok(())
    }

    fn restarted(&self, chosen: &[(Target, Server)]) -> Result<String> {
        for (target, server) in chosen {
            eventually("the container is started anew", PATIENCE, || {
                let pods = target.pods()?;
                let pod =
                    pods.iter().find(|pod| pod["metadata"]["uid"] == *server.uid).context("pod gone")?;
                let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
                ensure!(restarts > Some(server.restarts), "restarts: {restarts:?}");
                Ok(())
            })?;
        }
        Ok(format!("{}: one more restart", chosen.first().map_or("", |(_, server)| &server.name)))
    }

    fn pod_kill(&mut self) -> Result<Done> {
        let chosen = self.chosen()?;
        self.nobody_knows();
        let start = Instant::now();
        self.kill_servers(&chosen)?;
        let effect = self.restarted(&chosen)?;
        Ok(Done { healed: start, effect })
    }

    fn node_freeze(&mut self) -> Result<Done> {
        let (node, long) = (self.node(), self.seconds(5, 15));
        self.unreachable(&node)?;
        let frozen: Vec<_> =
            self.victims.iter().filter_map(|victim| victim.target.servers().ok()).flatten().collect();
        self.arena.freeze(&node, true)?;
        let silent = frozen.iter().filter(|server| server.node == node).all(|server| {
            std::thread::sleep(Duration::from_millis(100));
            crate::http::get(&format!("http://{}:8222/healthz", server.address)).is_err()
        });
        sleep(long);
        self.arena.freeze(&node, false)?;
        self.reachable();
        ensure!(silent, "a server on {node} answered though it was frozen");
        Ok(Done::now(format!("{node} gave no answer for {} s", long.as_secs())))
    }

    fn node_loss(&mut self) -> Result<Done> {
        let node = self.node();
        self.unreachable(&node)?;
        self.arena.provider.node("partition", &node)?;
        self.arena.provider.node("crash", &node)?;
        let kubernetes = self.arena.kubernetes.clone();
        let lost = eventually("the node is not ready", Duration::from_secs(90), || {
            let object = kubernetes.get(&["node", &node])?;
            match condition(&object, "Ready") {
                Some((status, ..)) if status != "True" => Ok(()),
                other => bail!("Ready is {other:?}"),
            }
        });
        self.arena.provider.node("heal", &node)?;
        self.arena.provider.node("start", &node)?;
        lost?;
        let healed = Instant::now();
        eventually("the node is ready again", Duration::from_secs(90), || {
            let object = kubernetes.get(&["node", &node])?;
            crate::kubernetes::expect_condition(&object, "Ready", "True")
        })?;
        self.reachable();
        Ok(Done { healed, effect: format!("{node} was NotReady") })
    }

    fn network_cut(&mut self) -> Result<Done> {
        let (node, long) = (self.node(), self.seconds(3, 25));
        self.unreachable(&node)?;
        self.arena.provider.node("partition", &node)?;
        let number = node.trim_start_matches('n');
        let address = format!("10.99.0.{number}:10250");
        let reached = std::net::TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(1)).is_ok();
        sleep(long);
        self.arena.provider.node("heal", &node)?;
        self.reachable();
        ensure!(!reached, "{node} was reached though its cable was out");
        Ok(Done::now(format!("{node} not reached for {} s", long.as_secs())))
    }

    fn network_loss(&mut self) -> Result<Done> {
        let (node, long) = (self.node(), self.seconds(10, 20));
        let rules = "add table inet chaos; add chain inet chaos in { type filter hook prerouting priority -300; }; \
                     add rule inet chaos in iifname eth0 numgen random mod 10 == 0 counter drop";
        self.arena.in_node(&node, &["nft", rules])?;
        sleep(long);
        let listed = self.arena.in_node(&node, &["nft", "list", "table", "inet", "chaos"])?;
        self.arena.in_node(&node, &["nft", "delete", "table", "inet", "chaos"])?;
        let dropped =
            listed.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        ensure!(dropped > Some(0), "no packet was dropped: {listed}");
        Ok(Done::now(format!("{} packets to {node} dropped", dropped.unwrap_or(0))))
    }

    /// The kernel here has no netem; a queue before a slow link delays as a congested one does. The link takes less than
    /// is sent, so servers give up routes over it as too slow, and what waits for these is lost.
    fn network_delay(&mut self) -> Result<Done> {
        let (node, long) = (self.node(), self.seconds(10, 20));
        self.unreachable(&node)?;
        let shape = ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "400kbit", "burst", "4kb"];
        self.arena.in_node(&node, &[&shape[..], &["latency", "600ms"]].concat())?;
        sleep(long);
        let listed = self.arena.in_node(&node, &["tc", "-s", "qdisc", "show", "dev", "eth0"])?;
        self.arena.in_node(&node, &["tc", "qdisc", "del", "dev", "eth0", "root"])?;
        self.reachable();
        let waited = listed
            .split_once("overlimits ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        ensure!(waited > Some(0), "no packet waited: {listed}");
        Ok(Done::now(format!("packets from {node} waited {} times", waited.unwrap_or(0))))
    }

    /// Kills the operator whenever something of the cluster has changed, until a condition holds.
    fn killing_the_operator(&self, target: &Target, mut until: impl FnMut() -> Result<()>) -> Result<u32> {
        let operator = ["-n", OPERATOR_NAMESPACE];
        let kill =
            [&operator[..], &["delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"]]
                .concat();
        let (mut kills, mut seen, end) = (0, BTreeSet::new(), Instant::now() + PATIENCE);
        loop {
            let names: BTreeSet<String> = target
                .pods()?
                .iter()
                .map(|pod| {
                    let leaves = !pod["metadata"]["deletionTimestamp"].is_null();
                    let ready = condition(pod, "Ready").map(|(status, ..)| status.to_owned());
                    format!("{} {leaves} {ready:?}", pod["metadata"]["uid"])
                })
                .collect();
            if names != seen {
                seen = names;
                target.kubernetes.kubectl(&kill)?;
                kills += 1;
            }
            match until() {
                Ok(()) => return Ok(kills),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => sleep(Duration::from_millis(200)),
            }
        }
    }

    fn operator_kill(&mut self) -> Result<Done> {
        let target = self.victims.first().context("no cluster")?.target.clone();
        let mut kills = 0;
        for replicas in [self.replicas + 1, self.replicas] {
            target.scale(replicas)?;
            kills += self.killing_the_operator(&target, || target.whole(replicas).map(|_| ()))?;
        }
        let before: BTreeSet<_> = target.servers()?.into_iter().map(|server| server.uid).collect();
        target.roll(self.random.u64(..))?;
        kills += self.killing_the_operator(&target, || {
            let servers = target.whole(self.replicas)?;
            ensure!(servers.iter().all(|server| !before.contains(&server.uid)), "not all are new");
            Ok(())
        })?;
        ensure!(kills >= 5, "only {kills} kills");
        Ok(Done::now(format!("killed {kills} times; the cluster grew, shrank and rolled")))
    }

    fn api_restart(&mut self) -> Result<Done> {
        let away = self.seconds(3, 12);
        self.nobody_knows();
        let before = self.arena.control_plane("kube-apiserver")?;
        self.arena.restart("kube-apiserver", away)?;
        let healed = Instant::now();
        eventually("the API server answers", Duration::from_secs(60), || {
            self.arena.kubernetes.kubectl(&["get", "--raw", "/readyz"])
        })?;
        ensure!(self.arena.control_plane("kube-apiserver")? != before, "it is the same process");
        Ok(Done { healed, effect: format!("another process after {} s", away.as_secs()) })
    }

    fn etcd_slow(&mut self) -> Result<Done> {
        self.nobody_knows();
        let end = Instant::now() + self.seconds(10, 20);
        let chosen = self.chosen()?;
        let kubernetes = self.arena.kubernetes.clone();
        let asked = std::thread::spawn(move || {
            let start = Instant::now();
            let _ = kubernetes.kubectl(&["create", "configmap", "slow"]);
            let took = start.elapsed();
            let _ = kubernetes.kubectl(&["delete", "configmap", "slow"]);
            took
        });
        // Something to do for everybody meanwhile.
        self.kill_servers(&chosen)?;
        while Instant::now() < end {
            self.arena.signal("etcd", Signal::STOP)?;
            sleep(Duration::from_millis(900));
            self.arena.signal("etcd", Signal::CONT)?;
            sleep(Duration::from_millis(100));
        }
        let healed = Instant::now();
        let took = asked.join().ok().context("the asking thread failed")?;
        ensure!(took > Duration::from_millis(800), "a write took only {took:?}");
        Ok(Done { healed, effect: format!("a write took {:.1} s; a server was killed", took.as_secs_f64()) })
    }

    fn broken_image(&mut self) -> Result<Done> {
        for victim in &self.victims {
            victim.target.image(true)?;
        }
        let mut effect = String::new();
        for Victim { target, .. } in &self.victims {
            effect = eventually("a pod cannot get its image", PATIENCE, || {
                let pods = target.pods()?;
                let waiting = pods.iter().find_map(|pod| {
                    let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
                    reason.as_str().filter(|reason| reason.contains("Image"))
                });
                waiting.map(Into::into).context("no pod waits for an image")
            })?;
        }
        sleep(Duration::from_secs(15));
        for Victim { target, .. } in &self.victims {
            let pods = target.pods()?;
            let ready =
                pods.iter().filter(|pod| crate::kubernetes::expect_condition(pod, "Ready", "True").is_ok());
            let ready = ready.count();
            ensure!(ready + 1 >= self.replicas, "{}: only {ready} servers are left", target.name());
        }
        let healed = Instant::now();
        for Victim { target, .. } in &self.victims {
            target.image(false)?;
            if target.broker == Broker::NatsServer {
                // A StatefulSet never replaces a pod that is not ready; its users have to.
                for pod in target.pods()? {
                    if crate::kubernetes::expect_condition(&pod, "Ready", "True").is_err() {
                        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                        target.kubernetes.kubectl(&["delete", "pod", name, "--wait=false"])?;
                    }
                }
            }
        }
        Ok(Done { healed, effect: format!("one pod with {effect}, the others untouched") })
    }

    fn roll(&mut self) -> Result<Done> {
        let start = Instant::now();
        let mark = self.random.u64(..);
        let mut before = Vec::new();
        for Victim { target, .. } in &self.victims {
            before.push(target.servers()?);
            target.roll(mark)?;
        }
        for (Victim { target, .. }, before) in self.victims.iter().zip(&before) {
            eventually("all servers are new", PATIENCE, || {
                let servers = target.whole(self.replicas)?;
                let old = servers.iter().filter(|new| before.iter().any(|old| old.uid == new.uid)).count();
                ensure!(old == 0, "{old} servers are old");
                Ok(())
            })?;
        }
        Ok(Done { healed: start, effect: "all servers have other uids".into() })
    }

    fn bad_config(&mut self) -> Result<Done> {
        let target = self.victims.first().context("no cluster")?.target.clone();
        let before = target.servers()?;
        target.patch("{\"spec\":{\"config\":{\"merge\":{\"no_such_key\":7}}}}")?;
        let effect = eventually("Stalled says why", Duration::from_secs(60), || {
            let object = target.kubernetes.get(&[&target.object()])?;
            match condition(&object, "Stalled") {
                Some(("True", reason, message)) if message.contains("no_such_key") => Ok(reason.to_owned()),
                other => bail!("Stalled is {other:?}"),
            }
        })?;
        sleep(Duration::from_secs(5));
        let untouched = target.servers()? == before;
        target.patch("{\"spec\":{\"config\":{\"merge\":null}}}")?;
        ensure!(untouched, "a server was touched");
        Ok(Done::now(format!("Stalled: {effect}; no server touched")))
    }

    fn certificate_rotation(&mut self) -> Result<Done> {
        let target = self.victims.first().context("no cluster")?.target.clone();
        let start = Instant::now();
        let before = target.servers()?;
        let shown = |server: &Server| -> Result<String> {
            let variables = crate::http::json(&format!("http://{}:8222/varz", server.address))?;
            let until = variables["cluster"]["tls_cert_not_after"].as_str();
            Ok(until.context("no certificate of routes in /varz")?.to_owned())
        };
        for annotation in ["starling.dev/rotate-certificates", "starling.dev/rotate-ca"] {
            let old: Vec<String> = before.iter().map(shown).collect::<Result<_>>()?;
            let mark = format!("{annotation}={}", self.random.u64(..));
            target.kubernetes.kubectl(&["annotate", "--overwrite", &target.object(), &mark])?;
            eventually("all servers show another certificate", PATIENCE, || {
                for (server, old) in before.iter().zip(&old) {
                    ensure!(shown(server)? != *old, "{} shows the old one", server.name);
                }
                Ok(())
            })?;
        }
        ensure!(target.servers()? == before, "a server was restarted");
        Ok(Done { healed: start, effect: "all servers show other certificates, twice; no restart".into() })
    }

    fn scale(&mut self) -> Result<Done> {
        let mut healed = Instant::now();
        for replicas in [7, 2, 5, self.replicas] {
            healed = Instant::now();
            for Victim { target, .. } in &self.victims {
                target.scale(replicas)?;
            }
            for Victim { target, .. } in &self.victims {
                target.wait_whole(replicas, PATIENCE)?;
            }
        }
        Ok(Done { healed, effect: "whole with 7, 2, 5 and 3 servers".into() })
    }

    fn disk_full(&mut self) -> Result<Done> {
        let chosen = self.chosen()?;
        let nodes: BTreeSet<_> = chosen.iter().map(|(_, server)| server.node.clone()).collect();
        let mut fills = Vec::new();
        let mut full = 0;
        for node in &nodes {
            let path = self.arena.pod_logs(node)?.join("fill");
            let mut file = std::fs::File::create(&path)?;
            let block = vec![0; 1 << 16];
            // A tmpfs of a few megabytes (K8S_POD_LOGS_MB); never this machine's own disk.
            for _ in 0..4096 {
                if file.write_all(&block).is_err() {
                    full += 1;
                    break;
                }
            }
            fills.push((path, file));
        }
        sleep(Duration::from_secs(5));
        if full == nodes.len() {
            self.nobody_knows();
            self.kill_servers(&chosen)?;
        }
        sleep(Duration::from_secs(10));
        for (path, file) in fills {
            // The kubelet tidies up what is not a pod's, perhaps this; open, it takes its space all the same.
            let _ = std::fs::remove_file(path);
            drop(file);
        }
        let healed = Instant::now();
        ensure!(
            full == nodes.len(),
            "the disk took everything: no disk of its own for logs (K8S_POD_LOGS_MB)"
        );
        let effect = self.restarted(&chosen)?;
        Ok(Done {
            healed,
            effect: format!(
                "no space left on {}; {effect}",
                nodes.into_iter().collect::<Vec<_>>().join(", ")
            ),
        })
    }

    fn cpu_starvation(&mut self) -> Result<Done> {
        let long = self.seconds(10, 20);
        let mut groups = Vec::new();
        for (_, server) in self.chosen()? {
            let group = self.arena.pod_group("cpu", &server.node, &server.uid)?;
            if group.join("cpu.max").exists() {
                std::fs::write(group.join("cpu.max"), "2000 100000")?;
            } else {
                std::fs::write(group.join("cpu.cfs_quota_us"), "2000")?;
            }
            groups.push(group);
        }
        sleep(long);
        let mut waited = Vec::new();
        for group in &groups {
            let statistics = std::fs::read_to_string(group.join("cpu.stat"))?;
            let line = statistics.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            waited.push(line.context("no nr_throttled")?.trim().parse::<u64>()?);
            if group.join("cpu.max").exists() {
                std::fs::write(group.join("cpu.max"), "max 100000")?;
            } else {
                std::fs::write(group.join("cpu.cfs_quota_us"), "-1")?;
            }
        }
        ensure!(waited.iter().all(|count| *count > 0), "nobody was held back: {waited:?}");
        Ok(Done::now(format!("held back {waited:?} times")))
    }

    fn dns_down(&mut self) -> Result<Done> {
        let chosen = self.chosen()?;
        self.nobody_knows();
        self.arena.signal("coredns", Signal::STOP)?;
        // The signal takes effect a moment after it was sent.
        let silent = eventually("DNS is silent", Duration::from_secs(5), || {
            ensure!(crate::http::get("http://127.0.0.1:8181/ready").is_err(), "it answers");
            Ok(())
        });
        for (target, server) in &chosen {
            target.kubernetes.kubectl(&["delete", "pod", &server.name, "--wait=false"])?;
        }
        sleep(self.seconds(15, 25));
        self.arena.signal("coredns", Signal::CONT)?;
        let healed = Instant::now();
        silent?;
        for (target, server) in &chosen {
            eventually("the pod is another one", PATIENCE, || {
                ensure!(
                    target.pods()?.iter().all(|pod| pod["metadata"]["uid"] != *server.uid),
                    "still there"
                );
                Ok(())
            })?;
        }
        Ok(Done { healed, effect: "CoreDNS gave no answer; a pod was replaced meanwhile".into() })
    }
}
