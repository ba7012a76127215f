//! Runs one scenario a fixed number of times, to be counted by callgrind: see `instructions.sh`.
//!
//! `instructions SCENARIO ROUNDS`; without arguments it prints the scenarios and their operations a round.
#![allow(clippy::print_stdout)] // its output is its purpose

#[path = "../benches/traffic/mod.rs"]
mod traffic;

use traffic::{NAMES, Traffic};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, rounds] = &arguments[..] else {
        for name in NAMES {
            let mut traffic = Traffic::new(name).expect("the names are those of the scenarios");
            traffic.run();
            println!("{name} {}", traffic.operations);
        }
        return;
    };
    let mut traffic = Traffic::new(name).expect("no such scenario: run without arguments for the list");
    for _ in 0..rounds.parse().expect("the number of rounds is a number") {
        traffic.run();
    }
}
