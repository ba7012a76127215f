//! Log lines in nats-server's form, `[pid] 2026/11/21 10:42:08.123456 [INF] text`, which launchers and log
//! collectors read.
//!
//! Owns the log file: its rotation by size and its reopening on SIGUSR1. With `syslog` or `remote_syslog` lines go to a
//! daemon in the form that it expects. Never logs a secret: callers pass none.

mod syslog;

use broker::router::LINES_TARGET;
use chrono::{Local, SecondsFormat, Utc};
use config::settings::Logging;
use parking_lot::Mutex;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use syslog::Syslog;
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, filter::LevelFilter};

/// The process's log, to be changed by reload and reopened by signal.
#[derive(Clone)]
pub struct Log {
    sink: Sink,
    style: Arc<Mutex<Style>>,
    level: reload::Handle<LevelFilter, Registry>,
}

#[derive(Clone, Copy)]
struct Style {
    time: bool,
    utc: bool,
    form: Form,
    /// Lines of the level DBG are wanted: `trace` alone, which the level of the whole log is below, asks for none.
    debug: bool,
}

/// Who reads the lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    People,
    LocalSyslog,
    RemoteSyslog,
}

impl Log {
    /// Starts logging for the process. A second call in one process fails quietly and logs to the first.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn start(logging: &Logging) -> io::Result<Log> {
        let sink = Sink(Arc::new(Mutex::new(Target::open(logging)?)));
        let style = Arc::new(Mutex::new(style(logging)));
        let (filter, level) = reload::Layer::new(level(logging));
        let lines = tracing_subscriber::fmt::layer()
            .event_format(NatsFormat {
                style: style.clone(),
                pid: std::process::id(),
                host: syslog::host_name(),
                program: program(),
            })
            .with_writer(sink.clone());
        // an embedding program may have its own subscriber: then that one decides
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        Ok(Log { sink, style, level })
    }

    /// Takes over new settings.
    ///
    /// # Errors
    /// The new log file cannot be opened; the old one stays.
    pub fn configure(&self, logging: &Logging) -> io::Result<()> {
        let target = Target::open(logging)?;
        *self.sink.0.lock() = target;
        *self.style.lock() = style(logging);
        let _ = self.level.reload(level(logging));
        Ok(())
    }

    /// Opens the log file anew, after somebody moved it away.
    ///
    /// # Errors
    /// It cannot be opened; lines go on into the old one.
    pub fn reopen(&self) -> io::Result<()> {
        self.sink.0.lock().reopen()
    }
}

/// The name that the program was started by.
fn program() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "starling-server".into())
}

fn style(logging: &Logging) -> Style {
    // a file goes before a daemon elsewhere, and that before this machine's, as with nats-server
    let form = match (&logging.log_file, &logging.remote_syslog) {
        (Some(path), _) if !path.is_empty() => Form::People,
        (_, Some(address)) if !address.is_empty() => Form::RemoteSyslog,
        _ if logging.syslog => Form::LocalSyslog,
        _ => Form::People,
    };
    Style { time: logging.logtime, utc: logging.logtime_utc, form, debug: logging.debug }
}

fn level(logging: &Logging) -> LevelFilter {
    match (logging.trace || logging.trace_verbose, logging.debug) {
        (true, _) => LevelFilter::TRACE,
        (false, true) => LevelFilter::DEBUG,
        (false, false) => LevelFilter::INFO,
    }
}

struct NatsFormat {
    style: Arc<Mutex<Style>>,
    pid: u32,
    host: String,
    program: String,
}

impl NatsFormat {
    /// `<29>Nov  1 10:42:08 nats-server[7]: text`, with the host and a full time for a daemon elsewhere.
    fn format_syslog(&self, form: Form, writer: &mut Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let (severity, now) = (syslog::severity(*event.metadata().level()), Local::now());
        match form {
            Form::RemoteSyslog => {
                let time = now.to_rfc3339_opts(SecondsFormat::Secs, true);
                write!(writer, "<{severity}>{time} {} ", self.host)?;
            }
            _ => write!(writer, "<{}>{} ", syslog::DAEMON | severity, now.format("%b %e %H:%M:%S"))?,
        }
        writeln!(writer, "{}[{}]: {}{}", self.program, self.pid, line.message, line.fields)
    }
}

impl<S, N> FormatEvent<S, N> for NatsFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let style = *self.style.lock();
        match *event.metadata().level() {
            Level::DEBUG if !style.debug => return Ok(()),
            Level::TRACE if event.metadata().target() != LINES_TARGET => return Ok(()),
            _ => {}
        }
        if style.form != Form::People {
            return self.format_syslog(style.form, &mut writer, event);
        }
        write!(writer, "[{}] ", self.pid)?;
        if style.time {
            const FORM: &str = "%Y/%m/%d %H:%M:%S%.6f ";
            match style.utc {
                true => write!(writer, "{}", Utc::now().format(FORM))?,
                false => write!(writer, "{}", Local::now().format(FORM))?,
            }
        }
        let label = match *event.metadata().level() {
            Level::ERROR => "ERR",
            Level::WARN => "WRN",
            Level::INFO => "INF",
            Level::DEBUG => "DBG",
            Level::TRACE => "TRC",
        };
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(writer, "[{label}] {}{}", line.message, line.fields)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Target>>);

enum Target {
    Stderr,
    Syslog(Syslog),
    File { path: PathBuf, file: File, written: u64, limit: u64, keep: u64 },
}

impl Target {
    fn open(logging: &Logging) -> io::Result<Target> {
        let Some(path) = logging.log_file.as_ref().filter(|path| !path.is_empty()) else {
            return match style(logging).form {
                Form::People => Ok(Target::Stderr),
                Form::LocalSyslog => Syslog::open(None).map(Target::Syslog),
                Form::RemoteSyslog => Syslog::open(logging.remote_syslog.as_deref()).map(Target::Syslog),
            };
        };
        let path = PathBuf::from(path);
        let (file, written) = append_to(&path)?;
        Ok(Target::File { path, file, written, limit: logging.log_size_limit, keep: logging.log_max_num })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { path, file, written, .. } = self {
            (*file, *written) = append_to(path)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let (path, file, written, limit, keep) = match self {
            Target::Stderr => return io::stderr().lock().write_all(line),
            Target::Syslog(syslog) => return syslog.write(line),
            Target::File { path, file, written, limit, keep } => (path, file, written, limit, keep),
        };
        file.write_all(line)?;
        *written += line.len() as u64;
        if *limit > 0 && *written > *limit {
            let stamp = Local::now().format("%Y.%m.%d.%H.%M.%S.%9f");
            std::fs::rename(&*path, format!("{}.{stamp}", path.display()))?;
            (*file, *written) = append_to(path)?;
            drop_oldest(path, *keep);
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

/// Keeps `keep` rotated files beside `path`, counting the live one; 0 keeps all.
fn drop_oldest(path: &Path, keep: u64) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return;
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|e| e.path())
        .collect();
    rotated.sort();
    if keep > 0 {
        let excess = rotated.len().saturating_sub(keep.saturating_sub(1) as usize);
        for old in &rotated[..excess] {
            let _ = std::fs::remove_file(old);
        }
    }
}

/// One line being written.
struct SinkWriter {
    sink: Sink,
    line: Vec<u8>,
}

impl Write for SinkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SinkWriter {
    fn drop(&mut self) {
        // a full disk must not stop the broker: the line is lost
        let _ = self.sink.0.lock().write(&self.line);
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = SinkWriter;
    fn make_writer(&'a self) -> SinkWriter {
        SinkWriter { sink: self.clone(), line: Vec::new() }
    }
}
