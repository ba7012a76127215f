//! Time per operation of the client and route parsers, on the shapes that peers really send.
//!
//! `cargo bench -p starling-wire`

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

fn main() {
    divan::main();
}

const OPERATIONS: usize = 1000;

fn repeated(operation: &str) -> Vec<u8> {
    operation.as_bytes().repeat(OPERATIONS)
}

#[divan::bench(args = [
    "PUB bulk.data 16\r\n0123456789abcdef\r\n",
    "PUB bulk.data _INBOX.abcdefgh.12 16\r\n0123456789abcdef\r\n",
    "HPUB bulk.data 22 38\r\nNATS/1.0\r\nKey: abc\r\n\r\n0123456789abcdef\r\n",
    "pub\tbulk.data  16\n0123456789abcdef\r\n",
    "SUB bulk.*.data workers 17\r\n",
    "UNSUB 17 5\r\n",
    "PING\r\n",
])]
fn client(bencher: Bencher<'_, '_>, operation: &str) {
    use wire::client::{Limits, Step, parse};
    let input = repeated(operation);
    let limits = Limits::default();
    bencher.counter(ItemsCount::new(OPERATIONS)).counter(BytesCount::of_slice(&input)).bench(|| {
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

#[divan::bench(args = [
    "RMSG $G bulk.data 16\r\n0123456789abcdef\r\n",
    "RMSG $G bulk.data | workers other 16\r\n0123456789abcdef\r\n",
    "RS+ $G bulk.*.data workers 3\r\n",
    "RS- $G bulk.*.data workers\r\n",
])]
fn route(bencher: Bencher<'_, '_>, operation: &str) {
    use wire::route::{Limits, Shape, Step, parse};
    let input = repeated(operation);
    let (limits, shape) = (Limits::default(), Shape::default());
    bencher.counter(ItemsCount::new(OPERATIONS)).counter(BytesCount::of_slice(&input)).bench(|| {
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
