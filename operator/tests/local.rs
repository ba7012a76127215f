//! `starling-operator up`, as a user has it: a file, a program, lines to read.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const OPERATOR: &str = env!("CARGO_BIN_EXE_starling-operator");
/// Generous: the machine may be busy with other tests.
const TIME_MAX: Duration = Duration::from_secs(60);

const FILE: &str = "\
apiVersion: starling.dev/v1alpha1
kind: NatsCluster
metadata:
  name: orders
spec:
  replicas: 3
  listeners: [{name: client, port: 1}]
";

/// A running `up`.
struct Up {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    folder: PathBuf,
}

impl Up {
    fn start(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("cluster.yaml"), FILE).expect("file");
        Self::start_in(folder)
    }

    fn start_in(folder: PathBuf) -> Self {
        let mut child = Command::new(OPERATOR)
            .args(["up", "cluster.yaml", "--server"])
            .arg(fake_broker())
            .current_dir(&folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines, seen: Vec::new(), folder }
    }

    /// Waits for a line with this text, and answers with it.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no {text:?} in:\n{}", self.seen.join("\n")));
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    fn edit(&self, from: &str, to: &str) {
        let path = self.folder.join("cluster.yaml");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(text.contains(from), "{from:?} not in {text}");
        std::fs::write(&path, text.replace(from, to)).expect("writes");
    }

    fn pid(&self, server: &str) -> Pid {
        let text = std::fs::read_to_string(self.folder.join(".starling/orders").join(server).join("pid"));
        Pid::from_raw(text.expect("pid").trim().parse().expect("number")).expect("not 0")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("pid");
        kill_process(pid, signal).expect("signalled");
    }

    fn end(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.wait_for("all servers stopped");
        self.child.wait().expect("ends")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Only of a failed test; its servers end with it or with the next start.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Cargo builds examples beside the tests, unless it is asked for some tests only.
fn fake_broker() -> PathBuf {
    static BUILT: std::sync::Once = std::sync::Once::new();
    let test = std::env::current_exe().expect("path");
    let program = test.ancestors().nth(2).expect("target").join("examples/fake_broker");
    BUILT.call_once(|| {
        if !program.exists() {
            let build = Command::new(env!("CARGO")).args(["build", "--example", "fake_broker"]).status();
            assert!(build.expect("cargo runs").success());
        }
    });
    program
}

fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_cluster_comes_up_grows_shrinks_and_ends() {
    let mut up = Up::start("life");
    for server in ["orders-0", "orders-1", "orders-2"] {
        let line = up.wait_for("ready nats://127.0.0.1:");
        assert!(line.starts_with("orders-"), "{line} should begin like {server}");
    }
    up.wait_for("Ready: all 3 servers are ready");

    up.edit("replicas: 3", "replicas: 5");
    up.wait_for("orders: ScaleUp: from 3 to 5 servers");
    up.wait_for("Ready: all 5 servers are ready");

    let scale = Command::new(OPERATOR).args(["scale", "orders", "2"]).current_dir(&up.folder).status();
    assert!(scale.expect("runs").success());
    for leaving in ["orders-4", "orders-3", "orders-2"] {
        let line = up.wait_for("orders: ScaleDown: from");
        assert!(line.contains(&format!("{leaving} sends its clients")), "{line}");
    }
    up.wait_for("Ready: all 2 servers are ready");

    let servers = [up.pid("orders-0"), up.pid("orders-1")];
    assert!(servers.iter().all(|pid| is_running(*pid)));
    assert!(up.end().success());
    assert!(!servers.iter().any(|pid| is_running(*pid)));
}

#[test]
fn a_broken_file_is_complained_about_and_changes_nothing() {
    let mut up = Up::start("broken");
    up.wait_for("Ready: all 3 servers are ready");
    let before = [up.pid("orders-0"), up.pid("orders-1"), up.pid("orders-2")];
    for (from, to, complaint) in [
        ("replicas: 3", "replcas: 3", "cluster.yaml: line 6 column 3: spec.replcas: unknown field"),
        ("replcas: 3", "replicas: 0", "cluster.yaml: line 6 column 3: spec.replicas must be at least 1"),
        ("replicas: 0", "replicas: [3", "cluster.yaml: "),
        ("replicas: [3", "replicas: 3\n  config: {merge: {max_paylod: 1}}", "unknown field \"max_paylod\""),
    ] {
        up.edit(from, to);
        up.wait_for(complaint);
        up.wait_for("nothing that runs was changed");
    }
    assert_eq!(before, [up.pid("orders-0"), up.pid("orders-1"), up.pid("orders-2")]);
    assert!(before.iter().all(|pid| is_running(*pid)));
    assert!(up.end().success());
}

#[test]
fn settings_are_reloaded_or_servers_replaced_one_at_a_time() {
    let mut up = Up::start("change");
    up.wait_for("Ready: all 3 servers are ready");
    let before = [up.pid("orders-0"), up.pid("orders-1"), up.pid("orders-2")];
    up.edit("replicas: 3", "replicas: 3\n  config: {maxPayload: 2Mi}");
    for server in ["orders-2", "orders-1", "orders-0"] {
        up.wait_for(&format!("ConfigReloaded: {server} loads the new configuration"));
    }
    up.wait_for("RolloutCompleted");
    assert_eq!(before, [up.pid("orders-0"), up.pid("orders-1"), up.pid("orders-2")]);

    // A port cannot be reloaded; nats-server refuses it.
    up.edit("port: 1}", "port: 2}");
    for server in ["orders-2", "orders-1", "orders-0"] {
        up.wait_for(&format!("ServerRestarting: {server} is outdated"));
    }
    up.wait_for("RolloutCompleted");
    let after = [up.pid("orders-0"), up.pid("orders-1"), up.pid("orders-2")];
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    assert!(up.end().success());
}

#[test]
fn crashed_servers_and_a_killed_runner_are_recovered_from() {
    let mut up = Up::start("crash");
    up.wait_for("Ready: all 3 servers are ready");
    kill_process(up.pid("orders-1"), Signal::KILL).expect("killed");
    up.wait_for("orders-1 ended by itself");
    up.wait_for("Ready: all 3 servers are ready");

    let left = up.pid("orders-0");
    up.signal(Signal::KILL);
    up.child.wait().expect("killed");
    let mut again = Up::start_in(up.folder.clone());
    again.wait_for("Ready: all 3 servers are ready");
    assert!(!is_running(left), "the old server must not run beside the new one");

    let second = Command::new(OPERATOR)
        .args(["up", "cluster.yaml", "--server"])
        .arg(fake_broker())
        .current_dir(&up.folder)
        .output()
        .expect("runs");
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && complaint.contains("in use by another"), "{complaint}");
    assert!(again.end().success());
}
