//! The local runner: the same cluster, with processes in place of pods.
//!
//! Owns what Kubernetes gives the other driver: admission of the file, keeping the wanted number of
//! servers alive, ports, logs. Decides nothing about a cluster: it calls the very same
//! [`crate::validate`], [`crate::build::config`], [`crate::rollout`] and [`crate::status`] as the
//! controller.

pub mod admission;
mod certificates;
mod file;
mod leftovers;
mod process;
mod runner;
mod screen;
mod tenants;
pub mod yaml;

pub use file::{Source, load, set_replicas};
pub use runner::{Options, source_of, up};

/// Why the local runner gave up.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The file cannot be used; every line names its place.
    #[error("{0}")]
    File(String),
    /// A file or directory of the state cannot be used.
    #[error("{what} {path}: {source}")]
    State {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another runner holds the same state.
    #[error("{0} is in use by another `starling-operator up`; end it or choose another --state directory")]
    Busy(String),
    /// No broker to start.
    #[error("no starling-server found beside this program or in PATH; build it or name it with --server")]
    NoServer,
    /// The system refused something else.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}
