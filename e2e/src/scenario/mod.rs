//! `run`: scenarios against a real cluster, each a story of what a user does.
//!
//! A step that fails ends the run: what follows would fail with it. Then the cluster's state is
//! printed, and whatever happened, the cluster is ended.

mod bad_input;
mod certificates;
mod everyday;
pub mod installation;
mod lifecycle;
mod metrics_api;
mod nats_cluster;
mod networking;
mod nodes;
mod operator;
mod recovery;
mod reload;
mod rollout;
pub mod tenants;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use e2e::steps::{Step, Steps, timed};

use crate::images::{self, Images, ImagesArguments, PackArguments};
use crate::kubernetes::Kubernetes;
use crate::provider::{Provider, ProviderArguments};

/// Namespace of the operator.
const OPERATOR_NAMESPACE: &str = "starling-system";
/// Namespace of the clusters under test.
const NAMESPACE: &str = "e2e";

/// A story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// A cluster's life: applied, used, grown, shrunk, deleted
    Lifecycle,
    /// Servers that die
    Recovery,
    /// An update that goes wrong; a node that is drained
    Rollout,
    /// TLS by the cluster's own authority, and its rotation under traffic
    Certificates,
    /// Changes of the configuration, loaded by running servers
    Reload,
    /// What the API server or the operator must refuse
    BadInput,
    /// Two replicas of the operator, killed at the worst of times; an autoscaler; played only if named
    Operator,
    /// Clients outside of the Kubernetes cluster; played only if named
    Networking,
    /// Drift, pause, hibernation, pod templates, one namespace, cert-manager; played only if named
    Everyday,
    /// Zones, a server that stands still, nodes that die; played only if named
    Nodes,
    /// Accounts, users, `kubectl nats`, metrics; played only if named
    Tenants,
}

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    #[command(flatten)]
    provider: ProviderArguments,
    /// Only install, apply, use and delete; with the plain manifests in place of helm
    #[arg(long)]
    short: bool,
    /// Archive of the broker's image; default: built
    #[arg(long, requires = "operator_image")]
    broker_image: Option<PathBuf>,
    /// Archive of the operator's image; default: built
    #[arg(long, requires = "broker_image")]
    operator_image: Option<PathBuf>,
    /// Leave the cluster running at the end
    #[arg(long)]
    keep: bool,
    /// Use the cluster that `up` or `--keep` left running
    #[arg(long)]
    reuse: bool,
    /// Scenarios; default: all that are not played only if named
    scenarios: Vec<Scenario>,
}

/// What a scenario has at hand.
struct Context {
    kubernetes: Kubernetes,
    provider: ProviderArguments,
    runtime: tokio::runtime::Runtime,
    short: bool,
    /// Whether nodes have the image with ourselves as a client.
    has_client_image: bool,
    steps: Steps,
}

impl Context {
    /// Does a step and notes how long it took and what it remarked.
    fn step(&mut self, name: &str, action: impl FnOnce(&Self) -> Result<String>) -> Result<()> {
        let (step, result) = timed(name, || action(self));
        self.steps.push(step);
        result
    }
}

impl RunArguments {
    /// Brings the cluster up, plays the scenarios, prints the table, ends the cluster.
    pub fn run(&self) -> Result<()> {
        let images = self.images()?;
        let with_tenants = self.chosen().contains(&Scenario::Tenants);
        if with_tenants {
            images::build_plugin()?;
        }
        let mut steps = Steps::default();
        let mut ended = EndedWithUs { provider: &self.provider, keep: self.keep, failed: true };
        if !self.reuse {
            let start = Instant::now();
            self.provider.up(&[&images.broker, &images.operator])?;
            steps.push(Step {
                name: format!("a {:?} cluster comes up, images loaded", self.provider.provider),
                took: start.elapsed(),
                note: String::new(),
                failure: None,
            });
        }
        let has_client_image = with_tenants && self.provider.provider == Provider::Local;
        if has_client_image {
            self.load_client()?;
        }
        let result = self.play(steps, has_client_image);
        ended.failed = result.is_err();
        result
    }

    fn images(&self) -> Result<Images> {
        match (&self.broker_image, &self.operator_image) {
            (Some(broker), Some(operator)) => {
                Ok(Images { broker: broker.clone(), operator: operator.clone() })
            }
            _ => ImagesArguments::built().write(),
        }
    }

    fn play(&self, steps: Steps, has_client_image: bool) -> Result<()> {
        // Before any thread starts: threads inherit the network of the one that starts them.
        self.provider.enter_network()?;
        let mut context = Context {
            kubernetes: Kubernetes::new(self.provider.kubeconfig()?, NAMESPACE),
            provider: self.provider.clone(),
            runtime: tokio::runtime::Runtime::new()?,
            short: self.short,
            has_client_image,
            steps,
        };
        let result = self.play_scenarios(&mut context);
        if result.is_err() {
            diagnose(&context.kubernetes);
            println!("logs of the cluster: {}", self.provider.logs()?.display());
        }
        println!("\n{}", context.steps.table());
        result?;
        if context.steps.failed() > 0 {
            bail!("{} steps failed", context.steps.failed());
        }
        Ok(())
    }

    /// Ourselves as an image, for pods that are clients.
    fn load_client(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("client.tar");
        PackArguments::client(archive.clone())?.write()?;
        self.provider.load(&archive)
    }

    fn chosen(&self) -> Vec<Scenario> {
        let all = [
            Scenario::Lifecycle,
            Scenario::Recovery,
            Scenario::Rollout,
            Scenario::Certificates,
            Scenario::Reload,
            Scenario::BadInput,
        ];
        match (self.scenarios.is_empty(), self.short) {
            (false, _) => self.scenarios.clone(),
            (true, true) => vec![Scenario::Lifecycle],
            (true, false) => all.to_vec(),
        }
    }

    fn play_scenarios(&self, context: &mut Context) -> Result<()> {
        installation::install(context)?;
        for scenario in self.chosen() {
            match scenario {
                Scenario::Lifecycle => lifecycle::play(context)?,
                Scenario::Recovery => recovery::play(context)?,
                Scenario::Rollout => rollout::play(context)?,
                Scenario::Certificates => certificates::play(context)?,
                Scenario::Reload => reload::play(context)?,
                Scenario::BadInput => bad_input::play(context)?,
                Scenario::Operator => operator::play(context)?,
                Scenario::Networking => networking::play(context)?,
                Scenario::Everyday => everyday::play(context)?,
                Scenario::Nodes => nodes::play(context)?,
                Scenario::Tenants => tenants::play(context)?,
            }
        }
        installation::uninstall(context)
    }
}

/// Ends the cluster also when a scenario panics.
struct EndedWithUs<'a> {
    provider: &'a ProviderArguments,
    keep: bool,
    failed: bool,
}

impl Drop for EndedWithUs<'_> {
    fn drop(&mut self) {
        if self.keep {
            println!("kept; use it again with --reuse, end it with `starling-e2e down`");
        } else if let Err(error) = self.provider.down(self.failed) {
            println!("cannot end the cluster: {error:#}");
        }
    }
}

/// Prints what a person would ask first after a failure.
fn diagnose(kubernetes: &Kubernetes) {
    let questions: [&[&str]; 7] = [
        &["get", "natsclusters", "-A", "-o", "yaml"],
        &["get", "pods,statefulsets,services,poddisruptionbudgets", "-A", "-o", "wide"],
        &["get", "events", "--sort-by=.lastTimestamp"],
        &["-n", OPERATOR_NAMESPACE, "get", "events", "--sort-by=.lastTimestamp"],
        &["-n", OPERATOR_NAMESPACE, "logs", "-l", "app.kubernetes.io/name=starling-operator", "--tail=80"],
        &["-n", OPERATOR_NAMESPACE, "describe", "pods"],
        &["describe", "pods"],
    ];
    for question in questions {
        println!("\n--- kubectl {}", question.join(" "));
        match kubernetes.kubectl(question) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{error:#}"),
        }
    }
    let pods = kubernetes.kubectl(&["get", "pods", "-o", "name"]).unwrap_or_default();
    for pod in pods.lines() {
        println!("\n--- kubectl logs {pod}");
        println!("{}", kubernetes.kubectl(&["logs", pod, "--tail=40"]).unwrap_or_default());
    }
}
