//! `kubectl nats`: looks at NATS clusters and looks after them, through the API server alone.
//!
//! A client of the same API that everybody has: it reads objects, sets fields and annotations that the
//! operator acts on, and asks servers by the API server's proxy. Knows no way around the operator.
#![allow(clippy::print_stdout, reason = "a tool for terminals: what it prints is its result")]

mod actions;
mod report;
mod top;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Looks after NATS clusters run by the Starling operator.
#[derive(Debug, Parser)]
#[command(name = "kubectl-nats", bin_name = "kubectl nats", version)]
struct Arguments {
    /// Namespace; default: the kubeconfig's
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Context of the kubeconfig; default: its current one
    #[arg(long, global = true)]
    context: Option<String>,
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show a cluster: conditions, servers, what is waited for, accounts and users; without a name, all
    Status {
        /// Name of the NatsCluster
        name: Option<String>,
    },
    /// Show what each server does: clients, messages and bytes a second, memory
    Top {
        /// Name of the NatsCluster
        name: String,
        /// Seconds between two looks
        #[arg(long, default_value_t = 2)]
        interval_seconds: u64,
        /// Looks until the end; default: until Ctrl-C
        #[arg(long)]
        count: Option<u64>,
    },
    /// Send a server's clients to the others and replace its pod, as a node drain does; waits until it is back
    Drain {
        /// Name of the NatsCluster
        name: String,
        /// Name of the server, e.g. orders-2
        server: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Replace all servers, one at a time, each when the one before it is well; waits for the end
    Restart {
        /// Name of the NatsCluster
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop all servers and keep everything else
    Hibernate {
        /// Name of the NatsCluster
        name: String,
    },
    /// End hibernation
    Wake {
        /// Name of the NatsCluster
        name: String,
    },
    /// Have the operator change nothing in a cluster
    Pause {
        /// Name of the NatsCluster
        name: String,
    },
    /// End a pause
    Resume {
        /// Name of the NatsCluster
        name: String,
    },
    /// Print a user's credentials as environment variables; or replace them
    Creds {
        /// Name of the NatsUser
        user: String,
        /// Have new credentials made; the former ones are let in until the overlap of the spec ends
        #[arg(long)]
        rotate: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Write all that a person needs who is to help: objects, Events, logs and the servers' own reports.
    /// Values of Secrets are left out
    Report {
        /// Name of the NatsCluster
        name: String,
        /// New directory to write to; default: nats-report-NAME
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// Namespace of the operator, for its log
        #[arg(long, default_value = "starling-system")]
        operator_namespace: String,
        /// Lines of each log
        #[arg(long, default_value_t = 2000)]
        log_lines: i64,
    },
}

/// How long to wait.
#[derive(Debug, clap::Args)]
struct Wait {
    /// Return at once
    #[arg(long)]
    no_wait: bool,
    /// Longest wait in seconds
    #[arg(long, default_value_t = 600)]
    timeout_seconds: u64,
}

impl Wait {
    fn time_max(&self) -> Option<Duration> {
        (!self.no_wait).then(|| Duration::from_secs(self.timeout_seconds))
    }
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let client = connect(&arguments).await?;
    let namespace = client.default_namespace().to_owned();
    let cluster = |name: &str| actions::Cluster::new(client.clone(), &namespace, name);
    match arguments.command {
        Task::Status { name: Some(name) } => cluster(&name).status().await,
        Task::Status { name: None } => actions::all(&client, &namespace).await,
        Task::Top { name, interval_seconds, count } => {
            top::run(&cluster(&name), Duration::from_secs(interval_seconds.max(1)), count).await
        }
        Task::Drain { name, server, wait } => cluster(&name).drain(&server, wait.time_max()).await,
        Task::Restart { name, wait } => cluster(&name).restart(wait.time_max()).await,
        Task::Hibernate { name } => cluster(&name).set("hibernated", true).await,
        Task::Wake { name } => cluster(&name).set("hibernated", false).await,
        Task::Pause { name } => cluster(&name).set("paused", true).await,
        Task::Resume { name } => cluster(&name).set("paused", false).await,
        Task::Creds { user, rotate: false, .. } => actions::credentials(&client, &namespace, &user).await,
        Task::Creds { user, wait, .. } => actions::rotate(&client, &namespace, &user, wait.time_max()).await,
        Task::Report { name, output, operator_namespace, log_lines } => {
            let folder = output.unwrap_or_else(|| PathBuf::from(format!("nats-report-{name}")));
            report::write(&cluster(&name), &folder, &operator_namespace, log_lines).await
        }
    }
}

async fn connect(arguments: &Arguments) -> Result<Client> {
    let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
    let read = Kubeconfig::read().context("cannot read the kubeconfig");
    let mut config = match read {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await?,
        // In a pod there is none.
        Err(error) => Config::infer().await.map_err(|_| error)?,
    };
    if let Some(namespace) = &arguments.namespace {
        config.default_namespace.clone_from(namespace);
    }
    Ok(Client::try_from(config)?)
}
