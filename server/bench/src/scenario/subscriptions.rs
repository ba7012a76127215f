//! Owns the scenario of a million subscriptions: what they cost to make, to keep, and to publish past.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Bench, Bound, Goal, Metric, Metrics, Scenario, figures, memory_given_back};
use crate::Error;
use crate::block::Block;
use crate::load::Load;
use crate::traffic::{Delivery, Party, Traffic};

/// Connections that hold the subscriptions.
const HOLDERS: usize = 10;
const SUBSCRIPTIONS_MAX: usize = 1_000_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    let goals = || {
        vec![
            Goal::new(Metric::BytesEach, Bound::AtMost, 110.0),
            Goal::new(Metric::CpuNanoseconds, Bound::RatioAtMost, 0.25),
        ]
    };
    vec![
        Scenario::new(
            "subs-100k",
            "100,000 mixed subscriptions, publishing on cold subjects past them, 16 B",
            "msg",
            goals(),
            |bench| subscriptions(bench, 100_000),
        ),
        Scenario::new(
            "subs-1m",
            "1,000,000 mixed subscriptions, publishing on cold subjects past them, 16 B",
            "msg",
            goals(),
            |bench| subscriptions(bench, SUBSCRIPTIONS_MAX),
        ),
    ]
}

/// The pattern of subscription `index`, and a subject that only it matches. All subjects have one
/// length.
fn pattern(index: usize) -> (String, String) {
    let kind = index % 20;
    match kind {
        0..12 => (format!("unit.{index:07}.temp"), format!("unit.{index:07}.temp")),
        12..16 => (format!("site.{index:07}.*"), format!("site.{index:07}.temp")),
        16..19 => (format!("area.{index:07}.>"), format!("area.{index:07}.temp")),
        _ => (format!("*.{index:07}.only"), format!("zone.{index:07}.only")),
    }
}

/// `count` subscriptions in patterns of all kinds, six of ten literal, and one publisher.
pub(crate) fn crowded(count: usize, holders: usize, subjects: usize) -> Traffic {
    let mut parties = vec![Party::default(); holders];
    for index in 0..count {
        if let Some(party) = parties.get_mut(index % holders) {
            let line = format!("SUB {} {}\r\n", pattern(index).0, index / holders + 1);
            party.subscribes.extend_from_slice(line.as_bytes());
        }
    }
    // The published subjects are spread over all subscriptions.
    let step = (count / subjects).max(1);
    let block = Block::many_subjects(subjects.min(count), 16, |index, out| {
        let _ = write!(out, "{}", pattern(index * step + index % step).1);
    });
    parties.push(Party::publisher(0, block));
    Traffic { parties, deliveries: vec![Delivery::Spread], ..Traffic::default() }
}

fn subscriptions(bench: &Bench<'_>, count: usize) -> Result<Metrics, Error> {
    let servers = bench.configured(&crate::process::Launch::default())?;
    let traffic = crowded(count, HOLDERS, 200_000 - 1);
    let empty = servers.usage();
    let started = Instant::now();
    let load = Load::open(&servers.endpoints, &traffic)?;
    let setup = started.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let full = servers.usage();
    let flow = load.run(bench.timing, &|| servers.usage())?;
    let mut metrics = figures(&servers, &flow.spent);
    let grown = full.own_bytes.saturating_sub(empty.own_bytes);
    metrics.insert(Metric::BytesEach, grown as f64 / count as f64);
    metrics.insert(Metric::SetupRate, count as f64 / setup.as_secs_f64());
    if count == SUBSCRIPTIONS_MAX {
        metrics.insert(Metric::ResidentAfterBytes, memory_given_back(&servers));
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_patterns_appear_and_subjects_have_one_length() {
        let patterns: Vec<_> = (0..20).map(pattern).collect();
        let wild = patterns.iter().filter(|(p, s)| p != s).count();
        assert_eq!(wild, 8);
        assert!(patterns.iter().all(|(_, s)| s.len() == 17));
        let traffic = crowded(1_000, 10, 100);
        assert_eq!(traffic.parties.len(), 11);
    }
}
