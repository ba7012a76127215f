//! One server under a script's configuration, and the connections of a case to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::script::{
    Case, Script, Step, json_shape, last_reply, masked_info, masked_messages, printable_lines, reports_last,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Running, eventually, free_ports};

/// How long a server has for an answer that is due.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a server has to take a new configuration; one that refuses it says nothing to those who ask from outside.
const RELOAD_TIMEOUT: Duration = Duration::from_millis(1500);

/// A server under a script's configuration, on ports of its own.
pub(super) struct Server {
    process: Running,
    folder: tempfile::TempDir,
    /// What comes before a script's own configuration.
    listeners: String,
    /// Name of the configuration in force.
    in_force: Mutex<String>,
    client_port: u16,
    cluster_port: u16,
    monitor_port: u16,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub(super) fn start(program: &Path, script: &Script) -> Result<Self> {
        let ports = free_ports(3)?;
        let [client_port, cluster_port, monitor_port] = ports[..] else { bail!("no three ports") };
        let folder = tempfile::tempdir()?;
        let mut listeners = format!(
            "listen: \"127.0.0.1:{client_port}\"\nhttp: \"127.0.0.1:{monitor_port}\"\n\
             server_name: differential\n"
        );
        if script.cluster {
            let _ =
                writeln!(listeners, "cluster {{ name: differential, listen: \"127.0.0.1:{cluster_port}\" }}");
        }
        write_certificate(folder.path())?;
        let config_path = folder.path().join("server.conf");
        std::fs::write(&config_path, configuration(&listeners, &script.config, folder.path()))?;
        let log_path = folder.path().join("log");
        let log = std::fs::File::create(&log_path)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config_path).stdout(log.try_clone()?).stderr(log);
        let mut process = Running::start(&mut command)?;
        // not by connecting to the client port: a limit on connections would count that
        eventually("the server listens", Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                bail!("{}: {status}\n{log}", program.display());
            }
            crate::http::json(&format!("http://127.0.0.1:{monitor_port}/healthz"))
        })?;
        let in_force = Mutex::new(String::new());
        Ok(Self { process, folder, listeners, in_force, client_port, cluster_port, monitor_port })
    }

    /// Plays one case, under the script's first configuration, and returns what each connection received.
    pub(super) fn play(&self, script: &Script, case: &Case) -> Result<String> {
        ensure!(self.reload(script, "")?, "the first configuration is refused when it comes back");
        let mut connections = BTreeMap::new();
        let mut apart = String::new();
        for step in &case.steps {
            // What is sent in a row goes in one write: how the bytes are cut is part of a script, for
            // nats-server repeats some errors when a line comes in two pieces.
            if !matches!(step, Step::Send(..)) {
                connections.values_mut().for_each(Connection::flush);
            }
            match step {
                Step::Wait(time) => std::thread::sleep(*time),
                Step::Http(path) => self.note_http(path, &mut apart),
                Step::Reload(name) => {
                    let taken = if self.reload(script, name)? { "taken" } else { "refused" };
                    let _ = writeln!(apart, "reload< {name} {taken}");
                }
                Step::Send(name, bytes) => {
                    self.connection(&mut connections, name)?;
                    let bytes = filled_in(bytes, name, &connections)?;
                    self.connection(&mut connections, name)?.send(&bytes);
                }
                Step::Request(name, subject, payload) => {
                    self.connection(&mut connections, name)?;
                    let bytes = filled_in(format!("{subject}\n{payload}").as_bytes(), name, &connections)?;
                    let text = String::from_utf8(bytes)?;
                    let (subject, payload) = text.split_once('\n').unwrap_or((&text, ""));
                    self.connection(&mut connections, name)?.request(subject, payload);
                }
                Step::Sync(name) => self.connection(&mut connections, name)?.sync(),
                Step::Closed(name, time) => {
                    let connection = self.connection(&mut connections, name)?;
                    connection.read_until(*time, |_| false);
                }
                Step::Info(name) => {
                    let connection = self.connection(&mut connections, name)?;
                    let info = masked_info(&connection.info);
                    connection.notes.push(info);
                }
                Step::Disconnect(name) => {
                    let connection = self.connection(&mut connections, name)?;
                    connection.flush();
                    let _ = connection.stream.shutdown(std::net::Shutdown::Both);
                    connection.left = true;
                }
            }
        }
        connections.values_mut().for_each(Connection::flush);
        let mut transcript = apart;
        for (name, mut connection) in connections {
            if !connection.left {
                connection.sync();
            }
            let mut lines = connection.notes;
            // A second INFO follows some CONNECTs; its values change from run to run too.
            // The server's own PINGs come by its clock, which a busy machine shows.
            let received = reports_last(masked_messages(printable_lines(&connection.received)));
            // What a TLS library says of bytes that are no TLS (an alert) is its own business.
            let is_shown = |line: &&String| *line != "PING" && !line.starts_with("\\x15\\x03");
            lines.extend(received.iter().filter(is_shown).map(|line| masked_info(line)));
            lines.push((if connection.closed { "(closed)" } else { "(open)" }).to_owned());
            for line in lines {
                let _ = writeln!(transcript, "{name}< {line}");
            }
        }
        Ok(transcript)
    }

    /// Names that begin with `r` speak to the route port, all others to the client port.
    fn connection<'a>(
        &self,
        connections: &'a mut BTreeMap<String, Connection>,
        name: &str,
    ) -> Result<&'a mut Connection> {
        if !connections.contains_key(name) {
            let port = if name.starts_with('r') { self.cluster_port } else { self.client_port };
            connections.insert(name.to_owned(), Connection::open(port)?);
        }
        connections.get_mut(name).context("just inserted")
    }

    /// Puts a configuration in force; whether the server took it.
    fn reload(&self, script: &Script, name: &str) -> Result<bool> {
        let mut in_force = self.in_force.lock().map_err(|_| anyhow::anyhow!("a case has panicked"))?;
        if *in_force == name {
            return Ok(true);
        }
        let config = match name {
            "" => &script.config,
            name => script.further.get(name).with_context(|| format!("no `config {name}` … `end`"))?,
        };
        let text = configuration(&self.listeners, config, self.folder.path());
        std::fs::write(self.folder.path().join("server.conf"), text)?;
        let loaded = || -> Result<serde_json::Value> {
            let variables = crate::http::json(&format!("http://127.0.0.1:{}/varz", self.monitor_port))?;
            Ok(variables["config_load_time"].clone())
        };
        let before = loaded()?;
        let pid = Pid::from_raw(i32::try_from(self.process.pid())?).context("process 0")?;
        kill_process(pid, Signal::HUP)?;
        let taken = eventually("the server has the configuration", RELOAD_TIMEOUT, || {
            ensure!(loaded()? != before, "not yet");
            Ok(())
        });
        // the time is noted before all of it is done
        std::thread::sleep(Duration::from_millis(150));
        if taken.is_ok() {
            name.clone_into(&mut in_force);
        }
        Ok(taken.is_ok())
    }

    fn note_http(&self, path: &str, transcript: &mut String) {
        let url = format!("http://127.0.0.1:{}{path}", self.monitor_port);
        match crate::http::get(&url) {
            Ok((status, body)) => {
                let _ = writeln!(transcript, "http< {path} {status}");
                match serde_json::from_str(&body) {
                    Ok(value) => {
                        for line in json_shape(&value) {
                            let _ = writeln!(transcript, "http< {line}");
                        }
                    }
                    Err(_) => {
                        let _ = writeln!(transcript, "http< (no JSON, {} bytes)", body.len());
                    }
                }
            }
            Err(error) => {
                let _ = writeln!(transcript, "http< {path} {error}");
            }
        }
    }
}

/// The whole configuration file; `{folder}` is where the certificate is.
fn configuration(listeners: &str, config: &str, folder: &Path) -> String {
    format!("{listeners}{}", config.replace("{folder}", &folder.to_string_lossy()))
}

/// `certificate.pem` and `key.pem`, for `localhost`, signed by itself.
fn write_certificate(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    std::fs::write(folder.join("certificate.pem"), made.cert.pem())?;
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

/// What a step sends on the connection `name`, with the values that no script can know:
/// `{reply}` the reply subject of the last request that a server passed on to it, `{server}` the server's id,
/// `{client NAME}` the number of a connection, `{sign SEED}` the signature of its nonce.
fn filled_in(bytes: &[u8], name: &str, connections: &BTreeMap<String, Connection>) -> Result<Vec<u8>> {
    let Ok(mut text) = std::str::from_utf8(bytes) else { return Ok(bytes.to_vec()) };
    let own = connections.get(name).context("opened before")?;
    let mut filled = String::new();
    while let Some((before, after)) = text.split_once('{') {
        filled.push_str(before);
        let known = after.split_once('}').and_then(|(inside, rest)| {
            let value = match inside.split_once(' ').unwrap_or((inside, "")) {
                ("reply", "") => last_reply(&own.received)?,
                ("server", "") => own.about("server_id")?,
                ("client", other) => connections.get(other)?.about("client_id")?,
                ("sign", seed) => signature(seed, &own.about("nonce")?)?,
                _ => return None,
            };
            Some((value, rest))
        });
        match known {
            Some((value, rest)) => {
                filled.push_str(&value);
                text = rest;
            }
            None => {
                filled.push('{');
                text = after;
            }
        }
    }
    filled.push_str(text);
    Ok(filled.into_bytes())
}

fn signature(seed: &str, nonce: &str) -> Option<String> {
    let signature = nkeys::KeyPair::from_seed(seed).ok()?.sign(nonce.as_bytes()).ok()?;
    Some(data_encoding::BASE64URL_NOPAD.encode(&signature))
}

struct Connection {
    stream: TcpStream,
    info: String,
    unsent: Vec<u8>,
    received: Vec<u8>,
    notes: Vec<String>,
    closed: bool,
    left: bool,
    requests: usize,
}

/// The payload of the message to `inbox` in received bytes, once it is whole; its headers, if there are any.
fn answer(received: &[u8], inbox: &str) -> Option<Vec<u8>> {
    let mut rest = received;
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        rest = &rest[end + 2..];
        if let ["MSG" | "HMSG", subject, ..] = words[..] {
            let total: usize = words.last()?.parse().ok()?;
            let body = rest.get(..total)?;
            if subject == inbox {
                return Some(body.to_vec());
            }
            rest = rest.get(total + 2..)?;
        }
    }
}

impl Connection {
    fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            info: String::new(),
            unsent: Vec::new(),
            received: Vec::new(),
            notes: Vec::new(),
            closed: false,
            left: false,
            requests: 0,
        };
        connection.read_until(ANSWER_TIMEOUT, |received| received.ends_with(b"\r\n"));
        // a server that is full says so instead
        if connection.received.starts_with(b"INFO {") {
            let end = connection.received.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let line: Vec<u8> = connection.received.drain(..end).collect();
            connection.info = String::from_utf8_lossy(&line).trim_end().to_owned();
        }
        Ok(connection)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// A field of its INFO.
    fn about(&self, field: &str) -> Option<String> {
        let info: serde_json::Value = serde_json::from_str(self.info.strip_prefix("INFO ")?).ok()?;
        let value = info.get(field)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// Sends a request and notes the shape of what answers it first.
    fn request(&mut self, subject: &str, payload: &str) {
        self.requests += 1;
        let (inbox, sid) = (format!("_INBOX.answer.{}", self.requests), format!("request{}", self.requests));
        let before = std::mem::take(&mut self.received);
        let size = payload.len();
        self.send(
            format!("SUB {inbox} {sid}\r\nUNSUB {sid} 1\r\nPUB {subject} {inbox} {size}\r\n{payload}\r\n")
                .as_bytes(),
        );
        self.flush();
        let is_whole = |received: &[u8]| answer(received, &inbox).is_some();
        self.read_until(ANSWER_TIMEOUT, is_whole);
        let note = match answer(&self.received, &inbox) {
            None => {
                self.notes.push(format!("answer: none, but {:?}", printable_lines(&self.received)));
                self.received = before;
                return;
            }
            Some(body) => {
                serde_json::from_slice(&body).map_err(|_| String::from_utf8_lossy(&body).into_owned())
            }
        };
        match note {
            Ok(value) => {
                self.notes.extend(json_shape(&value).into_iter().map(|line| format!("answer: {line}")))
            }
            Err(text) => self.notes.push(format!("answer: {text:?}")),
        }
        self.received = before;
    }

    /// A server that has closed refuses the bytes; that shows as `(closed)` later.
    fn flush(&mut self) {
        if !self.unsent.is_empty() {
            let _ = self.stream.write_all(&std::mem::take(&mut self.unsent));
        }
    }

    fn sync(&mut self) {
        if self.closed {
            return;
        }
        let pongs = |received: &[u8]| received.split(|b| *b == b'\n').filter(|l| *l == b"PONG\r").count();
        let before = pongs(&self.received);
        // A PONG that answers an earlier PING of the script may be still under way: it and
        // ours are both waited for, a moment after the first.
        self.send(b"PING\r\n");
        self.flush();
        self.read_until(ANSWER_TIMEOUT, |received| pongs(received) > before);
        self.read_until(Duration::from_millis(60), |_| false);
    }

    /// Reads until the check holds, the server closes, or the time is over.
    fn read_until(&mut self, timeout: Duration, done: impl Fn(&[u8]) -> bool) {
        let end = Instant::now() + timeout;
        let mut buffer = [0u8; 64 * 1024];
        while !self.closed && !done(&self.received) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.closed = true,
            }
        }
    }
}
