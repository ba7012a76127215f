//! Time per operation of the client and route parsers, on the shapes that peers really send.
//!
//! `cargo bench -p starling-wire`

use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

const OPERATIONS: usize = 1000;

const CLIENT: [(&str, &str); 7] = [
    ("PUB", "PUB bulk.data 16\r\n0123456789abcdef\r\n"),
    ("PUB with reply", "PUB bulk.data _INBOX.abcdefgh.12 16\r\n0123456789abcdef\r\n"),
    ("HPUB", "HPUB bulk.data 22 38\r\nNATS/1.0\r\nKey: abc\r\n\r\n0123456789abcdef\r\n"),
    ("PUB in an odd spelling", "pub\tbulk.data  16\n0123456789abcdef\r\n"),
    ("SUB", "SUB bulk.*.data workers 17\r\n"),
    ("UNSUB", "UNSUB 17 5\r\n"),
    ("PING", "PING\r\n"),
];

const ROUTE: [(&str, &str); 4] = [
    ("RMSG", "RMSG $G bulk.data 16\r\n0123456789abcdef\r\n"),
    ("RMSG with groups", "RMSG $G bulk.data | workers other 16\r\n0123456789abcdef\r\n"),
    ("RS+", "RS+ $G bulk.*.data workers 3\r\n"),
    ("RS-", "RS- $G bulk.*.data workers\r\n"),
];

fn input(operations: &[(&str, &str)], name: &str) -> Vec<u8> {
    let (_, operation) =
        operations.iter().find(|(other, _)| *other == name).expect("the name is in the table");
    operation.as_bytes().repeat(OPERATIONS)
}

#[divan::bench(args = CLIENT.map(|(name, _)| name))]
fn client(bencher: Bencher<'_, '_>, name: &str) {
    use wire::client::{Limits, Step, parse};
    let input = input(&CLIENT, name);
    let limits = Limits::default();
    bencher.counter(ItemsCount::new(OPERATIONS)).bench(|| {
        let mut at = 0;
        while at < input.len() {
            match parse(divan::black_box(&input), at, &limits) {
                Ok(Step::Op(op, used)) => {
                    divan::black_box(op);
                    at += used;
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[divan::bench(args = ROUTE.map(|(name, _)| name))]
fn route(bencher: Bencher<'_, '_>, name: &str) {
    use wire::route::{Limits, Shape, Step, parse};
    let input = input(&ROUTE, name);
    let (limits, shape) = (Limits::default(), Shape::default());
    bencher.counter(ItemsCount::new(OPERATIONS)).bench(|| {
        let mut at = 0;
        while at < input.len() {
            match parse(divan::black_box(&input), at, &limits, shape) {
                Ok(Step::Op(op, used)) => {
                    divan::black_box(op);
                    at += used;
                }
                other => panic!("{other:?}"),
            }
        }
    });
}
