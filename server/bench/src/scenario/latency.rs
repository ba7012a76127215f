//! Owns the latency scenarios: request-reply, and an open loop at half of what the servers can do.

use super::streams::pairs;
use super::{Bench, Bound, Goal, Metric, Metrics, Scenario, ahead, faster, figures, timed_figures};
use crate::Error;
use crate::exchange::request_reply;
use crate::paced::open_loop;

/// Where the open loop's capacity is carried, messages per second.
const CAPACITY: &str = "capacity";

pub(super) fn scenarios() -> Vec<Scenario> {
    let lower = |p50, p99| {
        vec![
            Goal::new(Metric::P50Microseconds, Bound::RatioAtMost, p50),
            Goal::new(Metric::P99Microseconds, Bound::RatioAtMost, p99),
        ]
    };
    let mut alone = lower(0.7, 0.5);
    alone.push(Goal::new(Metric::CpuNanoseconds, Bound::RatioAtMost, 0.4));
    let mut all = vec![
        Scenario::new("reqrep-1", "request-reply, 1 requestor, 16 B", "req", alone, |bench| {
            requests(bench, 1)
        }),
        Scenario::new("reqrep-64", "request-reply, 64 requestors, 16 B", "req", faster(1.6, 0.5), |bench| {
            requests(bench, 64)
        }),
        Scenario::new("reqrep-1000", "request-reply, 1,000 requestors, 16 B", "req", ahead(), |bench| {
            requests(bench, 1_000)
        }),
    ];
    let mut same = Scenario::new(
        "open-loop",
        "open loop, 4 pairs, 128 B, all at 50% of the slowest server's capacity",
        "msg",
        lower(1.0, 1.0),
        |bench| {
            let capacity = bench.carried.borrow().get(CAPACITY).copied();
            paced(bench, capacity)
        },
    );
    same.prepare = Some(Box::new(|bench| {
        let metrics = capacity(bench)?;
        let rate = metrics.get(&Metric::Rate).copied().unwrap_or(f64::MAX);
        let mut carried = bench.carried.borrow_mut();
        let slowest = carried.entry(CAPACITY.to_owned()).or_insert(f64::MAX);
        *slowest = slowest.min(rate);
        Ok(metrics)
    }));
    all.push(same);
    all.push(Scenario::new(
        "open-loop-own",
        "open loop, 4 pairs, 128 B, each at 50% of its own capacity",
        "msg",
        lower(1.0, 1.0),
        |bench| {
            let rate = capacity(bench)?.get(&Metric::Rate).copied();
            paced(bench, rate)
        },
    ));
    all
}

fn requests(bench: &Bench<'_>, requestors: usize) -> Result<Metrics, Error> {
    let servers = bench.server()?;
    let timed = request_reply(servers.first()?, requestors, bench.timing, &|| servers.usage())?;
    Ok(timed_figures(&servers, &timed))
}

fn capacity(bench: &Bench<'_>) -> Result<Metrics, Error> {
    let servers = bench.server()?;
    let flow = servers.stream(&pairs(4, 128), bench.part(2))?;
    Ok(figures(&servers, &flow.spent))
}

fn paced(bench: &Bench<'_>, capacity: Option<f64>) -> Result<Metrics, Error> {
    let capacity = capacity.ok_or(Error::Unsupported("the capacity was not measured"))?;
    let servers = bench.server()?;
    let timed = open_loop(servers.first()?, 4, capacity / 2.0, bench.timing, &|| servers.usage())?;
    let mut metrics = timed_figures(&servers, &timed);
    // The open loop never sleeps: a whole core says nothing there.
    metrics.remove(&Metric::LoadCores);
    Ok(metrics)
}
