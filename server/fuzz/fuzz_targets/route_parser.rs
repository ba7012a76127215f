//! No bytes of another server make the parser panic, and where a read ended makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::route::{Limits, Op, Shape, Step, parse};

fuzz_target!(|data: &[u8]| {
    let Some((form, data)) = data.split_first() else { return };
    let shape = Shape { account_implied: form & 1 != 0, unsubscribe_origin: form & 2 != 0 };
    let limits = Limits { control_line_bytes_max: 64, message_bytes_max: 300 };
    let mut at = 0;
    while at < data.len() {
        let whole = parse(data, at, &limits, shape);
        for end in at..data.len() {
            match parse(&data[..end], at, &limits, shape) {
                Ok(Step::More(need)) => {
                    assert!(need > end - at, "asks for no more than it has");
                    if let Ok(Step::Op(_, used)) = whole {
                        assert!(need <= used, "asks for more than the operation has");
                    }
                }
                Ok(Step::Op(op, used)) => {
                    assert_eq!(Ok(Step::Op(op, used)), whole, "depends on what follows")
                }
                Err(_) => assert!(whole.is_err(), "a prefix is refused, the whole is not: {whole:?}"),
            }
        }
        match whole {
            Ok(Step::Op(op, used)) => {
                assert!(used > 0);
                if let Op::Message(message) = op {
                    let publish = message.publish;
                    let body = &data[publish.body_range()];
                    assert!(!data[publish.subject_range()].is_empty());
                    assert!(publish.header_len as usize <= body.len() && body.len() <= 300);
                    assert!(data[publish.reply_range()].len() == publish.reply_len as usize);
                }
                at += used;
            }
            _ => return,
        }
    }
});
