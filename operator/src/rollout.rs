//! What to do next: at most one step that disturbs anybody.
//!
//! Owns the order of scaling, reloading and replacing, and the gates between steps. Pure: it sees what
//! was observed and answers with a [`Plan`]. It keeps nothing between calls, so an operator that was
//! killed at any point goes on where it was. Never knows whether a server is a pod or a process.
//!
//! The promise, tested over random histories: a step never takes down a server that works while another
//! one that is to stay does not work, or while any is on its way out; so never two servers down by our
//! doing.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::build::config::Reload;
use crate::validate::Cluster;

/// A server as a driver saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Ordinal; servers are `0..n`, and the highest leave first.
    pub ordinal: u32,
    /// Hash of the template that the server was made from.
    pub template: String,
    /// Configuration that the server has loaded; `None` if it does not say.
    pub config: Option<String>,
    /// Whether it takes clients.
    pub health: Health,
    /// Being deleted or in lame duck mode.
    pub leaving: bool,
    /// Other servers of the cluster that it is connected to; `None` if unknown.
    pub routes: Option<u32>,
    /// Time since it last changed between ready and not ready, or was created; of a leaving one: since it should
    /// have been gone, or was told, where nobody knows when that is.
    pub state_age: Duration,
    /// Time since it was told to load the newest configuration, if it was.
    pub reload_age: Option<Duration>,
    /// Version that it reports.
    pub version: Option<String>,
    /// Why it does not run, in the driver's words, e.g. `ImagePullBackOff`.
    pub trouble: Option<String>,
    /// End of the certificate that it shows; `None` if it does not say.
    pub certificate_not_after: Option<Timestamp>,
    /// Zone that it says it is in; `None` if it does not say.
    pub zone: Option<String>,
}

/// Whether a server takes clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It says so itself.
    Ready,
    /// It does not, or does not run.
    Unready,
    /// It could not be asked. Never taken for either of the others: a server that we cannot reach may
    /// serve many.
    Unknown,
}

/// All servers of a cluster, as a driver saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Servers that the workload (StatefulSet, or the local runner) is told to keep; `None` if there is no
    /// workload yet.
    pub workload_servers: Option<u32>,
    /// The workload's controller has seen the newest template and number, so what it creates is new.
    pub workload_current: bool,
    /// Servers that exist, by ordinal.
    pub servers: Vec<Server>,
}

impl Observed {
    /// Whether every server is healthy and has loaded this configuration.
    pub fn everybody_runs(&self, config: &str) -> bool {
        let runs = |server: &Server| {
            server.health == Health::Ready && server.config.as_deref() == Some(config) && !server.leaving
        };
        !self.servers.is_empty() && self.servers.iter().all(runs)
    }
}

/// What the servers should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How many.
    pub servers: u32,
    /// Hash of the newest template, which covers every change that needs a restart.
    pub template: String,
    /// Digest of the newest configuration.
    pub config: String,
    /// Change nothing.
    pub paused: bool,
    /// Replace outdated servers, rather than only report them.
    pub automatic: bool,
    /// Whether the driver can have a server load a changed configuration.
    pub reload: Reload,
    /// Time in which a server that was told to reload has done so, or never will.
    pub reload_time_max: Duration,
    /// How long a server must have been healthy before another is touched.
    pub ready_min: Duration,
    /// How long a server may take to become healthy before we call it stuck.
    pub gate_timeout: Duration,
}

impl Target {
    /// The target of a cluster whose newest template and configuration are known.
    pub fn new(
        cluster: &Cluster,
        template: String,
        config: String,
        reload: Reload,
        reload_time_max: Duration,
    ) -> Self {
        Self {
            servers: cluster.servers_wanted(),
            template,
            config,
            paused: cluster.paused,
            automatic: cluster.updates.automatic,
            reload,
            reload_time_max,
            ready_min: cluster.updates.ready_min,
            gate_timeout: cluster.updates.gate_timeout,
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it should be.
    Done,
    /// Start servers up to this number, all at once; disturbs nobody.
    Grow {
        /// Servers now.
        from: u32,
        /// Servers then.
        to: u32,
    },
    /// Put the highest server into lame duck mode and end it.
    Shrink {
        /// Servers now.
        from: u32,
        /// Servers then.
        to: u32,
    },
    /// End all servers at once, without moving clients.
    Stop,
    /// Tell one server to load the newest configuration; disturbs nobody if it is good.
    Reload {
        /// Its ordinal.
        ordinal: u32,
    },
    /// End one server; its successor comes up from the newest template.
    Replace {
        /// Its ordinal.
        ordinal: u32,
        /// Why, for the Event.
        reason: ReplaceReason,
    },
    /// Look again later.
    Wait(Wait),
}

/// Why a server is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceReason {
    /// It was made from an older template.
    Outdated,
    /// It was made from an older template and does not work either.
    OutdatedAndUnready,
}

/// What the next step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The user paused the cluster.
    Paused,
    /// A server leaves.
    Leaving {
        /// Its ordinal.
        ordinal: u32,
        /// For longer than the gate allows.
        overdue: bool,
    },
    /// The workload's controller has not caught up.
    Workload,
    /// A server that the workload is to keep does not exist yet.
    Missing {
        /// Its ordinal.
        ordinal: u32,
    },
    /// A server is not ready.
    Unready {
        /// Its ordinal.
        ordinal: u32,
        /// Why, if the driver knows.
        trouble: Option<String>,
        /// For longer than the gate allows.
        overdue: bool,
    },
    /// A server does not see all others.
    Unmeshed {
        /// Its ordinal.
        ordinal: u32,
        /// Servers that it is connected to.
        routes: Option<u32>,
        /// Servers that it should be connected to.
        expected: u32,
        /// For longer than the gate allows.
        overdue: bool,
    },
    /// A server is healthy, but not yet for long enough.
    Settling {
        /// Its ordinal.
        ordinal: u32,
        /// Time left.
        left: Duration,
    },
    /// A server was made from the newest template and yet reports another configuration, and this driver
    /// cannot have it load the right one.
    NotLoaded {
        /// Its ordinal.
        ordinal: u32,
        /// For longer than the gate allows.
        overdue: bool,
    },
    /// A server was told to reload and does not report the new configuration yet.
    Reloading {
        /// Its ordinal.
        ordinal: u32,
        /// For so long that it must have refused.
        overdue: bool,
    },
    /// Outdated servers wait for the user to replace them.
    OnDelete {
        /// How many.
        outdated: u32,
    },
}

impl Wait {
    /// Whether only somebody's help, or luck, ends this wait.
    pub fn overdue(&self) -> bool {
        match self {
            Wait::Leaving { overdue, .. }
            | Wait::Unready { overdue, .. }
            | Wait::Unmeshed { overdue, .. }
            | Wait::NotLoaded { overdue, .. }
            | Wait::Reloading { overdue, .. } => *overdue,
            Wait::Paused
            | Wait::Workload
            | Wait::Missing { .. }
            | Wait::Settling { .. }
            | Wait::OnDelete { .. } => false,
        }
    }
}

/// The next step, and the number of servers that the workload is to keep once it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// `replicas` of the workload.
    pub workload_servers: u32,
}

/// Plans the next step.
pub fn plan(target: &Target, observed: &Observed) -> Plan {
    let now = observed.workload_servers.unwrap_or(0);
    let keep = |step| Plan { step, workload_servers: now };
    if target.paused {
        return keep(Step::Wait(Wait::Paused));
    }
    if target.servers == 0 {
        return stop(target, observed, now);
    }
    if let Some(wait) = leaving(target, observed, now) {
        return keep(Step::Wait(wait));
    }
    if target.servers > now {
        let step = Step::Grow { from: now, to: target.servers };
        return Plan { step, workload_servers: target.servers };
    }
    if !observed.workload_current {
        return keep(Step::Wait(Wait::Workload));
    }
    if let Some(server) = replaceable_unready(target, observed, now) {
        let reason = ReplaceReason::OutdatedAndUnready;
        return keep(Step::Replace { ordinal: server.ordinal, reason });
    }
    if target.servers < now { shrink(target, observed, now) } else { keep(roll(target, observed, now)) }
}

/// Hibernation: no server stays, so there is nobody to move clients to and nothing to wait for.
fn stop(target: &Target, observed: &Observed, now: u32) -> Plan {
    let step = match observed.servers.last() {
        _ if now > 0 => Step::Stop,
        Some(server) => {
            let overdue = server.state_age > target.gate_timeout;
            Step::Wait(Wait::Leaving { ordinal: server.ordinal, overdue })
        }
        None => Step::Done,
    };
    Plan { step, workload_servers: 0 }
}

/// A server on its way out holds up every step, but for growth that does not need its ordinal.
fn leaving(target: &Target, observed: &Observed, now: u32) -> Option<Wait> {
    let grows = target.servers > now;
    let leaving = |server: &&Server| server.leaving || server.ordinal >= now;
    let blocks = |server: &&Server| !grows || server.ordinal >= now;
    let server = observed.servers.iter().filter(leaving).find(blocks)?;
    Some(Wait::Leaving { ordinal: server.ordinal, overdue: server.state_age > target.gate_timeout })
}

/// A server of an older template that does not work: replacing it takes nobody down and may be the cure.
/// Servers about to leave are not worth it.
fn replaceable_unready<'a>(target: &Target, observed: &'a Observed, now: u32) -> Option<&'a Server> {
    let stays = |server: &&Server| server.ordinal < now.min(target.servers);
    let broken = |server: &&Server| server.health == Health::Unready && server.template != target.template;
    observed.servers.iter().filter(stays).filter(broken).rfind(|_| target.automatic)
}

/// The highest server leaves; if it works, only while all that are to stay do. Broken ones that are to
/// leave as well are not waited for: nobody would mend them.
fn shrink(target: &Target, observed: &Observed, now: u32) -> Plan {
    let victim = now - 1;
    let disturbs =
        observed.servers.iter().any(|server| server.ordinal == victim && server.health != Health::Unready);
    match gate(target, observed, victim.min(target.servers)).filter(|_| disturbs) {
        Some(wait) => Plan { step: Step::Wait(wait), workload_servers: now },
        None => Plan { step: Step::Shrink { from: now, to: victim }, workload_servers: victim },
    }
}

/// Replaces, then reloads, one server at a time. The first is the canary by the gate alone: nobody else
/// is touched until it is healthy again.
fn roll(target: &Target, observed: &Observed, now: u32) -> Step {
    let outdated = |server: &&Server| server.template != target.template;
    let behind = |server: &&Server| server.config.as_ref().is_some_and(|config| *config != target.config);
    let quiet = !observed.servers.iter().any(|server| outdated(&server) || behind(&server));
    // A cluster with nothing to change need not settle to be done.
    let settled = |wait: &Wait| !(quiet && matches!(wait, Wait::Settling { .. }));
    if let Some(wait) = gate(target, observed, now).filter(settled) {
        return Step::Wait(wait);
    }
    // Highest first, as a StatefulSet does, and as scaling down would take them.
    if let Some(server) = observed.servers.iter().rev().find(outdated) {
        if target.automatic {
            return Step::Replace { ordinal: server.ordinal, reason: ReplaceReason::Outdated };
        }
        let outdated = observed.servers.iter().filter(outdated).count();
        return Step::Wait(Wait::OnDelete { outdated: u32::try_from(outdated).unwrap_or(u32::MAX) });
    }
    match observed.servers.iter().rev().find(behind) {
        Some(Server { ordinal, reload_age: Some(age), .. }) => {
            Step::Wait(Wait::Reloading { ordinal: *ordinal, overdue: *age > target.reload_time_max })
        }
        Some(_) if let Some(wait) = canary(target, observed) => Step::Wait(wait),
        Some(server) if target.reload == Reload::Possible => Step::Reload { ordinal: server.ordinal },
        Some(Server { ordinal, state_age, .. }) => {
            Step::Wait(Wait::NotLoaded { ordinal: *ordinal, overdue: *state_age > target.gate_timeout })
        }
        None => Step::Done,
    }
}

/// The first server that loaded a configuration must stay healthy with it for a while before the others do.
fn canary(target: &Target, observed: &Observed) -> Option<Wait> {
    let mut loaded = observed
        .servers
        .iter()
        .filter(|server| server.reload_age.is_some() && server.config.as_ref() == Some(&target.config));
    let first = loaded.next()?;
    let left = target.ready_min.saturating_sub(first.reload_age.unwrap_or_default());
    let wait = Wait::Settling { ordinal: first.ordinal, left };
    (loaded.next().is_none() && !left.is_zero()).then_some(wait)
}

/// What must be waited for before a working server is disturbed, when the first `stay` are to work. Names
/// the root of a trouble first: a server that is missing or does not work, then one that does not see the
/// others, which may only follow from it.
fn gate(target: &Target, observed: &Observed, stay: u32) -> Option<Wait> {
    let find = |ordinal: u32| observed.servers.iter().find(|server| server.ordinal == ordinal);
    if let Some(ordinal) = (0..stay).find(|ordinal| find(*ordinal).is_none()) {
        return Some(Wait::Missing { ordinal });
    }
    let others: Vec<&Server> = (0..stay).filter_map(find).collect();
    if let Some(server) = others.iter().find(|server| server.health == Health::Unready) {
        let overdue = server.state_age > target.gate_timeout;
        return Some(Wait::Unready { ordinal: server.ordinal, trouble: server.trouble.clone(), overdue });
    }
    let expected = stay.saturating_sub(1);
    let alone = |server: &&&Server| {
        server.health == Health::Unknown || server.routes.is_none_or(|routes| routes < expected)
    };
    if let Some(server) = others.iter().find(alone) {
        // The mesh can be no older than its youngest server.
        let youngest = observed.servers.iter().map(|server| server.state_age).min().unwrap_or_default();
        let routes = server.routes.filter(|_| server.health == Health::Ready);
        let overdue = youngest > target.gate_timeout;
        return Some(Wait::Unmeshed { ordinal: server.ordinal, routes, expected, overdue });
    }
    let unsettled = others.iter().max_by_key(|server| target.ready_min.saturating_sub(server.state_age));
    unsettled
        .map(|server| (server.ordinal, target.ready_min.saturating_sub(server.state_age)))
        .filter(|(_, left)| !left.is_zero())
        .map(|(ordinal, left)| Wait::Settling { ordinal, left })
}
