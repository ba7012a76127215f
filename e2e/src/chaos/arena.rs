//! Where faults happen: a local cluster's processes, nodes, network and control groups, reached
//! from outside of it.
//!
//! Owns how each is found and touched. Never decides what is to break.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::kubernetes::Kubernetes;
use crate::process::{eventually, output};
use crate::provider::ProviderArguments;

/// A local cluster, as whoever has the machines sees it.
#[derive(Debug, Clone)]
pub struct Arena {
    pub provider: ProviderArguments,
    pub kubernetes: Kubernetes,
}

impl Arena {
    /// Ids of the processes of the control plane that run a program, for example `etcd`.
    pub fn control_plane(&self, program: &str) -> Result<Vec<Pid>> {
        let own = std::fs::metadata(format!("/run/netns/{}", self.provider.name))?.ino();
        let of_us = |pid: &u32| {
            let network = std::fs::metadata(format!("/proc/{pid}/ns/net")).map(|file| file.ino());
            let runs = arguments(*pid).first().is_some_and(|first| first.ends_with(&format!("/{program}")));
            network.is_ok_and(|network| network == own) && runs
        };
        let found: Vec<_> = processes()?.into_iter().filter(of_us).filter_map(pid).collect();
        ensure!(!found.is_empty(), "{program} does not run");
        Ok(found)
    }

    /// Ends a program of the control plane and starts it again after a while, with the same arguments.
    pub fn restart(&self, program: &str, away: Duration) -> Result<()> {
        let old = *self.control_plane(program)?.first().context("not there")?;
        let id = old.as_raw_nonzero().get();
        let words = arguments(u32::try_from(id)?);
        let init = parent(id)?;
        kill_process(old, Signal::KILL)?;
        eventually("it is gone", Duration::from_secs(5), || {
            ensure!(self.control_plane(program).is_err(), "{program} still runs");
            Ok(())
        })?;
        std::thread::sleep(away);
        let path = self.provider.logs()?.join(format!("{program}.log"));
        let log = std::fs::File::options().append(true).create(true).open(path)?;
        let mut command = Command::new("setsid");
        command.args(["nsenter", "--target", &init.to_string(), "--mount", "--pid", "--net"]).args(&words);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| program.to_owned())?;
        eventually("it runs again", Duration::from_secs(10), || self.control_plane(program))?;
        Ok(())
    }

    /// Signals a program of the control plane.
    pub fn signal(&self, program: &str, signal: Signal) -> Result<()> {
        for pid in self.control_plane(program)? {
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// The process that a pod's container runs, by the pod's uid.
    pub fn process_of(&self, uid: &str, program: &str) -> Result<Pid> {
        let named = uid.replace('-', "_");
        let of_pod = |id: &u32| {
            let groups = std::fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
            let runs = arguments(*id).first().is_some_and(|first| first.ends_with(program));
            (groups.contains(uid) || groups.contains(&named)) && runs
        };
        let found = processes()?.into_iter().find(of_pod).and_then(pid);
        found.with_context(|| format!("no {program} in pod {uid}"))
    }

    /// Runs a program in a node's network.
    pub fn in_node(&self, node: &str, words: &[&str]) -> Result<String> {
        let network = format!("--net=/run/netns/{}-{node}", self.provider.name);
        output(Command::new("nsenter").arg(network).args(words))
    }

    /// The control group of all pods of a node, of one controller.
    pub fn node_group(&self, controller: &str, node: &str) -> Result<PathBuf> {
        let name = format!("{}-{node}", self.provider.name);
        let separate = Path::new("/sys/fs/cgroup").join(controller).join(&name);
        let found = if separate.exists() { separate } else { Path::new("/sys/fs/cgroup").join(&name) };
        ensure!(found.exists(), "{}: no such control group", found.display());
        Ok(found)
    }

    /// Freezes or thaws all pods of a node, and its kubelet with them.
    pub fn freeze(&self, node: &str, frozen: bool) -> Result<()> {
        let group = self.node_group("freezer", node)?;
        if group.join("freezer.state").exists() {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            std::fs::write(group.join("freezer.state"), state)?;
            eventually("the control group follows", Duration::from_secs(5), || {
                let found = std::fs::read_to_string(group.join("freezer.state"))?;
                ensure!(found.trim() == state, "it is {}", found.trim());
                Ok(())
            })
        } else {
            Ok(std::fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" })?)
        }
    }

    /// The control group of one pod, of one controller.
    pub fn pod_group(&self, controller: &str, node: &str, uid: &str) -> Result<PathBuf> {
        let name = format!("pod{uid}");
        let mut open = vec![self.node_group(controller, node)?];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder)?.flatten().filter(|entry| entry.path().is_dir()) {
                if entry.file_name().to_string_lossy() == name {
                    return Ok(entry.path());
                }
                open.push(entry.path());
            }
        }
        bail!("no control group {name} on {node}")
    }

    /// A node's folder of pods' logs, as its own mounts have it.
    pub fn pod_logs(&self, node: &str) -> Result<PathBuf> {
        let spawned = std::fs::read_to_string(self.provider.state()?.join("pids").join(node))?;
        let spawned: u32 = spawned.trim().parse()?;
        let children = std::fs::read_to_string(format!("/proc/{spawned}/task/{spawned}/children"))?;
        let init = children.split_whitespace().next().context("the node does not run")?;
        Ok(PathBuf::from(format!("/proc/{init}/root/var/log/pods")))
    }
}

fn processes() -> Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn arguments(id: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn parent(id: i32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no PPid")?;
    Ok(line.trim().parse()?)
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}
