use super::*;

const LEVELS: [Level; 4] = [Level::Uncompressed, Level::Fast, Level::Better, Level::Best];

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Bytes as routes carry them: lines that repeat, and payloads that do not.
fn traffic(bytes: usize, seed: &mut u64) -> Vec<u8> {
    let mut plain = Vec::new();
    while plain.len() < bytes {
        let number = random(seed);
        plain.extend_from_slice(format!("RMSG $G orders.{} 64\r\n", number % 20).as_bytes());
        match number % 3 {
            0 => plain.extend_from_slice(&[b'x'; 64]),
            1 => (0..8).for_each(|_| plain.extend_from_slice(&random(seed).to_le_bytes())),
            _ => plain.extend_from_slice(format!("{{\"id\":{number},\"state\":\"open\"}}").as_bytes()),
        }
    }
    plain.truncate(bytes);
    plain
}

fn unwrapped(framed: &[u8], step: usize, room: usize) -> Result<Vec<u8>, Error> {
    let (mut decompressor, mut plain) = (Decompressor::default(), Vec::new());
    let mut chunk = vec![0; room];
    for part in framed.chunks(step) {
        decompressor.feed(part);
        loop {
            match decompressor.read(&mut chunk)? {
                0 => break,
                count => plain.extend_from_slice(&chunk[..count]),
            }
        }
    }
    Ok(plain)
}

#[test]
fn what_goes_in_comes_out_at_every_level_and_in_pieces_of_any_size() {
    let mut seed = 7;
    for level in LEVELS {
        let mut compressor = Compressor::new(level);
        let (mut framed, mut all) = (Vec::new(), Vec::new());
        for bytes in [1, 6, 31, 32, 700, 65_535, 65_536, 65_537, 300_000] {
            let plain = traffic(bytes, &mut seed);
            compressor.write(&plain, &mut framed);
            all.extend_from_slice(&plain);
        }
        for (step, room) in [(1, 16), (7, 100_000), (4096, 5), (usize::MAX, 1 << 16)] {
            assert_eq!(unwrapped(&framed, step, room).as_ref(), Ok(&all), "{level:?} {step} {room}");
        }
        assert!(level == Level::Uncompressed || framed.len() < all.len() * 3 / 4, "{level:?}");
    }
}

#[test]
fn a_level_may_change_in_the_middle() {
    let (mut compressor, mut framed, plain) =
        (Compressor::new(Level::Fast), Vec::new(), traffic(9000, &mut 3));
    for level in LEVELS {
        compressor.set_level(level);
        compressor.write(&plain, &mut framed);
    }
    assert_eq!(unwrapped(&framed, 100, 100), Ok(plain.repeat(4)));
}

#[test]
fn streams_that_begin_anew_padding_and_snappy_are_read() {
    let mut framed = Vec::new();
    for _ in 0..2 {
        // nats-server begins a stream with every write
        Compressor::new(Level::Fast).write(b"PING\r\n", &mut framed);
        framed.extend_from_slice(b"\xfe\x03\x00\x00\0\0\0\x99\x00\x00\x00");
    }
    framed.extend_from_slice(b"\xff\x06\x00\x00sNaPpY");
    assert_eq!(unwrapped(&framed, 3, 9), Ok(b"PING\r\nPING\r\n".to_vec()));
}

#[test]
fn the_checksum_is_the_one_of_the_format() {
    let mut framed = Vec::new();
    Compressor::new(Level::Uncompressed).write(b"123456789", &mut framed);
    // CRC-32C of "123456789" is E3069283, masked as the format says
    let masked = 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8);
    assert_eq!(framed[10..18], [&[1, 13, 0, 0][..], &masked.to_le_bytes()].concat());
}

#[test]
fn what_is_no_stream_is_refused_and_reserves_nothing() {
    let begin = |rest: &[u8]| [IDENTIFIER, rest].concat();
    assert_eq!(unwrapped(b"PING\r\n", 9, 9), Err(Error::Identifier));
    assert_eq!(unwrapped(b"\xff\x06\x00\x00S2sTwo", 99, 9), Err(Error::Identifier));
    assert_eq!(unwrapped(&begin(b"\x02\x00\x00\x00"), 99, 9), Err(Error::Unsupported(2)));
    assert_eq!(unwrapped(&begin(b"\x01\xff\xff\xff"), 99, 9), Err(Error::Size(0xff_ffff)));
    assert_eq!(unwrapped(&begin(b"\x00\x03\x00\x00"), 99, 9), Err(Error::Size(3)));
    // a block that claims a gigabyte
    let bomb = begin(b"\x00\x09\x00\x00\0\0\0\0\x80\x80\x80\x80\x04");
    assert_eq!(unwrapped(&bomb, 99, 9), Err(Error::Size(1 << 30)));
    let mut wrong = Vec::new();
    Compressor::new(Level::Uncompressed).write(b"PING\r\n", &mut wrong);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(unwrapped(&wrong, 99, 9), Err(Error::Checksum));
}

#[test]
fn no_change_of_a_stream_is_taken_for_another_message() {
    let (mut seed, mut framed) = (11, Vec::new());
    let plain = traffic(3000, &mut seed);
    Compressor::new(Level::Best).write(&plain, &mut framed);
    for _ in 0..20_000 {
        let mut broken = framed.clone();
        for _ in 0..1 + random(&mut seed) % 3 {
            let at = random(&mut seed) as usize % broken.len();
            broken[at] = random(&mut seed) as u8;
        }
        if let Ok(read) = unwrapped(&broken, 500, 4096) {
            assert!(plain.starts_with(&read), "a wrong byte was passed on");
        }
    }
}

#[test]
fn the_level_follows_the_round_trip() {
    let millis = |list: &[u64]| list.iter().map(|m| Duration::from_millis(*m)).collect::<Vec<_>>();
    let level = |rtt, list: &[u64]| Level::for_round_trip(Duration::from_millis(rtt), &millis(list));
    let usual = [10, 50, 100];
    assert_eq!([5, 10, 11, 51, 101].map(|rtt| level(rtt, &usual)), {
        use Level::*;
        [Uncompressed, Uncompressed, Fast, Better, Best]
    });
    assert_eq!([1, 21, 31].map(|rtt| level(rtt, &[0, 0, 20, 30])), [Level::Better, Level::Best, Level::Best]);
    assert_eq!([1, 9].map(|rtt| level(rtt, &[0, 5])), [Level::Fast, Level::Fast]);
    assert_eq!(LEVELS.map(|level| Level::from_name(level.name())), LEVELS.map(Some));
}
