//! Servers as processes, ours and nats-server's, with the same configuration files.
//!
//! Owns the processes, their ports and what their monitors say. Never judges: that is the stories'.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http;
use crate::process::{Running, eventually};

/// How long a server may take until its monitor answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Where monitors listen when servers are on loopback.
const MONITORS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The next port to be given out: in a network of its own every port below the ephemeral ones is free.
static NEXT_PORT: AtomicU16 = AtomicU16::new(10_000);

/// Whose program a member runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// starling-server.
    Ours,
    /// nats-server.
    Theirs,
}

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// starling-server.
    pub candidate: PathBuf,
    /// nats-server, where a story needs it.
    pub reference: Option<PathBuf>,
}

impl Programs {
    fn of(&self, kind: Kind) -> Result<&Path> {
        match kind {
            Kind::Ours => Ok(&self.candidate),
            Kind::Theirs => self.reference.as_deref().context("name nats-server with --reference"),
        }
    }
}

/// Where and how a member is started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its `server_name`.
    pub name: String,
    /// Whose program.
    pub kind: Kind,
    /// The address that it listens on.
    pub host: Ipv4Addr,
    /// Lines for the `cluster` block.
    pub cluster: String,
    /// Lines for the file itself.
    pub more: String,
    /// What comes before the program on its command line: `nsenter …`.
    pub prefix: Vec<String>,
    /// Environment.
    pub environment: Vec<(String, String)>,
}

impl Plan {
    /// A member on loopback.
    pub fn new(name: &str, kind: Kind) -> Plan {
        Plan {
            name: name.to_owned(),
            kind,
            host: Ipv4Addr::LOCALHOST,
            cluster: String::new(),
            more: String::new(),
            prefix: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The same with lines for the file.
    pub fn with(mut self, more: &str) -> Plan {
        self.more.push_str(more);
        self
    }

    /// The same with lines for the `cluster` block.
    pub fn with_cluster(mut self, lines: &str) -> Plan {
        self.cluster.push_str(lines);
        self
    }
}

/// One server.
pub struct Member {
    /// How it was started.
    pub plan: Plan,
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` for routes.
    pub route: String,
    monitor: String,
    process: Running,
}

impl Member {
    /// `nats://host:port`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.client)
    }

    /// A page of its monitor.
    pub fn page(&self, page: &str) -> Result<Value> {
        http::json(&format!("http://{}/{page}", self.monitor))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name()))
    }

    /// Waits for the process's end.
    pub fn ended(&mut self, patience: Duration) -> Result<()> {
        let name = self.plan.name.clone();
        eventually(&format!("{name} ends"), patience, || {
            ensure!(self.process.ended()?.is_some(), "{name} still runs");
            Ok(())
        })
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()).context("no VmRSS")?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    }

    /// Processor time used so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let mut nanos = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += stat.split_whitespace().next().context("an empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The servers that it has routes with, by name, with the subjects that each of them told.
    pub fn peers(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let routez = self.page("routez?subs=1")?;
        let mut peers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for route in routez["routes"].as_array().context("no routes")? {
            let name = route["remote_name"].as_str().unwrap_or_default();
            let told = peers.entry(name.to_owned()).or_default();
            let list = route["subscriptions_list"].as_array().cloned().unwrap_or_default();
            told.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        Ok(peers)
    }

    /// Names of the servers that it has routes with.
    pub fn peer_names(&self) -> Result<BTreeSet<String>> {
        let routez = self.page("routez")?;
        let routes = routez["routes"].as_array().context("no routes")?;
        Ok(routes.iter().filter_map(|route| route["remote_name"].as_str()).map(str::to_owned).collect())
    }

    /// Subjects that its own clients subscribe to.
    pub fn local_subjects(&self) -> Result<BTreeSet<String>> {
        let connz = self.page("connz?subs=1&limit=100000")?;
        let mut subjects = BTreeSet::new();
        for connection in connz["connections"].as_array().context("no connections")? {
            let list = connection["subscriptions_list"].as_array().cloned().unwrap_or_default();
            subjects.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        Ok(subjects)
    }

    /// The last lines of its log.
    pub fn log(&self, folder: &Path) -> String {
        std::fs::read_to_string(folder.join(format!("{}.log", self.plan.name))).unwrap_or_default()
    }
}

/// Servers of one cluster.
pub struct Fleet {
    programs: Programs,
    folder: tempfile::TempDir,
    /// Those that run, in the order of their start.
    pub members: Vec<Member>,
    /// Addresses that newcomers are told; default: those of the first three members.
    pub seeds: Option<Vec<String>>,
}

impl Fleet {
    /// No servers yet.
    pub fn new(programs: &Programs) -> Result<Fleet> {
        Ok(Fleet {
            programs: programs.clone(),
            folder: tempfile::tempdir()?,
            members: Vec::new(),
            seeds: None,
        })
    }

    /// Where configurations and logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server and returns at once; [`Fleet::ready`] waits.
    pub fn start(&mut self, plan: Plan) -> Result<usize> {
        let first = NEXT_PORT.fetch_add(3, Ordering::Relaxed);
        let (client, route, monitor) = (first, first + 1, first + 2);
        let host = plan.host;
        // monitors have an address of their own, so that what they say is not counted with the routes
        let page = if host.is_loopback() { MONITORS } else { host };
        let routes = match &self.seeds {
            Some(seeds) => seeds.clone(),
            None => self.members.iter().take(3).map(|member| member.route.clone()).collect(),
        };
        let routes: Vec<String> = routes.iter().map(|route| format!("\"nats://{route}\"")).collect();
        let text = format!(
            "server_name: \"{}\"\nhost: \"{host}\"\nport: {client}\nhttp: \"{page}:{monitor}\"\n\
             cluster {{\n  name: e2e\n  host: \"{host}\"\n  port: {route}\n  routes: [{}]\n{}\n}}\n{}\n",
            plan.name,
            routes.join(", "),
            plan.cluster,
            plan.more
        );
        let file = self.folder().join(format!("{}.conf", plan.name));
        std::fs::write(&file, text)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder().join(format!("{}.log", plan.name)))?;
        let program = self.programs.of(plan.kind)?;
        let mut command = match plan.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(log);
        command.envs(plan.environment.iter().map(|(name, value)| (name, value)));
        let process = Running::start(&mut command)?;
        self.members.push(Member {
            client: format!("{host}:{client}"),
            route: format!("{host}:{route}"),
            monitor: format!("{page}:{monitor}"),
            plan,
            process,
        });
        Ok(self.members.len() - 1)
    }

    /// A started server's monitor answers.
    pub fn ready(&mut self, index: usize) -> Result<()> {
        let folder = self.folder.path().to_owned();
        let member = self.members.get_mut(index).context("no such member")?;
        let name = member.plan.name.clone();
        let end = Instant::now() + START_TIMEOUT;
        loop {
            if member.page("varz").is_ok() {
                return Ok(());
            }
            if let Some(status) = member.process.ended()? {
                anyhow::bail!("{name} ended with {status}:\n{}", member.log(&folder));
            }
            ensure!(Instant::now() < end, "{name} does not answer:\n{}", member.log(&folder));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a server and waits until it answers.
    pub fn add(&mut self, plan: Plan) -> Result<usize> {
        let index = self.start(plan)?;
        self.ready(index)?;
        Ok(index)
    }

    /// Takes a member out; dropping it ends it.
    pub fn take(&mut self, name: &str) -> Result<Member> {
        let index = self.members.iter().position(|member| member.name() == name);
        Ok(self.members.remove(index.with_context(|| format!("no member {name}"))?))
    }

    /// Ends a member as `--signal ldm` does, and waits for its end.
    pub fn drain(&mut self, name: &str, patience: Duration) -> Result<()> {
        let mut member = self.take(name)?;
        member.signal(Signal::USR2)?;
        member.ended(patience)
    }

    /// Whether every member has routes with exactly the others.
    pub fn check_mesh(&self) -> Result<()> {
        let all: BTreeSet<String> = self.members.iter().map(|member| member.name().to_owned()).collect();
        for member in &self.members {
            let mut expected = all.clone();
            expected.remove(member.name());
            let found = member.peer_names()?;
            ensure!(
                found == expected,
                "{} has routes with {} of {} servers; missing {:?}, beyond {:?}",
                member.name(),
                found.len(),
                expected.len(),
                expected.difference(&found).take(5).collect::<Vec<_>>(),
                found.difference(&expected).take(5).collect::<Vec<_>>()
            );
        }
        Ok(())
    }

    /// Waits for the full mesh; how long it took.
    pub fn mesh(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        eventually("the full mesh", patience, || self.check_mesh())?;
        Ok(start.elapsed())
    }

    /// Whether every member knows exactly the interest of the clients of each other member, `$SYS` and other
    /// servers' own subjects apart.
    pub fn check_interest(&self) -> Result<()> {
        self.check_mesh()?;
        let own = |subjects: BTreeSet<String>| -> BTreeSet<String> {
            let internal = |subject: &str| subject.starts_with('$') || subject.starts_with("_R_");
            subjects.into_iter().filter(|subject| !internal(subject)).collect()
        };
        let mut local = BTreeMap::new();
        for member in &self.members {
            local.insert(member.name().to_owned(), own(member.local_subjects()?));
        }
        for member in &self.members {
            for (peer, told) in member.peers()? {
                let told = own(told);
                let expected = local.get(&peer).with_context(|| format!("unknown peer {peer}"))?;
                ensure!(
                    told == *expected,
                    "{} believes that clients of {peer} want {told:?}; they want {expected:?}",
                    member.name()
                );
            }
        }
        Ok(())
    }

    /// Waits until [`Fleet::check_interest`] holds; how long it took.
    pub fn interest(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        eventually("exact interest on all sides", patience, || self.check_interest())?;
        Ok(start.elapsed())
    }

    /// The client addresses of all members.
    pub fn client_addresses(&self) -> BTreeSet<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }
}
