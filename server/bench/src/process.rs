//! Owns server processes: starting them on free loopback ports, reading what they cost from /proc,
//! ending them. Never ends a process that it did not start.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;

/// How long a server may take to answer its first connection.
const START_SECONDS_MAX: u64 = 15;

/// A server process of ours. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where `/varz` is, if asked for.
    pub monitor: Option<SocketAddr>,
    _folder: tempfile::TempDir,
}

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// The configuration file's text; none is written when empty.
    pub config: String,
    /// Files beside the configuration: name and content. `DIR` in the configuration's text is
    /// replaced by the folder they are in.
    pub files: Vec<(String, String)>,
    /// Whether to open the monitoring port.
    pub monitor: bool,
    /// A folder in which the server's output stays behind; without it goes with the process.
    pub logs: Option<PathBuf>,
}

/// Processor time and memory of processes at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time by the scheduler's own clock, all living threads.
    pub scheduled: Duration,
    /// User and system time by the accounting clock (steps of 10 ms), all threads there were.
    pub accounted: Duration,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Resident memory that is no page of a file, bytes: what grows with the work, whichever parts of its program a
    /// server happens to have in use.
    pub own_bytes: u64,
    /// Highest resident memory so far, bytes.
    pub resident_peak_bytes: u64,
}

impl Usage {
    /// Processor time spent since `earlier`. The scheduler's clock is finer but forgets threads that
    /// ended; where that shows, the accounting clock's figure is taken.
    #[must_use]
    pub fn processor_since(&self, earlier: &Self) -> Duration {
        let fine = self.scheduled.saturating_sub(earlier.scheduled);
        let coarse = self.accounted.saturating_sub(earlier.accounted);
        if fine + Duration::from_millis(30) < coarse { coarse } else { fine }
    }

    fn add(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.accounted += other.accounted;
        self.resident_bytes += other.resident_bytes;
        self.own_bytes += other.own_bytes;
        self.resident_peak_bytes += other.resident_peak_bytes;
    }
}

/// What a stretch of time brought and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Messages, requests or connections in it.
    pub units: u64,
    /// Its length, seconds.
    pub seconds: f64,
    /// Processor time of the servers.
    pub processor: Duration,
    /// The servers' memory at its end.
    pub usage: Usage,
    /// Processor time of the load: a whole core means that the load is the limit.
    pub load_processor: Duration,
}

impl Spent {
    /// Units per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.seconds.max(1e-9)
    }

    /// Server processor time per unit, nanoseconds.
    #[must_use]
    pub fn cpu_nanoseconds(&self) -> f64 {
        self.processor.as_nanos() as f64 / self.units.max(1) as f64
    }

    /// Processor cores that the load took.
    #[must_use]
    pub fn load_cores(&self) -> f64 {
        self.load_processor.as_secs_f64() / self.seconds.max(1e-9)
    }
}

/// Takes the time and the costs of a stretch.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    start: Instant,
    before: Usage,
    own_before: Usage,
}

impl Stopwatch {
    /// Starts now; `usage` reads the servers' costs.
    #[must_use]
    pub fn start(usage: &dyn Fn() -> Usage) -> Self {
        Self { own_before: own_usage(), before: usage(), start: Instant::now() }
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// What was spent on `units` until now.
    #[must_use]
    pub fn stop(&self, units: u64, usage: &dyn Fn() -> Usage) -> Spent {
        let seconds = self.start.elapsed().as_secs_f64();
        let after = usage();
        Spent {
            units,
            seconds,
            processor: after.processor_since(&self.before),
            usage: after,
            load_processor: own_usage().processor_since(&self.own_before),
        }
    }
}

/// A loopback port that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| Error::io("finding a free port", source))
}

impl Process {
    /// Starts `path -a 127.0.0.1 -p PORT [-m PORT] [-c FILE]` and waits until it accepts.
    ///
    /// # Errors
    /// [`Error::Start`] when it exits or stays silent.
    pub fn start(path: &Path, launch: &Launch) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix("starling-bench-")
            .tempdir()
            .map_err(|source| Error::io("making a temporary folder", source))?;
        let port = free_port()?;
        let mut command = Command::new(path);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        let mut monitor = None;
        if launch.monitor {
            let port = free_port()?;
            command.args(["-m", &port.to_string()]);
            monitor = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        for (name, text) in &launch.files {
            write(&folder.path().join(name), text)?;
        }
        if !launch.config.is_empty() {
            let file = folder.path().join("server.conf");
            let place = folder.path().display().to_string();
            write(&file, &launch.config.replace("DIR", &place))?;
            command.arg("-c").arg(&file);
        }
        let log = match &launch.logs {
            Some(logs) => logs.join(format!("server-{port}.log")),
            None => folder.path().join("log"),
        };
        let output = File::create(&log).map_err(|source| Error::file(&log, source))?;
        let errors = output.try_clone().map_err(|source| Error::file(&log, source))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|source| Error::io(format!("starting {}", path.display()), source))?;
        let mut process =
            Self { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), monitor, _folder: folder };
        process.wait_until_ready(path, &log)?;
        Ok(process)
    }

    fn wait_until_ready(&mut self, path: &Path, log: &Path) -> Result<(), Error> {
        let started = Instant::now();
        let why = loop {
            if let Ok(mut stream) = TcpStream::connect(self.address) {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                let mut first = [0_u8; 4];
                if stream.read_exact(&mut first).is_ok() && &first == b"INFO" {
                    return Ok(());
                }
            }
            match self.child.try_wait() {
                Ok(Some(status)) => break format!("it ended ({status})"),
                Ok(None) if started.elapsed().as_secs() >= START_SECONDS_MAX => {
                    break format!("no INFO within {START_SECONDS_MAX} s");
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(source) => return Err(Error::io("waiting for the server", source)),
            }
        };
        let text = fs::read_to_string(log).unwrap_or_default();
        let from = text.char_indices().rev().nth(800).map_or(0, |(index, _)| index);
        Err(Error::Start {
            path: path.to_owned(),
            port: self.address.port(),
            why,
            log: text.get(from..).unwrap_or_default().trim().replace('\n', " | "),
        })
    }

    /// What the process has cost so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        usage_of(&PathBuf::from(format!("/proc/{}", self.child.id())))
    }

    /// The number of messages the server says it received, from `/varz`; `None` when the monitoring
    /// port is closed, silent or says otherwise.
    #[must_use]
    pub fn messages_in(&self) -> Option<u64> {
        let mut stream = TcpStream::connect_timeout(&self.monitor?, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"GET /varz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        messages_in_of(&answer)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What several processes cost together.
#[must_use]
pub fn usage_of_all(processes: &[Process]) -> Usage {
    let mut sum = Usage::default();
    for process in processes {
        sum.add(&process.usage());
    }
    sum
}

/// What this very process has cost: the load's side.
#[must_use]
pub fn own_usage() -> Usage {
    usage_of(Path::new("/proc/self"))
}

/// Strangers' processor cores from which on a run is called disturbed.
pub const DISTURBED_CORES: f64 = 0.2;

/// The machine's processor time at one moment, to tell how much of it went to strangers.
#[derive(Debug, Clone, Copy)]
pub struct MachineClock {
    at: Instant,
    busy: Duration,
    family: Duration,
}

impl MachineClock {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            busy: busy(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            family: family(&fs::read_to_string("/proc/self/stat").unwrap_or_default()),
        }
    }

    /// Processor cores that went since then to processes that are neither this one nor servers it
    /// started and has ended.
    #[must_use]
    pub fn strangers(&self) -> f64 {
        let now = Self::now();
        let busy = now.busy.saturating_sub(self.busy);
        let ours = now.family.saturating_sub(self.family);
        let seconds = (now.at - self.at).as_secs_f64().max(1e-3);
        busy.saturating_sub(ours).as_secs_f64() / seconds
    }
}

/// User, nice, system and stolen time of all processors, from /proc/stat. Interrupts are left out:
/// those of loopback traffic are ours.
fn busy(stat: &str) -> Duration {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    let ticks: u64 = [0, 1, 2, 7].iter().filter_map(|index| fields.get(*index)).sum();
    Duration::from_millis(ticks * 10)
}

/// A process's own time and that of its ended children, from /proc/PID/stat, fields 14 to 17.
fn family(stat: &str) -> Duration {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(4).map(|word| word.parse().unwrap_or(0)).sum();
    Duration::from_millis(ticks * 10)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::file(path, source))
}

fn usage_of(folder: &Path) -> Usage {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let status = read("status");
    let mut scheduled = 0;
    if let Ok(threads) = fs::read_dir(folder.join("task")) {
        for thread in threads.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            scheduled += scheduled_nanoseconds(&text);
        }
    }
    Usage {
        scheduled: Duration::from_nanos(scheduled),
        accounted: accounted(&read("stat")),
        resident_bytes: kilobytes(&status, "VmRSS:") * 1024,
        own_bytes: kilobytes(&status, "RssAnon:") * 1024,
        resident_peak_bytes: kilobytes(&status, "VmHWM:") * 1024,
    }
}

/// First word of /proc/PID/task/TID/schedstat: time on a processor, nanoseconds.
fn scheduled_nanoseconds(schedstat: &str) -> u64 {
    schedstat.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// utime and stime of /proc/PID/stat, fields 14 and 15, in the 100 ticks a second that Linux shows
/// to user space on every architecture. The name in field 2 may hold blanks and brackets.
fn accounted(stat: &str) -> Duration {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || -> u64 { fields.next().and_then(|word| word.parse().ok()).unwrap_or(0) };
    Duration::from_millis((ticks() + ticks()) * 10)
}

fn kilobytes(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

fn messages_in_of(answer: &str) -> Option<u64> {
    let (_, rest) = answer.split_once("\"in_msgs\":")?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(accounted(stat), Duration::from_secs(2));
        assert_eq!(accounted(""), Duration::ZERO);
        assert_eq!(scheduled_nanoseconds("123456 99 3\n"), 123_456);
    }

    #[test]
    fn costs_are_shared_out_over_units() {
        let spent = Spent {
            units: 4_000,
            seconds: 2.0,
            processor: Duration::from_micros(8),
            load_processor: Duration::from_secs(1),
            ..Spent::default()
        };
        assert_eq!((spent.rate(), spent.cpu_nanoseconds(), spent.load_cores()), (2_000.0, 2.0, 0.5));
        assert_eq!(Spent::default().cpu_nanoseconds(), 0.0);
    }

    #[test]
    fn strangers_take_what_is_not_ours() {
        let stat = "cpu  100 10 50 1000 7 3 2 40 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy(stat), Duration::from_secs(2));
        let own = "42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 10 20 30 40 20 0 9 0 1";
        assert_eq!(family(own), Duration::from_secs(1));
    }

    #[test]
    fn memory_is_read_in_kilobytes() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), 1024);
        assert_eq!(kilobytes(status, "VmHWM:"), 2048);
        assert_eq!(kilobytes(status, "VmSwap:"), 0);
    }

    #[test]
    fn the_finer_clock_counts_unless_it_lost_threads() {
        let usage = |scheduled, accounted| Usage {
            scheduled: Duration::from_millis(scheduled),
            accounted: Duration::from_millis(accounted),
            ..Usage::default()
        };
        let start = usage(0, 0);
        let fine = usage(1_004, 1_010).processor_since(&start);
        assert_eq!(fine, Duration::from_millis(1_004));
        let lost = usage(500, 1_010).processor_since(&start);
        assert_eq!(lost, Duration::from_millis(1_010));
    }

    #[test]
    fn messages_in_is_found_in_an_answer() {
        let answer = "HTTP/1.1 200 OK\r\n\r\n{\n  \"in_msgs\": 12345,\n  \"out_msgs\": 1\n}";
        assert_eq!(messages_in_of(answer), Some(12_345));
        assert_eq!(messages_in_of("HTTP/1.1 404\r\n\r\n"), None);
    }

    #[test]
    fn this_process_costs_something() {
        let usage = own_usage();
        assert!(usage.own_bytes > 0 && usage.resident_bytes > usage.own_bytes);
        assert!(usage.resident_peak_bytes >= usage.resident_bytes);
    }
}
