//! A client that follows every INFO of its server, as the official clients of most languages do, and moves when its
//! server says that it leaves.
//!
//! By hand and blocking, so that the stories know exactly what was said when. Owns one connection at a time (two
//! while it moves) and what came over it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What is kept of a payload.
const SHOWN_BYTES: usize = 64;

/// A message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Which of the follower's connections it came over, counted from 0.
    pub session: usize,
    /// Its subject.
    pub subject: String,
    /// Its payload, or the beginning of a long one.
    pub payload: String,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the current connection; those before are over or about to be.
    session: usize,
    /// `connect_urls` of the last INFO of the current connection.
    urls: BTreeSet<String>,
    server: String,
    /// When the list last changed.
    changed_at: Option<Instant>,
    leaving: bool,
    /// PONGs of the current connection.
    pongs: u64,
    pings: u64,
    closed_at: Option<Instant>,
    arrived: Vec<Arrived>,
    error: Option<String>,
}

/// A connection and what is known through it.
pub struct Follower {
    address: String,
    subscriptions: Vec<String>,
    stream: TcpStream,
    state: Arc<(Mutex<State>, Condvar)>,
    login: String,
}

fn lock(state: &(Mutex<State>, Condvar)) -> MutexGuard<'_, State> {
    state.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Follower {
    /// Connects to `host:port`.
    pub fn connect(address: &str) -> Result<Follower> {
        Follower::with_login(address, "")
    }

    /// The same with members of the CONNECT document: `"user":"a","pass":"b"`.
    pub fn with_login(address: &str, login: &str) -> Result<Follower> {
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let stream = open(address, login, &state, 0)?;
        let mut follower = Follower {
            address: address.to_owned(),
            subscriptions: Vec::new(),
            stream,
            state,
            login: login.to_owned(),
        };
        follower.confirm(Duration::from_secs(10))?;
        Ok(follower)
    }

    /// Sends bytes as they are.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).with_context(|| format!("to {}", self.address))
    }

    /// Subscribes, `subject` or `subject queue`, and waits until the server has read it.
    pub fn subscribe(&mut self, what: &str) -> Result<()> {
        self.subscriptions.push(what.to_owned());
        let sid = self.subscriptions.len();
        self.say(format!("SUB {what} {sid}\r\n").as_bytes())?;
        self.confirm(Duration::from_secs(10))
    }

    /// Publishes; not waited for.
    pub fn publish(&mut self, subject: &str, payload: &str) -> Result<()> {
        self.say(format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()).as_bytes())
    }

    /// Waits until the server has handled all that was said.
    pub fn confirm(&mut self, patience: Duration) -> Result<()> {
        let due = {
            let mut state = lock(&self.state);
            state.pings += 1;
            state.pings
        };
        self.say(b"PING\r\n")?;
        self.wait("a PONG", patience, |state| state.pongs >= due)
    }

    fn wait(&self, what: &str, patience: Duration, done: impl Fn(&State) -> bool) -> Result<()> {
        let end = Instant::now() + patience;
        let mut state = lock(&self.state);
        while !done(&state) {
            if state.closed_at.is_some() {
                let why = state.error.clone().unwrap_or_default();
                bail!("{} closed the connection before {what} {why}", self.address);
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{}: no {what} within {patience:?}", self.address);
            let waited = self.state.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// The servers that the last INFO named.
    pub fn known(&self) -> BTreeSet<String> {
        lock(&self.state).urls.clone()
    }

    /// When the list of servers last changed.
    pub fn changed_at(&self) -> Option<Instant> {
        lock(&self.state).changed_at
    }

    /// The server has said that it leaves, or it has gone.
    pub fn must_move(&self) -> bool {
        let state = lock(&self.state);
        state.leaving || state.closed_at.is_some()
    }

    /// The server said `ldm`.
    pub fn is_told_to_leave(&self) -> bool {
        lock(&self.state).leaving
    }

    /// When the connection ended.
    pub fn closed_at(&self) -> Option<Instant> {
        lock(&self.state).closed_at
    }

    /// Waits until the list of servers is this.
    pub fn learn(&self, servers: &BTreeSet<String>, patience: Duration) -> Result<()> {
        self.wait("the right list of servers", patience, |state| state.urls == *servers)
            .with_context(|| format!("it knows {:?}", self.known()))
    }

    /// What arrived so far, over all connections.
    pub fn arrived(&self) -> Vec<Arrived> {
        lock(&self.state).arrived.clone()
    }

    /// How many messages arrived.
    pub fn count(&self) -> usize {
        lock(&self.state).arrived.len()
    }

    /// Gives the connection up.
    pub fn let_go(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Connects to another server of the list, subscribes there again, and only then, `overlap` later, gives the old
    /// connection up.
    pub fn relocate(&mut self, overlap: Duration) -> Result<()> {
        let known = self.known();
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            for address in &known {
                if *address != self.address && self.switch(address, overlap).is_ok() {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < end, "none of {known:?} takes a client");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn switch(&mut self, address: &str, overlap: Duration) -> Result<()> {
        let session = {
            let mut state = lock(&self.state);
            state.session += 1;
            (state.pings, state.pongs, state.closed_at, state.leaving) = (0, 0, None, false);
            state.session
        };
        let stream = open(address, &self.login, &self.state, session)?;
        let old = std::mem::replace(&mut self.stream, stream);
        let before = std::mem::replace(&mut self.address, address.to_owned());
        let again = (|| {
            for (index, what) in self.subscriptions.clone().iter().enumerate() {
                self.say(format!("SUB {what} {}\r\n", index + 1).as_bytes())?;
            }
            self.confirm(Duration::from_secs(10))
        })();
        if again.is_err() {
            self.address = before;
            return again;
        }
        std::thread::sleep(overlap);
        let _ = old.shutdown(Shutdown::Both);
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn open(
    address: &str,
    login: &str,
    state: &Arc<(Mutex<State>, Condvar)>,
    session: usize,
) -> Result<TcpStream> {
    let socket: SocketAddr = address.parse().with_context(|| address.to_owned())?;
    let mut stream = TcpStream::connect_timeout(&socket, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    let comma = if login.is_empty() { "" } else { "," };
    let connect = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"headers\":true,\
         \"no_responders\":true,\"name\":\"follower\",\"lang\":\"rust\",\"version\":\"1\"{comma}{login}}}\r\n"
    );
    stream.write_all(connect.as_bytes())?;
    let (reader, state) = (stream.try_clone()?, Arc::clone(state));
    std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        let error = follow(reader, &state, session).err();
        let mut now = lock(&state);
        if now.session == session {
            now.closed_at = Some(Instant::now());
            if let Some(error) = error {
                now.error = Some(format!("{error:#}"));
            }
        }
        state.1.notify_all();
    })?;
    Ok(stream)
}

fn follow(stream: TcpStream, state: &(Mutex<State>, Condvar), session: usize) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["PING"] => writer.write_all(b"PONG\r\n")?,
            ["PONG"] => {
                let mut now = lock(state);
                if now.session == session {
                    now.pongs += 1;
                }
            }
            ["MSG", subject, _, .., size] => {
                let mut payload = vec![0; size.parse::<usize>()? + 2];
                reader.read_exact(&mut payload)?;
                payload.truncate(payload.len() - 2);
                payload.truncate(SHOWN_BYTES);
                let payload = String::from_utf8_lossy(&payload).into_owned();
                lock(state).arrived.push(Arrived { session, subject: subject.to_owned(), payload });
            }
            ["HMSG", .., size] => {
                let mut payload = vec![0; size.parse::<usize>()? + 2];
                reader.read_exact(&mut payload)?;
            }
            ["-ERR", ..] => bail!("{}", line.trim_end()),
            ["INFO", ..] => {
                let info: Value = serde_json::from_str(line.trim_start_matches("INFO "))?;
                let urls = info["connect_urls"].as_array().cloned().unwrap_or_default();
                let urls = urls.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                let mut now = lock(state);
                if now.session == session {
                    if now.urls != urls {
                        now.changed_at = Some(Instant::now());
                    }
                    now.urls = urls;
                    now.server = info["server_name"].as_str().unwrap_or_default().to_owned();
                    now.leaving |= info["ldm"].as_bool() == Some(true);
                }
            }
            _ => {}
        }
        state.1.notify_all();
    }
}
