//! Time to match a subject against many filters, and to add and remove one.
//!
//! `cargo bench -p starling-subject`

use divan::Bencher;
use subject::Trie;

fn main() {
    divan::main();
}

/// Three quarters literals, one quarter wildcards, as in the broker's own measurements.
fn filter(number: usize) -> String {
    match number % 4 {
        0 => format!("orders.{number}.*.created"),
        _ => format!("orders.{number}.created"),
    }
}

fn filled(filters: usize) -> Trie {
    let mut trie = Trie::new(7);
    for number in 0..filters {
        trie.insert(filter(number).as_bytes());
    }
    trie
}

const FILTERS: [usize; 3] = [10, 1_000, 100_000];

#[divan::bench(args = FILTERS)]
fn matching_a_literal(bencher: Bencher<'_, '_>, filters: usize) {
    matching(bencher, filters, |number| format!("orders.{number}.created"));
}

#[divan::bench(args = FILTERS)]
fn matching_a_wildcard(bencher: Bencher<'_, '_>, filters: usize) {
    matching(bencher, filters, |number| format!("orders.{number}.x.created"));
}

#[divan::bench(args = FILTERS)]
fn matching_nothing(bencher: Bencher<'_, '_>, filters: usize) {
    matching(bencher, filters, |number| format!("other.{number}"));
}

fn matching(bencher: Bencher<'_, '_>, filters: usize, subject: impl Fn(usize) -> String) {
    let trie = filled(filters);
    let subjects: Vec<String> = (0..1024).map(|i| subject(i * 997 % filters)).collect();
    let (mut next, mut out) = (0, Vec::new());
    bencher.bench_local(move || {
        next = (next + 1) % subjects.len();
        let subject = subjects[next].as_bytes();
        out.clear();
        trie.matches(subject, trie.hash(subject), &mut out);
        divan::black_box(out.len())
    });
}

#[divan::bench(args = FILTERS)]
fn adding_and_removing(bencher: Bencher<'_, '_>, filters: usize) {
    let mut trie = filled(filters);
    bencher.bench_local(move || {
        let (id, _) = trie.insert(b"other.*.created");
        trie.remove(id);
    });
}
