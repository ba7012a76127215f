//! What the API server says of a cluster.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::broker::{Prober, Report};
use crate::apply::Known;
use crate::build::config::{CONFIG_FILE, Fragment, Generation, read_back};
use crate::build::{
    PROVEN_FILE, authority_secret_name, config_secret_name, labels, system_secret_name, tls_secret_name,
};
use crate::certificates::{State, Stored, key};
use crate::rollout::{Health, Observed, Server};
use crate::status;
use crate::validate::{CertificateSource, Cluster};

/// What a reconcile begins with.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Generated credentials, if they exist.
    pub system: Option<Secret>,
    /// The operator's own authority and the servers' certificate, as far as they exist.
    pub certificates: State,
    /// The Secret with the certificate that somebody else makes, if the spec names one and it exists.
    pub foreign_certificate: Option<Secret>,
    /// The configuration that was last written, if any.
    pub generation: Option<Generation>,
    /// Fragments for `mergeFrom`.
    pub fragments: Result<Vec<Fragment>, String>,
    /// The workload, if it exists.
    pub stateful_set: Option<StatefulSet>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What was read of our own objects, so that it need not be read again to be found as it should be.
    pub known: Known,
}

/// Reads everything that concerns a cluster. Brokers are asked separately, by [`reports`].
///
/// # Errors
/// The API server's.
pub async fn cluster(client: &Client, cluster: &Cluster) -> Result<Seen, kube::Error> {
    let namespace = cluster.namespace.as_str();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selected = ListParams::default().labels(&labels::selector_text(cluster));
    let (system_name, config_name) = (system_secret_name(&cluster.name), config_secret_name(&cluster.name));
    let tls_name = tls_secret_name(cluster);
    let authority_name = authority_secret_name(&cluster.name);
    let own = matches!(&cluster.tls, Some(tls) if matches!(tls.source, CertificateSource::SelfSigned(_)));
    let (system, config, authority, certificate, stateful_set, pods) = futures::try_join!(
        secrets.get_opt(&system_name),
        secrets.get_opt(&config_name),
        async { if own { secrets.get_opt(&authority_name).await } else { Ok(None) } },
        async { if cluster.tls.is_some() { secrets.get_opt(&tls_name).await } else { Ok(None) } },
        sets.get_opt(&cluster.name),
        pods.list(&selected),
    )?;
    let mut known = Known::default();
    for secret in [&system, &config, &authority] {
        known.add(secret.as_ref());
    }
    known.add(certificate.as_ref().filter(|_| own));
    known.add(stateful_set.as_ref());
    let ours =
        |secret: Option<Secret>| secret.filter(|secret| owner_uid(&secret.metadata) == Some(&cluster.uid));
    let stateful_set = stateful_set.filter(|set| owner_uid(&set.metadata) == Some(&cluster.uid));
    let set_uid = stateful_set.as_ref().and_then(|set| set.metadata.uid.clone());
    let fragments = fragments(&secrets, cluster).await?;
    Ok(Seen {
        system: ours(system),
        generation: ours(config).as_ref().and_then(written),
        certificates: State {
            authority: ours(authority).as_ref().map(stored).unwrap_or_default(),
            server: ours(certificate.clone().filter(|_| own)).as_ref().map(stored).unwrap_or_default(),
        },
        foreign_certificate: certificate.filter(|_| !own),
        fragments,
        pods: pods.items.into_iter().filter(|pod| owner_uid(&pod.metadata) == set_uid.as_ref()).collect(),
        stateful_set,
        known,
    })
}

/// The cluster's Services, for what load balancers say and for those that are too many.
///
/// # Errors
/// The API server's.
pub async fn services(client: &Client, cluster: &Cluster) -> Result<Vec<Service>, kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), &cluster.namespace);
    let selected = ListParams::default().labels(&labels::selector_text(cluster));
    let mut found = services.list(&selected).await?.items;
    found.retain(|service| owner_uid(&service.metadata) == Some(&cluster.uid));
    Ok(found)
}

/// The uid of an object's controller.
pub fn owner_uid(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<&String> {
    let owners = metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| &owner.uid)
}

async fn fragments(
    secrets: &Api<Secret>,
    cluster: &Cluster,
) -> Result<Result<Vec<Fragment>, String>, kube::Error> {
    let mut fragments = Vec::new();
    for (name, key) in &cluster.config.merge_from {
        let Some(secret) = secrets.get_opt(name).await? else {
            return Ok(Err(status::secret_missing(name, "spec.config.mergeFrom")));
        };
        let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else {
            return Ok(Err(format!("Secret {name}, named by spec.config.mergeFrom, has no key {key}")));
        };
        let Ok(text) = String::from_utf8(bytes.0.clone()) else {
            return Ok(Err(format!("key {key} of Secret {name} is not UTF-8 text")));
        };
        fragments.push(Fragment { secret: name.clone(), key: key.clone(), text });
    }
    Ok(Ok(fragments))
}

/// The configuration in a Secret that we wrote; `None` if somebody made it unreadable, and it is written
/// anew.
fn written(secret: &Secret) -> Option<Generation> {
    let file = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
    let restart_digest = secret.annotations().get(labels::RESTART_DIGEST)?.clone();
    let refused = secret.annotations().get(labels::CONFIG_REFUSED);
    let refused = refused.and_then(|text| serde_json::from_str(text).ok());
    let rendered = read_back(&file(CONFIG_FILE)?)?;
    Some(Generation { rendered, restart_digest, proven: file(PROVEN_FILE), refused })
}

/// What clients check the servers' certificate by; `None` without TLS towards clients, or while there is no
/// certificate yet.
pub fn client_authorities(seen: &Seen, cluster: &Cluster) -> Option<String> {
    cluster.tls.as_ref()?.clients?;
    let of_others = seen.foreign_certificate.as_ref().map(public_files);
    let files = of_others.as_ref().unwrap_or(&seen.certificates.server);
    files.data.get(key::CA_CRT).cloned()
}

/// A certificate that somebody else made, without its key: that is none of our business.
pub fn public_files(secret: &Secret) -> Stored {
    let mut files = stored(secret);
    if let Some(secret_key) = files.data.get_mut(key::TLS_KEY) {
        let present = !secret_key.is_empty();
        *secret_key = if present { "present".to_owned() } else { String::new() };
    }
    files
}

/// What we keep of certificates, from the Secret that keeps it.
fn stored(secret: &Secret) -> Stored {
    let text = |bytes: &k8s_openapi::ByteString| String::from_utf8(bytes.0.clone()).ok();
    let known = secret.data.iter().flatten().filter(|(key, _)| key::ALL.contains(&key.as_str()));
    let data = known.filter_map(|(key, bytes)| Some((key.clone(), text(bytes)?))).collect();
    Stored { data, notes: secret.metadata.annotations.clone().unwrap_or_default() }
}

/// Asks the broker of every pod; answers in the order of the pods.
pub async fn reports(seen: &Seen, cluster: &Cluster, prober: &Prober) -> Vec<Option<Report>> {
    let asked = seen.pods.iter().map(|pod| async move {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let running = address.filter(|_| pod.metadata.deletion_timestamp.is_none());
        match running {
            Some(ip) => prober.ask(&authority(&ip, cluster.monitor_port)).await,
            None => None,
        }
    });
    futures::future::join_all(asked).await
}

/// Host and port of a pod; `None` before it has an address.
pub fn address(pod: &Pod, port: u16) -> Option<String> {
    pod.status.as_ref()?.pod_ip.as_ref().map(|ip| authority(ip, port))
}

fn authority(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// Puts everything into the shape that the plan takes; `reports` are those of [`reports`].
pub fn observed(
    seen: &Seen,
    cluster: &Cluster,
    template_hash: &str,
    config_digest: &str,
    reports: &[Option<Report>],
    now: &Time,
) -> Observed {
    let mut servers: Vec<Server> = seen
        .pods
        .iter()
        .zip(reports)
        .filter_map(|(pod, report)| {
            let ordinal = cluster.ordinal(&pod.name_any())?;
            let reload_age = reload_age(pod, config_digest, now);
            Some(Server { reload_age, ..server(ordinal, pod, report.as_ref(), now) })
        })
        .collect();
    servers.sort_by_key(|server| server.ordinal);
    let set = seen.stateful_set.as_ref();
    Observed {
        workload_servers: set
            .and_then(|set| set.spec.as_ref()?.replicas)
            .and_then(|replicas| u32::try_from(replicas).ok()),
        workload_current: set.is_some_and(|set| is_current(set, template_hash)),
        servers,
    }
}

/// Whether the StatefulSet's controller has seen the newest template, so that what it creates is new.
fn is_current(set: &StatefulSet, template_hash: &str) -> bool {
    let written = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref()?.labels.as_ref()?.get(labels::TEMPLATE_HASH));
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    written.is_some_and(|hash| hash == template_hash) && seen == set.metadata.generation
}

fn server(ordinal: u32, pod: &Pod, report: Option<&Report>, now: &Time) -> Server {
    let ready = condition(pod, "Ready");
    let health = match (ready.as_ref().map(|(status, _)| status.as_str()), &report) {
        (Some("True"), Some(report)) => report.health,
        (Some("True"), None) => Health::Unknown,
        _ => Health::Unready,
    };
    let leaving = pod.metadata.deletion_timestamp.as_ref();
    // The timestamp of a deletion is when it is to be over: sending clients away takes its time, and is no delay.
    let late = leaving.map(|time| age(time, now));
    let created = pod.metadata.creation_timestamp.as_ref();
    let changed = ready.and_then(|(_, since)| since).or_else(|| created.cloned());
    Server {
        ordinal,
        template: pod.labels().get(labels::TEMPLATE_HASH).cloned().unwrap_or_default(),
        config: report.as_ref().and_then(|report| report.config_digest.clone()),
        health,
        leaving: leaving.is_some(),
        routes: report.as_ref().and_then(|report| report.routes),
        state_age: late.or_else(|| changed.map(|time| age(&time, now))).unwrap_or_default(),
        reload_age: None,
        version: report.as_ref().and_then(|report| report.version.clone()),
        trouble: trouble(pod),
        certificate_not_after: report.as_ref().and_then(|report| report.certificate_not_after),
        zone: report.as_ref().and_then(|report| report.zone.clone()),
    }
}

/// Time since the server was told to load this configuration, if it was.
fn reload_age(pod: &Pod, config_digest: &str, now: &Time) -> Option<Duration> {
    let (digest, since) = pod.annotations().get(labels::CONFIG_RELOAD)?.split_once(' ')?;
    (digest == config_digest).then_some(age(&Time(since.parse().ok()?), now))
}

fn age(since: &Time, now: &Time) -> Duration {
    now.0.duration_since(since.0).try_into().unwrap_or_default()
}

fn condition(pod: &Pod, kind: &str) -> Option<(String, Option<Time>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.last_transition_time.clone()))
}

/// Why a pod does not run, in Kubernetes' words.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let text = |reason: Option<String>, message: Option<String>| match (reason, message) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (reason, message) => reason.or(message),
    };
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.clone()?;
        // Said of every pod for its first second.
        let busy = ["ContainerCreating", "PodInitializing"].map(Some).contains(&waiting.reason.as_deref());
        if busy { None } else { text(waiting.reason, waiting.message) }
    });
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    waiting.or_else(|| {
        unscheduled.and_then(|condition| text(condition.reason.clone(), condition.message.clone()))
    })
}

/// The clock, for everything that is compared with what Kubernetes wrote.
pub fn now() -> Time {
    Time(Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    fn at(text: &str) -> Time {
        Time(text.parse().expect("a time"))
    }

    fn report(health: Health) -> Option<Report> {
        Some(Report {
            health,
            config_digest: Some("sha256:1".to_owned()),
            version: Some("1".to_owned()),
            routes: Some(2),
            connections: 0,
            messages_in: 0,
            certificate_not_after: None,
            zone: Some("eu-1a".to_owned()),
        })
    }

    fn ready_pod() -> Pod {
        pod(json!({
            "metadata": {"name": "orders-1", "creationTimestamp": "2026-01-01T00:00:00Z",
                         "labels": {"starling.dev/template-hash": "abc"}},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        }))
    }

    #[test]
    fn a_server_that_does_not_answer_us_is_unknown_never_down() {
        let now = at("2026-01-01T00:01:00Z");
        let server = |report: Option<Report>| super::server(1, &ready_pod(), report.as_ref(), &now);
        assert_eq!(server(None).health, Health::Unknown);
        assert_eq!(server(report(Health::Ready)).health, Health::Ready);
        assert_eq!(server(report(Health::Unready)).health, Health::Unready);
        assert_eq!(server(report(Health::Ready)).state_age, Duration::from_secs(50));
        assert_eq!(server(report(Health::Ready)).template, "abc");
        assert_eq!(server(report(Health::Ready)).zone.as_deref(), Some("eu-1a"));
    }

    #[test]
    fn a_pod_remembers_which_configuration_its_server_was_told_to_load() {
        let now = at("2026-01-01T00:01:00Z");
        let mut pod = ready_pod();
        assert_eq!(reload_age(&pod, "sha256:2", &now), None);
        let told = "sha256:2 2026-01-01T00:00:50Z".to_owned();
        pod.annotations_mut().insert(labels::CONFIG_RELOAD.to_owned(), told);
        assert_eq!(reload_age(&pod, "sha256:2", &now), Some(Duration::from_secs(10)));
        assert_eq!(reload_age(&pod, "sha256:3", &now), None, "that was another one");
    }

    #[test]
    fn a_leaving_pod_is_late_only_when_its_time_is_over() {
        let mut pod = ready_pod();
        pod.metadata.deletion_timestamp = Some(at("2026-01-01T00:02:00Z"));
        pod.metadata.deletion_grace_period_seconds = Some(60);
        let late = |now: &str| {
            let server = super::server(1, &pod, None, &at(now));
            assert!(server.leaving);
            server.state_age
        };
        assert_eq!(late("2026-01-01T00:01:01Z"), Duration::ZERO, "it sends its clients away");
        assert_eq!(late("2026-01-01T00:02:05Z"), Duration::from_secs(5));
    }

    #[test]
    fn trouble_is_told_in_kubernetes_words() {
        let pod = pod(json!({"metadata": {"name": "orders-0"}, "status": {"containerStatuses": [{
            "name": "nats", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}}));
        assert_eq!(trouble(&pod).as_deref(), Some("ImagePullBackOff: no such image"));
    }

    #[test]
    fn addresses_of_both_families_make_authorities() {
        assert_eq!(authority("10.0.0.1", 8222), "10.0.0.1:8222");
        assert_eq!(authority("fd00::1", 8222), "[fd00::1]:8222");
    }
}
