//! Where clients note what happens to them: a file of one line an event, written at once, so that
//! a client that is killed leaves all that it saw.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use e2e::checker::event::{Event, Micros, What};

/// A log that many tasks write to.
#[derive(Debug, Clone)]
pub struct Log {
    file: Arc<Mutex<File>>,
}

/// Microseconds since 1970.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Log {
    /// A log at a path, continued if there is one.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self { file: Arc::new(Mutex::new(file.with_context(|| path.display().to_string())?)) })
    }

    /// Notes what happens now.
    pub fn note(&self, what: What) {
        self.note_at(now(), what);
    }

    /// Notes what happened at a moment.
    pub fn note_at(&self, time: Micros, what: What) {
        let line = format!("{}\n", Event { time, what });
        if let Ok(mut file) = self.file.lock() {
            // A line that cannot be written makes the checker see a loss; nothing is hidden by it.
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// The events of all logs in a folder.
pub fn read_folder(folder: &Path) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            events.extend(String::from_utf8_lossy(&text).lines().filter_map(Event::parse));
        }
    }
    Ok(events)
}
