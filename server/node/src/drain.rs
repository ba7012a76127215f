//! `starling-server drain --wait`: what a pod's preStop hook runs, as there is no shell in the image.
//!
//! Puts a server into lame duck mode and waits until its clients have left, so that the kubelet's SIGTERM comes
//! when nobody is cut off by it.

use crate::load;
use anyhow::{Context, bail};
use config::address::Port;
use config::{Command, Settings};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: drain [--wait] [--pid PID] [--timeout SECONDS]

Puts the server with that process id (1, the container's, by default) into lame duck mode.
  --wait             return when its last client has left
  --timeout SECONDS  wait no longer than this (default 3600)";

const LOOK: Duration = Duration::from_millis(100);

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
    let monitor = if wait { monitor_of(pid) } else { None };
    kill_process(process, Signal::USR2).with_context(|| format!("cannot signal process {pid}"))?;
    let started = Instant::now();
    while wait && test_kill_process(process).is_ok() {
        std::thread::sleep(LOOK);
        if monitor.as_ref().is_some_and(|address| clients(address) == Some(0)) {
            return Ok(());
        }
        if started.elapsed() > timeout {
            bail!("process {pid} still drains after {} s", timeout.as_secs());
        }
    }
    Ok(())
}

/// Where the server's monitor listens, by its own command line and configuration file; `None` without one that
/// speaks plain HTTP: the server's end is then waited for.
fn monitor_of(pid: i32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = line.split(|byte| *byte == 0).skip(1).filter(|argument| !argument.is_empty());
    let arguments: Vec<String> =
        arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
    let Ok(Command::Run(flags)) = Command::parse(&arguments) else { return None };
    address_of(&load(&flags).ok()?.settings)
}

fn address_of(settings: &Settings) -> Option<String> {
    let Some(Port::Fixed(port)) = settings.monitoring.http_port else { return None };
    let host = match settings.http_host() {
        "" | "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    Some(config::address::join_host_port(host, i64::from(port)))
}

/// Clients that are connected; `None` when the monitor does not say.
fn clients(address: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET /varz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<serde_json::Value>(body).ok()?.get("connections")?.as_u64()
}
