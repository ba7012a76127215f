//! Whole servers that join, die, lose and find each other: in the end all agree, and no message came twice.
//!
//! A failure prints its seed. To repeat it: `STARLING_SIM_SEED=<seed> cargo test -p starling-sim --test cluster`.
//! To search longer: `STARLING_SIM_RUNS=100000`; to see what its meshes wanted done: `STARLING_SIM_LOG=1`.

use sim::cluster_world::{Sum, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn servers_agree_after_any_faults_and_deliver_nothing_twice() {
    let seeds = match variable("STARLING_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("STARLING_SIM_RUNS").unwrap_or(600),
    };
    let mut sum = Sum::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(Ok(one)) => {
                sum.messages += one.messages;
                sum.deliveries += one.deliveries;
                sum.faults += one.faults;
                sum.settle_millis_max = sum.settle_millis_max.max(one.settle_millis_max);
            }
            Ok(Err(broken)) => panic!("STARLING_SIM_SEED={seed}: {broken}"),
            Err(_) => panic!("STARLING_SIM_SEED={seed}: a server panicked, see above"),
        }
    }
    eprintln!("{sum:?}");
    // a simulation in which nothing happens would pass as well
    let is_full = variable("STARLING_SIM_SEED").is_none();
    assert!(!is_full || (sum.faults > 300 && sum.deliveries > sum.messages), "{sum:?}");
}
