//! The broker's program: command line, configuration file, signals.

mod drain;
mod signals;

use anyhow::{Context, bail};
use config::{Command, Config, Error, Flags, Settings};
use node::Server;
use node::identity::{COMPATIBLE_VERSION, STARLING_VERSION};
use node::logging::Log;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
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
    let path = flags.config.as_deref().unwrap_or_default();
    eprintln!("{}: configuration file {path} is valid ({})", program(), loaded.digest);
    Ok(())
}

fn serve(flags: &Flags) -> anyhow::Result<()> {
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
    signals::obey(server, log, flags, loaded.settings)
}

/// Reads the configuration anew and puts it in force, or says why not and changes nothing.
fn reload(server: &Server, log: &Log, flags: &Flags, current: &mut Settings) {
    let Some(path) = &flags.config else {
        return tracing::warn!("cannot reload: the server was started without a configuration file");
    };
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(error) => return tracing::error!("cannot reload {path}, nothing was changed: {error}"),
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let changes = config::diff(current, &loaded.settings);
    let refusals: Vec<&str> = changes.refusals().map(|change| change.line.as_str()).collect();
    if !refusals.is_empty() {
        let refusals = refusals.join("; ");
        return tracing::error!("cannot reload {path}, nothing was changed: {refusals}");
    }
    if let Err(error) = log.configure(&loaded.settings.logging) {
        return tracing::error!("cannot reload {path}, nothing was changed: log file: {error}");
    }
    if let Err(error) = server.reload(loaded.settings.clone()) {
        let _ = log.configure(&current.logging);
        return tracing::error!("cannot reload {path}, nothing was changed: {error}");
    }
    server.set_config_digest(&loaded.digest);
    *current = loaded.settings;
    for change in &changes.list {
        tracing::info!("{}", change.line);
    }
    tracing::info!("Reloaded server configuration ({})", loaded.digest);
}
