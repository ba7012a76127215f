//! Owns the scenarios about connections themselves: an idle server, crowds that stay, storms.

use std::time::{Duration, Instant};

use super::{Bench, Bound, Goal, Metric, Metrics, Scenario, memory, memory_given_back, timed_figures};
use crate::Error;
use crate::storm::{crowd, storm};

/// The largest crowd that a process which may open 20,000 files can be.
const CROWD_MAX: usize = 15_000;
/// How long a server may take to settle before its memory is read.
const SETTLE: Duration = Duration::from_millis(1_500);

pub(super) fn scenarios() -> Vec<Scenario> {
    let small = || vec![Goal::new(Metric::BytesEach, Bound::AtMost, 2_048.0)];
    vec![
        Scenario::new(
            "idle-server",
            "a server without connections",
            "conn",
            vec![Goal::new(Metric::ResidentBytes, Bound::AtMost, 5.0 * 1_048_576.0)],
            |bench| {
                let servers = bench.configured(&crate::process::Launch::default())?;
                std::thread::sleep(SETTLE);
                let mut metrics = Metrics::new();
                memory(&mut metrics, &servers.usage());
                Ok(metrics)
            },
        ),
        Scenario::new("idle-10k", "10,000 idle connections", "conn", small(), |bench| idle(bench, 10_000)),
        Scenario::new("idle-15k", "15,000 idle connections", "conn", small(), |bench| idle(bench, CROWD_MAX)),
        Scenario::new(
            "connect-storm",
            "connections made, greeted and closed, 128 at a time",
            "conn",
            vec![Goal::new(Metric::Rate, Bound::RatioAtLeast, 2.0)],
            |bench| {
                let servers = bench.server()?;
                let timed = storm(servers.first()?, bench.timing, &|| servers.usage())?;
                Ok(timed_figures(&servers, &timed))
            },
        ),
    ]
}

/// Processor time is that of `count` connections staying for a second, each.
fn idle(bench: &Bench<'_>, count: usize) -> Result<Metrics, Error> {
    let servers = bench.configured(&crate::process::Launch::default())?;
    let empty = servers.usage();
    let started = Instant::now();
    let crowd = crowd(servers.first()?, count)?;
    let setup = started.elapsed();
    std::thread::sleep(SETTLE);
    let before = servers.usage();
    std::thread::sleep(bench.timing.measured);
    let full = servers.usage();
    let seconds = bench.timing.measured.as_secs_f64();
    let grown = full.own_bytes.saturating_sub(empty.own_bytes);
    let cpu = full.processor_since(&before).as_nanos() as f64;
    let mut metrics = Metrics::from([
        (Metric::SetupRate, count as f64 / setup.as_secs_f64()),
        (Metric::BytesEach, grown as f64 / count as f64),
        (Metric::CpuNanoseconds, cpu / seconds / count as f64),
    ]);
    memory(&mut metrics, &full);
    // A process may open 20,000 files on the machines this was written for.
    let all = empty.resident_bytes as f64 + grown as f64 / count as f64 * 50_000.0;
    metrics.insert(Metric::Extrapolated, all);
    drop(crowd);
    if count == CROWD_MAX {
        metrics.insert(Metric::ResidentAfterBytes, memory_given_back(&servers));
    }
    Ok(metrics)
}
