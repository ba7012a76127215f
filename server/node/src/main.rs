//! The broker's program: command line, configuration file, signals.

mod drain;
mod signals;

use anyhow::{Context, bail};
use config::{Command, Config, Error, Flags, Settings};
use node::identity::{COMPATIBLE_VERSION, STARLING_VERSION};
use node::logging::Log;
use node::{Reloader, Server};
use parking_lot::Mutex;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    heap::bound_kept();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let program = program();
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn program() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    path.as_deref()
        .and_then(Path::file_name)
        .map_or_else(|| "starling-server".into(), |name| name.to_string_lossy().into_owned())
}

#[allow(clippy::print_stdout)] // what these commands are for
fn run(arguments: &[String]) -> anyhow::Result<()> {
    if arguments.first().is_some_and(|first| first == "drain") {
        return drain::run(&arguments[1..]);
    }
    let command = match Command::parse(arguments) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{}: {error}\n\n{}", program(), config::flags::help(&program()));
            std::process::exit(2);
        }
    };
    match command {
        // launchers of client suites read the first line
        Command::Version => {
            println!("nats-server: v{COMPATIBLE_VERSION}");
            println!("starling-server: v{STARLING_VERSION}");
            Ok(())
        }
        Command::Help => {
            println!("{}", config::flags::help(&program()));
            Ok(())
        }
        Command::HelpTls => {
            println!("{}", config::flags::help_tls());
            Ok(())
        }
        Command::Signal(signal) => signals::send(&signal),
        Command::Run(flags) if flags.check_config => check(&flags),
        Command::Run(flags) => serve(&flags),
    }
}

/// The settings of file and flags, and the file's digest.
struct Loaded {
    settings: Settings,
    digest: String,
    warnings: Vec<String>,
}

fn load(flags: &Flags) -> Result<Loaded, Error> {
    let mut warnings = Vec::new();
    let (mut settings, digest) = match &flags.config {
        Some(path) => {
            let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
            let variable = |name: &str| std::env::var(name).ok();
            let config = Config::load(Path::new(path), &read, &variable)?;
            let checked = Settings::from_config(&config)?;
            warnings.extend(checked.warnings.iter().map(ToString::to_string));
            (checked.settings, config.digest())
        }
        None => (Settings::default(), String::new()),
    };
    warnings.extend(flags.apply(&mut settings)?.iter().map(ToString::to_string));
    settings.validate()?;
    Ok(Loaded { settings, digest, warnings })
}

fn check(flags: &Flags) -> anyhow::Result<()> {
    let loaded = load(flags)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Server::check(&loaded.settings)?;
    let path = flags.config.as_deref().unwrap_or_default();
    eprintln!("{}: configuration file {path} is valid ({})", program(), loaded.digest);
    Ok(())
}

fn serve(flags: &Flags) -> anyhow::Result<()> {
    #[cfg(feature = "defective")]
    if let Ok(defect) = std::env::var("STARLING_DEFECT") {
        anyhow::ensure!(broker::defect::choose(&defect), "STARLING_DEFECT={defect}: not understood");
        eprintln!("THIS BROKER IS BROKEN ON PURPOSE: {defect}");
    }
    let loaded = load(flags)?;
    let log = Log::start(&loaded.settings.logging).context("cannot open the log file")?;
    tracing::info!("Starting starling-server");
    tracing::info!("  Version:  {STARLING_VERSION} (compatible with nats-server {COMPATIBLE_VERSION})");
    if let Some(path) = &flags.config {
        tracing::info!("  Config:   {path} ({})", loaded.digest);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let server = match Server::start(loaded.settings.clone()) {
        Ok(server) => server,
        Err(error) => {
            // the marker that launchers look for
            eprintln!("[{}] [FTL] {error}", std::process::id());
            bail!("{error}");
        }
    };
    server.set_config_digest(&loaded.digest);
    let program = Arc::new(Program {
        reloader: server.reloader(),
        log,
        flags: flags.clone(),
        settings: Mutex::new(loaded.settings),
    });
    let asked = program.clone();
    server.on_reload_request(move || asked.reload());
    heap::let_go_of_program();
    signals::obey(server, &program)
}

/// The program's side of a reload: what it was started with, and what is in force.
struct Program {
    reloader: Reloader,
    log: Log,
    flags: Flags,
    settings: Mutex<Settings>,
}

impl Program {
    /// Reads the configuration anew and puts it in force, or says why not and changes nothing. Returns a line for
    /// each change. Both outcomes are logged.
    fn reload(&self) -> Result<Vec<String>, String> {
        let path = self.flags.config.as_deref().unwrap_or_default();
        match self.try_reload() {
            Ok(lines) => Ok(lines),
            Err(error) if path.is_empty() => {
                tracing::warn!("cannot reload: {error}");
                Err(error)
            }
            Err(error) => {
                tracing::error!("cannot reload {path}, nothing was changed: {error}");
                Err(error)
            }
        }
    }

    fn try_reload(&self) -> Result<Vec<String>, String> {
        if self.flags.config.is_none() {
            return Err("can only reload config when a file is provided using -c or --config".into());
        }
        // held to the end: a signal and a request may come together
        let mut current = self.settings.lock();
        let loaded = load(&self.flags).map_err(|error| error.to_string())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let changes = config::diff(&current, &loaded.settings);
        let refusals: Vec<&str> = changes.refusals().map(|change| change.line.as_str()).collect();
        if !refusals.is_empty() {
            return Err(refusals.join("; "));
        }
        self.log.configure(&loaded.settings.logging).map_err(|error| format!("log file: {error}"))?;
        if let Err(error) = self.reloader.reload(loaded.settings.clone()) {
            let _ = self.log.configure(&current.logging);
            return Err(error.to_string());
        }
        self.reloader.set_config_digest(&loaded.digest);
        *current = loaded.settings;
        let lines: Vec<String> = changes.list.into_iter().map(|change| change.line).collect();
        for line in &lines {
            tracing::info!("{line}");
        }
        tracing::info!("Reloaded server configuration ({})", loaded.digest);
        Ok(lines)
    }
}
