//! `starling-e2e`: builds images, brings clusters up, runs scenarios against them, and
//! compares the broker with nats-server.
#![allow(clippy::print_stdout, reason = "a tool for terminals and CI logs: what it prints is its result")]

mod differential;
mod http;
mod images;
mod process;

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
    /// Compare the broker's answers with nats-server's
    Differential(differential::DifferentialArguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Task::Images(arguments) => arguments.write().map(|_| ()),
        Task::Pack(arguments) => arguments.write(),
        Task::Differential(arguments) => arguments.run(),
    }
}
