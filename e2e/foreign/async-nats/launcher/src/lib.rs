//! Starts the server that async-nats's own tests ask for: the program that `FOREIGN_SERVER` names.
//!
//! The tests expect a crate called `nats_server` with these functions; theirs is not published. Owns the processes and
//! their log files; knows nothing about what is tested.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(10);

/// A running server; it ends when this is dropped.
pub struct Server {
    child: Child,
    config: String,
    log: PathBuf,
}

/// Servers with routes to each other.
pub struct Cluster {
    /// The first is the one that tests connect to.
    pub servers: Vec<Server>,
}

impl Cluster {
    /// URL of the first server.
    pub fn client_url(&self) -> String {
        self.servers[0].client_url()
    }
}

impl Server {
    /// URL for clients, with the scheme that the server asks for.
    pub fn client_url(&self) -> String {
        let port = self.client_port();
        let scheme = if self.requires_tls(port) { "tls" } else { "nats" };
        format!("{scheme}://localhost:{port}")
    }

    /// Port for clients, once the server listens.
    pub fn client_port(&self) -> u16 {
        let line = self.wait_for_line("Listening for client connections on");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("no port in the log line {line:?}"))
    }

    /// Ends the server and starts it again, on the port it had.
    pub fn restart(&mut self) {
        let port = self.client_port().to_string();
        self.stop();
        *self = start(&self.config.clone(), Some(&port), &[]);
    }

    fn requires_tls(&self, port: u16) -> bool {
        let mut greeting = String::new();
        let read = TcpStream::connect(("localhost", port)).and_then(|stream| {
            // a server that wants the TLS handshake first stays silent
            stream.set_read_timeout(Some(Duration::from_millis(500)))?;
            BufReader::new(stream).read_line(&mut greeting)
        });
        read.is_err() || greeting.contains("\"tls_required\":true")
    }

    fn wait_for_line(&self, text: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < START {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            // the last one: a file may hold the lines of an earlier run
            if let Some(line) = log.lines().rev().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server did not say {text:?}:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(&self.log);
    }
}

/// A server with this configuration file (none if empty), on a free port unless the file names one.
pub fn run_server(config: &str) -> Server {
    run_server_with_port(config, None)
}

/// A server without a configuration file.
pub fn run_basic_server() -> Server {
    run_server("")
}

/// A server on a port of the test's choice.
pub fn run_server_with_port(config: &str, port: Option<&str>) -> Server {
    let server = start(config, port, &[]);
    server.client_port();
    server
}

/// Three servers with routes to each other, each with this configuration file.
pub fn run_cluster(config: &str) -> Cluster {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let routes = routes.join(",");
    let servers = ports.iter().enumerate().map(|(number, port)| {
        let name = format!("server-{number}");
        let listen = format!("nats://127.0.0.1:{port}");
        start(config, None, &["--cluster", &listen, "--routes", &routes, "--cluster_name", "foreign", "-n", &name])
    });
    let servers: Vec<Server> = servers.collect();
    for server in &servers {
        server.client_port();
    }
    Cluster { servers }
}

/// Puts a server into lame duck mode.
pub fn set_lame_duck_mode(server: &Server) {
    let pid = server.child.id().to_string();
    let status = Command::new("kill").args(["-USR2", &pid]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -USR2 {pid}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn start(config: &str, port: Option<&str>, more: &[&str]) -> Server {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let program = std::env::var("FOREIGN_SERVER").expect("FOREIGN_SERVER names the server program");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let log = std::env::temp_dir().join(format!("foreign-{}-{number}.log", std::process::id()));
    let mut command = Command::new(&program);
    command.arg("-l").arg(&log).args(more);
    if !config.is_empty() {
        let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
        command.arg("-c").arg(folder.join(config)).current_dir(folder);
    }
    command.args(["-p", port.unwrap_or("-1")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
    Server { child, config: config.to_owned(), log }
}
