//! The operator comes and goes, as users install it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Context, NAMESPACE, OPERATOR_NAMESPACE};
use crate::kubernetes::Kubernetes;
use crate::process::project_root;

/// Images under the names that `images` gives them.
const VALUES: [&str; 3] = [
    "image.repository=localhost/starling-operator,image.tag=test",
    "image.pullPolicy=Never",
    "server.image.repository=localhost/starling-server,server.image.tag=test",
];

/// Installs CRDs and operator: with helm, or in a short run from the plain manifests.
pub(super) fn install(context: &mut Context) -> Result<()> {
    context.step("namespaces that only let restricted pods in, for clusters and operator", |context| {
        for namespace in [NAMESPACE, OPERATOR_NAMESPACE] {
            context.kubernetes.with_manifest(
                &["apply"],
                &format!(
                    "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels: \
                     {{pod-security.kubernetes.io/enforce: restricted}}\n"
                ),
            )?;
        }
        Ok(String::new())
    })?;
    if context.short {
        context.step("kubectl apply -f crds/ -f manifests/operator.yaml", |context| {
            apply_manifests(&context.kubernetes).map(|()| String::new())
        })?;
    } else {
        context.step("helm install starling-crds, starling-operator", install_charts)?;
    }
    context.step("the operator is ready", |context| {
        context.kubernetes.kubectl(&[
            "-n",
            OPERATOR_NAMESPACE,
            "rollout",
            "status",
            "deployment/starling-operator",
            "--timeout=90s",
        ])?;
        let established = ["wait", "--for=condition=Established", "crd/natsclusters.starling.dev"];
        context.kubernetes.kubectl(&established)?;
        Ok(String::new())
    })
}

fn install_charts(context: &Context) -> Result<String> {
    let charts = project_root().join("charts");
    let chart = |name: &str| charts.join(name).display().to_string();
    let (crds, operator) = (chart("starling-crds"), chart("starling-operator"));
    // `upgrade --install` is an install on a new cluster, and works on one that is used again.
    let install = ["-n", OPERATOR_NAMESPACE, "upgrade", "--install"];
    let arguments = [&install[..], &["--create-namespace", "starling-crds", &crds]].concat();
    context.kubernetes.helm(&arguments)?;
    let mut arguments = [&install[..], &["starling-operator", &operator]].concat();
    for value in &VALUES {
        arguments.extend(["--set", value]);
    }
    context.kubernetes.helm(&arguments)?;
    Ok(String::new())
}

/// The plain manifests name the released images; a test's are loaded under other names.
pub fn apply_manifests(kubernetes: &Kubernetes) -> Result<()> {
    let root = project_root();
    let crds = root.join("crds").display().to_string();
    kubernetes.kubectl(&["apply", "--server-side", "-f", &crds])?;
    let path = root.join("manifests/operator.yaml");
    let manifest = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let version = env!("CARGO_PKG_VERSION");
    let mut replaced = manifest;
    for (released, tested) in [
        (format!("starling/starling-operator:{version}"), "localhost/starling-operator:test"),
        ("starling/starling-server".to_owned(), "localhost/starling-server"),
        (format!("STARLING_SERVER_VERSION, value: \"{version}\""), "STARLING_SERVER_VERSION, value: test"),
    ] {
        ensure!(replaced.contains(&released), "manifests/operator.yaml does not name {released}");
        replaced = replaced.replace(&released, tested);
    }
    kubernetes.with_manifest(&["apply", "--server-side", "-n", OPERATOR_NAMESPACE], &replaced)?;
    Ok(())
}

/// Removes the operator; nothing may stay but the CRDs, which hold users' data.
pub(super) fn uninstall(context: &mut Context) -> Result<()> {
    if context.short {
        return Ok(());
    }
    context.step("helm uninstall leaves only the CRDs", |context| {
        let kubernetes = &context.kubernetes;
        let mut operator = kubernetes.clone();
        OPERATOR_NAMESPACE.clone_into(&mut operator.namespace);
        operator.helm(&["uninstall", "starling-operator", "--wait"])?;
        operator.helm(&["uninstall", "starling-crds", "--wait"])?;
        kubernetes.wait_for("the operator's namespace is empty", Duration::from_secs(60), || {
            let left = operator.inventory()?;
            ensure!(left.is_empty(), "left: {left:?}");
            let left = kubernetes.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"])?;
            let left: Vec<_> = left.lines().filter(|name| name.contains("starling-operator")).collect();
            ensure!(left.is_empty(), "left: {left:?}");
            Ok(())
        })?;
        kubernetes.kubectl(&["get", "crd", "natsclusters.starling.dev"])?;
        Ok(String::new())
    })
}
