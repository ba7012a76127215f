//! The PROXY protocol on the client port (`proxy_protocol`): who is behind a load balancer.
//!
//! Owns the reading of the header, versions 1 and 2, and its limits. Source of the rules: HAProxy's
//! `proxy-protocol.txt`; what is accepted and refused is nats-server's (`client_proxyproto.go`). A connection without a
//! header is served as it is. nats-server sends INFO before it reads the header; here the header is waited for first, so
//! that INFO can name the client: who sends none is greeted a second later.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

const V1_START: &[u8] = b"PROXY ";
const V1_BYTES_MAX: usize = 107;
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD_BYTES: usize = 16;
/// Longest header with its extensions.
const HEADER_BYTES_MAX: usize = 4096;
/// How long the first byte of a header is waited for.
const FIRST_BYTE_WAIT: Duration = Duration::from_secs(1);
/// How long a header that has begun may take.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause before bytes that are there already are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// The start of a header, maybe.
    More,
    /// No header.
    Nothing,
    /// A header of so many bytes, and whom it names; nobody in a health check.
    Header(usize, Option<SocketAddr>),
    /// A header that is wrong.
    Wrong(&'static str),
}

/// Takes the header off a connection, if there is one: the client's address, if it names one.
///
/// # Errors
/// A header that cannot be read: the connection is to be closed.
pub async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, String> {
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let started = Instant::now();
    let mut seen = 0;
    loop {
        let wait = if seen == 0 { FIRST_BYTE_WAIT } else { HEADER_TIME_MAX };
        let count = match timeout_at(started + wait, stream.peek(&mut bytes)).await {
            Ok(Ok(0)) => return Err("the connection ended within the header".into()),
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) if seen == 0 => return Ok(None),
            Err(_) => return Err("timeout reading PROXY protocol header".into()),
        };
        match parse(&bytes[..count]) {
            Found::Nothing => return Ok(None),
            Found::Wrong(reason) => return Err(reason.into()),
            Found::Header(length, address) => {
                let header = &mut bytes[..length];
                stream.read_exact(header).await.map_err(|error| error.to_string())?;
                return Ok(address);
            }
            Found::More if started.elapsed() > HEADER_TIME_MAX => {
                return Err("timeout reading PROXY protocol header".into());
            }
            Found::More => {
                seen = count;
                sleep(LOOK_AGAIN).await;
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Found {
    let begins = |start: &[u8]| bytes.starts_with(start) || start.starts_with(bytes);
    if begins(V1_START) {
        parse_v1(bytes)
    } else if begins(V2_START) {
        parse_v2(bytes)
    } else {
        Found::Nothing
    }
}

fn parse_v1(bytes: &[u8]) -> Found {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() == V1_BYTES_MAX { Found::Wrong("v1 line too long") } else { Found::More };
    };
    let Ok(line) = std::str::from_utf8(&window[..end]) else { return Found::Wrong("invalid v1 format") };
    let words: Vec<&str> = line.split(' ').collect();
    let address = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let (Ok(source), Ok(destination)) = (source.parse::<IpAddr>(), destination.parse::<IpAddr>())
            else {
                return Found::Wrong("invalid address");
            };
            if source.is_ipv4() != (family == "TCP4") || destination.is_ipv4() != (family == "TCP4") {
                return Found::Wrong("address of another family");
            }
            let (Ok(port), Ok(_)) = (source_port.parse::<u16>(), destination_port.parse::<u16>()) else {
                return Found::Wrong("invalid port");
            };
            Some(SocketAddr::new(source, port))
        }
        _ => return Found::Wrong("invalid v1 format"),
    };
    Found::Header(end + 2, address)
}

fn parse_v2(bytes: &[u8]) -> Found {
    let Some((head, rest)) = bytes.split_first_chunk::<V2_HEAD_BYTES>() else { return Found::More };
    let [.., version_command, family_protocol, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Found::Wrong("invalid version");
    }
    let whole = V2_HEAD_BYTES + length;
    if whole > HEADER_BYTES_MAX {
        return Found::Wrong("header too long");
    }
    let Some(body) = rest.get(..length) else { return Found::More };
    match version_command & 0x0f {
        // LOCAL: the proxy itself, to see whether we are there
        0 => return Found::Header(whole, None),
        1 => {}
        _ => return Found::Wrong("unknown command"),
    }
    if family_protocol & 0x0f != 1 && family_protocol >> 4 != 0 {
        return Found::Wrong("only STREAM protocol supported");
    }
    let port = |at: usize| body.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let address = match family_protocol >> 4 {
        0 => return Found::Header(whole, None),
        1 => body.first_chunk::<4>().map(|ip| IpAddr::from(*ip)).zip(port(8)),
        2 => body.first_chunk::<16>().map(|ip| IpAddr::from(*ip)).zip(port(32)),
        _ => return Found::Wrong("unsupported address family"),
    };
    match address {
        Some((ip, port)) => Found::Header(whole, Some(SocketAddr::new(ip, port))),
        None => Found::Wrong("address data too short"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [V2_START, &[0x20 | command, family, length[0], length[1]], body].concat()
    }

    #[test]
    fn headers_of_both_versions_name_the_client() {
        let text = b"PROXY TCP4 192.0.2.7 10.0.0.1 50001 4222\r\nCONNECT {}";
        assert_eq!(parse(text), Found::Header(42, Some("192.0.2.7:50001".parse().unwrap())));
        let text = b"PROXY TCP6 2001:db8::7 ::1 50001 4222\r\n";
        assert_eq!(parse(text), Found::Header(text.len(), Some("[2001:db8::7]:50001".parse().unwrap())));
        let bytes = v2(1, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0xc3, 0x51, 0x10, 0x7e, 1, 2, 3]);
        assert_eq!(parse(&bytes), Found::Header(31, Some("192.0.2.7:50001".parse().unwrap())));
        let mut body = [0; 36];
        (body[15], body[32], body[33]) = (1, 0xc3, 0x51);
        assert_eq!(parse(&v2(1, 0x21, &body)), Found::Header(52, Some("[::1]:50001".parse().unwrap())));
        for end in 1..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Found::More, "{end}");
        }
    }

    #[test]
    fn health_checks_name_nobody_and_clients_send_no_header() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Found::Header(15, None));
        assert_eq!(parse(&v2(0, 0, &[])), Found::Header(16, None));
        for text in ["CONNECT {}\r\n", "PING\r\n", "PUB a 0\r\n\r\n", "\r\nPING"] {
            assert_eq!(parse(text.as_bytes()), Found::Nothing, "{text:?}");
        }
    }

    #[test]
    fn wrong_headers_are_refused_before_they_take_memory() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for text in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 50001\r\n"[..],
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 1\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
            &long,
        ] {
            assert!(matches!(parse(text), Found::Wrong(_)), "{}", String::from_utf8_lossy(text));
        }
        for bytes in
            [v2(2, 0x11, &[0; 12]), v2(1, 0x12, &[0; 12]), v2(1, 0x31, &[0; 216]), v2(1, 0x11, &[0; 5])]
        {
            assert!(matches!(parse(&bytes), Found::Wrong(_)), "{bytes:?}");
        }
        let endless = [V2_START, &[0x21, 0x11, 0xff, 0xff]].concat();
        assert_eq!(parse(&endless), Found::Wrong("header too long"));
    }
}
