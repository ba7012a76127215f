//! What a scenario does with a cluster, by the programs that users have: `kubectl`
//! and `helm`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::provider::program;

/// A cluster reached with its administrator's credentials, from inside its network.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    kubeconfig: PathBuf,
    /// Namespace of every question and change.
    pub namespace: String,
}

impl Kubernetes {
    /// The cluster of a kubeconfig.
    pub fn new(kubeconfig: PathBuf, namespace: &str) -> Self {
        Self { kubeconfig, namespace: namespace.to_owned() }
    }

    /// `kubectl` with arguments; its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        crate::process::output(self.command("kubectl")?.args(arguments))
    }

    /// `kubectl` without a namespace, for plugins: flags before their name are not theirs.
    pub fn plain_kubectl(&self) -> Result<Command> {
        let mut command = Command::new(program("kubectl")?);
        command.env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    /// `helm` with arguments; its standard output.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        crate::process::output(self.command("helm")?.args(arguments))
    }

    /// `kubectl COMMAND -f -` with a manifest.
    pub fn with_manifest(&self, command: &[&str], manifest: &str) -> Result<String> {
        let mut kubectl = self.command("kubectl")?;
        kubectl.args(command).args(["-f", "-"]);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl without input")?;
        stdin.write_all(manifest.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One object, or a list, as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until a question's answer satisfies a check; the error names the last answer's
    /// reason for not doing so.
    pub fn wait_for<T>(&self, what: &str, timeout: Duration, check: impl FnMut() -> Result<T>) -> Result<T> {
        crate::process::eventually(what, timeout, check)
    }

    /// Names, as `kind/name`, of all namespaced objects that a release or a cluster could
    /// leave behind. Objects that Kubernetes makes by itself are left out.
    pub fn inventory(&self) -> Result<BTreeSet<String>> {
        let kinds = "statefulsets,deployments,replicasets,pods,services,endpointslices,secrets,\
                     configmaps,serviceaccounts,poddisruptionbudgets,persistentvolumeclaims,\
                     networkpolicies,jobs,controllerrevisions,roles,rolebindings";
        let names = self.kubectl(&["get", kinds, "-o", "name"])?;
        let of_kubernetes = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
        let ours = names.lines().filter(|name| {
            !of_kubernetes.contains(name)
                && *name != "service/kubernetes"
                && *name != "endpointslice.discovery.k8s.io/kubernetes"
        });
        Ok(ours.map(Into::into).collect())
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        command.env("KUBECONFIG", &self.kubeconfig);
        // Helm keeps caches; not in a home folder that a test has no business with.
        command.env("HELM_CACHE_HOME", self.kubeconfig.with_file_name("helm-cache"));
        command.env("HELM_CONFIG_HOME", self.kubeconfig.with_file_name("helm-config"));
        command.env("HELM_DATA_HOME", self.kubeconfig.with_file_name("helm-data"));
        command.args(["--namespace", &self.namespace]);
        Ok(command)
    }
}

/// Status, reason and message of a condition in an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default();
    Some((text("status"), text("reason"), text("message")))
}

/// Fails with a remark unless a condition has the status.
pub fn expect_condition(object: &Value, kind: &str, status: &str) -> Result<String> {
    match condition(object, kind) {
        Some((found, reason, message)) if found == status => Ok(format!("{reason}: {message}")),
        Some((found, reason, message)) => {
            bail!("{kind} is {found} ({reason}: {message}), not {status}")
        }
        None => bail!("no condition {kind}"),
    }
}

/// Elapsed time since a moment, for notes: seconds with one digit, or milliseconds.
pub fn shown(since: Instant) -> String {
    let elapsed = since.elapsed();
    if elapsed < Duration::from_secs(1) {
        format!("{} ms", elapsed.as_millis())
    } else {
        format!("{:.1} s", elapsed.as_secs_f64())
    }
}
