//! `report`: everything about a cluster in a directory, without a secret.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, LogParams};
use operator::build::labels;
use operator::crd::{NatsAccount, NatsUser};
use serde_json::{Value, json};

use crate::actions::Cluster;

/// Documents of a server.
const DOCUMENTS: [&str; 6] = ["/varz", "/routez", "/connz?limit=256", "/accountz", "/healthz", "/metrics"];

/// Writes all of it. What cannot be had is noted, and ends nothing: a report is written when things are broken.
pub async fn write(cluster: &Cluster, folder: &Path, operator_namespace: &str, log_lines: i64) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut report = Report { folder, files: 0, missing: Vec::new() };
    let object = cluster.object().await;
    let port = object.as_ref().map_or(8222, |object| object.spec.monitoring.port);
    report.json("natscluster.json", object.map(|object| json!(object)));
    let owned = ListParams::default().labels(&format!("{}={}", labels::INSTANCE, cluster.name));
    report.json("statefulsets.json", list::<StatefulSet>(cluster, &owned).await);
    report.json("services.json", list::<Service>(cluster, &owned).await);
    report.json("poddisruptionbudgets.json", list::<PodDisruptionBudget>(cluster, &owned).await);
    report.json("pods.json", list::<Pod>(cluster, &owned).await);
    report.json("secrets.json", list::<Secret>(cluster, &owned).await.map(redacted));
    let all = ListParams::default();
    report.json("natsaccounts.json", list::<NatsAccount>(cluster, &all).await);
    report.json("natsusers.json", list::<NatsUser>(cluster, &all).await);
    report.json("events.json", list::<Event>(cluster, &all).await);
    for pod in cluster.pods().await.unwrap_or_default() {
        let name = pod.name_any();
        let logs = LogParams { tail_lines: Some(log_lines), ..LogParams::default() };
        report
            .text(&format!("{name}.log"), cluster.api::<Pod>().logs(&name, &logs).await.map_err(Into::into));
        let before = LogParams { previous: true, ..logs };
        if pod_restarted(&pod) {
            let log = cluster.api::<Pod>().logs(&name, &before).await;
            report.text(&format!("{name}.before.log"), log.map_err(Into::into));
        }
        for path in DOCUMENTS {
            let word = path.trim_start_matches('/').split('?').next().unwrap_or_default();
            let kind = if word == "metrics" { "txt" } else { "json" };
            let answer = cluster.monitor(&name, port, path).await;
            report.text(&format!("{name}.{word}.{kind}"), answer);
        }
    }
    operator_logs(cluster, operator_namespace, log_lines, &mut report).await;
    println!("{}: {} files; values of Secrets are left out", folder.display(), report.files);
    for missing in &report.missing {
        println!("  not there: {missing}");
    }
    Ok(())
}

async fn operator_logs(cluster: &Cluster, namespace: &str, log_lines: i64, report: &mut Report<'_>) {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let selected = ListParams::default().labels(&format!("{}=starling-operator", labels::NAME));
    match pods.list(&selected).await {
        Ok(found) => {
            for pod in found.items {
                let name = pod.name_any();
                let logs = LogParams { tail_lines: Some(log_lines), ..LogParams::default() };
                report
                    .text(&format!("operator.{name}.log"), pods.logs(&name, &logs).await.map_err(Into::into));
            }
        }
        Err(error) => report.missing.push(format!("log of the operator: {error}")),
    }
}

fn pod_restarted(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|container| container.restart_count > 0)
}

struct Report<'a> {
    folder: &'a Path,
    files: usize,
    missing: Vec<String>,
}

impl Report<'_> {
    fn text(&mut self, name: &str, content: Result<String>) {
        let written = content.and_then(|content| Ok(fs::write(self.folder.join(name), content)?));
        match written {
            Ok(()) => self.files += 1,
            Err(error) => self.missing.push(format!("{name}: {error:#}")),
        }
    }

    fn json(&mut self, name: &str, content: Result<Value>) {
        self.text(name, content.and_then(|value| Ok(serde_json::to_string_pretty(&value)?)));
    }
}

async fn list<K>(cluster: &Cluster, parameters: &ListParams) -> Result<Value>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    Ok(json!(cluster.api::<K>().list(parameters).await?.items))
}

/// Secrets with the sizes of their values in place of these.
fn redacted(mut secrets: Value) -> Value {
    for secret in secrets.as_array_mut().into_iter().flatten() {
        for part in ["data", "stringData"] {
            for (_, value) in secret[part].as_object_mut().into_iter().flatten() {
                let length = value.as_str().map_or(0, str::len);
                *value = json!(format!("left out ({length} characters)"));
            }
        }
        // kubectl apply keeps a copy of what was applied.
        if let Some(annotations) = secret["metadata"]["annotations"].as_object_mut() {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        // Copies of field names only, but long.
        if let Some(metadata) = secret["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_secret_is_left() {
        let secrets = json!([{"metadata": {"name": "a", "annotations":
                {"kubectl.kubernetes.io/last-applied-configuration": "hunter2", "kept": "yes"}},
            "data": {"password": "aHVudGVyMg=="}, "stringData": {"x": "hunter2"}}]);
        let text = redacted(secrets).to_string();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        assert!(text.contains("left out (12 characters)") && text.contains("kept"), "{text}");
    }
}
