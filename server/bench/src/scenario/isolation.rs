//! Owns the scenarios about who suffers: slow and stalled readers, light clients beside heavy ones.

use std::time::Duration;

use super::streams::{fan_out, pairs};
use super::{Bench, Bound, Goal, Metric, Metrics, Scenario, figures, percentiles};
use crate::Error;
use crate::block::Block;
use crate::load::Load;
use crate::paced::light_client;
use crate::traffic::{Party, Reads, Traffic};

/// A reader that keeps up with a tenth or less of what a server can send.
const SLOW_BYTES_PER_SECOND: u64 = 20 << 20;
/// Between two messages of a light client.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn scenarios() -> Vec<Scenario> {
    let light = || vec![Goal::new(Metric::P99Microseconds, Bound::RatioAtMost, 0.2)];
    vec![
        Scenario::new(
            "stalled-reader",
            "1 to 4, 128 B, beside one reader that never reads",
            "msg",
            vec![Goal::new(Metric::Share, Bound::AtLeast, 0.95)],
            |bench| beside(bench, Reads::Never),
        ),
        Scenario::new(
            "slow-consumer",
            "1 to 4, 128 B, beside one reader of 20 MB/s",
            "msg",
            vec![Goal::new(Metric::Rate, Bound::RatioAtLeast, 1.0)],
            |bench| beside(bench, Reads::BytesPerSecond(SLOW_BYTES_PER_SECOND)),
        ),
        Scenario::new(
            "backpressure",
            "1 at full speed to 1 reader of 20 MB/s, 1 KB: slowed, not cut off",
            "msg",
            vec![Goal::new(Metric::CutOff, Bound::AtMost, 0.0)],
            backpressure,
        ),
        Scenario::new(
            "light-bulk",
            "light client's latency beside a bulk stream of 1 KB",
            "msg",
            light(),
            |bench| light_beside(bench, &pairs(1, 1_024)),
        ),
        Scenario::new(
            "light-fanout",
            "light client's latency beside a fan-out to 1,000 of 128 B",
            "msg",
            light(),
            |bench| light_beside(bench, &fan_out(1_000, 128)),
        ),
    ]
}

/// A fan-out to four, first undisturbed, then with one more reader that reads as given.
fn beside(bench: &Bench<'_>, reads: Reads) -> Result<Metrics, Error> {
    let timing = bench.part(2);
    let mut traffic = fan_out(4, 128);
    let undisturbed = bench.server()?.stream(&traffic, timing)?;
    let mut slow = Party::subscriber(0, "bench.fan", 1);
    slow.reads = reads;
    traffic.parties.insert(0, slow);
    let servers = bench.server()?;
    let flow = servers.stream(&traffic, timing)?;
    let mut metrics = figures(&servers, &flow.spent);
    metrics.insert(Metric::Share, flow.spent.rate() / undisturbed.spent.rate());
    metrics.insert(Metric::CutOff, flow.cut_off as f64);
    Ok(metrics)
}

fn backpressure(bench: &Bench<'_>) -> Result<Metrics, Error> {
    let mut reader = Party::subscriber(0, "bench.slow", 1);
    reader.reads = Reads::BytesPerSecond(SLOW_BYTES_PER_SECOND);
    let traffic = Traffic {
        parties: vec![reader, Party::publisher(0, Block::one_subject("bench.slow", 1_024))],
        unbounded: true,
        ..Traffic::default()
    };
    let servers = bench.server()?;
    let flow = servers.stream(&traffic, bench.timing)?;
    let mut metrics = figures(&servers, &flow.spent);
    metrics.insert(Metric::CutOff, flow.cut_off as f64);
    Ok(metrics)
}

/// Latency is the light client's, the rate the heavy one's; they run on threads of their own.
fn light_beside(bench: &Bench<'_>, heavy: &Traffic) -> Result<Metrics, Error> {
    let servers = bench.server()?;
    let load = Load::open(&servers.endpoints, heavy)?;
    let timing = bench.timing;
    let (flow, latencies) = std::thread::scope(|scope| {
        let servers = &servers;
        let heavy = scope.spawn(move || load.run(timing, &|| servers.usage()));
        std::thread::sleep(timing.warm);
        let light = light_client(servers.first()?, timing.measured, PAUSE);
        let flow = heavy.join().map_err(|_| Error::Unsupported("the heavy load's thread failed"))??;
        Ok::<_, Error>((flow, light?))
    })?;
    let mut metrics = figures(&servers, &flow.spent);
    percentiles(&mut metrics, &latencies);
    Ok(metrics)
}
