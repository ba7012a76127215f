//! A server leaves in good order, by each of the ways that there are to ask for it, and the official clients go along.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::Event;
use rustix::process::Signal;

use super::Context;
use super::fleet::{Fleet, Kind, Plan};
use super::follower::Follower;
use crate::clients::{Traffic, Watched};
use crate::process::{Running, eventually, project_root, run};

/// The shortest that nats-server takes; over it the server closes those that do not go by themselves.
const DRAIN: &str = "lame_duck_grace_period: \"500ms\"\nlame_duck_duration: \"30s\"\n";

/// Has Go fetch what its client is built of, which it cannot once there is no network but the stories' own.
pub fn fetch_modules() -> Result<()> {
    run(Command::new("go").args(["mod", "download"]).current_dir(project_root().join("e2e/client-go")))
}

/// `--signal ldm` with official clients of two languages, then what a pod's preStop hook runs and its SIGTERM.
pub fn drain(context: &mut Context) -> Result<()> {
    let mut fleet = Fleet::new(&context.programs)?;
    for number in 1..=3 {
        fleet.add(Plan::new(&format!("n{number}"), Kind::Ours).with(DRAIN))?;
    }
    fleet.mesh(Duration::from_secs(30))?;
    context.step("--signal ldm: clients of Rust and Go are told and move, and miss nothing else", |context| {
        let folder = tempfile::tempdir()?;
        let go = folder.path().join("client-go");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&go).arg(".").env("CGO_ENABLED", "0");
        run(build.current_dir(project_root().join("e2e/client-go")))?;
        let leaving = fleet.take("n3")?;
        let mut go = Command::new(go);
        let _go = Running::start(go.args(["go", &leaving.url()]).arg(folder.path()).stdout(Stdio::null()))?;
        eventually("the Go client is at n3", Duration::from_secs(10), || {
            let log = go_log(folder.path());
            ensure!(is_connected(&log, "n3"), "{log}");
            Ok(())
        })?;
        let follower = Follower::connect(&leaving.client)?;
        let stays = fleet.members[0].url();
        let (watched, moved, traffic) = context.runtime.block_on(async {
            let watched = Watched::connect(&leaving.url()).await?;
            let here = Watched::connect(&stays).await?;
            let there = Watched::connect(&fleet.members[1].url()).await?;
            // between clients that stay: no message of theirs may suffer
            let traffic = Traffic::start(&here.client, &there.client, "steady").await?;
            anyhow::Ok((watched, (here, there), traffic))
        })?;
        let start = Instant::now();
        let mut leaving = leaving;
        run(Command::new(&context.programs.candidate).args(["--signal", &format!("ldm={}", leaving.pid())]))?;
        follower.learn(&fleet.client_addresses(), Duration::from_secs(5))?;
        ensure!(follower.is_told_to_leave(), "the new list came without ldm");
        let told = start.elapsed();
        drop(follower);
        eventually("the Rust client is told and elsewhere", Duration::from_secs(40), || {
            ensure!(watched.count(&Event::LameDuckMode) >= 1, "no LameDuckMode event");
            ensure!(watched.server_name() != "n3", "still at n3");
            Ok(())
        })?;
        eventually("the Go client is elsewhere", Duration::from_secs(40), || {
            let log = go_log(folder.path());
            ensure!(is_connected(&log, "n1") || is_connected(&log, "n2"), "{log}");
            Ok(())
        })?;
        leaving.ended(Duration::from_secs(10))?;
        let ended = start.elapsed();
        let messages = context.runtime.block_on(traffic.finish())?;
        std::fs::write(folder.path().join("stop"), "")?;
        drop(moved);
        fleet.mesh(Duration::from_secs(10))?;
        Ok(format!(
            "told after {} ms, all moved and the server ended after {:.1} s; {messages} messages beside it, 0 lost",
            told.as_millis(),
            ended.as_secs_f64()
        ))
    })?;
    context.step("a pod's preStop hook (drain --wait), then SIGTERM", |context| {
        let mut leaving = fleet.take("n2")?;
        let mut follower = Follower::connect(&leaving.client)?;
        let mut hook = Command::new(&context.programs.candidate);
        let hook = hook.args(["drain", "--wait", "--pid", &leaving.pid().to_string()]).spawn();
        let mut hook = hook.context("cannot run drain")?;
        let expected = fleet.client_addresses();
        follower.learn(&expected, Duration::from_secs(5))?;
        ensure!(follower.is_told_to_leave(), "the new list came without ldm");
        ensure!(hook.try_wait()?.is_none(), "drain --wait returned while a client was connected");
        follower.relocate(Duration::from_millis(100))?;
        let start = Instant::now();
        ensure!(hook.wait()?.success(), "drain --wait failed");
        // it may have ended by itself by now
        let _ = leaving.signal(Signal::TERM);
        leaving.ended(Duration::from_secs(5))?;
        follower.confirm(Duration::from_secs(5))?;
        Ok(format!("hook and server ended {} ms after the last client had gone", start.elapsed().as_millis()))
    })
}

/// What the Go client noted: its file carries the time of its start in its name.
fn go_log(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
}

/// `TIME connected NAME SERVER` is a line of the log.
fn is_connected(log: &str, server: &str) -> bool {
    log.lines()
        .any(|line| line.split(' ').nth(1) == Some("connected") && line.ends_with(&format!(" {server}")))
}
