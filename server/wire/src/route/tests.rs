use super::*;

fn shape(account_implied: bool, unsubscribe_origin: bool) -> Shape {
    Shape { account_implied, unsubscribe_origin }
}

fn one(text: &str, shape: Shape) -> Result<Op<'_>, Error> {
    match parse(text.as_bytes(), 0, &Limits::default(), shape)? {
        Step::Op(op, consumed) => {
            assert_eq!(consumed, text.len(), "all of {text:?}");
            Ok(op)
        }
        Step::More(more) => panic!("{text:?} is complete but {more} bytes are asked for"),
    }
}

/// A message in words: account, subject, reply, queues, header block, payload.
fn said(text: &str, shape: Shape) -> Result<String, Error> {
    let Op::Message(message) = one(text, shape)? else { panic!("no message: {text:?}") };
    let part = |range: Range<usize>| &text[range];
    let publish = &message.publish;
    let body = part(publish.body_range());
    let (header, payload) = body.split_at(publish.header_len as usize);
    let queues: Vec<&str> = message.queues(text.as_bytes()).map(part).collect();
    Ok(format!(
        "{}/{}/{}/{}/{}/{header}/{payload}{}",
        part(message.origin_range()),
        part(message.account_range()),
        part(publish.subject_range()),
        part(publish.reply_range()),
        queues.join(","),
        if publish.verbatim { "" } else { " rebuilt" },
    ))
}

#[test]
fn messages_in_every_form() {
    let pooled = shape(false, true);
    for (line, expected) in [
        ("RMSG $G foo 2\r\nhi\r\n", "/$G/foo///" /**/),
        ("RMSG $G foo bar 2\r\nhi\r\n", "/$G/foo/bar//"),
        ("rmsg $G foo + 2\r\nhi\r\n", "/$G/foo/+//"),
    ] {
        assert_eq!(said(line, pooled).unwrap(), format!("{expected}/hi"));
    }
    assert_eq!(said("RMSG $G foo + bar q1 q2 2\r\nhi\r\n", pooled).unwrap(), "/$G/foo/bar/q1,q2//hi rebuilt");
    assert_eq!(said("RMSG $G foo + bar 2\r\nhi\r\n", pooled).unwrap(), "/$G/foo/bar///hi");
    assert_eq!(said("RMSG $G foo | q1 2\r\nhi\r\n", pooled).unwrap(), "/$G/foo//q1//hi");
    assert_eq!(said("HMSG $G foo 3 5\r\nh\r\nhi\r\n", pooled).unwrap(), "/$G/foo///h\r\n/hi");
    assert_eq!(said("HMSG $G foo r 3 5\r\nh\r\nhi\r\n", pooled).unwrap(), "/$G/foo/r//h\r\n/hi");
    assert_eq!(said("HMSG $G foo + r q 3 5\r\nh\r\nhi\r\n", pooled).unwrap(), "/$G/foo/r/q/h\r\n/hi rebuilt");
    assert_eq!(said("LMSG hub $G foo 0 2\r\nhi\r\n", pooled).unwrap(), "hub/$G/foo////hi rebuilt");
    assert_eq!(said("LMSG hub $G foo r 0 2\r\nhi\r\n", pooled).unwrap(), "hub/$G/foo/r///hi rebuilt");
    assert_eq!(said("LMSG hub $G foo | q 0 2\r\nhi\r\n", pooled).unwrap(), "hub/$G/foo//q//hi rebuilt");
    assert_eq!(said("RMSG $G foo 0\r\n\r\n", pooled).unwrap(), "/$G/foo////");
    // odd but legal spelling is understood and marked for rebuilding
    assert_eq!(said("RMSG\t$G  foo bar\t 2\nhi\r\n", pooled).unwrap(), "/$G/foo/bar///hi rebuilt");
}

#[test]
fn a_pinned_connection_leaves_the_account_out() {
    let pinned = shape(true, true);
    assert_eq!(said("RMSG foo 2\r\nhi\r\n", pinned).unwrap(), "//foo////hi");
    assert_eq!(said("RMSG foo + r q 2\r\nhi\r\n", pinned).unwrap(), "//foo/r/q//hi rebuilt");
    assert_eq!(said("LMSG hub foo 0 2\r\nhi\r\n", pinned).unwrap(), "hub//foo////hi rebuilt");
    let Op::Subscribe(interest) = one("RS+ foo q 3\r\n", pinned).unwrap() else { panic!() };
    assert_eq!((interest.account, interest.subject, interest.weight), (None, b"foo".as_slice(), 3));
}

#[test]
fn interest_in_every_form() {
    let pooled = shape(false, true);
    let Op::Subscribe(plain) = one("RS+ $G foo.>\r\n", pooled).unwrap() else { panic!() };
    assert_eq!(
        plain,
        Interest {
            leaf: false,
            origin: None,
            account: Some(b"$G"),
            subject: b"foo.>",
            queue: None,
            weight: 1
        }
    );
    for (weight, read) in [("12", 12), ("0", 1), ("x", 1), ("9999999999", 1)] {
        let line = format!("RS+ $G foo workers {weight}\r\n");
        let Op::Subscribe(queue) = one(&line, pooled).unwrap() else { panic!() };
        assert_eq!((queue.queue, queue.weight), (Some(b"workers".as_slice()), read), "{line:?}");
    }
    let Op::Subscribe(leaf) = one("LS+ hub $G foo q 2\r\n", pooled).unwrap() else { panic!() };
    assert_eq!((leaf.leaf, leaf.origin, leaf.weight), (true, Some(b"hub".as_slice()), 2));
    let Op::Unsubscribe(gone) = one("LS- hub $G foo q\r\n", pooled).unwrap() else { panic!() };
    assert_eq!(
        (gone.origin, gone.account, gone.queue),
        (Some(b"hub".as_slice()), Some(b"$G".as_slice()), Some(b"q".as_slice()))
    );
    let Op::Unsubscribe(old) = one("LS- $G foo\r\n", shape(false, false)).unwrap() else { panic!() };
    assert_eq!((old.origin, old.account), (None, Some(b"$G".as_slice())));
}

#[test]
fn malformed_arguments_are_refused() {
    let pooled = shape(false, true);
    for line in [
        "RS+ $G\r\n",
        "RS+ $G foo queue\r\n",
        "RS+ $G foo queue 1 more\r\n",
        "RS- $G foo queue 1\r\n",
        "LS+ hub $G\r\n",
        "RMSG $G foo\r\n",
        "RMSG $G foo x\r\nhi\r\n",
        "RMSG $G foo -1\r\nhi\r\n",
        "RMSG $G foo 1000000000\r\n",
        "RMSG $G foo ? r q 2\r\nhi\r\n",
        "RMSG $G foo r q 2\r\nhi\r\n",
        "HMSG $G foo 2\r\nhi\r\n",
        "HMSG $G foo 3 2\r\nhi\r\n",
        "LMSG $G foo 2\r\nhi\r\n",
    ] {
        assert_eq!(one(line, pooled), Err(Error::Arguments), "{line:?}");
    }
}

#[test]
fn what_is_no_route_is_refused_at_its_first_wrong_byte() {
    for garbage in
        ["GET / HTTP/1.1\r\n", "\x16\x03\x01", "PUB foo 2\r\n", "SUB foo 1\r\n", "RS*", "RS+x", "Q"]
    {
        let got = parse(garbage.as_bytes(), 0, &Limits::default(), Shape::default());
        assert_eq!(got, Err(Error::Unknown), "{garbage:?}");
    }
    let wrong_end = "RMSG $G foo 2\r\nhi!!PING\r\n";
    assert_eq!(parse(wrong_end.as_bytes(), 0, &Limits::default(), Shape::default()), Err(Error::Unknown));
}

#[test]
fn limits_hold_before_bytes_are_collected() {
    let limits = Limits { control_line_bytes_max: 64, message_bytes_max: 10 };
    let long = format!("INFO {}", "x".repeat(100));
    assert_eq!(parse(long.as_bytes(), 0, &limits, Shape::default()), Err(Error::ControlLine));
    assert_eq!(parse(b"RMSG $G foo 11\r\n", 0, &limits, Shape::default()), Err(Error::Size { size: 11 }));
}

#[test]
fn every_cut_of_a_conversation_asks_for_more_and_then_reads_the_same() {
    let text = "INFO {\"a\":1}\r\nCONNECT {}\r\nPING\r\nPONG\r\n+OK\r\n-ERR 'no'\r\nRS+ $G foo q 2\r\nRS- $G foo\r\n\
                RMSG $G foo + r q 2\r\nhi\r\nHMSG $G foo 3 5\r\nh\r\nhi\r\nA+ acc\r\nA- acc\r\nLS+ o $G x\r\nLS- o $G x\r\n";
    let (bytes, limits, shape) = (text.as_bytes(), Limits::default(), shape(false, true));
    let mut at = 0;
    let mut count = 0;
    while at < bytes.len() {
        let Ok(Step::Op(whole, consumed)) = parse(bytes, at, &limits, shape) else { panic!("at {at}") };
        for cut in at..at + consumed {
            match parse(&bytes[..cut], at, &limits, shape) {
                Ok(Step::More(more)) => {
                    assert!(more > cut - at, "progress at {cut}");
                    assert!(more <= consumed, "never more than the operation has, at {cut}");
                }
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
        assert_eq!(parse(&bytes[..at + consumed], at, &limits, shape), Ok(Step::Op(whole, consumed)));
        at += consumed;
        count += 1;
    }
    assert_eq!(count, 14);
}

#[test]
fn what_is_encoded_reads_back() {
    let mut out = Vec::new();
    let queues: [&[u8]; 2] = [b"q1", b"q2"];
    let head = MessageHead {
        origin: None,
        account: Some(b"$G"),
        subject: b"foo",
        reply: Some(b"re"),
        queues: &queues,
        header_len: 0,
        size: 5,
    };
    message_head(&mut out, &head);
    message_head(&mut out, &MessageHead { queues: &[], reply: None, header_len: 2, ..head });
    message_head(&mut out, &MessageHead { origin: Some(b"hub"), account: None, reply: None, ..head });
    let line = Interest {
        leaf: false,
        origin: None,
        account: Some(b"$G"),
        subject: b"foo",
        queue: Some(b"q"),
        weight: 7,
    };
    interest(&mut out, true, &line);
    interest(&mut out, false, &line);
    interest(
        &mut out,
        true,
        &Interest { leaf: true, origin: Some(b"_"), account: None, queue: None, ..line },
    );
    error(&mut out, "a\r\nb");
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "RMSG $G foo + re q1 q2 5\r\nHMSG $G foo 2 5\r\nLMSG hub foo | q1 q2 0 5\r\n\
         RS+ $G foo q 7\r\nRS- $G foo q\r\nLS+ _ foo\r\n-ERR 'a  b'\r\n"
    );
}

/// As nats-server 2.15.2 sends it from a freshly started server with a cluster block.
const INFO_OF_NATS_SERVER: &str = r#"{"server_id":"NBX","server_name":"n1","version":"2.15.2","proto":3,"go":"go1.26","host":"0.0.0.0","port":6222,"headers":true,"max_payload":1048576,"nonce":"abc","cluster":"c","connect_urls":["127.0.0.1:4222"],"compression":"accept","lnoc":true,"lnocu":true,"ln":true,"route_pool_size":3}"#;

#[test]
fn info_keeps_the_fields_and_the_order_of_nats_server() {
    let info = Info::decode(INFO_OF_NATS_SERVER.as_bytes()).unwrap();
    assert_eq!((info.port, info.route_pool_size, info.ln), (6222, 3, true));
    assert_eq!(serde_json::to_string(&info).unwrap(), INFO_OF_NATS_SERVER);
    let with_null = br#"{"server_id":"x","connect_urls":null,"import":null,"unknown":[1],"cluster":null}"#;
    let sparse = Info::decode(with_null).unwrap();
    assert_eq!((sparse.connect_urls.len(), sparse.cluster.as_str()), (0, ""));
    assert!(Info::decode(b"not json").is_err());
}

#[test]
fn connect_has_the_form_that_nats_server_sends() {
    let connect = Connect {
        echo: true,
        name: "NBX".into(),
        cluster: "c".into(),
        headers: true,
        lnoc: true,
        ln: true,
        ..Connect::default()
    };
    let mut out = Vec::new();
    connect.encode(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "CONNECT {\"echo\":true,\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"headers\":true,\
         \"name\":\"NBX\",\"cluster\":\"c\",\"lnoc\":true,\"ln\":true}\r\n"
    );
    let client = Connect::decode(br#"{"lang":"rust","name":"x","verbose":false}"#).unwrap();
    assert_eq!(client.lang, "rust");
}

/// Mutilated conversations: whatever a peer sends is an operation, incomplete, or an error, never a panic, and
/// an operation never takes nothing or more than there is.
#[test]
fn no_bytes_of_a_peer_bring_the_parser_down() {
    let seed_text = b"RMSG $G foo + r q 2\r\nhi\r\nHMSG $G foo | q 3 5\r\nh\r\nhi\r\nLMSG o $G x 0 1\r\n.\r\nRS+ $G foo q 2\r\n\
        LS- o $G x\r\nINFO {}\r\nPING\r\n-ERR 'x'\r\nA+ a\r\n";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    const SPECIAL: &[u8] = b" \t\r\n+-|09RMSGLHI{";
    let limits = Limits { control_line_bytes_max: 128, message_bytes_max: 1 << 16 };
    let (mut operations, mut errors) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = seed_text.to_vec();
        for _ in 0..random(6) {
            let at = random(bytes.len().max(1));
            match random(4) {
                0 => bytes[at] = SPECIAL[random(SPECIAL.len())],
                1 => bytes[at] = random(256) as u8,
                2 if bytes.len() > 1 => _ = bytes.remove(at),
                2 | 3 => bytes.truncate(at.max(1)),
                _ => unreachable!(),
            }
        }
        let shape = shape(random(2) == 0, random(2) == 0);
        let mut at = if random(4) == 0 { random(8).min(bytes.len()) } else { 0 };
        loop {
            match parse(&bytes, at, &limits, shape) {
                Ok(Step::Op(op, consumed)) => {
                    assert!(consumed > 0 && at + consumed <= bytes.len());
                    if let Op::Message(message) = op {
                        assert!(message.publish.body_range().end <= bytes.len());
                        assert!(
                            message.queues(&bytes).all(|queue| !queue.is_empty() && queue.end <= bytes.len())
                        );
                    }
                    at += consumed;
                    operations += 1;
                }
                Ok(Step::More(more)) => break assert!(at + more > bytes.len()),
                Err(_) => break errors += 1,
            }
        }
    }
    assert!(operations > 10_000 && errors > 1_000, "{operations} operations, {errors} errors");
}
