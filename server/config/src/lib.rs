//! The configuration of a server, shared by broker and operator.
//!
//! Text becomes a [`Config`] (as written: [`grammar`]), and that becomes [`Settings`] (as meant: typed, with
//! nats-server's defaults). [`Flags`] are the command line. Owns names, types, ranges and defaults of
//! options and what may change while a server runs. Never opens a file, reads the environment or a clock:
//! those are arguments.

pub mod accounts;
pub mod address;
pub mod auth;
pub mod cluster;
pub mod diff;
pub mod duration;
pub mod error;
pub mod flags;
pub mod grammar;
pub mod nkey;
pub mod ocsp;
pub mod permissions;
pub mod settings;
pub mod tls;
pub mod trust;

mod read;
mod reader;
mod render;
mod sharing;
#[cfg(test)]
mod tests;
mod tree;
mod unsupported;

pub use address::{Port, ServerUrl};
pub use diff::{Change, Changes, diff};
pub use error::{Error, Position, Problem};
pub use flags::{Command, Flags};
pub use grammar::{Config, Environment, Loader};
pub use read::Checked;
pub use render::{render, to_config};
pub use settings::Settings;
