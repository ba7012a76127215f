//! `starling-operator`: the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use operator::build::config;
use operator::{crd, local, process, validate};

/// Runs NATS clusters: on Kubernetes, or as local processes.
#[derive(Parser)]
#[command(name = "starling-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the NatsCluster of a YAML file as local processes, and follow changes of the file
    Up {
        /// File with one NatsCluster
        file: PathBuf,
        /// Broker to start; default: starling-server beside this program, or in PATH
        #[arg(long)]
        server: Option<PathBuf>,
        /// Where servers keep their files; default: .starling/NAME beside the file
        #[arg(long)]
        state: Option<PathBuf>,
    },
    /// Change the number of servers in a file; a running `up` follows
    Scale {
        /// File with one NatsCluster, or the name of one that runs from here
        file: PathBuf,
        /// Number of servers
        replicas: u32,
    },
    /// Look after NatsClusters on Kubernetes
    Run(RunArguments),
    /// Print the version
    Version,
    /// Print the CustomResourceDefinitions, or write them to files
    Crds {
        /// Write one file for each definition into this directory
        #[arg(long)]
        write: Option<PathBuf>,
        /// Write what people read about them, as Markdown, into this file
        #[arg(long)]
        reference: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Look only after this namespace; may be given several times
    #[arg(long = "namespace", env = "STARLING_WATCH_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Namespace of the lease by which several operators agree on one
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// Name among the holders of the lease; default: one of its own for every start
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Take no lease; there must be no other operator then
    #[arg(long)]
    no_leader_election: bool,
    /// Address of /livez, /readyz and /metrics
    #[arg(long, default_value = "[::]:8080")]
    http: std::net::SocketAddr,
    /// Image of the broker, without its tag
    #[arg(long, env = "STARLING_SERVER_IMAGE_REPOSITORY")]
    server_image_repository: Option<String>,
    /// Image of a version, VERSION=IMAGE, best by digest; may be given several times. With any, clusters can
    /// ask for no other version
    #[arg(long = "server-catalog", env = "STARLING_SERVER_CATALOG", value_delimiter = ',', value_parser = catalog_entry)]
    server_catalog: Vec<(String, String)>,
    /// Tag of the broker's image for clusters that name no version
    #[arg(long, env = "STARLING_SERVER_VERSION")]
    server_version: Option<String>,
}

/// Reads VERSION=IMAGE.
fn catalog_entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((version, image)) if !version.is_empty() && !image.is_empty() => {
            Ok((version.to_owned(), image.to_owned()))
        }
        _ => {
            Err("must be VERSION=IMAGE, for example 0.1.0=registry.example/starling-server@sha256:…"
                .to_owned())
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes that a message tells already are not told again.
            let mut text = error.to_string();
            for cause in error.chain().skip(1).map(ToString::to_string) {
                if !text.contains(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Up { file, server, state } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(local::up(local::Options { file, server, state }))?)
        }
        Command::Scale { file, replicas } => Ok(local::set_replicas(&local::source_of(&file), replicas)?),
        Command::Run(arguments) => run_controller(arguments),
        Command::Crds { write, reference } => crds(write, reference),
        Command::Version => {
            use std::io::Write as _;
            Ok(writeln!(std::io::stdout(), "starling-operator {}", env!("CARGO_PKG_VERSION"))?)
        }
    }
}

fn crds(write: Option<PathBuf>, reference: Option<PathBuf>) -> anyhow::Result<()> {
    use std::io::Write as _;
    if let Some(path) = &reference {
        std::fs::write(path, crd::reference()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if write.is_none() && reference.is_some() {
        return Ok(());
    }
    for (file, text) in crd::crd_documents()? {
        match &write {
            Some(directory) => {
                let path = directory.join(file);
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => write!(std::io::stdout(), "---\n{text}")?,
        }
    }
    Ok(())
}

fn run_controller(arguments: RunArguments) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut defaults = validate::Defaults::default();
    if let Some(repository) = arguments.server_image_repository.filter(|text| !text.is_empty()) {
        defaults.image_repository = repository;
    }
    defaults.catalog = arguments.server_catalog.into_iter().collect();
    if let Some(version) = arguments.server_version.filter(|text| !text.is_empty()) {
        defaults.version = version;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = process::Options {
            namespaces: arguments.namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
            lease_namespace: arguments.lease_namespace,
            identity: arguments.identity.unwrap_or_else(|| config::new_password(&mut rand::rng())),
            leader_election: !arguments.no_leader_election,
            http: arguments.http,
            defaults,
        };
        let cluster = kube::Config::infer().await.context("no access to a Kubernetes cluster")?;
        Ok(process::run(cluster, options).await?)
    })
}
