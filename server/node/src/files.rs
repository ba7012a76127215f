//! The small files that launchers and service managers read: process id and ports.

use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// What `<program>_<pid>.ports` holds: URLs by kind of listener (nats-server `Ports`).
#[derive(Debug, Default, Serialize)]
pub struct Ports {
    /// Client URLs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<String>,
    /// Monitoring URLs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitoring: Vec<String>,
    /// Route URLs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cluster: Vec<String>,
}

/// A file that is removed when the server stops.
pub struct OwnFile(PathBuf);

impl OwnFile {
    /// Writes the process id.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn pid(path: &str) -> io::Result<OwnFile> {
        std::fs::write(path, std::process::id().to_string())?;
        Ok(OwnFile(path.into()))
    }

    /// Writes the ports file into `directory`, whole or not at all: readers poll for it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ports(directory: &str, ports: &Ports) -> io::Result<OwnFile> {
        let program = std::env::args_os().next().map(PathBuf::from);
        let program = program
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|n| n.to_str())
            .unwrap_or("starling-server");
        let path = Path::new(directory).join(format!("{program}_{}.ports", std::process::id()));
        let draft = path.with_extension("ports.tmp");
        std::fs::write(&draft, serde_json::to_vec(ports)?)?;
        std::fs::rename(&draft, &path)?;
        Ok(OwnFile(path))
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
