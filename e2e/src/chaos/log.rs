//! Where clients note what happens to them: a file of one line an event, written at once, so that
//! a client that is killed leaves all that it saw.
//!
//! Nothing is lost in silence: what a full disk did not take is counted, the count follows as soon as there is room, and
//! a run with such a count, or with a line that cannot be read, is not judged but fails.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use e2e::checker::event::{Event, Micros, What};

/// A log that many tasks write to.
#[derive(Debug, Clone)]
pub struct Log {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Lines that could not be written since the last one that could.
    unwritten: u64,
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
        let file = file.with_context(|| path.display().to_string())?;
        Ok(Self { state: Arc::new(Mutex::new(State { file, unwritten: 0 })) })
    }

    /// Notes what happens now.
    pub fn note(&self, what: What) {
        self.note_at(now(), what);
    }

    /// Notes what happened at a moment.
    pub fn note_at(&self, time: Micros, what: What) {
        let mut lines = format!("{}\n", Event { time, what });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.unwritten > 0 {
            // The first line end is for a line that was written in part.
            let unwritten = Event { time, what: What::Unwritten { lines: state.unwritten } };
            lines = format!("\n{unwritten}\n{lines}");
        }
        match state.file.write_all(lines.as_bytes()) {
            Ok(()) => state.unwritten = 0,
            Err(_) => state.unwritten += 1,
        }
    }

    /// Fails when the last lines could not be written.
    pub fn written(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(state.unwritten == 0, "{} notes could not be written", state.unwritten);
        Ok(())
    }
}

/// The events of all logs in a folder. A line that cannot be read counts as [`What::Unwritten`], except for a log's last
/// one without an end: its writer was killed.
pub fn read_folder(folder: &Path) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            read(&String::from_utf8_lossy(&text), &mut events);
        }
    }
    Ok(events)
}

fn read(text: &str, events: &mut Vec<Event>) {
    let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let mut time = 0;
    for line in whole.lines().filter(|line| !line.is_empty()) {
        let event = Event::parse(line).unwrap_or(Event { time, what: What::Unwritten { lines: 1 } });
        time = event.time;
        events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_full_disk_did_not_take_are_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let log = Log { state: Arc::new(Mutex::new(State { file: full, unwritten: 0 })) };
        log.note(What::Healed);
        log.note(What::Healed);
        assert!(log.written().unwrap_err().to_string().contains("2 notes"));

        let file = tempfile::NamedTempFile::new().unwrap();
        log.state.lock().unwrap().file = file.reopen().unwrap();
        log.note_at(7, What::Healed);
        log.written().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "\n7 unwritten 2\n7 healed\n");
    }

    #[test]
    fn a_damaged_line_counts_and_one_cut_off_by_the_end_of_its_writer_does_not() {
        let mut events = Vec::new();
        read("1 healed\n2 publi\n\n3 healed\n4 rece", &mut events);
        let lost = Event { time: 1, what: What::Unwritten { lines: 1 } };
        let healed = |time| Event { time, what: What::Healed };
        assert_eq!(events, [healed(1), lost, healed(3)]);
    }
}
