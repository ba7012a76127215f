//! `starling-operator`: the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use operator::{crd, local};

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
        /// File with one NatsCluster
        file: PathBuf,
        /// Number of servers
        replicas: u32,
    },
    /// Print the CustomResourceDefinitions, or write them to files
    Crds {
        /// Write one file for each definition into this directory
        #[arg(long)]
        write: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
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
        Command::Scale { file, replicas } => Ok(local::set_replicas(&file, replicas)?),
        Command::Crds { write } => crds(write),
    }
}

fn crds(write: Option<PathBuf>) -> anyhow::Result<()> {
    use std::io::Write as _;
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
