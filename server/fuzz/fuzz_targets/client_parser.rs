//! No bytes of a client make the parser panic, and where a read ended makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::client::{Limits, Op, Step, parse};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { control_line_bytes_max: 64, payload_bytes_max: Some(300) };
    let mut at = 0;
    while at < data.len() {
        let whole = parse(data, at, &limits);
        for end in at..data.len() {
            match parse(&data[..end], at, &limits) {
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
                if let Op::Publish(publish) = op {
                    let body = &data[publish.body_range()];
                    assert!(!data[publish.subject_range()].is_empty());
                    assert!(publish.header_len as usize <= body.len() && body.len() <= 300);
                    assert!(data[publish.reply_range()].len() == publish.reply_len as usize);
                    assert_eq!(&data[publish.end as usize - 2..publish.end as usize], b"\r\n");
                }
                at += used;
            }
            _ => return,
        }
    }
});
