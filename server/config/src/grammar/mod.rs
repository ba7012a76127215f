//! The nats.conf grammar: text in, a tree of values out, each with its place in its file.
//!
//! Owns syntax, includes, variables and the digest. Knows no option's name or meaning: that is
//! [`crate::Settings`]'. Opens no file and reads no environment: both are arguments.
//!
//! The rules are those of nats-server's `conf/lex.go` and `conf/parse.go` (2.15.2). Where nats-server
//! silently drops or garbles something (a number with an unknown unit, a key without a value, a block
//! left open at the end of the file), this reader refuses with the place instead.

mod cursor;
mod digest;
mod parser;
mod scalar;
mod value;
mod write;

use std::path::{Path, PathBuf};

pub use self::value::{Entry, Map, Node, Value};
use crate::error::{Error, Problem};

/// Largest file read, in bytes; the same bound holds for a value of the environment.
pub const FILE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Deepest nesting of maps and arrays, counted through includes and variables.
pub const DEPTH_MAX: usize = 64;
/// Most values in a configuration, counted after variables are replaced: a bound on `$a $a $a` towers.
pub const VALUES_MAX: usize = 4_000_000;
/// Most bytes that replacing variables may add, for the same reason.
pub const VARIABLE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads the files that a configuration names. The only door to a disk.
pub trait Loader {
    /// The bytes of the file at `path` (as the user wrote it, joined to the including file's directory),
    /// or the reason in words.
    fn load(&self, path: &Path) -> Result<Vec<u8>, String>;
}

impl<F: Fn(&Path) -> Result<Vec<u8>, String>> Loader for F {
    fn load(&self, path: &Path) -> Result<Vec<u8>, String> {
        self(path)
    }
}

/// A loader for text that must stand alone: every include is refused.
pub struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, _: &Path) -> Result<Vec<u8>, String> {
        Err("includes are not allowed here".into())
    }
}

/// Looks a variable up in the environment.
pub trait Environment {
    /// The variable's value, `None` if it is not set.
    fn variable(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn variable(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// A configuration as written: includes merged, variables replaced, nothing interpreted.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The keys of the top level.
    pub root: Map,
    /// What the text itself made doubtful, e.g. bytes that are not UTF-8.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads a configuration from text. `name` stands for the file in messages; includes are relative to
    /// its directory.
    ///
    /// # Errors
    /// [`Error::Syntax`] at the first place that is not nats.conf.
    pub fn parse(
        name: &str,
        text: &[u8],
        loader: &dyn Loader,
        environment: &dyn Environment,
    ) -> Result<Config, Error> {
        parser::parse(name, text, loader, environment)
    }

    /// Reads a configuration from the file at `path`.
    ///
    /// # Errors
    /// [`Error::Load`] if the file cannot be read, otherwise as [`Config::parse`].
    pub fn load(path: &Path, loader: &dyn Loader, environment: &dyn Environment) -> Result<Config, Error> {
        let name = path.to_string_lossy();
        let text = loader.load(path).map_err(|reason| Error::Load { path: name.to_string(), reason })?;
        Config::parse(&name, &text, loader, environment)
    }

    /// Reads text that includes nothing and uses no environment.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_text(text: &str) -> Result<Config, Error> {
        Config::parse("<text>", text.as_bytes(), &NoFiles, &|_: &str| None)
    }

    /// The digest that nats-server prints for `-t` and serves as `config_digest`: SHA-256 of the values as
    /// JSON with sorted keys. Comments, spelling of numbers and order of keys do not change it.
    pub fn digest(&self) -> String {
        digest::digest(&self.root)
    }

    /// The configuration as text that reads back to the same values. Comments are gone; variables and
    /// includes stay replaced.
    pub fn render(&self) -> String {
        write::render(&self.root)
    }
}

/// The path an include means: joined to the including file's directory and cleaned, as Go's
/// `filepath.Join` does. An absolute path is joined as well: that is nats-server's rule.
fn include_path(including: &str, written: &str) -> PathBuf {
    let directory = Path::new(including).parent().unwrap_or(Path::new(""));
    let mut cleaned = PathBuf::new();
    let relative = Path::new(written);
    for part in directory.components().chain(relative.components()) {
        use std::path::Component;
        match part {
            Component::Prefix(_) => cleaned.push(part),
            Component::RootDir if cleaned.as_os_str().is_empty() && directory.has_root() => {
                cleaned.push("/");
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => match cleaned.components().next_back() {
                Some(Component::Normal(_)) => {
                    cleaned.pop();
                }
                Some(Component::RootDir) => {}
                _ => cleaned.push(".."),
            },
            Component::Normal(name) => cleaned.push(name),
        }
    }
    cleaned
}

#[cfg(test)]
mod tests;
