//! What the user is told: status, conditions, Events.
//!
//! Owns the words. Pure: the clock is an argument, and a condition keeps its transition time while its
//! status stays. Never writes; [`crate::rollout`] has decided everything before.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use k8s_openapi::jiff::Timestamp;

use crate::certificates::Step as Rotation;
use crate::crd::{
    CertificateStatus, Endpoint, NatsClusterStatus, RolloutStatus, ScalingStatus, ServerStatus,
    VersionStatus, condition,
};
use crate::reason::Reason;
use crate::rollout::{Health, Observed, Plan, ReplaceReason, Server, Step, Target, Wait};
use crate::validate::{CertificateSource, Cluster};

/// Everything that a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// What its servers should be.
    pub target: &'a Target,
    /// What they are.
    pub observed: &'a Observed,
    /// What comes next.
    pub plan: &'a Plan,
    /// The servers' certificate; `None` without TLS.
    pub certificate: Option<&'a Certificate>,
}

/// The newest certificate of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Where it is.
    pub secret_name: String,
    /// Its end; `None`: there is none yet.
    pub not_after: Option<Timestamp>,
    /// How far a change of our own authority is.
    pub rotation: Option<&'static str>,
    /// One that ends sooner should have been renewed.
    pub warn_before: Duration,
}

impl Certificate {
    /// The certificate of a cluster; `not_after` is its end, if it exists.
    pub fn of(
        cluster: &Cluster,
        secret_name: String,
        not_after: Option<Timestamp>,
        rotation: Option<&'static str>,
    ) -> Self {
        let renew_before = match cluster.tls.as_ref().map(|tls| &tls.source) {
            Some(CertificateSource::SelfSigned(lifetimes)) => Some(lifetimes.renew_before),
            Some(CertificateSource::CertManager(asked)) => {
                asked.renew_before.parse::<kube::core::Duration>().ok().map(Into::into)
            }
            _ => None,
        };
        let warn_before = renew_before.map_or(EXPIRY_WARNING, |before: Duration| before / 2);
        Self { secret_name, not_after, rotation, warn_before }
    }
}

/// An Event, or a line of the local runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Somebody should look.
    pub warning: bool,
    /// In one word.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
}

/// Makes the status of a valid cluster.
///
/// `endpoints` are the driver's: a Service's URL, or the processes'.
pub fn status(
    view: View<'_>,
    endpoints: Vec<Endpoint>,
    selector: Option<String>,
    previous: Option<&NatsClusterStatus>,
    now: &Time,
) -> NatsClusterStatus {
    let View { cluster, target, observed, .. } = view;
    let rows: Vec<ServerStatus> =
        observed.servers.iter().map(|server| row(cluster, target, server)).collect();
    let count = |test: &dyn Fn(&ServerStatus) -> bool| {
        i32::try_from(rows.iter().filter(|r| test(r)).count()).unwrap_or(i32::MAX)
    };
    let ready_replicas = count(&|row| row.ready);
    let updated_replicas = count(&|row| row.updated);
    let mut status = NatsClusterStatus {
        observed_generation: Some(cluster.generation),
        replicas: count(&|_| true),
        ready_replicas,
        updated_replicas,
        selector,
        version: VersionStatus {
            current: common_version(observed),
            target: Some(cluster.version_target.clone()),
        },
        config_digest: Some(target.config.clone()),
        endpoints,
        certificates: view.certificate.map(|certificate| CertificateStatus {
            secret_name: certificate.secret_name.clone(),
            not_after: certificate.not_after.map(Time),
            rotation: certificate.rotation.map(str::to_owned),
        }),
        rollout: rollout(view, updated_replicas, previous, now),
        scaling: scaling(view),
        servers: rows,
        conditions: Vec::new(),
    };
    let verdicts = [
        ready(view),
        reconciling(view),
        stalled(view),
        available(&status),
        config_applied(view),
        certificates_ready(view, now.0),
    ];
    status.conditions = conditions(verdicts, cluster.generation, previous, now);
    status
}

/// The status of a cluster whose spec cannot be carried out: rows stay as they were last seen, since
/// nothing that runs is touched.
pub fn invalid(
    generation: i64,
    reason: Reason,
    message: &str,
    previous: Option<&NatsClusterStatus>,
    now: &Time,
) -> NatsClusterStatus {
    let mut status = previous.cloned().unwrap_or_default();
    status.observed_generation = Some(generation);
    let verdicts = [
        Verdict::new(condition::READY, false, reason, message),
        Verdict::new(condition::RECONCILING, false, reason, "waiting for a spec that can be carried out"),
        Verdict::new(condition::STALLED, true, reason, message),
        available(&status),
        Verdict::new(condition::CONFIG_APPLIED, false, Reason::Rejected, message),
    ];
    status.conditions = conditions(verdicts, generation, previous, now);
    status
}

/// What is worth an Event: the step that is taken now, and conditions that changed.
pub fn notes(
    cluster: &Cluster,
    step: &Step,
    previous: Option<&NatsClusterStatus>,
    current: &NatsClusterStatus,
) -> Vec<Note> {
    let mut notes: Vec<Note> = step_note(cluster, step).into_iter().collect();
    notes.extend(transition_notes(previous, current));
    notes
}

/// Events of changed conditions.
pub fn transition_notes(previous: Option<&NatsClusterStatus>, current: &NatsClusterStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    let was = |kind: &str| {
        previous.and_then(|status| find(status, kind)).map(|c| (c.status.as_str(), c.reason.as_str()))
    };
    if let Some(stalled) = find(current, condition::STALLED)
        && stalled.status == "True"
        && let Some(reason) = Reason::ALL.iter().copied().find(|reason| reason.as_str() == stalled.reason)
        && was(condition::STALLED) != Some(("True", stalled.reason.as_str()))
    {
        notes.push(Note { warning: true, reason, message: stalled.message.clone() });
    }
    if previous.is_some_and(|status| status.rollout.is_some()) && current.rollout.is_none() {
        let message =
            format!("{} servers run the newest version and configuration", current.updated_replicas);
        notes.push(Note { warning: false, reason: Reason::RolloutCompleted, message });
    }
    if let Some(ready) = find(current, condition::READY)
        && ready.status == "True"
        && was(condition::READY).is_none_or(|(status, _)| status != "True")
    {
        notes.push(Note { warning: false, reason: Reason::Ready, message: ready.message.clone() });
    }
    if let Some(certificates) = find(current, condition::CERTIFICATES_READY)
        && certificates.status == "False"
        && let Some(reason) =
            CERTIFICATE_WARNINGS.iter().copied().find(|reason| reason.as_str() == certificates.reason)
        && was(condition::CERTIFICATES_READY) != Some(("False", reason.as_str()))
    {
        notes.push(Note { warning: true, reason, message: certificates.message.clone() });
    }
    if let Some(available) = find(current, condition::AVAILABLE)
        && available.status == "False"
        && was(condition::AVAILABLE).is_some_and(|(status, _)| status == "True")
    {
        notes.push(Note { warning: true, reason: Reason::Unavailable, message: available.message.clone() });
    }
    notes
}

/// A certificate of somebody else that ends so soon should have been renewed.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reasons of `CertificatesReady=False` that are worth an Event.
const CERTIFICATE_WARNINGS: &[Reason] = &[Reason::CertificateExpiring, Reason::CertificateExpired];

fn step_note(cluster: &Cluster, step: &Step) -> Option<Note> {
    let (reason, message) = match step {
        Step::Grow { from, to } => (Reason::ScaleUp, format!("from {from} to {to} servers")),
        Step::Shrink { from, to } => (
            Reason::ScaleDown,
            format!(
                "from {from} to {to} servers: {} sends its clients to the others and leaves",
                cluster.server_name(*to)
            ),
        ),
        Step::Stop => (Reason::Hibernating, "all servers stop".to_owned()),
        Step::Reload { ordinal } => {
            (Reason::ConfigReloaded, format!("{} loads the new configuration", cluster.server_name(*ordinal)))
        }
        Step::Replace { ordinal, reason } => (
            Reason::ServerRestarting,
            match reason {
                ReplaceReason::Outdated => format!("{} is outdated", cluster.server_name(*ordinal)),
                ReplaceReason::OutdatedAndUnready => {
                    format!("{} is outdated and not ready", cluster.server_name(*ordinal))
                }
            },
        ),
        Step::Done | Step::Wait(_) => return None,
    };
    Some(Note { warning: false, reason, message })
}

fn row(cluster: &Cluster, target: &Target, server: &Server) -> ServerStatus {
    ServerStatus {
        name: cluster.server_name(server.ordinal),
        // A server that only we cannot reach is still one that Kubernetes sends clients to.
        ready: server.health != Health::Unready && !server.leaving,
        leaving: server.leaving,
        updated: is_updated(target, server),
        version: server.version.clone(),
        config_digest: server.config.clone(),
        routes: server.routes.map(|n| i32::try_from(n).unwrap_or(i32::MAX)),
        cert_not_after: server.certificate_not_after.map(Time),
        zone: server.zone.clone(),
    }
}

fn is_updated(target: &Target, server: &Server) -> bool {
    server.template == target.template && server.config.as_ref().is_none_or(|config| *config == target.config)
}

fn common_version(observed: &Observed) -> Option<String> {
    let mut versions = observed.servers.iter().filter(|server| !server.leaving).map(|server| &server.version);
    let first = versions.next()?.clone()?;
    versions.all(|version| version.as_ref() == Some(&first)).then_some(first)
}

fn rollout(
    view: View<'_>,
    updated: i32,
    previous: Option<&NatsClusterStatus>,
    now: &Time,
) -> Option<RolloutStatus> {
    let View { cluster, target, observed, plan, .. } = view;
    let total = i32::try_from(observed.servers.len()).unwrap_or(i32::MAX);
    let before = previous.and_then(|status| status.rollout.as_ref());
    let healing = matches!(plan.step, Step::Wait(_)) && before.is_some();
    let outdated = observed.servers.iter().any(|server| !is_updated(target, server));
    if target.servers == 0 || (!outdated && !healing) {
        return None;
    }
    let current = match &plan.step {
        Step::Replace { ordinal, .. } | Step::Reload { ordinal } => Some(*ordinal),
        Step::Wait(wait) => ordinal_of(wait),
        _ => None,
    };
    Some(RolloutStatus {
        updated,
        total,
        current: current.map(|ordinal| cluster.server_name(ordinal)),
        waiting_for: waiting_for(cluster, &plan.step),
        started_at: before.and_then(|rollout| rollout.started_at.clone()).or_else(|| Some(now.clone())),
    })
}

fn scaling(view: View<'_>) -> Option<ScalingStatus> {
    let View { cluster, target, observed, plan, .. } = view;
    let existing = u32::try_from(observed.servers.len()).unwrap_or(u32::MAX);
    let from = existing.max(observed.workload_servers.unwrap_or(0));
    if from == target.servers && existing == target.servers {
        return None;
    }
    let leaving = match &plan.step {
        Step::Shrink { to, .. } => Some(*to),
        Step::Wait(Wait::Leaving { ordinal, .. }) => Some(*ordinal),
        _ => None,
    };
    Some(ScalingStatus {
        from: i32::try_from(existing).unwrap_or(i32::MAX),
        to: i32::try_from(target.servers).unwrap_or(i32::MAX),
        server: leaving.map(|ordinal| cluster.server_name(ordinal)),
        waiting_for: waiting_for(cluster, &plan.step),
    })
}

fn ordinal_of(wait: &Wait) -> Option<u32> {
    match wait {
        Wait::Leaving { ordinal, .. }
        | Wait::Missing { ordinal }
        | Wait::Unready { ordinal, .. }
        | Wait::Unmeshed { ordinal, .. }
        | Wait::Settling { ordinal, .. }
        | Wait::NotLoaded { ordinal, .. }
        | Wait::Reloading { ordinal, .. } => Some(*ordinal),
        Wait::Paused | Wait::Workload | Wait::OnDelete { .. } => None,
    }
}

/// What a step waits for, in words.
pub fn waiting_for(cluster: &Cluster, step: &Step) -> Option<String> {
    let Step::Wait(wait) = step else { return None };
    let name = |ordinal: &u32| cluster.server_name(*ordinal);
    Some(match wait {
        Wait::Paused => "spec.paused to become false".to_owned(),
        Wait::Leaving { ordinal, overdue: false } => {
            format!("{} to send its clients away and leave", name(ordinal))
        }
        Wait::Leaving { ordinal, overdue: true } => format!(
            "{} to leave, which takes too long; if its node is gone for good, delete the Node, or the pod with --force",
            name(ordinal)
        ),
        Wait::Workload => "the StatefulSet controller to see the newest template".to_owned(),
        Wait::Missing { ordinal } => format!("{} to be created", name(ordinal)),
        Wait::Unready { ordinal, trouble: None, .. } => format!("{} to become ready", name(ordinal)),
        Wait::Unready { ordinal, trouble: Some(trouble), .. } => {
            format!("{} to become ready ({trouble})", name(ordinal))
        }
        Wait::Unmeshed { ordinal, routes: Some(routes), expected, .. } => {
            format!("{} to be connected to all {expected} other servers (now {routes})", name(ordinal))
        }
        Wait::Unmeshed { ordinal, routes: None, .. } => {
            format!("{} to answer on its monitoring port", name(ordinal))
        }
        Wait::Settling { ordinal, left } => {
            format!("{} to stay healthy for another {}s", name(ordinal), left.as_secs() + 1)
        }
        Wait::NotLoaded { ordinal, .. } => {
            format!("{} to report the newest configuration; if it does not, delete its pod", name(ordinal))
        }
        Wait::Reloading { ordinal, overdue: false } => format!("{} to load its configuration", name(ordinal)),
        Wait::Reloading { ordinal, overdue: true } => {
            format!(
                "{} to load its configuration, which it has not done; see its log and the operator's",
                name(ordinal)
            )
        }
        Wait::OnDelete { outdated } => {
            format!(
                "the pods of {outdated} outdated servers to be deleted (spec.updateStrategy.type is OnDelete)"
            )
        }
    })
}

/// A condition without its times.
struct Verdict {
    kind: &'static str,
    holds: Option<bool>,
    reason: Reason,
    message: String,
}

impl Verdict {
    fn new(kind: &'static str, holds: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(holds), reason, message: message.into() }
    }
}

fn ready(view: View<'_>) -> Verdict {
    let View { cluster, target, observed, plan, .. } = view;
    let servers = target.servers;
    let all_ready = observed.servers.iter().filter(|server| server.health == Health::Ready).count()
        == servers as usize
        && observed.servers.iter().all(|server| is_updated(target, server) && !server.leaving);
    match &plan.step {
        Step::Wait(Wait::Paused) => Verdict::new(
            condition::READY,
            all_ready,
            Reason::Paused,
            "spec.paused is true: nothing is changed",
        ),
        _ if cluster.hibernated => Verdict::new(
            condition::READY,
            false,
            Reason::Hibernated,
            "spec.hibernated is true: no server runs",
        ),
        Step::Done => Verdict::new(
            condition::READY,
            true,
            Reason::AllServersReady,
            format!("all {servers} servers are ready"),
        ),
        step => Verdict::new(condition::READY, false, reason(view), doing(cluster, step)),
    }
}

fn reconciling(view: View<'_>) -> Verdict {
    match &view.plan.step {
        Step::Done => Verdict::new(condition::RECONCILING, false, Reason::Done, "nothing to do"),
        Step::Wait(Wait::Paused) => {
            Verdict::new(condition::RECONCILING, false, Reason::Paused, "spec.paused is true")
        }
        step => Verdict::new(condition::RECONCILING, true, reason(view), doing(view.cluster, step)),
    }
}

fn stalled(view: View<'_>) -> Verdict {
    match &view.plan.step {
        Step::Wait(wait) if wait.overdue() => {
            let reason = match wait {
                Wait::Leaving { .. } => Reason::ServerNotLeaving,
                Wait::Reloading { .. } => Reason::ReloadRefused,
                _ => Reason::RolloutGateTimeout,
            };
            Verdict::new(condition::STALLED, true, reason, doing(view.cluster, &view.plan.step))
        }
        _ => Verdict::new(condition::STALLED, false, Reason::Progressing, "no help is needed"),
    }
}

fn available(status: &NatsClusterStatus) -> Verdict {
    match status.ready_replicas {
        0 => Verdict::new(condition::AVAILABLE, false, Reason::NoServers, "no server takes clients"),
        1 => Verdict::new(condition::AVAILABLE, true, Reason::MinimumServers, "1 server takes clients"),
        n => Verdict::new(
            condition::AVAILABLE,
            true,
            Reason::MinimumServers,
            format!("{n} servers take clients"),
        ),
    }
}

fn config_applied(view: View<'_>) -> Verdict {
    let View { target, observed, .. } = view;
    let kind = condition::CONFIG_APPLIED;
    let differ =
        |test: &dyn Fn(&Server) -> bool| observed.servers.iter().filter(|server| test(server)).count();
    let restart = differ(&|server| server.template != target.template);
    let reload = differ(&|server| server.config.as_ref().is_some_and(|config| *config != target.config));
    let silent = differ(&|server| server.config.is_none());
    if restart > 0 {
        return Verdict::new(
            kind,
            false,
            Reason::RestartRequired,
            format!("{restart} servers are to be replaced"),
        );
    }
    if reload > 0 {
        return Verdict::new(kind, false, Reason::ReloadPending, format!("{reload} servers are to load it"));
    }
    if silent > 0 {
        let message = format!("{silent} servers do not tell which configuration they run");
        return Verdict { kind, holds: None, reason: Reason::NotReported, message };
    }
    Verdict::new(kind, true, Reason::Applied, "every server runs the newest configuration")
}

fn certificates_ready(view: View<'_>, now: Timestamp) -> Verdict {
    let kind = condition::CERTIFICATES_READY;
    let Some(Certificate { secret_name, not_after, rotation, warn_before }) = view.certificate else {
        return Verdict::new(
            kind,
            true,
            Reason::Disabled,
            "spec.tls.mode is Disabled: there is no certificate",
        );
    };
    let Some(end) = *not_after else {
        return Verdict::new(
            kind,
            false,
            Reason::Missing,
            format!("Secret {secret_name} holds no certificate yet"),
        );
    };
    if end <= now {
        return Verdict::new(
            kind,
            false,
            Reason::CertificateExpired,
            format!("the certificate in {secret_name} ended {end}"),
        );
    }
    let staying = || view.observed.servers.iter().filter(|server| !server.leaving);
    let other = |server: &&Server| server.certificate_not_after.is_some_and(|shown| shown != end);
    let others = staying().filter(other).count();
    if others > 0 {
        let message = format!("{others} servers still show another certificate than that in {secret_name}");
        return Verdict::new(kind, false, Reason::NotLoaded, message);
    }
    if end.duration_since(now).unsigned_abs() < *warn_before {
        let message = format!("the certificate in {secret_name} ends {end} and was not renewed");
        return Verdict::new(kind, false, Reason::CertificateExpiring, message);
    }
    let silent = staying().filter(|server| server.certificate_not_after.is_none()).count();
    if silent > 0 {
        let message = format!("{silent} servers do not tell which certificate they show");
        return Verdict { kind, holds: None, reason: Reason::NotReported, message };
    }
    let (reason, more) = match rotation {
        Some("Introducing") => (Reason::Rotating, "; the next authority is being made known"),
        Some(_) => (Reason::Rotating, "; the previous authority is still trusted"),
        None => (Reason::Valid, ""),
    };
    Verdict::new(
        kind,
        true,
        reason,
        format!("every server shows the certificate that lasts until {end}{more}"),
    )
}

/// What was done about certificates.
pub fn certificate_note(secret_name: &str, step: Rotation, issued: bool) -> Option<Note> {
    let message = match step {
        Rotation::Found => "an authority of the cluster's own signs the servers' certificate".to_owned(),
        Rotation::Introduce => {
            format!("{secret_name} holds the next authority beside the present one in ca.crt")
        }
        Rotation::Promote => "the next authority signs; the previous one is still trusted".to_owned(),
        Rotation::Retire => "the previous authority is no longer trusted".to_owned(),
        Rotation::Keep if issued => {
            format!("{secret_name} holds a new certificate, which servers load while they run")
        }
        Rotation::Keep => return None,
    };
    Some(Note { warning: false, reason: Reason::CertificateRotated, message })
}

/// What is told of a `NatsCluster` that was written for another version of its definition.
pub fn unreadable(error: &str) -> Note {
    let message = format!("cannot be read by this version of the operator: {error}");
    Note { warning: true, reason: Reason::Unreadable, message }
}

/// What is told when a Secret that the spec names does not exist.
pub fn secret_missing(name: &str, field: &str) -> String {
    format!("Secret {name}, named by {field}, does not exist")
}

/// What is told when a running server refused its configuration, in the server's words.
pub fn taken_back(problem: &str) -> String {
    format!(
        "{problem}; no server was changed and no other was asked, and the configuration before it is in force. \
         Correct the spec, or set the annotation starling.dev/restarted-at to have servers start with it"
    )
}

/// The reason of Ready=False and Reconciling=True.
fn reason(view: View<'_>) -> Reason {
    let View { target, observed, plan, .. } = view;
    let outdated = observed.servers.iter().any(|server| server.template != target.template);
    match &plan.step {
        Step::Grow { .. } => Reason::ScalingUp,
        Step::Shrink { .. } => Reason::ScalingDown,
        Step::Stop => Reason::Hibernating,
        Step::Reload { .. } | Step::Wait(Wait::Reloading { .. }) => Reason::Reloading,
        Step::Wait(Wait::Settling { .. }) if !outdated => Reason::Reloading,
        Step::Replace { .. } | Step::Wait(Wait::OnDelete { .. } | Wait::Settling { .. }) => {
            Reason::RollingUpdate
        }
        Step::Done => Reason::AllServersReady,
        Step::Wait(_) if observed.workload_servers.is_some_and(|now| now > target.servers) => {
            Reason::ScalingDown
        }
        Step::Wait(Wait::Leaving { ordinal, .. }) if *ordinal >= target.servers => Reason::ScalingDown,
        Step::Wait(_) if outdated => Reason::RollingUpdate,
        Step::Wait(_) if observed.servers.iter().any(|server| !is_updated(target, server)) => {
            Reason::Reloading
        }
        Step::Wait(_) => Reason::WaitingForServers,
    }
}

fn doing(cluster: &Cluster, step: &Step) -> String {
    match (waiting_for(cluster, step), step_note(cluster, step)) {
        (Some(wait), _) => format!("waiting for {wait}"),
        (None, Some(note)) => note.message,
        (None, None) => String::new(),
    }
}

fn conditions<const N: usize>(
    verdicts: [Verdict; N],
    generation: i64,
    previous: Option<&NatsClusterStatus>,
    now: &Time,
) -> Vec<Condition> {
    verdicts
        .into_iter()
        .map(|verdict| {
            let status = match verdict.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let before =
                previous.and_then(|previous| find(previous, verdict.kind)).filter(|c| c.status == status);
            Condition {
                type_: verdict.kind.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: verdict.message,
                observed_generation: Some(generation),
                last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The condition of a type.
pub fn find<'a>(status: &'a NatsClusterStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests;
