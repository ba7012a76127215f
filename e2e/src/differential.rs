//! `differential`: the same protocol scripts against nats-server and against the broker,
//! and every difference between the answers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::script::{
    Case, Script, Step, differences, json_shape, last_reply, masked_info, masked_messages, parse_known,
    parse_transcripts, printable_lines, reports_last,
};

use crate::process::{Running, eventually, free_ports, project_root};

/// How long a server has for an answer that is due.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a case that differs is tried again: a connection that is reset while bytes are
/// under way may lose its last line, with either server.
const TRIES: usize = 3;

/// Arguments of `differential`.
#[derive(Debug, clap::Args)]
pub struct DifferentialArguments {
    /// The broker to judge
    #[arg(long)]
    candidate: Option<PathBuf>,
    /// nats-server; without it the recorded answers are the measure
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Write the reference's answers beside the scripts
    #[arg(long, requires = "reference")]
    record: bool,
    /// Scripts; default: all of e2e/differential
    scripts: Vec<PathBuf>,
}

impl DifferentialArguments {
    /// Runs the scripts; an error if any case differs.
    pub fn run(&self) -> Result<()> {
        ensure!(
            self.candidate.is_some() || self.record,
            "name the broker to judge with --candidate, or --record the reference's answers"
        );
        let scripts = if self.scripts.is_empty() { all_scripts()? } else { self.scripts.clone() };
        let known_path = project_root().join("e2e/differential/known.list");
        let known = parse_known(&std::fs::read_to_string(&known_path).unwrap_or_default());
        let (mut same, mut as_known) = (0, 0);
        let (mut different, mut unlisted) = (Vec::new(), Vec::new());
        for path in &scripts {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let script = Script::parse(&path.display().to_string(), &text)?;
            for (case, difference) in self.run_script(path, &script)? {
                match (difference, known.get(&case)) {
                    (None, None) => same += 1,
                    (None, Some(_)) => unlisted.push(case),
                    (Some(_), Some(_)) => as_known += 1,
                    (Some(difference), None) => {
                        println!("DIFFERENT {case}\n{difference}");
                        different.push(case);
                    }
                }
            }
        }
        println!(
            "differential: {same} cases alike, {as_known} different as {} says, {} different",
            known_path.display(),
            different.len()
        );
        if self.candidate.is_some() {
            ensure!(
                unlisted.is_empty(),
                "alike by now, take out of {}: {}",
                known_path.display(),
                unlisted.join("; ")
            );
        }
        ensure!(different.is_empty(), "different: {}", different.join("; "));
        Ok(())
    }

    fn run_script(&self, path: &Path, script: &Script) -> Result<Vec<(String, Option<String>)>> {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let stem = stem.unwrap_or_default();
        let reference =
            self.reference.as_deref().map(|program| Server::start(program, script)).transpose()?;
        let candidate =
            self.candidate.as_deref().map(|program| Server::start(program, script)).transpose()?;
        let recorded_path = path.with_extension("expected");
        let recorded = match (&reference, std::fs::read_to_string(&recorded_path)) {
            (None, text) => parse_transcripts(&text.with_context(|| recorded_path.display().to_string())?),
            (Some(_), _) => BTreeMap::new(),
        };
        let mut to_record = String::new();
        let mut results = Vec::new();
        for case in &script.cases {
            let expected = |server: Option<&Server>| match server {
                Some(server) => server.play(case),
                None => recorded.get(&case.name).cloned().with_context(|| {
                    format!("{}: no answer recorded for {:?}", recorded_path.display(), case.name)
                }),
            };
            let mut want = expected(reference.as_ref())?;
            let mut difference = None;
            if let Some(candidate) = &candidate {
                for _ in 0..TRIES {
                    let got = candidate.play(case)?;
                    difference = differences(&want, &got);
                    if difference.is_none() {
                        break;
                    }
                    want = expected(reference.as_ref())?;
                }
            }
            let _ = write!(to_record, "case {}\n{want}\n", case.name);
            results.push((format!("{stem}: {}", case.name), difference));
        }
        if self.record {
            std::fs::write(&recorded_path, to_record)?;
        }
        Ok(results)
    }
}

fn all_scripts() -> Result<Vec<PathBuf>> {
    let folder = project_root().join("e2e/differential");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut scripts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            scripts.push(path);
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// A server under a script's configuration, on ports of its own.
struct Server {
    _process: Running,
    _folder: tempfile::TempDir,
    client_port: u16,
    cluster_port: u16,
    monitor_port: u16,
}

impl Server {
    fn start(program: &Path, script: &Script) -> Result<Self> {
        let ports = free_ports(3)?;
        let [client_port, cluster_port, monitor_port] = ports[..] else { bail!("no three ports") };
        let folder = tempfile::tempdir()?;
        let mut config = format!(
            "listen: \"127.0.0.1:{client_port}\"\nhttp: \"127.0.0.1:{monitor_port}\"\n\
             server_name: differential\n"
        );
        if script.cluster {
            let _ =
                writeln!(config, "cluster {{ name: differential, listen: \"127.0.0.1:{cluster_port}\" }}");
        }
        config.push_str(&script.config);
        let config_path = folder.path().join("server.conf");
        std::fs::write(&config_path, config)?;
        let log_path = folder.path().join("log");
        let log = std::fs::File::create(&log_path)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config_path).stdout(log.try_clone()?).stderr(log);
        let mut process = Running::start(&mut command)?;
        eventually("the server listens", Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                bail!("{}: {status}\n{log}", program.display());
            }
            Ok(TcpStream::connect(("127.0.0.1", client_port))?)
        })?;
        Ok(Self { _process: process, _folder: folder, client_port, cluster_port, monitor_port })
    }

    /// Plays one case and returns what each connection received.
    fn play(&self, case: &Case) -> Result<String> {
        let mut connections = BTreeMap::new();
        let mut http = String::new();
        for step in &case.steps {
            // What is sent in a row goes in one write: how the bytes are cut is part of a script, for
            // nats-server repeats some errors when a line comes in two pieces.
            if !matches!(step, Step::Send(..)) {
                connections.values_mut().for_each(Connection::flush);
            }
            match step {
                Step::Wait(time) => std::thread::sleep(*time),
                Step::Http(path) => self.note_http(path, &mut http),
                Step::Send(name, bytes) => {
                    let connection = self.connection(&mut connections, name)?;
                    connection.send(&connection.with_reply(bytes));
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
        let mut transcript = http;
        for (name, mut connection) in connections {
            if !connection.left {
                connection.sync();
            }
            let mut lines = connection.notes;
            // A second INFO follows some CONNECTs; its values change from run to run too.
            // The server's own PINGs come by its clock, which a busy machine shows.
            let received = reports_last(masked_messages(printable_lines(&connection.received)));
            lines.extend(received.iter().filter(|line| *line != "PING").map(|line| masked_info(line)));
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

struct Connection {
    stream: TcpStream,
    info: String,
    unsent: Vec<u8>,
    received: Vec<u8>,
    notes: Vec<String>,
    closed: bool,
    left: bool,
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
        };
        connection.read_until(ANSWER_TIMEOUT, |received| received.ends_with(b"\r\n"));
        connection.info = String::from_utf8_lossy(&connection.received).trim_end().to_owned();
        connection.received.clear();
        ensure!(connection.info.starts_with("INFO {"), "port {port}: no INFO: {:?}", connection.info);
        Ok(connection)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// `{reply}` becomes the reply subject of the last request that a server passed on.
    fn with_reply(&self, bytes: &[u8]) -> Vec<u8> {
        match (std::str::from_utf8(bytes), last_reply(&self.received)) {
            (Ok(text), Some(reply)) => text.replace("{reply}", &reply).into_bytes(),
            _ => bytes.to_vec(),
        }
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
