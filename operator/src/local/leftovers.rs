//! Servers of a runner that was killed.
//!
//! Owns finding and ending them, so that a new runner starts from nothing. A process is only ended if its
//! command line names a file in our own state directory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for leftovers to end.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// Ends what an earlier runner left behind in this directory. Knows only of systems with `/proc`; elsewhere
/// leftovers stay, and their ports are passed over.
pub async fn end(directory: &Path) {
    let folders = fs::read_dir(directory).into_iter().flatten().flatten();
    let left: Vec<Pid> =
        folders.filter_map(|folder| running(directory, &folder.path().join("pid"))).collect();
    let deadline = Instant::now() + END_TIME_MAX;
    for (signal, until) in [(Signal::TERM, deadline), (Signal::KILL, deadline + END_TIME_MAX)] {
        for pid in left.iter().filter(|pid| is_ours(directory, **pid)) {
            let _gone = kill_process(*pid, signal);
        }
        while left.iter().any(|pid| is_ours(directory, *pid)) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn running(directory: &Path, file: &Path) -> Option<Pid> {
    let pid = Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)?;
    is_ours(directory, pid).then_some(pid)
}

fn is_ours(directory: &Path, pid: Pid) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let ours = directory.as_os_str().as_encoded_bytes();
    command.split(|byte| *byte == 0).any(|argument| {
        Path::new(&*String::from_utf8_lossy(argument)).starts_with(Path::new(&*String::from_utf8_lossy(ours)))
    })
}
