//! A client that does nothing but listen to the INFO lines of its server.
//!
//! By hand, because the Rust library reads the list of servers from the first INFO only; the
//! libraries of other languages follow every one.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What the server has told so far.
#[derive(Debug, Default)]
struct Told {
    servers: usize,
    changed: Option<jiff::Timestamp>,
    closed: bool,
}

/// A connection and what came over it.
pub struct InfoWatcher {
    stream: TcpStream,
    told: Arc<Mutex<Told>>,
}

impl InfoWatcher {
    /// Connects to `nats://ADDRESS:PORT`.
    pub fn connect(url: &str) -> Result<Self> {
        let address = url.strip_prefix("nats://").with_context(|| url.to_owned())?;
        let mut stream = TcpStream::connect(address).with_context(|| url.to_owned())?;
        let told = Arc::new(Mutex::new(Told::default()));
        // Protocol 1 is what asks for INFO at every change.
        let connect = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"name\":\"info-watcher\",\
                       \"lang\":\"rust\",\"version\":\"1\"}\r\nPING\r\n";
        stream.write_all(connect.as_bytes())?;
        let (reader, sink) = (stream.try_clone()?, Arc::clone(&told));
        std::thread::spawn(move || follow(reader, &sink));
        Ok(Self { stream, told })
    }

    /// How many servers the last INFO named.
    pub fn known(&self) -> usize {
        self.told.lock().map(|told| told.servers).unwrap_or_default()
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.told.lock().map(|told| told.closed).unwrap_or(true)
    }

    /// Waits until an INFO names so many servers; when it came.
    pub fn learn(&self, servers: usize, patience: Duration) -> Result<jiff::Timestamp> {
        let end = std::time::Instant::now() + patience;
        loop {
            if let Ok(told) = self.told.lock() {
                if told.servers == servers {
                    return told.changed.context("an INFO without a time");
                }
                if told.closed {
                    bail!("the server closed the connection of a client that knew {} servers", told.servers);
                }
            }
            if std::time::Instant::now() > end {
                bail!("after {patience:?} a client knows {} servers, not {servers}", self.known());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for InfoWatcher {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn follow(stream: TcpStream, told: &Mutex<Told>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.trim_end() == "PING" && writer.write_all(b"PONG\r\n").is_err() {
            break;
        }
        let info = line.strip_prefix("INFO ").map(serde_json::from_str::<Value>);
        if let (Some(Ok(info)), Ok(mut told)) = (info, told.lock()) {
            told.servers = info["connect_urls"].as_array().map_or(0, Vec::len);
            told.changed = Some(jiff::Timestamp::now());
        }
    }
    if let Ok(mut told) = told.lock() {
        told.closed = true;
    }
}
