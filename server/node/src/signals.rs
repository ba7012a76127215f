//! Signals: what this process does on one, and how `--signal` sends one to another.

use crate::Program;
use anyhow::{Context, bail};
use config::flags::{Signal, SignalKind};
use node::Server;
use rustix::process::{Pid, Signal as Number, kill_process};
use std::path::Path;
use tokio::signal::unix::{SignalKind as Kind, signal};

/// Serves until a signal or the end of lame duck mode stops the server.
pub fn obey(server: Server, program: &Program) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopped = server.stopped();
    runtime.block_on(async {
        let mut interrupt = signal(Kind::interrupt())?;
        let mut terminate = signal(Kind::terminate())?;
        let mut quit = signal(Kind::quit())?;
        let mut hangup = signal(Kind::hangup())?;
        let mut reopen = signal(Kind::user_defined1())?;
        let mut lame_duck = signal(Kind::user_defined2())?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = quit.recv() => break,
                () = stopped.notified() => break,
                // the outcome is logged
                _ = hangup.recv() => drop(program.reload()),
                _ = lame_duck.recv() => server.lame_duck(),
                _ = reopen.recv() => match program.log.reopen() {
                    Ok(()) => tracing::info!("File log re-opened"),
                    Err(error) => tracing::error!("cannot re-open the log file: {error}"),
                },
            }
        }
        anyhow::Ok(())
    })?;
    server.stop();
    server.wait();
    tracing::info!("Server Exiting..");
    Ok(())
}

/// Sends a signal to the server that `signal` names, or to the only one that runs.
pub fn send(signal: &Signal) -> anyhow::Result<()> {
    let number = match signal.kind {
        SignalKind::Stop => Number::KILL,
        SignalKind::Quit => Number::INT,
        SignalKind::Term => Number::TERM,
        SignalKind::Reopen => Number::USR1,
        SignalKind::Reload => Number::HUP,
        SignalKind::LameDuck => Number::USR2,
    };
    let pids = match &signal.target {
        Some(target) => targets(target)?,
        None => match running()?.as_slice() {
            [] => bail!("no server running"),
            [pid] => vec![*pid],
            several => {
                bail!("multiple server processes running: {several:?}; say which with --signal CMD=PID")
            }
        },
    };
    if pids.is_empty() {
        bail!("no server process matches {:?}", signal.target.as_deref().unwrap_or_default());
    }
    for pid in pids {
        let process = Pid::from_raw(pid).with_context(|| format!("{pid} is no process id"))?;
        kill_process(process, number).with_context(|| format!("cannot signal process {pid}"))?;
    }
    Ok(())
}

/// A process id, a process id with `*` behind its first digits, or a file (also with `*`) that holds one.
fn targets(target: &str) -> anyhow::Result<Vec<i32>> {
    if let Ok(pid) = target.parse() {
        return Ok(vec![pid]);
    }
    if let Some(start) = target.strip_suffix('*') {
        if start.chars().all(|c| c.is_ascii_digit()) {
            return Ok(running()?.into_iter().filter(|pid| pid.to_string().starts_with(start)).collect());
        }
        return matching_files(start);
    }
    Ok(vec![pid_in(Path::new(target))?])
}

fn matching_files(start: &str) -> anyhow::Result<Vec<i32>> {
    let (directory, prefix) = start.rsplit_once('/').unwrap_or((".", start));
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(if directory.is_empty() { "/" } else { directory })? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            pids.push(pid_in(&entry.path())?);
        }
    }
    Ok(pids)
}

fn pid_in(path: &Path) -> anyhow::Result<i32> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read PID file {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no process id", path.display()))
}

/// Processes of this program's name, but this one.
fn running() -> anyhow::Result<Vec<i32>> {
    let name = crate::program();
    let own = std::process::id() as i32;
    let mut pids = Vec::new();
    for entry in
        std::fs::read_dir("/proc").context("cannot list processes; name one with --signal CMD=PID")?
    {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let first = line.split(|b| *b == 0).next().unwrap_or_default();
        let same = Path::new(&*String::from_utf8_lossy(first)).file_name().is_some_and(|n| *n == *name);
        if same && pid != own {
            pids.push(pid);
        }
    }
    Ok(pids)
}
