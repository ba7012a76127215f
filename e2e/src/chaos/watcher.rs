//! A connection that does nothing but note what INFO lines say of the servers, by hand: libraries
//! differ in what they make of them.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::checker::event::What;
use serde_json::Value;

use super::log::Log;

/// As the workload's clients: PING every 2 s, given up after two without an answer.
const PING_EVERY: Duration = Duration::from_secs(2);

/// Follows one server after the other until told to stop; `first` where to begin.
pub fn start(
    name: String,
    first: Vec<String>,
    log: Log,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut known = first;
        while !stop.load(Ordering::Relaxed) {
            for address in known.clone() {
                if let Some(learned) = follow(&name, &address, &log, &stop) {
                    log.note(What::Disconnected { client: name.clone() });
                    if !learned.is_empty() {
                        known = learned.into_iter().collect();
                        break;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        log.note(What::Closed { client: name });
    })
}

/// Stays with a server until the connection is lost, and returns the last list; `None` when there
/// was no connection at all.
fn follow(name: &str, address: &str, log: &Log, stop: &AtomicBool) -> Option<BTreeSet<String>> {
    let address: SocketAddr = address.parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
    stream.set_write_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut told = BTreeSet::new();
    let (mut buffer, mut chunk) = (Vec::new(), [0; 8192]);
    let (mut greeted, mut unanswered, mut pinged) = (false, 0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => buffer.extend_from_slice(chunk.get(..count)?),
            // Interrupted: a child of this process ended; a read with a timeout is not taken up again then.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => break,
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line == "PING" && stream.write_all(b"PONG\r\n").is_err() {
                return Some(told);
            } else if line == "PONG" {
                unanswered = 0;
            }
            let Some(info) = line.strip_prefix("INFO ") else { continue };
            let Ok(info) = serde_json::from_str::<Value>(info) else { continue };
            if !greeted {
                greeted = true;
                let connect = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"name\":\"watcher\",\
                               \"lang\":\"rust\",\"version\":\"1\"}\r\nPING\r\n";
                stream.write_all(connect.as_bytes()).ok()?;
                let server = info["server_name"].as_str().unwrap_or("?").to_owned();
                log.note(What::Connected { client: name.to_owned(), server });
            }
            let urls = info["connect_urls"].as_array().cloned().unwrap_or_default();
            let urls: BTreeSet<String> = urls.iter().filter_map(Value::as_str).map(Into::into).collect();
            // A server may first name itself only; what counts is what a client then knows.
            if !urls.is_empty() {
                log.note(What::Servers { client: name.to_owned(), servers: urls.clone() });
                told = urls;
            }
        }
        if greeted && pinged.elapsed() > PING_EVERY {
            pinged = Instant::now();
            unanswered += 1;
            if unanswered > 2 || stream.write_all(b"PING\r\n").is_err() {
                break;
            }
        }
    }
    greeted.then_some(told)
}
