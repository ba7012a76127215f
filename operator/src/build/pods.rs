//! The servers' pods.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ExecAction, HTTPGetAction, Lifecycle,
    LifecycleHandler, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource, SecurityContext, TopologySpreadConstraint,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use super::config::{CONFIG_FILE, TLS_FOLDER};
use super::labels;
use super::objects::{CLUSTER_PORT_NAME, MONITOR_PORT_NAME, config_secret_name};
use super::tls::tls_secret_name;
use crate::crd::Spread;
use crate::validate::Cluster;

/// Name of the broker's container.
pub const CONTAINER: &str = "nats";
/// What the server tag of its zone begins with.
pub const ZONE_TAG: &str = "az:";
/// Label of a node, and of the pods on it: its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// User and group of the broker's image.
const USER: i64 = 65532;
/// Where the configuration is mounted.
const CONFIG_DIRECTORY: &str = "/etc/nats";
/// The broker in its image.
const PROGRAM: &str = "/starling-server";
/// What a pod gets to stop beyond its lame duck time.
const STOP_GRACE_SECONDS: u64 = 30;

/// The pod template with its hash in a label, and the hash.
pub(super) fn template(
    cluster: &Cluster,
    restart_digest: &str,
    restarted_at: Option<&str>,
) -> (PodTemplateSpec, String) {
    let mut annotations = cluster.pod_annotations.clone();
    // Part of the hash: a configuration that needs a restart is a new template.
    annotations.insert(labels::RESTART_DIGEST.to_owned(), restart_digest.to_owned());
    if let Some(time) = restarted_at {
        annotations.insert(labels::RESTARTED_AT.to_owned(), time.to_owned());
    }
    let mut pod_labels = cluster.pod_labels.clone();
    pod_labels.extend(labels::labels(cluster));
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels.clone()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(cluster)),
    };
    let hash = template_hash(&template);
    pod_labels.insert(labels::TEMPLATE_HASH.to_owned(), hash.clone());
    if let Some(metadata) = &mut template.metadata {
        metadata.labels = Some(pod_labels);
    }
    (template, hash)
}

/// Hash of a template. Ours, because a StatefulSet's own revision also follows what does not reach pods,
/// and its status never converges under OnDelete.
pub fn template_hash(template: &PodTemplateSpec) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    Sha256::digest(&json).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn pod_spec(cluster: &Cluster) -> PodSpec {
    let grace = cluster.config.lame_duck_duration.as_secs() + STOP_GRACE_SECONDS;
    let secrets = cluster.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    let spread = spread_constraints(cluster);
    let mut spec = PodSpec {
        service_account_name: Some(cluster.name.clone()),
        // A broker has no business with the API server, nor with other Services' addresses.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: (!cluster.image_pull_secrets.is_empty()).then(|| secrets.collect()),
        termination_grace_period_seconds: Some(i64::try_from(grace).unwrap_or(i64::MAX)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: (!spread.is_empty()).then_some(spread),
        containers: vec![container(cluster)],
        volumes: Some(volumes(cluster)),
        ..PodSpec::default()
    };
    if let Some(overlay) = &cluster.pod_spec {
        spec.merge_from(overlay.clone());
    }
    spec
}

/// What a server reads: (volume, Secret, folder).
fn mounts(cluster: &Cluster) -> Vec<(&'static str, String, &'static str)> {
    let mut mounts = vec![("config", config_secret_name(&cluster.name), CONFIG_DIRECTORY)];
    if cluster.tls.is_some() {
        mounts.push(("tls", tls_secret_name(cluster), TLS_FOLDER));
    }
    mounts
}

fn volumes(cluster: &Cluster) -> Vec<Volume> {
    let volume = |(name, secret, _): (&str, String, &str)| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource { secret_name: Some(secret), ..SecretVolumeSource::default() }),
        ..Volume::default()
    };
    mounts(cluster).into_iter().map(volume).collect()
}

fn volume_mounts(cluster: &Cluster) -> Vec<VolumeMount> {
    let mount = |(name, _, folder): (&str, String, &str)| VolumeMount {
        name: name.to_owned(),
        mount_path: folder.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    mounts(cluster).into_iter().map(mount).collect()
}

fn container(cluster: &Cluster) -> Container {
    let mut args = ["-c", &format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}"), "--name", "$(POD_NAME)"]
        .map(str::to_owned)
        .to_vec();
    let mut env = vec![of_pod("POD_NAME", "metadata.name")];
    if cluster.topology.zone != Spread::Disabled {
        // Kubernetes copies the node's zone to the pod when it is bound; without one the tag has no value, and the
        // server leaves it out.
        env.push(of_pod("POD_ZONE", &format!("metadata.labels['{ZONE_LABEL}']")));
        args.extend(["--server_tags".to_owned(), format!("{ZONE_TAG}$(POD_ZONE)")]);
    }
    if let Some(template) = &cluster.listener.advertise_template {
        env.push(of_pod("POD_ORDINAL", "metadata.labels['apps.kubernetes.io/pod-index']"));
        env.push(of_pod("NODE_ADDRESS", "status.hostIP"));
        let places =
            [("{pod}", "$(POD_NAME)"), ("{ordinal}", "$(POD_ORDINAL)"), ("{node}", "$(NODE_ADDRESS)")];
        let address = places.iter().fold(template.clone(), |text, (place, value)| text.replace(place, value));
        args.extend(["--client_advertise".to_owned(), address]);
    }
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        args: Some(args),
        env: Some(env),
        ports: Some(vec![
            port(&cluster.listener.name, cluster.listener.port),
            port(CLUSTER_PORT_NAME, cluster.route_port),
            port(MONITOR_PORT_NAME, cluster.monitor_port),
        ]),
        resources: cluster.resources.clone(),
        // Looks every second, so that a start is seen as soon as it is done; gives up after two minutes.
        startup_probe: Some(probe("/readyz", 1, 120)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        // Only whether the process answers: an overloaded server is not helped by a restart.
        liveness_probe: Some(probe("/livez", 10, 6)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some([PROGRAM, "drain", "--wait"].map(str::to_owned).to_vec()),
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(volume_mounts(cluster)),
        ..Container::default()
    }
}

/// A variable whose value is a field of the pod.
fn of_pod(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: field.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(MONITOR_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn spread_constraints(cluster: &Cluster) -> Vec<TopologySpreadConstraint> {
    let places = [(ZONE_LABEL, cluster.topology.zone), ("kubernetes.io/hostname", cluster.topology.host)];
    let wanted = places.into_iter().filter_map(|(key, spread)| match spread {
        Spread::Required => Some((key, "DoNotSchedule")),
        Spread::Preferred => Some((key, "ScheduleAnyway")),
        Spread::Disabled => None,
    });
    wanted
        .map(|(key, otherwise)| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: otherwise.to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from_iter(labels::selector(cluster))),
                ..LabelSelector::default()
            }),
            ..TopologySpreadConstraint::default()
        })
        .collect()
}
