//! The command line, as nats-server takes it. Owns flag names, their values' forms and their precedence
//! over the file; runs nothing and prints nothing.
//!
//! The rules are those of nats-server's `main.go` and `ConfigureOptions`, and of Go's `flag` package: one
//! dash or two, `-flag value` or `-flag=value`, booleans only as `-flag` or `-flag=false`, the last of
//! several counts, `--` ends the flags.

mod apply;
mod table;

use crate::error::Error;
use table::{FLAGS, Kind};

pub use table::{help, help_tls};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run the server; or with [`Flags::check_config`] check its configuration.
    Run(Box<Flags>),
    /// Print the version (`nats-server: v…`) and stop.
    Version,
    /// Print [`help`] and stop.
    Help,
    /// Print [`help_tls`] and stop.
    HelpTls,
    /// Send a signal to a running server and stop.
    Signal(Signal),
}

/// A signal for a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What it should do.
    pub kind: SignalKind,
    /// Which server: a process id, a PID file's path, or either with `*`; `None`: the only one running.
    pub target: Option<String>,
}

/// What a running server can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKind {
    /// Stop at once (SIGKILL).
    Stop,
    /// Stop (SIGINT).
    Quit,
    /// Stop (SIGTERM).
    Term,
    /// Open the log file anew (SIGUSR1).
    Reopen,
    /// Read the configuration anew (SIGHUP).
    Reload,
    /// Go into lame duck mode (SIGUSR2).
    LameDuck,
}

/// Flags as given; `None` where one was not. They override the file, also when it is read anew.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Flags {
    /// `-c`: the file to read.
    pub config: Option<String>,
    /// `-t`: check the file and stop.
    pub check_config: bool,
    pub port: Option<i64>,
    pub server_name: Option<String>,
    /// `--server_tags`: with commas between; join those of the file.
    pub server_tags: Option<String>,
    pub host: Option<String>,
    pub client_advertise: Option<String>,
    pub debug: Option<bool>,
    pub trace: Option<bool>,
    /// `-DV`
    pub debug_and_trace: Option<bool>,
    /// `-VV`
    pub trace_verbose: Option<bool>,
    /// `-DVV`
    pub debug_and_trace_verbose: Option<bool>,
    pub logtime: Option<bool>,
    pub logtime_utc: Option<bool>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// `--auth`: the token.
    pub token: Option<String>,
    pub http_port: Option<i64>,
    pub https_port: Option<i64>,
    pub pid_file: Option<String>,
    pub ports_file_dir: Option<String>,
    pub log_file: Option<String>,
    pub log_size_limit: Option<i64>,
    pub syslog: Option<bool>,
    pub remote_syslog: Option<String>,
    pub prof_port: Option<i64>,
    /// `--routes`: URLs with commas between.
    pub routes: Option<String>,
    /// `--cluster` or `--cluster_listen`: a URL; empty: no cluster.
    pub cluster_listen: Option<String>,
    pub cluster_advertise: Option<String>,
    pub cluster_name: Option<String>,
    pub no_advertise: Option<bool>,
    pub connect_retries: Option<i64>,
    pub tls: Option<bool>,
    pub tls_verify: Option<bool>,
    pub tls_cert: Option<String>,
    pub tls_key: Option<String>,
    pub tls_ca_cert: Option<String>,
    pub max_traced_msg_len: Option<i64>,
    pub jetstream: Option<bool>,
    pub store_dir: Option<String>,
}

/// What a flag was given.
enum Given<'a> {
    Boolean(bool),
    Integer(i64),
    Text(&'a str),
}

impl Command {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    /// [`Error::Flag`] in Go's and nats-server's words. nats-server then prints its help and exits with 2.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Command, Error> {
        let mut flags = Flags::default();
        let (mut version, mut help, mut help_tls, mut signal) = (false, false, false, None);
        let mut rest = arguments.iter().map(AsRef::as_ref);
        let mut command = None;
        while let Some(argument) = rest.next() {
            let Some(stripped) = argument.strip_prefix('-').filter(|stripped| !stripped.is_empty()) else {
                command = Some(argument);
                break;
            };
            if stripped == "-" {
                command = rest.next();
                break;
            }
            let stripped = stripped.strip_prefix('-').unwrap_or(stripped);
            let (name, value) = match stripped.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (stripped, None),
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(Error::Flag(format!("bad flag syntax: {argument}")));
            }
            let Some(flag) = FLAGS.iter().find(|flag| flag.names.contains(&name)) else {
                return Err(Error::Flag(undefined(name)));
            };
            let given = match (flag.kind, value) {
                (Kind::Boolean, None) => Given::Boolean(true),
                (Kind::Boolean, Some(value)) => Given::Boolean(boolean(name, value)?),
                (kind, value) => {
                    let value = value.or_else(|| rest.next());
                    let value =
                        value.ok_or_else(|| Error::Flag(format!("flag needs an argument: -{name}")))?;
                    if kind == Kind::Integer {
                        Given::Integer(integer(name, value)?)
                    } else {
                        Given::Text(value)
                    }
                }
            };
            match (flag.id, given) {
                ("version", Given::Boolean(on)) => version = on,
                ("help", Given::Boolean(on)) => help = on,
                ("help_tls", Given::Boolean(on)) => help_tls = on,
                ("signal", Given::Text(text)) => signal = Some(text),
                (id, given) => flags.set(id, given),
            }
        }
        if version {
            return Ok(Command::Version);
        }
        if help {
            return Ok(Command::Help);
        }
        if help_tls {
            return Ok(Command::HelpTls);
        }
        match command.map(str::to_lowercase).as_deref() {
            None => {}
            Some("version") => return Ok(Command::Version),
            Some("help") => return Ok(Command::Help),
            Some(_) => {
                let command = command.unwrap_or_default();
                return Err(Error::Flag(format!("unrecognized command: {command:?}")));
            }
        }
        if let Some(text) = signal.filter(|text| !text.is_empty()) {
            return Signal::parse(text).map(Command::Signal);
        }
        if flags.check_config && flags.config.is_none() {
            let message = "must specify [-c, --config] option to check configuration file syntax";
            return Err(Error::Flag(message.into()));
        }
        Ok(Command::Run(Box::new(flags)))
    }
}

fn undefined(name: &str) -> String {
    let names: Vec<&str> =
        FLAGS.iter().flat_map(|flag| flag.names.iter().copied()).filter(|n| n.len() > 2).collect();
    let hint = crate::reader::nearest(name, &names).map(|near| format!("; did you mean -{near}?"));
    format!("flag provided but not defined: -{name}{}", hint.unwrap_or_default())
}

/// The spellings that Go's `strconv.ParseBool` takes.
fn boolean(name: &str, value: &str) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(Error::Flag(format!("invalid boolean value {value:?} for -{name}: parse error"))),
    }
}

/// Decimal, or hexadecimal after `0x`.
fn integer(name: &str, value: &str) -> Result<i64, Error> {
    let (negative, digits) = match value.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, value.strip_prefix('+').unwrap_or(value)),
    };
    let parsed = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16).ok(),
        None if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse().ok(),
        None => None,
    };
    let parsed = parsed.filter(|_| !digits.contains(['+', '-']));
    parsed
        .map(|number| if negative { -number } else { number })
        .ok_or_else(|| Error::Flag(format!("invalid value {value:?} for flag -{name}: parse error")))
}

impl Signal {
    /// Reads `signal` or `signal=target`.
    ///
    /// # Errors
    /// [`Error::Flag`] for a signal that is not known.
    pub fn parse(text: &str) -> Result<Signal, Error> {
        let mut parts = text.splitn(3, '=');
        let name = parts.next().unwrap_or_default();
        let target = parts.next().filter(|target| !target.is_empty()).map(str::to_string);
        if let Some(more) = parts.next() {
            return Err(Error::Flag(format!("invalid signal parameters: [{}]", more.replace('=', " "))));
        }
        let kind = match name {
            "stop" => SignalKind::Stop,
            "quit" => SignalKind::Quit,
            "term" => SignalKind::Term,
            "reopen" => SignalKind::Reopen,
            "reload" => SignalKind::Reload,
            "ldm" => SignalKind::LameDuck,
            _ => {
                let message = format!("unknown signal {name:?}: use ldm, stop, quit, term, reopen or reload");
                return Err(Error::Flag(message));
            }
        };
        Ok(Signal { kind, target })
    }
}

impl Flags {
    /// The flags of a command line that must ask for a server to run, for callers that have their own
    /// commands.
    ///
    /// # Errors
    /// As [`Command::parse`], and for a command line that asks for something else.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Flags, Error> {
        match Command::parse(arguments)? {
            Command::Run(flags) => Ok(*flags),
            _ => Err(Error::Flag("this command line does not run a server".into())),
        }
    }

    fn set(&mut self, id: &str, given: Given<'_>) {
        match given {
            Given::Boolean(on) => self.set_boolean(id, on),
            Given::Integer(number) => self.set_integer(id, number),
            Given::Text(text) => self.set_text(id, text),
        }
    }

    fn set_boolean(&mut self, id: &str, on: bool) {
        let target = match id {
            "t" => {
                self.check_config = on;
                return;
            }
            "debug" => &mut self.debug,
            "trace" => &mut self.trace,
            "DV" => &mut self.debug_and_trace,
            "VV" => &mut self.trace_verbose,
            "DVV" => &mut self.debug_and_trace_verbose,
            "logtime" => &mut self.logtime,
            "logtime_utc" => &mut self.logtime_utc,
            "syslog" => &mut self.syslog,
            "no_advertise" => &mut self.no_advertise,
            "tls" => &mut self.tls,
            "tlsverify" => &mut self.tls_verify,
            "jetstream" => &mut self.jetstream,
            _ => return,
        };
        *target = Some(on);
    }

    fn set_integer(&mut self, id: &str, number: i64) {
        let target = match id {
            "port" => &mut self.port,
            "http_port" => &mut self.http_port,
            "https_port" => &mut self.https_port,
            "log_size_limit" => &mut self.log_size_limit,
            "profile" => &mut self.prof_port,
            "connect_retries" => &mut self.connect_retries,
            "max_traced_msg_len" => &mut self.max_traced_msg_len,
            _ => return,
        };
        *target = Some(number);
    }

    fn set_text(&mut self, id: &str, text: &str) {
        let target = match id {
            "config" => &mut self.config,
            "name" => &mut self.server_name,
            "server_tags" => &mut self.server_tags,
            "addr" => &mut self.host,
            "client_advertise" => &mut self.client_advertise,
            "user" => &mut self.user,
            "pass" => &mut self.password,
            "auth" => &mut self.token,
            "pid" => &mut self.pid_file,
            "ports_file_dir" => &mut self.ports_file_dir,
            "log" => &mut self.log_file,
            "remote_syslog" => &mut self.remote_syslog,
            "routes" => &mut self.routes,
            "cluster_listen" => &mut self.cluster_listen,
            "cluster_advertise" => &mut self.cluster_advertise,
            "cluster_name" => &mut self.cluster_name,
            "tlscert" => &mut self.tls_cert,
            "tlskey" => &mut self.tls_key,
            "tlscacert" => &mut self.tls_ca_cert,
            "store_dir" => &mut self.store_dir,
            _ => return,
        };
        *target = Some(text.to_string());
    }
}

#[cfg(test)]
mod tests;
