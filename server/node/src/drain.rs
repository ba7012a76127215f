//! `starling-server drain --wait`: what a pod's preStop hook runs, as there is no shell in the image.
//!
//! Puts a server into lame duck mode and waits until it has ended, so that the kubelet's SIGTERM comes when
//! clients have moved.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::time::{Duration, Instant};

const USAGE: &str = "usage: drain [--wait] [--pid PID] [--timeout SECONDS]

Puts the server with that process id (1, the container's, by default) into lame duck mode.
  --wait             return when the server has ended
  --timeout SECONDS  wait no longer than this (default 3600)";

/// Runs the command.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (mut wait, mut pid, mut timeout) = (false, 1, Duration::from_secs(3600));
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--wait" => wait = true,
            "--pid" => pid = rest.next().context(USAGE)?.parse().context(USAGE)?,
            "--timeout" => timeout = Duration::from_secs(rest.next().context(USAGE)?.parse().context(USAGE)?),
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    let process = Pid::from_raw(pid).with_context(|| format!("{pid} is no process id"))?;
    kill_process(process, Signal::USR2).with_context(|| format!("cannot signal process {pid}"))?;
    let started = Instant::now();
    while wait && test_kill_process(process).is_ok() {
        if started.elapsed() > timeout {
            bail!("process {pid} still drains after {} s", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
