//! What can be wrong with a configuration, and where. Owns the crate's one error enum; never decides
//! whether something is wrong.

use std::fmt;
use std::sync::Arc;

/// A place in a configuration file. Lines and columns start at 1; columns count characters.
///
/// nats-server counts the columns of a file's first line from 0; every other line agrees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The file's path as it was opened, or a name in angle brackets for text that is no file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing wrong (or, in a list of warnings, doubtful) with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` if the problem is between several places, or between file and flags.
    pub position: Option<Position>,
    /// What, and where it helps, what to do.
    pub message: String,
}

impl Problem {
    /// A problem at a place.
    pub fn at(position: &Position, message: impl Into<String>) -> Self {
        Problem { position: Some(position.clone()), message: message.into() }
    }

    /// A problem of the configuration as a whole.
    pub fn anywhere(message: impl Into<String>) -> Self {
        Problem { position: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.position {
            Some(position) => write!(f, "{position}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Why a configuration or a command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file given to start from cannot be read.
    #[error("error opening config file: {path}: {reason}")]
    Load {
        /// The path as given.
        path: String,
        /// The loader's words.
        reason: String,
    },
    /// The text is no nats.conf; reading stopped there.
    #[error("{0}")]
    Syntax(Problem),
    /// The text is a nats.conf, but its settings cannot be used. All problems found are listed.
    #[error("{}", list(.warnings, .problems))]
    Invalid {
        /// What has to change, at least one.
        problems: Vec<Problem>,
        /// What was merely doubtful.
        warnings: Vec<Problem>,
    },
    /// The command line cannot be used.
    #[error("{0}")]
    Flag(String),
}

/// One a line, warnings first, as nats-server prints them.
fn list(warnings: &[Problem], problems: &[Problem]) -> String {
    let lines: Vec<String> = warnings.iter().chain(problems).map(Problem::to_string).collect();
    lines.join("\n")
}
