//! Server processes.
//!
//! Owns what a StatefulSet and a kubelet do for pods: keeps the wanted number alive, restarts the crashed
//! with growing pauses, sends leaving ones into lame duck mode and ends those that do not go. Never
//! chooses which server is to go: [`crate::rollout`] does.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::LocalError;
use crate::build::config::{self, CONFIG_FILE, ConfigError, Fragment, Placement};
use crate::build::url_scheme;
use crate::observe::broker::Report;
use crate::rollout::{Health, Observed, Server};
use crate::validate::Cluster;

/// Address that every local server listens on.
const HOST: &str = "127.0.0.1";
/// First pause before a crashed server is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A server that lived this long starts again with the first pause.
const BACKOFF_RESET: Duration = Duration::from_secs(60);
/// What a server gets beyond its lame duck time before it is told to stop, and then again before it is
/// killed.
const LEAVE_GRACE: Duration = Duration::from_secs(10);
/// Folder of the certificate, in the state directory.
pub(super) const TLS_FOLDER: &str = "tls";
/// Log files longer than this are set aside when their server starts.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Ports of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Clients.
    pub client: u16,
    /// Other servers.
    pub route: u16,
    /// Monitoring.
    pub monitor: u16,
}

/// What all servers are started from.
#[derive(Clone, Debug)]
pub struct Template {
    /// The cluster.
    pub cluster: Cluster,
    /// Fragments for `mergeFrom`.
    pub fragments: Vec<Fragment>,
    /// Hash by which an outdated server is known.
    pub hash: String,
    /// Digest of the configuration, apart from names and ports.
    pub config: String,
}

/// One server's process, or its absence until it is started again.
struct Process {
    ports: Ports,
    /// Ports that the spec asked for when `ports` were chosen.
    asked_ports: Ports,
    child: Option<Child>,
    /// Template that the running process was made from.
    template: String,
    started: Instant,
    leaving: Option<Leaving>,
    backoff: Duration,
    start_at: Instant,
    health: Health,
    changed: Instant,
    reload_at: Option<Instant>,
    report: Option<Report>,
    messages_per_second: f64,
    asked: Instant,
    trouble: Option<String>,
}

/// How far a server is on its way out.
#[derive(Clone, Copy)]
struct Leaving {
    since: Instant,
    signalled: Signal,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name.
    pub name: String,
    /// URL for clients.
    pub url: String,
    /// Monitoring address.
    pub monitor: String,
    /// One word.
    pub state: &'static str,
    /// Servers that it is connected to.
    pub routes: Option<u32>,
    /// Clients.
    pub connections: u64,
    /// Messages taken in a second.
    pub messages_per_second: f64,
}

/// All servers of a cluster.
pub struct Workload {
    server: PathBuf,
    directory: PathBuf,
    route_password: String,
    template: Template,
    wanted: u32,
    processes: BTreeMap<u32, Process>,
    /// Digest of a written file, as its server reports it → digest of the configuration it was made from.
    files: HashMap<String, String>,
}

impl Workload {
    /// No server yet. `server` is the broker's program, `directory` holds a folder for each server.
    pub fn new(server: PathBuf, directory: PathBuf, route_password: String, template: Template) -> Self {
        let (processes, files) = (BTreeMap::new(), HashMap::new());
        Self { server, directory, route_password, template, wanted: 0, processes, files }
    }

    /// New servers are made from this from now on.
    pub fn set_template(&mut self, template: Template) {
        if template.config != self.template.config {
            self.processes.values_mut().for_each(|process| process.reload_at = None);
        }
        self.template = template;
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// How many servers are to run. Those above leave, in lame duck mode unless `at_once`.
    pub fn set_wanted(&mut self, wanted: u32, at_once: bool, now: Instant) {
        self.wanted = wanted;
        let signal = if at_once { Signal::TERM } else { Signal::USR2 };
        for (_, process) in self.processes.range_mut(wanted..) {
            process.leave(signal, now);
        }
    }

    /// Sends one server away; while its ordinal is wanted, a successor follows.
    pub fn replace(&mut self, ordinal: u32, now: Instant) {
        if let Some(process) = self.processes.get_mut(&ordinal) {
            // Nobody to send away, nothing to wait for.
            let signal = if process.health == Health::Ready { Signal::USR2 } else { Signal::TERM };
            process.leave(signal, now);
            process.start_at = now;
        }
    }

    /// Writes one server's file again and has it loaded.
    pub fn reload(&mut self, ordinal: u32, now: Instant) -> Result<(), LocalError> {
        let Some(ports) = self.processes.get(&ordinal).map(|process| process.ports) else { return Ok(()) };
        self.write_config(ordinal, ports)?;
        if let Some(process) = self.processes.get_mut(&ordinal) {
            process.reload_at = Some(now);
            process.signal(Signal::HUP);
        }
        Ok(())
    }

    /// Collects the dead, starts what is missing, presses those that overstay. Answers with lines for the
    /// user.
    pub fn tend(&mut self, now: Instant) -> Result<Vec<String>, LocalError> {
        let mut lines = Vec::new();
        let ordinals: Vec<u32> = self.processes.keys().copied().collect();
        for ordinal in ordinals {
            let name = self.template.cluster.server_name(ordinal);
            let log = self.folder(ordinal).join("server.log");
            let lame_duck = self.template.cluster.config.lame_duck_duration;
            let Some(process) = self.processes.get_mut(&ordinal) else { continue };
            process.press(lame_duck, now);
            let Some(ended) = process.ended() else { continue };
            let left = process.leaving.take().is_some();
            process.health = Health::Unready;
            process.changed = now;
            process.report = None;
            if !left {
                process.trouble = Some(format!("{ended}; {}", last_line(&log)));
                lines.push(format!(
                    "{name} ended by itself ({ended}), starts again in {:.1}s: {}",
                    process.backoff.as_secs_f64(),
                    last_line(&log)
                ));
                process.crashed(now);
            }
            if ordinal >= self.wanted {
                self.processes.remove(&ordinal);
            }
        }
        for ordinal in 0..self.wanted {
            if self.processes.get(&ordinal).is_none_or(|process| process.is_due(now)) {
                self.start(ordinal, now)?;
            }
        }
        Ok(lines)
    }

    fn start(&mut self, ordinal: u32, now: Instant) -> Result<(), LocalError> {
        let asked = self.asked_ports();
        // Ports of all that are wanted, so that servers that start together know each other.
        for ordinal in 0..self.wanted {
            if let btree_map::Entry::Vacant(place) = self.processes.entry(ordinal) {
                place.insert(Process::new(free_ports(ordinal, asked)?, asked, now));
            }
        }
        let Some(process) = self.processes.get_mut(&ordinal) else { return Ok(()) };
        let stolen = process.trouble.is_some() && process.report.is_none() && !is_free(process.ports);
        if stolen || process.asked_ports != asked {
            process.ports = free_ports(ordinal, asked)?;
            process.asked_ports = asked;
        }
        let ports = process.ports;
        self.write_config(ordinal, ports)?;
        let folder = self.folder(ordinal);
        let log = open_log(&folder.join("server.log"))?;
        let state = |what| state_error(what, &folder);
        let child = Command::new(&self.server)
            .arg("-c")
            .arg(folder.join(CONFIG_FILE))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(state("cannot open log in"))?)
            .stderr(log)
            // Ctrl-C in the terminal is for us alone: we send clients away first.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| LocalError::State {
                what: "cannot start",
                path: self.server.display().to_string(),
                source,
            })?;
        fs::write(folder.join("pid"), child.id().unwrap_or_default().to_string())
            .map_err(state("cannot write the pid in"))?;
        let template = self.template.hash.clone();
        if let Some(process) = self.processes.get_mut(&ordinal) {
            process.child = Some(child);
            process.template = template;
            process.started = now;
            process.changed = now;
            process.health = Health::Unready;
            process.reload_at = None;
        }
        Ok(())
    }

    fn write_config(&mut self, ordinal: u32, ports: Ports) -> Result<(), LocalError> {
        let routes =
            self.processes.iter().filter(|(other, process)| **other != ordinal && process.leaving.is_none());
        let placement = Placement {
            operator_key: None,
            server_name: Some(self.template.cluster.server_name(ordinal)),
            host: HOST.to_owned(),
            client_port: ports.client,
            route_port: ports.route,
            monitor_port: ports.monitor,
            routes: routes.map(|(_, process)| (HOST.to_owned(), process.ports.route)).collect(),
            tls_folder: self.directory.join(TLS_FOLDER).display().to_string(),
        };
        let Template { cluster, fragments, config: digest, .. } = &self.template;
        let rendered = config::render(cluster, &placement, &self.route_password, fragments)
            .map_err(|error: ConfigError| LocalError::File(error.to_string()))?;
        self.files.insert(rendered.digest, digest.clone());
        let folder = self.folder(ordinal);
        fs::create_dir_all(&folder).map_err(state_error("cannot create", &folder))?;
        let path = folder.join(CONFIG_FILE);
        // Passwords are inside.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(rendered.text.as_bytes()))
            .map_err(state_error("cannot write", &path))
    }

    /// Monitoring addresses of the running servers.
    pub fn monitors(&self) -> Vec<(u32, String)> {
        let running = self.processes.iter().filter(|(_, process)| process.child.is_some());
        running.map(|(ordinal, process)| (*ordinal, format!("{HOST}:{}", process.ports.monitor))).collect()
    }

    /// Takes what a server told, or that it did not answer.
    pub fn reported(&mut self, ordinal: u32, report: Option<Report>, now: Instant) {
        let Some(process) = self.processes.get_mut(&ordinal).filter(|process| process.child.is_some()) else {
            return;
        };
        // A process on this machine that does not answer does not work: no network lies between.
        let health = report.as_ref().map_or(Health::Unready, |report| report.health);
        if health != process.health {
            process.health = health;
            process.changed = now;
        }
        if let (Some(before), Some(after)) = (&process.report, &report) {
            let messages = after.messages_in.saturating_sub(before.messages_in);
            let seconds = now.saturating_duration_since(process.asked).as_secs_f64().max(0.001);
            // Smoothed over about a second, or the table would flicker.
            process.messages_per_second +=
                (messages as f64 / seconds - process.messages_per_second) * seconds.min(1.0);
        }
        if health == Health::Ready {
            process.trouble = None;
        }
        process.asked = now;
        process.report = report;
    }

    /// What [`crate::rollout::plan`] sees.
    pub fn observed(&self, now: Instant) -> Observed {
        let server = |(ordinal, process): (&u32, &Process)| Server {
            ordinal: *ordinal,
            template: process.template.clone(),
            config: process.report.as_ref().and_then(|report| report.config_digest.as_ref()).map(|digest| {
                // A digest that we did not write is some other configuration.
                self.files.get(digest).unwrap_or(digest).clone()
            }),
            health: process.health,
            leaving: process.leaving.is_some(),
            routes: process.report.as_ref().and_then(|report| report.routes),
            state_age: now.saturating_duration_since(process.changed),
            reload_age: process.reload_at.map(|at| now.saturating_duration_since(at)),
            version: process.report.as_ref().and_then(|report| report.version.clone()),
            trouble: process.trouble.clone(),
            certificate_not_after: process.report.as_ref().and_then(|report| report.certificate_not_after),
            zone: None,
        };
        Observed {
            workload_servers: Some(self.wanted),
            workload_current: true,
            servers: self.processes.iter().map(server).collect(),
        }
    }

    /// Rows of the table.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(ordinal, process): (&u32, &Process)| Row {
            name: self.template.cluster.server_name(*ordinal),
            url: format!("{}://{HOST}:{}", url_scheme(&self.template.cluster), process.ports.client),
            monitor: format!("http://{HOST}:{}", process.ports.monitor),
            state: process.state(),
            routes: process.report.as_ref().and_then(|report| report.routes),
            connections: process.report.as_ref().map_or(0, |report| report.connections),
            messages_per_second: process.messages_per_second,
        };
        self.processes.iter().map(row).collect()
    }

    /// Signals all servers; for the end of the runner.
    pub fn signal_all(&mut self, signal: Signal) {
        self.processes.values_mut().for_each(|process| process.signal(signal));
    }

    /// Whether any server still runs.
    pub fn any_running(&mut self) -> bool {
        self.processes.retain(|_, process| process.ended().is_none() && process.child.is_some());
        !self.processes.is_empty()
    }

    fn asked_ports(&self) -> Ports {
        let cluster = &self.template.cluster;
        Ports { client: cluster.listener.port, route: cluster.route_port, monitor: cluster.monitor_port }
    }

    fn folder(&self, ordinal: u32) -> PathBuf {
        self.directory.join(self.template.cluster.server_name(ordinal))
    }
}

impl Process {
    fn new(ports: Ports, asked_ports: Ports, now: Instant) -> Self {
        Self {
            ports,
            asked_ports,
            child: None,
            template: String::new(),
            started: now,
            leaving: None,
            backoff: BACKOFF_MIN,
            start_at: now,
            health: Health::Unready,
            changed: now,
            reload_at: None,
            report: None,
            messages_per_second: 0.0,
            asked: now,
            trouble: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.child.is_none() && self.start_at <= now
    }

    fn signal(&mut self, signal: Signal) {
        let pid =
            self.child.as_ref().and_then(Child::id).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            // A process that is gone already is what we wanted, or is found so by `ended`.
            let _gone = kill_process(pid, signal);
        }
    }

    fn leave(&mut self, signal: Signal, now: Instant) {
        if self.leaving.is_none() {
            self.signal(signal);
            self.leaving = Some(Leaving { since: now, signalled: signal });
            self.changed = now;
        }
    }

    /// A leaving server that takes too long is told more firmly.
    fn press(&mut self, lame_duck: Duration, now: Instant) {
        let Some(leaving) = self.leaving else { return };
        let (next, after) = match leaving.signalled {
            Signal::USR2 => (Signal::TERM, lame_duck + LEAVE_GRACE),
            _ => (Signal::KILL, LEAVE_GRACE),
        };
        if now.saturating_duration_since(leaving.since) > after {
            self.signal(next);
            self.leaving = Some(Leaving { since: now, signalled: next });
        }
    }

    /// How the process ended, once.
    fn ended(&mut self) -> Option<String> {
        match self.child.as_mut()?.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => {
                self.child = None;
                Some(status.to_string())
            }
            Err(error) => {
                self.child = None;
                Some(error.to_string())
            }
        }
    }

    fn crashed(&mut self, now: Instant) {
        if now.saturating_duration_since(self.started) > BACKOFF_RESET {
            self.backoff = BACKOFF_MIN;
        }
        self.start_at = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn state(&self) -> &'static str {
        match (self.leaving, &self.child, self.health) {
            (Some(_), ..) => "leaving",
            (None, None, _) => "down",
            (None, Some(_), Health::Ready) => "ready",
            (None, Some(_), _) => "starting",
        }
    }
}

fn state_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LocalError {
    let path = path.display().to_string();
    move |source| LocalError::State { what, path, source }
}

/// Three free ports. The first server gets those that the spec asks for, as far as they are free.
fn free_ports(ordinal: u32, asked: Ports) -> Result<Ports, LocalError> {
    // All three are held until all are chosen, or the system might give one out twice.
    let bind = |preferred: u16| {
        let preferred = if ordinal == 0 { preferred } else { 0 };
        TcpListener::bind((HOST, preferred)).or_else(|_| TcpListener::bind((HOST, 0)))
    };
    let choose = || -> std::io::Result<Ports> {
        let (client, route, monitor) = (bind(asked.client)?, bind(asked.route)?, bind(asked.monitor)?);
        Ok(Ports {
            client: client.local_addr()?.port(),
            route: route.local_addr()?.port(),
            monitor: monitor.local_addr()?.port(),
        })
    };
    choose().map_err(|error| LocalError::System("cannot find free ports", error))
}

fn is_free(ports: Ports) -> bool {
    [ports.client, ports.route, ports.monitor].iter().all(|port| TcpListener::bind((HOST, *port)).is_ok())
}

fn open_log(path: &Path) -> Result<fs::File, LocalError> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.old")).map_err(state_error("cannot rename", path))?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(state_error("cannot open", path))
}

/// The last line of a log, for a reader who wonders why.
fn last_line(path: &Path) -> String {
    let tail = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(2048);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tail().unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it logged nothing").trim().to_owned()
}
