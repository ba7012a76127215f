//! What clients are promised, whatever the interleaving: order, no loss, no duplicate, one member of a group,
//! nothing behind the end of a subscription, and nothing left when all are gone.
//!
//! A failure prints its seed. To repeat it: `STARLING_SIM_SEED=<seed> cargo test -p starling-sim <test's name>`.
//! To search longer: `STARLING_SIM_RUNS=100000`.

use fastrand::Rng;
use sim::{Report, Shape, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn explore(runs: u64, shape: fn(&mut Rng) -> Shape) -> Report {
    let seeds = match variable("STARLING_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("STARLING_SIM_RUNS").unwrap_or(runs),
    };
    let mut sum = Report::default();
    for seed in seeds {
        let shape = shape(&mut Rng::with_seed(seed));
        match catch_unwind(AssertUnwindSafe(|| run(seed, &shape))) {
            Ok(Ok(report)) => {
                sum.messages += report.messages;
                sum.deliveries += report.deliveries;
                sum.subscriptions += report.subscriptions;
                sum.pauses += report.pauses;
                sum.cut_off += report.cut_off;
            }
            Ok(Err(broken)) => panic!("STARLING_SIM_SEED={seed}: {broken}"),
            Err(_) => panic!("STARLING_SIM_SEED={seed}: the broker panicked, see above"),
        }
    }
    eprintln!("{sum:?}");
    sum
}

fn is_full() -> bool {
    variable("STARLING_SIM_SEED").is_none()
}

#[test]
fn small_messages_under_changing_interest() {
    let sum = explore(3_000, Shape::small);
    // a simulation in which nothing happens would pass as well
    assert!(!is_full() || (sum.deliveries > sum.messages / 4 && sum.subscriptions > 3_000), "{sum:?}");
}

#[test]
fn subscriptions_that_come_and_go_all_the_time() {
    let sum = explore(2_000, Shape::restless);
    assert!(!is_full() || sum.deliveries > sum.messages / 4, "{sum:?}");
}

#[test]
fn large_payloads_through_small_buffers() {
    let sum = explore(150, Shape::large);
    assert!(!is_full() || sum.deliveries > sum.messages / 4, "{sum:?}");
}

#[test]
fn publishers_that_outrun_their_readers_are_paused_and_go_on() {
    let sum = explore(15, Shape::flood);
    assert!(!is_full() || sum.pauses > 3, "{sum:?}");
}

#[test]
fn readers_that_are_cut_off_take_nobody_with_them() {
    let sum = explore(150, Shape::cut_off);
    assert!(!is_full() || sum.cut_off > 10, "{sum:?}");
}
