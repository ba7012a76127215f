//! The configuration of a server, shared by broker and operator.
//!
//! Text becomes a [`Config`] (as written: [`grammar`]), and that becomes [`Settings`] (as meant: typed, with
//! nats-server's defaults). [`Flags`] are the command line. Owns names, types, ranges and defaults of
//! options and what may change while a server runs. Never opens a file, reads the environment or a clock:
//! those are arguments.

pub mod error;
pub mod grammar;

pub use error::{Error, Position, Problem};
pub use grammar::{Config, Environment, Loader};
