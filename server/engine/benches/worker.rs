//! What one operation costs a worker, without the system: wall time, for work on the code. What guards against
//! regressions are the instruction counts of `instructions.sh`, which do not swing with the machine's mood.
//!
//! `cargo bench -p starling-engine`

mod traffic;

use divan::Bencher;
use divan::counter::ItemsCount;
use traffic::{NAMES, Traffic};

fn main() {
    divan::main();
}

#[divan::bench(args = NAMES)]
fn worker(bencher: Bencher<'_, '_>, name: &str) {
    let mut traffic = Traffic::new(name).expect("the names are those of the scenarios");
    traffic.run();
    bencher.counter(ItemsCount::new(traffic.operations)).bench_local(move || traffic.run());
}
