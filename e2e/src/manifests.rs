//! `manifests`: what is made from something else and kept in the project all the same. The
//! chart's copies of crds/, and manifests/operator.yaml, which is the operator's chart
//! with its default values.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{output, project_root};
use crate::provider::program;

/// Arguments of `manifests`.
#[derive(Debug, clap::Args)]
pub struct ManifestsArguments {
    /// Change nothing; fail if something would change
    #[arg(long)]
    check: bool,
    /// The helm to render with; default: the one of the clusters' build
    #[arg(long)]
    helm: Option<PathBuf>,
}

impl ManifestsArguments {
    /// Writes, or checks, all of it.
    pub fn run(&self) -> Result<()> {
        let root = project_root();
        for entry in std::fs::read_dir(root.join("crds"))? {
            let entry = entry?;
            let copy = root.join("charts/starling-crds/files").join(entry.file_name());
            self.keep(&copy, &std::fs::read_to_string(entry.path())?)?;
        }
        self.keep(&root.join("manifests/operator.yaml"), &self.operator(&root)?)?;
        self.charts(&root)
    }

    /// The charts as helm judges them, and what their values promise.
    fn charts(&self, root: &Path) -> Result<()> {
        let run = |arguments: &[&str], chart: &str, values: &[&str]| {
            let mut helm = Command::new(self.helm()?);
            helm.args(arguments).arg(root.join("charts").join(chart));
            for value in values {
                helm.args(["--set", value]);
            }
            output(&mut helm)
        };
        let template = |values: &[&str]| run(&["template", "x", "-n", "ops"], "starling-operator", values);
        let monitoring = ["podMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true"];
        for chart in ["starling-crds", "starling-operator"] {
            run(&["lint", "--strict"], chart, &[])?;
        }
        run(&["lint", "--strict"], "starling-operator", &monitoring)?;
        let rendered = template(&monitoring)?;
        for part in ["kind: PodMonitor", "kind: PrometheusRule", "grafana_dashboard:", "NatsServerDown"] {
            ensure!(rendered.contains(part), "{part} is not rendered with {monitoring:?}");
        }
        let plain = template(&[])?;
        for kind in ["PodMonitor", "PrometheusRule"] {
            ensure!(!plain.contains(&format!("kind: {kind}")), "{kind} needs definitions that not all have");
        }
        let namespaced = template(&["watchNamespaces={shop,books}", "replicas=2"])?;
        ensure!(!namespaced.contains("kind: ClusterRole"), "a namespaced install has rights everywhere");
        for namespace in ["shop", "books"] {
            let role = format!("namespace: {namespace}");
            ensure!(namespaced.contains(&role), "no Role in watched namespace {namespace}");
        }
        let refused = template(&["replica=2"]);
        ensure!(refused.is_err(), "values.schema.json lets an unknown value through");
        let kept = run(&["template", "x"], "starling-crds", &[])?;
        let (definitions, policies) = (
            kept.matches("kind: CustomResourceDefinition").count(),
            kept.matches("helm.sh/resource-policy: keep").count(),
        );
        ensure!(
            definitions == 3 && policies == 3,
            "{definitions} definitions, {policies} of them kept on uninstall"
        );
        println!(
            "charts: linted; monitoring, namespaced install, kept definitions and refused values rendered as promised"
        );
        Ok(())
    }

    fn helm(&self) -> Result<PathBuf> {
        self.helm.clone().map_or_else(|| program("helm"), Ok)
    }

    fn keep(&self, path: &Path, wanted: &str) -> Result<()> {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        if found == wanted {
            return Ok(());
        }
        ensure!(!self.check, "{} is out of date; run `starling-e2e manifests`", path.display());
        println!("wrote {}", path.display());
        std::fs::write(path, wanted).with_context(|| path.display().to_string())
    }

    /// The chart as plain YAML: with the namespace that helm would make, and without the
    /// labels that say helm looks after it.
    fn operator(&self, root: &Path) -> Result<String> {
        let mut template = Command::new(self.helm()?);
        template.args(["template", "starling-operator", "-n", "starling-system"]);
        let rendered = output(template.arg(root.join("charts/starling-operator")))?;
        let mut text = String::from(
            "# The Starling operator without helm; apply crds/ first.\n\
             # Made from charts/starling-operator by `starling-e2e manifests`.\n\
             apiVersion: v1\nkind: Namespace\nmetadata:\n  name: starling-system\n  labels:\n    \
             pod-security.kubernetes.io/enforce: restricted\n",
        );
        for line in rendered.lines() {
            let of_helm = ["app.kubernetes.io/managed-by: Helm", "helm.sh/chart:", "# Source:"];
            if of_helm.iter().all(|start| !line.trim_start().starts_with(start)) {
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        Ok(text)
    }
}
