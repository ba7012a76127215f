//! Kubernetes clusters to test against: `local` (Kubernetes' own programs in network
//! namespaces) and `kind` (the real one). Both are scripts under `kubernetes/`; this
//! module starts them, knows where they leave what a test needs, and ends them.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{project_root, run};

/// How a cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// One to three nodes from Kubernetes' own programs; up in seconds.
    Local,
    /// One node in Docker, as most users have it.
    Kind,
}

/// Which cluster; several `local` ones may run side by side under different names.
#[derive(Debug, Clone, clap::Args)]
pub struct ProviderArguments {
    /// How the cluster is made
    #[arg(long, value_enum, default_value = "local")]
    pub provider: Provider,
    /// Nodes of a local cluster, 1 to 3
    #[arg(long, default_value_t = 3)]
    pub nodes: u8,
    /// Name of a local cluster
    #[arg(long, default_value = "starling")]
    pub name: String,
    /// Gives each node of a local cluster a disk of its own for the pods' logs, in megabytes
    #[arg(skip)]
    pub pod_logs_mb: Option<u32>,
}

impl ProviderArguments {
    /// Starts the cluster, ending one of the same name first, and loads images into its nodes.
    pub fn up(&self, images: &[&Path]) -> Result<()> {
        ensure!((1..=3).contains(&self.nodes), "--nodes {}: 1 to 3 are possible", self.nodes);
        ensure!(rustix::process::geteuid().is_root(), "clusters need root: they are made of namespaces");
        let bin = root_folder()?.join("bin");
        ensure!(
            bin.join(".stamp").exists(),
            "{}: Kubernetes is not built; run {}",
            bin.display(),
            scripts().join("build.sh").display()
        );
        let up = run(self.script("up.sh")?.args(images));
        if up.is_err() {
            let _ = self.down(true);
        }
        up
    }

    /// Loads an image into the nodes of a local cluster.
    pub fn load(&self, image: &Path) -> Result<()> {
        ensure!(self.provider == Provider::Local, "images are loaded later into local clusters only");
        run(self.script("load.sh")?.arg(image))
    }

    /// Ends the cluster; `keep_logs` leaves its log files.
    pub fn down(&self, keep_logs: bool) -> Result<()> {
        let mut script = self.script("down.sh")?;
        if keep_logs {
            script.env("K8S_KEEP_LOGS", "1");
        }
        run(&mut script)
    }

    /// The scripts that prove a local cluster with nats-server.
    pub fn smoke(&self) -> Result<()> {
        ensure!(self.provider == Provider::Local, "smoke proves local clusters only");
        let script = |name: &str| self.with_environment(scripts().join("smoke").join(name));
        run(&mut script("images.sh")?)?;
        let folder = root_folder()?.join("images");
        let images = ["nats.tar", "nats2.tar", "tools.tar"].map(|name| folder.join(name));
        self.up(&images.each_ref().map(PathBuf::as_path))?;
        let proven = script("smoke.sh").and_then(|mut script| run(&mut script));
        self.down(proven.is_err())?;
        proven
    }

    /// Puts this thread, and all that it starts from now on, into the cluster's network, where
    /// pods are reached by their addresses. Nothing outside is reached any more.
    pub fn enter_network(&self) -> Result<()> {
        let name = match self.provider {
            Provider::Local => &self.name,
            Provider::Kind => "starling-kind",
        };
        let path = format!("/run/netns/{name}");
        let namespace = std::fs::File::open(&path).with_context(|| path.clone())?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).with_context(|| path)
    }

    /// Credentials of the cluster's administrator.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        Ok(match self.provider {
            Provider::Local => root_folder()?.join(format!("state-{}/pki/admin.kubeconfig", self.name)),
            Provider::Kind => root_folder()?.join("kind/kubeconfig"),
        })
    }

    /// Where a local cluster's programs log; of kind, Docker's log only.
    pub fn logs(&self) -> Result<PathBuf> {
        Ok(match self.provider {
            Provider::Local => root_folder()?.join(format!("state-{}/logs", self.name)),
            Provider::Kind => root_folder()?.join("kind/dockerd.log"),
        })
    }

    /// `node.sh` of a local cluster: crash, start, partition, heal.
    pub fn node(&self, action: &str, node: &str) -> Result<()> {
        run(self.script("node.sh")?.args([action, node]))
    }

    /// Where a local cluster keeps everything.
    pub fn state(&self) -> Result<PathBuf> {
        Ok(root_folder()?.join(format!("state-{}", self.name)))
    }

    /// One of a provider's scripts, with the environment that tells it which cluster.
    fn script(&self, name: &str) -> Result<Command> {
        let folder = match self.provider {
            Provider::Local => "local",
            Provider::Kind => "kind",
        };
        self.with_environment(scripts().join(folder).join(name))
    }

    fn with_environment(&self, script: PathBuf) -> Result<Command> {
        if !script.exists() {
            bail!("{}: no such script; run from a checkout", script.display());
        }
        let mut command = Command::new(script);
        command
            .env("K8S_ROOT", root_folder()?)
            .env("K8S_NS", &self.name)
            .env("K8S_NODES", self.nodes.to_string())
            .env("STARLING_E2E", std::env::current_exe()?);
        if let Some(megabytes) = self.pod_logs_mb {
            command.env("K8S_POD_LOGS_MB", megabytes.to_string());
        }
        Ok(command)
    }
}

/// A program of the cluster's build: `kubectl`, `helm`, `nats-server` and others.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(root_folder()?.join("bin").join(name))
}

fn scripts() -> PathBuf {
    project_root().join("e2e/kubernetes")
}

/// Where the build is kept, and the clusters' state: as in `kubernetes/env.sh`.
fn root_folder() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("K8S_ROOT") {
        return Ok(PathBuf::from(root));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("starling-kubernetes"))
}
