//! `cluster`: servers as processes form clusters, with nats-server among them, grow, shrink and break.
//!
//! Each story is one or more steps; a story that fails does not keep the others from running. Everything happens in
//! a network and a mount namespace of its own, so that its counters, cuts and mounts are nobody else's.

mod drain;
mod elastic;
mod faults;
mod fleet;
mod follower;
mod load;
mod mixed;
mod network;
mod resolvers;
mod tenants;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use e2e::steps::{Step, Steps, timed};

use crate::images::target_folder;
use crate::process::run;
use fleet::Programs;

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "STARLING_E2E_CLUSTER_INSIDE";

/// A story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// 2 nats-servers and 2 of ours serve all pairs of clients
    Mixed,
    /// 3 nats-servers are replaced one by one, and back, under load
    Replace,
    /// Every mode of route compression on both kinds of servers
    Compression,
    /// Folders of account tokens of both kinds of servers become alike, and caches before them
    Resolvers,
    /// 3 to 60 to 3 servers under load
    Elastic,
    /// Full meshes of rising size, measured
    Scale,
    /// 5,000 accounts whose users log in, measured beside nats-server
    Accounts,
    /// A server joins one with 100,000 subscriptions
    Subscriptions,
    /// --signal ldm and a pod's end, with official clients
    Drain,
    /// kill -9
    Kill,
    /// SIGSTOP and SIGCONT
    Freeze,
    /// A partition in one direction, then a full one
    OneWay,
    /// A server behind 2 Mbit/s
    SlowLink,
    /// No room for the log
    FullDisk,
    /// The wall clock is set forward and back
    ClockJump,
    /// Garbage on the route port, and a peer that never reads
    BadPeer,
}

impl Story {
    /// What a commit is checked with: all but the measuring.
    fn short() -> Vec<Story> {
        let measuring = [Story::Scale, Story::Accounts];
        Story::value_variants().iter().copied().filter(|story| !measuring.contains(story)).collect()
    }
}

/// Arguments of `cluster`.
#[derive(Debug, clap::Args)]
pub struct ClusterArguments {
    /// The broker; default: target/release/starling-server
    #[arg(long)]
    candidate: Option<PathBuf>,
    /// nats-server, for the stories with both
    #[arg(long)]
    reference: Option<PathBuf>,
    /// What a commit is checked with: some stories, at smaller sizes
    #[arg(long)]
    short: bool,
    /// Sizes of `scale`
    #[arg(long, value_delimiter = ',', default_values_t = [10, 20, 40, 60])]
    sizes: Vec<usize>,
    /// Folder for the measured points and their plot
    #[arg(long)]
    out: Option<PathBuf>,
    /// Stories; default: all
    stories: Vec<Story>,
}

/// What a story has at hand.
struct Context {
    programs: Programs,
    runtime: tokio::runtime::Runtime,
    short: bool,
    sizes: Vec<usize>,
    out: Option<PathBuf>,
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

impl ClusterArguments {
    /// Plays the stories in namespaces of their own and prints the table.
    pub fn run(&self) -> Result<()> {
        let default = if self.short { Story::short() } else { Story::value_variants().to_vec() };
        let stories = if self.stories.is_empty() { default } else { self.stories.clone() };
        if std::env::var_os(INSIDE).is_none() {
            if stories.contains(&Story::Drain) {
                drain::fetch_modules()?;
            }
            return Err(enter_namespaces());
        }
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let default = || target_folder().join("release/starling-server");
        let programs = Programs {
            candidate: self.candidate.clone().unwrap_or_else(default),
            reference: self.reference.clone(),
        };
        let mut context = Context {
            programs,
            runtime: tokio::runtime::Runtime::new()?,
            short: self.short,
            sizes: self.sizes.clone(),
            out: self.out.clone(),
            steps: Steps::default(),
        };
        for story in stories {
            let before = context.steps.failed();
            let result = match story {
                Story::Mixed => mixed::serve(&mut context),
                Story::Replace => mixed::replace(&mut context),
                Story::Compression => mixed::compression(&mut context),
                Story::Resolvers => {
                    resolvers::folders(&mut context).and_then(|()| resolvers::caches(&mut context))
                }
                Story::Elastic => elastic::elastic(&mut context),
                Story::Scale => elastic::scale(&mut context),
                Story::Accounts => tenants::tenants(&mut context),
                Story::Subscriptions => elastic::subscriptions(&mut context),
                Story::Drain => drain::drain(&mut context),
                Story::Kill => faults::kill(&mut context),
                Story::Freeze => faults::freeze(&mut context),
                Story::OneWay => faults::one_way(&mut context),
                Story::SlowLink => faults::slow_link(&mut context),
                Story::FullDisk => faults::full_disk(&mut context),
                Story::ClockJump => faults::clock_jump(&mut context),
                Story::BadPeer => faults::bad_peer(&mut context),
            };
            if let Err(error) = result
                && context.steps.failed() == before
            {
                context.steps.push(Step {
                    name: format!("{story:?}"),
                    took: Duration::ZERO,
                    note: String::new(),
                    failure: Some(format!("{error:#}")),
                });
            }
        }
        println!("\n{}", context.steps.table());
        if context.steps.failed() > 0 {
            bail!("{} steps failed", context.steps.failed());
        }
        Ok(())
    }
}

/// Starts this program anew in a network and a mount namespace; returns only when that fails.
fn enter_namespaces() -> anyhow::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error.into(),
    };
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]).arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    anyhow::Error::from(command.exec()).context("cannot run unshare: the stories need root and util-linux")
}
