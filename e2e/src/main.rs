//! `starling-e2e`: builds images, brings clusters up, runs scenarios against them, and
//! compares the broker with nats-server.
#![allow(clippy::print_stdout, reason = "a tool for terminals and CI logs: what it prints is its result")]

mod chaos;
mod clients;
mod cluster;
mod differential;
mod http;
mod images;
mod info_watcher;
mod kubernetes;
mod main_job;
mod manifests;
mod process;
mod provider;
mod scale;
mod scenario;
mod tokens;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build static programs and pack them as images, without a container engine
    Images(images::ImagesArguments),
    /// Pack files as an image
    #[command(hide = true)]
    Pack(images::PackArguments),
    /// Connect with a mounted Secret of a NatsUser, and hear oneself
    #[command(hide = true)]
    Client {
        /// Where it is mounted
        folder: std::path::PathBuf,
    },
    /// Start a cluster; images named are loaded
    Up {
        #[command(flatten)]
        provider: provider::ProviderArguments,
        /// Archives to load into each node
        images: Vec<std::path::PathBuf>,
    },
    /// End a cluster and remove all it left
    Down {
        #[command(flatten)]
        provider: provider::ProviderArguments,
    },
    /// Prove a local cluster with nats-server, without any of our programs
    Smoke {
        #[command(flatten)]
        provider: provider::ProviderArguments,
    },
    /// Play scenarios with the operator and the broker on a cluster
    Run(scenario::RunArguments),
    /// Measure the operator with many NatsClusters against a real API server
    Scale(scale::ScaleArguments),
    /// Run the README's first command, with real clients through it
    MainJob(main_job::MainJobArguments),
    /// Write what is generated and kept in the project: the CRD chart, manifests/operator.yaml
    Manifests(manifests::ManifestsArguments),
    /// Inject faults into a real cluster while every message is counted
    Chaos(chaos::ChaosArguments),
    /// One client of the workload of `chaos`, until the folder holds a file `stop`
    #[command(hide = true)]
    ChaosClient(chaos::ClientArguments),
    /// Show that the checker of `chaos` fails brokers that drop, repeat or reorder one message in 10,000
    Defects(chaos::DefectsArguments),
    /// Let clients and servers come and go for an hour: memory and descriptors stay flat
    Churn(chaos::ChurnArguments),
    /// Compare the broker's answers with nats-server's
    Differential(differential::DifferentialArguments),
    /// Form, grow, shrink and break clusters of processes, nats-server among them
    Cluster(cluster::ClusterArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Images(arguments) => arguments.write().map(|_| ()),
        Task::Pack(arguments) => arguments.write(),
        Task::Client { folder } => scenario::tenants::client(&folder),
        Task::Up { provider, images } => {
            provider.up(&images.iter().map(std::path::PathBuf::as_path).collect::<Vec<_>>())?;
            println!("KUBECONFIG={}", provider.kubeconfig()?.display());
            Ok(())
        }
        Task::Down { provider } => provider.down(false),
        Task::Smoke { provider } => provider.smoke(),
        Task::Run(arguments) => arguments.run(),
        Task::Scale(arguments) => arguments.run(),
        Task::MainJob(arguments) => arguments.run(),
        Task::Manifests(arguments) => arguments.run(),
        Task::Chaos(arguments) => arguments.run(),
        Task::ChaosClient(arguments) => arguments.run(),
        Task::Defects(arguments) => arguments.run(),
        Task::Churn(arguments) => arguments.run(),
        Task::Differential(arguments) => arguments.run(),
        Task::Cluster(arguments) => arguments.run(),
    }
}
